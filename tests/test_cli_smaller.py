"""`moge-ops convert --keep-experts --expert-size`: smaller models from a folder and a text."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import GREEDY, refusal, run, small_model

pytest.importorskip("tokenizers", reason="needs the extra 'models'")
pytest.importorskip("safetensors", reason="needs the extra 'models'")

from moge_ops import testing
from moge_ops.cli import _folders, _smaller
from moge_ops.models import PanguMoEForCausalLM
from moge_ops.models.checkpoint import from_pretrained, read_config, save_pretrained
from moge_ops.models.tokenizer import load_tokenizer
from moge_ops.quant import quantize_experts
from moge_ops.statistics import RouterStatistics
from moge_ops.surgery import expert_sensitivity, prune_experts, slim_experts

Capture = pytest.CaptureFixture[str]
LAW = "Thou shalt not steal. " * 9
SUMS = "1 + 1 = 2, 2 + 2 = 4; " * 9
KEEP = ("--keep-experts", "2", "--text", "{t}")
# four groups of three experts; a token takes one of each
WIDTHS = {"hidden_size": 64, "moe_intermediate_size": 48, "max_position_embeddings": 128}


@pytest.fixture(scope="module")
def folder(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a tokenizer, texts, and a file of profiles of both."""
    folder = tmp_path_factory.mktemp("smaller")
    torch.manual_seed(0)
    vocab_size = load_tokenizer(made).size
    model = small_model(**WIDTHS, vocab_size=vocab_size, initializer_range=0.3)
    save_pretrained(model, folder / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(made / name, folder / "model")
    for name, text in (("law", LAW), ("sums", SUMS)):
        (folder / name).write_text(text)
    profiles = RouterStatistics()
    for name, text in (("law", LAW), ("sums", SUMS)):
        with torch.inference_mode(), profiles.collect(model, name):
            for window in texts(folder / "model", text):
                model(window)
        profiles.save(folder / "profiles")
        if name == "law":
            profiles.save(folder / "one")
    return folder


def texts(folder: Path, text: str) -> list[torch.Tensor]:
    ids = load_tokenizer(folder).raw(text)
    return [torch.tensor([ids[i : i + 128]]) for i in range(0, len(ids), 128)]


def equal(a: PanguMoEForCausalLM, b: PanguMoEForCausalLM) -> bool:
    other = dict(b.state_dict())
    return all(torch.equal(x, other.pop(name)) for name, x in a.state_dict().items()) and not other


def test_what_the_library_does(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    """Both scores are of the model as it is in the folder."""
    out = tmp_path / "out"
    options = ("--keep-experts", 2, "--expert-size", 32)
    data = ("--profiles", folder / "profiles", "--task", "sums", "--text", folder / "law")
    said, _ = run("convert", folder / "model", out, *options, *data, capsys=capsys)
    want = from_pretrained(folder / "model")
    found = expert_sensitivity(want, texts(folder / "model", LAW))
    slim_experts(want, 32, found)
    masks = RouterStatistics.load(folder / "profiles").masks("sums", 2, "selection")
    prune_experts(want, masks)
    loaded = from_pretrained(out)
    assert equal(loaded, want)
    config = json.loads((out / "config.json").read_text())
    assert (config["num_experts"], config["moe_intermediate_size"]) == (8, 32)
    total, active = want.parameter_counts()
    assert said == (
        f"{out}: 1 file, float32\n"
        f"8 experts of width 32: {total:,} parameters, {active:,} active\n"
    )  # fmt: skip
    assert {p.name for p in out.iterdir()} == {p.name for p in (folder / "model").iterdir()}
    run("generate", out, "x", *GREEDY, "--max-new-tokens", 3, capsys=capsys)


def test_a_text_serves_both(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    for name, options in (
        ("text", ("--text", folder / "law")),
        ("profile", ("--profiles", folder / "one")),
    ):
        args = ("--keep-experts", 1, *options)
        run("convert", folder / "model", tmp_path / name, *args, capsys=capsys)
    assert equal(from_pretrained(tmp_path / "text"), from_pretrained(tmp_path / "profile"))
    out, text = tmp_path / "out", ("--text", folder / "law", "--max-tokens", 100)
    run("convert", folder / "model", out, "--expert-size", 16, *text, capsys=capsys)
    want = from_pretrained(folder / "model")
    ids = load_tokenizer(folder / "model").raw(LAW)[:100]
    slim_experts(want, 16, expert_sensitivity(want, [torch.tensor([ids])]))
    assert equal(from_pretrained(out), want)


@pytest.mark.parametrize("quantize", [(), ("--quantize", "int8_w8a8")], ids=len)
def test_a_dtype_changes_no_choice_and_no_router(
    quantize: tuple[str, ...], folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    """The same as in two steps: neurons are chosen by the float32 model, not by a rounded one."""
    torch.manual_seed(0)
    vocab_size = load_tokenizer(folder / "model").size
    options = {**WIDTHS, "initializer_range": 0.3, "router_dtype": "float32"}
    save_pretrained(small_model(**options, vocab_size=vocab_size), tmp_path / "model")
    shutil.copy(folder / "model" / "tokenizer.json", tmp_path / "model")
    size, dtype = ("--expert-size", 32, "--text", folder / "law"), ("--dtype", "bfloat16")
    for source, out, more in (
        ("model", "one", (*size, *dtype, *quantize)),
        ("model", "small", size),
        ("small", "two", (*dtype, *quantize)),
    ):
        run("convert", tmp_path / source, tmp_path / out, *more, capsys=capsys)
    one, two = (from_pretrained(tmp_path / name) for name in ("one", "two"))
    assert equal(one, two)
    assert one.layers[0].moge.gate.dtype == torch.float32
    assert one.embed.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [(), ("--dtype", "bfloat16")], ids=len)
def test_smaller_and_quantised(
    dtype: tuple[str, ...], folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    out, small = tmp_path / "out", tmp_path / "small"
    size = ("--keep-experts", 2, "--expert-size", 32, "--text", folder / "law")
    said, _ = run(
        "convert", folder / "model", out, *size, *dtype, "--quantize", "int8_w8a8", capsys=capsys
    )
    kind = dtype[1] if dtype else "float32"
    assert said.startswith(f"{out}: 1 file, {kind}, experts int8_w8a8\n8 experts of width 32: ")
    # the same as in two steps
    run("convert", folder / "model", small, *size, capsys=capsys)
    run(
        "convert", small, tmp_path / "two", *dtype, "--quantize", "int8_w8a8", capsys=capsys
    )  # fmt: skip
    for path in out.iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    with testing.backend("torch"):
        run("generate", out, "x", *GREEDY, "--max-new-tokens", 3, capsys=capsys)


def test_a_quantised_folder(
    folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, plain = from_pretrained(folder / "model"), tmp_path / "int8"
    quantize_experts(model, "int8_w8a16")
    save_pretrained(model, plain)
    shutil.copy(folder / "model" / "tokenizer.json", plain)
    text = ("--text", folder / "law")
    with monkeypatch.context() as patch:
        patch.setattr(_folders, "load", lambda args: pytest.fail("loaded"))
        for name, more in (
            ("--expert-size", ("--expert-size", 32)),
            ("--quantize", ("--keep-experts", 2, "--quantize", "int8_w8a16")),
        ):
            line = refusal("convert", plain, tmp_path / "no", *more, *text, capsys=capsys)
            assert line == f"convert: {plain} is quantised already; {name} takes a plain folder"
    assert not (tmp_path / "no").exists()
    run("convert", plain, tmp_path / "out", "--keep-experts", 2, *text, capsys=capsys)
    loaded = from_pretrained(tmp_path / "out")
    assert list(loaded.layers[0].moge.w_down.shape) == [8, 64, 48]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--keep-experts", "2"), "--keep-experts needs --profiles or --text"),
        (("--expert-size", "32"), "--expert-size needs --text"),
        (("--expert-size", "32", "--profiles", "{p}"), "--expert-size needs --text"),
        (("--profiles", "{p}"), "--profiles needs --keep-experts"),
        (("--text", "{t}"), "--text needs --expert-size or --keep-experts"),
        (("--keep-experts", "2", "--text", "{t}", "--task", "a"), "--task needs --profiles"),
        (
            ("--keep-experts", "2", "--profiles", "{p}", "--max-tokens", "9"),
            "--max-tokens needs --text",
        ),
        (
            ("--keep-experts", "2", "--text", "{t}", "--profiles", "{p}"),
            "--text needs --expert-size, where --profiles tell which experts to keep",
        ),
        *(
            (
                ("--keep-experts", n, "--text", "{t}"),
                "--keep-experts must be from the 1 that a token takes of each group to the 3 that "
                f"it has, got {n}",
            )
            for n in ("0", "4", "-1")
        ),
        *(
            (
                ("--expert-size", n, "--text", "{t}"),
                "--expert-size must be a multiple of 16, so that no tile is cut, and at most the "
                f"present 48, got {n}",
            )
            for n in ("0", "40", "64", "-16")
        ),
        (
            ("--keep-experts", "2", "--profiles", "{p}"),
            "--task must be one of law, sums in {p}, got none",
        ),
        (
            ("--keep-experts", "2", "--profiles", "{p}", "--task", "art"),
            "--task must be one of law, sums in {p}, got art",
        ),
        (
            ("--keep-experts", "2", "--profiles", "{p}x"),
            "--profiles must be a file that moge-ops profile wrote, there is no {p}x",
        ),
        (
            ("--keep-experts", "2", "--profiles", "{other}"),
            "{other} must hold profiles of the model in {m}: 'a' must be of this model, whose "
            "layers.0.moge has [G, E/G] = [4, 3], got [4, 2]",
        ),
        (("--keep-experts", "2", "--text", "{t}", "--max-tokens", "0"), "--max-tokens must be at"),
        (("--expert-size", "32", "--text", "{t}x"), "No such file or directory: '{t}x'"),
        (("--expert-size", "32", "--text", "{p}"), "{p} is not UTF-8"),
        (("--keep-experts", "2", "--text", "{e}"), "{e} must have a text, got an empty file"),
        (
            (*KEEP, "--quantize", "int4_w4a16", "--group-size", "24"),
            "--group-size must be one of 32, 64, 128 for int4_w4a16, got 24",
        ),
        (
            (*KEEP, "--quantize", "int8_w8a8", "--group-size", "32"),
            "--group-size must be left out for int8_w8a8, got 32",
        ),
        (
            (*KEEP, "--quantize", "int8_w8a16", "--group-size", "128"),
            "--quantize int8_w8a16 --group-size 128 must fit experts of width 48 in a model of "
            "width 64: group_size=128 must divide the I=64 columns",
        ),
        (
            ("--expert-size", "16", "--text", "{t}", "--quantize", "mxfp4_w4a16"),
            "--quantize mxfp4_w4a16 must fit experts of width 16 in a model of width 64: "
            "group_size=32 must divide the I=16 columns",
        ),
        (("--expert-size", "x", "--text", "{t}"), "argument --expert-size: must be an int, got x"),
    ],
)
def test_a_bad_option(
    options: tuple[str, ...],
    said: str,
    folder: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = RouterStatistics()
    other.sums["a"] = {f"layers.{i}.moge": torch.ones(3, 4, 2).double() for i in range(2)}
    other.save(tmp_path / "other")
    monkeypatch.setattr(_folders, "load", lambda args: pytest.fail("loaded"))
    names = {"p": folder / "profiles", "t": folder / "law", "m": folder / "model"}
    names.update(other=tmp_path / "other", e=tmp_path / "empty")
    names["e"].touch()
    given = [each.format(**names) for each in options]
    line = refusal("convert", folder / "model", tmp_path / "out", *given, capsys=capsys)
    assert said.format(**names) in line
    assert not (tmp_path / "out").exists()


def test_heads_have_no_statistics(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    save_pretrained(small_model(num_nextn_predict_layers=1), tmp_path / "heads")
    options = ("--keep-experts", 2, "--text", folder / "law")
    line = refusal("convert", tmp_path / "heads", tmp_path / "out", *options, capsys=capsys)
    assert "must have no heads that predict further tokens" in line


def test_gradients_that_do_not_fit(
    folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_smaller, "available", lambda device: 10**5)
    options: tuple[Any, ...] = ("--expert-size", 16, "--text", folder / "law")
    line = refusal("convert", folder / "model", tmp_path / "out", *options, capsys=capsys)
    need = 2 * 12 * 3 * 48 * 64 * 4 / 1e6
    assert line == (
        f"convert: --expert-size needs {need:.1f} MB for gradients of the experts, 0.1 MB are "
        "available on cpu"
    )


def test_the_present_sizes_change_nothing(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    options = ("--keep-experts", 3, "--expert-size", 48, "--text", folder / "law")
    run("convert", folder / "model", tmp_path / "out", *options, capsys=capsys)
    assert equal(from_pretrained(tmp_path / "out"), from_pretrained(folder / "model"))
    assert read_config(tmp_path / "out").to_dict() == read_config(folder / "model").to_dict()
