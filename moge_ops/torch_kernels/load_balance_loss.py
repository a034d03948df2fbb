"""Load-balance loss in torch."""

import torch
from torch import Tensor

from moge_ops.torch_kernels.grouped_gate import scores_of


def load_balance_loss_fwd(logits: Tensor, experts: Tensor, score: str) -> tuple[Tensor, Tensor]:
    """``[T, E], [T, K] -> scalar, f [E]``."""
    T, E = logits.shape
    scores = scores_of(logits, score)
    if score == "sigmoid":
        scores /= scores.sum(-1, keepdim=True)
    # ids out of range, of either sign, are counted in one more bin
    ids = experts.long().flatten()
    ids = torch.where((ids >= 0) & (ids < E), ids, E)
    counts = torch.bincount(ids, minlength=E + 1)[:E]
    f = counts.to(scores.dtype) * (E / max(ids.numel(), 1))
    return f @ (scores.sum(0) / max(T, 1)), f


def load_balance_loss_bwd(d_loss: Tensor, logits: Tensor, f: Tensor, score: str) -> Tensor:
    """``scalar, [T, E], [E] -> [T, E]``."""
    s = scores_of(logits, score)
    q = s / s.sum(-1, keepdim=True) if score == "sigmoid" else s
    d_q = d_loss * (f / max(len(logits), 1))  # [E]
    # q_i = s_i / sum_j s_j with s = exp, where s' = s, or with the sigmoid, where s' = s (1 - s)
    d_logits = q * (d_q - (q * d_q).sum(-1, keepdim=True))
    if score == "sigmoid":
        d_logits *= 1.0 - s
    return d_logits.to(logits.dtype)
