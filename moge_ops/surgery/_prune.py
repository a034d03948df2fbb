"""Fewer experts in every group."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from moge_ops import _checks
from moge_ops.nn import FrozenWeight, MoGE
from moge_ops.surgery._layers import (
    EXPERTS,
    OF_EXPERTS,
    OUTPUTS,
    called,
    outputs_of,
    owned_layers,
    put,
    same_names,
    tell,
)

__all__ = ["prune_experts"]


@torch.no_grad()
def prune_experts(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    r"""Removes the experts of a model that masks leave out, the same number from every group.

    With statistics of the routers on a text, the four experts of each group that matter most stay::

        prune_experts(model, profiles.masks("law", keep=4, score="selection"))

    Experts that stay keep their order: expert e of group g becomes :math:`g\,P' + r`, with P' the
    experts that stay in each group and r the number of those before e in it. Router,
    ``router_scale``, ``bias``, ``expert_mask`` and both expert weights, plain or quantised, lose
    the same rows. A ``num_voted`` above P' becomes P', and an ``expert_mask`` that leaves nothing
    out becomes None.

    A token chooses what it would choose under ``expert_mask``, but its weights differ where they
    are a softmax without ``renormalize``, as in Pangu Pro MoE: that sum has a term for every
    expert, also for those that are off, and here it has none for those that are gone. Each weight
    is then larger by the factor :math:`1 / (1 - q)`, with q the probability that the token gave to
    removed experts. With ``score="sigmoid"`` or ``renormalize`` the outputs are equal. A ``bias``
    is added to the larger scores, so that with a softmax it may choose another expert.

    Weights become new parameters with the ``requires_grad`` of the old ones and without gradients.
    An optimizer or a wrapper that was made before holds the old ones: make it after this.

    Args:
        model: A model with layers of :class:`moge_ops.nn.MoGE`, or one such layer. Its config, or
            that of a model within it, becomes a copy whose ``num_experts`` is G·P', so that it is
            saved and loaded in the released layout, whose number of groups does not change.
        masks: Layer -> ``[E]`` bool, true where an expert stays, as
            :meth:`moge_ops.statistics.RouterStatistics.masks` returns them. A layer's name is that
            in ``model.named_modules()``; it is "" where the model is the layer.

    Raises:
        TypeError: ``masks`` is no mapping, or a mask is not a bool tensor.
        ValueError: The masks are of other layers than the model's, of another E, keep another
            number of experts in some group or layer, or fewer than the k that a token takes, less
            the null experts of a group, or none; or experts are offloaded or split over devices.
            Nothing is changed then.

    Source:
        Equal numbers from every group, so that devices stay equally loaded, are this library's.
        What to keep by router statistics: Pei et al. 2025, "PreMoe" (arXiv:2505.17639). Li et al.
        2025, "SlimMoE" (arXiv:2506.18349), compares pruned experts with slimmed ones.
    """
    layers = owned_layers(model)
    same_names("masks", masks, layers)
    keep = {name: kept_experts(name, layer, masks[name]) for name, layer in layers.items()}
    if len(set(keep.values())) > 1:
        got = ", ".join(f"{n} in {name}" for name, n in keep.items())
        raise ValueError(f"masks must keep as many experts in all layers, got {got}")
    tell(model, "num_experts", {name: keep[name] * x.num_groups for name, x in layers.items()})
    for name, layer in layers.items():
        _prune(layer, masks[name].to(layer.gate.device).nonzero().squeeze(1))


def kept_experts(name: str, layer: MoGE, mask: Tensor) -> int:
    """How many experts a mask keeps in each group of a layer, after all checks."""
    E, G, k = layer.w_down.shape[0], layer.num_groups, layer.k
    name = called(name)
    _checks.shape(f"the mask of {name}", mask, "[E]", (E,))
    if mask.dtype != torch.bool:
        raise TypeError(f"the mask of {name} must be bool, got {mask.dtype}")
    least = f"k={k}"
    if layer.num_null:
        k = max(k - layer.num_null, 0)  # null experts stay and are always on
        least = f"{max(k, 1)} beside num_null={layer.num_null}"
    counts = mask.view(G, -1).sum(1).tolist()
    if len(set(counts)) > 1 or counts[0] < max(k, 1):
        raise ValueError(
            f"the mask of {name} must keep the same number of experts in each group, at least "
            f"{least}, got {counts}"
        )
    if isinstance(layer.expert_mask, Tensor):
        on = (mask.to(layer.gate.device) & layer.expert_mask).view(G, -1).sum(1)
        if int(on.min()) < k:
            raise ValueError(
                f"the mask of {name} must keep {least} experts in each group that expert_mask "
                f"leaves on, got {on.tolist()}"
            )
    return int(counts[0])


def _prune(layer: MoGE, index: Tensor) -> None:
    """Keeps the experts of an index, ``[E']``, in its order."""
    outputs = outputs_of(layer, index)
    for names, order in ((OUTPUTS, outputs), (OF_EXPERTS, index)):
        for name in names:
            x = getattr(layer, name)
            if isinstance(x, Tensor):
                put(layer, name, x[order])
    for name in EXPERTS:
        weight = getattr(layer, name)
        if isinstance(weight, FrozenWeight):
            was = weight.weight
            zero = None if was.zero is None else was.zero[index]
            less = was._replace(data=was.data[index], scale=was.scale[index], zero=zero)
            setattr(layer, name, FrozenWeight(less))
        else:
            put(layer, name, weight[index])
    if isinstance(layer.expert_mask, Tensor) and bool(layer.expert_mask.all()):
        setattr(layer, "expert_mask", None)  # noqa: B010 - a buffer's type has no None
    if layer.num_voted is not None:
        layer.num_voted = min(layer.num_voted, len(index) // layer.num_groups)
