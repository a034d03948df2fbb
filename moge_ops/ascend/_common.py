"""What several launchers share: a tensor's dtype, address and stream for the extension."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from moge_ops import _C

_DTYPES = {
    torch.float16: _C.DType.float16,
    torch.bfloat16: _C.DType.bfloat16,
    torch.float32: _C.DType.float32,
}
DTYPES = tuple(_DTYPES)


def dtype_of(name: str, x: Tensor) -> _C.DType:
    """The kernels' dtype of ``x``.

    Raises:
        TypeError: They have none for it.
    """
    if x.dtype not in _DTYPES:
        expected = " | ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
        got = str(x.dtype).removeprefix("torch.")
        raise TypeError(f"{name} must be {expected} for the Ascend C kernels, got {got}")
    return _DTYPES[x.dtype]


def pointer(x: Tensor | None) -> int:
    """Address of the first element; 0 for None and for an empty tensor."""
    return 0 if x is None else x.data_ptr()


def whole_tokens(
    row_to_slot: Tensor, slot_to_row: Tensor, *of_tokens: Tensor
) -> tuple[Tensor, ...]:
    """Padded rows as rows of more tokens, whose slots are all dropped.

    The kernels know no other number of rows than T * K. They zero those from the first -1 of
    ``row_to_slot`` on: the one returned leaves them none to zero.

    Returns:
        ``row_to_slot, slot_to_row, *of_tokens`` with ``ceil(N / K)`` tokens.
    """
    T, K = slot_to_row.shape
    more = -(-row_to_slot.shape[0] // K) - T
    return (
        row_to_slot.new_zeros((T + more) * K),
        pad(slot_to_row, (0, 0, 0, more), value=-1),
        *(pad(x, (0, 0, 0, more)) for x in of_tokens),
    )


def stream(x: Tensor) -> int:
    """The current stream of an NPU tensor's device; 0 on the CPU: the emulator has no streams."""
    if x.device.type == "cpu":
        return 0
    return int(torch.get_device_module(x.device).current_stream(x.device).npu_stream)
