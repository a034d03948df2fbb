"""What the epilogue of the down projection's gradient reads and writes, a block at a time."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from ._activation import split_halves
from ._common import narrow
from ._product import tile_mask, tile_ptrs


class Epilogue(NamedTuple):
    """What the epilogue of the down projection's gradient reads and writes."""

    pre_ptr: Any  # [N, O]
    d_pre_ptr: Any  # [N, O]
    act_ptr: Any  # [N, F], or None
    series_ptr: Any  # [2, terms], or None
    series_sums_ptr: Any  # [row tiles, parts of F, 2 * terms], or None
    F: Any


@triton.jit
def load_pre(epilogue, tile, first_f, mask, dtype: tl.constexpr, ACTIVATION: tl.constexpr):
    """``[BLOCK_M, COLUMNS]`` of the gate, and of up where there is a gate."""
    BLOCK_M: tl.constexpr = mask.shape[0]
    COLUMNS: tl.constexpr = mask.shape[1]
    F = epilogue.F
    if ACTIVATION.gated and not ACTIVATION.interleaved:
        # one 64-bit base: 64-bit offsets of every element would spill
        tile_offset = tile.first_row.to(tl.int64) * (2 * F) + first_f
        offs = tl.arange(0, BLOCK_M)[:, None] * (2 * F) + tl.arange(0, COLUMNS)[None, :]
        gate = tl.load(epilogue.pre_ptr + tile_offset + offs, mask=mask, other=0.0).to(dtype)
        up = tl.load(epilogue.pre_ptr + tile_offset + F + offs, mask=mask, other=0.0).to(dtype)
    else:
        WIDE: tl.constexpr = 2 if ACTIVATION.interleaved else 1
        WIDTH: tl.constexpr = COLUMNS * WIDE
        O, first_o = F * WIDE, first_f * WIDE
        ptrs = tile_ptrs(
            epilogue.pre_ptr, O, tile.first_row, first_o, BLOCK_M=BLOCK_M, COLUMNS=WIDTH
        )
        mask_o = tile_mask(tile, first_o, O, BLOCK_M=BLOCK_M, COLUMNS=WIDTH)
        pre = tl.load(ptrs, mask=mask_o, other=0.0).to(dtype)
        if ACTIVATION.interleaved:
            gate, up = split_halves(pre, ACT=ACTIVATION)
        else:
            gate, up = pre, pre
    return gate, up


@triton.jit
def store_d_pre(epilogue, tile, first_f, mask, d_gate, d_up, ACTIVATION: tl.constexpr):
    BLOCK_M: tl.constexpr = mask.shape[0]
    COLUMNS: tl.constexpr = mask.shape[1]
    F = epilogue.F
    dtype = epilogue.d_pre_ptr.dtype.element_ty
    if ACTIVATION.gated and not ACTIVATION.interleaved:
        tile_offset = tile.first_row.to(tl.int64) * (2 * F) + first_f
        offs = tl.arange(0, BLOCK_M)[:, None] * (2 * F) + tl.arange(0, COLUMNS)[None, :]
        tl.store(epilogue.d_pre_ptr + tile_offset + offs, narrow(d_gate, dtype), mask=mask)
        tl.store(epilogue.d_pre_ptr + tile_offset + F + offs, narrow(d_up, dtype), mask=mask)
    else:
        WIDE: tl.constexpr = 2 if ACTIVATION.interleaved else 1
        WIDTH: tl.constexpr = COLUMNS * WIDE
        O, first_o = F * WIDE, first_f * WIDE
        ptrs = tile_ptrs(
            epilogue.d_pre_ptr, O, tile.first_row, first_o, BLOCK_M=BLOCK_M, COLUMNS=WIDTH
        )
        mask_o = tile_mask(tile, first_o, O, BLOCK_M=BLOCK_M, COLUMNS=WIDTH)
        if ACTIVATION.interleaved:
            d_gate = tl.join(d_gate, d_up).reshape(BLOCK_M, WIDTH)
        tl.store(ptrs, narrow(d_gate, dtype), mask=mask_o)
