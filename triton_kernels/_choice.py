"""What a call of the expert layer chooses beside its weights."""

from typing import Any, NamedTuple

from torch import Tensor

from ._activation import Act


class Choice(NamedTuple):
    """What stands between the products, and their biases."""

    act: Act
    series: Tensor | None = None  # [2, n]
    b_gate_up: Tensor | None = None  # [E, O]
    b_down: Tensor | None = None  # [E, H]

    @property
    def halves(self) -> int:
        """Columns of the first product for one of the activation."""
        return 2 if self.act.gated else 1


def chosen(
    act: tuple[Any, ...], b_gate_up: Tensor | None, b_down: Tensor | None, series: Tensor | None
) -> Choice:
    series = None if series is None else series.contiguous()
    terms = 0 if series is None else series.shape[1]
    b_gate_up = None if b_gate_up is None else b_gate_up.contiguous()
    return Choice(Act(*act)._replace(terms=terms), series, b_gate_up, b_down)
