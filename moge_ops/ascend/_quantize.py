"""Rows as integers, and quantised weights as integers or as floats, in Ascend C."""

import torch
from torch import Tensor

from moge_ops import _C
from moge_ops._quantized import INTEGERS, unpack_int4

from ._common import dtype_of, pointer, stream

SERVED = (*INTEGERS, "int8_w8a16", "int4_w4a16")


def check_scheme(scheme: str) -> None:
    """Raises NotImplementedError for weights of floats, which the chip has no types for."""
    if scheme not in SERVED:
        raise NotImplementedError(
            f"the Ascend C kernels have no {scheme} weights: the vector and cube units of Atlas A2 "
            "know no floats of 8 or 4 bits. Quantise to integers, or multiply "
            "moge_ops.quant.dequantize(weight, x.dtype), which takes the memory of plain weights"
        )


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """``[N, I] -> int8 [N, I], float32 [N]``."""
    rows = rows.contiguous()
    N, I = rows.shape
    q, scale = rows.new_empty(N, I, dtype=torch.int8), rows.new_zeros(N, dtype=torch.float32)
    _C.quantize_rows(
        rows=pointer(rows),
        q=pointer(q),
        scale=pointer(scale),
        N=N,
        I=I,
        dtype=dtype_of("rows", rows),
        stream=stream(rows),
    )
    return q, scale


def quantize_planes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`quantize_rows`, as ``16 high + low + 8`` of four bits: ``int8 [N, 2, I / 2]``."""
    rows = rows.contiguous()
    N, I = rows.shape
    planes = rows.new_empty(N, 2, I // 2, dtype=torch.int8)
    scale = rows.new_zeros(N, dtype=torch.float32)
    _C.quantize_planes(
        rows=pointer(rows),
        planes=pointer(planes),
        scale=pointer(scale),
        N=N,
        I=I,
        dtype=dtype_of("rows", rows),
        stream=stream(rows),
    )
    return planes, scale


def permute_planes(x: Tensor, slot_to_row: Tensor) -> tuple[Tensor, Tensor]:
    """``[T, H], [T, K] -> int8 [N, 2, H / 2], float32 [N]``: rows as :func:`quantize_planes`'s.

    Rows that no slot has hold anything.
    """
    x, slot_to_row = x.contiguous(), slot_to_row.contiguous()
    (T, H), K = x.shape, slot_to_row.shape[1]
    planes = x.new_empty(T * K, 2, H // 2, dtype=torch.int8)
    row_scale = x.new_empty(T * K, dtype=torch.float32)
    _C.permute_planes(
        x=pointer(x),
        slot_to_row=pointer(slot_to_row),
        planes=pointer(planes),
        row_scale=pointer(row_scale),
        T=T,
        H=H,
        K=K,
        dtype=dtype_of("x", x),
        stream=stream(x),
    )
    return planes, row_scale


def integers(data: Tensor, scheme: str) -> Tensor:
    """The numbers of an int8_w8a8 or int4_w4a8 weight, int8 ``[E, O, I]``."""
    data = data.contiguous()
    if scheme != "int4_w4a8":
        return data
    E, O, packed = data.shape
    out = data.new_empty(E, O, 2 * packed)
    _C.unpack_int4(packed=pointer(data), data=pointer(out), bytes=data.numel(), stream=stream(data))
    return out


def row_scales(scale: Tensor, O: int) -> Tensor:
    """``[E, S, groups] -> float32 [E, O, groups]``: those of each row."""
    S = scale.shape[1]
    scale = scale.float()
    return (scale if S == O or not S else scale.repeat_interleave(O // S, 1)).contiguous()


def decode_weight(
    data: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    scheme: str,
    dtype: torch.dtype,
) -> Tensor:
    """The parts of a QuantizedWeight ``[E, O, I] -> [E, O, I]`` in ``dtype``."""
    if scheme == "int4_w4a16":
        numbers = unpack_int4(data)
        if zero is not None:
            of_rows = row_scales(zero, numbers.shape[1]).to(torch.int8)
            width = numbers.shape[2] // of_rows.shape[2]
            numbers = numbers - of_rows.repeat_interleave(width, 2)  # from -15 to 15
    else:
        numbers = integers(data, scheme)
    E, O, I = numbers.shape
    weight = torch.empty(E, O, I, dtype=dtype, device=data.device)
    factors = row_scales(scale, O)
    if not weight.numel():
        return weight
    # columns that share a scale are rows of their own
    N = factors.numel()
    _C.decode_weight(
        data=pointer(numbers),
        scale=pointer(factors),
        weight=pointer(weight),
        N=N,
        I=E * O * I // N,
        dtype=dtype_of("weight", weight),
        stream=stream(weight),
    )
    return weight
