"""Weights of experts that are elsewhere until a router has chosen them."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from moge_ops._quantized import QuantizedWeight
from moge_ops.ops.grouped_gate import Gating

__all__ = ["Pool", "PooledWeight"]


class Pool(Protocol):
    """Where the experts of a layer are while they are needed: :mod:`moge_ops.offload` has it."""

    @property
    def weights(self) -> tuple[Tensor | QuantizedWeight, Tensor | QuantizedWeight]:
        """``[P, 2F, H]`` and ``[P, H, F]``: all slots, whatever is in them."""

    def taken(
        self, layer: int, x: Tensor, gating: Gating
    ) -> AbstractContextManager[Callable[[], tuple[Any, Any, Tensor]]]:
        """Asks for the experts of a gating, which stay where they are inside the block.

        The function that it gives waits for them. It returns ``w_gate_up``, ``w_down``, and the
        experts' ids ``[T, K]`` among theirs.
        """


class PooledWeight(nn.Module):
    """The place of a weight whose experts are fetched when a router has chosen them.

    It has neither parameters nor buffers, and no gradient.

    Args:
        pool: Fetches them.
        layer: Which of its layers this is.
        which: 0 for ``w_gate_up``, 1 for ``w_down``.
        num_experts: E.
    """

    def __init__(self, pool: Pool, layer: int, which: int, num_experts: int) -> None:
        super().__init__()
        self.pool, self.layer, self.which, self.num_experts = pool, layer, which, num_experts

    @property
    def weight(self) -> Tensor | QuantizedWeight:
        """All slots of the pool."""
        return self.pool.weights[self.which]

    @property
    def shape(self) -> torch.Size:
        """``[E, O, I]``, as if all experts were there."""
        return torch.Size((self.num_experts, *self.weight.shape[1:]))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PooledWeight":
        weight = self.weight
        x = (weight if isinstance(weight, Tensor) else weight.data).new_empty(0)
        device = fn(x).device
        if device != x.device or (isinstance(weight, Tensor) and fn(x).dtype != x.dtype):
            raise ValueError(
                "a model whose experts are offloaded must stay on its device and in its dtype: "
                "load it with others"
            )
        return self

    def _save_to_state_dict(self, *args: Any) -> None:
        raise ValueError(
            "a model whose experts are offloaded has no state dict: its folder has the weights"
        )

    def extra_repr(self) -> str:
        """Shape and slots, for ``print``."""
        return f"{list(self.shape)}, slots={self.weight.shape[0]}"
