from typing import Any

from harness import check_and_time
from problem import Operator, Problem, Work

import moge_ops
from moge_ops.reference.unpermute import unpermute as oracle


def operator(p: Problem) -> Operator:
    routing, products = p.routing, p.s.N * p.s.H
    return Operator(
        lambda rows, weights: moge_ops.unpermute(rows, routing, weights),
        {"rows": p.out, "weights": p.gating.weights},
        Work(2 * products, p.moved + 2 * p.index),  # slots int32, weights float32
        # rows and d_y in, d_rows and d_weights out
        Work(3 * products, p.moved + p.out.nbytes + 3 * p.index),
        lambda rows, weights: oracle(rows, routing.slot_to_row, weights),
    )


def test_unpermute(benchmark: Any, p: Problem, direction: str) -> None:
    check_and_time(benchmark, operator(p), direction)
