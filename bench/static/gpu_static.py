"""What the main loops of grouped products compile to, ours and the Triton peers': no GPU needed.

Every product of the layers below is cross-compiled for sm_90 and sm_80 as its own launcher would
launch it, on meta tensors; the figures come from the machine code (SASS). They say what a loop
issues, not how fast it runs. Where producer warps load and consumer warps multiply, the figures add
one loop of each. Where a peer has an autotune list, the row shows the entry that our tables would
have chosen: no local memory, then the fewest bytes per FLOP, then the most matrix instructions per
memory instruction. Of entries that differ only in their stages, the deepest that fits is compiled.

It writes results/gpu_static.csv, and results/tile_order.csv: the bytes that a grid reads from
memory in each order of tiles.
"""

import argparse
import csv
import functools
import importlib
import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from cross_compile import SPECIALIZED, TARGETS, Collector, Driver, cuobjdump, figures
from moge_ops.triton_kernels import _configs, _tiles, grouped_gemm, grouped_mlp
from moge_ops.triton_kernels._weight_gradient import weight_gradient
from torch import Tensor
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

from moge_ops.testing import PANGU, Sizes

RESULTS = Path(__file__).resolve().parents[1] / "results"
# per multiprocessor (CUDA programming guide, technical specifications per compute capability); the
# system takes 1 KiB of shared memory more for each block
REGISTERS, THREADS, BLOCKS = 65536, 2048, 32
SHARED = {"sm_80": 164 << 10, "sm_90": 228 << 10}
SYSTEM_SHARED = 1 << 10
PROCESSORS = 132  # an H100 SXM has


# 0.125, 2, 16, 57, 256, 1024 and 4096 rows per expert of Pangu's layer
TOKENS = (1, 16, 128, 456, 2048, 8192, 32768)
LAYERS = {
    "pangu": PANGU._replace(T=TOKENS[-1]),
    "sonic d4096 n1024": Sizes(32768, H=4096, E=128, G=1, k=8, F=1024),  # SonicMoE, figure 14
    "sonic d1536 n256": Sizes(24576, H=1536, E=128, G=1, k=8, F=256),
}


class Product(NamedTuple):
    """One grouped product: what it is called here, its kernel, and a call that launches it."""

    name: str
    kernel: str
    call: Callable[[], object]


def new(*sizes: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(sizes, dtype=dtype, device="meta")


def ids(*sizes: int) -> Tensor:
    return new(*sizes, dtype=torch.int32)


def ours(s: Sizes, T: int, target: str) -> list[Product]:
    N = T * s.K
    x, pre, act = new(T, s.H), new(N, 2 * s.F), new(N, s.F)
    w_gate_up, w_down = new(s.E, 2 * s.F, s.H), new(s.E, s.H, s.F)
    weights, slots, offsets = new(T, s.K, dtype=torch.float32), ids(N), ids(s.E + 1)
    layer = (x, w_gate_up, w_down, weights, slots, ids(T, s.K), offsets)
    mlp, up, down_bwd = grouped_mlp, "_grouped_mlp_up_kernel", "_grouped_mlp_down_bwd_kernel"
    gemm, product, dw = grouped_gemm, "_grouped_gemm_kernel", "_grouped_gemm_dw_kernel"
    gathered = functools.partial(weight_gradient, row_to_slot=slots, K=s.K)
    return [
        Product("up", up, lambda: mlp.grouped_mlp_fwd(*layer, "output", True)),
        Product("down", product, lambda: gemm.grouped_gemm_fwd(act, w_down, offsets)),
        Product("down_bwd", down_bwd, lambda: mlp.grouped_mlp_bwd(x, *layer, pre, False, False)),
        Product("dX", product, lambda: gemm.grouped_gemm_dx(pre, w_gate_up, offsets)),
        Product("dW_up", dw, lambda: gathered(pre, x, offsets, gather_rows=True)),
        Product("dW_down", dw, lambda: gathered(x, act, offsets, gather_d=True)),
        Product("dW", dw, lambda: gemm.grouped_gemm_dw(pre, new(N, s.H), offsets)),
    ]


def specialized(s: Sizes, T: int, target: str) -> list[Product]:
    """Our variant with producer and consumer warps, which no table chooses yet."""
    if target != "sm_90":
        return []

    def run(call: Callable[[], object]) -> object:
        with mock.patch.object(grouped_gemm, "find_config", return_value=SPECIALIZED):
            return call()

    return [
        product._replace(
            kernel="_grouped_gemm_specialized_kernel", call=functools.partial(run, product.call)
        )
        for product in ours(s, T, target)
        if product.name in ("down", "dX")
    ]


def liger(s: Sizes, T: int, target: str) -> list[Product]:
    from liger_kernel.ops import fused_moe

    N = T * s.K
    # in place of its own, which reads the number of tiles back from the device
    metadata = (ids(s.E), ids(s.E + 1), ids(N), ids(N), ids(N), ids(N), ids(N))
    leaves = [
        leaf.requires_grad_()
        for leaf in (new(T, s.H), new(s.E, 2 * s.F, s.H), new(s.E, s.H, s.F), new(T, s.K))
    ]

    def run() -> None:
        with mock.patch.object(fused_moe, "compute_routing_metadata", return_value=metadata):
            y = fused_moe.LigerFusedMoEFunction.apply(*leaves[:3], ids(T, s.K), leaves[3])
            y.backward(new(T, s.H))

    kernels = {
        "up": "_fused_up_proj_swiglu_kernel",
        "down": "_fused_down_proj_kernel",
        "down_bwd": "_moe_bwd_down_proj_kernel",
        "dX": "_moe_bwd_dX_expanded_kernel",
        "dW_up": "_moe_bwd_dW1_kernel",
        "dW_down": "_moe_bwd_dW2_kernel",
    }
    return [Product(name, kernel, run) for name, kernel in kernels.items()]


def moe_ops(s: Sizes, T: int, target: str) -> list[Product]:
    """Other kernels of it permute the rows and apply SwiGLU."""
    from moe_ops import grouped_gemm_ops as portable
    from moe_ops import grouped_gemm_ops_sm90 as hopper

    def product(a: Tensor, b: Tensor, trans_b: bool) -> None:
        if target == "sm_80":
            portable.gmm_try_fn._init_fn(a, b, offsets, trans_b)
            return
        with (
            mock.patch.object(hopper, "supports_tma", return_value=True),
            mock.patch.object(hopper, "num_sms", return_value=PROCESSORS),
        ):
            hopper.group_gemm_tma_fn(a, b, offsets, trans_b)

    N, offsets = T * s.K, ids(s.E + 1)
    rows, pre, act = new(N, s.H), new(N, 2 * s.F), new(N, s.F)
    w_gate_up, w_down = new(s.E, 2 * s.F, s.H), new(s.E, s.H, s.F)
    kernel = "gmm_forward_kernel" if target == "sm_80" else "grouped_matmul_tma_kernel"
    dw, dw_kernel = portable.gmm_try_gradB._init_fn, "gmm_gradB_kernel"
    return [
        Product("up", kernel, lambda: product(rows, w_gate_up, True)),
        Product("down", kernel, lambda: product(act, w_down, True)),
        Product("down_bwd", kernel, lambda: product(rows, w_down, False)),
        Product("dX", kernel, lambda: product(pre, w_gate_up, False)),
        Product("dW_up", dw_kernel, lambda: dw(rows, w_gate_up, offsets, pre)),
        Product("dW_down", dw_kernel, lambda: dw(act, w_down, offsets, rows)),
    ]


def scattermoe(s: Sizes, T: int, target: str) -> list[Product]:
    """Its gate and up projections are two products, and its SwiGLU is torch's."""
    # the package itself asks for training frameworks: only the folder with the kernels is loaded
    spec = importlib.util.find_spec("fms_acceleration_moe")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("No module named 'fms_acceleration_moe'")
    folder = Path(spec.submodule_search_locations[0], "utils", "scattermoe_utils")
    with mock.patch.object(sys, "path", [str(folder), *sys.path]):
        kernels = importlib.import_module("khd.kernels.ops.compileable_ops")

    N = T * s.K
    order, offsets = (ids(N), ids(N), ids(N // 128 + s.E)), ids(s.E)
    rows, act = new(N, s.H), new(N, s.F)
    w_up, w_down = new(s.E, s.F, s.H).mT, new(s.E, s.H, s.F).mT  # [E, in, out] views
    product, dw = kernels.scatter2scatter, kernels.group_bwd_W

    def d_weight(w: Tensor) -> Tensor:
        return torch.empty_like(w.mT).mT

    kernel, dw_kernel = "scatter2scatter_triton_kernel", "groupXtY_triton_kernel"
    return [
        Product("up", kernel, lambda: product(new(T, s.H), w_up, *order, act, s.K, y_grouped=True)),
        Product("down", kernel, lambda: product(act, w_down, *order, rows, 1, x_grouped=True)),
        Product("down_bwd", kernel, lambda: product(rows, w_down.mT, *order, act, 1, True, True)),
        Product("dX", kernel, lambda: product(act, w_up.mT, *order, rows, 1, True)),
        Product("dW_up", dw_kernel, lambda: dw(act, rows, offsets, d_weight(w_up), s.E)),
        Product("dW_down", dw_kernel, lambda: dw(rows, act, offsets, d_weight(w_down), s.E)),
    ]


OURS = "moge_ops"
OURS_SPECIALIZED = "moge_ops, specialized"
# PyPI names, which requirements/peers.txt pins
PEERS = {"liger-kernel": liger, "moe-ops": moe_ops, "fms-acceleration-moe": scattermoe}
PRODUCTS = ("up", "down", "down_bwd", "dX", "dW_up", "dW_down", "dW")

MATRIX = re.compile(r"H(?:G?)MMA\.(?:64x(\d+)x(\d+)|16816)")
# a warp issues one for itself; by TMA one thread issues one for a whole box
MEMORY = re.compile(r"(?:LDGSTS|LDG|LDSM|LDS|STSM|STS|STG|LDL|STL|LD|ST|UTMALDG|UTMASTG)\b")
COPY = re.compile(r"LDGSTS|UTMALDG")  # from global to shared memory
LOAD = re.compile(r"LDGSTS|UTMALDG|LDG\b")  # from global memory
INTEGER = re.compile(
    r"U?(?:IADD\w*|IMAD|LEA|LOP3|SHF|SHL|SHR|ISETP|IMNMX|IABS|PRMT|SEL|VIADD\w*|VIMNMX|BMSK|SGXT)\b"
)


def instructions(sass: str) -> list[tuple[int, str]]:
    """Address and text, without the predicate, of every instruction that can be executed."""
    pattern = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+) )?(.*?)\s*;", re.MULTILINE)
    return [(int(at, 16), text) for at, guard, text in pattern.findall(sass) if guard != "!PT"]


def loops(code: list[tuple[int, str]]) -> list[list[str]]:
    """Bodies of all loops, the shortest first."""
    bodies = []
    for address, text in code:
        branch = re.match(r"BRA\b.*?(0x[0-9a-f]+)\)?$", text)
        if branch and (first := int(branch[1], 16)) < address:
            bodies.append([text for at, text in code if first <= at <= address])
    return sorted(bodies, key=len)


def main_loop(code: list[tuple[int, str]], specialized: bool) -> list[str]:
    """The shortest loop that loads and multiplies; the whole code of one that was unrolled."""
    if specialized:
        multiply, load = (
            next(body for body in loops(code) if any(map(pattern.match, body)))
            for pattern in (MATRIX, LOAD)
        )
        return multiply + load
    for body in loops(code):
        if any(map(MATRIX.match, body)) and any(map(LOAD.match, body)):
            return body
    products = [i for i, (_, text) in enumerate(code) if MATRIX.match(text)]
    first = next(i for i, (_, text) in enumerate(code) if COPY.match(text) or MATRIX.match(text))
    return [text for _, text in code[first : products[-1] + 1]]


def tile(ttir: str) -> tuple[str, int, int]:
    """Tile of the loop with the products as MxNxK, and the FLOPs and bytes of one step."""
    stack: list[tuple[int, int]] = []  # indentation and number of the loops around
    dots: dict[int, list[re.Match[str]]] = {}
    pattern = re.compile(
        r"tt\.dot (%\w+), (%\w+),.*: tensor<(\d+)x(\d+)x(\w+)> \* tensor<\d+x(\d+)x\w+>"
    )
    for number, line in enumerate(ttir.splitlines()):
        indent = len(line) - len(line.lstrip())
        while stack and indent <= stack[-1][0]:
            stack.pop()
        if "scf.for" in line:
            stack.append((indent, number))
        elif (dot := pattern.search(line)) and stack:
            dots.setdefault(stack[-1][1], []).append(dot)
    step = max(dots.values(), key=len)
    shapes = [(int(M), int(N), int(K)) for _, _, M, K, _, N in (dot.groups() for dot in step)]
    operands = {dot[1]: M * K for dot, (M, N, K) in zip(step, shapes, strict=True)}
    operands |= {dot[2]: N * K for dot, (M, N, K) in zip(step, shapes, strict=True)}
    text = " + ".join(f"{M}x{N}x{K}" for M, N, K in shapes)
    return text, sum(2 * M * N * K for M, N, K in shapes), 2 * sum(operands.values())


def loop_figures(binary: Any) -> dict[str, Any]:
    """Counts of one iteration of the main loop, and ratios."""
    specialized = "ttg.warp_specialize" in binary.asm["ttgir"]
    body = main_loop(instructions(cuobjdump(binary, "-sass")), specialized)
    matrix = [m for text in body if (m := MATRIX.match(text))]
    wide = matrix[0][1] is not None  # four warps share one instruction
    shape = f"64x{matrix[0][1]}x{matrix[0][2]}" if wide else "16x8x16"
    M, N, K = map(int, shape.split("x"))
    warps = binary.metadata.num_warps
    if specialized:
        warps -= 4  # those that load
    flops = len(matrix) * 2 * M * N * K * warps // (4 if wide else 1)  # all warps
    memory = [text.split()[0] for text in body if MEMORY.match(text)]
    # by all warps: each issues its own, but a box by TMA is issued by one thread
    issued = sum(1 if op.startswith("UTMA") else warps for op in memory)
    loads = Counter(
        re.sub(r"^(\w+)(?:\..*?)?(\.(?:\d+|U\d+|M88)\b.*)?$", r"\1\2", op) for op in memory
    )
    integer = sum(map(bool, map(INTEGER.match, body)))
    name, step_flops, step_bytes = tile(binary.asm["ttir"])
    return {
        "tile": name,
        "matrix": f"{'wgmma' if wide else 'mma'} {shape}",
        "instructions": len(body),
        "matrix_count": len(matrix),
        "memory_count": len(memory),
        "integer_count": integer,
        "memory": " ".join(f"{count}x{op}" for op, count in sorted(loads.items())),
        "local_in_loop": sum(op.startswith(("LDL", "STL")) for op in memory),
        "matrix_per_memory": round(len(matrix) / max(1, len(memory)), 3),
        "matrix_per_integer": round(len(matrix) / max(1, integer), 3),
        "kflops_per_memory": round(flops / max(1, issued) / 1000),
        "bytes_per_kflop": round(1000 * step_bytes / step_flops, 2),
    }


def resident(binary: Any, usage: dict[str, Any], target: str) -> int:
    """Blocks that fit on one multiprocessor."""
    threads = int(re.search(r"\.reqntid (\d+)", binary.asm["ptx"])[1])
    return min(
        REGISTERS // (-(-usage["registers"] // 8) * 8 * threads),
        SHARED[target] // (usage["shared_bytes"] + SYSTEM_SHARED),
        THREADS // threads,
        BLOCKS,
    )


def best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return min(
        rows, key=lambda r: (r["local_bytes"], r["bytes_per_kflop"], -r["matrix_per_memory"])
    )


def measure(collector: Collector, product: Product, use: tuple[str, str, int], target: str) -> Any:
    """The product's row: its only entry, or the best of its list."""
    collector.use = use
    collector.failures.clear()

    def launch(fn: JITFunction, *args: Any, **kwargs: Any) -> Any:
        return collector.launch(fn, *args, **kwargs) if fn.__name__ == product.kernel else None

    with mock.patch.object(JITFunction, "run", launch):
        product.call()
    rows = []
    built = [
        binary
        for binary, row in collector.binaries.values()
        if row["kernel"] == product.kernel and use in row["uses"]
    ]
    for binary in built:
        usage = figures(binary)
        if fits := resident(binary, usage, target):
            config = {"warps": binary.metadata.num_warps, "stages": binary.metadata.num_stages}
            rows.append(config | usage | {"blocks_per_sm": fits} | loop_figures(binary))
    if not rows:
        raise RuntimeError(next(iter(collector.failures.values()), "too much shared memory"))
    return best(rows) | {"chosen": "its only one" if len(built) == 1 else f"best of {len(rows)}"}


def rows_for(target: str, layers: list[str], names: list[str]) -> list[dict[str, Any]]:
    """All rows of one GPU."""
    triton.runtime.driver.set_active(Driver(TARGETS[target]))
    collector = Collector()

    def run_all(self: Autotuner, *args: Any, **kwargs: Any) -> None:
        fitted = set()
        for config in sorted(self.configs, key=lambda config: -config.num_stages):
            same = (config.num_warps, *config.kwargs.values())
            if same not in fitted:
                binary = self.fn.run(*args, **kwargs, **config.all_kwargs())
                if binary and binary.metadata.shared + SYSTEM_SHARED <= SHARED[target]:
                    fitted.add(same)

    Autotuner.run = run_all
    out = []
    for layer in layers:
        s = LAYERS[layer]
        for library, products in ({OURS: ours, OURS_SPECIALIZED: specialized} | PEERS).items():
            if library not in names:
                continue
            # only the tiles of our tables depend on the number of tokens
            for T in TOKENS if library == OURS and layer == "pangu" else (s.T,):
                place = {"triton": triton.__version__, "target": target, "layer": layer}
                place |= {"T": T if library == OURS else "any", "library": library}
                try:
                    todo = products(s, T, target)
                except ImportError as error:
                    out += [place | {"product": p, "note": str(error)} for p in PRODUCTS]
                    continue
                for product in todo:
                    row = place | {"product": product.name, "kernel": product.kernel}
                    try:
                        use = (library + product.name, layer, T)
                        out.append(row | measure(collector, product, use, target))
                    except Exception as error:  # a peer's, noted in the table
                        lines = str(error).strip().splitlines()
                        out.append(row | {"note": lines[-1] if lines else type(error).__name__})
    return out


COLUMNS = [
    *("triton", "target", "layer", "product", "T", "library", "kernel", "chosen"),
    *("tile", "warps", "stages", "matrix", "registers", "local_bytes", "shared_bytes"),
    *("blocks_per_sm", "instructions", "matrix_count", "memory_count", "integer_count"),
    *("memory", "local_in_loop", "matrix_per_memory", "matrix_per_integer"),
    *("kflops_per_memory", "bytes_per_kflop", "note"),
]


def tile_order(tiles_m: int, tiles_c: int, swizzle: int) -> list[tuple[int, int]]:
    """Row and column of each tile of an expert, in order: see triton_kernels/_tiles.py."""
    swizzles = [range(m, min(m + swizzle, tiles_m)) for m in range(0, tiles_m, swizzle)]
    return [(m, c) for rows in swizzles for c in range(tiles_c) for m in rows]


def order_rows() -> Iterator[dict[str, Any]]:
    """Bytes that a grid reads from memory in each order of tiles, every expert with equal rows.

    The programs that run at one time (a wave) walk the summed dimension together, so that they read
    each tile of rows or weights once for all of them; the next wave finds none of it in L2.
    """
    triton.runtime.driver.set_active(Driver(TARGETS["sm_90"]))
    s = LAYERS["pangu"]
    for T in (2048, 8192, 32768):
        rows = T * s.K // s.E
        for product, kernel, C, R, halves in (
            ("up", "up", s.F, s.H, 2),
            ("down", "gemm", s.H, s.F, 1),
            ("down_bwd", "down_bwd", s.F, s.H, 1),
            ("dX", "gemm", s.H, 2 * s.F, 1),
        ):
            tile = _configs.find_config(kernel, torch.bfloat16, T * s.K, s.E, C, aligned=True)
            tiles_m, tiles_c = -(-rows // tile.block_m), -(-C // tile.block_c)
            swizzles = {"rows first": tiles_m, "columns first": 1, "ours": _tiles.SWIZZLE.value}
            for name, swizzle in swizzles.items():
                order = tile_order(tiles_m, tiles_c, swizzle)
                tiles = [(e, m, c) for e in range(s.E) for m, c in order]
                read = {"rows": 0, "weights": 0}
                for first in range(0, len(tiles), PROCESSORS):
                    now = tiles[first : first + PROCESSORS]
                    read["rows"] += len({(e, m) for e, m, _ in now}) * tile.block_m
                    read["weights"] += len({(e, c) for e, _, c in now}) * tile.block_c * halves
                gb = {key: round(count * R * 2 / 1e9, 2) for key, count in read.items()}
                floor = s.E * (rows + C * halves) * R * 2 / 1e9
                yield {
                    **{"T": T, "product": product, "order": name},
                    **{f"{key}_gb": value for key, value in gb.items()},
                    **{"total_gb": round(sum(gb.values()), 2), "floor_gb": round(floor, 2)},
                }


def write(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    names = [OURS, OURS_SPECIALIZED, *PEERS]
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the tables")
    parser.add_argument("--targets", nargs="+", default=sorted(SHARED), choices=sorted(SHARED))
    parser.add_argument("--layers", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument("--libraries", nargs="+", default=names, choices=names)
    args = parser.parse_args()
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        jobs = [pool.submit(rows_for, t, args.layers, args.libraries) for t in args.targets]
        rows = [row for job in jobs for row in job.result()]
    rank = {name: i for i, name in enumerate([*LAYERS, *PRODUCTS, *names])}
    rows.sort(key=lambda r: (r["target"], rank[r["layer"]], rank[r["product"]]))
    write(args.out / "gpu_static.csv", COLUMNS, rows)
    orders = list(order_rows())
    write(args.out / "tile_order.csv", list(orders[0]), orders)


if __name__ == "__main__":
    main()
