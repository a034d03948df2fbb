"""`examples/sonic_moe.py` counts, times and trains what it says."""

import csv
import runpy
import sys
from pathlib import Path
from unittest import mock

import pytest

for package in ("matplotlib", "rich", "safetensors", "tokenizers"):
    pytest.importorskip(package, reason="needs the extras 'bench' and 'models'")

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES, RESULTS = ROOT / "examples", ROOT / "bench" / "results"


def check(rows: list[dict[str, str]]) -> None:
    """Whole tiles, equal losses at first, and every mode at every place."""
    counts = [row for row in rows if row["study"] == "count"]
    assert {row["mode"] for row in counts} == {"plain", "nearest", "apportioned"}
    for row in counts:
        chosen, computed = int(row["chosen"]), int(row["computed"])
        useful = chosen - int(row["dropped"]) + int(row["added"])
        assert chosen == int(row["T"]) * int(row["K"])
        assert computed % int(row["tile"]) == 0
        if row["mode"] == "plain":
            assert useful == chosen
        else:
            assert computed == useful, "padding is left"
    times = [row for row in rows if row["study"] == "time"]
    assert len({row["path"] for row in times}) == 5
    assert all(float(row["median_ms"]) > 0.0 for row in times)
    train = [row for row in rows if row["study"] == "train"]
    assert len({row["mode"] for row in train}) == 4
    assert len({row["held_out_loss"] for row in train if row["step"] == "0"}) == 1
    last = max(int(row["step"]) for row in train)
    losses = {row["mode"]: float(row["held_out_loss"]) for row in train if int(row["step"]) == last}
    assert all(loss < 5.5 for loss in losses.values())
    assert len(set(losses.values())) > 1, "nothing was rounded"


@pytest.mark.slow
def test_it_runs_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--smoke --steps 8 --batch 2 --length 64 --out"
    argv, path = ["sonic_moe.py", *options.split(), str(tmp_path)], [str(EXAMPLES), *sys.path]
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.object(sys, "path", path),
        pytest.raises(SystemExit) as stop,
    ):
        runpy.run_path(str(EXAMPLES / "sonic_moe.py"), run_name="__main__")
    assert stop.value.code == 0
    assert "Held-out loss" in capsys.readouterr().out
    check(list(csv.DictReader((tmp_path / "sonic_moe.csv").open(newline=""))))


def test_the_committed_run_is_whole() -> None:
    rows = list(csv.DictReader((RESULTS / "sonic_moe.csv").open(newline="")))
    check(rows)
    shapes = {row["shape"] for row in rows if row["study"] == "count"}
    assert len(shapes) == 5
