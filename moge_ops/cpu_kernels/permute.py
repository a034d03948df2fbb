"""Rows of the tokens, in the order of their experts."""

import torch
from torch import Tensor

from moge_ops import _cpu

from ._common import DTYPES, NONE, adjacent, matrix


def permute_fwd(x: Tensor, row_to_slot: Tensor, slot_to_row: Tensor) -> Tensor:
    """``[T, H], [N], [T, K] -> [N, H]``."""
    x = adjacent(x)
    N, (T, K) = row_to_slot.shape[0], slot_to_row.shape
    rows = x.new_empty(N, x.shape[1])
    _cpu.permute_fwd(
        dtype=DTYPES[x.dtype],
        x=matrix(x),
        rows=NONE,
        weights=0,
        out=rows.data_ptr(),
        d_weights=0,
        row_to_slot=row_to_slot.data_ptr(),
        slot_to_row=slot_to_row.data_ptr(),
        T=T,
        K=K,
        N=N,
        H=x.shape[1],
        threads=torch.get_num_threads(),
    )
    return rows
