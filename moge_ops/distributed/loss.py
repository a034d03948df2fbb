"""The load-balance loss over the tokens of several ranks."""

import torch
import torch.distributed as dist
from torch import Tensor

from moge_ops import _checks
from moge_ops.distributed._collectives import sum_over
from moge_ops.ops.grouped_gate import SCORES
from moge_ops.ops.load_balance_loss import load_balance_loss as _of_one_rank
from moge_ops.ops.load_balance_loss import shares


def load_balance_loss(
    logits: Tensor,
    experts: Tensor,
    group: dist.ProcessGroup | None = None,
    *,
    score: str = "softmax",
) -> Tensor:
    r"""This rank's part of :func:`moge_ops.load_balance_loss` on the tokens of all ranks.

    .. math::
        L_r = \sum_i f_i\,\frac{1}{T} \sum_{t \in r} q_{ti}, \qquad
        f_i = \frac{E}{K T} \sum_{t,j} [c_{tj} = i]

    where f and T count the tokens of all ranks in ``group``. The ranks' parts add up to the loss on
    all tokens, and so do their gradients, for any number of tokens on each rank. The wider the
    group, the less the loss demands that every small batch is balanced in itself. A call sums
    E + 2 integers over the ranks.

    Args:
        logits: ``[T_r, E]``, this rank's tokens, as in :func:`moge_ops.load_balance_loss`.
        experts: ``[T_r, K]``, with the same K on all ranks.
        group: The ranks that count: None for this rank alone, ``mesh.get_group("ep")`` for the
            ranks of expert parallelism, ``torch.distributed.group.WORLD`` for all.
        score: ``"softmax"``, ``"sigmoid"`` or ``"sqrtsoftplus"``.

    Returns:
        A float32 scalar (float64 for float64 logits). Its gradient goes to ``logits`` without
        communication, because f has none. The host does not wait for the device.

    Raises:
        TypeError, ValueError: As :func:`moge_ops.load_balance_loss`.

    Source:
        Tang et al. 2025, "Pangu Ultra MoE", its expert-parallel-group loss (arXiv:2505.04519).
    """
    if group is None:
        return _of_one_rank(logits, experts, score=score)
    _checks.tensors(
        ("logits", logits, "[T, E]", _checks.FLOATS), ("experts", experts, "[T, K]", _checks.IDS)
    )
    (T, E), K = logits.shape, experts.shape[1]
    _checks.choice("score", score, SCORES)

    # slots of each expert, slots without an expert, and tokens
    ids = torch.where((experts >= 0) & (experts < E), experts, E).flatten().long()
    counts = ids.new_zeros(E + 2).scatter_add_(0, ids, torch.ones_like(ids))
    counts[E + 1] = T
    counts = sum_over(counts, group)
    q = shares(logits, score)
    total = counts[E + 1].to(q.dtype).clamp_min(1.0)
    return (q.sum(0) * counts[:E]).sum() * (E / max(K, 1)) / total.square()
