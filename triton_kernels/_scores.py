"""Scores of the gate and of the load-balance loss, and what the gate makes of them."""

import triton
import triton.language as tl


@triton.jit
def own_scores(logits, SIGMOID: tl.constexpr):
    """Scores that depend on their own logit alone, and their derivatives by it; 0 for -inf."""
    if SIGMOID:
        scores = 1.0 / (1.0 + tl.exp(-logits))
        slopes = scores * (1.0 - scores)
    else:
        # sqrt(log(1 + e^l)) = f sqrt(q). With u = e^-|l| and r = log(1 + u) / u,
        # f = 1 and q = l + u r above 0; f = e^(l/2) and q = r below
        half = tl.exp(-0.5 * tl.abs(logits))
        u = half * half
        # log(w) / (w - 1) changes so slowly that a rounded w does no harm; it is 1 where w is
        w = 1.0 + u
        r = (tl.log(w) + 1e-30) / ((w - 1.0) + 1e-30)
        root = tl.sqrt(tl.where(logits > 0.0, logits + u * r, r))
        f = tl.where(logits > 0.0, 1.0, half)
        scores = f * root
        slopes = 0.5 * f / (w * root)
    return scores, slopes


@triton.jit
def row_scores(
    logits,  # [BLOCK_T, G_P2, P_P2], -inf in the padding
    SOFTMAX: tl.constexpr,
    SIGMOID: tl.constexpr,
):
    """Scores, and their derivatives by their own logits, without the softmax's other term."""
    if SOFTMAX:
        # a NaN, or inf - inf, reaches the sum, and through it the whole row
        exps = tl.exp(logits - tl.max(tl.max(logits, 2), 1)[:, None, None])
        scores = exps / tl.sum(tl.sum(exps, 2), 1)[:, None, None]
        slopes = scores
    else:
        scores, slopes = own_scores(logits, SIGMOID=SIGMOID)
    return scores, slopes


@triton.jit
def shares(
    scores,  # [BLOCK_T, G_P2, P_P2]
    slots,  # the same: how many of the row's K slots each expert has
    K: tl.constexpr,
):
    """Scores divided by the sum of the slots', and that sum; for a sum of 0, 1 / K and 1."""
    total = tl.sum(tl.sum(tl.where(slots > 0, scores * slots, 0.0), 2), 1)[:, None, None]
    none = total == 0.0
    return tl.where(none, 1.0 / K, scores / total), tl.where(none, 1.0, total)


@triton.jit
def holds(
    experts_ptr,  # [T, K], any ids
    offs_t,  # [BLOCK_T, 1, 1]
    column,
    offs_e,  # [G_P2, P_P2]
    mask,  # [BLOCK_T, G_P2, P_P2]
    T,
    K: tl.constexpr,
):
    """Which expert has the slot of each token in a column, if any."""
    expert = tl.load(experts_ptr + offs_t * K + column, mask=offs_t < T, other=-1)
    return mask & (expert == offs_e[None])


@triton.jit
def slot(
    expert_ptrs,  # [BLOCK_T, G_P2]
    d_weight_ptrs,  # the same
    offs_e,  # [G_P2, P_P2]
    mask,  # [BLOCK_T, G_P2, P_P2]
    mask_slot,  # [BLOCK_T, G_P2]
):
    """Which experts of each group have its slot, and the gradient of their weights there."""
    expert = tl.load(expert_ptrs, mask=mask_slot, other=-1)
    d_weight = tl.load(d_weight_ptrs, mask=mask_slot, other=0.0)
    hit = mask & (expert[:, :, None] == offs_e[None])
    return hit, tl.where(hit, d_weight[:, :, None], 0.0)


@triton.jit
def ordered(keys):
    """Integers in the order of ``keys``; all NaN are equal, below -inf and above the least int."""
    # the bits of a float are in order except for the sign; no score is -0.0
    if keys.dtype == tl.float64:
        bits = keys.to(tl.int64, bitcast=True)
        bits = tl.where(
            keys == keys, bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF), -0x7FFFFFFFFFFFFFFF
        )
    else:
        bits = keys.to(tl.int32, bitcast=True)
        bits = tl.where(keys == keys, bits ^ ((bits >> 31) & 0x7FFFFFFF), -0x7FFFFFFF)
    return bits
