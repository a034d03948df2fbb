"""Seeds every fault of the tables, one at a time, and expects a test to fail.

Each job works on a copy of the tree in a temporary folder; the tree itself is not touched. A fault
is killed if a test fails, crashes or hangs. One that no test sees has survived: a test is missing,
or the fault is none, and then the table says why. Before a fault is seeded its tests run on the
unchanged copy, where they have to pass: a test that fails anyway kills nothing.
"""

import argparse
import csv
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import ascend_activation_mutants
import ascend_mutants
import cpu_mutants
import demand_mutants
import emulator_mutants
import gate_mutants
import inherit_mutants
import mtp_mutants
import null_mutants
import offload_mutants
import placement_mutants
import planner_mutants
import python_mutants
import rounding_mutants
import speculation_mutants
import torch_mutants
import trimr_mutants
import triton_mutants
from mutant import Mutant

ROOT = Path(__file__).resolve().parents[2]
ROOMS: dict[str, Sequence[Mutant]] = {
    "triton": triton_mutants.MUTANTS,
    "torch": torch_mutants.MUTANTS,
    "python": [
        *python_mutants.MUTANTS,
        *planner_mutants.MUTANTS,
        *trimr_mutants.MUTANTS,
        *speculation_mutants.MUTANTS,
        *mtp_mutants.MUTANTS,
        *null_mutants.MUTANTS,
        *placement_mutants.MUTANTS,
        *offload_mutants.MUTANTS,
        *demand_mutants.MUTANTS,
        *inherit_mutants.MUTANTS,
        *gate_mutants.MUTANTS,
        *rounding_mutants.MUTANTS,
    ],
    "ascend": [*ascend_mutants.MUTANTS, *ascend_activation_mutants.MUTANTS],
    "emulator": emulator_mutants.MUTANTS,
    "cpu": cpu_mutants.MUTANTS,
}
KILLED, EQUIVALENT, SURVIVED, ERROR = "killed", "equivalent", "SURVIVED", "ERROR"
CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
IMPORTS = """
import moge_ops, moge_ops.triton_kernels
print(moge_ops.__file__, moge_ops.triton_kernels.__file__)
"""


class Result(NamedTuple):
    """What became of one fault."""

    room: str
    mutant: Mutant
    outcome: str
    detail: str
    seconds: float


class Ran(NamedTuple):
    """What one run of pytest said."""

    outcome: str  # passed, failed, or an error of the table
    detail: str
    seconds: float


def compiled(mutant: Mutant) -> str:
    """The extension that the tests need after a change of the file, or nothing."""
    file = mutant.file
    if mutant.tests.startswith("tests/emulator/"):
        return ""  # their fixture builds
    if file.startswith("csrc/cpu/"):
        return "_cpu"
    return "_C" if file.startswith(("ascend_kernels/", "csrc/")) else ""


def read(pytest: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    """Outcome and detail of a run that ended by itself."""
    last = (pytest.stdout.strip().splitlines() or [""])[-1]
    if -pytest.returncode in CRASHES:
        return "failed", f"crash: {signal.Signals(-pytest.returncode).name}"
    if pytest.returncode == 0:
        passed = re.search(r"\d+ passed", last)
        return ("passed", "") if passed else (ERROR, f"no test ran: {last}")
    if pytest.returncode == 1 and re.search(r"\d+ failed", last):
        return "failed", ""
    return ERROR, f"pytest ended with {pytest.returncode}: {last or pytest.stderr[-300:]}"


class Copy:
    """A copy of the tree, what is built from it, and its tests."""

    def __init__(self, folder: Path, tree: Path, stopping: threading.Event) -> None:
        self.root, self.stale, self.stopping = folder, "", stopping
        self.running: subprocess.Popen[str] | None = None
        listed = ["git", "ls-files", "-co", "--exclude-standard"]
        names = subprocess.run(listed, cwd=tree, check=True, capture_output=True, text=True).stdout
        built = [
            str(path.relative_to(tree))
            for stem in ("_C", "_cpu")
            for path in tree.glob(f"moge_ops/{stem}.*")
        ]
        for name in {*names.splitlines(), *built}:
            if (tree / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(tree / name, folder / name)
        # an editable install finds this subpackage in the tree, but only where no path has it
        (folder / "moge_ops" / "triton_kernels").symlink_to("../triton_kernels")
        self.env = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",  # the selections name the interpreter's tests
        }

    def check_imports(self) -> str:
        """The files that tests will import, which must be the copy's."""
        command = [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", "-c", IMPORTS]
        ran = subprocess.run(
            command, cwd=self.root.parent, env=self.env, check=True, capture_output=True, text=True
        )
        for file in ran.stdout.split():
            if not Path(file).is_relative_to(self.root):
                raise SystemExit(f"tests must import the copy {self.root}, got {file}")
        return ran.stdout.strip()

    def build(self, extension: str) -> str:
        """Compiles what has changed of one extension; the end of the output if that fails."""
        command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
        other, off = (
            ("_C", "MOGE_ASCEND_BACKEND") if extension == "_cpu" else ("_cpu", "MOGE_OPS_CPU")
        )
        note = self.root / "moge_ops" / f"{other}.txt"
        said = note.read_text()  # the other one stays as it was copied
        env = {**self.env, off: "off"}
        ran = subprocess.run(command, cwd=self.root, env=env, capture_output=True, text=True)
        note.write_text(said)
        errors = [line for line in ran.stdout.splitlines() if "error" in line]
        return "" if ran.returncode == 0 else (errors or [ran.stderr.strip()])[0][-300:]

    def test(self, tests: str, timeout: float) -> Ran:
        """Runs a selection of tests until the first one fails."""
        command = [str(Path(sys.executable).with_name("pytest")), "-x", "-q", "--no-header"]
        command += ["-p", "no:cacheprovider", *shlex.split(tests)]
        started = time.monotonic()
        self.running = pytest = subprocess.Popen(
            command,
            cwd=self.root,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            if self.stopping.is_set():
                raise KeyboardInterrupt
            out, err = pytest.communicate(timeout=timeout)
            outcome = read(subprocess.CompletedProcess(command, pytest.returncode, out, err))
        except subprocess.TimeoutExpired:
            outcome = "failed", f"hang: stopped after {timeout:.0f} s"
            if pytest.poll() is not None:  # something that it has started holds its output
                self.end_tests()
                out, err = pytest.communicate()
                outcome = read(subprocess.CompletedProcess(command, pytest.returncode, out, err))
        finally:
            self.end_tests()
        return Ran(*outcome, time.monotonic() - started)

    def end_tests(self) -> None:
        """Ends the tests that run now, and the processes that they have started."""
        running, self.running = self.running, None
        if running is not None:
            with suppress(ProcessLookupError, PermissionError):  # they have ended
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()


class Baseline:
    """The selections on the unchanged tree, each run once in all jobs together."""

    def __init__(self) -> None:
        self.lock, self.runs = threading.Lock(), dict[str, Future[Ran]]()

    def run(self, copy: Copy, tests: str) -> Ran:
        """Runs a selection on a copy that is unchanged, unless that was done."""
        with self.lock:
            first = tests not in self.runs
            future = self.runs.setdefault(tests, Future())
        if first:
            try:
                problem = copy.build(copy.stale) if copy.stale else ""
                copy.stale = ""
                future.set_result(
                    Ran(ERROR, f"the unchanged tree does not build: {problem}", 0.0)
                    if problem
                    else copy.test(tests, timeout=600.0)
                )
            except BaseException as error:
                future.set_exception(error)
                raise
        return future.result()


def tried(room: str, mutant: Mutant, copy: Copy, baseline: Baseline, patience: float) -> Result:
    """Seeds one fault in a copy, runs its tests, and restores the copy."""
    started = time.monotonic()

    def result(outcome: str, detail: str) -> Result:
        return Result(room, mutant, outcome, detail, time.monotonic() - started)

    if mutant.equivalent:
        return result(EQUIVALENT, mutant.equivalent)
    path = copy.root / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        return result(ERROR, f"the text must stand there once, got {text.count(mutant.old)} times")
    before = baseline.run(copy, mutant.tests)
    if before.outcome != "passed":
        what = before.detail or "they fail"
        return result(ERROR, f"the tests must pass on the unchanged tree: {what}")
    path.write_text(text.replace(mutant.old, mutant.new))
    try:
        changed = compiled(mutant)
        for extension in sorted({copy.stale, changed} - {""}):
            copy.stale = changed
            if problem := copy.build(extension):
                return result(ERROR, f"does not build: {problem}")
        ran = copy.test(mutant.tests, timeout=max(patience, 10.0 * before.seconds))
    finally:
        path.write_text(text)
    if ran.outcome == "passed":
        return result(SURVIVED, "")
    return result(KILLED if ran.outcome == "failed" else ERROR, ran.detail)


def place(mutant: Mutant, tree: Path = ROOT) -> str:
    """File and line."""
    before = (tree / mutant.file).read_text().partition(mutant.old)[0]
    return f"{mutant.file}:{before.count(chr(10)) + 1}"


def run(
    chosen: Sequence[tuple[str, Mutant]], jobs: int, tree: Path = ROOT, patience: float = 60.0
) -> Iterator[Result]:
    """Tries all faults, and yields each result as it comes.

    Tests hang if they take ``patience`` seconds, and ten times as long as without the fault.
    """
    baseline, lock, stopping = Baseline(), threading.Lock(), threading.Event()
    copies: list[Copy] = []
    # faults of a file follow one another, so that little is compiled again
    files = iter([list(g) for _, g in groupby(chosen, key=lambda pair: pair[1].file)])
    results: list[Result] = []
    arrived = threading.Condition()

    def job(folder: Path) -> None:
        copy = Copy(folder, tree, stopping)
        copies.append(copy)
        print(f"job in {folder} imports {copy.check_imports()}", flush=True)
        while True:
            with lock:
                group = next(files, None)
            if group is None:
                return
            for room, mutant in group:
                if stopping.is_set():
                    return
                found = tried(room, mutant, copy, baseline, patience)
                with arrived:
                    results.append(found)
                    arrived.notify()

    with tempfile.TemporaryDirectory(prefix="moge-mutants-") as temporary:
        folders = [Path(temporary, f"job-{i}") for i in range(jobs)]
        with ThreadPoolExecutor(jobs) as pool:
            futures = [pool.submit(job, folder) for folder in folders]
            try:
                for done in range(len(chosen)):
                    with arrived:
                        while len(results) <= done and not all(f.done() for f in futures):
                            arrived.wait(timeout=1.0)
                    if len(results) <= done:
                        break
                    yield results[done]
            except BaseException:  # Ctrl-C does not reach the tests, which have their own sessions
                stopping.set()
                for copy in copies:
                    copy.end_tests()
                raise
            for future in futures:
                future.result()


def line(result: Result) -> str:
    """One line of the report."""
    detail = f" ({result.detail})" if result.detail else ""
    head = f"{result.outcome:<10} {result.seconds:6.1f} s  {place(result.mutant)}"
    return f"{head}  {result.mutant.why}{detail}"


def report(results: Iterable[Result]) -> Iterator[str]:
    """Survivors, errors, and totals by room."""
    results = list(results)
    for result in results:
        if result.outcome in (SURVIVED, ERROR):
            yield f"{line(result)}\n{'':20} tests: {result.mutant.tests}"
    for room in dict.fromkeys(result.room for result in results):
        own = [result for result in results if result.room == room]
        counts = Counter(result.outcome for result in own)
        said = ", ".join(f"{counts[o]} {o}" for o in (KILLED, EQUIVALENT, SURVIVED, ERROR))
        yield f"{room:<8} {len(own):4} mutants: {said}, {sum(r.seconds for r in own):.0f} s"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 if a fault survived or could not be tried."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    only = f"{', '.join(ROOMS)}, or a part of a path; may be given several times"
    parser.add_argument("--only", metavar="TEXT", action="append", help=only)
    parser.add_argument("--jobs", type=int, default=1, metavar="N")
    parser.add_argument("--csv", metavar="FILE", help="write the results there")
    args = parser.parse_args(arguments)
    chosen = [
        (room, mutant)
        for room, mutants in ROOMS.items()
        for mutant in mutants
        if not args.only or any(text == room or text in mutant.file for text in args.only)
    ]
    if not chosen:
        parser.error(f"--only must be {', '.join(ROOMS)}, or a part of a path, got {args.only!r}")
    results = []
    for result in run(chosen, max(1, args.jobs)):
        results.append(result)
        print(line(result), flush=True)
    print("\n".join(["", *report(results)]))
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["room", "place", "outcome", "seconds", "why", "tests", "detail"])
            for r in results:
                row = [r.room, place(r.mutant), r.outcome, f"{r.seconds:.1f}"]
                table.writerow([*row, r.mutant.why, r.mutant.tests, r.detail])
    return int(any(result.outcome in (SURVIVED, ERROR) for result in results))


if __name__ == "__main__":
    sys.exit(main())
