"""Oracle of :func:`moge_ops.permute`."""

from torch import Tensor


def permute(x: Tensor, row_to_slot: Tensor, slot_to_row: Tensor) -> Tensor:
    """``[T, H] -> [N, H]``; rows of no slot are zero."""
    K = slot_to_row.shape[1]
    rows = x[row_to_slot.clamp_min(0).long() // K]  # [N, H]
    return rows.masked_fill((row_to_slot < 0).unsqueeze(-1), 0.0)
