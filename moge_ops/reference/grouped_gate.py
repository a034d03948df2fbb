"""Oracle of :func:`moge_ops.grouped_gate`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from moge_ops.reference._order import argsort


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype is torch.float64 else logits.float()


def _softplus(x: Tensor) -> tuple[Tensor, Tensor]:
    """Where log(1 + e^x) is e^x in every dtype, and its values elsewhere."""
    low = x < -40.0
    return low, F.softplus(torch.where(low, 0.0, x), threshold=40.0)


def scores_of(logits: Tensor, score: str) -> Tensor:
    """Router scores ``[T, E]`` in float32, or float64 for float64 logits."""
    x = _wide(logits)
    if score == "softmax":
        return x.softmax(-1)
    if score == "sigmoid":
        return x.sigmoid()
    low, softplus = _softplus(x)
    return torch.where(low, torch.where(low, 0.5 * x, 0.0).exp(), softplus.sqrt())


def log_scores_of(logits: Tensor, score: str) -> Tensor:
    """Logarithms of :func:`scores_of`, also of scores that underflow."""
    x = _wide(logits)
    if score == "softmax":
        return x.log_softmax(-1)
    if score == "sigmoid":
        return F.logsigmoid(x)
    low, softplus = _softplus(x)
    return torch.where(low, 0.5 * x, 0.5 * softplus.log())


def shares_of(scores: Tensor, log_scores: Tensor) -> Tensor:
    """Scores divided by the sum of their row; equal shares, without a gradient, if that is 0."""
    logs = torch.where(scores.sum(-1, keepdim=True) == 0.0, 0.0, log_scores)
    # unlike that of a division, this gradient is finite for every sum that is not 0
    return (logs - logs.logsumexp(-1, keepdim=True)).exp()


def _choice(
    scores: Tensor,
    num_groups: int,
    k: int,
    bias: Tensor | None,
    expert_mask: Tensor | None,
    num_voted: int | None,
    row_mask: Tensor | None,
) -> Tensor:
    """Ids ``[T, K]`` of the best experts of every group by detached scores ``[T, E]``."""
    T, E = scores.shape
    if expert_mask is not None:
        off = torch.where(expert_mask, 0.0, float("-inf"))
        bias = off if bias is None else torch.where(expert_mask, bias, off)
    if num_voted is not None:
        best = _choice(scores, num_groups, 1, bias, None, None, None)  # [T, G]
        voters = torch.ones_like(best)
        if row_mask is not None:
            voters = voters * row_mask.unsqueeze(1)
        votes = best.new_zeros(E).scatter_add(0, best.flatten(), voters.flatten())  # [E]
        if expert_mask is not None:
            votes = votes.masked_fill(~expert_mask, -1)
        order = argsort(votes.view(num_groups, -1), descending=True)
        stays = (argsort(order) < num_voted).flatten()  # an expert's place in that order
        if expert_mask is not None:
            stays = stays & expert_mask
        return _choice(scores, num_groups, k, bias, stays, None, None)

    keys = scores if bias is None else scores + bias.detach().to(scores.dtype)
    keys = keys.view(T, num_groups, E // num_groups)  # [T, G, P]
    # best first, equal ones by id; then, in that order, every NaN after every number
    order = keys.nan_to_num(0.0, float("inf"), float("-inf"))
    order = argsort(order, descending=True)
    nan_last = argsort(keys.isnan().gather(-1, order).int())
    chosen = order.gather(-1, nan_last)[..., :k]  # [T, G, k]
    first = torch.arange(0, E, E // num_groups, device=scores.device).view(1, num_groups, 1)
    return (chosen + first).reshape(T, num_groups * k)


def grouped_gate(
    logits: Tensor,
    num_groups: int,
    k: int = 1,
    *,
    score: str = "softmax",
    bias: Tensor | None = None,
    router_scale: Tensor | None = None,
    renormalize: bool = False,
    scaling: float = 1.0,
    expert_mask: Tensor | None = None,
    num_voted: int | None = None,
    row_mask: Tensor | None = None,
    experts: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``[T, E] -> weights [T, K], experts [T, K] int32, counts [E] int32``."""
    E = logits.shape[1]
    scores = scores_of(logits, score)  # [T, E]

    if experts is None:
        experts = _choice(
            scores.detach(), num_groups, k, bias, expert_mask, num_voted, row_mask
        )  # [T, K]
    ids = experts.long()
    used = (ids >= 0) & (ids < E)  # no slot that was dropped
    ids = torch.where(used, ids, 0)

    weights = torch.where(used, scores.gather(-1, ids), 0.0)  # [T, K]
    if renormalize:
        log_scores = log_scores_of(logits, score).gather(-1, ids)
        weights = shares_of(weights, torch.where(used, log_scores, float("-inf")))
        weights = torch.where(used, weights, 0.0)
    weights = weights * scaling
    if router_scale is not None:
        weights = weights * torch.where(used, router_scale.to(weights.dtype)[ids], 1.0)
    counts = ids.new_zeros(E).scatter_add(0, ids.flatten(), used.long().flatten())  # [E]
    return weights, torch.where(used, ids, -1).int(), counts.int()
