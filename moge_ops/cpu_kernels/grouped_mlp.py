"""The expert layer: one parallel region forward, one backward."""

import torch
from torch import Tensor

from moge_ops import _cpu

from ._common import DTYPES, NONE, PLAIN, Coded, adjacent, float32, matrix, routing


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
) -> tuple[Tensor, Tensor]:
    """``x [T, H] -> y [T, H], pre-activation [N, 2F]``, the latter empty unless ``save``."""
    x, w_gate_up, w_down = adjacent(x), adjacent(w_gate_up), adjacent(w_down)
    weights = float32(weights)
    _, H, F = w_down.shape
    y = x.new_empty(x.shape)
    pre = x.new_empty(row_to_slot.shape[0] if save else 0, 2 * F)
    _cpu.grouped_mlp_fwd(
        dtype=DTYPES[x.dtype],
        x=matrix(x),
        w_gate_up=matrix(w_gate_up),
        w_down=matrix(w_down),
        gate_up=PLAIN,
        down=PLAIN,
        weights=weights.data_ptr(),
        routing=routing(row_to_slot, slot_to_row, offsets),
        y=y.data_ptr(),
        pre=pre.data_ptr(),
        H=H,
        F=F,
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``d_y [T, H] -> d_x, d_w_gate_up, d_w_down, d_weights``; empty where not needed."""
    d_y, x, w_gate_up, w_down = map(adjacent, (d_y, x, w_gate_up, w_down))
    pre = pre.contiguous()
    wide = float32(weights)
    _, H, F = w_down.shape
    d_x = x.new_empty(x.shape if need_d_x else (0, H))
    d_w_gate_up = x.new_empty(w_gate_up.shape if need_d_w else 0)
    d_w_down = x.new_empty(w_down.shape if need_d_w else 0)
    d_weights = wide.new_empty(wide.shape)
    _cpu.grouped_mlp_bwd(
        dtype=DTYPES[x.dtype],
        d_y=matrix(d_y),
        x=matrix(x),
        w_gate_up=matrix(w_gate_up),
        w_down=matrix(w_down),
        gate_up=PLAIN,
        down=PLAIN,
        weights=wide.data_ptr(),
        routing=routing(row_to_slot, slot_to_row, offsets),
        pre=pre.data_ptr(),
        d_x=d_x.data_ptr(),
        d_w_gate_up=d_w_gate_up.data_ptr(),
        d_w_down=d_w_down.data_ptr(),
        d_weights=d_weights.data_ptr(),
        H=H,
        F=F,
        threads=torch.get_num_threads(),
    )
    return d_x, d_w_gate_up, d_w_down, d_weights.to(weights.dtype)


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
) -> tuple[Tensor, Tensor]:
    """``x [T, H] -> y [T, H], pre-activation [N, 2F]``, the latter empty unless ``save``."""
    x, weights = adjacent(x), float32(weights)
    up = Coded.of(gate_up, gate_up_scale, gate_up_zero, scheme, gate_up_group)
    back = Coded.of(down, down_scale, down_zero, scheme, down_group)
    width = gate_up.shape[1]
    y = x.new_empty(x.shape)
    pre = x.new_empty(row_to_slot.shape[0] if save else 0, width)
    if not down.numel():
        return y.zero_(), pre.zero_()
    integers = up.scheme == "int8_w8a8"
    kernel = _cpu.grouped_mlp_int8_fwd if integers else _cpu.grouped_mlp_fwd
    kernel(
        dtype=DTYPES[x.dtype],
        x=matrix(x),
        w_gate_up=NONE,
        w_down=NONE,
        gate_up=up.coding(),
        down=back.coding(),
        weights=weights.data_ptr(),
        routing=routing(row_to_slot, slot_to_row, offsets),
        y=y.data_ptr(),
        pre=pre.data_ptr(),
        H=x.shape[1],
        F=width // 2,
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
) -> tuple[Tensor, Tensor]:
    """``d_y [T, H] -> d_x [T, H], d_weights [T, K]``; the former empty where not needed."""
    d_y, pre, wide = adjacent(d_y), pre.contiguous(), float32(weights)
    up = Coded.of(gate_up, gate_up_scale, gate_up_zero, scheme, gate_up_group)
    back = Coded.of(down, down_scale, down_zero, scheme, down_group)
    H = d_y.shape[1]
    d_x = d_y.new_empty(d_y.shape if need_d_x else (0, H))
    d_weights = wide.new_empty(wide.shape)
    if not down.numel():
        return d_x.zero_(), d_weights.zero_().to(weights.dtype)
    _cpu.grouped_mlp_bwd(
        dtype=DTYPES[d_y.dtype],
        d_y=matrix(d_y),
        x=NONE,
        w_gate_up=NONE,
        w_down=NONE,
        gate_up=up.coding(),
        down=back.coding(),
        weights=wide.data_ptr(),
        routing=routing(row_to_slot, slot_to_row, offsets),
        pre=pre.data_ptr(),
        d_x=d_x.data_ptr(),
        d_w_gate_up=0,
        d_w_down=0,
        d_weights=d_weights.data_ptr(),
        H=H,
        F=gate_up.shape[1] // 2,
        threads=torch.get_num_threads(),
    )
    return d_x, d_weights.to(weights.dtype)
