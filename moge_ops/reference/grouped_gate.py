"""Oracle of :func:`moge_ops.grouped_gate`."""

import torch
from torch import Tensor


def scores_of(logits: Tensor, score: str) -> Tensor:
    """Router scores ``[T, E]`` in float32, or float64 for float64 logits."""
    logits = logits if logits.dtype is torch.float64 else logits.float()
    return logits.softmax(-1) if score == "softmax" else logits.sigmoid()


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
) -> tuple[Tensor, Tensor, Tensor]:
    """``[T, E] -> weights [T, K], experts [T, K] int32, counts [E] int32``."""
    T, E = logits.shape
    scores = scores_of(logits, score)  # [T, E]

    if expert_mask is not None:
        off = torch.where(expert_mask, 0.0, float("-inf"))
        bias = off if bias is None else torch.where(expert_mask, bias, off)
    if num_voted is not None:
        best = grouped_gate(logits.detach(), num_groups, score=score, bias=bias)[1]  # [T, G]
        voters = best if row_mask is None else best[row_mask]
        votes = torch.bincount(voters.flatten(), minlength=E)  # [E]
        stays = torch.zeros(E, dtype=torch.bool, device=logits.device)
        for group in torch.arange(E, device=logits.device).view(num_groups, -1):
            on = group if expert_mask is None else group[expert_mask[group]]
            stays[on[votes[on].argsort(descending=True, stable=True)[:num_voted]]] = True
        return grouped_gate(
            logits,
            num_groups,
            k,
            score=score,
            bias=bias,
            router_scale=router_scale,
            renormalize=renormalize,
            scaling=scaling,
            expert_mask=stays,
        )

    keys = scores.detach() if bias is None else scores.detach() + bias.to(scores.dtype)
    keys = keys.view(T, num_groups, E // num_groups)  # [T, G, P]
    # best first, equal ones by id; then, in that order, every NaN after every number
    order = keys.nan_to_num(0.0, float("inf"), float("-inf"))
    order = order.argsort(stable=True, dim=-1, descending=True)
    nan_last = keys.isnan().gather(-1, order).int().argsort(stable=True, dim=-1)
    chosen = order.gather(-1, nan_last)[..., :k]  # [T, G, k]
    first = torch.arange(0, E, E // num_groups, device=logits.device).view(1, num_groups, 1)
    experts = (chosen + first).reshape(T, num_groups * k)  # [T, K]

    weights = scores.gather(-1, experts)  # [T, K]
    if renormalize:
        weights = weights / weights.sum(-1, keepdim=True)
    weights = weights * scaling
    if router_scale is not None:
        weights = weights * router_scale.to(weights.dtype)[experts]
    counts = torch.bincount(experts.flatten(), minlength=E)  # [E]
    return weights, experts.int(), counts.int()
