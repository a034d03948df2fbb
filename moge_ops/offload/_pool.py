"""A fixed number of slots for experts, filled by threads when a layer asks, or ahead of it.

A slot is one of: free; being filled by a thread; whole. Of the whole ones the expert that is
expected to wait the longest for its next use gives way first. Those that a layer holds, and those
that are being filled, never do.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue

from moge_ops.offload._demand import Demand
from moge_ops.offload._sources import Key, Source

__all__ = ["Pool"]


class Pool:
    """Slots, and the threads that fill them.

    Args:
        source: Fills a slot.
        layers: How many take turns.
        experts: Most experts of one of them.
        slots: P.
        threads: How many fill at once. They are daemons, and hold this object only, so that a store
            that nobody uses any more can end them.

    Attributes:
        hits: Experts that a layer asked for, and that were there or on their way.
        misses: Those that it had to wait for from the beginning.
        bytes_read: What the source moved, ahead of layers too.
    """

    def __init__(self, source: Source, layers: int, experts: int, slots: int, threads: int) -> None:
        self.source, self.slots = source, slots
        self.hits = self.misses = self.bytes_read = 0
        self._lock = threading.Lock()
        self._work_came = threading.Condition(self._lock)  # threads wait for it
        # The layer waits for this, and without the lock: a condition takes its lock again, and
        # after an interrupt just then the layer would give back a lock that a thread holds.
        self._experts_came: SimpleQueue[None] = SimpleQueue()
        self._waiting = False
        self._turn = threading.RLock()  # one layer at a time: two could wait for each other's slots
        self._slot_of: dict[Key, int] = {}  # of the whole ones and of those being filled
        self._whole: set[Key] = set()
        self._filling: set[Key] = set()
        self._demand = Demand(layers, experts)
        self._leaving: list[Key] = []  # may be out of date; the one that leaves first comes last
        self._free = deque(range(slots))
        self._held: frozenset[Key] = frozenset()  # by the layer whose turn it is
        self._lacking: set[Key] = set()  # of those, what it waits for
        self._short = False  # whether some of these have no slot
        self._in_order = True  # false while a layer has its turn: it may be interrupted anywhere
        self._asked: deque[Key] = deque()  # have a slot, and somebody waits
        self._ahead: deque[Key] = deque()  # have none yet
        self._wanted: frozenset[Key] = frozenset()  # those, and what came of them
        self._failed: dict[Key, BaseException] = {}
        self._closed = self._ended = False
        self._process, self._at_work = os.getpid(), threads
        self._threads = [
            threading.Thread(target=self._work, name=f"moge_ops.offload-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    # --- threads ---

    def _work(self) -> None:
        while (job := self._next()) is not None:
            key, slot, asked = job
            moved, error = 0, None
            try:
                moved = self.source.fill(key, slot)
            except BaseException as caught:
                error = caught
            with self._lock:
                self.bytes_read += moved
                self._filling.remove(key)
                if error is None:
                    self._whole.add(key)
                    self._lacking.discard(key)
                else:
                    del self._slot_of[key]
                    self._free.appendleft(slot)
                    # what was fetched ahead is read again when a layer asks for it
                    if asked:
                        self._failed[key] = error
                # a layer is woken once, when it can go on
                if error is not None or self._short or not self._lacking:
                    self._wake()
        with self._lock:
            self._at_work -= 1
            last = not self._at_work
        if last:
            self.source.close()

    def _next(self) -> tuple[Key, int, bool] | None:
        with self._lock:
            while not self._ended:
                if self._asked:
                    key = self._asked.popleft()
                    self._filling.add(key)
                    return key, self._slot_of[key], True
                while self._ahead:
                    key = self._ahead.popleft()
                    if key in self._slot_of:
                        continue
                    # one that was fetched ahead does not give way to another of its kind
                    if (slot := self._room(self._held | self._wanted)) is not None:
                        self._slot_of[key] = slot
                        self._filling.add(key)
                        return key, slot, False
                self._work_came.wait()
            return None

    def _room(self, kept: frozenset[Key]) -> int | None:
        """A slot that may be filled, taken from the expert with the longest wait if need be."""
        if self._free:
            return self._free.popleft()
        for again in (False, True):  # others were kept when the list was made or gone through
            if again:
                self._leaving = self._demand.order(self._whole)
            while self._leaving:
                key = self._leaving.pop()
                if key in self._whole and key not in kept:
                    self._whole.remove(key)
                    return self._slot_of.pop(key)
        return None

    # --- layers ---

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """Those that are neither in a slot nor on their way to one."""
        with self._lock:
            return [key for key in keys if key not in self._slot_of]

    @contextmanager
    def hold(
        self,
        keys: Sequence[Key],
        ahead: Callable[[], Sequence[Key]] = tuple,
        count: bool = True,
    ) -> Iterator[Callable[[], list[int]]]:
        """Asks for these experts, which stay in their slots inside the block.

        Args:
            keys: At most P.
            ahead: Gives experts to fetch after these, as far as there is room; those of earlier
                calls that no thread has begun are given up. It runs while threads fetch ``keys``.
            count: Whether they are hits or misses.

        Yields:
            What waits for all of them, and returns their slots.

        Raises:
            ValueError: The pool is closed, or was made in another process.
            OSError, ValueError: An expert cannot be read.
        """
        # before a lock, which a thread that is not here may hold
        if not self._ended and self._process != os.getpid():
            raise ValueError(
                "a model whose experts are offloaded must run in the process that loaded it, as "
                "its threads are there: load the folder again after a fork"
            )
        with self._turn:
            try:
                self._ask(keys, count)
                self._fetch(ahead())
                yield lambda: self._wait(keys)
            finally:
                self._release()

    def _ask(self, keys: Sequence[Key], count: bool) -> None:
        with self._lock:
            if not self._in_order:
                self._mend()
            self._in_order = False
            self._held = frozenset(keys)
            self._ahead.clear()
            self._failed.clear()
            self._leaving.clear()
            if count:
                if not self._ended:
                    self._demand.visit(keys)
                there = sum(key in self._slot_of for key in keys)
                self.hits, self.misses = self.hits + there, self.misses + len(keys) - there
            self._assign(keys)

    def _assign(self, keys: Sequence[Key]) -> None:
        """Gives slots to those that have none, as far as there are."""
        if self._closed:
            raise ValueError("the model's store of experts is closed: load the folder again")
        self._short = False
        for key in keys:
            if key not in self._slot_of:
                if (slot := self._room(self._held)) is None:
                    self._short = True  # slots are being filled ahead, and will be there soon
                    break
                self._slot_of[key] = slot
                self._asked.append(key)
        if self._asked:
            self._work_came.notify_all()

    def _fetch(self, keys: Sequence[Key]) -> None:
        with self._lock:
            self._wanted = frozenset(keys)
            self._ahead.extend(key for key in keys if key not in self._slot_of)
            if self._ahead:
                self._work_came.notify_all()

    def _wait(self, keys: Sequence[Key]) -> list[int]:
        while True:
            with self._lock:
                for key in keys:
                    error = self._failed.pop(key, None)
                    if error is not None:
                        raise error
                self._lacking = {key for key in keys if key not in self._whole}
                if not self._lacking:
                    return [self._slot_of[key] for key in keys]
                self._assign(keys)
                self._waiting = True
            self._experts_came.get()

    def _wake(self) -> None:
        if self._waiting:
            self._waiting = False
            self._experts_came.put(None)

    def _release(self) -> None:
        with self._lock:
            if not self._held <= self._whole:
                self._mend()
            self.source.free([self._slot_of[key] for key in self._held & self._whole])
            self._held = frozenset()
            self._lacking.clear()
            self._in_order = True

    def _mend(self) -> None:
        """After an error or interrupt: slots that neither have an expert nor get one are free."""
        self._asked.clear()
        busy = self._whole | self._filling
        self._slot_of = {key: slot for key, slot in self._slot_of.items() if key in busy}
        taken = set(self._slot_of.values())
        self._free = deque(slot for slot in range(self.slots) if slot not in taken)

    # --- the end ---

    def finish(self) -> None:
        """Ends the threads, the last of which closes the source; what is in the slots stays."""
        if self._process != os.getpid():  # a fork has no threads
            return
        with self._lock:
            self._ended = True
            self._work_came.notify_all()
            self._wake()
        if threading.current_thread() in self._threads:  # collected as garbage there
            return
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        """As ``finish``, and no layer is served any more."""
        self._closed = True
        self.finish()
