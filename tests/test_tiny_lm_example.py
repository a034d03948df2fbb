"""`examples/tiny_lm.py` measures what it says, and the committed run shows what the pages say."""

import csv
from collections import defaultdict
from pathlib import Path

import pytest
from example_runs import exit_code

for package in ("matplotlib", "rich", "safetensors", "tokenizers"):
    pytest.importorskip(package, reason="needs the extras 'bench' and 'models'")

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
WAYS = (
    *("learned masks", "learned masks, hard batches", "first order"),
    *("random parts", "random weights"),
)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def parameters(V: int, layers: int, H: int, qkv: int, E: int, F: int, S: int) -> int:
    """All parameters by hand: two tables, norms, attention with biases, router and experts."""
    attention = qkv * H + qkv + H * H + H
    experts = E * (H + 1) + 3 * H * (E * F + S)
    return 2 * V * H + H + layers * (2 * H + attention + experts)


def check(rows: list[dict[str, str]], seeds: int) -> None:
    """Every way for every seed, all students of the same sizes."""
    large, *students = rows
    assert [(r["way"], r["seed"]) for r in rows] == [
        ("large model", "0"),
        *((way, str(seed)) for way in WAYS for seed in range(seeds)),
    ]
    V = 260  # bytes and special tokens
    assert int(large["parameters"]) == parameters(V, 4, 128, 256, 64, 32, 128)
    for row in students:
        assert int(row["parameters"]) == parameters(V, 2, 64, 128, 32, 16, 64)
    for row in rows:
        assert 0.0 < float(row["loss"]) < 6.0
        assert float(row["start_loss"]) > 0.0


@pytest.mark.slow
def test_measures_every_way(tmp_path: Path) -> None:
    assert exit_code("tiny_lm.py", "--smoke", "--out", tmp_path) == 0
    check(read(tmp_path / "tiny_lm.csv"), seeds=1)


def test_the_committed_run_is_whole() -> None:
    rows = read(RESULTS / "tiny_lm.csv")
    check(rows, len({row["seed"] for row in rows}))
    start, loss = defaultdict[str, float](float), defaultdict[str, float](float)
    for row in rows:
        start[row["way"]] += float(row["start_loss"])
        loss[row["way"]] += float(row["loss"])
    for way in ("learned masks", "first order"):
        assert start[way] < start["random parts"]
        assert loss[way] < loss["random weights"]
