"""moge_ops.grouped_gate agrees with its oracle, forward and backward, on every backend."""

import contextlib
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moge_ops import testing
from moge_ops.ops.grouped_gate import SCORES, Gating, gate_and_route, grouped_gate
from moge_ops.reference.grouped_gate import grouped_gate as oracle
from moge_ops.testing import assert_matches, spaced_logits

# the interpreter computes masked elements too, and NumPy warns of the NaN that they may become
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")

NAN, INF = float("nan"), float("inf")
ON = torch.ones(8, dtype=torch.bool)
SHAPES = [  # T, E, G, k
    pytest.param(5, 64, 8, 1, id="pangu"),
    pytest.param(3, 512, 8, 1, id="intern"),
    pytest.param(6, 30, 5, 3, id="experts-per-group-not-k"),
    pytest.param(5, 21, 3, 7, id="all-experts"),
    pytest.param(9, 6, 6, 1, id="one-expert-per-group"),
    pytest.param(2, 1024, 1, 2, id="one-large-group"),
    pytest.param(23, 12, 2, 2, id="several-tiles-per-program"),
    pytest.param(7, 1, 1, 1, id="one-expert"),
    pytest.param(1, 8, 2, 1, id="one-token"),
    pytest.param(0, 8, 2, 1, id="no-tokens"),
]
GATES = [
    pytest.param({}, id="plain"),
    pytest.param({"renormalize": True, "scaling": 2.5}, id="renormalized"),
    pytest.param({"score": "sigmoid", "scaling": 0.1}, id="sigmoid"),
    pytest.param({"score": "sigmoid", "renormalize": True}, id="sigmoid-renormalized"),
    pytest.param({"score": "sqrtsoftplus", "scaling": 1.5}, id="sqrtsoftplus"),
    pytest.param({"score": "sqrtsoftplus", "renormalize": True}, id="sqrtsoftplus-renormalized"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def leaf(x: Tensor | None, dtype: torch.dtype = torch.float64) -> Tensor | None:
    return None if x is None else x.detach().cpu().to(dtype).requires_grad_()


def check(
    logits: Tensor,
    num_groups: int,
    k: int,
    *,
    bias: Tensor | None = None,
    router_scale: Tensor | None = None,
    expert_mask: Tensor | None = None,
    row_mask: Tensor | None = None,
    experts: Tensor | None = None,
    oracle_dtype: torch.dtype = torch.float64,
    **options: Any,
) -> Gating:
    """Ids and counts exactly, weights and gradients within tolerance of the oracle."""
    leaves = [x.requires_grad_() for x in (logits, router_scale) if x is not None]
    logits64, scale64 = leaf(logits, oracle_dtype), leaf(router_scale, oracle_dtype)
    leaves64 = [x for x in (logits64, scale64) if x is not None]

    gating = grouped_gate(
        logits,
        num_groups,
        k,
        bias=bias,
        router_scale=router_scale,
        expert_mask=expert_mask,
        row_mask=row_mask,
        experts=experts,
        **options,
    )
    weights, want_experts, counts = oracle(
        logits64,
        num_groups,
        k,
        bias=leaf(bias, oracle_dtype),
        router_scale=scale64,
        expert_mask=None if expert_mask is None else expert_mask.cpu(),
        row_mask=None if row_mask is None else row_mask.cpu(),
        experts=None if experts is None else experts.cpu(),
        **options,
    )
    assert gating.experts.dtype is gating.counts.dtype is torch.int32
    assert gating.experts.cpu().equal(want_experts), "experts"
    assert gating.counts.cpu().equal(counts), "counts"
    assert gating.weights.dtype is torch.promote_types(logits.dtype, torch.float32)
    assert_matches(gating.weights, weights, "weights")

    d_weights = torch.randn(weights.shape, dtype=gating.weights.dtype)
    grads = torch.autograd.grad(gating.weights, leaves, d_weights.to(logits.device))
    grads64 = torch.autograd.grad(weights, leaves64, d_weights.to(oracle_dtype))
    assert [grad.dtype for grad in grads] == [leaf.dtype for leaf in leaves]
    # renormalised, one weight's terms cancel: their size, not that of the result, is the unit
    size = weights.detach().nan_to_num().square().sum(-1).mean().div(logits.shape[1]).sqrt().item()
    assert_matches(grads[0], grads64[0], "d_logits", scale=size)
    if router_scale is not None:
        assert_matches(grads[1], grads64[1], "d_router_scale")
    return gating


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("T", "E", "G", "k"), SHAPES)
def test_matches_the_oracle(
    T: int, E: int, G: int, k: int, dtype: torch.dtype, device: str
) -> None:
    check(spaced_logits(T, E, dtype).to(device), G, k, router_scale=torch.rand(E).to(device, dtype))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("E", "G", "k"), [(20, 4, 2), (64, 8, 1)])
def test_every_kind_of_gate(E: int, G: int, k: int, gate: dict[str, Any], device: str) -> None:
    logits = spaced_logits(11, E, torch.float32).to(device)
    check(logits, G, k, bias=torch.randn(E, device=device), **gate)
    check(logits.detach(), G, k, router_scale=torch.randn(E, device=device), **gate)


def extremes(score: str, dtype: torch.dtype, vanished: bool) -> float:
    """A logit whose score is 0, or subnormal; by how much the best exceeds it, for the softmax."""
    if vanished:
        limit = 1000.0 if dtype is torch.float64 else 120.0
    elif score == "softmax":  # the quotient of one and the score overflows
        limit = 740.0 if dtype is torch.float64 else 100.0
    else:
        limit = 709.5 if dtype is torch.float64 else 88.0
    return -2.0 * limit if score == "sqrtsoftplus" else -limit


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(("E", "G", "k"), [(12, 2, 3), (64, 8, 1)])
def test_scores_that_vanish_get_equal_shares(
    E: int,
    G: int,
    k: int,
    score: str,
    device: str,
    float_dtypes: list[torch.dtype],
) -> None:
    for dtype, has_bias in itertools.product(float_dtypes, (False, True)):
        lost = extremes(score, dtype, vanished=True)
        logits = spaced_logits(5, E, dtype).to(device)
        logits[1] = lost
        logits[3, : E // G] = lost  # one group of the row
        on = torch.ones(E, dtype=torch.bool, device=device)
        if score == "softmax":  # the best is off
            on[0] = False
            logits[1, 0] = 0.0
        router_scale = torch.rand(E, device=device)
        options: dict[str, Any] = {
            "bias": torch.rand(E, device=device) if has_bias else None,
            "router_scale": router_scale,
            "expert_mask": on,
            "score": score,
            "renormalize": True,
            "scaling": 2.5,
        }
        acc = torch.promote_types(dtype, torch.float32)
        # in float64 the scores of -120 do not vanish
        check(logits, G, k, oracle_dtype=acc, **options)
        gating = grouped_gate(logits, G, k, **options)
        share = 2.5 / (G * k) * router_scale[gating.experts[1].long()].to(acc)
        torch.testing.assert_close(gating.weights[1], share)
        (d_logits,) = torch.autograd.grad(gating.weights.square().sum(), logits)
        assert d_logits[1].eq(0.0).all()
        assert d_logits[0].ne(0.0).any()


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(("E", "G", "k"), [(12, 2, 3), (64, 8, 1)])
def test_subnormal_scores_have_their_gradient(
    E: int, G: int, k: int, score: str, device: str, float_dtypes: list[torch.dtype]
) -> None:
    for dtype in float_dtypes:
        logits = spaced_logits(3, E, dtype).to(device)
        logits[1] = extremes(score, dtype, vanished=False)
        on = torch.ones(E, dtype=torch.bool, device=device)
        if score == "softmax":
            on[0] = False
            logits[1, 0] = 0.0
        # a gradient of 1000 by such a score would be infinite
        options: dict[str, Any] = {"score": score, "renormalize": True, "scaling": 1000.0}
        check(logits, G, k, expert_mask=on, **options)
        # so would that of the oracle
        own = leaf(logits, torch.promote_types(dtype, torch.float32))
        weights, _, _ = oracle(own, G, k, expert_mask=on.cpu(), **options)
        (d_logits,) = torch.autograd.grad(weights.square().sum(), own)
        assert d_logits.isfinite().all()


def test_sqrtsoftplus_is_exact_at_both_ends(device: str, float_dtypes: list[torch.dtype]) -> None:
    rows = [1000.0, 100.0, 20.5, 1.0, 0.0, -0.5, -8.0, -20.0, -60.0, -100.0]
    want, slopes = [], []
    for x in rows:  # log(1 + e^x) and e^x / (1 + e^x)
        soft = x if x > 700.0 else math.log1p(math.exp(x))
        want.append(math.sqrt(soft))
        slopes.append(1.0 / (1.0 + math.exp(-x)) / (2.0 * math.sqrt(soft)))
    for dtype in float_dtypes:
        logits = torch.tensor([*rows, INF, -INF, NAN], dtype=dtype, device=device)
        logits = logits.view(-1, 1).requires_grad_()
        weights = grouped_gate(logits, 1, score="sqrtsoftplus").weights
        (d_logits,) = torch.autograd.grad(weights.sum(), logits)
        close: dict[str, Any] = {"rtol": 1e-12 if dtype is torch.float64 else 2e-6, "atol": 0.0}
        wide = {"dtype": weights.dtype, "device": device}
        expected = torch.tensor([*want, INF, 0.0, NAN], **wide)
        torch.testing.assert_close(weights[:, 0], expected, equal_nan=True, **close)
        expected = torch.tensor([*slopes, 0.0, 0.0, NAN], **wide)
        if dtype in (torch.float16, torch.bfloat16):
            close = {"rtol": 1e-2, "atol": 1e-6}  # the gradient has the dtype of the logits
        torch.testing.assert_close(
            d_logits[:, 0].to(weights.dtype), expected, equal_nan=True, **close
        )


@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("bad", [INF, -INF, NAN])
def test_sqrtsoftplus_of_what_is_no_number(bad: float, renormalize: bool, device: str) -> None:
    for E, G in ((12, 2), (64, 8)):
        logits = spaced_logits(4, E, torch.float32).to(device)
        logits[1, 5] = logits[2, : E // G] = bad
        gating = check(logits, G, 1, score="sqrtsoftplus", renormalize=renormalize)
        assert gating.weights[0].isfinite().all()


@given(
    T=st.integers(0, 13),
    G=st.integers(1, 5),
    P=st.integers(1, 6),
    data=st.data(),
    score=st.sampled_from(SCORES),
    renormalize=st.booleans(),
    scaling=st.sampled_from([1.0, 2.5, -0.3, 3]),
    layout=st.sampled_from(["transposed", "sliced", "repeated"]),
)
def test_any_shape_and_stride(
    T: int,
    G: int,
    P: int,
    data: st.DataObject,
    score: str,
    renormalize: bool,
    scaling: float,
    layout: str,
    float_dtypes: list[torch.dtype],
    device: str,
) -> None:
    E = G * P
    dtype = data.draw(st.sampled_from(float_dtypes))
    if layout == "transposed":
        logits = spaced_logits(E, T, dtype).to(device).t()
    elif layout == "sliced":
        logits = spaced_logits(2 * T, E + 3, dtype).to(device)[::2, 3:]
    else:
        logits = spaced_logits(1, E, dtype).to(device).expand(T, E)

    def per_expert() -> Tensor | None:
        if data.draw(st.booleans()):
            return None
        return torch.randn(E, 2, dtype=data.draw(st.sampled_from(DTYPES)), device=device)[:, 1]

    check(
        logits,
        G,
        data.draw(st.integers(1, P)),
        bias=per_expert(),
        router_scale=per_expert(),
        score=score,
        renormalize=renormalize,
        scaling=scaling,
    )


def test_is_the_released_gate(device: str) -> None:
    T, E, G = 10, 32, 4
    logits = spaced_logits(T, E, torch.float32).to(device)
    router_scale = torch.rand(E, device=device)

    best, experts = logits.softmax(-1).view(T, G, E // G).max(-1)
    experts = experts + torch.arange(0, E, E // G, device=device)
    gating = grouped_gate(logits, G, router_scale=router_scale)
    assert gating.experts.equal(experts.int())
    torch.testing.assert_close(gating.weights, best * router_scale[experts])


def test_ties_go_to_the_lowest_id(device: str) -> None:
    gating = check(torch.zeros(6, 12, device=device), 3, 2)
    assert gating.experts.tolist() == [[0, 1, 4, 5, 8, 9]] * 6
    assert gating.counts.tolist() == [6, 6, 0, 0] * 3


def test_any_number_beats_nan(device: str) -> None:
    logits = torch.tensor([[NAN, -INF, NAN, 2.0], [1.0, NAN, NAN, NAN]], device=device)
    gating = check(logits, 2, 1, score="sigmoid")
    assert gating.experts.tolist() == [[1, 3], [0, 2]]
    assert gating.weights.isnan().tolist() == [[False, False], [False, True]]
    gating = check(logits.detach(), 1, 4, score="sigmoid")
    assert gating.experts.tolist() == [[3, 1, 0, 2], [0, 1, 2, 3]]


@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("bad", [[NAN] * 6, [0.0, 0.0, 1.0, NAN, 0.0, 0.0], [0, 0, 1, 0, INF, 0]])
def test_a_nan_row_stays_alone(bad: list[float], renormalize: bool, device: str) -> None:
    logits = spaced_logits(9, 6, torch.float32).to(device)
    logits[4] = torch.tensor(bad)
    # the rows' gradients are compared too: NaN in row 4 only
    gating = check(logits, 2, 2, renormalize=renormalize)
    assert gating.experts[4].tolist() == [0, 1, 3, 4]
    assert gating.weights.isnan().any(-1).tolist() == [t == 4 for t in range(9)]
    check(logits.detach(), 2, 2, router_scale=torch.rand(6, device=device), renormalize=renormalize)


def test_minus_infinity_is_a_number(device: str) -> None:
    logits = torch.tensor([[-INF, 1.0, -INF, -INF], [-INF, -INF, 0.0, 2.0]], device=device)
    assert check(logits, 2, 1).experts.tolist() == [[1, 2], [0, 3]]
    assert check(logits.detach(), 2, 2).experts.tolist() == [[1, 0, 2, 3], [0, 1, 3, 2]]


def test_bias_switches_experts_off_and_on(device: str) -> None:
    logits = spaced_logits(8, 8, torch.float32).to(device)
    bias = torch.tensor([0.0, -INF, -INF, -INF, NAN, -INF, INF, INF], device=device)
    assert check(logits, 2, 1, bias=bias).experts.tolist() == [[0, 6]] * 8
    assert check(logits, 2, 4, bias=bias).experts.tolist() == [[0, 1, 2, 3, 6, 7, 5, 4]] * 8


def test_bias_has_no_gradient(device: str) -> None:
    bias = torch.randn(6, device=device, requires_grad=True)
    gating = grouped_gate(spaced_logits(3, 6, torch.float32).to(device), 2, bias=bias)
    assert not gating.experts.requires_grad
    assert not gating.counts.requires_grad
    if gating.weights.requires_grad:
        assert torch.autograd.grad(gating.weights.sum(), bias, allow_unused=True) == (None,)


def some_on(G: int, P: int, fewest: int) -> Tensor:
    """A random mask ``[E]`` that leaves at least ``fewest`` experts on in each group."""
    rank = torch.rand(G, P).argsort(-1).argsort(-1)
    return (rank < torch.randint(fewest, P + 1, (G, 1))).flatten()


@given(
    T=st.integers(0, 13),
    G=st.integers(1, 4),
    P=st.integers(1, 6),
    data=st.data(),
    score=st.sampled_from(SCORES),
    renormalize=st.booleans(),
)
def test_experts_off_and_votes(
    T: int,
    G: int,
    P: int,
    data: st.DataObject,
    score: str,
    renormalize: bool,
    float_dtypes: list[torch.dtype],
    device: str,
) -> None:
    E, k = G * P, data.draw(st.integers(1, P), label="k")
    num_voted = data.draw(st.none() | st.integers(k, P), label="num_voted")
    draw = lambda label: data.draw(st.booleans(), label=label)  # noqa: E731
    mask = some_on(G, P, k).to(device) if draw("mask") else None
    bias = torch.randn(2 * E, device=device)[::2] if draw("bias") else None
    voters = (
        torch.rand(2 * T, device=device)[::2] < data.draw(st.sampled_from([0.0, 0.5]))
        if num_voted is not None and draw("row_mask")
        else None
    )
    # few different logits: experts with equally many votes are the rule
    logits = spaced_logits(T, E, data.draw(st.sampled_from(float_dtypes)), steps=4).to(device)
    gating = check(
        logits,
        G,
        k,
        bias=bias,
        router_scale=torch.rand(E, device=device),
        expert_mask=mask,
        row_mask=voters,
        num_voted=num_voted,
        score=score,
        renormalize=renormalize,
    )
    used = gating.counts.cpu() > 0
    assert mask is None or not used[~mask.cpu()].any(), "an expert that is off was chosen"
    assert used.view(G, P).sum(1).max() <= (num_voted or P), "too many stayed"


def test_the_vote_by_hand(device: str) -> None:
    # one group of four: two rows for expert 3, one each for 0 and 2, so the tie goes to 0
    rows = [[0, 1, 2, 9], [0, 2, 1, 9], [9, 1, 2, 3], [1, 3, 9, 2], [0, 9, 1, 2]]
    logits = torch.tensor(rows, dtype=torch.float32, device=device)
    voters = torch.tensor([True, True, True, True, False], device=device)
    gating = check(logits, 1, 1, num_voted=2, row_mask=voters)
    assert gating.experts.tolist() == [[3], [3], [0], [3], [3]]
    assert gating.counts.tolist() == [1, 0, 0, 4]
    # the weights are the softmax over all, as without a vote
    torch.testing.assert_close(gating.weights[3], logits.softmax(-1)[3, 3:])
    # everybody votes: 1 ties with 0 and 2; of those that are on, 1 has the lower id
    assert check(logits.detach(), 1, 1, num_voted=2).experts[4].tolist() == [3]
    on = torch.tensor([False, True, True, True], device=device)
    gating = check(logits.detach(), 1, 1, num_voted=2, expert_mask=on)
    assert gating.experts.tolist() == [[3], [3], [3], [1], [1]]


def test_an_expert_that_is_off_wins_no_vote(device: str) -> None:
    # no vote for 1, which is on, and for 0 more than any: experts that are off come last
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0]] * 3, device=device)
    on = torch.tensor([False, True, True, True], device=device)
    gating = check(logits, 1, 2, expert_mask=on, num_voted=2)
    assert gating.experts.tolist() == [[1, 2]] * 3


def test_a_nan_row_with_a_bias_takes_each_expert_once(device: str) -> None:
    logits = torch.full((1, 6), NAN, device=device)
    gating = check(logits, 1, 3, bias=torch.zeros(6, device=device))
    assert gating.experts.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("backend", ["torch", None])
def test_many_rows_sum_to_an_exact_gradient_of_the_scale(backend: str | None) -> None:
    # an expert's rows are summed one after another: in float32 the error is 8e-6
    T = 400_000
    logits, d_weights = torch.randn(T, 2), torch.rand(T, 1)
    results = []
    with testing.backend(backend) if backend else contextlib.nullcontext():
        for dtype in (torch.float32, torch.float64):
            scale = torch.ones(2, dtype=dtype, requires_grad=True)
            weights = grouped_gate(logits.to(dtype), 1, router_scale=scale).weights
            results += torch.autograd.grad(weights, scale, d_weights.to(dtype))
    assert testing.rms_error(*results) < 1e-6


def test_without_a_voter_the_lowest_ids_stay(device: str) -> None:
    none = torch.zeros(3, dtype=torch.bool, device=device)
    gating = check(spaced_logits(3, 8, torch.float32).to(device), 2, 2, num_voted=2, row_mask=none)
    assert gating.counts.tolist() == [3, 3, 0, 0, 3, 3, 0, 0]


def test_a_row_of_nan_chooses_as_if_all_were_on(device: str) -> None:
    logits = spaced_logits(3, 6, torch.float32).to(device)
    logits[1] = NAN
    on = torch.tensor([False, True, True, False, False, True], device=device)
    assert check(logits, 2, 1, expert_mask=on).experts[1].tolist() == [0, 3]
    gating = check(logits.detach(), 2, 1, expert_mask=on, num_voted=1)
    assert gating.experts[1].tolist() == [0, 3]
    assert gating.counts[on].sum() == 4


def test_experts_that_are_off_fill_what_is_left(device: str) -> None:
    on = torch.tensor([True, False, False, False, False, True], device=device)
    gating = check(spaced_logits(2, 6, torch.float32).to(device), 2, 2, expert_mask=on)
    assert gating.experts.tolist() == [[0, 1, 5, 3]] * 2


def any_ids(T: int, E: int, K: int, dtype: torch.dtype = torch.int32) -> Tensor:
    """Ids in any order; some come twice in a row, and some no expert has."""
    ids = torch.randint(-1, E + 1, (T, K), dtype=dtype)
    if K > 1:
        ids[: T // 2, 1] = ids[: T // 2, 0]
    return ids


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("T", "E", "G", "k"), SHAPES)
def test_given_experts_match_the_oracle(
    T: int, E: int, G: int, k: int, dtype: torch.dtype, device: str
) -> None:
    logits, scale = torch.randn(T, E).to(dtype), torch.rand(E).to(device, dtype)
    ids = any_ids(T, E, G * k)
    ids[:, -1] = logits.argmax(-1)  # as all scores of many are small, so are float16's gradients
    check(logits.to(device), G, k, router_scale=scale, experts=ids.to(device))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("E", "G", "k"), [(20, 4, 2), (64, 8, 1)])
def test_every_kind_of_gate_takes_given_experts(
    E: int, G: int, k: int, gate: dict[str, Any], device: str
) -> None:
    ids = any_ids(11, E, G * k, torch.int64).to(device)
    strided = ids.mT.contiguous().mT
    logits = torch.randn(11, E, device=device)
    check(logits, G, k, experts=ids, bias=torch.randn(E, device=device), **gate)
    check(
        logits.detach(), G, k, router_scale=torch.randn(E, device=device), experts=strided, **gate
    )


def test_given_experts_by_hand(device: str) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]], device=device).log()  # scores 0, 1/6, 1/3, 1/2
    for ids, want, kept, counts in [
        ([3, 3], [0.5, 0.5], [3, 3], [0, 0, 0, 2]),
        ([1, -1], [1.0, 0.0], [1, -1], [0, 1, 0, 0]),
        ([2**32 + 1, 2], [0.0, 1.0], [-1, 2], [0, 0, 1, 0]),
        ([0, 4], [0.5, 0.0], [0, -1], [1, 0, 0, 0]),  # the sum is 0: 1 / K
    ]:
        given_ids = torch.tensor([ids], device=device)
        gating = grouped_gate(logits, 2, renormalize=True, experts=given_ids)
        assert_matches(gating.weights, torch.tensor([want]), "weights")
        assert gating.experts.tolist() == [kept]
        assert gating.counts.tolist() == counts


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("gate", GATES)
def test_its_own_choice_given_back_changes_nothing(gate: dict[str, Any], device: str) -> None:
    logits = torch.randn(70, 24, device=device, requires_grad=True)
    scale = torch.rand(24, device=device, requires_grad=True)
    options = {**gate, "router_scale": scale}
    chosen = grouped_gate(logits, 4, 2, **options)
    # what decides a choice has no say in one that is given
    again = grouped_gate(
        logits,
        4,
        2,
        experts=chosen.experts,
        bias=torch.randn(24, device=device),
        expert_mask=torch.zeros(24, dtype=torch.bool, device=device),
        num_voted=2,
        **options,
    )
    assert_matches(again.weights, chosen.weights, "weights")
    assert again.experts.equal(chosen.experts)
    assert again.counts.equal(chosen.counts)
    d_weights = torch.randn(70, 8, device=device)
    grads = (torch.autograd.grad(g.weights, (logits, scale), d_weights) for g in (chosen, again))
    for name, a, b in zip(("d_logits", "d_router_scale"), *grads, strict=True):
        assert_matches(b, a, name)


@pytest.mark.parametrize("renormalize", [False, True])
def test_a_dropped_slot_of_a_nan_row_weighs_nothing(renormalize: bool, device: str) -> None:
    logits = torch.full((2, 4), NAN, device=device)
    logits[1] = 0.0
    logits.requires_grad_()
    ids = torch.tensor([[0, -1], [7, 3]], device=device, dtype=torch.int32)
    for expert in (0, 1, 2):  # none of them in the row of numbers
        scale = torch.ones(4, device=device)
        scale[expert] = INF
        check_dropped(logits, ids, renormalize, scale)


def check_dropped(logits: Tensor, ids: Tensor, renormalize: bool, scale: Tensor) -> None:
    def weigh(x: Tensor) -> Tensor:
        return grouped_gate(x, 2, experts=ids, renormalize=renormalize, router_scale=scale).weights

    device, weights = logits.device, weigh(logits)
    derived = torch.func.vjp(weigh, logits.detach())[0]  # by the oracle
    assert derived.isnan().equal(weights.isnan())
    assert weights.isnan().tolist() == [[True, False], [False, False]]
    assert weights[0, 1] == weights[1, 0] == 0.0
    d_weights = torch.tensor([[1.0, 1.0], [NAN, 1.0]], device=device)
    (d_logits,) = torch.autograd.grad(weights, logits, d_weights)
    assert d_logits.isfinite().all(-1).tolist() == [False, True]


@pytest.mark.float64
@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("gate", GATES)
def test_gradcheck(gate: dict[str, Any], device: str, interpreted: bool) -> None:
    # far enough apart that a finite difference does not change the choice
    logits = torch.randperm(3 * 6).view(3, 6).double().div(10).to(device).requires_grad_()
    router_scale = torch.rand(6, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda l, r: grouped_gate(l, 2, 2, router_scale=r, **gate).weights,
        (logits, router_scale),
        fast_mode=interpreted,
    )
    ids = torch.tensor([[5, 5, 0, 1], [-1, 2, 3, 2], [6, 6, 6, 4]], device=device)
    assert torch.autograd.gradcheck(
        lambda l, r: grouped_gate(l, 2, 2, router_scale=r, experts=ids, **gate).weights,
        (logits, router_scale),
        fast_mode=interpreted,
    )


def test_runs_are_equal_bit_for_bit(device: str) -> None:
    # enough rows for several programs on a GPU; the counts of a second launch start anew
    logits = torch.randn(70, 24, device=device, requires_grad=True)
    router_scale = torch.rand(24, device=device, requires_grad=True)
    d_weights = torch.randn(70, 12, device=device)

    def run() -> list[Tensor]:
        gating = grouped_gate(logits, 4, 3, router_scale=router_scale, renormalize=True)
        assert gating.counts.sum() == 70 * 12
        return [*gating, *torch.autograd.grad(gating.weights, (logits, router_scale), d_weights)]

    first, second = run(), run()
    assert all(a.equal(b) for a, b in zip(first, second, strict=True))


def test_launches_of_unequal_size_follow_each_other(device: str) -> None:
    for T in (40, 3, 9, 40):
        assert grouped_gate(torch.randn(T, 6, device=device), 3).counts.sum() == 3 * T


def test_reference_backend_gives_the_oracle() -> None:
    logits = spaced_logits(4, 6, torch.float32)
    with testing.backend("reference"):
        gating = grouped_gate(logits, 3, renormalize=True)
    assert isinstance(gating, Gating)
    assert gating.weights.equal(oracle(logits, 3, renormalize=True)[0])


@pytest.mark.parametrize("choose", [grouped_gate, gate_and_route])
@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((4,), {"logits": [1.0]}, TypeError, r"logits must be a Tensor \[T, E\], got list"),
        ((4,), {"logits": torch.zeros(8)}, ValueError, r"logits must be \[T, E\], got \[8\]"),
        (
            (4,),
            {"logits": torch.zeros(2, 8).int()},
            TypeError,
            r"logits must be float16.*got int32",
        ),
        ((4,), {"logits": torch.zeros(2, 0)}, ValueError, r"multiple of num_groups=4, got 0"),
        ((3,), {}, ValueError, r"multiple of num_groups=3, got 8"),
        ((0,), {}, ValueError, r"num_groups must be at least 1, got 0"),
        ((-2,), {}, ValueError, r"num_groups must be at least 1, got -2"),
        ((2.0,), {}, TypeError, r"num_groups must be an int, got float"),
        ((4, 3), {}, ValueError, r"k must be at most .* 8 / 4 = 2, got 3"),
        ((4, 0), {}, ValueError, r"k must be at least 1, got 0"),
        ((4, -1), {}, ValueError, r"k must be at least 1, got -1"),
        ((4, True), {}, TypeError, r"k must be an int, got bool"),
        ((4,), {"score": "relu"}, ValueError, r"one of softmax, sigmoid, sqrtsoftplus, got 'relu'"),
        ((4,), {"bias": torch.zeros(7)}, ValueError, r"bias must be \[E\] = \[8\], got \[7\]"),
        ((4,), {"bias": torch.zeros(8).long()}, TypeError, r"bias must be float16 .*, got int64"),
        ((4,), {"bias": torch.zeros(8, device="meta")}, ValueError, r"bias .* cpu, got meta"),
        ((4,), {"router_scale": torch.zeros(1, 8)}, ValueError, r"router_scale .* got \[1, 8\]"),
        ((4,), {"router_scale": 2.0}, TypeError, r"router_scale must be a Tensor .* got float"),
        ((4,), {"renormalize": 1}, TypeError, r"renormalize must be a bool, got int"),
        ((4,), {"scaling": "2"}, TypeError, r"scaling must be a float, got str"),
        ((4,), {"scaling": True}, TypeError, r"scaling must be a float, got bool"),
        ((4,), {"scaling": NAN}, ValueError, r"scaling must be finite, got nan"),
        ((4,), {"expert_mask": torch.ones(8)}, TypeError, r"expert_mask must be bool, got float32"),
        ((4,), {"expert_mask": ON[1:]}, ValueError, r"expert_mask .* \[8\], got \[7\]"),
        ((4,), {"expert_mask": ON.to("meta")}, ValueError, r"expert_mask .* cpu, got meta"),
        ((2, 2), {"num_voted": 1}, ValueError, r"from k=2 to the experts per group, 4, got 1"),
        ((2,), {"num_voted": 5}, ValueError, r"from k=1 to the experts per group, 4, got 5"),
        ((2,), {"num_voted": 2.0}, TypeError, r"num_voted must be an int, got float"),
        ((2,), {"row_mask": ON[:2]}, ValueError, r"row_mask must come with num_voted, got None"),
        ((2,), {"num_voted": 2, "row_mask": ON}, ValueError, r"row_mask .* \[2\], got \[8\]"),
        ((2,), {"num_voted": 2, "row_mask": ON.int()}, TypeError, r"row_mask .* got int32"),
        ((2,), {"experts": [[0, 4]]}, TypeError, r"experts must be a Tensor .* got list"),
        ((2,), {"experts": torch.zeros(2, 2)}, TypeError, r"experts must be int32 .* got float32"),
        ((2, 2), {"experts": ON[:4].view(2, 2).int()}, ValueError, r"\[T, K=4\].*got \[2, 2\]"),
        ((2,), {"experts": ON[:2].view(1, 2).int()}, ValueError, r"experts .* \[1, 2\]"),
    ],
)
def test_rejects(
    choose: Callable[..., Any],
    args: tuple[Any, ...],
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    arguments = {"logits": torch.zeros(2, 8), **options}
    with pytest.raises(error, match=message):
        choose(arguments.pop("logits"), *args, **arguments)
