"""The native CPU kernels with every activation, biases and a series: bits, sizes, quantisation.

What every backend must do is in test_activations.py; here is what these kernels could get wrong.
"""

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import moge_ops
from moge_ops import Activation
from moge_ops._extensions import cpu_level, cpu_levels
from moge_ops.ops.route import Routing
from moge_ops.reference.grouped_mlp import grouped_mlp as oracle
from moge_ops.testing import assert_matches

if cpu_level().startswith("off"):
    pytest.skip(f"no native kernels: {cpu_level()}", allow_module_level=True)

LEVELS = [level for level, missing in cpu_levels() if not missing]
native = pytest.mark.parametrize("device", [f"cpu_{level}" for level in LEVELS], indirect=True)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HALVES = [Activation("gelu"), Activation("relu2", gated=False)]  # no limit, where rounding jumps
GPT_OSS = Activation(interleaved=True, alpha=1.702, limit=0.9, shift=1.0)
CHOICES = [GPT_OSS, Activation("gelu_tanh"), Activation(gated=False), Activation("relu", limit=0.7)]
# rows of each expert, H, F: lines and panels, of few blocks, whose columns are divided, and of many
DIVIDED = {
    "one-block-in-parts": ([40], 96, 101),
    "few-rows-in-parts": ([1, 2, 1, 0], 200, 165),
    "many-blocks": ([70, 130, 1, 64, 65, 200, 0, 33, 5, 9], 48, 41),
}


def name(activation: Activation) -> str:
    return "-".join(str(part) for part in activation if part not in (None, 0.0))


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def route_of(counts: list[int], dropped: int = 2) -> Routing:
    """A shuffled routing in which expert e has the e-th number of rows; some slots have no row."""
    ids = torch.repeat_interleave(torch.tensor([*counts, dropped]))
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(len(ids)))
    return moge_ops.route(ids[order, None].int(), len(counts))


def make(
    counts: list[int],
    H: int,
    F: int,
    dtype: torch.dtype,
    activation: Activation,
    series: Tensor | None = None,
) -> tuple[dict[str, Tensor], Routing]:
    """Inputs of the expert layer, with biases."""
    routing, E = route_of(counts), len(counts)
    T, O = routing.slot_to_row.shape[0], 2 * F if activation.gated else F
    args = {
        "x": draw(1, T, H).to(dtype),
        "w_gate_up": draw(2, E, O, H).div(max(H, 1) ** 0.5).to(dtype),
        "w_down": draw(3, E, H, F).div(max(F, 1) ** 0.5).to(dtype),
        "weights": draw(4, T, 1).abs() + 0.1,
        "b_gate_up": draw(5, E, O).div(2).to(dtype),
        "b_down": draw(6, E, H).to(dtype),
    }
    return (args if series is None else args | {"series": series}), routing


def call(
    args: dict[str, Tensor], routing: Routing, activation: Activation
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The layer's result, and its gradients."""
    leaves = {k: v.detach().requires_grad_() for k, v in args.items()}
    y = moge_ops.grouped_mlp(routing=routing, activation=activation, **leaves)
    d_y = draw(7, *y.shape).to(y.dtype)
    return y.detach(), torch.autograd.grad(y, list(leaves.values()), d_y)


def check(args: dict[str, Tensor], routing: Routing, activation: Activation) -> None:
    """The result and every gradient against the oracle's; sums by what they add."""
    y, got = call(args, routing, activation)
    wide = {k: v.detach().double().requires_grad_() for k, v in args.items()}
    y64 = oracle(**wide, **routing._asdict(), activation=activation)
    assert_matches(y, y64, "y")
    d_y = draw(7, *y.shape).to(y.dtype).double()
    want = torch.autograd.grad(y64, list(wide.values()), d_y)
    for what, d, d64 in zip(args, got, want, strict=True):
        rounded = d.to(y.dtype)
        scale = max(d64.square().mean().sqrt().item(), 1.0) if what == "series" else None
        # in half precision an activation is made again of a rounded pre-activation
        slack = 1.5 if y.dtype is torch.float32 and scale is None else 3.0
        assert_matches(rounded, d64, f"d_{what}", scale=scale, slack=slack)


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


SERIES = torch.tensor(
    [[0.7, 0.5, -0.2, 0.1, 0.3, -0.4, 0.2, 0.6], [0, 1, -1.5, 0.3, 2, -1, 0.5, -3]]
)


@native
@pytest.mark.parametrize("activation", [*CHOICES, Activation()], ids=name)
@pytest.mark.parametrize("sizes", DIVIDED)
def test_the_bits_are_the_same_for_any_number_of_threads_and_right(
    sizes: str, activation: Activation, device: str
) -> None:
    series = SERIES if activation.name == "silu" else None
    for dtype in DTYPES:
        args, routing = make(*DIVIDED[sizes], dtype, activation, series)
        alone = None
        for number in (1, 2, 3, 3):
            with threads(number):
                y, gradients = call(args, routing, activation)
            found = [y, *gradients]
            alone = alone or found
            assert all(map(torch.equal, found, alone)), number
        if dtype is torch.float32:
            check(args, routing, activation)


@native
@pytest.mark.parametrize("activation", HALVES, ids=name)
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_half_precision(activation: Activation, dtype: torch.dtype, device: str) -> None:
    for sizes in DIVIDED.values():
        check(*make(*sizes, dtype, activation), activation)


@native
@pytest.mark.parametrize("interleaved", [False, True])
def test_tails_of_every_length(interleaved: bool, device: str) -> None:
    """Of F, where gate and up are parted, with lines and with panels; and blocks of any size."""
    activation = Activation("gelu_tanh", interleaved=interleaved, shift=0.5)
    for F in (1, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 33, 40, 63, 65, 71):
        check(*make([20, 0, 2, 40], 6, F, torch.float32, activation), activation)
    for rows in (1, 2, 8, 9, 16, 31, 32, 33, 64, 65, 97, 130):
        check(*make([0, rows, 0], 18, 21, torch.float32, activation), activation)


@native
@pytest.mark.parametrize("activation", CHOICES, ids=name)
def test_weights_before_the_down_projection(activation: Activation, device: str) -> None:
    args, routing = make([20, 0, 40], 18, 21, torch.float32, activation)
    del args["b_down"]  # which is no part of the activation
    options: dict[str, Any] = {"activation": activation, "weight_on": "activation"}
    y = moge_ops.grouped_mlp(routing=routing, **args, **options)
    wide = {k: v.double() for k, v in args.items()}
    assert_matches(y, oracle(**wide, **routing._asdict(), **options), "y")
    relu, routing = Activation("relu", gated=False), moge_ops.route(torch.zeros(1, 1).int(), 1)
    large = [torch.full(shape, x).half() for shape, x in (((1, 1), 1), ((1, 1, 1), 2.0**15))]
    rest = (torch.full((1, 1, 1), 2.0).half(), torch.full((1, 1), 0.25), routing)
    for weight_on, want in (("activation", 2.0**14), ("output", math.inf)):  # a row of 2^16
        y = moge_ops.grouped_mlp(*large, *rest, activation=relu, weight_on=weight_on)
        assert y.item() == want


@native
def test_a_bias_has_the_sum_of_blocks_that_are_not_rounded(device: str) -> None:
    """Of those that cancel, what is left is too little for bfloat16 beside each."""
    T = 512
    routing = moge_ops.route(torch.zeros(T, 1).int(), 1)
    weights, d_y = torch.ones(T, 1), torch.ones(T, 1).bfloat16()
    weights[: T // 2 : 64], d_y[T // 2 :] = 1.25, -1.0
    x, one = torch.zeros(T, 1).bfloat16(), torch.ones(1, 1, 1).bfloat16()
    b_down = torch.zeros(1, 1).bfloat16().requires_grad_()
    relu = Activation("relu", gated=False)
    y = moge_ops.grouped_mlp(x, one, one, weights, routing, b_down=b_down, activation=relu)
    (d,) = torch.autograd.grad(y, b_down, d_y)
    assert d.item() == 1.0


@native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layouts_of_the_biases(dtype: torch.dtype, device: str) -> None:
    args, routing = make([20, 0, 2, 9], 19, 21, dtype, GPT_OSS)
    y, gradients = call(args, routing, GPT_OSS)
    other = dict(args)
    for what in ("b_gate_up", "b_down"):
        rows, columns = args[what].shape
        room = torch.full((rows, columns + 5), math.nan, dtype=dtype)
        other[what] = room[:, 2:-3].copy_(args[what])
    other["b_down"] = other["b_down"].mT.contiguous().mT
    y_other, gradients_other = call(other, routing, GPT_OSS)
    assert torch.equal(y, y_other)
    assert all(map(torch.equal, gradients, gradients_other))


@native
def test_a_layer_without_columns_has_its_bias(device: str) -> None:
    for counts, H, F in (([3, 0, 40], 24, 0), ([3, 4], 0, 8), ([0, 0], 8, 8)):
        args, routing = make(counts, H, F, torch.float32, Activation("gelu"))
        check(args, routing, Activation("gelu"))


@native
def test_the_error_function_is_good_to_rounding(device: str) -> None:
    """Expert and token of one number: y is the activation itself."""
    x = torch.cat([torch.linspace(-13.0, 9.0, 20_001), torch.linspace(-1, 1, 2001) * 1e-3])
    routing = moge_ops.route(torch.zeros(len(x), 1).int(), 1)
    one, weights = torch.ones(1, 1, 1), torch.ones(len(x), 1)
    leaf = x[:, None].clone().requires_grad_()
    gelu = Activation("gelu", gated=False)
    y = moge_ops.grouped_mlp(leaf, one, one, weights, routing, activation=gelu)
    (d,) = torch.autograd.grad(y, leaf, torch.ones_like(y))
    numbers = x.double().tolist()
    # erfc, since 1 + erf has nothing left far below 0
    below = torch.tensor([0.5 * math.erfc(-z / math.sqrt(2)) for z in numbers]).double()
    density = torch.tensor([math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi) for z in numbers])
    want = x.double() * below
    eps = torch.finfo(torch.float32).eps
    error = (y.detach()[:, 0].double() - want).abs()
    near = x.abs() < 0.7
    assert (error[near] <= 1.5 * eps * want[near].abs()).all()
    # the exponent's own rounding grows with x^2
    allowed = eps * (3.0 + 0.5 * x.double().square()) * want.abs() + 1e-37
    assert (error <= allowed).all()
    assert (error[x > 0] <= 2.0 * eps * want[x > 0]).all()
    slope = below + x.double() * density.double()
    assert ((d[:, 0].double() - slope).abs() <= 3.0 * eps).all()


@native
@pytest.mark.parametrize("function", ["silu", "gelu", "gelu_tanh", "relu", "relu2"])
def test_activations_at_the_ends(function: str, device: str) -> None:
    """Where torch has an infinity or a NaN so have these, and it stays in its row."""
    ends = torch.tensor([0.0, -0.0, 1e-30, 15.0, -15.0, 88.0, -88.0, 200.0, -200.0])
    x = torch.cat([ends, torch.tensor([math.nan])])[:, None]
    routing = moge_ops.route(torch.zeros(len(x), 1).int(), 1)
    args = {"w_gate_up": torch.ones(1, 1, 1), "w_down": torch.ones(1, 1, 1)}
    args |= {"x": x, "weights": torch.ones(len(x), 1)}
    activation = Activation(function, gated=False)
    leaf = x.clone().requires_grad_()
    y = moge_ops.grouped_mlp(**(args | {"x": leaf}), routing=routing, activation=activation)
    (d,) = torch.autograd.grad(y, leaf, torch.ones_like(y))
    leaf64 = x.double().requires_grad_()
    wide = {k: v.double() for k, v in args.items()} | {"x": leaf64}
    y64 = oracle(**wide, **routing._asdict(), activation=activation)
    (d64,) = torch.autograd.grad(y64, leaf64, torch.ones_like(y64))
    for got, want in ((y, y64), (d, d64)):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-30, equal_nan=True)


@native
def test_the_derivative_at_the_limit_is_that_of_below(device: str) -> None:
    """As torch's clamp has it, at either side of up."""
    x = torch.tensor([[0.5, 0.5], [2.0, 0.5], [2.5, 0.5], [0.5, 2.0], [0.5, -2.0], [0.5, -2.5]])
    routing = moge_ops.route(torch.zeros(len(x), 1).int(), 1)
    for interleaved in (False, True):
        activation = Activation(limit=2.0, shift=1.0, interleaved=interleaved)
        leaf = x.clone().requires_grad_()
        w_gate_up = torch.eye(2)[None]
        w_down, weights = torch.ones(1, 2, 1), torch.ones(len(x), 1)
        args = (w_gate_up, w_down, weights, routing)
        y = moge_ops.grouped_mlp(leaf, *args, activation=activation)
        (d,) = torch.autograd.grad(y.sum(), leaf)
        assert (d != 0).tolist() == [
            *([True, True], [True, True], [False, True]),  # the gate at its limit, and beyond
            *([True, True], [True, True], [True, False]),
        ]


SCHEMES = ["int8_w8a8", "int8_w8a16", "int4_w4a16", "fp8_w8a16", "mxfp4_w4a16"]


@native
@pytest.mark.parametrize("activation", CHOICES[:3], ids=name)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantised_weights(scheme: str, activation: Activation, device: str) -> None:
    """Forward against the oracle of the same numbers, and the gradients of what has any."""
    series = SERIES[:, :3] if activation.name == "silu" else None
    for counts in ([3, 0, 40], [70, 1, 5]):
        args, routing = make(counts, 64, 96, torch.float32, activation, series)
        for what in ("w_gate_up", "w_down"):
            args[what] = moge_ops.quant.quantize(args[what], scheme)  # type: ignore[assignment]
        names = [k for k, v in args.items() if isinstance(v, Tensor)]
        leaves: dict[str, Any] = dict(args)
        wide: dict[str, Any] = dict(args)
        for k in names:
            leaves[k] = args[k].clone().requires_grad_()
            wide[k] = args[k].double().requires_grad_()
        y = moge_ops.grouped_mlp(routing=routing, activation=activation, **leaves)
        y64 = oracle(**wide, **routing._asdict(), activation=activation, dtype=torch.float32)
        # a number that rounds to the integer beside it changes a row by a step
        slack = 200.0 if scheme == "int8_w8a8" else 1.5
        assert_matches(y, y64, "y", slack=slack)
        d_y = draw(7, *y.shape)
        got = torch.autograd.grad(y, [leaves[k] for k in names], d_y)
        want = torch.autograd.grad(y64, [wide[k] for k in names], d_y.double())
        for k, d, d64 in zip(names, got, want, strict=True):
            scale = max(d64.square().mean().sqrt().item(), 1.0) if k == "series" else None
            assert_matches(d, d64, f"d_{k}", scale=scale, slack=4000.0 if slack > 2 else 3.0)


@native
def test_a_quantised_layer_without_columns_has_its_bias(device: str) -> None:
    args, routing = make([3, 0, 4], 24, 0, torch.float32, Activation(), SERIES)
    wide = {k: v.double() for k, v in args.items()}
    want = oracle(**wide, **routing._asdict())
    for what in ("w_gate_up", "w_down"):
        args[what] = moge_ops.quant.quantize(args[what], "int8_w8a8")  # type: ignore[assignment]
    leaves = [args[k].requires_grad_() for k in ("b_down", "series")]
    y = moge_ops.grouped_mlp(routing=routing, **args)
    assert_matches(y, want, "y")
    d, d_series = torch.autograd.grad(y.sum(), leaves)
    assert torch.equal(d_series, torch.zeros_like(SERIES))
    rows = routing.row_to_slot[: routing.offsets[-1]]
    each = args["weights"].flatten()[rows].tensor_split(routing.offsets[1:-1].tolist())
    torch.testing.assert_close(d, torch.stack([w.sum() for w in each])[:, None].expand_as(d))


def test_the_extension_refuses_a_series_that_is_too_long() -> None:
    launch = importlib.import_module("moge_ops.cpu_kernels.grouped_mlp")
    args, routing = make([3], 8, 8, torch.float32, Activation())
    parts = [args[k] for k in ("x", "w_gate_up", "w_down", "weights")]
    with pytest.raises(ValueError, match="series must have 1 to 8 terms, got 9"):
        launch.grouped_mlp_fwd(*parts, *routing, "output", False, series=torch.ones(2, 9))
