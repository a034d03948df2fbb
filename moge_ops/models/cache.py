"""Keys and values of the tokens that a model has read."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Cache", "KVCache", "rotation"]


def rotation(positions: Tensor, config: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines ``[B or 1, L, 1, 1, D/2]`` and sines ``[B or 1, L, 1, 2, D/2]`` of the angles.

    ``positions`` is ``[B or 1, L]``. The sine of the first half is negative.
    """
    D = config.head_dim
    powers = torch.arange(0, D, 2, device=positions.device, dtype=torch.float32) / D
    angles = positions[..., None, None, None] * float(config.rope_theta) ** -powers
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return cos, torch.cat([-sin, sin], -2)


class Cache(Protocol):
    """Keys and values of earlier tokens: :class:`KVCache`, or one of transformers' classes."""

    def update(self, keys: Tensor, values: Tensor, layer: int, /) -> tuple[Tensor, Tensor]:
        """Adds ``[B, C, L, D]`` to a layer's tokens; returns all of them, ``[B, C, S, D]``."""


class KVCache:
    """Keys and values of all layers, allocated once, in the model's dtype.

    Args:
        config: The model's configuration.
        batch: B, rows of the batch.
        max_length: Most tokens of a row, padding included.
        kv_heads: C on this device, if the heads are split over devices; by default the config's.
        device, dtype: Those of the model.

    Attributes:
        kv: ``[layers, 2, B, C, max_length, D]``.
        lengths: ``[B]`` int64 with each row's own ``length``, or None if all rows have the same. A
            row's tokens follow each other, so its next ones go to its own length, and a forward
            advances it by those that are no padding. :meth:`keep` sets it.
    """

    def __init__(
        self,
        config: Any,
        batch: int,
        max_length: int,
        *,
        kv_heads: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        C = config.num_key_value_heads if kv_heads is None else kv_heads
        heads = (C, max_length, config.head_dim)
        shape = (config.num_hidden_layers, 2, batch, *heads)
        self.kv = torch.empty(shape, device=device, dtype=dtype)
        # of every position, as a step of a small model would spend long on those of its own
        positions = torch.arange(max_length, device=device).unsqueeze(0)
        self._cos, self._sin = rotation(positions, config, self.kv.dtype)
        self._length = 0
        self.lengths: Tensor | None = None
        self._places: tuple[Tensor, ...] = ()  # of the new tokens: row, column, column among them

    @property
    def length(self) -> int:
        """Tokens of a row that are in the cache, padding included; of the longest row, if they
        differ. A forward advances it, and whoever sets it sets it for all rows.
        """
        return self._length

    @length.setter
    def length(self, length: int) -> None:
        self._length, self.lengths = length, None

    def keep(self, lengths: Sequence[int]) -> None:
        """Keeps the first tokens of each row and forgets the others, without touching memory.

        Args:
            lengths: B numbers, padding included, none above ``length``. Where they are equal, the
                cache is as if its rows had never differed.
        """
        self.length = most = max(lengths)
        if min(lengths) != most:
            self.lengths = torch.tensor(lengths, device=self.kv.device)

    def mask(self, pads: Sequence[int], new: Sequence[int], L: int) -> Tensor | None:
        """The mask ``[B, S]`` of a forward of L columns.

        Args:
            pads: Padding on the left of each row.
            new: Real tokens among each row's L; the others are padding on the right.
            L: Columns of the forward.

        Returns:
            Bool, false at padding; None if there is none and all rows have the same length.
        """
        if self.lengths is None:
            if not any(pads) and min(new) == L:
                return None
            S, ends = self.length + L, [self.length + n for n in new]
        else:
            S = min(self.length + L, self.kv.shape[4])
            ends = [x + n for x, n in zip(self.lengths.tolist(), new, strict=True)]
        limits = torch.tensor([[*pads], ends], device=self.kv.device)[:, :, None]
        columns = torch.arange(S, device=self.kv.device)
        return (columns >= limits[0]) & (columns < limits[1])

    def rotation(self, positions: Tensor | None, L: int) -> tuple[Tensor, Tensor]:
        """:func:`rotation` at positions ``[B, L]``; None: of the next L columns."""
        if positions is None:
            own = slice(self.length, self.length + L)
            return self._cos[:, own], self._sin[:, own]
        return self._cos[0, positions], self._sin[0, positions]

    def place(self, rows: Tensor, S: int) -> None:
        """Prepares ``update`` for rows that differ; ``rows`` [B, L] is false at padding."""
        assert self.lengths is not None
        # other rows have no tokens there, and what memory held may be NaN, which no mask removes
        self.kv[:, :, :, :, self.length : S] = 0
        row, new = rows.nonzero(as_tuple=True)
        self._places = row, self.lengths[row] + new, new

    def advance(self, rows: Tensor | None, S: int) -> None:
        """Counts the tokens of a forward, after its last layer."""
        if self.lengths is None:
            self.length = S
        else:
            assert rows is not None
            self.keep((self.lengths + rows.sum(1)).tolist())

    def update(self, keys: Tensor, values: Tensor, layer: int, /) -> tuple[Tensor, Tensor]:
        """Adds ``[B, C, L, D]`` to a layer's tokens; returns all of them, ``[B, C, S, D]``.

        A forward of the model advances ``length`` after all layers.
        """
        k, v = self.kv[layer, :, :, :, : self.length + keys.shape[2]]
        if self.lengths is not None:
            row, column, new = self._places
            k[row, :, column] = keys[row, :, new]
            v[row, :, column] = values[row, :, new]
            return k, v
        k[:, :, self.length :] = keys
        v[:, :, self.length :] = values
        return k, v
