"""Experts and tokens on devices: against all orders and all schedules of small cases."""

import textwrap
from itertools import permutations, product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from moge_ops import grouped_gate, nn, placement
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.placement import group_experts, schedule_tokens
from moge_ops.statistics import RouterStatistics
from moge_ops.surgery import permute_experts


def shared(pairs: Tensor, perm: list[int], devices: int) -> float:
    """Pairs that share a device, by loops."""
    size = len(perm) // devices
    return sum(
        pairs[perm[i], perm[j]].item()
        for i in range(len(perm))
        for j in range(i)
        if i // size == j // size
    )


def symmetric(E: int) -> Tensor:
    x = torch.randint(0, 20, (E, E)).double()
    return x + x.T


@pytest.mark.parametrize(("E", "devices", "groups"), [(6, 2, 1), (6, 3, 1), (8, 4, 2), (6, 6, 1)])
def test_experts_against_all_orders(E: int, devices: int, groups: int) -> None:
    torch.manual_seed(0)
    P = E // groups
    for _ in range(3):
        pairs = symmetric(E)
        perm = group_experts(pairs, devices, num_groups=groups).tolist()
        assert [e // P for e in perm] == [i // P for i in range(E)]
        best = max(
            shared(pairs, [e for part in order for e in part], devices)
            for order in product(*(permutations(range(g * P, g * P + P)) for g in range(groups)))
        )
        assert shared(pairs, perm, devices) == best


def test_a_case_by_hand() -> None:
    # tokens take 0 with 2 and 1 with 3
    pairs = torch.tensor([[9, 0, 5, 1], [0, 9, 1, 7], [5, 1, 9, 0], [1, 7, 0, 9]]).double()
    perm = group_experts(pairs, 2).tolist()
    assert sorted(map(sorted, (perm[:2], perm[2:]))) == [[0, 2], [1, 3]]
    assert shared(pairs, perm, 2) == 12.0
    # within groups of two neighbours nothing can meet that did not
    assert group_experts(pairs, 2, num_groups=2).tolist() == [0, 1, 2, 3]


def test_the_order_stays_where_none_is_better() -> None:
    assert group_experts(torch.ones(8, 8), 4).tolist() == list(range(8))
    assert group_experts(symmetric(8), 8).tolist() == list(range(8))
    assert group_experts(symmetric(8), 1).tolist() == list(range(8))


def test_a_layer_computes_the_same_afterwards() -> None:
    torch.manual_seed(0)
    layer, x = nn.MoGE(16, 8, 12, 1, 3), torch.randn(20, 16)
    want, _, gating = layer(x, return_routing=True)
    hits = torch.nn.functional.one_hot(gating.experts.long(), 12).sum(1).double()
    perm = group_experts(hits.T @ hits, 4)
    permute_experts(layer, perm)
    got, _, moved = layer(x, return_routing=True)
    assert torch.allclose(got, want, atol=1e-6)
    assert torch.equal(perm[moved.experts.long()], gating.experts.long())


def test_the_example_of_the_module_runs() -> None:
    """What tokens will find foretells what they find, since its ids are those of before."""
    torch.manual_seed(0)
    code = (placement.__doc__ or "").partition("::\n")[2].partition("\nNeither")[0]
    config = PanguMoEConfig(
        **{"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 4, "num_groups": 1},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "moe_intermediate_size": 8},
        **{"shared_expert_intermediate_size": 0, "initializer_range": 0.3},
        **{"bos_token_id": None, "eos_token_id": None},
    )
    names = {"torch": torch, "one_hot": torch.nn.functional.one_hot}
    names |= {name: getattr(placement, name) for name in placement.__all__}
    names |= {"RouterStatistics": RouterStatistics, "permute_experts": permute_experts}
    names |= {"model": (model := PanguMoEForCausalLM(config))}
    names |= {"input_ids": (ids := torch.randint(32, (2, 64))), "next_ids": ids[0]}
    exec(textwrap.dedent(code), names)
    experts = model(ids[:1], return_details=True).gating[3].experts.long()
    found = torch.nn.functional.one_hot(experts // (64 // 8), 8).sum(1) / 8
    assert torch.equal(names["device"].bincount(), torch.full((8,), 8))
    here = found.gather(1, names["device"][:, None]).mean()
    assert here > 1.3 / 8, here  # an eighth by chance


def test_pairs_by_hand(tmp_path: Path) -> None:
    statistics = RouterStatistics(co_activation=True)
    logits = torch.tensor([[2.0, 1.0, 0.0, 0.0], [2.0, 0.0, 1.0, 0.0], [0.0, 0.0, 2.0, 1.0]])
    for _ in range(2):
        gating = grouped_gate(logits, 1, 2)
        mask = torch.tensor([True, True, False])
        statistics.update("text", "layer", gating, 1, mask, logits=logits)
    # token 0 takes 0 and 1, token 1 takes 0 and 2, token 2 does not count; twice
    want = torch.tensor([[4, 2, 2, 0], [2, 2, 0, 0], [2, 0, 2, 0], [0, 0, 0, 0]]).double()
    assert torch.equal(statistics.pairs["text"]["layer"], want)
    statistics.save(tmp_path / "file.pt")
    again = RouterStatistics.load(tmp_path / "file.pt")
    assert torch.equal(again.pairs["text"]["layer"], want)
    assert again.co_activation
    statistics.pairs["text"]["layer"] = want[:3, :3]
    statistics.save(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="got layer with E=4 and pairs of 3 experts"):
        RouterStatistics.load(tmp_path / "other.pt")
    plain = RouterStatistics()
    plain.update("text", "layer", gating, 1, logits=logits)
    assert not plain.pairs
    plain.co_activation = True  # too late: the first batch is missing
    plain.update("text", "layer", gating, 1, logits=logits)
    assert plain.pairs == {"text": {}}


def test_pairs_of_a_model_agree_with_loops() -> None:
    torch.manual_seed(0)
    layer, statistics = nn.MoGE(8, 4, 6, 2, 2, num_null=1), RouterStatistics(co_activation=True)
    x, want = torch.randn(30, 8), torch.zeros(6, 6).double()
    with statistics.collect(layer, "text"):
        _, _, gating = layer(x, return_routing=True)
    for row in gating.experts.tolist():
        taken = [e // 4 * 3 + e % 4 for e in row if e % 4 < 3]  # the fourth of a group is null
        for i, j in product(taken, repeat=2):
            want[i, j] += 1
    assert torch.equal(statistics.pairs["text"][""], want)


@pytest.mark.parametrize(("T", "D"), [(6, 2), (6, 3), (7, 3), (5, 4), (3, 4), (4, 1), (0, 2)])
def test_tokens_against_all_schedules(T: int, D: int) -> None:
    torch.manual_seed(T)
    room = [T // D + (d < T % D) for d in range(D)]
    for seed in range(4):
        scale = (1.0, 1.0, 1e-12, 1e12)[seed]
        hits = scale * (torch.rand(T, D) if seed else torch.randint(0, 4, (T, D)).float())
        device = schedule_tokens(hits)
        assert device.bincount(minlength=D).tolist() == room
        got = sum(hits[t, d].item() for t, d in enumerate(device.tolist()))
        best = max(
            sum(hits[t, d].item() for t, d in enumerate(each))
            for each in product(range(D), repeat=T)
            if [each.count(d) for d in range(D)] == room
        )
        assert got == pytest.approx(best, abs=1e-9 * scale)


def test_a_cycle_of_three_is_found() -> None:
    # each swap of two devices loses; all three together gain
    hits = torch.tensor([[0.0, 1.0, -9.0], [-9.0, 0.0, 1.0], [1.0, -9.0, 0.0]])
    assert schedule_tokens(hits).tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: group_experts(torch.ones(6, 5), 2), ValueError, r"pairs must be \[E, E\]"),
        (lambda: group_experts(torch.ones(6, 6), 4), ValueError, "devices must divide E=6, got 4"),
        (
            lambda: group_experts(torch.ones(6, 6), 2, num_groups=4),
            ValueError,
            "num_groups must divide E=6, got 4",
        ),
        (
            lambda: group_experts(torch.eye(6).roll(1, 0), 2),
            ValueError,
            r"pairs must be symmetric, got 0 at \[0, 1\] and 1 at \[1, 0\]",
        ),
        (lambda: group_experts(torch.full((6, 6), torch.inf), 2), ValueError, "be finite, got NaN"),
        (lambda: group_experts(-torch.ones(6, 6), 2), ValueError, "negative numbers, got -1"),
        (lambda: group_experts(torch.ones(6, 6).int(), 2), TypeError, "pairs must be float"),
        (lambda: group_experts(torch.ones(6, 6), 2.0), TypeError, "devices must be an int"),
        (lambda: schedule_tokens(torch.ones(3)), ValueError, r"hits must be \[T, D\]"),
        (lambda: schedule_tokens(torch.ones(3, 0)), ValueError, "with D at least 1"),
        (
            lambda: schedule_tokens(torch.full((3, 2), torch.nan)),
            ValueError,
            "hits must be finite, got NaN",
        ),
    ],
)
def test_bad_input(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()  # type: ignore[operator]
