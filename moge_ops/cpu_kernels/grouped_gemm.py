"""Products of each expert's rows with its weight."""

from collections.abc import Callable

import torch
from torch import Tensor

from moge_ops import _cpu

from ._common import DTYPES, NONE, PLAIN, Coded, adjacent, matrix


def _call(
    kernel: Callable[..., None], rows: Tensor, weight: Tensor, out: Tensor, offsets: Tensor
) -> None:
    """One of the operands is the result."""
    E, O, I = weight.shape
    kernel(
        dtype=DTYPES[rows.dtype],
        rows=matrix(rows),
        weight=matrix(weight),
        coding=PLAIN,
        out=matrix(out),
        offsets=offsets.data_ptr(),
        N=rows.shape[0],
        I=I,
        O=O,
        E=E,
        threads=torch.get_num_threads(),
    )


def _quantized_call(
    kernel: Callable[..., None], rows: Tensor, weight: Coded, out: Tensor, offsets: Tensor
) -> None:
    """One of the two tensors is the result."""
    kernel(
        dtype=DTYPES[rows.dtype],
        rows=matrix(rows),
        weight=NONE,
        coding=weight.coding(),
        out=matrix(out),
        offsets=offsets.data_ptr(),
        N=rows.shape[0],
        I=rows.shape[1],
        O=out.shape[1],
        E=offsets.shape[0] - 1,
        threads=torch.get_num_threads(),
    )


def grouped_gemm_fwd(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``[N, I], [E, O, I], [E + 1] -> [N, O]``."""
    out = rows.new_empty(rows.shape[0], weight.shape[1])
    _call(_cpu.grouped_gemm_fwd, adjacent(rows), adjacent(weight), out, offsets)
    return out


def grouped_gemm_dx(d_out: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``[N, O], [E, O, I], [E + 1] -> [N, I]``."""
    d_rows = d_out.new_empty(d_out.shape[0], weight.shape[2])
    _call(_cpu.grouped_gemm_dx, d_rows, adjacent(weight), adjacent(d_out), offsets)
    return d_rows


def grouped_gemm_dw(d_out: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
    """``[N, O], [N, I], [E + 1] -> [E, O, I]``."""
    d_weight = rows.new_empty(offsets.shape[0] - 1, d_out.shape[1], rows.shape[1])
    _call(_cpu.grouped_gemm_dw, adjacent(rows), d_weight, adjacent(d_out), offsets)
    return d_weight


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
    out = rows.new_empty(rows.shape[0], data.shape[1])
    if not data.numel():
        return out.zero_()
    weight = Coded.of(data, scale, zero, scheme, group_size)
    integers = weight.scheme == "int8_w8a8"
    kernel = _cpu.grouped_gemm_int8_fwd if integers else _cpu.grouped_gemm_fwd
    _quantized_call(kernel, adjacent(rows), weight, out, offsets)
    return out


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
    d_rows = d_out.new_empty(d_out.shape[0], columns)
    if not data.numel():
        return d_rows.zero_()
    weight = Coded.of(data, scale, zero, scheme, group_size)
    _quantized_call(_cpu.grouped_gemm_dx, d_rows, weight, adjacent(d_out), offsets)
    return d_rows
