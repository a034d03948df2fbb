"""The part of ``make gpu`` that times quantised experts, forward.

All schemes meet our own layer in bfloat16, and what torch and transformers have for quantised
experts. Everything at one T is timed in turns: schemes can be compared with each other, too.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import peers
import torch
from bench_grouped_mlp import works
from gpu_checks import CHAIN
from gpu_session import Session, why_not
from harness import agrees
from problem import (
    FORWARD,
    OURS,
    OURS_BFLOAT16,
    ROUTERS,
    Operator,
    Problem,
    decoded,
    random_quantized,
)
from torch import Tensor
from torch.nn import Parameter

from moge_ops.quant import SCHEMES, QuantizedWeight
from moge_ops.testing import Sizes

OP = "moe quantised"
DTYPE = torch.bfloat16  # of x
CHECKED = 256  # tokens, which take a float64 oracle milliseconds
FP8 = "fp8_w8a16"  # whose numbers are also those of our bfloat16 layer and of the peers
# Peers round rows to e4m3, twice, each time by 2.6 % of a normal number in the root mean square,
# which makes 4.5 % of the layer's result. This times bfloat16's limit of 0.6 % is 7 %
ROUNDED = 12.0


class Variant(NamedTuple):
    """An implementation, the scheme whose oracle it is compared with, and how closely."""

    of: Callable[[Problem], peers.Run]
    scheme: str
    slack: float = CHAIN


VARIANTS = {
    OURS_BFLOAT16: Variant(peers.ours, FP8),
    **{f"{OURS} {scheme}": Variant(peers.ours, scheme) for scheme in SCHEMES},
    **{name: Variant(of, FP8, ROUNDED) for name, of in peers.FP8_VARIANTS.items()},
}

Weights = dict[str, tuple[QuantizedWeight | Parameter, ...]]


def made(session: Session) -> Weights:
    """Both weights by scheme, and those of fp8 decoded; the same for every T."""
    torch.manual_seed(0)
    found: Weights = {}
    for scheme in SCHEMES:
        session.enter(f"weights of {scheme}")
        s, device = session.scale.quant[0], session.scale.device
        # torch takes fp8 with a scale for each row, not with blocks
        pair = random_quantized(scheme, s, device, whole_rows=True)
        found[scheme] = tuple(pair)
        if scheme == FP8:
            found[OURS_BFLOAT16] = tuple(Parameter(decoded(w, DTYPE)) for w in pair)
    return found


def problems(session: Session, s: Sizes, weights: Weights) -> dict[str, Problem]:
    """The same x and logits with each of the weights."""
    device = session.scale.device
    x = Parameter(torch.randn(s.T, s.H, device=device).to(DTYPE))
    logits = Parameter(ROUTERS["uniform"](s.T, s.E, DTYPE).to(device))
    return {name: Problem(s, x, *pair, logits) for name, pair in weights.items()}


def operator(variant: str, found: dict[str, Problem]) -> Operator:
    """A variant's layer; its work counts the weights as they are stored."""
    p = found.get(variant) or found[VARIANTS[variant].scheme]
    layer = Operator(VARIANTS[variant].of(p), p.leaves, *works(p))
    layer.leaves = list(p.leaves.values())  # a quantised one cannot be detached
    return layer


def measure(session: Session, s: Sizes, weights: Weights) -> None:
    """Rows for all variants at one T; only what agrees with its oracle is timed."""
    found = problems(session, s, weights)
    count = min(s.T, CHECKED)
    tokens = torch.linspace(0, s.T - 1, count, device=session.scale.device).long()

    @functools.cache
    def oracle(scheme: str) -> Tensor:
        """As the scheme has it: those of eight-bit activations round them."""
        return peers.oracle_forward(found[scheme], tokens)

    def checked(variant: str) -> tuple[Operator, float]:
        layer = operator(variant, found)
        y = layer.forward()
        if not y.isfinite().all():
            raise AssertionError("y is not finite everywhere")
        _, scheme, slack = VARIANTS[variant]
        return layer, agrees({"y": y[tokens]}, {"y": oracle(scheme)}, slack)

    place = {"router": "uniform", **s._asdict(), "direction": FORWARD}
    layers: dict[str, Operator] = {}
    errors: dict[str, str] = {}
    notes: dict[str, str] = {}
    for variant in VARIANTS:
        if why := session.given_up(variant):
            notes[variant] = why
            continue
        result, reason = session.attempt(variant, functools.partial(checked, variant))
        if reason:
            notes[variant] = why_not(variant, reason)
        else:
            layers[variant], error = result
            errors[variant] = f"{error:.3g}"
    calls = {variant: layer.calls()[FORWARD] for variant, layer in layers.items()}
    rows = session.timed(calls) if calls else {}
    for name, columns in rows.items():
        op, error = (OP, errors[name]) if name in calls else ("ceiling", "")
        session.write({**place, "op": op, "variant": name, "rms_error": error, **columns})
    session.write(*({**place, "op": OP, "variant": n, "note": why} for n, why in notes.items()))


def quant(session: Session) -> None:
    """Pangu's layer in every scheme, at every T."""
    session.scale = session.scale._replace(dtype=DTYPE)  # also of a smoke run
    session.alone |= set(VARIANTS)
    weights: Weights = {}
    points = {f"T={s.T}": s for s in session.scale.quant}
    for name in session.points(points):
        weights = weights or made(session)
        measure(session, points[name], weights)
        session.free()
        print(name, flush=True)


def tunequant(session: Session) -> None:
    """Compiles the kernels, so that :func:`quant` finds them on disk.

    At its very sizes, in which kernels specialise. Nothing is timed; other parts run meanwhile.
    """
    session.alone |= set(VARIANTS)
    weights: Weights = {}
    points = {f"T={s.T}": s for s in session.scale.quant}
    for name in session.points(points):
        weights = weights or made(session)
        found = problems(session, points[name], weights)
        for variant in (f"{OURS} {scheme}" for scheme in SCHEMES):
            if not session.given_up(variant):
                _, reason = session.attempt(variant, operator(variant, found).forward)
                print(f"{variant} {name}: {reason or 'compiled'}", flush=True)
        session.free()
