"""Modelled times of the Ascend C kernels at Pangu's shapes: modelled, not measured; on no NPU.

The emulator's model of time (``csrc/emulator/timing.h``) is first held against every published time
that it can express, then asked for each operator and for the layer, and drawn as a timeline.
"""

import argparse
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ascend_counters import RESULTS, E, F, G, H, write
from matplotlib.figure import Figure
from published import Launch, Row, build, check_row, emulate, published
from rich.console import Console
from rich.table import Table
from torch import Tensor

from moge_ops import _C, ascend
from moge_ops.ascend import (
    grouped_gate,
    grouped_gemm,
    grouped_mlp,
    load_balance_loss,
    route,
    swiglu,
    unpermute,
)

NOTE = "modelled, not measured; on no NPU"
TOKENS = (1, 16, 128, 456, 2048, 8192)
DEVICES = ("910B1", "910B4")
BF16 = torch.bfloat16


# --- operators and layer --------------------------------------------------------------------------


class Step(NamedTuple):
    """One launch, and the least that it has to do."""

    name: str
    launch: str
    bytes: float  # to and from memory
    flops: float = 0
    weights: float = 0  # bytes of the experts that have rows, which are read
    int8: bool = False  # products of bytes, at twice the rate


Part = tuple[str, list[Step], list[Launch]]


def rows(*shape: int) -> Tensor:
    return torch.empty(*shape, dtype=BF16)  # nobody touches it, so it takes no memory


def bytes_(*shape: int) -> Tensor:
    return torch.empty(*shape, dtype=torch.int8)


def floats(*shape: int) -> Tensor:
    return torch.empty(*shape)


class Layer:
    """Pangu's layer of T tokens in bfloat16: its routing, its tensors and their bytes."""

    def __init__(self, T: int, device: str) -> None:
        self.N = N = T * G
        self.scores, self.ids = T * E * 2, N * 4
        self.tokens, self.hidden, self.wide, self.narrow = (
            T * H * 2,
            N * H * 2,
            N * 4 * F,
            N * F * 2,
        )
        self.gate_up, self.down = H * 4 * F, H * F * 2  # an expert's weights
        self.product = 2 * N * H * F  # FLOPs of down; gate and up together take two
        self.small = self.route(T, device)
        used = int((self.indices[2].diff() > 0).sum())
        self.x, self.d_y = rows(T, H), rows(T, H)
        self.w_gate_up, self.w_down = rows(E, 2 * F, H), rows(E, H, F)

        def step(name: str, moved: int, products: int, weights: int) -> Step:
            flops, read = products * self.product, used * weights
            return Step(name, "grouped_gemm_fwd", moved + read, flops, read)

        self.up = step("gate/up", self.hidden + self.wide, 2, self.gate_up)
        self.last = step("down", self.narrow + self.hidden, 1, self.down)

    def route(self, T: int, device: str) -> list[Launch]:
        """Launches of what its data decides: it runs with it."""
        cube, vector, _, _ = _C.devices()[device]
        assert vector == 2 * cube
        _C.set_emulation(cores=vector, checks=False)
        _C.start_recording(device)
        logits = torch.randn(T, E, generator=torch.Generator().manual_seed(0)).to(BF16)
        gate = (None, False, 1.0)  # no router scale, weights as they are
        self.weights, experts, _ = grouped_gate.grouped_gate_fwd(
            logits, G, 1, "softmax", None, *gate, None
        )
        grouped_gate.grouped_gate_bwd(self.weights, logits, experts, G, "softmax", *gate, False)
        loss, f = load_balance_loss.load_balance_loss_fwd(logits, experts, "softmax")
        load_balance_loss.load_balance_loss_bwd(loss, logits, f, "softmax")
        self.indices = route.route_fwd(experts, E, G)
        grouped_gate.grouped_gate_and_route_fwd(logits, G, 1, "softmax", None, *gate, None)
        launches: list[Launch] = _C.stop_recording()
        return launches

    def operators(self) -> Iterator[tuple[Step, Callable[[], Any]]]:
        """Operators whose time their sizes decide."""
        row_to_slot, slot_to_row, offsets = self.indices
        N = self.N

        def packed(inner: int, out: int) -> Callable[[], Any]:
            weight = ascend.PackedWeight(rows(E, inner // 16, out, 16), out, inner)
            return lambda: ascend.grouped_gemm_packed(rows(N, inner), weight, offsets)

        launch = "grouped_gemm_packed"
        yield self.up._replace(name="gate/up, packed", launch=launch), packed(H, 2 * F)
        yield self.last._replace(name="down, packed", launch=launch), packed(F, H)
        yield self.up, lambda: grouped_gemm.grouped_gemm_fwd(rows(N, H), self.w_gate_up, offsets)
        yield self.last, lambda: grouped_gemm.grouped_gemm_fwd(rows(N, F), self.w_down, offsets)
        for step, inner, out in ((self.up, H, 2 * F), (self.last, F, H)):
            # four bits in two passes take the cube's time of one of bytes
            for bits, planes, product in (
                (8, (), grouped_gemm.int8_product),
                (4, (2,), grouped_gemm.int4_product),
            ):
                weights, packed_inner = step.weights * bits / 16, inner * bits // 8
                of_bytes = step._replace(
                    name=f"{step.name}, int{bits}",
                    launch=f"grouped_gemm_int{bits}",
                    bytes=(N * inner + N * out * 2) + weights,
                    weights=weights,
                    int8=True,
                )
                args = (
                    bytes_(N, *planes, packed_inner),
                    floats(N),
                    bytes_(E, out, packed_inner),
                    floats(E, out),
                    offsets,
                    BF16,
                )
                yield of_bytes, functools.partial(product, *args)
        step = Step("swiglu", "swiglu_fwd", self.wide + self.narrow)
        yield step, lambda: swiglu.swiglu_fwd(rows(N, 2 * F))
        step = Step("swiglu, backward", "swiglu_bwd", 2 * self.wide + self.narrow)
        yield step, lambda: swiglu.swiglu_bwd(rows(N, F), rows(N, 2 * F))
        step = Step("unpermute, backward", "unpermute_bwd", self.tokens + 2 * self.hidden)
        args = (self.d_y, rows(N, H), row_to_slot, slot_to_row, self.weights)
        yield step, lambda: unpermute.unpermute_bwd(*args)

    def passes(self) -> Iterator[tuple[str, list[Step], Callable[[], Any]]]:
        """The layer forward, with and without what a backward pass needs, and backward."""
        hidden, wide, narrow = self.hidden, self.wide, self.narrow
        into = Step("permute", "permute_fwd", self.tokens + hidden)
        outof = Step("unpermute", "unpermute_fwd", self.tokens + hidden)
        layer = (self.x, self.w_gate_up, self.w_down, self.weights, *self.indices)
        for part, save in (("layer", False), ("layer, training", True)):
            weights = self.up.weights + self.last.weights
            moved = 2 * self.tokens + weights + save * wide
            flops = self.up.flops + self.last.flops
            fused = Step("experts", "grouped_mlp_fwd", moved, flops, weights)
            forward = functools.partial(grouped_mlp.grouped_mlp_fwd, *layer, "output", save)
            yield part, [fused], forward
        weights = (self.up.weights + self.last.weights) / 2
        flops = self.up.flops + self.last.flops
        of_bytes = Step(
            "experts", "grouped_mlp_int8_fwd", 2 * self.tokens + weights, flops, weights, int8=True
        )
        parts = (
            *(bytes_(E, 2 * F, H), floats(E, 2 * F, 1), None),
            *(bytes_(E, H, F), floats(E, H, 1), None),
        )
        options = ("int8_w8a8", None, None, "output", False)
        quantized = (self.x, *parts, self.weights, *self.indices, *options)
        forward = functools.partial(grouped_mlp.grouped_mlp_quantized_fwd, *quantized)
        yield "layer, int8", [of_bytes], forward
        d_up, d_down = E * self.gate_up, E * self.down
        steps = [
            Step("weights of rows", "take_scalars", 2 * self.ids),
            into._replace(name="permute d_y"),
            self.last._replace(name="down, dX", launch="grouped_gemm_dx"),
            Step("swiglu, backward, d_weights", "grouped_mlp_act_bwd", 2 * wide + 2 * narrow),
            Step("d_weights of slots", "take_scalars", 2 * self.ids),
            self.up._replace(name="gate/up, dX", launch="grouped_gemm_dx"),
            outof._replace(name="unpermute d_x"),
            into,
            Step("gate/up, dW", "grouped_gemm_dw", wide + hidden + d_up, 2 * self.product),
            Step("down, dW", "grouped_gemm_dw", hidden + narrow + d_down, self.product),
        ]
        args = (self.d_y, *layer, rows(self.N, 2 * F), True, True)
        yield "layer, backward", steps, lambda: grouped_mlp.grouped_mlp_bwd(*args)


def parts(T: int, device: str) -> Iterator[Part]:
    """Operators and layer in bfloat16: what each part launches, and how it went.

    L2 is empty before a part, as if other layers had come between.
    """
    layer = Layer(T, device)
    scores, ids = layer.scores, layer.ids
    small = [
        Step("gate", "grouped_gate_fwd", scores + 2 * ids),
        Step("gate, backward", "grouped_gate_bwd", 2 * scores + 2 * ids),
        Step("balance loss", "load_balance_loss_fwd", scores + ids),
        Step("balance loss, backward", "load_balance_loss_bwd", 2 * scores),
        Step("route", "route_fwd", 3 * ids),
        Step("gate and route", "grouped_gate_and_route_fwd", scores + 4 * ids),
    ]
    yield "operator", small, layer.small
    for step, call in layer.operators():
        yield "operator", [step], emulate(call, device)
    for part, steps, call in layer.passes():
        yield part, steps, emulate(call, device)


def describe(T: int, device: str, part: str, step: Step, launch: Launch) -> Row:
    assert launch["name"] == step.launch, (step, launch["name"])
    cube, vector, clock, rate = _C.devices()[device]
    times = launch["times"]
    seconds = times["cycles"] / clock  # without what a launch costs
    shares: dict[tuple[str, str], float] = {}
    for core, timed in zip(launch["cores"], times["cores"], strict=True):
        of = {"AIC": cube, "AIV": vector}[core["kind"]] * times["cycles"]
        for pipe, cycles in timed["busy"].items():
            key = (core["kind"], pipe)
            shares[key] = shares.get(key, 0.0) + cycles / of
    kind, pipe = max(shares, key=lambda key: shares[key])
    peak = cube * clock * 2 * 16**3 * (2 if step.int8 else 1)
    floor = max(step.bytes / rate, step.flops / peak)
    return {
        "source": "modelled",
        "device": device,
        "T": T,
        "part": part,
        "step": step.name,
        "launch": step.launch,
        "time_us": f"{times['seconds'] * 1e6:.2f}",
        "without_launch_us": f"{seconds * 1e6:.2f}",
        "bound": f"{kind} {pipe}",
        "bound_percent": f"{100 * shares[kind, pipe]:.1f}",
        "cube_percent": f"{100 * shares[('AIC', 'M')]:.1f}" if step.flops else "",
        "weight_tb_s": f"{step.weights / seconds / 1e12:.3f}" if step.weights else "",
        "memory_mb": f"{times['memory_bytes'] / 1e6:.2f}",
        "floor_us": f"{floor * 1e6:.2f}",
        "over_floor": f"{seconds / floor:.2f}",
    }


def table(T: int, device: str) -> list[Row]:
    """A row for each launch, and a total for each part of the layer."""
    result: list[Row] = []
    for part, steps, launches in parts(T, device):
        found = [
            describe(T, device, part, step, launch)
            for step, launch in zip(steps, launches, strict=True)
        ]
        result += found
        if part != "operator":
            total = dict.fromkeys(found[0], "")
            total |= {key: found[0][key] for key in ("source", "device", "T", "part")}
            total |= {"step": "total"}
            for key in ("time_us", "without_launch_us", "memory_mb", "floor_us"):
                total[key] = f"{sum(float(row[key]) for row in found):.2f}"
            over = float(total["without_launch_us"]) / float(total["floor_us"])
            result.append(total | {"over_floor": f"{over:.2f}"})
    return result


# --- picture --------------------------------------------------------------------------------------

LANES = {
    "AIC": (("MTE2", "#0072B2"), ("MTE1", "#56B4E9"), ("M", "#D55E00"), ("FIX", "#009E73")),
    "AIV": (("MTE2", "#0072B2"), ("V", "#CC79A7"), ("MTE3", "#E69F00")),
}
MEANING = {
    "MTE2": "memory to L1 or UB",
    "MTE1": "L1 to L0",
    "M": "products",
    "FIX": "L0C to memory",
    "V": "vectors",
    "MTE3": "UB to memory",
}


def traced_up(offsets: Tensor, fused: bool) -> Launch:
    """The launch of gate/up on core 0; ``fused`` with SwiGLU, on its two vector cores as well."""
    N, weight = int(offsets[-1]), rows(E, 2 * F, H)
    if not fused:
        call = functools.partial(grouped_gemm.grouped_gemm_fwd, rows(N, H), weight, offsets)
        return emulate(call, cores=(0,))[0]
    slots = torch.arange(N, dtype=torch.int32)
    layer = (rows(N, H), weight, rows(E, H, F), torch.ones(N, 1), slots, slots.view(N, 1), offsets)
    call = functools.partial(grouped_mlp.grouped_mlp_fwd, *layer, "output", False)
    launches = emulate(call, cores=(0, 1, 2))
    return next(launch for launch in launches if launch["name"] == "grouped_mlp_fwd")


def lanes(launch: Launch) -> list[tuple[int, str, str, str]]:
    """Core, its kind, a pipe and its colour, from top to bottom."""
    cores = sorted({core for core, *_ in launch["times"]["picture"]})
    kinds = [(core, launch["cores"][core]["kind"]) for core in cores]
    return [(core, kind, pipe, colour) for core, kind in kinds for pipe, colour in LANES[kind]]


def draw() -> Figure:
    """A few tiles on one cube core, and on its two vector cores where the kernel has them."""
    many = (torch.arange(E + 1) * (2048 * G // E)).int()
    few = (torch.arange(E + 1) * 2).int()
    both = "gate/up and SwiGLU in one kernel, T 2048: a cube core and its vector cores"
    panels = (  # title, launch, microseconds
        ("grouped product, gate/up, T 2048: two tiles", traced_up(many, False), 70.0),
        ("the same, T 16: weights stream past the rows in L1", traced_up(few, False), 40.0),
        (both, traced_up(many, True), 70.0),
    )
    heights = [len(lanes(launch)) for _, launch, _ in panels]
    figure = Figure(figsize=(13, 0.42 * sum(heights) + 4.2), layout="constrained")
    axes = figure.subplots(len(panels), 1, height_ratios=[height + 1 for height in heights])
    for (title, launch, width), panel in zip(panels, axes, strict=True):
        clock = launch["times"]["clock"] / 1e6  # cycles in a microsecond
        slices = launch["times"]["picture"]
        ends = [end for core, pipe, _, _, end in slices if (core, pipe) == (0, "FIX")]
        begin = ends[1] - 0.3 * width * clock
        finish = begin + width * clock
        labels = []
        for core, kind, pipe, colour in lanes(launch):
            mine = [
                (max(start, begin), min(end, finish))
                for c, p, _, start, end in slices
                if (c, p) == (core, pipe) and end > begin and start < finish
            ]
            share = sum(end - start for start, end in mine) / (finish - begin)
            who = kind if kind == "AIC" else f"{kind} {core - 1}"
            labels.append(f"{who}  {pipe}, {MEANING[pipe]}   {share:4.0%}")
            bars = [((start - begin) / clock, (end - start) / clock) for start, end in mine]
            # a white edge tells neighbours apart, and would hide what is narrow
            for wide in (True, False):
                drawn = [bar for bar in bars if (bar[1] > width / 200) == wide]
                place, edge = (len(labels) - 1.4, 0.8), 0.4 if wide else 0
                panel.broken_barh(drawn, place, color=colour, edgecolor="white", linewidth=edge)
        panel.set_yticks(range(len(labels)), labels, family="monospace", size=8)
        panel.set(title=title, xlim=(0, width), xlabel="µs")
        panel.invert_yaxis()
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Which pipe is busy when, 910B1, bfloat16, E {E}, H {H}, F {F}: {NOTE}")
    return figure


# --- output ---------------------------------------------------------------------------------------


SHOWN = (
    *("part", "step", "time_us", "without_launch_us", "bound", "bound_percent", "cube_percent"),
    *("weight_tb_s", "floor_us", "over_floor"),
)


TEXTS = {"case", "unit", "kind", "cause", "part", "step", "bound", "parameter", "origin"}


def show(console: Console, title: str, rows: Sequence[Row], columns: Sequence[str]) -> None:
    listing = Table(title=f"{title}: {NOTE}", title_justify="left")
    for column in columns:
        listing.add_column(column, justify="left" if column in TEXTS else "right")
    for row in rows:
        listing.add_row(*(str(row[column]) for column in columns))
    console.print(listing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS, metavar="T")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the files")
    args = parser.parse_args()
    console = Console(width=160)
    figures = [
        {"parameter": name, "value": f"{value:.4g}", "unit": unit, "origin": origin}
        for name, (value, unit, origin) in _C.time_parameters().items()
    ]
    show(console, "Figures of the model", figures, list(figures[0]))
    module = build()
    check = [check_row(case, module) for case in published()]
    write(args.out / "ascend_model_check.csv", check)
    show(console, "Published and modelled", check, list(check[0])[1:])
    rows: list[Row] = []
    for device in DEVICES:
        for T in args.tokens:
            found = table(T, device)
            rows += found
            show(console, f"{device}, T {T}", found, SHOWN)
    write(args.out / "ascend_model.csv", rows)
    draw().savefig(args.out / "ascend_timeline.png", dpi=110)


if __name__ == "__main__":
    main()
