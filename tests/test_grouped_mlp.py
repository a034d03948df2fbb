"""moge_ops.grouped_mlp agrees with its oracle, forward and backward, on every backend."""

import sys
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moge_ops._backend import load
from moge_ops.ops.grouped_mlp import grouped_mlp
from moge_ops.ops.route import Routing, route
from moge_ops.reference.grouped_mlp import grouped_mlp as oracle
from moge_ops.testing import assert_matches, backend, group_ids, rms_error

# T, H, E, G, k, F
SHAPES = [
    pytest.param(5, 24, 12, 3, 2, 16, id="several-per-group"),
    pytest.param(1, 32, 8, 8, 1, 16, id="one-token"),
    pytest.param(0, 8, 4, 2, 1, 8, id="no-tokens"),
    pytest.param(40, 33, 4, 2, 1, 17, id="one-past-the-tile"),
    pytest.param(40, 32, 4, 2, 1, 24, id="aligned"),
    pytest.param(7, 5, 15, 5, 1, 3, id="odd"),
    pytest.param(3, 1, 2, 1, 2, 1, id="thinnest"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
NAMES = ("x", "w_gate_up", "w_down", "weights")


def make(T: int, H: int, E: int, K: int, F: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return (
        torch.randn(T, H).to(dtype),
        (torch.randn(E, 2 * F, H) / max(H, 1) ** 0.5).to(dtype),
        (torch.randn(E, H, F) / max(F, 1) ** 0.5).to(dtype),
        torch.rand(T, K) + 0.1,
    )


def check(inputs: tuple[Tensor, ...], ids: Tensor, weight_on: str, device: str) -> None:
    E = inputs[1].shape[0]
    args = [t.to(device).requires_grad_() for t in inputs]
    args64 = [t.detach().double().requires_grad_() for t in inputs]
    y = grouped_mlp(*args, route(ids.to(device), E), weight_on=weight_on)  # type: ignore[misc]
    y64 = oracle(*args64, *route(ids, E), weight_on=weight_on)  # type: ignore[misc]
    assert y.dtype is inputs[0].dtype
    assert_matches(y, y64, "y")

    d_y = torch.randn(y.shape).to(y.dtype)
    grads = torch.autograd.grad(y, args, d_y.to(device))
    grads64 = torch.autograd.grad(y64, args64, d_y.double())
    for name, got, want in zip(NAMES[:3], grads, grads64, strict=False):
        assert_matches(got, want, f"d_{name}")
    # d_weights has the dtype of the weights, but carries the rounding of x's; its elements are
    # dot products over H of d_y and one expert's output
    alone = [t.detach() for t in args64[:3]]
    K = ids.shape[1]
    outputs = oracle(
        alone[0].repeat_interleave(K, 0),
        *alone[1:],
        torch.ones(ids.numel(), 1).double(),
        *route(ids.reshape(-1, 1), E),
    )
    size = d_y.double().square().mean() * outputs.square().mean() * y.shape[1]
    scale = size.sqrt().item() if size.numel() and size > 0 else None
    assert_matches(grads[3].to(y.dtype), grads64[3], "d_weights", scale=scale)


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("weight_on", ["output", "activation"])
@pytest.mark.parametrize(("T", "H", "E", "G", "k", "F"), SHAPES)
def test_matches_the_oracle(
    T: int, H: int, E: int, G: int, k: int, F: int, weight_on: str, device: str
) -> None:
    check(make(T, H, E, G * k, F, torch.float32), group_ids(T, E, G, k), weight_on, device)


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("weight_on", ["output", "activation"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_matches_the_oracle_in_half_precision(
    dtype: torch.dtype, weight_on: str, device: str
) -> None:
    check(make(5, 40, 12, 6, 24, dtype), group_ids(5, 12, 3, 2), weight_on, device)


@pytest.mark.slow_on("triton")
@given(
    T=st.integers(0, 20),
    H=st.integers(1, 40),
    E=st.integers(1, 6),
    K=st.integers(1, 4),
    F=st.integers(1, 40),
    weight_on=st.sampled_from(["output", "activation"]),
)
def test_any_ids(T: int, H: int, E: int, K: int, F: int, weight_on: str, device: str) -> None:
    # duplicates in a row, empty experts, and ids out of range: dropped slots
    ids = torch.randint(-1, E + 1, (T, K)).int()
    check(make(T, H, E, K, F, torch.float32), ids, weight_on, device)


@pytest.mark.parametrize(
    "ids",
    [
        pytest.param(torch.full((20, 2), 1), id="all-on-one"),
        pytest.param(torch.full((20, 2), 9), id="all-dropped"),
        pytest.param(torch.tensor([[0, 0], [2, 2]]), id="duplicates"),
    ],
)
def test_lopsided_routing(ids: Tensor, device: str) -> None:
    check(make(ids.shape[0], 16, 3, 2, 8, torch.float32), ids.int(), "output", device)


@pytest.mark.parametrize("weight_on", ["output", "activation"])
def test_sizes_of_zero(weight_on: str, device: str) -> None:
    for T, H, F, K in product((0, 3), (0, 4), (0, 4), (0, 2)):
        if not T * H * F * K:
            ids = torch.randint(0, 2, (T, K)).int()
            check(make(T, H, 2, K, F, torch.float32), ids, weight_on, device)


def test_without_experts_all_is_zero(device: str) -> None:
    args = [t.to(device).requires_grad_() for t in make(3, 4, 0, 2, 4, torch.float32)]
    dropped = torch.full((6,), -1, dtype=torch.int32, device=device)
    routing = Routing(dropped, dropped.view(3, 2), torch.zeros(1, dtype=torch.int32, device=device))
    y = grouped_mlp(*args, routing)  # type: ignore[misc]
    grads = torch.autograd.grad(y, args, torch.ones_like(y))
    assert [t.shape for t in (y, *grads)] == [t.shape for t in (args[0], *args)]
    assert not any(t.any() for t in (y, *grads))


def test_gradients_of_dropped_slots_are_zero(device: str) -> None:
    """Whatever memory lies before the first row: there are several tiles of columns."""
    ids = torch.tensor([[9, 0], [1, 9], [9, 9], [0, 1]]).int()
    inputs = [t.to(device).requires_grad_() for t in make(4, 8, 2, 2, 40, torch.float32)]
    y = grouped_mlp(*inputs, route(ids.to(device), 2))  # type: ignore[misc]
    d_weights = torch.autograd.grad(y, inputs[3], torch.ones_like(y))[0].cpu()
    assert (d_weights == 0.0).equal(ids == 9)


def test_routing_of_any_stride(device: str) -> None:
    inputs = make(3, 8, 2, 2, 8, torch.float32)
    routing = route(torch.tensor([[1, 0], [-1, 1], [1, 1]]).int().to(device), 2)
    strided = Routing(
        torch.stack((routing.row_to_slot, routing.row_to_slot + 1), 1)[:, 0],
        routing.slot_to_row.t().contiguous().t(),
        torch.stack((routing.offsets, routing.offsets + 1), 1)[:, 0],
    )
    results = []
    for one in (routing, strided):
        args = [t.to(device).requires_grad_() for t in inputs]
        y = grouped_mlp(*args, one)  # type: ignore[misc]
        results.append((y, *torch.autograd.grad(y.square().sum(), args)))
    assert all(map(torch.equal, *results))


@pytest.mark.slow_on("triton")
def test_few_experts_far_apart(device: str) -> None:
    # the CPU path copies their weights into a batch instead of reading all between
    ids = torch.tensor([[1, 5, 62], [5, 62, 1], [62, 1, 1]]).int()
    check(make(3, 64, 64, 3, 32, torch.float32), ids, "output", device)


def test_any_strides(device: str) -> None:
    x, w_gate_up, w_down, weights = make(6, 24, 4, 2, 16, torch.float32)
    strided = (
        x.t().contiguous().t(),
        w_gate_up.mT.contiguous().mT,
        torch.cat([w_down, w_down])[::2],
        weights.t().contiguous().t(),
    )
    check(strided, group_ids(6, 4, 2, 1), "output", device)
    offset = (x, torch.cat([w_gate_up, w_gate_up], 1)[:, :32], w_down, weights)
    check(offset, group_ids(6, 4, 2, 1), "output", device)


@pytest.mark.slow_on("triton")
@pytest.mark.float64
@pytest.mark.parametrize("weight_on", ["output", "activation"])
def test_gradcheck(weight_on: str, device: str, interpreted: bool) -> None:
    inputs = [t.double().to(device).requires_grad_() for t in make(3, 2, 2, 2, 2, torch.float64)]
    routing = route(torch.tensor([[0, 1], [1, 1], [0, 9]]).int().to(device), 2)
    assert torch.autograd.gradcheck(
        lambda *a: grouped_mlp(*a, routing, weight_on=weight_on), inputs, fast_mode=interpreted
    )


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_bits_every_run(dtype: torch.dtype, device: str) -> None:
    args = [t.to(device).requires_grad_() for t in make(9, 24, 6, 4, 16, dtype)]
    routing = route(group_ids(9, 6, 2, 2).to(device), 6)
    d_y = torch.randn(9, 24).to(dtype).to(device)

    def run() -> tuple[Tensor, ...]:
        y = grouped_mlp(*args, routing)
        return y, *torch.autograd.grad(y, args, d_y)

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


@pytest.mark.slow_on("triton")
def test_rounds_no_worse_than_torch(device: str) -> None:
    dtype = torch.bfloat16
    inputs = make(24, 96, 4, 2, 64, dtype)
    ids = group_ids(24, 4, 2, 1)
    args = [t.to(device).requires_grad_() for t in inputs]
    plain = [t.detach().requires_grad_() for t in inputs]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    d_y = torch.randn(24, 96).to(dtype)
    y = grouped_mlp(*args, route(ids.to(device), 4))  # type: ignore[misc]
    y_plain = oracle(*plain, *route(ids, 4))  # type: ignore[misc]
    y_exact = oracle(*exact, *route(ids, 4))  # type: ignore[misc]
    grads = torch.autograd.grad(y, args, d_y.to(device))
    grads_plain = torch.autograd.grad(y_plain, plain, d_y)
    grads_exact = torch.autograd.grad(y_exact, exact, d_y.double())
    for name, got, torch_got, want in zip(
        ("y", *NAMES), (y, *grads), (y_plain, *grads_plain), (y_exact, *grads_exact), strict=True
    ):
        assert rms_error(got.cpu(), want) <= 1.1 * rms_error(torch_got, want), name


class _SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes of every distinct tensor that autograd saves."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}
        super().__init__(self._pack, lambda t: t)

    def __enter__(self) -> "_SavedBytes":
        super().__enter__()
        return self

    def _pack(self, t: Tensor) -> Tensor:
        self.sizes[t.data_ptr()] = t.numel() * t.element_size()
        return t

    @property
    def total(self) -> int:
        return sum(self.sizes.values())


@pytest.mark.parametrize("weight_on", ["output", "activation"])
def test_saves_only_x_the_pre_activation_and_the_routing(weight_on: str, device: str) -> None:
    T, H, E, K, F = 10, 24, 6, 4, 16
    args = [t.to(device).requires_grad_() for t in make(T, H, E, K, F, torch.float32)]
    routing = route(group_ids(T, E, 2, 2).to(device), E)
    with _SavedBytes() as saved:
        grouped_mlp(*args, routing, weight_on=weight_on)  # type: ignore[misc]
    parameters = sum(t.numel() * 4 for t in args[1:3])
    index = sum(t.numel() * 4 for t in routing)
    assert saved.total - parameters == 4 * (T * H + T * K * 2 * F + T * K) + index


def test_saves_nothing_without_gradients(device: str) -> None:
    args = [t.to(device) for t in make(4, 24, 6, 4, 16, torch.float32)]
    routing = route(group_ids(4, 6, 2, 2).to(device), 6)
    with _SavedBytes() as saved:
        y = grouped_mlp(*args, routing)  # type: ignore[misc]
        with torch.no_grad():
            z = grouped_mlp(*(t.requires_grad_() for t in args), routing)  # type: ignore[misc]
    assert not saved.sizes
    assert not y.requires_grad
    assert not z.requires_grad
    assert torch.equal(y, z)


def test_keeps_no_pre_activation_under_no_grad(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[grouped_mlp.__module__]
    kept, forward = [], module.grouped_mlp_fwd  # type: ignore[attr-defined]

    def recorded(*args: Any) -> Any:
        kept.append(args[8])
        return forward(*args)

    monkeypatch.setattr(module, "grouped_mlp_fwd", recorded)
    args = [t.requires_grad_() for t in make(2, 4, 2, 1, 4, torch.float32)]
    routing = route(torch.zeros(2, 1).int(), 2)
    grouped_mlp(*args, routing)  # type: ignore[misc]
    with torch.no_grad():
        grouped_mlp(*args, routing)  # type: ignore[misc]
    assert kept == [True, False]


def test_the_saved_pre_activation_has_no_gradient(device: str) -> None:
    args = [t.to(device).requires_grad_() for t in make(4, 24, 6, 4, 16, torch.float32)]
    routing = route(group_ids(4, 6, 2, 2).to(device), 6)
    y, pre = torch.ops.moge_ops.grouped_mlp(*args, *routing, "output", True)
    assert y.requires_grad
    assert not pre.requires_grad


@pytest.mark.skipif(torch.cuda.is_available(), reason="the tiles of a GPU have such threads")
def test_gathered_rows_where_a_thread_loads_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 loads of every 8th row; the interpreter's own tile has threads for all rows at once."""
    with backend("triton"):
        module = load("triton", "_weight_gradient")
        find_config = module.find_config
        monkeypatch.setattr(
            module, "find_config", lambda *a, **k: find_config(*a, **k)._replace(num_warps=1)
        )
        d_y, act, slots = torch.randn(37, 8), torch.randn(37, 8), torch.randperm(37).int()
        offsets = torch.tensor([0, 37]).int()
        d_w = module.weight_gradient(d_y, act, offsets, slots, gather_d=True)
    assert_matches(d_w[0], d_y.double()[slots.long()].T @ act.double(), "d_w_down")


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("only", NAMES)
def test_gradient_of_one_input_alone(only: str, device: str) -> None:
    inputs = [t.to(device) for t in make(5, 24, 6, 4, 16, torch.float32)]
    routing = route(group_ids(5, 6, 2, 2).to(device), 6)
    every = [t.clone().requires_grad_() for t in inputs]
    grouped_mlp(*every, routing).sum().backward()  # type: ignore[misc]
    i = NAMES.index(only)
    inputs[i].requires_grad_()
    grouped_mlp(*inputs, routing).sum().backward()  # type: ignore[misc]
    assert inputs[i].grad is not None
    assert torch.equal(inputs[i].grad, every[i].grad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(3)}, ValueError, r"x must be \[T, H\], got \[3\]"),
        ({"x": torch.zeros(3, 8).half()}, TypeError, "w_down must have the dtype of x, float16"),
        ({"x": torch.zeros(3, 7)}, ValueError, r"w_down must be .* = \[4, 7, 6\], got"),
        ({"w_gate_up": torch.zeros(4, 6, 8)}, ValueError, r"= \[4, 12, 8\], got \[4, 6, 8\]"),
        ({"w_down": torch.zeros(4, 9, 6)}, ValueError, r"w_down must be .* = \[4, 8, 6\], got"),
        (
            {"weights": torch.zeros(3, 3)},
            ValueError,
            r"weights must be .* = \[3, 2\], got \[3, 3\]",
        ),
        ({"weights": torch.zeros(2, 2)}, ValueError, r"weights must be .* = \[3, 2\], got"),
        ({"weights": torch.zeros(3, 2).int()}, TypeError, r"weights must be float16 .*, got int32"),
        ({"routing": None}, TypeError, "routing must be what route returned, got NoneType"),
        ({"weight_on": "input"}, ValueError, "weight_on must be one of output, activation, got"),
        ({"w_down": torch.zeros(4, 8, 6, device="meta")}, ValueError, "device of x, cpu, got meta"),
    ],
)
def test_rejects(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments: dict[str, object] = {
        "x": torch.zeros(3, 8),
        "w_gate_up": torch.zeros(4, 12, 8),
        "w_down": torch.zeros(4, 8, 6),
        "weights": torch.zeros(3, 2),
        "routing": route(torch.zeros(3, 2).int(), 4),
    }
    with pytest.raises(error, match=message):
        grouped_mlp(**{**arguments, **change})  # type: ignore[arg-type]


def test_rejects_a_routing_for_other_experts() -> None:
    routing = Routing(torch.zeros(2).int(), torch.zeros(1, 2).int(), torch.zeros(4).int())
    with pytest.raises(ValueError, match=r"routing.offsets must be \[E \+ 1\] = \[3\], got \[4\]"):
        grouped_mlp(
            torch.zeros(1, 8),
            torch.zeros(2, 12, 8),
            torch.zeros(2, 8, 6),
            torch.zeros(1, 2),
            routing,
        )
