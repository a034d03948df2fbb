"""What stands between the two products of an expert, and its derivatives."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Choice(NamedTuple):
    """As :class:`moge_ops.Activation`, and the series ``[2, n]`` or None."""

    name: str
    gated: bool
    interleaved: bool
    alpha: float
    limit: float | None
    shift: float
    series: Tensor | None


def _halves(pre: Tensor, of: Choice) -> tuple[Tensor, Tensor | None]:
    if not of.gated:
        return pre, None
    if of.interleaved:
        return pre[:, ::2], pre[:, 1::2]
    gate, up = pre.chunk(2, dim=-1)
    return gate, up


def _phi(z: Tensor, of: Choice) -> Tensor:
    if of.name == "silu":
        return F.silu(z) if of.alpha == 1.0 else z * torch.sigmoid(of.alpha * z)
    if of.name in ("gelu", "gelu_tanh"):
        return F.gelu(z, approximate="none" if of.name == "gelu" else "tanh")
    if of.name == "relu":
        return z.relu()
    if of.name == "relu2":
        return z.relu().square()
    raise ValueError(f"name must be silu, gelu, gelu_tanh, relu or relu2, got {of.name!r}")


def _phi_and_slope(z: Tensor, of: Choice) -> tuple[Tensor, Tensor]:
    """:func:`_phi` and its derivative."""
    if of.name == "silu":
        sig = (z if of.alpha == 1.0 else of.alpha * z).sigmoid()
        y = z * sig
        rest = y * (1.0 - sig)
        return y, sig.add_(rest if of.alpha == 1.0 else rest.mul_(of.alpha))
    if of.name == "gelu":
        density = torch.exp(-0.5 * z.square()) / math.sqrt(2.0 * math.pi)
        slope = 0.5 * (1.0 + torch.erf(z / math.sqrt(2.0))) + z * density
    elif of.name == "gelu_tanh":
        c = math.sqrt(2.0 / math.pi)
        tanh = torch.tanh(c * (z + 0.044715 * z.pow(3)))
        inner = c * (1.0 + 3 * 0.044715 * z.square())
        slope = 0.5 * (1.0 + tanh) + 0.5 * z * (1.0 - tanh.square()) * inner
    else:
        slope = (~(z <= 0.0)).to(z.dtype) if of.name == "relu" else 2.0 * z.relu()
    return _phi(z, of), slope


def _terms(z: Tensor, of: Choice) -> list[tuple[float, Tensor]]:
    """Scale and argument of each term of the function."""
    if of.series is None:
        return [(1.0, z)]
    scales, shifts = of.series.to(z.dtype).tolist()
    return [(a, a * z + b) for a, b in zip(scales, shifts, strict=True)]


def _sum(terms: list[tuple[float, Tensor]]) -> Tensor:
    (s, total), *rest = terms
    total = total if s == 1.0 else total * s
    for s, term in rest:
        total = total + term * s
    return total


def activation_fwd(pre: Tensor, of: Choice) -> Tensor:
    """``[n, 2F] -> [n, F]``, or ``[n, F] -> [n, F]``, in float32 or wider."""
    wide = pre.to(torch.promote_types(pre.dtype, torch.float32))
    z, up = _halves(wide, of)
    if of.limit is not None:
        z = z.clamp(max=of.limit)
        up = None if up is None else up.clamp(-of.limit, of.limit)
    act = _sum([(1.0, _phi(term, of)) for _, term in _terms(z, of)])
    if up is None:
        return act
    return act * up if of.shift == 0.0 else act * (up + of.shift)


def activation_bwd(
    g: Tensor, pre: Tensor, row_weights: Tensor, of: Choice
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """``g [n, F], pre [n, 2F], [n, 1] -> d_pre [n, 2F], act [n, F], d_weights [n], d_series``.

    g is the gradient of act but for the rows' weights. It may be overwritten.
    """
    gate, up = _halves(pre.to(g.dtype), of)
    z, u = gate, up
    if of.limit is not None:
        z = gate.clamp(max=of.limit)
        u = None if up is None else up.clamp(-of.limit, of.limit)
    if u is not None and of.shift != 0.0:
        u = u + of.shift
    found = [(s, *_phi_and_slope(term, of)) for s, term in _terms(z, of)]
    phi = _sum([(1.0, value) for _, value, _ in found])
    act = phi if u is None else phi * u
    d_weights = (g * act).sum(-1)
    g = g.mul_(row_weights)
    slope = _sum([(s, slope) for s, _, slope in found])
    d_gate = (slope if u is None else slope * u) * g
    d_series = None
    if of.series is not None:
        d_phi = g if u is None else g * u
        inner = [d_phi * slope for _, _, slope in found]
        of_scales, of_shifts = [(d * z).sum() for d in inner], [d.sum() for d in inner]
        d_series = torch.stack([torch.stack(of_scales), torch.stack(of_shifts)])
    d_up = g * phi
    if of.limit is not None:
        d_gate = d_gate.masked_fill(~(gate <= of.limit), 0.0)
        d_up = d_up if up is None else d_up.masked_fill(~(up.abs() <= of.limit), 0.0)
    if up is None:
        return d_gate.to(pre.dtype), act, d_weights, d_series
    d_pre = torch.empty_like(pre)
    of_gate, of_up = _halves(d_pre, of)
    of_gate.copy_(d_gate)
    assert of_up is not None
    of_up.copy_(d_up)
    return d_pre, act, d_weights, d_series
