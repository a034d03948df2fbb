"""moge_ops.unpermute agrees with its oracle, forward and backward, on every backend."""

from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import moge_ops
from moge_ops import _backend, testing
from moge_ops.reference.unpermute import unpermute as oracle
from moge_ops.testing import assert_matches, group_ids, rms_error

SHAPES = [
    pytest.param(1, 8, 64, 8, 1, id="one-token"),
    pytest.param(5, 33, 12, 4, 2, id="odd"),
    pytest.param(3, 1025, 4, 2, 1, id="one-past-the-tile"),
    pytest.param(2, 6, 18, 3, 3, id="nine-columns"),
    pytest.param(0, 8, 8, 2, 1, id="no-tokens"),
    pytest.param(4, 0, 8, 2, 1, id="no-columns"),
    pytest.param(4, 8, 8, 2, 0, id="no-experts-per-token"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def check(rows: Tensor, routing: moge_ops.Routing, weights: Tensor | None) -> None:
    inputs = [t.requires_grad_() for t in (rows, weights) if t is not None]
    inputs64 = [t.detach().double().requires_grad_() for t in inputs]
    y = moge_ops.unpermute(rows, routing, weights)
    y64 = oracle(inputs64[0], routing.slot_to_row, *inputs64[1:])
    d_y = torch.randn(y.shape, device=y.device).to(y.dtype)
    grads = torch.autograd.grad(y, inputs, d_y)
    grads64 = torch.autograd.grad(y64, inputs64, d_y.double(), materialize_grads=True)

    assert y.dtype is rows.dtype
    assert_matches(y, y64, "y")
    assert grads[0].dtype is rows.dtype
    assert_matches(grads[0], grads64[0], "d_rows")
    if weights is not None:
        assert grads[1].dtype is weights.dtype
        # as exact as float32 sums over H that may cancel, whatever dtype holds them
        got = grads[1].float() if weights.dtype is torch.float64 else grads[1]
        assert_matches(got, grads64[1], "d_weights", scale=max(1, rows.shape[1]) ** 0.5)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("T", "H", "E", "G", "k"), SHAPES)
def test_matches_the_oracle(
    T: int, H: int, E: int, G: int, k: int, dtype: torch.dtype, weighted: bool, device: str
) -> None:
    routing = moge_ops.route(group_ids(T, E, G, k).to(device), E, num_groups=G)
    weights = torch.rand(T, G * k, device=device) if weighted else None
    check(torch.randn(T * G * k, H, device=device).to(dtype), routing, weights)


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("lowest", [0, -2], ids=["all-kept", "some-dropped"])
def test_many_rows_in_half_precision(lowest: int, device: str) -> None:
    # the CPU path sums few elements another way
    routing = moge_ops.route(torch.randint(lowest, 4, (64, 4), device=device), 4)
    rows = torch.randn(256, 300, device=device).bfloat16()
    weights = torch.rand(64, 4, device=device)
    check(rows, routing, weights)
    # the weights are not rounded to the rows' dtype: only the result is
    exact = oracle(rows.double(), routing.slot_to_row, weights.double())
    got = moge_ops.unpermute(rows, routing, weights)
    assert rms_error(got, exact) <= 1.1 * rms_error(exact.bfloat16(), exact)


@given(
    T=st.integers(0, 9),
    H=st.integers(0, 40),
    K=st.integers(0, 10),
    step=st.integers(1, 3),
    dtype=st.sampled_from(DTYPES),
    weighted=st.booleans(),
)
def test_any_shape_stride_and_dropped_slot(
    T: int, H: int, K: int, step: int, dtype: torch.dtype, weighted: bool, device: str
) -> None:
    routing = moge_ops.route(torch.randint(-2, 6, (T, K), device=device), 4)
    rows = torch.randn(H, T * K * step, device=device).to(dtype).t()[::step]
    weights = torch.randn(K, T * step, device=device).t()[::step] if weighted else None
    check(rows, routing, weights)


@given(
    T=st.integers(0, 6),
    H=st.integers(0, 20),
    K=st.integers(0, 5),
    pad_to=st.integers(1, 17),
    lowest=st.sampled_from([0, -2]),
    weighted=st.booleans(),
)
def test_padded_rows(
    T: int, H: int, K: int, pad_to: int, lowest: int, weighted: bool, device: str
) -> None:
    routing = moge_ops.route(
        torch.randint(lowest, 4 - lowest, (T, K), device=device), 4, pad_to=pad_to
    )
    rows = torch.randn(len(routing.row_to_slot), H, device=device)
    check(rows, routing, torch.randn(T, K, device=device) if weighted else None)
    # those of no slot are not read
    unread = rows.detach().masked_fill((routing.row_to_slot < 0).unsqueeze(1), float("nan"))
    assert moge_ops.unpermute(unread, routing).isfinite().all()


def experts_of(inputs: tuple[Tensor, ...], routing: moge_ops.Routing) -> Tensor:
    """The layer of operators, one after the other."""
    x, w_gate_up, w_down, weights = inputs
    rows = moge_ops.permute(x, routing)
    act = moge_ops.swiglu(moge_ops.grouped_gemm(rows, w_gate_up, routing.offsets))
    return moge_ops.unpermute(moge_ops.grouped_gemm(act, w_down, routing.offsets), routing, weights)


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize(
    ("T", "K", "pad_to", "lowest"),
    [(5, 2, 4, 0), (7, 4, 16, -2), (1, 3, 128, 0), (0, 2, 4, 0), (6, 2, 3, -1)],
)
def test_a_layer_of_padded_rows(T: int, K: int, pad_to: int, lowest: int, device: str) -> None:
    E, H, F = 6, 16, 32
    ids = torch.randint(lowest, E - lowest, (T, K), device=device)
    sizes = ((T, H), (E, 2 * F, H), (E, H, F), (T, K))
    inputs = tuple(torch.randn(s, device=device).requires_grad_() for s in sizes)
    inputs64 = tuple(x.detach().cpu().double().requires_grad_() for x in inputs)
    d_y = torch.randn(T, H, device=device)

    y = experts_of(inputs, moge_ops.route(ids, E, pad_to=pad_to))
    gradients = torch.autograd.grad(y, inputs, d_y)
    with testing.backend("reference"):
        y64 = experts_of(inputs64, moge_ops.route(ids.cpu(), E))  # not padded
    gradients64 = torch.autograd.grad(y64, inputs64, d_y.cpu().double())
    assert_matches(y, y64, "y", slack=3.0)
    for name, a, b in zip(
        ("x", "w_gate_up", "w_down", "weights"), gradients, gradients64, strict=True
    ):
        assert_matches(a, b, f"d_{name}", slack=3.0)


@pytest.mark.parametrize("device", ["torch"], indirect=True)
def test_gradcheck_of_padded_rows(device: str) -> None:
    routing = moge_ops.route(torch.tensor([[0, 2], [9, 0], [1, 0]], device=device), 3, pad_to=4)
    sizes = ((3, 2), (3, 4, 2), (3, 2, 2), (3, 2))
    inputs = tuple(
        torch.randn(s, dtype=torch.float64, device=device, requires_grad=True) for s in sizes
    )
    assert torch.autograd.gradcheck(lambda *inputs: experts_of(inputs, routing), inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("rows_dtype", DTYPES, ids=str)
def test_weights_of_every_dtype(dtype: torch.dtype, rows_dtype: torch.dtype, device: str) -> None:
    routing = moge_ops.route(group_ids(4, 8, 4, 1).to(device), 8, num_groups=4)
    weights = torch.rand(4, 4, device=device).to(dtype)
    check(torch.randn(16, 10, device=device).to(rows_dtype), routing, weights)


@pytest.mark.parametrize(
    ("dtype", "difference"), [(torch.float16, 2.0**-12), (torch.bfloat16, 2.0**-9)], ids=str
)
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e5])
def test_weights_are_not_rounded_to_the_dtype_of_the_rows(
    size: float, dtype: torch.dtype, difference: float, device: str
) -> None:
    routing = moge_ops.route(torch.tensor([[0, 0]], device=device), 1)
    # the rows cancel but for a difference of the weights that their dtype cannot hold
    rows = torch.tensor([[3.0 / size], [-3.0 / size]], device=device).to(dtype)
    weights = torch.tensor([[1.0 + difference, 1.0]], device=device) * size
    y = moge_ops.unpermute(rows, routing, weights)
    assert_matches(y, oracle(rows.double(), routing.slot_to_row, weights.double()), "y")


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # zero times infinity
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_rows_of_no_expert_and_weights_of_dropped_slots_are_not_read(
    weighted: bool, device: str
) -> None:
    nan = float("nan")
    routing = moge_ops.route(torch.tensor([[0, 9], [9, -1], [1, 0]], device=device), 2)
    rows = torch.full((6, 5), nan, device=device)
    rows[:3] = 1.0
    weights = torch.tensor([[2.0, nan], [nan, nan], [3.0, 4.0]], device=device)
    inputs = [rows.requires_grad_()] + [weights.requires_grad_()] * weighted
    y = moge_ops.unpermute(rows, routing, weights if weighted else None)
    assert y.tolist() == (
        [[2.0] * 5, [0.0] * 5, [7.0] * 5] if weighted else [[1.0] * 5, [0.0] * 5, [2.0] * 5]
    )

    d_y = torch.ones(3, 5, device=device)
    d_y[1] = float("inf")  # of a token whose slots were all dropped
    grads = torch.autograd.grad(y, inputs, d_y)
    by_row = [2.0, 4.0, 3.0] if weighted else [1.0] * 3
    assert grads[0].tolist() == [[w] * 5 for w in [*by_row, 0.0, 0.0, 0.0]]
    if weighted:
        assert grads[1].tolist() == [[5.0, 0.0], [0.0, 0.0], [5.0, 5.0]]


@pytest.mark.parametrize("layout", ["contiguous", "strided"])
def test_rows_are_summed_in_float32(layout: str, device: str) -> None:
    routing = moge_ops.route(torch.tensor([[0, 0, 0]], device=device), 1)
    rows = torch.tensor([[256.0] * 2, [1.0] * 2, [1.0] * 2], device=device).bfloat16()
    if layout == "strided":
        rows = rows.t().contiguous().t()
    for weights in (None, torch.ones(1, 3, device=device)):
        y = moge_ops.unpermute(rows, routing, weights)
        assert y.tolist() == [[258.0, 258.0]]  # in bfloat16 256 + 1 is 256


@pytest.mark.parametrize("device", ["torch"], indirect=True)
def test_backward_in_several_chunks(device: str) -> None:
    routing = moge_ops.route(torch.randint(-1, 4, (9, 3), device=device), 4)
    rows, weights = torch.randn(27, 7, device=device), torch.rand(9, 3, device=device)
    with mock.patch.object(_backend.load("torch", "unpermute"), "CHUNK", 4 * 7):
        check(rows, routing, weights)


def test_undoes_permute(device: str) -> None:
    routing = moge_ops.route(group_ids(7, 12, 4, 1).to(device), 12, num_groups=4)
    x = torch.randn(7, 9, device=device)
    weights = torch.full((7, 4), 0.25, device=device)
    y = moge_ops.unpermute(moge_ops.permute(x, routing), routing, weights)
    assert torch.equal(y, x)


def test_routing_of_any_stride(device: str) -> None:
    routing = moge_ops.route(torch.randint(-1, 4, (6, 3), device=device), 4)
    row_to_slot, slot_to_row, offsets = routing
    strided = moge_ops.Routing(
        torch.stack((row_to_slot, row_to_slot + 1), 1)[:, 0],
        slot_to_row.t().contiguous().t(),
        offsets,
    )
    rows = torch.randn(18, 5, device=device).requires_grad_()
    weights = torch.randn(6, 3, device=device).requires_grad_()
    runs = []
    for one in (routing, strided):
        y = moge_ops.unpermute(rows, one, weights)
        runs.append((y, *torch.autograd.grad(y.sum(), (rows, weights))))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.float64
@pytest.mark.parametrize("ids", [[[0, 1], [3, 0]], [[9, 1], [0, 1]]], ids=["kept", "dropped"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_gradcheck(weighted: bool, ids: list[list[int]], device: str) -> None:
    routing = moge_ops.route(torch.tensor(ids, device=device), 4)
    rows = torch.randn(4, 3, dtype=torch.float64, device=device, requires_grad=True)
    weights = torch.randn(2, 2, dtype=torch.float64, device=device, requires_grad=True)
    args = (rows, weights) if weighted else (rows,)
    assert torch.autograd.gradcheck(lambda r, *w: moge_ops.unpermute(r, routing, *w), args)


def test_repeats_bit_for_bit(device: str) -> None:
    routing = moge_ops.route(torch.randint(-1, 4, (20, 5), device=device), 4)
    rows = torch.randn(100, 33, device=device).requires_grad_()
    weights = torch.randn(20, 5, device=device).requires_grad_()
    d_y = torch.randn(20, 33, device=device)
    runs = []
    for _ in range(2):
        y = moge_ops.unpermute(rows, routing, weights)
        runs.append((y, *torch.autograd.grad(y, (rows, weights), d_y)))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


ROUTING = moge_ops.Routing(
    torch.zeros(6, dtype=torch.int32),
    torch.zeros(3, 2, dtype=torch.int32),
    torch.zeros(5, dtype=torch.int32),
)


@pytest.mark.parametrize(
    ("rows", "weights", "message"),
    [
        (torch.zeros(6), None, r"rows must be \[N, H\], got \[6\]"),
        (torch.zeros(5, 2), None, r"routing.row_to_slot must be \[N\] = \[5\], got \[6\]"),
        (torch.zeros(6, 2), torch.zeros(6), r"weights must be \[T, K\], got \[6\]"),
        (
            torch.zeros(6, 2),
            torch.zeros(2, 3),
            r"weights must be \[T, K\] = \[3, 2\], got \[2, 3\]",
        ),
        (torch.zeros(6, 2), torch.zeros(3, 2, device="meta"), "device of rows, cpu, got meta"),
        (torch.zeros(6, 2, device="meta"), None, "device of rows, meta, got cpu"),
    ],
    ids=["rank", "rows", "weights-rank", "weights", "weights-device", "device"],
)
def test_rejects_a_bad_value(rows: Tensor, weights: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        moge_ops.unpermute(rows, ROUTING, weights)


@pytest.mark.parametrize(
    ("rows", "routing", "weights", "message"),
    [
        (torch.zeros(6, 2, dtype=torch.int8), ROUTING, None, r"rows must be float16 .*, got int8"),
        (torch.zeros(6, 2), None, None, "routing must be what route returned, got NoneType"),
        (torch.zeros(6, 2), ROUTING, 0.5, r"weights must be a Tensor \[T, K\], got float"),
        (
            torch.zeros(6, 2),
            ROUTING,
            torch.zeros(3, 2, dtype=torch.int64),
            r"weights must be float16 .*, got int64",
        ),
    ],
    ids=["integers", "no-routing", "scalar-weights", "integer-weights"],
)
def test_rejects_a_bad_type(rows: Any, routing: Any, weights: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        moge_ops.unpermute(rows, routing, weights)
