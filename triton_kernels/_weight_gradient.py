"""dW of a grouped product: the weight of an expert gets a sum over the rows of that expert.

Each program computes one tile of one expert's weight, so that no sum is split among programs.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ._common import narrow
from ._configs import find_config
from ._product import Dot, aligned, contiguous_rows, describable, dot, multiply
from ._tiles import expert_rows


class Operand(NamedTuple):
    """One operand of dW, ``[N, C]``."""

    source: Any  # pointer or descriptor
    row_to_slot_ptr: Any  # None, or [N]: then the source is [T, C], and row n is that of its token
    stride_n: Any
    first_c: Any  # first column of the tile
    C: Any


@triton.jit
def _load_operand(
    x,
    n,
    end_row,
    K: tl.constexpr,
    ROW_STEP: tl.constexpr,
    EVEN_C: tl.constexpr,
    TRANS: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``[BLOCK_N, BLOCK_C]`` from row n on, or its transpose; zeros past the end if not WHOLE."""
    offs_n = n + tl.arange(0, BLOCK_N)
    AXIS: tl.constexpr = 0 if TRANS else 1
    mask_n = tl.expand_dims(offs_n < end_row, AXIS)
    if isinstance(x.source, tl.tensor_descriptor):
        block = x.source.load([n, x.first_c])
        if TRANS:
            block = block.T
        if not WHOLE:
            block = tl.where(mask_n, block, 0.0)
    else:
        # loaded as the product takes it: a transposition after the load would go through registers
        offs_c = tl.expand_dims(x.first_c + tl.arange(0, BLOCK_C), 1 - AXIS)
        if x.row_to_slot_ptr is not None:
            # a thread loads every ROW_STEP-th row of the tile: with the slots of these side by
            # side, it reads four at once from shared memory
            LOADS: tl.constexpr = BLOCK_N // ROW_STEP
            order = tl.arange(0, BLOCK_N)
            offs_s = n + order % LOADS * ROW_STEP + order // LOADS
            slot = tl.load(x.row_to_slot_ptr + offs_s, mask=None if WHOLE else offs_s < end_row)
            slot = slot.reshape(ROW_STEP, LOADS).T.reshape(BLOCK_N)
            offs_n = slot.to(tl.uint32) // K  # a signed division takes four instructions more
        ptrs = x.source + tl.expand_dims(offs_n.to(tl.int64), AXIS) * x.stride_n + offs_c
        if WHOLE and EVEN_C:
            block = tl.load(ptrs)
        elif WHOLE:
            block = tl.load(ptrs, mask=offs_c < x.C, other=0.0)
        else:
            block = tl.load(ptrs, mask=mask_n & (offs_c < x.C), other=0.0)
    return block


class Step(NamedTuple):
    """The constants of every step of the sum."""

    K: int
    ROW_STEP: int
    EVEN_O: bool
    EVEN_I: bool
    DOT: Dot
    BLOCK_O: int
    BLOCK_I: int
    BLOCK_N: int


@triton.jit
def _dw_step(acc, d_out, rows, n, end_row, WHOLE: tl.constexpr, STEP: tl.constexpr):
    """Adds what BLOCK_N rows contribute to the tile of dW."""
    a = _load_operand(
        d_out,
        n,
        end_row,
        K=STEP.K,
        ROW_STEP=STEP.ROW_STEP,
        EVEN_C=STEP.EVEN_O,
        TRANS=True,
        WHOLE=WHOLE,
        BLOCK_N=STEP.BLOCK_N,
        BLOCK_C=STEP.BLOCK_O,
    )
    b = _load_operand(
        rows,
        n,
        end_row,
        K=STEP.K,
        ROW_STEP=STEP.ROW_STEP,
        EVEN_C=STEP.EVEN_I,
        TRANS=False,
        WHOLE=WHOLE,
        BLOCK_N=STEP.BLOCK_N,
        BLOCK_C=STEP.BLOCK_I,
    )
    return multiply(a, b, acc, DOT=STEP.DOT)


@triton.jit
def _grouped_gemm_dw_kernel(
    d_out,  # [N, O], a pointer or a descriptor; with its slots [T, O]
    rows,  # [N, I], a pointer or a descriptor; with its slots [T, I]
    d_out_row_to_slot_ptr,  # [N] or None
    rows_row_to_slot_ptr,  # [N] or None
    offsets_ptr,  # [E + 1]
    d_weight_ptr,  # [E, O, I]
    stride_d_out_n,
    stride_rows_n,
    N,
    O,
    I,
    E,
    K: tl.constexpr,
    ROW_STEP: tl.constexpr,
    EVEN_O: tl.constexpr,
    EVEN_I: tl.constexpr,
    DOT: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    tiles_o = tl.cdiv(O, BLOCK_O)
    tiles_e = tiles_o * tl.cdiv(I, BLOCK_I)
    pid = tl.program_id(0)
    expert = pid // tiles_e
    first_o = pid % tiles_e % tiles_o * BLOCK_O
    first_i = pid % tiles_e // tiles_o * BLOCK_I
    first_row, end_row = expert_rows(offsets_ptr, expert, N, E)
    left = Operand(
        source=d_out,
        row_to_slot_ptr=d_out_row_to_slot_ptr,
        stride_n=stride_d_out_n,
        first_c=first_o,
        C=O,
    )
    right = Operand(
        source=rows,
        row_to_slot_ptr=rows_row_to_slot_ptr,
        stride_n=stride_rows_n,
        first_c=first_i,
        C=I,
    )

    STEP: tl.constexpr = Step(
        K=K,
        ROW_STEP=ROW_STEP,
        EVEN_O=EVEN_O,
        EVEN_I=EVEN_I,
        DOT=DOT,
        BLOCK_O=BLOCK_O,
        BLOCK_I=BLOCK_I,
        BLOCK_N=BLOCK_N,
    )

    # whole steps need no masks; one more takes the rest of the expert's rows
    acc = tl.zeros((BLOCK_O, BLOCK_I), dtype=DOT.acc)
    whole = first_row + tl.maximum(end_row - first_row, 0) // BLOCK_N * BLOCK_N
    for n in range(first_row, whole, BLOCK_N):
        acc = _dw_step(acc, left, right, n, end_row, WHOLE=True, STEP=STEP)
    if whole < end_row:
        acc = _dw_step(acc, left, right, whole, end_row, WHOLE=False, STEP=STEP)

    offs_o = first_o + tl.arange(0, BLOCK_O)
    offs_i = first_i + tl.arange(0, BLOCK_I)
    ptrs = d_weight_ptr + expert.to(tl.int64) * O * I
    ptrs += offs_o.to(tl.int64)[:, None] * I + offs_i[None, :]
    out = narrow(acc, d_weight_ptr.dtype.element_ty)
    tl.store(ptrs, out, mask=(offs_o < O)[:, None] & (offs_i < I)[None, :])


def weight_gradient(
    d_out: Tensor,
    rows: Tensor,
    offsets: Tensor,
    row_to_slot: Tensor | None = None,
    K: int = 1,
    *,
    gather_d: bool = False,
    gather_rows: bool = False,
) -> Tensor:
    """``[N, O], [N, I], [E + 1] -> [E, O, I]``; a gathered operand is ``[T, ...]``."""
    E, O, I = offsets.shape[0] - 1, d_out.shape[1], rows.shape[1]
    N = d_out.shape[0] if row_to_slot is None else row_to_slot.shape[0]
    d_weight = torch.empty(E, O, I, dtype=rows.dtype, device=rows.device)
    if not d_weight.numel():
        return d_weight
    d_out, rows = contiguous_rows(d_out), contiguous_rows(rows)
    kernel = "dw_gathered" if gather_d or gather_rows else "dw"
    config = find_config(kernel, rows.dtype, N, E, None, aligned=aligned(d_out) and aligned(rows))

    def cost(sides: tuple[int, int]) -> tuple[int, bool]:
        block_o, block_i = sides
        padded = triton.cdiv(O, block_o) * block_o * triton.cdiv(I, block_i) * block_i
        # if both ways pad alike, the gathered operand gets the shorter side: fewer loads
        return padded, (gather_d and block_o > block_i) or (gather_rows and block_i > block_o)

    sides = (config.block_m, config.block_c)
    block_o, block_i = min(sides, sides[::-1], key=cost)
    gathered = block_o if gather_d else block_i
    # the rows of a tile that the program's threads load at once, 16 bytes each
    row_step = 512 * config.num_warps // (gathered * rows.element_size())
    box_d, box_rows = [config.block_r, block_o], [config.block_r, block_i]
    d_desc = not gather_d and describable(d_out)
    rows_desc = not gather_rows and describable(rows)
    _grouped_gemm_dw_kernel[(E * triton.cdiv(O, block_o) * triton.cdiv(I, block_i),)](
        d_out=TensorDescriptor.from_tensor(d_out, box_d) if d_desc else d_out,
        rows=TensorDescriptor.from_tensor(rows, box_rows) if rows_desc else rows,
        d_out_row_to_slot_ptr=row_to_slot if gather_d else None,
        rows_row_to_slot_ptr=row_to_slot if gather_rows else None,
        offsets_ptr=offsets,
        d_weight_ptr=d_weight,
        stride_d_out_n=d_out.stride(0),
        stride_rows_n=rows.stride(0),
        N=N,
        O=O,
        I=I,
        E=E,
        K=K,
        ROW_STEP=max(1, min(row_step, config.block_r)),
        EVEN_O=O % block_o == 0,
        EVEN_I=I % block_i == 0,
        DOT=dot(rows.dtype),
        BLOCK_O=block_o,
        BLOCK_I=block_i,
        BLOCK_N=config.block_r,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return d_weight
