"""Weighted sum of each token's rows, out of the order of the experts."""

from typing import Any

import torch
from torch import Tensor

from moge_ops import _backend, _checks
from moge_ops.ops.route import Routing, check_routing
from moge_ops.reference.unpermute import unpermute as _reference

_fwd = _backend.define(
    "unpermute(Tensor rows, Tensor row_to_slot, Tensor slot_to_row, Tensor? weights) -> Tensor",
    "unpermute",
    "unpermute_fwd",
)
_bwd = _backend.define(
    "unpermute_bwd(Tensor d_y, Tensor rows, Tensor row_to_slot, Tensor slot_to_row, "
    "Tensor weights) -> (Tensor, Tensor)",
    "unpermute",
    "unpermute_bwd",
)


@_fwd.register_fake
def _(rows: Tensor, row_to_slot: Tensor, slot_to_row: Tensor, weights: Tensor | None) -> Tensor:
    return rows.new_empty(slot_to_row.shape[0], rows.shape[1])


@_bwd.register_fake
def _(
    d_y: Tensor, rows: Tensor, row_to_slot: Tensor, slot_to_row: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    return rows.new_empty(rows.shape), weights.new_empty(weights.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rows, row_to_slot, slot_to_row, weights = inputs
    if weights is None:  # the derivative needs the routing alone
        ctx.save_for_backward(row_to_slot, slot_to_row)
    else:
        ctx.save_for_backward(rows, row_to_slot, slot_to_row, weights)


def _backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, None, None, Tensor | None]:
    saved = ctx.saved_tensors  # once: activation checkpointing recomputes at the first look
    if len(saved) == 2:
        # by name: the two operators are each other's derivative
        return torch.ops.moge_ops.permute(d_y, *saved), None, None, None
    d_rows, d_weights = _bwd(d_y, *saved)
    return d_rows, None, None, d_weights


_fwd.register_autograd(_backward, setup_context=_setup)


def unpermute(rows: Tensor, routing: Routing, weights: Tensor | None = None) -> Tensor:
    r"""Sums each token's rows, weighted; the way back of :func:`moge_ops.permute`.

    .. math:: y_{th} = \sum_j w_{tj}\, r_{nh}, \quad n = \mathrm{slot\_to\_row}_{tj} \ge 0

    Args:
        rows: ``[N, H]``, float16 | bfloat16 | float32 | float64. Any H; any strides. Rows from
            ``routing.offsets[E]`` on are not read and may hold anything.
        routing: What :func:`moge_ops.route` returned.
        weights: ``[T, K]``, float16 | bfloat16 | float32 | float64; all ones if None. Those of
            dropped slots are not read as data.

    Returns:
        ``[T, H]``, dtype and device of ``rows``; a token whose slots were all dropped is zero.
        Summed in float32 (float64 for float64 rows) in one fixed order: deterministic. The
        gradient of ``weights`` has their dtype; gradients of dropped rows and slots are zero.

    Raises:
        TypeError: ``rows`` or ``weights`` is not a floating-point tensor, or ``routing`` no Routing
            of int32 tensors.
        ValueError: Shape or device does not fit ``routing``.
    """
    _checks.tensor("rows", rows, "[N, H]", _checks.FLOATS)
    check_routing(routing, "rows", rows)
    row_to_slot, slot_to_row, _ = routing
    _checks.shape("rows", rows, "[N, H]", (row_to_slot.shape[0], rows.shape[1]))
    if weights is not None:
        _checks.tensor("weights", weights, "[T, K]", _checks.FLOATS)
        _checks.shape("weights", weights, "[T, K]", tuple(slot_to_row.shape))
        _checks.same_device("weights", weights, "rows", rows)
    if _backend.use_reference(rows):
        return _reference(rows, slot_to_row, weights)
    y: Tensor = _fwd(rows, row_to_slot, slot_to_row, weights)
    return y
