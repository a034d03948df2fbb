"""Grouped products in Ascend C, on the cube cores.

They write whole fractals of 16 columns: a result of any other width has a pitch of its own, and is
copied.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from moge_ops import _C

from ._common import dtype_of, pointer, stream


class PackedWeight(NamedTuple):
    """Weights in the layout of the cube's first memory (NZ), as :func:`pack_weight` makes them."""

    data: Tensor  # [E, ceil(in / c), ceil16(out), c], zeros beyond the weight; c: 32 bytes
    out: int
    in_: int


def pack_weight(weight: Tensor) -> PackedWeight:
    """``[E, out, in]``, packed once: then no transfer has to rearrange it, and all are long."""
    E, O, I = weight.shape
    c = 32 // weight.itemsize
    blocks = -(-I // c)
    data = weight.new_zeros(E, blocks, _C.grouped_gemm_pitch(O), c)
    padded = torch.nn.functional.pad(weight, (0, blocks * c - I))
    data[:, :, :O] = padded.view(E, O, blocks, c).transpose(1, 2)
    return PackedWeight(data, O, I)


def _narrow(x: Tensor, columns: int) -> Tensor:
    return x if x.shape[-1] == columns else x[..., :columns].contiguous()


def _forward(rows: Tensor, weight: Tensor, offsets: Tensor, O: int, packed: bool) -> Tensor:
    dtype = dtype_of("rows", rows)
    rows, weight, offsets = rows.contiguous(), weight.contiguous(), offsets.contiguous()
    E, (N, I) = offsets.shape[0] - 1, rows.shape
    out = rows.new_empty(N, _C.grouped_gemm_pitch(O))
    _C.grouped_gemm_fwd(
        pointer(rows),
        pointer(weight),
        pointer(offsets),
        pointer(out),
        _C.GemmShape(N, E, O, I),
        packed,
        dtype,
        stream(rows),
    )
    return _narrow(out, O)


def grouped_gemm_fwd(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``[N, in], [E, out, in], [E + 1] -> [N, out]``."""
    return _forward(rows, weight, offsets, weight.shape[1], False)


def grouped_gemm_packed(rows: Tensor, weight: PackedWeight, offsets: Tensor) -> Tensor:
    """``[N, in], packed [E, out, in], [E + 1] -> [N, out]``.

    Raises:
        TypeError, ValueError: Rows of another dtype or width than the weight that was packed.
    """
    if rows.dtype != weight.data.dtype:
        raise TypeError(f"rows must be {weight.data.dtype}, as the weight, got {rows.dtype}")
    if rows.shape[1] != weight.in_:
        raise ValueError(f"rows must be [N, in={weight.in_}], got {list(rows.shape)}")
    return _forward(rows, weight.data, offsets, weight.out, True)


def grouped_gemm_dx(d_out: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``[N, out], [E, out, in], [E + 1] -> [N, in]``."""
    dtype = dtype_of("d_out", d_out)
    d_out, weight, offsets = d_out.contiguous(), weight.contiguous(), offsets.contiguous()
    N, (E, O, I) = d_out.shape[0], weight.shape
    d_rows = d_out.new_empty(N, _C.grouped_gemm_pitch(I))
    _C.grouped_gemm_dx(
        pointer(d_out),
        pointer(weight),
        pointer(offsets),
        pointer(d_rows),
        _C.GemmShape(N, E, O, I),
        dtype,
        stream(d_out),
    )
    return _narrow(d_rows, I)


def grouped_gemm_dw(d_out: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
    """``[N, out], [N, in], [E + 1] -> [E, out, in]``."""
    dtype = dtype_of("rows", rows)
    d_out, rows, offsets = d_out.contiguous(), rows.contiguous(), offsets.contiguous()
    E, O, (N, I) = offsets.shape[0] - 1, d_out.shape[1], rows.shape
    d_weight = rows.new_empty(E, O, _C.grouped_gemm_pitch(I))
    _C.grouped_gemm_dw(
        pointer(d_out),
        pointer(rows),
        pointer(offsets),
        pointer(d_weight),
        _C.GemmShape(N, E, O, I),
        dtype,
        stream(rows),
    )
    return _narrow(d_weight, I)
