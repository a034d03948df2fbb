"""TrimR: a verifier that reads along, and ends thinking that no longer leads anywhere.

A reasoning model may go on when its answer is found (overthinking), find none on any way that it
tries (underthinking), or repeat itself. :class:`TrimR` is a hook for ``generate`` that notices all
three and inserts words that end the thinking. No step waits for a verdict.

Source: Lin et al. 2025, "TrimR: Verifier-based Training-Free Thinking Compression for Efficient
Test-Time Scaling" (arXiv:2505.17155). From the paper are: thoughts cut at markers of reflection;
a small instruction-tuned verifier that is asked yes or no and judged by the logits of these two
tokens; agreement of neighbouring answers, failure to converge, and repetition as reasons; a mild
request first and a forced end later; the asynchronous system. **All numbers and all wordings here
are ours**: thresholds, lengths, questions, closing words. They are arguments; take the paper's or
your own model's.
"""

import enum
import functools
import math
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from moge_ops import _checks
from moge_ops.models._judges import Call, Judges
from moge_ops.models._thoughts import MARKERS, Thoughts
from moge_ops.models._verifier import LogitVerifier
from moge_ops.models.tokenizer import Stream, Tokenizer

__all__ = [
    "QUESTIONS",
    "WORDS",
    "Cut",
    "LogitVerifier",
    "Questions",
    "Reason",
    "Report",
    "Thoughts",
    "TrimR",
    "Words",
]

Verifier = Callable[[str, list[str]], float | bool]
UNFINISHED = 8  # tokens of a character at most; after more, they are no UTF-8


class Questions(NamedTuple):
    """What the verifier is asked, in our words. Each is answered with yes or no."""

    answered: str = "Does this thought state an answer to the problem?"
    agree: str = "Do these two thoughts reach the same answer?"
    converges: str = "Do any of these thoughts come closer to one answer?"


class Words(NamedTuple):
    """What is put into a row, in our words: ``mild``, or ``strong``, the end mark, ``answer``."""

    mild: str = "\n\nI have found the same answer again, so I can stop here and state it.\n\n"
    strong: str = "\n\nI have thought long enough, and give the best answer that I have.\n"
    answer: str = "\n\n**Final answer:** "


QUESTIONS = Questions()
"""The questions by default."""
WORDS = Words()
"""The words by default."""


class Reason(enum.Enum):
    """Why words were put into a row."""

    AGREEMENT = "answers agree"
    WENT_ON = "went on after the mild words"
    NO_CONVERGENCE = "nothing converges"
    REPETITION = "repeats itself"


class Cut(NamedTuple):
    """One intervention."""

    reason: Reason
    tokens: int
    """New tokens of the row before the words."""
    thoughts: int
    """Thoughts that had ended by then."""


class Report(NamedTuple):
    """What happened in one row."""

    tokens: int
    """New tokens of the row, inserted ones included."""
    thoughts: int
    """Thoughts that have ended."""
    cuts: tuple[Cut, ...]
    ended: bool
    """Whether the thinking has ended, by itself or not."""


class _Row:
    """What is known of one row: its text, its thoughts, and the question that is being asked."""

    def __init__(self, tokenizer: Tokenizer, thoughts: Thoughts, first: int) -> None:
        self.stream, self.thoughts = Stream(tokenizer), thoughts
        self.tokens = 0
        self.cuts: list[Cut] = []
        self.finished: list[str] = []  # thoughts
        self.waiting: deque[str] = deque()  # those of them that nobody has judged
        self.answer: str | None = None  # the last thought that had an answer
        self.agreed = 0  # pairs of neighbours in a row whose answers agree
        self.due, self.next_due = False, first  # ask whether it converges; thoughts before that
        self.call: Call | None = None  # what is asked, and which of the three questions it is
        self.question, self.overdue = "", False
        self.reason: Reason | None = None  # why words are to be inserted, once they can be
        self.inserted = 0  # tokens of inserted words that ``generate`` has not reported yet
        self.asked: tuple[int, int] | None = None  # tokens and thoughts at the mild words

    @property
    def open(self) -> bool:
        """Whether a verdict may still change something."""
        return not self.thoughts.ended and self.reason is None and self.asked is None


class TrimR:
    """A hook for ``generate`` that ends overlong thinking, row by row.

    ::

        with TrimR(tokenizer, verifier, budget=4096) as hook:
            model.generate(ids, 4096, hook=hook)

    Each row begins to think with its first new token. Its text is cut into thoughts
    (:class:`Thoughts`), and every finished thought goes to the verifier:

    1. Does it state an answer? If not, it is left out.
    2. Does its answer agree with that of the last thought that had one? After ``agreeing`` pairs in
       a row the **mild** words are inserted. If the model goes on, by another whole thought or
       ``grace`` tokens, the **strong** words follow: they end the thinking and begin the answer.
    3. After ``share`` of the budget, if at least ``fruitless`` thoughts have ended: does anything
       converge? If not, the strong words are inserted. If so, it is asked again after as many
       thoughts more.
    4. Text that repeats itself verbatim gets the strong words, without a question.

    An object serves one call of ``generate``. A verdict applies to the row as it is when it comes,
    and to nothing if the thinking has ended. A row is asked one thing at a time. An error of the
    verifier is counted in ``failures``, and its thought agrees with none. A call that takes longer
    than ``timeout`` seconds is counted in ``timeouts`` and given up. But no thread can be stopped
    from outside: until the call returns it keeps one of the ``workers``, and its row asks nothing
    more. If all of them hang, nothing is judged any more, and the rows decode on.

    Args:
        tokenizer: The reasoning model's.
        verifier: Called in another thread as ``verifier(question, thoughts)``; the probability of
            yes, or a bool. It must not share a cache or an expert store with the model that
            decodes. :class:`LogitVerifier` is one.
        budget: Most new tokens of a row: ``max_new_tokens``.
        questions: What the verifier is asked.
        words: What is inserted.
        markers: Words that begin a thought. "Wait" and "Alternatively" are named in the paper.
        end: Text, or name of a token of the tokenizer, that ends the thinking.
        least: Characters of a thought, at least.
        yes: Probability from which a verdict is yes; 0.5 compares the two logits.
        agreeing: Pairs of neighbouring answers that agree, in a row, before the mild words.
        grace: Tokens that the model has to conclude in after the mild words.
        share: R_thres, share of the budget before convergence is asked for.
        fruitless: N_thres, thoughts before convergence is asked for.
        repeats: Copies of a piece at the end of the text that are a repetition.
        repeated: Tokens of all copies together, at least; 0 switches this reason off.
        period: Tokens of a copy, at most.
        workers: Threads of the verifier.
        timeout: Seconds after which a call is given up.
        strict: An error of the verifier, or a call that is given up, is raised in ``generate``.

    Attributes:
        calls: Calls of the verifier.
        failures: Those that raised.
        timeouts: Those that were given up.
        late: Verdicts that came when they could change nothing.

    Raises:
        TypeError: The verifier cannot be called, or a count is not an int.
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        verifier: Verifier,
        *,
        budget: int,
        questions: Questions = QUESTIONS,
        words: Words = WORDS,
        markers: Sequence[str] = MARKERS,
        end: str = "</think>",
        least: int = 100,
        yes: float = 0.5,
        agreeing: int = 2,
        grace: int = 256,
        share: float = 0.5,
        fruitless: int = 10,
        repeats: int = 4,
        repeated: int = 64,
        period: int = 256,
        workers: int = 1,
        timeout: float = 30.0,
        strict: bool = False,
    ) -> None:
        if not callable(verifier):
            raise TypeError(f"verifier must be callable, got {type(verifier).__name__}")
        counts = {"budget": budget, "agreeing": agreeing, "fruitless": fruitless, "period": period}
        for name, value in (counts | {"workers": workers}).items():
            _checks.integer(name, value, least=1)
        _checks.integer("grace", grace, least=0)
        _checks.integer("repeats", repeats, least=2)
        _checks.integer("repeated", repeated, least=0)
        for name, part in (("yes", yes), ("share", share)):
            if not 0.0 <= part <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], got {part}")
        if not 0.0 < timeout < math.inf:
            raise ValueError(f"timeout must be positive and finite, got {timeout}")
        self._thoughts = functools.partial(Thoughts, markers, least=least, end=end)
        self._thoughts()  # checks its arguments
        self._tokenizer, self._questions = tokenizer, questions
        self._end = tokenizer.id_of(end)
        ends = tokenizer.encode(end) if self._end is None else [self._end]
        self._mild = tokenizer.encode(words.mild)
        if not self._mild:
            raise ValueError("the mild words must not be empty")
        self._strong = [*tokenizer.encode(words.strong), *ends, *tokenizer.encode(words.answer)]
        self._yes, self._agreeing, self._grace = yes, agreeing, grace
        self._due, self._fruitless = share * budget, fruitless
        self._repeats, self._repeated, self._period = repeats, repeated, period
        self._timeout, self._strict, self._warned = timeout, strict, False
        self._judges: Judges | None = Judges(verifier, workers=workers, timeout=timeout)
        self._rows: list[_Row] = []
        self.calls = self.failures = self.timeouts = self.late = 0

    def __enter__(self) -> "TrimR":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads, and drops what has not been asked.

        It waits for a call that runs, ``timeout`` seconds from the call's start at most. The thread
        of a call that hangs is a daemon: it ends with the call or with the process.
        """
        if self._judges is not None:
            self._judges.close()
            self._judges = None

    @property
    def reports(self) -> list[Report]:
        """What happened in each row so far."""
        reports = []
        for row in self._rows:
            # words for a row that has just ended never came
            cuts = tuple(cut for cut in row.cuts if cut.tokens < row.tokens)
            reports.append(Report(row.tokens, row.thoughts.count, cuts, row.thoughts.ended))
        return reports

    def __call__(self, new: Sequence[Sequence[int]]) -> dict[int, list[int]]:
        """Takes each row's new ids, inserted ones too; returns, for some rows, what comes next.

        Raises:
            RuntimeError: It is closed; or the verifier failed, with ``strict``.
            ValueError: The number of rows has changed.
        """
        if self._judges is None:
            raise RuntimeError("this TrimR is closed: take a new one for each call of generate")
        if not self._rows:
            rows = [self._thoughts() for _ in new]
            self._rows = [_Row(self._tokenizer, each, self._fruitless) for each in rows]
        if len(new) != len(self._rows):
            raise ValueError(f"there must be {len(self._rows)} rows, got {len(new)}")
        inserted = {}
        for i, (row, ids) in enumerate(zip(self._rows, new, strict=True)):
            for token in ids:
                self._read(row, token)
            self._judge(row, self._judges, bool(ids))
            # no words in the middle of a character, nor in a row that has ended
            if row.reason is not None and ids and row.stream.done == len(row.stream.ids):
                inserted[i] = self._insert(row, row.reason)
        return inserted

    def _read(self, row: _Row, token: int) -> None:
        row.tokens += 1
        if row.inserted:
            row.inserted -= 1
            return
        if row.thoughts.ended:
            return
        if token == self._end:
            self._finished(row, row.thoughts.finish())
            return
        stream = row.stream
        text = stream.add(token)
        if len(stream.ids) - stream.done > UNFINISHED:
            text = stream.rest()
        self._finished(row, row.thoughts.add(text))
        if row.thoughts.ended or row.reason is not None:
            return
        if self._loops(stream.ids):
            row.reason = Reason.REPETITION
        elif row.asked is not None:
            tokens, thoughts = row.asked
            if row.thoughts.count > thoughts or row.tokens - tokens >= self._grace:
                row.reason = Reason.WENT_ON
        elif row.tokens >= self._due and row.thoughts.count >= row.next_due:
            row.due, row.next_due = True, row.thoughts.count + self._fruitless

    def _finished(self, row: _Row, thoughts: list[str]) -> None:
        row.finished += thoughts
        row.waiting += thoughts
        if row.thoughts.ended:  # before words could be inserted
            row.reason = None

    def _loops(self, ids: list[int]) -> bool:
        """Whether the ids end with copies of one piece."""
        if not self._repeated:
            return False
        for p in range(1, min(self._period, len(ids) // self._repeats) + 1):
            copies = max(self._repeats, -(-self._repeated // p))
            # the first comparison settles nearly all of them
            if ids[-1] == ids[-1 - p] and ids[-p * copies :] == ids[-p:] * copies:
                return True
        return False

    def _judge(self, row: _Row, judges: Judges, decoding: bool) -> None:
        """Takes the verdict that has come, if any, and asks the next question."""
        call = row.call
        if call is not None and call.done:
            row.call = None
            if row.overdue:
                row.overdue, self.late = False, self.late + 1
            else:
                self._take(row, call, judges)
        elif call is not None and not row.overdue and call.overdue(self._timeout):
            row.overdue = True  # the row asks nothing more until its thread is back
            self.timeouts += 1
            self._unanswered(row, f"gave no verdict in {self._timeout} s", None)
        if row.call is not None or not row.open or not decoding:
            return
        if row.due:
            row.due = False
            self._ask(row, judges, "converges", row.finished)
        elif row.waiting:
            self._ask(row, judges, "answered", [row.waiting.popleft()])

    def _ask(self, row: _Row, judges: Judges, question: str, thoughts: Sequence[str]) -> None:
        self.calls += 1
        row.question = question
        row.call = judges.ask(getattr(self._questions, question), thoughts)

    def _take(self, row: _Row, call: Call, judges: Judges) -> None:
        if call.error is not None:
            self.failures += 1
            self._unanswered(row, f"raised {call.error!r:.200}", call.error)
            return
        if not row.open:
            self.late += 1
            return
        yes = call.yes >= self._yes
        if row.question == "converges":
            row.reason = None if yes else Reason.NO_CONVERGENCE
        elif row.question == "agree":
            row.agreed = row.agreed + 1 if yes else 0
            row.reason = Reason.AGREEMENT if row.agreed >= self._agreeing else None
        elif yes:
            (thought,) = call.thoughts
            before, row.answer = row.answer, thought
            if before is not None:
                self._ask(row, judges, "agree", [before, thought])

    def _unanswered(self, row: _Row, what: str, error: BaseException | None) -> None:
        """An unknown answer agrees with none, so that failures never end a row's thinking."""
        row.agreed = 0
        if self._strict:
            raise RuntimeError(f"the verifier {what}") from error
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"the verifier {what}; rows decode on, failures and timeouts are counted from here",
                RuntimeWarning,
                stacklevel=4,
            )

    def _insert(self, row: _Row, reason: Reason) -> list[int]:
        """The words of a row, which continues after them with a new paragraph or its answer."""
        row.cuts.append(Cut(reason, row.tokens, row.thoughts.count))
        mild = reason is Reason.AGREEMENT
        words = self._mild if mild else self._strong
        row.reason, row.inserted, row.stream = None, len(words), Stream(self._tokenizer)
        row.thoughts.restart()
        if mild:
            row.asked = row.tokens + len(words), row.thoughts.count
        else:
            row.thoughts.ended = True
        return list(words)
