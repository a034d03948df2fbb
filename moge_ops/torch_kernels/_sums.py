"""Gradients of the expert layer that are sums over rows."""

from typing import NamedTuple

import torch
from torch import Tensor


class Sums(NamedTuple):
    """Gradients that are sums over rows, in the accumulator's type; None where not needed."""

    b_gate_up: Tensor | None  # [E, 2F]
    b_down: Tensor | None  # [E, H]
    series: Tensor | None  # [2, n]
    like: Tensor  # of the series' dtype, or any

    @staticmethod
    def of(
        x: Tensor, sizes: tuple[int, ...], need_d_b: bool, series: Tensor | None, need_series: bool
    ) -> "Sums":
        (E, O), acc = sizes, torch.promote_types(x.dtype, torch.float32)
        return Sums(
            x.new_zeros(E, O, dtype=acc) if need_d_b else None,
            x.new_zeros(E, x.shape[1], dtype=acc) if need_d_b else None,
            torch.zeros_like(series, dtype=acc) if series is not None and need_series else None,
            x if series is None else series,
        )

    def add(
        self,
        spans: list[tuple[int, int, int]],
        d_pre: Tensor,
        d_out: Tensor,
        row_weights: Tensor,
        d_series: Tensor | None,
    ) -> None:
        """Adds a block: ``[n, 2F], [n, H], [n, 1], [2, n]``."""
        if self.b_gate_up is not None and self.b_down is not None:
            for e, a, b in spans:
                self.b_gate_up[e] += d_pre[a:b].sum(0, dtype=self.b_gate_up.dtype)
                self.b_down[e] += (d_out[a:b] * row_weights[a:b]).sum(0)
        if self.series is not None and d_series is not None:
            self.series.add_(d_series)

    def results(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """``[E, 2F]`` and ``[E, H]`` in that dtype, ``[2, n]`` in its own; empty where None."""
        found = zip(self[:3], (dtype, dtype, self.like.dtype), strict=True)
        b_gate_up, b_down, series = (
            self.like.new_empty(0, dtype=to) if d is None else d.to(to) for d, to in found
        )
        return b_gate_up, b_down, series
