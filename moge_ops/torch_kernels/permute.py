"""Permutation in torch."""

from torch import Tensor


def has_gaps(row_to_slot: Tensor, slot_to_row: Tensor) -> bool:
    """Whether there may be rows of no slot; N is not 0.

    Without padded rows, of which there are more than slots, they are the last ones. On other
    devices than the CPU a look at them would make the host wait.
    """
    padded = len(row_to_slot) > slot_to_row.numel()
    return padded or not row_to_slot.is_cpu or bool(row_to_slot[-1] < 0)


def permute_fwd(x: Tensor, row_to_slot: Tensor, slot_to_row: Tensor) -> Tensor:
    """``[T, H], [N], [T, K] -> [N, H]``."""
    N, K = row_to_slot.shape[0], slot_to_row.shape[1]
    if not N:
        return x.new_empty(0, x.shape[1])
    rows = x.index_select(0, row_to_slot.clamp_min(0) // K)
    if has_gaps(row_to_slot, slot_to_row):
        rows.masked_fill_((row_to_slot < 0).unsqueeze(1), 0.0)
    return rows
