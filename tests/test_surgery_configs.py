"""Configs that models share, and models within models: surgery tells every config of its own."""

import copy
from pathlib import Path

import pytest
import torch
from surgery_models import E, F, S, a_model, small_config, some_ids
from torch import Tensor, nn

from moge_ops.models import PanguMoEForCausalLM
from moge_ops.models.checkpoint import from_pretrained, save_pretrained
from moge_ops.surgery import Sensitivity, inherit, prune_experts, slim_experts

MASK = torch.tensor([1, 0, 1, 1] * 3).bool()


def masks(model: nn.Module) -> dict[str, Tensor]:
    """For each layer with experts."""
    return {n.removesuffix(".w_down"): MASK for n, _ in model.named_parameters() if "w_down" in n}


def cut(model: nn.Module) -> None:
    """Narrower experts, and fewer."""
    scores = Sensitivity(torch.rand(E, F), torch.rand(S))
    slim_experts(model, 16, dict.fromkeys(masks(model), scores), shared_width=16)
    prune_experts(model, masks(model))


def sizes(model: PanguMoEForCausalLM) -> list[int]:
    c = model.config
    return [c.num_experts, c.moe_intermediate_size, c.shared_expert_intermediate_size]


@pytest.mark.parametrize("way", ["one-config", "inherited"])
def test_another_model_with_the_same_config_is_left_alone(way: str, tmp_path: Path) -> None:
    config = small_config()
    teacher = PanguMoEForCausalLM(config)
    student = PanguMoEForCausalLM(config) if way == "one-config" else inherit(teacher, config)
    cut(student)
    assert sizes(student) == [9, 16, 16]
    assert sizes(teacher) == [E, F, S]
    assert config == small_config()
    for name, model in (("teacher", teacher), ("student", student)):
        save_pretrained(model, tmp_path / name)
        assert from_pretrained(tmp_path / name)(some_ids()).equal(model(some_ids()))


def test_inherit_gives_a_config_of_its_own() -> None:
    model = a_model()
    model.config.extra["note"] = ["a"]
    small = inherit(model, model.config)
    assert small.config == model.config
    small.config.extra["note"].append("b")
    assert model.config.extra["note"] == ["a"]


class Wrapper(nn.Module):
    """A model, and something that holds the model's config too."""

    def __init__(self, model: PanguMoEForCausalLM) -> None:
        super().__init__()
        self.model, self.head = model, nn.Linear(2, 2)
        self.head.config = model.config


def test_a_model_within_another_is_told(tmp_path: Path) -> None:
    model = a_model()
    config, wrapped = model.config, Wrapper(model)
    cut(wrapped)
    assert sizes(wrapped.model) == [9, 16, 16]
    assert wrapped.head.config is wrapped.model.config
    assert config == small_config()
    save_pretrained(wrapped.model, tmp_path)
    assert from_pretrained(tmp_path)(some_ids()).equal(wrapped.model(some_ids()))


def test_two_models_within_another_have_their_own_numbers() -> None:
    """Each keeps as many experts of a group, but they have unequally many groups."""
    both = nn.ModuleList([a_model(), a_model(num_groups=1, num_experts_per_tok=1, num_experts=4)])
    found = masks(both)
    found |= {name: MASK[:4] for name in found if name.startswith("1.")}
    prune_experts(both, found)
    assert [model.config.num_experts for model in both] == [9, 3]


def test_a_config_within_a_config_stays_the_models() -> None:
    """As a model of text and pictures has it."""
    outer = Wrapper(a_model())
    outer.config = type("Outer", (), {})()
    outer.config.text = outer.model.config
    before = copy.copy(outer.config)
    prune_experts(outer, masks(outer))
    assert outer.config.text is outer.model.config
    assert outer.config.text.num_experts == 9
    assert before.text.num_experts == E
