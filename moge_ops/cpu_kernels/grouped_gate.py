"""Grouped gate."""

import torch
from torch import Tensor

from moge_ops import _cpu

from ._common import DTYPES, SCORES, adjacent, float32, matrix


def grouped_gate_fwd(
    logits: Tensor,
    num_groups: int,
    k: int,
    score: str,
    bias: Tensor | None,
    router_scale: Tensor | None,
    renormalize: bool,
    scaling: float,
    given: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``[T, E] -> weights [T, K], experts [T, K] int32, counts [E] int32``."""
    logits = adjacent(logits)
    bias = None if bias is None else float32(bias)
    router_scale = None if router_scale is None else float32(router_scale)
    T, E = logits.shape
    weights = logits.new_empty(T, num_groups * k, dtype=torch.float32)
    experts = logits.new_empty(T, num_groups * k, dtype=torch.int32)
    counts = logits.new_empty(E, dtype=torch.int32)
    _cpu.grouped_gate_fwd(
        dtype=DTYPES[logits.dtype],
        logits=matrix(logits),
        bias=0 if bias is None else bias.data_ptr(),
        router_scale=0 if router_scale is None else router_scale.data_ptr(),
        weights=weights.data_ptr(),
        experts=experts.data_ptr(),
        counts=counts.data_ptr(),
        given=0 if given is None else given.data_ptr(),
        wide=given is not None and given.dtype is torch.int64,
        T=T,
        E=E,
        G=num_groups,
        k=k,
        score=SCORES[score],
        renormalize=renormalize,
        scaling=scaling,
        threads=torch.get_num_threads(),
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
    given: bool,
) -> tuple[Tensor, Tensor]:
    """``[T, K], [T, E], [T, K] -> d_logits [T, E], d_router_scale [E]``, or [0] without one."""
    logits, d_weights = adjacent(logits), float32(d_weights)
    scale = None if router_scale is None else float32(router_scale)
    T, E = logits.shape
    d_logits = logits.new_empty(T, E)
    d_router_scale = logits.new_empty(0 if scale is None else E, dtype=torch.float64)
    _cpu.grouped_gate_bwd(
        dtype=DTYPES[logits.dtype],
        logits=matrix(logits),
        d_weights=d_weights.data_ptr(),
        router_scale=0 if scale is None else scale.data_ptr(),
        experts=experts.data_ptr(),
        d_logits=d_logits.data_ptr(),
        d_router_scale=d_router_scale.data_ptr(),
        T=T,
        E=E,
        K=experts.shape[1],
        score=SCORES[score],
        renormalize=renormalize,
        scaling=scaling,
        given=given,
        threads=torch.get_num_threads(),
    )
    dtype = logits.dtype if router_scale is None else router_scale.dtype
    return d_logits, d_router_scale.to(dtype)
