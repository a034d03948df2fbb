from typing import Any

import torch
from harness import Sizes, Work, check_and_time
from torch import Tensor

import moge_ops
from moge_ops.reference.grouped_gemm import grouped_gemm as oracle


def test_grouped_gemm(
    benchmark: Any, s: Sizes, dtype: torch.dtype, direction: str, device: str
) -> None:
    rows = torch.randn(s.N, s.H, device=device).to(dtype)
    weight = (torch.randn(s.E, 2 * s.F, s.H, device=device) * s.H**-0.5).to(dtype)
    offsets = moge_ops.route(s.ids().to(device), s.E, num_groups=s.G).offsets
    used = int((offsets.diff() > 0).sum())

    def grouped_gemm(rows: Tensor, weight: Tensor) -> Tensor:
        return moge_ops.grouped_gemm(rows, weight, offsets)

    flops = 2 * s.N * s.H * 2 * s.F
    out = s.N * 2 * s.F * dtype.itemsize
    read = used * weight[0].nbytes
    check_and_time(
        benchmark,
        grouped_gemm,
        lambda rows, weight: oracle(rows, weight, offsets),
        {"rows": rows, "weight": weight},
        direction=direction,
        forward=Work(flops, rows.nbytes + read + out),
        # rows, d_out and the weights in use in, d_rows and every d_weight out
        backward=Work(2 * flops, 2 * rows.nbytes + out + read + weight.nbytes),
    )
