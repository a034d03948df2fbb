"""`examples/pangu_ultra.py` counts what it says, and the committed run is what it writes."""

import csv
import runpy
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

for package in ("matplotlib", "rich"):
    pytest.importorskip(package, reason="needs the extra 'bench'")

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES, RESULTS = ROOT / "examples", ROOT / "bench" / "results"


@pytest.fixture(scope="module")
def example() -> dict[str, object]:
    with mock.patch.object(sys, "path", [str(EXAMPLES), *sys.path]):
        return runpy.run_path(str(EXAMPLES / "pangu_ultra.py"))


def test_a_case_by_hand(example: dict[str, object]) -> None:
    # two nodes of two devices, two experts each: ranks 0 and 1 have experts 0 to 3, ranks 2 and 3
    # have 4 to 7. Token 0 lives on rank 0, token 1 on rank 1
    experts = torch.tensor([[1, 2, 6], [4, 5, 7]])
    ways = example["WAYS"]
    assert isinstance(ways, dict)
    # token 0: expert 2 on rank 1, near, and 6 on rank 3, far. Token 1: three rows to node 1
    assert ways["flat"](experts, 8, 2, 2) == (0.5, 2.0)
    # token 0 goes once to node 1, arrives on rank 2 and goes on to rank 3; and to rank 1. Token 1
    # goes once to rank 3, two of its rows go on to rank 2
    assert ways["by node"](experts, 8, 2, 2) == (2.0, 1.0)
    assert ways["gathered"](experts, 8, 2, 2) == (2.0, 1.0)
    here = torch.tensor([[0, 1]])  # nothing leaves the device, but a gather does not know
    assert [ways[way](here, 8, 2, 2) for way in ways] == [(0.0, 0.0), (0.0, 0.0), (0.0, 1.0)]


@pytest.mark.parametrize(("nodes", "devices"), [(2, 4), (4, 2), (1, 8), (8, 1)])
def test_agrees_with_loops(example: dict[str, object], nodes: int, devices: int) -> None:
    torch.manual_seed(0)
    experts = torch.rand(40, 16).argsort(1)[:, :5]
    near = dict.fromkeys(("flat", "by node"), 0)
    far = dict.fromkeys(near, 0)
    for t, row in enumerate(experts.tolist()):
        home = divmod(t % (nodes * devices), devices)
        places = [divmod(e // (16 // (nodes * devices)), devices) for e in row]
        for place in places:
            if place[0] != home[0]:
                far["flat"] += 1
            elif place != home:
                near["flat"] += 1
            near["by node"] += place[1] != home[1]
        far["by node"] += len({place[0] for place in places} - {home[0]})
    ways = example["WAYS"]
    assert isinstance(ways, dict)
    for way in near:
        found = ways[way](experts, 16, nodes, devices)
        assert found == pytest.approx((near[way] / 40, far[way] / 40)), way


def test_the_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv, path = ["pangu_ultra.py", "--smoke", "--out", str(tmp_path)], [str(EXAMPLES), *sys.path]
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.object(sys, "path", path),
        pytest.raises(SystemExit) as stop,
    ):
        runpy.run_path(str(EXAMPLES / "pangu_ultra.py"), run_name="__main__")
    assert not stop.value.code
    assert "by node" in capsys.readouterr().out
    tables = []
    for file in (tmp_path / "pangu_ultra.csv", RESULTS / "pangu_ultra.csv"):
        with file.open(newline="") as lines:
            tables.append(list(csv.DictReader(lines)))
    keys = ("router", "nodes", "devices", "way")
    smoke, committed = ([tuple(r[k] for k in keys) for r in table] for table in tables)
    assert smoke == committed
    for r in tables[1]:
        if r["way"] == "by node":
            assert float(r["rows_far"]) <= int(r["nodes"]) - 1
