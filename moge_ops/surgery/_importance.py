"""Which layers, channels, heads and neurons of a model matter."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from moge_ops import _checks
from moge_ops.surgery._layers import (
    check_config,
    check_pangu,
    check_plain,
    owned_layers,
    pangu_layers,
)
from moge_ops.surgery._sensitivity import Sensitivity

if TYPE_CHECKING:
    from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM

__all__ = ["Importance", "channel_importance", "layer_importance"]

CHANNELS = "channels"
SHARED = ".shared"  # after the name of a layer with experts
Masks = dict[str, Tensor]


class Importance(NamedTuple):
    """Scores of a model's parts, as :func:`channel_importance` returns them."""

    channels: Tensor
    """``[H]``, of the hidden size: one choice for the whole model."""
    heads: Mapping[str, Tensor]
    """Attention, ``layers.0.attention`` and so on -> ``[C]``, of each key and value head together
    with the queries that share it."""
    neurons: Mapping[str, Sensitivity]
    """Layer with experts, ``layers.0.moge`` and so on -> scores of its neurons."""


@torch.no_grad()
def layer_importance(model: "PanguMoEForCausalLM", batches: Iterable[Tensor]) -> Tensor:
    r"""How much the loss grows without each layer.

    .. math:: s_i = \frac{1}{B} \sum_b \big( L_b^{(i)} - L_b \big)

    with the cross-entropy :math:`L_b` of the next tokens of batch b, and :math:`L_b^{(i)}` of the
    model that passes its hidden states by layer i. Below 0 the model is better without it.

    Args:
        model: The model; it runs once for each batch, and once more for each layer.
        batches: Ids ``[B, L]``, at least two in a row.

    Returns:
        ``[layers]``, float32 (float64 for float64), on the model's device.

    Raises:
        TypeError: ``model`` is no :class:`moge_ops.models.PanguMoEForCausalLM`.
        ValueError: There is no batch, or a row has no next token.

    Source:
        Tang et al. 2024, "Rethinking Optimization and Architecture for Tiny Language Models"
        (arXiv:2402.02791), finds that layers in the middle of a large model are the redundant ones.
        The text was not at hand: that the loss without a layer is the measure is ours.
    """
    check_pangu("model", model)
    losses: list[Tensor] = []
    for ids in batches:
        found = [_loss(model, ids)]
        for layer in pangu_layers(model):
            handle = layer.register_forward_hook(lambda _, args, out: (args[0], *out[1:]))
            try:
                found.append(_loss(model, ids))
            finally:
                handle.remove()
        losses.append(torch.stack(found))
    _some(losses)
    mean = torch.stack(losses).mean(0)
    return mean[1:] - mean[0]


def channel_importance(
    model: "PanguMoEForCausalLM",
    batches: Iterable[Tensor],
    config: "PanguMoEConfig | None" = None,
    *,
    rounds: int = 2,
    rate: float = 0.1,
) -> Importance:
    r"""How much each channel, head and neuron of a model matters for its loss.

    Each of them gets a factor m, 1 at first, on all weights with which it writes: a channel on its
    column of the embedding and its rows of the output projections of attention and experts; a key
    and value head on the columns of the output projection that belong to its queries; a neuron on
    its column of the down projection. Without a ``config`` a score is the change of the loss to
    first order,

    .. math:: s_j = \sum_b \left| \frac{\partial L_b}{\partial m_j} \right|

    With one, masks of its sizes are learned from there, while the weights stay. Scores are divided
    by their mean first, in each tensor by itself, and then, for each batch of each round,

    .. math:: m_j = [\,s_j \text{ is among the } n \text{ largest}\,], \qquad
        s_j \leftarrow s_j - \eta\, \frac{g_j}{\mathrm{mean} |g|}, \qquad
        g_j = \frac{\partial L_b}{\partial m_j}

    so that what is off comes back if the loss would fall with it. The gradient passes by the
    choice (straight-through).

    Args:
        model: The model; its own experts, plain.
        batches: Ids ``[B, L]``, at least two in a row. They are kept if masks are learned.
        config: Sizes of the model that :func:`inherit` is to make.
        rounds: How often the batches are learned from.
        rate: :math:`\eta`.

    Returns:
        The scores, float32 (float64 for float64). ``.grad`` of the parameters is left alone. In
        memory are copies of the embedding and of all output and down projections, and the
        gradients of them.

    Raises:
        TypeError: ``model`` is no :class:`moge_ops.models.PanguMoEForCausalLM`, ``config`` is not
            of the kind of its config, ``rounds`` is no int, or ``rate`` no number.
        ValueError: There is no batch; a row has no next token; ``rounds`` or ``rate`` is not
            above 0; a size of ``config`` is above the model's; or experts are quantised, offloaded
            or split over devices.

    Source:
        Tang et al. 2024, "Rethinking Optimization and Architecture for Tiny Language Models"
        (arXiv:2402.02791), chooses what a tiny model inherits by learned binary masks. The formula
        was not at hand: this one is ours, with the estimator of Bengio et al. 2013
        (arXiv:1308.3432). The first-order score of a factor is that of Molchanov et al. 2019
        (arXiv:1906.10771), which squares where this takes the absolute value.
    """
    check_pangu("model", model)
    for name, layer in owned_layers(model).items():
        check_plain(name, layer)
    if config is not None:
        check_config(model, config)
    _checks.integer("rounds", rounds, least=1)
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        raise TypeError(f"rate must be a number, got {type(rate).__name__}")
    if not rate > 0:
        raise ValueError(f"rate must be above 0, got {rate}")
    ones = _ones(model)
    keep = {} if config is None else {name: _kept(name, x, config) for name, x in ones.items()}
    seen: list[Tensor] = []
    scores = {name: torch.zeros_like(x) for name, x in ones.items()}
    for ids in batches:
        seen.append(ids if keep else ids[:0])
        for name, g in _gradients(model, ids, ones).items():
            scores[name] += g.abs()
    _some(seen)
    if keep:
        scores = {name: _per_mean(x, x) for name, x in scores.items()}
        for ids in seen * rounds:
            masks = {name: _largest(x, keep[name]) for name, x in scores.items()}
            for name, g in _gradients(model, ids, masks).items():
                scores[name] -= rate * _per_mean(g, g)
    return _named(scores)


def _loss(model: Callable[..., Any], ids: Tensor) -> Tensor:
    """Cross-entropy of the next tokens."""
    from moge_ops.models.pangu_moe import losses  # models need no surgery, but time to be imported

    _checks.tensors(("a batch", ids, "[B, L]", _checks.IDS))
    if ids.shape[0] < 1 or ids.shape[1] < 2:
        raise ValueError(f"a batch must be [B, L] with L of at least 2, got {list(ids.shape)}")
    return losses(model(ids, return_details=True), ids)[0]


def _some(batches: list[Tensor]) -> None:
    if not batches:
        raise ValueError("batches must have at least one batch, got none")


def _ones(model: "PanguMoEForCausalLM") -> Masks:
    """A factor of 1 for everything that may go."""
    like = model.embed.weight
    acc = torch.promote_types(like.dtype, torch.float32)
    found = {CHANNELS: torch.ones(like.shape[1], dtype=acc, device=like.device)}
    for i, layer in enumerate(pangu_layers(model)):
        name, moge = f"layers.{i}", layer.moge
        E, _, F = moge.w_down.shape
        shapes = {f"{name}.attention": (layer.attention.kv_heads,), f"{name}.moge": (E, F)}
        if moge.shared_down is not None:
            shapes[f"{name}.moge{SHARED}"] = (moge.shared_down.shape[1],)
        for part, shape in shapes.items():
            found[part] = torch.ones(shape, dtype=acc, device=moge.gate.device)
    return found


def _kept(name: str, x: Tensor, config: "PanguMoEConfig") -> int:
    """How many of the last dimension a model of the config has."""
    field = "moe_intermediate_size"
    if name == CHANNELS:
        field = "hidden_size"
    elif name.endswith(SHARED):
        field = "shared_expert_intermediate_size"
    elif name.endswith("attention"):
        field = "num_key_value_heads"
    size = int(getattr(config, field))
    if size > x.shape[-1]:
        raise ValueError(
            f"config.{field} must be at most the large model's {x.shape[-1]}, got {size}"
        )
    return size


def _largest(scores: Tensor, keep: int) -> Tensor:
    """1 at the ``keep`` largest of the last dimension, of equal ones the first; 0 elsewhere."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(scores).scatter_(-1, order[..., :keep], 1.0)


def _per_mean(x: Tensor, of: Tensor) -> Tensor:
    """Divided by the mean size; zeros stay zeros."""
    mean = of.abs().mean()
    return x / torch.where(mean > 0, mean, 1.0)


def _gradients(model: "PanguMoEForCausalLM", ids: Tensor, masks: Masks) -> Masks:
    """Of the loss, for the factors; 0 where it does not depend on one."""
    leaves = {name: x.clone().requires_grad_() for name, x in masks.items()}
    with torch.enable_grad():
        weights = _masked(model, leaves)
        loss = _loss(lambda *args, **kwargs: functional_call(model, weights, args, kwargs), ids)
        found = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def _masked(model: "PanguMoEForCausalLM", masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that factors are on, by their names."""
    channels = masks[CHANNELS]
    found = {"embed.weight": _times(model.embed.weight, channels)}
    for i, layer in enumerate(pangu_layers(model)):
        name, o = f"layers.{i}", layer.attention.o
        moge: Any = layer.moge  # with plain experts
        h = channels.to(o.weight.device)
        heads = masks[f"{name}.attention"]
        columns = heads.repeat_interleave(o.weight.shape[1] // len(heads))
        found[f"{name}.attention.o.weight"] = _times(o.weight, columns, h[:, None])
        found[f"{name}.attention.o.bias"] = _times(o.bias, h)
        neurons = masks[f"{name}.moge"][:, None]
        found[f"{name}.moge.w_down"] = _times(moge.w_down, neurons, h[:, None])
        if moge.shared_down is not None:
            shared = masks[f"{name}.moge{SHARED}"]
            found[f"{name}.moge.shared_down"] = _times(moge.shared_down, shared, h[:, None])
    return found


def _times(weight: Tensor, *factors: Tensor) -> Tensor:
    """In the dtype of the weight, which gets no gradient."""
    y = weight.detach()
    for factor in factors:
        y = y * factor
    return y.to(weight.dtype)


def _named(scores: Masks) -> Importance:
    heads = {name: x for name, x in scores.items() if name.endswith("attention")}
    neurons = {
        name: Sensitivity(x, scores.get(name + SHARED))
        for name, x in scores.items()
        if name.endswith("moge")
    }
    return Importance(scores[CHANNELS], heads, neurons)
