"""`moge-ops generate | inspect | make-tiny | convert`."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moge_ops import cli, testing
from moge_ops.cli import main
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.models.checkpoint import from_pretrained, save_pretrained
from moge_ops.models.layout import parameter_counts
from moge_ops.models.tokenizer import load_tokenizer, write_byte_tokenizer

pytest.importorskip("tokenizers", reason="needs the extra 'models'")

GREEDY = ("--temperature", "0")
PSALM = "The LORD is my shepherd; I shall not want."


def run(*args: object, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Standard output and error of one command."""
    main([str(arg) for arg in args])
    return capsys.readouterr()


def refusal(*args: object, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command prints when it refuses."""
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in args])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "tiny"
    main(["make-tiny", str(folder)])
    return folder


@pytest.fixture
def tiny(made: Path, tmp_path: Path) -> Path:
    """A copy of the folder, for this test alone."""
    return Path(shutil.copytree(made, tmp_path / "tiny"))


def small_model(**changes: Any) -> PanguMoEForCausalLM:
    sizes = {
        "vocab_size": 260,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_experts": 12,
        "num_experts_per_tok": 4,
        "num_groups": 4,
        "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8,
        "max_position_embeddings": 64,
        "eos_token_id": None,
    }
    return PanguMoEForCausalLM(PanguMoEConfig(**{**sizes, **changes}))


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
        assert cli._shown(answer["generated_text"][-1]["content"]) + "\n" == want

    def test_touches_no_folder_with_files(
        self, tiny: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = {path: path.read_bytes() for path in tiny.iterdir()}
        assert "must be empty or new" in refusal("make-tiny", tiny, "--seed", 5, capsys=capsys)
        assert {path: path.read_bytes() for path in tiny.iterdir()} == before


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
        assert out == cli._shown(tokenizer.decode(want.tolist())) + "\n"
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
        assert out == cli._shown(tokenizer.decode(ids.tolist()[:first])) + "\n"
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
        assert (
            cli._shown("a\x1b[2J\x07\x9bb\r\n\té\u200d")
            == "a\ufffd[2J\ufffd\ufffdb\ufffd\n\té\u200d"
        )

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


def columns(out: str) -> dict[str, list[str]]:
    """First cell of each line -> the other cells, with or without rich."""
    lines = [re.split(r"\s*[│┃]\s*|\s{2,}", line.strip("│┃ \n")) for line in out.splitlines()]
    return {cells[0]: cells[1:] for cells in lines}


@pytest.fixture(params=["rich", "plain"])
def tables(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "plain":
        monkeypatch.setitem(sys.modules, "rich.console", None)
    else:
        pytest.importorskip("rich")


class TestInspect:
    @pytest.mark.usefixtures("tables")
    def test_the_released_model_from_its_config_alone(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "config.json").write_text(json.dumps(PanguMoEConfig().to_dict()))
        monkeypatch.setattr(cli, "available", lambda device: 145 * 10**9)
        out, _ = run("inspect", tmp_path, capsys=capsys)
        found = columns(out)
        assert found["parameters"] == ["71,988,781,056"]
        assert found["active for a token"] == ["16,498,139,136"]
        assert found["experts E"] == ["64"]
        assert found["experts of a token K, each group's share"] == ["8, 1"]
        assert found["float32"] == ["287.955", "0.393", "no", "0"]
        # 48 layers of keys and values, 8 heads of 128: 196608 bytes a token
        fits = (145 * 10**9 - 2 * 71_988_781_056) // 196608
        assert found["bfloat16"] == ["143.978", "0.197", "yes", f"{fits:,}"]
        assert f"{tmp_path} has no weights" in out

    @pytest.mark.usefixtures("tables")
    def test_routers_over_a_text(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torch.manual_seed(1)
        model = small_model()
        with torch.no_grad():
            model.layers[0].moge.gate[1] = model.layers[0].moge.gate[0]  # a tie goes to the first
        save_pretrained(model, tmp_path)
        tokenizer = write_byte_tokenizer(tmp_path)
        (tmp_path / "text.txt").write_text(PSALM * 3)
        # the model has 64 positions, so windows are of 64 tokens; the text is cut to 100
        out, _ = run(
            *("inspect", tmp_path, "--text", tmp_path / "text.txt", "--max-tokens", 100),
            capsys=capsys,
        )
        stats, _, grid = out.partition("Tokens of every expert")
        found = columns(stats)
        assert found["F32"][0] == str(len(load_file(tmp_path / "model.safetensors")))
        assert "Routers over 100 tokens" in out

        ids, model = tokenizer.raw(PSALM * 3)[:100], from_pretrained(tmp_path)
        details = [model(torch.tensor([w]), return_details=True) for w in (ids[:64], ids[64:])]
        every = torch.zeros(12, dtype=torch.int64)
        for layer in range(2):
            counts = sum(torch.as_tensor(d.gating[layer].counts.long()) for d in details)
            every += counts
            logits = torch.cat([d.router_logits[layer] for d in details])
            loads = torch.bincount(logits.topk(4).indices.flatten() // 3, minlength=4)
            score = float(loads.max() - loads.min()) / 100
            assert found[str(layer)][0] == "100"
            least, _, most, unused = found[str(layer)][1:5]
            assert (int(least), int(most)) == (counts.min(), counts.max())
            assert int(unused) == int((counts == 0).sum()) >= 1 - layer
            assert found[str(layer)][5:] == ["0.000", f"{score:.3f}"]
            assert score > 0
        lines = [line for line in grid.splitlines() if re.match(r"[│ ]*[0-3]\s", line)]
        numbers = [[int(n) for n in re.findall(r"\d+", line)] for line in lines]
        assert numbers == [[g, *row] for g, row in enumerate(every.view(4, 3).tolist())]

    def test_what_the_files_hold(self, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
        total = from_pretrained(tiny).parameter_counts()[0]
        tensors = len(load_file(tiny / "model.safetensors"))
        found = columns(run("inspect", tiny, capsys=capsys)[0])
        assert found["BF16"] == [str(tensors), f"{total:,}"]
        assert "0" not in found  # no text, no routers

    def test_where_the_system_says_nothing_of_memory(
        self, tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cli, "available", lambda device: None)
        out, _ = run("inspect", tiny, "--prompt", PSALM, capsys=capsys)
        assert "unknown available" in out
        assert len(columns(out)["bfloat16"]) == 2

    def test_sizes_without_end_are_counted_at_once(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        huge = dict.fromkeys(("num_hidden_layers", "num_experts", "num_groups"), 2**31 - 1)
        config = {**PanguMoEConfig().to_dict(), **huge, "num_experts_per_tok": 2**31 - 1}
        (tmp_path / "config.json").write_text(json.dumps(config))
        before = time.perf_counter()
        out, _ = run("inspect", tmp_path, capsys=capsys)
        assert columns(out)["experts E"] == ["2147483647"]
        assert time.perf_counter() - before < 1

    @pytest.mark.parametrize("changes", [{}, {"shared_expert_intermediate_size": 0}])
    def test_parameters_are_counted_without_a_model(self, changes: dict[str, int]) -> None:
        model = small_model(**changes)
        assert parameter_counts(model.config) == model.parameter_counts()

    def test_a_text_without_end(
        self, tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cli, "MOST_TEXT", 1000)
        with pytest.raises(SystemExit, match="2"):
            main(["inspect", str(tiny), "--text", "/dev/zero"])
        assert "/dev/zero must have at most 1,000 bytes" in capsys.readouterr().err


def buffering(on: bool) -> dict[str, str]:
    """The environment of a child whose output is buffered, as is the default, or not."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return env if on else {**env, "PYTHONUNBUFFERED": "1"}


def limited(size: int, *args: object) -> subprocess.CompletedProcess[str]:
    """A command in a process that can write no file above ``size`` bytes."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(size), *map(str, args)], capture_output=True, text=True
    )


LIMITED = """
import resource, sys
from moge_ops.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
main(sys.argv[2:])
"""


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

    @pytest.mark.parametrize("size", [10, 6000, 100_000])
    def test_make_tiny_leaves_nothing(self, size: int, tmp_path: Path) -> None:
        done = limited(size, "make-tiny", tmp_path / "a" / "tiny")
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
        monkeypatch.setattr(cli, "_load", lambda args: pytest.fail("loaded"))
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
        monkeypatch.setattr(cli, "available", lambda device: 2 * total + 100_000)
        run("generate", tiny, PSALM, "--max-new-tokens", 8, capsys=capsys)
        line = refusal("generate", tiny, PSALM, "--max-new-tokens", 2000, capsys=capsys)
        assert "GB are available on" in line

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
        monkeypatch.setattr(cli, "load_tokenizer", lambda folder: {}["no such key"])
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


def interrupted(
    command: list[str], said: bytes, env: dict[str, str] | None = None
) -> tuple[int, str]:
    """Exit code and standard error of a command that gets Ctrl-C after it has printed something."""
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(env or {})},
        # a job in the background of a shell ignores Ctrl-C, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert child.stdout is not None
    assert child.stdout.read(len(said)) == said
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    return child.returncode, err.decode()


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
