"""Threads that ask a verifier beside decoding."""

import contextlib
import math
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

STEP = 0.01  # seconds between two looks at a thread that is about to end


class Call:
    """One question to a verifier: ``done`` says whether ``yes`` or ``error`` has come."""

    def __init__(self, question: str, thoughts: Sequence[str]) -> None:
        self.question, self.thoughts = question, list(thoughts)
        self.started: float | None = None
        self.done = False
        self.yes = 0.0
        self.error: BaseException | None = None

    def overdue(self, timeout: float) -> bool:
        """Whether it has run for longer than ``timeout`` seconds and has no answer."""
        late = self.started is not None and time.monotonic() - self.started > timeout
        return late and not self.done


def _probability(value: Any) -> float:
    """A verdict as a number."""
    yes = float(value)
    if math.isnan(yes):
        raise ValueError("a verdict must be a bool or a number, got nan")
    return yes


def _work(
    verifier: Callable[[str, list[str]], float | bool],
    calls: "queue.SimpleQueue[Call | None]",
    running: list[Call | None],
    place: int,
) -> None:
    while (call := calls.get()) is not None:
        running[place], call.started = call, time.monotonic()
        try:
            call.yes = _probability(verifier(call.question, call.thoughts))
        except BaseException as error:  # it is the caller's, who sees it at the next step
            call.error = error
        call.done = True  # after the answer, because nothing else tells other threads
        running[place] = None


def _stop(calls: "queue.SimpleQueue[Call | None]", workers: int) -> None:
    """No call that waits is made any more, and the threads end."""
    with contextlib.suppress(queue.Empty):
        while True:
            calls.get_nowait()
    for _ in range(workers):
        calls.put(None)


class Judges:
    """A few daemon threads, begun with the first call, that end with :meth:`close`.

    Each takes the oldest call that waits. They hold neither this object nor its owner, so that an
    object that nobody closes still ends its threads when it is collected.
    """

    def __init__(
        self,
        verifier: Callable[[str, list[str]], float | bool],
        *,
        workers: int,
        timeout: float,
    ) -> None:
        self._verifier, self._workers, self._timeout = verifier, workers, timeout
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._running: list[Call | None] = [None] * workers
        self._threads: list[threading.Thread] = []
        self._finish = weakref.finalize(self, _stop, self._calls, workers)

    def ask(self, question: str, thoughts: Sequence[str]) -> Call:
        """Puts a question at the end of the queue; does not wait."""
        while len(self._threads) < self._workers:
            place = len(self._threads)
            args = (self._verifier, self._calls, self._running, place)
            name = f"moge_ops verifier {place}"
            self._threads.append(threading.Thread(target=_work, args=args, name=name, daemon=True))
            self._threads[-1].start()
        call = Call(question, thoughts)
        self._calls.put(call)
        return call

    def close(self) -> None:
        """Ends the threads; waits for calls that run, but not for those that are overdue."""
        self._finish()
        until = time.monotonic() + self._timeout
        for place, thread in enumerate(self._threads):
            while thread.is_alive() and time.monotonic() < until:
                call = self._running[place]
                if call is not None and call.overdue(self._timeout):
                    break
                thread.join(STEP)
