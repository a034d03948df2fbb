from typing import Any

import torch
from harness import Sizes, Work, check_and_time
from torch import Tensor

import moge_ops
from moge_ops.reference.permute import permute as oracle


def test_permute(benchmark: Any, s: Sizes, dtype: torch.dtype, direction: str, device: str) -> None:
    x = torch.randn(s.T, s.H, device=device).to(dtype)
    routing = moge_ops.route(s.ids().to(device), s.E, num_groups=s.G)

    def permute(x: Tensor) -> Tensor:
        return moge_ops.permute(x, routing)

    rows = (s.N + s.T) * s.H * dtype.itemsize  # one side [N, H], the other [T, H]
    check_and_time(
        benchmark,
        permute,
        lambda x: oracle(x, routing.row_to_slot, routing.slot_to_row),
        {"x": x},
        direction=direction,
        forward=Work(0, rows + 4 * s.N),
        backward=Work(0, rows + 4 * s.N),
    )
