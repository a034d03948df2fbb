from typing import Any

import pytest
import torch
from harness import Sizes, Work, time_with

import moge_ops
from moge_ops.reference.route import route as oracle


@pytest.mark.parametrize("grouped", [True, False], ids=["grouped", "plain"])
def test_route(benchmark: Any, s: Sizes, grouped: bool, device: str) -> None:
    experts = s.ids().to(device)
    num_groups = s.G if grouped else None
    routing = moge_ops.route(experts, s.E, num_groups=num_groups)
    for name, got, want in zip(routing._fields, routing, oracle(experts, s.E), strict=True):
        assert torch.equal(got, want), name

    time_with(
        benchmark,
        lambda: moge_ops.route(experts, s.E, num_groups=num_groups),
        Work(0, 4 * (3 * s.N + s.E + 1)),  # ids in, two permutations and offsets out, int32
        device,
    )
