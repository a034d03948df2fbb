"""Grouped gate in Ascend C."""

import torch
from torch import Tensor

from moge_ops import _C

from ._common import dtype_of, pointer, stream


def _factors(x: Tensor | None) -> Tensor | None:
    """``[E]`` in the kernels' float32."""
    return None if x is None else x.float().contiguous()


def grouped_gate_fwd(
    logits: Tensor,
    num_groups: int,
    k: int,
    score: str,
    bias: Tensor | None,
    router_scale: Tensor | None,
    renormalize: bool,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """``[T, E] -> weights [T, K], experts [T, K] int32, counts [E] int32``."""
    dtype = dtype_of("logits", logits)
    T, E = logits.shape
    K = num_groups * k
    logits, bias, router_scale = logits.contiguous(), _factors(bias), _factors(router_scale)
    weights = logits.new_empty(T, K, dtype=torch.float32)
    experts = logits.new_empty(T, K, dtype=torch.int32)
    counts = logits.new_empty(E, dtype=torch.int32)
    workspace = logits.new_empty(_C.grouped_gate_blocks(T), E, dtype=torch.int32)
    _C.grouped_gate_fwd(
        pointer(logits),
        pointer(bias),
        pointer(router_scale),
        pointer(weights),
        pointer(experts),
        pointer(counts),
        pointer(workspace),
        _C.GateShape(T, E, num_groups, k),
        score == "softmax",
        renormalize,
        scaling,
        dtype,
        stream(logits),
    )
    return weights, experts, counts


def grouped_gate_bwd(
    d_weights: Tensor,
    logits: Tensor,
    experts: Tensor,
    num_groups: int,
    score: str,
    router_scale: Tensor | None,
    renormalize: bool,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """``[T, K], [T, E], [T, K] -> d_logits [T, E], d_router_scale [E]``, or [0] without one."""
    dtype = dtype_of("logits", logits)
    T, E = logits.shape
    d_weights, logits, experts = d_weights.contiguous(), logits.contiguous(), experts.contiguous()
    factors = _factors(router_scale)
    d_logits = torch.empty_like(logits)
    scales = 0 if factors is None else E
    d_factors = logits.new_empty(scales, dtype=torch.float32)
    workspace = logits.new_empty(_C.grouped_gate_blocks(T), scales, dtype=torch.float32)
    _C.grouped_gate_bwd(
        pointer(d_weights),
        pointer(logits),
        pointer(experts),
        pointer(factors),
        pointer(d_logits),
        pointer(d_factors),
        pointer(workspace),
        _C.GateShape(T, E, num_groups, experts.shape[1] // num_groups),
        score == "softmax",
        renormalize,
        scaling,
        dtype,
        stream(logits),
    )
    if router_scale is None:
        return d_logits, logits.new_empty(0)
    return d_logits, d_factors.to(router_scale.dtype)
