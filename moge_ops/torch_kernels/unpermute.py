"""Weighted sum of each token's rows in torch."""

import torch
import torch.nn.functional as F
from torch import Tensor

FEW = 2**15  # elements that cost less to widen than the operations that avoid it
CHUNK = 2**18  # elements of float32 temporaries in the backward: they stay in the cache


def unpermute_fwd(
    rows: Tensor, row_to_slot: Tensor, slot_to_row: Tensor, weights: Tensor | None
) -> Tensor:
    """``[N, H], [N], [T, K], [T, K] -> [T, H]``."""
    if not rows.numel():
        return rows.new_zeros(slot_to_row.shape[0], rows.shape[1])
    dtype = rows.dtype
    # float16's range is too small for a weight in two parts; few elements are quicker in float32
    if dtype is torch.float16 or (dtype is torch.bfloat16 and rows.numel() <= FEW):
        rows = rows.float()

    indices, offsets = slot_to_row, None
    if row_to_slot[-1] < 0:  # dropped slots: bags of different sizes
        kept = slot_to_row >= 0
        sizes = kept.sum(1)
        indices, offsets = slot_to_row[kept], (sizes.cumsum(0) - sizes).int()
        weights = None if weights is None else weights[kept]
    if weights is not None and rows.dtype is torch.bfloat16:
        # embedding_bag sums in float32 but wants weights in bfloat16: w = high + low, and every
        # row twice
        weights = weights.float()
        high = weights.bfloat16()
        weights = torch.stack((high, (weights - high).bfloat16()), -1).flatten(-2)
        indices = indices.repeat_interleave(2, -1)
        offsets = None if offsets is None else 2 * offsets
    elif weights is not None:
        weights = weights.to(rows.dtype)
    # copied if strided: embedding_bag's vectorised kernel wants whole rows
    y = F.embedding_bag(indices, rows.contiguous(), offsets, mode="sum", per_sample_weights=weights)
    return y.to(dtype)


def unpermute_bwd(
    d_y: Tensor, rows: Tensor, row_to_slot: Tensor, slot_to_row: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """``[T, H], [N, H], [N], [T, K], [T, K] -> [N, H], [T, K]``."""
    N, H = rows.shape
    d_rows = torch.empty(N, H, dtype=rows.dtype, device=rows.device)
    d_weights = torch.zeros(weights.shape, dtype=weights.dtype, device=rows.device)
    used = N
    if N and row_to_slot[-1] < 0:
        used = int((row_to_slot >= 0).sum())
        d_rows[used:] = 0.0
    if not used:
        return d_rows, d_weights

    acc = torch.promote_types(rows.dtype, torch.float32)
    slots = row_to_slot[:used]
    tokens = slots // slot_to_row.shape[1]
    row_weights = weights.flatten().index_select(0, slots).to(acc).unsqueeze(1)  # [used, 1]
    dots = torch.empty(used, dtype=acc, device=rows.device)
    step = max(1, CHUNK // max(1, H))
    for start in range(0, used, step):
        part = slice(start, min(start + step, used))
        d = d_y.index_select(0, tokens[part]).to(acc)  # a copy: scaled in place below
        dots[part] = (d * rows[part]).sum(1)
        d_rows[part] = d.mul_(row_weights[part])
    d_weights.view(-1).scatter_(0, slots.long(), dots.to(weights.dtype))
    return d_rows, d_weights
