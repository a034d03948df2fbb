"""Null experts: their balance loss, a layer that has them, and what statistics say of it."""

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import moge_ops
from moge_ops.nn import MoGE
from moge_ops.ops.load_balance_loss import load_balance_loss_from_probs
from moge_ops.statistics import RouterStatistics
from moge_ops.surgery import permute_experts
from moge_ops.testing import assert_matches

H, WIDTH, E, G, P, NULL = 16, 8, 6, 2, 3, 2  # P true and NULL null outputs in each of G groups
OUTPUTS = E + G * NULL


def loss_in_loops(probs: Tensor, counts: Tensor, num_null: int, num_groups: int) -> float:
    """The formula, output by output, in Python's floats."""
    rows, loads = probs.double().tolist(), counts.double().tolist()
    size, loss = len(loads) // num_groups, 0.0
    for i in range(len(loads)):
        own = list(range(i // size * size, (i // size + 1) * size))[size - num_null :]
        load = sum(loads[j] for j in own) / num_null if i in own else loads[i]
        share = len(loads) * load / sum(loads)
        loss += share * sum(row[i] for row in rows) / len(rows)
    return loss


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("groups", "null"), [(1, 1), (1, 4), (2, 2), (3, 1), (5, 0)])
def test_the_loss_is_that_of_float64(groups: int, null: int, dtype: torch.dtype) -> None:
    size = 4 + null
    probs = torch.randn(9, groups * size).softmax(-1).to(dtype)
    counts = torch.randint(0, 20, (groups * size,))
    loss = load_balance_loss_from_probs(probs, counts, num_null=null, num_groups=groups)
    want = torch.tensor(loss_in_loops(probs, counts, null, groups), dtype=torch.float64)
    assert_matches(loss, want, "loss")


def test_the_loss_by_hand() -> None:
    # two experts and two null ones, which have 3 of the four slots: f = 4/4 (1, 0, 1.5, 1.5)
    probs = torch.tensor([[0.5, 0.25, 0.125, 0.125]], requires_grad=True)
    for counts in ([1, 0, 3, 0], [1, 0, 0, 3]):  # whichever null expert has them
        loss = load_balance_loss_from_probs(probs, torch.tensor(counts), num_null=2)
        assert loss.item() == 0.5 + 1.5 * 0.25
        (slope,) = torch.autograd.grad(loss, probs)
        assert slope.tolist() == [[1.0, 0.0, 1.5, 1.5]]
    assert load_balance_loss_from_probs(probs, torch.tensor([1, 0, 3, 0])).item() == 0.5 + 3 * 0.125


def test_gradcheck_of_the_loss() -> None:
    logits = torch.randn(4, OUTPUTS, dtype=torch.float64, requires_grad=True)
    counts = torch.randint(1, 9, (OUTPUTS,))

    def loss(z: Tensor) -> Tensor:
        options = {"num_null": NULL, "num_groups": G}
        return load_balance_loss_from_probs(z.softmax(-1), counts, **options)

    assert torch.autograd.gradcheck(loss, (logits,))


def test_even_loads_have_a_loss_of_one() -> None:
    even = torch.full((3, OUTPUTS), 1.0 / OUTPUTS)
    # 7 for each expert and, of each group, 14 for its two null ones, however they share them
    counts = torch.tensor([7, 7, 7, 14, 0, 7, 7, 7, 3, 11])
    loss = load_balance_loss_from_probs(even, counts, num_null=NULL, num_groups=G)
    assert loss.item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_null": -1}, ValueError, "num_null must be .* got -1"),
        ({"num_null": OUTPUTS}, ValueError, "num_null must be .* got 10"),
        ({"num_null": 5, "num_groups": 2}, ValueError, "num_null must be .* got 5"),
        ({"num_null": 1.0}, TypeError, "num_null must be an int, got float"),
        ({"num_groups": 3}, ValueError, "multiple of num_groups=3, got 10"),
    ],
)
def test_the_loss_rejects(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_balance_loss_from_probs(torch.rand(2, OUTPUTS), torch.ones(OUTPUTS), **options)


def layer(k: int = 3, **changes: Any) -> MoGE:
    options: dict[str, Any] = {"shared_size": 4, "selection_bias": True, "scaling": 1.5}
    made = MoGE(H, WIDTH, E, G, k, num_null=NULL, **{**options, **changes})
    with torch.no_grad():
        made.gate.mul_(4.0)
        for x in (made.router_scale, made.bias):
            if isinstance(x, Tensor):
                x.uniform_(0.5, 1.5)
    return made


def in_steps(moge: MoGE, x: Tensor) -> tuple[Tensor, list[list[int]], Tensor]:
    """A layer's output ``[T, H]``, outputs that tokens chose and weights, token by token."""
    logits = x @ moge.gate.T
    scores = logits.softmax(-1) if moge.score == "softmax" else logits.sigmoid()
    ranked = scores if moge.bias is None else scores + moge.bias
    size, chosen, weights, rows = P + NULL, [], torch.zeros(len(x), G * moge.k).to(x), []
    for t in range(len(x)):
        ids = [
            g * size + j
            for g in range(G)
            for j in ranked[t, g * size : (g + 1) * size]
            .argsort(descending=True)[: moge.k]
            .tolist()
        ]
        true = [c for c, i in enumerate(ids) if i % size < P]
        total = sum(float(scores[t, ids[c]]) for c in true) if moge.renormalize else 1.0
        gate, up = (moge.shared_gate_up @ x[t]).chunk(2)
        y = moge.shared_down @ (F.silu(gate) * up)
        for c in true:
            e = ids[c] // size * P + ids[c] % size
            weight = scores[t, ids[c]] / total * moge.scaling
            weights[t, c] = weight * (1.0 if moge.router_scale is None else moge.router_scale[e])
            gate, up = (moge.w_gate_up[e] @ x[t]).chunk(2)
            y = y + weights[t, c] * (moge.w_down[e] @ (F.silu(gate) * up))
        chosen.append(ids)
        rows.append(y)
    return torch.stack(rows), chosen, weights


@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("k", [1, 3, 5])  # 5 takes all outputs
def test_the_layer_in_steps(k: int, score: str, renormalize: bool) -> None:
    moge = layer(k, score=score, renormalize=renormalize).double()
    x = torch.randn(11, H, dtype=torch.float64)
    with torch.no_grad():
        y, logits, gating = moge(x, return_routing=True)
        want, chosen, weights = in_steps(moge, x)
    assert logits.shape == (11, OUTPUTS)
    assert gating.experts.tolist() == chosen
    assert gating.counts.sum() == 11 * G * k
    assert_matches(y, want, "y")
    assert_matches(gating.weights, weights, "weights")
    with torch.no_grad():
        assert moge(x, routing=gating.experts).equal(y)
        assert moge(x).equal(y)


@pytest.mark.parametrize("renormalize", [False, True])
def test_the_layers_gradient_reaches_null_outputs_by_the_softmax(renormalize: bool) -> None:
    moge = layer(renormalize=renormalize, selection_bias=False).double()
    x = torch.randn(5, H, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: moge(x), (x.requires_grad_(),))
    moge(x).square().sum().backward()
    of_null = moge.gate.grad.view(G, P + NULL, H)[:, P:]
    # shares of the true experts alone do not depend on null ones
    assert of_null.abs().sum() < 1e-12 if renormalize else of_null.abs().sum() > 1e-6


def test_a_token_of_null_experts_alone_gets_the_shared_part() -> None:
    moge = layer(2, renormalize=True)
    with torch.no_grad():
        moge.bias.view(G, -1)[:, P:] = 100.0
    x = torch.randn(4, H)
    y, _, gating = moge(x, return_routing=True)
    assert not gating.weights.any()
    shared = F.linear(moge_ops.swiglu(F.linear(x, moge.shared_gate_up)), moge.shared_down)
    torch.testing.assert_close(y, shared)
    y.sum().backward()
    assert moge.gate.grad.isfinite().all()


def test_a_mask_is_of_experts_and_leaves_null_ones_on() -> None:
    moge = layer(4, selection_bias=False)
    moge.expert_mask = torch.tensor([True, False, True, True, True, False])
    *_, gating = moge(torch.randn(50, H), return_routing=True)
    off = torch.tensor([1, P + NULL + 2])
    assert not gating.counts[off].any()
    assert gating.counts.sum() == 50 * G * 4
    assert (gating.counts > 0).sum() == OUTPUTS - 2


def test_a_permutation_changes_nothing() -> None:
    moge, x = layer(), torch.randn(9, H)
    before, perm = copy.deepcopy(moge), torch.tensor([5, 3, 4, 0, 2, 1])
    permute_experts(moge, perm)
    (y, _, gating), (want, _, was) = (m(x, return_routing=True) for m in (moge, before))
    torch.testing.assert_close(y, want)
    size = P + NULL  # groups trade places, and the null outputs keep their order
    outputs = torch.tensor([7, 5, 6, 8, 9, 0, 2, 1, 3, 4])
    assert gating.counts.equal(was.counts[outputs])
    assert moge.gate.equal(before.gate[outputs])
    assert moge.gate.shape == (G * size, H)


def test_the_state_dict_and_half_precision() -> None:
    moge = layer()
    again = MoGE(H, WIDTH, E, G, 3, num_null=NULL, **{"shared_size": 4, "selection_bias": True})
    again.scaling = moge.scaling
    again.load_state_dict(moge.state_dict())
    x = torch.randn(3, H)
    assert again(x).equal(moge(x))
    assert moge.bfloat16()(x.bfloat16()).dtype is torch.bfloat16
    assert "num_null=2" in repr(moge)
    with pytest.raises(RuntimeError, match="size mismatch for gate"):
        MoGE(H, WIDTH, E, G, 3, shared_size=4, selection_bias=True).load_state_dict(
            moge.state_dict()
        )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"num_null": -1}, ValueError, "num_null must be .* got -1"),
        ({"num_null": True}, TypeError, "num_null must be an int, got bool"),
        ({"k": 6}, ValueError, r"outputs per group, 3 experts \+ 2 null = 5, got 6"),
        ({"k": 0}, ValueError, "k must be at least 1, got 0"),
        ({"round_to": 4}, ValueError, "round_to must be None in a layer with null exp.* got 4"),
        ({"num_voted": 3}, ValueError, "num_voted must be None in a layer with null .* got 3"),
    ],
)
def test_the_layer_rejects(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        layer(**{"k": 2, **changes}) if "num_null" not in changes else MoGE(
            H, WIDTH, E, G, 2, **changes
        )
    moge = layer(2)
    moge.num_voted = 3
    with pytest.raises(ValueError, match="num_voted must be None"):
        moge(torch.randn(2, H))


def test_ranks_do_not_split_a_layer_with_null_experts() -> None:
    parallel = pytest.importorskip("moge_ops.distributed.expert_parallel")
    plan = SimpleNamespace(check=lambda mesh: None)
    with pytest.raises(ValueError, match=r"moge must have no null experts, .* got num_null=2"):
        parallel.ExpertParallel(layer(), SimpleNamespace(), plan)


def test_statistics_are_of_the_true_experts() -> None:
    moge, x = layer(), torch.randn(2, 20, H)
    mask = torch.arange(40).view(2, 20) % 7 > 0
    statistics = RouterStatistics()
    with torch.no_grad(), statistics.collect(moge, "a"):
        moge(x[:1], row_mask=mask[:1])
        moge(x[1:], row_mask=mask[1:], return_routing=True)
    with torch.no_grad():
        _, logits, gating = moge(x, return_routing=True)
    counts, weights, selection = [0] * E, [0.0] * E, [0.0] * E
    tokens, size = [0] * (G * 3 + 1), P + NULL
    for t in mask.flatten().nonzero().flatten().tolist():
        true = [(c, i) for c, i in enumerate(gating.experts[t].tolist()) if i % size < P]
        tokens[len(true)] += 1
        total = sum(math.exp(float(logits[t, i])) for _, i in true)
        for c, i in true:
            e = i // size * P + i % size
            counts[e] += 1
            weights[e] += float(gating.weights[t, c])
            p = math.exp(float(logits[t, i])) / total
            selection[e] += p if p >= 1 / 6 else 0.0
    sums = statistics.sums["a"][""]
    assert sums.shape == (3, G, P)
    assert sums[1].flatten().tolist() == counts
    assert sums[0].flatten().tolist() == pytest.approx(weights)
    assert sums[2].flatten().tolist() == pytest.approx(selection, rel=1e-5)
    assert statistics.tokens["a"][""].tolist() == tokens
    mean = sum(n * j for j, n in enumerate(tokens)) / sum(tokens)
    assert statistics.mean_experts("a") == {"": pytest.approx(mean)}
    assert 1.0 < mean < 5.0
    statistics.check(moge)
    moge.expert_mask = statistics.masks("a", keep=1)[""]
    *_, gating = moge(x, return_routing=True)
    kept = gating.counts.view(G, size)[:, :P]
    assert ((kept > 0).sum(1) <= 1).all()


def test_statistics_by_hand() -> None:
    # one group of two experts and one null output; three tokens take 2, 1 and 0 experts of k = 2, 1
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    statistics = RouterStatistics()
    gating = moge_ops.grouped_gate(logits, 1, 2)
    statistics.update("a", "layer", gating, 1, logits=logits, num_null=1)
    assert statistics.tokens["a"]["layer"].tolist() == [0.0, 1.0, 1.0]
    assert statistics.mean_experts("a") == {"layer": 1.5}
    gating = moge_ops.grouped_gate(logits[1:], 1, 1)  # another k
    statistics.update("a", "layer", gating, 1, logits=logits[1:], num_null=1)
    assert statistics.tokens["a"]["layer"].tolist() == [1.0, 1.0, 1.0]
    assert statistics.sums["a"]["layer"][1].tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("outputs", "num_groups", "num_null", "error", "message"),
    [
        (8, 2, 5, ValueError, r"num_null must be in \[0, 3\], got 5"),
        (8, 2, 4, ValueError, r"num_null must be in \[0, 3\], got 4"),
        (8, 2, -1, ValueError, r"num_null must be in \[0, 3\], got -1"),
        (8, 2, None, TypeError, "num_null must be an int, got NoneType"),
        (8, 3, 0, ValueError, "the columns of logits must be .* num_groups=3, got 8"),
        (8, "2", 0, TypeError, "num_groups must be an int, got str"),
    ],
)
def test_statistics_reject(
    outputs: int, num_groups: Any, num_null: Any, error: type[Exception], message: str
) -> None:
    logits, statistics = torch.randn(4, outputs), RouterStatistics()
    gating = moge_ops.grouped_gate(logits, 2)
    with pytest.raises(error, match=message):
        statistics.update("a", "layer", gating, num_groups, logits=logits, num_null=num_null)
    assert not statistics.sums


def test_statistics_of_a_layer_without_null_experts() -> None:
    logits, statistics = torch.randn(7, E), RouterStatistics()
    statistics.update("a", "layer", moge_ops.grouped_gate(logits, G, 2), G, logits=logits)
    assert statistics.tokens["a"]["layer"].tolist() == [0.0, 0.0, 0.0, 0.0, 7.0]


def test_statistics_of_another_model() -> None:
    statistics, moge = RouterStatistics(), layer()
    with torch.no_grad(), statistics.collect(moge, "a"):
        moge(torch.randn(3, H))
    statistics.check(MoGE(H, WIDTH, E, G, 2))  # as many experts
    with pytest.raises(ValueError, match=r"\[G, E/G\] = \[2, 5\], got \[2, 3\]"):
        statistics.check(MoGE(H, WIDTH, OUTPUTS, G, 2))


def test_a_new_file_and_an_old_file(tmp_path: Path) -> None:
    path, statistics, moge = tmp_path / "a.pt", RouterStatistics(), layer()
    with torch.no_grad(), statistics.collect(moge, "a"):
        moge(torch.randn(5, H))
    statistics.save(path)
    again = RouterStatistics.load(path)
    assert again.tokens["a"][""].equal(statistics.tokens["a"][""])
    assert again.mean_experts("a") == statistics.mean_experts("a")

    found = torch.load(path, weights_only=True)
    assert found.pop("version") == 3
    del found["tokens"]
    torch.save({"version": 2, **found}, path)
    old = RouterStatistics.load(path)
    assert old.sums["a"][""].equal(statistics.sums["a"][""])
    with torch.no_grad(), old.collect(moge, "a"):  # sums go on, but the tokens are of a part
        moge(torch.randn(5, H))
    with torch.no_grad(), old.collect(moge, "b"):
        moge(torch.randn(5, H))
    assert old.mean_experts("b")
    for task in ("a", "c"):
        with pytest.raises(ValueError, match=f"tokens were counted, which are b, got '{task}'"):
            old.mean_experts(task)


@pytest.mark.parametrize(
    "tokens",
    [[], {"a": 1}, {"a": {"": torch.ones(2)}}, {"a": {"": torch.ones(2, 2).double()}}],
    ids=repr,
)
def test_a_file_whose_tokens_are_wrong(tokens: object, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"version": 3, "threshold": None, "sums": {}, "tokens": tokens}, path)
    with pytest.raises(ValueError, match=r"must be a file that RouterStatistics\.save wrote"):
        RouterStatistics.load(path)
