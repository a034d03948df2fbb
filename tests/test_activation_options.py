"""Activations, biases and a series with what else grouped_mlp takes: autocast, compilation, other
derivatives, quantised weights and mixes of them, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jvp, vjp, vmap

import moge_ops
from moge_ops import Activation
from moge_ops.ops.grouped_mlp import grouped_mlp
from moge_ops.ops.route import Routing, route
from moge_ops.quant import quantize
from moge_ops.reference.grouped_mlp import grouped_mlp as oracle
from moge_ops.testing import assert_matches

T, H, F, E, K = 5, 24, 16, 4, 2
GPT_OSS = Activation(interleaved=True, alpha=1.702, limit=7.0, shift=1.0)
CHOICES = [
    pytest.param(GPT_OSS, False, id="gpt-oss"),
    pytest.param(Activation("gelu"), False, id="geglu"),
    pytest.param(Activation("relu2", gated=False), False, id="relu2"),
    pytest.param(Activation(), True, id="series"),
]
Check = Callable[[Any, tuple[Any, ...]], object]
NAMES = ("x", "w_gate_up", "w_down", "weights", "b_gate_up", "b_down", "series")


def make(activation: Activation, series: bool, width: int = F, hidden: int = H) -> list[Tensor]:
    """Tensors in the order of NAMES, the series only if asked for."""
    O = 2 * width if activation.gated else width
    args = [
        torch.randn(T, hidden),
        torch.randn(E, O, hidden) / hidden**0.5,
        torch.randn(E, hidden, width) / width**0.5,
        torch.rand(T, K) + 0.1,
        torch.randn(E, O) / 2,
        torch.randn(E, hidden) / 2,
    ]
    return [*args, torch.tensor([[0.7, 0.5], [0.0, 1.0]])] if series else args


def routing(device: str = "cpu", last: int = -1) -> Routing:
    """Drops the last slot, unless it has an expert."""
    ids = torch.tensor([[0, 3], [3, 1], [2, 3], [0, 0], [1, last]]).int()
    return route(ids.to(device), E)


def call(activation: Activation, device: str) -> Callable[..., Tensor]:
    r = routing(device)

    def f(*tensors: Tensor) -> Tensor:
        args = dict(zip(NAMES, tensors, strict=False))
        return grouped_mlp(**args, routing=r, activation=activation)

    return f


@pytest.mark.slow
@pytest.mark.parametrize(("activation", "series"), [CHOICES[0], CHOICES[3]])
def test_opcheck(activation: Activation, series: bool, device: str, opcheck: Check) -> None:
    tensors = [t.to(device).requires_grad_() for t in make(activation, series)]
    x, up, down, weights, b_gate_up, b_down, *terms = tensors
    terms = terms or [None]
    r = routing(device, last=2)  # the rows of dropped slots are not written
    forward = (x, up, down, weights, *r, "output", True, *activation, b_gate_up, b_down, *terms)
    opcheck(torch.ops.moge_ops.grouped_mlp, forward)
    pre, d_y = torch.randn(T * K, up.shape[1], device=device), torch.randn(T, H, device=device)
    kept = [t.detach() for t in (d_y, x, up, down, weights)]
    terms = [None if t is None else t.detach() for t in terms]
    backward = (*kept, *r, pre, True, True, *activation, b_down.detach(), *terms, True, series)
    opcheck(torch.ops.moge_ops.grouped_mlp_bwd, backward)


@pytest.mark.slow
def test_opcheck_of_quantised_experts(device: str, opcheck: Check) -> None:
    scheme = "int8_w8a16"
    x, up, down, weights, b_gate_up, b_down = (t.to(device) for t in make(GPT_OSS, False))
    up, down = quantize(up, scheme), quantize(down, scheme)
    leaves = [t.requires_grad_() for t in (x, weights, b_gate_up, b_down)]
    r = routing(device, last=2)  # the rows of dropped slots are not written
    fixed = (scheme, up.group_size, down.group_size)
    forward = (*(leaves[0], *up[:3], *down[:3], leaves[1], *r, *fixed, "output", True),)
    opcheck(torch.ops.moge_ops.grouped_mlp_quantized, (*forward, *GPT_OSS, *leaves[2:], None))
    pre, d_y = torch.randn(T * K, 2 * F, device=device), torch.randn(T, H, device=device)
    backward = (d_y, *up[:3], *down[:3], weights.detach(), *r, pre, *fixed, True, *GPT_OSS)
    rest = (b_down.detach(), None, True)
    opcheck(torch.ops.moge_ops.grouped_mlp_quantized_bwd, (*backward, *rest))


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize(("activation", "series"), CHOICES)
def test_compiles_whole(activation: Activation, series: bool, device: str) -> None:
    args = [t.to(device).requires_grad_() for t in make(activation, series)]
    f = call(activation, device)
    torch._dynamo.reset()
    results = []
    for g in (torch.compile(f, fullgraph=True, backend="aot_eager"), f):
        y = g(*args)
        results.append([y, *torch.autograd.grad(y.square().sum(), args)])
    assert all(torch.equal(got, want) for got, want in zip(*results, strict=True))


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize(("activation", "series"), CHOICES)
def test_autocast_casts_the_biases_too(activation: Activation, series: bool, device: str) -> None:
    args = [t.to(device).requires_grad_() for t in make(activation, series)]
    f = call(activation, device)
    with torch.autocast(device, torch.bfloat16):
        y = f(*args)
        gradients = torch.autograd.grad(y.float().sum(), args)
    assert y.dtype is torch.bfloat16
    assert [d.dtype for d in gradients] == [t.dtype for t in args]
    kept = {3, 6}  # routing weights and the series are not rounded
    low = [t.detach() if i in kept else t.detach().bfloat16() for i, t in enumerate(args)]
    assert torch.equal(y, f(*low))


@pytest.mark.parametrize(("activation", "series"), CHOICES)
def test_other_derivatives(activation: Activation, series: bool) -> None:
    args = tuple(t.double() for t in make(activation, series))
    f = call(activation, "cpu")
    leaves = [t.clone().requires_grad_() for t in args]
    y = f(*leaves)
    d_y = torch.randn_like(y)
    want = torch.autograd.grad(y, leaves, d_y)
    got = vjp(f, *args)[1](d_y)
    for name, a, b in zip(NAMES, got, want, strict=False):
        torch.testing.assert_close(a, b, msg=f"d_{name}")
    tangents = tuple(map(torch.randn_like, args))
    slope = (jvp(f, args, tangents)[1] * d_y).sum()
    by_hand = sum((d * t).sum() for d, t in zip(want, tangents, strict=True))
    torch.testing.assert_close(slope, by_hand)
    some = torch.stack([args[5], -args[5]])  # of b_down
    rest = args[6:]
    mapped = vmap(lambda b: f(*args[:5], b, *rest))(some)
    torch.testing.assert_close(mapped[0], y.detach())
    each = vmap(grad(lambda b: (f(*args[:5], b, *rest) * d_y).sum()))(some)
    torch.testing.assert_close(each[0], want[5])


def test_the_second_derivative_of_a_series() -> None:
    args = [t.double() for t in make(Activation(), True)]
    f = call(Activation(), "cpu")

    def loss(series: Tensor) -> Tensor:
        return f(*args[:6], series).square().sum()

    got, step = hessian(loss)(args[6])[1, 1], torch.zeros(2, 2).double()  # of the second shift
    step[1, 1] = 1e-4
    want = (grad(loss)(args[6] + step) - grad(loss)(args[6] - step)) / 2e-4
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)


QUANTISED = [
    ("mxfp4_w4a16", "mxfp4_w4a16"),
    ("int8_w8a8", "int8_w8a8"),
    ("int8_w8a16", None),
    (None, "int8_w8a8"),
    ("int8_w8a16", "int8_w8a8"),
]


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize(("up", "down"), QUANTISED)
@pytest.mark.parametrize(("activation", "series"), [CHOICES[0], CHOICES[2], CHOICES[3]])
def test_quantised_weights_and_mixes(
    activation: Activation, series: bool, up: str | None, down: str | None, device: str
) -> None:
    args = dict(zip(NAMES, make(activation, series, 32, 64), strict=False))
    stored = {
        name: args.pop(name) if scheme is None else quantize(args.pop(name), scheme)
        for name, scheme in (("w_gate_up", up), ("w_down", down))
    }
    leaves = {name: t.to(device).requires_grad_() for name, t in args.items()}
    there = {name: w.to(device) for name, w in stored.items()}
    y = grouped_mlp(**leaves, **there, routing=routing(device), activation=activation)
    wide = {name: t.double().requires_grad_() for name, t in args.items()}
    options = {"activation": activation, "dtype": torch.float32}
    weights = {n: w.double() if isinstance(w, Tensor) else w for n, w in stored.items()}
    y64 = oracle(**wide, **weights, **routing()._asdict(), **options)
    # a number at the edge of two integers may go either way
    slack = 50.0 if "int8_w8a8" in (up, down) else 1.0
    assert_matches(y, y64, "y", slack=slack)
    d_y = torch.randn(y.shape)
    got = torch.autograd.grad(y, list(leaves.values()), d_y.to(device))
    want = torch.autograd.grad(y64, list(wide.values()), d_y.double())
    for name, d, d64 in zip(args, got, want, strict=True):
        if name == "weights" and up != down and down == "int8_w8a8":
            # part by part it is the product of d_y and what came out, rounding and all
            torch.testing.assert_close(d.double().cpu(), d64, rtol=0.1, atol=0.3)
            continue
        assert_matches(d, d64, f"d_{name}", slack=slack)


@pytest.mark.parametrize("name", ["x", "b_gate_up", "b_down", "series"])
def test_rejects_what_is_no_tensor(name: str) -> None:
    args: dict[str, Any] = dict(zip(NAMES, make(Activation(), True), strict=True))
    args[name] = args[name].tolist()
    with pytest.raises(TypeError, match=f"{name} must be a Tensor.*, got list"):
        moge_ops.grouped_mlp(**args, routing=routing())


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"b_gate_up": torch.ones(4, 31)}, ValueError, r"b_gate_up must be \[E, 2F\]"),
        ({"b_down": torch.ones(3, H)}, ValueError, r"b_down must be \[E, H\]"),
        ({"b_down": torch.ones(E, H).half()}, TypeError, "b_down must have the dtype of x"),
    ],
)
def test_rejects_biases_beside_quantised_weights(
    options: dict[str, Any], error: type[Exception], said: str
) -> None:
    x, up, down, weights, *_ = make(Activation(), False)
    with pytest.raises(error, match=said):
        grouped_mlp(
            x,
            quantize(up, "int8_w8a16"),
            quantize(down, "int8_w8a16"),
            weights,
            routing(),
            **options,
        )
