"""Statistics, masks and places of experts, and experts that do nothing."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

import moge_ops
from moge_ops.experts import RouterStatistics, permute_experts
from moge_ops.models import PanguMoEForCausalLM
from moge_ops.nn import MoGE
from moge_ops.reference.grouped_gate import grouped_gate as reference_gate
from moge_ops.testing import assert_matches, group_ids

TINY = Path(__file__).parent / "data" / "pangu_tiny"
H, F, E, G = 24, 16, 12, 3


def layer_with_everything(k: int = 2) -> MoGE:
    layer = MoGE(H, F, E, G, k, score="sigmoid", selection_bias=True, shared_size=8)
    with torch.no_grad():
        for x in (layer.router_scale, layer.bias):
            assert isinstance(x, Tensor)
            x.uniform_(0.5, 1.5)
    layer.expert_mask = torch.arange(E) % 4 != 1
    return layer


def tiny() -> PanguMoEForCausalLM:
    checkpoint = pytest.importorskip("moge_ops.models.checkpoint", reason="needs safetensors")
    model: PanguMoEForCausalLM = checkpoint.from_pretrained(TINY)
    return model


def test_statistics_are_sums_over_the_chosen(device: str) -> None:
    statistics = RouterStatistics()
    want = torch.zeros(2, E, dtype=torch.float64)
    for T in (5, 0, 9):
        gating = moge_ops.grouped_gate(torch.randn(T, E, device=device), G, 2)
        statistics.update("task", "layer", gating, G)
        for weight, expert in zip(gating.weights.flatten(), gating.experts.flatten(), strict=True):
            want[:, expert] += torch.tensor([weight.item(), 1.0])
    assert_matches(statistics.sums["task"]["layer"].view(2, E), want, "sums")


@pytest.mark.parametrize("return_routing", [False, True])
def test_collects_from_a_layer(return_routing: bool) -> None:
    model = torch.nn.ModuleDict({"first": layer_with_everything(), "last": layer_with_everything()})
    x, mask = torch.randn(2, 40, H), torch.arange(80).view(2, 40) == 7  # one voter
    model["last"].num_voted = 2
    statistics, want = RouterStatistics(), RouterStatistics()
    with statistics.collect(model, "a"):
        for layer in model.values():
            layer(x, return_routing=return_routing, row_mask=mask if layer.num_voted else None)
    for name, layer in model.items():  # these calls are no longer collected
        votes = mask if layer.num_voted else None
        gating = layer(x, return_routing=True, row_mask=votes).gating
        want.update("a", name, gating, G)
    assert {task: set(layers) for task, layers in statistics.sums.items()} == {
        "a": {"first", "last"}
    }
    for name, sums in statistics.sums["a"].items():
        assert sums.equal(want.sums["a"][name]), name
        assert not sums.requires_grad


def test_masks_keep_the_best_of_each_group() -> None:
    statistics = RouterStatistics()
    weights = torch.tensor([[0.1, 0.4, 0.1, 0.4], [0.0, 0.0, 0.3, 0.0]], dtype=torch.float64)
    # the order of the counts is another one
    statistics.sums = {
        "a": {"layer": torch.stack([weights, torch.tensor([4.0, 3, 2, 1]) + 0 * weights])}
    }
    for keep, want in (
        (1, [0, 1, 0, 0, 0, 0, 1, 0]),
        (3, [1, 1, 0, 1, 1, 1, 1, 0]),
        (4, [1] * 8),
    ):
        assert statistics.masks("a", keep)["layer"].int().tolist() == want, keep
    with pytest.raises(ValueError, match="keep must be from 1 to the experts per group, 4, got 5"):
        statistics.masks("a", 5)
    with pytest.raises(ValueError, match="task must be one of a, got 'b'"):
        statistics.masks("b", 1)


def test_half_of_the_experts_of_a_model_are_never_chosen(tmp_path: Path) -> None:
    model, keep = tiny(), 4
    c = model.config
    texts = {task: torch.randint(c.vocab_size, (2, 40)) for task in ("law", "prose")}
    statistics = RouterStatistics()
    for task, text in texts.items():
        with torch.inference_mode(), statistics.collect(model, task):
            model(text)
            model(text)  # a second batch adds to the first
    path = tmp_path / "statistics.pt"
    statistics.save(path)
    assert path.stat().st_size < 20_000
    loaded = RouterStatistics.load(path)

    layers = [f"layers.{i}.moge" for i in range(c.num_hidden_layers)]
    for task, text in texts.items():
        gating = model(text, return_details=True).gating
        assert list(loaded.sums[task]) == layers
        for layer, gates in zip(layers, gating, strict=True):
            sums = loaded.sums[task][layer]
            assert sums.shape == (2, c.num_groups, c.num_experts // c.num_groups)
            assert sums[1].flatten().equal(2.0 * gates.counts.double())
            assert sums[0].sum().item() == pytest.approx(2.0 * gates.weights.sum().item())
    assert not loaded.sums["law"][layers[0]].equal(loaded.sums["prose"][layers[0]])

    text = texts["law"]
    whole = model.generate(text[:, :5], 8, temperature=0.0)
    for layer, mask in loaded.masks("law", keep).items():
        assert mask.sum() == keep * c.num_groups
        model.get_submodule(layer).expert_mask = mask
    watched = RouterStatistics()
    with watched.collect(model, "halved"):
        halved = model.generate(text[:, :5], 8, temperature=0.0)
    for layer, mask in loaded.masks("law", keep).items():
        used = watched.sums["halved"][layer][1].flatten() > 0
        assert used.any(), layer
        assert not used[~mask].any(), layer
    assert not halved.equal(whole), "half of the experts change nothing"


@pytest.mark.parametrize(
    "order",
    [
        pytest.param([[2, 0, 3, 1], [5, 4, 6, 7], [8, 9, 11, 10]], id="within-groups"),
        pytest.param([[8, 9, 10, 11], [3, 2, 0, 1], [4, 5, 6, 7]], id="groups-too"),
    ],
)
def test_the_function_survives_a_permutation(order: list[list[int]]) -> None:
    layer = layer_with_everything()
    before, perm = copy.deepcopy(layer), torch.tensor(order).flatten()
    parameters = {name: id(p) for name, p in layer.named_parameters()}
    permute_experts(layer, perm)
    assert {name: id(p) for name, p in layer.named_parameters()} == parameters

    x = torch.randn(7, H)
    y, logits, gating = layer(x, return_routing=True)
    want, want_logits, want_gating = before(x, return_routing=True)
    torch.testing.assert_close(logits, want_logits[:, perm])
    assert gating.counts.equal(want_gating.counts[perm])
    assert perm[gating.experts].sort(1).values.equal(want_gating.experts.sort(1).values.long())
    if order[0][0] < 4:
        assert y.equal(want)
    torch.testing.assert_close(y, want)

    permute_experts(layer, perm.argsort().tolist())
    for (name, x), y in zip(layer.named_buffers(), before.buffers(), strict=True):
        assert x.equal(y), name
    for name, x in layer.state_dict().items():
        assert x.equal(before.state_dict()[name]), name


@pytest.mark.parametrize(
    ("perm", "message"),
    [
        ([0, 1, 2], r"permutation of 0 to 11, got \[0, 1, 2\]"),
        ([0, *range(11)], r"permutation of 0 to 11, got \[0, 0, 1"),
        ([[*range(12)]], r"permutation of 0 to 11, got \[\[0, 1"),
        (
            [0, 1, 2, 4, 3, 5, 6, 7, 8, 9, 10, 11],
            r"group 0 the experts of one group, 0 to 3, got \[0, 1, 2, 4\]",
        ),
        (
            [0, 1, 2, 3, 8, 9, 6, 7, 4, 5, 10, 11],
            r"group 1 the experts of one group, 4 to 7, got \[8, 9, 6, 7\]",
        ),
    ],
)
def test_refuses_what_breaks_a_group(perm: list[int], message: str) -> None:
    layer = layer_with_everything()
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match=message):
        permute_experts(layer, perm)
    assert all(x.equal(before[name]) for name, x in layer.state_dict().items())


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("renormalize", [False, True])
def test_null_experts(groups: int, renormalize: bool, device: str) -> None:
    """Gate, route and experts, forward and every gradient, against a sum over real experts."""
    T, k, nulls = 9, 6 // groups, 6
    P = (E + nulls) // groups
    x = torch.randn(T, H)
    router = torch.randn(E + nulls, H) / H**0.5
    w_gate_up, w_down = torch.randn(E, 2 * F, H) / H**0.5, torch.randn(E, H, F) / F**0.5
    leaves = [t.to(device).requires_grad_() for t in (x, router, w_gate_up, w_down)]
    wide = [t.detach().cpu().double().requires_grad_() for t in leaves]

    gating = moge_ops.grouped_gate(leaves[0] @ leaves[1].T, groups, k, renormalize=renormalize)
    ids = gating.experts
    if groups > 1:
        ids = torch.where(ids % P < E // groups, ids // P * (E // groups) + ids % P, E)
    y = moge_ops.grouped_mlp(
        leaves[0], leaves[2], leaves[3], gating.weights, moge_ops.route(ids, E)
    )

    weights, experts, _ = reference_gate(wide[0] @ wide[1].T, groups, k, renormalize=renormalize)
    rows, null_slots = [], 0
    for t in range(T):
        row = torch.zeros(H, dtype=torch.float64)
        for weight, chosen in zip(weights[t], experts[t].tolist(), strict=True):
            group, place = divmod(chosen, P)
            if place >= E // groups:  # the nulls stand at the end of each group
                null_slots += 1
                continue
            expert = group * (E // groups) + place
            gate, up = (wide[2][expert] @ wide[0][t]).chunk(2)
            row = row + weight * (wide[3][expert] @ (torch.nn.functional.silu(gate) * up))
        rows.append(row)
    want = torch.stack(rows)
    assert 0 < null_slots < experts.numel(), "nulls among the chosen, and real experts too"
    assert_matches(y, want, "y")

    d_y = torch.randn(T, H)
    grads = torch.autograd.grad(y, leaves, d_y.to(device))
    wants = torch.autograd.grad(want, wide, d_y.double())
    scale = wants[0].square().mean().sqrt().item()  # in the router's, terms cancel
    for name, got, expected in zip(("x", "router", "gate_up", "down"), grads, wants, strict=True):
        assert_matches(got, expected, f"d_{name}", scale=scale if name == "router" else None)
    null_rows = grads[1].view(groups, P, H)[:, E // groups :]
    assert null_rows.abs().sum() > 0, "the null experts' router rows learn"


def test_the_load_balance_loss_leaves_null_experts_out() -> None:
    logits, ids = torch.randn(5, E), group_ids(5, E, G, 2)
    with_nulls = ids.clone()
    with_nulls[:, 1] = E + 3
    share = moge_ops.load_balance_loss(logits, with_nulls)
    f = torch.bincount(with_nulls[with_nulls < E], minlength=E) * (E / ids.numel())
    torch.testing.assert_close(share, (f * logits.softmax(-1).mean(0)).sum())
