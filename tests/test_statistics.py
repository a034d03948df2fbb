"""Statistics of the routers and the masks made from them, on layers and on a whole model."""

import functools
import io
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

import moge_ops
from moge_ops.models import PanguMoEForCausalLM
from moge_ops.nn import MoGE
from moge_ops.ops.grouped_gate import Gating
from moge_ops.statistics import RouterStatistics
from moge_ops.testing import assert_matches

TINY = Path(__file__).parent / "data" / "pangu_tiny"
H, WIDTH, E, G = 24, 16, 12, 3


def layer_with_everything(k: int = 2) -> MoGE:
    layer = MoGE(H, WIDTH, E, G, k, score="sigmoid", selection_bias=True, shared_size=8)
    with torch.no_grad():
        for x in (layer.router_scale, layer.bias):
            assert isinstance(x, Tensor)
            x.uniform_(0.5, 1.5)
    layer.expert_mask = torch.arange(E) % 4 != 1
    return layer


def tiny() -> PanguMoEForCausalLM:
    loading = pytest.importorskip("moge_ops.models.checkpoint", reason="needs safetensors")
    model: PanguMoEForCausalLM = loading.from_pretrained(TINY)
    return model


def by_hand(logits: Tensor, gating: Gating, threshold: float | None) -> Tensor:
    """``[3, E]``: the sums of one batch, in loops."""
    sums = [[0.0] * logits.shape[1] for _ in range(3)]
    least = 1.0 / gating.experts.shape[1] if threshold is None else threshold
    rows = zip(logits.tolist(), gating.weights.tolist(), gating.experts.tolist(), strict=True)
    for z, weights, experts in rows:
        exponentials = [math.exp(z[e]) if 0 <= e < len(z) else 0.0 for e in experts]
        for weight, expert, part in zip(weights, experts, exponentials, strict=True):
            if 0 <= expert < len(z):
                p = part / sum(exponentials)
                sums[0][expert] += weight
                sums[1][expert] += 1.0
                sums[2][expert] += torch.tensor(p).item() if p >= least else 0.0  # in float32
    return torch.tensor(sums, dtype=torch.float64)


def test_statistics_are_sums_over_the_chosen(device: str) -> None:
    for threshold in (None, 0.0, 0.15, 0.3, 1.0):
        statistics = RouterStatistics(threshold)
        want = torch.zeros(3, E, dtype=torch.float64)
        for T in (5, 0, 9, 1):
            logits = torch.randn(T, E, device=device)
            gating = moge_ops.grouped_gate(logits, G, 2)
            statistics.update("task", "layer", gating, G, logits=logits)
            want += by_hand(logits, gating, threshold)
        sums = statistics.sums["task"]["layer"]
        assert sums.shape == (3, G, E // G)
        assert sums.dtype == torch.float64
        assert_matches(sums.view(3, E), want, f"sums with r={threshold}")


def test_a_threshold_leaves_out_the_less_likely() -> None:
    logits = torch.tensor([[3.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]).log_softmax(1)
    gating = moge_ops.grouped_gate(logits, 2)
    larger = 1 / (1 + math.exp(-2))
    for threshold, want in (
        (0.0, [larger + 0.5, 0.0, 1 - larger + 0.5, 0.0]),
        (None, [larger + 0.5, 0.0, 0.5, 0.0]),  # equal shares count
        (0.6, [larger, 0.0, 0.0, 0.0]),
        (1.0, [0.0] * 4),
    ):
        statistics = RouterStatistics(threshold)
        statistics.update("task", "layer", gating, 2, logits=logits)
        got = statistics.sums["task"]["layer"][2].flatten().tolist()
        assert got == pytest.approx(want, abs=1e-6), threshold


@pytest.mark.parametrize("threshold", [-0.1, 1.5, math.nan, True, "0.2"])
def test_a_threshold_is_a_probability(threshold: Any) -> None:
    with pytest.raises(ValueError, match="threshold must be a number from 0 to 1, or None, got"):
        RouterStatistics(threshold)


@pytest.mark.parametrize("K", [1, 3, 6, 7, 8, 49])
def test_every_token_counts_for_one_expert_without_a_threshold(K: int) -> None:
    for scale in (0.0, 1e-17, 1e-16, 1e-3, 1e30):
        logits = scale * torch.randn(50, 2 * K, dtype=torch.float64)
        statistics, gating = RouterStatistics(), moge_ops.grouped_gate(logits, K)
        for t in range(50):
            one = moge_ops.grouped_gate(logits[t : t + 1], K)
            statistics.update(str(t), "layer", one, K, logits=logits[t : t + 1])
            assert statistics.sums[str(t)]["layer"][2].sum() > 0.99 / K, (scale, t)
        statistics.update("all", "layer", gating, K, logits=logits)
        assert statistics.sums["all"]["layer"][2].sum() <= 50 * (1 + 1e-6)


@pytest.mark.slow_on("triton")
def test_sums_do_not_depend_on_the_batches(device: str) -> None:
    logits, once, often = torch.randn(300, E, device=device), RouterStatistics(), RouterStatistics()
    for statistics, sizes in ((once, [300]), (often, [1, 0, 99, 7, 193])):
        for part in logits.split(sizes):
            gating = moge_ops.grouped_gate(part, G, 2)
            statistics.update("task", "layer", gating, G, logits=part)
    assert once.sums["task"]["layer"].equal(often.sums["task"]["layer"])


def test_a_layer_keeps_its_sizes_and_logits_fit() -> None:
    statistics, logits = RouterStatistics(), torch.randn(4, E)
    gating = moge_ops.grouped_gate(logits, G)
    statistics.update("task", "layer", gating, G, logits=logits)
    with pytest.raises(ValueError, match=r"layer must have \[G, E/G\] = \[3, 4\] as before"):
        statistics.update("task", "layer", moge_ops.grouped_gate(logits, 2), 2, logits=logits)
    with pytest.raises(ValueError, match=r"logits must be \[T, E\] = \[4, 12\], got \[3, 12\]"):
        statistics.update("task", "layer", gating, G, logits=logits[1:])


def test_slots_of_no_expert_and_repeated_ones(device: str) -> None:
    ids = torch.tensor([[0, 0, 4], [-1, 5, 9], [-1, 6, 7], [3, 3, 3]], device=device)
    logits = torch.randn(4, 6, device=device)
    gating = moge_ops.grouped_gate(logits, 3, experts=ids)
    for threshold in (None, 0.0, 0.4):
        want = by_hand(logits, gating, threshold)
        for mask in (None, torch.ones(4, dtype=torch.bool, device=device)):
            statistics = RouterStatistics(threshold)
            statistics.update("task", "layer", gating, 3, mask, logits=logits)
            assert_matches(statistics.sums["task"]["layer"].view(3, 6), want, "sums")


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
        rows = mask if layer.num_voted else None
        _, logits, gating = layer(x, return_routing=True, row_mask=rows)
        voters = None if rows is None else rows.flatten()
        want.update("a", name, gating, G, voters, logits=logits)
    assert {task: set(layers) for task, layers in statistics.sums.items()} == {
        "a": {"first", "last"}
    }
    for name, sums in statistics.sums["a"].items():
        assert sums.equal(want.sums["a"][name]), name
        assert not sums.requires_grad


def test_rows_that_are_masked_do_not_count(device: str) -> None:
    logits, kept = torch.randn(12, E, device=device), torch.arange(12, device=device) % 3 > 0
    logits[0] = torch.nan  # of a row that is left out
    some, few = RouterStatistics(), RouterStatistics()
    some.update("task", "layer", moge_ops.grouped_gate(logits, G, 2), G, kept, logits=logits)
    logits = logits[kept]
    few.update("task", "layer", moge_ops.grouped_gate(logits, G, 2), G, logits=logits)
    assert torch.equal(some.sums["task"]["layer"], few.sums["task"]["layer"])


@pytest.mark.parametrize("padded", [False, True])
def test_the_model_leaves_padding_out(padded: bool) -> None:
    model, ids = tiny(), torch.randint(3, 64, (2, 6))
    padding = 10 if padded else 0
    mask = F.pad(torch.ones_like(ids), (padding, 0))
    statistics, want = RouterStatistics(), RouterStatistics()
    with statistics.collect(model, "a"), torch.no_grad():
        model(F.pad(ids, (padding, 0)), mask)
    with want.collect(model, "a"), torch.no_grad():
        model(ids)
    for name, sums in statistics.sums["a"].items():
        assert torch.equal(sums[1], want.sums["a"][name][1]), name
        assert sums[1].sum() == ids.numel() * model.config.num_experts_per_tok


@pytest.mark.parametrize("voted", [1, None])
def test_padding_changes_no_logits(voted: int | None) -> None:
    model, ids = tiny().double(), torch.randint(3, 64, (1, 6))
    for layer in model.layers:
        layer.moge.num_voted = voted
    mask = F.pad(torch.ones_like(ids), (10, 0))
    with torch.no_grad():
        assert_matches(model(F.pad(ids, (10, 0)), mask)[:, 10:], model(ids), "logits")


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("return_routing", [False, True])
def test_recomputed_activations_count_once(reentrant: bool, return_routing: bool) -> None:
    layer, x = layer_with_everything(), torch.randn(20, H, requires_grad=True)

    def f(x: torch.Tensor) -> torch.Tensor:
        y = layer(x, return_routing=return_routing)
        return torch.tanh(y.y if return_routing else y) ** 2

    statistics = RouterStatistics()
    with statistics.collect(layer, "a"):
        checkpoint(f, x, use_reentrant=reentrant).sum().backward()
    assert x.grad is not None
    assert statistics.sums["a"][""][1].sum() == 20 * G * layer.k


def test_selective_checkpointing_counts_once() -> None:
    layer, x = layer_with_everything(), torch.randn(20, H, requires_grad=True)
    policy = functools.partial(
        create_selective_checkpoint_contexts, [torch.ops.moge_ops.grouped_gate.default]
    )
    statistics = RouterStatistics()
    with statistics.collect(layer, "a"):
        y = checkpoint(lambda x: layer(x) ** 2, x, use_reentrant=False, context_fn=policy)
        y.sum().backward()
    assert statistics.sums["a"][""][1].sum() == 20 * G * layer.k


def test_masks_keep_the_best_of_each_group() -> None:
    statistics = RouterStatistics()
    weights = torch.tensor([[0.1, 0.4, 0.1, 0.4], [0.0, 0.0, 0.3, 0.0]], dtype=torch.float64)
    counts = torch.tensor([4.0, 3, 2, 1]) + 0 * weights  # in another order
    statistics.sums = {"a": {"layer": torch.stack([weights, counts, counts / 2])}}
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
    with pytest.raises(ValueError, match="score must be one of weights, selection, got 'count'"):
        statistics.masks("a", 1, score="count")
    with pytest.raises(ValueError, match="task must be one of those collected, of which there are"):
        RouterStatistics().masks("a", 1)


def test_masks_of_the_other_score() -> None:
    statistics = RouterStatistics()
    weights = torch.tensor([[0.1, 0.4, 0.1, 0.4], [0.0, 0.2, 0.3, 0.2]], dtype=torch.float64)
    # of equal scores, as zero is where no token was sure, the larger weight stays
    selection = torch.tensor([[0.5, 0.1, 0.5, 0.6], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    statistics.sums = {"a": {"layer": torch.stack([weights, 0 * weights, selection])}}
    for keep, want in (
        (1, [0, 0, 0, 1, 0, 0, 1, 0]),
        (2, [1, 0, 0, 1, 0, 1, 1, 0]),
        (3, [1, 0, 1, 1, 0, 1, 1, 1]),
    ):
        assert statistics.masks("a", keep, score="selection")["layer"].int().tolist() == want, keep
    assert statistics.profile("a")["layer"].equal(selection)
    assert statistics.profile("a", "weights")["layer"].equal(weights)


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
            assert sums.shape == (3, c.num_groups, c.num_experts // c.num_groups)
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


def test_a_file_is_replaced_when_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, target = tmp_path / "law.pt", tmp_path / "target.pt"
    old, new = RouterStatistics(), RouterStatistics()
    old.sums = {"task": {"layer": torch.ones(3, G, E // G, dtype=torch.float64)}}
    old.save(target)
    path.symlink_to(target)
    path.chmod(0o600)
    kept = target.read_bytes()

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        new.save(path)
    monkeypatch.undo()
    assert {p.name for p in tmp_path.iterdir()} == {"law.pt", "target.pt"}
    assert target.read_bytes() == kept
    new.save(path)
    assert not RouterStatistics.load(path).sums
    assert target.read_bytes() == kept  # a link is replaced, not followed
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
def test_no_file_of_statistics(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "law.pt"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(os.devnull)
    for call in (RouterStatistics.load, RouterStatistics().save):
        with pytest.raises(ValueError, match=f"law.pt must be a regular file, got a {kind}"):
            call(path)
    assert [p.name for p in tmp_path.iterdir()] == ["law.pt"]


@pytest.mark.parametrize(
    "data", [b"", b"no pickle", [1], {"task": 1}, {"task": {"layer": torch.ones(3)}}], ids=repr
)
def test_a_file_that_is_no_statistics(data: object, tmp_path: Path) -> None:
    path = tmp_path / "law.pt"
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        torch.save(data, path)
    with pytest.raises(ValueError, match=r"law\.pt must be a file that RouterStatistics\.save wr"):
        RouterStatistics.load(path)


def test_a_file_that_was_cut_anywhere(tmp_path: Path) -> None:
    path, data = tmp_path / "law.pt", io.BytesIO()
    old = {"_use_new_zipfile_serialization": False}  # without the sums of a zip file
    torch.save({"law": {"moge": torch.ones(2, 2, 4, dtype=torch.float64)}}, data, **old)
    whole = data.getvalue()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"must be a file that RouterStatistics\.save wrote"):
            RouterStatistics.load(path)
    path.write_bytes(whole)
    assert RouterStatistics.load(path).masks("law", keep=1)["moge"].sum() == 2
