"""Published times of Ascend kernels, and what the model of time makes of the same work.

The kernels of published.cpp and published_int8.cpp are written from what the authors say of theirs.
"""

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pybind11
import torch

from moge_ops import _C
from moge_ops.ascend import grouped_gemm, swiglu

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

Row = dict[str, Any]
Launch = dict[str, Any]


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
    yield from published_banks()
    yield from published_matmuls()
    yield from published_libraries()
    yield from published_int8()


def published_copies() -> Iterator[Published]:
    def copy(case: str, value: float, kind: str, **shape: Any) -> Published:
        return Published(case, value, kind, lambda p: micros(p.copy(**shape)))

    big = {"M": 12288, "N": 12288}
    predicted = "predicted"
    to_ub = (
        (1, 64, 564.84, "calibrates CopyHead, Launch"),
        (64, 64, 233.54, predicted),
        (64, 1024, 215.82, predicted),
    )
    to_l1 = ((64, 64, 300.7, "calibrates NdToNzHead"), (64, 256, 230.24, predicted))
    ub = (275.3, 828.06, 365.74, 539.42, 328.88)
    l1 = (438.76, 899.34, 414.96, 278.56, 221.34)
    for path, tiles, n, values, tile_m in (
        ("GM to UB", to_ub, 1024, ub, 128),
        ("GM to L1", to_l1, 256, l1, 256),
    ):
        into_l1 = path == "GM to L1"
        uneven, four, slices, same, apart = values
        for m, c, value, kind in tiles:
            shape = {"to_l1": into_l1, "tile_m": m, "tile_n": c, **big}
            yield copy(f"{path}, tiles of {m} x {c}", value, kind, **shape)
        shape = {"to_l1": into_l1, "tile_m": 64, "tile_n": n, "M": 12288, "N": 12287}
        kind = "calibrates the rule of cut lines"
        yield copy(f"{path}, unaligned rows", uneven, kind, **shape)
        shape = {"to_l1": into_l1, "tile_m": 64, "tile_n": 1024, "repeats": 4, **big}
        kind = predicted if into_l1 else "calibrates UnderWay"
        yield copy(f"{path}, four times", four, kind, **shape)
        case = f"{path}, four times, a slice at a time"
        yield copy(
            case, slices, predicted if into_l1 else "calibrates VectorPort", slices=4, **shape
        )
        shape = {"to_l1": into_l1, "M": 6144, "N": 512, "tile_m": tile_m, "tile_n": 64, "all": True}
        case = f"{path}, all cores the same"
        yield copy(case, same, predicted if into_l1 else "calibrates SameLine", **shape)
        kind = "calibrates the rule of parts of lines"  # both of them showed it
        yield copy(f"{case}, staggered", apart, kind, rotated=True, **shape)


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
        ("4: double buffer", 264.02, "predicted", (48, 16384, 2, False)),
        ("5: past L2", 187.68, "predicted", (48, 16384, 2, True)),
        ("6: banks apart", 184.52, "predicted", (48, 16256, 2, True)),
    ):
        model = lambda p, shape=shape: micros(p.add(*shape))  # noqa: E731
        yield Published(f"Add, case {name}", value, kind, model)
    for case, length, value, kind in (
        ("5", 16384, 12.846, "predicted"),
        ("6", 16256, 6.954, "calibrates VectorHead"),
    ):
        issued = 8192**2 / 48 / length  # instructions of a core

        def vectors(p: ModuleType, length: int = length, issued: float = issued) -> float:
            return busy(p.add(48, length, 2, True), "V") * 1850 / issued

        yield Published(
            f"Add, case {case}: vec time, an instruction",
            value * 1850 / issued,
            kind,
            vectors,
            unit="cycles",
        )


def published_banks() -> Iterator[Published]:
    """Adds of 4096 floats at addresses that share banks of UB or do not: bank_conflict_ub."""
    times = 1000
    for number, name, ticks, shape in (
        (1, "all apart", 2390, (0, 0x10100, 0x20000, 1, 8)),
        (2, "sources in a bank", 4167, (0, 0x4000, 0x10000, 1, 8)),
        (3, "sources in a group", 4167, (0, 0x10000, 0x14100, 1, 8)),
        (4, "result in a source's bank", 2389, (0, 0x10100, 0x4000, 1, 8)),
        (5, "the same, a block on", 3751, (0, 0x10100, 0x4020, 1, 8)),
        (6, "result over a source", 2390, (0, 0x10100, 0x10100, 1, 8)),
        (7, "one block, a block on each time", 3584, (0, 0x10100, 0x10100, 0, 1)),
        (8, "one block, eight on each time", 2389, (0, 0x10100, 0x10100, 0, 8)),
    ):

        def model(p: ModuleType, shape: tuple[int, ...] = shape) -> float:
            launch = p.add_banks(*shape, times)
            return float(launch["times"]["cores"][0]["busy"]["V"]) / times

        # the clock that they read has 50 MHz
        cycles = ticks / 50e6 * 1.85e9 / times
        yield Published(f"banks {number}: {name}", cycles, "predicted", model, unit="cycles")


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
        ("MTE2", "mte2", 3552.248, "calibrates Piece"),
        ("FIX", "fixpipe, of case 7", 45.76, "calibrates FixpipePort"),
        ("S", "scalar", 337.343, "calibrates Issue"),
    ):
        model = lambda p, pipe=pipe: busy(matmul(p, 1, 8, 4), pipe)  # noqa: E731
        yield Published(f"matmul 8192, {name} time", value, kind, model)
    yield Published("matmul 8192, two rounds", 4081.64, "predicted", whole(2, 8, 4))
    cause = "their MTE2 takes less for rows of 256 bytes, and hides more of the latency"
    case = "matmul 8192, high-level case 4"
    yield Published(case, 5039.86, "predicted", whole(1, 2, 4), cause)


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


def published_int8() -> Iterator[Published]:
    """Grouped products with GELU, of the guide, on 8 cube cores; quantised ones of CATLASS."""
    grouped: dict[str, Any] = {"cores": 8, "experts": 8, "M": 128, "N": 8192, "K": 1024}
    grouped |= {"early": True, "gelu": True, "blocked": True}

    def product(
        case: str, value: float, kind: str = "predicted", cause: str = "", **shape: Any
    ) -> Published:
        model = lambda p: micros(p.int8_product(**shape))  # noqa: E731
        return Published(case, value, kind, model, cause)

    for step, value, vectors, slots, buffers in (
        ("one vector core", 218.1, 1, 2, 1),
        ("two vector cores", 154.2, 2, 2, 1),
        ("four slots", 131.8, 2, 4, 1),
        ("double buffer", 128.1, 2, 4, 2),
    ):
        shape = grouped | {"vectors": vectors, "slots": slots, "buffers": buffers}
        yield product(f"int8 grouped product, {step}", value, **shape)
    cause = (
        "theirs takes a quarter longer here than for as many tiles of other shapes; why is not said"
    )
    for M, N, K, value, kept in (
        (512, 8192, 1024, 52.36, 44.05),
        (512, 4096, 1024, 33.26, 31.73),
        (1024, 4096, 1024, 42.66, 41.96),
        (128, 16384, 1024, 38.68, 37.05),
        (128, 16384, 2048, 53.77, 52.75),
    ):
        shape = {"cores": 24, "experts": 1, "M": M, "N": N, "K": K}
        case = f"CATLASS int8 [{M}, {K}] x [{K}, {N}]"
        # what their two products of most columns showed is used for the others
        rule = "calibrates the rule of lines under way" if (M, K) == (128, 2048) else "predicted"
        yield product(case, value, rule, cause, **shape)
        chunk = 512 if K == 1024 else 256
        yield product(f"{case}, A in L1", kept, rule, cause, keep_a=True, chunk=chunk, **shape)


def build() -> ModuleType:
    """The kernels of published.cpp and published_int8.cpp as a module."""
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
