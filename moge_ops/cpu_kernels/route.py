"""Routing: one counting sort."""

import torch
from torch import Tensor

from moge_ops import _cpu


def route_fwd(
    experts: Tensor, num_experts: int, num_groups: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """``[T, K] -> row_to_slot [N], slot_to_row [T, K], offsets [E + 1]``."""
    T, K = experts.shape
    row_to_slot = experts.new_empty(T * K, dtype=torch.int32)
    slot_to_row = experts.new_empty(T, K, dtype=torch.int32)
    offsets = experts.new_empty(num_experts + 1, dtype=torch.int32)
    _cpu.route_fwd(
        experts=experts.data_ptr(),
        wide=experts.dtype is torch.int64,
        T=T,
        K=K,
        E=num_experts,
        G=num_groups or 1,
        row_to_slot=row_to_slot.data_ptr(),
        slot_to_row=slot_to_row.data_ptr(),
        offsets=offsets.data_ptr(),
    )
    return row_to_slot, slot_to_row, offsets
