"""Oracle of :func:`moge_ops.grouped_mlp`: its parts, one after the other."""

from typing import Any

import torch
from torch import Tensor

from moge_ops._quantized import INTEGERS, QuantizedWeight, dequantize
from moge_ops.reference._activation import activate
from moge_ops.reference.grouped_gemm import grouped_gemm
from moge_ops.reference.permute import permute
from moge_ops.reference.unpermute import unpermute


def biased(rows: Tensor, bias: Tensor | None, offsets: Tensor) -> Tensor:
    """``rows [N, O]`` plus the ``bias [E, O]`` of each row's expert; rows of none stay zero."""
    if bias is None:
        return rows
    row = torch.arange(len(rows), device=rows.device)
    last = len(bias) - 1
    expert = torch.bucketize(row, offsets[1:].long(), right=True).clamp_max(max(last, 0))
    own = (row < offsets[-1]).unsqueeze(-1)
    return rows + torch.where(own, bias.to(rows.dtype)[expert], 0.0) if last >= 0 else rows


def grouped_mlp(
    x: Tensor,
    w_gate_up: Tensor | QuantizedWeight,
    w_down: Tensor | QuantizedWeight,
    weights: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    *,
    weight_on: str = "output",
    activation: tuple[Any, ...] = (),
    b_gate_up: Tensor | None = None,
    b_down: Tensor | None = None,
    series: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """``[T, H] -> [T, H]``. ``activation`` has the first arguments of :func:`activate`.

    ``dtype`` is that of x for a kernel whose oracle computes here in float64: what the kernel
    decodes quantised weights to, and what the activation is rounded to before a scheme of
    integers makes them of it.
    """
    rows = permute(x, row_to_slot, slot_to_row)  # [N, H]
    pre = biased(grouped_gemm(rows, w_gate_up, offsets, dtype=dtype), b_gate_up, offsets)
    names = ("name", "gated", "interleaved", "alpha", "limit", "shift")
    act = activate(pre, **dict(zip(names, activation, strict=False)), series=series)  # [N, F]
    if isinstance(w_down, QuantizedWeight) and w_down.scheme in INTEGERS:
        # a weight is a factor of the scale of its quantised row: the integers are those without it
        if dtype is not None:
            act = act + (act.to(dtype).to(act.dtype) - act).detach()
        out = biased(grouped_gemm(act, w_down, offsets), b_down, offsets)
        y = unpermute(out, slot_to_row, weights)
        # for the gradient, activations are not rounded; nor is then what the weights multiply
        smooth = grouped_gemm(act, dequantize(w_down, dtype or act.dtype).to(act.dtype), offsets)
        smooth = unpermute(biased(smooth, b_down, offsets), slot_to_row, weights)
        return smooth + (y - smooth).detach()
    if weight_on == "activation":
        row_weights = permute(weights.reshape(-1, 1), row_to_slot, slot_to_row.reshape(-1, 1))
        act = act * row_weights.to(act.dtype)  # [N, F]
    out = biased(grouped_gemm(act, w_down, offsets, dtype=dtype), b_down, offsets)  # [N, H]
    return unpermute(out, slot_to_row, weights if weight_on == "output" else None)
