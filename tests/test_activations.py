"""grouped_mlp with every activation and with biases agrees with its oracle, on every backend."""

import copy
import pickle
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import moge_ops
from moge_ops import Activation
from moge_ops.ops._activation import NAMES
from moge_ops.ops.grouped_mlp import grouped_mlp
from moge_ops.ops.route import Routing, route
from moge_ops.quant import quantize
from moge_ops.reference._activation import activate
from moge_ops.reference.grouped_mlp import grouped_mlp as oracle
from moge_ops.testing import assert_matches
from moge_ops.torch_kernels._activation import Choice, activation_fwd

GPT_OSS = Activation(interleaved=True, alpha=1.702, limit=0.7, shift=1.0)
CHOICES = [
    pytest.param(Activation(), False, id="swiglu"),
    pytest.param(Activation(), True, id="series"),
    pytest.param(Activation(gated=False), True, id="series-without-gate"),
    pytest.param(GPT_OSS, False, id="gpt-oss"),
    pytest.param(Activation(limit=0.5), False, id="clamped-swiglu"),
    pytest.param(Activation("gelu"), False, id="geglu"),
    pytest.param(Activation("gelu_tanh", interleaved=True), False, id="geglu-tanh-interleaved"),
    pytest.param(Activation("relu2", gated=False), False, id="relu2"),
    pytest.param(Activation("relu", limit=0.6), False, id="clamped-reglu"),
    pytest.param(Activation("gelu", gated=False, limit=0.4), False, id="gelu"),
]
GRADIENTS = ("x", "w_gate_up", "w_down", "weights", "b_gate_up", "b_down", "series")


def make(
    T: int, H: int, E: int, K: int, F: int, activation: Activation, series: bool, biases: bool
) -> dict[str, Tensor]:
    O = 2 * F if activation.gated else F
    args = {
        "x": torch.randn(T, H),
        "w_gate_up": torch.randn(E, O, H) / H**0.5,
        "w_down": torch.randn(E, H, F) / max(F, 1) ** 0.5,
        "weights": torch.rand(T, K) + 0.1,
    }
    if biases:
        args |= {"b_gate_up": torch.randn(E, O) / 2, "b_down": torch.randn(E, H) / 2}
    if series:
        args["series"] = torch.tensor([[0.7, 0.5, -0.2], [0.0, 1.0, -1.5]])
    return args


def clear(activation: Activation, args: dict[str, Tensor], routing: Routing) -> Activation:
    """The activation with a limit that no number comes near, where rounding would cross it.

    The derivative of a clamp jumps there, so that no tolerance would hold.
    """
    if activation.limit is None:
        return activation
    rows = args["x"][routing.row_to_slot // routing.slot_to_row.shape[1]]
    spans = pairwise(routing.offsets.tolist())
    pre = [rows[a:b] @ w.T for (a, b), w in zip(spans, args["w_gate_up"], strict=True)]
    biases = args["b_gate_up"].repeat_interleave(routing.offsets.diff(), dim=0)
    sizes = (torch.cat(pre) + biases).abs().flatten().sort().values
    sizes = sizes[(sizes > 0.3) & (sizes < 1.5)]
    widest = int(sizes.diff().argmax())
    assert sizes.diff()[widest] > 0.02
    return activation._replace(limit=float(sizes[widest : widest + 2].mean()))


def check(
    args: dict[str, Tensor],
    routing: Routing,
    activation: Activation,
    device: str,
    dtype: torch.dtype,
    weight_on: str = "output",
) -> None:
    options: dict[str, Any] = {"activation": activation, "weight_on": weight_on}
    kept = ("weights", "series")  # never rounded
    low = {k: v if k in kept else v.to(dtype) for k, v in args.items()}
    got_args = {k: v.to(device).requires_grad_() for k, v in low.items()}
    on_device = Routing(*(part.to(device) for part in routing))
    y = grouped_mlp(routing=on_device, **got_args, **options)
    wide = {k: v.double().requires_grad_() for k, v in low.items()}
    y64 = oracle(**wide, **routing._asdict(), **options)
    assert_matches(y, y64, "y")
    d_y = torch.randn(y.shape).to(dtype)
    got = torch.autograd.grad(y, list(got_args.values()), d_y.to(device))
    want = torch.autograd.grad(y64, list(wide.values()), d_y.double())
    for name, d, d64 in zip(args, got, want, strict=True):
        if name in kept:
            scale = d64.square().mean().sqrt().item() if d64.numel() else None
            # the square of relu2 doubles what rounding did to the saved pre-activation
            slack = 1.5 if activation.name == "relu2" and dtype is torch.bfloat16 else 1.0
            assert_matches(d.to(dtype), d64, f"d_{name}", scale=scale, slack=slack)
        else:
            assert_matches(d, d64, f"d_{name}")


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("biases", [False, True], ids=["plain", "biases"])
@pytest.mark.parametrize(("activation", "series"), CHOICES)
def test_matches_the_oracle(
    activation: Activation, series: bool, biases: bool, device: str
) -> None:
    ids = torch.tensor([[0, 3], [3, 1], [9, 3], [0, 0], [1, -1], [3, 3], [0, 1]]).int()
    args = make(7, 24, 4, 2, 20, activation, series, biases)
    check(args, route(ids, 4), activation, device, torch.float32)


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("activation", "series"), CHOICES)
def test_matches_the_oracle_in_half_precision(
    activation: Activation, series: bool, dtype: torch.dtype, device: str
) -> None:
    ids = torch.tensor([[0, 3], [3, 1], [2, 3], [0, 0], [1, 2]]).int()
    args, routing = make(5, 40, 4, 2, 12, activation, series, True), route(ids, 4)
    check(args, routing, clear(activation, args, routing), device, dtype)


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize(
    "activation",
    [
        pytest.param(Activation(alpha=1.702), id="alpha"),
        pytest.param(Activation(shift=1.0), id="shift"),
        pytest.param(Activation(interleaved=True), id="interleaved"),
        pytest.param(Activation(gated=False), id="no-gate"),
    ],
)
def test_one_option_alone_is_not_swiglu(activation: Activation, device: str) -> None:
    """Without a bias, where kernels have a shorter way for SwiGLU."""
    ids = torch.tensor([[0, 3], [3, 1], [2, 3], [0, 0], [1, -1]]).int()
    args = make(5, 24, 4, 2, 20, activation, False, False)
    check(args, route(ids, 4), activation, device, torch.float32)


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize(("activation", "series"), [CHOICES[i] for i in (1, 3, 7)])
def test_weights_on_the_activation(activation: Activation, series: bool, device: str) -> None:
    ids = torch.tensor([[0, 3], [3, 1], [9, 3], [0, 0], [1, -1]]).int()
    args = make(5, 24, 4, 2, 20, activation, series, True)
    del args["b_down"]  # of which there is none before the weights
    check(args, route(ids, 4), activation, device, torch.float32, "activation")


def check_quantised(
    args: dict[str, Tensor],
    scheme: str,
    activation: Activation,
    device: str,
    weight_on: str = "output",
) -> None:
    routing = route(torch.tensor([[0, 3], [3, 1], [2, 3], [0, 0], [1, -1]]).int(), 4)
    activation = activation._replace(limit=None if activation.limit is None else 40.0)
    stored = {name: quantize(args.pop(name), scheme) for name in ("w_gate_up", "w_down")}
    leaves = {name: t.to(device).requires_grad_() for name, t in args.items()}
    on_device = Routing(*(part.to(device) for part in routing))
    there = {name: w.to(device) for name, w in stored.items()}
    options: dict[str, Any] = {"activation": activation, "weight_on": weight_on}
    y = grouped_mlp(**leaves, **there, routing=on_device, **options)
    wide = {name: t.double().requires_grad_() for name, t in args.items()}
    y64 = oracle(**wide, **stored, **routing._asdict(), **options, dtype=torch.float32)
    integers = scheme == "int8_w8a8"  # a number at the edge of two integers may go either way
    assert_matches(y, y64, "y", slack=50.0 if integers else 1.0)
    d_y = torch.randn(y.shape)
    got = torch.autograd.grad(y, list(leaves.values()), d_y.to(device))
    want = torch.autograd.grad(y64, list(wide.values()), d_y.double())
    for name, d, d64 in zip(args, got, want, strict=True):
        assert_matches(d, d64, f"d_{name}", slack=50.0 if integers else 1.0)


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("scheme", ["int8_w8a16", "int8_w8a8"])
@pytest.mark.parametrize(
    ("activation", "series"),
    [CHOICES[i] for i in (2, 3, 7)],
)
def test_quantised_experts_match_the_oracle(
    activation: Activation, series: bool, scheme: str, device: str
) -> None:
    check_quantised(make(5, 64, 4, 2, 32, activation, series, True), scheme, activation, device)


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("scheme", ["int8_w8a16", "int8_w8a8"])
def test_quantised_experts_with_weights_on_the_activation(scheme: str, device: str) -> None:
    args = make(5, 64, 4, 2, 32, GPT_OSS, False, True)
    del args["b_down"]
    check_quantised(args, scheme, GPT_OSS, device, "activation")


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("scheme", [None, "int8_w8a16", "int8_w8a8"])
@pytest.mark.parametrize("other", ["b_gate_up", "b_down"])
def test_a_bias_without_the_other(other: str, scheme: str | None, device: str) -> None:
    """With SwiGLU, for which kernels have a shorter way where there is none."""
    args = make(5, 64, 4, 2, 32, Activation(), False, True)
    del args[other]
    if scheme is not None:
        check_quantised(args, scheme, Activation(), device)
        return
    ids = torch.tensor([[0, 3], [3, 1], [2, 3], [0, 0], [1, -1]]).int()
    check(args, route(ids, 4), Activation(), device, torch.float32)


@pytest.mark.parametrize(
    ("T", "H", "F", "expert"),
    [(3, 8, 0, 1), (3, 8, 5, -1), (0, 8, 5, 1), (3, 0, 5, 1)],
    ids=["no-width", "all-dropped", "no-tokens", "no-hidden"],
)
def test_nothing_of_something(T: int, H: int, F: int, expert: int, device: str) -> None:
    """No width leaves the bias; rows that are all dropped leave zeros."""
    args = make(T, max(H, 1), 3, 2, F, GPT_OSS, True, True)
    if not H:
        args |= {"x": torch.empty(T, 0), "w_gate_up": torch.empty(3, 2 * F, 0)}
        args |= {"w_down": torch.empty(3, 0, F), "b_down": torch.empty(3, 0)}
    check(args, route(torch.full((T, 2), expert).int(), 3), GPT_OSS, device, torch.float32)


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("scheme", ["int8_w8a16", "int8_w8a8"])
@pytest.mark.parametrize(("T", "expert"), [(3, -1), (0, 1)], ids=["all-dropped", "no-tokens"])
def test_nothing_of_quantised_experts(T: int, expert: int, scheme: str, device: str) -> None:
    args = make(T, 64, 3, 2, 32, GPT_OSS, True, True)
    stored = {name: quantize(args.pop(name), scheme).to(device) for name in ("w_gate_up", "w_down")}
    leaves = {name: t.to(device).requires_grad_() for name, t in args.items()}
    routing = Routing(*(part.to(device) for part in route(torch.full((T, 2), expert).int(), 3)))
    y = grouped_mlp(**leaves, **stored, routing=routing, activation=GPT_OSS)
    assert torch.equal(y, torch.zeros_like(y))
    for name, d in zip(leaves, torch.autograd.grad(y.sum(), list(leaves.values())), strict=True):
        assert torch.equal(d, torch.zeros_like(leaves[name])), name


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("limit", [None, 0.5], ids=["no-limit", "limit"])
@pytest.mark.parametrize("name", NAMES)
def test_a_value_that_is_no_number_reaches_its_token_alone(
    name: str, limit: float | None, device: str
) -> None:
    activation = Activation(name, limit=limit)
    args, routing = make(3, 8, 2, 1, 5, activation, False, True), route(torch.zeros(3, 1).int(), 2)
    args["x"][1, 2] = torch.nan
    leaves = {key: t.to(device).requires_grad_() for key, t in args.items()}
    y = grouped_mlp(
        **leaves, routing=Routing(*(r.to(device) for r in routing)), activation=activation
    )
    assert y.isfinite().all(1).tolist() == [True, False, True]
    (d_x,) = torch.autograd.grad(y[::2].sum(), [leaves["x"]])
    assert d_x[::2].isfinite().all()


@pytest.mark.slow_on("triton")
def test_each_gradient_alone_is_that_of_all(device: str) -> None:
    """Each alone: what the others do not need is not computed, and is not given."""
    ids = torch.tensor([[0, 3], [3, 1], [2, 3]]).int()
    args, routing = make(3, 8, 4, 2, 5, Activation(), True, True), route(ids, 4)
    routing = Routing(*(part.to(device) for part in routing))
    leaves = {name: t.to(device).requires_grad_() for name, t in args.items()}
    whole = torch.autograd.grad(grouped_mlp(**leaves, routing=routing).sum(), list(leaves.values()))
    for name, want in zip(leaves, whole, strict=True):
        alone = {n: t.detach().requires_grad_(n == name) for n, t in leaves.items()}
        (got,) = torch.autograd.grad(grouped_mlp(**alone, routing=routing).sum(), [alone[name]])
        assert torch.equal(got, want), name


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("quantised", [False, True], ids=["plain", "quantised"])
@pytest.mark.parametrize("needed", [False, True], ids=["absent", "needed"])
def test_the_gradient_of_a_series_has_its_dtype(quantised: bool, needed: bool, device: str) -> None:
    """The operators', which take a series as it is: grouped_mlp widens it before."""
    ids = torch.tensor([[0, 3], [3, 1], [2, 3]]).int()
    args, routing = make(3, 32, 4, 2, 32, Activation(), True, True), route(ids, 4)
    x, up, down, weights, _, b_down, series = (t.to(device) for t in args.values())
    rows, series = [part.to(device) for part in routing], series.bfloat16()
    pre, d_y, options = torch.randn(6, 64).to(device), torch.randn(3, 32).to(device), Activation()
    if quantised:
        up, down = quantize(up, "int8_w8a16"), quantize(down, "int8_w8a16")
        fixed = (*up[:3], *down[:3], weights, *rows, pre, "int8_w8a16", None, None, True)
        backward = torch.ops.moge_ops.grouped_mlp_quantized_bwd
    else:
        fixed = (x, up, down, weights, *rows, pre, True, True)
        backward = torch.ops.moge_ops.grouped_mlp_bwd
    *_, d_series = backward(d_y, *fixed, *options, b_down, series, False, needed)
    *_, wide = backward(d_y, *fixed, *options, b_down, series.float(), False, needed)
    assert d_series.dtype is torch.bfloat16
    torch.testing.assert_close(d_series, wide.bfloat16())
    assert d_series.shape == (series.shape if needed else (0,))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"activation": 3}, TypeError, "activation must be a str or an Activation, got int"),
        ({"activation": "mish"}, ValueError, "activation must be one of .*, got 'mish'"),
        ({"activation": Activation(gated=1)}, TypeError, "activation.gated must be a bool"),
        ({"activation": Activation(limit=-1.0)}, ValueError, "activation.limit must be above 0"),
        ({"activation": Activation(shift="1")}, TypeError, "activation.shift must be a float"),
        ({"activation": Activation(limit=float("inf"))}, ValueError, "limit must be finite"),
        ({"activation": Activation("relu", alpha=2.0)}, ValueError, "must be 'silu' with alpha"),
        ({"activation": Activation(gated=False, shift=1.0)}, ValueError, "gated to have shift"),
        ({"series": torch.ones(3, 2)}, ValueError, r"series must be \[2, n\] with n from 1 to 8"),
        ({"series": torch.ones(2, 9)}, ValueError, r"series must be .* got \[2, 9\]"),
        ({"series": torch.ones(2, 2), "activation": "gelu"}, ValueError, "'silu' with series"),
        ({"b_down": torch.ones(4, 8), "weight_on": "activation"}, ValueError, "with b_down"),
        ({"b_gate_up": torch.ones(4, 5)}, ValueError, r"b_gate_up must be \[E, 2F\]"),
        ({"b_down": torch.ones(4, 8).double()}, TypeError, "b_down must have the dtype of x"),
        ({"activation": Activation(gated=False)}, ValueError, r"w_gate_up must be \[E, F, H\]"),
    ],
)
def test_rejects(options: dict[str, Any], error: type[Exception], said: str) -> None:
    args = make(3, 8, 4, 2, 5, Activation(), False, False)
    routing = route(torch.tensor([[0, 3], [3, 1], [2, 3]]).int(), 4)
    with pytest.raises(error, match=said):
        grouped_mlp(**args, routing=routing, **options)


@pytest.mark.parametrize("quantised", [False, True], ids=["plain", "quantised"])
@pytest.mark.parametrize("T", [0, 3])
def test_every_operator_names_the_activations_that_there_are(
    T: int, quantised: bool, device: str
) -> None:
    """Of a call past the checks of grouped_mlp, with no token too."""
    args = make(T, 32, 4, 2, 32, Activation(), False, False)
    x, up, down, weights = (t.to(device) for t in args.values())
    rows = [part.to(device) for part in route(torch.zeros(T, 2).int(), 4)]
    pre, ops = torch.randn(2 * T, 64).to(device), torch.ops.moge_ops
    if quantised:
        up, down = quantize(up, "int8_w8a16"), quantize(down, "int8_w8a16")
        fixed = (*up[:3], *down[:3], weights, *rows)
        of_scheme = ("int8_w8a16", None, None)
        calls = [
            (ops.grouped_mlp_quantized, (x, *fixed, *of_scheme, "output", True)),
            (ops.grouped_mlp_quantized_bwd, (x, *fixed, pre, *of_scheme, True)),
        ]
    else:
        fixed = (x, up, down, weights, *rows)
        calls = [
            (ops.grouped_mlp, (*fixed, "output", True)),
            (ops.grouped_mlp_bwd, (x, *fixed, pre, True, True)),
        ]
    for op, given in calls:
        op(*given, activation="relu")
        with pytest.raises(ValueError, match=r"silu, gelu, gelu_tanh, relu, relu2, got 'mish'"):
            op(*given, activation="mish")


def test_no_function_stands_for_another() -> None:
    with pytest.raises(ValueError, match="must be silu, gelu, gelu_tanh, relu or relu2, got 'g'"):
        activate(torch.ones(2, 4), "g")
    of = Choice("g", True, False, 1.0, None, 0.0, None)
    with pytest.raises(ValueError, match="must be silu, gelu, gelu_tanh, relu or relu2, got 'g'"):
        activation_fwd(torch.ones(2, 4), of)


@pytest.mark.parametrize("activation", ["gelu", Activation("gelu", limit=0.5)])
def test_an_activation_that_is_assigned_later(activation: Any) -> None:
    layer = moge_ops.nn.MoGE(16, 12, 8, 4, shared_size=6)
    want = moge_ops.nn.MoGE(16, 12, 8, 4, shared_size=6, activation=activation)
    want.load_state_dict(layer.state_dict())
    x = torch.randn(5, 16)
    other = layer(x)
    layer.activation = activation
    assert layer.activation == want.activation
    assert isinstance(layer.activation, Activation)
    assert torch.equal(layer(x), want(x))
    assert not torch.equal(layer(x), other)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(again(x), want(x))
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), want(x))
    layer.activation = "silu"  # and a graph that is there does not stay
    assert torch.equal(compiled(x), other)
    for wrong, error in (("mish", ValueError), (3, TypeError)):
        with pytest.raises(error, match="activation must be"):
            layer.activation = wrong
    assert layer.activation == Activation()


@pytest.mark.parametrize("activation", ["gelu_tanh", GPT_OSS, Activation("relu2", gated=False)])
def test_the_layer_takes_an_activation(activation: Any) -> None:
    layer = moge_ops.nn.MoGE(16, 12, 8, 4, shared_size=6, activation=activation)
    halves = 1 if isinstance(activation, Activation) and not activation.gated else 2
    assert layer.w_gate_up.shape == (8, halves * 12, 16)
    x = torch.randn(5, 16)
    y, _, gating = layer(x, return_routing=True)
    name = Activation(activation) if isinstance(activation, str) else activation
    want = torch.zeros(5, 16)
    for t in range(5):
        for w, e in zip(gating.weights[t], gating.experts[t].tolist(), strict=True):
            act = activate((layer.w_gate_up[e] @ x[t]).unsqueeze(0), *name)
            want[t] += w * (layer.w_down[e] @ act[0])
        want[t] += layer.shared_down @ activate((layer.shared_gate_up @ x[t])[None], *name)[0]
    assert_matches(y, want.double(), "y")


def test_a_bias_takes_weights_as_they_are(device: str) -> None:
    T, weight, d_y = 12, 1e-7, 64.0  # float16 has 1.19e-7
    args = make(T, 16, 1, 1, 8, Activation(), False, True)
    args = {name: t.to(device, torch.float16) for name, t in args.items()}
    args |= {"weights": torch.full((T, 1), weight, device=device)}
    routing = Routing(*(part.to(device) for part in route(torch.zeros(T, 1).int(), 1)))
    y = grouped_mlp(**args | {"b_down": args["b_down"].requires_grad_()}, routing=routing)
    (d,) = torch.autograd.grad(y, [args["b_down"]], torch.full_like(y, d_y))
    assert_matches(d, torch.full((1, 16), T * weight * d_y, dtype=torch.float64), "d_b_down")
