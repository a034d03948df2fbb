"""Fewer experts in every group: what is left, what it computes, and how it is saved."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from surgery_models import E, F, G, H, S, a_layer, a_model, some_ids
from torch import Tensor, nn

from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.nn import FrozenWeight, MoGE
from moge_ops.quant import quantize_experts
from moge_ops.statistics import RouterStatistics
from moge_ops.surgery import expert_sensitivity, prune_experts, slim_experts

MASK = torch.tensor([1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1, 0]).bool()
KEPT = [[0, 2, 3], [5, 6, 7], [8, 9, 10]]  # of MASK, by group


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def by_hand(layer: MoGE, x: Tensor, kept: list[list[int]], of_softmax: list[int]) -> Tensor:
    """One token and one expert after another; the softmax has a term for each of ``of_softmax``."""
    assert isinstance(layer.w_gate_up, Tensor)
    assert isinstance(layer.w_down, Tensor)
    y = torch.zeros_like(x)
    for t, row in enumerate(x):
        logits = [float(layer.gate[e] @ row) for e in range(E)]
        total = sum(math.exp(logits[e]) for e in of_softmax)
        p = [math.exp(z) / total for z in logits]
        for members in kept:
            best = sorted(members, key=lambda e: (-(p[e] + float(layer.bias[e])), e))
            for e in best[: layer.k]:
                up = layer.w_gate_up[e] @ row
                act = silu(up[:F]) * up[F:]
                weight = p[e] * float(layer.router_scale[e])  # type: ignore[index]
                y[t] += weight * (layer.w_down[e] @ act)
        up = layer.shared_gate_up @ row  # type: ignore[operator]
        y[t] += layer.shared_down @ (silu(up[:S]) * up[S:])  # type: ignore[operator]
    return y


class TestPrune:
    def test_computes_what_the_experts_that_stay_compute(self) -> None:
        layer = a_layer()
        x = torch.randn(9, H, dtype=torch.float64)
        kept = [e for group in KEPT for e in group]
        with torch.no_grad():
            want = by_hand(layer, x, KEPT, of_softmax=kept)
            masked = by_hand(layer, x, KEPT, of_softmax=list(range(E)))
            before = copy.deepcopy(layer)
            prune_experts(layer, {"": MASK})
            torch.testing.assert_close(layer(x), want)
            before.expert_mask = MASK
            torch.testing.assert_close(before(x), masked)
        assert not torch.allclose(want, masked)

    def test_weights_grow_by_what_was_removed(self) -> None:
        layer, x = a_layer(selection_bias=False), torch.randn(9, H, dtype=torch.float64)
        before = copy.deepcopy(layer)
        before.expert_mask = MASK
        prune_experts(layer, {"": MASK})
        old, new = before(x, return_routing=True), layer(x, return_routing=True)
        removed = old.logits.softmax(1)[:, ~MASK].sum(1, keepdim=True)
        torch.testing.assert_close(new.gating.weights, old.gating.weights / (1 - removed))
        ids = torch.tensor(KEPT).flatten()[new.gating.experts]
        assert ids.equal(old.gating.experts.long())
        assert new.gating.counts.equal(old.gating.counts[MASK])

    @pytest.mark.parametrize(
        "options", [{"score": "sigmoid"}, {"renormalize": True, "selection_bias": False}], ids=str
    )
    def test_is_the_mask_where_removed_experts_have_no_part(self, options: dict[str, Any]) -> None:
        layer, x = a_layer(**options), torch.randn(9, H, dtype=torch.float64)
        before = copy.deepcopy(layer)
        before.expert_mask = MASK
        prune_experts(layer, {"": MASK})
        torch.testing.assert_close(layer(x), before(x))

    def test_all_that_has_experts_loses_them(self) -> None:
        layer = a_layer(num_voted=4)
        layer.expert_mask = torch.arange(E) != 9
        layer.w_down.requires_grad_(False)
        before = copy.deepcopy(layer)
        prune_experts(layer, {"": MASK})
        for name in ("gate", "router_scale", "bias", "expert_mask", "w_gate_up", "w_down"):
            assert getattr(layer, name).equal(getattr(before, name)[MASK]), name
        assert (layer.num_voted, layer.k, layer.num_groups) == (3, 2, 3)
        assert layer.w_gate_up.requires_grad
        assert not layer.w_down.requires_grad
        layer.expert_mask = MASK[MASK]
        prune_experts(layer, {"": torch.tensor([1, 1, 0] * 3).bool()})
        assert layer.expert_mask is None
        assert "num_experts=6" in repr(layer)
        layer(torch.randn(2, H, dtype=torch.float64)).sum().backward()

    def test_a_model_by_its_statistics(self) -> None:
        model, profiles = a_model(), RouterStatistics()
        with torch.no_grad(), profiles.collect(model, "a"):
            model(some_ids())
        masks = profiles.masks("a", keep=2)
        before = [layer.moge.gate.detach() for layer in model.layers]
        prune_experts(model, masks)
        assert model.config.num_experts == 6
        for layer, mask, gate in zip(model.layers, masks.values(), before, strict=True):
            assert layer.moge.gate.equal(gate[mask])
        assert model(some_ids()).shape == (2, 12, 40)
        assert model.loss(some_ids()).isfinite()

    def test_zero_points_of_quantised_experts(self) -> None:
        layer = MoGE(64, 32, E, G, 1, renormalize=True)
        quantize_experts(layer, "int4_w4a16", group_size=32)
        for name in ("w_gate_up", "w_down"):
            weight = getattr(layer, name).weight
            zero = torch.randint(-8, 8, weight.scale.shape, dtype=torch.int8)
            setattr(layer, name, FrozenWeight(weight._replace(zero=zero)))
        before, x = copy.deepcopy(layer), torch.randn(5, 64)
        before.expert_mask = MASK
        prune_experts(layer, {"": MASK})
        torch.testing.assert_close(layer(x), before(x))
        assert layer.w_down.zero.equal(before.w_down.zero[MASK])

    @pytest.mark.parametrize("scheme", ["int8_w8a8", "int4_w4a16", "mxfp4_w4a16", "fp8_w8a16"])
    def test_quantised_experts(self, scheme: str) -> None:
        torch.manual_seed(0)
        layer = MoGE(64, 32, E, G, 1, renormalize=True)
        group = 32 if scheme == "int4_w4a16" else None
        quantize_experts(layer, scheme, group_size=group)
        before, x = copy.deepcopy(layer), torch.randn(5, 64)
        before.expert_mask = MASK
        prune_experts(layer, {"": MASK})
        assert list(layer.w_down.shape) == [9, 64, 32]
        torch.testing.assert_close(layer(x), before(x))

    @pytest.mark.parametrize(
        ("mask", "said"),
        [
            ([1, 0, 0, 0] * 3, r"at least k=2, got \[1, 1, 1\]"),
            ([1, 1, 1, 0] + [1, 1, 0, 0] * 2, r"same number .* got \[3, 2, 2\]"),
            ([0, 0, 0, 0] * 3, r"at least k=2, got \[0, 0, 0\]"),
            ([1, 1, 0] * 3, r"the mask of the layer must be \[E\] = \[12\], got \[9\]"),
        ],
    )
    def test_refuses_a_group_that_is_too_small(self, mask: list[int], said: str) -> None:
        layer = a_layer()
        before = layer.state_dict()
        with pytest.raises(ValueError, match=said):
            prune_experts(layer, {"": torch.tensor(mask).bool()})
        assert all(x.equal(before[name]) for name, x in layer.state_dict().items())

    def test_refuses_what_does_not_fit(self) -> None:
        layer, model = a_layer(), a_model()
        with pytest.raises(TypeError, match=r"must be bool, got torch\.int64"):
            prune_experts(layer, {"": MASK.long()})
        with pytest.raises(ValueError, match=r"with experts, got none of 'layers\.1\.moge'"):
            prune_experts(model, {"layers.0.moge": MASK})
        with pytest.raises(ValueError, match=r"got 'layers\.2\.moge', which is no such layer"):
            prune_experts(model, {f"layers.{i}.moge": MASK for i in range(3)})
        with pytest.raises(ValueError, match="'' where the model is the layer, got none of the la"):
            prune_experts(layer, {"layer": MASK})
        with pytest.raises(TypeError, match=r"masks must be a Mapping whose keys are .*, got list"):
            prune_experts(layer, [1])  # type: ignore[arg-type]
        two = torch.tensor([1, 1, 0, 0] * 3).bool()
        with pytest.raises(ValueError, match=r"got 3 in layers.0.moge, 2 in layers.1.moge"):
            prune_experts(model, {"layers.0.moge": MASK, "layers.1.moge": two})
        assert model.config.num_experts == E
        layer.expert_mask = torch.tensor([1, 1, 0, 1] * 3).bool()
        with pytest.raises(ValueError, match=r"that expert_mask leaves on, got \[1, 2, 2\]"):
            prune_experts(layer, {"": torch.tensor([1, 0, 1, 0] + [1, 1, 0, 0] * 2).bool()})
        with pytest.raises(
            ValueError, match=r"must have layers of moge_ops\.nn\.MoGE, got none in Li"
        ):
            prune_experts(nn.Linear(2, 2), {})


class TestFolders:
    def smaller(self, **changes: Any) -> PanguMoEForCausalLM:
        model, profiles = a_model(**changes), RouterStatistics()
        with torch.no_grad(), profiles.collect(model, "a"):
            model(some_ids())
        found = expert_sensitivity(model, some_ids().split(1))
        slim_experts(model, 32, found, shared_width=16)
        prune_experts(model, profiles.masks("a", keep=2))
        return model.eval()

    def test_it_is_saved_and_loaded(self, tmp_path: Path) -> None:
        checkpoint = pytest.importorskip("moge_ops.models.checkpoint")
        model = self.smaller()
        checkpoint.save_pretrained(model, tmp_path)
        loaded = checkpoint.from_pretrained(tmp_path)
        sizes = [loaded.config.num_experts, loaded.config.moe_intermediate_size]
        assert [*sizes, loaded.config.shared_expert_intermediate_size] == [6, 32, 16]
        assert loaded(some_ids()).equal(model(some_ids()))
        assert loaded.parameter_counts() == model.parameter_counts()

    def test_a_released_config_says_no_groups_and_needs_none(self, tmp_path: Path) -> None:
        checkpoint = pytest.importorskip("moge_ops.models.checkpoint")
        model = a_model(num_experts=16, num_experts_per_tok=8, num_groups=8)
        values = model.config.to_dict()
        del values["num_groups"]
        model.config = PanguMoEConfig.from_dict(values)
        prune_experts(model, {f"layers.{i}.moge": torch.arange(16) % 2 == 0 for i in range(2)})
        checkpoint.save_pretrained(model, tmp_path)
        assert "num_groups" not in (tmp_path / "config.json").read_text()
        loaded = checkpoint.from_pretrained(tmp_path).config
        assert (loaded.num_experts, loaded.num_groups) == (8, 8)

    def test_transformers_loads_it(self, tmp_path: Path) -> None:
        transformers = pytest.importorskip("transformers")
        integration = pytest.importorskip("moge_ops.integrations.transformers")
        checkpoint = pytest.importorskip("moge_ops.models.checkpoint")
        integration.register()
        model = self.smaller()
        checkpoint.save_pretrained(model, tmp_path)
        other = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        assert other.config.num_experts == 6
        torch.testing.assert_close(other(some_ids()).logits, model(some_ids()))
        # and surgery works on the model of transformers itself
        names = [n for n, x in other.named_modules() if isinstance(x, MoGE)]
        prune_experts(other, {name: torch.arange(6) % 2 == 0 for name in names})
        found = expert_sensitivity(other, some_ids().split(1))
        slim_experts(other, 16, found)
        assert (other.config.num_experts, other.config.moe_intermediate_size) == (3, 16)
        other.save_pretrained(tmp_path / "again")
        again = checkpoint.from_pretrained(tmp_path / "again")
        torch.testing.assert_close(again(some_ids()), other(some_ids()).logits)


def test_experts_that_are_elsewhere_are_refused(tmp_path: Path) -> None:
    checkpoint = pytest.importorskip("moge_ops.models.checkpoint")
    from moge_ops import offload

    checkpoint.save_pretrained(a_model(), tmp_path)
    model = offload.load(tmp_path, None)
    with offload.of(model), pytest.raises(ValueError, match=r"^'layers\.0\.moge' must own "):
        prune_experts(model, {f"layers.{i}.moge": MASK for i in range(2)})


def test_null_experts_stay() -> None:
    """Pruning keeps each group's null rows of the router, behind the rows of its experts."""
    torch.manual_seed(0)
    layer = MoGE(8, 4, 6, 2, 3, num_null=2, selection_bias=True).double()
    with torch.no_grad():
        layer.bias.normal_()
    x, gate, bias = torch.randn(20, 8).double(), layer.gate.clone(), layer.bias.clone()
    w_down = layer.w_down.clone()
    prune_experts(layer, {"": torch.tensor([True, False, False, False, False, True])})
    # outputs of a group: three experts and two null ones
    rows = [0, 3, 4, 7, 8, 9]
    assert torch.equal(layer.gate, gate[rows])
    assert torch.equal(layer.bias, bias[rows])
    assert torch.equal(layer.w_down, w_down[[0, 5]])
    y, logits, gating = layer(x, return_routing=True)
    assert (y.shape, logits.shape, gating.experts.shape) == ((20, 8), (20, 6), (20, 6))


def test_null_experts_fill_what_a_mask_and_expert_mask_leave() -> None:
    """A token takes three outputs of a group: one expert and two null ones are enough."""
    layer = MoGE(8, 4, 6, 2, 3, num_null=2).double()
    layer.expert_mask = torch.tensor([True, False, False, True, True, True])
    kept = torch.tensor([True, True, False, True, True, False])
    prune_experts(layer, {"": kept})
    assert layer.expert_mask.equal(torch.tensor([True, False, True, True]))
    *_, gating = layer(torch.randn(20, 8).double(), return_routing=True)
    assert not gating.counts[1]
    none = torch.zeros(4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"at least 1 beside num_null=2, got \[0, 0\]"):
        prune_experts(layer, {"": none})
    layer.expert_mask = torch.tensor([False, True, True, True])
    with pytest.raises(ValueError, match=r"must keep 1 beside num_null=2 experts .* got \[0, 1\]"):
        prune_experts(layer, {"": torch.tensor([True, False, True, False])})
