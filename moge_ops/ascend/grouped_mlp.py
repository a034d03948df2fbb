"""The expert layer in Ascend C: forward in one launch, backward part by part."""

import torch
from torch import Tensor

from moge_ops import _C
from moge_ops._quantized import INTEGERS

from ._activation import Choice, activation_fwd, choice
from ._biases import bias_part, bias_sums, biases_of_rows, only_biases, unpermute_biased
from ._common import dtype_of, pointer, stream
from ._quantize import check_scheme, integers, permute_planes, row_scales
from .grouped_gemm import (
    grouped_gemm_dw,
    grouped_gemm_dx,
    grouped_gemm_quantized_dx,
    grouped_gemm_quantized_fwd,
    in_two_passes,
    integer_product,
)
from .permute import permute_fwd
from .swiglu import swiglu_fwd
from .unpermute import take_scalars, unpermute_fwd

MOST_TERMS = 8  # of a series, for which the kernels have room


def _row_weights(weights: Tensor, row_to_slot: Tensor) -> Tensor:
    """``[T, K], [N] -> [N]`` float32, in the order of the rows."""
    return take_scalars(weights, row_to_slot)


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


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
    """``x [T, H] -> y [T, H], pre-activation [N, 2F]``, the latter empty unless ``save``."""
    of = choice(activation, gated, interleaved, alpha, limit, shift, series)
    dtype = dtype_of("x", x)
    x, w_gate_up, w_down = x.contiguous(), w_gate_up.contiguous(), w_down.contiguous()
    weights, slot_to_row = weights.float().contiguous(), slot_to_row.contiguous()
    (T, H), K, (E, _, F) = x.shape, slot_to_row.shape[1], w_down.shape
    N, O = T * K, w_gate_up.shape[1]
    if not F and N and H and b_down is not None:  # no product has a depth: biases are all there is
        y = only_biases(weights, row_to_slot, slot_to_row, offsets, b_down)
        return y, x.new_empty(N if save else 0, O)
    y, pre = torch.empty_like(x), x.new_empty(N if save else 0, O)
    if not (N and H and F):  # nothing is launched
        return y.zero_(), pre.zero_()
    b_gate_up, b_down = _contiguous(b_gate_up), _contiguous(b_down)
    shape = _C.MlpShape(T=T, K=K, E=E, H=H, F=F)
    # what one phase of the kernel leaves to the next
    rows, act = x.new_empty(N, _C.grouped_gemm_pitch(columns=H)), x.new_empty(N, F)
    plain = of.swiglu() and b_gate_up is None
    staged = x.dtype if plain else torch.float32  # a bias is added before anything is rounded
    ring = x.new_empty(_C.grouped_mlp_ring(shape=shape), dtype=staged)
    early = weight_on == "activation"
    row_weights = weights.new_empty(N) if early else None
    _C.grouped_mlp_fwd(
        x=pointer(x),
        gate_up=pointer(w_gate_up),
        down=pointer(w_down),
        weights=pointer(weights),
        slot_to_row=pointer(slot_to_row),
        offsets=pointer(offsets),
        b_gate_up=pointer(b_gate_up),
        b_down=pointer(b_down),
        series=pointer(of.series),
        rows=pointer(rows),
        row_weights=pointer(row_weights),
        ring=pointer(ring),
        pre=pointer(pre),
        act=pointer(act),
        y=pointer(y),
        shape=shape,
        activation=of.tiling(),
        dtype=dtype,
        stream=stream(x),
    )
    return y, pre


def grouped_mlp_act_bwd(
    g: Tensor,
    pre: Tensor,
    row_weights: Tensor,
    of: Choice = Choice(),  # noqa: B008 - a tuple
    more: Tensor | None = None,
    need_d_series: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``[N, F], [N, 2F], [N] -> d_pre [N, 2F], weighted act [N, F], d_row_weights [N], d_series``.

    ``more [N]`` float32 is added to ``d_row_weights``; the last, ``[2, n]``, may be empty.
    """
    N, F = g.shape
    pre = pre.contiguous()
    d_pre, act, d_row_weights = (torch.empty_like(x) for x in (pre, g, row_weights))
    if not (N and F):  # nothing is launched
        sums = g.new_empty(0) if of.series is None else torch.zeros_like(of.series)
        return d_pre, act, d_row_weights.zero_() if more is None else more, sums
    parts = None
    if need_d_series and of.series is not None:
        parts = row_weights.new_empty(_C.grouped_mlp_act_bwd_cores(N=N), 2 * MOST_TERMS)
    _C.grouped_mlp_act_bwd(
        g=pointer(g),
        pre=pointer(pre),
        row_weights=pointer(row_weights),
        more=pointer(more),
        series=pointer(of.series),
        d_pre=pointer(d_pre),
        act=pointer(act),
        d_row_weights=pointer(d_row_weights),
        d_series=pointer(parts),
        N=N,
        F=F,
        activation=of.tiling(),
        dtype=dtype_of("x", g),
        stream=stream(g),
    )
    return d_pre, act, d_row_weights, g.new_empty(0) if parts is None else _add_parts(parts, of)


def _add_parts(parts: Tensor, of: Choice) -> Tensor:
    """``[cores, 16] -> [2, n]``: the cores' sums as the rows of one token, added in their order."""
    assert of.series is not None
    cores = torch.arange(parts.shape[0], dtype=torch.int32, device=parts.device)
    total = unpermute_fwd(parts, cores, cores.unsqueeze(0), None)
    return total.view(2, MOST_TERMS)[:, : of.series.shape[1]].contiguous()


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
    of = choice(activation, gated, interleaved, alpha, limit, shift, series)
    row_weights = _row_weights(weights, row_to_slot)
    d_out = permute_fwd(d_y, row_to_slot, slot_to_row)  # [N, H], not yet times the weight
    g = grouped_gemm_dx(d_out, w_down, offsets)  # [N, F]
    more = bias_part(d_y, weights, row_to_slot, slot_to_row, offsets, b_down)
    d_pre, act, d_row_weights, d_terms = grouped_mlp_act_bwd(
        g, pre, row_weights, of, more, need_d_series
    )
    d_weights = take_scalars(d_row_weights, slot_to_row)  # [T, K]

    d_x, d_w_gate_up, d_w_down = x.new_empty(0, x.shape[1]), x.new_empty(0), x.new_empty(0)
    if need_d_x:
        d_rows = grouped_gemm_dx(d_pre, w_gate_up, offsets)  # [N, H]
        d_x = unpermute_fwd(d_rows, row_to_slot, slot_to_row, None)
    if need_d_w:
        rows = permute_fwd(x, row_to_slot, slot_to_row)  # [N, H]
        d_w_gate_up = grouped_gemm_dw(d_pre, rows, offsets)
        d_w_down = grouped_gemm_dw(d_out, act, offsets)
    found = d_x, d_w_gate_up, d_w_down, d_weights.to(weights.dtype)
    sums = bias_sums(d_pre, d_out, row_weights, offsets, need_d_b)
    return *found, *sums, d_terms if series is None else d_terms.to(series.dtype)


def grouped_mlp_int8_fwd(
    x: Tensor,
    gate_up: Tensor,
    gate_up_scale: Tensor,
    down: Tensor,
    down_scale: Tensor,
    weights: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    save: bool,
) -> tuple[Tensor, Tensor]:
    """:func:`grouped_mlp_fwd` of int8 weights with the scales of their rows."""
    x, weights, slot_to_row = x.contiguous(), weights.float().contiguous(), slot_to_row.contiguous()
    (T, H), K, (E, _, F) = x.shape, slot_to_row.shape[1], down.shape
    N = T * K
    shape = _C.MlpShape(T=T, K=K, E=E, H=H, F=F)
    y, pre = torch.empty_like(x), x.new_empty(N if save else 0, 2 * F)
    # what one phase of the kernel leaves to the next
    rows, row_scale = x.new_empty(N, _C.grouped_gemm_pitch(columns=H)), weights.new_empty(N)
    act, q = x.new_empty(N, F), down.new_empty(N, F)
    ring = offsets.new_empty(_C.grouped_mlp_int8_ring(shape=shape))
    _C.grouped_mlp_int8_fwd(
        x=pointer(x),
        gate_up=pointer(gate_up),
        gate_up_scale=pointer(gate_up_scale),
        down=pointer(down),
        down_scale=pointer(down_scale),
        weights=pointer(weights),
        slot_to_row=pointer(slot_to_row),
        offsets=pointer(offsets),
        rows=pointer(rows),
        row_scale=pointer(row_scale),
        ring=pointer(ring),
        pre=pointer(pre),
        act=pointer(act),
        q=pointer(q),
        y=pointer(y),
        shape=shape,
        dtype=dtype_of("x", x),
        stream=stream(x),
    )
    return y, pre


def grouped_mlp_up_int4(
    planes: Tensor,
    row_scale: Tensor,
    weight: Tensor,
    scale: Tensor,
    offsets: Tensor,
    dtype: torch.dtype,
    save: bool,
) -> tuple[Tensor, Tensor]:
    """``int8 [N, 2, H / 2], [N], int8 [E, 2F, H / 2], [E, 2F] -> act [N, F], pre [N, 2F]``.

    Planes of four bits; the latter is empty unless ``save``.
    """
    N, (E, O, packed) = planes.shape[0], weight.shape
    shape = _C.GemmShape(N=N, E=E, O=O, I=2 * packed)
    act = row_scale.new_empty(N, O // 2, dtype=dtype)
    pre = row_scale.new_empty(N if save else 0, O, dtype=dtype)
    ring = offsets.new_empty(_C.grouped_mlp_int4_ring(shape=shape))
    _C.grouped_mlp_up_int4(
        planes=pointer(planes),
        row_scale=pointer(row_scale),
        weight=pointer(weight),
        scale=pointer(scale),
        offsets=pointer(offsets),
        ring=pointer(ring),
        pre=pointer(pre),
        act=pointer(act),
        shape=shape,
        dtype=dtype_of("x", act),
        stream=stream(planes),
    )
    return act, pre


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
    """``x [T, H] -> y [T, H], pre-activation [N, 2F]``, the latter empty unless ``save``."""
    check_scheme(scheme)
    dtype_of("x", x)
    N, O, H = row_to_slot.shape[0], gate_up.shape[1], x.shape[1]
    if not N * H * gate_up.shape[0] or not (O or b_down is not None):
        return x.new_zeros(x.shape), x.new_zeros(N if save else 0, O)
    of = choice(activation, gated, interleaved, alpha, limit, shift, series)
    plain = of.swiglu() and b_gate_up is None and b_down is None
    if scheme in INTEGERS and plain:  # the output is weighted, whatever weight_on says
        up_scales = row_scales(gate_up_scale, O)
        if in_two_passes(scheme, N, gate_up):
            planes = permute_planes(x, slot_to_row)
            act, pre = grouped_mlp_up_int4(
                *planes, gate_up.contiguous(), up_scales, offsets, x.dtype, save
            )
            out = integer_product(act, down, down_scale, offsets, scheme)
            return unpermute_fwd(out, row_to_slot, slot_to_row, weights), pre
        up = (integers(gate_up, scheme), up_scales)
        back = (integers(down, scheme), row_scales(down_scale, H))
        return grouped_mlp_int8_fwd(x, *up, *back, weights, slot_to_row, offsets, save)
    late = weight_on == "output" or scheme in INTEGERS
    up_parts = (gate_up, gate_up_scale, gate_up_zero, offsets, scheme, gate_up_group)
    rows = permute_fwd(x, row_to_slot, slot_to_row)
    pre = grouped_gemm_quantized_fwd(rows, *up_parts)
    if plain:
        act = swiglu_fwd(pre)
    else:
        bias = None if b_gate_up is None else biases_of_rows(b_gate_up, N, offsets)
        act = activation_fwd(pre, of, bias)
    if not late:
        of_rows = _row_weights(weights, row_to_slot)
        act = (act * of_rows.unsqueeze(1)).to(x.dtype)
    back_parts = (down, down_scale, down_zero, offsets, scheme, down_group)
    out = grouped_gemm_quantized_fwd(act, *back_parts)
    if b_down is not None:
        y = unpermute_biased(out, row_to_slot, slot_to_row, weights, offsets, b_down)
    else:
        y = unpermute_fwd(out, row_to_slot, slot_to_row, weights if late else None)
    return y, pre if save else pre[:0]


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
    check_scheme(scheme)
    of = choice(activation, gated, interleaved, alpha, limit, shift, series)
    H, F = d_y.shape[1], gate_up.shape[1] // (2 if gated else 1)
    row_weights = _row_weights(weights, row_to_slot)
    d_out = permute_fwd(d_y, row_to_slot, slot_to_row)  # [N, H], not yet times the weight
    back = (down, down_scale, down_zero, offsets, scheme, down_group)
    g = grouped_gemm_quantized_dx(d_out, *back, F)  # [N, F]
    more = bias_part(d_y, weights, row_to_slot, slot_to_row, offsets, b_down)
    d_pre, _, d_row_weights, d_terms = grouped_mlp_act_bwd(
        g, pre, row_weights, of, more, need_d_series
    )
    d_weights = take_scalars(d_row_weights, slot_to_row)
    d_x = d_y.new_empty(0, H)
    if need_d_x:
        up = (gate_up, gate_up_scale, gate_up_zero, offsets, scheme, gate_up_group)
        d_rows = grouped_gemm_quantized_dx(d_pre, *up, H)  # [N, H]
        d_x = unpermute_fwd(d_rows, row_to_slot, slot_to_row, None)
    sums = bias_sums(d_pre, d_out, row_weights, offsets, need_d_b)
    d_series = d_terms if series is None else d_terms.to(series.dtype)
    return d_x, d_weights.to(weights.dtype), *sums, d_series
