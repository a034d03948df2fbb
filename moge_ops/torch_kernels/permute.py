"""Permutation in torch."""

from torch import Tensor


def permute_fwd(x: Tensor, row_to_slot: Tensor, slot_to_row: Tensor) -> Tensor:
    """``[T, H], [N], [T, K] -> [N, H]``."""
    N, K = row_to_slot.shape[0], slot_to_row.shape[1]
    if not N:
        return x.new_empty(0, x.shape[1])
    rows = x.index_select(0, row_to_slot.clamp_min(0) // K)
    if row_to_slot[-1] < 0:  # dropped slots, if any, are the last rows
        rows.masked_fill_((row_to_slot < 0).unsqueeze(1), 0.0)
    return rows
