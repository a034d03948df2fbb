"""`moge-ops plan`."""

import json
import re
from pathlib import Path

import pytest
from command_line import run

from moge_ops.cli import main
from moge_ops.models import PanguMoEConfig

pytest.importorskip("safetensors", reason="needs the extra 'models'")
DECODE = ("--latency", "100", "--w8a8")


def test_the_best_plans_and_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run("plan", "--devices", "4..8", *DECODE, "--show", 2, capsys=capsys)
    titles = re.findall(r"decode on (\d) x Ascend 910B2: (\d+) plans fit; modelled ms", out)
    assert titles == [("4", "10"), ("8", "20")]
    assert "attention DP4·TP2" in out
    assert out.count("- 1 plan needs more than 64 GB: 74.1 GB") == 2
    assert err == ""


def test_a_folder_with_nothing_but_a_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PanguMoEConfig().to_dict()))
    options = ("--devices", 8, "--batch", 2, "--show", 1)
    assert run("plan", tmp_path, *options, capsys=capsys) == run("plan", *options, capsys=capsys)


def test_a_folder_with_the_name_of_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = PanguMoEConfig(max_position_embeddings=100)
    (tmp_path / "pangu-pro-moe").mkdir()
    (tmp_path / "pangu-pro-moe" / "config.json").write_text(json.dumps(config.to_dict()))
    out, _ = run("plan", "pangu-pro-moe", "--devices", 8, "--batch", 2, capsys=capsys)
    assert "plans fit" in out
    with pytest.raises(SystemExit):
        main(["plan", "./pangu-pro-moe", "--devices", "8"])
    assert "--length must be in [1, 100], got 2048" in capsys.readouterr().err


def test_memory_and_links_of_another_machine(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--devices", 16, "--batch", 2, "--show", 1, "--memory", "20GB", *DECODE)
    slow, _ = run("plan", *options, "--link", "1,0.5,4", capsys=capsys)
    quick, _ = run("plan", *options, "--link", "400,400,16", capsys=capsys)
    rates = [
        float(re.findall(r"([\d,]+) │?\s*$", t, re.M)[0].replace(",", "")) for t in (slow, quick)
    ]
    assert rates[0] < rates[1]
    assert "more than 20 GB" in slow


def test_plans_of_training_name_their_micro_batches(capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise two plans of one layout look alike."""
    options = (
        "--devices",
        1,
        "--kind",
        "train",
        "--batch",
        2,
        "--length",
        64,
        "--memory",
        "9000GB",
    )
    out, _ = run("plan", *options, capsys=capsys)
    assert "train on 1 x Ascend 910B2: 6 plans fit" in out
    assert out.count("micro-batch") == 5  # of the five that are shown
    assert "sums, update" in out
    assert "bubble" in out
    out, _ = run("plan", "--devices", 8, "--batch", 2, capsys=capsys)
    assert not re.search("sums|update|bubble", out), out  # a decode step has none


def test_no_plan_fits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["plan", "--devices", "2"])
    assert stop.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        r"plan: no plan for 2 devices fits: 5 plans need more than 64 GB: the least of them "
        r"\d+\.\d GB\n",
        err,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--devices", "0"], "--devices must be a number up to 65536, or a range like 4..512"),
        (["--devices", "8..4"], "or a range like 4..512, got '8..4'"),
        (["--devices", "8", "--link", "196,25"], "like 196,25,8, got '196,25'"),
        (["--devices", "8", "--link", "0,25,8"], "all above 0, like 196,25,8, got '0,25,8'"),
        (["--devices", "8", "--memory", "much"], "--memory must be a number of bytes or like"),
        (["--devices", "8", "--latency", "-1"], "plan: --latency must be above 0, got -1\n"),
        (["--devices", "8", "--length", "0"], "plan: --length must be in [1, 131072], got 0"),
        (["--devices", "8", "--batch", "0"], "plan: --batch must be in [1, 65536], got 0"),
        (["--devices", "8", "--memory", "0.1"], "--memory must be a number of bytes or like"),
        (
            ["--devices", "8", "--kind", "train", "--w8a8"],
            "--w8a8 is for --kind prefill and decode, got train",
        ),
        (["--devices", "8", "--show", "0"], "--show must be at least 1, got 0"),
        (["nowhere", "--devices", "8"], "nowhere"),
    ],
)
def test_rejects_options(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["plan", *options])
    assert stop.value.code == 2
    _, err = capsys.readouterr()
    assert err.startswith("plan: ")
    assert message in err
    assert err.count("\n") == 1
