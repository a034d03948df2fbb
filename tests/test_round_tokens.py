"""moge_ops.round_tokens agrees with loops over lists, and its result runs on every backend."""

import itertools
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import moge_ops
from moge_ops.ops._round_tokens import ROUND_MODES, ROUNDS, round_tokens
from moge_ops.ops.grouped_gate import SCORES, grouped_gate
from moge_ops.testing import assert_matches, spaced_logits

# the interpreter computes masked elements too, and NumPy warns of the NaN that they may become
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")

GROUPED = ("balanced", "apportioned")


def all_scores(logits: Tensor, score: str) -> Tensor:
    """``[T, E]`` float64."""
    x = logits.detach().cpu().double()
    return {
        "softmax": lambda: x.exp() / x.exp().sum(-1, keepdim=True),
        "sigmoid": lambda: 1.0 / (1.0 + (-x).exp()),
        "sqrtsoftplus": lambda: (1.0 + x.exp()).log().sqrt(),
    }[score]()


def wanted_counts(
    counts: list[int], tile: int, mode: str, G: int, expected: list[float]
) -> list[int]:
    """The multiple of the tile that every expert should get, one expert after the other."""
    P, found = len(counts) // G, []
    for g in range(G):
        own = range(g * P, (g + 1) * P)
        down = {e: counts[e] - counts[e] % tile for e in own}
        rising = set()
        sum_of_errors = 0
        for e in own:
            rest = counts[e] - down[e]
            if rest == 0:
                continue
            below, above = -rest, tile - rest
            if (
                mode == "up"
                or (mode == "nearest" and above < -below)
                or (mode == "expected" and down[e] + tile - expected[e] < expected[e] - down[e])
                or (mode == "balanced" and abs(sum_of_errors + above) < abs(sum_of_errors + below))
            ):
                rising.add(e)
            sum_of_errors += above if e in rising else below
        if mode == "apportioned":
            places = Fraction(sum(counts[e] for e in own), tile) - Fraction(
                sum(down.values()), tile
            )
            number = int(places) + (places - int(places) > Fraction(1, 2))
            rising = set(sorted(own, key=lambda e: (down[e] - counts[e], e))[:number])
        found += [down[e] + tile * (e in rising) for e in own]
    return found


def by_lists(
    scores: Tensor, experts: list[list[int]], tile: int, mode: str, G: int, extra: int, shares: bool
) -> tuple[list[set[int]], list[list[int]]]:
    """Tokens that stay with each expert that they chose, and what each token gets besides."""
    T, E = scores.shape
    s = scores.tolist()
    chosen = [{e for e in row if 0 <= e < E} for row in experts]
    counts = [sum(e in row for row in chosen) for e in range(E)]
    expected = [0.0] * E
    for t, g in itertools.product(range(T), range(G)):
        own = range(g * E // G, (g + 1) * E // G)
        n, total = len(chosen[t] & set(own)), sum(s[t][e] for e in own)
        for e in own:
            expected[e] += n * s[t][e] / total
    target = wanted_counts(counts, tile, mode, G, expected)

    def rank(t: int, e: int) -> float:
        return s[t][e] / sum(s[t][c] for c in chosen[t]) if shares else s[t][e]

    guests: list[set[int]] = [set() for _ in range(T)]
    refused: set[tuple[int, int]] = set()
    outside = {
        e: sorted(
            (t for t in range(T) if chosen[t] and e not in chosen[t]), key=lambda t: (-s[t][e], t)
        )
        for e in range(E)
    }
    for _ in range(ROUNDS):
        asked: dict[int, list[int]] = {t: [] for t in range(T)}
        for e in range(E):
            here = [t for t in outside[e] if (t, e) not in refused]
            for t in here[: max(target[e] - counts[e], 0)]:
                asked[t].append(e)
        for t, asking in asked.items():
            best = sorted(asking, key=lambda e: (-s[t][e], e))
            guests[t] = set(best[:extra])
            refused |= {(t, e) for e in best[extra:]}
    for e in range(E):
        if target[e] > counts[e] and sum(e in row for row in guests) < target[e] - counts[e]:
            target[e] = counts[e] - counts[e] % tile
            for row in guests:
                row.discard(e)
    stay = [
        set(
            sorted((t for t in range(T) if e in chosen[t]), key=lambda t: (-rank(t, e), t))[
                : target[e]
            ]
        )
        for e in range(E)
    ]
    return stay, [sorted(row, key=lambda e: (-s[t][e], e)) for t, row in enumerate(guests)]


def check(
    logits: Tensor, experts: Tensor, tile: int, extra: int | None = None, **options: Any
) -> moge_ops.Gating:
    """Ids exactly as by lists, weights within tolerance, and the laws."""
    found = round_tokens(logits, experts, tile, extra=extra, **options)
    T, E = logits.shape
    K, mode = experts.shape[1], options.get("mode", "nearest")
    if extra is None:
        extra = 0 if mode == "down" else min((K + 1) // 2, E - K)
    scores = all_scores(logits, options.get("score", "softmax"))
    rows, shares = experts.tolist(), options.get("renormalize", False)
    stay, guests = by_lists(scores, rows, tile, mode, options.get("num_groups", 1), extra, shares)
    want = []
    for t, row in enumerate(rows):
        first = [
            e if 0 <= e < E and t in stay[e] and e not in row[:j] else -1 for j, e in enumerate(row)
        ]
        want.append([*first, *guests[t], *[-1] * (extra - len(guests[t]))])
    ids = found.experts.cpu()
    assert ids.dtype == torch.int32
    assert ids.tolist() == want
    assert ids.shape == found.weights.shape == (T, K + extra)

    counts = [int((ids == e).sum()) for e in range(E)]
    assert found.counts.tolist() == counts
    assert not any(n % tile for n in counts), "a count is no multiple of the tile"
    for row in ids.tolist():
        used = [e for e in row if e >= 0]
        assert len(used) == len(set(used)), "an expert comes twice in a row"
    weights = torch.where(ids < 0, 0.0, scores.gather(1, ids.clamp_min(0).long()))
    if shares:
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-300)
    if (scale := options.get("router_scale")) is not None:
        weights = weights * scale.detach().cpu().double()[ids.clamp_min(0).long()]
    assert_matches(found.weights, weights * options.get("scaling", 1.0), "weights")
    return found


SHAPES = [  # T, E, G, k, tile
    pytest.param(40, 8, 1, 2, 8, id="plain"),
    pytest.param(64, 64, 8, 1, 4, id="pangu"),
    pytest.param(37, 12, 3, 2, 5, id="odd"),
    pytest.param(9, 8, 2, 1, 16, id="tile-above-T"),
    pytest.param(1, 8, 2, 1, 1, id="one-token"),
    pytest.param(0, 8, 2, 1, 4, id="no-tokens"),
    pytest.param(6, 1, 1, 1, 4, id="one-expert"),
]


@pytest.mark.parametrize("mode", ROUND_MODES)
@pytest.mark.parametrize(("T", "E", "G", "k", "tile"), SHAPES)
def test_matches_the_lists(T: int, E: int, G: int, k: int, tile: int, mode: str) -> None:
    logits = torch.randn(T, E) + torch.randn(E)
    experts = grouped_gate(logits, G, k).experts
    check(logits, experts, tile, num_groups=G, mode=mode)


@pytest.mark.slow_on("triton")
@given(
    T=st.integers(0, 21),
    G=st.integers(1, 3),
    P=st.integers(1, 4),
    k=st.integers(1, 3),
    tile=st.integers(1, 7),
    mode=st.sampled_from(ROUND_MODES),
    score=st.sampled_from(SCORES),
    renormalize=st.booleans(),
    transposed=st.booleans(),
    extra=st.integers(0, 4) | st.none(),
)
def test_any_shape_and_stride(
    T: int,
    G: int,
    P: int,
    k: int,
    tile: int,
    mode: str,
    score: str,
    renormalize: bool,
    transposed: bool,
    extra: int | None,
    device: str,
) -> None:
    E, k = G * P, min(k, P)
    logits = torch.randn(E, T).to(device).t()
    experts = grouped_gate(logits, G, k, score=score).experts
    if not transposed:
        logits, experts = logits.repeat(1, 2)[:, :E], experts.long().t().contiguous().t()
    if extra is not None:
        extra = min(extra, E - G * k)
    options = {"num_groups": G, "mode": mode, "score": score, "renormalize": renormalize}
    check(logits, experts, tile, extra, **options, scaling=2.5)


@pytest.mark.parametrize("mode", ["nearest", "up", "down"])
@pytest.mark.parametrize("renormalize", [False, True])
def test_is_the_published_rule_where_tokens_accept_all(mode: str, renormalize: bool) -> None:
    """Every expert sorts all tokens by one key, those that chose it first, and takes some."""
    T, E, K, M = 300, 16, 4, 32
    logits = torch.randn(T, E, dtype=torch.float64) + torch.randn(E)
    s = logits.softmax(-1)
    best = s.topk(K, -1)
    value = best.values / best.values.sum(-1, keepdim=True) if renormalize else best.values
    key = (s - 1.0).scatter(1, best.indices, value)
    n = best.indices.flatten().bincount(minlength=E)
    assert not (2 * (n % M) == M).any(), "a half would be rounded differently"
    take = {"nearest": (n / M).round(), "up": (n / M).ceil(), "down": (n / M).floor()}[mode] * M
    taken = torch.zeros(T, E, dtype=torch.bool)
    for e in range(E):
        taken[key[:, e].argsort(descending=True)[: int(take[e])], e] = True

    gating = round_tokens(logits, best.indices, M, mode=mode, extra=E - K, renormalize=renormalize)
    ours = torch.zeros(T, E + 1, dtype=torch.bool)
    ours.scatter_(1, torch.where(gating.experts < 0, E, gating.experts).long(), True)
    assert torch.equal(ours[:, :E], taken)
    assert gating.counts.tolist() == take.int().tolist()


def test_renormalising_does_not_change_what_is_expected() -> None:
    """It divides the scores of chosen experts alone; shares are of a group's own scores."""
    for seed in range(4):
        torch.manual_seed(seed)
        logits = torch.randn(200, 16) + 0.5 * torch.randn(16)
        experts = grouped_gate(logits, 2, 2).experts
        plain, renormalized = (
            check(logits, experts, 16, 12, num_groups=2, mode="expected", renormalize=flag)
            for flag in (False, True)
        )
        assert plain.counts.equal(renormalized.counts)


def test_a_case_by_hand() -> None:
    """Five tokens, three experts, tile 2: 4, 1 and 0 rows become 4, 2 and 0 or 4, 0 and 0."""
    p = torch.tensor(
        [
            *([0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.8, 0.1, 0.1]),
            [0.2, 0.7, 0.1],
        ]
    )
    experts = p.argmax(-1, keepdim=True)
    up = round_tokens(p.log(), experts, 2, mode="up")
    assert up.experts.tolist() == [[0, -1], [0, 1], [0, -1], [0, -1], [1, -1]]
    assert up.counts.tolist() == [4, 2, 0]
    torch.testing.assert_close(up.weights[1], torch.tensor([0.6, 0.3]))
    nearest = round_tokens(p.log(), experts, 2)  # 1 is halfway: it goes down
    assert nearest.experts.tolist() == [[0, -1], [0, -1], [0, -1], [0, -1], [-1, -1]]
    assert nearest.weights[4].tolist() == [0.0, 0.0]
    down = round_tokens(p.log(), experts, 3, mode="down")  # the lowest score, 0.5, leaves
    assert down.experts.tolist() == [[0], [0], [-1], [0], [-1]]


@pytest.mark.parametrize("mode", GROUPED)
@pytest.mark.parametrize("tile", [2, 3, 8])
def test_groups_keep_their_sums(mode: str, tile: int) -> None:
    """The multiple nearest to T·k in each group: the loads of MoGE stay equal."""
    T, G, k = 50, 3, 2
    logits = torch.randn(T, 18) + 0.5 * torch.randn(18)
    experts = grouped_gate(logits, G, k).experts
    assert int(experts.flatten().bincount().max()) < T - tile, "it could not go up"
    gating = round_tokens(logits, experts, tile, num_groups=G, mode=mode, extra=12)
    sums = gating.counts.view(G, -1).sum(-1)
    assert sums.tolist() == [int(-(-(Fraction(T * k, tile) - Fraction(1, 2)) // 1)) * tile] * G


def test_apportioning_changes_the_fewest_tokens() -> None:
    """Against every way to round five counts up or down to the same sum."""
    counts_of = torch.Generator().manual_seed(3)
    for tile in (2, 3, 5, 8):
        for _ in range(20):
            counts = torch.randint(0, 3 * tile, (5,), generator=counts_of)
            T = int(counts.sum())
            experts = torch.arange(5).repeat_interleave(counts).view(T, 1)
            gating = round_tokens(torch.randn(T, 5), experts, tile, mode="apportioned", extra=4)
            n = counts.tolist()
            ways = itertools.product(*({c // tile * tile, -(-c // tile) * tile} for c in n))
            total = sum(gating.counts.tolist())
            assert abs(total - T) <= tile / 2
            costs = [
                sum(abs(a - b) for a, b in zip(way, n, strict=True))
                for way in ways
                if sum(way) == total
            ]
            got = gating.counts.tolist()
            # an expert can find no tokens where nearly all have chosen it
            if all(a <= T for a in got) and total:
                assert sum(abs(a - b) for a, b in zip(got, n, strict=True)) == min(costs)


def test_a_refused_expert_asks_its_next_tokens() -> None:
    """Token 0 takes expert 1 and refuses 2; token 3 refuses it for 0, as both have 0.1."""
    p = torch.tensor(
        [
            *([0.5, 0.3, 0.2], [0.8, 0.12, 0.08], [0.9, 0.06, 0.04], [0.1, 0.8, 0.1]),
            [0.05, 0.1, 0.85],
        ]
    )
    experts = p.argmax(-1, keepdim=True)  # 0, 0, 0, 1, 2
    found = check(p.log(), experts, 2, extra=1, mode="up")
    assert found.experts.tolist() == [[0, 1], [0, 2], [0, -1], [1, 0], [2, -1]]
    tight = check(p.log()[:4], experts[:4], 4, extra=1, mode="up")  # 1 needs three more
    assert tight.counts.tolist() == [4, 4, 0]
    none = check(p.log(), experts, 2, extra=0, mode="up")  # nobody may be added: all go down
    assert none.counts.tolist() == [2, 0, 0]


def test_all_tokens_on_one_expert() -> None:
    logits = torch.randn(11, 6)
    experts = torch.full((11, 1), 2)
    for mode in ROUND_MODES:
        gating = check(logits, experts, 4, mode=mode, extra=5)
        assert gating.counts.tolist()[:2] == [0, 0]
        assert int(gating.counts[2]) == 8  # 12 tokens there are not


def test_ties_go_to_the_lowest_token_and_expert() -> None:
    for E, tile in ((6, 4), (4, 8), (5, 3)):
        logits = spaced_logits(24, E, torch.float32, steps=3)
        experts = grouped_gate(logits, 1, 2).experts
        for mode in ROUND_MODES:
            check(logits, experts, tile, mode=mode)
    same = round_tokens(torch.zeros(6, 3), torch.zeros(6, 1, dtype=torch.int32), 4, mode="down")
    assert same.experts.flatten().tolist() == [0, 0, 0, 0, -1, -1]


def test_a_tile_of_one_changes_nothing() -> None:
    logits = torch.randn(13, 12)
    gating = grouped_gate(logits, 3, 2, renormalize=True)
    for mode in ROUND_MODES:
        found = round_tokens(
            logits, gating.experts, 1, num_groups=3, mode=mode, renormalize=True, extra=2
        )
        assert torch.equal(found.experts[:, :6], gating.experts)
        assert (found.experts[:, 6:] == -1).all()
        assert torch.equal(found.counts, gating.counts)
        torch.testing.assert_close(found.weights[:, :6], gating.weights)


def test_dropped_and_repeated_slots() -> None:
    logits = torch.randn(30, 6)
    experts = torch.randint(-2, 8, (30, 4))
    experts[3] = -1  # as padding: no expert may take it
    experts[5] = torch.tensor([2, 2, 2, 1])
    for mode in ROUND_MODES:
        found = check(logits, experts, 4, mode=mode, extra=2)
        assert (found.experts[3] == -1).all()


def test_padding_is_never_added() -> None:
    """Token 0 scores expert 1 highest, but has no expert itself."""
    p = torch.tensor([[0.05, 0.95], [0.9, 0.1], [0.8, 0.2], [0.1, 0.9]])
    found = round_tokens(p.log(), torch.tensor([[-1], [0], [0], [1]]), 2, mode="up")
    assert found.experts.tolist() == [[-1, -1], [0, -1], [0, 1], [1, -1]]


def test_not_a_number_comes_last() -> None:
    logits = torch.randn(9, 4)
    logits[2] = torch.nan
    experts = torch.tensor([[0]] * 9)
    for renormalize in (False, True):
        kept = round_tokens(logits, experts, 8, mode="down", renormalize=renormalize)
        assert kept.experts.flatten().tolist() == [0, 0, -1, *[0] * 6]
    experts[0] = 1
    up = round_tokens(logits, experts, 8, mode="up", extra=1)
    assert up.experts[:, 1].tolist() == [-1, 1, -1, *[1] * 6]  # the only one that is not asked
    assert up.counts.tolist() == [8, 8, 0, 0]


def test_of_several_that_are_not_numbers_the_first_stays() -> None:
    """Their tokens' other scores differ, which renormalising divides by."""
    logits = torch.randn(9, 4)
    logits[[2, 5], 0] = torch.nan
    logits[[2, 5], 1] = torch.tensor([3.0, -3.0])
    experts = torch.tensor([[0, 1]] * 9)
    kept = round_tokens(logits, experts, 8, mode="down", score="sigmoid", renormalize=True)
    assert kept.experts[:, 0].tolist() == [0, 0, 0, 0, 0, -1, 0, 0, 0]


def test_infinite_scores_and_large_logits() -> None:
    logits = torch.zeros(5, 3)
    logits[2, 0] = torch.inf  # its score is infinite, its share is none
    experts = torch.tensor([[0, 1]] * 5)
    options: dict[str, Any] = {"mode": "down", "score": "sqrtsoftplus"}
    for renormalize, last in ((False, 4), (True, 2)):
        kept = round_tokens(logits, experts, 4, renormalize=renormalize, **options)
        assert kept.experts[:, 0].tolist() == [-1 if t == last else 0 for t in range(5)]
    logits[1, 0] = torch.nan  # as bad: the first stays
    kept = round_tokens(logits, experts, 4, renormalize=True, **options)
    assert kept.experts[:, 0].tolist() == [0, 0, -1, 0, 0]
    large = torch.zeros(5, 3, dtype=torch.float64)
    large[2, 0] = 1e39  # beyond float32, and a score of 1
    kept = round_tokens(large, experts, 4, mode="down")
    assert kept.experts[:, 0].tolist() == [0, 0, 0, 0, -1]


def test_shares_do_not_depend_on_the_order_of_slots() -> None:
    """Three equal tokens list their experts differently: the last one leaves them all."""
    row = [1.5410, -0.2934, -2.1788, 0.5684, -1.0845, -1.3986, 0.4033, 0.8380]
    experts = torch.tensor([[0, 1, 2, 3], [1, 3, 0, 2], [3, 0, 2, 1]])
    kept = round_tokens(torch.tensor([row] * 3), experts, 2, mode="down", renormalize=True)
    assert kept.experts.tolist() == [[0, 1, 2, 3], [1, 3, 0, 2], [-1] * 4]


@pytest.mark.slow_on("triton")
@pytest.mark.float64
@pytest.mark.parametrize(
    ("score", "renormalize"), list(zip(SCORES, (True, False, True), strict=True))
)
def test_gradcheck(score: str, renormalize: bool, device: str, interpreted: bool) -> None:
    logits = torch.randn(5, 6, dtype=torch.float64, device=device, requires_grad=True)
    scale = torch.rand(6, dtype=torch.float64, device=device, requires_grad=True)
    experts = grouped_gate(logits, 2, score=score).experts

    def weights(logits: Tensor, scale: Tensor) -> Tensor:
        return round_tokens(
            logits,
            experts,
            2,
            mode="up",
            score=score,
            router_scale=scale,
            renormalize=renormalize,
            scaling=1.5,
        ).weights

    assert int((weights(logits, scale) > 0).sum()) > 10  # some are added
    # along one direction instead of each element, where that is slow
    assert torch.autograd.gradcheck(weights, (logits, scale), fast_mode=interpreted)


def dense(x: Tensor, w_gate_up: Tensor, w_down: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
    """Every token's experts one by one, in float64."""
    y = torch.zeros_like(x)
    for t, row in enumerate(experts.tolist()):
        for j, e in enumerate(row):
            if e >= 0:
                gate, up = (w_gate_up[e] @ x[t]).chunk(2)
                y[t] = y[t] + weights[t, j] * (w_down[e] @ (gate * gate.sigmoid() * up))
    return y


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("mode", ["nearest", "apportioned"])
def test_a_layer_runs_on_the_rounded_choice(mode: str, device: str) -> None:
    T, H, E, G, F = 26, 16, 8, 2, 8
    parts = [torch.randn(T, H), 0.5 * torch.randn(E, H), torch.randn(E, 2 * F, H) / 4]
    parts.append(torch.randn(E, H, F) / 3)
    x, gate, up, down = leaves = [p.to(device).requires_grad_() for p in parts]
    x64, gate64, up64, down64 = leaves64 = [p.double().requires_grad_() for p in parts]
    logits = x @ gate.t()
    gating = round_tokens(
        logits, grouped_gate(logits, G, 2).experts, 4, num_groups=G, mode=mode, renormalize=True
    )
    assert bool((gating.experts[:, 4:] >= 0).any())
    assert bool((gating.experts[:, :4] < 0).any())
    rows = moge_ops.route(gating.experts, E)
    assert not (rows.offsets % 4).any()
    y = moge_ops.grouped_mlp(x, up, down, gating.weights, rows)

    ids = gating.experts.cpu()
    s = (x64 @ gate64.t()).softmax(-1)
    weights = torch.where(ids < 0, 0.0, s.gather(1, ids.clamp_min(0).long()))
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-300)
    y64 = dense(x64, up64, down64, weights, ids)
    assert_matches(y, y64, "y")
    d_y = torch.randn(T, H)
    grads = torch.autograd.grad(y, leaves, d_y.to(device))
    grads64 = torch.autograd.grad(y64, leaves64, d_y.double())
    for name, got, want in zip(("x", "gate", "up", "down"), grads, grads64, strict=True):
        assert_matches(got, want, f"d_{name}", slack=4.0)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["down", "expected", "balanced", "apportioned"])
def test_compiles_without_a_break(mode: str) -> None:
    def run(logits: Tensor) -> Tensor:
        experts = grouped_gate(logits, 2, 2).experts
        gating = round_tokens(logits, experts, 8, num_groups=2, mode=mode)
        return gating.weights * (gating.experts + gating.counts.sum())

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for T in (40, 17):
        logits = torch.randn(T, 8)
        a, b = (logits.clone().requires_grad_() for _ in range(2))
        got, want = compiled(a), run(b)
        torch.testing.assert_close(got, want)
        got.square().sum().backward()
        want.square().sum().backward()
        torch.testing.assert_close(a.grad, b.grad)


def test_runs_without_values() -> None:
    """No size depends on a value: meta tensors have none."""
    logits = torch.empty(16, 8, device="meta")
    gating = round_tokens(logits, torch.empty(16, 2, dtype=torch.int32, device="meta"), 4)
    assert gating.experts.shape == (16, 3)


@pytest.mark.slow_on("triton")
def test_the_layer_rounds_in_training_only(device: str) -> None:
    layer = moge_ops.nn.MoGE(
        16, 8, 8, 2, k=2, renormalize=True, round_to=4, round_mode="balanced", device=device
    )
    assert "round_to=4, round_mode='balanced'" in repr(layer)
    x = torch.randn(5, 6, 16, device=device)
    mask = torch.rand(5, 6, device=device) > 0.2
    y, logits, gating = layer(x, row_mask=mask, return_routing=True)
    ids = gating.experts.masked_fill(~mask.flatten()[:, None], -1)
    options: dict[str, Any] = {"router_scale": layer.router_scale, "renormalize": True}
    rounded = round_tokens(logits, ids, 4, num_groups=2, mode="balanced", **options)
    assert not torch.equal(rounded.counts, gating.counts)
    assert torch.equal(gating.counts, grouped_gate(logits, 2, 2).counts)  # the router's own choice
    rows = moge_ops.route(rounded.experts, 8)
    assert isinstance(layer.w_gate_up, Tensor)
    assert isinstance(layer.w_down, Tensor)
    want = moge_ops.grouped_mlp(
        x.view(-1, 16), layer.w_gate_up, layer.w_down, rounded.weights, rows
    )
    torch.testing.assert_close(y, want.view_as(y))
    (slope,) = torch.autograd.grad(y.square().sum(), layer.gate)
    assert bool(slope.isfinite().all())
    assert bool((slope != 0).any())

    plain = moge_ops.nn.MoGE(16, 8, 8, 2, k=2, renormalize=True, device=device)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer.eval()(x), plain(x))
    layer.train()
    given = torch.zeros(30, 4, dtype=torch.int32, device=device)  # a rollout's choice stays
    assert torch.equal(layer(x, routing=given), plain(x, routing=given))
    layer.round_to = None
    assert torch.equal(layer(x), plain(x))


L, IDS = torch.zeros(6, 4), torch.zeros(6, 2, dtype=torch.int32)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "said"),
    [
        ((L, IDS, 2.0), {}, TypeError, "tile must be an int, got float"),
        ((L, IDS, True), {}, TypeError, "tile must be an int, got bool"),
        ((L, IDS, 0), {}, ValueError, r"tile must be in \[1, 2147483647\], got 0"),
        ((L.int(), IDS, 2), {}, TypeError, "logits must be float16 .* got int32"),
        ((L, IDS.float(), 2), {}, TypeError, "experts must be int32 .* got float32"),
        ((L, IDS[:5], 2), {}, ValueError, r"experts must be \[T, K\] = \[6, 2\], got \[5, 2\]"),
        ((L[0], IDS, 2), {}, ValueError, r"logits must be \[T, E\], got \[4\]"),
        ((L, IDS[:, :0], 2), {}, ValueError, r"K from 1 to E=4, got \[6, 0\]"),
        ((L, IDS.repeat(1, 3), 2), {}, ValueError, r"K from 1 to E=4, got \[6, 6\]"),
        ((L, IDS, 2), {"mode": "even"}, ValueError, "mode must be one of nearest, .* got 'even'"),
        ((L, IDS, 2), {"score": "max"}, ValueError, "score must be one of .* got 'max'"),
        ((L, IDS, 2), {"num_groups": 3}, ValueError, "multiple of num_groups=3, got 4"),
        ((L, IDS, 2), {"extra": 3}, ValueError, r"extra must be in \[0, 2\], got 3"),
        ((L, IDS, 2), {"extra": -1}, ValueError, r"extra must be in \[0, 2\], got -1"),
        ((L, IDS, 2), {"extra": 1.0}, TypeError, "extra must be an int, got float"),
        ((L, IDS, 2), {"renormalize": 1}, TypeError, "renormalize must be a bool, got int"),
        ((L, IDS, 2), {"scaling": "1"}, TypeError, "scaling must be a float, got str"),
        ((L, IDS, 2), {"router_scale": L[0, :3]}, ValueError, r"router_scale .* got \[3\]"),
    ],
)
def test_rejects(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        round_tokens(*arguments, **options)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"round_to": 0}, ValueError, r"round_to must be in \[1, 2147483647\], got 0"),
        ({"round_to": 4.0}, TypeError, "round_to must be an int, got float"),
        ({"round_mode": "even"}, ValueError, "round_mode must be one of nearest, .* got 'even'"),
    ],
)
def test_the_layer_rejects(options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        moge_ops.nn.MoGE(16, 8, 8, 2, **options)
