"""`make train-demo` trains both models, counts right, and writes what it says it writes."""

import csv
import runpy
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from moge_ops.__main__ import main

for package in ("matplotlib", "rich", "safetensors", "tokenizers"):
    pytest.importorskip(package, reason="needs the extras 'bench' and 'models'")

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES, RESULTS = ROOT / "examples", ROOT / "bench" / "results"
DEVICES = [f"device_{d}" for d in range(8)]


def run(*args: object) -> int | str | None:
    """Runs the script in this process, and returns its exit code."""
    argv, path = ["train_demo.py", *map(str, args)], [str(EXAMPLES), *sys.path]
    with mock.patch.object(sys, "argv", argv), mock.patch.object(sys, "path", path):
        try:
            runpy.run_path(str(EXAMPLES / "train_demo.py"), run_name="__main__")
        except SystemExit as stop:
            return stop.code
    return 0


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a smoke run leaves."""
    out = tmp_path_factory.mktemp("train")
    options = "--smoke --steps 30 --every 8 --batch 4 --length 64"
    assert run(*options.split(), "--out", out, "--save", out / "model") == 0
    return out


def check_counts(rows: list[dict[str, str]]) -> None:
    """Every evaluation is on a device; MoGE's share is even, the twin's is not."""
    for row in rows:
        loads, tokens = [int(row[name]) for name in DEVICES], int(row["tokens"])
        assert sum(loads) == tokens * int(row["K"])
        spread = (max(loads) - min(loads)) / tokens
        assert float(row["imbalance"]) == pytest.approx(spread, abs=5e-5)
        if row["model"] == "MoGE":
            assert set(loads) == {tokens}
    assert max(float(row["imbalance"]) for row in rows if row["G"] == "1") > 0.1


@pytest.mark.slow
def test_records_both_models(smoke: Path) -> None:
    rows = read(smoke / "train.csv")
    found = [(row["model"], row["G"], int(row["step"]), row["layer"]) for row in rows]
    assert found == [
        (model, groups, step, layer)
        for model, groups in (("MoGE", "8"), ("plain top-k", "1"))
        for step in (0, 8, 16, 24, 30)
        for layer in "01"
    ]
    assert {row["tokens"] for row in rows} == {"256"}
    check_counts(rows)


def test_both_models_learn(smoke: Path) -> None:
    rows = read(smoke / "train.csv")
    for model in ("MoGE", "plain top-k"):
        for column in ("loss", "held_out_loss"):
            losses = [float(row[column]) for row in rows if row["model"] == model]
            assert losses[0] == pytest.approx(5.56, abs=0.1)  # log of 260 tokens
            assert losses[-1] < losses[0] - 1.0


def test_saves_what_held_out_tokens_chose(smoke: Path) -> None:
    with np.load(smoke / "train_experts.npz") as file:
        moge, top_k = file["MoGE"], file["plain top-k"]
    assert moge.dtype == top_k.dtype == np.uint8
    assert moge.shape == top_k.shape == (2, 2 * 4 * 64, 8)  # half of four batches of 4 x 64
    assert (moge // 8 == np.arange(8)).all()  # one of each group
    assert (top_k // 8 != np.arange(8)).any()
    assert (np.diff(np.sort(top_k)) > 0).all()  # eight different ones


@pytest.mark.slow
def test_draws_a_picture(smoke: Path) -> None:
    assert (smoke / "train.png").read_bytes().startswith(b"\x89PNG")


def test_the_model_can_be_generated_with(smoke: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["generate", str(smoke / "model"), "In the", "--raw", "--max-new-tokens", "3"])
    assert "prefill     7 tokens" in capsys.readouterr().err


@pytest.mark.slow
def test_heads_of_further_tokens_are_trained_and_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from moge_ops.models.checkpoint import from_pretrained

    options = "--smoke --steps 3 --every 3 --batch 2 --length 32 --mtp 1"
    assert run(*options.split(), "--out", tmp_path, "--save", tmp_path / "model") == 0
    assert "Heads of MoGE: held-out loss" in capsys.readouterr().out
    model = from_pretrained(tmp_path / "model")
    assert len(model.mtp) == 1
    assert not (model.mtp[0].get_parameter("enorm.weight") == 1.0).all()


def test_the_committed_run_is_whole() -> None:
    rows = read(RESULTS / "train.csv")
    check_counts(rows)
    assert {row["model"] for row in rows} == {"MoGE", "plain top-k"}
    assert {row["seed"] for row in rows} == {"0"}
    assert (RESULTS / "train.png").read_bytes().startswith(b"\x89PNG")


def test_the_text_is_plain_and_small() -> None:
    text = (EXAMPLES / "data" / "pentateuch.txt").read_bytes()
    assert len(text) < 2_000_000
    assert text.isascii()
    assert text.startswith(b"In the beginning God created the heaven and the earth.\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--steps 0", "--steps must be at least 1, got 0"),
        ("--length 1", "--length must be at least 2, got 1"),
        ("--length 8 --mtp 7", "--mtp must be at most --length - 2 = 6, got 7"),
        ("--mtp -1", "--mtp must be at least 0, got -1"),
        ("--length 5000", "--length must be at most 1024, got 5000"),
    ],
)
def test_says_why_options_cannot_be_run(
    options: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*options.split()) == 2
    assert said in capsys.readouterr().err
