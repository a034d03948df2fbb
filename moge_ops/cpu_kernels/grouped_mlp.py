"""The expert layer: one parallel region forward, one backward."""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from moge_ops import _cpu

from ._common import DTYPES, NONE, PLAIN, Coded, adjacent, float32, matrix, routing

FUNCTIONS = {
    "silu": _cpu.Function.silu,
    "gelu": _cpu.Function.gelu,
    "gelu_tanh": _cpu.Function.gelu_tanh,
    "relu": _cpu.Function.relu,
    "relu2": _cpu.Function.relu2,
}


@functools.cache
def _choice(
    name: str, gated: bool, interleaved: bool, alpha: float, limit: float | None, shift: float
) -> "_cpu.Activation":
    """As the extension takes it, without a series."""
    most = math.inf if limit is None else limit
    return FUNCTIONS[name], gated, interleaved, alpha, most, shift, 0, 0


class _Extras(NamedTuple):
    """What may come beside the weights; to be kept as long as its addresses are used."""

    choice: "_cpu.Activation"
    b_gate_up: Tensor | None
    b_down: Tensor | None
    series: Tensor | None

    @classmethod
    def of(
        cls,
        activation: str,
        gated: bool,
        interleaved: bool,
        alpha: float,
        limit: float | None,
        shift: float,
        b_gate_up: Tensor | None,
        b_down: Tensor | None,
        series: Tensor | None,
    ) -> "_Extras":
        choice = _choice(activation, gated, interleaved, alpha, limit, shift)
        if b_gate_up is None and b_down is None and series is None:
            return cls(choice, None, None, None)
        up, down = (None if b is None else adjacent(b) for b in (b_gate_up, b_down))
        return cls(choice, up, down, None if series is None else float32(series))

    def activation(self) -> "_cpu.Activation":
        """As the extension takes it."""
        if self.series is None:
            return self.choice
        return *self.choice[:6], self.series.data_ptr(), self.series.shape[1]


def _bias(b: Tensor | None) -> tuple[int, int, int]:
    return NONE if b is None else matrix(b)


def _sums(
    x: Tensor,
    sizes: tuple[int, ...],
    need_d_b: bool,
    series: Tensor | None,
    need_d_series: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Empty ``d_b_gate_up [E, O], d_b_down [E, H], d_series [2, n]``, or nothing.

    A ``d_series`` that is needed is float32, as the kernel writes it.
    """
    E, O = sizes
    d_series = x.new_empty(0)
    if series is not None and need_d_series:
        d_series = x.new_empty(series.shape, dtype=torch.float32)
    if not need_d_b:
        return x.new_empty(0), x.new_empty(0), d_series
    return x.new_empty(E, O), x.new_empty(E, x.shape[1]), d_series


def grouped_mlp_fwd(
    x: Tensor,
    w_gate_up: Tensor,
    w_down: Tensor,
    weights: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    weight_on: str,
    save: bool,
    activation: str = "silu",
    gated: bool = True,
    interleaved: bool = False,
    alpha: float = 1.0,
    limit: float | None = None,
    shift: float = 0.0,
    b_gate_up: Tensor | None = None,
    b_down: Tensor | None = None,
    series: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``x [T, H] -> y [T, H], pre-activation [N, 2F]``, the latter empty unless ``save``."""
    x, w_gate_up, w_down = adjacent(x), adjacent(w_gate_up), adjacent(w_down)
    weights = float32(weights)
    _, H, F = w_down.shape
    y = x.new_empty(x.shape)
    pre = x.new_empty(row_to_slot.shape[0] if save else 0, w_gate_up.shape[1])
    extras = _Extras.of(
        activation, gated, interleaved, alpha, limit, shift, b_gate_up, b_down, series
    )
    _cpu.grouped_mlp_fwd(
        dtype=DTYPES[x.dtype],
        x=matrix(x),
        w_gate_up=matrix(w_gate_up),
        w_down=matrix(w_down),
        gate_up=PLAIN,
        down=PLAIN,
        b_gate_up=_bias(extras.b_gate_up),
        b_down=_bias(extras.b_down),
        weights=weights.data_ptr(),
        routing=routing(row_to_slot, slot_to_row, offsets),
        y=y.data_ptr(),
        pre=pre.data_ptr(),
        H=H,
        F=F,
        activation=extras.activation(),
        weight_on_activation=weight_on == "activation",
        threads=torch.get_num_threads(),
    )
    return y, pre


def grouped_mlp_bwd(
    d_y: Tensor,
    x: Tensor,
    w_gate_up: Tensor,
    w_down: Tensor,
    weights: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    pre: Tensor,
    need_d_x: bool,
    need_d_w: bool,
    activation: str = "silu",
    gated: bool = True,
    interleaved: bool = False,
    alpha: float = 1.0,
    limit: float | None = None,
    shift: float = 0.0,
    b_down: Tensor | None = None,
    series: Tensor | None = None,
    need_d_b: bool = False,
    need_d_series: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``d_y [T, H] -> d_x, d_w_gate_up, d_w_down, d_weights, d_b_gate_up, d_b_down, d_series``.

    Empty where not needed.
    """
    d_y, x, w_gate_up, w_down = map(adjacent, (d_y, x, w_gate_up, w_down))
    pre = pre.contiguous()
    wide = float32(weights)
    _, H, F = w_down.shape
    d_x = x.new_empty(x.shape if need_d_x else (0, H))
    d_w_gate_up = x.new_empty(w_gate_up.shape if need_d_w else 0)
    d_w_down = x.new_empty(w_down.shape if need_d_w else 0)
    d_weights = wide.new_empty(wide.shape)
    extras = _Extras.of(activation, gated, interleaved, alpha, limit, shift, None, b_down, series)
    d_b_gate_up, d_b_down, d_series = _sums(x, w_gate_up.shape[:2], need_d_b, series, need_d_series)
    _cpu.grouped_mlp_bwd(
        dtype=DTYPES[x.dtype],
        d_y=matrix(d_y),
        x=matrix(x),
        w_gate_up=matrix(w_gate_up),
        w_down=matrix(w_down),
        gate_up=PLAIN,
        down=PLAIN,
        b_down=_bias(extras.b_down),
        weights=wide.data_ptr(),
        routing=routing(row_to_slot, slot_to_row, offsets),
        pre=pre.data_ptr(),
        d_x=d_x.data_ptr(),
        d_w_gate_up=d_w_gate_up.data_ptr(),
        d_w_down=d_w_down.data_ptr(),
        d_b_gate_up=d_b_gate_up.data_ptr(),
        d_b_down=d_b_down.data_ptr(),
        d_weights=d_weights.data_ptr(),
        d_series=d_series.data_ptr(),
        H=H,
        F=F,
        activation=extras.activation(),
        threads=torch.get_num_threads(),
    )
    d_weights = d_weights.to(weights.dtype)
    d_series = d_series if series is None else d_series.to(series.dtype)
    return d_x, d_w_gate_up, d_w_down, d_weights, d_b_gate_up, d_b_down, d_series


def grouped_mlp_quantized_fwd(
    x: Tensor,
    gate_up: Tensor,
    gate_up_scale: Tensor,
    gate_up_zero: Tensor | None,
    down: Tensor,
    down_scale: Tensor,
    down_zero: Tensor | None,
    weights: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    scheme: str,
    gate_up_group: int | None,
    down_group: int | None,
    weight_on: str,
    save: bool,
    activation: str = "silu",
    gated: bool = True,
    interleaved: bool = False,
    alpha: float = 1.0,
    limit: float | None = None,
    shift: float = 0.0,
    b_gate_up: Tensor | None = None,
    b_down: Tensor | None = None,
    series: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``x [T, H] -> y [T, H], pre-activation [N, 2F]``, the latter empty unless ``save``."""
    x, weights = adjacent(x), float32(weights)
    E, columns, *_ = gate_up.shape
    width = columns // 2 if gated else columns
    parts = (activation, gated, interleaved, alpha, limit, shift, b_gate_up, b_down, series)
    if not down.numel():  # weights without numbers: a bias is all that may be left
        return grouped_mlp_fwd(
            x,
            x.new_empty(E, columns, x.shape[1]),
            x.new_empty(E, x.shape[1], width),
            weights,
            row_to_slot,
            slot_to_row,
            offsets,
            weight_on,
            save,
            *parts,
        )
    extras = _Extras.of(*parts)
    up = Coded.of(gate_up, gate_up_scale, gate_up_zero, scheme, gate_up_group)
    back = Coded.of(down, down_scale, down_zero, scheme, down_group)
    y = x.new_empty(x.shape)
    pre = x.new_empty(row_to_slot.shape[0] if save else 0, columns)
    integers = up.scheme == "int8_w8a8"
    kernel = _cpu.grouped_mlp_int8_fwd if integers else _cpu.grouped_mlp_fwd
    kernel(
        dtype=DTYPES[x.dtype],
        x=matrix(x),
        w_gate_up=NONE,
        w_down=NONE,
        gate_up=up.coding(),
        down=back.coding(),
        b_gate_up=_bias(extras.b_gate_up),
        b_down=_bias(extras.b_down),
        weights=weights.data_ptr(),
        routing=routing(row_to_slot, slot_to_row, offsets),
        y=y.data_ptr(),
        pre=pre.data_ptr(),
        H=x.shape[1],
        F=width,
        activation=extras.activation(),
        # a weight is a factor of the scale of its quantised row, either way
        weight_on_activation=weight_on == "activation" and not integers,
        threads=torch.get_num_threads(),
    )
    return y, pre


def grouped_mlp_quantized_bwd(
    d_y: Tensor,
    gate_up: Tensor,
    gate_up_scale: Tensor,
    gate_up_zero: Tensor | None,
    down: Tensor,
    down_scale: Tensor,
    down_zero: Tensor | None,
    weights: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    pre: Tensor,
    scheme: str,
    gate_up_group: int | None,
    down_group: int | None,
    need_d_x: bool,
    activation: str = "silu",
    gated: bool = True,
    interleaved: bool = False,
    alpha: float = 1.0,
    limit: float | None = None,
    shift: float = 0.0,
    b_down: Tensor | None = None,
    series: Tensor | None = None,
    need_d_b: bool = False,
    need_d_series: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``d_y [T, H] -> d_x [T, H], d_weights [T, K], d_b_gate_up, d_b_down, d_series``.

    Empty where not needed, but for ``d_weights``.
    """
    d_y, pre, wide = adjacent(d_y), pre.contiguous(), float32(weights)
    up = Coded.of(gate_up, gate_up_scale, gate_up_zero, scheme, gate_up_group)
    back = Coded.of(down, down_scale, down_zero, scheme, down_group)
    H, (E, columns, *_) = d_y.shape[1], gate_up.shape
    width = columns // 2 if gated else columns
    d_x = d_y.new_empty(d_y.shape if need_d_x else (0, H))
    d_weights = wide.new_empty(wide.shape)
    parts = (activation, gated, interleaved, alpha, limit, shift)
    if not down.numel():
        found = grouped_mlp_bwd(
            d_y,
            d_y,
            d_y.new_empty(E, columns, H),
            d_y.new_empty(E, H, width),
            weights,
            row_to_slot,
            slot_to_row,
            offsets,
            pre,
            need_d_x,
            False,
            *(*parts, b_down, series, need_d_b, need_d_series),
        )
        return found[0], *found[3:]
    extras = _Extras.of(*parts, None, b_down, series)
    d_b_gate_up, d_b_down, d_series = _sums(d_y, (E, columns), need_d_b, series, need_d_series)
    _cpu.grouped_mlp_bwd(
        dtype=DTYPES[d_y.dtype],
        d_y=matrix(d_y),
        x=NONE,
        w_gate_up=NONE,
        w_down=NONE,
        gate_up=up.coding(),
        down=back.coding(),
        b_down=_bias(extras.b_down),
        weights=wide.data_ptr(),
        routing=routing(row_to_slot, slot_to_row, offsets),
        pre=pre.data_ptr(),
        d_x=d_x.data_ptr(),
        d_w_gate_up=0,
        d_w_down=0,
        d_b_gate_up=d_b_gate_up.data_ptr(),
        d_b_down=d_b_down.data_ptr(),
        d_weights=d_weights.data_ptr(),
        d_series=d_series.data_ptr(),
        H=H,
        F=width,
        activation=extras.activation(),
        threads=torch.get_num_threads(),
    )
    d_series = d_series if series is None else d_series.to(series.dtype)
    return d_x, d_weights.to(weights.dtype), d_b_gate_up, d_b_down, d_series
