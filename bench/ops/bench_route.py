from typing import Any

import pytest
from harness import check_and_time
from problem import FORWARD, Operator, Problem, Work

import moge_ops
from moge_ops.reference.route import route as oracle


def operator(p: Problem, *, grouped: bool = True) -> Operator:
    experts, num_groups = p.gating.experts, p.s.G if grouped else None
    run = lambda: moge_ops.route(experts, p.s.E, num_groups=num_groups)  # noqa: E731
    return Operator(
        run,
        {},
        Work(0, 3 * p.index + 4 * (p.s.E + 1)),  # ids in, two permutations and offsets out
        exact=lambda: zip(moge_ops.Routing._fields, run(), oracle(experts, p.s.E), strict=True),
    )


@pytest.mark.parametrize("grouped", [True, False], ids=["grouped", "plain"])
def test_route(benchmark: Any, p: Problem, grouped: bool) -> None:
    check_and_time(benchmark, operator(p, grouped=grouped), FORWARD)
