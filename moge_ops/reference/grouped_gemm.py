"""Oracle of :func:`moge_ops.grouped_gemm`."""

from itertools import pairwise

import torch
from torch import Tensor


def grouped_gemm(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``[N, I], [E, O, I] -> [N, O]``; rows of no expert are zero."""
    starts = offsets.tolist()
    outs = [rows[a:b] @ weight[e].T for e, (a, b) in enumerate(pairwise(starts))]
    tail = rows.new_zeros(rows.shape[0] - starts[-1], weight.shape[1])
    return torch.cat([*outs, tail])  # [N, O]
