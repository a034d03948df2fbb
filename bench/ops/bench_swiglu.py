from typing import Any

import torch
from harness import Sizes, Work, check_and_time

import moge_ops
from moge_ops.reference.swiglu import swiglu as oracle


def test_swiglu(benchmark: Any, s: Sizes, dtype: torch.dtype, direction: str, device: str) -> None:
    gate_up = torch.randn(s.N, 2 * s.F, device=device).to(dtype)
    act = s.N * s.F * dtype.itemsize
    check_and_time(
        benchmark,
        moge_ops.swiglu,
        oracle,
        {"gate_up": gate_up},
        direction=direction,
        forward=Work(0, 3 * act),  # gate_up in, act out
        backward=Work(0, 5 * act),  # d_act and gate_up in, d_gate_up out
    )
