"""Weighted sum of each token's rows, out of the order of the experts."""

from typing import Any

import torch
from torch import Tensor

from moge_ops import _backend, _checks
from moge_ops.ops.route import Routing, routing_specs
from moge_ops.reference.unpermute import unpermute as _reference


@_backend.define()
def unpermute_bwd(
    d_y: Tensor, rows: Tensor, row_to_slot: Tensor, slot_to_row: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """``d_y [T, H] -> d_rows [N, H], d_weights [T, K]``."""
    return rows.new_empty(rows.shape), weights.new_empty(weights.shape)


def _save(ctx: Any, inputs: Any, y: Tensor) -> None:
    routing = inputs.row_to_slot, inputs.slot_to_row
    if inputs.weights is None:  # the derivative needs the routing alone
        ctx.save_for_backward(*routing)
    else:
        ctx.save_for_backward(inputs.rows, *routing, inputs.weights)


def _backward(ctx: Any, d_y: Tensor) -> dict[str, Tensor]:
    saved = ctx.saved_tensors  # once: activation checkpointing recomputes at the first look
    if len(saved) == 2:
        # by the dispatcher's name: the two operators are each other's derivative
        return {"rows": torch.ops.moge_ops.permute(d_y, *saved)}
    d_rows, d_weights = unpermute_bwd(d_y, *saved)
    return {"rows": d_rows, "weights": d_weights}


@_backend.define(save=_save, backward=_backward)
def unpermute_fwd(
    rows: Tensor, row_to_slot: Tensor, slot_to_row: Tensor, weights: Tensor | None
) -> Tensor:
    """``rows [N, H], weights [T, K] -> y [T, H]``."""
    return rows.new_empty(slot_to_row.shape[0], rows.shape[1])


def unpermute(rows: Tensor, routing: Routing, weights: Tensor | None = None) -> Tensor:
    r"""Sums each token's rows, weighted; the way back of :func:`moge_ops.permute`.

    .. math:: y_{th} = \sum_j w_{tj}\, r_{nh}, \quad n = \mathrm{slot\_to\_row}_{tj} \ge 0

    Args:
        rows: ``[N, H]``, float16 | bfloat16 | float32 | float64. Any H; any strides. Padded
            rows and those from ``routing.offsets[E]`` on are not read and may hold anything.
        routing: What :func:`moge_ops.route` returned.
        weights: ``[T, K]``, float16 | bfloat16 | float32 | float64; all ones if None. Those of
            dropped slots are not read as data.

    Returns:
        ``[T, H]``, dtype and device of ``rows``; a token whose slots were all dropped is zero.
        Summed in float32 (float64 for float64 rows) in one fixed order: deterministic. The
        gradient of ``weights`` has their dtype; gradients of dropped slots, and of rows that are
        not read, are zero.

    Raises:
        TypeError: ``rows`` or ``weights`` is not a floating-point tensor, or ``routing`` no Routing
            of int32 tensors.
        ValueError: Shape or device does not fit ``routing``.
    """
    optional = [] if weights is None else [("weights", weights, "[T, K]", _checks.FLOATS)]
    _checks.tensors(("rows", rows, "[N, H]", _checks.FLOATS), *routing_specs(routing), *optional)
    row_to_slot, slot_to_row, _ = routing
    if _backend.use_reference(rows):
        return _reference(rows, slot_to_row, weights)
    return unpermute_fwd(rows, row_to_slot, slot_to_row, weights)
