"""The fused expert layer: gathered up projection, activation, down projection, and their backward.

Index tensors:
    row_to_slot  expert-sorted row -> slot = token * K + column; -1 in rows past offsets[E]
    slot_to_row  its inverse, [T, K]; -1 for a dropped slot
No tile covers the rows past offsets[E]: nothing computes or reads them.
"""

from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ._activation import Act, series_gradient
from ._biases import bias_gradients, store_bias_dot
from ._choice import Choice, chosen
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
from .grouped_gemm import biased_product, decoded_product, grouped_gemm_dx, integer_product
from .unpermute import unpermute_fwd

BLOCK_SLOTS = 128  # slots of one program that sums d_weights; chosen, not measured


def _up(
    x: Tensor,
    w_gate_up: Tensor | Stored,
    weights: Tensor,
    row_to_slot: Tensor,
    offsets: Tensor,
    pre: Tensor,
    choice: Choice,
    *,
    weighted: bool,
    x_scale: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """``x [T, H] -> act [N, F]``, times the weights if ``weighted``; ``pre``, unless it is empty.

    int8 x, which has scales, multiplies integers. The activation is int8 then, too, and has scales,
    which are what is ``weighted``, if one tile holds all of F; otherwise it is not weighted.
    """
    N, decoded, halves = row_to_slot.shape[0], x_scale is None, choice.halves
    E, O, H = w_gate_up.shape
    F = O // halves
    source = w_gate_up.data if isinstance(w_gate_up, Stored) else w_gate_up
    act, act_scale = pre.new_empty(N, F), None
    if not act.numel() or not H or not E:
        return act, act_scale
    x = contiguous_rows(x)
    # two boxes of columns if the step from half to half is the same within and between experts;
    # one box if gate and up take turns, and without a gate
    apart = halves == 2 and not choice.act.interleaved
    even = not apart or source.stride(0) == O * source.stride(1)
    # without a gate a tile may have twice the columns, but no series, whose epilogue would spill
    # (cross-compiled for sm_90, November 2026)
    wide = halves == 1 and choice.series is None
    covered = triton.cdiv(F, 2) if wide else F
    config = find_config("up", x.dtype, N, E, covered, aligned=aligned(source) and even)
    if isinstance(w_gate_up, Stored):
        config = fitted(config, w_gate_up, decoded=decoded, halves=2)
    # one box holds the same columns of both halves, for one wide product; swapped operands need a
    # box for each half
    if wide:
        config = config._replace(block_c=2 * config.block_c)
    columns = config.block_c * (2 if choice.act.interleaved else 1)
    sides = [1 if config.swap else 2, config.block_c] if apart else [1, columns]
    w_box = box(w_gate_up, [*sides, config.block_r])
    w: object = source
    if w_box is not None and even:
        boxes = source.view(2 * E, F, -1) if apart else source
        w = TensorDescriptor.from_tensor(boxes, w_box)
    if not decoded and config.block_c >= F:
        act = torch.empty(N, F, dtype=torch.int8, device=x.device)
        act_scale = torch.empty(N, dtype=torch.float32, device=x.device)
    _grouped_mlp_up_kernel[grid(config, N, E, F, x.device)](
        x_ptr=x,
        x_scale_ptr=x_scale,
        w=w,
        bias_ptr=choice.b_gate_up,
        series_ptr=choice.series,
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
        ACTIVATION=choice.act,
        **quantized_arguments(w_gate_up, decoded=decoded),
        **constants(config, x.dtype, E, H),
    )
    return act, act_scale


class _DownBackward(NamedTuple):
    d_pre: Tensor  # [N, O]
    d_weights: Tensor  # [T, K]
    d_series: Tensor  # [2, n], or empty


def _down_bwd(
    d_y: Tensor,
    w_down: Tensor | Stored,
    weights: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    pre: Tensor,
    act: Tensor | None,
    choice: Choice,
    need_d_series: bool,
) -> _DownBackward:
    """``d_y [T, H] -> d_pre, d_weights, d_series``, and ``act [N, F]`` times the weights."""
    E, H, F = w_down.shape
    N, K = row_to_slot.shape[0], slot_to_row.shape[1]
    d_weights = torch.empty(weights.shape, dtype=weights.dtype, device=weights.device)
    d_pre = d_y.new_empty(N, choice.halves * F)
    series = choice.series if need_d_series else None
    like = d_y if choice.series is None else choice.series
    d_series = like.new_empty(0) if series is None else torch.zeros_like(series)
    if not N * E * H or not (F or choice.b_down is not None):
        return _DownBackward(d_pre.zero_(), d_weights.zero_(), d_series)  # biases sum up d_pre
    d_y = contiguous_rows(d_y)
    source = w_down.data if isinstance(w_down, Stored) else w_down
    config = find_config("down_bwd", d_y.dtype, N, E, F, aligned=aligned(source))
    if isinstance(w_down, Stored):
        config = fitted(config, w_down, decoded=True)
    w_box = box(w_down, [1, config.block_r, config.block_c])
    tiles_f = triton.cdiv(F, config.block_c)
    parts = tiles_f + (choice.b_down is not None)
    acc = torch.promote_types(d_y.dtype, torch.float32)
    partial = torch.empty(parts, N, dtype=acc, device=d_y.device)
    # gate, up and their gradients do not fit in registers for all columns at once, and
    # pointers to the weight leave room for fewer. Chosen by the static figures
    # (bench/results/gpu_static.csv, 2026-11-22), not measured. Functions that are longer than
    # SwiGLU spill more with 32 columns
    short = choice.act == Act() or not choice.act.gated
    part_f = 8 if INTERPRETED else 32 if w_box and short else 16
    sums = None
    if series is not None:
        places = (N // config.block_m + E) * triton.cdiv(F, min(part_f, config.block_c))
        sums = torch.zeros(places, series.numel(), dtype=acc, device=d_y.device)
    if F:
        _grouped_mlp_down_bwd_kernel[grid(config, N, E, F, d_y.device)](
            d_y_ptr=d_y,
            w=source if w_box is None else TensorDescriptor.from_tensor(source, w_box),
            series_ptr=choice.series,
            series_sums_ptr=sums,
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
            K=K,
            ACTIVATION=choice.act,
            PART_F=part_f,
            **quantized_arguments(w_down),
            **constants(config, d_y.dtype, E, H),
        )
    if choice.b_down is not None:
        store_bias_dot(d_y, choice.b_down, row_to_slot, offsets, K, partial[tiles_f])
    _grouped_mlp_d_weights_kernel[(triton.cdiv(N, BLOCK_SLOTS),)](
        partial_ptr=partial,
        slot_to_row_ptr=slot_to_row,
        d_weights_ptr=d_weights,
        N=N,
        parts=parts,
        BLOCK_SLOTS=BLOCK_SLOTS,
    )
    if sums is not None and series is not None:
        d_series = series_gradient(sums, series)
    return _DownBackward(d_pre, d_weights, d_series)


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
    activation: str = "silu",
    gated: bool = True,
    interleaved: bool = False,
    alpha: float = 1.0,
    limit: float | None = None,
    shift: float = 0.0,
    b_gate_up: Tensor | None = None,
    b_down: Tensor | None = None,
    series: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``x [T, H] -> y [T, H], pre-activation [N, O]``, the latter empty unless ``save``."""
    on_output = weight_on == "output"
    choice = chosen(
        (activation, gated, interleaved, alpha, limit, shift), b_gate_up, b_down, series
    )
    pre = x.new_empty(row_to_slot.shape[0] if save else 0, w_gate_up.shape[1])
    act, _ = _up(x, w_gate_up, weights, row_to_slot, offsets, pre, choice, weighted=not on_output)
    rows = biased_product(act, w_down, offsets, b_down)  # [N, H]
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
    activation: str = "silu",
    gated: bool = True,
    interleaved: bool = False,
    alpha: float = 1.0,
    limit: float | None = None,
    shift: float = 0.0,
    b_down: Tensor | None = None,
    series: Tensor | None = None,
    need_d_b: bool = False,
    need_d_series: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``d_y [T, H] -> d_x, d_w_gate_up, d_w_down, d_weights, d_b_gate_up, d_b_down, d_series``.

    Empty where not needed.
    """
    choice = chosen((activation, gated, interleaved, alpha, limit, shift), None, b_down, series)
    K = slot_to_row.shape[1]
    act = x.new_empty(row_to_slot.shape[0], w_down.shape[2])
    routing = (row_to_slot, slot_to_row, offsets)
    d_pre, d_weights, d_series = _down_bwd(
        d_y, w_down, weights, *routing, pre, act, choice, need_d_series
    )
    d_biases = bias_gradients(d_y, d_pre, weights, row_to_slot, offsets, need_d_b)
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
    return d_x, d_w_gate_up, d_w_down, d_weights, *d_biases, d_series


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
    activation: str = "silu",
    gated: bool = True,
    interleaved: bool = False,
    alpha: float = 1.0,
    limit: float | None = None,
    shift: float = 0.0,
    b_gate_up: Tensor | None = None,
    b_down: Tensor | None = None,
    series: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``x [T, H] -> y [T, H], pre-activation [N, O]``, the latter empty unless ``save``."""
    on_output = weight_on == "output"
    choice = chosen(
        (activation, gated, interleaved, alpha, limit, shift), b_gate_up, b_down, series
    )
    w_gate_up = stored(gate_up, gate_up_scale, gate_up_zero, scheme, gate_up_group, x.dtype)
    w_down = stored(down, down_scale, down_zero, scheme, down_group, x.dtype)
    pre = x.new_empty(row_to_slot.shape[0] if save else 0, gate_up.shape[1])
    integers = scheme in INTEGERS
    q, x_scale = quantize_rows(x) if integers else (x, None)  # once for each token
    act, act_scale = _up(
        q,
        w_gate_up,
        weights,
        row_to_slot,
        offsets,
        pre,
        choice,
        weighted=not on_output,
        x_scale=x_scale,
    )
    if integers:
        if act_scale is None:
            routed = (None, None) if on_output else (weights.contiguous(), row_to_slot)
            act, act_scale = quantize_rows(act, offsets, *routed)
        rows = integer_product(act, act_scale, w_down, offsets, x.dtype, b_down)
    else:
        rows = decoded_product(act, w_down, offsets, r_last=True, bias=b_down)
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
    activation: str = "silu",
    gated: bool = True,
    interleaved: bool = False,
    alpha: float = 1.0,
    limit: float | None = None,
    shift: float = 0.0,
    b_down: Tensor | None = None,
    series: Tensor | None = None,
    need_d_b: bool = False,
    need_d_series: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``d_y [T, H] -> d_x [T, H], d_weights [T, K], d_b_gate_up, d_b_down, d_series``.

    Empty where not needed, but for ``d_weights``.
    """
    choice = chosen((activation, gated, interleaved, alpha, limit, shift), None, b_down, series)
    w_down = stored(down, down_scale, down_zero, scheme, down_group, d_y.dtype)
    routing = (row_to_slot, slot_to_row, offsets)
    d_pre, d_weights, d_series = _down_bwd(
        d_y, w_down, weights, *routing, pre, None, choice, need_d_series
    )
    d_biases = bias_gradients(d_y, d_pre, weights, row_to_slot, offsets, need_d_b)
    d_x = d_y.new_empty(0, d_y.shape[1])
    if need_d_x:
        w_gate_up = stored(gate_up, gate_up_scale, gate_up_zero, scheme, gate_up_group, d_y.dtype)
        d_rows = decoded_product(d_pre, w_gate_up, offsets, r_last=False)  # [N, H]
        d_x = unpermute_fwd(d_rows, row_to_slot, slot_to_row, None)
    return d_x, d_weights, *d_biases, d_series
