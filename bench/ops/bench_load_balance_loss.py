from typing import Any

from harness import check_and_time
from problem import Operator, Problem, Work

import moge_ops
from moge_ops.reference.load_balance_loss import load_balance_loss as oracle


def operator(p: Problem) -> Operator:
    experts = p.gating.experts
    return Operator(
        lambda logits: moge_ops.load_balance_loss(logits, experts),
        {"logits": p.logits},
        Work(0, p.logits.nbytes + p.index),
        Work(0, 2 * p.logits.nbytes + p.index),
        lambda logits: oracle(logits, experts),
    )


def test_load_balance_loss(benchmark: Any, p: Problem, direction: str) -> None:
    check_and_time(benchmark, operator(p), direction)
