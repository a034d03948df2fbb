"""`examples/premoe.py` measures what it says, and the committed run shows what the pages say."""

import csv
import runpy
import sys
from pathlib import Path
from unittest import mock

import pytest

for package in ("matplotlib", "rich", "safetensors", "tokenizers"):
    pytest.importorskip(package, reason="needs the extras 'bench' and 'models'")

from moge_ops.models.checkpoint import from_pretrained  # noqa: E402
from moge_ops.statistics import RouterStatistics  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES, RESULTS = ROOT / "examples", ROOT / "bench" / "results"
KINDS = ("scripture", "python", "arithmetic")


def run(*args: object) -> int | str | None:
    """Runs the script in this process, and returns its exit code."""
    argv, path = ["premoe.py", *map(str, args)], [str(EXAMPLES), *sys.path]
    with mock.patch.object(sys, "argv", argv), mock.patch.object(sys, "path", path):
        try:
            runpy.run_path(str(EXAMPLES / "premoe.py"), run_name="__main__")
        except SystemExit as stop:
            return stop.code
    return 0


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def check(rows: list[dict[str, str]], expert: int) -> None:
    """Every profile for every kind; the bytes of the experts are those of the experts that stay."""
    found = [(r["kind"], r["keep"], r["profile"], r["score"]) for r in rows]
    assert found == [
        (kind, *line)
        for kind in KINDS
        for line in (
            ("8", "all", ""),
            *(
                (keep, profile, score)
                for keep in ("4", "2")
                for profiles, scores in ((KINDS, ("selection", "weights")), (("random",), ("",)))
                for score in scores
                for profile in profiles
            ),
        )
    ]
    for row in rows:
        assert int(row["expert_bytes"]) == int(row["keep"]) * int(row["G"]) * expert
        assert 0.0 <= float(row["retrieved"]) <= 1.0
        assert float(row["loss"]) > 0.0


@pytest.mark.slow
def test_measures_every_profile(tmp_path: Path) -> None:
    options = "--smoke --steps 12 --batch 2 --length 64 --collect 4 --pieces 4 --queries 3"
    assert run(*options.split(), "--out", tmp_path, "--save", tmp_path / "model") == 0
    rows = read(tmp_path / "premoe.csv")
    check(rows, expert=2 * 3 * 8 * 32 * 4)  # two layers
    assert (tmp_path / "premoe.png").read_bytes().startswith(b"\x89PNG")
    profiles = RouterStatistics.load(tmp_path / "model" / "profiles.pt")
    assert tuple(profiles.sums) == KINDS
    profiles.check(from_pretrained(tmp_path / "model"))


def test_the_committed_run_is_whole() -> None:
    rows = read(RESULTS / "premoe.csv")
    check(rows, expert=3 * 3 * 48 * 128 * 4)  # three layers
    loss = {(r["kind"], r["keep"], r["profile"], r["score"]): float(r["loss"]) for r in rows}
    for kind in KINDS:
        for keep in ("4", "2"):
            right = loss[kind, keep, kind, "selection"]
            assert right < loss[kind, keep, "random", ""]
            assert right < loss[kind, "8", "all", ""] + 0.05
            for other in set(KINDS) - {kind}:
                assert right < loss[kind, keep, other, "selection"] + 0.02
    grown = {int(r["keep"]): int(r["resident_bytes"]) for r in rows}
    assert grown[2] < grown[4] < grown[8]
    assert all(float(r["retrieved"]) > 0.6 for r in rows)
    assert (RESULTS / "premoe.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--steps 0", "--steps must be at least 1, got 0"),
        ("--length 63", "--length must be at least 64, got 63"),
        ("--length 5000", "--length must be at most 1024, got 5000"),
    ],
)
def test_says_why_options_cannot_be_run(
    options: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*options.split()) == 2
    assert said in capsys.readouterr().err
