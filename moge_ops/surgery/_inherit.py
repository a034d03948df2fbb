"""A small model whose weights are some of a large one's."""

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from moge_ops.nn import MoGE
from moge_ops.surgery._importance import Importance
from moge_ops.surgery._layers import (
    check_config,
    check_mapping,
    check_pangu,
    check_plain,
    owned_layers,
    pangu_layers,
    put,
)
from moge_ops.surgery._prune import kept_experts, prune_experts
from moge_ops.surgery._sensitivity import Sensitivity
from moge_ops.surgery._slim import check_scores, check_width, slim_experts

if TYPE_CHECKING:
    from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
    from moge_ops.models.pangu_moe import Attention, Layer, Norm

__all__ = ["inherit"]

# of the large model and of the small one
EQUAL = ("num_groups", "num_experts_per_tok", "rope_theta")
SIZES = (
    *("vocab_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "num_experts"),
)
WIDTHS = ("hidden_size", "moe_intermediate_size", "shared_expert_intermediate_size")


class _Part(NamedTuple):
    """What a layer of the small model takes of one of the large model."""

    groups: Tensor  # [C'], key and value heads
    experts: Tensor | None  # [E] bool; None: all
    neurons: Sensitivity | None  # of all E; None: all


@torch.no_grad()
def inherit(
    large: "PanguMoEForCausalLM",
    config: "PanguMoEConfig",
    importance: Importance | None = None,
    *,
    layers: Sequence[int] | None = None,
    experts: Mapping[str, Tensor] | None = None,
    tokens: Sequence[int] | Tensor | None = None,
) -> "PanguMoEForCausalLM":
    r"""A model of a smaller config whose weights are taken from a large model.

    First fewer layers, then less of each, so that what matters is measured where it is used::

        scores = layer_importance(large, batches)
        best = scores.topk(flat.num_hidden_layers).indices.sort().values.tolist()
        medium = inherit(large, flat, layers=best)
        small = inherit(medium, config, channel_importance(medium, batches, config))

    What may be smaller, and what says which part stays:

    - ``num_hidden_layers``: ``layers``.
    - ``hidden_size``: ``importance.channels``, the same channels in the whole model. The width of
      a head stays, and with it RoPE, so that ``num_attention_heads`` shrinks by the same factor;
      ``num_key_value_heads`` too, as heads go with all queries that share them, by
      ``importance.heads``.
    - ``moe_intermediate_size`` and ``shared_expert_intermediate_size``: ``importance.neurons``, as
      in :func:`slim_experts`.
    - ``num_experts``: ``experts``, as in :func:`prune_experts`.
    - ``vocab_size``: ``tokens``.

    The largest scores stay, of equal ones the first, in their order. The small model computes what
    the large one would if it wrote zeros into the other channels, except for what
    :func:`prune_experts` says of removed experts: RMSNorm takes the mean over :math:`H'` channels
    instead of H, so that its weights become larger by :math:`\sqrt{H / H'}`. This is exact if
    ``config.rms_norm_eps`` is larger by :math:`H / H'` as well. With equal sizes the small model is
    a copy.

    Args:
        large: The model; it does not change. Its heads that predict further tokens are left out.
        config: Of the small model, which gets a copy. Settings that are no sizes are its own,
            except for the number of groups, the experts that a token takes, and ``rope_theta``,
            which must be equal.
        importance: As from :func:`channel_importance` of the large model.
        layers: Numbers of the layers that stay, ascending.
        experts: ``layers.0.moge`` and so on, of the layers that stay, -> ``[E]`` bool, true where
            an expert stays; as many as ``config`` says.
        tokens: Ids of the large model; token i of the small one is ``tokens[i]``. The published
            choice is the special tokens, and the most frequent ones. A tokenizer, and the ids of
            the first and the last token in ``config``, are the caller's.

    Returns:
        The small model, with memory of its own, in the dtypes and on the devices of the large one,
        in its mode; all parameters require a gradient.

    Raises:
        TypeError: ``large``, ``config``, ``importance`` or ``experts`` is of another class, or ids
            are not ints.
        ValueError: A size is above the large model's; sizes do not fit each other as above; a
            width other than the large model's is no multiple of 16; something that says what stays
            is missing, of another size or not finite; or experts are quantised, offloaded or split
            over devices.

    Source:
        Tang et al. 2024, "Rethinking Optimization and Architecture for Tiny Language Models"
        (arXiv:2402.02791), for dense models: fewer layers, parameters within them by learned masks,
        and a compact tokenizer. Experts, groups of heads and the factor of the norms are ours. Its
        last part is a second round of training, on n batches that are drawn with probability
        :math:`e^{l_i} / \sum_j e^{l_j}` of the loss :math:`l_i` after the first. It needs no
        function here: ``losses.softmax(0).multinomial(n)``.
    """
    check_pangu("large", large)
    check_config(large, config)
    _check_sizes(large, config)
    if not isinstance(importance, Importance | None):
        raise TypeError(f"importance must be an Importance, got {type(importance).__name__}")
    if experts is not None:
        check_mapping("experts", experts)
    was = large.config
    layers = _layers(large, config, layers)
    rows = _tokens(large, config, tokens)
    if importance is None and _is_narrower(large, config):
        raise ValueError(
            "importance must be given, as from channel_importance, where a width is smaller, got "
            "None"
        )
    scores = None if importance is None else importance.channels
    channels = _best("importance.channels", "[H]", scores, was.hidden_size, config.hidden_size)
    parts = [_part(large, i, config, importance, experts) for i in layers]

    with torch.device("meta"):
        small = type(large)(copy.deepcopy(config))  # the caller keeps the other
    for new_table, table in ((small.embed, large.embed), (small.lm_head, large.lm_head)):
        put(new_table, "weight", _columns(table.weight, channels)[rows.to(table.weight.device)])
    _put_norm(small.norm, large.norm, channels)
    old = pangu_layers(large)
    for new, i, part in zip(pangu_layers(small), layers, parts, strict=True):
        _fill(new, old[i], part, channels)
    small.gradient_checkpointing = large.gradient_checkpointing
    return small.requires_grad_(True).train(large.training)


def _check_sizes(large: "PanguMoEForCausalLM", config: "PanguMoEConfig") -> None:
    was = large.config
    for name in SIZES:
        size, most = getattr(config, name), getattr(was, name)
        if size > most:
            raise ValueError(f"config.{name} must be at most the large model's {most}, got {size}")
    for name in EQUAL:
        value, only = getattr(config, name), getattr(was, name)
        if value != only:
            raise ValueError(f"config.{name} must be the large model's {only}, got {value}")
    if config.num_nextn_predict_layers:
        raise ValueError(
            "config.num_nextn_predict_layers must be 0, because heads that predict further tokens "
            f"are not inherited, got {config.num_nextn_predict_layers}"
        )
    for name in WIDTHS:
        check_width(f"config.{name}", getattr(config, name), getattr(was, name))
    if config.head_dim != was.head_dim:
        raise ValueError(
            "config.hidden_size / num_attention_heads must be the large model's width of a head, "
            f"{was.head_dim}, got {config.head_dim}"
        )
    shared, of_each = was.num_attention_heads // was.num_key_value_heads, config.num_attention_heads
    if of_each != shared * config.num_key_value_heads:
        raise ValueError(
            f"config.num_attention_heads must be {shared} * num_key_value_heads, as the large "
            f"model's, so that groups of heads stay whole, got {of_each} for "
            f"{config.num_key_value_heads}"
        )
    for name, layer in owned_layers(large).items():
        check_plain(name, layer)


def _is_narrower(large: "PanguMoEForCausalLM", config: "PanguMoEConfig") -> bool:
    return any(getattr(config, name) < getattr(large.config, name) for name in WIDTHS)


def _ids(name: str, given: Any, size: int, most: int) -> Tensor:
    """``[size]``, ids below ``most``, none of them twice."""
    x = torch.as_tensor(given)
    if x.dtype == torch.bool or x.dtype.is_floating_point or x.dtype.is_complex:
        raise TypeError(f"{name} must hold ints, got {str(x.dtype).removeprefix('torch.')}")
    found = x.flatten().tolist()
    fine = x.ndim == 1 and len(found) == len(set(found)) == size
    if not fine or min(found) < 0 or max(found) >= most:
        raise ValueError(
            f"{name} must be {size} different ids from 0 to {most - 1}, got {given!s:.200}"
        )
    return x.long()


def _layers(
    large: "PanguMoEForCausalLM", config: "PanguMoEConfig", layers: Sequence[int] | None
) -> list[int]:
    most, size = large.config.num_hidden_layers, config.num_hidden_layers
    if layers is None:
        if size < most:
            raise ValueError(f"layers must name the {size} of {most} that stay, got None")
        return list(range(most))
    found: list[int] = _ids("layers", layers, size, most).tolist()
    if found != sorted(found):
        raise ValueError(f"layers must be ascending, got {found}")
    return found


def _tokens(
    large: "PanguMoEForCausalLM", config: "PanguMoEConfig", tokens: Sequence[int] | Tensor | None
) -> Tensor:
    most, size = large.config.vocab_size, config.vocab_size
    if tokens is None:
        if size < most:
            raise ValueError(f"tokens must name the {size} of {most} that stay, got None")
        return torch.arange(most)
    return _ids("tokens", tokens, size, most)


def _best(name: str, layout: str, scores: Tensor | None, most: int, keep: int) -> Tensor:
    """``[keep]``, ascending: the largest scores, of equal ones the first."""
    if keep == most:
        return torch.arange(most)
    check_scores(name, scores, layout, (most,))
    assert scores is not None
    return scores.argsort(descending=True, stable=True)[:keep].sort().values


def _part(
    large: "PanguMoEForCausalLM",
    i: int,
    config: "PanguMoEConfig",
    importance: Importance | None,
    experts: Mapping[str, Tensor] | None,
) -> _Part:
    name, C = f"layers.{i}.attention", large.config.num_key_value_heads
    heads = None if importance is None else importance.heads.get(name)
    what = f"importance.heads of {name!r}"
    groups = _best(what, "[C]", heads, C, config.num_key_value_heads)
    name = f"layers.{i}.moge"
    mask = _mask(large, i, name, config, experts)
    return _Part(groups, mask, _neurons(large, name, config, importance))


def _mask(
    large: "PanguMoEForCausalLM",
    i: int,
    name: str,
    config: "PanguMoEConfig",
    experts: Mapping[str, Tensor] | None,
) -> Tensor | None:
    """The experts of a layer that stay; None if all do, and no masks are given."""
    if experts is None and config.num_experts == large.config.num_experts:
        return None
    if experts is None or name not in experts:
        raise ValueError(f"experts must have a mask of {name!r}, got none")
    P = config.num_experts // config.num_groups
    kept = kept_experts(name, pangu_layers(large)[i].moge, experts[name])
    if kept != P:
        raise ValueError(
            f"the mask of {name!r} must keep {P} experts in each group, as config.num_experts "
            f"says, got {kept}"
        )
    return experts[name]


def _neurons(
    large: "PanguMoEForCausalLM",
    name: str,
    config: "PanguMoEConfig",
    importance: Importance | None,
) -> Sensitivity | None:
    """The scores that narrow a layer's experts; None if they stay as wide as they are."""
    was = large.config
    E, F, S = was.num_experts, was.moe_intermediate_size, was.shared_expert_intermediate_size
    if (config.moe_intermediate_size, config.shared_expert_intermediate_size) == (F, S):
        return None
    scores = None if importance is None else importance.neurons.get(name)
    if scores is None:
        raise ValueError(f"importance.neurons must have scores of {name!r}, got none")
    check_scores(f"importance.neurons of {name!r}", scores.experts, "[E, F]", (E, F))
    if S:
        check_scores(f"importance.neurons of {name!r}", scores.shared, "[S]", (S,))
    return scores


def _columns(weight: Tensor, index: Tensor) -> Tensor:
    return weight[..., index.to(weight.device)]


def _put_norm(new: "Norm", old: "Norm", channels: Tensor) -> None:
    weight = _columns(old.weight, channels)
    if len(channels) < len(old.weight):
        weight = weight * (len(old.weight) / len(channels)) ** 0.5
    put(new, "weight", weight)


def _fill(new: "Layer", old: "Layer", part: _Part, channels: Tensor) -> None:
    _put_norm(new.attention_norm, old.attention_norm, channels)
    _put_norm(new.moge_norm, old.moge_norm, channels)
    _put_attention(new.attention, old.attention, part.groups, channels)
    new.moge = _smaller(old.moge, part, new.moge, channels)


def _put_attention(new: "Attention", old: "Attention", groups: Tensor, channels: Tensor) -> None:
    A, C, D = old.heads, old.kv_heads, old.head_dim
    groups = groups.to(old.qkv.weight.device)
    place = torch.arange(A * D, device=groups.device).view(C, -1)[groups].flatten()  # of queries
    keys = torch.arange(C * D, device=groups.device).view(C, D)[groups].flatten()
    rows = torch.cat([place, A * D + keys, (A + C) * D + keys])
    put(new.qkv, "weight", _columns(old.qkv.weight, channels)[rows])
    put(new.qkv, "bias", old.qkv.bias[rows])
    channels = channels.to(old.o.weight.device)
    put(new.o, "weight", old.o.weight[channels][:, place])
    put(new.o, "bias", old.o.bias[channels])


def _smaller(old: MoGE, part: _Part, like: MoGE, channels: Tensor) -> MoGE:
    """A copy with fewer experts, neurons and channels: as many as ``like`` has."""
    moge, neurons = copy.deepcopy(old), part.neurons
    if part.experts is not None:
        prune_experts(moge, {"": part.experts})
    if neurons is not None:
        scores = neurons.experts
        if part.experts is not None:
            scores = scores[part.experts.to(scores.device)]
        slim_experts(
            *(moge, like.w_down.shape[2], {"": Sensitivity(scores, neurons.shared)}),
            shared_width=None if like.shared_down is None else like.shared_down.shape[1],
        )
    index = channels.to(moge.gate.device)
    for name in ("gate", "w_gate_up", "w_down", "shared_gate_up", "shared_down"):
        weight = getattr(moge, name)
        if weight is not None:
            put(moge, name, weight[..., index, :] if name.endswith("down") else weight[..., index])
    return moge
