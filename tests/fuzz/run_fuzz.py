"""Random cases for minutes, each target in children that may crash, hang or fill their memory.

A target is a module with ``cases(*args)``, a strategy of plain data, and ``check(case, *args)``,
which raises where the contract does not hold. What fails is made smaller, kept as a file of
tests/fuzz/cases, and is a test from then on. Run by ``make fuzz``.
"""

import argparse
import faulthandler
import hashlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
KEPT = HERE / "cases"
Case = Any
TARGETS: dict[str, tuple[str, tuple[str, ...]]] = {
    **{f"layouts:{b}": ("layouts", (b,)) for b in ("torch", "cpu", "triton", "ascend")},
    **{
        f"arguments:{b}": ("arguments", (b,))
        for b in ("torch", "cpu", "triton", "ascend", "reference")
    },
    "folders": ("folders", ()),
}
MEMORY = 4 * 2**30  # a child's, past what it has after the imports (0.6 to 1 GB of addresses)
BATCH = 500  # cases from one seed: Hypothesis remembers those of a batch
SHRINK = 60.0  # seconds to make a failing case smaller
CHILDREN = 2
INTERRUPTED = threading.Event()  # Ctrl-C: what was found until then is reported


class Target(NamedTuple):
    """A module and what its functions take."""

    module: ModuleType
    args: tuple[str, ...]

    def cases(self) -> Any:
        return self.module.cases(*self.args)

    def check(self, case: Case) -> None:
        self.module.check(case, *self.args)


def load(name: str) -> Target:
    """The target of a name of TARGETS, or of a file."""
    if name not in TARGETS:
        path = Path(name)
        if not path.is_file():
            known = ", ".join(TARGETS)
            raise SystemExit(f"--target must be one of {known} or a file, got {name!r}")
        sys.path.insert(0, str(path.parent))
        module = importlib.import_module(path.stem)
        if not path.samefile(str(module.__file__)):
            raise SystemExit(f"--target {name}: another module has this name, {module.__file__}")
        return Target(module, ())
    stem, args = TARGETS[name]
    return Target(importlib.import_module(stem), args)


# The child


class Stop(BaseException):
    """The time is over. Not an Exception, so that Hypothesis does not catch it."""


class Reports:
    """What a child has done, in files that outlive it: `now`, `faults` and `trace`."""

    def __init__(self, folder: Path) -> None:
        self.now, self.path = folder / "now", folder / "faults"
        self.trace = (folder / "trace").open("a")
        self.cases, self.worst = 0, 0.0
        self.best: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            self.best = {x["fault"]: x for x in json.loads(self.path.read_text())}

    def write(self, case: Case = None) -> None:
        """Before a case with the case: a crash leaves it there."""
        put(self.now, {"cases": self.cases, "worst": self.worst, "case": case})

    def fault(self, error: Exception, case: Case) -> None:
        """Notes a failing case, in the place of an earlier one: Hypothesis makes them smaller."""
        kind = kind_of(error)
        message = f"{type(error).__name__}: {error}"[:2000]
        self.best[kind] = {"fault": kind, "message": message, "case": case}
        put(self.path, list(self.best.values()))


def put(path: Path, content: Any) -> None:
    """Writes a file that is whole whenever this process is killed."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(content))
    os.replace(beside, path)


def kind_of(error: Exception) -> str:
    """Equal for cases that are one fault: where the library raised, or what a check says."""
    frames = traceback.extract_tb(error.__traceback__)
    rooms = tuple(str(HERE.parents[1] / room) for room in ("moge_ops", "triton_kernels", "tests"))
    last = ([f for f in frames if f.filename.startswith(rooms)] or frames)[-1]
    place = f"{Path(last.filename).name}:{last.lineno}"
    if isinstance(error, AssertionError):
        place += " " + str(error).partition(":")[0].partition("(")[0]
    return f"{type(error).__name__} at {place}"


def child(options: argparse.Namespace) -> None:
    """Runs cases until the time or their number is reached."""
    from hypothesis import HealthCheck, Phase, given, seed, settings

    warnings.simplefilter("ignore")
    target = load(options.target[0])
    strategy, reports = target.cases(), Reports(options.child)
    faulthandler.enable(reports.trace)
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY, has + MEMORY))
    end = time.monotonic() + options.seconds
    known, found = set(reports.best), {}

    def run(case: Case) -> None:
        start = time.monotonic()
        shrunk = found and start > min(found.values()) + SHRINK
        if start > end + SHRINK or (not found and start > end) or shrunk:
            raise Stop
        if not found and reports.cases >= options.examples:
            raise Stop
        reports.write(case)
        faulthandler.dump_traceback_later(options.limit, exit=True, file=reports.trace)
        try:
            target.check(case)
        except Exception as error:
            if kind_of(error) not in known:
                found.setdefault(kind_of(error), start)
                reports.fault(error, case)
                raise
        finally:
            faulthandler.cancel_dump_traceback_later()
            if not found:
                if reports.cases:  # the first case also imports what the library imports late
                    reports.worst = max(reports.worst, time.monotonic() - start)
                reports.cases += 1

    number = options.seed
    while time.monotonic() < end and reports.cases < options.examples:
        found.clear()
        batch = settings(
            max_examples=min(BATCH, options.examples),
            database=None,
            deadline=None,
            derandomize=False,
            report_multiple_bugs=False,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        try:
            seed(number)(batch(given(strategy)(run)))()
        except Stop:
            pass
        except Exception:  # noted already
            if not found:
                raise
        known |= set(found)
        number += 1
    reports.write()


# The parent


class Result(NamedTuple):
    """Of one target."""

    target: str
    cases: int
    seconds: float
    worst: float
    faults: list[dict[str, Any]]
    crashes: list[dict[str, Any]]
    hangs: list[dict[str, Any]]


def run_target(name: str, options: argparse.Namespace, say: Callable[[str], None]) -> Result:
    """Replaces children that die until the target's time or number of cases is reached."""
    start, cases, worst, seed = time.monotonic(), 0, 0.0, options.seed
    deaths: dict[str, list[dict[str, Any]]] = {"crash": [], "hang": []}
    with tempfile.TemporaryDirectory() as folder:
        now, trace = Path(folder) / "now", Path(folder) / "trace"
        while True:
            left = options.seconds - (time.monotonic() - start)
            if left <= 0 or cases >= options.examples or INTERRUPTED.is_set():
                break
            died = run_child(name, Path(folder), seed, left, options.examples - cases, options)
            text = now.read_text() if now.exists() else ""
            state = json.loads(text or '{"cases": 0, "worst": 0, "case": null}')
            cases, worst = cases + state["cases"], max(worst, state["worst"])
            if died is None or INTERRUPTED.is_set():
                break
            cases += 1
            kind, message = died
            seen = [x["case"] for x in deaths[kind]]
            if state["case"] not in seen:  # None: it died before its first case
                deaths[kind].append({"fault": kind, "message": message, "case": state["case"]})
            say(f"{name}: {kind} with seed {seed}, {message.splitlines()[0]}")
            if state["case"] is None:
                break  # not of a case: the next child would die too
            now.unlink()
            trace.unlink(missing_ok=True)
            seed += 1000
        faults = Path(folder) / "faults"
        found = json.loads(faults.read_text()) if faults.exists() else []
    seconds = time.monotonic() - start
    return Result(name, cases, seconds, worst, found, deaths["crash"], deaths["hang"])


def run_child(
    name: str, folder: Path, seed: int, seconds: float, examples: int, options: argparse.Namespace
) -> tuple[str, str] | None:
    """One child until its end: how it died and what it said, or None."""
    command = [sys.executable, __file__, "--child", str(folder), "--target", name]
    for option, value in (("seconds", seconds), ("examples", examples), ("limit", options.limit)):
        command += [f"--{option}", str(value)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TRITON_INTERPRET": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(
            [*command, "--seed", str(seed)],
            stdout=said,
            stderr=said,
            env=environment,
        )
    try:
        stuck = watch(process, folder / "now", options.limit)
    finally:
        process.kill()
    if process.wait() == 0:
        return None
    trace = folder / "trace"
    text = (trace.read_text() if trace.exists() else "") or (folder / "said").read_text()[-2000:]
    stuck = stuck or "Timeout (" in text
    return ("hang" if stuck else "crash"), f"exit code {process.returncode}\n{text[:4000]}"


def watch(process: "subprocess.Popen[bytes]", now: Path, limit: float) -> bool:
    """Waits for the child, but not for one that has long been in one case: then it is True.

    After Ctrl-C it waits for none.
    """
    started = time.time()
    while process.poll() is None:
        time.sleep(0.2)
        if INTERRUPTED.is_set():
            return False
        last = max(started, now.stat().st_mtime if now.exists() else 0.0)
        if time.time() - last > 2 * limit + 120:  # its own alarm did not end it
            return True
    return False


def keep(name: str, found: dict[str, Any], folder: Path) -> Path:
    """A failing case as a file that the tests replay."""
    text = json.dumps(found["case"], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{Path(name).stem.replace(':', '-')}-{digest}.json"
    content = {"target": name, "fault": found["fault"], "case": found["case"]}
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, help="of all targets together; 30")
    parser.add_argument("--target", action="append", help="of " + ", ".join(TARGETS))
    parser.add_argument("--seed", type=int, help="random unless given")
    parser.add_argument("--examples", type=int, help="cases of each target, however long they take")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of one case")
    parser.add_argument("--keep", type=Path, default=KEPT, help="folder of failing cases")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
        child(options)
        return 0
    options.target = options.target or list(TARGETS)
    for name in options.target:
        if name not in TARGETS:
            load(name)
    if options.seed is None:
        options.seed = int.from_bytes(os.urandom(4), "little")
    minutes = options.minutes
    if minutes is None:
        minutes = 30.0 if options.examples is None else 1e6
    options.seconds = 60.0 * minutes * min(CHILDREN, len(options.target)) / len(options.target)
    options.examples = 10**9 if options.examples is None else options.examples
    say = lambda text: print(text, flush=True)  # noqa: E731, T201
    say(f"seed {options.seed}, {len(options.target)} targets")
    with ThreadPoolExecutor(CHILDREN) as pool:
        futures = []
        try:
            for name in options.target:
                futures.append(pool.submit(run_target, name, options, say))
            wait(futures)
        except KeyboardInterrupt:
            INTERRUPTED.set()
        results = [future.result() for future in futures]
    widths = "{:24} {:>8} {:>7} {:>8} {:>6} {:>8} {:>9} {:>9}"
    say(
        widths.format(
            "target", "cases", "faults", "crashes", "hangs", "seconds", "ms/case", "worst s"
        )
    )
    for r in results:
        counts = (r.cases, len(r.faults), len(r.crashes), len(r.hangs))
        each = 1e3 * r.seconds / max(1, r.cases)
        say(
            widths.format(
                r.target[-24:], *counts, f"{r.seconds:.0f}", f"{each:.1f}", f"{r.worst:.2f}"
            )
        )
    failed = False
    for r in results:
        for found in (*r.faults, *r.crashes, *r.hangs):
            failed = True
            place = "before any case"
            if found["case"] is not None:
                place = f"kept as {keep(r.target, found, options.keep)}"
            message = "\n".join(found["message"].splitlines()[:12])[:800]
            say(f"\n{r.target}: {found['fault']}, {place}\n{message}")
    return int(failed or any(r.cases == 0 for r in results))


if __name__ == "__main__":
    sys.exit(main())
