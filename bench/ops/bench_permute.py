from typing import Any

from harness import check_and_time
from problem import Operator, Problem, Work

import moge_ops
from moge_ops.reference.permute import permute as oracle


def operator(p: Problem) -> Operator:
    routing = p.routing
    return Operator(
        lambda x: moge_ops.permute(x, routing),
        {"x": p.x},
        Work(0, p.moved + p.index),
        Work(p.s.N * p.s.H, p.moved + p.index),
        lambda x: oracle(x, routing.row_to_slot, routing.slot_to_row),
    )


def test_permute(benchmark: Any, p: Problem, direction: str) -> None:
    check_and_time(benchmark, operator(p), direction)
