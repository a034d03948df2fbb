from typing import Any

import torch
from harness import Sizes, Work, check_and_time
from torch import Tensor

import moge_ops
from moge_ops.reference.load_balance_loss import load_balance_loss as oracle


def test_load_balance_loss(
    benchmark: Any, s: Sizes, dtype: torch.dtype, direction: str, device: str
) -> None:
    logits = torch.randn(s.T, s.E, device=device).to(dtype)
    experts = s.ids().to(device)

    def loss(logits: Tensor) -> Tensor:
        return moge_ops.load_balance_loss(logits, experts)

    router, ids = logits.nbytes, 4 * s.N
    check_and_time(
        benchmark,
        loss,
        lambda logits: oracle(logits, experts),
        {"logits": logits},
        direction=direction,
        forward=Work(0, router + ids),
        backward=Work(0, 2 * router + ids),
    )
