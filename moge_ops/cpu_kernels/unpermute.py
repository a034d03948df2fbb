"""Weighted sum of each token's rows."""

import torch
from torch import Tensor

from moge_ops import _cpu

from ._common import DTYPES, NONE, adjacent, float32, matrix


def unpermute_fwd(
    rows: Tensor, row_to_slot: Tensor, slot_to_row: Tensor, weights: Tensor | None
) -> Tensor:
    """``[N, H], [N], [T, K], [T, K] -> [T, H]``."""
    rows = adjacent(rows)
    weights = None if weights is None else float32(weights)
    T, K = slot_to_row.shape
    N, H = rows.shape
    y = rows.new_empty(T, H)
    _cpu.unpermute_fwd(
        dtype=DTYPES[rows.dtype],
        x=NONE,
        rows=matrix(rows),
        weights=0 if weights is None else weights.data_ptr(),
        out=y.data_ptr(),
        d_weights=0,
        row_to_slot=row_to_slot.data_ptr(),
        slot_to_row=slot_to_row.data_ptr(),
        T=T,
        K=K,
        N=N,
        H=H,
        threads=torch.get_num_threads(),
    )
    return y


def unpermute_bwd(
    d_y: Tensor, rows: Tensor, row_to_slot: Tensor, slot_to_row: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """``[T, H], [N, H], [N], [T, K], [T, K] -> [N, H], [T, K]``."""
    d_y, rows, wide = adjacent(d_y), adjacent(rows), float32(weights)
    T, K = slot_to_row.shape
    N, H = rows.shape
    d_rows, d_weights = rows.new_empty(N, H), wide.new_empty(T, K)
    _cpu.unpermute_bwd(
        dtype=DTYPES[rows.dtype],
        x=matrix(d_y),
        rows=matrix(rows),
        weights=wide.data_ptr(),
        out=d_rows.data_ptr(),
        d_weights=d_weights.data_ptr(),
        row_to_slot=row_to_slot.data_ptr(),
        slot_to_row=slot_to_row.data_ptr(),
        T=T,
        K=K,
        N=N,
        H=H,
        threads=torch.get_num_threads(),
    )
    return d_rows, d_weights.to(weights.dtype)
