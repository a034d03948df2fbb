"""`moge-ops generate`, and the encodings of what it reads and prints."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import (
    GREEDY,
    PSALM,
    refusal,
    run,
)
from safetensors.torch import load_file, save_file

from moge_ops.cli import main
from moge_ops.cli._text import shown
from moge_ops.models import PanguMoEForCausalLM
from moge_ops.models.checkpoint import from_pretrained
from moge_ops.models.tokenizer import load_tokenizer

pytest.importorskip("tokenizers", reason="needs the extra 'models'")


class TestGenerate:
    @pytest.mark.parametrize("raw", [False, True])
    def test_streams_the_models_text(
        self, raw: bool, tiny: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        tokenizer = load_tokenizer(tiny)
        prompt = tokenizer.raw(PSALM) if raw else tokenizer.chat(PSALM, "Be brief.")
        want = from_pretrained(tiny).generate([prompt], 40, temperature=0.0)[0, len(prompt) :]
        how = ("--raw",) if raw else ("--system", "Be brief.")
        out, err = run(
            "generate", tiny, PSALM, *how, *GREEDY, "--max-new-tokens", 40, capsys=capsys
        )
        assert out == shown(tokenizer.decode(want.tolist())) + "\n"
        rates = [
            (name, int(n), float(per_second))
            for name, n, per_second in re.findall(
                r"(\w+) +(\d+) tokens in +[\d.]+ s: +([\d.]+) tokens/s", err
            )
        ]
        assert [rate[:2] for rate in rates] == [
            ("prefill", len(prompt)),
            ("decode", len(want) - 1),
        ]
        assert all(rate[2] > 0 for rate in rates)

    def test_options_reach_the_model(
        self, tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: dict[str, Any] = {}

        def generate(model: Any, prompts: Any, n: int, **options: Any) -> None:
            seen.update(options, n=n, dtype=model.embed.weight.dtype)

        monkeypatch.setattr(PanguMoEForCausalLM, "generate", generate)
        options = "--max-new-tokens 3 --temperature 0.5 --top-k 7 --top-p 0.4 --seed 11"
        run("generate", tiny, PSALM, *options.split(), "--dtype", "float32", capsys=capsys)
        assert (seen["n"], seen["dtype"]) == (3, torch.float32)
        assert (seen["temperature"], seen["top_k"], seen["top_p"]) == (0.5, 7, 0.4)
        assert seen["generator"].initial_seed() == 11
        run("generate", tiny, PSALM, capsys=capsys)  # the published settings
        assert (seen["temperature"], seen["top_k"], seen["top_p"]) == (0.6, 50, 0.95)
        assert seen["dtype"] == torch.bfloat16

    def test_a_seed_gives_the_same_again(
        self, tiny: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        outs = [
            run("generate", tiny, PSALM, "--max-new-tokens", 30, *how, capsys=capsys)[0]
            for how in (("--seed", 3), ("--seed", 3), ("--seed", 4), (), ())
        ]
        assert outs[0] == outs[1]
        assert len(set(outs[1:])) == 4

    def test_ends_at_the_end_token_and_does_not_show_it(
        self, tiny: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        tokenizer, model = load_tokenizer(tiny), from_pretrained(tiny)
        prompt = tokenizer.raw("x")
        ids = model.generate([prompt], 12, temperature=0.0, eos_token_id=())[0, len(prompt) :]
        last = ids.tolist()[4]
        first = ids.tolist().index(last)
        config = json.loads((tiny / "config.json").read_text())
        (tiny / "config.json").write_text(json.dumps({**config, "eos_token_id": [last, 0]}))
        out, err = run("generate", tiny, "x", "--raw", *GREEDY, capsys=capsys)
        assert out == shown(tokenizer.decode(ids.tolist()[:first])) + "\n"
        assert re.search(rf"decode +{first} tokens", err) if first else "decode" not in err

    def test_reads_standard_input(
        self, tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = (*GREEDY, "--max-new-tokens", 8)
        want, _ = run("generate", tiny, PSALM, *options, capsys=capsys)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(PSALM.encode())))
        assert run("generate", tiny, "-", *options, capsys=capsys)[0] == want

    def test_no_new_tokens(self, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("generate", tiny, PSALM, "--max-new-tokens", 0, capsys=capsys) == ("\n", "")

    def test_text_cannot_steer_a_terminal(self) -> None:
        assert shown("a\x1b[2J\x07\x9bb\r\n\té\u200d") == "a\ufffd[2J\ufffd\ufffdb\ufffd\n\té\u200d"

    @pytest.mark.slow
    def test_as_a_process_in_a_pipe(self, tiny: Path, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "moge_ops", "generate", tiny, PSALM, *GREEDY]
        command += ["--max-new-tokens", "4"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.endswith("\n")
        assert [line.split()[0] for line in done.stderr.splitlines()] == ["prefill", "decode"]
        command[4:5] = [tmp_path / "nothing"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"generate: {tmp_path / 'nothing'} has no config.json\n"


class TestEncodings:
    """Of standard input and output, and of the command line."""

    @pytest.fixture
    def speaks(self, tiny: Path) -> Path:
        """A model that answers with 系é, again and again."""
        tokenizer = load_tokenizer(tiny)
        said = tokenizer.encode("系é")
        tensors = load_file(tiny / "model.safetensors")
        for name, x in tensors.items():
            x.fill_(float(name == "model.norm.weight"))
        last = tokenizer.chat("系")[-1]
        for i, (a, b) in enumerate(zip([last, *said], [*said, said[0]], strict=True)):
            tensors["model.embed_tokens.weight"][a, i] = 1.0  # a token, and the one after it
            tensors["lm_head.weight"][b, i] = 1.0
        save_file(tensors, tiny / "model.safetensors")
        return tiny

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk", "utf-16", "utf-8"])
    def test_all_is_printed_in_any(
        self, encoding: str, speaks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def printed(*args: object) -> str:
            out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("系".encode()), "ascii"))
            monkeypatch.setattr("sys.stdout", out)
            monkeypatch.setattr("sys.stderr", err)
            main([str(arg) for arg in args])
            err.flush()
            err.buffer.seek(0)
            assert all(
                "tokens/s" in line for line in err.buffer.read().decode(encoding).split("\n")[:-1]
            )
            out.buffer.seek(0)
            return out.buffer.read().decode(encoding)

        want = "系é系é\n".encode(encoding, "backslashreplace").decode(encoding)
        for text in ("系", "-"):
            assert printed("generate", speaks, text, *GREEDY, "--max-new-tokens", 10) == want
        folder = speaks.rename(tmp_path / "系")
        shown = printed("inspect", folder, "--prompt", "系")
        # the folder's name alone is escaped: a table is not drawn with escapes
        assert set(re.findall(r"\\u....", shown)) <= {"\\u7cfb"}
        assert "Routers over 4 tokens" in shown
        assert "operator" in printed("info")

    @pytest.mark.parametrize("how", ["prompt", "stdin", "system", "inspect"])
    def test_a_prompt_that_is_not_utf_8(
        self,
        how: str,
        tiny: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"hi\xff!")))
        wrong = os.fsdecode(b"hi\xff!")
        command, *rest = {
            "prompt": ("generate", tiny, wrong),
            "stdin": ("generate", tiny, "-"),
            "system": ("generate", tiny, "hi", "--system", wrong),
            "inspect": ("inspect", tiny, "--prompt", wrong),
        }[how]
        with pytest.raises(SystemExit, match="2"):
            main([str(command), *map(str, rest)])
        (line,) = capsys.readouterr().err.splitlines()
        name = (
            "the prompt" if how in ("prompt", "stdin") else f"--{how}".replace("inspect", "prompt")
        )
        assert line == f"{command}: {name} must be UTF-8, got b'\\xff' at 2"

    def test_half_a_surrogate(self, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
        line = refusal("generate", tiny, "a\ud800", capsys=capsys)
        assert line == "generate: the prompt must be UTF-8, got '\\ud800' at 1"

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "changes",
        [
            {"PYTHONIOENCODING": "ascii"},
            {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
            {"LANG": "C"},
        ],
        ids=["ascii", "no-utf-8", "C"],
    )
    def test_as_a_process(self, changes: dict[str, str], speaks: Path) -> None:
        def run_with(prompt: Any) -> tuple[int, bytes]:
            command: list[Any] = [sys.executable, "-m", "moge_ops", "generate", speaks, prompt]
            command += [*GREEDY, "--max-new-tokens", "5"]
            env = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG"))}
            done = subprocess.run(command, capture_output=True, env={**env, **changes})
            return done.returncode, done.stdout or done.stderr

        want = "系é\n".encode("utf-8" if "LANG" in changes else "ascii", "backslashreplace")
        assert run_with("系".encode()) == (0, want)
        code, said = run_with(b"\xff")
        assert code == 2
        assert said == b"generate: the prompt must be UTF-8, got b'\\xff' at 0\n"
