"""TrimR in `generate`: the hooked rows change, the others do not; and a verifier of logits."""

import runpy
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.models.tokenizer import Tokenizer, write_byte_tokenizer
from moge_ops.models.trimr import QUESTIONS, LogitVerifier, Reason, TrimR, Words

pytestmark = pytest.mark.slow

for package in ("rich", "tokenizers"):
    pytest.importorskip(package, reason="needs the extras 'bench' and 'models'")

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "trimr.py"
WORDS = Words(" I will conclude.", " I will stop.", " Final answer:")
END = "</think> "
MOST = 200


def honest(question: str, thoughts: list[str]) -> bool:
    answers = [[word for word in each.split() if word.isdigit()][-1:] for each in thoughts]
    return answers[0] == answers[1] if question == QUESTIONS.agree else any(answers)


def chain(*answers: int | str) -> str:
    return "Wait, ".join(f"it must be so {answer} . \n" for answer in answers) + END + "Done."


class Reasoner:
    """The example's model, which says the texts in their order, and reacts to inserted words."""

    def __init__(self, texts: Sequence[str], after: str = END + "Done.") -> None:
        script: Any = runpy.run_path(str(EXAMPLE))["Script"]()
        self.starts = [[script.say("Problem: " + text)] for text in texts]
        script.say(after, after=script.encode(WORDS.mild)[-1])
        script.say("here it is", after=script.encode(WORDS.answer)[-1])
        script.encode(WORDS.strong + "</think>")
        self.tokenizer: Tokenizer = script.tokenizer
        self.model: PanguMoEForCausalLM = script.model()

    def hook(self, verifier: Callable[[str, list[str]], float | bool], **options: Any) -> TrimR:
        settings = {"budget": MOST, "words": WORDS, "least": 10, "repeated": 0} | options
        return TrimR(self.tokenizer, verifier, **settings)

    def rows(self, hook: Any = None, **options: Any) -> list[list[int]]:
        ids = self.model.generate(self.starts, MOST, temperature=0.0, hook=hook, **options)
        return [[i for i in row if i] for row in ids[:, 1:].tolist()]

    def texts(self, hook: Any = None, **options: Any) -> list[str]:
        return [self.tokenizer.decode(row) for row in self.rows(hook, **options)]


def settled(hook: TrimR) -> Callable[[list[list[int]]], dict[int, list[int]]]:
    """The hook, asked when no question is open, so that every verdict has its own step."""

    def call(new: list[list[int]]) -> dict[int, list[int]]:
        until = time.monotonic() + 10
        for row in hook._rows:
            while row.call is not None and not row.call.done and time.monotonic() < until:
                time.sleep(0)
        return hook(new)

    return call


SCRIPTS = [chain(*range(9)), chain(*[7] * 9), chain("lost", 3), "", chain(5, *[6] * 7), "Yes."]


@pytest.fixture(scope="module")
def reasoner() -> Reasoner:
    return Reasoner(SCRIPTS)


@pytest.mark.parametrize("draft", [None, "lookup"])
def test_only_rows_whose_answers_agree_are_cut(reasoner: Reasoner, draft: str | None) -> None:
    plain = reasoner.rows()
    with reasoner.hook(honest) as hook:
        rows = reasoner.rows(settled(hook), draft=draft)
    cut = {1: 3, 4: 4}  # row -> thoughts before its words
    for i, report in enumerate(hook.reports):
        assert [each.thoughts for each in report.cuts] == ([cut[i]] if i in cut else [])
        if i not in cut:
            assert rows[i] == plain[i]
            continue
        text = reasoner.tokenizer.decode(rows[i])
        before, words, after = text.partition(WORDS.mild)
        assert words
        assert reasoner.tokenizer.decode(plain[i]).startswith(before)
        assert after == END + "Done."
        (place,) = (each.tokens for each in report.cuts)
        assert rows[i][:place] == plain[i][:place]
        # the id that ends a row is counted, and no part of the rows here
        assert report.tokens == len(rows[i]) + 1


@pytest.mark.parametrize("draft", [None, "lookup"])
def test_one_that_goes_on_is_stopped(draft: str | None) -> None:
    reasoner = Reasoner(SCRIPTS, after=" \nWait, let me be sure. Wait, is it? Hmm, it is. " * 9)
    with reasoner.hook(honest) as hook:
        texts = reasoner.texts(settled(hook), draft=draft)
    for i, report in enumerate(hook.reports):
        reasons = [Reason.AGREEMENT, Reason.WENT_ON] if i in (1, 4) else []
        assert [cut.reason for cut in report.cuts] == reasons
        assert texts[i].endswith(WORDS.strong + "</think>" + WORDS.answer + "here it is") == (
            i in (1, 4)
        )


def test_it_works_for_samples_and_streams(reasoner: Reasoner) -> None:
    seen: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)
    with reasoner.hook(honest) as hook:
        rows = reasoner.rows(
            settled(hook), streamer=seen.append, generator=generator, top_k=1, draft="lookup"
        )
    streamed = torch.stack(seen).T.tolist()
    assert [[i for i in row if i > 0] for row in streamed] == rows
    assert any(report.cuts for report in hook.reports)


def test_words_end_where_the_budget_does(reasoner: Reasoner) -> None:
    with reasoner.hook(honest) as hook:
        reasoner.texts(settled(hook))
        place = hook.reports[1].cuts[0].tokens
    for room in (0, 1, 2):
        with reasoner.hook(honest) as hook:
            ids = reasoner.model.generate(
                reasoner.starts, place + room, temperature=0.0, hook=settled(hook)
            )
        row = [i for i in ids[1, 1:].tolist() if i]
        assert row[place:] == reasoner.tokenizer.encode(WORDS.mild)[:room]
        assert len(hook.reports[1].cuts) == min(room, 1)


@pytest.mark.parametrize("kind", ["slow", "failing", "hanging"])
def test_eight_rows_are_not_held_up(kind: str) -> None:
    scripts = [chain(*[n] * 30) for n in range(8)]
    reasoner = Reasoner(scripts)
    gate, pause = threading.Event(), 0.4
    plain = reasoner.rows()
    spent: list[float] = []

    def verifier(question: str, thoughts: list[str]) -> bool:
        if kind == "failing":
            raise OSError("gone")
        if kind == "hanging":
            gate.wait(60)
        time.sleep(pause)
        return honest(question, thoughts)

    hook = reasoner.hook(verifier, timeout=0.1 if kind == "hanging" else 30.0)

    def timed(new: list[list[int]]) -> dict[int, list[int]]:
        began = time.perf_counter()
        found = hook(new)
        spent.append(time.perf_counter() - began)
        return found

    if kind == "slow":
        rows = reasoner.rows(timed)
    else:
        with pytest.warns(RuntimeWarning, match="the verifier"):
            rows = reasoner.rows(timed)
        assert rows == plain
        assert bool(hook.failures) == (kind == "failing")
        assert bool(hook.timeouts) == (kind == "hanging")
    assert max(spent) < 0.75 * pause  # a step that waits for one call takes longer
    began = time.perf_counter()
    hook.close()
    assert time.perf_counter() - began < pause + 1
    gate.set()
    until = time.monotonic() + 5
    left = True
    while left and time.monotonic() < until:
        left = any(each.name.startswith("moge_ops verifier") for each in threading.enumerate())
        time.sleep(0.01)
    assert not left


def test_an_error_of_the_model_leaves_no_thread(reasoner: Reasoner) -> None:
    def interrupted(new: list[list[int]]) -> dict[int, list[int]]:
        if hook.calls > 2:
            raise KeyboardInterrupt
        return hook(new)

    with pytest.raises(KeyboardInterrupt), reasoner.hook(honest) as hook:
        reasoner.rows(interrupted)
    assert not any(each.name.startswith("moge_ops verifier") for each in threading.enumerate())


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


class Says:
    """A model of logits, given for letters; all others are larger."""

    def __init__(self, tokenizer: Tokenizer, **logits: float) -> None:
        self.row = torch.full((tokenizer.size,), 9.0)
        for letter, value in logits.items():
            self.row[tokenizer.encode(letter)] = value
        self.seen: list[list[list[int]]] = []

    def __call__(self, ids: Tensor, logits_to_keep: int) -> Tensor:
        assert torch.is_inference_mode_enabled()
        assert logits_to_keep == 1
        self.seen.append(ids.tolist())
        return self.row[None, None]


@pytest.mark.parametrize(("y", "n"), [(1.0, 0.0), (0.0, 1.0), (2.0, 2.0), (-50.0, 50.0)])
def test_a_verdict_is_the_two_tokens_alone(bytewise: Tokenizer, y: float, n: float) -> None:
    model = Says(bytewise, Y=y, N=n)
    verdict = LogitVerifier(model, bytewise)("Do they agree?", ["It is 1.", "So 1."])
    odds = torch.tensor([y, n], dtype=torch.float64).softmax(0)
    assert verdict == pytest.approx(float(odds[0]))
    thoughts = "Thought 1:\nIt is 1.\n\nThought 2:\nSo 1.\n"
    asked = f"{thoughts}\nDo they agree? Answer with Yes or No only."
    assert model.seen == [[bytewise.chat(asked)]]


def test_other_words_and_another_prompt(bytewise: Tokenizer) -> None:
    model = Says(bytewise, J=3.0, N=1.0, Y=-9.0)
    verifier = LogitVerifier(model, bytewise, prompt=bytewise.raw, yes="Ja", no="Nein")
    assert verifier("Fertig?", ["So 1."]) > 0.5
    assert bytewise.decode(model.seen[0][0]).endswith("Fertig? Answer with Ja or Nein only.")


def test_long_thoughts_lose_their_beginning(bytewise: Tokenizer) -> None:
    model = Says(bytewise, Y=1.0, N=0.0)
    verifier = LogitVerifier(model, bytewise, longest=20)
    verifier("Well?", ["x" * 99 + "so it is 1", "short"])
    text = bytewise.decode(model.seen[0][0])
    assert "Thought 1:\nso it is 1\n" in text
    assert "Thought 2:\nshort\n" in text


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_logits_must_be_finite(bytewise: Tokenizer, bad: float) -> None:
    with pytest.raises(ValueError, match="the verifier's logits must be finite"):
        LogitVerifier(Says(bytewise, Y=bad, N=0.0), bytewise)("Well?", ["x"])


def test_a_model_of_transformers_returns_an_object(bytewise: Tokenizer) -> None:
    plain = Says(bytewise, Y=2.0, N=0.0)
    model = lambda ids, logits_to_keep: SimpleNamespace(logits=plain(ids, logits_to_keep))  # noqa: E731
    assert LogitVerifier(model, bytewise)("Well?", ["x"]) > 0.8


def test_a_model_of_this_package_judges(bytewise: Tokenizer) -> None:
    torch.manual_seed(0)
    sizes = runpy.run_path(str(EXAMPLE))["SMALL"]
    model = PanguMoEForCausalLM(PanguMoEConfig(vocab_size=bytewise.size, **sizes)).eval()
    verdict = LogitVerifier(model, bytewise)("Well?", ["So 1."])
    ids = torch.tensor([bytewise.chat("Thought 1:\nSo 1.\n\nWell? Answer with Yes or No only.")])
    with torch.no_grad():
        logits = model(ids)[0, -1, [bytewise.encode(each)[0] for each in "YN"]].double()
    assert verdict == pytest.approx(float(logits.softmax(0)[0]), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"yes": "No, not yet"}, "must begin with two different tokens"),
        ({"no": ""}, "must begin with two different tokens"),
        ({"longest": 0}, "longest must be at least 1"),
    ],
)
def test_a_verifier_rejects(bytewise: Tokenizer, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LogitVerifier(Says(bytewise), bytewise, **options)


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["trimr.py", "--smoke"]
    with mock.patch.object(sys, "argv", argv), pytest.raises(SystemExit) as done:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert done.value.code == 0
    printed = capsys.readouterr().out
    assert printed.count("Verifier: ") == 3
    assert "answers agree" in printed
    assert "repeats itself" in printed
