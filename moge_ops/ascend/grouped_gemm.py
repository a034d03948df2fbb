"""Grouped products in Ascend C, on the cube cores.

The kernels write whole fractals of 16 columns. A result of another width is first written with
more columns, its pitch, and then copied without them.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from moge_ops import _C
from moge_ops._quantized import INTEGERS

from ._common import dtype_of, pointer, stream
from ._quantize import (
    check_scheme,
    decode_weight,
    integers,
    quantize_planes,
    quantize_rows,
    row_scales,
)

# Experts that are decoded together. The product of each such part also clears the rows behind its
# own, so fewer parts write less: with 16 of Pangu's 64 experts in each, a result is written two and
# a half times in all, and the workspace has a quarter of the layer's plain weights. Chosen, not
# measured.
DECODED = 16


def in_two_passes(scheme: str, N: int, weight: Tensor) -> bool:
    """Whether a product takes weights of four bits as they are, or unpacks them first.

    The cube takes as long for two passes of four bits as for one of bytes. But a result passes L2
    as two int32 and not one, 8 bytes more at 5.2 TB/s; to unpack a weight moves 1.5 bytes for each
    of its numbers at 1.6 TB/s. Modelled on 910B1, November 2026.
    """
    E, _, packed = weight.shape
    return scheme == "int4_w4a8" and 3 * E * 2 * packed >= 5 * N


def narrow(x: Tensor, columns: int) -> Tensor:
    """The first columns of a result, contiguous."""
    return x if x.shape[-1] == columns else x[..., :columns].contiguous()


def _fwd(rows: Tensor, weight: Tensor, offsets: Tensor, out: Tensor) -> None:
    """``[N, I], [E, O, I], [E + 1] -> out [N, pitch of O]``."""
    N, (E, O, I) = rows.shape[0], weight.shape
    _C.grouped_gemm_fwd(
        rows=pointer(rows),
        weight=pointer(weight),
        offsets=pointer(offsets),
        out=pointer(out),
        shape=_C.GemmShape(N=N, E=E, O=O, I=I),
        dtype=dtype_of("rows", rows),
        stream=stream(rows),
    )


def grouped_gemm_fwd(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``[N, I], [E, O, I], [E + 1] -> [N, O]``."""
    rows, weight = rows.contiguous(), weight.contiguous()
    O = weight.shape[1]
    out = rows.new_empty(rows.shape[0], _C.grouped_gemm_pitch(columns=O))
    _fwd(rows, weight, offsets, out)
    return narrow(out, O)


def _dx(d_out: Tensor, weight: Tensor, offsets: Tensor, d_rows: Tensor) -> None:
    """``[N, O], [E, O, I], [E + 1] -> d_rows [N, pitch of I]``."""
    N, (E, O, I) = d_out.shape[0], weight.shape
    shape, dtype = _C.GemmShape(N=N, E=E, O=O, I=I), dtype_of("d_out", d_out)
    packed = d_out.new_empty(_C.grouped_gemm_dx_room(shape=shape, dtype=dtype))
    _C.grouped_gemm_dx(
        d_out=pointer(d_out),
        weight=pointer(weight),
        offsets=pointer(offsets),
        packed=pointer(packed),
        d_rows=pointer(d_rows),
        shape=shape,
        dtype=dtype,
        stream=stream(d_out),
    )


def grouped_gemm_dx(d_out: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``[N, O], [E, O, I], [E + 1] -> [N, I]``."""
    d_out, weight = d_out.contiguous(), weight.contiguous()
    I = weight.shape[2]
    d_rows = d_out.new_empty(d_out.shape[0], _C.grouped_gemm_pitch(columns=I))
    _dx(d_out, weight, offsets, d_rows)
    return narrow(d_rows, I)


def grouped_gemm_dw(d_out: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
    """``[N, O], [N, I], [E + 1] -> [E, O, I]``."""
    dtype = dtype_of("rows", rows)
    d_out, rows = d_out.contiguous(), rows.contiguous()
    E, O, (N, I) = offsets.shape[0] - 1, d_out.shape[1], rows.shape
    shape = _C.GemmShape(N=N, E=E, O=O, I=I)
    packed = rows.new_empty(_C.grouped_gemm_dw_room(shape=shape, dtype=dtype))
    d_weight = rows.new_empty(E, O, _C.grouped_gemm_pitch(columns=I))
    _C.grouped_gemm_dw(
        d_out=pointer(d_out),
        rows=pointer(rows),
        offsets=pointer(offsets),
        packed=pointer(packed),
        d_weight=pointer(d_weight),
        shape=shape,
        dtype=dtype,
        stream=stream(rows),
    )
    return narrow(d_weight, I)


def int8_product(
    q: Tensor, row_scale: Tensor, weight: Tensor, scale: Tensor, offsets: Tensor, dtype: torch.dtype
) -> Tensor:
    """``int8 [N, I], [N], int8 [E, O, I], [E, O] float32, [E + 1] -> [N, O]`` in ``dtype``."""
    N, (E, O, I) = q.shape[0], weight.shape
    shape = _C.GemmShape(N=N, E=E, O=O, I=I)
    out = row_scale.new_empty(N, _C.grouped_gemm_pitch(columns=O), dtype=dtype)
    ring = offsets.new_empty(_C.grouped_gemm_int8_ring(shape=shape))
    _C.grouped_gemm_int8(
        rows=pointer(q),
        row_scale=pointer(row_scale),
        weight=pointer(weight),
        scale=pointer(scale),
        offsets=pointer(offsets),
        ring=pointer(ring),
        out=pointer(out),
        shape=shape,
        dtype=dtype_of("rows", out),
        stream=stream(q),
    )
    return narrow(out, O)


def int4_product(
    planes: Tensor,
    row_scale: Tensor,
    weight: Tensor,
    scale: Tensor,
    offsets: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """``int8 [N, 2, I / 2], [N], int8 [E, O, I / 2], [E, O] float32, [E + 1] -> [N, O]``.

    The bits of :func:`int8_product`, without an unpacked weight.
    """
    N, (E, O, packed) = planes.shape[0], weight.shape
    shape = _C.GemmShape(N=N, E=E, O=O, I=2 * packed)
    out = row_scale.new_empty(N, _C.grouped_gemm_pitch(columns=O), dtype=dtype)
    ring = offsets.new_empty(_C.grouped_gemm_int4_ring(shape=shape))
    _C.grouped_gemm_int4(
        planes=pointer(planes),
        row_scale=pointer(row_scale),
        weight=pointer(weight),
        scale=pointer(scale),
        offsets=pointer(offsets),
        ring=pointer(ring),
        out=pointer(out),
        shape=shape,
        dtype=dtype_of("rows", out),
        stream=stream(planes),
    )
    return narrow(out, O)


def integer_product(
    rows: Tensor, data: Tensor, scale: Tensor, offsets: Tensor, scheme: str
) -> Tensor:
    """``[N, I], weight of integers [E, O, I], [E + 1] -> [N, O]``; the rows become bytes."""
    scales = row_scales(scale, data.shape[1])
    if in_two_passes(scheme, rows.shape[0], data):
        return int4_product(*quantize_planes(rows), data.contiguous(), scales, offsets, rows.dtype)
    weight = integers(data, scheme)
    return int8_product(*quantize_rows(rows), weight, scales, offsets, rows.dtype)


def decoded_parts(
    data: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    offsets: Tensor,
    scheme: str,
    dtype: torch.dtype,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The weights of some experts ``[e, O, I]`` and their offsets ``[e + 1]``, in rising order.

    A product writes the rows of its own experts and clears those behind them, and leaves those
    before them as they are.
    """
    for first in range(0, data.shape[0], DECODED):
        of_these = slice(first, first + DECODED)
        zeros = None if zero is None else zero[of_these]
        weight = decode_weight(data[of_these], scale[of_these], zeros, scheme, dtype)
        yield weight, offsets[first : first + DECODED + 1]


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
    check_scheme(scheme)
    N, O = rows.shape[0], data.shape[1]
    dtype_of("rows", rows)
    if not data.numel() or not N:
        return rows.new_zeros(N, O)
    if scheme in INTEGERS:
        return integer_product(rows, data, scale, offsets, scheme)
    rows = rows.contiguous()
    out = rows.new_empty(N, _C.grouped_gemm_pitch(columns=O))
    for weight, starts in decoded_parts(data, scale, zero, offsets, scheme, rows.dtype):
        _fwd(rows, weight, starts, out)
    return narrow(out, O)


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
    check_scheme(scheme)
    N = d_out.shape[0]
    dtype_of("d_out", d_out)
    if not data.numel() or not N:
        return d_out.new_zeros(N, columns)
    d_out = d_out.contiguous()
    d_rows = d_out.new_empty(N, _C.grouped_gemm_pitch(columns=columns))
    for weight, starts in decoded_parts(data, scale, zero, offsets, scheme, d_out.dtype):
        _dx(d_out, weight, starts, d_rows)
    return narrow(d_rows, columns)
