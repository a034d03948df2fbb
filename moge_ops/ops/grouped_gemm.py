"""Products of expert-sorted rows with each expert's weight."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from moge_ops import _backend, _checks, _quantized
from moge_ops._quantized import QuantizedWeight
from moge_ops.reference.grouped_gemm import grouped_gemm as _reference


def flops(left: Sequence[int], right: Sequence[int], *_: Any) -> int:
    """Of one product, forward: ``[N, I], [E, O, I]``; dW: ``[N, O], [N, I]``."""
    return 2 * math.prod(left) * right[1]


def _flops_dx(d_out: Sequence[int], weight: Sequence[int], *_: Any) -> int:
    return 2 * math.prod(d_out) * weight[2]


@_backend.define(flops=_flops_dx)
def grouped_gemm_dx(d_out: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``[N, O], [E, O, I], [E + 1] -> [N, I]``."""
    return d_out.new_empty(d_out.shape[0], weight.shape[2])


@_backend.define(flops=flops)
def grouped_gemm_dw(d_out: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
    """``[N, O], [N, I], [E + 1] -> [E, O, I]``."""
    return rows.new_empty(offsets.shape[0] - 1, d_out.shape[1], rows.shape[1])


def _save(ctx: Any, inputs: Any, out: Tensor) -> None:
    ctx.save_for_backward(
        inputs.rows if ctx.needs.weight else None,
        inputs.weight if ctx.needs.rows else None,
        inputs.offsets,
    )


def _backward(ctx: Any, d_out: Tensor) -> dict[str, Tensor | None]:
    rows, weight, offsets = ctx.saved_tensors
    return {
        "rows": None if weight is None else grouped_gemm_dx(d_out, weight, offsets),
        "weight": None if rows is None else grouped_gemm_dw(d_out, rows, offsets),
    }


@_backend.define(save=_save, backward=_backward, flops=flops)
def grouped_gemm_fwd(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``[N, I], [E, O, I], [E + 1] -> [N, O]``."""
    return rows.new_empty(rows.shape[0], weight.shape[1])


def _quantized_flops(rows: Sequence[int], data: Sequence[int], *_: Any) -> int:
    return 2 * math.prod(rows) * data[1]


def _quantized_flops_dx(d_out: Sequence[int], *args: Any) -> int:
    return 2 * math.prod(d_out) * int(args[-1])


@_backend.define(flops=_quantized_flops_dx)
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
    return d_out.new_empty(d_out.shape[0], columns)


def _quantized_save(ctx: Any, inputs: Any, out: Tensor) -> None:
    ctx.save_for_backward(inputs.data, inputs.scale, inputs.zero, inputs.offsets)
    ctx.fixed = (inputs.scheme, inputs.group_size, inputs.rows.shape[1])


def _quantized_backward(ctx: Any, d_out: Tensor) -> dict[str, Tensor]:
    data, scale, zero, offsets = ctx.saved_tensors
    d_rows = grouped_gemm_quantized_dx(d_out, data, scale, zero, offsets, *ctx.fixed)
    return {"rows": d_rows}


@_backend.define(save=_quantized_save, backward=_quantized_backward, flops=_quantized_flops)
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
    return rows.new_empty(rows.shape[0], data.shape[1])


def _quantized_gemm(rows: Tensor, weight: QuantizedWeight, offsets: Tensor) -> Tensor:
    (rows,) = _checks.autocast(rows)
    _quantized.check("weight", weight)
    E, O, I = _quantized.sizes(weight)
    sizes = _checks.tensors(
        ("rows", rows, "[N, I]", _checks.FLOATS), ("offsets", offsets, "[E + 1]", (torch.int32,))
    )
    if (sizes["I"], sizes["E"]) != (I, E) or weight.data.device != rows.device:
        raise ValueError(
            f"weight must be [E={sizes['E']}, O, I={sizes['I']}] on {rows.device}, "
            f"got {[E, O, I]} on {weight.data.device}"
        )
    if _backend.use_reference(rows):
        return _reference(rows, weight, offsets)
    data, scale, zero, scheme, group_size = weight
    return grouped_gemm_quantized_fwd(rows, data, scale, zero, offsets, scheme, group_size)


def grouped_gemm(rows: Tensor, weight: Tensor | QuantizedWeight, offsets: Tensor) -> Tensor:
    r"""Multiplies each expert's rows by that expert's weight.

    .. math:: y_n = W_{e(n)}\, r_n, \qquad e(n) = e \iff o_e \le n < o_{e+1}

    Args:
        rows: ``[N, I]``, float16 | bfloat16 | float32 | float64, sorted by expert. Any strides
            and any size; rows whose bytes are a multiple of 16 load fastest.
        weight: ``[E, O, I]``, dtype of ``rows``: the layout of ``nn.Linear``, stacked. Any
            strides; tensor descriptors (TMA) are used where the last dimension is contiguous and
            the other strides are multiples of 16 bytes. Or a
            :class:`moge_ops.quant.QuantizedWeight`, which gets no gradient: with int8_w8a8 and
            int4_w4a8 the rows are quantised too and integers are multiplied, otherwise the weight
            is decoded to the dtype of ``rows`` on the way into the product.
        offsets: ``[E + 1]`` int32, rising from 0 to at most N: expert e has rows
            ``[offsets[e], offsets[e + 1])``, as from :func:`moge_ops.route`.

    Returns:
        ``[N, O]``, dtype of ``rows``, accumulated in float32 (float64 for float64). Rows past
        ``offsets[E]`` are neither read nor multiplied: their result is zero. Deterministic; the
        host does not wait for the device. How many rows there are may choose the order of a row's
        sum: its bits may differ in another batch, by less than the tolerances of
        :mod:`moge_ops.testing`. float32 products follow
        ``torch.get_float32_matmul_precision()`` on CUDA: IEEE unless it is lowered. Under
        autocast, ``rows`` and ``weight`` are cast to its dtype.

    Raises:
        TypeError: A dtype is not one of the above, or those of ``rows`` and ``weight`` differ.
        ValueError: Shapes or devices do not fit; on the CPU also offsets that do not rise from 0
            to at most N (on other devices they cannot be read without waiting).

    Source:
        Gale et al. 2022, "MegaBlocks", section 4 (arXiv:2211.15841): products of ragged groups
        without capacity or padding.
    """
    if isinstance(weight, QuantizedWeight):
        return _quantized_gemm(rows, weight, offsets)
    plain: Tensor
    rows, plain = _checks.autocast(rows, weight)
    _checks.tensors(
        ("rows", rows, "[N, I]", _checks.FLOATS),
        ("weight", plain, "[E, O, I]", _checks.SAME),
        ("offsets", offsets, "[E + 1]", (torch.int32,)),
    )
    if _backend.use_reference(rows):
        return _reference(rows, plain, offsets)
    return grouped_gemm_fwd(rows, plain, offsets)
