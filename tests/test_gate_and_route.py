"""moge_ops.gate_and_route is grouped_gate and route, bit for bit, on every backend."""

from typing import Any

import pytest
import torch
from torch import Tensor

import moge_ops
from moge_ops import testing
from moge_ops.testing import spaced_logits

# the interpreter computes masked elements too, and NumPy warns of the NaN that they may become
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")

E, G, k = 24, 4, 2
SIZES = [
    pytest.param(7, 64, 8, 1, id="pangu"),
    pytest.param(5, 30, 5, 3, id="odd"),
    pytest.param(1, 8, 1, 2, id="one-token"),
    pytest.param(0, 8, 2, 1, id="no-tokens"),
]
OPTIONS = [
    pytest.param({}, id="plain"),
    pytest.param({"score": "sigmoid", "renormalize": True, "scaling": 2.5}, id="renormalized"),
    pytest.param({"bias": torch.arange(E) % 5 * 0.1, "router_scale": torch.rand(E)}, id="scaled"),
    pytest.param({"expert_mask": torch.arange(E) % 3 > 0}, id="experts-off"),
    pytest.param({"num_voted": 3, "row_mask": torch.arange(9) % 2 > 0}, id="votes"),
]


def check(logits: Tensor, G: int, k: int, **options: Any) -> None:
    """Results and gradients of the call, and of the two."""
    leaf = logits.requires_grad_()
    gating, routing = moge_ops.gate_and_route(leaf, G, k, **options)
    assert isinstance(gating, moge_ops.Gating)
    assert isinstance(routing, moge_ops.Routing)
    want = moge_ops.grouped_gate(leaf, G, k, **options)
    groups = None if options.get("experts") is not None else G
    rows = moge_ops.route(want.experts, logits.shape[1], num_groups=groups)
    for found, wanted in ((gating, want), (routing, rows)):
        for name, a, b in zip(wanted._fields, found, wanted, strict=True):
            assert a.dtype == b.dtype, name
            assert a.equal(b), name
    d_weights = torch.randn_like(want.weights)
    (got,) = torch.autograd.grad(gating.weights, leaf, d_weights)
    (grad,) = torch.autograd.grad(want.weights, leaf, d_weights)
    assert got.equal(grad)


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize(("T", "E", "G", "k"), SIZES)
def test_is_the_two(
    T: int, E: int, G: int, k: int, device: str, float_dtypes: list[torch.dtype]
) -> None:
    for dtype in float_dtypes:
        check(spaced_logits(T, E, dtype).to(device), G, k)


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option(options: dict[str, Any], device: str) -> None:
    moved = {n: x.to(device) if isinstance(x, Tensor) else x for n, x in options.items()}
    check(spaced_logits(9, E, torch.float32).to(device), G, k, **moved)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_given_experts_may_stand_anywhere(dtype: torch.dtype, device: str) -> None:
    ids = torch.randint(-2, E + 3, (9, G * k), dtype=dtype)
    ids[2] = E - 1  # in every group's columns
    check(torch.randn(9, E).to(device), G, k, experts=ids.to(device), renormalize=True)


@pytest.mark.float64
def test_doubles(device: str) -> None:
    logits = torch.randn(9, E, dtype=torch.float64).to(device)
    check(logits, G, k, router_scale=torch.rand(E).to(device))


def test_of_the_oracle() -> None:
    with testing.backend("reference"):
        check(spaced_logits(9, E, torch.float64), G, k, scaling=0.5)
        check(torch.randn(9, E), G, k, experts=torch.randint(-1, E, (9, G * k)))
        check(torch.randn(0, E), G, k)


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("given", [False, True])
def test_compiles_whole(given: bool, device: str) -> None:
    logits = torch.randn(9, E).to(device)
    ids = torch.randint(0, E, (9, G * k)).to(device) if given else None

    def call(x: Tensor) -> tuple[Tensor, ...]:
        gating, routing = moge_ops.gate_and_route(x, G, k, experts=ids)
        return *gating, *routing

    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for got, want in zip(compiled(logits), call(logits), strict=True):
        assert got.equal(want)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((2**31, 1), r"T \* K below 2\^31"), ((1, 16385), r"num_experts must be in \[1, 16384\]")],
)
def test_what_route_does_not_take_is_refused(sizes: tuple[int, int], message: str) -> None:
    logits = torch.zeros(1, 1).expand(sizes)
    with pytest.raises(ValueError, match=message):
        moge_ops.gate_and_route(logits, 1)
