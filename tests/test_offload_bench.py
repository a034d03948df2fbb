"""The expert cache is played right, the media are read whole, and the scripts of offloading run."""

import csv
import json
import random
import runpy
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

from moge_ops import offload
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.models.checkpoint import save_pretrained
from moge_ops.offload._demand import Demand

for package in ("matplotlib", "rich", "safetensors", "tokenizers"):
    pytest.importorskip(package, reason="needs the extras 'bench' and 'models'")

ROOT = Path(__file__).resolve().parents[1]
INFERENCE = ROOT / "bench" / "inference"
RESULTS = ROOT / "bench" / "results"
LAYERS, E = 3, 5


def names(script: str) -> Any:
    """The names of a script of bench/inference."""
    with mock.patch.object(sys, "path", [str(INFERENCE), *sys.path]):
        path = INFERENCE / f"{script}.py"
        return SimpleNamespace(**runpy.run_path(str(path), run_name=script))


@pytest.fixture(scope="module")
def cache() -> Any:
    return names("expert_cache")


@pytest.fixture(scope="module")
def media() -> Any:
    return names("media")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# -- the cache ---


def a_trace(seed: int, rounds: int = 12) -> list[list[int]]:
    draw = random.Random(seed)
    found = []
    for i in range(rounds * LAYERS):
        experts = draw.sample(range(E), draw.randint(1, 3))
        found.append(sorted(i % LAYERS * E + e for e in experts))
    return found


def played(trace: Sequence[Sequence[int]], slots: int, policy: str) -> list[int]:
    """Hits of each visit, by a list that is sorted anew for every key that has to go."""
    pool: list[int] = []
    hits = []

    def wait(key: int, i: int) -> float:
        own = [
            j for j in range(i + 1) if j % LAYERS == key // E
        ]  # its layer's visits, oldest first
        ages = [0.98**n for n in reversed(range(len(own)))]
        uses = sum(age for age, j in zip(ages, own, strict=True) if key in trace[j])
        share = min(1.0, (uses + 0.5) / (sum(ages) + 1.0))
        coming = next(d for d in range(1, LAYERS + 1) if (i + d) % LAYERS == key // E)
        return coming + LAYERS * (1.0 / share - 1.0)

    def order(key: int, i: int) -> tuple[float, ...]:
        """What comes first goes first."""
        before = [j for j in range(i + 1) if key in trace[j]]
        after = [j for j in range(i + 1, len(trace)) if key in trace[j]]
        if policy == "LRU":
            return before[-1], key
        if policy == "LFU":
            return len(before), before[-1], key
        if policy == "wait":
            return -wait(key, i), key
        return -(after[0] if after else float("inf")), key

    for i, visit in enumerate(trace):
        hits.append(sum(key in pool for key in visit))
        missing = [key for key in visit if key not in pool]
        while len(pool) + len(missing) > slots:
            pool.remove(min((key for key in pool if key not in visit), key=lambda k: order(k, i)))
        pool += missing
    return hits


@pytest.mark.parametrize("policy", ["LRU", "LFU", "wait", "optimum"])
def test_the_cache_is_that_of_a_brute_force_one(cache: Any, policy: str) -> None:
    for seed, slots in enumerate((3, 4, 6, 9, 14, 15, 40)):
        trace = a_trace(seed)
        want = played(trace, slots, policy)
        for skip in (0, 20):
            got = cache.play(trace, LAYERS, E, slots, policy, skip)
            assert got.hits == sum(want[skip:]), (slots, skip)
            assert got.asked == sum(map(len, trace[skip:]))


def test_no_policy_beats_the_one_that_knows_what_comes(cache: Any) -> None:
    """For single keys it is the optimum. For sets too, as all of a set are needed at once."""
    for seed in range(8):
        trace = a_trace(seed, rounds=30)
        best = cache.play(trace, LAYERS, E, 6, cache.OPTIMUM).hits
        assert all(cache.play(trace, LAYERS, E, 6, p).hits <= best for p in cache.POLICIES)


def test_a_ring_that_does_not_fit(cache: Any) -> None:
    """Every layer needs all of its experts: LRU keeps what is needed last, the ring what it can."""
    layers, E = 6, 4
    trace = [[layer * E + e for e in range(E)] for _ in range(50) for layer in range(layers)]
    slots = 4 * E  # one layer passes through, three stay
    skip = 10 * layers
    rate = {p: cache.play(trace, layers, E, slots, p, skip).rate for p in cache.POLICIES}
    assert rate["LRU"] == 0.0
    assert rate["wait"] == rate["optimum"] == pytest.approx(3 / (layers - 1), abs=0.02)


def test_a_pool_of_all_and_a_pool_too_small(cache: Any) -> None:
    trace = a_trace(0)
    different = len({key for visit in trace for key in visit})
    whole = cache.play(trace, LAYERS, E, LAYERS * E, "LRU")
    assert whole.asked - whole.hits == different
    with pytest.raises(ValueError, match=r"^slots must be at least [23], got 1$"):
        cache.play(trace, LAYERS, E, 1, "LRU")
    assert cache.play([], LAYERS, E, 1, "wait").rate == 0.0


def test_visits_and_repetitions_by_hand(cache: Any) -> None:
    # two layers, three steps, two rows, two experts of four
    experts = torch.tensor(
        [[[[0, 2], [2, 1]], [[0, 3], [0, 3]], [[0, 3], [1, 2]]], [[[3, 1], [1, 3]]] * 3]
    )
    assert cache.visits(experts, 4) == [
        *([0, 1, 2], [5, 7]),
        *([0, 3], [5, 7]),
        *([0, 1, 2, 3], [5, 7]),
    ]
    # layer 0: 1 of 2, 0 of 2; 2 of 2, 0 of 2. Layer 1: all
    assert cache.reuse(experts)[0] == pytest.approx((3 / 8 + 1) / 2)


@pytest.mark.parametrize("stay", [0.0, 0.5])
def test_rows_keep_their_experts_as_often_as_asked(cache: Any, stay: float) -> None:
    torch.manual_seed(0)
    experts = cache.drawn(0.0, 4, stay, 2, 400)
    assert experts.shape == (2, 400, 4, 8)
    assert (experts // 8 == torch.arange(8)).all()
    again, chance = cache.reuse(experts)
    assert chance == pytest.approx(1 / 8, abs=0.01)
    assert again == pytest.approx(stay + (1 - stay) / 8, abs=0.01)


# -- the media ---


def write_shard(path: Path, tensors: dict[str, bytes]) -> None:
    header, data = {}, b""
    for name, x in tensors.items():
        offsets = [len(data), len(data) + len(x)]
        header[name] = {"dtype": "U8", "shape": [len(x)], "data_offsets": offsets}
        data += x
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_experts_are_read_whole(media: Any, tmp_path: Path) -> None:
    draw = random.Random(0)
    parts = {
        f"model.layers.0.mlp.experts.{e}.{kind}_proj.weight": draw.randbytes(10 + e)
        for kind in ("gate", "up")
        for e in range(3)
    }
    touching = [f"model.layers.1.mlp.experts.7.{kind}_proj.weight" for kind in ("up", "down")]
    write_shard(tmp_path / "a.safetensors", {**parts, "model.norm.weight": b"12345"})
    write_shard(
        tmp_path / "b.safetensors", {"lm_head.weight": b"1", **dict.fromkeys(touching, b"x" * 9)}
    )
    experts = media.experts_of(tmp_path)
    assert {name.split("layers.")[1]: [x.size for x in own] for name, own in experts.items()} == {
        **{f"0.mlp.experts.{e}": [10 + e] * 2 for e in range(3)},
        "1.mlp.experts.7": [18],
    }
    media.drop(tmp_path)
    reader = media.Reader(tmp_path, 10**6)
    reader.read(2)
    got = bytes(reader.view)
    assert len(got) == reader.bytes == sum(map(len, parts.values())) + 18
    assert all(x in got for x in parts.values())
    assert reader.rate("disk", 3) > 0.0
    reader.close()


# -- the store ---


@pytest.mark.parametrize("batch", [1, 3])
def test_the_store_hits_what_the_rule_hits(cache: Any, tmp_path: Path, batch: int) -> None:
    torch.manual_seed(0)
    config = PanguMoEConfig(
        **{"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_experts": 16},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "num_groups": 4, "bos_token_id": 1},
        **{"num_experts_per_tok": 4, "moe_intermediate_size": 16, "eos_token_id": None},
        shared_expert_intermediate_size=16,
    )
    model = PanguMoEForCausalLM(config)
    torch.nn.init.normal_(model.embed.weight)
    save_pretrained(model, tmp_path)
    whole, expert = sum(p.nbytes for p in model.parameters()), 4 * 3 * 32 * 16
    slots = 20
    model = offload.load(tmp_path, whole - (3 * 16 - slots) * expert)
    store = offload.of(model)
    assert store.slots == slots
    store.looks_ahead = False
    trace: list[list[int]] = []
    for i, layer in enumerate(model.layers):
        layer.moge.register_forward_hook(
            lambda *args, i=i: trace.append(
                [i * 16 + e for e in args[-1].gating.counts.nonzero().flatten().tolist()]
            )
        )
    prompt = torch.randint(50, (batch, 5))
    model.generate(prompt, 40, temperature=1.0, top_k=0, top_p=1.0)
    assert len(trace) == 40 * 3
    want = cache.play(trace, 3, 16, slots, cache.WAIT)
    assert (store.hits, store.misses) == (want.hits, want.asked - want.hits)
    assert want.hits > cache.play(trace, 3, 16, slots, cache.LRU).hits
    store.close()


def test_the_order_by_hand() -> None:
    """Also of experts that were fetched ahead and that no layer has asked for yet."""
    demand = Demand(3, 8)
    for layer, chosen in ((0, (1, 2)), (1, (0,)), (2, (0, 3)), (0, (2,)), (1, (0, 1))):
        demand.visit([(layer, e) for e in chosen])
    # layer 1 has just run: 2 comes in one visit, 0 in two, 1 in three
    one, two = 1.0, 1.98
    waits = {
        (2, 0): 1,
        (0, 2): 2,
        (1, 0): 3,
        (1, 1): 3 + 3 * ((two + 1) / (one + 0.5) - 1),
        (0, 1): 2 + 3 * ((two + 1) / (0.98 + 0.5) - 1),
        (2, 1): 1 + 3 * ((one + 1) / 0.5 - 1),  # never
        (0, 7): 2 + 3 * ((two + 1) / 0.5 - 1),
    }
    waits[2, 0] += 3 * ((one + 1) / 1.5 - 1)
    waits[0, 2] += 3 * ((two + 1) / 2.48 - 1)
    waits[1, 0] += 3 * ((two + 1) / 2.48 - 1)
    assert demand.order(waits) == sorted(waits, key=waits.__getitem__)
    # of equals the lowest is the last, which makes room
    assert demand.order([(1, 5), (1, 6), (1, 4)]) == [(1, 6), (1, 5), (1, 4)]


# -- the scripts ---


def run(script: Path, *args: object) -> int | str | None:
    """Runs a script in this process, as the command line would, and returns its exit code."""
    argv, path = [str(script), *map(str, args)], [str(script.parent), *sys.path]
    with mock.patch.object(sys, "argv", argv), mock.patch.object(sys, "path", path):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as stop:
            return stop.code
    return 0


@pytest.mark.slow
def test_a_smoke_run_writes_every_row(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "offload.csv"
    script = INFERENCE / "offload.py"
    assert run(script, "--smoke", "--folder", tmp_path / "models", "--out", out) == 0
    rows, committed = read(out), read(RESULTS / "offload.csv")
    assert list(rows[0]) == list(committed[0])

    def places(found: list[dict[str, str]], study: str, *columns: str) -> set[tuple[str, ...]]:
        return {tuple(row[c] for c in columns) for row in found if row["study"] == study}

    for where in (
        ("hits", "router", "order", "batch"),
        ("ceiling", "medium", "threads_read"),
        ("model", "medium", "batch", "phase"),
    ):
        assert places(rows, *where) == places(committed, *where)
    assert places(rows, "guess", "order", "layers") == {
        (order, "1") for order in ("before the experts", "after them")
    }
    for row in rows:
        if row["study"] == "hits":
            assert 0.0 <= float(row["LRU"]) <= float(row["optimum"]) <= 1.0
        if row["study"] == "model":
            assert float(row["tokens_s"]) > 0.0
            assert 0 < int(row["rss_before"]) < int(row["rss_peak"])
            if row["medium"] == "resident":
                assert row["budget"] == row["of_medium"] == ""
            elif row["weights"] == "bfloat16":
                assert int(row["budget"]) < 0.8 * int(row["weight_bytes"])
                assert float(row["hit_rate"]) < 1.0
                assert int(row["bytes_step"]) > 0
    assert "tokens/s" in capfd.readouterr().out


def test_the_committed_rows_say_what_the_page_says() -> None:
    rows = read(RESULTS / "offload.csv")
    third = [row for row in rows if row["study"] == "hits" and row["resident"] == "1/3"]
    for row in third:
        assert float(row["wait"]) <= float(row["optimum"]), row
        if row["batch"] == "8":
            assert float(row["LRU"]) < 0.01 < 0.2 < float(row["wait"]), row


@pytest.mark.slow
def test_the_example_gives_the_same_tokens(capfd: pytest.CaptureFixture[str]) -> None:
    script = ROOT / "examples" / "se_moe.py"
    assert run(script, "--smoke", "--prompt", 12, "--tokens", 6) == 0
    said = capfd.readouterr().out
    assert "The same 6 tokens." in said
    assert "within the budget" in said
