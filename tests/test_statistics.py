"""Statistics of the routers and the masks made from them, on layers and on a whole model."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import moge_ops
from moge_ops.models import PanguMoEForCausalLM
from moge_ops.nn import MoGE
from moge_ops.statistics import RouterStatistics
from moge_ops.testing import assert_matches

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
    # the counts have another order
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
