from typing import Any

import torch
from harness import Sizes, Work, check_and_time
from torch import Tensor

import moge_ops
from moge_ops.reference.unpermute import unpermute as oracle


def test_unpermute(
    benchmark: Any, s: Sizes, dtype: torch.dtype, direction: str, device: str
) -> None:
    rows = torch.randn(s.N, s.H, device=device).to(dtype)
    weights = torch.rand(s.T, s.K, device=device)
    routing = moge_ops.route(s.ids().to(device), s.E, num_groups=s.G)

    def unpermute(rows: Tensor, weights: Tensor) -> Tensor:
        return moge_ops.unpermute(rows, routing, weights)

    y, index = s.T * s.H * dtype.itemsize, s.N * (4 + 4)  # slots int32, weights float32
    check_and_time(
        benchmark,
        unpermute,
        lambda rows, weights: oracle(rows, routing.slot_to_row, weights),
        {"rows": rows, "weights": weights},
        direction=direction,
        forward=Work(2 * s.N * s.H, rows.nbytes + y + index),
        # rows and d_y in, d_rows and d_weights out
        backward=Work(3 * s.N * s.H, 2 * rows.nbytes + y + index + 4 * s.N),
    )
