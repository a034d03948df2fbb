"""Any activation, biases and a series in the Ascend C expert layer, at sizes that cut its tiles."""

import importlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import moge_ops
from moge_ops import Activation, quant, testing
from moge_ops.reference._activation import activate
from moge_ops.reference.grouped_mlp import grouped_mlp as oracle
from moge_ops.testing import assert_matches

_C: Any = pytest.importorskip("moge_ops._C", reason="built without the Ascend emulator")
kernels: Any = importlib.import_module("moge_ops.ascend._activation")
GPT_OSS = Activation(interleaved=True, alpha=1.702, limit=7.0, shift=1.0)
RELU2 = Activation("relu2", gated=False)
SERIES = torch.tensor([[0.7, 0.0], [0.5, 1.0], [-0.2, -1.5]]).t()


@pytest.fixture(autouse=True)
def _ascend() -> Iterator[None]:
    _C.set_emulation(cores=6)
    with testing.backend("ascend"):
        yield
    _C.set_emulation()


def make(
    T: int, H: int, E: int, K: int, F: int, of: Activation, dtype: torch.dtype, series: bool = False
) -> tuple[dict[str, Tensor], moge_ops.Routing]:
    """A layer with biases, and a routing that drops a tenth of its slots.

    Biases and series are not contiguous.
    """
    ids = torch.randint(0, E, (T, K)).int()
    ids[torch.rand(T, K) < 0.1] = -1
    O = 2 * F if of.gated else F
    args = {
        "x": torch.randn(T, H).to(dtype),
        "w_gate_up": (torch.randn(E, O, H) / H**0.5).to(dtype),
        "w_down": (torch.randn(E, H, F) / F**0.5).to(dtype),
        "weights": torch.rand(T, K) + 0.1,
        "b_gate_up": (torch.randn(E, O) / 2).to(dtype).t().contiguous().t(),
        "b_down": (torch.randn(E, H) / 2).to(dtype).t().contiguous().t(),
    }
    return args | ({"series": SERIES} if series else {}), moge_ops.route(ids, E)


def launches(call: Callable[[], Any]) -> list[str]:
    _C.start_recording()
    call()
    return [launch["name"] for launch in _C.stop_recording()]


def gradients(
    args: dict[str, Tensor], routing: moge_ops.Routing, of: Activation
) -> tuple[Tensor, ...]:
    own = {name: x.detach().requires_grad_() for name, x in args.items()}
    y = moge_ops.grouped_mlp(routing=routing, activation=of, **own)
    return y.detach(), *torch.autograd.grad(y, list(own.values()), torch.ones_like(y))


def check(
    args: dict[str, Tensor], routing: moge_ops.Routing, of: Activation, dtype: torch.dtype
) -> None:
    got = gradients(args, routing, of)
    wide = {name: x.double().requires_grad_() for name, x in args.items()}
    y64 = oracle(**wide, **routing._asdict(), activation=of)
    want = torch.autograd.grad(y64, list(wide.values()), torch.ones_like(y64))
    assert_matches(got[0], y64.detach(), "y")
    for name, d, d64 in zip(args, got[1:], want, strict=True):
        if dtype == torch.float32 or name not in ("weights", "w_down"):
            scale = d64.square().mean().sqrt().item() or None
            assert_matches(d.to(dtype), d64, f"d_{name}", scale=scale)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "of", [GPT_OSS, RELU2, Activation("gelu", shift=0.5)], ids=["turns", "no-gate", "halves"]
)
@pytest.mark.parametrize(
    ("T", "H", "F"),
    [(9, 40, 1), (12, 33, 17), (20, 48, 121), (300, 24, 21), (12, 16, 1601), (3, 5200, 16)],
    ids=["F-1", "F-17", "two-tiles", "rows-of-tiles", "longer-than-a-tile", "parts-of-rows"],
)
def test_tiles_that_are_cut(T: int, H: int, F: int, of: Activation, dtype: torch.dtype) -> None:
    check(*make(T, H, 3, 2, F, of, dtype), of, dtype)


@pytest.mark.parametrize(
    "of",
    [Activation(), Activation(interleaved=True), Activation(gated=False)],
    ids=["halves", "turns", "no-gate"],
)
@pytest.mark.parametrize(("T", "F"), [(12, 17), (20, 121), (3, 1601)], ids=str)
def test_a_series_whose_tiles_are_cut(T: int, F: int, of: Activation) -> None:
    """Its gradients are sums over whole tiles: what fills these must be zero."""
    check(*make(T, 33, 3, 2, F, of, torch.float32, True), of, torch.float32)


@pytest.mark.parametrize(("of", "series"), [(GPT_OSS, False), (Activation(), True)], ids=str)
def test_forward_is_one_launch(of: Activation, series: bool) -> None:
    args, routing = make(9, 40, 3, 2, 24, of, torch.bfloat16, series)
    with torch.no_grad():
        assert launches(lambda: moge_ops.grouped_mlp(routing=routing, activation=of, **args)) == [
            "grouped_mlp_fwd"
        ]


@pytest.mark.parametrize("T", [5, 150])
def test_cores_in_any_order_give_the_same(T: int) -> None:
    args, routing = make(T, 40, 3, 2, 24, Activation(), torch.bfloat16, True)
    args |= {name: args[name].bfloat16() for name in ("w_gate_up", "w_down")}
    want = gradients(args, routing, Activation())
    for seed in (1, 2, 3):
        _C.set_emulation(cores=6, seed=seed)
        for a, b in zip(gradients(args, routing, Activation()), want, strict=True):
            assert torch.equal(a, b), seed
    for cores in (2, 14):  # the series' gradient is a sum over cores
        _C.set_emulation(cores=cores)
        for a, b in zip(gradients(args, routing, Activation())[:-1], want[:-1], strict=True):
            assert torch.equal(a, b), cores


@pytest.mark.parametrize(("of", "series"), [(GPT_OSS, False), (RELU2, False), (Activation(), True)])
@pytest.mark.parametrize("scheme", ["int8_w8a8", "int4_w4a8", "int8_w8a16"])
def test_quantised_experts(scheme: str, of: Activation, series: bool) -> None:
    args, routing = make(12, 64, 3, 2, 32, of, torch.float32, series)
    for name in ("w_gate_up", "w_down"):
        args[name] = quant.quantize(args[name], scheme)
    free = {k: v for k, v in args.items() if isinstance(v, Tensor) and k in ("x", "weights")}
    free |= {k: args[k] for k in ("b_gate_up", "b_down", "series") if k in args}
    own = {k: v.clone().requires_grad_() for k, v in free.items()}
    wide = {k: v.double().requires_grad_() for k, v in free.items()}
    y = moge_ops.grouped_mlp(**{**args, **own}, routing=routing, activation=of)
    y64 = oracle(**{**args, **wide}, **routing._asdict(), activation=of, dtype=torch.float32)
    assert_matches(y, y64, "y")
    d_y = torch.randn(y.shape)
    got = torch.autograd.grad(y, list(own.values()), d_y)
    want = torch.autograd.grad(y64, list(wide.values()), d_y.double())
    for name, d, d64 in zip(free, got, want, strict=True):
        assert_matches(d, d64, f"d_{name}", scale=d64.square().mean().sqrt().item())


@pytest.mark.parametrize("scheme", ["int8_w8a8", "int4_w4a8"])
def test_integers_are_made_of_the_activation_as_it_is(scheme: str) -> None:
    args, routing = make(12, 64, 3, 2, 32, GPT_OSS, torch.float32)
    del args["b_down"]
    for name in ("w_gate_up", "w_down"):
        args[name] = quant.quantize(args[name], scheme)
    late, early = (
        moge_ops.grouped_mlp(**args, routing=routing, activation=GPT_OSS, weight_on=place)
        for place in ("output", "activation")
    )
    assert torch.equal(late, early)


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "relu2"])
def test_errors_of_the_functions(name: str) -> None:
    """The polynomial of the error function: below 2e-7 of |z|, besides two roundings of gelu."""
    z = torch.linspace(-12.0, 12.0, 20001).view(3, -1)
    of = kernels.Choice(name, gated=False)
    got = kernels.activation_fwd(z.clone(), of, None).double()
    error = (got - activate(z.double(), name, gated=False)).abs()
    assert (
        error <= 2e-7 * z.abs() + (2.4e-7 if name == "gelu" else 1.2e-6) * got.abs() + 1e-12
    ).all(), error.max()
    far = torch.tensor([[-3e4, -100.0, -1e-40, 0.0, 100.0, 3e4]])
    ends = kernels.activation_fwd(far.clone(), of, None)
    assert_matches(ends, activate(far.double(), name, gated=False), "ends")
    assert math.isclose(ends[0, -1].item(), 3e4 ** (2 if name == "relu2" else 1), rel_tol=1e-6)
    assert kernels.activation_fwd(torch.tensor([[math.inf]]), of, None).item() == math.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "of", [GPT_OSS, RELU2, Activation("gelu", shift=0.5)], ids=["turns", "no-gate", "halves"]
)
@pytest.mark.parametrize(("N", "F"), [(3, 1), (40, 21), (2, 1601)], ids=str)
def test_a_launch_adds_the_biases_of_its_rows(
    N: int, F: int, of: Activation, dtype: torch.dtype
) -> None:
    """As quantised experts need it; the sum stays where the product was, for the backward pass."""
    of = of._replace(limit=None if of.limit is None else 0.7)
    pre, bias = torch.randn(2, N, 2 * F if of.gated else F).to(dtype)
    want = activate(pre.double() + bias.double(), *of)
    total = (pre.float() + bias.float()).to(dtype)
    assert_matches(kernels.activation_fwd(pre, kernels.Choice(*of), bias), want, "act")
    assert torch.equal(pre, total)


def test_a_series_of_too_many_terms_is_refused() -> None:
    with pytest.raises(ValueError, match=r"activation_fwd: terms must be in \[0, 8\], got 9"):
        kernels.activation_fwd(torch.ones(2, 8), kernels.Choice(series=torch.ones(2, 9)), None)
