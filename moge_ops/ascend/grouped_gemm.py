"""Grouped products in Ascend C, on the cube cores.

The kernels write whole fractals of 16 columns. A result of another width is first written with
more columns, its pitch, and then copied without them.
"""

from torch import Tensor

from moge_ops import _C

from ._common import dtype_of, pointer, refuse_quantized, stream


def narrow(x: Tensor, columns: int) -> Tensor:
    """The first columns of a result, contiguous."""
    return x if x.shape[-1] == columns else x[..., :columns].contiguous()


def grouped_gemm_fwd(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``[N, I], [E, O, I], [E + 1] -> [N, O]``."""
    dtype = dtype_of("rows", rows)
    rows, weight = rows.contiguous(), weight.contiguous()
    N, (E, O, I) = rows.shape[0], weight.shape
    out = rows.new_empty(N, _C.grouped_gemm_pitch(columns=O))
    _C.grouped_gemm_fwd(
        rows=pointer(rows),
        weight=pointer(weight),
        offsets=pointer(offsets),
        out=pointer(out),
        shape=_C.GemmShape(N=N, E=E, O=O, I=I),
        dtype=dtype,
        stream=stream(rows),
    )
    return narrow(out, O)


def grouped_gemm_dx(d_out: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``[N, O], [E, O, I], [E + 1] -> [N, I]``."""
    dtype = dtype_of("d_out", d_out)
    d_out, weight = d_out.contiguous(), weight.contiguous()
    N, (E, O, I) = d_out.shape[0], weight.shape
    d_rows = d_out.new_empty(N, _C.grouped_gemm_pitch(columns=I))
    _C.grouped_gemm_dx(
        d_out=pointer(d_out),
        weight=pointer(weight),
        offsets=pointer(offsets),
        d_rows=pointer(d_rows),
        shape=_C.GemmShape(N=N, E=E, O=O, I=I),
        dtype=dtype,
        stream=stream(d_out),
    )
    return narrow(d_rows, I)


def grouped_gemm_dw(d_out: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
    """``[N, O], [N, I], [E + 1] -> [E, O, I]``."""
    dtype = dtype_of("rows", rows)
    d_out, rows = d_out.contiguous(), rows.contiguous()
    E, O, (N, I) = offsets.shape[0] - 1, d_out.shape[1], rows.shape
    d_weight = rows.new_empty(E, O, _C.grouped_gemm_pitch(columns=I))
    _C.grouped_gemm_dw(
        d_out=pointer(d_out),
        rows=pointer(rows),
        offsets=pointer(offsets),
        d_weight=pointer(d_weight),
        shape=_C.GemmShape(N=N, E=E, O=O, I=I),
        dtype=dtype,
        stream=stream(rows),
    )
    return narrow(d_weight, I)


def grouped_gemm_quantized_fwd(
    rows: Tensor,
    data: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    offsets: Tensor,
    scheme: str,
    group_size: int | None,
) -> Tensor:
    """``[N, I], QuantizedWeight of [E, O, I], [E + 1] -> [N, O]``: not there yet."""
    refuse_quantized(scheme)


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
    """``[N, O], QuantizedWeight of [E, O, I], [E + 1] -> [N, I = columns]``: not there yet."""
    refuse_quantized(scheme)
