"""What the launchers share: tensors as the extension takes them."""

from typing import NamedTuple

import torch
from torch import Tensor

from moge_ops import _cpu
from moge_ops._quantized import row_integers

DTYPES = {
    torch.float32: _cpu.DType.float32,
    torch.bfloat16: _cpu.DType.bfloat16,
    torch.float16: _cpu.DType.float16,
}
NONE = (0, 0, 0)  # a matrix that a kernel of several does not have
FORMATS = {
    "int8_w8a8": _cpu.Format.int8,
    "int8_w8a16": _cpu.Format.int8,
    "int4_w4a16": _cpu.Format.int4,
    "fp8_w8a16": _cpu.Format.fp8,
    "mxfp4_w4a16": _cpu.Format.fp4,
}
PLAIN = (0, 0, 0, _cpu.Format.int8, _cpu.DType.float32, 0, 1, 1, 1)  # a weight is not quantised
SCORES = {
    "softmax": _cpu.Score.softmax,
    "sigmoid": _cpu.Score.sigmoid,
    "sqrtsoftplus": _cpu.Score.sqrtsoftplus,
}


def adjacent(x: Tensor) -> Tensor:
    """``x``, copied unless the last dimension has stride 1."""
    return x if x.stride(-1) == 1 else x.contiguous()


def float32(x: Tensor) -> Tensor:
    """Weights and scales, contiguous in float32."""
    return x.contiguous() if x.dtype is torch.float32 else x.float().contiguous()


def matrix(x: Tensor) -> tuple[int, int, int]:
    """Address and strides of ``[rows, columns]`` or ``[E, rows, columns]``."""
    return x.data_ptr(), x.stride(-2), x.stride(0)


class Coded(NamedTuple):
    """A quantised weight, contiguous; to be kept as long as its address is used."""

    data: Tensor  # [E, O, stored I]
    scale: Tensor  # [E, S, groups]
    zero: Tensor | None
    scheme: str
    group_size: int | None

    @classmethod
    def of(
        cls, data: Tensor, scale: Tensor, zero: Tensor | None, scheme: str, group_size: int | None
    ) -> "Coded":
        if scheme == "int4_w4a8":
            # no kernel reads its bytes: they become int8 for the call, in the memory of one layer
            data, scheme = row_integers(data, scheme), "int8_w8a8"
        zero = zero if zero is None else zero.contiguous()
        return cls(data.contiguous(), scale.contiguous(), zero, scheme, group_size)

    def coding(self) -> tuple[int, int, int, _cpu.Format, _cpu.DType, int, int, int, int]:
        """As the extension takes it."""
        data, scale, zero, scheme, group_size = self
        _, S, groups = scale.shape
        row_bytes = data.shape[2] * data.element_size()
        return (
            data.data_ptr(),
            scale.data_ptr(),
            0 if zero is None else zero.data_ptr(),
            FORMATS[scheme],
            DTYPES.get(scale.dtype, _cpu.DType.float32),
            row_bytes,
            max(data.shape[1] // max(S, 1), 1),
            groups,
            group_size or max(2 * row_bytes, 1),
        )


def routing(
    row_to_slot: Tensor, slot_to_row: Tensor, offsets: Tensor
) -> tuple[int, int, int, int, int, int, int]:
    """Addresses and T, K, N, E."""
    return (
        row_to_slot.data_ptr(),
        slot_to_row.data_ptr(),
        offsets.data_ptr(),
        *slot_to_row.shape,
        row_to_slot.shape[0],
        offsets.shape[0] - 1,
    )
