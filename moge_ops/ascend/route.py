"""Routing in Ascend C: a stable counting partition, exchanged between cores in one launch."""

import torch
from torch import Tensor

from moge_ops import _C

from ._common import pointer, stream


def route_fwd(
    experts: Tensor, num_experts: int, num_groups: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """``[T, K] -> row_to_slot [N], slot_to_row [T, K], offsets [E + 1]``."""
    T, K = experts.shape
    if experts.dtype is torch.int64:  # an id that int32 cannot hold is no expert's
        experts = experts.clamp(-1, num_experts).int()

    def new(*sizes: int) -> Tensor:
        return torch.empty(sizes, dtype=torch.int32, device=experts.device)

    row_to_slot, slot_to_row = new(T * K), new(T, K)
    if not T * K:
        return row_to_slot, slot_to_row, row_to_slot.new_zeros(num_experts + 1)
    sizes = {"T": T, "K": K, "E": num_experts, "G": num_groups or 1}
    offsets, workspace = new(num_experts + 1), new(_C.route_workspace(**sizes))
    _C.route_fwd(
        experts=pointer(experts),
        row_to_slot=pointer(row_to_slot),
        slot_to_row=pointer(slot_to_row),
        offsets=pointer(offsets),
        workspace=pointer(workspace),
        **sizes,
        stream=stream(experts),
    )
    return row_to_slot, slot_to_row, offsets
