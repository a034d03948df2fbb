from typing import Any

import torch
from harness import Sizes, Work, check_and_time, mlp_work
from torch import Tensor

import moge_ops
from moge_ops.reference.grouped_mlp import grouped_mlp as oracle


def test_grouped_mlp(
    benchmark: Any, s: Sizes, dtype: torch.dtype, direction: str, device: str
) -> None:
    x = torch.randn(s.T, s.H, device=device).to(dtype)
    w_gate_up = (torch.randn(s.E, 2 * s.F, s.H, device=device) * s.H**-0.5).to(dtype)
    w_down = (torch.randn(s.E, s.H, s.F, device=device) * s.F**-0.5).to(dtype)
    weights = torch.rand(s.T, s.K, device=device)
    routing = moge_ops.route(s.ids().to(device), s.E, num_groups=s.G)
    used = int((routing.offsets.diff() > 0).sum())

    def grouped_mlp(x: Tensor, w_gate_up: Tensor, w_down: Tensor, weights: Tensor) -> Tensor:
        return moge_ops.grouped_mlp(x, w_gate_up, w_down, weights, routing)

    forward = mlp_work(s, used, dtype, backward=False)
    both = mlp_work(s, used, dtype, backward=True)
    check_and_time(
        benchmark,
        grouped_mlp,
        lambda x, w_gate_up, w_down, weights: oracle(x, w_gate_up, w_down, weights, *routing),
        {"x": x, "w_gate_up": w_gate_up, "w_down": w_down, "weights": weights},
        direction=direction,
        forward=forward,
        backward=Work(both.flops - forward.flops, both.bytes - forward.bytes),
    )
