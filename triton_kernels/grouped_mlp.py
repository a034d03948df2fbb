"""The fused expert layer: gathered up projection with SwiGLU, down projection, and their backward.

Index tensors:
    row_to_slot  expert-sorted row -> slot = token * K + column; -1 in rows past offsets[E]
    slot_to_row  its inverse, [T, K]; -1 for a dropped slot
Rows past offsets[E] are in no tile: nothing computes or reads them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ._common import INTERPRETED, narrow
from ._configs import config
from .grouped_gemm import (
    aligned,
    contiguous_rows,
    count_tiles,
    describable,
    dot_options,
    grid,
    grouped_gemm_dx,
    grouped_gemm_fwd,
    locate_tile,
    tile_product,
    weight_gradient,
)
from .unpermute import unpermute_fwd

BLOCK_SLOTS = 128


@triton.jit
def _grouped_mlp_up_kernel(
    x_ptr,  # [T, H]
    w,  # [2E, F, H] descriptor, or pointer to [E, 2F, H]
    weights_ptr,  # [T, K]
    row_to_slot_ptr,  # [N]
    offsets_ptr,  # [E + 1]
    pre_ptr,  # [N, 2F], written if SAVE
    act_ptr,  # [N, F]
    stride_x_t,
    stride_w_e,
    stride_w_f,
    stride_w_h,
    N,
    F,
    H,
    E,
    K,
    SAVE: tl.constexpr,
    WEIGHTED: tl.constexpr,
    W_DESC: tl.constexpr,
    EVEN_H: tl.constexpr,
    SWAP: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_H: tl.constexpr,
    E_P2: tl.constexpr,
):
    tiles_f = tl.cdiv(F, BLOCK_F)
    tiles = count_tiles(offsets_ptr, N, E, BLOCK_M, E_P2) * tiles_f
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        expert, first, last, f = locate_tile(tile, tiles_f, offsets_ptr, N, E, BLOCK_M, E_P2)
        offs_n = first + tl.arange(0, BLOCK_M)
        # past the expert's end its last row stands in: no mask in the loop, none is stored
        slot = tl.load(row_to_slot_ptr + tl.minimum(offs_n, last - 1))
        acc = tile_product(
            x_ptr + (slot // K).to(tl.int64) * stride_x_t,
            w,
            first,
            expert,
            f * BLOCK_F,
            stride_w_e,
            stride_w_f,
            stride_w_h,
            F,
            H,
            2,
            False,
            W_DESC,
            True,
            EVEN_H,
            SWAP,
            False,
            DOT,
            PRECISION,
            ACC,
            BLOCK_M,
            BLOCK_F,
            BLOCK_H,
        )
        # rounded first: half the registers, and the backward pass starts from the same numbers
        acc = narrow(acc, act_ptr.dtype.element_ty)
        gate, up = acc.reshape(BLOCK_M, 2, BLOCK_F).permute(0, 2, 1).split()  # [BLOCK_M, BLOCK_F]
        offs_m = tl.arange(0, BLOCK_M)[:, None]
        offs_f = tl.arange(0, BLOCK_F)[None, :]
        mask = (offs_m < last - first) & (offs_f < F - f * BLOCK_F)
        # one 64-bit base a tile: 64-bit offsets of every element would spill
        if SAVE:
            pre_tile = pre_ptr + first.to(tl.int64) * (2 * F) + f * BLOCK_F
            pre_ptrs = pre_tile + (offs_m * (2 * F) + offs_f)
            tl.store(pre_ptrs, gate, mask=mask)
            tl.store(pre_ptrs + F, up, mask=mask)
        gate = gate.to(ACC)
        act = gate / (1.0 + tl.exp(-gate)) * up.to(ACC)
        if WEIGHTED:
            # the slot is read again: cheaper than registers held through the product
            slot = tl.load(row_to_slot_ptr + tl.minimum(offs_n, last - 1))
            act *= tl.load(weights_ptr + slot).to(ACC)[:, None]
        act_ptrs = act_ptr + first.to(tl.int64) * F + f * BLOCK_F + (offs_m * F + offs_f)
        tl.store(act_ptrs, narrow(act, act_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _down_bwd_epilogue(
    g,  # [BLOCK_M, COLUMNS], d_y W
    first_f,
    first,
    last,
    weight,  # [BLOCK_M]
    pre_ptr,
    d_pre_ptr,
    act_ptr,
    F,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    COLUMNS: tl.constexpr,
    PART_F: tl.constexpr,
):
    """Stores d_pre and the weighted activation, PART_F columns at a time; returns d_weights."""
    if COLUMNS > PART_F:
        HALF: tl.constexpr = COLUMNS // 2
        left, right = g.reshape(BLOCK_M, 2, HALF).permute(0, 2, 1).split()
        d_weight = tl.zeros((BLOCK_M,), dtype=ACC)
        for i in tl.static_range(2):
            d_weight += _down_bwd_epilogue(
                right if i else left,
                first_f + i * HALF,
                first,
                last,
                weight,
                pre_ptr,
                d_pre_ptr,
                act_ptr,
                F,
                ACC,
                BLOCK_M,
                HALF,
                PART_F,
            )
    else:
        offs_m = tl.arange(0, BLOCK_M)[:, None]
        offs_f = tl.arange(0, COLUMNS)[None, :]
        mask = (offs_m < last - first) & (offs_f < F - first_f)
        # one 64-bit base a tile: 64-bit offsets of every element would spill
        wide = first.to(tl.int64) * (2 * F) + first_f
        offs = offs_m * (2 * F) + offs_f
        gate = tl.load(pre_ptr + wide + offs, mask=mask, other=0.0).to(ACC)
        up = tl.load(pre_ptr + wide + F + offs, mask=mask, other=0.0).to(ACC)

        sig = 1.0 / (1.0 + tl.exp(-gate))
        silu = gate * sig
        act = silu * up
        d_weight = tl.sum(tl.where(mask, g * act, 0.0), 1)  # [BLOCK_M]
        act_ptrs = act_ptr + first.to(tl.int64) * F + first_f + (offs_m * F + offs_f)
        tl.store(act_ptrs, narrow(act * weight[:, None], act_ptr.dtype.element_ty), mask=mask)

        d_act = g * weight[:, None]
        d_gate = d_act * up * (sig + silu * (1.0 - sig))
        tl.store(d_pre_ptr + wide + offs, narrow(d_gate, d_pre_ptr.dtype.element_ty), mask=mask)
        d_up = d_act * silu
        tl.store(d_pre_ptr + wide + F + offs, narrow(d_up, d_pre_ptr.dtype.element_ty), mask=mask)
    return d_weight


@triton.jit
def _grouped_mlp_down_bwd_kernel(
    d_y_ptr,  # [T, H]
    w,  # [E, H, F]
    weights_ptr,  # [T, K]
    row_to_slot_ptr,  # [N]
    offsets_ptr,  # [E + 1]
    pre_ptr,  # [N, 2F]
    d_pre_ptr,  # [N, 2F]
    act_ptr,  # [N, F], silu(gate) * up * weight
    d_weights_ptr,  # [F tiles, N], partial sums
    stride_d_y_t,
    stride_w_e,
    stride_w_h,
    stride_w_f,
    N,
    F,
    H,
    E,
    K,
    W_DESC: tl.constexpr,
    EVEN_H: tl.constexpr,
    SWAP: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_H: tl.constexpr,
    PART_F: tl.constexpr,
    E_P2: tl.constexpr,
):
    tiles_f = tl.cdiv(F, BLOCK_F)
    tiles = count_tiles(offsets_ptr, N, E, BLOCK_M, E_P2) * tiles_f
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        expert, first, last, f = locate_tile(tile, tiles_f, offsets_ptr, N, E, BLOCK_M, E_P2)
        offs_n = first + tl.arange(0, BLOCK_M)
        slot = tl.load(row_to_slot_ptr + tl.minimum(offs_n, last - 1))
        # y = w (act W'), so with g = d_y W: d_w = g . act, d_act = w g, and dW = d_y' (w act):
        # the output of the down projection is not needed
        g = tile_product(
            d_y_ptr + (slot // K).to(tl.int64) * stride_d_y_t,
            w,
            first,
            expert,
            f * BLOCK_F,
            stride_w_e,
            stride_w_f,
            stride_w_h,
            F,
            H,
            1,
            False,
            W_DESC,
            False,
            EVEN_H,
            SWAP,
            False,
            DOT,
            PRECISION,
            ACC,
            BLOCK_M,
            BLOCK_F,
            BLOCK_H,
        )
        weight = tl.load(weights_ptr + slot).to(ACC)
        d_weight = _down_bwd_epilogue(
            g,
            f * BLOCK_F,
            first,
            last,
            weight,
            pre_ptr,
            d_pre_ptr,
            act_ptr,
            F,
            ACC,
            BLOCK_M,
            BLOCK_F,
            PART_F,
        )
        tl.store(d_weights_ptr + f.to(tl.int64) * N + offs_n, d_weight, mask=offs_n < last)


@triton.jit
def _grouped_mlp_d_weights_kernel(
    partial_ptr,  # [F tiles, N]
    slot_to_row_ptr,  # [N]
    d_weights_ptr,  # [N]
    N,
    tiles_f,
    BLOCK_SLOTS: tl.constexpr,
):
    slot = tl.program_id(0).to(tl.int64) * BLOCK_SLOTS + tl.arange(0, BLOCK_SLOTS)
    mask = slot < N
    row = tl.load(slot_to_row_ptr + slot, mask=mask, other=-1)
    acc = tl.zeros((BLOCK_SLOTS,), dtype=partial_ptr.dtype.element_ty)
    partial_ptrs = partial_ptr + row
    for _ in range(0, tiles_f):  # in order: the same bits every run
        acc += tl.load(partial_ptrs, mask=row >= 0, other=0.0)
        partial_ptrs += N
    tl.store(d_weights_ptr + slot, narrow(acc, d_weights_ptr.dtype.element_ty), mask=mask)


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
    H, N = x.shape[1], row_to_slot.shape[0]
    E, _, F = w_down.shape
    on_output = weight_on == "output"
    pre = x.new_empty(N if save else 0, 2 * F)
    act = x.new_empty(N, F)
    if act.numel() and H:
        x = contiguous_rows(x)
        weights = weights.contiguous()
        one_step = w_gate_up.stride(0) == 2 * F * w_gate_up.stride(1)  # from half to half
        w_desc = describable(w_gate_up) and one_step
        tile = config("up", x.dtype, N, E, F, aligned=aligned(w_gate_up) and one_step)
        w: object = w_gate_up
        if w_desc:
            # one box holds the same columns of both halves: one wide product instead of two
            halves = w_gate_up.view(2 * E, F, H)
            w = TensorDescriptor.from_tensor(
                halves, [1 if tile.swap else 2, tile.block_c, tile.block_r]
            )
        _grouped_mlp_up_kernel[grid(tile, N, E, F, x.device)](
            x,
            w,
            weights,
            row_to_slot,
            offsets,
            pre,
            act,
            x.stride(0),
            *w_gate_up.stride(),
            N,
            F,
            H,
            E,
            slot_to_row.shape[1],
            SAVE=save,
            WEIGHTED=not on_output,
            W_DESC=w_desc,
            EVEN_H=H % tile.block_r == 0,
            SWAP=bool(tile.swap),
            **dot_options(x.dtype),
            BLOCK_M=tile.block_m,
            BLOCK_F=tile.block_c,
            BLOCK_H=tile.block_r,
            E_P2=triton.next_power_of_2(E + 1),
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
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
    H, N = x.shape[1], row_to_slot.shape[0]
    E, _, F = w_down.shape
    K = slot_to_row.shape[1]
    d_weights = torch.empty(weights.shape, dtype=weights.dtype, device=weights.device)
    d_pre = x.new_empty(N, 2 * F)
    act = x.new_empty(N, F)
    d_y = contiguous_rows(d_y)
    if act.numel() and H:
        w_desc = describable(w_down)
        tile = config("down_bwd", x.dtype, N, E, F, aligned=aligned(w_down))
        tiles_f = triton.cdiv(F, tile.block_c)
        partial = torch.empty(
            tiles_f, N, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device
        )
        w: object = w_down
        if w_desc:
            w = TensorDescriptor.from_tensor(w_down, [1, tile.block_r, tile.block_c])
        _grouped_mlp_down_bwd_kernel[grid(tile, N, E, F, x.device)](
            d_y,
            w,
            weights.contiguous(),
            row_to_slot,
            offsets,
            pre,
            d_pre,
            act,
            partial,
            d_y.stride(0),
            *w_down.stride(),
            N,
            F,
            H,
            E,
            K,
            W_DESC=w_desc,
            EVEN_H=H % tile.block_r == 0,
            SWAP=bool(tile.swap),
            **dot_options(x.dtype),
            BLOCK_M=tile.block_m,
            BLOCK_F=tile.block_c,
            BLOCK_H=tile.block_r,
            # gate, up and what comes of them would not fit in registers whole, fewer of them beside
            # pointers to the weight
            PART_F=8 if INTERPRETED else 32 if w_desc else 16,
            E_P2=triton.next_power_of_2(E + 1),
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
        _grouped_mlp_d_weights_kernel[(triton.cdiv(N, BLOCK_SLOTS),)](
            partial, slot_to_row, d_weights, N, tiles_f, BLOCK_SLOTS=BLOCK_SLOTS
        )
    else:
        d_weights.zero_()
    d_x, d_w_gate_up, d_w_down = x.new_empty(0, H), w_gate_up.new_empty(0), w_down.new_empty(0)
    if need_d_x:
        d_rows = grouped_gemm_dx(d_pre, w_gate_up, offsets)  # [N, H]
        d_x = unpermute_fwd(d_rows, row_to_slot, slot_to_row, None)
    if need_d_w:
        # gathered while they are loaded: neither [N, H] copy is ever made
        d_w_gate_up = weight_gradient(d_pre, x, offsets, row_to_slot, K, gather_rows=True)
        d_w_down = weight_gradient(d_y, act, offsets, row_to_slot, K, gather_d=True)
    return d_x, d_w_gate_up, d_w_down, d_weights
