"""The Ascend C kernels on vectors: rows summed and spread, floats reordered, the balance loss."""

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import moge_ops
from moge_ops import _backend, testing
from moge_ops.ops.grouped_gate import SCORES
from moge_ops.ops.load_balance_loss import load_balance_loss
from moge_ops.reference.load_balance_loss import load_balance_loss as loss_oracle
from moge_ops.reference.route import route as route_oracle
from moge_ops.reference.unpermute import unpermute as oracle
from moge_ops.testing import assert_matches

_C: Any = pytest.importorskip("moge_ops._C", reason="built without the Ascend emulator")
kernels: Any = importlib.import_module("moge_ops.ascend.unpermute")
losses: Any = importlib.import_module("moge_ops.ascend.load_balance_loss")
NAN, INF = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SCHEDULES = [(1, 0), (3, 1), (7, 2), (48, 3)]  # cores, seed


@pytest.fixture(autouse=True)
def _ascend() -> Iterator[None]:
    _C.set_emulation(cores=5)
    with testing.backend("ascend"):
        yield
    _C.set_emulation()


def routed(T: int, K: int, E: int = 6, lowest: int = -1) -> moge_ops.Routing:
    """Routing of random ids, about one in E + 1 of them dropped; a token has no row at all."""
    experts = torch.randint(lowest, E, (T, K))
    if T > 1 and lowest < 0:
        experts[T // 2] = -1
    return moge_ops.Routing(*route_oracle(experts, E))


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("T", "H", "K"),
    [(1, 1, 1), (3, 15, 2), (6, 33, 8), (4, 513, 3), (3, 5120, 8), (2, 5121, 9), (2, 10500, 3)],
    ids=["one", "narrow", "ragged", "one-past", "pangu", "two-parts", "three-parts"],
)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_rows_with_dropped_slots(
    T: int, H: int, K: int, dtype: torch.dtype, weighted: bool
) -> None:
    routing = routed(T, K)
    inputs = [torch.randn(T * K, H).to(dtype).requires_grad_()]
    if weighted:
        inputs.append(torch.rand(T, K).requires_grad_())
    inputs64 = [x.detach().double().requires_grad_() for x in inputs]
    y = moge_ops.unpermute(inputs[0], routing, *inputs[1:])
    y64 = oracle(inputs64[0], routing.slot_to_row, *inputs64[1:])
    assert_matches(y, y64, "y")
    d_y = torch.randn(T, H).to(dtype)
    grads = torch.autograd.grad(y, inputs, d_y)
    grads64 = torch.autograd.grad(y64, inputs64, d_y.double())
    assert_matches(grads[0], grads64[0], "d_rows")
    if weighted:
        assert_matches(grads[1], grads64[1], "d_weights", scale=H**0.5)
        assert not grads[1][routing.slot_to_row < 0].any()


def test_a_bad_row_spoils_its_own_token_only() -> None:
    T, K, H = 6, 3, 700
    routing = routed(T, K, lowest=0)
    rows, weights, d_y = torch.randn(T * K, H), torch.rand(T, K), torch.randn(T, H)
    rows[routing.slot_to_row[2, 1]] = NAN
    d_y[4, 5] = INF
    y = kernels.unpermute_fwd(rows, *routing[:2], weights)
    assert y.isnan().any(1).tolist() == [False, False, True, False, False, False]
    d_rows, d_weights = kernels.unpermute_bwd(d_y, rows, *routing[:2], weights)
    assert (~d_weights.isfinite()).nonzero().tolist() == [[2, 1], [4, 0], [4, 1], [4, 2]]
    assert d_rows.isfinite().all(1).sum() == (T - 1) * K


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_do_not_depend_on_the_cores(dtype: torch.dtype) -> None:
    T, K, H = 9, 8, 5130
    routing = routed(T, K)
    rows, d_y = torch.randn(T * K, H).to(dtype), torch.randn(T, H).to(dtype)
    weights = torch.rand(T, K)
    results = []
    for cores, seed in SCHEDULES:
        _C.set_emulation(cores=cores, seed=seed)
        y = kernels.unpermute_fwd(rows, *routing[:2], weights)
        results.append((y, *kernels.unpermute_bwd(d_y, rows, *routing[:2], weights)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


# --- floats in another order ----------------------------------------------------------------------


@pytest.mark.parametrize("cores", [1, 5])
@pytest.mark.parametrize("M", [0, 1, 17, 16384, 16385, 40000])
@pytest.mark.parametrize("N", [0, 1, 63, 65, 1537, 8000])
def test_scalars_in_another_order(M: int, N: int, cores: int) -> None:
    _C.set_emulation(cores=cores, seed=M + N)
    scalars = torch.randn(M)
    scalars[::7], scalars[1::7] = NAN, -INF
    index = torch.randint(-1, M, (N,), dtype=torch.int32)
    index[::5] = M - 1  # the last one, if there is one
    want = torch.where(index < 0, 0.0, torch.cat((scalars, torch.zeros(1)))[index.long()])
    got = kernels.take_scalars(scalars, index)
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


def test_an_index_of_no_scalar_takes_nothing() -> None:
    index = torch.tensor([2, 3, -1, 16384, 2**31 - 1, -(2**31), 0], dtype=torch.int32)
    got = kernels.take_scalars(torch.tensor([1.0, 2.0, 3.0]), index)
    assert got.tolist() == [3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]


def test_weights_go_to_rows_and_back() -> None:
    routing = routed(700, 8)
    weights = torch.rand(700, 8)
    rows = kernels.take_scalars(weights, routing.row_to_slot)
    kept = routing.slot_to_row >= 0
    assert rows[int(kept.sum()) :].count_nonzero() == 0
    assert torch.equal(kernels.take_scalars(rows, routing.slot_to_row), weights * kept)


# --- the weighted activation, backward ------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("N", "F"),
    [(1, 1), (3, 15), (5, 63), (130, 65), (65, 33), (9, 1344), (2, 2689), (3, 6000)],
    ids=["one", "narrow", "below", "many-rows", "tiles", "pangu", "two-parts", "three-parts"],
)
def test_backward_of_the_weighted_activation(N: int, F: int, dtype: torch.dtype) -> None:
    mlp = _backend.load("ascend", "grouped_mlp")
    g, pre = torch.randn(N, F).to(dtype), (2 * torch.randn(N, 2 * F)).to(dtype)
    if F > 1:
        pre[0, 0], pre[N - 1, F - 1] = 200.0, -200.0  # the exponential is 0 and infinite
    weights = torch.rand(N)
    got = mlp.grouped_mlp_act_bwd(g, pre, weights)
    pre64, w64 = pre.double().requires_grad_(), weights.double().requires_grad_()
    gate, up = pre64[:, :F], pre64[:, F:]
    act = gate * gate.sigmoid() * up * w64[:, None]
    d_pre, d_weights = torch.autograd.grad(act, (pre64, w64), g.double())
    assert_matches(got[0], d_pre, "d_pre")
    assert_matches(got[1], act, "act")
    size = (act / w64[:, None] * g.double()).square().sum(1).mean().sqrt().item()
    assert_matches(got[2], d_weights, "d_weights", scale=max(size, 1.0))
    for cores, seed in SCHEDULES:
        _C.set_emulation(cores=cores, seed=seed)
        again = mlp.grouped_mlp_act_bwd(g, pre, weights)
        assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))


# --- balance loss ---------------------------------------------------------------------------------


def check_loss(logits: Tensor, experts: Tensor, score: str) -> None:
    logits.requires_grad_()
    logits64 = logits.detach().double().requires_grad_()
    loss = load_balance_loss(logits, experts, score=score)
    loss64 = loss_oracle(logits64, experts, score=score)
    assert_matches(loss, loss64, "loss")
    (grad,) = torch.autograd.grad(3.0 * loss, logits)
    (grad64,) = torch.autograd.grad(3.0 * loss64, logits64)
    size = max(grad64.square().mean().sqrt().item(), 3.0 / max(logits.numel(), 1))
    assert_matches(grad, grad64, "d_logits", scale=size)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("T", "E"),
    [
        *[(86, 64), (87, 64), (129, 64), (200, 8), (131, 15), (90, 33), (50, 65), (26, 100)],
        *[(25, 512), (3, 2041), (2, 2048)],
    ],
)
def test_loss_of_tiles(T: int, E: int, dtype: torch.dtype, score: str) -> None:
    _C.set_emulation(cores=1)
    experts = torch.randint(-1, E + 1, (T, 8), dtype=torch.int32)
    check_loss((2 * torch.randn(T, E)).to(dtype), experts, score)


@pytest.mark.parametrize("cores", [1, 6])
@pytest.mark.parametrize(
    ("T", "K"), [(0, 8), (1, 1), (16, 8), (17, 8), (176, 8), (177, 8), (1000, 8), (33, 100)]
)
@pytest.mark.parametrize("E", [8, 64, 65, 200])
def test_each_choice_counts_once(T: int, K: int, E: int, cores: int) -> None:
    _C.set_emulation(cores=cores)
    for experts in (
        torch.randint(-2, E + 2, (T, K), dtype=torch.int32),
        torch.full((T, K), E - 1, dtype=torch.int32),  # all in the same lane
        torch.full((T, K), 0, dtype=torch.int32),
        torch.full((T, K), -(2**31), dtype=torch.int32),
    ):
        _, f = losses.load_balance_loss_fwd(torch.zeros(T, E), experts, "softmax")
        ids = experts[(experts >= 0) & (experts < E)].long()
        counts = torch.bincount(ids.flatten(), minlength=E)
        share = torch.tensor(float(E)) / max(T * K, 1)
        assert torch.equal((f / share).round().long(), counts)
        torch.testing.assert_close(f, counts * share)


@pytest.mark.parametrize("score", SCORES)
def test_the_loss_is_the_same_in_any_order_of_the_cores(score: str) -> None:
    logits, experts = torch.randn(700, 64), torch.randint(0, 64, (700, 8), dtype=torch.int32)
    results = []
    for seed in (0, 1, 2):
        _C.set_emulation(cores=9, seed=seed)
        loss, f = losses.load_balance_loss_fwd(logits, experts, score)
        d_logits = losses.load_balance_loss_bwd(torch.tensor(1.0), logits, f, score)
        results.append((loss, f, d_logits))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("score", SCORES)
def test_a_bad_token_keeps_its_gradient_to_itself(score: str) -> None:
    logits, f = torch.randn(90, 64), torch.rand(64)
    good = losses.load_balance_loss_bwd(torch.tensor(1.0), logits, f, score)
    logits[41, 3], logits[80] = NAN, INF
    bad = losses.load_balance_loss_bwd(torch.tensor(1.0), logits, f, score)
    rest = [t for t in range(90) if t not in (41, 80)]
    assert torch.equal(good[rest], bad[rest])
    assert bad[41].isnan().any()


def test_too_many_experts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"E must be in \[0, 2048\], got 2049"):
        load_balance_loss(torch.zeros(1, 2049), torch.zeros(1, 1, dtype=torch.int32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": -1}, r"take_scalars: size must be in \[0, 2147483647\], got -1"),
        ({"count": 2**31}, r"count must be in \[0, 2147483647\], got 2147483648"),
        ({"index": 66}, "take_scalars: index must be aligned to 4 bytes, got address 66"),
        ({"results": 0}, "take_scalars: results must not be null"),
    ],
    ids=["size", "count", "misaligned", "null"],
)
def test_a_bad_reorder_is_refused(change: dict[str, int], message: str) -> None:
    sound = {"scalars": 64, "index": 64, "results": 64, "size": 1, "count": 1, "stream": 0}
    with pytest.raises(ValueError, match=message):
        _C.take_scalars(**sound | change)
