"""Oracle of :func:`moge_ops.route`."""

import torch
from torch import Tensor


def route(
    experts: Tensor, num_experts: int, *, num_groups: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """``[T, K] -> row_to_slot [N], slot_to_row [T, K], offsets [E + 1]``, all int32."""
    T, K = experts.shape
    ids = experts.long()
    kept = (ids >= 0) & (ids < num_experts)
    if num_groups is not None:  # column block g holds experts of group g, or the slot is dropped
        group_of_column = torch.arange(K, device=ids.device) // (K // num_groups)
        kept &= ids.div(num_experts // num_groups, rounding_mode="floor") == group_of_column

    ids = ids.masked_fill(~kept, num_experts).flatten()  # [N]; dropped slots sort behind all
    order = ids.argsort(stable=True)  # row -> slot
    counts = torch.bincount(ids, minlength=num_experts + 1)[:num_experts]
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))  # [E + 1]

    in_use = torch.arange(T * K, device=ids.device) < offsets[-1]
    row_to_slot = torch.where(in_use, order, -1)
    slot_to_row = torch.empty_like(order).scatter_(0, order, torch.arange(T * K, device=ids.device))
    slot_to_row = torch.where(kept.flatten(), slot_to_row, -1).view(T, K)
    return row_to_slot.int(), slot_to_row.int(), offsets.int()
