"""Grouped gate in Ascend C."""

from collections.abc import Callable

import torch
from torch import Tensor

from moge_ops import _C

from ._common import dtype_of, pointer, stream
from .route import route_fwd

SCORES = {
    "softmax": _C.GateScore.softmax,
    "sigmoid": _C.GateScore.sigmoid,
    "sqrtsoftplus": _C.GateScore.sqrtsoftplus,
}


def _float32(x: Tensor | None) -> Tensor | None:
    """``[E]`` in the kernels' float32."""
    return None if x is None else x.float().contiguous()


def _ids(given: Tensor | None, num_experts: int) -> Tensor | None:
    """``[T, K]`` int32, contiguous."""
    if given is None:
        return None
    if given.dtype is torch.int64:  # an id that int32 cannot hold is no expert's
        given = given.clamp(-1, num_experts).int()
    return given.contiguous()


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
    T, E = logits.shape
    workspace = logits.new_empty(_C.token_cores(T=T), E, dtype=torch.int32)
    options = (num_groups, k, score, bias, router_scale, renormalize, scaling, given)
    return _launch(_C.grouped_gate_fwd, workspace, {}, logits, *options)


def grouped_gate_and_route_fwd(
    logits: Tensor,
    num_groups: int,
    k: int,
    score: str,
    bias: Tensor | None,
    router_scale: Tensor | None,
    renormalize: bool,
    scaling: float,
    given: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``[T, E] -> weights [T, K], experts [T, K], counts [E]``, and the route of these experts.

    That is ``row_to_slot [T * K], slot_to_row [T, K], offsets [E + 1]``.
    """
    T, E = logits.shape
    K = num_groups * k
    options = (num_groups, k, score, bias, router_scale, renormalize, scaling, given)
    if not T:  # there is nothing to route, and so no launch of it
        weights, experts, counts = grouped_gate_fwd(logits, *options)
        return weights, experts, counts, *route_fwd(experts, E, num_groups)

    def new(*sizes: int) -> Tensor:
        return logits.new_empty(sizes, dtype=torch.int32)

    G = num_groups if given is None else 1
    rows = {"row_to_slot": new(T * K), "slot_to_row": new(T, K), "offsets": new(E + 1)}
    workspace = new(_C.gate_and_route_workspace(T=T, K=K, E=E, G=G))
    gating = _launch(_C.grouped_gate_and_route_fwd, workspace, rows, logits, *options)
    return *gating, rows["row_to_slot"], rows["slot_to_row"], rows["offsets"]


def _launch(
    launch: Callable[..., None],
    workspace: Tensor,
    rows: dict[str, Tensor],
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
    """``launch``, which also fills ``rows``; ``[T, E] -> [T, K], [T, K] int32, [E] int32``."""
    dtype = dtype_of("logits", logits)
    T, E = logits.shape
    K = num_groups * k
    logits, bias, router_scale = logits.contiguous(), _float32(bias), _float32(router_scale)
    given = _ids(given, E)
    weights = logits.new_empty(T, K, dtype=torch.float32)
    experts = logits.new_empty(T, K, dtype=torch.int32)
    counts = logits.new_empty(E, dtype=torch.int32)
    tiling = _C.GroupedGateTiling(
        T=T,
        E=E,
        G=num_groups,
        k=k,
        score=SCORES[score],
        renormalize=renormalize,
        scaling=scaling,
        given=given is not None,
    )
    launch(
        logits=pointer(logits),
        bias=pointer(bias),
        router_scale=pointer(router_scale),
        given=pointer(given),
        weights=pointer(weights),
        experts=pointer(experts),
        counts=pointer(counts),
        **{name: pointer(x) for name, x in rows.items()},
        workspace=pointer(workspace),
        tiling=tiling,
        dtype=dtype,
        stream=stream(logits),
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
    dtype = dtype_of("logits", logits)
    T, E = logits.shape
    d_weights, logits = d_weights.contiguous(), logits.contiguous()
    scale = _float32(router_scale)
    d_logits = torch.empty_like(logits)
    scales = 0 if scale is None else E
    d_scale = logits.new_empty(scales, dtype=torch.float32)
    workspace = logits.new_empty(_C.token_cores(T=T), scales, dtype=torch.float32)
    tiling = _C.GroupedGateTiling(
        T=T,
        E=E,
        G=num_groups,
        k=experts.shape[1] // num_groups,
        score=SCORES[score],
        renormalize=renormalize,
        scaling=scaling,
        given=given,
    )
    _C.grouped_gate_bwd(
        d_weights=pointer(d_weights),
        logits=pointer(logits),
        experts=pointer(experts),
        router_scale=pointer(scale),
        d_logits=pointer(d_logits),
        d_router_scale=pointer(d_scale),
        workspace=pointer(workspace),
        tiling=tiling,
        dtype=dtype,
        stream=stream(logits),
    )
    if router_scale is None:
        return d_logits, logits.new_empty(0)
    return d_logits, d_scale.to(router_scale.dtype)
