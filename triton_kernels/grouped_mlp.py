"""The fused expert layer: gathered up projection with SwiGLU, down projection, and their backward.

Index tensors:
    row_to_slot  expert-sorted row -> slot = token * K + column; -1 in rows past offsets[E]
    slot_to_row  its inverse, [T, K]; -1 for a dropped slot
No tile covers the rows past offsets[E]: nothing computes or reads them.
"""

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ._common import INTERPRETED
from ._configs import find_config
from ._mlp_kernels import (
    _grouped_mlp_d_weights_kernel,
    _grouped_mlp_down_bwd_kernel,
    _grouped_mlp_up_kernel,
)
from ._product import aligned, constants, contiguous_rows, grid
from ._quantized import INTEGERS, Stored, box, fitted, quantize_rows, quantized_arguments, stored
from ._weight_gradient import weight_gradient
from .grouped_gemm import decoded_product, grouped_gemm_dx, grouped_gemm_fwd, integer_product
from .unpermute import unpermute_fwd

BLOCK_SLOTS = 128  # slots of one program that sums d_weights; chosen, not measured


def _up(
    x: Tensor,
    w_gate_up: Tensor | Stored,
    weights: Tensor,
    row_to_slot: Tensor,
    offsets: Tensor,
    pre: Tensor,
    *,
    weighted: bool,
    x_scale: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """``x [T, H] -> act [N, F]``, times the weights if ``weighted``; ``pre``, unless it is empty.

    int8 x, which has scales, multiplies integers. The activation is int8 then, too, and has scales,
    which are what is ``weighted``, if one tile holds all of F; otherwise it is not weighted.
    """
    N, decoded = row_to_slot.shape[0], x_scale is None
    E, F, H = w_gate_up.shape[0], w_gate_up.shape[1] // 2, x.shape[1]
    source = w_gate_up.data if isinstance(w_gate_up, Stored) else w_gate_up
    act, act_scale = pre.new_empty(N, F), None
    if not act.numel() or not H or not E:
        return act, act_scale
    x = contiguous_rows(x)
    # whether the step from half to half is the same within and between experts
    even_halves = source.stride(0) == 2 * F * source.stride(1)
    config = find_config("up", x.dtype, N, E, F, aligned=aligned(source) and even_halves)
    if isinstance(w_gate_up, Stored):
        config = fitted(config, w_gate_up, decoded=decoded, halves=2)
    # one box holds the same columns of both halves, for one wide product; swapped operands need a
    # box for each half
    w_box = box(w_gate_up, [1 if config.swap else 2, config.block_c, config.block_r])
    w: object = source
    if w_box is not None and even_halves:
        w = TensorDescriptor.from_tensor(source.view(2 * E, F, -1), w_box)
    if not decoded and config.block_c >= F:
        act = torch.empty(N, F, dtype=torch.int8, device=x.device)
        act_scale = torch.empty(N, dtype=torch.float32, device=x.device)
    _grouped_mlp_up_kernel[grid(config, N, E, F, x.device)](
        x_ptr=x,
        x_scale_ptr=x_scale,
        w=w,
        weights_ptr=weights.contiguous(),
        row_to_slot_ptr=row_to_slot,
        offsets_ptr=offsets,
        pre_ptr=pre,
        act_ptr=act,
        act_scale_ptr=act_scale,
        stride_x_t=x.stride(0),
        stride_w_e=source.stride(0),
        stride_w_f=source.stride(1),
        stride_w_h=source.stride(2),
        N=N,
        F=F,
        H=H,
        E=E,
        K=weights.shape[1],
        SAVE=pre.shape[0] > 0,
        WEIGHTED=weighted and (decoded or act_scale is not None),
        **quantized_arguments(w_gate_up, decoded=decoded),
        **constants(config, x.dtype, E, H),
    )
    return act, act_scale


def _down_bwd(
    d_y: Tensor,
    w_down: Tensor | Stored,
    weights: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    pre: Tensor,
    act: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """``d_y [T, H] -> d_pre [N, 2F], d_weights [T, K]``, and ``act [N, F]`` times the weights."""
    E, H, F = w_down.shape
    N = row_to_slot.shape[0]
    d_weights = torch.empty(weights.shape, dtype=weights.dtype, device=weights.device)
    d_pre = d_y.new_empty(N, 2 * F)
    if not N * E * H * F:
        return d_pre, d_weights.zero_()
    d_y = contiguous_rows(d_y)
    source = w_down.data if isinstance(w_down, Stored) else w_down
    config = find_config("down_bwd", d_y.dtype, N, E, F, aligned=aligned(source))
    if isinstance(w_down, Stored):
        config = fitted(config, w_down, decoded=True)
    w_box = box(w_down, [1, config.block_r, config.block_c])
    tiles_f = triton.cdiv(F, config.block_c)
    acc = torch.promote_types(d_y.dtype, torch.float32)
    partial = torch.empty(tiles_f, N, dtype=acc, device=d_y.device)
    _grouped_mlp_down_bwd_kernel[grid(config, N, E, F, d_y.device)](
        d_y_ptr=d_y,
        w=source if w_box is None else TensorDescriptor.from_tensor(source, w_box),
        weights_ptr=weights.contiguous(),
        row_to_slot_ptr=row_to_slot,
        offsets_ptr=offsets,
        pre_ptr=pre.contiguous(),
        d_pre_ptr=d_pre,
        act_ptr=act,
        partial_ptr=partial,
        stride_d_y_t=d_y.stride(0),
        stride_w_e=source.stride(0),
        stride_w_h=source.stride(1),
        stride_w_f=source.stride(2),
        N=N,
        F=F,
        H=H,
        E=E,
        K=slot_to_row.shape[1],
        # gate, up and their gradients do not fit in registers for all columns at once, and
        # pointers to the weight leave room for fewer. Chosen by the static figures
        # (bench/results/gpu_static.csv, 2026-11-22), not measured
        PART_F=8 if INTERPRETED else 32 if w_box else 16,
        **quantized_arguments(w_down),
        **constants(config, d_y.dtype, E, H),
    )
    _grouped_mlp_d_weights_kernel[(triton.cdiv(N, BLOCK_SLOTS),)](
        partial_ptr=partial,
        slot_to_row_ptr=slot_to_row,
        d_weights_ptr=d_weights,
        N=N,
        tiles_f=tiles_f,
        BLOCK_SLOTS=BLOCK_SLOTS,
    )
    return d_pre, d_weights


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
    on_output = weight_on == "output"
    pre = x.new_empty(row_to_slot.shape[0] if save else 0, w_gate_up.shape[1])
    act, _ = _up(x, w_gate_up, weights, row_to_slot, offsets, pre, weighted=not on_output)
    rows = grouped_gemm_fwd(act, w_down, offsets)  # [N, H]
    return unpermute_fwd(rows, row_to_slot, slot_to_row, weights if on_output else None), pre


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
    K = slot_to_row.shape[1]
    act = x.new_empty(row_to_slot.shape[0], w_down.shape[2])
    routing = (row_to_slot, slot_to_row, offsets)
    d_pre, d_weights = _down_bwd(d_y, w_down, weights, *routing, pre, act)
    d_x, d_w_gate_up, d_w_down = (
        x.new_empty(0, x.shape[1]),
        w_gate_up.new_empty(0),
        w_down.new_empty(0),
    )
    if need_d_x:
        d_rows = grouped_gemm_dx(d_pre, w_gate_up, offsets)  # [N, H]
        d_x = unpermute_fwd(d_rows, row_to_slot, slot_to_row, None)
    if need_d_w:
        # the kernel gathers rows while it loads them, so that no [N, H] copy is made
        d_w_gate_up = weight_gradient(d_pre, x, offsets, row_to_slot, K, gather_rows=True)
        d_w_down = weight_gradient(d_y, act, offsets, row_to_slot, K, gather_d=True)
    return d_x, d_w_gate_up, d_w_down, d_weights


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
    """``x [T, H] -> y [T, H], pre-activation [N, 2F]``, the latter empty unless ``save``."""
    on_output = weight_on == "output"
    w_gate_up = stored(gate_up, gate_up_scale, gate_up_zero, scheme, gate_up_group, x.dtype)
    w_down = stored(down, down_scale, down_zero, scheme, down_group, x.dtype)
    pre = x.new_empty(row_to_slot.shape[0] if save else 0, gate_up.shape[1])
    integers = scheme in INTEGERS
    q, x_scale = quantize_rows(x) if integers else (x, None)  # once for each token
    act, act_scale = _up(
        q, w_gate_up, weights, row_to_slot, offsets, pre, weighted=not on_output, x_scale=x_scale
    )
    if integers:
        if act_scale is None:
            routed = (None, None) if on_output else (weights.contiguous(), row_to_slot)
            act, act_scale = quantize_rows(act, offsets, *routed)
        rows = integer_product(act, act_scale, w_down, offsets, x.dtype)
    else:
        rows = decoded_product(act, w_down, offsets, r_last=True)
    return unpermute_fwd(rows, row_to_slot, slot_to_row, weights if on_output else None), pre


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
    """``d_y [T, H] -> d_x [T, H], d_weights [T, K]``; the former empty where not needed."""
    w_down = stored(down, down_scale, down_zero, scheme, down_group, d_y.dtype)
    routing = (row_to_slot, slot_to_row, offsets)
    d_pre, d_weights = _down_bwd(d_y, w_down, weights, *routing, pre, None)
    d_x = d_y.new_empty(0, d_y.shape[1])
    if need_d_x:
        w_gate_up = stored(gate_up, gate_up_scale, gate_up_zero, scheme, gate_up_group, d_y.dtype)
        d_rows = decoded_product(d_pre, w_gate_up, offsets, r_last=False)  # [N, H]
        d_x = unpermute_fwd(d_rows, row_to_slot, slot_to_row, None)
    return d_x, d_weights
