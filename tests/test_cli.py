"""`moge-ops generate | inspect | make-tiny | convert`, and the tokenizers that they use."""

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
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from moge_ops import cli
from moge_ops.cli import main
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.models.checkpoint import from_pretrained, save_pretrained
from moge_ops.models.tokenizer import Stream, Tokenizer, load_tokenizer, write_byte_tokenizer

pytest.importorskip("tokenizers", reason="needs the extra 'models'")
sentencepiece = pytest.importorskip("sentencepiece", reason="needs the extra 'models'")

GREEDY = ("--temperature", "0")
PSALM = "The LORD is my shepherd; I shall not want."
# Python code as in a released folder; running it leaves a trace
TRAP = "import pathlib\npathlib.Path(__file__).with_name('executed').touch()\n"


ENCODE = """
import json, sys
from moge_ops.models.tokenizer import load_tokenizer
print(json.dumps([load_tokenizer(folder).encode(sys.argv[1]) for folder in sys.argv[2:]]))
"""
REPLACE: dict[str, Any] = {"type": "Replace", "pattern": {"String": "a"}, "content": ""}


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


@pytest.fixture(scope="module")
def piece_model() -> bytes:
    """A SentencePiece model built like the released one, with bytes for unknown characters."""
    out = io.BytesIO()
    words = "the lord is my shepherd i shall not want he maketh me to lie down 系统 用户 助手"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([words] * 20),
        model_writer=out,
        model_type="bpe",
        vocab_size=330,
        byte_fallback=True,
        user_defined_symbols=["[unused9]", "[unused10]"],
        minloglevel=2,
    )
    return out.getvalue()


@pytest.fixture
def released(piece_model: bytes, tmp_path: Path) -> Path:
    """A folder like the released one: tokenizer.model, and code that must not run."""
    folder = tmp_path / "released"
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(piece_model)
    size = load_tokenizer(folder).size
    save_pretrained(small_model(vocab_size=size), folder)
    for name in ("tokenization_pangu.py", "modeling_pangu_moe.py", "__init__.py"):
        (folder / name).write_text(TRAP)
    auto = {"AutoTokenizer": ["tokenization_pangu.PanguTokenizer", None]}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PanguTokenizer", "auto_map": auto})
    )
    return folder


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


def streamed(tokenizer: Tokenizer, ids: list[int]) -> str:
    stream = Stream(tokenizer)
    return "".join([*map(stream.add, ids), stream.rest()])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return write_byte_tokenizer(tmp_path_factory.mktemp("bytes"))


class TestByteTokenizer:
    @given(text=st.text())
    @example("  two spaces\n\ttab")
    @example("系统 😀 é")
    def test_any_text_comes_back(self, tokenizer: Tokenizer, text: str) -> None:
        ids = tokenizer.encode(text)
        assert len(ids) == len(text.encode())
        assert tokenizer.decode(ids) == text
        assert streamed(tokenizer, ids) == text

    def test_a_character_is_shown_when_it_is_whole(self, tokenizer: Tokenizer) -> None:
        stream = Stream(tokenizer)
        shown = [stream.add(i) for i in tokenizer.encode("a系b")]
        assert shown == ["a", "", "", "系", "b"]

    def test_a_broken_character_is_shown_at_the_end(self, tokenizer: Tokenizer) -> None:
        ids = tokenizer.encode("x系")[:-1]
        assert streamed(tokenizer, ids) == "x\ufffd"

    def test_the_prompts_form(self, tokenizer: Tokenizer) -> None:
        bos, opens, closes = map(tokenizer.id_of, ("<s>", "[unused9]", "[unused10]"))
        assert bos == 1
        encode = tokenizer.encode
        assert tokenizer.chat("why?", "be brief") == [
            *(bos, opens, *encode("系统：be brief"), closes),  # noqa: RUF001
            *(opens, *encode("用户：why?"), closes, opens, *encode("助手：")),  # noqa: RUF001
        ]
        assert tokenizer.chat("why?") == tokenizer.chat("why?", "")
        assert tokenizer.raw("why?") == [bos, *encode("why?")]

    @pytest.mark.parametrize("system", [None, "be brief "])
    def test_transformers_reads_it_the_same(self, tokenizer: Tokenizer, system: str | None) -> None:
        transformers = pytest.importorskip("transformers")
        theirs = transformers.AutoTokenizer.from_pretrained(tokenizer.path.parent)
        text = " Why\n[x] é?\n"
        said = [{"role": "system", "content": system}] if system else []
        found = theirs.apply_chat_template(
            [*said, {"role": "user", "content": text}], add_generation_prompt=True, return_dict=True
        )
        assert found["input_ids"] == tokenizer.chat(text, system or "")
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text
        assert (theirs.bos_token_id, theirs.eos_token_id) == (1, tokenizer.id_of("[unused10]"))


class TestSentencePiece:
    def test_the_prompts_form(self, released: Path) -> None:
        tokenizer = load_tokenizer(released)
        engine = sentencepiece.SentencePieceProcessor(str(released / "tokenizer.model"))
        opens, closes = engine.piece_to_id("[unused9]"), engine.piece_to_id("[unused10]")
        assert 1 == engine.piece_to_id("<s>") != opens != closes != engine.unk_id()
        assert tokenizer.chat("my lord") == [
            *(1, opens, *engine.encode("系统："), closes),  # noqa: RUF001
            *(opens, *engine.encode("用户：my lord"), closes),  # noqa: RUF001
            *(opens, *engine.encode("助手：")),  # noqa: RUF001
        ]
        assert tokenizer.raw("my lord") == [1, *engine.encode("my lord")]

    @pytest.mark.parametrize("text", ["the lord is", "系统 😀 é the", "x"])
    def test_text_comes_back(self, text: str, released: Path) -> None:
        tokenizer = load_tokenizer(released)
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert streamed(tokenizer, ids) == text

    def test_special_and_foreign_ids_are_silent(self, released: Path) -> None:
        tokenizer = load_tokenizer(released)
        closes = tokenizer.id_of("[unused10]")
        assert closes is not None
        assert tokenizer.decode([1, closes, *tokenizer.encode("my"), 10**6]) == "my"
        assert tokenizer.id_of("[unused11]") is None

    def test_generates_and_runs_nothing_of_the_folder(
        self, released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        _, err = run("generate", released, "my lord", "--max-new-tokens", 5, capsys=capsys)
        prompt = load_tokenizer(released).chat("my lord")
        assert re.search(rf"prefill +{len(prompt)} tokens", err)
        run("inspect", released, "--prompt", "my lord", capsys=capsys)
        run("convert", released, tmp_path / "out", capsys=capsys)
        assert not list(tmp_path.rglob("executed"))
        assert not list((tmp_path / "out").rglob("*.py"))


def change_tokenizer(folder: Path, **parts: Any) -> None:
    """Writes a byte tokenizer with other parts."""
    path = write_byte_tokenizer(folder).path
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))


def truncation(most: int, stride: int = 0) -> dict[str, Any]:
    how = {"direction": "Right", "strategy": "LongestFirst"}
    return {"truncation": {**how, "max_length": most, "stride": stride}}


def padding(strategy: Any, multiple: int | None = None) -> dict[str, Any]:
    fill = {"direction": "Left", "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"}
    return {"padding": {**fill, "strategy": strategy, "pad_to_multiple_of": multiple}}


class TestHostileTokenizer:
    def test_no_text_is_cut_or_filled_up(self, tokenizer: Tokenizer, tmp_path: Path) -> None:
        cases = [
            truncation(8),
            truncation(0),
            truncation(4, stride=8),  # a panic
            padding({"Fixed": 64}),
            {**truncation(8), **padding({"Fixed": -1})},
            padding({"Fixed": 10**12}),  # more than the memory, which ended the process
            padding("BatchLongest", multiple=10**12),
        ]
        folders = [tmp_path / str(i) for i in range(len(cases))]
        for folder, parts in zip(folders, cases, strict=True):
            folder.mkdir()
            change_tokenizer(folder, **parts)
        done = subprocess.run(
            [sys.executable, "-c", ENCODE, PSALM, *folders],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert json.loads(done.stdout) == [tokenizer.encode(PSALM)] * len(cases)

    @pytest.mark.parametrize(
        "parts",
        [
            {"normalizer": {"type": "Sequence", "normalizers": [REPLACE | {"content": "aa"}] * 40}},
            {"decoder": {"type": "Sequence", "decoders": [REPLACE | {"content": "a" * 40}] * 2}},
            {"normalizer": REPLACE | {"pattern": {"Regex": ".*"}, "content": "x" * 1000}},
            {"normalizer": {"type": "Sequence", "normalizers": [{"type": "ByteLevel"}] * 12}},
            {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}] * 3}},
        ],
        ids=["many", "long", "anywhere", "bytes", "normal-forms"],
    )
    def test_a_text_does_not_grow_without_end(self, parts: dict[str, Any], tmp_path: Path) -> None:
        change_tokenizer(tmp_path, **parts)
        with pytest.raises(
            ValueError, match=r"tokenizer\.json must not make a text more than 1000"
        ):
            load_tokenizer(tmp_path)

    def test_replacements_as_released_models_have(self, tmp_path: Path) -> None:
        steps = [
            {"type": "NFKC"},
            {"type": "Prepend", "prepend": "_"},
            REPLACE | {"pattern": {"String": " "}, "content": "_"},
            REPLACE | {"pattern": {"Regex": " {2,}"}, "content": " "},
            *[REPLACE | {"pattern": {"String": "``"}, "content": '"'}] * 30,
        ]
        change_tokenizer(tmp_path, normalizer={"type": "Sequence", "normalizers": steps})
        assert load_tokenizer(tmp_path).decode(load_tokenizer(tmp_path).encode("a b")) == "_a_b"

    @pytest.mark.parametrize(
        ("parts", "what"),
        [
            ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}}, "is not"),
            ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAAAA"}}, "cannot"),
            ({"added_tokens": "\ud800"}, "is not a tokenizer"),
            ({"version": 3}, "is not a tokenizer"),
        ],
        ids=["panic-of-loading", "panic-of-encoding", "half-a-surrogate", "version"],
    )
    def test_a_panic_is_an_error_with_the_files_name(
        self, parts: dict[str, Any], what: str, tmp_path: Path
    ) -> None:
        change_tokenizer(tmp_path, **parts)
        with pytest.raises(ValueError, match=rf"{tmp_path}/tokenizer\.json {what}"):
            load_tokenizer(tmp_path).encode(PSALM)

    @pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
    def test_no_regular_file(self, name: str, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} must be a regular file, got a pipe"):
            load_tokenizer(tmp_path)

    @pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
    def test_an_empty_or_endless_file(self, name: str, tmp_path: Path) -> None:
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=f"{name} is not"):
            load_tokenizer(tmp_path)
        os.truncate(tmp_path / name, 10**12)
        with pytest.raises(ValueError, match=f"{name} must have at most 268,435,456 bytes"):
            load_tokenizer(tmp_path)

    def test_deep_nesting(self, tmp_path: Path) -> None:
        for depth in (900, 10**5):
            (tmp_path / "tokenizer.json").write_text('{"normalizer":' * depth + "1" + "}" * depth)
            with pytest.raises(ValueError, match=r"tokenizer\.json is not"):
                load_tokenizer(tmp_path)


class TestTokenizerErrors:
    def test_a_folder_without_one(self, tmp_path: Path) -> None:
        message = r"has neither tokenizer\.json nor tokenizer\.model"
        with pytest.raises(FileNotFoundError, match=message):
            load_tokenizer(tmp_path)

    @pytest.mark.parametrize(
        ("name", "what"),
        [
            ("tokenizer.json", "is not JSON"),
            ("tokenizer.model", "is not a SentencePiece model"),
        ],
    )
    def test_a_damaged_file(self, name: str, what: str, tmp_path: Path) -> None:
        (tmp_path / name).write_bytes(b"not this")
        with pytest.raises(ValueError, match=rf"{re.escape(name)} {what}"):
            load_tokenizer(tmp_path)

    @pytest.mark.parametrize(
        ("name", "package"),
        [("tokenizer.json", "tokenizers"), ("tokenizer.model", "sentencepiece")],
    )
    def test_a_package_that_is_missing(
        self, name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / name).touch()
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match=rf"{re.escape(name)} needs {package}: pip install"):
            load_tokenizer(tmp_path)

    def test_a_vocabulary_without_the_chats_tokens(self, tmp_path: Path) -> None:
        tokenizer = write_byte_tokenizer(tmp_path)
        (tmp_path / "tokenizer.json").write_text(
            tokenizer.path.read_text().replace("[unused9]", "[unused8]")
        )
        tokenizer = load_tokenizer(tmp_path)
        assert tokenizer.raw("x")[0] == 1
        with pytest.raises(ValueError, match=r"tokenizer\.json has no token \[unused9\]"):
            tokenizer.chat("x")


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
        monkeypatch.setattr("sys.stdin", io.StringIO(PSALM))
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
        assert cli._counts(model.config) == model.parameter_counts()

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
        ],
    )
    def test_a_bad_option(
        self, args: tuple[str, ...], said: str, tiny: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert said in refusal("generate", tiny, *args, capsys=capsys)

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
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **(env or {})}
    )
    assert child.stdout is not None
    assert child.stdout.read(len(said)) == said
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    return child.returncode, err.decode()


SCRIPT = str(Path(sys.executable).with_name("moge-ops"))


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
