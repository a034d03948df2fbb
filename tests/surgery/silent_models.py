"""A large model that writes zeros where a small one has nothing: what the small one must equal."""

import copy

import torch
from torch import Tensor

from moge_ops.models import PanguMoEForCausalLM


@torch.no_grad()
def silent(
    model: PanguMoEForCausalLM,
    channels: Tensor | None = None,
    groups: dict[int, list[int]] | None = None,
    neurons: dict[int, Tensor] | None = None,
    shared: dict[int, Tensor] | None = None,
) -> PanguMoEForCausalLM:
    """A copy in which the named channels, key and value heads and neurons write zeros.

    Args:
        model: The model.
        channels: Ids of hidden channels.
        groups: Layer -> key and value heads.
        neurons: Layer -> ``[E, n]``, of each expert.
        shared: Layer -> neurons of the shared expert.
    """
    model = copy.deepcopy(model)
    for i, layer in enumerate(model.layers):
        attention, moge = layer.attention, layer.moge
        D, each = attention.head_dim, attention.heads // attention.kv_heads
        for c in (groups or {}).get(i, []):
            for head in range(c * each, (c + 1) * each):
                attention.o.weight[:, head * D : (head + 1) * D] = 0.0
        for e, own in enumerate((neurons or {}).get(i, [])):
            moge.w_down[e][:, own] = 0.0
        if shared and i in shared:
            moge.shared_down[:, shared[i]] = 0.0
        if channels is not None:
            attention.o.weight[channels] = 0.0
            attention.o.bias[channels] = 0.0
            moge.w_down[:, channels] = 0.0
            moge.shared_down[channels] = 0.0
    if channels is not None:
        model.embed.weight[:, channels] = 0.0
    return model
