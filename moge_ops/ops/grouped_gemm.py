"""Products of expert-sorted rows with each expert's weight."""

from typing import Any

import torch
from torch import Tensor

from moge_ops import _backend, _checks
from moge_ops.reference.grouped_gemm import grouped_gemm as _reference

_fwd = _backend.define(
    "grouped_gemm(Tensor rows, Tensor weight, Tensor offsets) -> Tensor",
    "grouped_gemm",
    "grouped_gemm_fwd",
)
_dx = _backend.define(
    "grouped_gemm_dx(Tensor d_out, Tensor weight, Tensor offsets) -> Tensor",
    "grouped_gemm",
    "grouped_gemm_dx",
)
_dw = _backend.define(
    "grouped_gemm_dw(Tensor d_out, Tensor rows, Tensor offsets) -> Tensor",
    "grouped_gemm",
    "grouped_gemm_dw",
)


@_fwd.register_fake
def _(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], weight.shape[1])


@_dx.register_fake
def _(d_out: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    return d_out.new_empty(d_out.shape[0], weight.shape[2])


@_dw.register_fake
def _(d_out: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
    return rows.new_empty(offsets.shape[0] - 1, d_out.shape[1], rows.shape[1])


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    rows, weight, offsets = inputs
    ctx.save_for_backward(
        rows if ctx.needs_input_grad[1] else None,
        weight if ctx.needs_input_grad[0] else None,
        offsets,
    )


def _backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    rows, weight, offsets = ctx.saved_tensors
    d_rows = None if weight is None else _dx(d_out, weight, offsets)
    d_weight = None if rows is None else _dw(d_out, rows, offsets)
    return d_rows, d_weight, None


_fwd.register_autograd(_backward, setup_context=_setup)


def grouped_gemm(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    r"""Multiplies each expert's rows by that expert's weight.

    .. math:: y_n = W_{e(n)}\, r_n, \qquad e(n) = e \iff o_e \le n < o_{e+1}

    Args:
        rows: ``[N, in]``, float16 | bfloat16 | float32 | float64, sorted by expert. Any strides
            and any size; rows whose bytes are a multiple of 16 load fastest.
        weight: ``[E, out, in]``, dtype of ``rows``: the layout of ``nn.Linear``, stacked. Any
            strides; tensor descriptors (TMA) are used where the last dimension is contiguous and
            the other strides are multiples of 16 bytes.
        offsets: ``[E + 1]`` int32, rising from 0 to at most N: expert e has rows
            ``[offsets[e], offsets[e + 1])``, as from :func:`moge_ops.route`.

    Returns:
        ``[N, out]``, dtype of ``rows``, accumulated in float32 (float64 for float64). Rows past
        ``offsets[E]`` are neither read nor multiplied: their result is zero. Deterministic; the
        host does not wait for the device. float32 products follow
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
    rows, weight = _checks.autocast(rows, weight)
    _checks.tensor("rows", rows, "[N, in]", _checks.FLOATS)
    _checks.tensor("weight", weight, "[E, out, in]", _checks.FLOATS)
    _checks.tensor("offsets", offsets, "[E + 1]", (torch.int32,))
    _checks.same_dtype("weight", weight, "rows", rows)
    E, O, _ = weight.shape
    _checks.shape("weight", weight, "[E, out, in]", (E, O, rows.shape[1]))
    _checks.shape("offsets", offsets, "[E + 1]", (E + 1,))
    _checks.same_device("weight", weight, "rows", rows)
    _checks.same_device("offsets", offsets, "rows", rows)
    if _backend.use_reference(rows):
        return _reference(rows, weight, offsets)
    out: Tensor = _fwd(rows, weight, offsets)
    return out
