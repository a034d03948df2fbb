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


def _choice(order: Tensor, k: int) -> Tensor:
    """``[T, G, P] -> ids [T, G * k]``: in every group the first k of the largest numbers."""
    T, G, P = order.shape
    least = torch.iinfo(order.dtype).min if not order.is_floating_point() else float("-inf")
    best = []
    for j in range(k):  # quicker than a stable sort while k is small; the first of equals is taken
        best.append(order.max(-1).indices)  # [T, G]
        if j + 1 < k:
            order.scatter_(-1, best[j].unsqueeze(-1), least)
    first = torch.arange(0, G * P, P, device=order.device).view(-1, 1)
    return (torch.stack(best, -1) + first).view(T, G * k)


def _with_null(x: Tensor) -> Tensor:
    """A zero behind the last expert, for slots that are dropped."""
    return F.pad(x, (0, 1))


def _or_null(ids: Tensor, E: int) -> Tensor:
    """``ids`` in int64, with E for those that no expert has."""
    return torch.where((ids >= 0) & (ids < E), ids.long(), E)


def grouped_gate_fwd(
    logits: Tensor,
    num_groups: int,
    k: int,
    score: str,
    bias: Tensor | None,
    router_scale: Tensor | None,
    renormalize: bool,
    scaling: float,
    given: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``[T, E] -> weights [T, K], experts [T, K] int32, counts [E] int32``."""
    T, E = logits.shape
    scores = scores_of(logits, score)

    if given is None:
        ids = _choice(_ordered(scores, bias).view(T, num_groups, E // num_groups), k)
    else:
        ids, scores = _or_null(given, E), _with_null(scores)

    weights = scores.gather(-1, ids)
    if renormalize:
        weights, _ = shares_of(weights)
    if scaling != 1.0:
        weights *= scaling
    if router_scale is not None:
        scale = router_scale if given is None else _with_null(router_scale)
        weights *= scale.to(weights.dtype)[ids]
    counts = torch.bincount(ids.flatten(), minlength=E)[:E]
    if given is not None:
        dropped = ids == E
        weights.masked_fill_(dropped, 0.0)  # a share of a sum that is 0 or NaN is not 0
        ids.masked_fill_(dropped, -1)
    return weights, ids.int(), counts.int()


def grouped_gate_bwd(
    d_weights: Tensor,
    logits: Tensor,
    experts: Tensor,
    num_groups: int,
    score: str,
    router_scale: Tensor | None,
    renormalize: bool,
    scaling: float,
    given: bool,
) -> tuple[Tensor, Tensor]:
    """``[T, K], [T, E], [T, K] -> d_logits [T, E], d_router_scale [E]``, or [0] without one."""
    E = logits.shape[1]
    scores, ids = scores_of(logits, score), experts.long()
    if given:
        scores, ids = _with_null(scores), _or_null(ids, E)
        router_scale = None if router_scale is None else _with_null(router_scale)
    base = scores.gather(-1, ids)  # [T, K]
    if renormalize:
        base, total = shares_of(base)

    d_base = d_weights.to(scores.dtype) * scaling
    if given:
        d_base.masked_fill_(ids == E, 0.0)
    d_router_scale = logits.new_empty(0)
    if router_scale is not None:
        # an expert's rows are summed one after another: in float64 their number does no harm. Metal
        # has none
        wide = scores.dtype if logits.device.type == "mps" else torch.float64
        d_router_scale = torch.zeros(router_scale.shape[0], dtype=wide, device=logits.device)
        d_router_scale.index_add_(0, ids.flatten(), (d_base * base).flatten().to(wide))
        d_router_scale = d_router_scale[:E].to(router_scale.dtype)
        d_base *= router_scale.to(scores.dtype)[ids]
    slopes = slopes_of(scores, score)
    if renormalize:
        # base_c = s_c / S: d_s_c = (d_base_c - sum_j d_base_j base_j) / S, which may overflow, but
        # not times the slope, since that is at most s_c. The softmax's other term is 0
        d_base -= (d_base * base).sum(-1, keepdim=True)
        d_base *= slopes.gather(-1, ids) / total
        d_logits = (slopes * 0.0).scatter_add_(-1, ids, d_base)  # a NaN stays
    else:
        d_scores = torch.zeros_like(scores).scatter_add_(-1, ids, d_base)  # [T, E]
        if score == "softmax":
            d_scores -= (d_scores * scores).sum(-1, keepdim=True)
        d_logits = d_scores.mul_(slopes)
    return d_logits[:, :E].to(logits.dtype).contiguous(), d_router_scale
