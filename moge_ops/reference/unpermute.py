"""Oracle of :func:`moge_ops.unpermute`."""

import torch
from torch import Tensor


def unpermute(rows: Tensor, slot_to_row: Tensor, weights: Tensor | None = None) -> Tensor:
    """``[N, H] -> [T, H]``, summed in float32 or wider."""
    acc = torch.promote_types(rows.dtype, torch.float32)
    dropped = (slot_to_row < 0).unsqueeze(-1)
    picked = rows[slot_to_row.clamp_min(0).long()].to(acc)  # [T, K, H]
    # before the product, because 0 times what a dropped slot may hold is no zero in a gradient
    picked = torch.where(dropped, 0.0, picked)
    if weights is not None:
        picked = picked * torch.where(dropped, 0.0, weights.unsqueeze(-1).to(acc))
    return picked.sum(1).to(rows.dtype)
