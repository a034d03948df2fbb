"""Compiles every Triton kernel for a GPU that need not be here: `cross_compile.py sm_90 OUT`.

A process of its own, started by test_compile.py: Triton chooses between its interpreter and its
compiler once, when the kernels are imported. What is compiled is what the launchers would launch:
they run on meta tensors, under a driver that only names the target, and each launch stops after
compilation. OUT becomes JSON: one row per binary, and what did not build.
"""

import json
import re
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from moge_ops.triton_kernels import (
    _configs,
    _specialized,
    grouped_gate,
    grouped_gemm,
    grouped_mlp,
    load_balance_loss,
    permute,
    route,
    swiglu,
    unpermute,
)
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from moge_ops.testing import PANGU

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# by a pattern, the most particular first
MATRIX_INSTRUCTIONS = {
    r"wgmma\.mma_async\S*\.s8": "wgmma int8",
    r"wgmma\.mma_async": "wgmma",
    r"tcgen05\.mma\S*kind::i8": "tcgen05 int8",
    r"tcgen05\.mma": "tcgen05",
    r"mma\.sync\S*\.s8": "mma int8",
    r"mma\.sync": "mma",
    r"v_mfma_i32\w*_i8": "mfma int8",
    r"v_mfma": "mfma",
}


# the variant of gemm with producer and consumer warps, which no table chooses yet
SPECIALIZED = _configs.Config(128, 256, 64, num_warps=4, num_stages=4, specialize=1)


class Layer(NamedTuple):
    """Sizes and gate of one layer; ``tokens`` go up to the most rows per expert."""

    H: int
    F: int
    E: int
    G: int
    k: int
    tokens: tuple[int, ...]
    score: str
    has_bias: bool
    has_router_scale: bool
    renormalize: bool


LAYERS = {
    # every tile of the tables
    "pangu": Layer(
        *(PANGU.H, PANGU.F, PANGU.E, PANGU.G, PANGU.k),
        *((16, 256, 4096), "softmax", False, True, False),
    ),
    # the same tiles, more experts: the largest ones, which have the fewest registers to spare
    "intern": Layer(4096, 1536, 512, 8, 1, (8192,), "softmax", False, False, True),
    # no size is a multiple of 16, and of the routing's only G is a power of two
    "odd": Layer(333, 77, 60, 4, 3, (7, 999), "sigmoid", True, True, True),
}
# fp16 has the tiles and the loads of bf16, and fp32 one tile: they need fewer layers, and on the
# chips beside sm_90 one, since a build of everything takes ten minutes of a core
BUILDS = {"bf16": tuple(LAYERS), "fp16": ("pangu",), "fp32": ("pangu", "odd")}
FEWER = {"bf16": ("pangu", "odd"), "fp32": ("odd",)}


# experts of gates alone
GATES = (8, 1024)


class Driver:
    """Names the target: there is no device to ask, and nothing is launched."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return list(TARGETS.values()).index(self.target)  # Triton caches binaries per device

    def get_current_stream(self, device: int) -> int:
        return 0


def launch_all(layer: Layer, T: int, dtype: torch.dtype, variants: list[tuple[str, bool]]) -> None:
    """Calls every launcher as the operators do; the fused layer once per (weight_on, save)."""
    H, F, E, G, k, _, score, has_bias, has_router_scale, renormalize = layer
    K = G * k
    N = T * K

    def new(*sizes: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(sizes, dtype=dtype, device="meta")

    def ids(*sizes: int) -> torch.Tensor:
        return new(*sizes, dtype=torch.int32)

    logits, experts, weights = new(T, E), ids(T, K), new(T, K, dtype=torch.float32)
    bias = new(E) if has_bias else None
    gate = (new(E) if has_router_scale else None, renormalize, 1.5)
    grouped_gate.grouped_gate_fwd(logits, G, k, score, bias, *gate, None)
    grouped_gate.grouped_gate_bwd(weights, logits, experts, G, score, *gate, False)
    _, f = load_balance_loss.load_balance_loss_fwd(logits, experts, score)
    load_balance_loss.load_balance_loss_bwd(new(), logits, f, score)

    x, rows, routing = new(T, H), new(N, H), (ids(N), ids(T, K))
    for num_groups in (None, G):
        route.route_fwd(experts, E, num_groups)
    permute.permute_fwd(x, *routing)
    for row_weights in (None, weights):
        unpermute.unpermute_fwd(rows, *routing, row_weights)
    unpermute.unpermute_bwd(x, rows, *routing, weights)

    pre, w_gate_up, w_down, offsets = new(N, 2 * F), new(E, 2 * F, H), new(E, H, F), ids(E + 1)
    swiglu.swiglu_bwd(swiglu.swiglu_fwd(pre), pre)
    grouped_gemm.grouped_gemm_fwd(rows, w_gate_up, offsets)
    grouped_gemm.grouped_gemm_dx(pre, w_gate_up, offsets)
    grouped_gemm.grouped_gemm_dw(pre, rows, offsets)
    # launched here, since the variant that needs it is for sm_90 alone
    _specialized._row_tiles_kernel[(1,)](
        offsets_ptr=offsets,
        row_tiles_ptr=ids(4),
        N=N,
        E=E,
        BLOCK_M=SPECIALIZED.block_m,
        E_P2=triton.next_power_of_2(E + 1),
    )
    hopper = triton.runtime.driver.active.get_current_target() == TARGETS["sm_90"]
    if hopper and dtype.itemsize == 2 and grouped_gemm.describable(rows):
        with mock.patch.object(grouped_gemm, "find_config", return_value=SPECIALIZED):
            grouped_gemm.grouped_gemm_fwd(rows, w_gate_up, offsets)
            grouped_gemm.grouped_gemm_dx(pre, w_gate_up, offsets)
    tensors = (x, w_gate_up, w_down, weights, *routing, offsets)
    for variant in variants:
        grouped_mlp.grouped_mlp_fwd(*tensors, *variant)
    grouped_mlp.grouped_mlp_bwd(x, *tensors, pre, True, True)


def launch_gate(E: int, T: int, score: str = "softmax", renormalize: bool = False) -> None:
    """The gate and the balance loss forward and backward, E experts in 8 groups."""
    logits = torch.empty(T, E, dtype=torch.bfloat16, device="meta")
    gate = (torch.empty(E, dtype=torch.bfloat16, device="meta"), renormalize, 1.0)
    weights, experts, _ = grouped_gate.grouped_gate_fwd(logits, 8, 1, score, None, *gate, None)
    grouped_gate.grouped_gate_bwd(weights, logits, experts, 8, score, *gate, False)
    if score != "softmax":  # else one of the layers has it
        _, f = load_balance_loss.load_balance_loss_fwd(logits, experts, score)
        load_balance_loss.load_balance_loss_bwd(f.sum(), logits, f, score)


class Quantized(NamedTuple):
    """Products of a quantised layer: all of them forward, or those named."""

    scheme: str
    groups: tuple[int | None, int | None]  # of up and down
    layer: str
    T: int
    parts: tuple[str, ...] = ("forward",)
    thin: int = 0  # F, if not the layer's

    @property
    def name(self) -> str:
        return f"{self.layer}-{self.scheme}"


# few: a scheme's loop differs in some instructions that decode a number
QUANTIZED = {
    "all": (
        Quantized("int8_w8a8", (None, None), "pangu", 4096),
        Quantized("int4_w4a16", (64, 64), "pangu", 4096, ("down",)),
    ),
    "sm_90": (
        Quantized("int4_w4a16", (64, 64), "pangu", 4096, ("forward", "backward")),
        Quantized("int8_w8a8", (None, None), "odd", 7, ("down",)),
        Quantized("int8_w8a8", (None, None), "pangu", 16, thin=64),  # one tile has all of F
        Quantized("fp8_w8a16", (128, 128), "pangu", 4096, ("down",)),
        Quantized("mxfp4_w4a16", (32, 32), "pangu", 16, ("down",)),
    ),
}
# these are as in a layer that is not quantised, whose rows have them
COMMON = {"_unpermute_fwd_kernel", "_grouped_mlp_d_weights_kernel"}


def launch_quantized(case: Quantized) -> None:
    """On bfloat16 rows, with a weight for each row where it can be a factor of a scale."""
    H, F, E, G, k, *_ = LAYERS[case.layer]
    F = case.thin or F
    T, K, scheme = case.T, G * k, case.scheme

    def new(*sizes: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.empty(sizes, dtype=dtype, device="meta")

    def stored(O: int, I: int, group: int | None) -> tuple[torch.Tensor, torch.Tensor, None]:
        dtype, values = {
            "int4_w4a16": (torch.int32, 8),
            "mxfp4_w4a16": (torch.uint8, 2),
            "fp8_w8a16": (torch.float8_e4m3fn, 1),
        }.get(scheme, (torch.int8, 1))
        scale = torch.uint8 if scheme == "mxfp4_w4a16" else torch.float32
        S = O // 64 if scheme == "fp8_w8a16" else O  # blocks of 128 rows, by the half
        groups = triton.cdiv(I, group or I)
        return new(E, O, I // values, dtype=dtype), new(E, S, groups, dtype=scale), None

    ids = [new(*sizes, dtype=torch.int32) for sizes in ((T * K,), (T, K), (E + 1,))]
    w = (*stored(2 * F, H, case.groups[0]), *stored(H, F, case.groups[1]))
    weights = new(T, K, dtype=torch.float32)
    fixed = (scheme, *case.groups)
    if "forward" in case.parts:
        grouped_mlp.grouped_mlp_quantized_fwd(
            new(T, H), *w, weights, *ids, *fixed, "activation", True
        )
    if "down" in case.parts:
        grouped_gemm.grouped_gemm_quantized_fwd(
            new(T * K, F), *w[3:], ids[2], scheme, case.groups[1]
        )
    if "backward" in case.parts:
        grouped_mlp.grouped_mlp_quantized_bwd(
            new(T, H), *w, weights, *ids, new(T * K, 2 * F), *fixed, True
        )


class Variant(NamedTuple):
    """What stands between the products of a layer, where that is not SwiGLU."""

    name: str
    act: tuple[Any, ...]  # the fields of moge_ops.Activation
    terms: int = 0  # of a series
    biases: bool = False


VARIANTS = (
    Variant("gpt-oss", ("silu", True, True, 1.702, 7.0, 1.0), biases=True),
    Variant("geglu", ("gelu", True, False, 1.0, None, 0.0)),
    Variant("relu2", ("relu2", False, False, 1.0, None, 0.0)),
    Variant("series", ("silu", True, False, 1.0, None, 0.0), terms=3),
)
# of each layer: the most rows per expert have the largest tiles, and the fewest registers to spare
VARIANT_TOKENS = {"pangu": 4096, "odd": 999}
# the rest of the layer is as with SwiGLU
OF_VARIANTS = {
    "_grouped_mlp_up_kernel",
    "_grouped_mlp_down_bwd_kernel",
    "_bias_gradient_kernel",
    "_bias_dot_kernel",
    "_d_series_kernel",
}


def launch_variant(variant: Variant, layer: Layer, T: int) -> None:
    """The layer forward, saving what is needed, and backward, in bfloat16."""
    H, F, E, G, k, *_ = layer
    K = G * k
    N, O = T * K, 2 * F if variant.act[1] else F

    def new(*sizes: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.empty(sizes, dtype=dtype, device="meta")

    ids = [new(*sizes, dtype=torch.int32) for sizes in ((N,), (T, K), (E + 1,))]
    x, weights = new(T, H), new(T, K, dtype=torch.float32)
    tensors = (x, new(E, O, H), new(E, H, F), weights, *ids)
    b_gate_up, b_down = (new(E, O), new(E, H)) if variant.biases else (None, None)
    series = new(2, variant.terms, dtype=torch.float32) if variant.terms else None
    extras = (b_gate_up, b_down, series)
    grouped_mlp.grouped_mlp_fwd(*tensors, "output", True, *variant.act, *extras)
    needs = (variant.biases, variant.terms > 0)
    grouped_mlp.grouped_mlp_bwd(
        x, *tensors, new(N, O), True, True, *variant.act, b_down, series, *needs
    )


SHAPE_OPS = {
    "tt.splat",
    "tt.broadcast",
    "tt.expand_dims",
    "tt.reshape",
    "tt.trans",
    "tt.make_range",
}
SUMS = SHAPE_OPS | {"arith.addi", "arith.subi", "arith.muli", "arith.minsi", "arith.maxsi"}
SUMS |= {"arith.select", "arith.extsi", "arith.extui", "arith.trunci"}


def narrow_products(ttir: str) -> list[str]:
    """Products of an index and a size, both known at run time only, made in 32 bits for an address.

    They overflow past 2^31 elements, even if they are converted to 64 bits later. Columns within a
    row do not overflow, nor do tiles times their width, a constant power of two: both stay below a
    size.
    """
    CONSTANT, SIZE, INDEX = range(3)
    kind: dict[str, int] = {}  # value -> what it is; an index unless known better
    narrow: dict[str, set[str]] = {}  # the products that a value is a sum of
    found: set[str] = set()
    # sibling blocks use a name again: the last one in the text is meant
    for line in ttir.splitlines():
        text = line.partition(" loc(")[0].strip()
        name, op, rest = re.match(r'(?:(%[\w-]+)(?::\d+)? = )?"?([\w.]*)"?(.*)', text).groups()
        operands = re.findall(r"%[\w-]+", rest)
        kinds = [kind.get(operand, INDEX) for operand in operands]
        if op == "tt.func":
            kind |= dict.fromkeys(re.findall(r"%[\w-]+", line), SIZE)
        elif op == "scf.for":
            kind |= dict.fromkeys(operands[4:], INDEX)
            kind[operands[0]] = INDEX if max(kinds[1:4]) else CONSTANT
        elif op == "tt.addptr":
            found |= narrow.get(operands[1], set())
        if name is None:
            continue
        kind[name], narrow[name] = INDEX, set()
        if op == "arith.constant":
            value = re.match(r" (?:dense<)?(-?\d+)>? :", rest)
            kind[name] = SIZE if value and abs(int(value[1])).bit_count() > 1 else CONSTANT
        elif op == "tt.get_num_programs":  # a persistent grid has one per multiprocessor
            kind[name] = CONSTANT
        elif op.startswith("arith.") or op in SHAPE_OPS:
            kind[name] = max(kinds, default=CONSTANT)
        if op in SUMS:
            narrow[name].update(*(narrow.get(operand, set()) for operand in operands))
        if op == "arith.muli" and rest.rstrip(">").endswith("i32") and min(kinds) >= SIZE:
            narrow[name] |= {text} if INDEX in kinds else set()
    return sorted(found)


def cuobjdump(kernel: Any, option: str) -> str:
    """What the tool, which comes with Triton, prints about one binary."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, option, file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def figures(kernel: Any) -> dict[str, Any]:
    """Registers, bytes of local memory a thread, and matrix instruction of one binary."""
    if "cubin" in kernel.asm:
        usage = cuobjdump(kernel, "--dump-resource-usage")
        # the stack frame holds what was spilled, and nothing else
        patterns, code = (r"REG:(\d+)", r"STACK:(\d+)"), kernel.asm["ptx"]
    else:
        usage = code = kernel.asm["amdgcn"]
        patterns = (r"\.vgpr_count:\s*(\d+)", r"\.private_segment_fixed_size:\s*(\d+)")
    registers, local = (int(re.search(p, usage)[1]) for p in patterns)
    dot = "tt.dot" in kernel.asm["ttir"]
    matrix = next(
        (name for pattern, name in MATRIX_INSTRUCTIONS.items() if re.search(pattern, code)),
        "fma" if dot else "",
    )
    return {
        "registers": registers,
        "local_bytes": local,
        "shared_bytes": kernel.metadata.shared,
        "matrix": matrix,
    }


class Collector:
    """Compiles in place of each launch, and notes for which use."""

    compile = JITFunction.run

    def __init__(self) -> None:
        self.use = ("", "", 0)  # dtype, layer, T
        self.binaries: dict[int, tuple[Any, dict[str, Any]]] = {}  # kept, so that ids stay unique
        self.failures: dict[str, str] = {}

    def launch(self, fn: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        """The binary; nothing where it does not build."""
        name = fn.__name__
        try:
            binary = Collector.compile(fn, *args, grid=grid, warmup=True, **kwargs)
        except Exception:
            self.failures.setdefault(f"{name}, {self.use}", traceback.format_exc()[-2000:])
            return None
        constants = {p.name for p in fn.params if p.is_constexpr}
        config = {k: int(v) for k, v in kwargs.items() if k in constants and isinstance(v, int)}
        if kwargs.get("FORMAT"):
            config["FORMAT"] = "{0.numbers}/{0.group}".format(kwargs["FORMAT"])
        config |= {key: getattr(binary.metadata, key) for key in ("num_warps", "num_stages")}
        row = {
            "kernel": name,
            "config": " ".join(f"{k}={v}" for k, v in config.items()),
            "uses": [],
        }
        uses = self.binaries.setdefault(id(binary), (binary, row))[1]["uses"]
        if self.use not in uses:
            uses.append(self.use)
        return binary


def launch_replay(E: int, T: int) -> None:
    """The gate forward and backward, whose choice is given."""
    logits = torch.empty(T, E, dtype=torch.bfloat16, device="meta")
    given = torch.empty(T, 8, dtype=torch.int64, device="meta")
    gate = (torch.empty(E, dtype=torch.bfloat16, device="meta"), True, 1.0)
    weights, experts, _ = grouped_gate.grouped_gate_fwd(logits, 8, 1, "softmax", None, *gate, given)
    grouped_gate.grouped_gate_bwd(weights, logits, experts, 8, "softmax", *gate, True)


def main(target: str, out: str) -> None:
    triton.runtime.driver.set_active(Driver(TARGETS[target]))
    collector = Collector()
    JITFunction.run = lambda fn, *args, **kwargs: collector.launch(fn, *args, **kwargs)
    variants = [("output", True), ("output", False), ("activation", True)]
    for dtype, names in (BUILDS if target == "sm_90" else FEWER).items():
        for name in names:
            layer = LAYERS[name]
            every = (target, dtype, name) == ("sm_90", "bf16", "pangu")
            # T chooses the tiles, alike for bf16 and fp16; for fp32 there is one
            for T in layer.tokens if dtype == "bf16" else layer.tokens[-1:]:
                collector.use = (dtype, name, T)
                try:
                    launch_all(layer, T, DTYPES[dtype], variants if every else variants[:1])
                except Exception:
                    collector.failures[f"launcher, {collector.use}"] = traceback.format_exc()
    for E in GATES:
        for T in (1, 131072):
            collector.use = ("bf16", f"gate-{E}", T)
            launch_gate(E, T)
    for E in (64, 512):
        collector.use = ("bf16", f"replay-{E}", 4096)
        launch_replay(E, 4096)
    collector.use = ("bf16", "sqrtsoftplus", 4096)  # the other scores are those of the layers
    launch_gate(64, 4096, "sqrtsoftplus", True)
    JITFunction.run = lambda fn, *args, **kwargs: (
        None if fn.__name__ in COMMON else collector.launch(fn, *args, **kwargs)
    )
    for case in (*QUANTIZED["all"], *QUANTIZED.get(target, ())):
        collector.use = ("bf16", case.name, case.T)
        launch_quantized(case)
    JITFunction.run = lambda fn, *args, **kwargs: (
        collector.launch(fn, *args, **kwargs) if fn.__name__ in OF_VARIANTS else None
    )
    for name, T in VARIANT_TOKENS.items():
        if name == "pangu" and target != "sm_90":
            continue
        for variant in VARIANTS:
            collector.use = ("bf16", f"{name}-{variant.name}", T)
            launch_variant(variant, LAYERS[name], T)
    rows = [
        row | figures(binary) | {"narrow": narrow_products(binary.asm["ttir"])}
        for binary, row in collector.binaries.values()
    ]
    result = {"triton": triton.__version__, "rows": rows, "failures": collector.failures}
    Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
