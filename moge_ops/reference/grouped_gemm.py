"""Oracle of :func:`moge_ops.grouped_gemm`."""

from itertools import pairwise

import torch
from torch import Tensor


def grouped_gemm(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``[N, I], [E, O, I] -> [N, O]``; rows of no expert are zero.

    Raises:
        ValueError: The offsets do not rise from 0 to at most N.
    """
    starts = offsets.tolist()
    if starts[0] != 0 or starts[-1] > len(rows) or starts != sorted(starts):
        raise ValueError(f"offsets must rise from 0 to at most N={len(rows)}, got {starts}")
    outs = [rows[a:b] @ weight[e].T for e, (a, b) in enumerate(pairwise(starts))]
    tail = rows.new_zeros(rows.shape[0] - starts[-1], weight.shape[1])
    return torch.cat([*outs, tail])  # [N, O]
