"""Quantised weights in registers: decoded for a product, or the scales of a product of integers.

:mod:`moge_ops.quant` defines the formats; the bits are those of its ``dequantize``.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from ._common import narrow


class Format(NamedTuple):
    """How weights are stored that are decoded; passed as one compile-time constant."""

    numbers: str  # int8, int4, mxfp4; of e4m3, fp8 where the chip converts it, else fp8_bits
    packed: int  # numbers in one element of the data: 8 in an int32
    group: int  # columns that share a scale; 0 for all of a row
    dtype: tl.dtype  # what they are decoded to


@triton.jit
def _exponent_scale(e8m0):
    """``2 ** (e8m0 - 127)``, of which the least is no normal float32."""
    return tl.where(e8m0 == 0, 0x00400000, e8m0.to(tl.int32) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _small_float(code, SIGN: tl.constexpr, SHIFT: tl.constexpr, BIAS: tl.constexpr):
    """The number of a float of few bits, from its bits: sm_80 has no type for them.

    With sign, exponent and mantissa moved to where float16 has them, it is the number times two to
    the difference of the biases, those below the normal ones too.
    """
    size = code & (SIGN - 1)
    half = size << SHIFT | (code & SIGN) * (0x8000 // SIGN)
    if (
        SIGN == 0x80
    ):  # of e4m3 the largest size is NaN: with bit 14 it has float16's exponent of one
        half |= ((size + 1) & 0x80) << 7
    return half.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32) * (1 << (15 - BIAS))


@triton.jit
def decode(weight, stored, expert, offs_o, first_i, FORMAT: tl.constexpr):
    """``[BLOCK_O, BLOCK_I / packed] -> [BLOCK_O, BLOCK_I]``, in the dtype of the product.

    ``offs_o`` are the rows of the expert's matrix as it is stored, ``first_i`` is the first column.
    Groups and tiles are powers of two: one divides the other. The words of a tile are few, and get
    the shape of the numbers that they expand to, so that no large block is rearranged.
    """
    BLOCK_O: tl.constexpr = stored.shape[0]
    BLOCK_I: tl.constexpr = stored.shape[1] * FORMAT.packed
    SPLIT: tl.constexpr = FORMAT.group > 0 and FORMAT.group < BLOCK_I
    GROUP: tl.constexpr = FORMAT.group if SPLIT else BLOCK_I
    GROUPS: tl.constexpr = BLOCK_I // GROUP

    group = tl.arange(0, GROUPS)
    if FORMAT.group > 0:
        group += first_i // FORMAT.group
    row = offs_o // weight.rows_per_scale
    offs = expert.to(tl.int64) * (weight.scale_rows * weight.groups)
    offs += (row.to(tl.int64) * weight.groups)[:, None] + group[None, :]
    mask = (row < weight.scale_rows)[:, None] & (group < weight.groups)[None, :]
    scale = tl.load(weight.scale + offs, mask=mask, other=0)  # [BLOCK_O, GROUPS]
    scale = _exponent_scale(scale) if FORMAT.numbers == "mxfp4" else scale.to(tl.float32)

    if FORMAT.packed == 1:
        if GROUPS > 1:
            stored = stored.reshape(BLOCK_O, GROUPS, GROUP)
            scale = scale.reshape(BLOCK_O, GROUPS, 1)
        if FORMAT.numbers == "fp8":
            number = stored.to(tl.float8e4nv, bitcast=True).to(tl.float32)
        elif FORMAT.numbers == "fp8_bits":
            number = _small_float(stored.to(tl.int32), SIGN=0x80, SHIFT=7, BIAS=7)
        else:
            number = stored.to(tl.float32)
    else:
        words = stored.reshape(BLOCK_O, GROUPS, GROUP // FORMAT.packed, 1)
        place = tl.arange(0, FORMAT.packed).reshape(1, 1, 1, FORMAT.packed)
        code = (words >> (place * (32 // FORMAT.packed))) & 15
        scale = scale.reshape(BLOCK_O, GROUPS, 1, 1)
        if FORMAT.numbers == "mxfp4":
            number = _small_float(code, SIGN=8, SHIFT=9, BIAS=1)
        else:
            code -= 8
            if weight.zero is not None:
                zero = tl.load(weight.zero + offs, mask=mask, other=0).to(tl.int32)
                code -= zero.reshape(BLOCK_O, GROUPS, 1, 1)
            number = code.to(tl.float32)
    return narrow(number * scale, FORMAT.dtype).reshape(BLOCK_O, BLOCK_I)


@triton.jit
def scaled(acc, weight, tile, row_scale, HALF: tl.constexpr, BLOCK_C: tl.constexpr):
    """``[BLOCK_M, BLOCK_C]``, a half of a product of integers, times scales of rows and columns."""
    offs_c = tile.column * BLOCK_C + tl.arange(0, BLOCK_C) + HALF * weight.C
    row = offs_c // weight.rows_per_scale
    ptrs = weight.scale + tile.expert.to(tl.int64) * weight.scale_rows + row
    scale = tl.load(ptrs, mask=row < weight.scale_rows, other=0.0).to(tl.float32)
    return acc.to(tl.float32) * (row_scale[:, None] * scale[None, :])


@triton.jit
def largest(x):
    """``[M]``, the largest size in each row of float32 ``[M, C]``, as its bits.

    Bits of sizes are ordered as the sizes are, and those of NaN come last.
    """
    return tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 1)


@triton.jit
def row_scales(most):
    """``[M]`` factors that make rows integers, and the scales of these, from :func:`largest`."""
    size = most.to(tl.float32, bitcast=True)
    some = size >= 2.0**-100  # not NaN; infinity has a factor of zero
    size = tl.where(some, size, 1.0)
    full = tl.full(size.shape, 127.0, tl.float32)
    # the plain division of Triton is not exactly rounded
    factor = tl.where(some, tl.div_rn(full, size), 0.0)
    scale = tl.where(some, tl.div_rn(size, full), 0.0)
    return factor, tl.where(most < 0x7F800000, scale, float("nan"))


@triton.jit
def to_int8(x, factor):
    """``[M, C]``, x times its row's factor, rounded to nearest even."""
    product = x * factor[:, None]
    # changes nothing, but keeps the compiler from making one operation, which rounds once, of the
    # product and the sum. Of numbers as large as this float32 has no fraction
    product = tl.minimum(tl.maximum(product, -127.5), 127.5)
    whole = product + 12582912.0 - 12582912.0
    return tl.where(factor[:, None] > 0.0, whole, 0.0).to(tl.int8)
