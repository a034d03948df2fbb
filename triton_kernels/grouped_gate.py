"""Gate kernels: scores, the best of every group, weights and counts in one launch."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import (
    INTERPRETED,
    acc_dtype,
    column_sums,
    is_last_program,
    narrow,
    num_programs,
    publish,
    ticket,
)
from ._scores import holds, ordered, row_scores, shares, slot

# chosen, not measured
TILE = 1024  # logits of one step
PARTIALS = 4096  # partial sums of one step of the last program
# programs per multiprocessor: all that its registers hold, since each one waits for its loads.
# Chosen by the static figures (bench/results/resources.csv, 2026-11-22), not measured
BLOCKS = 4


@triton.jit
def _grouped_gate_fwd_kernel(
    logits_ptr,  # [T, E]
    bias_ptr,  # [E]
    router_scale_ptr,  # [E]
    given_ptr,  # [T, K]
    weights_ptr,  # [T, K]
    experts_ptr,  # [T, K]
    counts_ptr,  # [E]
    partials_ptr,  # [programs, E]
    ticket_ptr,  # [1]
    stride_logits_t,
    stride_logits_e,
    stride_bias_e,
    stride_router_scale_e,
    T,
    scaling: tl.constexpr,  # at run time it would be rounded to float32
    k: tl.constexpr,
    G: tl.constexpr,
    P: tl.constexpr,
    SOFTMAX: tl.constexpr,
    SIGMOID: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ROUTER_SCALE: tl.constexpr,
    GIVEN: tl.constexpr,  # the choice is made
    RENORMALIZE: tl.constexpr,
    MANY: tl.constexpr,  # more than one program
    ACC: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    G_P2: tl.constexpr,
    P_P2: tl.constexpr,
    E_P2: tl.constexpr,
):
    pid = tl.program_id(0).to(tl.int64)
    offs_g = tl.arange(0, G_P2)[:, None]
    offs_i = tl.arange(0, P_P2)[None, :]
    mask_e = (offs_g < G) & (offs_i < P)  # [G_P2, P_P2]
    experts = offs_g * P + offs_i  # [G_P2, P_P2]
    offs_e = experts.to(tl.int64)
    E: tl.constexpr = G * P
    IS_64: tl.constexpr = weights_ptr.dtype.element_ty == tl.float64
    USED: tl.constexpr = -0x8000000000000000 if IS_64 else -0x80000000

    if HAS_BIAS:
        bias = tl.load(bias_ptr + offs_e * stride_bias_e, mask=mask_e, other=0.0).to(ACC)
    if HAS_ROUTER_SCALE:
        router_scale_ptrs = router_scale_ptr + offs_e * stride_router_scale_e
        router_scale = tl.load(router_scale_ptrs, mask=mask_e, other=0.0).to(ACC)

    counts = tl.zeros([G_P2, P_P2], tl.int32)
    for tile_id in range(pid, tl.cdiv(T, BLOCK_T), tl.num_programs(0)):
        offs_t = (tile_id * BLOCK_T + tl.arange(0, BLOCK_T))[:, None, None]
        mask = (offs_t < T) & mask_e[None]  # [BLOCK_T, G_P2, P_P2]
        logits_ptrs = logits_ptr + offs_t * stride_logits_t + offs_e[None] * stride_logits_e
        logits = tl.load(logits_ptrs, mask=mask, other=float("-inf")).to(ACC)
        scores, _ = row_scores(logits, SOFTMAX=SOFTMAX, SIGMOID=SIGMOID)

        if GIVEN:
            slots = tl.zeros([BLOCK_T, G_P2, P_P2], tl.int32)
            for c in range(G * k):  # not unrolled, as K may be large
                slots += holds(given_ptr, offs_t, c, offs_e, mask, T, K=G * k).to(tl.int32)
        else:
            keys = scores
            if HAS_BIAS:
                keys = scores + bias[None]
            order = tl.where(mask, ordered(keys), USED)
            place = tl.full([BLOCK_T, G_P2, P_P2], -1, tl.int32)  # j of the j-th best of its group
            for j in tl.static_range(k):
                best = tl.argmax(order, 2, tie_break_left=True)  # [BLOCK_T, G_P2]
                hit = offs_i[None] == best[:, :, None]
                place = tl.where(hit, j, place)
                order = tl.where(hit, USED, order)
            chosen = mask & (place >= 0)
            slots = chosen.to(tl.int32)
        counts += tl.sum(slots, 0)

        weights = scores
        if RENORMALIZE:
            weights, _ = shares(scores, slots, K=G * k)
        weights = weights * scaling
        if HAS_ROUTER_SCALE:
            weights = weights * router_scale[None]
        if GIVEN:
            for c in range(G * k):
                hit = holds(given_ptr, offs_t, c, offs_e, mask, T, K=G * k)
                # one expert has the slot, or none
                weight = tl.sum(tl.sum(tl.where(hit, weights, 0.0), 2), 1)[:, None, None]
                # a sum, where a maximum spills 8 bytes on sm_100 (resources.csv, 2026-11-29)
                after = tl.sum(tl.sum(tl.where(hit, experts[None] + 1, 0), 2), 1)[:, None, None]
                tl.store(weights_ptr + offs_t * (G * k) + c, weight, mask=offs_t < T)
                tl.store(experts_ptr + offs_t * (G * k) + c, after - 1, mask=offs_t < T)
        else:
            to = offs_t * (G * k) + offs_g[None] * k + place
            tl.store(weights_ptr + to, weights, mask=chosen)
            tl.store(experts_ptr + to, tl.broadcast_to(experts[None], to.shape), mask=chosen)

    if MANY:
        publish(partials_ptr + pid * E + offs_e, counts, mask_e)
        if is_last_program(ticket_ptr):
            offs_out = tl.arange(0, E_P2)
            sums = column_sums(partials_ptr, E=E, BLOCK_ROWS=BLOCK_ROWS, BLOCK_E=E_P2)
            tl.store(counts_ptr + offs_out, sums, mask=offs_out < E)
    else:
        tl.store(counts_ptr + offs_e, counts, mask=mask_e)


@triton.jit
def _grouped_gate_bwd_kernel(
    d_weights_ptr,  # [T, K]
    logits_ptr,  # [T, E]
    experts_ptr,  # [T, K]
    router_scale_ptr,  # [E]
    d_logits_ptr,  # [T, E]
    d_router_scale_ptr,  # [E]
    partials_ptr,  # [programs, E]
    ticket_ptr,  # [1]
    stride_d_weights_t,
    stride_d_weights_k,
    stride_logits_t,
    stride_logits_e,
    stride_router_scale_e,
    T,
    scaling: tl.constexpr,  # at run time it would be rounded to float32
    k: tl.constexpr,
    G: tl.constexpr,
    P: tl.constexpr,
    SOFTMAX: tl.constexpr,
    SIGMOID: tl.constexpr,
    HAS_ROUTER_SCALE: tl.constexpr,
    GIVEN: tl.constexpr,  # a slot may have any expert, not one of its column's group alone
    RENORMALIZE: tl.constexpr,
    MANY: tl.constexpr,  # more than one program
    ACC: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    G_P2: tl.constexpr,
    P_P2: tl.constexpr,
    E_P2: tl.constexpr,
):
    pid = tl.program_id(0).to(tl.int64)
    offs_g = tl.arange(0, G_P2)[:, None]
    offs_i = tl.arange(0, P_P2)[None, :]
    mask_e = (offs_g < G) & (offs_i < P)  # [G_P2, P_P2]
    offs_e = (offs_g * P + offs_i).to(tl.int64)
    E: tl.constexpr = G * P

    if HAS_ROUTER_SCALE:
        router_scale_ptrs = router_scale_ptr + offs_e * stride_router_scale_e
        router_scale = tl.load(router_scale_ptrs, mask=mask_e, other=0.0).to(ACC)
        d_router_scale = tl.zeros([G_P2, P_P2], ACC)

    groups = tl.arange(0, G_P2)[None, :].to(tl.int64)
    for tile_id in range(pid, tl.cdiv(T, BLOCK_T), tl.num_programs(0)):
        rows = (tile_id * BLOCK_T + tl.arange(0, BLOCK_T))[:, None]
        offs_t = rows[:, :, None]
        mask = (offs_t < T) & mask_e[None]  # [BLOCK_T, G_P2, P_P2]
        logits_ptrs = logits_ptr + offs_t * stride_logits_t + offs_e[None] * stride_logits_e
        logits = tl.load(logits_ptrs, mask=mask, other=float("-inf")).to(ACC)
        scores, slopes = row_scores(logits, SOFTMAX=SOFTMAX, SIGMOID=SIGMOID)

        # d_weights and the choice, from slots to experts; any group may have a given slot
        mask_slot = (rows < T) & (groups < G)  # [BLOCK_T, G_P2]
        d_weights = tl.zeros([BLOCK_T, G_P2, P_P2], ACC)
        slots = tl.zeros([BLOCK_T, G_P2, P_P2], tl.int32)
        experts_ptrs = experts_ptr + rows * (G * k)
        d_weights_ptrs = d_weights_ptr + rows * stride_d_weights_t
        if GIVEN:
            for c in range(G * k):  # not unrolled, as K may be large
                column = groups * 0 + c
                d_weight_ptrs = d_weights_ptrs + column * stride_d_weights_k
                hit, d_weight = slot(experts_ptrs + column, d_weight_ptrs, offs_e, mask, mask_slot)
                d_weights += d_weight.to(ACC)
                slots += hit.to(tl.int32)
        else:
            for j in tl.static_range(k):
                column = groups * k + j
                d_weight_ptrs = d_weights_ptrs + column * stride_d_weights_k
                hit, d_weight = slot(experts_ptrs + column, d_weight_ptrs, offs_e, mask, mask_slot)
                d_weights += d_weight.to(ACC)
                slots += hit.to(tl.int32)
        chosen = slots > 0

        base = scores
        if RENORMALIZE:
            base, total = shares(scores, slots, K=G * k)
        d_base = d_weights * scaling
        if HAS_ROUTER_SCALE:
            d_router_scale += tl.sum(tl.where(chosen, d_base * base, 0.0), 0)
            d_base = tl.where(chosen, d_base * router_scale[None], 0.0)  # a scale may be inf
        d_scores = d_base
        if RENORMALIZE:
            # base_c = s_c / S: d_s_c = (d_base_c - sum_j d_base_j base_j) / S, which may overflow,
            # but not times the slope, since that is at most s_c. The softmax's other term is 0
            along = tl.sum(tl.sum(tl.where(chosen, d_base * base, 0.0), 2), 1)[:, None, None]
            d_scores = tl.where(chosen, d_base - slots * along, 0.0)
            slopes = tl.where(chosen, slopes / total, slopes)
        elif SOFTMAX:
            along = tl.sum(tl.sum(tl.where(mask, d_scores * scores, 0.0), 2), 1)[:, None, None]
            d_scores = d_scores - along
        d_logits = slopes * d_scores
        d_logits_ptrs = d_logits_ptr + offs_t * E + offs_e[None]
        tl.store(d_logits_ptrs, narrow(d_logits, d_logits_ptr.dtype.element_ty), mask=mask)

    if HAS_ROUTER_SCALE:
        dtype = d_router_scale_ptr.dtype.element_ty
        if MANY:
            publish(partials_ptr + pid * E + offs_e, d_router_scale, mask_e)
            if is_last_program(ticket_ptr):
                offs_out = tl.arange(0, E_P2)
                sums = column_sums(partials_ptr, E=E, BLOCK_ROWS=BLOCK_ROWS, BLOCK_E=E_P2)
                tl.store(d_router_scale_ptr + offs_out, narrow(sums, dtype), mask=offs_out < E)
        else:
            tl.store(d_router_scale_ptr + offs_e, narrow(d_router_scale, dtype), mask=mask_e)


def _sizes(logits: Tensor, num_groups: int) -> tuple[int, dict[str, Any]]:
    """Number of programs, and the constants that both kernels share."""
    T, E = logits.shape
    G_P2, P_P2 = map(triton.next_power_of_2, (num_groups, E // num_groups))
    E_P2 = triton.next_power_of_2(E)
    BLOCK_T = 4 if INTERPRETED else max(1, TILE // (G_P2 * P_P2))
    programs = num_programs(logits.device, max(1, triton.cdiv(T, BLOCK_T)), BLOCKS)
    return programs, {
        "G": num_groups,
        "P": E // num_groups,
        "MANY": programs > 1,
        "ACC": acc_dtype(logits.dtype),
        "BLOCK_T": BLOCK_T,
        "BLOCK_ROWS": 2 if INTERPRETED else max(1, PARTIALS // E_P2),
        "G_P2": G_P2,
        "P_P2": P_P2,
        "E_P2": E_P2,
    }


def grouped_gate_fwd(
    logits: Tensor,
    num_groups: int,
    k: int,
    score: str,
    bias: Tensor | None,
    router_scale: Tensor | None,
    renormalize: bool,
    scaling: float,
    given: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``[T, E] -> weights [T, K], experts [T, K] int32, counts [E] int32``."""
    T, E = logits.shape
    programs, sizes = _sizes(logits, num_groups)
    acc = torch.promote_types(logits.dtype, torch.float32)
    weights = logits.new_empty(T, num_groups * k, dtype=acc)
    experts = logits.new_empty(T, num_groups * k, dtype=torch.int32)
    counts = logits.new_empty(E, dtype=torch.int32)
    _grouped_gate_fwd_kernel[(programs,)](
        logits_ptr=logits,
        bias_ptr=bias,
        router_scale_ptr=router_scale,
        given_ptr=given,
        weights_ptr=weights,
        experts_ptr=experts,
        counts_ptr=counts,
        partials_ptr=logits.new_empty(programs, E, dtype=torch.int32) if programs > 1 else None,
        ticket_ptr=ticket(logits.device) if programs > 1 else None,
        stride_logits_t=logits.stride(0),
        stride_logits_e=logits.stride(1),
        stride_bias_e=bias.stride(0) if bias is not None else 0,
        stride_router_scale_e=router_scale.stride(0) if router_scale is not None else 0,
        T=T,
        scaling=scaling,
        k=k,
        SOFTMAX=score == "softmax",
        SIGMOID=score == "sigmoid",
        HAS_BIAS=bias is not None,
        HAS_ROUTER_SCALE=router_scale is not None,
        GIVEN=given is not None,
        RENORMALIZE=renormalize,
        **sizes,
    )
    return weights, experts, counts


def grouped_gate_bwd(
    d_weights: Tensor,
    logits: Tensor,
    experts: Tensor,
    num_groups: int,
    score: str,
    router_scale: Tensor | None,
    renormalize: bool,
    scaling: float,
    given: bool,
) -> tuple[Tensor, Tensor]:
    """``[T, K], [T, E], [T, K] -> d_logits [T, E], d_router_scale [E]`` (``[0]`` without one)."""
    T, E = logits.shape
    programs, sizes = _sizes(logits, num_groups)
    acc = torch.promote_types(logits.dtype, torch.float32)
    d_logits = logits.new_empty(T, E)
    reduces = router_scale is not None and programs > 1
    d_router_scale = logits.new_empty(0) if router_scale is None else router_scale.new_empty(E)
    _grouped_gate_bwd_kernel[(programs,)](
        d_weights_ptr=d_weights,
        logits_ptr=logits,
        experts_ptr=experts,
        router_scale_ptr=router_scale,
        d_logits_ptr=d_logits,
        d_router_scale_ptr=d_router_scale,
        partials_ptr=logits.new_empty(programs, E, dtype=acc) if reduces else None,
        ticket_ptr=ticket(logits.device) if reduces else None,
        stride_d_weights_t=d_weights.stride(0),
        stride_d_weights_k=d_weights.stride(1),
        stride_logits_t=logits.stride(0),
        stride_logits_e=logits.stride(1),
        stride_router_scale_e=router_scale.stride(0) if router_scale is not None else 0,
        T=T,
        scaling=scaling,
        k=experts.shape[1] // num_groups,
        SOFTMAX=score == "softmax",
        SIGMOID=score == "sigmoid",
        HAS_ROUTER_SCALE=router_scale is not None,
        GIVEN=given,
        RENORMALIZE=renormalize,
        **sizes,
    )
    return d_logits, d_router_scale
