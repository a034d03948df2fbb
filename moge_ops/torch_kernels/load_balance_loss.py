"""Load-balance loss in torch."""

import torch
from torch import Tensor

from moge_ops.torch_kernels.grouped_gate import scores_of, shares_of, slopes_of


def load_balance_loss_fwd(logits: Tensor, experts: Tensor, score: str) -> tuple[Tensor, Tensor]:
    """``[T, E], [T, K] -> scalar, f [E]``."""
    T, E = logits.shape
    scores = scores_of(logits, score)
    if score != "softmax":
        scores, _ = shares_of(scores)
    # ids out of range, of either sign, are counted in one more bin
    ids = experts.long().flatten()
    ids = torch.where((ids >= 0) & (ids < E), ids, E)
    counts = torch.bincount(ids, minlength=E + 1)[:E]
    f = counts.to(scores.dtype) * (E / max(ids.numel(), 1))
    # not f @ p: autocast would round that
    return (f * (scores.sum(0) / max(T, 1))).sum(), f


def load_balance_loss_bwd(d_loss: Tensor, logits: Tensor, f: Tensor, score: str) -> Tensor:
    """``scalar, [T, E], [E] -> [T, E]``."""
    s = scores_of(logits, score)
    d_q = d_loss * (f / max(len(logits), 1))  # [E]
    # q_i = s_i / S: d_logits_i = s'_i / S (d_q_i - sum_j q_j d_q_j); the softmax's s is exp, s' = s
    if score == "softmax":
        q = slopes = s
    else:
        q, total = shares_of(s)
        slopes = slopes_of(s, score) / total
    d_logits = slopes * (d_q - (q * d_q).sum(-1, keepdim=True))
    return d_logits.to(logits.dtype)
