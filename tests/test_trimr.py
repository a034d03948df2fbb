"""TrimR ends thinking where scripted reasoners and verifiers say that it must, and nowhere else."""

import gc
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from moge_ops.models.tokenizer import Tokenizer, write_byte_tokenizer
from moge_ops.models.trimr import QUESTIONS, Cut, Reason, TrimR, Words

pytest.importorskip("tokenizers", reason="needs the extra 'models'")

WORDS = Words("\n\nI CONCLUDE.\n\n", "\n\nI STOP.\n", "\n\nANSWER: ")
END = "</think>"
Judge = Callable[[str, list[str]], float | bool]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One token is one byte, so that every marker and many characters are split."""
    return write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    until = time.monotonic() + 5
    while verifiers() and time.monotonic() < until:
        gc.collect()  # slow beside the other tests' objects, and rarely needed
        time.sleep(0.01)
    assert not verifiers()


def verifiers() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("moge_ops verifier")]


def honest(question: str, thoughts: list[str]) -> bool:
    """A verifier that reads: "so N" states an answer, "closer" comes closer to one."""
    answers = [re.findall(r"so (\d+)", each)[-1:] for each in thoughts]
    if question == QUESTIONS.answered:
        return bool(answers[0])
    if question == QUESTIONS.agree:
        return answers[0] == answers[1]
    return any("closer" in each for each in thoughts)


def chain(*answers: int | None, between: str = "Wait, ") -> str:
    """A thought for each answer; None for one that has none."""
    said = [f"it must be so {n}. " if n is not None else "I am lost here. " for n in answers]
    return between.join(said)


def settle(hook: TrimR) -> None:
    """Waits until nothing is asked, so that a verdict's step is always the same."""
    until = time.monotonic() + 10
    for row in hook._rows:
        while row.call is not None and not row.call.done and time.monotonic() < until:
            time.sleep(0)


def made(tokenizer: Tokenizer, verifier: Judge = honest, **options: Any) -> TrimR:
    return TrimR(
        tokenizer,
        verifier,
        **{"budget": 1000, "words": WORDS, "least": 10, "repeated": 0} | options,
    )


def play(
    hook: TrimR | None,
    tokenizer: Tokenizer,
    scripts: Sequence[str],
    *,
    after: str = END + "Done.",
    answer: str = "done",
    most: int = 1000,
    wait: bool = True,
    step: Callable[[int], None] = lambda n: None,
) -> list[str]:
    """What `generate` does with a hook: rows of scripted text, which react to inserted words.

    ``after`` follows mild words, ``answer`` follows strong ones.
    """
    rows = [tokenizer.encode(each) for each in scripts]
    out: list[list[int]] = [[] for _ in rows]
    said: list[list[int]] = [[] for _ in rows]  # inserted, of the last step
    for n in range(most):
        new = []
        for i, row in enumerate(rows):
            ids = [*said[i], *row[:1]]
            new.append(ids[: most - len(out[i])])
            out[i] += new[-1]
            said[i], rows[i] = [], row[1:]
        if not any(new):
            break
        step(n)
        if hook is None:
            continue
        if wait:
            settle(hook)
        for i, words in hook(new).items():
            assert new[i], "words for a row that has ended"
            said[i] = list(words)
            strong = tokenizer.decode(said[i]).endswith(WORDS.answer)
            rows[i] = tokenizer.encode(answer if strong else after)
    return [tokenizer.decode(row) for row in out]


def test_answers_that_agree_get_the_mild_words(tokenizer: Tokenizer) -> None:
    script = chain(None, 41, None, 42, 42, 42, 42, 42) + END
    with made(tokenizer) as hook:
        (text,) = play(hook, tokenizer, [script])
    (report,) = hook.reports
    # the sixth thought is the third in a row with the answer 42
    (cut,) = report.cuts
    assert (cut.reason, cut.thoughts, report.ended) == (Reason.AGREEMENT, 6, True)
    before, _, after = text.partition(WORDS.mild)
    assert script.startswith(before)
    assert before.count("so 42") == 3
    assert after == END + "Done."
    assert cut.tokens == len(before)
    assert report.tokens == len(text)
    # six first questions, and one for each thought with an answer before it
    assert (hook.calls, hook.failures, hook.timeouts, hook.late) == (9, 0, 0, 0)


@pytest.mark.parametrize("agreeing", [1, 2, 3])
def test_as_many_pairs_as_asked_for_must_agree_in_a_row(
    tokenizer: Tokenizer, agreeing: int
) -> None:
    answers = [1, 2, 2, 3, 3, 3, 4, 4, 4, 4, 5]
    with made(tokenizer, agreeing=agreeing) as hook:
        play(hook, tokenizer, [chain(*answers)])
    (cut,) = hook.reports[0].cuts
    assert cut.thoughts == {1: 3, 2: 6, 3: 10}[agreeing]


@pytest.mark.parametrize(
    "script", [chain(*range(9)), chain(*[1, 1, 2] * 3), chain(*[None] * 9), "x" * 300, ""]
)
def test_without_agreement_nothing_is_inserted(tokenizer: Tokenizer, script: str) -> None:
    with made(tokenizer) as hook:
        assert play(hook, tokenizer, [script]) == [script]
    assert not any(report.cuts for report in hook.reports)


def test_a_verdict_is_yes_from_the_threshold_on(tokenizer: Tokenizer) -> None:
    for yes, cuts in ((0.5, 1), (0.51, 0)):
        with made(tokenizer, lambda question, thoughts: 0.5, yes=yes) as hook:
            play(hook, tokenizer, [chain(1, 2, 3, 4, 5)])
        assert len(hook.reports[0].cuts) == cuts


def test_a_model_that_goes_on_is_stopped_after_one_more_thought(tokenizer: Tokenizer) -> None:
    goes_on = "Let me be sure. Wait, it is so 42. Wait, no. "
    with made(tokenizer) as hook:
        (text,) = play(hook, tokenizer, [chain(*[42] * 6)], after=goes_on)
    first, second = hook.reports[0].cuts
    assert (first.reason, second.reason) == (Reason.AGREEMENT, Reason.WENT_ON)
    assert second.thoughts == first.thoughts + 1
    _, _, after = text.partition(WORDS.mild)
    said, strong, answer = after.partition(WORDS.strong + END + WORDS.answer)
    assert said == "Let me be sure. Wait,"  # the character after it tells that it is a marker
    assert strong
    assert answer == "done"
    assert second.tokens == len(text) - len(strong + answer)
    assert hook.reports[0].tokens == len(text)
    assert hook.reports[0].ended


def test_inserted_words_are_no_thoughts(tokenizer: Tokenizer) -> None:
    words = WORDS._replace(mild="\n\nWait, I have it twice. Hmm, I conclude. But first a check.\n")
    with made(tokenizer, words=words) as hook:
        (text,) = play(hook, tokenizer, [chain(*[42] * 6)])
    assert [cut.reason for cut in hook.reports[0].cuts] == [Reason.AGREEMENT]
    assert text.endswith(words.mild + END + "Done.")


@pytest.mark.parametrize("grace", [0, 1, 40])
def test_a_model_that_goes_on_in_one_thought_has_a_grace(tokenizer: Tokenizer, grace: int) -> None:
    with made(tokenizer, grace=grace) as hook:
        (text,) = play(hook, tokenizer, [chain(*[42] * 6)], after="going on " * 20)
    assert [cut.reason for cut in hook.reports[0].cuts] == [Reason.AGREEMENT, Reason.WENT_ON]
    said = text.partition(WORDS.mild)[2].partition(WORDS.strong)[0]
    assert len(said) == max(grace, 1)


def test_thinking_without_convergence_ends_at_the_threshold(tokenizer: Tokenizer) -> None:
    script = chain(*[None] * 40)
    with made(tokenizer, budget=600, share=0.5, fruitless=5) as hook:
        (text,) = play(hook, tokenizer, [script])
    (cut,) = hook.reports[0].cuts
    assert cut == Cut(Reason.NO_CONVERGENCE, 301, 300 // len("I am lost here. Wait, "))
    before, words, answer = text.partition(WORDS.strong + END + WORDS.answer)
    assert words
    assert script.startswith(before)
    assert answer == "done"


def test_convergence_is_asked_for_after_enough_thoughts_only(tokenizer: Tokenizer) -> None:
    asked: list[int] = []

    def hopeful(question: str, thoughts: list[str]) -> bool:
        if question == QUESTIONS.converges:
            asked.append(len(thoughts))
        return question == QUESTIONS.converges

    with made(tokenizer, hopeful, budget=100, share=0.5, fruitless=4) as hook:
        script = chain(*[None] * 14)
        assert play(hook, tokenizer, [script]) == [script]
    assert asked == [4, 8, 12]  # and each time again after as many more


def test_thoughts_that_come_closer_go_on(tokenizer: Tokenizer) -> None:
    script = chain(None, None) + "Wait, I get closer. " + chain(*[None] * 12)
    with made(tokenizer, budget=200, fruitless=3) as hook:
        assert play(hook, tokenizer, [script]) == [script]


def test_verbatim_repetition_is_stopped_without_a_question(tokenizer: Tokenizer) -> None:
    loop = "and so on, "
    with made(tokenizer, repeats=4, repeated=40) as hook:
        (text,) = play(hook, tokenizer, ["It goes " + loop * 20])
    assert hook.calls == 0
    (cut,) = hook.reports[0].cuts
    assert (cut.reason, cut.thoughts) == (Reason.REPETITION, 0)
    before = text.partition(WORDS.strong)[0]
    # the space before it belongs to the first copy
    assert before == "It goes " + (loop * 4)[:-1]


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("It goes " + "and so on, " * 3, {}),
        ("0" * 39 + "1", {}),
        ("0" * 60, {"repeated": 0}),
        ("and so on, " * 9, {"period": 10}),
        ("and so on, " * 9, {"repeats": 10}),
        ("".join(f"and so {n}, " for n in range(9)), {}),
        ("<think>" + END + "and so on, " * 9, {}),  # the answer may
    ],
)
def test_what_is_no_repetition(tokenizer: Tokenizer, script: str, options: dict[str, int]) -> None:
    with made(tokenizer, **{"repeats": 4, "repeated": 40} | options) as hook:
        assert play(hook, tokenizer, [script]) == [script]


def test_rows_are_judged_apart(tokenizer: Tokenizer) -> None:
    scripts = [
        chain(*range(9)),
        chain(*[7] * 9),
        "",
        chain(None, 3) + END + chain(*[3] * 5),  # agrees after its thinking only
        chain(5),
        "x" * 50 + chain(*[8] * 9),
    ]
    plain = play(None, tokenizer, scripts)
    with made(tokenizer) as hook:
        texts = play(hook, tokenizer, scripts)
    cut = {1, 5}
    for i, report in enumerate(hook.reports):
        assert bool(report.cuts) == (i in cut)
        assert (texts[i] == plain[i]) == (i not in cut)
    assert [report.ended for report in hook.reports] == [False, True, False, True, False, True]


def test_several_ids_may_come_at_once(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(chain(*[42] * 4))
    with made(tokenizer) as hook:
        assert not hook([ids[:2], ids[:1]])
        found = {}
        for n in range(20):
            settle(hook)
            found = hook([ids[2:] if n == 0 else tokenizer.encode("x"), []])
            if found:
                break
    assert list(found) == [0]


def test_other_languages_and_characters_that_are_split(tokenizer: Tokenizer) -> None:
    script = "等等，所以答案是四十二。" * 6  # noqa: RUF001
    agree = lambda question, thoughts: "四十二" in thoughts[-1]  # noqa: E731
    size = len("等".encode())
    for late in range(2 * size):  # the verdict comes at any byte of a character
        gate = threading.Event()

        def slow(question: str, thoughts: list[str], gate: threading.Event = gate) -> bool:
            return gate.wait(10) and agree(question, thoughts)

        def step(n: int, gate: threading.Event = gate, late: int = late) -> None:
            if n >= 90 + late:
                gate.set()

        options = {"markers": ["等等"], "least": 3, "agreeing": 1}
        with made(tokenizer, slow, **options) as hook:
            (text,) = play(
                hook,
                tokenizer,
                [script],
                wait=False,
                step=lambda n, step=step, hook=hook, gate=gate: (
                    step(n),
                    settle(hook) if gate.is_set() else None,
                ),
            )
        before, words, _ = text.partition(WORDS.mild)
        assert words
        assert script.startswith(before)
        assert "\ufffd" not in text
        assert len(before.encode()) >= 90


def test_bytes_that_are_no_text_hold_nothing_up(tokenizer: Tokenizer) -> None:
    (byte,) = {tokenizer.encode("é")[0]}
    script = tokenizer.encode(chain(1, 1, 1))
    with made(tokenizer, agreeing=1) as hook:
        found = {}
        for token in [*script, *[byte] * 20]:
            settle(hook)
            found |= hook([[token]])
    assert found


def test_a_late_verdict_finds_the_row_as_it_is(tokenizer: Tokenizer) -> None:
    gate = threading.Event()

    def slow(question: str, thoughts: list[str]) -> bool:
        return gate.wait(10) and honest(question, thoughts)

    script = chain(*[42] * 4) + "x" * 200
    with made(tokenizer, slow) as hook:
        (text,) = play(
            hook,
            tokenizer,
            [script],
            wait=False,
            step=lambda n: (gate.set() if n > 150 else None, settle(hook) if n > 150 else None),  # type: ignore[arg-type, func-returns-value]
        )
    assert 150 <= hook.reports[0].cuts[0].tokens < 170
    assert text.partition(WORDS.mild)[0] == script[: hook.reports[0].cuts[0].tokens]


def test_a_verdict_after_the_thinking_is_dropped(tokenizer: Tokenizer) -> None:
    gate = threading.Event()
    with made(tokenizer, lambda *_: gate.wait(10), agreeing=1) as hook:
        script = chain(1, 1, 1) + END + "and the answer is one"
        step = lambda n: gate.set() if n == len(script) - 9 else None  # noqa: E731
        texts = play(
            hook, tokenizer, [script], wait=False, step=lambda n: (step(n), time.sleep(2e-3))
        )  # type: ignore[arg-type, func-returns-value]
        assert texts == [script]
    assert (hook.calls, hook.late) == (1, 1)


@pytest.mark.parametrize(
    "verdict", [ZeroDivisionError("by zero"), SystemExit(3), None, "perhaps", float("nan")]
)
def test_a_verifier_that_fails_is_counted_and_nobody_is_harmed(
    tokenizer: Tokenizer, verdict: object
) -> None:
    def failing(question: str, thoughts: list[str]) -> Any:
        if isinstance(verdict, BaseException):
            raise verdict
        return verdict

    scripts = [chain(*[n] * 9) for n in range(8)]
    with made(tokenizer, failing) as hook, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert play(hook, tokenizer, scripts) == scripts
    assert hook.failures == hook.calls == 8 * 8
    assert [str(each.category) for each in seen] == [str(RuntimeWarning)]
    assert "the verifier raised" in str(seen[0].message)


def test_a_failure_breaks_the_row_of_agreeing_answers(tokenizer: Tokenizer) -> None:
    def failing(question: str, thoughts: list[str]) -> bool:
        if "so 13" in thoughts[-1]:
            raise ValueError("unlucky")
        return True

    with made(tokenizer, failing, agreeing=3) as hook, pytest.warns(RuntimeWarning, match="raised"):
        play(hook, tokenizer, [chain(1, 1, 1, 13, 1, 1, 1, 1)])
    assert [cut.thoughts for cut in hook.reports[0].cuts] == [7]


def test_strict_raises_where_the_model_decodes(tokenizer: Tokenizer) -> None:
    def failing(question: str, thoughts: list[str]) -> bool:
        raise ZeroDivisionError("by zero")

    with (
        made(tokenizer, failing, strict=True) as hook,
        pytest.raises(RuntimeError, match="the verifier raised ZeroDivisionError") as caught,
    ):
        play(hook, tokenizer, [chain(1, 1, 1)])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


class Timed:
    """Notes how long the hook takes, apart from the scripted loop."""

    def __init__(self, hook: TrimR) -> None:
        self.hook, self.longest = hook, 0.0

    def __call__(self, new: Sequence[Sequence[int]]) -> dict[int, list[int]]:
        began = time.perf_counter()
        found = self.hook(new)
        self.longest = max(self.longest, time.perf_counter() - began)
        return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_a_slow_verifier_stalls_no_step(tokenizer: Tokenizer, workers: int) -> None:
    pause = 0.4

    def slow(question: str, thoughts: list[str]) -> bool:
        time.sleep(pause)
        return honest(question, thoughts)

    scripts = [chain(*[n] * 30) for n in range(8)]
    with made(tokenizer, slow, workers=workers, agreeing=1) as hook:
        timed = Timed(hook)
        step = lambda n: time.sleep(0.005)  # noqa: E731
        texts = play(timed, tokenizer, scripts, wait=False, step=step)  # type: ignore[arg-type]
        began = time.perf_counter()
    assert time.perf_counter() - began < pause + 1  # close waits for the calls that run
    assert timed.longest < 0.75 * pause  # a step that waits for one call takes longer
    assert hook.calls >= 8 if workers == 3 else hook.calls >= 4
    for text, script in zip(texts, scripts, strict=True):
        assert script.startswith(text.partition(WORDS.mild)[0])


@pytest.mark.slow
def test_closing_no_longer_waits_for_a_call_that_is_overdue(tokenizer: Tokenizer) -> None:
    gate = threading.Event()
    hook = made(tokenizer, lambda *_: gate.wait(60), timeout=3.0)
    play(hook, tokenizer, [chain(1, 1, 1)], wait=False)
    time.sleep(2.0)
    began = time.perf_counter()
    hook.close()
    assert time.perf_counter() - began < 2.5  # the rest of the call's time, not all of it again
    gate.set()


def test_nothing_follows_thinking_that_has_ended_by_itself(tokenizer: Tokenizer) -> None:
    with made(tokenizer, lambda *_: True, agreeing=1) as hook:
        ids = tokenizer.encode(chain(1, 2, 3))
        first, *rest = tokenizer.encode("等")
        hook([ids])
        for _ in range(3):  # the words are ready, and wait for the character
            settle(hook)
            assert not hook([[first]])
            settle(hook)
        assert not hook([[*rest, *tokenizer.encode(END)]])
        assert hook.reports[0].cuts == ()


def test_a_verifier_that_hangs_is_given_up(tokenizer: Tokenizer) -> None:
    gate = threading.Event()
    scripts = [chain(*[n] * 9) for n in range(8)]
    hook = made(tokenizer, lambda *_: gate.wait(60), timeout=0.05)
    timed = Timed(hook)
    with pytest.warns(RuntimeWarning, match="gave no verdict in 0.05 s"):
        texts = play(timed, tokenizer, scripts, wait=False, step=lambda n: time.sleep(0.001))  # type: ignore[arg-type]
    assert texts == scripts
    assert timed.longest < 1  # a step that waits would take a minute
    assert hook.timeouts == 1  # only the call that hangs; the rest were never started
    began = time.perf_counter()
    hook.close()
    assert time.perf_counter() - began < 1
    assert [each.daemon for each in verifiers()] == [True]  # it holds no process
    gate.set()


def test_one_that_hangs_leaves_the_other_workers(tokenizer: Tokenizer) -> None:
    gate = threading.Event()

    def hangs(question: str, thoughts: list[str]) -> bool:
        return gate.wait(60) if "so 1." in thoughts[0] else honest(question, thoughts)

    scripts = [chain(*[n] * 30) for n in range(8)]
    with made(tokenizer, hangs, timeout=0.3, workers=3) as hook:
        with pytest.warns(RuntimeWarning, match="gave no verdict"):
            play(hook, tokenizer, scripts, wait=False, step=lambda n: time.sleep(0.002))
        gate.set()
    cut = [bool(report.cuts) for report in hook.reports]
    assert cut[0]
    assert not cut[1]
    assert hook.timeouts == 1  # its row asks nothing more, so that two workers are left


def test_strict_raises_if_a_call_is_given_up(tokenizer: Tokenizer) -> None:
    gate = threading.Event()
    with (
        made(tokenizer, lambda *_: gate.wait(60), timeout=0.02, strict=True) as hook,
        pytest.raises(RuntimeError, match=r"gave no verdict in 0\.02 s"),
    ):
        play(hook, tokenizer, [chain(*[1] * 9)], wait=False, step=lambda n: time.sleep(0.005))
    gate.set()


def test_what_waits_is_dropped_when_it_is_closed(tokenizer: Tokenizer) -> None:
    asked = []

    def slow(question: str, thoughts: list[str]) -> bool:
        asked.append(question)
        time.sleep(0.1)
        return False

    with made(tokenizer, slow) as hook:
        play(hook, tokenizer, [chain(1, 1)] * 8, wait=False)
        assert hook.calls == 8
    assert len(asked) <= 2
    hook.close()  # once more
    with pytest.raises(RuntimeError, match="this TrimR is closed"):
        hook([[1]] * 8)


def test_threads_end_with_an_object_that_nobody_closes(tokenizer: Tokenizer) -> None:
    hook = made(tokenizer)
    play(hook, tokenizer, [chain(1, 1)])
    assert len(verifiers()) == 1
    del hook  # and `no_thread_left` looks


def test_the_rows_of_one_call_stay(tokenizer: Tokenizer) -> None:
    with made(tokenizer) as hook:
        hook([[5], [6]])
        with pytest.raises(ValueError, match="there must be 2 rows, got 1"):
            hook([[5]])


def test_the_end_may_be_a_token(tokenizer: Tokenizer) -> None:
    end = tokenizer.id_of("[unused10]")
    assert end is not None
    with made(tokenizer, end="[unused10]", repeats=4, repeated=40) as hook:
        hook([tokenizer.encode(chain(1, 2)), tokenizer.encode("ab" * 40)])
        words = hook([[end], tokenizer.encode("ab")])
        assert [report.ended for report in hook.reports] == [True, True]
    assert list(words) == []  # the first has ended by itself; the second was cut before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"verifier": 3}, TypeError, "verifier must be callable, got int"),
        ({"budget": 0}, ValueError, "budget must be at least 1, got 0"),
        ({"budget": 1.5}, TypeError, "budget must be an int"),
        ({"agreeing": 0}, ValueError, "agreeing must be at least 1"),
        ({"fruitless": 0}, ValueError, "fruitless must be at least 1"),
        ({"workers": 0}, ValueError, "workers must be at least 1"),
        ({"period": 0}, ValueError, "period must be at least 1"),
        ({"grace": -1}, ValueError, "grace must be at least 0"),
        ({"repeats": 1}, ValueError, "repeats must be at least 2"),
        ({"repeated": -1}, ValueError, "repeated must be at least 0"),
        ({"yes": 1.5}, ValueError, r"yes must be in \[0, 1\], got 1.5"),
        ({"share": float("nan")}, ValueError, r"share must be in \[0, 1\], got nan"),
        ({"timeout": 0.0}, ValueError, "timeout must be positive and finite"),
        ({"timeout": float("inf")}, ValueError, "timeout must be positive and finite"),
        ({"markers": []}, ValueError, "markers must be words"),
        ({"least": 0}, ValueError, "least must be at least 1"),
        ({"words": Words(mild="")}, ValueError, "the mild words must not be empty"),
    ],
)
def test_it_rejects(
    tokenizer: Tokenizer, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments = {"verifier": honest, "budget": 10} | options
    with pytest.raises(error, match=message):
        TrimR(tokenizer, **arguments)


def test_the_defaults_are_valid(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with TrimR(tokenizer, honest, budget=1) as hook:
        assert hook([[5]]) == {}
