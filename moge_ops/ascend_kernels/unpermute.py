"""Weighted sum of each token's rows in Ascend C."""

import torch
from torch import Tensor

from moge_ops import _C

from ._common import dtype_of, pointer, stream


def unpermute_fwd(
    rows: Tensor, row_to_slot: Tensor, slot_to_row: Tensor, weights: Tensor | None
) -> Tensor:
    """``[N, H], [N], [T, K], [T, K] -> [T, H]``."""
    dtype = dtype_of("rows", rows)
    T, K = slot_to_row.shape
    if not rows.numel():
        return rows.new_zeros(T, rows.shape[1])
    rows, slot_to_row = rows.contiguous(), slot_to_row.contiguous()
    weights = None if weights is None else weights.float().contiguous()
    y = rows.new_empty(T, rows.shape[1])
    _C.unpermute_fwd(
        pointer(rows),
        pointer(slot_to_row),
        pointer(weights),
        pointer(y),
        *y.shape,
        K,
        dtype,
        stream(rows),
    )
    return y


def unpermute_bwd(
    d_y: Tensor, rows: Tensor, row_to_slot: Tensor, slot_to_row: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """``[T, H], [N, H], [N], [T, K], [T, K] -> [N, H], [T, K]``."""
    dtype = dtype_of("rows", rows)
    if not rows.numel():
        return torch.empty_like(rows), weights.new_zeros(weights.shape)
    d_y, rows = d_y.contiguous(), rows.contiguous()
    row_to_slot, slot_to_row = row_to_slot.contiguous(), slot_to_row.contiguous()
    factors = weights.float().contiguous()
    d_rows, d_factors = torch.empty_like(rows), torch.empty_like(factors)
    _C.unpermute_bwd(
        pointer(d_y),
        pointer(rows),
        pointer(row_to_slot),
        pointer(slot_to_row),
        pointer(factors),
        pointer(d_rows),
        pointer(d_factors),
        *d_y.shape,
        slot_to_row.shape[1],
        dtype,
        stream(rows),
    )
    return d_rows, d_factors.to(weights.dtype)
