"""Ranges of channels, seen over batches."""

import math

import torch
from torch import Tensor

__all__ = ["Observer"]

# the percentile observer counts sizes from 2^-16 to 2^16, sixteen to an octave
_STEPS = 16
_OCTAVES = (-16, 16)


class Observer:
    """Ranges of C channels over any number of batches; their order does not matter.

    Args:
        name: Of what is observed, for errors.
        percentile: None for the largest size of each channel. Else a size that this share of its
            values, in percent, does not exceed, at most 1/16 above the exact one.
    """

    def __init__(self, name: str, percentile: float | None = None) -> None:
        self.name, self.percentile = name, percentile
        self.rows = 0
        self._most: Tensor | None = None  # [C]
        self._histogram: Tensor | None = None  # [C, steps]

    def update(self, x: Tensor) -> None:
        """Adds ``x [T, C]``; raises ValueError if a number is not finite."""
        if not len(x):
            return
        size = x.detach().abs().float()
        most = size.amax(0)
        if not most.isfinite().all():
            raise ValueError(f"{self.name}: calibration must give finite numbers, got NaN or inf")
        self.rows += len(x)
        self._most = most if self._most is None else torch.maximum(self._most, most)
        if self.percentile is None:
            return
        low, high = (octave * _STEPS for octave in _OCTAVES)
        # a positive float32's bits grow with it: exponent plus 127, then the mantissa
        steps = size.view(torch.int32) // (2**23 // _STEPS) - 127 * _STEPS
        steps = (steps - low).clamp_(0, high - low - 1).T.long()  # [C, T]
        if self._histogram is None:
            self._histogram = steps.new_zeros(len(most), high - low, dtype=torch.int32)
        self._histogram.scatter_add_(1, steps, torch.ones_like(steps, dtype=torch.int32))

    def ranges(self) -> Tensor:
        """``[C]`` float32, 0 for a channel that is always 0.

        Raises:
            ValueError: There was no row.
        """
        if self._most is None:
            raise ValueError(f"{self.name}: calibration must give at least one token, got none")
        if self.percentile is None or self._histogram is None:
            return self._most
        needed = math.ceil(round(self.percentile / 100.0 * self.rows, 6))
        step = (self._histogram.cumsum(1) < needed).sum(1) + _OCTAVES[0] * _STEPS + 1
        octave, part = step // _STEPS, step % _STEPS
        edge = torch.ldexp(1.0 + part / _STEPS, octave)  # the upper one
        edge.masked_fill_(octave >= _OCTAVES[1], torch.inf)  # the last step has none
        return torch.minimum(edge, self._most)
