"""The product of one tile, what it multiplies, and the host's side of both.

Every kernel takes a descriptor as an argument of its own and builds the named tuples itself,
because Triton 3.6 cannot launch a descriptor within a tuple. Compile-time constants are keywords,
or a tuple of their own: one that is assigned to a name without the annotation tl.constexpr keeps
run-time values only.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import INTERPRETED, acc_dtype, num_programs
from ._configs import Config, device_class
from ._decode import decode
from ._tiles import expert_rows


class Weight(NamedTuple):
    """The experts' matrices, ``[E, HALVES * C, R]``: C columns of the result, R is summed over.

    The source is a pointer, whose strides say where C and R lie, or a descriptor of ``[E * HALVES,
    C, R]``, or without R_LAST of ``[E, R, C]``, which knows its own strides.

    A quantised weight enters here: its stored numbers are the source, with R and C counted in
    numbers and strides in what stores them. With a FORMAT they are decoded between the load and
    the product, so that no loop changes. Without one, which is int8_w8a8, the product takes the
    integers as they are stored, and the epilogue multiplies by the scales.
    """

    source: Any
    stride_e: Any
    stride_c: Any
    stride_r: Any
    C: Any
    R: Any
    # all None where the weight is not quantised
    scale: Any  # [E, scale_rows, groups]
    zero: Any  # None, or in the shape of scale
    scale_rows: Any
    groups: Any
    rows_per_scale: Any


class Dot(NamedTuple):
    """How a product computes; passed as one compile-time constant."""

    operand: tl.dtype  # what both operands are converted to
    precision: str  # in which float32 operands are multiplied
    acc: tl.dtype  # what sums are kept in
    wide: tl.dtype  # what an epilogue computes in


@triton.jit
def multiply(left, right, acc, DOT: tl.constexpr):
    """``acc + left @ right``."""
    left, right = left.to(DOT.operand), right.to(DOT.operand)
    return tl.dot(left, right, acc, input_precision=DOT.precision, out_dtype=DOT.acc)


@triton.jit
def _load_rows(row_source, first_row, r, R, EVEN_R: tl.constexpr, BLOCK_R: tl.constexpr):
    """``[BLOCK_M, BLOCK_R]``: the left operand of one step."""
    offs_r = r + tl.arange(0, BLOCK_R)
    if isinstance(row_source, tl.tensor_descriptor):
        x = row_source.load([first_row, r])
    elif EVEN_R:
        x = tl.load(row_source[:, None] + offs_r[None, :])
    else:
        x = tl.load(row_source[:, None] + offs_r[None, :], mask=(offs_r < R)[None, :], other=0.0)
    return x


@triton.jit
def load_box(
    weight,
    box,  # expert * HALVES, or of two boxes for each expert, one of them
    first_c,
    r,
    R_LAST: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """``[BLOCK_R, COLUMNS]`` through the descriptor.

    Outside the expert's matrix it reads zero: an infinite weight of the next expert must not meet
    the zeros of the rows.
    """
    if R_LAST:
        w = weight.source.load([box, first_c, r]).reshape(COLUMNS, BLOCK_R).T
    else:
        w = weight.source.load([box, r, first_c]).reshape(BLOCK_R, COLUMNS)
    return w


@triton.jit
def _load_strided(weight, expert, r, offs_c, mask_c, BLOCK_R: tl.constexpr):
    """``[BLOCK_R, COLUMNS]`` through the pointer."""
    offs_r = r + tl.arange(0, BLOCK_R)
    ptrs = (
        weight.source
        + expert.to(tl.int64) * weight.stride_e
        + offs_r.to(tl.int64)[:, None] * weight.stride_r
        + offs_c[None, :] * weight.stride_c
    )
    return tl.load(ptrs, mask=(offs_r < weight.R)[:, None] & mask_c[None, :], other=0.0)


@triton.jit
def _load_decoded(
    weight,
    tile,
    box,
    r,
    offs_c,
    mask_c,
    R_LAST: tl.constexpr,
    FORMAT: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """``[BLOCK_R, COLUMNS]`` of a quantised weight, whose stored rows are contiguous.

    It is decoded as it lies, and transposed then.
    """
    DESCRIBED: tl.constexpr = isinstance(weight.source, tl.tensor_descriptor)
    first_c = tile.column * BLOCK_C
    base = tile.expert.to(tl.int64) * weight.stride_e
    if R_LAST:
        first_i = r // FORMAT.packed
        offs_i = first_i + tl.arange(0, BLOCK_R // FORMAT.packed)
        if DESCRIBED:
            w = weight.source.load([box, first_c, first_i])
            w = w.reshape(COLUMNS, BLOCK_R // FORMAT.packed)
        else:
            ptrs = weight.source + base + offs_c[:, None] * weight.stride_c + offs_i[None, :]
            mask = mask_c[:, None] & (offs_i < weight.R // FORMAT.packed)[None, :]
            w = tl.load(ptrs, mask=mask, other=0)
        w = decode(weight, w, tile.expert, offs_c, r, FORMAT=FORMAT).T
    else:
        first_i = first_c // FORMAT.packed
        offs_i = first_i + tl.arange(0, COLUMNS // FORMAT.packed)
        offs_r = r + tl.arange(0, BLOCK_R)
        if DESCRIBED:
            w = weight.source.load([box, r, first_i]).reshape(BLOCK_R, COLUMNS // FORMAT.packed)
        else:
            offs = offs_r.to(tl.int64)[:, None] * weight.stride_r + offs_i[None, :]
            mask = (offs_r < weight.R)[:, None] & (offs_i < weight.C // FORMAT.packed)[None, :]
            w = tl.load(weight.source + base + offs, mask=mask, other=0)
        w = decode(weight, w, tile.expert, offs_r, first_c, FORMAT=FORMAT)
    return w


@triton.jit
def tile_product(
    row_source,  # [BLOCK_M] pointers to rows, each contiguous, or a descriptor of [N, R]
    weight,
    tile,
    HALVES: tl.constexpr,
    R_LAST: tl.constexpr,
    EVEN_R: tl.constexpr,
    SWAP: tl.constexpr,
    DOT: tl.constexpr,
    FORMAT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """``[BLOCK_M, HALVES * BLOCK_C]``, the tile's rows by its columns of each half of the weight.

    WGMMA takes 64 rows or more of its left operand. With SWAP the weight is on the left, so that
    it provides them where the tokens are few.
    """
    COLUMNS: tl.constexpr = HALVES * BLOCK_C
    DESCRIBED: tl.constexpr = isinstance(weight.source, tl.tensor_descriptor)
    # WGMMA can read its left operand from shared memory only if one box holds it. So each half
    # gets a box, an accumulator and a product of its own
    SPLIT: tl.constexpr = SWAP and DESCRIBED and HALVES == 2
    first_c = tile.column * BLOCK_C
    column = tl.arange(0, COLUMNS)
    # for one half without a remainder, with which triton-ascend loads single elements of the weight
    offs_c = first_c + (column if HALVES == 1 else column % BLOCK_C)
    mask_c = offs_c < weight.C
    if HALVES > 1:
        offs_c += column // BLOCK_C * weight.C  # the same columns of each half
    offs_c = offs_c.to(tl.int64)
    if SPLIT:
        acc = tl.zeros((BLOCK_C, BLOCK_M), dtype=DOT.acc)
        acc_2 = tl.zeros((BLOCK_C, BLOCK_M), dtype=DOT.acc)
    else:
        acc = tl.zeros((COLUMNS, BLOCK_M) if SWAP else (BLOCK_M, COLUMNS), dtype=DOT.acc)
    for r in range(0, weight.R, BLOCK_R):
        x = _load_rows(row_source, tile.first_row, r, weight.R, EVEN_R=EVEN_R, BLOCK_R=BLOCK_R)
        if FORMAT is not None and SPLIT:
            offs_half = first_c + tl.arange(0, BLOCK_C)
            w = _load_decoded(
                weight=weight,
                tile=tile,
                box=tile.expert * 2,
                r=r,
                offs_c=offs_half,
                mask_c=None,
                R_LAST=R_LAST,
                FORMAT=FORMAT,
                COLUMNS=BLOCK_C,
                BLOCK_C=BLOCK_C,
                BLOCK_R=BLOCK_R,
            )
            w_2 = _load_decoded(
                weight=weight,
                tile=tile,
                box=tile.expert * 2 + 1,
                r=r,
                offs_c=offs_half + weight.C,
                mask_c=None,
                R_LAST=R_LAST,
                FORMAT=FORMAT,
                COLUMNS=BLOCK_C,
                BLOCK_C=BLOCK_C,
                BLOCK_R=BLOCK_R,
            )
            acc_2 = multiply(w_2.T, x.T, acc_2, DOT=DOT)
        elif FORMAT is not None:
            w = _load_decoded(
                weight=weight,
                tile=tile,
                box=tile.expert * HALVES,
                r=r,
                offs_c=offs_c,
                mask_c=mask_c,
                R_LAST=R_LAST,
                FORMAT=FORMAT,
                COLUMNS=COLUMNS,
                BLOCK_C=BLOCK_C,
                BLOCK_R=BLOCK_R,
            )
        elif SPLIT:
            box = tile.expert * 2
            w = load_box(weight, box, first_c, r, R_LAST=R_LAST, COLUMNS=BLOCK_C, BLOCK_R=BLOCK_R)
            w_2 = load_box(
                weight, box + 1, first_c, r, R_LAST=R_LAST, COLUMNS=BLOCK_C, BLOCK_R=BLOCK_R
            )
            acc_2 = multiply(w_2.T, x.T, acc_2, DOT=DOT)
        elif DESCRIBED:
            box = tile.expert * HALVES
            w = load_box(weight, box, first_c, r, R_LAST=R_LAST, COLUMNS=COLUMNS, BLOCK_R=BLOCK_R)
        else:
            w = _load_strided(weight, tile.expert, r, offs_c, mask_c, BLOCK_R=BLOCK_R)
        acc = multiply(w.T, x.T, acc, DOT=DOT) if SWAP else multiply(x, w, acc, DOT=DOT)
    if SPLIT:
        acc = tl.join(acc, acc_2).permute(2, 0, 1).reshape(COLUMNS, BLOCK_M)
    return acc.T if SWAP else acc


@triton.jit
def tile_ptrs(ptr, stride, first_row, first_c, BLOCK_M: tl.constexpr, COLUMNS: tl.constexpr):
    """``[BLOCK_M, COLUMNS]`` pointers from row ``first_row`` and column ``first_c`` on."""
    # one 64-bit base for the tile: registers could not hold 64-bit offsets of every element
    base = ptr + first_row.to(tl.int64) * stride + first_c
    return base + (tl.arange(0, BLOCK_M)[:, None] * stride + tl.arange(0, COLUMNS)[None, :])


@triton.jit
def tile_mask(tile, first_c, C, BLOCK_M: tl.constexpr, COLUMNS: tl.constexpr):
    """``[BLOCK_M, COLUMNS]``: what is a row of the expert and a column of the result."""
    mask_m = tl.arange(0, BLOCK_M)[:, None] < tile.end_row - tile.first_row
    return mask_m & (tl.arange(0, COLUMNS)[None, :] < C - first_c)


@triton.jit
def zero_unused_rows(out_ptr, offsets_ptr, N, C, E, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """Stores zero to the rows past the last expert's, which no tile covers."""
    tiles_c = tl.cdiv(C, BLOCK_C)
    _, used = expert_rows(offsets_ptr, E - 1, N, E)
    tiles = tl.cdiv(N - used, BLOCK_M) * tiles_c
    for tile_id in range(tl.program_id(0), tiles, tl.num_programs(0)):
        offs_n = used + tile_id // tiles_c * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
        offs_c = tile_id % tiles_c * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
        zeros = tl.zeros((BLOCK_M, BLOCK_C), dtype=out_ptr.dtype.element_ty)
        mask = (offs_n < N) & (offs_c < C)
        tl.store(out_ptr + offs_n.to(tl.int64) * C + offs_c, zeros, mask=mask)


def contiguous_rows(x: Tensor) -> Tensor:
    """``x`` itself if its rows are contiguous, as the kernels expect, or a copy that is."""
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def aligned(x: Tensor) -> bool:
    """Whether every row of ``x`` starts at a multiple of 16 bytes, contiguous in the last dim."""
    size = x.element_size()
    rows = all(stride * size % 16 == 0 for stride in x.stride()[:-1])
    return rows and x.stride(-1) == 1 and x.data_ptr() % 16 == 0


def describable(x: Tensor) -> bool:
    """Whether the tensor can be read through a tensor descriptor, on this chip.

    Not an expanded one: CUDA's documentation does not say that a stride may be 0.
    """
    strided = x.numel() > 0 and all(x.stride())
    return strided and aligned(x) and device_class() in ("hopper", "interpreter")


def dot(dtype: torch.dtype) -> Dot:
    """How every product of operands of this dtype computes."""
    # the interpreter would multiply the bit patterns of bfloat16, so that it gets float32
    widened = INTERPRETED and dtype is torch.bfloat16
    if dtype is torch.int8:
        return Dot(operand=tl.int8, precision="ieee", acc=tl.int32, wide=tl.float32)
    names = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}
    lowered = torch.get_float32_matmul_precision() != "highest"
    return Dot(
        operand=tl.float32 if widened else names.get(dtype, tl.float64),
        precision="tf32" if dtype is torch.float32 and lowered else "ieee",
        acc=acc_dtype(dtype),
        wide=acc_dtype(dtype),
    )


def grid(config: Config, N: int, E: int, C: int, device: torch.device) -> tuple[int]:
    """Size of a persistent grid, from a bound on the tiles: each expert adds at most one."""
    bound = (N // config.block_m + min(E, N)) * triton.cdiv(C, config.block_c)
    return (num_programs(device, bound, config.blocks),)


def constants(config: Config, dtype: torch.dtype, E: int, R: int) -> dict[str, Any]:
    """What the kernels with :func:`tile_product` have in common."""
    return {
        "EVEN_R": R % config.block_r == 0,
        "SWAP": bool(config.swap),
        "DOT": dot(dtype),
        "BLOCK_M": config.block_m,
        "BLOCK_C": config.block_c,
        "BLOCK_R": config.block_r,
        "E_P2": triton.next_power_of_2(E + 1),
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
    }
