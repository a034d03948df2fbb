"""`moge-ops make-tiny | convert`: folders that are written, and a disk that is full."""

import os
import re
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from command_line import GREEDY, PSALM, buffering, limited, refusal, run, small_model
from safetensors.torch import load_file

from moge_ops import testing
from moge_ops.cli import _folders
from moge_ops.cli._text import shown
from moge_ops.models import PanguMoEForCausalLM
from moge_ops.models.checkpoint import from_pretrained, read_config, save_pretrained
from moge_ops.models.layout import parameter_counts
from moge_ops.models.synthetic import config_of_size, random_tensors
from moge_ops.models.tokenizer import load_tokenizer

pytest.importorskip("tokenizers", reason="needs the extra 'models'")


class TestMakeTiny:
    def test_a_folder_in_the_released_layout(self, tiny: Path) -> None:
        names = {path.name for path in tiny.iterdir()}
        assert names == {
            *("config.json", "model.safetensors"),
            *("tokenizer.json", "tokenizer_config.json"),
        }
        model, tokenizer = from_pretrained(tiny), load_tokenizer(tiny)
        assert model.embed.weight.dtype == torch.bfloat16
        assert model.config.vocab_size == tokenizer.size
        assert model.config.eos_token_id == tokenizer.id_of("[unused10]")
        assert (model.config.num_experts, model.config.num_groups) == (64, 8)

    def test_options(self, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for name, seed in (("other", 1), ("same", 0)):
            run("make-tiny", tmp_path / name, "--seed", seed, capsys=capsys)
        weights = {n: (tmp_path / n / "model.safetensors").read_bytes() for n in ("same", "other")}
        assert weights["same"] == (tiny / "model.safetensors").read_bytes() != weights["other"]
        out, _ = run("make-tiny", tmp_path / "wide", "--dtype", "float32", capsys=capsys)
        assert from_pretrained(tmp_path / "wide").embed.weight.dtype == torch.float32
        assert re.search(r"wide: [\d,]+ random parameters, [\d,]+ active, float32", out)

    def test_transformers_pipelines_take_the_folder(
        self, tiny: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        transformers = pytest.importorskip("transformers")
        integration = pytest.importorskip("moge_ops.integrations.transformers")
        integration.register()
        answers = transformers.pipeline("text-generation", model=str(tiny), device="cpu")
        question = [{"role": "user", "content": PSALM}]
        (answer,) = answers(question, max_new_tokens=9, do_sample=False)
        capsys.readouterr()
        want, _ = run("generate", tiny, PSALM, *GREEDY, "--max-new-tokens", 9, capsys=capsys)
        assert shown(answer["generated_text"][-1]["content"]) + "\n" == want

    def test_touches_no_folder_with_files(
        self, tiny: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = {path: path.read_bytes() for path in tiny.iterdir()}
        assert "must be empty or new" in refusal("make-tiny", tiny, "--seed", 5, capsys=capsys)
        assert {path: path.read_bytes() for path in tiny.iterdir()} == before


class TestParameters:
    """``make-tiny --parameters``."""

    @pytest.mark.parametrize("asked", [1e6, 1.3e6, 2e6, 5e6, 3e7, 1e8, 1e9, 6e9, 7.2e10, 1e12])
    def test_sizes(self, asked: float) -> None:
        config = config_of_size(asked, vocab_size=270)
        assert abs(parameter_counts(config)[0] / asked - 1) < 0.1
        assert (config.num_experts, config.num_groups, config.num_experts_per_tok) == (64, 8, 8)
        H, F = config.hidden_size, config.moe_intermediate_size
        assert (H % 64, F % 16, config.shared_expert_intermediate_size) == (0, 0, 4 * F)
        if asked >= 1e9:  # the 72B model has F / H = 0.2625, and 48 layers of width 5120
            assert pytest.approx(1344 / 5120, rel=0.05) == F / H
            assert config.num_hidden_layers / H == pytest.approx(48 / 5120, rel=0.06)
            assert config.head_dim in (64, 128)

    def test_a_folder_in_files_of_some_size(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_folders, "SHARD", "1MB")
        args = ("--parameters", "2e6", "--dtype", "float32", "--seed", 5)
        out, _ = run("make-tiny", tmp_path / "a", *args, capsys=capsys)
        files = sorted((tmp_path / "a").glob("*.safetensors"))
        assert len(files) > 5
        assert max(sum(x.nbytes for x in load_file(path).values()) for path in files) <= 10**6
        model = from_pretrained(tmp_path / "a")
        total, active = model.parameter_counts()
        said = f"{total:,} random parameters, {active:,} active, float32"
        assert out == f"{tmp_path / 'a'}: {said}\n"
        assert abs(total / 2e6 - 1) < 0.1
        for layer in model.layers:
            experts = layer.moge.w_gate_up.flatten(1)
            assert len(experts.unique(dim=0)) == 64
            assert experts.std().item() == pytest.approx(0.02, rel=0.1)
            assert bool((layer.moge.router_scale == 1).all())
        assert model.embed.weight.std().item() == pytest.approx(1.0, rel=0.1)
        out, _ = run("generate", tmp_path / "a", PSALM, "--max-new-tokens", 3, capsys=capsys)
        assert out
        for name, seed in (("same", 5), ("other", 6)):
            run("make-tiny", tmp_path / name, *args[:-1], seed, capsys=capsys)
        same = [path.read_bytes() == (tmp_path / "same" / path.name).read_bytes() for path in files]
        other = [
            path.read_bytes() == (tmp_path / "other" / path.name).read_bytes() for path in files
        ]
        assert all(same)
        assert not any(other)

    def test_one_tensor_after_another(self) -> None:
        config = config_of_size(1e6, vocab_size=270)
        alive: list[weakref.ref[torch.Tensor]] = []
        for _, tensor in random_tensors(config, torch.bfloat16, 0):
            assert sum(each() is not None for each in alive) <= 1
            alive.append(weakref.ref(tensor))

    def test_without_it_the_model_is_what_it_was(self, made: Path) -> None:
        torch.manual_seed(0)
        model = PanguMoEForCausalLM(read_config(made))
        torch.nn.init.normal_(model.embed.weight)
        model.bfloat16()
        for name, x in from_pretrained(made).named_parameters():
            assert torch.equal(x, model.get_parameter(name)), name

    @pytest.mark.parametrize("number", ["1000000", "1e6", "1.0E6", "+1e6"])
    def test_numbers(self, number: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run("make-tiny", tmp_path / "a", "--parameters", number, capsys=capsys)
        assert (tmp_path / "a" / "config.json").exists()

    @pytest.mark.parametrize(
        ("number", "said"),
        [
            *((x, "must be a finite number like 6e9, got") for x in ("nan", "inf", "1e999", "x")),
            *((x, "must be a finite number like 6e9, got") for x in ("", "1_0", "6e9B", "9" * 999)),
            *(
                (x, "parameters must be from 1e+06 to 1e+12")
                for x in ("0", "-6e9", "999999", "2e12")
            ),
        ],
    )
    def test_other_numbers(
        self, number: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = refusal("make-tiny", tmp_path / "a", f"--parameters={number}", capsys=capsys)
        assert said in line
        assert not list(tmp_path.iterdir())

    def test_a_vocabulary_that_takes_all(self) -> None:
        with pytest.raises(ValueError, match="must leave some beside vocab_size=153376"):
            config_of_size(1e6, vocab_size=153376)

    def test_a_disk_that_is_too_small_is_told_before(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
        monkeypatch.setattr(_folders, "random_tensors", lambda *_: pytest.fail("drawn"))
        line = refusal("make-tiny", tmp_path / "a", "--parameters", "6e9", capsys=capsys)
        assert re.fullmatch(
            r"make-tiny: .*a needs 11\.6 GB in bfloat16, 1\.0 GB are free on its disk", line
        )
        assert not list(tmp_path.iterdir())
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
        line = refusal("make-tiny", tmp_path / "a", "--parameters", "3e6", capsys=capsys)
        assert line.endswith("a needs 5.7 MB in bfloat16, 1.0 MB are free on its disk")


@pytest.mark.slow
class TestFullDisk:
    def test_convert_leaves_nothing_and_can_be_tried_again(
        self, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "config.json").write_text("old")
        options = ("--max-shard-size", "40KB")
        run("convert", tiny, tmp_path / "good", *options, capsys=capsys)
        first, *others = [p.stat().st_size for p in sorted((tmp_path / "good").glob("model-*"))]
        assert first < max(others)  # so that a file is whole before one is not
        for size, how in ((100_000, ()), (max(others) - 1, options)):
            done = limited(size, "convert", tiny, out, *how)
            assert done.returncode == 2
            (line,) = done.stderr.splitlines()
            assert re.match(r"convert: .*out/.*safetensors cannot be written: .*too large", line)
            assert [(p.name, p.read_text()) for p in out.iterdir()] == [("config.json", "old")]
        run("convert", tiny, out, capsys=capsys)
        assert (out / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()

    @pytest.mark.parametrize("options", [(), ("--parameters", "1e6")], ids=len)
    @pytest.mark.parametrize("size", [10, 6000, 100_000])
    def test_make_tiny_leaves_nothing(
        self, size: int, options: tuple[str, ...], tmp_path: Path
    ) -> None:
        done = limited(size, "make-tiny", tmp_path / "a" / "tiny", *options)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith("make-tiny: ")
        assert "too large" in line
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("buffered", [True, False])
    def test_standard_output_is_full(self, buffered: bool, tiny: Path) -> None:
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "moge_ops", "inspect", tiny],
                stdout=full, stderr=subprocess.PIPE, text=True, env=buffering(buffered),
            )  # fmt: skip
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert "No space left" in line


class TestConvert:
    def test_links_in_the_output_are_replaced_not_followed(
        self, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out"
        out.mkdir()
        names = ("config.json", "tokenizer.json", "tokenizer_config.json")
        for name in names:
            (tmp_path / name).write_text("kept")
            (out / name).symlink_to(tmp_path / name)
        run("convert", tiny, out, capsys=capsys)
        assert all((tmp_path / name).read_text() == "kept" for name in names)
        assert {p.name: p.read_bytes() for p in out.iterdir() if not p.is_symlink()} == {
            p.name: p.read_bytes() for p in tiny.iterdir()
        }

    def test_a_tokenizer_that_is_no_file_stops_it_with_nothing_left(
        self, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        os.mkfifo(tiny / "special_tokens_map.json")
        line = refusal("convert", tiny, tmp_path / "out", capsys=capsys)
        assert "special_tokens_map.json must be a regular file, got a pipe" in line
        assert not (tmp_path / "out").exists()

    def test_a_full_folder_is_refused_before_the_model_is_loaded(
        self, tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_folders, "load", lambda args: pytest.fail("loaded"))
        assert "must have no weights yet" in refusal("convert", tiny, tiny, capsys=capsys)

    def test_there_and_back(self, tiny: Path, tmp_path: Path, capsys: Any) -> None:
        wide, back = tmp_path / "wide", tmp_path / "back"
        options = ("--dtype", "float32", "--max-shard-size", "500KB")
        out, _ = run("convert", tiny, wide, *options, capsys=capsys)
        files = sorted(wide.glob("*.safetensors"))
        assert len(files) > 1
        assert f"{len(files)} files, float32" in out
        narrow = load_file(tiny / "model.safetensors")
        for path in files:
            for name, tensor in load_file(path).items():
                assert tensor.dtype == torch.float32
                assert torch.equal(tensor, narrow[name].float())
        out, _ = run("convert", wide, back, "--dtype", "bfloat16", capsys=capsys)
        assert "1 file, bfloat16" in out
        assert {path.name: path.read_bytes() for path in back.iterdir()} == {
            path.name: path.read_bytes() for path in tiny.iterdir()
        }

    @pytest.mark.parametrize(
        ("options", "scheme"),
        [
            (("int8_w8a8",), "int8_w8a8"),
            (("int4_w4a16", "--group-size", "32"), "int4_w4a16"),
            (("fp8_w8a16", "--group-size", "128", "--dtype", "float32"), "fp8_w8a16"),
        ],
    )
    def test_quantize(
        self, options: tuple[str, ...], scheme: str, made: Path, tmp_path: Path, capsys: Any
    ) -> None:
        # the widths of make-tiny, 64 and 16, have no groups along F
        plain, out, back = (tmp_path / name for name in ("plain", "out", "back"))
        save_pretrained(small_model(hidden_size=64, moe_intermediate_size=32).bfloat16(), plain)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(made / name, plain)
        said, _ = run("convert", plain, out, "--quantize", *options, capsys=capsys)
        kind = "float32" if "float32" in options else "bfloat16"
        assert said == f"{out}: 1 file, {kind}, experts {scheme}\n"
        assert {p.name for p in out.iterdir()} == {p.name for p in plain.iterdir()}
        model = from_pretrained(out)
        assert {layer.moge.w_down.scheme for layer in model.layers} == {scheme}
        assert model.embed.weight.dtype == getattr(torch, kind)
        # what reads folders reads these
        with testing.backend("torch"):
            run("generate", out, "x", *GREEDY, "--max-new-tokens", 3, capsys=capsys)
            said, _ = run("inspect", out, "--prompt", "x", capsys=capsys)
        assert "Routers over" in said
        run("convert", out, back, "--max-shard-size", "5GB", capsys=capsys)
        assert {p.name: p.read_bytes() for p in back.iterdir()} == {
            p.name: p.read_bytes() for p in out.iterdir()
        }
        line = refusal("convert", out, tmp_path / "no", "--quantize", scheme, capsys=capsys)
        assert line == f"convert: {out} is quantised already; --quantize takes a plain folder"

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--group-size", "32"), "--group-size needs --quantize"),
            (("--quantize", "int3"), "--quantize: invalid choice: 'int3'"),
            (("--quantize", "int4_w4a16", "--group-size", "48"), "group_size must be one of"),
            (("--quantize", "int4_w4a16", "--group-size", "32"), "group_size=32 must divide the I"),
            (("--quantize", "int4_w4a16", "--group-size", "x"), "--group-size: must be an int"),
        ],
    )
    def test_what_cannot_be_quantized_leaves_nothing(
        self, options: tuple[str, ...], said: str, tiny: Path, tmp_path: Path, capsys: Any
    ) -> None:
        line = refusal("convert", tiny, tmp_path / "out", *options, capsys=capsys)
        assert said in line
        assert not (tmp_path / "out").exists()

    def test_leaves_weights_alone(self, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = (tiny / "model.safetensors").read_bytes()
        assert "must have no weights yet" in refusal("convert", tiny, tiny, capsys=capsys)
        assert (tiny / "model.safetensors").read_bytes() == before
