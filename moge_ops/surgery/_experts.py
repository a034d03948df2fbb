"""Experts that move to other places."""

from collections.abc import Sequence

import torch
from torch import Tensor

from moge_ops.nn import FrozenWeight, MoGE, PooledWeight
from moge_ops.surgery._layers import outputs_of

__all__ = ["permute_experts"]


@torch.no_grad()
def permute_experts(layer: MoGE, perm: Sequence[int] | Tensor) -> None:
    """Moves the experts of a layer to other places, in place, as a load balancer does.

    Router, ``router_scale``, ``bias``, ``expert_mask`` and both expert weights move together, and
    the null outputs of a group with their group, so the layer computes what it did before: equal to
    rounding, and bit for bit if every group keeps its place. Only between experts of exactly equal
    score can the choice change, because ties go to the lowest id. Gradients and the state of an
    optimizer do not move: call this between runs, not between steps.

    Args:
        layer: The layer.
        perm: ``[E]``, a permutation: place i gets the expert that was at place ``perm[i]``. Groups
            may trade places, and so may the experts of a group; no expert may leave its group.

    Raises:
        TypeError: ``perm`` does not hold ints.
        ValueError: ``perm`` is not a permutation of 0 to E - 1, or takes an expert out of its
            group.
    """
    E = layer.w_down.shape[0]
    index = torch.as_tensor(perm, device=layer.gate.device)
    flags = not isinstance(perm, Tensor) and any(isinstance(i, bool) for i in perm)
    dtype = torch.bool if flags else index.dtype
    ints = not (dtype is torch.bool or dtype.is_floating_point or dtype.is_complex)
    if index.numel() and not ints:  # an empty list becomes float32
        kind = str(dtype).removeprefix("torch.")
        raise TypeError(f"perm must hold ints, a permutation of 0 to {E - 1}, got {kind}")
    index = index.long()  # an index of uint8 would be a mask
    if sorted(index.flatten().tolist()) != list(range(E)) or index.ndim != 1:
        raise ValueError(f"perm must be a permutation of 0 to {E - 1}, got {index.tolist()}")
    P = E // layer.num_groups
    for group, members in enumerate(index.view(layer.num_groups, P).tolist()):
        first = min(members) // P * P
        if max(members) >= first + P:
            expected = f"the experts of one group, {first} to {first + P - 1}"
            raise ValueError(f"perm must give group {group} {expected}, got {members}")
    experts: list[Tensor] = []
    for w in (layer.w_gate_up, layer.w_down):
        if isinstance(w, PooledWeight):
            raise ValueError("layer must own its experts, got one whose experts are offloaded")
        experts += w.buffers() if isinstance(w, FrozenWeight) else [w]
    outputs = outputs_of(layer, index)
    moved: list[tuple[object, Tensor]] = [(layer.gate, outputs), (layer.bias, outputs)]
    moved += [(x, index) for x in (layer.router_scale, layer.expert_mask, *experts)]
    for x, order in moved:
        if isinstance(x, Tensor):
            x.copy_(x[order])
