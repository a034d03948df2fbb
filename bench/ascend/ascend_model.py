"""Modelled times of the Ascend C kernels at Pangu's shapes: modelled, not measured; on no NPU.

The emulator's model of time (``csrc/emulator/timing.h``) is first held against every published time
that it can express, then asked for each operator and for the layer, and drawn as a timeline.
"""

import argparse
import functools
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pybind11
import torch
from ascend_counters import RESULTS, E, F, G, H, write
from matplotlib.figure import Figure
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

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NOTE = "modelled, not measured; on no NPU"
TOKENS = (1, 16, 128, 456, 2048, 8192)
DEVICES = ("910B1", "910B4")
BF16 = torch.bfloat16

Row = dict[str, Any]
Launch = dict[str, Any]


# --- against published times ----------------------------------------------------------------------


class Published(NamedTuple):
    """A published figure, what models it, and why the two differ where they do."""

    case: str
    value: float
    kind: str  # calibrates <parameter> | predicted | another kernel
    model: Callable[[ModuleType], float]
    cause: str = ""
    unit: str = "us"


def micros(launch: Launch) -> float:
    return launch["times"]["seconds"] * 1e6


def busy(launch: Launch, pipe: str) -> float:
    """Microseconds of a pipe, on average over the cores."""
    times = launch["times"]
    cycles = [core["busy"].get(pipe, 0.0) for core in times["cores"]]
    return sum(cycles) / len(cycles) / times["clock"] * 1e6


def emulate(
    call: Callable[[], Any], device: str = "910B1", cores: Sequence[int] = ()
) -> list[Launch]:
    """Launches of the call, with their times; nothing is computed."""
    cube, _, _, _ = _C.devices()[device]
    _C.set_emulation(cores=2 * cube, checks=False, counting=True)
    _C.start_recording(device, list(cores))
    try:
        call()
    finally:
        launches = _C.stop_recording()
        _C.set_emulation()
    return launches


def even_gemm(N: int, experts: int, out: int, inner: int) -> float:
    """Our grouped product of float16, rows dealt out evenly; the second launch of two."""
    rows = torch.empty(N, inner, dtype=torch.float16)
    weight = torch.empty(experts, out, inner, dtype=torch.float16)
    offsets = (torch.arange(experts + 1) * N // experts).int()

    def twice() -> None:
        for _ in range(2):
            grouped_gemm.grouped_gemm_fwd(rows, weight, offsets)

    return micros(emulate(twice)[-1])


def our_swiglu(N: int, columns: int) -> float:
    gate_up = torch.empty(N, columns, dtype=torch.float16)
    return micros(emulate(lambda: [swiglu.swiglu_fwd(gate_up) for _ in range(2)])[-1])


def published() -> Iterator[Published]:
    """Ascend C best practices: data_copy, add and matmul on 910B1; FlagGems; tilelang-ascend."""
    yield from published_copies()
    yield from published_adds()
    yield from published_matmuls()
    yield from published_libraries()


def published_copies() -> Iterator[Published]:
    def copy(case: str, value: float, kind: str, cause: str = "", **shape: Any) -> Published:
        return Published(case, value, kind, lambda p: micros(p.copy(**shape)), cause)

    big = {"M": 12288, "N": 12288}
    predicted = "predicted"
    strided = "rows of a stride reach 1.37 to 1.49 TB/s; the model's memory gives all rows 1.6"
    conflict = "cores that read the same addresses at once wait for each other; not modelled"
    to_ub = (
        (1, 64, 564.84, "calibrates CopyHead, Launch"),
        (64, 64, 233.54, predicted),
        (64, 1024, 215.82, predicted),
    )
    to_l1 = ((64, 64, 300.7, "calibrates NdToNzHead"), (64, 256, 230.24, predicted))
    for path, l1, tiles, n, values, port, tile_m in (
        (
            "GM to UB",
            False,
            to_ub,
            1024,
            (275.3, 828.06, 365.74, 539.42, 328.88),
            "VectorPort",
            128,
        ),
        ("GM to L1", True, to_l1, 256, (438.76, 899.34, 414.96, 278.56, 221.34), "Piece", 256),
    ):
        uneven, four, slices, same, apart = values
        for m, c, value, kind in tiles:
            shape = {"to_l1": l1, "tile_m": m, "tile_n": c, **big}
            yield copy(f"{path}, tiles of {m} x {c}", value, kind, **shape)
        shape = {"to_l1": l1, "tile_m": 64, "tile_n": n, "M": 12288, "N": 12287}
        kind = "calibrates the rule of cut lines"
        yield copy(f"{path}, unaligned rows", uneven, kind, **shape)
        shape = {"to_l1": l1, "tile_m": 64, "tile_n": 1024, "repeats": 4, **big}
        yield copy(f"{path}, four times", four, predicted, strided, **shape)
        case = f"{path}, four times, a slice at a time"
        yield copy(case, slices, f"calibrates {port}", slices=4, **shape)
        shape = {"to_l1": l1, "M": 6144, "N": 512, "tile_m": tile_m, "tile_n": 64, "all": True}
        case = f"{path}, all cores the same"
        yield copy(case, same, predicted, conflict, **shape)
        yield copy(f"{case}, staggered", apart, predicted, conflict, rotated=True, **shape)


def published_adds() -> Iterator[Published]:
    def element(p: ModuleType) -> float:
        return p.add_scalars(4096)["times"]["cycles"] / 4096

    value = 1233742.494e-6 / 8192**2 * 1.85e9
    yield Published(
        "Add, scalars, an element", value, "calibrates ScalarUb", element, unit="cycles"
    )
    for name, value, kind, shape in (
        ("1: one core", 6909.6, "calibrates Latency", (1, 4096, 1, False)),
        ("2: 48 cores, 8 KB", 306.58, "predicted", (48, 4096, 1, False)),
        ("3: 32 KB", 268.5, "predicted", (48, 16384, 1, False)),
        ("4: double buffer", 264.02, "predicted", (48, 16256, 2, False)),
        ("5: past L2", 187.68, "predicted", (48, 16256, 2, True)),
    ):
        model = lambda p, shape=shape: micros(p.add(*shape))  # noqa: E731
        yield Published(f"Add, case {name}", value, kind, model)
    issued = 8192**2 / 48 / 16256  # instructions of a core
    yield Published(
        "Add, case 6: vec time, an instruction",
        6.954e-6 * 1.85e9 / issued,
        "calibrates VectorHead",
        lambda p: busy(p.add(48, 16256, 2, True), "V") * 1850 / issued,
        unit="cycles",
    )


def published_matmuls() -> Iterator[Published]:
    def alone(p: ModuleType) -> float:
        return p.mmad()["times"]["cores"][0]["busy"]["M"]

    yield Published("Mmad 128 x 256 x 512 in eight", 4209, "predicted", alone, unit="cycles")
    runs: dict[tuple[int, ...], Launch] = {}

    def matmul(p: ModuleType, *shape: int) -> Launch:
        if shape not in runs:
            runs[shape] = p.matmul(*shape)
        return runs[shape]

    def whole(*shape: int) -> Callable[[ModuleType], float]:
        return lambda p: micros(matmul(p, *shape))

    yield Published("matmul 8192, one round", 4121.16, "predicted", whole(1, 8, 4))
    for pipe, name, value, kind in (
        ("M", "mac", 3081.664, "calibrates MmadHead"),
        ("MTE1", "mte1", 2538.348, "calibrates LoadHead"),
        ("MTE2", "mte2", 3552.248, "predicted"),
        ("FIX", "fixpipe, of case 7", 45.76, "calibrates FixpipePort"),
        ("S", "scalar", 337.343, "calibrates Issue"),
    ):
        model = lambda p, pipe=pipe: busy(matmul(p, 1, 8, 4), pipe)  # noqa: E731
        yield Published(f"matmul 8192, {name} time", value, kind, model)
    yield Published("matmul 8192, two rounds", 4081.64, "predicted", whole(2, 8, 4))
    cause = "rows of 256 bytes are dearer here than there; how many of B come at a time is not said"
    case = "matmul 8192, high-level case 4"
    yield Published(case, 5039.86, "predicted", whole(1, 2, 2), cause)


def published_libraries() -> Iterator[Published]:
    other = "another kernel"

    def gemm(*shape: int) -> Callable[[ModuleType], float]:
        return lambda _: even_gemm(*shape)

    cause = "ours waits for rows of 512 bytes; theirs is a library's, 83 % of the peak"
    yield Published("torch.matmul 8192", 3630, other, gemm(8192, 1, 8192, 8192), cause)
    for N, out, inner, value in (
        (1024, 2048, 4096, 359.7),
        (2560, 2048, 4096, 367),
        (1024, 4096, 1024, 184),
    ):
        case = f"torch_npu grouped product [{N}, {inner}] x [32, {inner}, {out}]"
        yield Published(case, value, other, gemm(N, 32, out, inner))
    moved = "theirs moves 1.22 TB/s there; ours is modelled at memory's rate"
    for N, columns, value, cause in ((15000, 2048, 48.5, ""), (10000, 65536, 1610, moved)):
        model = lambda _, shape=(N, columns): our_swiglu(*shape)  # noqa: E731
        yield Published(f"npu_swiglu [{N}, {columns}]", value, other, model, cause)


def build() -> ModuleType:
    """The kernels of published.cpp as a module."""
    folder = ROOT / "build" / f"published-{sys.version_info.major}{sys.version_info.minor}"
    options = [
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
    ]
    for command in (
        ["-S", str(HERE), "-B", str(folder), *options],
        ["--build", str(folder), "-j2"],
    ):
        subprocess.run(["cmake", *command], check=True, stdout=subprocess.DEVNULL)
    (library,) = folder.glob("moge_published*.so")
    spec = importlib.util.spec_from_file_location("moge_published", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_row(case: Published, module: ModuleType) -> Row:
    modelled = case.model(module)
    error = 100 * (modelled / case.value - 1)
    return {
        "source": "modelled",
        "case": case.case,
        "unit": case.unit,
        "published": f"{case.value:.2f}",
        "modelled": f"{modelled:.2f}",
        "error_percent": f"{error:.1f}",
        "kind": case.kind,
        "cause": case.cause if abs(error) > 10 else "",
    }


# --- operators and layer --------------------------------------------------------------------------


class Step(NamedTuple):
    """One launch, and the least that it has to do."""

    name: str
    launch: str
    bytes: float  # to and from memory
    flops: float = 0
    weights: float = 0  # bytes of the experts that have rows, which are read


Part = tuple[str, list[Step], list[Launch]]


def rows(*shape: int) -> Tensor:
    return torch.empty(*shape, dtype=BF16)  # nobody touches it, so it takes no memory


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
            moved = hidden + self.up.weights + narrow + save * wide
            fused = self.up._replace(
                name="gate/up and swiglu", launch="grouped_mlp_up", bytes=moved
            )
            forward = functools.partial(grouped_mlp.grouped_mlp_fwd, *layer, "output", save)
            yield part, [into, fused, self.last, outof], forward
        d_up, d_down = E * self.gate_up, E * self.down
        steps = [
            Step("weights of rows", "permute_fwd", 2 * self.ids),
            into._replace(name="permute d_y"),
            self.last._replace(name="down, dX", launch="grouped_gemm_dx"),
            Step("swiglu, backward, d_weights", "grouped_mlp_act_bwd", 2 * wide + 2 * narrow),
            Step("d_weights of slots", "unpermute_fwd", 2 * self.ids),
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
    peak = cube * clock * 2 * 16**3
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
    return next(launch for launch in launches if launch["name"] == "grouped_mlp_up")


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
