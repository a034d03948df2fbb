"""Weighted sum of each token's rows in torch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .permute import has_gaps

FEW = 2**15  # elements that cost less to widen than the operations that avoid it
CHUNK = 2**18  # elements of float32 temporaries in the backward: they stay in the cache


def unpermute_fwd(
    rows: Tensor, row_to_slot: Tensor, slot_to_row: Tensor, weights: Tensor | None
) -> Tensor:
    """``[N, H], [N], [T, K], [T, K] -> [T, H]``."""
    if not rows.numel():
        return rows.new_zeros(slot_to_row.shape[0], rows.shape[1])
    if not rows.is_cpu:
        return _fwd_anywhere(rows, slot_to_row, weights)
    dtype = rows.dtype
    # float16's range is too small for a weight in two parts; few elements are quicker in float32
    if dtype is torch.float16 or (dtype is torch.bfloat16 and rows.numel() <= FEW):
        rows = rows.float()

    indices, offsets = slot_to_row, None
    if has_gaps(row_to_slot, slot_to_row):  # dropped slots: bags of different sizes
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
    if not rows.is_cpu:
        return _bwd_anywhere(d_y, rows, row_to_slot, slot_to_row, weights)
    N, H = rows.shape
    if slot_to_row.numel() < N:  # padded: without the rows of no slot
        kept = (row_to_slot >= 0).nonzero().squeeze(1)
        d_kept, d_weights = unpermute_bwd(d_y, rows[kept], row_to_slot[kept], slot_to_row, weights)
        return rows.new_zeros(N, H).index_copy_(0, kept, d_kept), d_weights

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


# Other devices: without a look at the routing, for which the host would wait, and without
# embedding_bag, which not every device has.


def _fwd_anywhere(rows: Tensor, slot_to_row: Tensor, weights: Tensor | None) -> Tensor:
    T, K = slot_to_row.shape
    acc = torch.promote_types(rows.dtype, torch.float32)
    picked = rows.index_select(0, slot_to_row.clamp_min(0).flatten()).view(T, K, -1).to(acc)
    if weights is not None:
        picked = picked * weights.unsqueeze(-1).to(acc)
    return picked.masked_fill((slot_to_row < 0).unsqueeze(-1), 0.0).sum(1).to(rows.dtype)


def _bwd_anywhere(
    d_y: Tensor, rows: Tensor, row_to_slot: Tensor, slot_to_row: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    if not len(rows):
        return rows.new_zeros(rows.shape), weights.new_zeros(weights.shape)
    acc = torch.promote_types(rows.dtype, torch.float32)
    slots = row_to_slot.clamp_min(0)
    d = d_y.index_select(0, slots // slot_to_row.shape[1]).to(acc)  # [N, H]
    dots = (d * rows).sum(1)
    row_weights = weights.flatten().index_select(0, slots).to(acc).unsqueeze(1)
    d_rows = (d * row_weights).masked_fill((row_to_slot < 0).unsqueeze(1), 0.0).to(rows.dtype)
    d_weights = dots.index_select(0, slot_to_row.clamp_min(0).flatten()).view(weights.shape)
    return d_rows, d_weights.masked_fill(slot_to_row < 0, 0.0).to(weights.dtype)
