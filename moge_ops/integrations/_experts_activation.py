"""Which activation of :func:`moge_ops.grouped_mlp` an experts module of transformers has, if any.

A module's class may have a gate of its own, ``_apply_gate``, which may compute anything. It is
called once, on test numbers on both sides of every limit, with a stand-in object that has only the
module's limit and alpha. If its values and derivatives are those of one activation of the operator,
to 1e-5, the operator replaces it. A gate that differs, or raises because it looks at more than the
stand-in has, such as a parameter, runs as it is, between the two products.
"""

import functools
import itertools
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import (
    GELUActivation,
    GELUTanh,
    NewGELUActivation,
    QuickGELUActivation,
    ReLUSquaredActivation,
    SiLUActivation,
)

from moge_ops.integrations import _experts_interface
from moge_ops.ops._activation import NAMES, Activation
from moge_ops.ops._layer import applied

# name and alpha, by the exact class: one that inherits from these may compute something else
_FUNCTIONS: dict[type, tuple[str, float]] = {
    nn.SiLU: ("silu", 1.0),
    SiLUActivation: ("silu", 1.0),
    QuickGELUActivation: ("silu", 1.702),
    GELUActivation: ("gelu", 1.0),
    GELUTanh: ("gelu_tanh", 1.0),
    NewGELUActivation: ("gelu_tanh", 1.0),
    nn.ReLU: ("relu", 1.0),
    ReLUSquaredActivation: ("relu2", 1.0),
}
_OF_GELU = {"none": "gelu", "tanh": "gelu_tanh"}
# the constants that gates of transformers 5.24 look at; experts_forward's docstring names them
_LIMITS, _ALPHAS = ("limit", "swiglu_limit"), ("alpha", "swiglu_alpha")
# a gate may compute in float32
_TOLERANCE = 1e-5
# of test numbers in each layout: no column meets one pair alone, however wide the experts are
_FEWEST_ROWS = 4

_Gate = Callable[[Any, Tensor], Tensor]


def _function(act_fn: Any) -> tuple[str, float] | None:
    if act_fn is F.silu:
        return "silu", 1.0
    if type(act_fn) is nn.GELU:
        return _OF_GELU[act_fn.approximate], 1.0
    return _FUNCTIONS.get(type(act_fn))


def gate_of(experts: Any) -> Any:
    """The module's ``_apply_gate``: its own, set on the instance, or its class's function."""
    return experts.__dict__.get("_apply_gate", type(experts)._apply_gate)


def activation_of(experts: Any, width: int) -> Activation | None:
    """What :func:`moge_ops.grouped_mlp` may get for these experts; None where steps are needed.

    ``width`` is that of the first product, 2F with a gate.
    """
    if getattr(experts, "has_post_expert_norm", False):
        return None
    function = _function(getattr(experts, "act_fn", None))
    gate = gate_of(experts)
    if not experts.has_gate or gate is _experts_interface._default_apply_gate:
        if function is None:
            return None
        name, alpha = function
        gated = bool(experts.has_gate)
        return Activation(name, gated, gated and not experts.is_concatenated, alpha)
    if "_apply_gate" in experts.__dict__:
        return None  # it has no argument for the stand-in, and may be another in the next call
    numbers = []
    for name in (*_LIMITS, *_ALPHAS):
        value = getattr(experts, name, None)
        numbers.append(float(value) if isinstance(value, (int, float)) else None)
    # int: the size of a weight may be symbolic, which the cache cannot look up
    found = _of_gate(gate, function, tuple(numbers), int(width))
    return None if found is None else Activation(*found)


def _numbers(limits: set[float], width: int) -> Tensor:
    """``[n, width]`` float64: gates and ups on both sides of every limit, far and near.

    Half of the rows have all pairs of them in interleaved halves, half in halves one after the
    other.
    """
    near = [0.0, 1e-3, 0.02, 0.3, 0.7, 1.1, 1.9, 2.7, 4.3, 6.1, 8.7, 13.0, 55.0, 700.0]
    sizes = near + [limit * factor for limit in limits for factor in (0.45, 0.995, 1.005, 2.2)]
    values = [sign * size for size in sizes for sign in (1.0, -1.0)]
    pairs = torch.tensor(list(itertools.product(values, values)), dtype=torch.float64)
    F = width // 2
    rows = max(_FEWEST_ROWS, -(-len(pairs) // F))
    # shuffled anew for each repetition, so that each column meets different pairs
    random = torch.Generator().manual_seed(0)
    repetitions = -(-rows * F // len(pairs))
    order = torch.cat([torch.randperm(len(pairs), generator=random) for _ in range(repetitions)])
    chosen = pairs[order[: rows * F]].view(rows, F, 2)
    return torch.cat([chosen.flatten(1), chosen.mT.flatten(1)])


def _with_gradient(compute: Callable[[Tensor], Tensor], pre: Tensor) -> tuple[Tensor, Tensor]:
    x = pre.clone().requires_grad_()
    y = compute(x)
    seed = torch.linspace(0.5, 1.5, y.numel(), dtype=torch.float64).view(y.shape)
    (d_x,) = torch.autograd.grad(y, x, seed)
    return y.detach(), d_x


def _alike(got: Tensor, want: Tensor) -> bool:
    return got.shape == want.shape and torch.allclose(got, want, _TOLERANCE, _TOLERANCE)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _of_gate(*facts: Any) -> tuple[Any, ...] | None:
    """:func:`_compared`, which Dynamo is not to trace."""
    return _compared(*facts)


@functools.cache
def _compared(*facts: Any) -> tuple[Any, ...] | None:
    """:func:`_found` in a thread of its own.

    The answer is kept, so it must not depend on what the first caller is in. A new thread is in
    nothing: no fake tensors, no tracing, no transform of torch.func, no inference mode, no
    autocast, no default device, no kernel of an operator that has autograd off.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_found, *facts).result()


# the compiler's stance belongs to the process: one thread at a time changes it, and puts it back
_stance = threading.Lock()


def _found(
    gate: _Gate, function: tuple[str, float] | None, numbers: tuple[float | None, ...], width: int
) -> tuple[Any, ...] | None:
    """The one activation that computes what the gate computes, or None."""
    constants = dict(zip((*_LIMITS, *_ALPHAS), numbers, strict=True))
    known = {name: value for name, value in constants.items() if value is not None}
    # the operator takes no other limit; a model may say "none" by 0 or infinity
    limits = {known[name] for name in _LIMITS if 0.0 < known.get(name, 0.0) < math.inf}
    alphas = {1.0, *(known[name] for name in _ALPHAS if name in known)}
    names = NAMES if function is None else function[:1]
    stand_in = SimpleNamespace(**known)
    if function is not None:
        alphas.add(function[1])
        name, alpha = function
        stand_in.act_fn = lambda z: applied(z, Activation(name, False, alpha=alpha))
    if width < 2:
        return None  # no column has a gate and an up half
    pre = _numbers(limits, width)
    try:
        # a gate that calls torch.compile would wait for Dynamo's lock, which the thread that waits
        # for this one holds where it is tracing
        with _stance, torch.compiler.set_stance("force_eager"):
            y, d_pre = _with_gradient(functools.partial(gate, stand_in), pre)
    except Exception:
        # whatever a gate raises here, from a lookup in what the stand-in lacks to a check of its
        # own, the module itself may well run: in steps, where its own errors are seen
        return None
    candidates = [
        Activation(name, True, interleaved, alpha, limit, shift)
        for name in names
        for interleaved in ((False, True) if width > 2 else (False,))  # of one column: the same
        for alpha in (alphas if name == "silu" else (1.0,))
        for limit in (None, *limits)
        for shift in (0.0, 1.0)
    ]
    matching = []
    for candidate in candidates:
        compute = functools.partial(applied, activation=candidate)
        if _alike(y, compute(pre)) and _alike(d_pre, _with_gradient(compute, pre)[1]):
            matching.append(tuple(candidate))
    return matching[0] if len(matching) == 1 else None
