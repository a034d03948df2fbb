"""Processes that hold the variants of a CPU benchmark.

One engine, one process: two libraries would share or fight over one pool of threads. OpenMP's wait
for work by spinning, which takes the cores of whoever is timed next, so a process answers only when
its threads have gone to sleep. Tensors travel as files.
"""

import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import engines
import harness
import peers
import torch
from problem import BOTH, OURS, OURS_BFLOAT16, Problem, Work, decoded
from torch import Tensor
from torch.nn import Parameter
from torch.utils._pytree import tree_map_only

from moge_ops.quant import QuantizedWeight

PATIENCE = 900.0  # seconds that a process may take for one answer
WARM = 0.02  # seconds of calls before one that is timed
SLOWEST = 3.0  # seconds of a call; a slower variant would take minutes at a single point
READ = 2**30  # bytes of the stream of reads: past every cache but the largest L3
CEILINGS = ("read", "copy", "dense")
TORCH = (*peers.HUGGING_FACE, "torch grouped_mm")
# who rounds activations otherwise than the scheme and so its oracle: twice the limits
OTHERWISE = (
    (OURS_BFLOAT16, "int8_w8a8"),
    (OURS_BFLOAT16, "int4_w4a8"),
    ("sglang", "int4_w4a16"),
)
GROUPS = ((OURS, OURS_BFLOAT16), (*TORCH, *CEILINGS), *((name,) for name in engines.ENGINES))


def asleep() -> None:
    """Returns when no thread of this process runs; waits a second at most."""
    for _ in range(500):
        used = time.process_time()
        time.sleep(2e-3)
        if time.process_time() - used < 2e-4:
            return


def seconds_of(call: Callable[[], object], calls: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


class Bench:
    """The variants of one process at one point of the matrix."""

    def __init__(self, names: Sequence[str], folder: Path, smoke: bool) -> None:
        self.names, self.folder, self.smoke = names, folder, smoke
        self.calls: dict[str, Callable[[], object]] = {}
        self.last: dict[str, float] = {}
        self.cold = False
        self.weights: dict[str, list[Any]] = {}  # of ours and of torch's variants
        self.engine: engines.Call | None = None
        self.streamed: Callable[[], object] | None = None

    @property
    def stream(self) -> Callable[[], object]:
        """Reads ``READ`` bytes; of several ways the one that is fastest on this machine."""
        if self.streamed is None:
            buffer = torch.ones((READ >> 10 if self.smoke else READ) // 8, dtype=torch.int64)
            floats = buffer.view(torch.float32)
            products = (
                partial(torch.mv, floats.view(-1, n), torch.ones(n)) for n in (2**12, 2**14, 2**18)
            )  # long rows are several streams per thread
            ways = [buffer.sum, *products]
            self.streamed = min(ways, key=lambda way: min(seconds_of(way) for _ in range(4)))
        return self.streamed

    def used(self) -> float:
        """Seconds of the cores that this process has taken."""
        return time.process_time()

    def clear(self) -> None:
        """Frees the weights of a layer."""
        self.calls, self.weights, self.engine = {}, {}, None

    def layer(self, file: Path) -> None:
        """Takes the weights of a layer; an engine packs them and leaves the originals."""
        self.clear()
        loaded = torch.load(file, mmap=True, weights_only=False)
        (first, *_) = self.names
        if first in engines.ENGINES:
            with torch.no_grad():
                self.engine = engines.ENGINES[first].make(self.folder, *loaded)
            return
        own = tree_map_only(Tensor, torch.clone, loaded)  # a file has no large pages
        self.weights[OURS] = [Parameter(w) if isinstance(w, Tensor) else w for w in own]
        if isinstance(own[0], QuantizedWeight):
            self.weights[OURS_BFLOAT16] = [Parameter(decoded(w, torch.bfloat16)) for w in own]

    def ceilings(self, dtype: torch.dtype) -> dict[str, Work]:
        """Makes the calls of the ceilings in ``dtype``, and tells their work."""
        found = harness.ceilings(dtype, "cpu", smoke=self.smoke)
        found = {**found, "read": (self.stream, Work(0, READ >> 10 if self.smoke else READ))}
        self.calls |= {name: call for name, (call, _) in found.items()}
        return {name: work for name, (_, work) in found.items()}

    def point(
        self, names: Sequence[str], file: Path, direction: str, cold: bool, scheme: str
    ) -> dict[str, tuple[str, str]]:
        """Makes the calls at one point and checks them: RMS error and why it cannot be timed.

        Raises:
            AssertionError: A result differs from the oracle's by more than three times the limit
                of one operator, since this is a chain of several; six times in ``OTHERWISE``.
        """
        self.calls, self.cold, self.last = {}, cold, {}
        found = {}
        data = torch.load(file, mmap=True, weights_only=False)
        for name in (name for name in self.names if name in names):
            call: Callable[[], Any]
            if self.engine:
                given = (data["x"], data["weights"].float(), data["ids"].int())
                check = call = partial(self.engine, *given)
            else:
                router = {name: Parameter(data[name]) for name in ("logits", "weights")}
                weights = self.weights.get(name) or self.weights[OURS]
                p = Problem(data["s"], Parameter(data["x"]), *weights, **router)
                op = peers.layer(p, name if name in TORCH else OURS, data["d_y"])
                call = op.calls()[direction][0]
                check = op.results if direction == BOTH else op.forward
            start = time.perf_counter()
            results = check()
            seconds = time.perf_counter() - start
            if SLOWEST < seconds < 3 * SLOWEST:  # a first call may cost more
                seconds = seconds_of(call)
            if direction != BOTH:
                results = {"y": results}
            slow = f"not timed: a call takes {seconds:.2g} s" if seconds > SLOWEST else ""
            slack = 6.0 if (name, scheme) in OTHERWISE else 3.0
            worst = harness.agrees(results, data["want"], slack, f"{name}: ")
            found[name] = f"{worst:.3g}", slow
            self.calls[name] = call
        return found

    def sample(self, name: str, calls: int) -> float:
        """Seconds of a call, the mean of ``calls``.

        Cold: ``READ`` other bytes go through the caches before. Else calls run for some 20 ms
        before, so that caches hold what they can and threads are awake, each on a core of its own:
        a scheduler may need two ticks for that. A long call is the same either way.
        """
        if self.cold and name not in CEILINGS:
            self.stream()
        elif self.last.get(name, 0.0) < 0.1:
            until = time.perf_counter() + WARM
            while time.perf_counter() < until:
                self.calls[name]()
        self.last[name] = seconds_of(self.calls[name], calls)
        return self.last[name]


def serve(pipe: Any, *args: Any) -> None:
    """Answers (method, *arguments) of a :class:`Bench` until the other side is gone."""
    bench = Bench(*args)
    while True:
        try:
            method, *arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = getattr(bench, method)(*arguments)
        except AssertionError as error:
            answer = error
        except Exception as error:  # of any class, which the other side may not know
            answer = RuntimeError(str(error).partition("\n")[0] or type(error).__name__)
        asleep()
        pipe.send(answer)


class Process:
    """A :class:`Bench` in a process of its own.

    Spawned: a fork would inherit a thread pool without its threads.
    """

    def __init__(self, *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, *args), daemon=True)
        self.process.start()
        theirs.close()

    def call(self, method: str, *args: Any) -> Any:
        """What the method returns or raises; RuntimeError if the process has ended."""
        try:
            self.pipe.send((method, *args))
            if not self.pipe.poll(PATIENCE):
                self.process.kill()
                self.process.join()
                raise RuntimeError(f"no answer in {PATIENCE:g} s")
            answer = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            code = self.process.exitcode or 0
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise RuntimeError(f"its process ended with {how}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def alive(self) -> bool:
        return self.process.is_alive()

    def close(self) -> None:
        self.pipe.close()
        self.process.join(10)
        self.process.kill()


class Here:
    """A :class:`Bench` in this process, for tests and debuggers."""

    def __init__(self, *args: Any) -> None:
        self.bench = Bench(*args)

    def call(self, method: str, *args: Any) -> Any:
        return getattr(self.bench, method)(*args)

    def alive(self) -> bool:
        return True

    def close(self) -> None:
        pass


class Team:
    """All processes; ``reasons`` has why an engine is out, our own code raises.

    An engine that fails is out until the next layer, or for good if its process has ended.
    """

    def __init__(self, folder: Path, *, smoke: bool, in_process: bool) -> None:
        self.reasons = {
            name: f"not run: {engine.package} is not in {folder.name}"
            for name, engine in engines.ENGINES.items()
            if not engines.version(engine.package, folder)
        }
        self.groups: dict[tuple[str, ...], Process | Here] = {}
        for names in GROUPS:
            engine = names[0] in engines.ENGINES
            if names[0] not in self.reasons:
                made = Here if in_process and not engine else Process
                self.groups[names] = made(names, folder, smoke)

    def clear(self) -> None:
        """Frees the last layer's weights; an engine that failed there, and runs, is in again."""
        running = {name for group in self.groups for name in group}
        self.reasons = {name: why for name, why in self.reasons.items() if name not in running}
        self.each(list(running), "clear")

    def each(self, names: Sequence[str], method: str, *args: Any) -> dict[str, Any]:
        """Answers of the processes that hold ``names``, by the first variant of each, in turns."""
        found = {}
        for group, bench in list(self.groups.items()):
            if not set(group) & set(names) or group[0] in self.reasons:
                continue
            try:
                found[group[0]] = bench.call(method, *args)
            except Exception as error:
                if group[0] not in engines.ENGINES:
                    raise
                self.reasons[group[0]] = f"not run: {error}"
                if not bench.alive():
                    self.groups.pop(group).close()
        return found

    def of(self, name: str) -> "Process | Here":
        return next(bench for group, bench in self.groups.items() if name in group)

    def used(self) -> float:
        """Seconds of the cores that all of the benchmark has taken."""
        own = (bench for bench in self.groups.values() if isinstance(bench, Process))
        return time.process_time() + sum(bench.call("used") for bench in own)

    def sample(self, name: str, calls: int) -> float:
        return float(self.of(name).call("sample", name, calls))

    def close(self) -> None:
        for bench in self.groups.values():
            bench.close()
