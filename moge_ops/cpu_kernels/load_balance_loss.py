"""Load-balance loss."""

import torch
from torch import Tensor

from moge_ops import _cpu

from ._common import DTYPES, SCORES, adjacent, float32, matrix


def load_balance_loss_fwd(logits: Tensor, experts: Tensor, score: str) -> tuple[Tensor, Tensor]:
    """``[T, E], [T, K] -> scalar, f [E]``."""
    logits = adjacent(logits)
    T, E = logits.shape
    loss = logits.new_empty((), dtype=torch.float32)
    f = logits.new_empty(E, dtype=torch.float32)
    _cpu.load_balance_loss_fwd(
        dtype=DTYPES[logits.dtype],
        logits=matrix(logits),
        experts=experts.data_ptr(),
        wide=experts.dtype is torch.int64,
        f=f.data_ptr(),
        loss=loss.data_ptr(),
        T=T,
        E=E,
        K=experts.shape[1],
        score=SCORES[score],
        threads=torch.get_num_threads(),
    )
    return loss, f


def load_balance_loss_bwd(d_loss: Tensor, logits: Tensor, f: Tensor, score: str) -> Tensor:
    """``scalar, [T, E], [E] -> [T, E]``."""
    logits = adjacent(logits)
    T, E = logits.shape
    d_loss, f = float32(d_loss), float32(f)
    d_logits = logits.new_empty(T, E)
    _cpu.load_balance_loss_bwd(
        dtype=DTYPES[logits.dtype],
        logits=matrix(logits),
        f=f.data_ptr(),
        d_loss=d_loss.data_ptr(),
        d_logits=d_logits.data_ptr(),
        T=T,
        E=E,
        score=SCORES[score],
        threads=torch.get_num_threads(),
    )
    return d_logits
