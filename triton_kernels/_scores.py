"""Scores that the gate and the load-balance loss share."""

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
