"""`moge-ops generate` with drafts, a verifier, experts in the folder or of a task; `profile`."""

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from command_line import GREEDY, PSALM, interrupted, limited, refusal, run, small_model

from moge_ops import offload
from moge_ops.cli import _generate, _loading, _models
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.models.checkpoint import from_pretrained, read_config, save_pretrained
from moge_ops.models.tokenizer import load_tokenizer
from moge_ops.statistics import RouterStatistics

pytestmark = pytest.mark.slow

pytest.importorskip("tokenizers", reason="needs the extra 'models'")

TEXTS = {
    "law": "the law of the land is in a book\n" * 20,
    "sums": "17 + 25 = 42; 9 * 8 = 72; " * 20,
}
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert not {thread for thread in set(threading.enumerate()) - before if thread.is_alive()}


@pytest.fixture(scope="module")
def plain(made: Path) -> str:
    """A greedy answer as the model gives it."""
    tokenizer = load_tokenizer(made)
    prompt = tokenizer.chat(PSALM)
    ids = from_pretrained(made).generate([prompt], 40, temperature=0.0)[0, len(prompt) :]
    return _generate.shown(tokenizer.decode(ids.tolist())) + "\n"


def answer(folder: Path, *options: object, capsys: Capture) -> tuple[str, str]:
    return run("generate", folder, PSALM, *GREEDY, "--max-new-tokens", 40, *options, capsys=capsys)


class TestDrafts:
    @pytest.mark.parametrize("options", [(), ("--draft-tokens", 5)])
    @pytest.mark.parametrize("draft", ["lookup", "itself", "another"])
    def test_the_answer_stays(
        self, draft: str, options: tuple[Any, ...], made: Path, plain: str, tmp_path: Path,
        capsys: Capture,
    ) -> None:  # fmt: skip
        run("make-tiny", tmp_path / "another", "--seed", 7, capsys=capsys)
        what = {"itself": made, "another": tmp_path / "another"}.get(draft, draft)
        out, err = answer(made, "--draft", what, *options, capsys=capsys)
        assert out == plain
        accepted, proposed, rate = re.findall(
            r"draft +(\d+) of (\d+) guesses accepted, ([\d.]+) tokens a pass", err
        )[0]
        if draft == "itself":
            assert int(accepted) == int(proposed) > 20
            assert float(rate) > 3.0
        assert 1.0 <= float(rate) <= 6.0

    def test_heads_of_the_model(self, made: Path, tmp_path: Path, capsys: Capture) -> None:
        config = PanguMoEConfig.from_dict(
            {**read_config(made).to_dict(), "num_nextn_predict_layers": 1}
        )
        torch.manual_seed(0)
        save_pretrained(PanguMoEForCausalLM(config).bfloat16(), tmp_path)
        shutil.copy(made / "tokenizer.json", tmp_path)
        out, _ = answer(tmp_path, capsys=capsys)
        drafted, err = answer(tmp_path, "--draft", "mtp", capsys=capsys)
        assert drafted == out
        assert "guesses accepted" in err
        assert "heads" in refusal("generate", made, PSALM, "--draft", "mtp", capsys=capsys)

    def test_every_token_of_a_step_is_shown(
        self, made: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = load_tokenizer(made).encode("abc")

        def generate(*_: Any, streamer: Any, **options: Any) -> None:
            for token in (ids[0], -1, ids[1], ids[2], -1):
                streamer(torch.tensor([token]))

        monkeypatch.setattr(PanguMoEForCausalLM, "generate", generate)
        out, err = answer(made, capsys=capsys)
        assert out == "abc\n"
        assert re.search(r"decode +2 tokens", err)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--draft", "lokup"), "--draft must be lookup, mtp or a folder with a model, got lok"),
            (("--draft", "{tmp}"), "has no config.json"),
            (("--draft-tokens", "2"), "--draft-tokens needs --draft"),
            (("--draft", "lookup", "--draft-tokens", "0"), "draft_tokens must be at least 1"),
            (("--draft", "lookup", "--draft-tokens", "x"), "--draft-tokens: must be an int"),
            (("--draft", "{small}"), "vocabulary"),
            (("--draft", "mtp"), "--draft mtp needs a model with heads that predict further"),
            (("--verifier", "{tmp}"), "has neither tokenizer.json nor tokenizer.model"),
            (("--verifier", "{tmp}/none"), "--verifier must be a folder with a model, got"),
            (("--verifier", "{small}"), "must give ids below vocab_size=99"),
            (("--verifier", "{mute}"), "mute has no words to answer with: yes='Yes'"),
        ],
    )
    def test_a_bad_option(
        self, options: tuple[str, ...], said: str, made: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        small = tmp_path / "small"
        save_pretrained(small_model(vocab_size=99, max_position_embeddings=4096), small)
        shutil.copy(made / "tokenizer.json", small)
        mute = Path(shutil.copytree(made, tmp_path / "mute"))
        words = json.loads((mute / "tokenizer.json").read_text())
        for letter in "YN":
            del words["model"]["vocab"][letter]
        (mute / "tokenizer.json").write_text(json.dumps(words))
        given = [each.format(tmp=tmp_path, small=small, mute=mute) for each in options]
        assert said in refusal("generate", made, PSALM, *given, capsys=capsys)


class TestVerifier:
    def test_repeated_text_is_cut(self, made: Path, capsys: Capture) -> None:
        options = ("--verifier", made, "--max-new-tokens", 200)
        out, err = run("generate", made, PSALM, *GREEDY, *options, capsys=capsys)
        assert "**Final answer:**" in out
        assert re.search(r"verifier +\d+ calls; cut after \d+ tokens: repeats itself", err)

    def test_what_failed_is_told(self, capsys: Capture) -> None:
        hook = SimpleNamespace(calls=5, failures=2, timeouts=1, reports=[])
        _generate._show_hook(hook)
        said = "verifier    5 calls; 2 failed, 1 gave no verdict in time\n"
        assert capsys.readouterr().err == said

    def test_an_error_ends_its_threads(
        self, made: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*args: Any, **options: Any) -> None:
            raise ValueError("no")

        monkeypatch.setattr(PanguMoEForCausalLM, "generate", fails)
        monkeypatch.setattr(_loading, "held", lambda: 0)
        monkeypatch.setattr(_loading, "SPARE", 0)
        loaded, load, before = [], offload.load, threading.active_count()

        def keeping(*args: Any, **options: Any) -> Any:
            loaded.append(load(*args, **options))  # so that the garbage collector closes nothing
            return loaded[-1]

        monkeypatch.setattr(_models.offload, "load", keeping)
        options = ("--verifier", made, "--resident", "1.1MB")
        assert refusal("generate", made, PSALM, *options, capsys=capsys) == "generate: no"
        assert threading.active_count() == before
        assert loaded


class TestResident:
    @pytest.fixture
    def seen(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """What offload.load was asked for."""
        seen: list[Any] = []
        load = offload.load

        def spy(folder: Path, resident: int | None, **options: Any) -> Any:
            seen.append((resident, options.get("experts")))
            return load(folder, resident, **options)

        monkeypatch.setattr(_models.offload, "load", spy)
        return seen

    def test_the_answer_stays(self, made: Path, plain: str, capsys: Capture) -> None:
        out, err = answer(made, "--resident", "1.5GB", capsys=capsys)
        assert out == plain
        assert re.search(r"experts +[1-9]\d* hits, \d+ misses, [\d.]+ GB read", err)

    def test_less_than_all_and_drafts(
        self, made: Path, plain: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_loading, "held", lambda: 0)
        monkeypatch.setattr(_loading, "SPARE", 0)
        out, err = answer(made, "--resident", "1.1MB", "--draft", "lookup", capsys=capsys)
        assert out == plain
        misses = re.search(r"(\d+) misses", err)
        assert misses is not None
        assert int(misses[1]) > 0
        assert "guesses accepted" in err

    def test_all_but_weights_is_taken_off(
        self, made: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, seen: list[Any]
    ) -> None:
        held = iter((0, 10**8, 0))
        monkeypatch.setattr(_loading, "held", lambda: next(held))
        for n in (40, 40, 50):
            answer(made, "--resident", "2GB", "--max-new-tokens", n, capsys=capsys)
        first, second, third = (resident for resident, _ in seen)
        assert first - second == 10**8
        assert first - third == 10 * 2 * 2 * 1 * 32 * 2  # layers, keys and values, heads, D, bytes
        config, T = read_config(made), len(load_tokenizer(made).chat(PSALM))
        cache = (T + 40) * _loading.cached(config) * 2
        rest = 2 * 10**9 - first - cache - _loading.SPARE
        assert rest == _loading.activations(config, T, 2) > 0

    @pytest.mark.parametrize(
        ("size", "said"),
        [
            ("1MB", "--resident must be above [0-9.]+ GB, which the process takes without a model"),
            *((size, "--resident must be a number of bytes or like '8GB', got") for size in (
                "x", "0", "0GB", "-1GB", "1e9", "nan", "1 TB", "", "9" * 400,
            )),
        ],
    )  # fmt: skip
    def test_a_bad_size(self, size: str, said: str, made: Path, capsys: Capture) -> None:
        line = refusal("generate", made, PSALM, f"--resident={size}", capsys=capsys)
        assert re.match(f"generate: {said}", line)

    def test_less_than_one_layer(
        self, made: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_loading, "held", lambda: 0)
        monkeypatch.setattr(_loading, "SPARE", 0)
        line = refusal("generate", made, PSALM, "--resident", "900KB", capsys=capsys)
        assert "resident must be at least" in line
        assert line.endswith("of everything else")

    def test_only_a_tasks_experts(
        self, made: Path, tmp_path: Path, capsys: Capture, seen: list[Any]
    ) -> None:
        file = profiles(made, tmp_path, capsys)
        masks = RouterStatistics.load(file).masks("sums", 2, score="selection")
        out, err = answer(made, "--profiles", file, "--task", "sums", "--keep", 2, capsys=capsys)
        assert err.startswith("profile sums: 2 experts of each group\n")
        ((_, given),) = seen
        assert all(torch.equal(given[layer], mask) for layer, mask in masks.items())
        model = from_pretrained(made)
        for layer, mask in masks.items():
            model.get_submodule(layer).expert_mask = mask
        tokenizer = load_tokenizer(made)
        prompt = tokenizer.chat(PSALM)
        ids = model.generate([prompt], 40, temperature=0.0)[0, len(prompt) :]
        assert out == _generate.shown(tokenizer.decode(ids.tolist())) + "\n"


def profiles(folder: Path, tmp_path: Path, capsys: Capture) -> Path:
    """A file with a profile of each of the texts."""
    file = tmp_path / "profiles"
    for task, text in TEXTS.items():
        (tmp_path / task).write_text(text)
        run("profile", folder, file, "--task", task, "--text", tmp_path / task, capsys=capsys)
    return file


class TestProfiles:
    def test_is_what_the_library_collects(
        self, made: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        file = profiles(made, tmp_path, capsys)
        found, want = RouterStatistics.load(file), RouterStatistics()
        model, tokenizer = from_pretrained(made), load_tokenizer(made)
        for task, text in TEXTS.items():
            ids = tokenizer.raw(text)
            with torch.inference_mode(), want.collect(model, task):
                for start in range(0, len(ids), 512):
                    model(torch.tensor([ids[start : start + 512]]))
        assert found.sums.keys() == want.sums.keys()
        for task, layers in want.sums.items():
            for layer, x in layers.items():
                torch.testing.assert_close(found.sums[task][layer], x)

    def test_the_same_with_experts_in_the_folder(
        self, made: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        (tmp_path / "text").write_text(TEXTS["law"])
        for name, options in (("a", ()), ("b", ("--resident", "2GB"))):
            args = ("--task", "law", "--text", tmp_path / "text", "--max-tokens", 99)
            out, _ = run("profile", made, tmp_path / name, *args, *options, capsys=capsys)
            assert out == f"{tmp_path / name}: 99 tokens for law; it holds law\n"
        a, b = (RouterStatistics.load(tmp_path / name).sums["law"] for name in "ab")
        assert all(torch.equal(a[layer], b[layer]) for layer in a)

    @pytest.mark.parametrize("task", TEXTS)
    def test_the_nearest_is_taken(
        self, task: str, made: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        file = profiles(made, tmp_path, capsys)
        options = ("--raw", "--profiles", file, "--max-new-tokens", 2)
        _, err = run("generate", made, TEXTS[task][:60], *options, capsys=capsys)
        assert err.startswith(f"profile {task}: 4 experts of each group\n")

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--task", "law"), "--task needs --profiles"),
            (("--keep", "2"), "--keep needs --profiles"),
            (("--profiles", "{file}", "--task", "art"), "task must be one of law, sums, got 'art'"),
            (("--profiles", "{file}", "--keep", "0"), "keep must be from 1 to the experts per"),
            (("--profiles", "{file}", "--keep", "9"), "keep must be from 1 to the experts per"),
            (("--profiles", "{file}x"), "--profiles must be a file that moge-ops profile wrote"),
            (
                ("--profiles", "{text}"),
                "law must be a file that RouterStatistics.save wrote, got one that is damaged or "
                "of another kind",
            ),
        ],
    )
    def test_a_bad_option(
        self, options: tuple[str, ...], said: str, made: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        file = profiles(made, tmp_path, capsys)
        given = [each.format(file=file, text=tmp_path / "law") for each in options]
        with pytest.raises(SystemExit, match="2"):
            run("generate", made, PSALM, *given, capsys=capsys)
        assert said in capsys.readouterr().err.splitlines()[-1]

    def test_of_another_model(
        self, made: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is told before any weight is read."""
        file = profiles(made, tmp_path, capsys)
        save_pretrained(small_model(num_hidden_layers=1), tmp_path / "one")
        shutil.copy(made / "tokenizer.json", tmp_path / "one")
        monkeypatch.setattr(_models.offload, "load", lambda *_, **__: pytest.fail("read"))
        for task in ((), ("--task", "law")):
            options = ("--profiles", file, *task)
            line = refusal("generate", tmp_path / "one", "a", *options, capsys=capsys)
            assert line.startswith(f"generate: {file} must hold profiles of the model in")

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"--task": ""}, "--task must not be empty"),
            ({"--text": "{tmp}/none"}, "No such file"),
            ({"--max-tokens": "0"}, "--max-tokens must be at least 1, got 0"),
            ({"file": "{tmp}/none/file"}, "none is none"),
            ({"file": "{tmp}/law"}, "must be a file that RouterStatistics.save wrote"),
            ({"file": "{tmp}"}, "must be a regular file, got a directory"),
            ({"folder": "{tmp}/small"}, "must be of this model"),
        ],
    )
    def test_what_cannot_be_collected_changes_nothing(
        self, change: dict[str, str], said: str, made: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        file = profiles(made, tmp_path, capsys)
        save_pretrained(small_model(max_position_embeddings=999), tmp_path / "small")
        shutil.copy(made / "tokenizer.json", tmp_path / "small")
        before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        options = {"--task": "new", "--text": str(tmp_path / "law"), "--max-tokens": "50"}
        options |= {"folder": str(made), "file": str(file)} | change
        options = {key: value.format(tmp=tmp_path) for key, value in options.items()}
        args = [options.pop("folder"), options.pop("file")]
        line = refusal(
            "profile", *args, *(part for pair in options.items() for part in pair), capsys=capsys
        )
        assert said in line
        assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before

    @pytest.mark.slow
    def test_a_full_disk_leaves_the_file(self, made: Path, tmp_path: Path, capsys: Capture) -> None:
        file = profiles(made, tmp_path, capsys)
        before, names = file.read_bytes(), {path.name for path in tmp_path.iterdir()}
        done = limited(100, "profile", made, file, "--task", "new", "--text", tmp_path / "law")
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert "too large" in line
        assert file.read_bytes() == before
        assert {path.name for path in tmp_path.iterdir()} == names


@pytest.mark.slow
class TestProcess:
    OPTIONS = ("--resident", "2GB", "--draft", "lookup")

    def test_ctrl_c_ends_the_threads(self, tiny: Path) -> None:
        config = json.loads((tiny / "config.json").read_text())
        (tiny / "config.json").write_text(json.dumps({**config, "eos_token_id": None}))
        command = [sys.executable, "-m", "moge_ops", "generate", str(tiny), PSALM, *GREEDY]
        command += ["--resident", "2GB", "--verifier", str(tiny), "--max-new-tokens", "3900"]
        first = answer_bytes(tiny)
        assert interrupted(command, first) == (130, "")

    def test_a_closed_pipe(self, made: Path) -> None:
        command = [sys.executable, "-m", "moge_ops", "generate", str(made), PSALM, *GREEDY]
        command += [*self.OPTIONS, "--max-new-tokens", "3000"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.read(1)
        child.stdout.close()
        assert child.stderr is not None
        assert child.stderr.read() == b""
        assert child.wait(60) == 141


def answer_bytes(folder: Path) -> bytes:
    """The first byte that a greedy answer prints."""
    tokenizer = load_tokenizer(folder)
    prompt = tokenizer.chat(PSALM)
    ids = from_pretrained(folder).generate([prompt], 9, temperature=0.0)[0, len(prompt) :]
    return _generate.shown(tokenizer.decode(ids.tolist())).encode()[:1]
