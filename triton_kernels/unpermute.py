"""Unpermutation kernels: a token's program gathers its rows, so that no sum needs an atomic."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import acc_dtype, narrow

BLOCK_K = 8
BLOCK_H = 1024  # 16 bytes for each thread in 16-bit types
BLOCK_H_BWD = 512  # half: two tiles [BLOCK_K, BLOCK_H] are in registers


@triton.jit
def _unpermute_fwd_kernel(
    rows_ptr,  # [N, H]
    slot_to_row_ptr,  # [T, K]
    weights_ptr,  # [T, K], if HAS_WEIGHTS
    y_ptr,  # [T, H]
    stride_rows_n,
    stride_rows_h,
    stride_weights_t,
    stride_weights_k,
    H,
    K,
    HAS_WEIGHTS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    pid_t = tl.program_id(0).to(tl.int64)
    offs_h = tl.program_id(1).to(tl.int64) * BLOCK_H + tl.arange(0, BLOCK_H)
    mask_h = offs_h < H

    y = tl.zeros([BLOCK_H], ACC)
    for first in range(0, K, BLOCK_K):
        offs_k = first + tl.arange(0, BLOCK_K).to(tl.int64)
        slot = pid_t * K + offs_k
        row = tl.load(slot_to_row_ptr + slot, mask=offs_k < K, other=-1).to(tl.int64)  # [BLOCK_K]
        kept = row >= 0
        ptrs = rows_ptr + row[:, None] * stride_rows_n + offs_h[None, :] * stride_rows_h
        rows = tl.load(ptrs, mask=kept[:, None] & mask_h[None, :], other=0.0).to(ACC)
        if HAS_WEIGHTS:
            w_ptrs = weights_ptr + pid_t * stride_weights_t + offs_k * stride_weights_k
            rows *= tl.load(w_ptrs, mask=kept, other=0.0).to(ACC)[:, None]
        y += tl.sum(rows, 0)
    tl.store(y_ptr + pid_t * H + offs_h, narrow(y, y_ptr.dtype.element_ty), mask=mask_h)


@triton.jit
def _unpermute_bwd_kernel(
    d_y_ptr,  # [T, H]
    rows_ptr,  # [N, H]
    row_to_slot_ptr,  # [N]
    slot_to_row_ptr,  # [T, K]
    weights_ptr,  # [T, K]
    d_rows_ptr,  # [N, H]
    d_weights_ptr,  # [T, K]
    stride_d_y_t,
    stride_d_y_h,
    stride_rows_n,
    stride_rows_h,
    stride_weights_t,
    stride_weights_k,
    H,
    K,
    ACC: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    pid_t = tl.program_id(0).to(tl.int64)
    for first in range(0, K, BLOCK_K):
        offs_k = first + tl.arange(0, BLOCK_K).to(tl.int64)
        mask_k = offs_k < K
        own = pid_t * K + offs_k  # the token's slots, and as many rows
        row = tl.load(slot_to_row_ptr + own, mask=mask_k, other=-1).to(tl.int64)  # [BLOCK_K]
        kept = row >= 0
        w_ptrs = weights_ptr + pid_t * stride_weights_t + offs_k * stride_weights_k
        w = tl.load(w_ptrs, mask=kept, other=0.0).to(ACC)  # [BLOCK_K]
        # of the first T * K rows, each token also zeroes those of its K that no slot has
        slot = tl.load(row_to_slot_ptr + own, mask=mask_k, other=0)

        dots = tl.zeros([BLOCK_K, BLOCK_H], ACC)
        for start in range(0, H, BLOCK_H):
            offs_h = start + tl.arange(0, BLOCK_H).to(tl.int64)
            mask_h = offs_h < H
            mask = kept[:, None] & mask_h[None, :]
            d_y_ptrs = d_y_ptr + pid_t * stride_d_y_t + offs_h * stride_d_y_h
            d_y = tl.load(d_y_ptrs, mask=mask_h, other=0.0).to(ACC)  # [BLOCK_H]
            ptrs = rows_ptr + row[:, None] * stride_rows_n + offs_h[None, :] * stride_rows_h
            dots += tl.load(ptrs, mask=mask, other=0.0).to(ACC) * d_y[None, :]

            dtype = d_rows_ptr.dtype.element_ty
            ptrs = d_rows_ptr + row[:, None] * H + offs_h[None, :]
            tl.store(ptrs, narrow(w[:, None] * d_y[None, :], dtype), mask=mask)
            ptrs = d_rows_ptr + own[:, None] * H + offs_h[None, :]
            tl.store(ptrs, 0.0, mask=(slot < 0)[:, None] & mask_h[None, :])

        # a dropped slot has gradient zero, but its sum is NaN if d_y is infinite
        d_w = narrow(tl.where(kept, tl.sum(dots, 1), 0.0), d_weights_ptr.dtype.element_ty)
        tl.store(d_weights_ptr + own, d_w, mask=mask_k)


def unpermute_fwd(
    rows: Tensor, row_to_slot: Tensor, slot_to_row: Tensor, weights: Tensor | None
) -> Tensor:
    """``[N, H], [N], [T, K], [T, K] -> [T, H]``."""
    T, K = slot_to_row.shape
    H = rows.shape[1]
    if not rows.numel():
        return rows.new_zeros(T, H)
    y = rows.new_empty(T, H)
    block_h = min(BLOCK_H, triton.next_power_of_2(H))
    _unpermute_fwd_kernel[(T, triton.cdiv(H, block_h))](
        rows,
        slot_to_row,
        weights,
        y,
        *rows.stride(),
        *((0, 0) if weights is None else weights.stride()),
        H,
        K,
        HAS_WEIGHTS=weights is not None,
        ACC=acc_dtype(rows.dtype),
        BLOCK_K=min(BLOCK_K, triton.next_power_of_2(K)),
        BLOCK_H=block_h,
    )
    return y


def unpermute_bwd(
    d_y: Tensor, rows: Tensor, row_to_slot: Tensor, slot_to_row: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """``[T, H], [N, H], [N], [T, K], [T, K] -> [N, H], [T, K]``."""
    T, K = slot_to_row.shape
    H = rows.shape[1]
    # padded rows are more than the kernel zeroes
    empty = torch.zeros if rows.shape[0] > T * K else torch.empty
    d_rows = empty(rows.shape, dtype=rows.dtype, device=rows.device)
    d_weights = torch.empty(weights.shape, dtype=weights.dtype, device=weights.device)
    if T * K:
        _unpermute_bwd_kernel[(T,)](
            d_y,
            rows,
            row_to_slot,
            slot_to_row,
            weights,
            d_rows,
            d_weights,
            *d_y.stride(),
            *rows.stride(),
            *weights.stride(),
            H,
            K,
            ACC=acc_dtype(rows.dtype),
            BLOCK_K=min(BLOCK_K, triton.next_power_of_2(K)),
            BLOCK_H=min(BLOCK_H_BWD, triton.next_power_of_2(max(1, H))),
        )
    return d_rows, d_weights
