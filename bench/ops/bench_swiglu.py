from typing import Any

from harness import check_and_time
from problem import Operator, Problem, Work

import moge_ops
from moge_ops.reference.swiglu import swiglu as oracle


def operator(p: Problem) -> Operator:
    act = p.gate_up.nbytes // 2
    return Operator(
        moge_ops.swiglu,
        {"gate_up": p.gate_up},
        Work(0, 3 * act),  # gate_up in, act out
        Work(0, 5 * act),  # d_act and gate_up in, d_gate_up out
        oracle,
    )


def test_swiglu(benchmark: Any, p: Problem, direction: str) -> None:
    check_and_time(benchmark, operator(p), direction)
