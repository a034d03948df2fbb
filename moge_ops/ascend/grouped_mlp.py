"""The expert layer in Ascend C, part by part; SwiGLU is the epilogue of the first product."""

import torch
from torch import Tensor

from moge_ops import _C

from ._common import dtype_of, pointer, refuse_quantized, stream
from .grouped_gemm import grouped_gemm_dw, grouped_gemm_dx, grouped_gemm_fwd
from .permute import permute_fwd
from .unpermute import unpermute_fwd


def _row_weights(weights: Tensor, row_to_slot: Tensor, slot_to_row: Tensor) -> Tensor:
    """``[T, K] -> [N]`` float32, in the order of the rows."""
    slots = weights.float().reshape(-1, 1)
    return permute_fwd(slots, row_to_slot, slot_to_row.reshape(-1, 1)).flatten()


def grouped_mlp_up(
    rows: Tensor, weight: Tensor, offsets: Tensor, row_weights: Tensor | None, save: bool
) -> tuple[Tensor, Tensor]:
    """``[N, H], [E, 2F, H], [E + 1], [N] -> act [N, F], pre [N, 2F]``, or [0, 2F] not to save."""
    dtype = dtype_of("x", rows)
    rows, weight = rows.contiguous(), weight.contiguous()
    N, (E, O, I) = rows.shape[0], weight.shape
    shape = _C.GemmShape(N=N, E=E, O=O, I=I)
    act, pre = rows.new_empty(N, O // 2), rows.new_empty(N if save else 0, O)
    ring = rows.new_empty(_C.grouped_mlp_ring(shape=shape))
    _C.grouped_mlp_up(
        rows=pointer(rows),
        weight=pointer(weight),
        offsets=pointer(offsets),
        row_weights=pointer(row_weights),
        ring=pointer(ring),
        pre=pointer(pre),
        act=pointer(act),
        shape=shape,
        dtype=dtype,
        stream=stream(rows),
    )
    return act, pre


def grouped_mlp_fwd(
    x: Tensor,
    w_gate_up: Tensor,
    w_down: Tensor,
    weights: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    weight_on: str,
    save: bool,
) -> tuple[Tensor, Tensor]:
    """``x [T, H] -> y [T, H], pre-activation [N, 2F]``, the latter empty unless ``save``."""
    early = weight_on == "activation"
    row_weights = _row_weights(weights, row_to_slot, slot_to_row) if early else None
    rows = permute_fwd(x, row_to_slot, slot_to_row)
    act, pre = grouped_mlp_up(rows, w_gate_up, offsets, row_weights, save)
    out = grouped_gemm_fwd(act, w_down, offsets)
    return unpermute_fwd(out, row_to_slot, slot_to_row, None if early else weights), pre


def grouped_mlp_act_bwd(
    g: Tensor, pre: Tensor, row_weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """``[N, F], [N, 2F], [N] -> d_pre [N, 2F], weighted act [N, F], d_row_weights [N]``."""
    N, F = g.shape
    pre = pre.contiguous()
    d_pre, act, d_row_weights = (torch.empty_like(x) for x in (pre, g, row_weights))
    if not F:  # nothing is launched
        return d_pre, act, d_row_weights.zero_()
    _C.grouped_mlp_act_bwd(
        g=pointer(g),
        pre=pointer(pre),
        row_weights=pointer(row_weights),
        d_pre=pointer(d_pre),
        act=pointer(act),
        d_row_weights=pointer(d_row_weights),
        N=N,
        F=F,
        dtype=dtype_of("x", g),
        stream=stream(g),
    )
    return d_pre, act, d_row_weights


def grouped_mlp_bwd(
    d_y: Tensor,
    x: Tensor,
    w_gate_up: Tensor,
    w_down: Tensor,
    weights: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    pre: Tensor,
    need_d_x: bool,
    need_d_w: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``d_y [T, H] -> d_x, d_w_gate_up, d_w_down, d_weights``; empty where not needed."""
    row_weights = _row_weights(weights, row_to_slot, slot_to_row)
    d_out = permute_fwd(d_y, row_to_slot, slot_to_row)  # [N, H], not yet times the weight
    g = grouped_gemm_dx(d_out, w_down, offsets)  # [N, F]
    d_pre, act, d_row_weights = grouped_mlp_act_bwd(g, pre, row_weights)
    slots = slot_to_row.reshape(-1, 1)
    d_weights = unpermute_fwd(d_row_weights.unsqueeze(1), row_to_slot, slots, None)  # [T * K, 1]

    d_x, d_w_gate_up, d_w_down = x.new_empty(0, x.shape[1]), x.new_empty(0), x.new_empty(0)
    if need_d_x:
        d_rows = grouped_gemm_dx(d_pre, w_gate_up, offsets)  # [N, H]
        d_x = unpermute_fwd(d_rows, row_to_slot, slot_to_row, None)
    if need_d_w:
        rows = permute_fwd(x, row_to_slot, slot_to_row)  # [N, H]
        d_w_gate_up = grouped_gemm_dw(d_pre, rows, offsets)
        d_w_down = grouped_gemm_dw(d_out, act, offsets)
    return d_x, d_w_gate_up, d_w_down, d_weights.to(weights.dtype).view_as(weights)


def grouped_mlp_quantized_fwd(
    x: Tensor,
    gate_up: Tensor,
    gate_up_scale: Tensor,
    gate_up_zero: Tensor | None,
    down: Tensor,
    down_scale: Tensor,
    down_zero: Tensor | None,
    weights: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    scheme: str,
    gate_up_group: int | None,
    down_group: int | None,
    weight_on: str,
    save: bool,
) -> tuple[Tensor, Tensor]:
    """``x [T, H] -> y [T, H], pre-activation [N, 2F]``: not there yet."""
    refuse_quantized(scheme)


def grouped_mlp_quantized_bwd(
    d_y: Tensor,
    gate_up: Tensor,
    gate_up_scale: Tensor,
    gate_up_zero: Tensor | None,
    down: Tensor,
    down_scale: Tensor,
    down_zero: Tensor | None,
    weights: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    pre: Tensor,
    scheme: str,
    gate_up_group: int | None,
    down_group: int | None,
    need_d_x: bool,
) -> tuple[Tensor, Tensor]:
    """``d_y [T, H] -> d_x [T, H], d_weights [T, K]``: not there yet."""
    refuse_quantized(scheme)
