"""moge_ops.permute agrees with its oracle, forward and backward, on every backend."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import moge_ops
from moge_ops.reference.permute import permute as oracle
from moge_ops.testing import assert_matches, group_ids

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


def check(x: Tensor, routing: moge_ops.Routing) -> None:
    x.requires_grad_()
    x64 = x.detach().double().requires_grad_()
    rows = moge_ops.permute(x, routing)
    rows64 = oracle(x64, routing.row_to_slot, routing.slot_to_row)
    d_rows = torch.randn(rows.shape, device=x.device).to(x.dtype)
    (d_x,) = torch.autograd.grad(rows, x, d_rows)
    (d_x64,) = torch.autograd.grad(rows64, x64, d_rows.double())

    assert rows.dtype is x.dtype
    assert torch.equal(rows.double(), rows64), "rows are copies"
    assert_matches(d_x, d_x64, "d_x")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("T", "H", "E", "G", "k"), SHAPES)
def test_matches_the_oracle(
    T: int, H: int, E: int, G: int, k: int, dtype: torch.dtype, device: str
) -> None:
    routing = moge_ops.route(group_ids(T, E, G, k).to(device), E, num_groups=G)
    check(torch.randn(T, H, device=device).to(dtype), routing)


@given(T=st.integers(0, 9), H=st.integers(0, 40), K=st.integers(0, 10), step=st.integers(1, 3))
def test_any_shape_stride_and_dropped_slot(T: int, H: int, K: int, step: int, device: str) -> None:
    routing = moge_ops.route(torch.randint(-2, 6, (T, K), device=device), 4)
    check(torch.randn(H, T * step, device=device).t()[::step], routing)


@given(
    T=st.integers(0, 6),
    H=st.integers(0, 20),
    K=st.integers(0, 5),
    pad_to=st.integers(1, 17),
    lowest=st.sampled_from([0, -2]),
)
def test_padded_rows(T: int, H: int, K: int, pad_to: int, lowest: int, device: str) -> None:
    routing = moge_ops.route(
        torch.randint(lowest, 4 - lowest, (T, K), device=device), 4, pad_to=pad_to
    )
    check(torch.randn(T, H, device=device), routing)
    rows = moge_ops.permute(torch.randn(T, H, device=device), routing)
    assert not rows[routing.row_to_slot < 0].any()


def test_padding_that_is_not_at_the_end(device: str) -> None:
    routing = moge_ops.route(torch.tensor([[0], [1], [1]], device=device), 2, pad_to=2)
    assert routing.row_to_slot.tolist() == [0, -1, 1, 2]
    rows = moge_ops.permute(torch.tensor([[1.0], [2.0], [3.0]], device=device), routing)
    assert rows.tolist() == [[1.0], [0.0], [2.0], [3.0]]


def test_routing_of_any_stride(device: str) -> None:
    routing = moge_ops.route(torch.randint(-1, 4, (6, 3), device=device), 4)
    row_to_slot, slot_to_row, offsets = routing
    strided = moge_ops.Routing(
        torch.stack((row_to_slot, row_to_slot + 1), 1)[:, 0],
        slot_to_row.t().contiguous().t(),
        offsets,
    )
    x = torch.randn(6, 5, device=device)
    assert torch.equal(moge_ops.permute(x, strided), moge_ops.permute(x, routing))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_dropped_slots_are_zero(dtype: torch.dtype, device: str) -> None:
    x = torch.full((3, 4), float("nan"), device=device).to(dtype)
    x[1] = 1.0
    routing = moge_ops.route(torch.tensor([[9, -1], [0, 9], [-5, 9]], device=device), 2)
    rows = moge_ops.permute(x, routing)
    assert rows.tolist() == [[1.0] * 4] + [[0.0] * 4] * 5


def test_gradients_of_dropped_rows_do_not_leak(device: str) -> None:
    routing = moge_ops.route(torch.tensor([[0, 9], [9, 9], [1, 0]], device=device), 2)
    x = torch.randn(3, 5, device=device, requires_grad=True)
    d_rows = torch.full((6, 5), float("nan"), device=device)
    d_rows[:3] = 1.0
    moge_ops.permute(x, routing).backward(d_rows)
    assert x.grad is not None
    assert x.grad.tolist() == [[1.0] * 5, [0.0] * 5, [2.0] * 5]


def test_a_token_gradient_is_summed_in_float32(device: str) -> None:
    routing = moge_ops.route(torch.tensor([[0, 0, 0]], device=device), 1)
    x = torch.ones(1, 2, dtype=torch.bfloat16, device=device, requires_grad=True)
    d_rows = torch.tensor([[256.0] * 2, [1.0] * 2, [1.0] * 2], device=device).bfloat16()
    moge_ops.permute(x, routing).backward(d_rows)
    assert x.grad is not None
    assert x.grad.tolist() == [[258.0, 258.0]]  # in bfloat16 256 + 1 is 256


@pytest.mark.float64
@pytest.mark.parametrize("ids", [[[0, 1], [3, 0]], [[9, 1], [0, 1]]], ids=["kept", "dropped"])
def test_gradcheck(ids: list[list[int]], device: str) -> None:
    routing = moge_ops.route(torch.tensor(ids, device=device), 4)
    x = torch.randn(2, 3, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: moge_ops.permute(x, routing), (x,))
    assert torch.autograd.gradgradcheck(lambda x: moge_ops.permute(x, routing), (x,))


def test_repeats_bit_for_bit(device: str) -> None:
    routing = moge_ops.route(torch.randint(-1, 4, (20, 5), device=device), 4)
    x = torch.randn(20, 33, device=device).requires_grad_()
    d_rows = torch.randn(100, 33, device=device)
    runs = []
    for _ in range(2):
        rows = moge_ops.permute(x, routing)
        runs.append((rows, *torch.autograd.grad(rows, x, d_rows)))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


ROUTING = moge_ops.Routing(
    torch.zeros(6, dtype=torch.int32),
    torch.zeros(3, 2, dtype=torch.int32),
    torch.zeros(5, dtype=torch.int32),
)


@pytest.mark.parametrize(
    ("x", "routing", "message"),
    [
        (torch.zeros(3), ROUTING, r"x must be \[T, H\], got \[3\]"),
        (
            torch.zeros(4, 2),
            ROUTING,
            r"routing.slot_to_row must be \[T, K\] = \[4, 2\], got \[3, 2\]",
        ),
        (
            torch.zeros(3, 2, device="meta"),
            ROUTING,
            "routing.slot_to_row must be on the device of x, meta, got cpu",
        ),
        (
            torch.zeros(3, 2),
            ROUTING._replace(row_to_slot=torch.zeros(5, dtype=torch.int32)),
            r"routing.row_to_slot must have at least N = T \* K = 6 rows, got 5",
        ),
        (
            torch.zeros(3, 2),
            ROUTING._replace(offsets=torch.zeros(0, dtype=torch.int32)),
            r"routing.offsets must be \[E \+ 1\], got \[0\]",
        ),
        (
            torch.zeros(3, 2),
            ROUTING._replace(slot_to_row=torch.zeros(6, dtype=torch.int32)),
            r"routing.slot_to_row must be \[T, K\], got \[6\]",
        ),
    ],
    ids=["rank", "tokens", "device", "fewer-rows", "no-offsets", "slots"],
)
def test_rejects_a_bad_value(x: Tensor, routing: moge_ops.Routing, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        moge_ops.permute(x, routing)


@pytest.mark.parametrize(
    ("x", "routing", "message"),
    [
        (torch.zeros(3, 2, dtype=torch.int32), ROUTING, r"x must be float16 \| .*, got int32"),
        (None, ROUTING, r"x must be a Tensor \[T, H\], got NoneType"),
        (torch.zeros(3, 2), tuple(ROUTING), "routing must be what route returned, got tuple"),
        (
            torch.zeros(3, 2),
            ROUTING._replace(offsets=torch.zeros(5)),
            "routing.offsets must be int32, got float32",
        ),
    ],
    ids=["integers", "none", "tuple", "offsets"],
)
def test_rejects_a_bad_type(x: Any, routing: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        moge_ops.permute(x, routing)
