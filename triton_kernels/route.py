"""Routing kernels: a stable counting partition of every group, integers only.

If the batch fits in a tile there is one launch. Else one kernel counts the slots in each program's
blocks, a second scans the counts, and a third scatters the slots. Without groups all experts are
one group.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# chosen, not measured: elements of a program's largest tile, 32 for each thread of 8 warps
TILE = 8192
# chosen, not measured: the most programs of a group. They fill a GPU, and the scan takes their
# counts in one step
MAX_PROGRAMS = 256


@triton.jit
def _local_ids(
    experts_ptr,  # [T, K]
    slot,  # [BLOCK] int64
    mask,
    P,
    K: tl.constexpr,
    k: tl.constexpr,
):
    """Expert within the group of the slot's column, int32; -1 for a dropped or masked slot."""
    group = slot % K // k
    local = tl.load(experts_ptr + slot, mask=mask, other=-1).to(tl.int64) - group * P
    return tl.where((local >= 0) & (local < P), local, -1).to(tl.int32)


@triton.jit
def _slots(group, i, K: tl.constexpr, k: tl.constexpr):
    """The ``i``-th slot in a group's columns."""
    return i // k * K + group * k + i % k


@triton.jit
def _one_hot(local, P_P2: tl.constexpr):
    """``[BLOCK] -> [BLOCK, P_P2]``; a row of -1 is zero."""
    return (local[:, None] == tl.arange(0, P_P2)[None, :]).to(tl.int32)


@triton.jit
def _route_count_kernel(
    experts_ptr,  # [T, K]
    counts_ptr,  # [programs, E]
    n,  # slots of a group, T * k
    P,
    E,
    tiles,
    K: tl.constexpr,
    k: tl.constexpr,
    P_P2: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pid = tl.program_id(0).to(tl.int64)
    pid_g = tl.program_id(1).to(tl.int64)

    counts = tl.zeros([P_P2], tl.int32)
    for tile_id in range(tiles):
        offs_i = (pid * tiles + tile_id) * BLOCK + tl.arange(0, BLOCK)
        slot = _slots(pid_g, offs_i, K=K, k=k)
        local = _local_ids(experts_ptr, slot, offs_i < n, P, K=K, k=k)
        counts += tl.sum(_one_hot(local, P_P2=P_P2), 0)

    offs_e = tl.arange(0, P_P2)
    tl.store(counts_ptr + pid * E + pid_g * P + offs_e, counts, mask=offs_e < P)


@triton.jit
def _route_scan_kernel(
    counts_ptr,  # [programs, E]
    before_ptr,  # [programs, E]: slots that the programs before have for each expert
    totals_ptr,  # [E]
    programs,
    E,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    offs_row = tl.arange(0, BLOCK_ROWS).to(tl.int64)[:, None]
    offs_e = tl.program_id(0).to(tl.int64) * BLOCK_E + tl.arange(0, BLOCK_E)
    mask = (offs_row < programs) & (offs_e < E)[None, :]
    offs = offs_row * E + offs_e[None, :]
    counts = tl.load(counts_ptr + offs, mask=mask, other=0)  # [BLOCK_ROWS, BLOCK_E]
    tl.store(before_ptr + offs, tl.cumsum(counts, 0) - counts, mask=mask)
    tl.store(totals_ptr + offs_e, tl.sum(counts, 0), mask=offs_e < E)


@triton.jit
def _route_fwd_kernel(
    experts_ptr,  # [T, K]
    before_ptr,  # [programs, E], unless ONE_BLOCK
    totals_ptr,  # [E], unless ONE_BLOCK
    row_to_slot_ptr,  # [N]
    slot_to_row_ptr,  # [T, K]
    offsets_ptr,  # [E + 1]
    n,  # slots of a group, T * k
    P,
    E,
    tiles,
    ONE_BLOCK: tl.constexpr,
    K: tl.constexpr,
    k: tl.constexpr,
    P_P2: tl.constexpr,
    ALL_P2: tl.constexpr,  # at least N if ONE_BLOCK, else at least E
    BLOCK: tl.constexpr,
):
    pid = tl.program_id(0).to(tl.int64)
    pid_g = tl.program_id(1).to(tl.int64)
    offs_e = tl.arange(0, P_P2)
    mask_e = offs_e < P
    offs_all = tl.arange(0, ALL_P2).to(tl.int64)

    # own: slots of each expert of this group; first: of the groups before; used: of all. A group's
    # first row is not known beforehand, since slots may be dropped
    if ONE_BLOCK:
        mask = offs_all < n * (K // k)
        ids = _local_ids(experts_ptr, offs_all, mask, P, K=K, k=k)
        kept = (ids >= 0).to(tl.int32)  # [ALL_P2]
        first = tl.sum(tl.where(offs_all % K // k < pid_g, kept, 0))
        used = tl.sum(kept)
        offs_n = tl.arange(0, BLOCK).to(tl.int64)
        slots = _slots(pid_g, offs_n, K=K, k=k)
        ids = _local_ids(experts_ptr, slots, offs_n < n, P, K=K, k=k)
        own = tl.sum(_one_hot(ids, P_P2=P_P2), 0)  # [P_P2]
    else:
        totals = tl.load(totals_ptr + offs_all, mask=offs_all < E, other=0)  # [ALL_P2]
        first = tl.sum(tl.where(offs_all < pid_g * P, totals, 0))
        used = tl.sum(totals)
        own = tl.load(totals_ptr + pid_g * P + offs_e, mask=mask_e, other=0)  # [P_P2]
    start = first + tl.cumsum(own, 0) - own  # [P_P2]

    if pid == 0:
        tl.store(offsets_ptr + pid_g * P + offs_e, start, mask=mask_e)
        if pid_g == 0:
            tl.store(offsets_ptr + E, used)

    base = start  # next free row of each expert
    if not ONE_BLOCK:
        base += tl.load(before_ptr + pid * E + pid_g * P + offs_e, mask=mask_e, other=0)
    for tile_id in range(tiles):
        offs_i = (pid * tiles + tile_id) * BLOCK + tl.arange(0, BLOCK)
        mask_i = offs_i < n
        slot = _slots(pid_g, offs_i, K=K, k=k)
        local = _local_ids(experts_ptr, slot, mask_i, P, K=K, k=k)
        one_hot = _one_hot(local, P_P2=P_P2)  # [BLOCK, P_P2]
        upto = tl.cumsum(one_hot, 0)  # slots of the expert in this tile, this one included
        row = tl.sum(one_hot * (base[None, :] + upto), 1) - 1  # [BLOCK]; -1 if dropped
        tl.store(slot_to_row_ptr + slot, row, mask=mask_i)
        tl.store(row_to_slot_ptr + row, slot.to(tl.int32), mask=local >= 0)
        # there are as many rows as slots: each program also marks its share of unused rows
        tail = pid_g * n + offs_i
        tl.store(row_to_slot_ptr + tail, -1, mask=mask_i & (tail >= used))
        base += tl.sum(one_hot, 0)


def route_fwd(
    experts: Tensor, num_experts: int, num_groups: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """``[T, K] -> row_to_slot [N], slot_to_row [T, K], offsets [E + 1]``."""
    T, K = experts.shape
    E, G, N = num_experts, num_groups or 1, T * K

    def new(*sizes: int) -> Tensor:
        return torch.empty(sizes, dtype=torch.int32, device=experts.device)

    row_to_slot, slot_to_row = new(N), new(T, K)
    if not N:
        return row_to_slot, slot_to_row, row_to_slot.new_zeros(E + 1)
    offsets = new(E + 1)
    P, k = E // G, K // G
    n = T * k
    P_P2, N_P2 = triton.next_power_of_2(P), triton.next_power_of_2(N)
    BLOCK = min(triton.next_power_of_2(n), max(1, TILE // P_P2))
    blocks = triton.cdiv(n, BLOCK)
    tiles = triton.cdiv(blocks, MAX_PROGRAMS)
    programs = triton.cdiv(blocks, tiles)
    one_block = blocks == 1 and N_P2 <= TILE

    before = totals = None
    if not one_block:
        counts, before, totals = new(programs, E), new(programs, E), new(E)
        _route_count_kernel[(programs, G)](
            experts_ptr=experts,
            counts_ptr=counts,
            n=n,
            P=P,
            E=E,
            tiles=tiles,
            K=K,
            k=k,
            P_P2=P_P2,
            BLOCK=BLOCK,
            num_warps=8,
        )
        BLOCK_ROWS = triton.next_power_of_2(programs)
        BLOCK_E = max(1, TILE // BLOCK_ROWS)
        _route_scan_kernel[(triton.cdiv(E, BLOCK_E),)](
            counts_ptr=counts,
            before_ptr=before,
            totals_ptr=totals,
            programs=programs,
            E=E,
            BLOCK_ROWS=BLOCK_ROWS,
            BLOCK_E=BLOCK_E,
            num_warps=8,
        )
    _route_fwd_kernel[(programs, G)](
        experts_ptr=experts,
        before_ptr=before,
        totals_ptr=totals,
        row_to_slot_ptr=row_to_slot,
        slot_to_row_ptr=slot_to_row,
        offsets_ptr=offsets,
        n=n,
        P=P,
        E=E,
        tiles=tiles,
        ONE_BLOCK=one_block,
        K=K,
        k=k,
        P_P2=P_P2,
        ALL_P2=N_P2 if one_block else triton.next_power_of_2(E),
        BLOCK=BLOCK,
        num_warps=8,
    )
    return row_to_slot, slot_to_row, offsets
