"""Collectives of rows, with gradients."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

# The functional collectives trace under torch.compile(fullgraph=True) and have meta kernels. The
# operators are called directly because their names are the same in every torch from 2.10 on, unlike
# those of the Python functions around them. The in-place collectives of torch.distributed would
# break the graph within an autograd Function.
_ops = torch.ops._c10d_functional


def _gather(x: Tensor, ranks: int, group: str) -> Tensor:
    out: Tensor = _ops.all_gather_into_tensor(x.contiguous(), ranks, group)
    return _ops.wait_tensor(out)  # type: ignore[no-any-return]


def _reduce_scatter(x: Tensor, ranks: int, group: str) -> Tensor:
    out: Tensor = _ops.reduce_scatter_tensor(x.contiguous(), "sum", ranks, group)
    return _ops.wait_tensor(out)  # type: ignore[no-any-return]


def _exchange(x: Tensor, sizes: tuple[list[int], list[int]], group: str) -> Tensor:
    out: Tensor = _ops.all_to_all_single(x.contiguous(), *sizes, group)
    return _ops.wait_tensor(out)  # type: ignore[no-any-return]


Collective = Callable[[Tensor, Any, str], Tensor]


class _Collective(torch.autograd.Function):
    """Runs one collective forward and the opposite one backward, each with its own sizes."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        there: Collective,
        back: Collective,
        sizes: Any,
        opposite: Any,
        group: str,
    ) -> Tensor:
        ctx.back = back, opposite, group
        return there(x, sizes, group)

    @staticmethod
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor | None, ...]:
        back, opposite, group = ctx.back
        return back(d_out[0], opposite, group), None, None, None, None, None


def _apply(*arguments: Any) -> Tensor:
    out: Tensor = _Collective.apply(*arguments)  # type: ignore[no-untyped-call]
    return out


def filled(x: Tensor, rows: int) -> Tensor:
    """``[n, H] -> [rows, H]``, filled with zero rows; x itself if it has enough rows."""
    missing = rows - x.shape[0]
    return F.pad(x, (0, 0, 0, missing)) if missing else x


def gather(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """``[n, ...] -> [ranks * n, ...]``, all ranks' rows; the gradient is reduce-scattered."""
    ranks = group.size()
    return _apply(x, _gather, _reduce_scatter, ranks, ranks, group.group_name)


def reduce_scatter(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """``[ranks * n, ...] -> [n, ...]``, this rank's rows of the sum; the gradient is gathered."""
    ranks = group.size()
    return _apply(x, _reduce_scatter, _gather, ranks, ranks, group.group_name)


def exchange(x: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
    """All-to-all: sends the next ``sent[r]`` rows to rank r, receives ``received[r]`` from it."""
    there, back = (received, sent), (sent, received)
    return _apply(x, _exchange, _exchange, there, back, group.group_name)


def sum_over(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The sum over all ranks, on every rank; it has no gradient."""
    return _ops.wait_tensor(_ops.all_reduce(x, "sum", group.group_name))  # type: ignore[no-any-return]
