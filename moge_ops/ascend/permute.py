"""Permutation in Ascend C."""

from torch import Tensor

from moge_ops import _C

from ._common import dtype_of, pointer, stream, whole_tokens


def permute_fwd(x: Tensor, row_to_slot: Tensor, slot_to_row: Tensor) -> Tensor:
    """``[T, H], [N], [T, K] -> [N, H]``."""
    dtype = dtype_of("x", x)
    N = row_to_slot.shape[0]
    if slot_to_row.numel() < N:
        whole_row_to_slot, slot_to_row, x = whole_tokens(row_to_slot, slot_to_row, x)
        rows = permute_fwd(x, whole_row_to_slot, slot_to_row)[:N]
        return rows.masked_fill_((row_to_slot < 0).unsqueeze(1), 0.0)
    T, H = x.shape
    x = x.contiguous()
    rows = x.new_empty(N, H)
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
