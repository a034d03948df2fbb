"""Oracle of :func:`moge_ops.unpermute`."""

import torch
from torch import Tensor


def unpermute(rows: Tensor, slot_to_row: Tensor, weights: Tensor | None = None) -> Tensor:
    """``[N, H] -> [T, H]``, summed in float32 or wider."""
    acc = torch.promote_types(rows.dtype, torch.float32)
    picked = rows[slot_to_row.clamp_min(0).long()].to(acc)  # [T, K, H]
    if weights is not None:
        picked = picked * weights.unsqueeze(-1).to(acc)
    picked = torch.where((slot_to_row < 0).unsqueeze(-1), 0.0, picked)
    return picked.sum(1).to(rows.dtype)
