from typing import Any

import torch
from harness import check_and_time
from problem import Operator, Problem, Work
from torch import Tensor

import moge_ops
from moge_ops.ops.grouped_gemm import flops
from moge_ops.reference.grouped_gemm import grouped_gemm as oracle


def product(
    p: Problem, name: str, rows: Tensor, weight: Tensor, out: Tensor
) -> dict[str, Operator]:
    """A product of the layer, and the two that its backward pass makes."""
    offsets, d_out, ops = p.routing.offsets, torch.randn_like(out), torch.ops.moge_ops
    work_flops = flops(rows.shape, weight.shape)
    read = p.used * weight[0].nbytes  # weights of the experts in use
    work = Work(work_flops, rows.nbytes + read + out.nbytes)
    whole = Operator(
        lambda rows, weight: moge_ops.grouped_gemm(rows, weight, offsets),
        {"rows": rows, "weight": weight},
        work,
        # rows, d_out and the weights in use in, d_rows and every d_weight out
        Work(2 * work_flops, 2 * rows.nbytes + out.nbytes + read + weight.nbytes),
        lambda rows, weight: oracle(rows, weight, offsets),
    )
    d_rows = Operator(lambda: ops.grouped_gemm_dx(d_out, weight, offsets), {}, work)
    every = Work(work_flops, rows.nbytes + out.nbytes + weight.nbytes)
    d_weight = Operator(lambda: ops.grouped_gemm_dw(d_out, rows, offsets), {}, every)
    return {name: whole, f"{name} dX": d_rows, f"{name} dW": d_weight}


def products(p: Problem) -> dict[str, Operator]:
    """Gate and up together, then down."""
    up = product(p, "up", p.rows, p.w_gate_up.detach(), p.gate_up)
    return up | product(p, "down", p.act, p.w_down.detach(), p.out)


def operator(p: Problem) -> Operator:
    return products(p)["up"]


def test_grouped_gemm(benchmark: Any, p: Problem, direction: str) -> None:
    check_and_time(benchmark, operator(p), direction)
