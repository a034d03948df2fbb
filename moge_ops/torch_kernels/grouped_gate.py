"""Grouped gate in torch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def scores_of(logits: Tensor, score: str) -> Tensor:
    """``[T, E] -> [T, E]`` in float32, or float64 for float64."""
    acc = torch.promote_types(logits.dtype, torch.float32)
    if score == "softmax":
        return logits.softmax(-1, dtype=acc)
    x = logits.to(acc)
    if score == "sigmoid":
        return x.sigmoid()
    # below -40 the logarithm of 1 + e^x is e^x, in float64 too
    return torch.where(x < -40.0, (0.5 * x).exp(), F.softplus(x, threshold=40.0).sqrt())


def slopes_of(scores: Tensor, score: str) -> Tensor:
    """Derivative of each score by its own logit; the softmax's lacks the term of the row's sum."""
    if score == "softmax":
        return scores
    if score == "sigmoid":
        return scores * (1.0 - scores)
    # e^x / (1 + e^x) / (2 s) with 1 + e^x = e^(s^2); it tends to s / 2
    slopes = torch.expm1(-scores.square()) / (-2.0 * scores)
    return torch.where(scores < 1e-10, 0.5 * scores, slopes)


def shares_of(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Scores divided by their row's sum, and the sum; for a sum of 0, equal shares and 1."""
    total = scores.sum(-1, keepdim=True)
    none = total == 0.0
    shares = (scores / total).masked_fill_(none, 1.0 / scores.shape[-1])
    return shares, total.masked_fill_(none, 1.0)


def _ordered(scores: Tensor, bias: Tensor | None) -> Tensor:
    """Numbers in the order of ``scores + bias``, NaN below all others, the least one left free."""
    if bias is None:  # scores are at least 0
        return scores.nan_to_num(-1.0)
    keys = scores + bias.to(scores.dtype)
    integer = torch.int64 if keys.dtype is torch.float64 else torch.int32
    limits = torch.iinfo(integer)
    # the bits of a float are ordered but for its sign; -0.0 does not occur, as scores are not -0.0
    bits = keys.view(integer)
    bits = ((bits >> (limits.bits - 1)) & limits.max) ^ bits
    return bits.masked_fill_(keys.isnan(), limits.min + 1)


def grouped_gate_fwd(
    logits: Tensor,
    num_groups: int,
    k: int,
    score: str,
    bias: Tensor | None,
    router_scale: Tensor | None,
    renormalize: bool,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """``[T, E] -> weights [T, K], experts [T, K] int32, counts [E] int32``."""
    T, E = logits.shape
    P = E // num_groups
    scores = scores_of(logits, score)

    order = _ordered(scores, bias).view(T, num_groups, P)
    least = float("-inf") if bias is None else torch.iinfo(order.dtype).min
    best = []
    for j in range(k):  # quicker than a stable sort while k is small; the first of equals is taken
        best.append(order.max(-1).indices)  # [T, G]
        if j + 1 < k:
            order.scatter_(-1, best[j].unsqueeze(-1), least)
    first = torch.arange(0, E, P, device=logits.device).view(-1, 1)
    experts = (torch.stack(best, -1) + first).view(T, num_groups * k)

    weights = scores.gather(-1, experts)
    if renormalize:
        weights, _ = shares_of(weights)
    if scaling != 1.0:
        weights *= scaling
    if router_scale is not None:
        weights *= router_scale.to(weights.dtype)[experts]
    counts = torch.bincount(experts.flatten(), minlength=E)
    return weights, experts.int(), counts.int()


def grouped_gate_bwd(
    d_weights: Tensor,
    logits: Tensor,
    experts: Tensor,
    num_groups: int,
    score: str,
    router_scale: Tensor | None,
    renormalize: bool,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """``[T, K], [T, E], [T, K] -> d_logits [T, E], d_router_scale [E]``, or [0] without one."""
    E = logits.shape[1]
    scores = scores_of(logits, score)
    ids = experts.long()
    base = scores.gather(-1, ids)  # [T, K]
    if renormalize:
        base, total = shares_of(base)

    d_base = d_weights.to(scores.dtype) * scaling
    d_router_scale = logits.new_empty(0)
    if router_scale is not None:
        # an expert's rows are summed one after another: in float64 their number does no harm. Metal
        # has none
        wide = scores.dtype if logits.device.type == "mps" else torch.float64
        d_router_scale = torch.zeros(E, dtype=wide, device=logits.device)
        d_router_scale.index_add_(0, ids.flatten(), (d_base * base).flatten().to(wide))
        d_router_scale = d_router_scale.to(router_scale.dtype)
        d_base *= router_scale.to(scores.dtype)[ids]
    slopes = slopes_of(scores, score)
    if renormalize:
        # base_c = s_c / S: d_s_c = (d_base_c - sum_j d_base_j base_j) / S, which may overflow, but
        # not times the slope, since that is at most s_c. The softmax's other term is 0
        d_base -= (d_base * base).sum(-1, keepdim=True)
        d_base *= slopes.gather(-1, ids) / total
        d_logits = (slopes * 0.0).scatter_(-1, ids, d_base)  # a NaN stays
    else:
        d_scores = torch.zeros_like(scores).scatter_(-1, ids, d_base)  # [T, E]
        if score == "softmax":
            d_scores -= (d_scores * scores).sum(-1, keepdim=True)
        d_logits = d_scores.mul_(slopes)
    return d_logits.to(logits.dtype), d_router_scale
