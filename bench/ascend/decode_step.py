"""The Pangu Pro MoE paper's decode step and prefill, step by step: modelled, on no NPU.

Router, routed experts and shared expert are our kernels in int8_w8a8, with the emulator's model of
time. Attention, norms, the other products and collectives are no kernels of ours: each takes the
longest of what its bytes, its operations and its links need at their full rates, a floor that no
real kernel reaches. The table says which is which.

Published, arXiv:2505.21411v2, W8A8, 2k of context: on four cards of an Atlas 800I A2 a batch of 456
decodes a token in 99.31 ms, 1148 tokens/s a card; on two cards a batch of 2 is prefilled with 4828
tokens/s a card.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ascend_counters import RESULTS, E, F, G, H, write
from ascend_model import NOTE, emulate
from rich.console import Console
from rich.table import Table
from torch import Tensor

import moge_ops
from moge_ops import _C
from moge_ops.ascend import grouped_gate, grouped_mlp

LAYERS, VOCABULARY, CONTEXT = 48, 153376, 2048
HEADS, KV_HEADS, HEAD = 40, 8, 128
SHARED = 4 * F
NAMES = ("routed experts", "shared expert")
LAUNCH = 13e-6  # seconds, the model's cost of a launch


class Chip(NamedTuple):
    """What one chip can do; ``model`` is the emulator's name of it, None where it has none."""

    name: str
    memory: float  # bytes a second
    int8: float  # operations a second
    half: float
    link: float  # bytes a second from one chip to one other, each way
    model: str | None


# 800I A2: the chips of the emulator, and HCCS of 392 GB/s, which are seven links of 28 GB/s each
# way (Huawei's data sheets). 300I Duo: 408 GB/s and 280 TOPS for two chips, PCIe 4.0 x16 for both.
HCCS, PCIE = 28e9, 16e9


def chip(name: str) -> Chip:
    cube, _, clock, memory = _C.devices()[name]
    half = cube * clock * 2 * 16**3
    return Chip(name, memory, 2 * half, half, HCCS, name)


DUO = Chip("310P3", 204e9, 140e12, 70e12, PCIE, None)


class Plan(NamedTuple):
    """How a model lies on chips. Attention is split by heads over all of them."""

    name: str
    chip: Chip
    chips: int
    cards: int
    expert_ranks: int  # EP: ranks that hold whole groups
    batch: int
    tokens: int  # of each sequence in this step
    published_ms: float | None


class Step(NamedTuple):
    """A step of one layer on one chip, or one of the whole model."""

    name: str
    source: str  # our kernels | roofline | links
    seconds: float
    launches: int
    times: int = LAYERS


def plans() -> Iterator[Plan]:
    for name in ("910B1", "910B4"):
        yield Plan("decode, EP4", chip(name), 4, 4, 4, 456, 1, 99.31)
        yield Plan("decode, TP2 EP4", chip(name), 8, 8, 4, 456, 1, None)
        yield Plan("prefill, EP2", chip(name), 2, 2, 2, 2, CONTEXT, 2 * CONTEXT / (2 * 4828) * 1e3)
    yield Plan("decode, TP2 EP4", DUO, 8, 4, 4, 80, 1, None)


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(*shape, dtype=dtype)


def of_experts(T: int, experts: int, columns: int, width: int) -> Callable[[], Any]:
    """The layer of one rank: ``columns`` slots of each token, experts of ``width``, in int8."""
    logits = torch.randn(T, E, generator=torch.Generator().manual_seed(0))
    chosen = moge_ops.grouped_gate(logits, G).experts[:, :columns] if experts > 1 else None
    if chosen is None:
        chosen = torch.zeros(T, 1, dtype=torch.int32)
    routing = moge_ops.route(chosen, experts)
    int8, float32 = torch.int8, torch.float32
    args = (
        empty(T, H),
        *(empty(experts, 2 * width, H, dtype=int8), empty(experts, 2 * width, 1, dtype=float32)),
        None,
        *(empty(experts, H, width, dtype=int8), empty(experts, H, 1, dtype=float32), None),
        torch.ones(T, columns),
        *routing,
        "int8_w8a8",
        *(None, None, "output", False),
    )
    return lambda: grouped_mlp.grouped_mlp_quantized_fwd(*args)


def ours(name: str, call: Callable[[], Any], plan: Plan) -> Step:
    launches = emulate(call, str(plan.chip.model))
    return Step(name, "our kernels", sum(x["times"]["seconds"] for x in launches), len(launches))


def floor(name: str, plan: Plan, moved: float, operations: float, launches: int, **of: int) -> Step:
    """The longer of bytes and operations of a chip, each at its full rate."""
    seconds = max(moved / plan.chip.memory, operations / plan.chip.int8)
    return Step(name, "roofline", seconds + launches * LAUNCH, launches, **of)


def exchange(name: str, plan: Plan) -> Step:
    """Reduce-scatter and all-gather of [T, H] in bfloat16 between all chips.

    They are linked one with each other, so each link carries one chip's share at the same time. By
    PCIe there is one link for all.
    """
    share = plan.batch * plan.tokens * H * 2 / plan.chips
    links = 1 if plan.chip.model else plan.chips - 1
    return Step(name, "links", 2 * share * links / plan.chip.link + 2 * LAUNCH, 2)


def experts(plan: Plan) -> Iterator[Step]:
    """What the paper's engine takes SwiftGMM and its neighbours for."""
    T, ranks = plan.batch * plan.tokens, plan.expert_ranks
    tensor = plan.chips // ranks  # chips that share an expert's width
    sizes = ((E // ranks, G // ranks, F // tensor), (1, 1, SHARED // plan.chips))
    if plan.chip.model is None:  # no kernels of ours: its roofline
        yield floor("gate and route", plan, T * E * 2 + 3 * T * G * 4, 0, 1)
        for name, (count, columns, width) in zip(NAMES, sizes, strict=True):
            moved, work = 3 * count * H * width, 6 * T * columns * H * width
            yield floor(name, plan, moved, work, 1)
        return
    logits = empty(T, E).zero_()
    gate = (logits, G, 1, "softmax", None, None, False, 1.0, None)
    _C.set_emulation(cores=2 * _C.devices()[str(plan.chip.model)][0], checks=False)
    _C.start_recording(str(plan.chip.model))
    logits.copy_(torch.randn(T, E, generator=torch.Generator().manual_seed(0)))
    grouped_gate.grouped_gate_and_route_fwd(*gate)
    launches = _C.stop_recording()
    _C.set_emulation()
    seconds = sum(x["times"]["seconds"] for x in launches)
    yield Step("gate and route", "our kernels", seconds, len(launches))
    for name, size in zip(NAMES, sizes, strict=True):
        yield ours(name, of_experts(T, *size), plan)


def steps(plan: Plan) -> Iterator[Step]:
    T, n = plan.batch * plan.tokens, plan.chips
    heads, kv = HEADS * HEAD, KV_HEADS * HEAD
    tokens = T * H * 2 / n  # bytes of a chip's share of the hidden states
    # a token attends to the context and to those before it in this step
    attended = plan.batch * (CONTEXT if plan.tokens == 1 else plan.tokens**2 / 2)
    cache = plan.batch * CONTEXT * 2 * kv / n  # bytes of keys and values in int8 (C8)
    yield floor("norm", plan, 2 * tokens, 0, 1)
    weights = H * (heads + 2 * kv) / n
    yield floor("queries, keys, values", plan, weights, 2 * T * weights, 1)
    half = plan.chip.int8 / plan.chip.half
    yield floor("attention", plan, cache, half * 4 * attended * heads / n, 1)
    yield floor("output of attention", plan, H * heads / n, 2 * T * H * heads / n, 1)
    yield exchange("exchange after attention", plan)
    yield floor("norm of the experts", plan, 2 * tokens, 0, 1)
    yield floor("router's product", plan, E * H * 2, half * 2 * T * E * H / n, 1)
    yield from experts(plan)
    yield exchange("exchange after the experts", plan)
    moved = VOCABULARY * H / n
    yield floor("norm and head", plan, moved, 2 * plan.batch * moved, 2, times=1)


def table(plan: Plan) -> list[dict[str, Any]]:
    found = list(steps(plan))
    whole = sum(step.seconds * step.times for step in found)
    rows = []
    for step in found:
        rows.append(
            {
                "source": "modelled",
                "plan": plan.name,
                "chip": plan.chip.name,
                "chips": plan.chips,
                "batch": plan.batch,
                "step": step.name,
                "by": step.source,
                "launches": step.launches,
                "layer_us": f"{step.seconds * 1e6:.2f}",
                "all_ms": f"{step.seconds * step.times * 1e3:.3f}",
                "percent": f"{100 * step.seconds * step.times / whole:.1f}",
                "published_ms": "",
                "tokens_s_card": "",
            }
        )
    total = dict.fromkeys(rows[0], "") | {key: rows[0][key] for key in list(rows[0])[:5]}
    tokens = plan.batch * plan.tokens
    total |= {
        "step": "total",
        "launches": sum(step.launches * step.times for step in found),
        "all_ms": f"{whole * 1e3:.3f}",
        "percent": "100.0",
        "published_ms": f"{plan.published_ms:.2f}" if plan.published_ms else "",
        "tokens_s_card": f"{tokens / whole / plan.cards:.0f}",
    }
    return [*rows, total]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS / "ascend_decode.csv")
    args = parser.parse_args()
    console, rows = Console(width=140), []
    for plan in plans():
        found = table(plan)
        rows += found
        listing = Table(title=f"{plan.name}, {plan.chip.name}, batch {plan.batch}: {NOTE}")
        for column in list(found[0])[5:]:
            listing.add_column(column, justify="left" if column in ("step", "by") else "right")
        for row in found:
            listing.add_row(*(str(value) for value in list(row.values())[5:]))
        console.print(listing)
    write(args.out, rows)


if __name__ == "__main__":
    main()
