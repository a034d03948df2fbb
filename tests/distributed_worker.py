"""One rank of tests/test_distributed.py: runs every check of its world size, in order.

A check is a function named ``check_...``, which all ranks call with the world. What it returns,
errors and counts, goes into the report.
"""

import copy
import datetime
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import _resolve_process_group
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

import moge_ops
from moge_ops import nn
from moge_ops.distributed import (
    ExpertParallel,
    Plan,
    TopKExpertParallel,
    expert_parallel,
    load_balance_loss,
    parallelize,
    state_dict,
)
from moge_ops.distributed import checkpoint as parallel_checkpoint
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM, checkpoint
from moge_ops.ops.grouped_gate import SCORES
from moge_ops.statistics import RouterStatistics
from moge_ops.testing import assert_matches, rms_error

H, F, E, G, S = 24, 16, 32, 8, 16
# world size -> seconds that a collective waits for a rank; three ranks check that wait
TIMEOUTS = {2: 60.0, 4: 60.0, 8: 60.0, 3: 4.0}


class World:
    """This rank, and the largest error of its comparisons."""

    def __init__(self, rank: int, size: int, folder: Path) -> None:
        self.rank, self.size, self.folder = rank, size, folder
        self.largest = 0.0

    def mesh(self, **dims: int) -> DeviceMesh:
        return init_device_mesh("cpu", tuple(dims.values()), mesh_dim_names=tuple(dims))

    def matches(
        self, actual: Tensor, oracle: Tensor, what: str, scale: float | None = None
    ) -> None:
        """Compares with a float64 oracle by the library's tolerances; gathers DTensors first."""
        if isinstance(actual, DTensor):
            actual = actual.full_tensor()
        actual = actual.detach().reshape(oracle.shape)
        assert_matches(actual, oracle, what, scale=scale)
        if actual.numel() and actual.dtype == torch.float32:
            unit = oracle.square().mean().sqrt().item() if scale is None else scale
            error = (actual - oracle).abs().max().item() / max(unit, 1e-300)
            self.largest = max(self.largest, error)


def moge(**options: Any) -> nn.MoGE:
    """The same layer on every rank."""
    torch.manual_seed(1)
    layer = nn.MoGE(H, F, E, G, **{"k": 2, "shared_size": S, **options})
    with torch.no_grad():
        if layer.router_scale is not None:
            layer.router_scale.uniform_(0.5, 1.5)
        if isinstance(layer.bias, Tensor):
            layer.bias.uniform_(-0.1, 0.1)
    return layer


def tokens(counts: list[int]) -> tuple[list[Tensor], list[Tensor]]:
    """Every rank's x and d_y, the same on all of them."""
    torch.manual_seed(2)
    return [torch.randn(n, H) for n in counts], [torch.randn(n, H) for n in counts]


def wide(layer: nn.MoGE) -> nn.MoGE:
    """A copy in float64: the oracle."""
    return copy.deepcopy(layer).double()


def whole_gradient(module: torch.nn.Module, name: str) -> Tensor:
    """A parameter's gradient, which must have no partial sums left."""
    p = module.get_parameter(name)
    assert isinstance(p.grad, DTensor)
    assert p.grad.placements == p.placements, name
    return p.grad.full_tensor()


def compare(
    world: World, layer: nn.MoGE, parallel: ExpertParallel, counts: list[int], what: str
) -> None:
    """Compares output and every gradient with one process that has all tokens."""
    oracle = wide(layer)
    xs, d_ys = tokens(counts)
    x = xs[world.rank].clone().requires_grad_()
    parallel(x).backward(d_ys[world.rank])

    x64 = [x.double().requires_grad_() for x in xs]
    y64 = oracle(torch.cat(x64))
    y64.backward(torch.cat(d_ys).double())
    with torch.no_grad():
        y = parallel(xs[world.rank])
    world.matches(y, y64.split(counts)[world.rank], f"{what}: y")
    world.matches(x.grad, x64[world.rank].grad, f"{what}: d_x")
    # terms nearly cancel in the softmax's gradient, so d_gate is measured against the size of d_x
    scale = torch.cat([x.grad for x in x64]).square().mean().sqrt().item()
    for name, p in oracle.named_parameters():
        got = whole_gradient(parallel, name)
        world.matches(got, p.grad, f"{what}: d_{name}", scale if name == "gate" else None)


def check_expert_parallel(world: World) -> None:
    mesh = world.mesh(ep=world.size)
    for name, options in {
        "all parts": {},
        "plain": {"k": 1, "shared_size": 0, "router_scale": False},
        "sigmoid": {"score": "sigmoid", "selection_bias": True, "renormalize": True},
        "weight on activation": {"weight_on": "activation"},
    }.items():
        layer = moge(**options)
        compare(world, layer, ExpertParallel(moge(**options), mesh), [5] * world.size, name)


def check_width(world: World) -> None:
    """Groups over one dimension and F over the other, in both orders."""
    for a, b in ((2, world.size // 2), (world.size // 2, 2)):
        mesh = world.mesh(a=a, b=b)
        for plan in (Plan(groups="a", width="b"), Plan(groups="b", width="a")):
            parallel = ExpertParallel(moge(), mesh, plan)
            compare(world, moge(), parallel, [5] * world.size, f"{a} x {b}, {plan}")


def check_unequal_tokens(world: World) -> None:
    mesh = world.mesh(ep=world.size)
    parallel = ExpertParallel(moge(), mesh, max_tokens=7)
    counts = [(3 * r) % 8 for r in range(world.size)]  # rank 0 has none
    compare(world, moge(), parallel, counts, "unequal")


def check_replay(world: World) -> None:
    """Each rank's tokens take experts of any rank, some twice, and some of none."""
    counts = [1 + (3 * r) % 5 for r in range(world.size)]
    xs, d_ys = tokens(counts)
    torch.manual_seed(4)
    ids = [torch.randint(-1, E + 1, (n, 2 * G)) for n in counts]
    layer, mine = moge(renormalize=True), world.rank
    oracle = wide(layer)
    parallel = ExpertParallel(layer, world.mesh(ep=world.size), max_tokens=6)
    got = parallel(xs[mine], return_routing=True, routing=ids[mine])
    got.y.backward(d_ys[mine])
    want = oracle(torch.cat(xs).double(), return_routing=True, routing=torch.cat(ids))
    want.y.backward(torch.cat(d_ys).double())
    world.matches(got.y, want.y.split(counts)[mine], "y")
    kept = want.gating.experts.split(counts)[mine]
    assert torch.equal(got.gating.experts, kept), "experts"
    used = kept[kept >= 0]
    assert torch.equal(got.gating.counts.long(), torch.bincount(used, minlength=E)), "counts"
    for name, p in oracle.named_parameters():
        world.matches(whole_gradient(parallel, name), p.grad, f"d_{name}", 0.1)


def check_votes(world: World) -> None:
    """Experts are switched off, and the tokens of all ranks vote together, without padding."""
    counts = [1 + (3 * r) % 5 for r in range(world.size)]
    xs, _ = tokens(counts)
    torch.manual_seed(3)
    masks = [torch.rand(n) < 0.5 for n in counts]
    mine = world.rank
    for given in (False, True):
        layer = moge(num_voted=2)
        layer.expert_mask = torch.arange(E) % 4 != 1
        parallel = ExpertParallel(layer, world.mesh(ep=world.size), max_tokens=6)
        got = parallel(xs[mine], return_routing=True, row_mask=masks[mine] if given else None)
        oracle = wide(moge(num_voted=2))
        oracle.expert_mask = layer.expert_mask
        x64, mask = torch.cat(xs).double(), torch.cat(masks) if given else None
        want = oracle(x64, return_routing=True, row_mask=mask)
        world.matches(got.y, want.y.split(counts)[mine], "y")
        assert torch.equal(got.gating.experts, want.gating.experts.split(counts)[mine]), "experts"
    oracle.num_voted = None
    unbound = oracle(x64, return_routing=True).gating.experts
    assert not torch.equal(unbound, want.gating.experts), "the votes change nothing"


def check_top_k(world: World) -> None:
    """Any choice of experts: skewed, with dropped slots, rank 0 without tokens; with nodes too."""
    meshes = [world.mesh(ep=world.size), world.mesh(node=2, device=world.size // 2)]
    counts = [(3 * r) % 8 for r in range(world.size)]
    xs, d_ys = tokens(counts)
    layer = moge()
    K = 3
    # ids -1, E, E + 1: dropped
    cases = product(meshes, (("all experts", -1, E + 2), ("two experts", 0, 2)))
    for mesh, (name, low, high) in cases:
        name += f" on {mesh.ndim} dimensions"
        experts = [torch.randint(low, high, (n, K)) for n in counts]
        weights = [torch.rand(n, K) for n in counts]
        parallel = TopKExpertParallel(layer.w_gate_up, layer.w_down, mesh)
        x = xs[world.rank].clone().requires_grad_()
        w = weights[world.rank].clone().requires_grad_()
        y = parallel(x, experts[world.rank], w)
        y.backward(d_ys[world.rank])

        oracle = wide(layer)
        x64 = torch.cat(xs).double().requires_grad_()
        w64 = torch.cat(weights).double().requires_grad_()
        routing = moge_ops.route(torch.cat(experts), E)
        y64 = moge_ops.grouped_mlp(x64, oracle.w_gate_up, oracle.w_down, w64, routing)
        y64.backward(torch.cat(d_ys).double())
        for what, got, want in (
            ("y", y, y64),
            ("d_x", x.grad, x64.grad),
            ("d_w", w.grad, w64.grad),
        ):
            world.matches(got, want.split(counts)[world.rank], f"{name}: {what}")
        for part in ("w_gate_up", "w_down"):
            want = oracle.get_parameter(part).grad
            world.matches(whole_gradient(parallel, part), want, f"{name}: d_{part}")


def check_loss_scopes(world: World) -> None:
    """The ranks' parts add up to the loss on all their tokens, and so do the gradients."""
    counts = [(3 * r) % 8 for r in range(world.size)]
    mesh = world.mesh(dp=2, ep=world.size // 2)
    for score in SCORES:
        torch.manual_seed(3)
        logits = [torch.randn(n, E) for n in counts]
        for own in logits:
            own[:1] = -3000.0  # a row whose scores vanish
        experts = [torch.randint(-1, E + 1, (n, 4)) for n in counts]  # out of range on both sides
        ep_ranks = mesh.mesh[mesh.get_local_rank("dp")].tolist()
        for group, ranks in (
            (None, [world.rank]),
            (mesh.get_group("ep"), ep_ranks),
            (dist.group.WORLD, list(range(world.size))),
        ):
            own = logits[world.rank].clone().requires_grad_()
            part = load_balance_loss(own, experts[world.rank], group, score=score)
            part.backward()
            all_logits = torch.cat([logits[r] for r in ranks]).double().requires_grad_()
            all_experts = torch.cat([experts[r] for r in ranks])
            whole = moge_ops.load_balance_loss(all_logits, all_experts, score=score)
            (want,) = torch.autograd.grad(whole, all_logits)
            before = sum(counts[r] for r in ranks if r < world.rank)
            scale = want.square().mean().sqrt().item() if want.numel() else None
            here = want[before : before + counts[world.rank]]
            world.matches(own.grad, here, f"{score}, {len(ranks)} ranks: d_logits", scale)
            total = part.detach().clone()
            if group is not None:
                dist.all_reduce(total, group=group)
            world.matches(total, whole.detach(), f"{score}, {len(ranks)} ranks: loss")


SIZES = {
    "vocab_size": 31,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_experts": 16,
    "num_experts_per_tok": 8,
    "num_groups": 8,
    "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 16,
    "router_aux_loss_coef": 0.5,
    "eos_token_id": None,
}


def pangu() -> PanguMoEForCausalLM:
    """The same model on every rank, with weights so large that every part matters."""
    torch.manual_seed(4)
    model = PanguMoEForCausalLM(PanguMoEConfig(**SIZES))
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape) * (0.3 if p.ndim == 1 else p.shape[-1] ** -0.5))
            if "norm" in name or "router_scale" in name:
                p.add_(1.0)
    return model


def layouts(world: World) -> Iterator[tuple[str, DeviceMesh, Plan, list[list[int]]]]:
    """Meshes, plans and the sets of ranks that share attention; the paper's is the last at 8."""
    R = world.size
    one, ranks = world.mesh(ep=R), list(range(R))
    yield "attention data-parallel", one, Plan(), [[r] for r in ranks]
    if SIZES["num_key_value_heads"] >= R:
        yield "attention tensor-parallel", one, Plan(heads="ep"), [ranks]
    if R > 2:
        two = world.mesh(a=2, b=R // 2)
        columns = two.mesh.T.tolist()
        yield "two dimensions", two, Plan(groups="a", width="b", heads="a"), columns
        yield "H2P", two, Plan(groups="b", width="a", heads="b"), two.mesh.tolist()


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    """Gradients by the names that hold on every mesh."""
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.grad)
    return state_dict(model)


def check_model(world: World) -> None:
    """Logits, loss and every gradient; padded rows, B·L not divisible, unequal numbers of rows."""
    for what, mesh, plan, sets in layouts(world):
        torch.manual_seed(5)
        unequal = what in ("attention data-parallel", "H2P")
        lengths = [5 + (i % 2 if unequal else 0) for i in range(len(sets))]
        most = 2 * 6 // (1 if plan.heads is None else mesh[plan.heads].size())
        ids = [torch.randint(0, 31, (2, L)) for L in lengths]
        masks = [torch.ones(2, L) for L in lengths]
        for i, mask in enumerate(masks):
            mask[0, : i % 3] = 0
        mine = next(i for i, ranks in enumerate(sets) if world.rank in ranks)

        model = parallelize(pangu(), mesh, plan, max_tokens=most if unequal else None)
        out = model(ids[mine], masks[mine], return_details=True)
        oracle = pangu().double()
        outs = [oracle(i, m, return_details=True) for i, m in zip(ids, masks, strict=True)]
        world.matches(out.logits, outs[mine].logits, f"{what}: logits")
        for i, (got, want) in enumerate(zip(out.gating, outs[mine].gating, strict=True)):
            assert torch.equal(got.experts, want.experts), f"{what}: experts of layer {i}"
            assert torch.equal(got.counts, want.counts), f"{what}: counts of layer {i}"

        last = [gates.experts.flip(1) for gates in outs[mine].gating]  # no longer by group
        replayed = model(ids[mine], masks[mine], routing=last)
        world.matches(replayed, outs[mine].logits, f"{what}: logits of a given choice")

        loss = model.loss(ids[mine], attention_mask=masks[mine])
        losses = [oracle.loss(i, attention_mask=m) for i, m in zip(ids, masks, strict=True)]
        world.matches(loss, losses[mine].detach(), f"{what}: loss")
        loss.backward()
        sum(losses).backward()
        scale = None
        for name, want in gradients(oracle).items():
            got = whole_gradient(model, name)
            # where nearly equal terms cancel, the error is measured against the largest gradient
            scale = largest_gradient(oracle) if re.search(r"gate$|k_bias", name) else None
            world.matches(got, want, f"{what}: d_{name}", scale)


def largest_gradient(model: torch.nn.Module) -> float:
    return max(p.square().mean().sqrt().item() for p in model.parameters())


def check_model_with_votes(world: World) -> None:
    """Padding of the ranks' rows does not vote: every set has 7 tokens, over all ranks."""
    for what, mesh, plan, sets in layouts(world):
        torch.manual_seed(5)
        ids = [torch.randint(0, 31, (1, 7)) for _ in sets]
        mine = next(i for i, ranks in enumerate(sets) if world.rank in ranks)
        model, oracle = parallelize(pangu(), mesh, plan), pangu().double()
        for layer in (*model.layers, *oracle.layers):
            layer.moge.num_voted = 1
        got = model(ids[mine], return_details=True)
        want = oracle(torch.cat(ids), return_details=True)
        for i, (gating, wanted) in enumerate(zip(got.gating, want.gating, strict=True)):
            experts = wanted.experts.view(len(sets), 7, -1)[mine]
            assert torch.equal(gating.experts, experts), f"{what}: experts of layer {i}"
        world.matches(got.logits, want.logits[mine : mine + 1], f"{what}: logits")


def check_padding_counts_nowhere(world: World) -> None:
    """Masked tokens neither vote nor count in statistics, whatever the ranks add to fill up."""
    for what, mesh, plan, sets in layouts(world):
        torch.manual_seed(5)
        ids = [torch.randint(0, 31, (2, 7)) for _ in sets]
        masks = [torch.ones(2, 7, dtype=torch.long) for _ in sets]
        for i, mask in enumerate(masks):
            mask[1, : 1 + i % 3] = 0
        mine = next(i for i, ranks in enumerate(sets) if world.rank in ranks)
        model, oracle = parallelize(pangu(), mesh, plan), pangu().double()
        for layer in (*model.layers, *oracle.layers):
            layer.moge.num_voted = 1
        with torch.no_grad():
            logits = model(ids[mine], masks[mine])
            want = oracle(torch.cat(ids), torch.cat(masks)).view(len(sets), 2, 7, -1)[mine]
        real = masks[mine].bool()
        world.matches(logits[real], want[real], f"{what}: logits")
        for layer in (*model.layers, *oracle.layers):
            layer.moge.num_voted = None
        got, alone = RouterStatistics(), RouterStatistics()
        with torch.no_grad(), got.collect(model, "a"):
            model(ids[mine], masks[mine])
        with torch.no_grad(), alone.collect(oracle, "a"):
            oracle(ids[mine], masks[mine])
        for name, sums in alone.sums["a"].items():
            assert torch.equal(got.sums["a"][name][1], sums[1]), f"{what}: counts of {name}"
            assert sums[1].sum() == real.sum() * oracle.config.num_experts_per_tok


def check_router_in_float32(world: World) -> None:
    """A router keeps its dtype beside bfloat16 experts on a mesh."""
    layer = moge(dtype=torch.bfloat16, router_dtype=torch.float32)
    x = torch.randn(5, H).bfloat16()
    want = layer(x, return_routing=True)
    got = ExpertParallel(layer, world.mesh(ep=world.size))(x, return_routing=True)
    assert got.logits.dtype == torch.float32
    assert torch.equal(got.logits, want.logits)
    assert torch.equal(got.gating.experts, want.gating.experts)
    world.matches(got.y, want.y.double(), "y")


def check_generation(world: World) -> None:
    """Greedy tokens with the cache; prompts of unequal lengths."""
    for what, mesh, plan, sets in layouts(world):
        mine = next(i for i, ranks in enumerate(sets) if world.rank in ranks)
        prompt = [[1 + mine, 2, 3], [4, 5 + mine, 6, 7, 8]]
        model = parallelize(pangu(), mesh, plan).eval()
        got = model.generate(prompt, 6, temperature=0.0)
        want = pangu().eval().generate(prompt, 6, temperature=0.0)
        assert torch.equal(got, want), f"{what}: {got} != {want}"


class Wire(TorchDispatchMode):
    """Bytes that this rank receives, by collective, from the calls that reach the dispatcher.

    Those of an all-to-all are counted by link, where ``node`` consecutive ranks share a node, and
    for tensors of that many ``columns`` alone.
    """

    def __init__(self, node: int = 1, columns: int | None = None) -> None:
        super().__init__()
        self.bytes: dict[str, int] = {}
        self.node, self.columns = node, columns

    def _all_to_all(self, out: Tensor, received: list[int], group: Any) -> None:
        if out.shape[1:] != (self.columns,):
            return
        me, row = dist.get_rank(), out[:1].nbytes if len(out) else 0
        for rank, rows in zip(dist.get_process_group_ranks(group), received, strict=True):
            same = rank // self.node == me // self.node
            kind = "all_to_all_single, " + ("own node" if same else "other nodes")
            if rank != me and rows:
                self.bytes[kind] = self.bytes.get(kind, 0) + rows * row

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if "c10d" in name and not name.endswith(("wait_tensor", "_wrap_tensor_autograd")):
            # a ring sends the other ranks' rows of a gather's result or a reduce-scatter's input;
            # an all-reduce is both
            kind = name.partition("::")[2]
            if kind == "all_to_all_single":
                self._all_to_all(out, args[1], _resolve_process_group(args[-1]))
                return out
            whole = {
                "all_gather_into_tensor": out.nbytes,
                "reduce_scatter_tensor": args[0].nbytes,
                "all_reduce": 2 * args[0].nbytes,
            }[kind]
            ranks = _resolve_process_group(args[-1]).size()
            received = whole * (ranks - 1) // ranks
            self.bytes[kind] = self.bytes.get(kind, 0) + received
        return out


def check_bytes(world: World) -> dict[str, Any]:
    """The count agrees with the formula: H in and H out per token, forward and backward."""
    T, found = 6, {}
    mesh = world.mesh(ep=world.size)
    for dtype in (torch.float32, torch.bfloat16):
        parallel = ExpertParallel(moge().to(dtype), mesh)
        x = torch.randn(T, H, dtype=dtype, requires_grad=True)
        one_way = T * (world.size - 1) * H * dtype.itemsize  # by the formula
        with Wire() as forward:
            y = parallel(x)
        moves = {"all_gather_into_tensor": one_way, "reduce_scatter_tensor": one_way}
        assert forward.bytes == moves, (forward.bytes, moves)
        with Wire() as backward:
            y.sum().backward()
        # gradients of the replicated parameters, for any number of tokens
        router = sum(p.nbytes for p in (parallel.gate, parallel.router_scale))
        moves["all_reduce"] = 2 * router * (world.size - 1) // world.size
        assert backward.bytes == moves, (backward.bytes, moves)
        per_token = T * world.size
        found[str(dtype).removeprefix("torch.")] = {
            "counted per token and rank": sum(forward.bytes.values()) / per_token,
            "formula": 2 * H * dtype.itemsize * (world.size - 1) / world.size,
        }
    return found


def check_bytes_of_top_k(world: World) -> dict[str, dict[str, int]]:
    """Rows of x that each link carries, flat and by node, against a count by loops."""
    R, K, T, per = world.size, 5, 7, world.size // 2  # per: ranks of a node
    torch.manual_seed(4)
    experts = torch.randint(0, E, (R, T, K))
    places = (experts // (E // R)).tolist()  # the rank of each slot's expert

    def rows(by_node: bool) -> Iterator[tuple[int, int]]:
        """Source and target of each row on its way to an expert."""
        for rank, token in product(range(R), range(T)):
            for node in {place // per for place in places[rank][token]}:
                relay = node * per + rank % per
                if by_node:
                    yield rank, relay
                for place in places[rank][token]:
                    if place // per == node:
                        yield relay if by_node else rank, place

    layer, found = moge(), {}
    for name, mesh in (("flat", world.mesh(ep=R)), ("by node", world.mesh(node=2, device=per))):
        parallel = TopKExpertParallel(layer.w_gate_up, layer.w_down, mesh)
        with Wire(per, columns=H) as wire, torch.no_grad():
            parallel(torch.randn(T, H), experts[world.rank], torch.rand(T, K))
        want = dict.fromkeys(("own node", "other nodes"), 0)
        for source, target in rows(mesh.ndim == 2):
            # results take the same way back, so that the source receives as well
            if source != target and world.rank in (source, target):
                want["own node" if source // per == target // per else "other nodes"] += 4 * H
        got = {kind.partition(", ")[2]: n for kind, n in wire.bytes.items()}
        assert {k: n for k, n in want.items() if n} == got, (name, want, got)
        found[name] = want
    assert found["by node"]["other nodes"] < found["flat"]["other nodes"]
    return found


def check_bytes_of_h2p(world: World) -> dict[str, int]:
    """The paper's layout has no all-reduce, and moves per layer what one would move."""
    if world.size == 2:
        mesh, plan, heads = world.mesh(ep=2), Plan(heads="ep"), 2
    else:
        heads = world.size // 2
        mesh, plan = world.mesh(a=2, b=heads), Plan("b", "a", heads="b")
    model = parallelize(pangu(), mesh, plan)
    T = 3 * heads  # of the ranks that share attention
    with Wire() as wire, torch.no_grad():
        model(torch.ones(1, T, dtype=torch.long))
    H, R, layers = SIZES["hidden_size"], world.size, SIZES["num_hidden_layers"]
    row = H * 4
    attention, experts = T * (heads - 1) // heads * row, T // heads * (R - 1) * row
    once = layers * (attention + experts)
    assert wire.bytes == {
        "all_gather_into_tensor": once + attention,  # the last states, for the head
        "reduce_scatter_tensor": once,
    }
    return wire.bytes


def check_rows_are_equal(world: World) -> list[int]:
    """Every rank has T·K / ranks rows on every step, for any router."""
    T, K = 6, 2 * G
    parallel = ExpertParallel(moge(), world.mesh(ep=world.size))
    rows: list[int] = []

    def grouped_mlp(*arguments: Any, **options: Any) -> Tensor:
        rows.append(int(arguments[4].offsets[-1]))
        return moge_ops.grouped_mlp(*arguments, **options)

    with mock.patch.object(expert_parallel, "grouped_mlp", grouped_mlp):
        for step in range(4):
            torch.manual_seed(world.rank + 100 * step)
            with torch.no_grad():  # the most one-sided router, at the last step
                parallel.gate.to_local().mul_(10.0**step)
            parallel(torch.randn(T, H) + step)
    assert rows == [T * world.size * K // world.size] * 4
    return rows


def check_bfloat16(world: World) -> dict[str, float]:
    """Errors against float64, relative to those of one process; a sum over ranks rounds more."""
    mesh, counts, found = world.mesh(ep=world.size), [16] * world.size, {}
    options = {"k": E // G}  # all experts: the rounding of a logit changes no choice
    for what, dtype in (("bfloat16", torch.bfloat16), ("autocast", torch.float32)):
        single = moge(**options).to(dtype)
        parallel, oracle = ExpertParallel(moge(**options).to(dtype), mesh), wide(single)
        xs, d_ys = ([x.to(dtype) for x in part] for part in tokens(counts))
        x, everyone = xs[world.rank].clone().requires_grad_(), torch.cat(xs).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=what == "autocast"):
            y, y_single = parallel(x), single(everyone)
        assert y.dtype == torch.bfloat16
        y.backward(d_ys[world.rank].bfloat16())
        y_single.backward(torch.cat(d_ys).bfloat16())
        x64 = torch.cat(xs).double().requires_grad_()
        y64 = oracle(x64)
        y64.backward(torch.cat(d_ys).bfloat16().double())
        for name, got, one, want in (
            ("y", y.detach(), y_single.detach(), y64.detach()),
            ("d_x", x.grad, everyone.grad, x64.grad),
        ):
            here = want.split(counts)[world.rank]
            found[f"{what} {name}"] = rms_error(got, here) / rms_error(one, want)
    assert max(found.values()) < 2.0, found
    return found


def check_repeated_backward(world: World) -> None:
    """Gradients of several steps add up; recomputed activations give the same ones."""
    mesh, ids = world.mesh(ep=world.size), torch.arange(6).view(1, 6) + world.rank
    once, twice, again = (parallelize(pangu(), mesh, Plan()) for _ in range(3))
    again.gradient_checkpointing = True
    for model, times in ((once, 1), (twice, 2), (again.train(), 1)):
        for _ in range(times):
            model.loss(ids).backward()
    for (name, p), q, r in zip(
        once.named_parameters(), twice.parameters(), again.parameters(), strict=True
    ):
        assert torch.equal(2 * p.grad.to_local(), q.grad.to_local()), name
        assert torch.equal(p.grad.to_local(), r.grad.to_local()), name


def check_compiled(world: World) -> None:
    """One graph, the same numbers."""
    mesh = world.mesh(ep=world.size)
    plain, compiled = (ExpertParallel(moge(), mesh) for _ in range(2))
    call = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    xs, d_ys = tokens([5] * world.size)
    x, other = (xs[world.rank].clone().requires_grad_() for _ in range(2))
    y, want = call(x), plain(other)
    y.backward(d_ys[world.rank])
    want.backward(d_ys[world.rank])
    world.matches(y, want.detach().double(), "y")
    world.matches(x.grad, other.grad.double(), "d_x")
    for (name, p), q in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        world.matches(q.grad, p.grad.full_tensor().double(), f"d_{name}")


def check_page(world: World) -> None:
    """The page's lines run on two ranks and give the gradients of one process."""
    text = (Path(__file__).resolve().parents[1] / "docs" / "guides" / "distributed.md").read_text()
    (block,) = re.findall(r"```python\n(# layer\.py\n.*?)```", text, re.DOTALL)
    assert len(block.splitlines()) <= 14
    found: dict[str, Any] = {}
    exec(block, found)
    gate = found["layer"].gate.grad.full_tensor()
    assert gate.any()
    assert gate.isfinite().all()
    assert found["x"].grad.shape == found["x"].shape


def check_refusals(world: World) -> None:
    """Every rank refuses before any communication, and names both numbers."""
    R = world.size
    one, two = world.mesh(ep=R), world.mesh(a=2, b=R // 2)
    layer, both = moge(), Plan("b", "a")
    odd, ranks = nn.MoGE(H, 15, E, G), list(reversed(range(R)))
    model = PanguMoEForCausalLM(PanguMoEConfig(**SIZES | {"num_key_value_heads": 1}))
    for message, build in (
        (
            f"'ep' must divide num_groups=3, got {R}",
            lambda: ExpertParallel(nn.MoGE(H, F, 6, 3), one),
        ),
        ("'a' must divide expert_size=15, got 2", lambda: ExpertParallel(odd, two, both)),
        (
            f"the mesh must divide shared_size=15, got {R}",
            lambda: ExpertParallel(nn.MoGE(H, F, E, G, shared_size=15), one),
        ),
        (
            r"plan.width must be one of the mesh's \('ep',\), got 'tp'",
            lambda: parallelize(layer, one, Plan(width="tp")),
        ),
        (
            r"must be the mesh's dimensions \('a', 'b'\), got \('b',\)",
            lambda: parallelize(layer, two, Plan("b")),
        ),
        (
            f"'ep' must divide num_key_value_heads=1, got {R}",
            lambda: parallelize(model, one, Plan(heads="ep")),
        ),
        (
            f"'ep' must divide the number of experts=9, got {R}",
            lambda: TopKExpertParallel(torch.ones(9, 4, 2), torch.ones(9, 2, 2), one),
        ),
        (
            "mesh must have one or two named dimensions",
            lambda: TopKExpertParallel(layer.w_gate_up, layer.w_down, world.mesh(a=1, b=1, c=R)),
        ),
        (
            f"'a' and 'b' must divide the number of experts=9, got {R}",
            lambda: TopKExpertParallel(torch.ones(9, 4, 2), torch.ones(9, 2, 2), two),
        ),
        (
            "mesh must have its ranks in ascending order",
            lambda: ExpertParallel(layer, DeviceMesh("cpu", ranks, mesh_dim_names=("ep",))),
        ),
    ):
        with Wire() as wire, pytest.raises(ValueError, match=message):
            build()
        assert not wire.bytes
    with pytest.raises(TypeError, match="must be MoGE or PanguMoEForCausalLM, got Linear"):
        parallelize(torch.nn.Linear(2, 2), one, Plan())
    assert not any(isinstance(p, DTensor) for p in (*layer.parameters(), *model.parameters()))


def same(model: torch.nn.Module, want: dict[str, Tensor], what: str) -> None:
    """Compares parameters bit for bit, by the names that hold on every mesh."""
    got = state_dict(model)
    assert got.keys() == want.keys(), what
    for name, x in got.items():
        x = x.full_tensor() if isinstance(x, DTensor) else x
        assert torch.equal(x, want[name]), f"{what}: {name}"


def zeroed(model: PanguMoEForCausalLM) -> PanguMoEForCausalLM:
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    return model


def check_checkpoint(world: World) -> None:
    """Written on one mesh or by one process, read on every other and by one process."""
    want = state_dict(pangu())
    folders = [world.folder / "single"]
    if world.rank == 0:
        dcp.save(want, checkpoint_id=folders[0], no_dist=True)
    for what, mesh, plan, _ in layouts(world):
        folders.append(world.folder / what)
        dcp.save(state_dict(parallelize(pangu(), mesh, plan)), checkpoint_id=folders[-1])
    dist.barrier()
    for folder in folders:
        single = zeroed(pangu())
        dcp.load(state_dict(single), checkpoint_id=folder, no_dist=True)
        same(single, want, f"{folder.name} to one process")
        for what, mesh, plan, _ in layouts(world):
            model = zeroed(parallelize(pangu(), mesh, plan))
            dcp.load(state_dict(model), checkpoint_id=folder)
            same(model, want, f"{folder.name} to {what}")


def check_optimizer_state(world: World) -> None:
    """AdamW's state after a step is read on every other mesh, where the next step is the same."""
    ids, want = torch.arange(8).view(1, 8), {}
    for what, mesh, plan, sets in layouts(world):
        model = parallelize(pangu(), mesh, plan)
        # a large eps, so that gradients that are nothing but rounding stay small
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=0.1)

        def step(model: Any = model, optimizer: Any = optimizer, sets: Any = sets) -> None:
            (model.loss(ids) / len(sets)).backward()  # the same ids in every set: a mean
            optimizer.step()
            optimizer.zero_grad()

        if not want:
            step()
        state = {
            "model": state_dict(model),
            "optimizer": get_optimizer_state_dict(model, optimizer),
        }
        if not want:
            dcp.save(state, checkpoint_id=world.folder / "step")
        dcp.load(state, checkpoint_id=world.folder / "step")
        set_optimizer_state_dict(model, optimizer, state["optimizer"])
        step()
        got = {name: p.full_tensor() for name, p in state_dict(model).items()}
        want = want or got
        for name, p in got.items():
            world.matches(p, want[name].double(), f"{what}: {name}")


def check_released_folder(world: World) -> None:
    """A rank reads its own elements of every tensor and no others."""
    folder, read = world.folder / "released", []
    if world.rank == 0:
        checkpoint.save_pretrained(pangu(), folder, max_shard_size="20KB")
    dist.barrier()

    class Counted:
        """A slice of a file that counts what is read from it."""

        def __init__(self, stored: Any) -> None:
            self.get_shape, self.stored = stored.get_shape, stored

        def __getitem__(self, index: Any) -> Tensor:
            read.append(self.stored[index].numel())
            return self.stored[index]

    original = parallel_checkpoint._read
    counted = mock.patch.object(
        parallel_checkpoint, "_read", lambda stored, *rest: original(Counted(stored), *rest)
    )
    for what, mesh, plan, _ in layouts(world):
        read.clear()
        with counted:
            model = parallel_checkpoint.from_pretrained(folder, mesh, plan)
        assert not model.training
        same(model, state_dict(pangu()), what)
        assert sum(read) == sum(p.to_local().numel() for p in model.parameters())
    with pytest.raises(ValueError, match="must be one of the mesh's"):
        parallel_checkpoint.from_pretrained(folder, mesh, Plan("x"))


def check_fsdp(world: World) -> None:
    """One step of SGD on a mesh with a data-parallel dimension, whose gradients are means."""
    if world.size == 2:
        root, plan, inner, sets = world.mesh(dp=2, ep=1), Plan(heads="ep"), ("ep",), 1
    elif world.size == 4:
        root, plan, inner, sets = world.mesh(dp=2, ep=2), Plan(), ("ep",), 2
    else:
        root, plan = world.mesh(dp=2, a=2, b=2), Plan("b", "a", heads="b")
        inner, sets = ("a", "b"), 2
    torch.manual_seed(6)
    ids = torch.randint(0, 31, (2, sets, 1, 7))
    dp = root.get_local_rank("dp")
    own_set = root.get_local_rank("a" if world.size == 8 else "ep")

    model = parallelize(pangu(), root[inner], plan)
    for layer in model.layers:
        fully_shard(layer, mesh=root["dp"])
    fully_shard(model, mesh=root["dp"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model.loss(ids[dp, own_set]).backward()
    optimizer.step()

    oracle = pangu().double()
    (sum(oracle.loss(rows) for rows in ids.flatten(0, 1)) / 2).backward()
    torch.optim.SGD(oracle.parameters(), lr=0.5).step()
    want = state_dict(oracle)
    for name, p in state_dict(model).items():
        world.matches(p, want[name], f"{name} after a step")

    folder = world.folder / "fsdp"
    dcp.save(state_dict(model), checkpoint_id=folder)
    single = zeroed(pangu())
    dcp.load(state_dict(single), checkpoint_id=folder, no_dist=True)
    same(model, state_dict(single), "FSDP2 to one process")


def check_a_rank_that_dies(world: World) -> float | None:
    """The others soon get an error; this check comes last, because it leaves no groups."""
    parallel = ExpertParallel(moge(), world.mesh(ep=world.size))
    x = torch.randn(4, H)
    parallel(x)
    if world.rank == world.size - 1:
        return None  # and exits
    began = time.monotonic()
    with pytest.raises(RuntimeError):
        parallel(x)
    return time.monotonic() - began


def check_a_rank_that_hangs(world: World) -> float | None:
    """The others get an error once the group's timeout has passed."""
    parallel = ExpertParallel(nn.MoGE(H, F, 6, 3), world.mesh(ep=world.size))
    x = torch.randn(4, H)
    parallel(x)
    began = time.monotonic()
    if world.rank == 2:
        time.sleep(TIMEOUTS[3] + 2.0)
        return None
    with pytest.raises(RuntimeError):
        parallel(x)
    seconds = time.monotonic() - began
    assert seconds < 4.0 * TIMEOUTS[3]  # a busy machine
    return seconds


def run(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # and unwritten memory is NaN, as in conftest.py
    world = World(rank, size, folder)
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(str(folder / "store"), size),
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=TIMEOUTS[size]),
    )
    results: dict[str, Any] = {}
    for name, check in checks(size).items():
        world.largest = 0.0
        began = time.monotonic()
        try:
            found = check(world)
        except BaseException:
            # the other ranks may be anywhere in a check, so no other check can run
            results[name] = {"error": traceback.format_exc()}
            break
        seconds = time.monotonic() - began
        results[name] = {"seconds": seconds, "largest": world.largest, "found": found}
    (folder / f"{rank}.json").write_text(json.dumps(results))
    os._exit(0)  # past the destructors of groups whose ranks may be gone


def checks(size: int) -> dict[str, Callable[[World], Any]]:
    """The checks of a world size by name, in the order of this file."""
    found = {
        name.removeprefix("check_"): function
        for name, function in globals().items()
        if name.startswith("check_")
    }
    sizes = {"a_rank_that_hangs": (3,), "compiled": (2,), "optimizer_state": (4,), "page": (2,)}
    assert sizes.keys() <= found.keys()
    return {name: f for name, f in found.items() if size in sizes.get(name, (2, 4, 8))}


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
elif "WORLD" in globals():  # as tests/test_distributed.py starts it
    run(*globals()["WORLD"])
