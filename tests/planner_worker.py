"""One rank of gloo that measures the bytes of a small model, for test_planner_memory.py.

It writes what it finds as JSON: bytes of parameters, gradients, optimizer states and of the tensors
that autograd keeps, for every case of ``CASES``.
"""

import functools
import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

from moge_ops.distributed import Plan, parallelize
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_experts": 16,
    "num_experts_per_tok": 8,
    "num_groups": 4,
    "moe_intermediate_size": 20,
    "shared_expert_intermediate_size": 28,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
}
ROWS, LENGTH = 3, 7  # an odd number of tokens, so that ranks have padding
# name -> ranks of (copies, width, groups), what the heads split, recomputation, dtype
CASES: dict[str, tuple[tuple[int, int, int], str | None, str, str]] = {
    "paper": ((1, 2, 2), "groups", "none", "bfloat16"),
    "paper, float32": ((1, 2, 2), "groups", "none", "float32"),
    "heads with the width": ((1, 2, 2), "width", "none", "bfloat16"),
    "attention on its own": ((1, 2, 2), None, "none", "bfloat16"),
    "groups alone": ((1, 1, 4), "groups", "none", "bfloat16"),
    "selective": ((1, 2, 2), "groups", "selective", "bfloat16"),
    "full": ((1, 2, 2), "groups", "full", "bfloat16"),
    "copies": ((2, 1, 2), "groups", "none", "float32"),
    "copies, full": ((2, 2, 1), None, "full", "bfloat16"),
    "one rank": ((1, 1, 1), None, "none", "bfloat16"),
    "one rank, selective": ((1, 1, 1), None, "selective", "bfloat16"),
    "one rank, full": ((1, 1, 1), None, "full", "float32"),
    "copies of a rank": ((4, 1, 1), None, "none", "float32"),
}


def local(x: Tensor) -> Tensor:
    return x.to_local() if hasattr(x, "to_local") else x


def kept(model: nn.Module, ids: Tensor) -> tuple[Tensor, int]:
    """The loss, and bytes of the storages that autograd keeps and that are no parameters."""
    own = {local(p).untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, Any] = {}

    def pack(x: Tensor) -> Tensor:
        storage = local(x.detach()).untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage  # held, so that no other gets its address
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = model.loss(ids)
    return loss, sum(storage.nbytes() for storage in found.values())


def measure(name: str) -> dict[str, int]:
    (copies, width, groups), heads, recompute, dtype = CASES[name]
    torch.manual_seed(0)
    model = PanguMoEForCausalLM(PanguMoEConfig(**SIZES)).to(getattr(torch, dtype))
    mesh = init_device_mesh(
        "cpu", (copies, width, groups), mesh_dim_names=("copies", "width", "groups")
    )
    if width * groups > 1:
        names = ("width", "groups") if width > 1 and groups > 1 else ("groups",)
        names = ("width", "groups") if width > 1 else names
        plan = Plan("groups", "width" if width > 1 else None, heads)
        model = parallelize(model, mesh[names], plan)
    model.train()
    model.gradient_checkpointing = recompute == "full"
    if recompute == "selective":
        for layer in model.layers:
            layer.moge.forward = functools.partial(
                checkpoint, layer.moge.forward, use_reentrant=False
            )
    if copies > 1:
        for layer in model.layers:
            fully_shard(layer, mesh=mesh["copies"])
        fully_shard(model, mesh=mesh["copies"])
        model.loss = functools.partial(_loss, model)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    size = lambda tensors: sum(local(t).nbytes for t in tensors)  # noqa: E731
    sizes = {"parameters": size(model.parameters())}
    ids = torch.randint(SIZES["vocab_size"], (ROWS, LENGTH))
    if copies > 1:
        loss = model.loss(ids)
    else:
        loss, sizes["activations"] = kept(model, ids)
    loss.backward()
    sizes["gradients"] = size(p.grad for p in model.parameters())
    optimizer.step()
    states = optimizer.state.values()
    moments = [state[k] for state in states for k in ("exp_avg", "exp_avg_sq")]
    sizes["moments"] = sum(local(m).numel() for m in moments)
    return sizes


def _loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Through ``forward``, whose hooks gather the parameters."""
    out: Tensor = model(ids)
    return out.float().square().mean()


if "WORLD" in globals():  # set by the test
    rank, world, folder = globals()["WORLD"]
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    results = {}
    for case, (ranks, *_) in CASES.items():
        if ranks[0] * ranks[1] * ranks[2] == world:
            results[case] = measure(case)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()
