"""Which neurons of the experts matter."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from moge_ops import _checks
from moge_ops.nn import MoGE
from moge_ops.surgery._layers import check_plain, owned_layers

__all__ = ["Sensitivity", "distillation_loss", "expert_sensitivity"]


class Sensitivity(NamedTuple):
    """Scores of the neurons of one layer, as :func:`expert_sensitivity` returns them."""

    experts: Tensor
    """``[E, F]``."""
    shared: Tensor | None
    """``[S]``, of the shared expert; None if the layer has none."""


def distillation_loss(
    logits: Tensor, teacher: Tensor, top: int = 8, *, rest: bool = True
) -> Tensor:
    r"""How far a student is from the likeliest tokens of its teacher.

    .. math:: \frac{1}{T} \sum_t \sum_{v} q_v \log \frac{q_v}{p_v}

    with the probabilities q of the teacher and p of the student of each of the teacher's ``top``
    likeliest tokens, and of all other tokens together. A teacher need not store more than that.

    Without ``rest`` the other tokens have no part in q, which is normalised over the top ones; p
    is the student's softmax over the whole vocabulary all the same. This loss has a gradient even
    where the student is its teacher, so that :func:`expert_sensitivity` can start there. To learn
    from it would take all probability from the other tokens.

    Args:
        logits: Of the student, ``[..., V]``.
        teacher: Logits of the teacher, ``[..., V]``; they get no gradient.
        top: Tokens that count by themselves, at most V.
        rest: Whether the other tokens count, as one.

    Returns:
        A scalar, at least 0, float32 (float64 for float64); 0 where T is 0.

    Raises:
        TypeError: An argument is not a tensor, or ``top`` not an int.
        ValueError: Shapes differ, or ``top`` is not from 1 to V.

    Source:
        Li et al. 2025, "SlimMoE" (arXiv:2506.18349), distils the teacher's top 8 logits. Its
        formula was not at hand: what becomes of the other tokens is ours.
    """
    _checks.tensor("teacher", teacher, "[..., V]")
    _checks.shape("logits", logits, "[..., V]", tuple(teacher.shape))
    _checks.integer("top", top, least=1, most=teacher.shape[-1])
    acc = torch.promote_types(logits.dtype, torch.float32)
    wanted, found = teacher.detach().to(acc), logits.to(acc)
    best = wanted.topk(top, -1).indices
    if rest:
        log_q, log_p = (_outcomes(x.log_softmax(-1), best) for x in (wanted, found))
    else:
        log_q = wanted.gather(-1, best).log_softmax(-1)
        log_p = found.log_softmax(-1).gather(-1, best)
    # 0 times a difference of infinities would be NaN
    log_q, log_p = (x.clamp_min(torch.finfo(acc).min) for x in (log_q, log_p))
    loss = (log_q.exp() * (log_q - log_p)).sum(-1)
    return loss.sum() / max(loss.numel(), 1)


def _outcomes(log_p: Tensor, best: Tensor) -> Tensor:
    """``[..., V] -> [..., top + 1]``: the best ones, and all others together if there are any."""
    top = log_p.gather(-1, best)
    if best.shape[-1] == log_p.shape[-1]:
        return top
    # not -inf: where no other token is possible, the gradient of its sum would be NaN
    least = torch.finfo(log_p.dtype).min
    others = log_p.clamp_min(least).scatter(-1, best, least).logsumexp(-1, keepdim=True)
    return torch.cat([top, others], -1)


def expert_sensitivity(
    model: nn.Module, batches: Iterable[Tensor], *, teacher: nn.Module | None = None, top: int = 8
) -> dict[str, Sensitivity]:
    r"""How much each neuron of each expert matters for what a model answers.

    .. math:: s_j = \sum_b \Big| \sum_{w \in \{g_j, u_j, d_j\}} \langle w,
        \frac{\partial L_b}{\partial w} \rangle \Big|

    with the loss :math:`L_b` of a batch, the rows :math:`g_j` and :math:`u_j` of the gate and up
    projections and the column :math:`d_j` of the down projection: the size of the change of the
    loss, to first order, if all three become zero. Small ones may go.

    The loss is :func:`distillation_loss` without the rest, which has a gradient even where a model
    is its own teacher. Batches add up with their absolute values, because gradients of a trained
    model cancel in a sum over many texts: a batch of one text each tells most.

    Args:
        model: A model with layers of :class:`moge_ops.nn.MoGE`, called with each batch. It returns
            logits ``[..., V]``, or an object that has them as ``logits``.
        batches: What the model is called with, usually ids ``[B, L]``.
        teacher: A model that is called in the same way; by default the model itself.
        top: As in :func:`distillation_loss`.

    Returns:
        Layer -> scores, float32 (float64 for float64). An expert that no token took has zeros, and
        layers that the loss does not reach, as heads that predict further tokens, are not there.
        The gradients of all expert weights are in memory together; ``.grad`` of the parameters is
        left alone.

    Raises:
        ValueError: There is no batch; or experts are quantised, offloaded or split over devices.

    Source:
        Li et al. 2025, "SlimMoE" (arXiv:2506.18349), prunes neurons by first-order sensitivity of
        the distillation loss on the top 8 logits. How scores of weights make one of a neuron was
        not at hand; the sum within the absolute value, and the sum over batches, follow Molchanov
        et al. 2019, "Importance Estimation for Neural Network Pruning" (arXiv:1906.10771), which
        squares where this takes the absolute value.
    """
    layers = owned_layers(model)
    for name, layer in layers.items():
        check_plain(name, layer)
    places = {name: _weights(layer) for name, layer in layers.items()}
    weights = [w for of_layer in places.values() for w in of_layer]
    scores: dict[str, Sensitivity] = {}
    required = [w.requires_grad for w in weights]
    try:
        for w in weights:
            w.requires_grad_(True)
        empty = True
        for batch in batches:
            empty = False
            _add(scores, places, _gradients(model, batch, teacher, top, weights))
    finally:
        for w, flag in zip(weights, required, strict=True):
            w.requires_grad_(flag)
    if empty:
        raise ValueError("batches must have at least one batch, got none")
    return scores


def _weights(layer: MoGE) -> list[Tensor]:
    """Pairs of up and down projections, of the routed experts and of the shared one."""
    all_: tuple[Any, ...] = (layer.w_gate_up, layer.w_down, layer.shared_gate_up, layer.shared_down)
    return [w for w in all_ if w is not None]


def _gradients(
    model: nn.Module, batch: Any, teacher: nn.Module | None, top: int, weights: list[Tensor]
) -> list[Tensor | None]:
    with torch.enable_grad():
        out = model(batch)
        logits = getattr(out, "logits", out)
        if teacher is None:
            wanted = logits.detach()
        else:
            with torch.no_grad():
                wanted = teacher(batch)
                wanted = getattr(wanted, "logits", wanted)
        loss = distillation_loss(logits, wanted, top, rest=False)
        return list(torch.autograd.grad(loss, weights, allow_unused=True))


@torch.no_grad()
def _add(
    scores: dict[str, Sensitivity],
    places: Mapping[str, list[Tensor]],
    gradients: list[Tensor | None],
) -> None:
    """Adds the scores of one batch; the gradients are freed on the way."""
    for name, weights in places.items():
        own = [gradients.pop(0) for _ in weights]
        found = [
            _neurons(up, d_up, down, d_down)
            for up, down, d_up, d_down in zip(
                weights[::2], weights[1::2], own[::2], own[1::2], strict=True
            )
            if d_up is not None and d_down is not None
        ]
        if not found:
            continue
        experts, shared = found[0], found[1] if len(found) > 1 else None
        if name in scores:
            experts = scores[name].experts + experts
            shared = None if shared is None else scores[name].shared + shared  # type: ignore[operator]
        scores[name] = Sensitivity(experts, shared)


def _neurons(up: Tensor, d_up: Tensor, down: Tensor, d_down: Tensor) -> Tensor:
    """``[..., 2F, H], [..., H, F] -> [..., F]``: the first-order change without each neuron."""
    acc = torch.promote_types(up.dtype, torch.float32)
    F = down.shape[-1]
    of_rows = (up.to(acc) * d_up.to(acc)).sum(-1)  # [..., 2F]
    of_columns = (down.to(acc) * d_down.to(acc)).sum(-2)  # [..., F]
    return (of_rows[..., :F] + of_rows[..., F:] + of_columns).abs()
