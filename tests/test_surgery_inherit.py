"""Small models from large ones: scores by another way, and what the large model would compute."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from silent_models import silent
from surgery_models import a_model, some_ids
from torch import Tensor

from moge_ops.models import PanguMoEForCausalLM
from moge_ops.models.checkpoint import from_pretrained, save_pretrained
from moge_ops.quant import quantize_experts
from moge_ops.surgery import (
    Importance,
    Sensitivity,
    channel_importance,
    inherit,
    layer_importance,
    prune_experts,
)

H, A, C, E, F, S = 64, 8, 4, 12, 48, 32
SIZES = {"hidden_size": H, "num_attention_heads": A, "num_key_value_heads": C}


def large(**changes: Any) -> PanguMoEForCausalLM:
    """With biases and norms that differ from channel to channel."""
    model = a_model(**{**SIZES, "num_hidden_layers": 3, "rms_norm_eps": 1e-5, **changes}).double()
    with torch.no_grad():
        for name, x in model.named_parameters():
            if x.ndim == 1:
                x.copy_(torch.rand_like(x) + 0.5 * ("norm" in name or "scale" in name))
    return model


def smaller(model: PanguMoEForCausalLM, **changes: Any) -> Any:
    return dataclasses.replace(model.config, **changes)


def some_scores(model: PanguMoEForCausalLM, seed: int = 5) -> Importance:
    draw = torch.Generator().manual_seed(seed)

    def scores(*shape: int) -> Tensor:
        return torch.rand(shape, generator=draw)

    layers = range(model.config.num_hidden_layers)
    return Importance(
        scores(H),
        {f"layers.{i}.attention": scores(C) for i in layers},
        {f"layers.{i}.moge": Sensitivity(scores(E, F), scores(S)) for i in layers},
    )


def worst(scores: Tensor, n: int) -> Tensor:
    """Ids of the n smallest of the last dimension."""
    return scores.sort(-1).indices[..., :n]


def exact_loss(model: PanguMoEForCausalLM, ids: Tensor) -> Tensor:
    """Mean of -log p of every next token, one by one."""
    with torch.no_grad():
        p = model(ids).softmax(-1)
    found = [
        -p[b, t, ids[b, t + 1]].log() for b in range(len(ids)) for t in range(ids.shape[1] - 1)
    ]
    return torch.stack(found).mean()


def without(model: PanguMoEForCausalLM, i: int) -> PanguMoEForCausalLM:
    """The large model whose layer i adds nothing."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        layer = model.layers[i]
        for x in (layer.attention.o.weight, layer.attention.o.bias, layer.moge.w_down):
            x.zero_()
        layer.moge.shared_down.zero_()
    return model


class TestLayers:
    def test_importance_is_what_the_loss_grows_by(self) -> None:
        model, batches = large(), [some_ids(1), some_ids(2)]
        found = layer_importance(model, batches)
        for i in range(3):
            changes = [
                exact_loss(without(model, i), ids) - exact_loss(model, ids) for ids in batches
            ]
            torch.testing.assert_close(found[i], sum(changes) / 2)
        assert found.dtype == torch.float64
        assert not any(layer._forward_hooks for layer in model.layers)

    def test_a_model_without_a_layer_is_the_one_that_skips_it(self) -> None:
        model, ids = large(), some_ids()
        for kept in ([0, 2], [1], [0, 1]):
            config = smaller(model, num_hidden_layers=len(kept))
            small = inherit(model, config, layers=kept)
            want = model
            for i in set(range(3)) - set(kept):
                want = without(want, i)
            assert torch.equal(small(ids), want(ids))


class TestChannels:
    def test_first_order_scores_are_finite_differences(self) -> None:
        model, batches = large(num_hidden_layers=1), [some_ids(1), some_ids(2)]
        found = channel_importance(model, batches)
        h = 1e-5
        parts = {"channels": found.channels, "groups": found.heads["layers.0.attention"]}
        parts["neurons"] = found.neurons["layers.0.moge"].experts
        parts["shared"] = found.neurons["layers.0.moge"].shared
        places: dict[str, list[Any]] = {
            "channels": [0, 17, 63],
            "groups": [0, 3],
            "neurons": [(0, 0), (5, 17), (11, 47)],
            "shared": [0, 31],
        }
        for kind, scores in parts.items():
            for place in places[kind]:
                want = 0.0
                for ids in batches:
                    up, down = (exact_loss(mixed(model, kind, place, x), ids) for x in (h, -h))
                    want += abs(float(up - down)) / (2 * h)
                torch.testing.assert_close(float(scores[place]), want, rtol=1e-5, atol=1e-9)
        assert all(p.grad is None for p in model.parameters())

    def test_masks_are_learned_as_the_formula_says(self) -> None:
        """Two steps, with gradients by finite differences."""
        model, batches = large(num_hidden_layers=1), [some_ids(1), some_ids(2)]
        config = smaller(model, hidden_size=32, num_attention_heads=4, num_key_value_heads=2)
        found = channel_importance(model, batches, config, rounds=1, rate=0.3)
        s: dict[str, Tensor] = {}
        first = channel_importance(model, batches)
        s["channels"] = first.channels / first.channels.mean()
        s["groups"] = first.heads["layers.0.attention"] / first.heads["layers.0.attention"].mean()
        sizes, h = {"channels": H, "groups": C}, 1e-5
        for ids in batches:
            off = {kind: worst(x, len(x) // 2) for kind, x in s.items()}
            masked = silent(model, off["channels"], {0: off["groups"].tolist()})
            steps = {}
            for kind, n in sizes.items():
                g = torch.zeros(n).double()
                for j in range(n):
                    ends = [exact_loss(blend(model, masked, off, kind, j, x), ids) for x in (h, -h)]
                    g[j] = (ends[0] - ends[1]) / (2 * h)
                steps[kind] = g / g.abs().mean()
            s = {kind: x - 0.3 * steps[kind] for kind, x in s.items()}
        torch.testing.assert_close(found.channels, s["channels"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            found.heads["layers.0.attention"], s["groups"], rtol=1e-4, atol=1e-5
        )

    def test_learned_masks_lose_less_than_random_ones(self) -> None:
        model = large()
        batches = [some_ids(2).roll(i, 1) for i in range(4)]
        config = smaller(model, moe_intermediate_size=16, shared_expert_intermediate_size=16)
        scores = channel_importance(model, batches, config, rounds=3)
        ids = torch.cat(batches)
        found = exact_loss(inherit(model, config, scores), ids)
        random = [exact_loss(inherit(model, config, some_scores(model, i)), ids) for i in range(4)]
        assert found < min(random)


def mixed(model: PanguMoEForCausalLM, kind: str, place: Any, h: float) -> PanguMoEForCausalLM:
    """The model in which one part writes 1 + h times what it does."""
    off: dict[str, Any] = {"channels": torch.tensor([place])}
    if kind == "groups":
        off = {"groups": {0: [place]}}
    elif kind == "shared":
        off = {"shared": {0: torch.tensor([place])}}
    elif kind == "neurons":
        none: list[Tensor] = [torch.tensor([], dtype=torch.long)] * E
        none[place[0]] = torch.tensor([place[1]])
        off = {"neurons": {0: none}}
    return between(model, silent(model, **off), -h)


def between(a: PanguMoEForCausalLM, b: PanguMoEForCausalLM, h: float) -> PanguMoEForCausalLM:
    """a + h (b - a)"""
    found = copy.deepcopy(a)
    with torch.no_grad():
        for x, y in zip(found.parameters(), b.parameters(), strict=True):
            x.add_(h * (y - x))
    return found


def blend(
    model: PanguMoEForCausalLM,
    masked: PanguMoEForCausalLM,
    off: dict[str, Tensor],
    kind: str,
    j: int,
    h: float,
) -> PanguMoEForCausalLM:
    """The masked model in which factor j, 0 or 1, is larger by h."""
    if j not in off[kind]:  # now 1: towards the model without it, the other way
        other = silent(masked, torch.tensor([j])) if kind == "channels" else None
        return between(masked, other or silent(masked, groups={0: [j]}), -h)
    rest = {k: x[x != j] if k == kind else x for k, x in off.items()}
    return between(masked, silent(model, rest["channels"], {0: rest["groups"].tolist()}), h)


class TestInherit:
    def test_equal_sizes_give_the_same_model(self) -> None:
        model = large().eval()
        for scores in (None, some_scores(model)):
            small = inherit(model, smaller(model), scores, layers=range(3), tokens=range(40))
            want = model.state_dict()
            assert list(small.state_dict()) == list(want)
            for name, x in small.state_dict().items():
                assert torch.equal(x, want[name])
                assert x.data_ptr() != want[name].data_ptr()
            assert torch.equal(small(some_ids()), model(some_ids()))
            assert not small.training
            assert all(p.requires_grad for p in small.parameters())

    def test_is_the_large_model_with_zeros(self) -> None:
        """Everything at once; the norms' epsilon grows as the mean does."""
        model, ids = large(), some_ids()
        scores = some_scores(model)
        config = smaller(
            model,
            **{"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2},
            **{"moe_intermediate_size": 32, "shared_expert_intermediate_size": 16},
            **{"num_hidden_layers": 2, "num_experts": 9, "rms_norm_eps": 2e-5},
        )
        mask = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 1], [1, 0, 1, 1]]).bool().flatten()
        masks = {"layers.0.moge": mask, "layers.2.moge": mask.flip(0)}
        small = inherit(model, config, scores, layers=[0, 2], experts=masks)

        want = silent(
            model,
            worst(scores.channels, 32),
            {i: worst(scores.heads[f"layers.{i}.attention"], 2).tolist() for i in range(3)},
            {i: worst(scores.neurons[f"layers.{i}.moge"].experts, 16) for i in range(3)},
            {i: worst(scores.neurons[f"layers.{i}.moge"].shared, 16) for i in range(3)},
        )
        del want.layers[1]
        want.config = dataclasses.replace(want.config, num_hidden_layers=2)
        masks["layers.1.moge"] = masks.pop("layers.2.moge")
        prune_experts(want, masks)
        torch.testing.assert_close(small(ids), want(ids), rtol=1e-10, atol=1e-10)

    def test_the_epsilon_of_the_norms_is_the_only_difference(self) -> None:
        model, ids = large(), some_ids()
        scores = some_scores(model)
        sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
        small = inherit(model, smaller(model, **sizes), scores)
        heads = {i: worst(scores.heads[f"layers.{i}.attention"], 2).tolist() for i in range(3)}
        want = silent(model, worst(scores.channels, 32), heads)
        want = want(ids)
        off = (small(ids) - want).abs().max() / want.abs().max()
        assert 1e-12 < off < 1e-3

    def test_tokens_are_rows_of_the_embedding_and_the_head(self) -> None:
        model = large()
        tokens = [7, 0, 39, 12]
        small = inherit(model, smaller(model, vocab_size=4, bos_token_id=1), tokens=tokens)
        ids = torch.tensor([[0, 3, 1, 2, 2]])
        want = model(torch.tensor(tokens)[ids])[..., tokens]
        torch.testing.assert_close(small(ids), want)

    def test_dtypes_settings_and_files(self, tmp_path: Path) -> None:
        model = a_model(**SIZES, router_dtype="float32", num_nextn_predict_layers=1).bfloat16()
        with torch.no_grad():
            for layer in model.layers:
                layer.moge.gate.data = layer.moge.gate.data.float()
        model.layers[0].moge.num_voted = 3
        config = smaller(model, moe_intermediate_size=16, num_nextn_predict_layers=0)
        scores = channel_importance(model, [some_ids()], config, rounds=1)
        assert scores.channels.dtype == scores.neurons["layers.0.moge"].experts.dtype
        assert scores.channels.dtype == torch.float32
        small = inherit(model, config, scores)
        assert small.layers[0].moge.num_voted == 3
        assert small.layers[0].moge.gate.dtype == torch.float32
        assert small.layers[0].moge.w_down.dtype == torch.bfloat16
        assert not any(p.is_meta for p in [*small.parameters(), *small.buffers()])
        small.layers[0].moge.num_voted = None
        save_pretrained(small, tmp_path)
        again = from_pretrained(tmp_path)
        assert again.config.moe_intermediate_size == 16
        assert torch.equal(again(some_ids()), small(some_ids()))
        small.loss(some_ids()).backward()


NARROW = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"num_hidden_layers": 4}, {}, "config.num_hidden_layers must be at most the large model's 3"),
    ({"num_experts": 24}, {}, "config.num_experts must be at most the large model's 12, got 24"),
    (
        {"moe_intermediate_size": 64},
        {},
        "config.moe_intermediate_size must be a multiple of 16.*at most the present 48, got 64",
    ),
    ({"moe_intermediate_size": 24}, {}, "so that no tile is cut"),
    ({**NARROW, "hidden_size": 24, "num_attention_heads": 2}, {}, "config.hidden_size must be a"),
    ({"hidden_size": 32}, {}, "large model's width of a head, 8, got 4"),
    ({**NARROW, "num_key_value_heads": 4}, {}, r"2 \* num_key_value_heads.*got 4 for 4"),
    ({"num_groups": 1, "num_experts_per_tok": 3}, {}, "config.num_groups must be the large"),
    ({"num_experts_per_tok": 6}, {}, "config.num_experts_per_tok must be the large model's 3"),
    ({"rope_theta": 1e4}, {}, "config.rope_theta must be the large model's"),
    ({"num_nextn_predict_layers": 1}, {}, "heads that predict further tokens are not inherited"),
    (NARROW, {"importance": None}, "importance must be given"),
    (NARROW, {"importance": "flat"}, r"importance.channels must be \[H\] = \[64\], got \[3\]"),
    (NARROW, {"importance": "nan"}, "importance.channels must be finite"),
    ({"num_hidden_layers": 2}, {}, "layers must name the 2 of 3 that stay, got None"),
    ({"num_hidden_layers": 2}, {"layers": [0, 3]}, "2 different ids from 0 to 2, got"),
    ({"num_hidden_layers": 2}, {"layers": [1, 1]}, "2 different ids from 0 to 2, got"),
    ({"num_hidden_layers": 2}, {"layers": [2, 0]}, r"layers must be ascending, got \[2, 0\]"),
    ({"num_experts": 9}, {}, "experts must have a mask of 'layers.0.moge', got none"),
    ({"num_experts": 9}, {"experts": [3, 3, 4]}, "must keep the same number of experts in each"),
    ({"num_experts": 9}, {"experts": [0, 0, 0]}, "at least k=1, got"),
    ({"num_experts": 9}, {"experts": [2, 2, 2]}, "must keep 3 experts in each group.*got 2"),
    ({}, {"experts": [2, 2, 2]}, "must keep 4 experts in each group.*got 2"),
    ({"vocab_size": 10}, {}, "tokens must name the 10 of 40 that stay, got None"),
    ({"vocab_size": 2}, {"tokens": [3, 3]}, "tokens must be 2 different ids from 0 to 39"),
]


class TestRefuses:
    @pytest.mark.parametrize(("changes", "given", "message"), REFUSED)
    def test_in_one_sentence(
        self, changes: dict[str, Any], given: dict[str, Any], message: str
    ) -> None:
        model = large()
        scores: Importance | None = some_scores(model)
        assert scores is not None
        if given.get("importance", "") is None:
            scores = None
        elif given.get("importance") == "flat":
            scores = scores._replace(channels=torch.rand(3))
        elif given.get("importance") == "nan":
            scores = scores._replace(channels=scores.channels / 0)
        options = {k: v for k, v in given.items() if k != "importance"}
        if "experts" in options:
            mask = torch.stack([torch.arange(4) < n for n in options["experts"]]).flatten()
            options["experts"] = {f"layers.{i}.moge": mask for i in range(3)}
        with pytest.raises(ValueError, match=message) as error:
            inherit(model, smaller(model, **changes), scores, **options)
        assert "\n" not in str(error.value)

    def test_models_and_types(self) -> None:
        model = large()
        config = smaller(model, num_hidden_layers=1)
        with pytest.raises(TypeError, match="large must be a PanguMoEForCausalLM, got Linear"):
            inherit(torch.nn.Linear(2, 2), config)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="config must be a PanguMoEConfig, got dict"):
            inherit(model, {})  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="importance must be an Importance, got str"):
            inherit(model, config, "x", layers=[0])  # type: ignore[arg-type]
        with pytest.raises(
            TypeError, match=r"experts must be a Mapping whose keys are .* got list"
        ):
            inherit(model, config, layers=[0], experts=[1])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="layers must hold ints, got float"):
            inherit(model, config, layers=[0.0])  # type: ignore[list-item]
        with pytest.raises(TypeError, match="model must be a PanguMoEForCausalLM, got Linear"):
            layer_importance(torch.nn.Linear(2, 2), [])  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="batches must have at least one batch, got none"):
            layer_importance(model, [])
        with pytest.raises(ValueError, match="batches must have at least one batch, got none"):
            channel_importance(model, [])
        with pytest.raises(ValueError, match=r"L of at least 2, got \[2, 1\]"):
            channel_importance(model, [some_ids()[:, :1]])
        with pytest.raises(ValueError, match="rate must be above 0, got 0"):
            channel_importance(model, [some_ids()], rate=0.0)
        with pytest.raises(ValueError, match="rounds must be"):
            channel_importance(model, [some_ids()], rounds=0)
        with pytest.raises(TypeError, match="rate must be a number, got str"):
            channel_importance(model, [some_ids()], rate="x")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="config must be a PanguMoEConfig, got int"):
            channel_importance(model, [some_ids()], 3)  # type: ignore[arg-type]
        big = smaller(model, moe_intermediate_size=64)
        with pytest.raises(ValueError, match=r"moe_intermediate_size must be at most.*48, got 64"):
            channel_importance(model, [some_ids()], big)
        quantised = a_model()
        quantize_experts(quantised, "int8_w8a16")
        with pytest.raises(ValueError, match="slim first, then quantise"):
            inherit(quantised, quantised.config)
        with pytest.raises(ValueError, match="slim first, then quantise"):
            channel_importance(quantised, [some_ids()])
