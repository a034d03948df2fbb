"""Grouped products: expert-sorted rows by each expert's weight, forward, dX and dW.

``offsets`` maps an expert to its first row. The last entry ends the rows in use: those after it are
never multiplied, and are stored as zero.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from . import _specialized
from ._common import narrow
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
    zero_unused_rows,
)
from ._tiles import count_tiles, locate_tile
from ._weight_gradient import weight_gradient


@triton.jit
def _grouped_gemm_kernel(
    rows,  # [N, R], a pointer or a descriptor
    w,  # [E, C, R], or [E, R, C] if not R_LAST: a pointer or a descriptor
    offsets_ptr,  # [E + 1]
    out_ptr,  # [N, C]
    stride_rows_n,
    stride_w_e,
    stride_w_c,
    stride_w_r,
    N,
    C,
    R,
    E,
    R_LAST: tl.constexpr,
    EVEN_R: tl.constexpr,
    SWAP: tl.constexpr,
    DOT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    E_P2: tl.constexpr,
):
    weight = Weight(
        source=w, stride_e=stride_w_e, stride_c=stride_w_c, stride_r=stride_w_r, C=C, R=R
    )
    tiles_c = tl.cdiv(C, BLOCK_C)
    tiles = count_tiles(offsets_ptr, N, E, BLOCK_M=BLOCK_M, E_P2=E_P2) * tiles_c
    for tile_id in range(tl.program_id(0), tiles, tl.num_programs(0)):
        tile = locate_tile(tile_id, tiles_c, offsets_ptr, N, E, BLOCK_M=BLOCK_M, E_P2=E_P2)
        # a tile may overrun its expert: there it multiplies the next expert's rows, or copies of
        # the last row, so that the loop needs no mask, and stores nothing
        if isinstance(rows, tl.tensor_descriptor):
            row_source = rows
        else:
            offs_n = tl.minimum(tile.first_row + tl.arange(0, BLOCK_M), tile.end_row - 1)
            row_source = rows + offs_n.to(tl.int64) * stride_rows_n
        acc = tile_product(
            row_source=row_source,
            weight=weight,
            tile=tile,
            HALVES=1,
            R_LAST=R_LAST,
            EVEN_R=EVEN_R,
            SWAP=SWAP,
            DOT=DOT,
            BLOCK_M=BLOCK_M,
            BLOCK_C=BLOCK_C,
            BLOCK_R=BLOCK_R,
        )
        first_c = tile.column * BLOCK_C
        ptrs = tile_ptrs(out_ptr, C, tile.first_row, first_c, BLOCK_M=BLOCK_M, COLUMNS=BLOCK_C)
        mask = tile_mask(tile, first_c, C, BLOCK_M=BLOCK_M, COLUMNS=BLOCK_C)
        tl.store(ptrs, narrow(acc, out_ptr.dtype.element_ty), mask=mask)

    # a loop of its own: a branch in the one above would cost registers through the product
    zero_unused_rows(out_ptr, offsets_ptr, N, C, E, BLOCK_M=BLOCK_M, BLOCK_C=BLOCK_C)


def _product(rows: Tensor, weight: Tensor, offsets: Tensor, *, r_last: bool) -> Tensor:
    N = rows.shape[0]
    w = weight if r_last else weight.mT
    E, C, R = w.shape
    out = torch.empty(N, C, dtype=rows.dtype, device=rows.device)
    if not out.numel():
        return out
    if not R or not E:
        return out.zero_()
    rows = contiguous_rows(rows)
    config = find_config("gemm", rows.dtype, N, E, C, aligned=aligned(weight))
    w_desc = describable(weight)
    rows_desc = w_desc and describable(rows)
    if config.specialize and rows_desc:
        _specialized.launch(rows, weight, offsets, out, config, r_last=r_last)
        return out
    box_rows = [config.block_m, config.block_r]
    box_w = [config.block_c, config.block_r] if r_last else [config.block_r, config.block_c]
    _grouped_gemm_kernel[grid(config, N, E, C, rows.device)](
        rows=TensorDescriptor.from_tensor(rows, box_rows) if rows_desc else rows,
        w=TensorDescriptor.from_tensor(weight, [1, *box_w]) if w_desc else w,
        offsets_ptr=offsets,
        out_ptr=out,
        stride_rows_n=rows.stride(0),
        stride_w_e=w.stride(0),
        stride_w_c=w.stride(1),
        stride_w_r=w.stride(2),
        N=N,
        C=C,
        R=R,
        E=E,
        R_LAST=r_last,
        **constants(config, rows.dtype, E, R),
    )
    return out


def grouped_gemm_fwd(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``[N, I], [E, O, I], [E + 1] -> [N, O]``."""
    return _product(rows, weight, offsets, r_last=True)


def grouped_gemm_dx(d_out: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``[N, O], [E, O, I], [E + 1] -> [N, I]``."""
    return _product(d_out, weight, offsets, r_last=False)


def grouped_gemm_dw(d_out: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
    """``[N, O], [N, I], [E + 1] -> [E, O, I]``."""
    return weight_gradient(d_out, rows, offsets)
