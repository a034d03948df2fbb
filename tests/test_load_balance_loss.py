"""moge_ops.load_balance_loss agrees with its oracle, forward and backward, on every backend."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moge_ops import testing
from moge_ops.ops.grouped_gate import SCORES, grouped_gate
from moge_ops.ops.load_balance_loss import (
    load_balance_loss,
    load_balance_loss_from_probs,
    router_z_loss,
)
from moge_ops.reference.load_balance_loss import load_balance_loss as oracle
from moge_ops.testing import assert_matches, group_ids

# the interpreter computes masked elements too, and NumPy warns of the NaN that they may become
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")

SHAPES = [  # T, E, G, k
    pytest.param(5, 64, 8, 1, id="pangu"),
    pytest.param(3, 512, 8, 1, id="intern"),
    pytest.param(6, 30, 5, 3, id="odd"),
    pytest.param(23, 12, 2, 2, id="several-tiles-per-program"),
    pytest.param(2, 1024, 1, 2, id="many-experts"),
    pytest.param(7, 1, 1, 1, id="one-expert"),
    pytest.param(1, 8, 2, 1, id="one-token"),
    pytest.param(0, 8, 2, 1, id="no-tokens"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def check(logits: Tensor, experts: Tensor, score: str) -> Tensor:
    """Loss and gradient within tolerance of the float64 oracle."""
    logits.requires_grad_()
    logits64 = logits.detach().cpu().double().requires_grad_()
    loss = load_balance_loss(logits, experts, score=score)
    loss64 = oracle(logits64, experts.cpu(), score=score)
    assert loss.dtype is torch.promote_types(logits.dtype, torch.float32)
    assert_matches(loss, loss64, "loss")
    (d_logits,) = torch.autograd.grad(3.0 * loss, logits)
    (d_logits64,) = torch.autograd.grad(3.0 * loss64, logits64)
    assert d_logits.dtype is logits.dtype
    # with even shares the terms cancel: the unit is at least the size of one
    size = d_logits64.nan_to_num().square().mean().sqrt().item()
    size = max(size, 3.0 / max(logits.numel(), 1))
    assert_matches(d_logits, d_logits64, "d_logits", scale=size)
    return loss


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("T", "E", "G", "k"), SHAPES)
def test_matches_the_oracle(
    T: int, E: int, G: int, k: int, dtype: torch.dtype, score: str, device: str
) -> None:
    logits = torch.randn(T, E).to(device, dtype)
    check(logits, group_ids(T, E, G, k).to(device), score)


@given(
    T=st.integers(0, 13),
    K=st.integers(0, 5),
    E=st.integers(1, 13),
    score=st.sampled_from(SCORES),
    data=st.data(),
    id_dtype=st.sampled_from([torch.int32, torch.int64]),
    transposed=st.booleans(),
)
def test_any_shape_and_stride(
    T: int,
    K: int,
    E: int,
    score: str,
    data: st.DataObject,
    id_dtype: torch.dtype,
    transposed: bool,
    device: str,
    float_dtypes: list[torch.dtype],
) -> None:
    dtype = data.draw(st.sampled_from(float_dtypes))
    logits = torch.randn(E, T).to(device, dtype).t()
    experts = torch.randint(-2, E + 2, (K, T), dtype=id_dtype, device=device).t()
    if not transposed:
        logits, experts = logits.repeat(1, 2)[:, :E], experts.repeat(2, 1)[:T]
    check(logits, experts, score)


@pytest.mark.float64
@pytest.mark.parametrize("score", SCORES)
def test_gradcheck(score: str, device: str) -> None:
    logits = torch.randn(3, 6, dtype=torch.float64, device=device, requires_grad=True)
    experts = group_ids(3, 6, 2, 2).to(device)
    assert torch.autograd.gradcheck(lambda l: load_balance_loss(l, experts, score=score), (logits,))


@pytest.mark.parametrize("score", SCORES)
def test_an_even_choice_gives_one(score: str, device: str) -> None:
    experts = torch.arange(8, device=device).view(4, 2)
    loss = load_balance_loss(torch.zeros(4, 8, device=device), experts, score=score)
    # two plain numbers would be compared as float64, but a GPU's division is off by up to 2 ulp
    torch.testing.assert_close(loss.item(), 1.0, rtol=1e-6, atol=0.0)


def test_ids_out_of_range_count_for_no_expert(device: str) -> None:
    logits = torch.randn(5, 3, device=device)
    for stray in (-1, 3, 4, 2**40, -(2**40)):  # 3 falls into the padding of a tile
        experts = torch.tensor([[0, stray]] * 5, device=device)
        loss = check(logits.detach(), experts, "softmax")
        # half of the slots go to expert 0: f_0 = E / 2
        torch.testing.assert_close(loss, 1.5 * logits.softmax(-1)[:, 0].mean())


def test_one_id_many_times_in_a_row(device: str) -> None:
    check(torch.randn(6, 4, device=device), torch.full((6, 3), 2, device=device), "softmax")


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_a_bad_row_spoils(bad: float, score: str, device: str) -> None:
    logits = torch.randn(9, 5, device=device)
    logits[3, 1] = bad
    logits[4] = bad
    check(logits, group_ids(9, 5, 1, 2).to(device), score)


@pytest.mark.parametrize("score", ["sigmoid", "sqrtsoftplus"])
def test_scores_that_vanish_are_shared_evenly(
    score: str, device: str, float_dtypes: list[torch.dtype]
) -> None:
    for dtype in float_dtypes:
        logits = torch.randn(3, 10).to(device, dtype)
        logits[1] = -3000.0 if dtype is torch.float64 else -300.0
        logits.requires_grad_()
        experts = torch.zeros(3, 1, dtype=torch.int64, device=device)
        loss = load_balance_loss(logits, experts, score=score)
        (d_logits,) = torch.autograd.grad(loss, logits)
        assert d_logits[1].eq(0.0).all()
        assert d_logits[0].ne(0.0).any()
        # all are expert 0's, so that f_0 = E
        own = logits.detach().double()[::2]
        own = own.sigmoid() if score == "sigmoid" else own.exp().log1p().sqrt()
        first = own[:, 0] / own.sum(1)
        assert_matches(loss, 10 * (first.sum() + 0.1) / 3, "loss")
        leaf = logits.detach().cpu().requires_grad_()
        again = oracle(leaf, experts.cpu(), score=score)
        assert_matches(loss, again.double(), "loss")
        (want,) = torch.autograd.grad(again, leaf)
        assert_matches(d_logits, want.double(), "d_logits", scale=0.1)


@pytest.mark.parametrize("score", ["sigmoid", "sqrtsoftplus"])
def test_subnormal_scores_are_divided_by_their_sum(score: str, device: str) -> None:
    logits = torch.randn(3, 2, device=device)
    logits[1] = -88.0 if score == "sigmoid" else -176.0
    check(logits, torch.zeros(3, 1, dtype=torch.int64, device=device), score)


def test_runs_are_equal_bit_for_bit(device: str) -> None:
    logits = torch.randn(70, 24, device=device, requires_grad=True)
    experts = group_ids(70, 24, 4, 3).to(device)

    def run() -> list[Tensor]:
        loss = load_balance_loss(logits, experts)
        return [loss, *torch.autograd.grad(loss, logits)]

    assert all(a.equal(b) for a, b in zip(run(), run(), strict=True))


def test_autocast_rounds_nothing(device: str) -> None:
    logits, experts = torch.randn(4, 6, device=device), group_ids(4, 6, 2, 1).to(device)
    loss = load_balance_loss(logits, experts)
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        assert load_balance_loss(logits, experts).equal(loss)


def test_ids_have_no_gradient_and_shares_are_constant(device: str) -> None:
    logits = torch.randn(4, 6, device=device, requires_grad=True)
    _, f = torch.ops.moge_ops.load_balance_loss(logits, group_ids(4, 6, 2, 1).to(device), "softmax")
    assert not f.requires_grad
    torch.testing.assert_close(f.sum().item(), 6.0, rtol=1e-6, atol=0.0)


def test_reference_backend_gives_the_oracle() -> None:
    logits, experts = torch.randn(4, 6), group_ids(4, 6, 2, 1)
    with testing.backend("reference"):
        assert load_balance_loss(logits, experts).equal(oracle(logits, experts))


IDS = torch.zeros(2, 3, dtype=torch.int32)


@pytest.mark.parametrize(
    ("logits", "experts", "score", "error", "message"),
    [
        (torch.zeros(8), IDS, "softmax", ValueError, r"logits must be \[T, E\], got \[8\]"),
        (torch.zeros(2, 0), IDS, "softmax", ValueError, r"with E at least 1, got \[2, 0\]"),
        (torch.zeros(2, 8).int(), IDS, "softmax", TypeError, r"logits must be float16.*got int32"),
        (None, IDS, "softmax", TypeError, r"logits must be a Tensor \[T, E\], got NoneType"),
        (torch.zeros(2, 8), IDS.float(), "softmax", TypeError, r"experts .* int64, got float32"),
        (torch.zeros(2, 8), IDS[0], "softmax", ValueError, r"experts must be \[T, K\], got \[3\]"),
        (torch.zeros(4, 8), IDS, "softmax", ValueError, r"\[T, K\] = \[4, 3\], got \[2, 3\]"),
        (torch.zeros(2, 8), IDS.to("meta"), "softmax", ValueError, r"experts .* cpu, got meta"),
        (torch.zeros(2, 8), IDS, "tanh", ValueError, r"softmax, sigmoid, sqrtsoftplus, got 'tanh'"),
    ],
)
def test_rejects(
    logits: Any, experts: Tensor, score: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_balance_loss(logits, experts, score=score)


def test_leaves_null_experts_out() -> None:
    E, G, k = 12, 3, 2
    logits, ids = torch.randn(5, E), group_ids(5, E, G, k)
    with_nulls = ids.clone()
    with_nulls[:, 1] = E + 3
    share = load_balance_loss(logits, with_nulls)
    f = torch.bincount(with_nulls[with_nulls < E], minlength=E) * (E / ids.numel())
    torch.testing.assert_close(share, (f * logits.softmax(-1).mean(0)).sum())


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("T", [0, 1, 9])
def test_loss_from_probs_is_that_of_the_logits(T: int, dtype: torch.dtype, score: str) -> None:
    logits = torch.randn(T, 12, dtype=dtype, requires_grad=True)
    gating = grouped_gate(logits, 3, 2, score=score)
    want = load_balance_loss(logits, gating.experts, score=score)
    (want_d,) = torch.autograd.grad(want, logits)
    counts = gating.counts
    for factor in (counts, counts.long() * 3, counts.half(), counts.double() / 64):
        probs = {"softmax": logits.softmax(-1), "sigmoid": logits.sigmoid()}.get(score)
        probs = logits.exp().log1p().sqrt() if probs is None else probs
        loss = load_balance_loss_from_probs(probs / probs.sum(-1, keepdim=True), factor)
        assert loss.dtype is dtype
        assert_matches(loss, want.double(), "loss")
        (d_logits,) = torch.autograd.grad(loss, logits)
        assert_matches(d_logits, want_d.double(), "d_logits", scale=1.0 / max(1, logits.numel()))


def test_loss_from_probs_by_hand() -> None:
    probs = torch.tensor([[0.5, 0.25, 0.25], [0.75, 0.0, 0.25]], dtype=torch.float16)
    probs.requires_grad_()
    loss = load_balance_loss_from_probs(probs, torch.tensor([3, 1, 0]))
    # f = 3 (3, 1, 0) / 4, p = (5, 1, 2) / 8
    assert loss.item() == 1.5
    assert loss.dtype is torch.float32
    (d_probs,) = torch.autograd.grad(loss, probs)
    assert d_probs.tolist() == [[1.125, 0.375, 0.0]] * 2
    # no row of an expert, and a gradient of the counts
    assert load_balance_loss_from_probs(probs, torch.zeros(3)).item() == 0.0
    counts = torch.ones(3, requires_grad=True)
    loss = load_balance_loss_from_probs(probs, counts)
    assert torch.autograd.grad(loss, counts, allow_unused=True) == (None,)
    with torch.autocast("cpu", torch.bfloat16):
        assert load_balance_loss_from_probs(probs, counts).equal(loss)


def test_loss_from_probs_compiles_whole() -> None:
    probs, counts = torch.rand(4, 6), torch.arange(6)
    compiled = torch.compile(load_balance_loss_from_probs, fullgraph=True, backend="aot_eager")
    assert compiled(probs, counts).equal(load_balance_loss_from_probs(probs, counts))


@pytest.mark.parametrize(
    ("probs", "counts", "error", "message"),
    [
        (torch.zeros(8), torch.zeros(8), ValueError, r"probs must be \[T, E\], got \[8\]"),
        (torch.zeros(2, 8).int(), torch.zeros(8), TypeError, r"probs must be float16.*got int32"),
        (torch.zeros(2, 8), torch.zeros(7), ValueError, r"counts .* \[E\] = \[8\], got \[7\]"),
        (torch.zeros(2, 8), torch.zeros(8) > 0, TypeError, r"counts must be int32.* got bool"),
        (torch.zeros(2, 8), [1] * 8, TypeError, r"counts must be a Tensor \[E\], got list"),
        (torch.zeros(2, 8), torch.zeros(8, device="meta"), ValueError, r"counts .* got meta"),
    ],
)
def test_loss_from_probs_rejects(
    probs: Any, counts: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_balance_loss_from_probs(probs, counts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_null": None}, "num_null must be an int, got NoneType"),
        ({"num_null": 0.0}, "num_null must be an int, got float"),
        ({"num_groups": True}, "num_groups must be an int, got bool"),
    ],
)
def test_loss_from_probs_checks_what_makes_no_difference(options: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        load_balance_loss_from_probs(torch.zeros(2, 8), torch.zeros(8), **options)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize("T", [0, 1, 9])
def test_z_loss_is_its_formula(T: int, dtype: torch.dtype) -> None:
    logits = (3.0 * torch.randn(12, T)).to(dtype).t().requires_grad_()
    loss = router_z_loss(logits)
    wide = logits.detach().double().requires_grad_()
    want = sum((row.exp().sum().log() ** 2 for row in wide), 0.0 * wide.sum()) / max(T, 1)
    assert loss.dtype is torch.promote_types(dtype, torch.float32)
    assert_matches(loss, want, "loss")
    (d_logits,) = torch.autograd.grad(loss, logits)
    (want_d,) = torch.autograd.grad(want, wide)
    assert d_logits.dtype is dtype
    assert_matches(d_logits, want_d, "d_logits")


def test_z_loss_has_the_right_gradient_and_no_overflow() -> None:
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(router_z_loss, logits)
    # in float16 neither the exponential of 100 nor the square of 1000 exists
    assert router_z_loss(torch.full((2, 1), 1000.0, dtype=torch.float16)).item() == 1e6
    with pytest.raises(ValueError, match=r"logits must be \[T, E\], got \[3\]"):
        router_z_loss(torch.zeros(3))


def test_z_loss_compiles_whole() -> None:
    logits = torch.randn(4, 6)
    compiled = torch.compile(router_z_loss, fullgraph=True, backend="aot_eager")
    assert compiled(logits).equal(router_z_loss(logits))
