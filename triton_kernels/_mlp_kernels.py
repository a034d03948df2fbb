"""The kernels of the expert layer: up projection with its activation, and the gradient of both.

``row_to_slot`` maps an expert-sorted row to its slot, token * K + column. No tile covers the rows
past offsets[E]: nothing computes or reads them.
"""

import triton
import triton.language as tl

from ._activation import (
    activate,
    clamped_gate,
    clamped_up,
    differentiate,
    split_halves,
    store_series_sums,
)
from ._biases import add_bias
from ._common import narrow
from ._decode import largest, row_scales, scaled, to_int8
from ._epilogue import Epilogue, load_pre, store_d_pre
from ._product import Weight, tile_mask, tile_product, tile_ptrs
from ._tiles import count_tiles, locate_tile


@triton.jit
def _load_slots(row_to_slot_ptr, tile, BLOCK_M: tl.constexpr):
    """``[BLOCK_M]`` slots of the tile's rows.

    A tile may overrun its expert: there it repeats the expert's last row, so that the loop of the
    product needs no mask, and stores nothing.
    """
    offs_n = tl.minimum(tile.first_row + tl.arange(0, BLOCK_M), tile.end_row - 1)
    return tl.load(row_to_slot_ptr + offs_n)


@triton.jit
def _grouped_mlp_up_kernel(
    x_ptr,  # [T, H]
    x_scale_ptr,  # [T] if x is int8, else None
    w,  # [E, O, H] pointer, or [E * HALVES, O / HALVES, H] descriptor; stored, if quantised
    scale_ptr,  # [E, scale_rows, groups] if w is quantised, else None
    zero_ptr,  # None, or in the shape of scale
    bias_ptr,  # [E, O], or None
    series_ptr,  # [2, terms], or None
    weights_ptr,  # [T, K], read if WEIGHTED
    row_to_slot_ptr,  # [N]
    offsets_ptr,  # [E + 1]
    pre_ptr,  # [N, O], written if SAVE; O is 2F, or F without a gate
    act_ptr,  # [N, F]
    act_scale_ptr,  # [N] if act is to be int8, and one tile has all of F, else None
    stride_x_t,
    stride_w_e,
    stride_w_f,
    stride_w_h,
    scale_rows,
    groups,
    rows_per_scale,
    N,
    F,
    H,
    E,
    K,
    SAVE: tl.constexpr,
    WEIGHTED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    EVEN_R: tl.constexpr,
    SWAP: tl.constexpr,
    DOT: tl.constexpr,
    FORMAT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    E_P2: tl.constexpr,
):
    # columns of the weight that one of the result takes: side by side, or from each half
    WIDE: tl.constexpr = 2 if ACTIVATION.interleaved else 1
    HALVES: tl.constexpr = 2 if ACTIVATION.gated and not ACTIVATION.interleaved else 1
    w_gate_up = Weight(
        source=w,
        stride_e=stride_w_e,
        stride_c=stride_w_f,
        stride_r=stride_w_h,
        C=F * WIDE,
        R=H,
        scale=scale_ptr,
        zero=zero_ptr,
        scale_rows=scale_rows,
        groups=groups,
        rows_per_scale=rows_per_scale,
    )
    tiles_f = tl.cdiv(F, BLOCK_C)
    tiles = count_tiles(offsets_ptr, N, E, BLOCK_M=BLOCK_M, E_P2=E_P2) * tiles_f
    for tile_id in range(tl.program_id(0), tiles, tl.num_programs(0)):
        tile = locate_tile(tile_id, tiles_f, offsets_ptr, N, E, BLOCK_M=BLOCK_M, E_P2=E_P2)
        slot = _load_slots(row_to_slot_ptr, tile, BLOCK_M=BLOCK_M)
        acc = tile_product(
            row_source=x_ptr + (slot // K).to(tl.int64) * stride_x_t,
            weight=w_gate_up,
            tile=tile,
            HALVES=HALVES,
            R_LAST=True,
            EVEN_R=EVEN_R,
            SWAP=SWAP,
            DOT=DOT,
            FORMAT=FORMAT,
            BLOCK_M=BLOCK_M,
            BLOCK_C=BLOCK_C * WIDE,
            BLOCK_R=BLOCK_R,
        )
        dtype = pre_ptr.dtype.element_ty
        O = F * WIDE * HALVES
        if x_scale_ptr is None:
            if bias_ptr is not None:
                acc = add_bias(acc, bias_ptr, w_gate_up, tile, O, HALF=0, BLOCK_C=BLOCK_C * WIDE)
            # rounding first halves the registers, and the backward pass starts from these numbers
            acc = narrow(acc, dtype)
        elif HALVES == 1:
            # not rounded: the integers that the activation is rounded to would carry it on
            slot = _load_slots(row_to_slot_ptr, tile, BLOCK_M=BLOCK_M)
            x_scale = tl.load(x_scale_ptr + slot // K)
            acc = scaled(acc, w_gate_up, tile, x_scale, HALF=0, BLOCK_C=BLOCK_C * WIDE)
            if bias_ptr is not None:
                acc = add_bias(acc, bias_ptr, w_gate_up, tile, O, HALF=0, BLOCK_C=BLOCK_C * WIDE)
        if ACTIVATION.gated:
            gate, up = split_halves(acc, ACT=ACTIVATION)  # [BLOCK_M, BLOCK_C]
        else:
            gate, up = acc, None
        if x_scale_ptr is not None and HALVES == 2:
            slot = _load_slots(row_to_slot_ptr, tile, BLOCK_M=BLOCK_M)
            x_scale = tl.load(x_scale_ptr + slot // K)
            gate = scaled(gate, w_gate_up, tile, x_scale, HALF=0, BLOCK_C=BLOCK_C)
            up = scaled(up, w_gate_up, tile, x_scale, HALF=1, BLOCK_C=BLOCK_C)
            if bias_ptr is not None:
                gate = add_bias(gate, bias_ptr, w_gate_up, tile, O, HALF=0, BLOCK_C=BLOCK_C)
                up = add_bias(up, bias_ptr, w_gate_up, tile, O, HALF=1, BLOCK_C=BLOCK_C)
        first_f = tile.column * BLOCK_C
        mask = tile_mask(tile, first_f, F, BLOCK_M=BLOCK_M, COLUMNS=BLOCK_C)
        if SAVE and HALVES == 2:
            pre_ptrs = tile_ptrs(
                pre_ptr, 2 * F, tile.first_row, first_f, BLOCK_M=BLOCK_M, COLUMNS=BLOCK_C
            )
            tl.store(pre_ptrs, narrow(gate, dtype), mask=mask)
            tl.store(pre_ptrs + F, narrow(up, dtype), mask=mask)
        elif SAVE:
            COLUMNS: tl.constexpr = BLOCK_C * WIDE
            first_o = first_f * WIDE
            pre_ptrs = tile_ptrs(
                pre_ptr, O, tile.first_row, first_o, BLOCK_M=BLOCK_M, COLUMNS=COLUMNS
            )
            mask_o = tile_mask(tile, first_o, O, BLOCK_M=BLOCK_M, COLUMNS=COLUMNS)
            tl.store(pre_ptrs, narrow(acc, dtype), mask=mask_o)
        if ACTIVATION.gated:
            up = up.to(DOT.wide)
        act = activate(gate.to(DOT.wide), up, series_ptr, ACT=ACTIVATION)
        if act_scale_ptr is not None:
            act = narrow(act, dtype).to(tl.float32)
            act = tl.where(mask, act, 0.0)
            factor, act_scale = row_scales(largest(act))
            act = to_int8(act, factor)
            if WEIGHTED:
                slot = _load_slots(row_to_slot_ptr, tile, BLOCK_M=BLOCK_M)
                act_scale *= tl.load(weights_ptr + slot).to(tl.float32)
            offs_n = tile.first_row + tl.arange(0, BLOCK_M)
            tl.store(act_scale_ptr + offs_n, act_scale, mask=offs_n < tile.end_row)
        elif WEIGHTED:
            # reading the slots again is cheaper than holding them in registers meanwhile
            slot = _load_slots(row_to_slot_ptr, tile, BLOCK_M=BLOCK_M)
            act *= tl.load(weights_ptr + slot).to(DOT.acc)[:, None]
        act_ptrs = tile_ptrs(act_ptr, F, tile.first_row, first_f, BLOCK_M=BLOCK_M, COLUMNS=BLOCK_C)
        tl.store(act_ptrs, narrow(act, act_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _down_bwd_epilogue(
    g,  # [BLOCK_M, COLUMNS], d_y W
    row_weight,  # [BLOCK_M], routing weights
    epilogue,
    tile,
    first_f,
    ACTIVATION: tl.constexpr,
    PART_F: tl.constexpr,
):
    """Stores d_pre and the weighted activation, PART_F columns at a time; returns d_weights."""
    BLOCK_M: tl.constexpr = g.shape[0]
    COLUMNS: tl.constexpr = g.shape[1]
    if COLUMNS > PART_F:
        HALF: tl.constexpr = COLUMNS // 2
        left, right = g.reshape(BLOCK_M, 2, HALF).permute(0, 2, 1).split()
        d_weight = tl.zeros((BLOCK_M,), dtype=g.dtype)
        for i in tl.static_range(2):
            d_weight += _down_bwd_epilogue(
                right if i else left,
                row_weight,
                epilogue,
                tile,
                first_f + i * HALF,
                ACTIVATION=ACTIVATION,
                PART_F=PART_F,
            )
    else:
        F = epilogue.F
        mask = tile_mask(tile, first_f, F, BLOCK_M=BLOCK_M, COLUMNS=COLUMNS)
        gate, up = load_pre(epilogue, tile, first_f, mask, g.dtype, ACTIVATION=ACTIVATION)
        z = clamped_gate(gate, ACT=ACTIVATION)
        phi, slope = differentiate(z, epilogue.series_ptr, ACT=ACTIVATION)
        if ACTIVATION.gated:
            u = clamped_up(up, ACT=ACTIVATION)
            act = phi * u
        else:
            act = phi
        d_weight = tl.sum(tl.where(mask, g * act, 0.0), 1)  # [BLOCK_M]
        dtype = epilogue.d_pre_ptr.dtype.element_ty
        if epilogue.act_ptr is not None:
            act_ptrs = tile_ptrs(
                epilogue.act_ptr, F, tile.first_row, first_f, BLOCK_M=BLOCK_M, COLUMNS=COLUMNS
            )
            tl.store(act_ptrs, narrow(act * row_weight[:, None], dtype), mask=mask)

        d_phi = g * row_weight[:, None]
        d_up = d_phi  # not stored without a gate
        if ACTIVATION.gated:
            d_up = d_phi * phi
            d_phi *= u
            if ACTIVATION.limit is not None:
                d_up = tl.where(tl.abs(up) <= ACTIVATION.limit, d_up, 0.0)
        if epilogue.series_sums_ptr is not None:
            # row tiles of different experts have different places, if not one after the other
            place = (tile.first_row // BLOCK_M + tile.expert).to(tl.int64) * tl.cdiv(F, COLUMNS)
            place += first_f // COLUMNS
            sums_ptr = epilogue.series_sums_ptr + place * (2 * ACTIVATION.terms)
            if first_f < F:
                store_series_sums(
                    tl.where(mask, d_phi, 0.0), z, epilogue.series_ptr, sums_ptr, ACT=ACTIVATION
                )
        d_gate = d_phi * slope
        if ACTIVATION.limit is not None:
            d_gate = tl.where(gate <= ACTIVATION.limit, d_gate, 0.0)
        store_d_pre(epilogue, tile, first_f, mask, d_gate, d_up, ACTIVATION=ACTIVATION)
    return d_weight


@triton.jit
def _grouped_mlp_down_bwd_kernel(
    d_y_ptr,  # [T, H]
    w,  # [E, H, F], a pointer or a descriptor; stored, if quantised
    scale_ptr,  # [E, scale_rows, groups] if w is quantised, else None
    zero_ptr,  # None, or in the shape of scale
    series_ptr,  # [2, terms], or None
    series_sums_ptr,  # as in Epilogue, or None
    weights_ptr,  # [T, K]
    row_to_slot_ptr,  # [N]
    offsets_ptr,  # [E + 1]
    pre_ptr,  # [N, O]
    d_pre_ptr,  # [N, O]
    act_ptr,  # [N, F], the activation times the weight; None where no weight gets a gradient
    partial_ptr,  # [F tiles, N], d_weights of each tile of columns
    stride_d_y_t,
    stride_w_e,
    stride_w_h,
    stride_w_f,
    scale_rows,
    groups,
    rows_per_scale,
    N,
    F,
    H,
    E,
    K,
    ACTIVATION: tl.constexpr,
    EVEN_R: tl.constexpr,
    SWAP: tl.constexpr,
    DOT: tl.constexpr,
    FORMAT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    PART_F: tl.constexpr,
    E_P2: tl.constexpr,
):
    w_down = Weight(
        source=w,
        stride_e=stride_w_e,
        stride_c=stride_w_f,
        stride_r=stride_w_h,
        C=F,
        R=H,
        scale=scale_ptr,
        zero=zero_ptr,
        scale_rows=scale_rows,
        groups=groups,
        rows_per_scale=rows_per_scale,
    )
    epilogue = Epilogue(
        pre_ptr=pre_ptr,
        d_pre_ptr=d_pre_ptr,
        act_ptr=act_ptr,
        series_ptr=series_ptr,
        series_sums_ptr=series_sums_ptr,
        F=F,
    )
    tiles_f = tl.cdiv(F, BLOCK_C)
    tiles = count_tiles(offsets_ptr, N, E, BLOCK_M=BLOCK_M, E_P2=E_P2) * tiles_f
    for tile_id in range(tl.program_id(0), tiles, tl.num_programs(0)):
        tile = locate_tile(tile_id, tiles_f, offsets_ptr, N, E, BLOCK_M=BLOCK_M, E_P2=E_P2)
        slot = _load_slots(row_to_slot_ptr, tile, BLOCK_M=BLOCK_M)
        # y = w (act W'), so with g = d_y W: d_w = g . act, d_act = w g, and dW = d_y' (w act).
        # None of them needs the output of the down projection
        g = tile_product(
            row_source=d_y_ptr + (slot // K).to(tl.int64) * stride_d_y_t,
            weight=w_down,
            tile=tile,
            HALVES=1,
            R_LAST=False,
            EVEN_R=EVEN_R,
            SWAP=SWAP,
            DOT=DOT,
            FORMAT=FORMAT,
            BLOCK_M=BLOCK_M,
            BLOCK_C=BLOCK_C,
            BLOCK_R=BLOCK_R,
        )
        row_weight = tl.load(weights_ptr + slot).to(DOT.acc)
        d_weight = _down_bwd_epilogue(
            g,
            row_weight,
            epilogue,
            tile,
            tile.column * BLOCK_C,
            ACTIVATION=ACTIVATION,
            PART_F=PART_F,
        )
        offs_n = tile.first_row + tl.arange(0, BLOCK_M)
        partial_ptrs = partial_ptr + tile.column.to(tl.int64) * N + offs_n
        tl.store(partial_ptrs, d_weight, mask=offs_n < tile.end_row)


@triton.jit
def _grouped_mlp_d_weights_kernel(
    partial_ptr,  # [parts, N]
    slot_to_row_ptr,  # [N]
    d_weights_ptr,  # [N]
    N,
    parts,
    BLOCK_SLOTS: tl.constexpr,
):
    slot = tl.program_id(0).to(tl.int64) * BLOCK_SLOTS + tl.arange(0, BLOCK_SLOTS)
    mask = slot < N
    row = tl.load(slot_to_row_ptr + slot, mask=mask, other=-1)
    acc = tl.zeros((BLOCK_SLOTS,), dtype=partial_ptr.dtype.element_ty)
    partial_ptrs = partial_ptr + row
    for _ in range(0, parts):  # always in this order, for the same bits in every run
        acc += tl.load(partial_ptrs, mask=row >= 0, other=0.0)
        partial_ptrs += N
    tl.store(d_weights_ptr + slot, narrow(acc, d_weights_ptr.dtype.element_ty), mask=mask)
