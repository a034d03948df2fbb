"""Oracle of :func:`moge_ops.route`."""

import torch
from torch import Tensor

from moge_ops.reference._order import argsort


def route(
    experts: Tensor,
    num_experts: int,
    *,
    num_groups: int | None = None,
    pad_to: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``[T, K] -> row_to_slot [N], slot_to_row [T, K], offsets [E + 1]``, all int32."""
    T, K = experts.shape
    ids = experts.long()
    kept = (ids >= 0) & (ids < num_experts)
    if num_groups is not None:  # column block g holds experts of group g, or the slot is dropped
        group_of_column = torch.arange(K, device=ids.device) // (K // num_groups)
        kept &= ids.div(num_experts // num_groups, rounding_mode="floor") == group_of_column

    ids = ids.masked_fill(~kept, num_experts).flatten()  # [N]; dropped slots sort behind all
    order = argsort(ids)  # row -> slot
    counts = ids.new_zeros(num_experts + 1).scatter_add(0, ids, torch.ones_like(ids))[:-1]
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))  # [E + 1]

    rows = torch.arange(T * K, device=ids.device)
    row_to_slot = torch.where(rows < offsets[-1], order, -1)
    slot_to_row = torch.zeros_like(order).scatter(0, order, rows)
    slot_to_row = torch.where(kept.flatten(), slot_to_row, -1).view(T, K)
    if pad_to is not None:
        with_rows = torch.sym_min(num_experts, T * K)  # type: ignore[no-untyped-call]
        N = (T * K + with_rows * (pad_to - 1)) // pad_to * pad_to
        sizes = (counts + pad_to - 1) // pad_to * pad_to
        padded = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
        moved = slot_to_row.flatten() + (padded - offsets)[ids]
        places = torch.where(kept.flatten(), moved, N)  # dropped slots go to one more row
        row_to_slot = rows.new_full((N + 1,), -1).scatter(0, places, rows)[:-1]
        slot_to_row, offsets = torch.where(kept, moved.view(T, K), -1), padded
    return row_to_slot.int(), slot_to_row.int(), offsets.int()
