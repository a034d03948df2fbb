"""What stands between the two products of an expert, as its formula."""

import math

import torch
from torch import Tensor


def _phi(z: Tensor, name: str, alpha: float) -> Tensor:
    if name == "silu":
        return z * torch.sigmoid(alpha * z)
    if name == "gelu":
        return z * 0.5 * (1.0 + torch.erf(z / math.sqrt(2.0)))
    if name == "gelu_tanh":
        inner = math.sqrt(2.0 / math.pi) * (z + 0.044715 * z.pow(3))
        return 0.5 * z * (1.0 + torch.tanh(inner))
    if name == "relu":
        return torch.relu(z)
    if name == "relu2":
        return torch.relu(z).square()
    raise ValueError(f"name must be silu, gelu, gelu_tanh, relu or relu2, got {name!r}")


def activate(
    pre: Tensor,
    name: str = "silu",
    gated: bool = True,
    interleaved: bool = False,
    alpha: float = 1.0,
    limit: float | None = None,
    shift: float = 0.0,
    series: Tensor | None = None,
) -> Tensor:
    """``[N, 2F] -> [N, F]``, or ``[N, F] -> [N, F]`` without a gate, in float32 or wider.

    ``series [2, n]`` has the scales and the shifts of n terms.
    """
    z = pre.to(torch.promote_types(pre.dtype, torch.float32))
    up = None
    if gated:
        z, up = (z[:, ::2], z[:, 1::2]) if interleaved else z.chunk(2, dim=-1)
    if limit is not None:
        z = z.clamp(max=limit)
        up = None if up is None else up.clamp(-limit, limit)
    if series is None:
        act = _phi(z, name, alpha)
    else:
        scales, shifts = series.to(z.dtype)
        terms = [_phi(a * z + b, name, alpha) for a, b in zip(scales, shifts, strict=True)]
        act = torch.stack(terms).sum(0)
    return (act if up is None else act * (up + shift)).to(pre.dtype)
