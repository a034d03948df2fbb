"""Which activation of :func:`moge_ops.grouped_mlp` an experts module of transformers has, if any.

A module may have a gate of its own, ``_apply_gate``, which may compute anything. It is called once,
on numbers that lie apart, and compared with what the operator would compute and differentiate.
Called it is with a stand-in for the module that has the module's constants, and nothing else: a
gate that looks at more, such as a parameter, is not known here, and neither is one that differs.
"""

import functools
import itertools
from collections.abc import Callable
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
# the constants that gates of transformers 5.24 look at
_LIMITS, _ALPHAS = ("limit", "swiglu_limit"), ("alpha", "swiglu_alpha")
# a gate may compute in float32
_TOLERANCE = 1e-5

_Gate = Callable[[Any, Tensor], Tensor]


def _function(act_fn: Any) -> tuple[str, float] | None:
    if act_fn is F.silu:
        return "silu", 1.0
    if type(act_fn) is nn.GELU:
        return _OF_GELU[act_fn.approximate], 1.0
    return _FUNCTIONS.get(type(act_fn))


def activation_of(experts: Any) -> Activation | None:
    """What :func:`moge_ops.grouped_mlp` may get for these experts; None where steps are needed."""
    if getattr(experts, "has_post_expert_norm", False):
        return None
    function = _function(getattr(experts, "act_fn", None))
    gate = type(experts)._apply_gate
    if not experts.has_gate or gate is _experts_interface._default_apply_gate:
        if function is None:
            return None
        name, alpha = function
        gated = bool(experts.has_gate)
        return Activation(name, gated, gated and not experts.is_concatenated, alpha)
    numbers = []
    for name in (*_LIMITS, *_ALPHAS):
        value = getattr(experts, name, None)
        numbers.append(float(value) if isinstance(value, (int, float)) else None)
    found = _of_gate(gate, function, tuple(numbers))
    return None if found is None else Activation(*found)


def _pairs(limits: set[float]) -> Tensor:
    """``[n, 6]`` float64: gates and ups on both sides of every limit, far and near."""
    near = [0.0, 1e-3, 0.02, 0.3, 0.7, 1.1, 1.9, 2.7, 4.3, 6.1, 8.7, 13.0, 55.0, 700.0]
    sizes = near + [limit * factor for limit in limits for factor in (0.45, 0.995, 1.005, 2.2)]
    values = [sign * size for size in sizes for sign in (1.0, -1.0)]
    pairs = torch.tensor(list(itertools.product(values, values)), dtype=torch.float64, device="cpu")
    # in another order, so that each of three columns meets different numbers
    order = torch.arange(len(pairs), device="cpu") * 7919 % len(pairs)
    pairs = pairs[order]
    return pairs[: len(pairs) // 3 * 3].reshape(-1, 6)


def _with_gradient(compute: Callable[[Tensor], Tensor], pre: Tensor) -> tuple[Tensor, Tensor]:
    x = pre.clone().requires_grad_()
    y = compute(x)
    seed = torch.linspace(0.5, 1.5, y.numel(), dtype=torch.float64, device="cpu").view(y.shape)
    (d_x,) = torch.autograd.grad(y, x, seed)
    return y.detach(), d_x


def _computed(candidate: Activation, pre: Tensor) -> Tensor:
    return applied(pre, candidate)


def _alike(got: Tensor, want: Tensor) -> bool:
    return got.shape == want.shape and torch.allclose(got, want, _TOLERANCE, _TOLERANCE)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _of_gate(*facts: Any) -> tuple[Any, ...] | None:
    """:func:`_compared`, which Dynamo is not to trace."""
    return _compared(*facts)


@functools.cache
def _compared(
    gate: _Gate, function: tuple[str, float] | None, numbers: tuple[float | None, ...]
) -> tuple[Any, ...] | None:
    """The one activation that computes what the gate computes, or None."""
    constants = dict(zip((*_LIMITS, *_ALPHAS), numbers, strict=True))
    known = {name: value for name, value in constants.items() if value is not None}
    limits = {known[name] for name in _LIMITS if name in known}
    alphas = {1.0, *(known[name] for name in _ALPHAS if name in known)}
    names = NAMES if function is None else function[:1]
    stand_in = SimpleNamespace(**known)
    if function is not None:
        alphas.add(function[1])
        name, alpha = function
        stand_in.act_fn = lambda z: applied(z, Activation(name, False, alpha=alpha))
    candidates = [
        Activation(name, True, interleaved, alpha, limit, shift)
        for name in names
        for interleaved in (False, True)
        for alpha in (alphas if name == "silu" else (1.0,))
        for limit in (None, *limits)
        for shift in (0.0, 1.0)
    ]
    with torch.inference_mode(False), torch.enable_grad():
        pre = _pairs(limits)
        try:
            y, d_pre = _with_gradient(lambda x: gate(stand_in, x), pre)
        except (AttributeError, TypeError, RuntimeError):  # it looks at more than there is
            return None
        matching = []
        for candidate in candidates:
            want, d_want = _with_gradient(functools.partial(_computed, candidate), pre)
            if _alike(y, want) and _alike(d_pre, d_want):
                matching.append(tuple(candidate))
    return matching[0] if len(matching) == 1 else None
