"""Grouped products: expert-sorted rows by each expert's weight, forward, dX and dW.

Index tensors and tiles:
    offsets      expert -> its first row; the last entry ends the rows in use
    tile         BLOCK_M rows of one expert by BLOCK_C columns; rows of an expert run fastest, so
                 that the programs of one moment share a weight tile in L2
    expert E     the rows past offsets[E]: never multiplied, stored as zero
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ._common import INTERPRETED, acc_dtype, narrow, num_programs
from ._configs import Config, config, device_class


@triton.jit
def expert_rows(offsets_ptr, offs_e, N, E):
    """First and last row of experts ``offs_e``; of "expert" E, the rows that have no expert."""
    lo = tl.load(offsets_ptr + offs_e, mask=offs_e <= E, other=0)
    hi = tl.load(offsets_ptr + offs_e + 1, mask=offs_e < E, other=0)
    hi = tl.where(offs_e == E, N, hi)
    # the caller's offsets cannot be checked without waiting: whatever they hold, stay inside
    return tl.minimum(tl.maximum(lo, 0), N), tl.minimum(tl.maximum(hi, 0), N)


@triton.jit
def count_tiles(offsets_ptr, N, E, EXPERTS, BLOCK_M: tl.constexpr, E_P2: tl.constexpr):
    """Row tiles of the first ``EXPERTS`` experts: E, or E + 1 with the rows of none."""
    offs_e = tl.arange(0, E_P2)
    lo, hi = expert_rows(offsets_ptr, offs_e, N, E)
    return tl.sum(tl.where(offs_e < EXPERTS, tl.cdiv(tl.maximum(hi - lo, 0), BLOCK_M), 0), 0)


@triton.jit
def locate_tile(tile, tiles_c, offsets_ptr, N, E, BLOCK_M: tl.constexpr, E_P2: tl.constexpr):
    """The tile's expert, its first row, the end of the expert's rows, and the column tile."""
    # offsets are read again for every tile: cheaper than registers held through the product
    offs_e = tl.arange(0, E_P2)
    lo, hi = expert_rows(offsets_ptr, offs_e, N, E)
    tiles_e = tl.where(offs_e <= E, tl.cdiv(tl.maximum(hi - lo, 0), BLOCK_M), 0)
    ends = tl.cumsum(tiles_e, 0) * tiles_c
    expert = tl.sum((ends <= tile).to(tl.int32), 0)
    here = offs_e == expert
    tiles_m = tl.sum(tl.where(here, tiles_e, 0), 0)
    local = tile - (tl.sum(tl.where(here, ends, 0), 0) - tiles_m * tiles_c)
    first = tl.sum(tl.where(here, lo, 0), 0) + (local % tiles_m) * BLOCK_M
    return expert, first, tl.sum(tl.where(here, hi, 0), 0), local // tiles_m


@triton.jit
def tile_product(
    a_ptrs,  # [BLOCK_M] rows, each contiguous
    w,  # [E, HALVES * C, R] or, not R_LAST, [E, R, C]: a pointer, or a descriptor if W_DESC
    expert,
    first_c,
    stride_w_e,
    stride_w_c,
    stride_w_r,
    C,
    R,
    HALVES: tl.constexpr,
    W_DESC: tl.constexpr,
    R_LAST: tl.constexpr,
    EVEN_R: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """``[BLOCK_M, HALVES * BLOCK_C]``: the same columns of each half of the weight."""
    offs_r = tl.arange(0, BLOCK_R)
    column = tl.arange(0, HALVES * BLOCK_C)
    offs_c = first_c + column % BLOCK_C
    mask_c = offs_c < C
    row_c = (offs_c + column // BLOCK_C * C).to(tl.int64)
    acc = tl.zeros((BLOCK_M, HALVES * BLOCK_C), dtype=ACC)
    for r in range(0, R, BLOCK_R):
        if EVEN_R:
            a = tl.load(a_ptrs[:, None] + (r + offs_r)[None, :])
        else:
            mask_r = r + offs_r < R
            a = tl.load(a_ptrs[:, None] + (r + offs_r)[None, :], mask=mask_r[None, :], other=0.0)
        # outside the weight a descriptor reads zero, so that nothing of a neighbour, which may
        # be infinite, meets the zeros of `a`
        if W_DESC and R_LAST:
            b = w.load([expert * HALVES, first_c, r]).reshape(HALVES * BLOCK_C, BLOCK_R).T
        elif W_DESC:
            b = w.load([expert, r, first_c]).reshape(BLOCK_R, BLOCK_C)
        else:
            b_ptrs = (
                w
                + expert.to(tl.int64) * stride_w_e
                + (r + offs_r).to(tl.int64)[:, None] * stride_w_r
                + row_c[None, :] * stride_w_c
            )
            b = tl.load(b_ptrs, mask=(r + offs_r < R)[:, None] & mask_c[None, :], other=0.0)
        acc = tl.dot(a.to(DOT), b.to(DOT), acc, input_precision=PRECISION, out_dtype=ACC)
    return acc


@triton.jit
def _grouped_gemm_kernel(
    rows_ptr,  # [N, R]
    w,  # [E, C, R], or [E, R, C] if not R_LAST
    offsets_ptr,  # [E + 1]
    out_ptr,  # [N, C]
    stride_rows_n,
    stride_w_e,
    stride_w_c,
    stride_w_r,
    N,
    C,
    R,
    E,
    W_DESC: tl.constexpr,
    R_LAST: tl.constexpr,
    EVEN_R: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    E_P2: tl.constexpr,
):
    tiles_c = tl.cdiv(C, BLOCK_C)
    tiles = count_tiles(offsets_ptr, N, E, E + 1, BLOCK_M, E_P2) * tiles_c
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        expert, first, last, c = locate_tile(tile, tiles_c, offsets_ptr, N, E, BLOCK_M, E_P2)
        offs_m = tl.arange(0, BLOCK_M)
        offs_c = tl.arange(0, BLOCK_C)[None, :]
        # one 64-bit base a tile: 64-bit offsets of every element would spill
        out_tile = out_ptr + first.to(tl.int64) * C + c * BLOCK_C
        out_ptrs = out_tile + (offs_m[:, None] * C + offs_c)
        mask = (offs_m[:, None] < last - first) & (offs_c < C - c * BLOCK_C)
        if expert < E:
            # past the expert's end its last row stands in: no mask in the loop, none is stored
            a_rows = tl.minimum(first + offs_m, last - 1).to(tl.int64)
            acc = tile_product(
                rows_ptr + a_rows * stride_rows_n,
                w,
                expert,
                c * BLOCK_C,
                stride_w_e,
                stride_w_c,
                stride_w_r,
                C,
                R,
                1,
                W_DESC,
                R_LAST,
                EVEN_R,
                DOT,
                PRECISION,
                ACC,
                BLOCK_M,
                BLOCK_C,
                BLOCK_R,
            )
            tl.store(out_ptrs, narrow(acc, out_ptr.dtype.element_ty), mask=mask)
        else:
            zero = tl.zeros((BLOCK_M, BLOCK_C), dtype=out_ptr.dtype.element_ty)
            tl.store(out_ptrs, zero, mask=mask)


@triton.jit
def _grouped_gemm_dw_kernel(
    d_out_ptr,  # [N, O], or [T, O] if GATHER_D
    rows_ptr,  # [N, I], or [T, I] if GATHER_ROWS
    row_to_slot_ptr,  # [N]
    offsets_ptr,  # [E + 1]
    d_weight_ptr,  # [E, O, I]
    stride_d_out_n,
    stride_rows_n,
    N,
    O,
    I,
    E,
    K,
    GATHER_D: tl.constexpr,
    GATHER_ROWS: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    tiles_o = tl.cdiv(O, BLOCK_O)
    tiles_e = tiles_o * tl.cdiv(I, BLOCK_I)
    pid = tl.program_id(0)
    expert = pid // tiles_e
    offs_o = pid % tiles_e % tiles_o * BLOCK_O + tl.arange(0, BLOCK_O)
    offs_i = pid % tiles_e // tiles_o * BLOCK_I + tl.arange(0, BLOCK_I)
    mask_o = offs_o < O
    mask_i = offs_i < I
    lo, hi = expert_rows(offsets_ptr, expert, N, E)

    acc = tl.zeros((BLOCK_O, BLOCK_I), dtype=ACC)
    for n in range(lo, hi, BLOCK_N):
        offs_n = n + tl.arange(0, BLOCK_N)
        mask_n = offs_n < hi
        offs_d = offs_n.to(tl.int64)
        offs_rows = offs_n.to(tl.int64)
        if GATHER_D or GATHER_ROWS:
            slot = tl.load(row_to_slot_ptr + offs_n, mask=mask_n, other=0)
            if GATHER_D:
                offs_d = (slot // K).to(tl.int64)
            if GATHER_ROWS:
                offs_rows = (slot // K).to(tl.int64)
        d_out = tl.load(
            d_out_ptr + offs_d[:, None] * stride_d_out_n + offs_o[None, :],
            mask=mask_n[:, None] & mask_o[None, :],
            other=0.0,
        )
        rows = tl.load(
            rows_ptr + offs_rows[:, None] * stride_rows_n + offs_i[None, :],
            mask=mask_n[:, None] & mask_i[None, :],
            other=0.0,
        )
        acc = tl.dot(d_out.to(DOT).T, rows.to(DOT), acc, input_precision=PRECISION, out_dtype=ACC)

    d_weight_ptrs = (
        d_weight_ptr
        + expert.to(tl.int64) * O * I
        + offs_o.to(tl.int64)[:, None] * I
        + offs_i[None, :]
    )
    out = narrow(acc, d_weight_ptr.dtype.element_ty)
    tl.store(d_weight_ptrs, out, mask=mask_o[:, None] & mask_i[None, :])


def dot_options(dtype: torch.dtype) -> dict[str, object]:
    """Operand type, precision and accumulator of every product of this dtype."""
    # the interpreter multiplies bfloat16 bit patterns: there the operands are widened
    widened = INTERPRETED and dtype is torch.bfloat16
    names = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}
    lowered = torch.get_float32_matmul_precision() != "highest"
    return {
        "DOT": tl.float32 if widened else names.get(dtype, tl.float64),
        "PRECISION": "tf32" if dtype is torch.float32 and lowered else "ieee",
        "ACC": acc_dtype(dtype),
    }


def contiguous_rows(x: Tensor) -> Tensor:
    """``x`` itself where its rows are contiguous, which the kernels take for granted."""
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def aligned(x: Tensor) -> bool:
    """Whether every row of ``x`` starts at a multiple of 16 bytes, contiguous in the last dim."""
    size = x.element_size()
    rows = all(stride * size % 16 == 0 for stride in x.stride()[:-1])
    return rows and x.stride(-1) == 1 and x.data_ptr() % 16 == 0


def describable(weight: Tensor) -> bool:
    """Whether the weight can be read through a tensor descriptor, on this chip."""
    return aligned(weight) and device_class() in ("hopper", "interpreter")


def grid(tiles: Config, N: int, E: int, C: int, device: torch.device) -> tuple[int]:
    """Persistent grid under the host's bound on the tiles: each expert adds at most one."""
    bound = (N // tiles.block_m + min(E + 1, N)) * triton.cdiv(C, tiles.block_c)
    return (num_programs(device, bound),)


def _product(rows: Tensor, weight: Tensor, offsets: Tensor, r_last: bool) -> Tensor:
    N, R = rows.shape
    E = weight.shape[0]
    C = weight.shape[1] if r_last else weight.shape[2]
    out = torch.empty(N, C, dtype=rows.dtype, device=rows.device)
    if not out.numel():
        return out
    if not R or not E:
        return out.zero_()
    rows = contiguous_rows(rows)
    w_desc = describable(weight)
    tile = config("gemm", rows.dtype, N, E, aligned=w_desc)
    block = [1, tile.block_c, tile.block_r] if r_last else [1, tile.block_r, tile.block_c]
    stride_c, stride_r = (1, 2) if r_last else (2, 1)
    _grouped_gemm_kernel[grid(tile, N, E, C, rows.device)](
        rows,
        TensorDescriptor.from_tensor(weight, block) if w_desc else weight,
        offsets,
        out,
        rows.stride(0),
        weight.stride(0),
        weight.stride(stride_c),
        weight.stride(stride_r),
        N,
        C,
        R,
        E,
        W_DESC=w_desc,
        R_LAST=r_last,
        EVEN_R=R % tile.block_r == 0,
        **dot_options(rows.dtype),
        BLOCK_M=tile.block_m,
        BLOCK_C=tile.block_c,
        BLOCK_R=tile.block_r,
        E_P2=triton.next_power_of_2(E + 1),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return out


def grouped_gemm_fwd(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``[N, in], [E, out, in], [E + 1] -> [N, out]``."""
    return _product(rows, weight, offsets, True)


def grouped_gemm_dx(d_out: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``[N, out], [E, out, in], [E + 1] -> [N, in]``."""
    return _product(d_out, weight, offsets, False)


def grouped_gemm_dw(d_out: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
    """``[N, out], [N, in], [E + 1] -> [E, out, in]``."""
    return weight_gradient(d_out, rows, offsets)


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
    """``-> [E, out, in]``; a gathered operand is given per token, ``[T, ...]``."""
    E, O, I = offsets.shape[0] - 1, d_out.shape[1], rows.shape[1]
    N = d_out.shape[0] if row_to_slot is None else row_to_slot.shape[0]
    d_weight = torch.empty(E, O, I, dtype=rows.dtype, device=rows.device)
    if not d_weight.numel():
        return d_weight
    d_out, rows = contiguous_rows(d_out), contiguous_rows(rows)
    tile = config("dw", rows.dtype, N, E, aligned=aligned(d_out) and aligned(rows))
    tiles = E * triton.cdiv(O, tile.block_m) * triton.cdiv(I, tile.block_c)
    _grouped_gemm_dw_kernel[(tiles,)](
        d_out,
        rows,
        offsets if row_to_slot is None else row_to_slot,
        offsets,
        d_weight,
        d_out.stride(0),
        rows.stride(0),
        N,
        O,
        I,
        E,
        K,
        GATHER_D=gather_d,
        GATHER_ROWS=gather_rows,
        **dot_options(rows.dtype),
        BLOCK_O=tile.block_m,
        BLOCK_I=tile.block_c,
        BLOCK_N=tile.block_r,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return d_weight
