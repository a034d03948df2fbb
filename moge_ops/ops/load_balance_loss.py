"""The auxiliary losses of a router: load balance, and the size of its logits."""

from typing import Any

import torch
from torch import Tensor

from moge_ops import _backend, _checks
from moge_ops.ops.grouped_gate import SCORES
from moge_ops.reference.load_balance_loss import load_balance_loss as _reference
from moge_ops.reference.load_balance_loss import shares as shares  # in plain torch


@_backend.define()
def load_balance_loss_bwd(d_loss: Tensor, logits: Tensor, f: Tensor, score: str) -> Tensor:
    """``scalar, [T, E], [E] -> [T, E]``."""
    return logits.new_empty(logits.shape)


def _save(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
    _, f = output
    ctx.mark_non_differentiable(f)
    ctx.save_for_backward(inputs.logits, f)
    ctx.score = inputs.score


def _backward(ctx: Any, d_loss: Tensor, d_f: Tensor) -> dict[str, Tensor]:
    logits, f = ctx.saved_tensors
    return {"logits": load_balance_loss_bwd(d_loss, logits, f, ctx.score)}


@_backend.define(save=_save, backward=_backward)
def load_balance_loss_fwd(logits: Tensor, experts: Tensor, score: str) -> tuple[Tensor, Tensor]:
    """``[T, E], [T, K] -> scalar, f [E]``."""
    acc = torch.promote_types(logits.dtype, torch.float32)
    return logits.new_empty((), dtype=acc), logits.new_empty(logits.shape[1], dtype=acc)


def load_balance_loss(logits: Tensor, experts: Tensor, *, score: str = "softmax") -> Tensor:
    r"""Sums, over the experts, share of the batch times mean score: least when both are even.

    .. math::
        L = \sum_i f_i\,p_i, \qquad
        f_i = \frac{E}{K T} \sum_{t,j} [c_{tj} = i], \qquad
        p_i = \frac{1}{T} \sum_t q_{ti}

    with q the softmax of the logits or, for the other scores, a row's scores divided by their sum;
    where that is exactly zero, 1/E each, without a gradient. L is 1 for a uniform choice. The
    factor that weighs it against the model's loss is the caller's.

    Args:
        logits: ``[T, E]``, float16 | bfloat16 | float32 | float64, with any strides.
        experts: ``[T, K]`` int32 | int64, the chosen ids c; those outside [0, E) count for no
            expert.
        score: ``"softmax"``, ``"sigmoid"`` or ``"sqrtsoftplus"``, as the gate that chose them.

    Returns:
        A float32 scalar (float64 for float64 logits), 0 where T·K is 0. The gradient goes through
        p, to ``logits``. Deterministic bit for bit; the host does not wait.

    Raises:
        TypeError: An argument has another type or dtype.
        ValueError: An argument has another shape, device or value.

    Source:
        Tang et al. 2025, "Pangu Pro MoE", its auxiliary loss (arXiv:2505.21411); for the others
        DeepSeek-V3, eq. 17 to 20 (arXiv:2412.19437).
    """
    _checks.tensors(
        ("logits", logits, "[T, E]", _checks.FLOATS), ("experts", experts, "[T, K]", _checks.IDS)
    )
    if logits.shape[1] < 1:
        raise ValueError(f"logits must be [T, E] with E at least 1, got {list(logits.shape)}")
    _checks.choice("score", score, SCORES)
    if _backend.use_reference(logits):
        return _reference(logits, experts, score=score)
    return load_balance_loss_fwd(logits, experts, score)[0]


def load_balance_loss_from_probs(
    probs: Tensor, counts: Tensor, *, num_null: int = 0, num_groups: int = 1
) -> Tensor:
    r"""The load-balance loss of any router, from its probabilities and its experts' loads.

    .. math::
        L = \sum_i f_i\,p_i, \qquad
        f_i = \frac{E\,n_i}{\sum_j n_j}, \qquad
        p_i = \frac{1}{T} \sum_t q_{ti}

    It is :func:`load_balance_loss` where q are a gate's scores, in each row divided by their sum,
    and n its counts. With the counts of all ranks, the mean of the ranks' losses is that of the
    whole batch, if the ranks have equally many tokens. Plain torch, not a kernel of ours: it is one
    reduction, which torch.compile fuses. The factor that weighs it against the model's loss is the
    caller's.

    With null experts, outputs of the router that stand for no work, E counts those too, and the
    null ones of a group share the mean of their loads:

    .. math::
        f_i = \frac{E}{\sum_j n_j}\,\bar n_i, \qquad
        \bar n_i = \frac{1}{|N|} \sum_{j \in N} n_j \text{ for } i \in N, \quad
        \bar n_i = n_i \text{ for a true expert}

    so that the loss asks for a total load of the null experts N, and not for equal loads among
    them, which do not matter. Each true expert has its own. With all of these equal, L is 1 and a
    token takes K · (true outputs) / (all outputs) true experts on average.

    Args:
        probs: q, ``[T, E]``, float16 | bfloat16 | float32 | float64, with any strides. Its rows
            should add up to 1.
        counts: n, ``[E]``, int32 | int64 or one of these dtypes, without a gradient: rows of each
            expert, as in :class:`Gating`. A constant factor does not matter. Slots of no expert
            are not counted.
        num_null: Null experts of each group; they are the last outputs of their group.
        num_groups: G, which divides E into groups of neighbouring outputs; without ``num_null`` it
            makes no difference.

    Returns:
        A float32 scalar (float64 for float64 ``probs``), 0 where T or the sum of the counts is 0,
        with a gradient to ``probs``. The host does not wait.

    Raises:
        TypeError: An argument has another type or dtype.
        ValueError: An argument has another shape or device, G does not divide E, or a group has no
            true expert.

    Source:
        Fedus et al. 2022, "Switch Transformers", eq. 4 to 6 (arXiv:2101.03961), there for one
        expert a token. Null experts: Zeng et al. 2024, "AdaMoE" (arXiv:2406.13233), as in the code
        that its authors released, there for one group; loads of groups are ours.
    """
    _checks.tensors(
        ("probs", probs, "[T, E]", _checks.FLOATS),
        ("counts", counts, "[E]", (*_checks.IDS, *_checks.FLOATS)),
    )
    T, E = probs.shape
    _checks.groups(E, num_groups, name="the columns of probs")
    _checks.integer("num_null", num_null, least=0, most=E // num_groups - 1)
    acc = torch.promote_types(probs.dtype, torch.float32)
    n = counts.detach().to(acc)  # [E]
    if num_null:
        n = n.view(num_groups, -1)
        null = n[:, -num_null:]
        shared = null.mean(1, keepdim=True).expand_as(null)
        n = torch.cat([n[:, :-num_null], shared], 1).flatten()
    total = n.sum()
    f = n * (E / torch.where(total == 0.0, 1.0, total))
    return (f * (probs.sum(0, dtype=acc) / max(T, 1))).sum()


def router_z_loss(logits: Tensor) -> Tensor:
    r"""Mean squared log-sum-exp of a router's logits, which keeps them small and training stable.

    .. math:: L_z = \frac{1}{T} \sum_t \Bigl(\log \sum_i e^{l_{ti}}\Bigr)^2

    Plain torch, not a kernel of ours: it is one reduction of a small tensor, which torch.compile
    fuses. The factor that weighs it against the model's loss is the caller's (1e-3 in the paper).

    Args:
        logits: ``[T, E]``, float16 | bfloat16 | float32 | float64, with any strides.

    Returns:
        A float32 scalar (float64 for float64 logits), 0 where T is 0, with a gradient to
        ``logits``. Computed in that dtype; the host does not wait.

    Raises:
        TypeError: ``logits`` has another type or dtype.
        ValueError: ``logits`` is not ``[T, E]``.

    Source:
        Zoph et al. 2022, "ST-MoE", eq. 5 (arXiv:2202.08906).
    """
    _checks.tensors(("logits", logits, "[T, E]", _checks.FLOATS))
    acc = torch.promote_types(logits.dtype, torch.float32)
    z = logits.to(acc).logsumexp(-1)  # [T]
    return z.square().sum() / max(len(z), 1)
