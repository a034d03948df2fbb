"""Oracle of :func:`moge_ops.load_balance_loss`."""

import torch
from torch import Tensor

from moge_ops.reference.grouped_gate import log_scores_of, scores_of, shares_of


def shares(logits: Tensor, score: str) -> Tensor:
    """``[T, E] -> [T, E]``: scores that add up to 1 in every row."""
    scores = scores_of(logits, score)
    return scores if score == "softmax" else shares_of(scores, log_scores_of(logits, score))


def load_balance_loss(logits: Tensor, experts: Tensor, *, score: str = "softmax") -> Tensor:
    """``[T, E], [T, K] -> scalar``."""
    T, E = logits.shape
    K = experts.shape[1]
    scores = shares(logits, score)  # [T, E]
    if not T * K:
        return scores.sum() * 0.0
    ids = experts.long().flatten()
    ids = torch.where((ids >= 0) & (ids < E), ids, E)  # those of no expert in one more bin
    counts = ids.new_zeros(E + 1).scatter_add(0, ids, torch.ones_like(ids))[:E]
    f = counts.to(scores.dtype) * (E / (K * T))
    return (f * scores.mean(0)).sum()
