"""Load-balance loss kernels: batch mean of the scores against the experts' shares."""

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
from ._scores import own_scores

# chosen, not measured
TILE = 1024  # logits of one step
PARTIALS = 4096  # partial sums of one step of the last program


@triton.jit
def _load_scores(
    logits_ptr,  # [T, E]
    offs_t,  # [BLOCK_T, 1]
    offs_e,  # [1, BLOCK_E]
    stride_logits_t,
    stride_logits_e,
    mask,  # [BLOCK_T, BLOCK_E]
    E: tl.constexpr,
    SOFTMAX: tl.constexpr,
    SIGMOID: tl.constexpr,
    ACC: tl.constexpr,
):
    """Scores and their derivatives, both divided by the scores' sum, ``[BLOCK_T, BLOCK_E]``."""
    logits_ptrs = logits_ptr + offs_t * stride_logits_t + offs_e * stride_logits_e
    logits = tl.load(logits_ptrs, mask=mask, other=float("-inf")).to(ACC)
    if SOFTMAX:
        exps = tl.exp(logits - tl.max(logits, 1)[:, None])
        q = exps / tl.sum(exps, 1)[:, None]
        slopes = q
    else:
        scores, slopes = own_scores(logits, SIGMOID=SIGMOID)
        total = tl.sum(scores, 1)[:, None]
        none = total == 0.0
        q = tl.where(none, 1.0 / E, scores / total)
        slopes = slopes / tl.where(none, 1.0, total)
    return q, slopes


@triton.jit
def _load_balance_loss_fwd_kernel(
    logits_ptr,  # [T, E]
    experts_ptr,  # [T, K]
    loss_ptr,  # scalar
    f_ptr,  # [E]
    partial_p_ptr,  # [programs, E]
    partial_counts_ptr,  # [programs, E]
    ticket_ptr,  # [1]
    stride_logits_t,
    stride_logits_e,
    T,
    K,
    rows,  # max(T, 1)
    slots,  # max(T K, 1)
    E: tl.constexpr,
    SOFTMAX: tl.constexpr,
    SIGMOID: tl.constexpr,
    MANY: tl.constexpr,  # more than one program
    ACC: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    pid = tl.program_id(0).to(tl.int64)
    offs_e = tl.arange(0, BLOCK_E)
    mask_e = offs_e < E

    p = tl.zeros([BLOCK_E], ACC)
    counts = tl.zeros([BLOCK_E], tl.int32)
    for tile_id in range(pid, tl.cdiv(T, BLOCK_T), tl.num_programs(0)):
        offs_t = tile_id * BLOCK_T + tl.arange(0, BLOCK_T)
        mask_t = offs_t < T
        mask = mask_t[:, None] & mask_e[None, :]
        q, _ = _load_scores(
            logits_ptr,
            offs_t[:, None],
            offs_e[None, :].to(tl.int64),
            stride_logits_t,
            stride_logits_e,
            mask,
            E=E,
            SOFTMAX=SOFTMAX,
            SIGMOID=SIGMOID,
            ACC=ACC,
        )
        p += tl.sum(tl.where(mask, q, 0.0), 0)

        expert_ptrs = experts_ptr + offs_t * K
        for _ in range(K):
            expert = tl.load(expert_ptrs, mask=mask_t, other=-1)  # [BLOCK_T]
            counts += tl.sum((expert[:, None] == offs_e[None, :]).to(tl.int32), 0)
            expert_ptrs += 1

    last = True
    if MANY:
        publish(partial_p_ptr + pid * E + offs_e, p, mask_e)
        publish(partial_counts_ptr + pid * E + offs_e, counts, mask_e)
        last = is_last_program(ticket_ptr)
    if last:
        if MANY:
            p = column_sums(partial_p_ptr, E=E, BLOCK_ROWS=BLOCK_ROWS, BLOCK_E=BLOCK_E)
            counts = column_sums(partial_counts_ptr, E=E, BLOCK_ROWS=BLOCK_ROWS, BLOCK_E=BLOCK_E)
        f = counts.to(ACC) * E / slots
        tl.store(f_ptr + offs_e, f, mask=mask_e)
        tl.store(loss_ptr, tl.sum(f * (p / rows), 0))


@triton.jit
def _load_balance_loss_bwd_kernel(
    d_loss_ptr,  # scalar
    logits_ptr,  # [T, E]
    f_ptr,  # [E]
    d_logits_ptr,  # [T, E]
    stride_logits_t,
    stride_logits_e,
    T,
    E: tl.constexpr,
    SOFTMAX: tl.constexpr,
    SIGMOID: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    offs_t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)[:, None]
    offs_e = tl.arange(0, BLOCK_E)[None, :].to(tl.int64)
    mask_e = offs_e < E
    mask = (offs_t < T) & mask_e
    q, slopes = _load_scores(
        logits_ptr,
        offs_t,
        offs_e,
        stride_logits_t,
        stride_logits_e,
        mask,
        E=E,
        SOFTMAX=SOFTMAX,
        SIGMOID=SIGMOID,
        ACC=ACC,
    )

    d_q = tl.load(d_loss_ptr) * (tl.load(f_ptr + offs_e, mask=mask_e, other=0.0) / T)
    # q_i = s_i / S: d_logits_i = s'_i / S (d_q_i - sum_j q_j d_q_j); the softmax's s is exp, s' = s
    d_logits = slopes * (d_q - tl.sum(tl.where(mask, d_q * q, 0.0), 1)[:, None])
    d_logits_ptrs = d_logits_ptr + offs_t * E + offs_e
    tl.store(d_logits_ptrs, narrow(d_logits, d_logits_ptr.dtype.element_ty), mask=mask)


def load_balance_loss_fwd(logits: Tensor, experts: Tensor, score: str) -> tuple[Tensor, Tensor]:
    """``[T, E], [T, K] -> scalar, f [E]``."""
    T, E = logits.shape
    K = experts.shape[1]
    BLOCK_E = triton.next_power_of_2(E)
    BLOCK_T = 4 if INTERPRETED else max(1, TILE // BLOCK_E)
    programs = num_programs(logits.device, max(1, triton.cdiv(T, BLOCK_T)))
    acc = torch.promote_types(logits.dtype, torch.float32)
    loss = logits.new_empty((), dtype=acc)
    f = logits.new_empty(E, dtype=acc)
    _load_balance_loss_fwd_kernel[(programs,)](
        logits,
        experts,
        loss,
        f,
        logits.new_empty(programs, E, dtype=acc) if programs > 1 else None,
        logits.new_empty(programs, E, dtype=torch.int32) if programs > 1 else None,
        ticket(logits.device) if programs > 1 else None,
        *logits.stride(),
        T,
        K,
        max(T, 1),
        max(T * K, 1),
        E=E,
        SOFTMAX=score == "softmax",
        SIGMOID=score == "sigmoid",
        MANY=programs > 1,
        ACC=acc_dtype(logits.dtype),
        BLOCK_T=BLOCK_T,
        BLOCK_ROWS=2 if INTERPRETED else max(1, PARTIALS // BLOCK_E),
        BLOCK_E=BLOCK_E,
    )
    return loss, f


def load_balance_loss_bwd(d_loss: Tensor, logits: Tensor, f: Tensor, score: str) -> Tensor:
    """``scalar, [T, E], [E] -> [T, E]``."""
    T, E = logits.shape
    d_logits = logits.new_empty(T, E)
    BLOCK_E = triton.next_power_of_2(E)
    BLOCK_T = 4 if INTERPRETED else max(1, TILE // BLOCK_E)
    if T:
        _load_balance_loss_bwd_kernel[(triton.cdiv(T, BLOCK_T),)](
            d_loss,
            logits,
            f.contiguous(),
            d_logits,
            *logits.stride(),
            T,
            E=E,
            SOFTMAX=score == "softmax",
            SIGMOID=score == "sigmoid",
            ACC=acc_dtype(logits.dtype),
            BLOCK_T=BLOCK_T,
            BLOCK_E=BLOCK_E,
        )
    return d_logits
