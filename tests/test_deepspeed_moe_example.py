"""`examples/deepspeed_moe.py`: capacity, the orders of dropping, counts, and the committed run."""

import csv
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from example_runs import called, exit_code

for package in ("matplotlib", "rich", "safetensors", "tokenizers"):
    pytest.importorskip(package, reason="needs the extras 'bench' and 'models'")

from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM  # noqa: E402
from moge_ops.models.pangu_moe import losses  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
SCRIPT = "deepspeed_moe.py"
FACTORS = (1.0, 1.25, 2.0)


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return called(SCRIPT, name="example")


def test_capacity(example: dict[str, Any]) -> None:
    """By hand, and against the smallest integer that has enough room."""
    capacity = example["capacity"]
    # 32 tokens, 2 experts each: 64 slots over 4 experts are 16, and a quarter more is 20
    assert capacity(32, 4, 2, 1.25) == 20
    assert capacity(100, 6, 1, 1.25) == 21  # 20.83
    assert capacity(10, 4, 1, 1.0) == 4  # 2.5, but at least 4
    assert capacity(0, 4, 1, 1.0) == 4
    assert capacity(100, 10, 1, 1.1) == 11  # 11.000000000000002 in float64
    for T in (1, 7, 31, 64, 1000):
        for E, K in ((4, 1), (6, 2), (64, 8)):
            for hundredths in (50, 100, 110, 125, 200):
                want = next(C for C in range(4, 10_000) if T * K * hundredths <= 100 * C * E)
                assert capacity(T, E, K, hundredths / 100) == want, (T, E, K, hundredths)


def test_dropping_by_hand(example: dict[str, Any]) -> None:
    """Five tokens, two experts each, room for two: expert 0 has four slots, 1 and 2 have three."""
    experts = torch.tensor([[0, 1], [0, 1], [0, 2], [1, 2], [0, 2]])
    weights = torch.tensor([[0.1, 0.9], [0.6, 0.4], [0.7, 0.3], [0.8, 0.2], [0.5, 0.5]])
    kept, keys = example["kept"], example["keys"]
    draw = torch.Generator().manual_seed(0)
    first = kept(experts, 3, 2, keys("position", weights, draw))
    assert first.tolist() == [[0, 1], [0, 1], [-1, 2], [-1, 2], [-1, -1]]
    best = kept(experts, 3, 2, keys("score", weights, draw))
    assert best.tolist() == [[-1, 1], [0, -1], [0, 2], [1, -1], [-1, 2]]


@pytest.mark.parametrize("order", ["position", "random", "score"])
def test_dropping_against_loops(order: str, example: dict[str, Any]) -> None:
    T, E, K, most = 37, 6, 3, 11
    draw = torch.Generator().manual_seed(1)
    experts = torch.rand(T, E, generator=draw).mul(torch.arange(1, E + 1)).topk(K).indices
    key = example["keys"](order, torch.rand(T, K, generator=draw), draw)
    found = example["kept"](experts, E, most, key)
    for e in range(E):
        slots = [(float(key[t, c]), t, c) for t in range(T) for c in range(K) if experts[t, c] == e]
        for i, (_, t, c) in enumerate(sorted(slots)):
            assert found[t, c] == (e if i < most else -1)


def test_random_selection_prefers_no_token(example: dict[str, Any]) -> None:
    """All 20 tokens want expert 0, which takes 5: each stays a quarter of the times."""
    experts, weights = torch.zeros(20, 1, dtype=torch.long), torch.rand(20, 1)
    draw, often = torch.Generator().manual_seed(2), torch.zeros(20)
    for _ in range(2000):
        stays = example["kept"](experts, 2, 5, example["keys"]("random", weights, draw)) >= 0
        assert stays.sum() == 5
        often += stays.flatten() / 2000
    assert (often - 0.25).abs().max() < 0.04  # four deviations
    assert not (
        example["kept"](experts, 2, 5, example["keys"]("position", weights, draw))[5:] >= 0
    ).any()


def tiny() -> PanguMoEForCausalLM:
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "moe_intermediate_size": 8, "num_experts": 8}
    sizes |= {"num_experts_per_tok": 2, "num_groups": 1, "shared_expert_intermediate_size": 8}
    config = PanguMoEConfig(vocab_size=16, initializer_range=0.5, eos_token_id=None, **sizes)
    return PanguMoEForCausalLM(config).double()


def test_a_layer_without_the_dropped_slots(example: dict[str, Any]) -> None:
    """Against the sum of the kept experts, written out; the balance loss counts all choices."""
    model, ids = tiny(), torch.randint(16, (4, 8))
    limit = example["Capacity"](model, 1.0, "position", 0)
    inputs: list[torch.Tensor] = []
    moge = model.layers[0].moge
    moge.register_forward_hook(lambda _, args, __: inputs.append(args[0].flatten(0, 1)))
    out = model(ids, return_details=True)
    (x,) = inputs
    experts = out.gating[0].experts
    probabilities = (x @ moge.gate.T).softmax(-1)
    want, gone = torch.zeros_like(x), 0
    taken = dict.fromkeys(range(8), 0)
    for t in range(32):
        for e in probabilities[t].topk(2).indices.tolist():
            taken[e] += 1
            if taken[e] > 8:  # ceil(32 * 2 / 8)
                gone += 1
                continue
            gate, up = (moge.w_gate_up[e] @ x[t]).chunk(2)
            want[t] += probabilities[t, e] * (
                moge.w_down[e] @ (torch.nn.functional.silu(gate) * up)
            )
    gate, up = (x @ moge.shared_gate_up.T).chunk(2, -1)
    want += (torch.nn.functional.silu(gate) * up) @ moge.shared_down.T
    got = moge(x.view(4, 8, 16), return_routing=True).y
    torch.testing.assert_close(got.view(32, 16), want)
    assert gone > 0
    assert torch.equal(experts.sort(1).values.long(), probabilities.topk(2).indices.sort(1).values)
    counts = torch.bincount(experts.flatten().long(), minlength=8)
    losses(out, ids)[1].backward()  # has a gradient, and sees 64 choices
    assert counts.sum() == 64
    limit.remove()
    with torch.no_grad():
        assert torch.equal(model(ids), tiny()(ids))


def test_enough_room_changes_nothing(example: dict[str, Any]) -> None:
    model, ids = tiny(), torch.randint(16, (4, 8))
    want = model(ids)
    limit = example["Capacity"](model, 8.0, "random", 0)
    torch.testing.assert_close(model(ids), want, rtol=0.0, atol=1e-12)
    assert (limit.dropped, limit.slots) == (0, 2 * 64)


def test_counts_by_hand(example: dict[str, Any]) -> None:
    """Eight tokens of one expert: room for 4, so half are dropped and 12 rows empty."""
    experts = torch.zeros(1, 8, 1, dtype=torch.long)
    rows = list(example["counted"]("worst", "plain top-k", experts, 4))
    assert [row["factor"] for row in rows] == list(FACTORS)
    assert [(r["capacity"], r["dropped"], r["padding"]) for r in rows] == [(4, 4, 12)] * 3
    (moge,) = example["counted"]("worst", "MoGE", experts, 4)
    assert (moge["slots"], moge["dropped"], moge["padding"]) == (8, 0, 0)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def check(rows: list[dict[str, str]]) -> None:
    """All lines, and what holds of every count."""
    ways = [("MoGE", ""), *(("plain top-k", str(f)) for f in FACTORS)]
    found = [(r["router"], r["way"], r["factor"]) for r in rows if r["kind"] == "counted"]
    assert found == [(router, *way) for router in ("uniform", "Zipf 1", "trained") for way in ways]
    for row in (row for row in rows if row["kind"] == "counted"):
        slots, dropped, padding = (int(row[name]) for name in ("slots", "dropped", "padding"))
        if row["way"] == "MoGE":
            assert (dropped, padding) == (0, 0)
            continue
        T, E, K, C = (int(row[name]) for name in ("tokens", "E", "K", "capacity"))
        assert max(4, T * K / E * Fraction(row["factor"])) <= C
        assert slots - dropped + padding == slots // (T * K) * E * C  # all rows that are reserved
    found = [(row["way"], row["order"]) for row in rows if row["kind"] == "trained"]
    orders = ("", "position", "random", "score")
    assert found == [("MoGE", ""), *(("plain top-k", order) for order in orders)]
    for row in (row for row in rows if row["order"]):
        assert 0 < int(row["dropped"]) < int(row["slots"])


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--smoke --steps 2 --batch 2 --length 32 --samples 2 --out"
    assert exit_code(SCRIPT, *options.split(), tmp_path) == 0
    check(read(tmp_path / "deepspeed_moe.csv"))
    assert "Held-out loss in nats a byte" in capsys.readouterr().out


def test_the_committed_run_is_whole() -> None:
    rows = read(RESULTS / "deepspeed_moe.csv")
    check(rows)
    dropped = {(r["router"], r["factor"]): int(r["dropped"]) for r in rows if r["factor"]}
    for router in ("uniform", "Zipf 1", "trained"):
        assert dropped[router, "1.0"] > dropped[router, "1.25"] >= dropped[router, "2.0"] >= 0
    assert dropped["Zipf 1", "1.0"] > dropped["uniform", "1.0"]
    # what the gallery says
    loss = {(r["way"], r["order"]): float(r["loss"]) for r in rows if r["kind"] == "trained"}
    (moge, plain, *drops) = loss.values()
    position, random, score = drops
    assert plain < score < random < position
    assert plain < moge < position


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--steps 0", "--steps must be at least 1, got 0"),
        ("--factor 0", "--factor must be a positive number, got 0.0"),
        ("--factor nan", "--factor must be a positive number, got nan"),
        ("--length 5000", "--length must be at most 1024, got 5000"),
    ],
)
def test_says_why_options_cannot_be_run(
    options: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(SCRIPT, *options.split()) == 2
    assert said in capsys.readouterr().err
