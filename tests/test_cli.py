"""The command line: bad folders and options, and commands as processes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import GREEDY, PSALM, buffering, interrupted, refusal, run, small_model
from safetensors.torch import load_file, save_file

from moge_ops.cli import _generate, _loading, main
from moge_ops.models import PanguMoEForCausalLM
from moge_ops.models.checkpoint import from_pretrained, save_pretrained
from moge_ops.models.tokenizer import load_tokenizer

pytest.importorskip("tokenizers", reason="needs the extra 'models'")


def damage(folder: Path, how: str) -> None:
    """Damages a good folder in the way that a test's parameter names."""
    weights, config = folder / "model.safetensors", folder / "config.json"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-7])
    elif how == "outside":
        name = "lm_head.weight"
        index = {"weight_map": {name: "../model.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif how == "misshapen":
        values = json.loads(config.read_text())
        config.write_text(json.dumps({**values, "moe_intermediate_size": 17}))
    elif how == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    elif how == "huge":
        values = json.loads(config.read_text())
        huge = {"vocab_size": 2**31 - 1, "moe_intermediate_size": 2**31 - 1}
        config.write_text(json.dumps({**values, **huge}))
    elif how == "small vocabulary":
        save_into = small_model(vocab_size=100)
        weights.unlink()
        save_pretrained(save_into, folder)
    else:
        (folder / how).unlink()


class TestErrors:
    @pytest.mark.parametrize(
        ("how", "said"),
        [
            ("config.json", "tiny has no config.json"),
            ("model.safetensors", "tiny has neither model.safetensors nor"),
            ("tokenizer.json", "tiny has neither tokenizer.json nor tokenizer.model"),
            ("truncated", "model.safetensors is truncated or corrupted"),
            ("outside", "must name safetensors files of its own folder"),
            ("misshapen", "experts.0.gate_proj.weight in model.safetensors must be [17, 64]"),
            ("pickle", "tiny must hold safetensors, got pytorch_model.bin"),
            ("huge", "GB are available on"),
            ("small vocabulary", "must give ids below vocab_size=100 of config.json"),
        ],
    )
    def test_a_bad_folder(
        self, how: str, said: str, tiny: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        damage(tiny, how)
        line = refusal("generate", tiny, PSALM, capsys=capsys)
        assert line.startswith("generate: ")
        assert said in line

    def test_a_vocabulary_that_lacks_one_id(
        self, tiny: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        largest = max(load_tokenizer(tiny).chat(PSALM))
        for size in (largest, largest + 1):
            folder = tiny / str(size)
            save_pretrained(small_model(vocab_size=size, max_position_embeddings=99), folder)
            shutil.copy(tiny / "tokenizer.json", folder)
            if size == largest:
                assert f"vocab_size={size} of" in refusal("generate", folder, PSALM, capsys=capsys)
            else:
                main(["generate", str(folder), PSALM, "--max-new-tokens", "0"])

    @pytest.mark.parametrize("how", ["truncated", "outside", "misshapen", "huge"])
    def test_a_bad_folder_is_not_converted(
        self, how: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        damage(tiny, how)
        refusal("convert", tiny, tmp_path / "out", capsys=capsys)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (("",), "the prompt must not be empty"),
            ((PSALM, "--max-new-tokens", "5000"), "prompt and new tokens must fit into 4096"),
            ((PSALM, "--max-new-tokens", "-1"), "max_new_tokens must be at least 0, got -1"),
            ((PSALM, "--temperature", "-1"), "temperature must be at least 0"),
            ((PSALM, "--top-p", "0"), "top_p must be in (0, 1]"),
            ((PSALM, "--top-k", "-2"), "top_k must be at least 0"),
            ((PSALM, "--seed", str(2**63)), f"--seed: must be in [-2^63, 2^63), got {2**63}"),
            ((PSALM, "--max-new-tokens", "9" * 400), "--max-new-tokens: must be in [-2^63, 2^63)"),
            ((PSALM, "--max-new-tokens", str(2**62)), "GB in bfloat16"),
            ((PSALM, "--top-k", "x\x1b[2J"), "--top-k: must be an int, got x\ufffd[2J"),
            ((PSALM, "--max-new-tokens", "9" * 9999), "--max-new-tokens: must be in [-2^63, 2^63)"),
            ((PSALM, "--top-k", "x\nfake: line"), "--top-k: must be an int, got x; fake: line"),
            ((PSALM, "--device", "tpu"), "--device: invalid choice: 'tpu'"),
            ((), "the following arguments are required: text"),
        ],
    )
    def test_a_bad_option(
        self, args: tuple[str, ...], said: str, tiny: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = refusal("generate", tiny, *args, capsys=capsys)
        assert said in line
        assert "\x1b" not in line

    @pytest.mark.parametrize("n", [0, -5])
    def test_no_tokens_to_inspect(
        self, n: int, tiny: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(["inspect", str(tiny), "--prompt", PSALM, "--max-tokens", str(n)])
        assert f"--max-tokens must be at least 1, got {n}" in capsys.readouterr().err

    def test_an_empty_name_of_a_text(self, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(["inspect", str(tiny), "--text", ""])
        assert "No such file" in capsys.readouterr().err

    def test_the_cache_counts_too(
        self, tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        total = from_pretrained(tiny).parameter_counts()[0]
        monkeypatch.setattr(_loading, "available", lambda device: 2 * total + 100_000)
        run("generate", tiny, PSALM, "--max-new-tokens", 8, capsys=capsys)
        line = refusal("generate", tiny, PSALM, "--max-new-tokens", 2000, capsys=capsys)
        assert "MB are available on" in line

    @pytest.mark.parametrize(
        ("content", "said"), [(None, "No such file"), (b"\xff\xfe", "is not UTF-8")]
    )
    def test_a_bad_text(
        self,
        content: bytes | None,
        said: str,
        tiny: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        text = tmp_path / "text.txt"
        if content:
            text.write_bytes(content)
        with pytest.raises(SystemExit, match="2"):
            main(["inspect", str(tiny), "--text", str(text)])
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
        assert "text.txt" in line

    def test_a_bad_shard_size(
        self, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        args = ("convert", tiny, tmp_path / "out", "--max-shard-size", "5 apples")
        assert "max_shard_size must be" in refusal(*args, capsys=capsys)

    def test_a_defect_of_ours_is_not_hidden(
        self, tiny: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_generate, "load_tokenizer", lambda folder: {}["no such key"])
        with pytest.raises(KeyError):
            main(["generate", str(tiny), PSALM])

    def test_an_interrupt_ends_quietly(self, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*args: Any, **options: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(PanguMoEForCausalLM, "generate", interrupted)
        with pytest.raises(SystemExit, match="130"):
            main(["generate", str(tiny), PSALM])

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (MemoryError(), "generate: not enough memory"),
            (RuntimeError("x: can't allocate memory: y"), "generate: not enough memory: x: can't"),
            (OSError("a\n  b\x1b[31m"), "generate: a; b\ufffd[31m"),
        ],
        ids=repr,
    )
    def test_one_line_and_with_debug_where_it_was(
        self,
        error: Exception,
        said: str,
        tiny: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fails(*args: Any, **options: Any) -> None:
            raise error

        monkeypatch.setattr(PanguMoEForCausalLM, "generate", fails)
        assert refusal("generate", tiny, PSALM, capsys=capsys).startswith(said)
        with pytest.raises(SystemExit, match="2"):
            main(["generate", str(tiny), PSALM, "--debug"])
        err = capsys.readouterr().err
        assert "Traceback (most recent call last)" in err
        assert "in fails" in err
        assert err.splitlines()[-1].startswith(said)
        assert "\x1b" not in err

    def test_other_runtime_errors_are_defects(
        self, tiny: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*args: Any, **options: Any) -> None:
            raise RuntimeError("shape '[3]' is invalid")

        monkeypatch.setattr(PanguMoEForCausalLM, "generate", fails)
        with pytest.raises(RuntimeError, match="is invalid"):
            main(["generate", str(tiny), PSALM])

    def test_an_int_that_int64_does_not_hold(self, tiny: Path, capsys: Any) -> None:
        """As JSON may have it where a float is meant."""
        config = json.loads((tiny / "config.json").read_text())
        config |= {"rope_theta": 10**30, "router_aux_loss_coef": 10**30}
        (tiny / "config.json").write_text(json.dumps(config))
        main(["generate", str(tiny), PSALM, "--max-new-tokens", "2"])
        loss = from_pretrained(tiny).loss(torch.tensor([[1, 2, 3]]))
        assert loss.isfinite()

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("options", [(), GREEDY])
    def test_weights_that_are_not_finite(
        self, options: tuple[str, ...], value: float, tiny: Path, capsys: Any
    ) -> None:
        tensors = load_file(tiny / "model.safetensors")
        tensors["model.norm.weight"].fill_(value)
        save_file(tensors, tiny / "model.safetensors")
        line = refusal("generate", tiny, PSALM, *options, capsys=capsys)
        assert line.startswith("generate: new token 0: the logits are not finite, the largest is ")


WAITS = """
import sys, time
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            print("here", flush=True)
            time.sleep(20)
sys.meta_path.insert(0, Finder())
"""


SCRIPT = str(Path(sys.executable).with_name("moge-ops"))


@pytest.mark.slow
class TestProcess:
    """Commands as processes of their own."""

    @pytest.mark.parametrize("module", ["torch", "safetensors"])
    @pytest.mark.parametrize("command", [[sys.executable, "-m", "moge_ops"], [SCRIPT]], ids=len)
    def test_ctrl_c_during_the_imports(
        self, command: list[str], module: str, tmp_path: Path
    ) -> None:
        # Python imports this at its start; it makes the import of the module wait
        (tmp_path / "sitecustomize.py").write_text(WAITS.format(module=module))
        env = {"PYTHONPATH": str(tmp_path)}
        assert interrupted([*command, "info"], b"here", env) == (130, "")

    def test_ctrl_c_during_an_import_of_the_library_is_the_programs(self, tmp_path: Path) -> None:
        (tmp_path / "sitecustomize.py").write_text(WAITS.format(module="torch"))
        program = "try:\n import moge_ops\nexcept KeyboardInterrupt: raise SystemExit(7)"
        command = [sys.executable, "-c", program]
        assert interrupted(command, b"here", {"PYTHONPATH": str(tmp_path)}) == (7, "")

    def test_ctrl_c_during_generate(self, tiny: Path) -> None:
        tensors = load_file(tiny / "model.safetensors")
        for name, x in tensors.items():  # every token is the one that has the prompt's last id
            x.fill_(float(name == "model.norm.weight"))
        x = torch.zeros(64)
        x[0] = 1
        tensors["model.embed_tokens.weight"][:] = x
        tensors["lm_head.weight"][load_tokenizer(tiny).encode("x")] = x.bfloat16()
        save_file(tensors, tiny / "model.safetensors")
        command = [sys.executable, "-m", "moge_ops", "generate", str(tiny), PSALM, *GREEDY]
        assert interrupted([*command, "--max-new-tokens", "3900"], b"xxx") == (130, "")

    def test_closed_streams(self, tiny: Path) -> None:
        command = [sys.executable, "-m", "moge_ops"]
        shell = ["bash", "-c", '"$@" <&-', "bash", *command, "generate", tiny, "-"]
        done = subprocess.run(shell, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr == (
            "generate: standard input must be open to read the prompt from it, got none\n"
        )
        shell = ["bash", "-c", '"$@" >&-', "bash", *command, "inspect", tiny]
        done = subprocess.run(shell, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.parametrize("buffered", [True, False])
    @pytest.mark.parametrize("command", ["inspect", "info"])
    def test_a_closed_pipe(self, command: str, buffered: bool, tiny: Path) -> None:
        args = [command, str(tiny)] if command == "inspect" else [command]
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [sys.executable, "-m", "moge_ops", *args],
            stdout=write, stderr=subprocess.PIPE, env=buffering(buffered),
        )  # fmt: skip
        os.close(write)
        assert (done.returncode, done.stderr) == (141, b"")
