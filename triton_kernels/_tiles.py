"""The order in which a persistent grid walks the tiles of a grouped product.

Experts follow one another. An expert's tiles, BLOCK_M rows by BLOCK_C columns, are swizzled: rows
run fastest within SWIZZLE row tiles, then the columns, then come the next SWIZZLE row tiles. With
SWIZZLE = 3, five row tiles and four column tiles:

                    column tile
                     0   1   2   3
       row tile 0    0   3   6   9
                1    1   4   7  10
                2    2   5   8  11
                    ---------------
                3   12  14  16  18
                4   13  15  17  19

The programs that run at one moment have neighbouring numbers, so they read few row tiles and few
column tiles, and share both in L2: bench/results/tile_order.csv counts what each order reads.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

SWIZZLE = tl.constexpr(16)


class Tile(NamedTuple):
    """One tile of the result."""

    expert: Any
    first_row: Any
    end_row: Any  # the end of the expert's rows, which may come before the end of the tile
    column: Any  # column tile


@triton.jit
def expert_rows(offsets_ptr, offs_e, N, E):
    """First row and end of the rows of experts ``offs_e``; an expert past E has none."""
    lo = tl.load(offsets_ptr + offs_e, mask=offs_e < E, other=0)
    hi = tl.load(offsets_ptr + offs_e + 1, mask=offs_e < E, other=0)
    # checking the caller's offsets would make the host wait: clamped, they cannot lead outside
    return tl.minimum(tl.maximum(lo, 0), N), tl.minimum(tl.maximum(hi, 0), N)


@triton.jit
def count_tiles(offsets_ptr, N, E, BLOCK_M: tl.constexpr, E_P2: tl.constexpr):
    """Number of row tiles of all experts."""
    lo, hi = expert_rows(offsets_ptr, tl.arange(0, E_P2), N, E)
    return tl.sum(tl.cdiv(tl.maximum(hi - lo, 0), BLOCK_M), 0)


@triton.jit
def swizzle(tile_id, tiles_m, tiles_c):
    """Row tile and column tile that come at place ``tile_id`` of tiles_m by tiles_c tiles."""
    top = tile_id // (SWIZZLE * tiles_c) * SWIZZLE
    height = tl.minimum(tiles_m - top, SWIZZLE)
    tile_id -= top * tiles_c
    return top + tile_id % height, tile_id // height


@triton.jit
def locate_tile(tile_id, tiles_c, offsets_ptr, N, E, BLOCK_M: tl.constexpr, E_P2: tl.constexpr):
    """The :class:`Tile` at place ``tile_id`` of all tiles, ``tiles_c`` of them side by side."""
    # every tile reads the offsets again: cheaper than to hold registers through the product
    offs_e = tl.arange(0, E_P2)
    lo, hi = expert_rows(offsets_ptr, offs_e, N, E)
    tiles_e = tl.cdiv(tl.maximum(hi - lo, 0), BLOCK_M)
    ends = tl.cumsum(tiles_e, 0) * tiles_c
    expert = tl.sum((ends <= tile_id).to(tl.int32), 0)
    own = offs_e == expert
    tiles_m = tl.sum(tl.where(own, tiles_e, 0), 0)
    before = tl.sum(tl.where(own, ends, 0), 0) - tiles_m * tiles_c
    # before the swizzle: read after it, ptxas spills 8 bytes in one product
    first, end_row = tl.sum(tl.where(own, lo, 0), 0), tl.sum(tl.where(own, hi, 0), 0)
    row_tile, column = swizzle(tile_id - before, tiles_m, tiles_c)
    return Tile(expert=expert, first_row=first + row_tile * BLOCK_M, end_row=end_row, column=column)
