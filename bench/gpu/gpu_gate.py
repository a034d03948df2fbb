"""The gate beside eager torch and torch.compile, for ``make gpu``."""

import functools
from collections.abc import Callable
from typing import Any

import peers
import torch
from gpu_session import Scale, Session, why_not
from problem import FORWARD, Problem, Work
from torch import Tensor

import moge_ops
from moge_ops.testing import Sizes, assert_matches

GATE_CALLS = 20  # in one graph, each on other logits


def torch_gate(logits: Tensor, G: int) -> tuple[Tensor, Tensor, Tensor]:
    """The gate with one expert per group in eager torch, as serving engines write it."""
    T, E = logits.shape
    P = E // G
    weights, local = logits.softmax(-1, dtype=torch.float32).view(T, G, P).max(-1)
    ids = local + torch.arange(0, E, P, device=logits.device)
    ones = torch.ones(T * G, dtype=torch.int32, device=logits.device)
    counts = torch.zeros(E, dtype=torch.int32, device=logits.device)
    return weights, ids.int(), counts.scatter_add_(0, ids.flatten(), ones)


def spread_logits(scale: Scale, T: int, E: int) -> Tensor:
    """Those of :func:`moge_ops.testing.spaced_logits`, without a CPU, which takes seconds."""
    return torch.randint(0, 64, (T, E), device=scale.device).div(8.0).sub(4.0).to(scale.dtype)


def compiled_gate(scale: Scale, E: int) -> Callable[[Tensor], Any]:
    """Compiled for E, any T."""
    function: Any = torch.compile(
        lambda logits: torch_gate(logits, scale.layer.G), dynamic=True, backend=scale.compiler
    )
    for T in (1, 64):  # T = 1 is always compiled for itself
        function(spread_logits(scale, T, E))
    return lambda logits: function(logits)


def gate(session: Session) -> None:
    """The gate against eager torch and torch.compile, in graphs of many calls."""
    scale = session.scale
    points = {f"E={E} T={T}": (E, T) for E in scale.gate_experts for T in scale.gate_tokens}
    compiled: dict[int, tuple[Any, str]] = {}  # E -> function, or why there is none
    for name in session.points(points):
        E, T = points[name]
        s = Sizes(T, H=0, E=E, G=scale.layer.G, k=1, F=0)
        if E not in compiled:
            torch._dynamo.reset()  # which limits how often one function is compiled
            make = functools.partial(compiled_gate, scale, E)
            compiled[E] = session.attempt("torch.compile", make)
        torch.manual_seed(0)
        session.enter("inputs")
        inputs = [spread_logits(scale, T, E) for _ in range(GATE_CALLS)]
        measure_gate(session, s, inputs, *compiled[E])


def measure_gate(
    session: Session, s: Sizes, inputs: list[Tensor], compiled: Any, reason: str
) -> None:
    """Rows of one point, each figure that of one call; ``reason``: why ``compiled`` is None."""
    want = torch_gate(inputs[0].double(), s.G)
    variants: dict[str, Callable[[Tensor], Any]] = {
        peers.OURS: lambda logits: moge_ops.grouped_gate(logits, s.G, 1),
        "torch eager": lambda logits: torch_gate(logits, s.G),
        "torch.compile": compiled,
    }

    def ready(run: Callable[[Tensor], Any]) -> Any:
        if run is None:
            raise RuntimeError(reason)
        weights, ids, counts = run(inputs[0])
        if not (torch.equal(ids, want[1]) and torch.equal(counts, want[2])):
            raise AssertionError("experts or counts differ")
        assert_matches(weights, want[0].double(), "weights", lines=True, slack=3.0)
        return session.graph(lambda: [run(logits) for logits in inputs])[0]

    place = {"op": "grouped_gate", "router": "uniform", "direction": FORWARD, **s._asdict()}
    none = inputs[0].new_empty(0)
    one = Problem(s, none, none, none, inputs[0]).operator("grouped_gate").work
    work = Work(0, GATE_CALLS * one.bytes)
    calls: dict[str, tuple[Callable[[], object], Work]] = {}
    missing = []
    with torch.no_grad():
        for variant, run in variants.items():
            replay, why = session.attempt(variant, functools.partial(ready, run))
            if why:
                missing.append({**place, "variant": variant, "note": why_not(variant, why)})
            else:
                calls[variant] = (replay, work)
        rows = session.timed(calls)
    for columns in rows.values():
        for column in ("median_ms", "q20_ms", "q80_ms"):
            columns[column] = f"{float(columns[column]) / GATE_CALLS:.4g}"
        columns["bytes"] //= GATE_CALLS
    note = f"one of {GATE_CALLS} calls in a graph"
    session.write(*({**place, "variant": v, **rows[v], "note": note} for v in calls), *missing)
