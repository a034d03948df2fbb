"""Rounding plain weights to quantised ones, to the nearest number each."""

import itertools
import math

import torch
from torch import Tensor

from moge_ops import _checks
from moge_ops._quantized import (
    FP4,
    SCHEMES,
    STORED,
    QuantizedWeight,
    group_sizes,
    pack_int4,
    pack_nibbles,
)

__all__ = ["FP8_BLOCK", "block_rows", "quantize"]

MOST_FP8 = torch.finfo(torch.float8_e4m3fn).max  # 448
FP8_BLOCK = 128  # rows, and columns, that share a scale in the blocks of DeepSeek-V3


def _grouped(w: Tensor, group_size: int | None, fill: float = 0.0) -> Tensor:
    """``[O, I] -> [O, groups, group_size]``, filled up."""
    size = group_size or max(w.shape[1], 1)
    missing = -w.shape[1] % size
    return torch.unflatten(torch.nn.functional.pad(w, (0, missing), value=fill), 1, (-1, size))


def _integers(
    w: Tensor, bits: int, group_size: int | None, symmetric: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One expert's integers, scales and zero points, by the formulas of compressed-tensors."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    groups = _grouped(w, group_size)  # [O, groups, g]
    eps = torch.finfo(torch.float32).eps
    if symmetric:
        scale = groups.abs().amax(-1) / ((high - low) / 2)
        zero = None
    else:
        least, most = groups.amin(-1).clamp(max=0.0), groups.amax(-1).clamp(min=0.0)
        scale = (most - least) / (high - low)
    scale = torch.where(scale == 0.0, eps, scale)
    if not symmetric:
        zero = (low - least / scale).clamp(low, high).round()
    q = groups / scale.unsqueeze(-1)
    q = (q if zero is None else q + zero.unsqueeze(-1)).round().clamp(low, high)
    integers = q.flatten(1)[:, : w.shape[1]].to(torch.int8)
    return integers, scale, None if zero is None else zero.to(torch.int8)


def _fp8(w: Tensor, group_size: int | None, halves: int) -> tuple[Tensor, Tensor]:
    """One expert's numbers and scales, per row or in blocks of 128 by 128."""
    O, I = w.shape
    eps = torch.finfo(torch.float32).eps
    most = _grouped(w.abs(), group_size).amax(-1)  # [O, groups]
    if group_size is not None:
        of_half = torch.split(torch.unflatten(most, 0, (halves, -1)), FP8_BLOCK, dim=1)
        tops = [x.amax(1, keepdim=True).expand_as(x) for x in of_half]
        most = torch.cat(tops, dim=1).flatten(0, 1)  # each row's block's
    scale = most / MOST_FP8
    scale = torch.where(scale == 0.0, eps, scale)
    columns = scale if group_size is None else scale.repeat_interleave(group_size, 1)[:, :I]
    data = (w / columns).clamp(-MOST_FP8, MOST_FP8).to(torch.float8_e4m3fn)
    if group_size is not None:
        scale = scale[:: block_rows(O, halves)]
    return data, scale


def block_rows(O: int, halves: int = 1) -> int:
    """Rows that share a scale in ``QuantizedWeight.scale``, of blocks of 128 rows by halves.

    Where 128 does not divide a half, as with the 1344 rows of Pangu Pro MoE's, a block's scale is
    stored several times.
    """
    return math.gcd(FP8_BLOCK, O // halves)


def _mxfp4(w: Tensor) -> tuple[Tensor, Tensor]:
    """One expert's packed e2m1 and the exponents of its scales, by OCP's section 6.3."""
    groups = _grouped(w, 32)
    most = groups.abs().amax(-1)
    # frexp's mantissa is below one: floor(log2) is its exponent less one, and that of 4 is 2
    exponent = (torch.frexp(most).exponent - 3).masked_fill(most == 0.0, -127).clamp(-127, 127)
    size = torch.ldexp(groups.abs(), -exponent.unsqueeze(-1)).contiguous()
    middles = torch.tensor(
        [(a + b) / 2 for a, b in itertools.pairwise(FP4)], dtype=torch.float32, device=w.device
    )
    code = torch.bucketize(size, middles)  # of a tie the lower; even codes are even numbers
    tie = (size.unsqueeze(-1) == middles).any(-1)
    code = code + (tie & (code % 2 == 1))
    code = (code + 8 * groups.signbit()).flatten(1).to(torch.uint8)
    return code[:, ::2] | code[:, 1::2] << 4, (exponent + 127).to(torch.uint8)


def quantize(
    weight: Tensor,
    scheme: str,
    *,
    group_size: int | None = None,
    symmetric: bool = True,
    halves: int = 1,
) -> QuantizedWeight:
    """Rounds the weights of experts to the nearest numbers of a scheme.

    Args:
        weight: ``[E, O, I]``, a float.
        scheme: One of :data:`SCHEMES`.
        group_size: Columns that share a scale. int8_w8a16: None, which is a whole row, 32, 64 or
            128. int8_w8a8 and int4_w4a8: None. int4_w4a16: 32, 64 or 128, by default the largest
            that divides I. fp8_w8a16: None for a scale for each row, 128 for blocks of 128 by 128.
            mxfp4_w4a16: always 32.
        symmetric: False gives int4_w4a16 zero points.
        halves: Matrices that lie stacked along O, 2 in ``w_gate_up``: blocks of fp8_w8a16 are
            counted in each apart.

    Returns:
        Scales in float32.

    Raises:
        TypeError: ``weight`` is no float tensor.
        ValueError: An unknown scheme or group size, one that does not divide I, or weights that are
            not finite.

    Source:
        Scales and zero points by the formulas of compressed-tensors; e2m1 and e8m0 by OCP
        Microscaling Formats 1.0, section 6.3.
    """
    _checks.choice("scheme", scheme, SCHEMES)
    _checks.tensor("weight", weight, "[E, O, I]")
    if weight.dtype not in _checks.FLOATS:
        raise TypeError(f"weight must be a float, got {weight.dtype}")
    if weight.ndim != 3:
        raise ValueError(f"weight must be [E, O, I], got {list(weight.shape)}")
    E, O, I = weight.shape
    if scheme == "int4_w4a16" and group_size is None:
        group_size = next((g for g in (128, 64, 32) if I % g == 0), 32)
    elif scheme == "mxfp4_w4a16" and group_size is None:
        group_size = 32
    group_sizes("quantize", scheme, group_size)
    if not symmetric and scheme != "int4_w4a16":
        raise ValueError(f"symmetric must be True for {scheme}: only int4_w4a16 has zero points")
    _checks.integer("halves", halves, least=1)
    if O % halves:
        raise ValueError(f"halves={halves} must divide the O={O} rows")
    if group_size and scheme != "fp8_w8a16" and I % group_size:
        raise ValueError(f"group_size={group_size} must divide the I={I} columns")
    if scheme == "int4_w4a8" and I % 2:
        raise ValueError(f"int4_w4a8 takes an even number of columns, got I={I}")
    spec, groups = STORED[scheme], math.ceil(I / (group_size or max(I, 1)))
    scales = O // max(block_rows(O, halves), 1) if scheme == "fp8_w8a16" and group_size else O
    data = torch.empty(E, O, I // spec.values, dtype=spec.dtype, device=weight.device)
    scale = torch.empty(E, scales, groups, dtype=spec.scale_dtypes[0], device=weight.device)
    zeros = None if symmetric else torch.empty_like(scale, dtype=torch.int8)
    for e in range(E if O and I else 0):  # one at a time, for the memory
        w = weight[e].detach().float()
        if not w.isfinite().all():
            raise ValueError("weight must be finite, got NaN or infinity")
        zero = None
        if scheme == "fp8_w8a16":
            data[e], scale[e] = _fp8(w, group_size, halves)
        elif scheme == "mxfp4_w4a16":
            data[e], scale[e] = _mxfp4(w)
        else:
            bits = 4 if scheme.startswith("int4") else 8
            integers, scale[e], zero = _integers(w, bits, group_size, symmetric)
            pack = {"int4_w4a16": pack_int4, "int4_w4a8": pack_nibbles}.get(scheme)
            data[e] = integers if pack is None else pack(integers)
        if zero is not None and zeros is not None:
            zeros[e] = zero
    return QuantizedWeight(data, scale, zeros, scheme, group_size)
