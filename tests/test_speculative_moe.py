"""`examples/speculative_moe.py` counts what it says, and the committed run is what it writes."""

import csv
import runpy
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

for package in ("matplotlib", "rich", "safetensors", "tokenizers"):
    pytest.importorskip(package, reason="needs the extras 'bench' and 'models'")

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES, RESULTS = ROOT / "examples", ROOT / "bench" / "results"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def check(rows: list[dict[str, str]]) -> None:
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        key = row["model"], row["devices"], row["router"]
        found.setdefault(key, {})[row["way"]] = float(row["rows_sent"])
        if key[:2] == ("MoGE", "8"):  # every device has a group, which every token visits
            assert (row["rows_sent"], row["max_over_mean"]) == ("7.0000", "1.0000")
        elif key[0] == "MoGE":  # half a group: a token visits one of each two devices
            assert 7.0 <= float(row["rows_sent"]) <= 8.0
        assert float(row["max_over_mean"]) >= 1.0
    assert len(found) == 12
    for key, ways in found.items():
        assert ways["both, experts known"] <= ways["experts grouped"] + 1e-9, key


def test_a_case_by_hand() -> None:
    with mock.patch.object(sys, "path", [str(EXAMPLES), *sys.path]):
        example: dict[str, Any] = runpy.run_path(str(EXAMPLES / "speculative_moe.py"))
    # eight experts a device: token 0 visits devices 0 and 1, token 1 devices 0 and 7
    experts = torch.tensor([[0, 1, 8], [2, 62, 63]])
    owner = example["places"](torch.arange(64), 8)
    assert owner.tolist() == [e // 8 for e in range(64)]
    cost = example["cost"]
    # loads 3, 1, and 2 on the last device, of 6 on 8 devices
    assert cost(experts, torch.tensor([0, 7]), owner, 8).tolist() == [1.0, 4.0]
    assert cost(experts, torch.tensor([2, 2]), owner, 8).tolist() == [2.0, 4.0]
    swapped = torch.arange(64)
    swapped[[1, 8]] = torch.tensor([8, 1])  # place 1 gets expert 8
    assert example["places"](swapped, 8)[[1, 8]].tolist() == [1, 0]


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path) -> None:
    argv = ["speculative_moe.py", "--smoke", "--steps", "2", "--batches", "1"]
    argv += ["--out", str(tmp_path)]
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.object(sys, "path", [str(EXAMPLES), *sys.path]),
        pytest.raises(SystemExit) as stop,
    ):
        runpy.run_path(str(EXAMPLES / "speculative_moe.py"), run_name="__main__")
    assert not stop.value.code
    check(read(tmp_path / "speculative_moe.csv"))


def test_the_committed_run() -> None:
    check(read(RESULTS / "speculative_moe.csv"))
