"""Permutation kernel: every token is read once and written to all of its rows."""

import triton
import triton.language as tl
from torch import Tensor

BLOCK_K = 8
BLOCK_H = 1024  # 16 bytes for each thread in 16-bit types


@triton.jit
def _permute_fwd_kernel(
    x_ptr,  # [T, H]
    row_to_slot_ptr,  # [N]
    slot_to_row_ptr,  # [T, K]
    rows_ptr,  # [N, H]
    stride_x_t,
    stride_x_h,
    H,
    K,
    BLOCK_K: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    pid_t = tl.program_id(0).to(tl.int64)
    offs_h = tl.program_id(1).to(tl.int64) * BLOCK_H + tl.arange(0, BLOCK_H)
    mask_h = offs_h < H

    x = tl.load(x_ptr + pid_t * stride_x_t + offs_h * stride_x_h, mask=mask_h, other=0.0)
    for first in range(0, K, BLOCK_K):
        offs_k = first + tl.arange(0, BLOCK_K).to(tl.int64)
        mask_k = offs_k < K
        own = pid_t * K + offs_k  # the token's slots, and as many rows
        row = tl.load(slot_to_row_ptr + own, mask=mask_k, other=-1).to(tl.int64)  # [BLOCK_K]
        ptrs = rows_ptr + row[:, None] * H + offs_h[None, :]  # [BLOCK_K, BLOCK_H]
        tl.store(ptrs, x[None, :], mask=(row >= 0)[:, None] & mask_h[None, :])

        # of the first T * K rows, each token also zeroes those of its K that no slot has
        slot = tl.load(row_to_slot_ptr + own, mask=mask_k, other=0)
        ptrs = rows_ptr + own[:, None] * H + offs_h[None, :]
        tl.store(ptrs, 0.0, mask=(slot < 0)[:, None] & mask_h[None, :])


def permute_fwd(x: Tensor, row_to_slot: Tensor, slot_to_row: Tensor) -> Tensor:
    """``[T, H], [N], [T, K] -> [N, H]``."""
    T, K = slot_to_row.shape
    H = x.shape[1]
    N = row_to_slot.shape[0]
    # padded rows are more than the kernel zeroes
    rows = x.new_zeros(N, H) if N > T * K else x.new_empty(N, H)
    if rows.numel():
        block_h = min(BLOCK_H, triton.next_power_of_2(H))
        _permute_fwd_kernel[(T, triton.cdiv(H, block_h))](
            x,
            row_to_slot,
            slot_to_row,
            rows,
            *x.stride(),
            H,
            K,
            BLOCK_K=min(BLOCK_K, triton.next_power_of_2(K)),
            BLOCK_H=block_h,
        )
    return rows
