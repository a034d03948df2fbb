from typing import Any

import torch
from harness import Sizes, Work, check_and_time
from torch import Tensor

import moge_ops
from moge_ops.reference.grouped_gate import grouped_gate as oracle
from moge_ops.testing import spaced_logits


def test_grouped_gate(
    benchmark: Any, s: Sizes, dtype: torch.dtype, direction: str, device: str
) -> None:
    logits = spaced_logits(s.T, s.E, dtype).to(device)
    gating = moge_ops.grouped_gate(logits, s.G, s.k)
    _, experts, counts = oracle(logits.double(), s.G, s.k)
    assert torch.equal(gating.experts, experts)
    assert torch.equal(gating.counts, counts)

    def weights(logits: Tensor) -> Tensor:
        return moge_ops.grouped_gate(logits, s.G, s.k).weights

    router, chosen = logits.nbytes, s.N * (4 + 4)  # weights float32, ids int32
    check_and_time(
        benchmark,
        weights,
        lambda logits: oracle(logits, s.G, s.k)[0],
        {"logits": logits},
        direction=direction,
        forward=Work(0, router + chosen + 4 * s.E),  # logits in, weights, ids and counts out
        backward=Work(0, 2 * router + chosen),  # logits, ids and d_weights in, d_logits out
    )
