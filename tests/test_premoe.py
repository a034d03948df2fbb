"""Which task a query is like, and files of statistics: of earlier versions, damaged, or foreign."""

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import moge_ops
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.statistics import RouterStatistics

MADE = "must be a file that RouterStatistics.save wrote"


def small(**changes: Any) -> PanguMoEForCausalLM:
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "num_groups": 4,
        "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8,
        "eos_token_id": None,
        "initializer_range": 0.3,
    }
    torch.manual_seed(0)
    return PanguMoEForCausalLM(PanguMoEConfig(**{**sizes, **changes}))


def text(low: int, high: int, *shape: int) -> Tensor:
    return torch.randint(low, high, shape)


TASKS = {"low": (0, 6), "middle": (20, 26), "high": (40, 46)}


@functools.cache
def collected() -> tuple[PanguMoEForCausalLM, RouterStatistics]:
    model, statistics = small(), RouterStatistics()
    for task, (low, high) in TASKS.items():
        with torch.no_grad(), statistics.collect(model, task):
            model(text(low, high, 8, 64))
    return model, statistics


def test_a_query_finds_its_task() -> None:
    model, statistics = collected()
    for task, span in TASKS.items():
        for _ in range(5):
            query = text(*span, 1, 48)
            assert statistics.nearest(model, query) == task
            found = statistics.distances(model, query)
            assert next(iter(found)) == task
            assert [*found.values()] == sorted(found.values())
            assert set(found) == set(TASKS)


def test_distances_are_those_of_the_formula() -> None:
    model, statistics = collected()
    query = text(0, 64, 2, 24)
    out = model(query, return_details=True)
    logits, gating = out.router_logits[0], out.gating[0]
    q = torch.zeros(16, dtype=torch.float64)
    for z, experts in zip(logits.double(), gating.experts.tolist(), strict=True):
        p = z[experts].exp() / z[experts].exp().sum()
        for expert, share in zip(experts, p.tolist(), strict=True):
            q[expert] += share if share >= 0.25 else 0.0
    got = statistics.distances(model, query)
    for task in TASKS:
        s = statistics.sums[task]["layers.0.moge"][2].flatten()
        want = (q / q.square().sum().sqrt() - s / s.square().sum().sqrt()).square().sum().sqrt()
        assert got[task] == pytest.approx(want.item(), abs=1e-7)


def test_only_the_first_router_runs() -> None:
    """No expert is read: they may all be NaN, and the layers after the first are never called."""
    model, statistics = collected()
    query = text(20, 40, 1, 32)
    want = statistics.distances(model, query)
    blind, called = small(), list[str]()
    blind.load_state_dict(model.state_dict())
    with torch.no_grad():
        for layer in blind.layers:
            for weight in (layer.moge.w_gate_up, layer.moge.w_down, layer.moge.shared_down):
                weight.fill_(math.nan)
    for name, module in blind.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    assert statistics.distances(blind, query) == want
    assert "layers.0.attention" in called
    assert not [name for name in called if name.startswith(("layers.1", "norm", "lm_head"))]
    assert not [name for name in called if "moge" in name.split(".")]
    # nothing stays behind
    assert not any(module._forward_pre_hooks for module in blind.modules())


def saved(folder: Path) -> tuple[Path, int]:
    """A folder with the model, and the bytes of all but its experts."""
    checkpoint = pytest.importorskip("moge_ops.models.checkpoint", reason="needs safetensors")
    model, _ = collected()
    checkpoint.save_pretrained(model, folder)
    rest = {name: p for name, p in model.named_parameters() if ".moge.w_" not in name}
    return folder, sum(p.nbytes for p in rest.values())


def test_a_query_reads_no_expert_and_then_those_of_its_task_alone(tmp_path: Path) -> None:
    offload = pytest.importorskip("moge_ops.offload", reason="needs safetensors")
    folder, rest = saved(tmp_path / "model")
    model, statistics = collected()
    one = 3 * 8 * 32 * 4  # bytes of an expert
    query = text(*TASKS["middle"], 1, 48)

    waiting = offload.load(folder, resident=rest + 16 * one)  # room for those of one layer
    with offload.of(waiting) as store:
        assert statistics.distances(waiting, query) == statistics.distances(model, query)
        assert (store.hits, store.misses, store.bytes_read) == (0, 0, 0)
        task = statistics.nearest(waiting, query)
        assert task == "middle"

    for keep in (2, 1):
        masks = statistics.masks(task, keep, score="selection")
        pruned = small()
        pruned.load_state_dict(model.state_dict())
        for layer, mask in masks.items():
            pruned.get_submodule(layer).expert_mask = mask
        loaded = offload.load(folder, experts=masks)
        with offload.of(loaded) as store, torch.inference_mode():
            assert store.bytes_read == 2 * 4 * keep * one
            assert store.slots * store.slot_bytes == 2 * 4 * keep * one
            assert torch.equal(loaded(query), pruned(query))
            assert store.misses == 0
            # another query to the same model
            assert statistics.nearest(loaded, text(*TASKS["high"], 1, 48)) == "high"
            assert torch.equal(loaded(query), pruned(query))


def test_switched_off_experts_still_say_what_a_query_is_like() -> None:
    model, statistics = collected()
    query = text(40, 64, 1, 32)
    want = statistics.distances(model, query)
    pruned = small()
    pruned.load_state_dict(model.state_dict())
    masks = statistics.masks("low", 1, score="selection")
    for layer, mask in masks.items():
        pruned.get_submodule(layer).expert_mask = mask
    assert statistics.distances(pruned, query) == want
    for layer, mask in masks.items():
        assert pruned.get_submodule(layer).expert_mask is mask


def test_padding_is_no_part_of_a_query() -> None:
    model, statistics = collected()
    query = text(0, 20, 1, 32)
    mask = F.pad(torch.ones_like(query), (9, 0))
    got = statistics.distances(model, F.pad(query, (9, 0), value=63), mask)
    assert got == pytest.approx(statistics.distances(model, query), abs=1e-6)


def test_of_equal_tasks_the_first_is_nearest() -> None:
    model, statistics = collected()
    query, twice = text(0, 20, 1, 32), RouterStatistics()
    twice.sums = dict.fromkeys(("b", "a"), statistics.sums["low"])
    twice.sums["c"] = {layer: 2.0 * x for layer, x in statistics.sums["low"].items()}
    assert [*twice.distances(model, query)][:2] == ["b", "a"]
    assert twice.distances(model, query)["c"] == pytest.approx(twice.distances(model, query)["a"])


def test_the_threshold_of_the_tasks_is_the_query_s() -> None:
    model, query = small(), text(0, 20, 1, 32)
    distances = []
    for threshold in (0.0, 0.5):
        statistics = RouterStatistics(threshold)
        with torch.no_grad(), statistics.collect(model, "same"):
            model(query)
        distances.append(statistics.distances(model, query)["same"])
    assert distances == pytest.approx([0.0, 0.0], abs=1e-9)


def test_one_token_without_a_batch() -> None:
    moge, statistics = moge_ops.nn.MoGE(16, 8, 8, 2, 1), RouterStatistics()
    model = torch.nn.Sequential(moge)
    with statistics.collect(model, "one"):
        model(torch.ones(16))
    assert statistics.distances(model, torch.ones(16)) == {"one": 0.0}


def test_a_query_without_tokens() -> None:
    model, statistics = collected()
    padding = torch.zeros(1, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="input_ids must have a token that counts"):
        statistics.nearest(model, padding, padding)


def test_a_query_of_a_model_that_is_not_finite() -> None:
    model, statistics = collected()
    damaged = small()
    with torch.no_grad():
        damaged.layers[0].moge.gate.fill_(math.nan)
    with pytest.raises(ValueError, match="must have finite selection scores"):
        statistics.nearest(damaged, text(0, 20, 1, 8))
    with pytest.raises(ValueError, match="no task was collected"):
        RouterStatistics().nearest(model, text(0, 20, 1, 8))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 3}, "only the model has layers.2.moge"),
        ({"num_hidden_layers": 1}, "only the task has layers.1.moge"),
        ({"num_experts": 32}, r"layers.0.moge has \[G, E/G\] = \[4, 8\], got \[4, 4\]"),
        ({"num_groups": 2}, r"layers.0.moge has \[G, E/G\] = \[2, 8\], got \[4, 4\]"),
    ],
    ids=repr,
)
def test_tasks_of_another_model(changes: dict[str, int], said: str) -> None:
    _, statistics = collected()
    other = small(**changes)
    for call in (statistics.check, lambda x: statistics.nearest(x, text(0, 20, 1, 8))):
        with pytest.raises(ValueError, match=rf"'low' must be of this model.*{said}"):
            call(other)


def test_layers_of_another_kind_need_no_statistics() -> None:
    model, statistics = collected()
    model = small()
    model.heads = torch.nn.ModuleList([moge_ops.nn.MoGE(32, 8, 16, 4)])  # as further predictions do
    statistics.check(model)
    with pytest.raises(ValueError, match="'low' must be of this model"):
        statistics.check(torch.nn.Linear(2, 2))


def test_a_model_without_a_call_of_its_experts() -> None:
    class Idle(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = collected()[0].layers

        def forward(self, input_ids: Tensor) -> Tensor:
            return input_ids

    with pytest.raises(ValueError, match="and reach a MoGE layer"):
        collected()[1].nearest(Idle(), text(0, 20, 1, 8))


def test_a_file_keeps_everything(tmp_path: Path) -> None:
    _, statistics = collected()
    statistics = RouterStatistics(0.3)
    statistics.sums = collected()[1].sums
    statistics.save(tmp_path / "tasks.pt")
    loaded = RouterStatistics.load(tmp_path / "tasks.pt")
    assert loaded.threshold == 0.3
    assert [*loaded.sums] == [*TASKS]
    for task, layers in statistics.sums.items():
        for layer, x in layers.items():
            assert loaded.sums[task][layer].equal(x)
    assert (tmp_path / "tasks.pt").stat().st_size < 3 * 2 * 16 * 24 + 6000


def test_a_file_of_the_first_version_has_weights_alone(tmp_path: Path) -> None:
    model, statistics = collected()
    old = {
        task: {layer: x[:2].clone() for layer, x in layers.items()}
        for task, layers in statistics.sums.items()
    }
    old["version"] = old["low"]  # a task, whose name means nothing there
    torch.save(old, tmp_path / "old.pt")
    loaded = RouterStatistics.load(tmp_path / "old.pt")
    for task in TASKS:
        for layer, mask in statistics.masks(task, 2).items():
            assert loaded.masks(task, 2)[layer].equal(mask)
    for call in (
        lambda: loaded.masks("low", 2, score="selection"),
        lambda: loaded.nearest(model, text(0, 20, 1, 8)),
    ):
        with pytest.raises(ValueError, match="'low' must have finite selection scores: collect it"):
            call()
    with torch.no_grad(), loaded.collect(model, "low"):
        model(text(0, 20, 1, 8))  # not a part of what the old file lacks
    with pytest.raises(ValueError, match="files of the first version"):
        loaded.profile("low")


@pytest.mark.parametrize("flag", [True, False])
def test_a_file_says_whether_pairs_are_collected(flag: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    RouterStatistics(co_activation=flag).save(path)  # of nothing yet
    assert RouterStatistics.load(path).co_activation is flag
    found = torch.load(path, weights_only=True)
    del found["co_activation"]  # as in a file that was written before: the pairs tell
    found["sums"] = {"a": {"b": torch.ones(3, 1, 2).double()}}
    found["pairs"] = {"a": {"b": torch.ones(2, 2).double()}} if flag else {}
    torch.save(found, path)
    assert RouterStatistics.load(path).co_activation is flag


def test_the_flag_is_a_bool() -> None:
    with pytest.raises(TypeError, match="co_activation must be a bool, got str"):
        RouterStatistics(co_activation="no")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        {"version": 2},
        {"version": 2, "sums": [1]},
        {"version": 2, "sums": {"task": 1}},
        {"version": 2, "sums": {}, "threshold": 3.0},
        {"version": 2, "sums": {}, "threshold": math.nan},
        {"version": 2, "sums": {"task": {"layer": torch.ones(3, 2, 4)}}},
        {"version": 2, "sums": {"task": {"layer": torch.ones(4, 2, 4).double()}}},
        {"version": 2, "sums": {"task": {"layer": torch.ones(3, 0, 4).double()}}},
        {"version": 3, "sums": {}, "co_activation": "no"},
        {"version": 4, "sums": {}},
        {"version": "new"},
        {"sums": torch.ones(3)},
    ],
    ids=repr,
)
def test_a_file_that_was_made_by_others(data: object, tmp_path: Path) -> None:
    torch.save(data, tmp_path / "tasks.pt")
    with pytest.raises(ValueError, match=MADE):
        RouterStatistics.load(tmp_path / "tasks.pt")
