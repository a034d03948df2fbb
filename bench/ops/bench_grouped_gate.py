from collections.abc import Iterator
from typing import Any

from harness import check_and_time
from problem import Operator, Problem, Work
from torch import Tensor

import moge_ops
from moge_ops.reference.grouped_gate import grouped_gate as oracle


def operator(p: Problem) -> Operator:
    G, k = p.s.G, p.s.k
    scale = {} if p.router_scale is None else {"router_scale": p.router_scale}

    def weights(logits: Tensor, router_scale: Tensor | None = None) -> Tensor:
        return moge_ops.grouped_gate(logits, G, k, router_scale=router_scale).weights

    def integers() -> Iterator[tuple[str, Tensor, Tensor]]:
        _, experts, counts = oracle(p.logits.detach().double(), G, k)
        yield "experts", p.gating.experts, experts
        yield "counts", p.gating.counts, counts

    return Operator(
        weights,
        {"logits": p.logits, **scale},
        # logits in; weights, ids and counts out
        Work(0, p.logits.nbytes + 2 * p.index + 4 * p.s.E),
        # logits, ids and d_weights in, d_logits out
        Work(0, 2 * p.logits.nbytes + 2 * p.index),
        lambda logits, router_scale=None: oracle(logits, G, k, router_scale=router_scale)[0],
        integers,
    )


def test_grouped_gate(benchmark: Any, p: Problem, direction: str) -> None:
    check_and_time(benchmark, operator(p), direction)
