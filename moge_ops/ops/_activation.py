"""The choice of what stands between the two products of an expert."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from moge_ops import _checks

NAMES = ("silu", "gelu", "gelu_tanh", "relu", "relu2")
MOST_TERMS = 8  # of a series: a kernel unrolls them
WEIGHT_ON = ("output", "activation")
LAYOUTS = {
    True: {"w_gate_up": "[E, 2F, H]", "w_down": "[E, H, F]", "b_gate_up": "[E, 2F]"},
    False: {"w_gate_up": "[E, F, H]", "w_down": "[E, H, F]", "b_gate_up": "[E, F]"},
}


class Activation(NamedTuple):
    r"""What an expert computes of its first product, as :func:`moge_ops.grouped_mlp` takes it.

    .. math::
        a = \phi(\min(g, \mathrm{limit}))\,
            (\mathrm{clamp}(u, -\mathrm{limit}, \mathrm{limit}) + \mathrm{shift})

    with g the gate and u the up half of the first product; without a gate it is
    :math:`\phi(\min(g, \mathrm{limit}))` of all of it. :math:`\phi(z)` is

    - ``"silu"``: :math:`z\,\sigma(\alpha z)`; with ``series``, which is an argument of
      ``grouped_mlp`` because it may have a gradient,
      :math:`\sum_i t_i\,\sigma(\alpha t_i)` with :math:`t_i = a_i z + b_i`, one scale and one shift
      for each term and all columns;
    - ``"gelu"``: :math:`z\,\Phi(z)`, with the error function; ``"gelu_tanh"``, its approximation;
    - ``"relu"``: :math:`\max(z, 0)`; ``"relu2"``: its square.

    The default is SwiGLU. GPT-OSS has
    ``Activation(interleaved=True, alpha=1.702, limit=7.0, shift=1.0)``, Nemotron-H
    ``Activation("relu2", gated=False)``.

    Attributes:
        name: Of :math:`\phi`.
        gated: Whether the first product has two halves; if not, ``w_gate_up`` is ``[E, F, H]``.
        interleaved: Whether its rows take turns, gate and up of each of F; if not, all F of the
            gate come first.
        alpha: Factor within the sigmoid, for ``"silu"`` alone.
        limit: Above 0; None for no limit.
        shift: What is added to up.
    """

    name: str = "silu"
    gated: bool = True
    interleaved: bool = False
    alpha: float = 1.0
    limit: float | None = None
    shift: float = 0.0


SWIGLU = Activation()


def checked(activation: Any, series: Tensor | None) -> Activation:
    """The activation as a tuple.

    Raises:
        TypeError: It is neither a str nor an :class:`Activation`, or a part has another type.
        ValueError: A name is unknown, or parts do not go together.
    """
    if activation == "silu":  # nothing to check, in most calls
        return SWIGLU
    named = not isinstance(activation, str)
    if not named:
        activation = Activation(activation)
    if not isinstance(activation, Activation):
        kind = type(activation).__name__
        raise TypeError(f"activation must be a str or an Activation, got {kind}")
    name, gated, interleaved, alpha, limit, shift = activation
    _checks.choice("activation.name" if named else "activation", name, NAMES)
    for flag, given in (("gated", gated), ("interleaved", interleaved)):
        if not isinstance(given, bool):
            raise TypeError(f"activation.{flag} must be a bool, got {type(given).__name__}")
    numbers = (("alpha", alpha), ("shift", shift), ("limit", limit))
    for number, value in numbers:
        if number == "limit" and value is None:
            continue
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise TypeError(f"activation.{number} must be a float, got {type(value).__name__}")
        if not abs(value) <= _checks.MOST_FLOAT:
            raise ValueError(f"activation.{number} must be finite, got {value!r}")
    if limit is not None and limit <= 0.0:
        raise ValueError(f"activation.limit must be above 0, got {limit!r}")
    if name != "silu" and (alpha != 1.0 or series is not None):
        what = "series" if alpha == 1.0 else f"alpha={alpha!r}"
        raise ValueError(f"activation must be 'silu' with {what}, got {name!r}")
    if not gated and (interleaved or shift != 0.0):
        what = "interleaved" if interleaved else "shift"
        raise ValueError(f"activation must be gated to have {what}, got gated=False")
    limit = None if limit is None else float(limit)
    return Activation(name, gated, interleaved, float(alpha), limit, float(shift))


class Extras(NamedTuple):
    """What may come beside the weights."""

    activation: Activation
    b_gate_up: Tensor | None
    b_down: Tensor | None
    series: Tensor | None
    plain: bool = False  # nothing but SwiGLU

    def specs(self, dtypes: tuple[torch.dtype, ...]) -> list[_checks.Spec]:
        """What :func:`moge_ops._checks.tensors` checks of the biases."""
        if self.plain:
            return []
        up = LAYOUTS[self.activation.gated]["b_gate_up"]
        biases = (("b_gate_up", self.b_gate_up, up), ("b_down", self.b_down, "[E, H]"))
        return [(name, b, layout, dtypes) for name, b, layout in biases if b is not None]

    def parts(self) -> tuple[Any, ...]:
        """The last arguments of an operator, but for those that have their defaults."""
        biases = (self.b_gate_up, self.b_down, self.series)
        return () if self.plain else (*self.activation, *biases)

    def need_gradient(self) -> bool:
        biases = (self.b_gate_up, self.b_down, self.series)
        return not self.plain and any(x is not None and x.requires_grad for x in biases)

    def options(self) -> dict[str, Any]:
        """What the oracle takes."""
        return {name: x for name, x in self._asdict().items() if name != "plain"}


_PLAIN = Extras(SWIGLU, None, None, None, plain=True)


def extras_of(
    activation: Any,
    b_gate_up: Tensor | None,
    b_down: Tensor | None,
    series: Tensor | None,
    weight_on: str,
    x: Tensor,
) -> Extras:
    _checks.choice("weight_on", weight_on, WEIGHT_ON)
    if b_down is not None and weight_on != "output":
        raise ValueError(f"weight_on must be 'output' with b_down, got {weight_on!r}")
    if activation == "silu" and b_gate_up is None and b_down is None and series is None:
        return _PLAIN  # in most calls, of which each microsecond counts in decoding
    found = checked(activation, series)
    if series is not None:
        _checks.tensor("series", series, "[2, n]")
        if series.ndim != 2 or series.shape[0] != 2 or not 1 <= series.shape[1] <= MOST_TERMS:
            raise ValueError(
                f"series must be [2, n] with n from 1 to {MOST_TERMS}, got {list(series.shape)}"
            )
        of_two = ("series", series, "[R, n]", _checks.FLOATS)
        _checks.tensors(("x", x, "[T, H]", _checks.FLOATS), of_two)
        series = series.to(torch.promote_types(x.dtype, torch.float32))
    b_gate_up, b_down = (None if b is None else _checks.autocast(b)[0] for b in (b_gate_up, b_down))
    return Extras(found, b_gate_up, b_down, series)
