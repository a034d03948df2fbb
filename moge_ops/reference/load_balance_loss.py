"""Oracle of :func:`moge_ops.load_balance_loss`."""

import torch
from torch import Tensor

from moge_ops.reference.grouped_gate import scores_of


def load_balance_loss(logits: Tensor, experts: Tensor, *, score: str = "softmax") -> Tensor:
    """``[T, E], [T, K] -> scalar``."""
    T, E = logits.shape
    K = experts.shape[1]
    scores = scores_of(logits, score)  # [T, E]
    if score == "sigmoid":
        scores = scores / scores.sum(-1, keepdim=True)
    if not T * K:
        return scores.sum() * 0.0
    ids = experts.long().flatten()
    counts = torch.bincount(ids[(ids >= 0) & (ids < E)], minlength=E)  # [E]
    f = counts.to(scores.dtype) * (E / (K * T))
    return (f * scores.mean(0)).sum()
