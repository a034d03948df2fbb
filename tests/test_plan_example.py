"""`examples/plan.py` writes what it says, and the committed rows show what the pages say."""

import csv
import runpy
import sys
from pathlib import Path
from unittest import mock

import pytest

for package in ("matplotlib", "rich"):
    pytest.importorskip(package, reason="needs the extra 'bench'")

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES, RESULTS = ROOT / "examples", ROOT / "bench" / "results"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_smoke_run_reproduces_the_committed_rows(tmp_path: Path) -> None:
    """All of them are computed, so they are the same everywhere."""
    argv = ["plan.py", "--smoke", "--out", str(tmp_path)]
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.object(sys, "path", [str(EXAMPLES), *sys.path]),
        pytest.raises(SystemExit, match=r"^0$"),
    ):
        runpy.run_path(str(EXAMPLES / "plan.py"), run_name="__main__")
    committed = [row for row in read(RESULTS / "plan.csv") if int(row["devices"]) <= 8]
    assert read(tmp_path / "plan.csv") == committed
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_the_published_layout_is_near_the_top() -> None:
    rows = read(RESULTS / "plan.csv")
    found = {row["chip"]: row for row in rows if row["what"] == "paper"}
    assert set(found) == {"Ascend 910B2", "Ascend 310P"}
    for row in found.values():
        assert (row["attention"], row["experts"]) == ("DP2·TP4", "TP2·EP4")
        assert float(row["share"]) > 0.9
    assert found["Ascend 310P"]["rank"] == "1"
    varied = {(r["links"], r["latency_ms"]): r for r in rows if r["what"] == "varied"}
    assert len(varied) == 12
    assert {**varied["1", "100"], "what": "paper"} == found["Ascend 310P"]
    assert {int(r["devices"]) for r in rows if r["what"] == "best"} == {2**i for i in range(2, 10)}
