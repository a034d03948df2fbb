"""Grouped products: expert-sorted rows by each expert's weight, forward, dX and dW.

Index tensors and tiles:
    offsets      expert -> its first row; the last entry ends the rows in use, and the rest are
                 never multiplied, but stored as zero
    tile         BLOCK_M rows of one expert by BLOCK_C columns; within a band of BAND row tiles
                 rows run fastest, so that the programs of one moment share weights in L2, and
                 without an end they would no longer share rows: bench/results/tile_order.csv
"""

import contextvars

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ._common import INTERPRETED, acc_dtype, narrow, num_programs
from ._configs import Config, config, device_class

BAND = tl.constexpr(16)


@triton.jit
def expert_rows(offsets_ptr, offs_e, N, E):
    """First and last row of experts ``offs_e``; none past E."""
    lo = tl.load(offsets_ptr + offs_e, mask=offs_e < E, other=0)
    hi = tl.load(offsets_ptr + offs_e + 1, mask=offs_e < E, other=0)
    # the caller's offsets cannot be checked without waiting: whatever they hold, stay inside
    return tl.minimum(tl.maximum(lo, 0), N), tl.minimum(tl.maximum(hi, 0), N)


@triton.jit
def count_tiles(offsets_ptr, N, E, BLOCK_M: tl.constexpr, E_P2: tl.constexpr):
    """Row tiles of all experts."""
    lo, hi = expert_rows(offsets_ptr, tl.arange(0, E_P2), N, E)
    return tl.sum(tl.cdiv(tl.maximum(hi - lo, 0), BLOCK_M), 0)


@triton.jit
def locate_tile(tile, tiles_c, offsets_ptr, N, E, BLOCK_M: tl.constexpr, E_P2: tl.constexpr):
    """The tile's expert, its first row, the end of the expert's rows, and the column tile."""
    # offsets are read again for every tile: cheaper than registers held through the product
    offs_e = tl.arange(0, E_P2)
    lo, hi = expert_rows(offsets_ptr, offs_e, N, E)
    tiles_e = tl.cdiv(tl.maximum(hi - lo, 0), BLOCK_M)
    ends = tl.cumsum(tiles_e, 0) * tiles_c
    expert = tl.sum((ends <= tile).to(tl.int32), 0)
    here = offs_e == expert
    tiles_m = tl.sum(tl.where(here, tiles_e, 0), 0)
    local = tile - (tl.sum(tl.where(here, ends, 0), 0) - tiles_m * tiles_c)
    band = local // (BAND * tiles_c) * BAND
    height = tl.minimum(tiles_m - band, BAND)
    local -= band * tiles_c
    first = tl.sum(tl.where(here, lo, 0), 0) + (band + local % height) * BLOCK_M
    return expert, first, tl.sum(tl.where(here, hi, 0), 0), local // height


@triton.jit
def _row_tiles_kernel(
    offsets_ptr,  # [E + 1]
    row_tiles_ptr,  # [1 + 3 * bound], how many, then of each its expert, first row and end
    N,
    E,
    BLOCK_M: tl.constexpr,
    E_P2: tl.constexpr,
):
    tile = tl.program_id(0)
    tiles = count_tiles(offsets_ptr, N, E, BLOCK_M, E_P2)
    if tile == 0:
        tl.store(row_tiles_ptr, tiles)
    if tile < tiles:
        expert, first, last, _ = locate_tile(tile, 1, offsets_ptr, N, E, BLOCK_M, E_P2)
        entry_ptr = row_tiles_ptr + 1 + 3 * tile.to(tl.int64)
        tl.store(entry_ptr, expert)
        tl.store(entry_ptr + 1, first)
        tl.store(entry_ptr + 2, last)


@triton.jit
def listed_tile(tile, tiles_m, tiles_c, row_tiles_ptr):
    """What :func:`locate_tile` returns, without reductions; bands may hold several experts."""
    band = tile // (BAND * tiles_c) * BAND
    height = tl.minimum(tiles_m - band, BAND)
    local = tile - band * tiles_c
    entry_ptr = row_tiles_ptr + 1 + 3 * (band + local % height).to(tl.int64)
    return tl.load(entry_ptr), tl.load(entry_ptr + 1), tl.load(entry_ptr + 2), local // height


@triton.jit
def tile_product(
    a,  # [BLOCK_M] pointers to rows, each contiguous, or [N, R] descriptor if A_DESC
    w,  # [E, HALVES * C, R] or, not R_LAST, [E, R, C]: a pointer, or a descriptor if W_DESC
    first_m,
    expert,
    first_c,
    stride_w_e,
    stride_w_c,
    stride_w_r,
    C,
    R,
    HALVES: tl.constexpr,
    A_DESC: tl.constexpr,
    W_DESC: tl.constexpr,
    R_LAST: tl.constexpr,
    EVEN_R: tl.constexpr,
    SWAP: tl.constexpr,
    SPECIALIZE: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """``[BLOCK_M, HALVES * BLOCK_C]``: the same columns of each half of the weight."""
    COLUMNS: tl.constexpr = HALVES * BLOCK_C
    offs_r = tl.arange(0, BLOCK_R)
    column = tl.arange(0, COLUMNS)
    offs_c = first_c + column % BLOCK_C
    mask_c = offs_c < C
    row_c = (offs_c + column // BLOCK_C * C).to(tl.int64)
    # WGMMA reads its left operand from shared memory, not by way of registers, if it is one box
    BOXES: tl.constexpr = SWAP and W_DESC and HALVES == 2
    if BOXES:
        acc = tl.zeros((BLOCK_C, BLOCK_M), dtype=ACC)
        second = tl.zeros((BLOCK_C, BLOCK_M), dtype=ACC)
    else:
        acc = tl.zeros((COLUMNS, BLOCK_M) if SWAP else (BLOCK_M, COLUMNS), dtype=ACC)
    for r in tl.range(0, R, BLOCK_R, warp_specialize=SPECIALIZE):
        if A_DESC:
            x = a.load([first_m, r])
        elif EVEN_R:
            x = tl.load(a[:, None] + (r + offs_r)[None, :])
        else:
            mask_r = r + offs_r < R
            x = tl.load(a[:, None] + (r + offs_r)[None, :], mask=mask_r[None, :], other=0.0)
        # outside the weight a descriptor reads zero, so that nothing of a neighbour, which may
        # be infinite, meets the zeros of `x`
        if BOXES:
            b = w.load([expert * 2, first_c, r]).reshape(BLOCK_C, BLOCK_R).T
            b2 = w.load([expert * 2 + 1, first_c, r]).reshape(BLOCK_C, BLOCK_R)
            second = tl.dot(
                b2.to(DOT), x.T.to(DOT), second, input_precision=PRECISION, out_dtype=ACC
            )
        elif W_DESC and R_LAST:
            b = w.load([expert * HALVES, first_c, r]).reshape(COLUMNS, BLOCK_R).T
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
        if SWAP:  # WGMMA takes 64 rows or more: the weight has them where the tokens do not
            left, right = b.T, x.T
        else:
            left, right = x, b
        acc = tl.dot(left.to(DOT), right.to(DOT), acc, input_precision=PRECISION, out_dtype=ACC)
    if BOXES:
        acc = tl.join(acc, second).permute(2, 0, 1).reshape(COLUMNS, BLOCK_M)
    return acc.T if SWAP else acc


@triton.jit
def _grouped_gemm_kernel(
    rows,  # [N, R]: a pointer, or a descriptor if ROWS_DESC
    w,  # [E, C, R], or [E, R, C] if not R_LAST
    offsets_ptr,  # [E + 1]
    row_tiles_ptr,  # what _row_tiles_kernel has written, read if SPECIALIZE
    out_ptr,  # [N, C]
    stride_rows_n,
    stride_w_e,
    stride_w_c,
    stride_w_r,
    N,
    C,
    R,
    E,
    ROWS_DESC: tl.constexpr,
    W_DESC: tl.constexpr,
    R_LAST: tl.constexpr,
    EVEN_R: tl.constexpr,
    SWAP: tl.constexpr,
    SPECIALIZE: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    E_P2: tl.constexpr,
):
    tiles_c = tl.cdiv(C, BLOCK_C)
    if SPECIALIZE:
        # the compiler gives each half of the rows to a group of warps: it halves the box with them
        # only in a descriptor that is made here, and does not take a reduction in the loop
        rows = tl.make_tensor_descriptor(
            rows, [N, R], [stride_rows_n.to(tl.int64), 1], [BLOCK_M, BLOCK_R]
        )
        if R_LAST:
            w = tl.make_tensor_descriptor(
                w, [E, C, R], [stride_w_e, stride_w_c, 1], [1, BLOCK_C, BLOCK_R]
            )
        else:
            w = tl.make_tensor_descriptor(
                w, [E, R, C], [stride_w_e, stride_w_r, 1], [1, BLOCK_R, BLOCK_C]
            )
        tiles_m = tl.load(row_tiles_ptr)
    else:
        tiles_m = count_tiles(offsets_ptr, N, E, BLOCK_M, E_P2)
    for tile in range(tl.program_id(0), tiles_m * tiles_c, tl.num_programs(0)):
        if SPECIALIZE:
            expert, first, last, c = listed_tile(tile, tiles_m, tiles_c, row_tiles_ptr)
        else:
            expert, first, last, c = locate_tile(tile, tiles_c, offsets_ptr, N, E, BLOCK_M, E_P2)
        offs_m = tl.arange(0, BLOCK_M)
        offs_c = tl.arange(0, BLOCK_C)[None, :]
        # past the expert's end come the next one's rows, or its last one stands in: no mask in
        # the loop, none is stored
        if ROWS_DESC:
            a = rows
        else:
            a = rows + tl.minimum(first + offs_m, last - 1).to(tl.int64) * stride_rows_n
        acc = tile_product(
            a,
            w,
            first,
            expert,
            c * BLOCK_C,
            stride_w_e,
            stride_w_c,
            stride_w_r,
            C,
            R,
            1,
            ROWS_DESC,
            W_DESC,
            R_LAST,
            EVEN_R,
            SWAP,
            SPECIALIZE,
            DOT,
            PRECISION,
            ACC,
            BLOCK_M,
            BLOCK_C,
            BLOCK_R,
        )
        # one 64-bit base a tile: 64-bit offsets of every element would spill
        out_tile = out_ptr + first.to(tl.int64) * C + c * BLOCK_C
        out_ptrs = out_tile + (offs_m[:, None] * C + offs_c)
        mask = (offs_m[:, None] < last - first) & (offs_c < C - c * BLOCK_C)
        tl.store(out_ptrs, narrow(acc, out_ptr.dtype.element_ty), mask=mask)

    # in a loop of its own: a branch in the one above costs registers through the product
    _, end = expert_rows(offsets_ptr, E - 1, N, E)
    tiles = tl.cdiv(N - end, BLOCK_M) * tiles_c
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        offs_n = end + tile // tiles_c * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
        offs_c = tile % tiles_c * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
        zero = tl.zeros((BLOCK_M, BLOCK_C), dtype=out_ptr.dtype.element_ty)
        mask = (offs_n < N) & (offs_c < C)
        tl.store(out_ptr + offs_n.to(tl.int64) * C + offs_c, zero, mask=mask)


@triton.jit
def _load_rows(
    x,  # [N, C]: a pointer, or a descriptor if DESC; [T, C] if GATHER
    row_to_slot_ptr,
    n,
    hi,
    first_c,
    stride_n,
    C,
    K: tl.constexpr,
    ROW_STEP: tl.constexpr,
    GATHER: tl.constexpr,
    DESC: tl.constexpr,
    EVEN: tl.constexpr,
    WHOLE: tl.constexpr,
    TRANS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``[BLOCK_N, BLOCK_C]`` from row n on, or its transpose; not WHOLE: zeros from row hi on."""
    offs_n = n + tl.arange(0, BLOCK_N)
    AXIS: tl.constexpr = 0 if TRANS else 1
    mask_n = tl.expand_dims(offs_n < hi, AXIS)
    if DESC:
        tile = x.load([n, first_c])
        if TRANS:
            tile = tile.T
        if not WHOLE:
            tile = tl.where(mask_n, tile, 0.0)
    else:
        # loaded in the order of the product: turned round later, it would come by way of registers
        offs_c = tl.expand_dims(first_c + tl.arange(0, BLOCK_C), 1 - AXIS)
        if GATHER:
            # a thread loads every ROW_STEP-th row of the tile: the slots of these side by side, so
            # that it reads four at a time from shared memory
            LOADS: tl.constexpr = BLOCK_N // ROW_STEP
            order = tl.arange(0, BLOCK_N)
            offs_s = n + order % LOADS * ROW_STEP + order // LOADS
            slot = tl.load(row_to_slot_ptr + offs_s, mask=None if WHOLE else offs_s < hi)
            slot = slot.reshape(ROW_STEP, LOADS).T.reshape(BLOCK_N)
            offs_n = slot.to(tl.uint32) // K  # of a signed slot it takes four instructions more
        ptrs = x + tl.expand_dims(offs_n.to(tl.int64), AXIS) * stride_n + offs_c
        if WHOLE and EVEN:
            tile = tl.load(ptrs)
        elif WHOLE:
            tile = tl.load(ptrs, mask=offs_c < C, other=0.0)
        else:
            tile = tl.load(ptrs, mask=mask_n & (offs_c < C), other=0.0)
    return tile


@triton.jit
def _grouped_gemm_dw_kernel(
    d_out,  # [N, O]: a pointer, or a descriptor if D_DESC; [T, O] if GATHER_D
    rows,  # [N, I]: a pointer, or a descriptor if ROWS_DESC; [T, I] if GATHER_ROWS
    row_to_slot_ptr,  # [N]
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
    GATHER_D: tl.constexpr,
    GATHER_ROWS: tl.constexpr,
    D_DESC: tl.constexpr,
    ROWS_DESC: tl.constexpr,
    EVEN_O: tl.constexpr,
    EVEN_I: tl.constexpr,
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
    first_o = pid % tiles_e % tiles_o * BLOCK_O
    first_i = pid % tiles_e // tiles_o * BLOCK_I
    lo, hi = expert_rows(offsets_ptr, expert, N, E)

    # whole steps without masks, then what is left of the expert
    acc = tl.zeros((BLOCK_O, BLOCK_I), dtype=ACC)
    whole = lo + tl.maximum(hi - lo, 0) // BLOCK_N * BLOCK_N
    for n in range(lo, whole, BLOCK_N):
        a = _load_rows(
            d_out,
            row_to_slot_ptr,
            n,
            hi,
            first_o,
            stride_d_out_n,
            O,
            K,
            ROW_STEP,
            GATHER_D,
            D_DESC,
            EVEN_O,
            True,
            True,
            BLOCK_N,
            BLOCK_O,
        )
        b = _load_rows(
            rows,
            row_to_slot_ptr,
            n,
            hi,
            first_i,
            stride_rows_n,
            I,
            K,
            ROW_STEP,
            GATHER_ROWS,
            ROWS_DESC,
            EVEN_I,
            True,
            False,
            BLOCK_N,
            BLOCK_I,
        )
        acc = tl.dot(a.to(DOT), b.to(DOT), acc, input_precision=PRECISION, out_dtype=ACC)
    if whole < hi:
        a = _load_rows(
            d_out,
            row_to_slot_ptr,
            whole,
            hi,
            first_o,
            stride_d_out_n,
            O,
            K,
            ROW_STEP,
            GATHER_D,
            D_DESC,
            EVEN_O,
            False,
            True,
            BLOCK_N,
            BLOCK_O,
        )
        b = _load_rows(
            rows,
            row_to_slot_ptr,
            whole,
            hi,
            first_i,
            stride_rows_n,
            I,
            K,
            ROW_STEP,
            GATHER_ROWS,
            ROWS_DESC,
            EVEN_I,
            False,
            False,
            BLOCK_N,
            BLOCK_I,
        )
        acc = tl.dot(a.to(DOT), b.to(DOT), acc, input_precision=PRECISION, out_dtype=ACC)

    offs_o = first_o + tl.arange(0, BLOCK_O)
    offs_i = first_i + tl.arange(0, BLOCK_I)
    d_weight_ptrs = (
        d_weight_ptr
        + expert.to(tl.int64) * O * I
        + offs_o.to(tl.int64)[:, None] * I
        + offs_i[None, :]
    )
    out = narrow(acc, d_weight_ptr.dtype.element_ty)
    tl.store(d_weight_ptrs, out, mask=(offs_o < O)[:, None] & (offs_i < I)[None, :])


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


def describable(x: Tensor) -> bool:
    """Whether the tensor can be read through a tensor descriptor, on this chip."""
    return x.numel() > 0 and aligned(x) and device_class() in ("hopper", "interpreter")


def grid(tiles: Config, N: int, E: int, C: int, device: torch.device) -> tuple[int]:
    """Persistent grid under the host's bound on the tiles: each expert adds at most one."""
    bound = (N // tiles.block_m + min(E, N)) * triton.cdiv(C, tiles.block_c)
    return (num_programs(device, bound, tiles.blocks),)


def _scratch(size: int, alignment: int, stream: int | None) -> Tensor:
    """Where a launch keeps the descriptors that its kernel makes."""
    return torch.empty(size, dtype=torch.int8, device="cuda")


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
    tile = config("gemm", rows.dtype, N, E, C, aligned=aligned(weight))
    stride_c, stride_r = (1, 2) if r_last else (2, 1)
    rows_desc = w_desc and describable(rows)
    specialize = bool(tile.specialize) and rows_desc
    E_P2 = triton.next_power_of_2(E + 1)
    a: object = rows
    w: object = weight
    row_tiles = offsets
    context = contextvars.copy_context()
    if specialize:
        bound = N // tile.block_m + min(E, N)
        row_tiles = offsets.new_empty(1 + 3 * bound)
        _row_tiles_kernel[(bound,)](offsets, row_tiles, N, E, BLOCK_M=tile.block_m, E_P2=E_P2)
        context.run(triton.set_allocator, _scratch)  # the caller's own stays in place
    else:
        if rows_desc:
            a = TensorDescriptor.from_tensor(rows, [tile.block_m, tile.block_r])
        if w_desc:
            block = (tile.block_c, tile.block_r) if r_last else (tile.block_r, tile.block_c)
            w = TensorDescriptor.from_tensor(weight, [1, *block])
    context.run(
        _grouped_gemm_kernel[grid(tile, N, E, C, rows.device)],
        a,
        w,
        offsets,
        row_tiles,
        out,
        rows.stride(0),
        weight.stride(0),
        weight.stride(stride_c),
        weight.stride(stride_r),
        N,
        C,
        R,
        E,
        ROWS_DESC=rows_desc,
        W_DESC=w_desc,
        R_LAST=r_last,
        EVEN_R=R % tile.block_r == 0,
        SWAP=bool(tile.swap),
        SPECIALIZE=specialize,
        **dot_options(rows.dtype),
        BLOCK_M=tile.block_m,
        BLOCK_C=tile.block_c,
        BLOCK_R=tile.block_r,
        E_P2=E_P2,
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
    kernel = "dw_gathered" if gather_d or gather_rows else "dw"
    tile = config(kernel, rows.dtype, N, E, None, aligned=aligned(d_out) and aligned(rows))

    def padded(block_o: int, block_i: int) -> tuple[int, bool]:
        size = triton.cdiv(O, block_o) * block_o * triton.cdiv(I, block_i) * block_i
        # of two equal ones, the shorter side for what is gathered: fewer loads
        return size, (gather_d and block_o > block_i) or (gather_rows and block_i > block_o)

    sides = (tile.block_m, tile.block_c)
    block_o, block_i = min(sides, sides[::-1], key=lambda sides: padded(*sides))
    gathered = block_o if gather_d else block_i
    # of the rows of a tile, as many as the program's threads load at once, 16 bytes each
    row_step = 512 * tile.num_warps // (gathered * rows.element_size())
    tiles = E * triton.cdiv(O, block_o) * triton.cdiv(I, block_i)
    d_desc = not gather_d and describable(d_out)
    rows_desc = not gather_rows and describable(rows)
    block_d, block_rows = [tile.block_r, block_o], [tile.block_r, block_i]
    _grouped_gemm_dw_kernel[(tiles,)](
        TensorDescriptor.from_tensor(d_out, block_d) if d_desc else d_out,
        TensorDescriptor.from_tensor(rows, block_rows) if rows_desc else rows,
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
        ROW_STEP=max(1, min(row_step, tile.block_r)),
        GATHER_D=gather_d,
        GATHER_ROWS=gather_rows,
        D_DESC=d_desc,
        ROWS_DESC=rows_desc,
        EVEN_O=O % block_o == 0,
        EVEN_I=I % block_i == 0,
        **dot_options(rows.dtype),
        BLOCK_O=block_o,
        BLOCK_I=block_i,
        BLOCK_N=tile.block_r,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return d_weight
