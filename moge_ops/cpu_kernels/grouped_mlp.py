"""The expert layer: one parallel region forward, one backward."""

import torch
from torch import Tensor

from moge_ops import _cpu

from ._common import DTYPES, adjacent, float32, matrix, routing


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
