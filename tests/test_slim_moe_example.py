"""`examples/slim_moe.py` measures what it says, and the committed run shows what the pages say."""

import csv
from collections import defaultdict
from pathlib import Path

import pytest
from example_runs import exit_code

for package in ("matplotlib", "rich", "safetensors", "tokenizers"):
    pytest.importorskip(package, reason="needs the extras 'bench' and 'models'")

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
WAYS = ("multi-stage", "one-shot", "random neurons", "pruned experts")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def check(rows: list[dict[str, str]], seeds: int, expert: int, router: int) -> None:
    """Every way for every seed; a student has an eighth of the experts' weights.

    Args:
        rows: Of the CSV.
        seeds: Students of each way.
        expert: Weights of one of the teacher's experts, in all layers.
        router: Parameters of the routers that belong to one expert.
    """
    teacher, *students = rows
    assert [(r["way"], r["seed"]) for r in rows] == [
        ("teacher", "0"),
        *((way, str(seed)) for way in WAYS for seed in range(seeds)),
    ]
    assert (teacher["experts"], teacher["width"]) == ("64", "128")
    for row in students:
        pruned = row["way"] == "pruned experts"
        assert (row["experts"], row["width"]) == (("8", "128") if pruned else ("64", "16"))
        gone = 56 * (expert + router * pruned)
        assert int(teacher["parameters"]) - int(row["parameters"]) == gone
    for row in rows:
        assert 0.0 < float(row["loss"]) < 6.0
        assert float(row["cut_loss"]) > 0.0


@pytest.mark.slow
def test_measures_every_way(tmp_path: Path) -> None:
    options = "--smoke --teach 3 --steps 4 --batch 1 --length 32 --pieces 1 --calibrate 1 --seeds 1"
    assert exit_code("slim_moe.py", *options.split(), "--out", tmp_path) == 0
    rows = read(tmp_path / "slim_moe.csv")
    check(rows, seeds=1, expert=2 * 3 * 128 * 32, router=2 * (32 + 1))


def test_the_committed_run_is_whole() -> None:
    rows = read(RESULTS / "slim_moe.csv")
    seeds = len({row["seed"] for row in rows})
    check(rows, seeds, expert=2 * 3 * 128 * 128, router=2 * (128 + 1))
    cut, loss = defaultdict[str, float](float), defaultdict[str, float](float)
    for row in rows:
        cut[row["way"]] += float(row["cut_loss"])
        loss[row["way"]] += float(row["loss"])
    assert cut["one-shot"] < cut["random neurons"]
    assert loss["one-shot"] < loss["random neurons"]
