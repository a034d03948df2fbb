from typing import Any

from harness import check_and_time
from problem import Operator, Problem, Work
from torch import Tensor

import moge_ops
from moge_ops.ops.grouped_mlp import flops, flops_backward
from moge_ops.reference.grouped_mlp import grouped_mlp as oracle


def works(p: Problem) -> tuple[Work, Work]:
    """Forward and backward, of the two products alone; the whole layer counts the same."""
    s, item = p.s, p.dtype.itemsize
    expert = (p.w_gate_up.nbytes + p.w_down.nbytes) // s.E  # scales of quantised ones too
    # x, the weights of the experts in use, y
    forward = 2 * s.T * s.H * item + p.used * expert
    # the saved pre-activation out and in again; d_y, x and d_x; the same weights, every d_w
    backward = (3 * s.T * s.H + 2 * s.N * 2 * s.F) * item + (p.used + s.E) * expert
    return (
        Work(flops(s.N, s.H, s.F), forward),
        Work(flops_backward(s.N, s.H, s.F), backward),
    )


def operator(p: Problem) -> Operator:
    routing = p.routing

    def run(x: Tensor, w_gate_up: Tensor, w_down: Tensor, weights: Tensor) -> Tensor:
        return moge_ops.grouped_mlp(x, w_gate_up, w_down, weights, routing)

    return Operator(
        run,
        {
            **{"x": p.x, "w_gate_up": p.w_gate_up, "w_down": p.w_down},
            "weights": p.gating.weights,
        },
        *works(p),
        lambda x, w_gate_up, w_down, weights: oracle(x, w_gate_up, w_down, weights, *routing),
    )


def test_grouped_mlp(benchmark: Any, p: Problem, direction: str) -> None:
    check_and_time(benchmark, operator(p), direction)
