"""Which expert makes room for another."""

from collections.abc import Iterable, Sequence

import torch

from moge_ops.offload._sources import Key

__all__ = ["Demand"]

AGEING = 0.98  # of a count, from one visit of its layer to the next: 50 visits are remembered


class Demand:
    """How long each expert is expected to wait for its next use, in visits of layers.

    Layers come round in a cycle of L. After the present layer, the one of an expert comes in d
    visits, 1 to L, and needs this expert in a share p of its visits, so that it is passed by
    1/p - 1 times on average:

    .. math:: \\mathrm{wait} = d + L (1/p - 1)

    In prefill every p is near 1, and those of the layer that has just run wait the longest: the
    order of a ring, which is the best one there is for a cycle. In decoding the experts that few
    tokens choose make room first. What was used least recently would be the opposite: it is what
    the cycle needs soon.

    The share is counted. An expert that was never chosen counts as half a use.

    Args:
        layers: L.
        experts: Most experts of a layer.
    """

    def __init__(self, layers: int, experts: int) -> None:
        self._now = 0
        self._turns = [0.0] * layers  # visits of a layer, aged
        self._uses = torch.zeros(layers, experts, dtype=torch.float64)
        self._passes = torch.zeros_like(self._uses)  # L (1/p - 1)

    def visit(self, keys: Sequence[Key]) -> None:
        """A layer runs, and needs these of its experts."""
        if not keys:
            return
        layer, layers = keys[0][0], len(self._turns)
        self._now = layer
        self._turns[layer] = turns = AGEING * self._turns[layer] + 1.0
        uses = self._uses[layer].mul_(AGEING)
        uses[[e for _, e in keys]] += 1.0
        share = ((uses + 0.5) / (turns + 1.0)).clamp_(max=1.0)
        self._passes[layer] = layers * (1.0 / share - 1.0)

    def order(self, keys: Iterable[Key]) -> list[Key]:
        """The expert that is expected to wait the longest comes last; of equals the lowest one."""
        layers, experts = self._passes.shape
        there = bytearray(layers * experts)
        for layer, e in keys:
            there[layer * experts + e] = 1
        own = torch.frombuffer(there, dtype=torch.uint8).nonzero().flatten().flip(0)
        rest = (torch.arange(layers) - self._now - 1) % layers + 1
        wait = (rest[:, None] + self._passes).view(-1)[own]
        return [divmod(i, experts) for i in own[wait.argsort(stable=True)].tolist()]
