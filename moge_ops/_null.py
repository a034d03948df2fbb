"""Null experts: outputs of a router, the last of each group, that stand for no work."""

import torch
import torch.nn.functional as F
from torch import Tensor

from moge_ops.ops.grouped_gate import Gating


def true_ids(ids: Tensor, num_outputs: int, num_groups: int, num_null: int) -> Tensor:
    """Ids of outputs as ids of experts; null ones, and those of no output, become E.

    Args:
        ids: ``[T, K]``, among ``num_outputs`` = E + G·n outputs, each group with its null ones
            last.
        num_outputs: E + G·n.
        num_groups: G.
        num_null: n.
    """
    if not num_null:
        return ids
    n = num_outputs // num_groups
    P = n - num_null
    true = (ids >= 0) & (ids < num_outputs) & (ids % n < P)
    return torch.where(true, ids // n * P + ids % n, num_groups * P)


def true_outputs(x: Tensor, num_groups: int, num_null: int) -> Tensor:
    """``[..., E + G·n] -> [..., E]``: what belongs to experts."""
    if not num_null:
        return x
    groups = x.view(*x.shape[:-1], num_groups, -1)
    return groups[..., :-num_null].flatten(-2)


def with_null(mask: Tensor, num_groups: int, num_null: int) -> Tensor:
    """``[E] -> [E + G·n]`` bool: null experts are always on."""
    return F.pad(mask.view(num_groups, -1), (0, num_null), value=True).flatten()


def weights_of_true(
    gating: Gating,
    ids: Tensor,
    num_experts: int,
    router_scale: Tensor | None,
    renormalize: bool,
    scaling: float,
) -> Gating:
    """A gating whose weights are scores yet, with those of null slots 0.

    ``renormalize`` divides a row by the sum of its true experts' scores, so that null experts take
    nothing from the others; a row without a true expert, or whose scores underflow, stays 0.
    """
    null = ids >= num_experts
    weights = gating.weights.masked_fill(null, 0.0)
    if renormalize:
        total = weights.sum(1, keepdim=True)
        weights = weights / torch.where(total == 0.0, 1.0, total)
    if router_scale is not None:
        weights = weights * router_scale.to(weights.dtype)[ids.clamp_max(num_experts - 1).long()]
    return gating._replace(weights=weights * scaling)
