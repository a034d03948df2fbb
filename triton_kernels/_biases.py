"""Biases of the expert layer: added in an epilogue, and their part in the gradients.

Every sum has one program and one order, so that each run gives the same bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import INTERPRETED, acc_dtype, narrow
from ._product import contiguous_rows
from ._tiles import count_tiles, expert_rows, locate_tile

# rows and columns of a step, 4 warps; chosen, not measured
BLOCK_M, BLOCK_C = (16, 32) if INTERPRETED else (32, 64)


@triton.jit
def add_bias(acc, bias_ptr, weight, tile, O, HALF: tl.constexpr, BLOCK_C: tl.constexpr):
    """``[BLOCK_M, COLUMNS]`` plus the ``bias [E, O]`` of its expert.

    The block has BLOCK_C columns of each half of the weight, or those of one, which is HALF.
    """
    column = tl.arange(0, acc.shape[1])
    offs_c = tile.column * BLOCK_C + column % BLOCK_C
    mask = offs_c < weight.C
    offs_c += (HALF + column // BLOCK_C) * weight.C
    bias = tl.load(bias_ptr + tile.expert.to(tl.int64) * O + offs_c, mask=mask, other=0.0)
    return acc + bias.to(acc.dtype)[None, :]


@triton.jit
def _bias_gradient_kernel(
    d_ptr,  # [N, C], or with slots [T, C]
    row_to_slot_ptr,  # [N], or None
    weights_ptr,  # [T, K], factors of the rows; None without slots
    offsets_ptr,  # [E + 1]
    d_bias_ptr,  # [E, C]
    stride_d_n,
    N,
    C,
    E,
    K,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    expert = tl.program_id(0)
    offs_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    first_row, end_row = expert_rows(offsets_ptr, expert, N, E)
    acc = tl.zeros((BLOCK_M, BLOCK_C), dtype=ACC)
    for n in range(first_row, end_row, BLOCK_M):
        offs_n = n + tl.arange(0, BLOCK_M)
        mask_n = offs_n < end_row
        if row_to_slot_ptr is None:
            row = offs_n
        else:
            slot = tl.load(row_to_slot_ptr + offs_n, mask=mask_n, other=0)
            row = slot // K
        ptrs = d_ptr + (row.to(tl.int64) * stride_d_n)[:, None] + offs_c[None, :]
        d = tl.load(ptrs, mask=mask_n[:, None] & (offs_c < C)[None, :], other=0.0).to(ACC)
        if row_to_slot_ptr is not None:
            d *= tl.load(weights_ptr + slot, mask=mask_n, other=0.0).to(ACC)[:, None]
        acc += d
    ptrs = d_bias_ptr + expert.to(tl.int64) * C + offs_c
    tl.store(ptrs, narrow(tl.sum(acc, 0), d_bias_ptr.dtype.element_ty), mask=offs_c < C)


def bias_gradient(
    d: Tensor,
    offsets: Tensor,
    row_to_slot: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """``[N, C], [E + 1] -> [E, C]``; with slots d is ``[T, C]``, times the weights ``[T, K]``."""
    C, E = d.shape[1], offsets.shape[0] - 1
    d_bias = torch.empty(E, C, dtype=d.dtype, device=d.device)
    if not d_bias.numel():
        return d_bias
    d = contiguous_rows(d)
    _bias_gradient_kernel[(E, triton.cdiv(C, BLOCK_C))](
        d_ptr=d,
        row_to_slot_ptr=row_to_slot,
        weights_ptr=None if weights is None else weights.contiguous(),
        offsets_ptr=offsets,
        d_bias_ptr=d_bias,
        stride_d_n=d.stride(0),
        N=d.shape[0] if row_to_slot is None else row_to_slot.shape[0],
        C=C,
        E=E,
        K=1 if weights is None else weights.shape[1],
        ACC=acc_dtype(d.dtype),
        BLOCK_M=BLOCK_M,
        BLOCK_C=BLOCK_C,
    )
    return d_bias


def bias_gradients(
    d_y: Tensor,
    d_pre: Tensor,
    weights: Tensor,
    row_to_slot: Tensor,
    offsets: Tensor,
    need_d_b: bool,
) -> tuple[Tensor, Tensor]:
    """``d_b_gate_up [E, O], d_b_down [E, H]``; empty where not needed."""
    if not need_d_b:
        return d_y.new_empty(0), d_y.new_empty(0)
    d_b_down = bias_gradient(d_y, offsets, row_to_slot, weights)
    return bias_gradient(d_pre, offsets), d_b_down


@triton.jit
def _bias_dot_kernel(
    d_y_ptr,  # [T, H]
    bias_ptr,  # [E, H]
    row_to_slot_ptr,  # [N]
    offsets_ptr,  # [E + 1]
    out_ptr,  # [N]
    stride_d_y_t,
    N,
    H,
    E,
    K,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    E_P2: tl.constexpr,
):
    if tl.program_id(0) < count_tiles(offsets_ptr, N, E, BLOCK_M=BLOCK_M, E_P2=E_P2):
        tile = locate_tile(tl.program_id(0), 1, offsets_ptr, N, E, BLOCK_M=BLOCK_M, E_P2=E_P2)
        offs_n = tile.first_row + tl.arange(0, BLOCK_M)
        mask_n = offs_n < tile.end_row
        token = tl.load(row_to_slot_ptr + offs_n, mask=mask_n, other=0) // K
        d_y_ptrs = d_y_ptr + token.to(tl.int64) * stride_d_y_t
        bias_ptr += tile.expert.to(tl.int64) * H
        acc = tl.zeros((BLOCK_M, BLOCK_C), dtype=ACC)
        for h in range(0, H, BLOCK_C):
            offs_h = h + tl.arange(0, BLOCK_C)
            mask = mask_n[:, None] & (offs_h < H)[None, :]
            d_y = tl.load(d_y_ptrs[:, None] + offs_h[None, :], mask=mask, other=0.0).to(ACC)
            bias = tl.load(bias_ptr + offs_h, mask=offs_h < H, other=0.0).to(ACC)
            acc += d_y * bias[None, :]
        tl.store(out_ptr + offs_n, tl.sum(acc, 1), mask=mask_n)


def store_bias_dot(
    d_y: Tensor, bias: Tensor, row_to_slot: Tensor, offsets: Tensor, K: int, out: Tensor
) -> None:
    """``[T, H], [E, H] -> out [N]``: each row's gradient times the bias of its expert."""
    N, (E, H) = row_to_slot.shape[0], bias.shape
    _bias_dot_kernel[(N // BLOCK_M + min(E, N),)](
        d_y_ptr=d_y,
        bias_ptr=bias.contiguous(),
        row_to_slot_ptr=row_to_slot,
        offsets_ptr=offsets,
        out_ptr=out,
        stride_d_y_t=d_y.stride(0),
        N=N,
        H=H,
        E=E,
        K=K,
        ACC=acc_dtype(d_y.dtype),
        BLOCK_M=BLOCK_M,
        BLOCK_C=BLOCK_C,
        E_P2=triton.next_power_of_2(E + 1),
    )
