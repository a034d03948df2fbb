"""The fused expert layer: gathered up projection with SwiGLU, down projection, and their backward.

Index tensors:
    row_to_slot  expert-sorted row -> slot = token * K + column; -1 in rows past offsets[E]
    slot_to_row  its inverse, [T, K]; -1 for a dropped slot
No tile covers the rows past offsets[E]: nothing computes or reads them.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ._common import INTERPRETED, narrow
from ._configs import find_config
from ._product import (
    Weight,
    aligned,
    constants,
    contiguous_rows,
    describable,
    grid,
    tile_mask,
    tile_product,
    tile_ptrs,
)
from ._tiles import count_tiles, locate_tile
from ._weight_gradient import weight_gradient
from .grouped_gemm import grouped_gemm_dx, grouped_gemm_fwd
from .unpermute import unpermute_fwd

BLOCK_SLOTS = 128  # slots of one program that sums d_weights; chosen, not measured


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
    w,  # [E, 2F, H] pointer, or [2E, F, H] descriptor
    weights_ptr,  # [T, K], read if WEIGHTED
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
    EVEN_R: tl.constexpr,
    SWAP: tl.constexpr,
    DOT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    E_P2: tl.constexpr,
):
    w_gate_up = Weight(
        source=w, stride_e=stride_w_e, stride_c=stride_w_f, stride_r=stride_w_h, C=F, R=H
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
            HALVES=2,
            R_LAST=True,
            EVEN_R=EVEN_R,
            SWAP=SWAP,
            DOT=DOT,
            BLOCK_M=BLOCK_M,
            BLOCK_C=BLOCK_C,
            BLOCK_R=BLOCK_R,
        )
        # rounding first halves the registers, and the backward pass starts from the same numbers
        acc = narrow(acc, act_ptr.dtype.element_ty)
        gate, up = acc.reshape(BLOCK_M, 2, BLOCK_C).permute(0, 2, 1).split()  # [BLOCK_M, BLOCK_C]
        first_f = tile.column * BLOCK_C
        mask = tile_mask(tile, first_f, F, BLOCK_M=BLOCK_M, COLUMNS=BLOCK_C)
        if SAVE:
            pre_ptrs = tile_ptrs(
                pre_ptr, 2 * F, tile.first_row, first_f, BLOCK_M=BLOCK_M, COLUMNS=BLOCK_C
            )
            tl.store(pre_ptrs, gate, mask=mask)
            tl.store(pre_ptrs + F, up, mask=mask)
        gate = gate.to(DOT.acc)
        act = gate / (1.0 + tl.exp(-gate)) * up.to(DOT.acc)
        if WEIGHTED:
            # reading the slots again is cheaper than holding them in registers meanwhile
            slot = _load_slots(row_to_slot_ptr, tile, BLOCK_M=BLOCK_M)
            act *= tl.load(weights_ptr + slot).to(DOT.acc)[:, None]
        act_ptrs = tile_ptrs(act_ptr, F, tile.first_row, first_f, BLOCK_M=BLOCK_M, COLUMNS=BLOCK_C)
        tl.store(act_ptrs, narrow(act, act_ptr.dtype.element_ty), mask=mask)


class Epilogue(NamedTuple):
    """What the epilogue of the down projection's gradient reads and writes."""

    pre_ptr: Any  # [N, 2F]
    d_pre_ptr: Any  # [N, 2F]
    act_ptr: Any  # [N, F]
    F: Any


@triton.jit
def _down_bwd_epilogue(
    g,  # [BLOCK_M, COLUMNS], d_y W
    row_weight,  # [BLOCK_M], routing weights
    epilogue,
    tile,
    first_f,
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
                right if i else left, row_weight, epilogue, tile, first_f + i * HALF, PART_F=PART_F
            )
    else:
        F = epilogue.F
        mask = tile_mask(tile, first_f, F, BLOCK_M=BLOCK_M, COLUMNS=COLUMNS)
        # one 64-bit base: 64-bit offsets of every element would spill
        tile_offset = tile.first_row.to(tl.int64) * (2 * F) + first_f
        offs = tl.arange(0, BLOCK_M)[:, None] * (2 * F) + tl.arange(0, COLUMNS)[None, :]
        gate = tl.load(epilogue.pre_ptr + tile_offset + offs, mask=mask, other=0.0).to(g.dtype)
        up = tl.load(epilogue.pre_ptr + tile_offset + F + offs, mask=mask, other=0.0).to(g.dtype)

        sig = 1.0 / (1.0 + tl.exp(-gate))
        silu = gate * sig
        act = silu * up
        d_weight = tl.sum(tl.where(mask, g * act, 0.0), 1)  # [BLOCK_M]
        dtype = epilogue.act_ptr.dtype.element_ty
        act_ptrs = tile_ptrs(
            epilogue.act_ptr, F, tile.first_row, first_f, BLOCK_M=BLOCK_M, COLUMNS=COLUMNS
        )
        tl.store(act_ptrs, narrow(act * row_weight[:, None], dtype), mask=mask)

        d_act = g * row_weight[:, None]
        d_gate = d_act * up * (sig + silu * (1.0 - sig))
        tl.store(epilogue.d_pre_ptr + tile_offset + offs, narrow(d_gate, dtype), mask=mask)
        d_up = d_act * silu
        tl.store(epilogue.d_pre_ptr + tile_offset + F + offs, narrow(d_up, dtype), mask=mask)
    return d_weight


@triton.jit
def _grouped_mlp_down_bwd_kernel(
    d_y_ptr,  # [T, H]
    w,  # [E, H, F], a pointer or a descriptor
    weights_ptr,  # [T, K]
    row_to_slot_ptr,  # [N]
    offsets_ptr,  # [E + 1]
    pre_ptr,  # [N, 2F]
    d_pre_ptr,  # [N, 2F]
    act_ptr,  # [N, F], silu(gate) * up * weight
    partial_ptr,  # [F tiles, N], d_weights of each tile of columns
    stride_d_y_t,
    stride_w_e,
    stride_w_h,
    stride_w_f,
    N,
    F,
    H,
    E,
    K,
    EVEN_R: tl.constexpr,
    SWAP: tl.constexpr,
    DOT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    PART_F: tl.constexpr,
    E_P2: tl.constexpr,
):
    w_down = Weight(
        source=w, stride_e=stride_w_e, stride_c=stride_w_f, stride_r=stride_w_h, C=F, R=H
    )
    epilogue = Epilogue(pre_ptr=pre_ptr, d_pre_ptr=d_pre_ptr, act_ptr=act_ptr, F=F)
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
            BLOCK_M=BLOCK_M,
            BLOCK_C=BLOCK_C,
            BLOCK_R=BLOCK_R,
        )
        row_weight = tl.load(weights_ptr + slot).to(DOT.acc)
        d_weight = _down_bwd_epilogue(
            g, row_weight, epilogue, tile, tile.column * BLOCK_C, PART_F=PART_F
        )
        offs_n = tile.first_row + tl.arange(0, BLOCK_M)
        partial_ptrs = partial_ptr + tile.column.to(tl.int64) * N + offs_n
        tl.store(partial_ptrs, d_weight, mask=offs_n < tile.end_row)


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
    for _ in range(0, tiles_f):  # always in this order, for the same bits in every run
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
    if act.numel() and w_down.numel():
        x = contiguous_rows(x)
        # whether the step from half to half is the same within and between experts
        even_halves = w_gate_up.stride(0) == 2 * F * w_gate_up.stride(1)
        config = find_config("up", x.dtype, N, E, F, aligned=aligned(w_gate_up) and even_halves)
        w: object = w_gate_up
        if describable(w_gate_up) and even_halves:
            # one box holds the same columns of both halves, for one wide product; swapped
            # operands need a box for each half
            box = [1 if config.swap else 2, config.block_c, config.block_r]
            w = TensorDescriptor.from_tensor(w_gate_up.view(2 * E, F, H), box)
        _grouped_mlp_up_kernel[grid(config, N, E, F, x.device)](
            x_ptr=x,
            w=w,
            weights_ptr=weights.contiguous(),
            row_to_slot_ptr=row_to_slot,
            offsets_ptr=offsets,
            pre_ptr=pre,
            act_ptr=act,
            stride_x_t=x.stride(0),
            stride_w_e=w_gate_up.stride(0),
            stride_w_f=w_gate_up.stride(1),
            stride_w_h=w_gate_up.stride(2),
            N=N,
            F=F,
            H=H,
            E=E,
            K=slot_to_row.shape[1],
            SAVE=save,
            WEIGHTED=not on_output,
            **constants(config, x.dtype, E, H),
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
    d_y, pre = contiguous_rows(d_y), pre.contiguous()
    if act.numel() and w_down.numel():
        w_desc = describable(w_down)
        config = find_config("down_bwd", x.dtype, N, E, F, aligned=aligned(w_down))
        box = [1, config.block_r, config.block_c]
        tiles_f = triton.cdiv(F, config.block_c)
        acc = torch.promote_types(x.dtype, torch.float32)
        partial = torch.empty(tiles_f, N, dtype=acc, device=x.device)
        _grouped_mlp_down_bwd_kernel[grid(config, N, E, F, x.device)](
            d_y_ptr=d_y,
            w=TensorDescriptor.from_tensor(w_down, box) if w_desc else w_down,
            weights_ptr=weights.contiguous(),
            row_to_slot_ptr=row_to_slot,
            offsets_ptr=offsets,
            pre_ptr=pre,
            d_pre_ptr=d_pre,
            act_ptr=act,
            partial_ptr=partial,
            stride_d_y_t=d_y.stride(0),
            stride_w_e=w_down.stride(0),
            stride_w_h=w_down.stride(1),
            stride_w_f=w_down.stride(2),
            N=N,
            F=F,
            H=H,
            E=E,
            K=K,
            # gate, up and their gradients do not fit in registers for all columns at once, and
            # pointers to the weight leave room for fewer. Chosen by the static figures
            # (bench/results/gpu_static.csv, 2026-11-22), not measured
            PART_F=8 if INTERPRETED else 32 if w_desc else 16,
            **constants(config, x.dtype, E, H),
        )
        _grouped_mlp_d_weights_kernel[(triton.cdiv(N, BLOCK_SLOTS),)](
            partial_ptr=partial,
            slot_to_row_ptr=slot_to_row,
            d_weights_ptr=d_weights,
            N=N,
            tiles_f=tiles_f,
            BLOCK_SLOTS=BLOCK_SLOTS,
        )
    else:
        d_weights.zero_()
    d_x, d_w_gate_up, d_w_down = x.new_empty(0, H), w_gate_up.new_empty(0), w_down.new_empty(0)
    if need_d_x:
        d_rows = grouped_gemm_dx(d_pre, w_gate_up, offsets)  # [N, H]
        d_x = unpermute_fwd(d_rows, row_to_slot, slot_to_row, None)
    if need_d_w:
        # the kernel gathers rows while it loads them, so that no [N, H] copy is made
        d_w_gate_up = weight_gradient(d_pre, x, offsets, row_to_slot, K, gather_rows=True)
        d_w_down = weight_gradient(d_y, act, offsets, row_to_slot, K, gather_d=True)
    return d_x, d_w_gate_up, d_w_down, d_weights
