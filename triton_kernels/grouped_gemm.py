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
from ._biases import add_bias
from ._common import narrow
from ._configs import find_config
from ._decode import scaled
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
from ._quantized import INTEGERS, Stored, box, fitted, quantize_rows, quantized_arguments, stored
from ._tiles import count_tiles, locate_tile
from ._weight_gradient import weight_gradient


@triton.jit
def _grouped_gemm_kernel(
    rows,  # [N, R], a pointer or a descriptor
    row_scale_ptr,  # [N] if the rows are int8, else None
    w,  # [E, C, R], or [E, R, C] if not R_LAST: a pointer or a descriptor; stored, if quantised
    scale_ptr,  # [E, scale_rows, groups] if w is quantised, else None
    zero_ptr,  # None, or in the shape of scale
    bias_ptr,  # [E, C], or None
    offsets_ptr,  # [E + 1]
    out_ptr,  # [N, C]
    stride_rows_n,
    stride_w_e,
    stride_w_c,
    stride_w_r,
    scale_rows,
    groups,
    rows_per_scale,
    N,
    C,
    R,
    E,
    R_LAST: tl.constexpr,
    EVEN_R: tl.constexpr,
    SWAP: tl.constexpr,
    DOT: tl.constexpr,
    FORMAT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    E_P2: tl.constexpr,
):
    weight = Weight(
        source=w,
        stride_e=stride_w_e,
        stride_c=stride_w_c,
        stride_r=stride_w_r,
        C=C,
        R=R,
        scale=scale_ptr,
        zero=zero_ptr,
        scale_rows=scale_rows,
        groups=groups,
        rows_per_scale=rows_per_scale,
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
            FORMAT=FORMAT,
            BLOCK_M=BLOCK_M,
            BLOCK_C=BLOCK_C,
            BLOCK_R=BLOCK_R,
        )
        if row_scale_ptr is not None:
            offs_n = tl.minimum(tile.first_row + tl.arange(0, BLOCK_M), tile.end_row - 1)
            row_scale = tl.load(row_scale_ptr + offs_n)
            acc = scaled(acc, weight, tile, row_scale, HALF=0, BLOCK_C=BLOCK_C)
        if bias_ptr is not None:
            acc = add_bias(acc, bias_ptr, weight, tile, C, HALF=0, BLOCK_C=BLOCK_C)
        first_c = tile.column * BLOCK_C
        ptrs = tile_ptrs(out_ptr, C, tile.first_row, first_c, BLOCK_M=BLOCK_M, COLUMNS=BLOCK_C)
        mask = tile_mask(tile, first_c, C, BLOCK_M=BLOCK_M, COLUMNS=BLOCK_C)
        tl.store(ptrs, narrow(acc, out_ptr.dtype.element_ty), mask=mask)

    # a loop of its own: a branch in the one above would cost registers through the product
    zero_unused_rows(out_ptr, offsets_ptr, N, C, E, BLOCK_M=BLOCK_M, BLOCK_C=BLOCK_C)


def _product(
    rows: Tensor,
    weight: Tensor | Stored,
    offsets: Tensor,
    *,
    r_last: bool,
    row_scale: Tensor | None = None,
    dtype: torch.dtype | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """``[N, R] -> [N, C]`` in ``dtype``, plus ``bias [E, C]``.

    int8 rows, which have scales, multiply integers.
    """
    source = weight.data if isinstance(weight, Stored) else weight
    w = source if r_last else source.mT
    N, E = rows.shape[0], w.shape[0]
    C, R = weight.shape[1:] if r_last else weight.shape[:0:-1]
    out = torch.empty(N, C, dtype=dtype or rows.dtype, device=rows.device)
    if not out.numel():
        return out
    if not E or not (R or bias is not None):
        return out.zero_()
    rows = contiguous_rows(rows)
    config = find_config("gemm", rows.dtype, N, E, C, aligned=aligned(source))
    if isinstance(weight, Stored):
        config = fitted(config, weight, decoded=row_scale is None)
    box_rows = [config.block_m, config.block_r]
    box_w = [config.block_c, config.block_r] if r_last else [config.block_r, config.block_c]
    w_box = box(weight, [1, *box_w])
    rows_desc = w_box is not None and describable(rows)
    if config.specialize and rows_desc and source is weight and bias is None:
        _specialized.launch(rows, source, offsets, out, config, r_last=r_last)
        return out
    if config.specialize:  # twice the warps multiply: one group of them has no room for the tile
        config = config._replace(num_warps=2 * config.num_warps)
    _grouped_gemm_kernel[grid(config, N, E, C, rows.device)](
        rows=TensorDescriptor.from_tensor(rows, box_rows) if rows_desc else rows,
        row_scale_ptr=row_scale,
        w=source if w_box is None else TensorDescriptor.from_tensor(source, w_box),
        bias_ptr=None if bias is None else bias.contiguous(),
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
        **quantized_arguments(weight, decoded=row_scale is None),
        **constants(config, rows.dtype, E, R),
    )
    return out


def integer_product(
    q: Tensor,
    row_scale: Tensor,
    weight: Stored,
    offsets: Tensor,
    dtype: torch.dtype,
    bias: Tensor | None = None,
) -> Tensor:
    """``int8 [N, I], [N], [E, O, I], [E + 1] -> [N, O]`` in ``dtype``, plus ``bias [E, O]``."""
    return _product(q, weight, offsets, r_last=True, row_scale=row_scale, dtype=dtype, bias=bias)


def decoded_product(
    rows: Tensor, weight: Stored, offsets: Tensor, *, r_last: bool, bias: Tensor | None = None
) -> Tensor:
    """``[N, I], [E, O, I], [E + 1] -> [N, O]``, or without r_last ``[N, O] -> [N, I]``."""
    return _product(rows, weight, offsets, r_last=r_last, bias=bias)


def biased_product(rows: Tensor, weight: Tensor, offsets: Tensor, bias: Tensor | None) -> Tensor:
    """``[N, I], [E, O, I], [E + 1] -> [N, O]``, plus ``bias [E, O]``."""
    return _product(rows, weight, offsets, r_last=True, bias=bias)


def grouped_gemm_fwd(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``[N, I], [E, O, I], [E + 1] -> [N, O]``."""
    return _product(rows, weight, offsets, r_last=True)


def grouped_gemm_dx(d_out: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``[N, O], [E, O, I], [E + 1] -> [N, I]``."""
    return _product(d_out, weight, offsets, r_last=False)


def grouped_gemm_dw(d_out: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
    """``[N, O], [N, I], [E + 1] -> [E, O, I]``."""
    return weight_gradient(d_out, rows, offsets)


def grouped_gemm_quantized_fwd(
    rows: Tensor,
    data: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    offsets: Tensor,
    scheme: str,
    group_size: int | None,
) -> Tensor:
    """``[N, I], QuantizedWeight of [E, O, I], [E + 1] -> [N, O]``."""
    weight = stored(data, scale, zero, scheme, group_size, rows.dtype)
    if scheme in INTEGERS:
        return integer_product(*quantize_rows(rows, offsets), weight, offsets, rows.dtype)
    return decoded_product(rows, weight, offsets, r_last=True)


def grouped_gemm_quantized_dx(
    d_out: Tensor,
    data: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    offsets: Tensor,
    scheme: str,
    group_size: int | None,
    columns: int,
) -> Tensor:
    """``[N, O], QuantizedWeight of [E, O, I], [E + 1] -> [N, I = columns]``."""
    weight = stored(data, scale, zero, scheme, group_size, d_out.dtype)
    return decoded_product(d_out, weight, offsets, r_last=False)
