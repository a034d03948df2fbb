"""Implementations that are timed side by side, all of one signature.

Each is ``experts_of(problem) -> run(x, w_gate_up, w_down, router) -> y``. Where the problem gives
weights, the router is these, and everyone gets ids and weights. Else it is logits: ours chooses its
experts from them; a peer gets the chosen ids for nothing and computes their weights its own way, a
softmax and a gather, as a Hugging Face router does.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from bench_grouped_mlp import works
from problem import DIFFERENT, OURS, Operator, Problem
from torch import Tensor

import moge_ops
from moge_ops.quant import QuantizedWeight
from moge_ops.reference.grouped_gate import grouped_gate as reference_gate
from moge_ops.reference.grouped_mlp import grouped_mlp as reference_mlp
from moge_ops.reference.route import route as reference_route
from moge_ops.testing import Sizes

Run = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

# batched_mm copies the weights of every slot; past this it measures only the machine's memory
MOST_COPIED = 4 * 2**30


def oracle(p: Problem) -> tuple[dict[str, Tensor], Tensor]:
    """``y`` and the gradients of the leaves in float64, and the random ``d_y`` in their dtype."""
    wide = {name: x.detach().double().requires_grad_() for name, x in p.leaves.items()}
    weights, experts = wide.get("weights"), p.ids
    if weights is None:
        weights, experts, _ = reference_gate(wide["logits"], p.s.G, p.s.k)
    routing = reference_route(experts, p.s.E)
    y = reference_mlp(wide["x"], wide["w_gate_up"], wide["w_down"], weights, *routing)
    d_y = torch.randn_like(p.x)
    grads = torch.autograd.grad(y, list(wide.values()), d_y.double())
    names = (f"d_{name}" for name in wide)
    return {"y": y.detach(), **dict(zip(names, grads, strict=True))}, d_y


def oracle_forward(p: Problem, tokens: Tensor | None = None) -> Tensor:
    """``y`` in float64, of all or of some tokens.

    One expert after the other: all of Pangu's take 10 GiB.
    """
    some = slice(None) if tokens is None else tokens
    x, ids = p.x.detach()[some].double(), p.ids[some]
    if p.weights is None:
        weights = p.logits.detach()[some].double().softmax(-1).gather(-1, ids)
    else:
        weights = p.weights.detach()[some].double()
    y = torch.zeros_like(x)
    E = min(p.s.E, DIFFERENT) if isinstance(p.w_down, QuantizedWeight) else p.s.E
    for e in range(E):
        token, slot = (ids % E == e).nonzero(as_tuple=True)
        one = reference_route(torch.zeros_like(token).unsqueeze(1), 1)
        w = (_expert(w, e) for w in (p.w_gate_up, p.w_down))
        out = reference_mlp(x[token], *w, weights[token, slot, None], *one, dtype=p.dtype)
        y.index_add_(0, token, out)
    return y


def _expert(w: Tensor | QuantizedWeight, e: int) -> Tensor | QuantizedWeight:
    if isinstance(w, QuantizedWeight):
        return w._replace(data=w.data[e : e + 1], scale=w.scale[e : e + 1])
    return w[e : e + 1].detach().double()


def ours(p: Problem) -> Run:
    given = None if p.weights is None else p.ids.int()

    def run(x: Tensor, w_gate_up: Tensor, w_down: Tensor, router: Tensor) -> Tensor:
        if given is None:
            weights, experts, _ = moge_ops.grouped_gate(router, p.s.G, p.s.k)
        else:
            weights, experts = router, given
        routing = moge_ops.route(experts, p.s.E, num_groups=p.s.G)
        return moge_ops.grouped_mlp(x, w_gate_up, w_down, weights, routing)

    return run


def _weights(p: Problem, router: Tensor) -> Tensor:
    if p.weights is not None:
        return router
    return router.softmax(-1, dtype=torch.float32).gather(-1, p.ids).to(router.dtype)


def hugging_face(implementation: str) -> Callable[[Problem], Run]:
    """The experts of Qwen3-MoE under one of transformers' implementations."""

    def experts_of(p: Problem) -> Run:
        from transformers import Qwen3MoeConfig
        from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

        config = Qwen3MoeConfig(
            hidden_size=p.s.H,
            moe_intermediate_size=p.s.F,
            num_experts=p.s.E,
            num_experts_per_tok=p.s.K,
        )
        config._experts_implementation = implementation
        with torch.device("meta"):
            experts: Any = Qwen3MoeExperts(config)  # type: ignore[no-untyped-call]
        experts.gate_up_proj, experts.down_proj = p.w_gate_up, p.w_down

        def run(x: Tensor, w_gate_up: Tensor, w_down: Tensor, router: Tensor) -> Tensor:
            y: Tensor = experts(x, p.ids, _weights(p, router))
            return y

        return run

    return experts_of


def _by_expert(p: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Slots in the order of their experts, their tokens ``[N]``, and each expert's end ``[E]``."""
    ids, order = p.ids.flatten().sort(stable=True)
    experts = torch.arange(p.s.E, device=ids.device)
    # not bincount, which makes the host wait for a GPU
    ends = torch.searchsorted(ids, experts, right=True, out_int32=True)
    return order, order // p.s.K, ends


def torch_grouped_mm(p: Problem) -> Run:
    """``F.grouped_mm`` between a sort and a scatter."""

    def run(x: Tensor, w_gate_up: Tensor, w_down: Tensor, router: Tensor) -> Tensor:
        weights = _weights(p, router)
        order, token, ends = _by_expert(p)
        gate, up = F.grouped_mm(x[token], w_gate_up.mT, offs=ends).chunk(2, dim=-1)
        out = F.grouped_mm(F.silu(gate) * up, w_down.mT, offs=ends)  # [N, H]
        out = out * weights.flatten()[order].unsqueeze(-1)
        return torch.zeros_like(x).index_add(0, token, out)

    return run


def fp8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as e4m3, and the scale of each, float32 ``[N]``."""
    largest = torch.finfo(torch.float8_e4m3fn).max
    most = torch.linalg.vector_norm(x, torch.inf, -1, keepdim=True, dtype=torch.float32)
    scale = most.clamp_min(1e-12) / largest
    return (x / scale).to(torch.float8_e4m3fn), scale.squeeze(-1)


def torch_scaled_grouped_mm(p: Problem) -> Run:
    """``F.scaled_grouped_mm`` between a sort and a scatter, at ``fp8_w8a16`` with a scale a row.

    It multiplies e4m3 by e4m3, so that rows are rounded, too: those of x once a token, before they
    are gathered. It accumulates as its fastest way does.
    """
    row_wise = F.ScalingType.RowWise  # type: ignore[attr-defined]

    def product(rows: Tensor, scale: Tensor, w: QuantizedWeight, ends: Tensor) -> Tensor:
        scales = (scale, row_wise, w.scale.squeeze(-1), row_wise)
        out: Tensor = F.scaled_grouped_mm(  # type: ignore[attr-defined]
            rows, w.data.mT, *scales, offs=ends, output_dtype=p.dtype, use_fast_accum=True
        )
        return out

    def run(x: Tensor, w_gate_up: Any, w_down: Any, router: Tensor) -> Tensor:
        weights = _weights(p, router)
        order, token, ends = _by_expert(p)
        rows, scale = fp8_rows(x)
        # as bytes, which any version gathers
        rows = rows.view(torch.uint8)[token].view(rows.dtype)
        gate, up = product(rows, scale[token], w_gate_up, ends).chunk(2, dim=-1)
        out = product(*fp8_rows(F.silu(gate) * up), w_down, ends)  # [N, H]
        out = out * weights.flatten()[order].unsqueeze(-1)
        return torch.zeros_like(x).index_add(0, token, out)

    return run


def liger(p: Problem) -> Run:
    """Liger-Kernel's fused MoE (Triton)."""
    fused: Any = importlib.import_module("liger_kernel.ops.fused_moe").LigerFusedMoEFunction
    ids = p.ids.int()

    def run(x: Tensor, w_gate_up: Tensor, w_down: Tensor, router: Tensor) -> Tensor:
        y: Tensor = fused.apply(x, w_gate_up, w_down, ids, _weights(p, router))
        return y

    return run


def moe_ops_library(p: Problem) -> Run:
    """The operators of the package moe-ops (Triton), one after the other; SwiGLU by torch."""
    library: Any = importlib.import_module("moe_ops")
    ids = p.ids.int()

    def run(x: Tensor, w_gate_up: Tensor, w_down: Tensor, router: Tensor) -> Tensor:
        rows, places, offsets = library.permute(x, ids, 0, p.s.E)
        gate, up = library.grouped_gemm(rows, w_gate_up, offsets).chunk(2, dim=-1)
        out = library.grouped_gemm(F.silu(gate) * up, w_down, offsets)  # [N, H]
        y: Tensor = library.unpermute(out, places, _weights(p, router), p.s.T, p.s.K)
        return y

    return run


def _scatter_ops() -> ModuleType:
    """ScatterMoE's operators in fms-acceleration-moe, past that package's own dependencies."""
    package = importlib.util.find_spec("fms_acceleration_moe")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'fms_acceleration_moe'")
    folder = f"{package.submodule_search_locations[0]}/utils/scattermoe_utils"
    sys.path.append(folder)
    try:
        return importlib.import_module("khd.kernels.ops")
    finally:
        sys.path.remove(folder)


def scatter_moe(p: Problem) -> Run:
    """ScatterMoE (Triton), gate and up in one product as its own GLU module does."""
    ops: Any = _scatter_ops()

    def run(x: Tensor, w_gate_up: Tensor, w_down: Tensor, router: Tensor) -> Tensor:
        ids, order = p.ids.flatten().sort()
        with torch.no_grad():
            blocks, ends = ops.padded_block_indices(ids, p.s.E)
        rest = (ids, order, blocks, ends)
        rows = ops.scattered_experts(x, w_gate_up.mT, p.s.K, *rest, grouped_out=True)
        gate, up = rows.chunk(2, dim=-1)
        y: Tensor = ops.scattered_experts(
            F.silu(gate) * up, w_down.mT, 1, *rest, gates=_weights(p, router), grouped_in=True
        )
        return y

    return run


def sonic_moe(p: Problem) -> Run:
    """SonicMoE (CuTe DSL, Hopper and newer), on weights with concatenated gate and up halves.

    It has run on no GPU yet.
    """
    functional: Any = importlib.import_module("sonicmoe.functional")
    swiglu = importlib.import_module("sonicmoe.enums").ActivationType.SWIGLU
    ids = p.ids.flatten().int()
    # it takes the slots in any order in which these ascend
    tokens = torch.arange(p.s.T, device=ids.device, dtype=torch.int32).repeat_interleave(p.s.K)

    def run(x: Tensor, w_gate_up: Tensor, w_down: Tensor, router: Tensor) -> Tensor:
        y: Tensor = functional.moe_general_routing_inputs(
            x,
            _weights(p, router).flatten(),
            tokens,
            ids,
            w_gate_up.permute(1, 2, 0),
            None,
            w_down.permute(1, 2, 0),
            None,
            p.s.E,
            0,  # a stream, which it does not read: all of it runs on torch's current one
            swiglu,
            is_inference_mode_enabled=not torch.is_grad_enabled(),  # else it keeps gate and up
            concat_layout=True,
        )[0]
        return y

    return run


HUGGING_FACE = {f"hf {name}": name for name in ("eager", "batched_mm", "grouped_mm")}
VARIANTS: dict[str, Callable[[Problem], Run]] = {
    OURS: ours,
    **{name: hugging_face(implementation) for name, implementation in HUGGING_FACE.items()},
    "torch grouped_mm": torch_grouped_mm,
}
GPU_VARIANTS: dict[str, Callable[[Problem], Run]] = {
    **VARIANTS,
    "liger": liger,
    "moe-ops": moe_ops_library,
    "scattermoe": scatter_moe,
    "sonicmoe": sonic_moe,
}
# of quantised experts: they round activations to fp8, which none of our schemes does
FP8_VARIANTS: dict[str, Callable[[Problem], Run]] = {
    "torch scaled_grouped_mm fp8_w8a8": torch_scaled_grouped_mm,
}


def layer(p: Problem, variant: str, d_y: Tensor) -> Operator:
    """The whole layer of a variant, at the parameters themselves: a peer's module owns them."""
    found = Operator(GPU_VARIANTS[variant](p), p.leaves, *works(p))
    found.leaves, found.d_out = list(p.leaves.values()), d_y
    return found


# variant -> its distribution and the modules that hold its tuned kernels
PACKAGES = {
    "liger": ("liger-kernel", ["liger_kernel.ops.fused_moe_kernels"]),
    "moe-ops": (
        "moe-ops",
        ["moe_ops.grouped_gemm_ops", "moe_ops.grouped_gemm_ops_sm90", "moe_ops.unpermute_ops"],
    ),
    "scattermoe": ("fms-acceleration-moe", ["khd.kernels.kernels"]),
    "sonicmoe": (
        "sonic-moe",
        ["sonicmoe.functional.reduction_over_k_gather", "quack.gemm_interface"],
    ),
}


def tuned_kernels(variant: str) -> Iterator[Any]:
    """A peer's kernels that choose among configurations by timing; its adapter has been made."""
    from triton.runtime.autotuner import Autotuner

    tuners = [Autotuner]
    if "quack.autotuner" in sys.modules:  # SonicMoE's products; a copy of Triton's tuner
        tuners.append(sys.modules["quack.autotuner"].Autotuner)
    for name in PACKAGES[variant][1] if variant in PACKAGES else ():
        yield from (k for k in vars(sys.modules[name]).values() if isinstance(k, tuple(tuners)))


def too_large(variant: str, s: Sizes, dtype: torch.dtype) -> str:
    """Why a variant is left out at these sizes; empty if it is not."""
    copied = s.N * 3 * s.F * s.H * dtype.itemsize
    if variant == "hf batched_mm" and copied > MOST_COPIED:
        return (
            f"not run: copies the weights of all {s.N} slots, {copied / 2**30:.1f} GiB in the "
            f"forward alone (limit {MOST_COPIED / 2**30:g})"
        )
    return ""
