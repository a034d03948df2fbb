"""Permutation in Ascend C."""

from torch import Tensor

from moge_ops import _C

from ._common import dtype_of, pointer, stream


def permute_fwd(x: Tensor, row_to_slot: Tensor, slot_to_row: Tensor) -> Tensor:
    """``[T, H], [N], [T, K] -> [N, H]``."""
    dtype = dtype_of("x", x)
    T, H = x.shape
    x = x.contiguous()
    rows = x.new_empty(row_to_slot.shape[0], H)
    _C.permute_fwd(
        x=pointer(x),
        row_to_slot=pointer(row_to_slot),
        slot_to_row=pointer(slot_to_row),
        rows=pointer(rows),
        T=T,
        H=H,
        K=slot_to_row.shape[1],
        dtype=dtype,
        stream=stream(x),
    )
    return rows
