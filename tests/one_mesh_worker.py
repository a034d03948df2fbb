"""One of eight ranks of tests/test_one_mesh.py: data, expert, tensor and sequence parallel at once.

Everything is float64, so that AdamW's division does not blow up what is only rounding.
"""

import contextlib
import datetime
import json
import os
import re
import runpy
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate

from moge_ops.distributed import (
    Plan,
    load_balance_loss,
    optimizer_state_dict,
    parallelize,
    state_dict,
)
from moge_ops.distributed._mesh import flat_group
from moge_ops.models import PanguMoEForCausalLM
from moge_ops.models.pangu_moe import losses

HERE = Path(__file__).resolve()
PAGE = HERE.parents[1] / "docs" / "guides" / "distributed.md"
STEPS, ROWS, LENGTH, COEF, NORM = 5, 8, 7, 0.5, 1.0  # an odd length: ranks along tp have padding
CLOSE = {"rtol": 1e-9, "atol": 1e-11}
pangu = runpy.run_path(str(HERE.with_name("distributed_worker.py")))["pangu"]


def adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)


def batches() -> Tensor:
    """``[STEPS + 1, ROWS, LENGTH]``, the same on every rank and in one process."""
    return torch.randint(31, (STEPS + 1, ROWS, LENGTH), generator=torch.manual_seed(3))


class Alone:
    """One process with all rows: what the ranks have to equal."""

    def __init__(self) -> None:
        self.model = pangu().double()
        self.optimizer = adamw(self.model)

    def step(self, ids: Tensor) -> tuple[float, float]:
        """Loss and norm of the gradient before it is clipped."""
        self.optimizer.zero_grad()
        loss = self.model.loss(ids)  # router_aux_loss_coef is COEF
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), NORM)
        self.optimizer.step()
        return float(loss.detach()), float(norm)


class Together:
    """This rank of a model on a mesh; ``data`` are the dimensions along which rows differ."""

    def __init__(self, mesh: DeviceMesh, plan: Plan, data: tuple[str, ...], offload: bool) -> None:
        self.fsdp = "dp" in (mesh.mesh_dim_names or ())
        inner = tuple(name for name in mesh.mesh_dim_names or () if name != "dp")
        self.model = parallelize(pangu().double(), mesh[inner], plan)
        if self.fsdp:
            policy = {"offload_policy": CPUOffloadPolicy(pin_memory=False)} if offload else {}
            for part in (*self.model.layers, self.model):
                fully_shard(part, mesh=mesh["dp"], **policy)
        self.means = mesh["dp"].size() if self.fsdp else 1  # FSDP2 takes means along it
        self.optimizer = adamw(self.model)
        self.group = flat_group(mesh[data])
        self.ranks, self.rank = self.group.size(), self.group.rank()

    def step(self, ids: Tensor) -> tuple[float, float]:
        """As of one process: each rank has its rows, and the balance loss counts those of all."""
        self.optimizer.zero_grad()
        own = ids.tensor_split(self.ranks)[self.rank]
        out = self.model(own, return_details=True)
        parts = [
            load_balance_loss(logits, gating.experts, self.group)
            for logits, gating in zip(out.router_logits, out.gating, strict=True)
        ]
        loss = losses(out, own)[0] / self.ranks + COEF * torch.stack(parts).mean()
        (loss * self.means).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), NORM)
        assert isinstance(norm, DTensor)
        self.optimizer.step()
        total = loss.detach().clone()
        dist.all_reduce(total, group=self.group)
        return float(total), float(norm.full_tensor())


def mesh_of(**dims: int) -> DeviceMesh:
    return init_device_mesh("cpu", tuple(dims.values()), mesh_dim_names=tuple(dims))


def eight() -> Together:
    """The mesh of this file: 2 x 2 x 2, with offloading."""
    plan = Plan(groups="ep", width="tp", heads="tp")
    return Together(mesh_of(dp=2, ep=2, tp=2), plan, ("dp", "ep"), offload=True)


def others() -> Iterator[tuple[str, Together]]:
    """Other plans for the same model."""
    paper = Plan(groups="b", width="a", heads="b")  # attention DP2 TP4, experts TP2 EP4
    yield "H2P", Together(mesh_of(a=2, b=4), paper, ("a",), offload=False)
    yield "expert parallel", Together(mesh_of(ep=8), Plan(), ("ep",), offload=False)
    yield "dp 4, ep 2", Together(mesh_of(dp=4, ep=2), Plan(), ("dp", "ep"), offload=True)


def same(model: torch.nn.Module, alone: PanguMoEForCausalLM, what: str) -> None:
    """Every parameter, by the names that hold on every mesh."""
    want = state_dict(alone)
    got = {name: p.full_tensor() for name, p in state_dict(model).items()}  # all ranks gather
    assert got.keys() == want.keys(), what
    for name, p in got.items():
        torch.testing.assert_close(p, want[name], **CLOSE, msg=lambda m, n=name: f"{what} {n}: {m}")


def everything(part: Together | Alone) -> dict[str, Any]:
    """What a run needs to go on."""
    return {
        "model": state_dict(part.model),
        "optimizer": optimizer_state_dict(part.model, part.optimizer),
    }


def check_trains_as_one_process(folder: Path) -> dict[str, float]:
    """Losses, norms of gradients and parameters of every step; the file that the next check reads.

    Activations are recomputed, as DeepSpeed-TED does.
    """
    alone, together = Alone(), eight()
    together.model.train().gradient_checkpointing = True
    for step, ids in enumerate(batches()[:STEPS]):
        torch.testing.assert_close(
            together.step(ids), alone.step(ids), **CLOSE, msg=lambda m, n=step: f"step {n}: {m}"
        )
    same(together.model, alone.model, "after the last step")
    state = optimizer_state_dict(together.model, together.optimizer)
    want = optimizer_state_dict(alone.model, alone.optimizer)
    assert state.keys() == want.keys()
    for name, x in state.items():
        x = x.full_tensor() if isinstance(x, DTensor) else x
        torch.testing.assert_close(x, want[name], **CLOSE, msg=lambda m, n=name: f"{n}: {m}")
    dcp.save(everything(together), checkpoint_id=folder / "step")
    own = sum(p.to_local().numel() for p in together.model.parameters())
    whole = sum(p.numel() for p in alone.model.parameters())
    return {"own share of the parameters": own / whole}


def check_resumes_elsewhere(folder: Path) -> None:
    """The next step of one process and of three other plans is that of the plan that wrote."""
    ids, alone = batches()[STEPS], Alone()
    dcp.load(everything(alone), checkpoint_id=folder / "step", no_dist=True)
    writer = eight()
    dcp.load(everything(writer), checkpoint_id=folder / "step")
    want = writer.step(ids)
    torch.testing.assert_close(alone.step(ids), want, **CLOSE)
    same(writer.model, alone.model, "the plan that wrote")
    for what, other in others():
        dcp.load(everything(other), checkpoint_id=folder / "step")
        torch.testing.assert_close(other.step(ids), want, **CLOSE)
        same(other.model, alone.model, what)


def check_one_process_writes(folder: Path) -> None:
    """The other way round: what one process wrote goes on on eight."""
    alone = Alone()
    for ids in batches()[:2]:
        alone.step(ids)
    if dist.get_rank() == 0:
        dcp.save(everything(alone), checkpoint_id=folder / "alone", no_dist=True)
    dist.barrier()
    together = eight()
    dcp.load(everything(together), checkpoint_id=folder / "alone")
    ids = batches()[2]
    torch.testing.assert_close(together.step(ids), alone.step(ids), **CLOSE)
    same(together.model, alone.model, "eight after one")


def check_layout(folder: Path) -> None:
    """What lies where: tokens along tp, parameters along all three, the optimizer on the CPU."""
    together = eight()
    together.step(batches()[0])
    names = ("dp", "ep", "tp")
    split = {"embed.weight": "dp", "layers.0.attention.qkv.q_weight": "dp tp"}
    split |= {"layers.1.moge.gate": "dp", "layers.1.moge.w_down": "dp ep tp"}
    split |= {"layers.0.moge.shared_down": "dp ep tp"}
    for name, dims in split.items():
        p = together.model.get_parameter(name)
        assert isinstance(p, DTensor)
        assert p.device_mesh.mesh_dim_names == names
        cut = [
            n for n, at in zip(names, p.placements, strict=True) if not isinstance(at, Replicate)
        ]
        assert " ".join(cut) == dims, name
        average = together.optimizer.state[p]["exp_avg"]
        assert average.placements == p.placements
        assert average.to_local().device.type == "cpu"
    with torch.no_grad():
        out = together.model(batches()[0][:2], return_details=True)
    T = 2 * LENGTH
    shapes = [list(x.shape) for x in out.hidden_states]
    assert shapes == [[T // 2, 32]] * 2 + [[2, LENGTH, 32]]  # the last is whole, for the head
    assert list(out.router_logits[0].shape) == [T, 16]


def check_page(folder: Path) -> None:
    """The page's file runs and gives what one process gives."""
    (block,) = re.findall(r"```python\n(# train\.py\n.*?)```", PAGE.read_text(), re.DOTALL)
    found: dict[str, Any] = {}
    exec(block, found)
    config = found["model"].config
    torch.manual_seed(0)
    alone = PanguMoEForCausalLM(config)
    optimizer = torch.optim.AdamW(alone.parameters(), lr=1e-3)
    for ids in found["batches"]:
        optimizer.zero_grad()
        (sum(alone.loss(rows) for rows in ids) / len(ids)).backward()  # of each rank's rows
        torch.nn.utils.clip_grad_norm_(alone.parameters(), 1.0)
        optimizer.step()
    same(found["model"], alone, "the page")
    dist.barrier()
    again = PanguMoEForCausalLM(config)
    state = {
        "model": state_dict(again),
        "optimizer": optimizer_state_dict(again, torch.optim.AdamW(again.parameters())),
    }
    dcp.load(state, checkpoint_id="checkpoint", no_dist=True)
    same(found["model"], again, "the page's checkpoint")


def run(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.set_default_dtype(torch.float64)
    limit = datetime.timedelta(seconds=120)
    store = dist.FileStore(str(folder / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=limit)
    results: dict[str, Any] = {}
    with contextlib.chdir(folder):
        for name, check in checks().items():
            began = time.monotonic()
            try:
                found = check(folder)
            except BaseException:
                results[name] = {"error": traceback.format_exc()}
                break
            results[name] = {"seconds": time.monotonic() - began, "found": found}
    (folder / f"{rank}.json").write_text(json.dumps(results))
    os._exit(0)  # past the destructors of groups whose ranks may be gone


def checks() -> dict[str, Any]:
    """In the order of this file; the second reads what the first wrote."""
    return {
        name.removeprefix("check_"): function
        for name, function in globals().items()
        if name.startswith("check_")
    }


if "WORLD" in globals():  # as tests/test_one_mesh.py starts it
    run(*globals()["WORLD"])
