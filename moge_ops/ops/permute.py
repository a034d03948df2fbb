"""Rows of the tokens, in the order of their experts."""

from typing import Any

import torch
from torch import Tensor

from moge_ops import _backend, _checks
from moge_ops.ops.route import Routing, routing_specs
from moge_ops.reference.permute import permute as _reference


def _save(ctx: Any, inputs: Any, rows: Tensor) -> None:
    ctx.save_for_backward(inputs.row_to_slot, inputs.slot_to_row)


def _backward(ctx: Any, d_rows: Tensor) -> dict[str, Tensor]:
    # by the dispatcher's name: the two operators are each other's derivative
    return {"x": torch.ops.moge_ops.unpermute(d_rows, *ctx.saved_tensors, None)}


@_backend.define(save=_save, backward=_backward)
def permute_fwd(x: Tensor, row_to_slot: Tensor, slot_to_row: Tensor) -> Tensor:
    """``[T, H], [N], [T, K] -> [N, H]``."""
    return x.new_empty(row_to_slot.shape[0], x.shape[1])


def permute(x: Tensor, routing: Routing) -> Tensor:
    r"""Copies each token's row to the rows of its experts.

    .. math:: r_{nh} = x_{th}, \quad n = \mathrm{slot\_to\_row}_{tj} \ge 0

    Args:
        x: ``[T, H]``, float16 | bfloat16 | float32 | float64. Any H; any strides.
        routing: What :func:`moge_ops.route` returned for these T tokens. Where it was padded
            (``pad_to``), so are the rows.

    Returns:
        ``[N, H]``, dtype and device of ``x``. Rows of no slot are zero. Deterministic. The
        gradient sums a token's rows in float32 (float64 for float64), in the order of its columns.

    Raises:
        TypeError: ``x`` is not a floating-point tensor, or ``routing`` no Routing of int32 tensors.
        ValueError: ``x`` is not 2-D, has another T than ``routing``, or is on another device.
    """
    _checks.tensors(("x", x, "[T, H]", _checks.FLOATS), *routing_specs(routing))
    row_to_slot, slot_to_row, _ = routing
    if _backend.use_reference(x):
        return _reference(x, row_to_slot, slot_to_row)
    return permute_fwd(x, row_to_slot, slot_to_row)
