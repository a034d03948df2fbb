"""`make quantize-demo` measures every scheme, and writes what it says it writes."""

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
TRAINED, STRESSED = "as trained", "with outlying channels"
# bits of a weight in groups of 128: scales and zero points included, in float32 and int8
BITS = {
    "plain": 32.0,
    "int8_w8a8": 8.0,
    "int8_w8a16": 8.0,
    "fp8_w8a16, row": 8.0,
    "fp8_w8a16, block": 8.0,
    "int4_w4a16, 32": 5.0,
    "int4_w4a16, 32, zero points": 5.25,
    "int4_w4a16, 64": 4.5,
    "int4_w4a16, 64, zero points": 4.625,
    "int4_w4a16, 128": 4.25,
    "int4_w4a16, 128, zero points": 4.3125,
    "mxfp4_w4a16, 32": 4.25,
}


def run(*args: object) -> int | str | None:
    """Runs the script in this process, and returns its exit code."""
    argv, path = ["quantize_demo.py", *map(str, args)], [str(EXAMPLES), *sys.path]
    with mock.patch.object(sys, "argv", argv), mock.patch.object(sys, "path", path):
        try:
            runpy.run_path(str(EXAMPLES / "quantize_demo.py"), run_name="__main__")
        except SystemExit as stop:
            return stop.code
    return 0


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a smoke run leaves."""
    out = tmp_path_factory.mktemp("quantize")
    options = "--smoke --steps 20 --batch 2 --length 48 --pieces 4 --calibration 2"
    assert run(*options.split(), "--out", out) == 0
    return out


def check(rows: list[dict[str, str]]) -> None:
    """Every variant four times; what cannot be lost is not."""
    found = [(row["model"], row["variant"], row["smoothing"]) for row in rows]
    assert found == [
        (model, variant, smoothing)
        for model in (TRAINED, STRESSED)
        for variant in BITS
        for smoothing in ("no", "yes")
    ]
    for row in rows:
        own = {name: float(row[name]) for name in ("bits", "loss_change", "choices_changed")}
        # a row's scale is of at least 128 weights, and the CSV has two digits
        assert -0.01 < own["bits"] - BITS[row["variant"]] < 0.26
        if row["variant"] == "plain":
            assert abs(own["loss_change"]) < 1e-5  # rounding, of the division by 50
            assert own["choices_changed"] < 0.1
        # the router of the first layer sees nothing quantised
        assert float(row["choices_changed_0"]) < 0.1
        assert float(row["loss_change_error"]) >= 0.0
        # the CSV has seven digits: of 8 bits a model of a few steps may show none
        assert float(row["divergence"]) >= (1e-7 if BITS[row["variant"]] < 6 else 0.0)


@pytest.mark.slow
def test_measures_every_variant(smoke: Path) -> None:
    rows = read(smoke / "quality.csv")
    check(rows)
    assert {row["tokens"] for row in rows} == {str(4 * 47)}
    assert (smoke / "quality.png").read_bytes().startswith(b"\x89PNG")


def test_the_committed_run_is_whole() -> None:
    rows = read(RESULTS / "quality.csv")
    check(rows)
    assert {row["tokens"] for row in rows} == {str(64 * 255)}
    # smoothing repairs what outlying channels do to integers
    changed = {
        row["smoothing"]: float(row["choices_changed"])
        for row in rows
        if (row["model"], row["variant"]) == (STRESSED, "int8_w8a8")
    }
    assert changed["yes"] < 0.3 * changed["no"]
    assert (RESULTS / "quality.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--steps 0", "--steps must be at least 1, got 0"),
        ("--pieces 1", "--pieces must be at least 2, got 1"),
        ("--length 5000", "--length must be at most 1024, got 5000"),
    ],
)
def test_says_why_options_cannot_be_run(
    options: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*options.split()) == 2
    assert said in capsys.readouterr().err
