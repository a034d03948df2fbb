"""Weighted sum of each token's rows in Ascend C; floats of rows or slots in the other order."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from moge_ops import _C

from ._common import dtype_of, pointer, stream, whole_tokens


def unpermute_fwd(
    rows: Tensor, row_to_slot: Tensor, slot_to_row: Tensor, weights: Tensor | None
) -> Tensor:
    """``[N, H], [N], [T, K], [T, K] -> [T, H]``."""
    dtype = dtype_of("rows", rows)
    (T, K), (N, H) = slot_to_row.shape, rows.shape
    if not rows.numel():
        return rows.new_zeros(T, H)
    if N > T * K:
        if weights is None:
            row_to_slot, slot_to_row = whole_tokens(row_to_slot, slot_to_row)
        else:
            row_to_slot, slot_to_row, weights = whole_tokens(row_to_slot, slot_to_row, weights)
        rows = pad(rows, (0, 0, 0, row_to_slot.shape[0] - N))
        return unpermute_fwd(rows, row_to_slot, slot_to_row, weights)[:T]
    rows = rows.contiguous()
    weights = None if weights is None else weights.float().contiguous()
    y = rows.new_empty(T, H)
    _C.unpermute_fwd(
        rows=pointer(rows),
        slot_to_row=pointer(slot_to_row),
        weights=pointer(weights),
        y=pointer(y),
        T=T,
        H=H,
        K=K,
        dtype=dtype,
        stream=stream(rows),
    )
    return y


def unpermute_bwd(
    d_y: Tensor, rows: Tensor, row_to_slot: Tensor, slot_to_row: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """``[T, H], [N, H], [N], [T, K], [T, K] -> [N, H], [T, K]``."""
    dtype = dtype_of("rows", rows)
    (T, K), (N, H) = slot_to_row.shape, rows.shape
    if N > T * K:
        whole = whole_tokens(row_to_slot, slot_to_row, d_y, weights)
        whole_row_to_slot, slot_to_row, d_y, weights = whole
        rows = pad(rows, (0, 0, 0, whole_row_to_slot.shape[0] - N))
        d_rows, d_weights = unpermute_bwd(d_y, rows, whole_row_to_slot, slot_to_row, weights)
        return d_rows[:N].masked_fill_((row_to_slot < 0).unsqueeze(1), 0.0), d_weights[:T]
    if not rows.numel():
        return torch.empty_like(rows), weights.new_zeros(weights.shape)
    d_y, rows = d_y.contiguous(), rows.contiguous()
    float_weights = weights.float().contiguous()
    d_rows, d_weights = torch.empty_like(rows), torch.empty_like(float_weights)
    _C.unpermute_bwd(
        d_y=pointer(d_y),
        rows=pointer(rows),
        row_to_slot=pointer(row_to_slot),
        slot_to_row=pointer(slot_to_row),
        weights=pointer(float_weights),
        d_rows=pointer(d_rows),
        d_weights=pointer(d_weights),
        T=T,
        H=H,
        K=K,
        dtype=dtype,
        stream=stream(rows),
    )
    return d_rows, d_weights.to(weights.dtype)


def take_scalars(scalars: Tensor, index: Tensor) -> Tensor:
    """``scalars`` of any shape, taken as one list, in the shape of ``index`` and in float32.

    Where the index is -1 the result is 0.
    """
    scalars, index = scalars.float().contiguous(), index.contiguous()
    results = torch.empty(index.shape, dtype=torch.float32, device=index.device)
    _C.take_scalars(
        scalars=pointer(scalars),
        index=pointer(index),
        results=pointer(results),
        size=scalars.numel(),
        count=index.numel(),
        stream=stream(index),
    )
    return results
