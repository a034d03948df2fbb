"""`examples/adamoe.py` measures what it says, and the committed run shows what the pages say."""

import csv
from pathlib import Path

import pytest
from example_runs import exit_code

for package in ("rich", "safetensors", "tokenizers"):
    pytest.importorskip(package, reason="needs the extras 'bench' and 'models'")

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
PLAIN, NULL = ("plain, K 4", "plain, K 3", "plain, K 2"), "null experts"
KINDS = ("all", "first letter", "later letter", "space", "punctuation", "other")


def check(path: Path, one: int) -> dict[tuple[str, str], dict[str, float]]:
    """Whole rows, whose FLOPs are those of the experts; of model and kind the mean over seeds."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    seeds = sorted({row["seed"] for row in rows})
    assert [(r["seed"], r["model"], r["kind"]) for r in rows] == [
        (seed, model, kind) for seed in seeds for model in (*PLAIN, NULL) for kind in KINDS
    ]
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        used = [float(row[f"experts_{i}"]) for i in range(int(row["layers"]))]
        assert float(row["experts"]) == pytest.approx(sum(used) / len(used), abs=2e-3)
        assert int(row["expert_flops"]) == pytest.approx(one * sum(used), abs=2)
        assert all(0.0 <= x <= int(row["k"]) for x in used)
        if row["num_null"] == "0" and row["bytes"] != "0":
            assert used == [float(row["k"])] * len(used)
        mean = found.setdefault((row["model"], row["kind"]), {"loss": 0.0, "experts": 0.0})
        for column in mean:
            mean[column] += float(row[column]) / len(seeds)
    return found


@pytest.mark.slow
def test_measures_every_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("adamoe.py", "--smoke", "--out", tmp_path) == 0
    check(tmp_path / "adamoe.csv", one=6 * 32 * 8)
    assert "null experts" in capsys.readouterr().out


def test_the_committed_run_is_whole() -> None:
    found = check(RESULTS / "adamoe.csv", one=6 * 96 * 64)
    own, plain = found[NULL, "all"], found[PLAIN[0], "all"]
    assert own["experts"] < 0.75 * plain["experts"]
    assert own["loss"] < plain["loss"] + 0.01
    assert abs(own["loss"] - found[PLAIN[1], "all"]["loss"]) < 0.01  # nor worse than a plain K of 3
    used = [found[NULL, kind]["experts"] for kind in KINDS[1:4]]
    assert max(used) > min(used) + 0.3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--steps 0", "--steps must be at least 1, got 0"),
        ("--length 5000", "--length must be at most 1024, got 5000"),
        ("--k 33", "--k must be at most 16 + --null = 32, got 33"),
    ],
)
def test_says_why_options_cannot_be_run(
    options: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("adamoe.py", *options.split()) == 2
    assert said in capsys.readouterr().err
