"""What the launchers share: tensors as the extension takes them."""

import torch
from torch import Tensor

from moge_ops import _cpu

DTYPES = {
    torch.float32: _cpu.DType.float32,
    torch.bfloat16: _cpu.DType.bfloat16,
    torch.float16: _cpu.DType.float16,
}
NONE = (0, 0, 0)  # a matrix that a kernel of several does not have
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
