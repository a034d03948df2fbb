"""Expert parallelism on gloo: 2, 4 and 8 processes agree with one.

Importing torch takes most of the time, so a forkserver imports it once, and each world size is one
launch that runs every check of distributed_worker.py.
"""

import json
import multiprocessing
import runpy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from moge_ops import nn
from moge_ops.distributed import (
    ExpertParallel,
    Plan,
    TopKExpertParallel,
    load_balance_loss,
    parallelize,
)
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM

WORKER = Path(__file__).with_name("distributed_worker.py")
worker = runpy.run_path(str(WORKER))
LIMIT = 240.0  # seconds for one world size
CHECKS = [(size, name) for size in worker["TIMEOUTS"] for name in worker["checks"](size)]
Results = list[dict[str, Any]]  # of every rank


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Results]:
    """What the checks of a world size found, from its one launch."""
    known: dict[int, Results] = {}

    def of(size: int) -> Results:
        if size not in known:
            known[size] = launch(size, tmp_path_factory.mktemp(f"world{size}"))
        return known[size]

    return of


def launch(size: int, folder: Path, worker: Path = WORKER) -> Results:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["moge_ops.distributed", "pytest"])
    ranks = [
        context.Process(target=runpy.run_path, args=(str(worker), {"WORLD": (r, size, folder)}))
        for r in range(size)
    ]
    for rank in ranks:
        rank.start()
    end = time.monotonic() + LIMIT
    for rank in ranks:
        rank.join(max(end - time.monotonic(), 0.0))
        rank.kill()
    files = [folder / f"{r}.json" for r in range(size)]
    return [json.loads(file.read_text()) if file.exists() else {} for file in files]


@pytest.mark.slow
@pytest.mark.xdist_group("distributed")
@pytest.mark.parametrize(("size", "check"), CHECKS)
def test_on_gloo(size: int, check: str, results: Callable[[int], Results]) -> None:
    for rank, found in enumerate(results(size)):
        assert check in found, f"rank {rank} did not come to this check, after {list(found)[-1:]}"
        assert "error" not in found[check], f"rank {rank}: {found[check]['error']}"


@pytest.fixture
def eight_ranks() -> Iterator[DeviceMesh]:
    """A mesh of which this process is one rank, and whose collectives send nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=5, world_size=8)
    yield init_device_mesh("cpu", (2, 4), mesh_dim_names=("a", "b"))
    dist.destroy_process_group()


PAPER = Plan(groups="b", width="a", heads="b")


@pytest.mark.parametrize("max_tokens", [None, 9])
def test_the_layer_reads_nothing_back(eight_ranks: DeviceMesh, max_tokens: int | None) -> None:
    """Tensors on meta have no values, so reading one raises."""
    moge = nn.MoGE(24, 16, 32, 8, 2, shared_size=16, device="meta")
    layer = ExpertParallel(moge, eight_ranks, PAPER, max_tokens=max_tokens)
    x = torch.empty(5, 24, device="meta", requires_grad=True)
    y, logits, gating = layer(x, return_routing=True)
    load_balance_loss(logits, gating.experts, layer.group).backward(retain_graph=True)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.is_meta
    assert (y.shape, logits.shape, gating.experts.shape) == ((5, 24), (5, 32), (5, 16))
    for name, p in layer.named_parameters():
        assert p.grad is not None, name
        assert p.grad.placements == p.placements, name
    assert layer.w_gate_up.to_local().shape == (8, 2, 8, 24)
    assert "num_experts=32, num_groups=8, k=2, shared_size=16" in repr(layer)


def test_the_model_reads_nothing_back(eight_ranks: DeviceMesh) -> None:
    with torch.device("meta"):
        model = PanguMoEForCausalLM(PanguMoEConfig(**worker["SIZES"]))
        ids = torch.zeros(2, 5, dtype=torch.long)
    model = parallelize(model, eight_ranks, PAPER)
    model.loss(ids).backward()
    assert all(p.grad is not None for p in model.parameters())
    whole = sum(p.numel() for p in model.parameters())
    assert model.parameter_counts()[0] == whole
    assert sum(p.to_local().numel() for p in model.parameters()) < whole / 2


def test_plain_top_k_has_to_read_its_sizes(eight_ranks: DeviceMesh) -> None:
    layer = nn.MoGE(24, 16, 32, 8, device="meta")
    parallel = TopKExpertParallel(layer.w_gate_up, layer.w_down, eight_ranks["b"])
    experts = torch.empty(5, 3, dtype=torch.int32, device="meta")
    with pytest.raises(RuntimeError, match="meta"):
        parallel(torch.empty(5, 24, device="meta"), experts, torch.empty(5, 3, device="meta"))


def test_rejects_inputs(eight_ranks: DeviceMesh) -> None:
    layer = ExpertParallel(nn.MoGE(24, 16, 32, 8), eight_ranks, PAPER, max_tokens=3)
    with pytest.raises(ValueError, match=r"x must be \[..., H=24\], got \[3, 23\]"):
        layer(torch.zeros(3, 23))
    with pytest.raises(ValueError, match="at most max_tokens=3, got 4"):
        layer(torch.zeros(4, 24))
    layer.round_to = 64
    with pytest.raises(ValueError, match=r"round_to must be None where ranks .* got 64"):
        layer(torch.zeros(3, 24))
