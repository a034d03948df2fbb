"""Quantised weights of experts: how each scheme stores numbers, and what it makes of them.

Plain torch, for any device: the oracle of every kernel that decodes these formats, and the torch
backend itself. The public names are in :mod:`moge_ops.quant`.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moge_ops import _checks

__all__ = [
    "FP4",
    "INTEGERS",
    "MOST_INT8_COLUMNS",
    "SCHEMES",
    "STORED",
    "QuantizedWeight",
    "check",
    "check_values",
    "decode",
    "dequantize",
    "fake_quantize_rows",
    "int8_product",
    "pack_int4",
    "pack_nibbles",
    "quantize_rows",
    "row_integers",
    "sizes",
    "unpack_int4",
    "unpack_nibbles",
]


class Scheme(NamedTuple):
    """How one scheme stores weights."""

    dtype: torch.dtype  # of the stored data
    values: int  # in one element of it
    # columns that share a scale: those that quantize and the kernels know; None is a whole row
    group_sizes: tuple[int | None, ...]
    scale_dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float16)


STORED = {
    "int8_w8a8": Scheme(torch.int8, 1, (None,)),
    "int4_w4a8": Scheme(torch.int8, 2, (None,)),
    "int8_w8a16": Scheme(torch.int8, 1, (None, 32, 64, 128)),
    "int4_w4a16": Scheme(torch.int32, 8, (128, 32, 64, None)),
    "fp8_w8a16": Scheme(torch.float8_e4m3fn, 1, (None, 128)),
    "mxfp4_w4a16": Scheme(torch.uint8, 2, (32,), (torch.uint8,)),
}
SCHEMES = tuple(STORED)
"""wXaY: bits of weights and of activations. Those of a8 multiply integers; the others decode."""
INTEGERS = ("int8_w8a8", "int4_w4a8")  # rows become int8, too, and products are exact

# the numbers of e2m1, by their code without the sign
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# a sum of this many products of bytes stays below 2^31: 2^17 * 128 * 127
MOST_INT8_COLUMNS = 2**17
_EXACT_COLUMNS = 1024  # columns whose products float32 sums exactly: 1024 * 128 * 128 is 2^24


class QuantizedWeight(NamedTuple):
    """The stacked weights ``[E, O, I]`` of E experts, quantised; a pytree, and immutable.

    An element is ``(data - zero) * scale``, in float32. Quantised weights are frozen: gradients
    flow to the rows and to the routing weights only. Operators look at shapes and dtypes of the
    parts and read no value; loaders and :class:`moge_ops.nn.FrozenWeight` also refuse scales that
    are 0 or not finite.

    Attributes:
        data: By scheme, contiguous.

            ============= ============== ==========================================================
            int8_w8a8     int8           ``[E, O, I]``
            int4_w4a8     int8           ``[E, O, I/2]``: two numbers, from -8 to 7, in two's
                                         complement, the first in the lower half
            int8_w8a16    int8           ``[E, O, I]``
            int4_w4a16    int32          ``[E, O, I/8]``: eight numbers, from -8 to 7, each stored
                                         with 8 added, the first in the lowest four bits
            fp8_w8a16     float8_e4m3fn  ``[E, O, I]``
            mxfp4_w4a16   uint8          ``[E, O, I/2]``: two e2m1, the first in the lower half
            ============= ============== ==========================================================

        scale: ``[E, S, ceil(I / group_size)]``: each is of ``O / S`` rows and ``group_size``
            columns. float32 | bfloat16 | float16; for mxfp4_w4a16 uint8, the exponent of two plus
            127 (e8m0).
        zero: int8 in [-8, 7] in the shape of ``scale``, with int4_w4a16; None for symmetric ones.
        scheme: One of :data:`SCHEMES`.
        group_size: Columns that share a scale; None for all of a row.

    Source:
        The layouts of compressed-tensors (int-quantized, pack-quantized, float-quantized,
        mxfp4-pack-quantized); OCP Microscaling Formats 1.0, section 5.
    """

    data: Tensor
    scale: Tensor
    zero: Tensor | None
    scheme: str
    group_size: int | None

    @property
    def shape(self) -> torch.Size:
        """``[E, O, I]``, of the weight and not of what stores it."""
        return torch.Size(sizes(self))

    @property
    def device(self) -> torch.device:
        """Where all of it lies."""
        return self.data.device

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return sum(x.nbytes for x in (self.data, self.scale, self.zero) if x is not None)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "QuantizedWeight":
        """The same on another device; nothing is converted."""
        data, scale = (x.to(device, non_blocking=non_blocking) for x in (self.data, self.scale))
        zero = self.zero if self.zero is None else self.zero.to(device, non_blocking=non_blocking)
        return self._replace(data=data, scale=scale, zero=zero)


def sizes(weight: QuantizedWeight) -> tuple[int, int, int]:
    """``(E, O, I)``, for the operators: Dynamo of torch 2.10 knows no property of a named tuple."""
    E, O, stored = weight.data.shape
    return E, O, stored * STORED[weight.scheme].values


def check(name: str, weight: QuantizedWeight) -> None:
    """Checks types, shapes and devices, without a look at the values.

    Raises:
        TypeError: A dtype is not that of the scheme.
        ValueError: An unknown scheme or group size, or shapes or devices that do not fit.
    """
    data, scale, zero, scheme, group_size = weight
    _checks.choice(f"{name}.scheme", scheme, SCHEMES)
    spec = STORED[scheme]
    group_sizes(name, scheme, group_size)
    _checks.tensor(f"{name}.data", data, "[E, O, I]")
    if data.dtype != spec.dtype:
        raise TypeError(f"{name}.data must be {spec.dtype} for {scheme}, got {data.dtype}")
    if data.ndim != 3:
        raise ValueError(f"{name}.data must be [E, O, stored I], got {list(data.shape)}")
    if not data.is_contiguous():
        raise ValueError(f"{name}.data must be contiguous, got strides {list(data.stride())}")
    E, O, I = sizes(weight)
    groups = math.ceil(I / (group_size or max(I, 1)))
    if group_size and scheme != "fp8_w8a16" and I % group_size:
        raise ValueError(f"{name}: group_size={group_size} must divide the I={I} columns")
    if scheme in INTEGERS and I > MOST_INT8_COLUMNS:
        raise ValueError(f"{name}: {scheme} sums at most {MOST_INT8_COLUMNS} columns, got {I}")
    _checks.tensor(f"{name}.scale", scale, "[E, S, groups]")
    if scale.dtype not in spec.scale_dtypes:
        kinds = " | ".join(map(str, spec.scale_dtypes))
        raise TypeError(f"{name}.scale must be {kinds} for {scheme}, got {scale.dtype}")
    fits = scale.ndim == 3 and scale.shape[0] == E and scale.shape[2] == groups
    if not fits or (O and (not scale.shape[1] or O % scale.shape[1])):
        raise ValueError(
            f"{name}.scale must be [E={E}, a divisor of O={O}, {groups} groups of {I} columns], "
            f"got {list(scale.shape)}"
        )
    if zero is not None:
        if scheme != "int4_w4a16":
            raise ValueError(f"{name}.zero must be None for {scheme}, got a Tensor")
        _checks.shape(f"{name}.zero", zero, "the shape of scale", tuple(scale.shape))
        if zero.dtype != torch.int8:
            raise TypeError(f"{name}.zero must be int8, got {zero.dtype}")
    for part, x in (("scale", scale), ("zero", zero)):
        if x is not None and x.device != data.device:
            raise ValueError(f"{name}.{part} must be on {data.device}, got {x.device}")


def check_values(name: str, weight: QuantizedWeight) -> None:
    """Checks what :func:`check` does, and the scales and zero points; reads them all.

    Raises:
        TypeError: As :func:`check`.
        ValueError: As :func:`check`; or a scale is NaN, infinite or zero, or a zero point is not
            in [-8, 7].
    """
    check(name, weight)
    scale, zero = weight.scale, weight.zero
    bad = scale == 255 if scale.dtype == torch.uint8 else ~scale.isfinite() | (scale == 0)
    if bad.any():
        place = bad.nonzero()[0].tolist()
        raise ValueError(
            f"{name}.scale must be finite and not 0, got {scale[tuple(place)]} at {place}"
        )
    if zero is not None and zero.numel() and not (zero.min() >= -8 and zero.max() <= 7):
        raise ValueError(
            f"{name}.zero must be in [-8, 7], got {zero.min().item()} to {zero.max().item()}"
        )


def group_sizes(name: str, scheme: str, group_size: Any) -> None:
    """Raises ValueError unless the scheme knows the group size."""
    allowed = STORED[scheme].group_sizes
    if group_size not in allowed:
        raise ValueError(
            f"{name}: group_size must be one of {allowed} for {scheme}, got {group_size}"
        )


def unpack_int4(packed: Tensor) -> Tensor:
    """int32 ``[..., n]`` to int8 ``[..., 8 n]`` in [-8, 7]: the first in the lowest bits."""
    shifts = torch.arange(0, 32, 4, device=packed.device, dtype=torch.int32)
    return ((packed.unsqueeze(-1) >> shifts & 15) - 8).to(torch.int8).flatten(-2)


def pack_int4(values: Tensor) -> Tensor:
    """int8 ``[..., 8 n]`` in [-8, 7] to int32 ``[..., n]``: inverse of :func:`unpack_int4`."""
    codes = torch.unflatten(values.to(torch.int32) + 8, -1, (-1, 8))
    packed = torch.zeros(codes.shape[:-1], dtype=torch.int32, device=values.device)
    for i in range(8):
        packed |= codes[..., i] << (4 * i)
    return packed


def unpack_nibbles(packed: Tensor) -> Tensor:
    """int8 ``[..., n]`` to int8 ``[..., 2 n]`` in [-8, 7]: the first in the lower half."""
    return torch.stack(((packed & 15 ^ 8) - 8, packed >> 4), dim=-1).flatten(-2)


def pack_nibbles(values: Tensor) -> Tensor:
    """int8 ``[..., 2 n]`` in [-8, 7] to int8 ``[..., n]``: inverse of :func:`unpack_nibbles`."""
    return values[..., ::2] & 15 | values[..., 1::2] << 4


def row_integers(data: Tensor, scheme: str) -> Tensor:
    """What a scheme of :data:`INTEGERS` multiplies: int8 ``[..., O, I]``."""
    return unpack_nibbles(data) if scheme == "int4_w4a8" else data


def _unpack_fp4(packed: Tensor) -> Tensor:
    """uint8 ``[..., n]`` to float32 ``[..., 2 n]``."""
    numbers = torch.tensor([*FP4, *(-x for x in FP4)], dtype=torch.float32, device=packed.device)
    codes = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)
    return numbers[codes.int()]


def decode(
    data: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    scheme: str,
    group_size: int | None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """``[..., O, stored I], [..., S, groups] -> [..., O, I]`` in ``dtype``.

    An element is a product in float32, rounded once more to ``dtype``. Every kernel gives the same
    bits.
    """
    if scheme == "int4_w4a16":
        numbers = unpack_int4(data)
    elif scheme == "mxfp4_w4a16":
        numbers = _unpack_fp4(data)
        scale = torch.ldexp(torch.ones_like(scale, dtype=torch.float32), scale.int() - 127)
    else:
        numbers = row_integers(data, scheme)
    O, I = numbers.shape[-2:]

    def spread(x: Tensor) -> Tensor:
        """Of each element."""
        rows = O // x.shape[-2] if x.shape[-2] else 1
        x = x.repeat_interleave(rows, dim=-2)  # [..., O, groups]
        return x if group_size is None else x.repeat_interleave(group_size, dim=-1)[..., :I]

    wide = numbers.float()
    if zero is not None:
        wide -= spread(zero)
    return wide.mul_(spread(scale.float())).to(dtype)


def dequantize(weight: QuantizedWeight, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight ``[E, O, I]`` that a quantised one stands for.

    Args:
        weight: From :func:`moge_ops.quant.quantize` or a loader.
        dtype: float32 | float64 | bfloat16 | float16. An element is ``(data - zero) * scale`` in
            float32, then rounded to ``dtype``: what every kernel multiplies, bit for bit.

    Raises:
        TypeError: ``dtype`` is not one of these, or a part has another dtype than its scheme's.
        ValueError: Shapes, scheme or group size do not fit.
    """
    check("weight", weight)
    if dtype not in _checks.FLOATS:
        raise TypeError(f"dtype must be a float of 16 bits or more, got {dtype}")
    out = torch.empty(sizes(weight), dtype=dtype, device=weight.data.device)
    for e in range(len(out)):  # one at a time: a temporary of all would be larger than the result
        zero = None if weight.zero is None else weight.zero[e]
        out[e] = decode(
            weight.data[e], weight.scale[e], zero, weight.scheme, weight.group_size, dtype
        )
    return out


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of an activation as integers: int8 ``[N, I]``, float32 ``[N, 1]``.

    With m the largest size in a row, an element is ``rint(x * (127 / m))`` and the scale m / 127,
    in float32, whichever the backend. A row with a number that is not finite has a NaN for its
    scale, one below 2^-100 is zero.
    """
    wide = rows.float()
    most = wide.abs().amax(-1, keepdim=True) if rows.shape[-1] else wide.new_zeros(len(rows), 1)
    finite, large = most.isfinite(), most >= 2.0**-100
    # by a tensor: torch divides a number, or on a GPU by one, through a reciprocal, rounding twice
    full = torch.full_like(most, 127.0)
    factor = torch.where(finite & large, full / most, 0.0)
    q = (wide * factor).round().nan_to_num(0.0).to(torch.int8)
    scale = torch.where(large, most / full, 0.0)
    return q, torch.where(finite, scale, torch.nan)


def fake_quantize_rows(rows: Tensor) -> Tensor:
    """What the integers of :func:`quantize_rows` stand for; its gradient is the identity's."""
    q, scale = quantize_rows(rows.detach())
    kept = q.to(rows.dtype) * scale.to(rows.dtype)
    return rows + (kept - rows).detach() if rows.requires_grad else kept


def int8_product(left: Tensor, right: Tensor) -> Tensor:
    """``int8 [n, I] @ int8 [O, I].T -> int32 [n, O]``, exact on every device."""
    out = torch.zeros(left.shape[0], right.shape[0], dtype=torch.int32, device=left.device)
    for a, b in zip(*(torch.split(x, _EXACT_COLUMNS, 1) for x in (left, right)), strict=True):
        out += (a.float() @ b.float().T).to(torch.int32)
    return out
