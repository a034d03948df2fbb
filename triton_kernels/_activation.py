"""What stands between the two products of an expert, and its derivatives, as parts of an epilogue.

Everything here is chosen at compile time: the default compiles to what SwiGLU alone would.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import narrow

BLOCK_SUMS = 1024  # partial sums that one step of the series' gradient reads; chosen, not measured


class Act(NamedTuple):
    """As :class:`moge_ops.Activation`, with the number of terms of the series, 0 without one."""

    name: str = "silu"
    gated: bool = True
    interleaved: bool = False
    alpha: float = 1.0
    limit: float | None = None
    shift: float = 0.0
    terms: int = 0


@triton.jit
def split_halves(x, ACT: tl.constexpr):
    """``[M, 2C] -> gate [M, C], up [M, C]``."""
    M: tl.constexpr = x.shape[0]
    C: tl.constexpr = x.shape[1] // 2
    if ACT.interleaved:
        gate, up = x.reshape(M, C, 2).split()
    else:
        gate, up = x.reshape(M, 2, C).permute(0, 2, 1).split()
    return gate, up


@triton.jit
def clamped_gate(gate, ACT: tl.constexpr):
    # where, not a minimum: that would make a number of NaN
    if ACT.limit is not None:
        gate = tl.where(gate > ACT.limit, ACT.limit, gate)
    return gate


@triton.jit
def clamped_up(up, ACT: tl.constexpr):
    """The factor of the gate's function."""
    if ACT.limit is not None:
        up = tl.where(up > ACT.limit, ACT.limit, up)
        up = tl.where(up < -ACT.limit, -ACT.limit, up)
    if ACT.shift != 0.0:
        up += ACT.shift
    return up


@triton.jit
def _phi(z, ACT: tl.constexpr):
    if ACT.name == "silu":
        y = z / (1.0 + tl.exp(-z if ACT.alpha == 1.0 else -ACT.alpha * z))
    elif ACT.name == "gelu":
        y = 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476))
    elif ACT.name == "gelu_tanh":
        # (1 + tanh(t)) / 2 is sigmoid(2 t)
        y = z / (1.0 + tl.exp(-1.5957691216057308 * (z + 0.044715 * z * z * z)))
    else:
        tl.static_assert(ACT.name == "relu" or ACT.name == "relu2")
        y = tl.where(z < 0.0, 0.0, z)  # keeps NaN
        if ACT.name == "relu2":
            y *= y
    return y


@triton.jit
def _phi_and_slope(z, ACT: tl.constexpr):
    """The function and its derivative."""
    if ACT.name == "silu":
        if ACT.alpha == 1.0:
            sig = 1.0 / (1.0 + tl.exp(-z))
            y = z * sig
            slope = sig + y * (1.0 - sig)
        else:
            sig = 1.0 / (1.0 + tl.exp(-ACT.alpha * z))
            y = z * sig
            slope = sig + ACT.alpha * y * (1.0 - sig)
    elif ACT.name == "gelu":
        half = 0.5 * (1.0 + tl.erf(z * 0.7071067811865476))
        y = z * half
        slope = half + z * (0.3989422804014327 * tl.exp(-0.5 * z * z))
    elif ACT.name == "gelu_tanh":
        sig = 1.0 / (1.0 + tl.exp(-1.5957691216057308 * (z + 0.044715 * z * z * z)))
        y = z * sig
        slope = sig + y * (1.0 - sig) * (1.5957691216057308 * (1.0 + 0.134145 * z * z))
    else:
        tl.static_assert(ACT.name == "relu" or ACT.name == "relu2")
        y = tl.where(z < 0.0, 0.0, z)
        slope = tl.where(z <= 0.0, 0.0, 1.0)
        if ACT.name == "relu2":
            slope = 2.0 * y
            y *= y
    return y, slope


@triton.jit
def activate(gate, up, series_ptr, ACT: tl.constexpr):
    """``[M, C]``; up is None without a gate."""
    z = clamped_gate(gate, ACT=ACT)
    if ACT.terms == 0:
        act = _phi(z, ACT=ACT)
    else:
        TERMS: tl.constexpr = ACT.terms
        act = tl.zeros(z.shape, dtype=z.dtype)
        for i in tl.static_range(TERMS):
            scale = tl.load(series_ptr + i).to(z.dtype)
            act += _phi(scale * z + tl.load(series_ptr + ACT.terms + i).to(z.dtype), ACT=ACT)
    if ACT.gated:
        act *= clamped_up(up, ACT=ACT)
    return act


@triton.jit
def differentiate(z, series_ptr, ACT: tl.constexpr):
    """The function of the gate, clamped already, and its derivative."""
    if ACT.terms == 0:
        y, slope = _phi_and_slope(z, ACT=ACT)
    else:
        y = tl.zeros(z.shape, dtype=z.dtype)
        slope = tl.zeros(z.shape, dtype=z.dtype)
        TERMS: tl.constexpr = ACT.terms
        for i in tl.static_range(TERMS):
            scale = tl.load(series_ptr + i).to(z.dtype)
            shift = tl.load(series_ptr + ACT.terms + i).to(z.dtype)
            term, term_slope = _phi_and_slope(scale * z + shift, ACT=ACT)
            y += term
            slope += scale * term_slope
    return y, slope


@triton.jit
def store_series_sums(d_phi, z, series_ptr, sums_ptr, ACT: tl.constexpr):
    """Stores ``[2 * terms]``, the sums over a block that make the gradient of the series.

    ``d_phi`` is the gradient of the function of the gate, 0 outside the expert's rows and columns.
    """
    TERMS: tl.constexpr = ACT.terms  # Triton 3.6 takes no field of a tuple for a range
    for i in tl.static_range(TERMS):
        scale = tl.load(series_ptr + i).to(z.dtype)
        shift = tl.load(series_ptr + ACT.terms + i).to(z.dtype)
        _, slope = _phi_and_slope(scale * z + shift, ACT=ACT)
        tl.store(sums_ptr + i, tl.sum(tl.sum(d_phi * slope * z, 1), 0))
        tl.store(sums_ptr + ACT.terms + i, tl.sum(tl.sum(d_phi * slope, 1), 0))


@triton.jit
def _d_series_kernel(
    sums_ptr,  # [blocks, 2 * TERMS]
    d_series_ptr,  # [2, TERMS]
    blocks,
    TERMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program for each number, so that every run adds in the same order."""
    i = tl.program_id(0)
    acc = tl.zeros((BLOCK,), dtype=sums_ptr.dtype.element_ty)
    for first in range(0, blocks, BLOCK):
        offs = first + tl.arange(0, BLOCK).to(tl.int64)
        acc += tl.load(sums_ptr + offs * (2 * TERMS) + i, mask=offs < blocks, other=0.0)
    total = tl.sum(acc, 0)
    tl.store(d_series_ptr + i, narrow(total, d_series_ptr.dtype.element_ty))


def series_gradient(sums: Tensor, series: Tensor) -> Tensor:
    """``[blocks, 2 * n], [2, n] -> [2, n]``."""
    d_series = torch.empty(series.shape, dtype=series.dtype, device=series.device)
    _d_series_kernel[(series.numel(),)](
        sums_ptr=sums,
        d_series_ptr=d_series,
        blocks=sums.shape[0],
        TERMS=series.shape[1],
        BLOCK=BLOCK_SUMS,
    )
    return d_series
