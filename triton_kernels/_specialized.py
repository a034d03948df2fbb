"""The grouped product with producer and consumer warps, on Hopper.

No row of configs.csv chooses it, since nobody has timed it: bench/gpu/autotune.py tries it, and
bench/results/gpu_static.csv has its figures. ``warp_specialize`` makes the compiler split the loop
of the product into warps that load and warps that multiply. It halves the boxes between two groups
of consumers only if the kernel makes the descriptors, and it accepts no reduction around the loop:
so a kernel before this one lists the row tiles.
"""

import contextvars

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import narrow
from ._configs import Config
from ._product import (
    Weight,
    dot,
    grid,
    load_box,
    multiply,
    tile_mask,
    tile_ptrs,
    zero_unused_rows,
)
from ._tiles import Tile, count_tiles, locate_tile, swizzle


@triton.jit
def _row_tiles_kernel(
    offsets_ptr,  # [E + 1]
    row_tiles_ptr,  # [1 + 3 * bound]: their number, then expert, first and end row of each
    N,
    E,
    BLOCK_M: tl.constexpr,
    E_P2: tl.constexpr,
):
    row_tile = tl.program_id(0)
    tiles_m = count_tiles(offsets_ptr, N, E, BLOCK_M=BLOCK_M, E_P2=E_P2)
    if row_tile == 0:
        tl.store(row_tiles_ptr, tiles_m)
    if row_tile < tiles_m:
        tile = locate_tile(row_tile, 1, offsets_ptr, N, E, BLOCK_M=BLOCK_M, E_P2=E_P2)
        entry_ptr = row_tiles_ptr + 1 + 3 * row_tile.to(tl.int64)
        tl.store(entry_ptr, tile.expert)
        tl.store(entry_ptr + 1, tile.first_row)
        tl.store(entry_ptr + 2, tile.end_row)


@triton.jit
def _listed_tile(tile_id, tiles_m, tiles_c, row_tiles_ptr):
    """The :class:`Tile` at place ``tile_id``; the swizzle ignores the boundaries of experts."""
    row_tile, column = swizzle(tile_id, tiles_m, tiles_c)
    entry_ptr = row_tiles_ptr + 1 + 3 * row_tile.to(tl.int64)
    return Tile(
        expert=tl.load(entry_ptr),
        first_row=tl.load(entry_ptr + 1),
        end_row=tl.load(entry_ptr + 2),
        column=column,
    )


@triton.jit
def _grouped_gemm_specialized_kernel(
    rows_ptr,  # [N, R]
    w_ptr,  # [E, C, R], or [E, R, C] if not R_LAST
    offsets_ptr,  # [E + 1]
    row_tiles_ptr,  # what _row_tiles_kernel has written
    out_ptr,  # [N, C]
    stride_rows_n,
    stride_w_e,
    stride_w_row,  # step of the last dimension but one
    N,
    C,
    R,
    E,
    R_LAST: tl.constexpr,
    DOT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    rows = tl.make_tensor_descriptor(
        rows_ptr, [N, R], [stride_rows_n.to(tl.int64), 1], [BLOCK_M, BLOCK_R]
    )
    if R_LAST:
        w = tl.make_tensor_descriptor(
            w_ptr, [E, C, R], [stride_w_e, stride_w_row, 1], [1, BLOCK_C, BLOCK_R]
        )
    else:
        w = tl.make_tensor_descriptor(
            w_ptr, [E, R, C], [stride_w_e, stride_w_row, 1], [1, BLOCK_R, BLOCK_C]
        )
    weight = Weight(
        source=w,
        stride_e=None,
        stride_c=None,
        stride_r=None,
        C=C,
        R=R,
        scale=None,
        zero=None,
        scale_rows=None,
        groups=None,
        rows_per_scale=None,
    )
    tiles_c = tl.cdiv(C, BLOCK_C)
    tiles_m = tl.load(row_tiles_ptr)
    for tile_id in range(tl.program_id(0), tiles_m * tiles_c, tl.num_programs(0)):
        tile = _listed_tile(tile_id, tiles_m, tiles_c, row_tiles_ptr)
        first_c = tile.column * BLOCK_C
        acc = tl.zeros((BLOCK_M, BLOCK_C), dtype=DOT.acc)
        for r in tl.range(0, R, BLOCK_R, warp_specialize=True):
            x = rows.load([tile.first_row, r])
            b = load_box(
                weight, tile.expert, first_c, r, R_LAST=R_LAST, COLUMNS=BLOCK_C, BLOCK_R=BLOCK_R
            )
            acc = multiply(x, b, acc, DOT=DOT)
        ptrs = tile_ptrs(out_ptr, C, tile.first_row, first_c, BLOCK_M=BLOCK_M, COLUMNS=BLOCK_C)
        mask = tile_mask(tile, first_c, C, BLOCK_M=BLOCK_M, COLUMNS=BLOCK_C)
        tl.store(ptrs, narrow(acc, out_ptr.dtype.element_ty), mask=mask)
    zero_unused_rows(out_ptr, offsets_ptr, N, C, E, BLOCK_M=BLOCK_M, BLOCK_C=BLOCK_C)


def _scratch(size: int, alignment: int, stream: int | None) -> Tensor:
    """Memory for the descriptors that a kernel makes."""
    return torch.empty(size, dtype=torch.int8, device="cuda")


def launch(
    rows: Tensor, weight: Tensor, offsets: Tensor, out: Tensor, config: Config, *, r_last: bool
) -> None:
    """``[N, R], [E, C, R] or [E, R, C], [E + 1] -> out [N, C]``, both operands describable."""
    (N, R), C, E = rows.shape, out.shape[1], weight.shape[0]
    E_P2 = triton.next_power_of_2(E + 1)
    bound = N // config.block_m + min(E, N)
    row_tiles = offsets.new_empty(1 + 3 * bound)
    _row_tiles_kernel[(bound,)](
        offsets_ptr=offsets,
        row_tiles_ptr=row_tiles,
        N=N,
        E=E,
        BLOCK_M=config.block_m,
        E_P2=E_P2,
    )
    # in a context of its own, so that the caller's allocator stays in place
    context = contextvars.copy_context()
    context.run(triton.set_allocator, _scratch)
    context.run(
        _grouped_gemm_specialized_kernel[grid(config, N, E, C, rows.device)],
        rows_ptr=rows,
        w_ptr=weight,
        offsets_ptr=offsets,
        row_tiles_ptr=row_tiles,
        out_ptr=out,
        stride_rows_n=rows.stride(0),
        stride_w_e=weight.stride(0),
        stride_w_row=weight.stride(1),
        N=N,
        C=C,
        R=R,
        E=E,
        R_LAST=r_last,
        DOT=dot(rows.dtype),
        BLOCK_M=config.block_m,
        BLOCK_C=config.block_c,
        BLOCK_R=config.block_r,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
