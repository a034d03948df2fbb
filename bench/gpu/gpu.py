"""Checks and measures everything on one GPU, in at most nine minutes.

Needs torch >= 2.11, Triton >= 3.6 and pytest, no network and no installation: the package runs from
this checkout, peers from what is installed and from the wheels in ``.whl/`` (``make gpu-wheels``).
Each part is a process with a limit of time: one that hangs, or breaks the GPU's context, costs
nothing of the others. Exit code: 0, 1 if a correctness check failed or did not end, 2 without a
GPU.
"""

import argparse
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SECONDS = 540.0
REPORT_SECONDS = 25.0
RESTARTS = 4
DEMO = {
    False: ["--tokens", "1024"],
    True: [
        *("--tokens", "8", "--hidden", "48", "--experts", "12", "--groups", "3"),
        *("--k", "2", "--expert-size", "20"),
    ],
}


class Part(NamedTuple):
    """A process. Its name is also that of its log and notes; the first word is its function's."""

    name: str
    seconds: float  # kept for it: earlier parts must leave them
    stall: float = 0.0  # seconds without a new note after which it counts as hung; 0: never
    correctness: bool = False  # it fails if it does not end
    command: tuple[str, ...] = ()  # if it is no function of gpu_parts.py
    prefix: tuple[str, ...] = ()  # comes before python in the command line
    environment: tuple[tuple[str, str], ...] = ()


class Outcome(NamedTuple):
    """How a part ended."""

    name: str
    status: str
    seconds: float
    failed: bool  # in correctness
    last: str  # what it did last, if it did not end well


def sanitizer() -> str:
    """Path of compute-sanitizer, if it is here."""
    beside_cuda = Path("/usr/local/cuda/bin/compute-sanitizer")
    return shutil.which("compute-sanitizer") or (str(beside_cuda) if beside_cuda.exists() else "")


def stages(*, smoke: bool, work: Path) -> list[list[Part]]:
    """Stages run one after the other. Parts that time nothing share one and run side by side."""
    tool = sanitizer()
    prefix = (tool, "--tool", "memcheck", "--error-exitcode", "9") if tool else ()
    demo = (str(ROOT / "examples" / "demo.py"), *DEMO[smoke], "--out", str(work / "demo"))
    shares = 1 if smoke else max(1, min(6, (os.cpu_count() or 1) // 2 - 2))
    stall = 300 if smoke else 60  # a smoke run may share two cores with other tests
    return [
        [Part("ceilings", 40, 30)],
        [
            Part("tests", 150, stall, correctness=True),
            Part("checks", 150, stall, correctness=True),
            Part("demo", 150, correctness=True, command=demo),
            Part(
                "small-memcheck" if tool else "small",
                150,
                correctness=True,
                prefix=prefix,
                environment=(("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),),  # sees every allocation
            ),
            *(Part(f"tune-{share}-{shares}", 150) for share in range(shares)),
            Part("tunegate", 150),
        ],
        [Part("layer", 140, 100)],
        [Part("sonic", 60, 60)],
        [Part("gate", 45, 40)],
        [Part("memory", 30, 30)],
    ]


class Running:
    """A part at work; a crash or a hang starts it again without what it was doing."""

    def __init__(self, part: Part, base: Sequence[str], work: Path, until: float) -> None:
        self.part, self.base, self.work, self.until = part, base, work, until
        self.began, self.restarts, self.failed = time.monotonic(), 0, False
        self.note = work / f"{part.name}.now"
        self.start()

    def start(self) -> None:
        part = self.part
        script = part.command or ("gpu_parts.py", part.name, *self.base)
        with (self.work / f"{part.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*part.prefix, sys.executable, str(HERE / script[0]), *script[1:]],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.work,  # not the root, whose triton_kernels/ has another package's name
                env=os.environ | dict(part.environment),
                start_new_session=True,  # killed with its children
            )
        self.heard = time.monotonic()

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def last(self) -> str:
        """What it noted last, or else the end of what it printed."""
        if self.note.exists():
            return self.note.read_text().strip().split("|", 2)[2]
        lines = (self.work / f"{self.part.name}.log").read_text(errors="replace").splitlines()
        said = [line for line in lines if line.strip()]
        found = [line for line in said if line.startswith("========= ")]  # memcheck's
        return "; ".join(found[1:4]) or "".join(said[-1:])

    def poll(self) -> Outcome | None:
        """The outcome, once there is one."""
        now = time.monotonic()
        code = self.process.poll()
        if code is None and now < self.until:
            if self.note.exists():
                silent = time.time() - self.note.stat().st_mtime
                self.heard = max(self.heard, now - silent)
            if not self.part.stall or now - self.heard < self.part.stall:
                return None
            self.kill()
            return self.again(f"hung for {self.part.stall:g} s")
        if code is None:
            self.kill()
            return self.end(f"killed after {now - self.began:.0f} s", self.part.correctness)
        if code == 0:
            return self.end("ok", False)
        return self.again(f"exit code {code}")

    def again(self, why: str) -> Outcome | None:
        """Starts it once more without the peer, or else the point, that it had reached."""
        left = self.note.read_text().strip() if self.note.exists() else "|ours|"
        name, whose, doing = left.split("|", 2)
        self.failed |= self.part.correctness or whose == "ours"
        if not name or self.restarts == RESTARTS or self.until - time.monotonic() < 10:
            return self.end(why, self.failed)
        with (self.work / f"{self.part.name}.without").open("a") as file:
            file.write(f"{name}|not run: {why} at {doing}\n")
        with (self.work / f"{self.part.name}.log").open("a") as log:
            log.write(f"\n== {why} at {doing}: started again without {name}\n")
        self.note.unlink()
        self.restarts += 1
        self.start()
        return None

    def end(self, status: str, failed: bool) -> Outcome:
        if self.restarts:
            status += f", after {self.restarts} restarts"
        seconds = time.monotonic() - self.began
        last = "" if status == "ok" else self.last()[:300]
        return Outcome(self.part.name, status, seconds, failed or self.failed, last)


def run_stage(
    parts: Sequence[Part], base: Sequence[str], work: Path, seconds: float
) -> list[Outcome]:
    """Runs parts at the same time; none outlasts ``seconds``."""
    until = time.monotonic() + seconds
    running = [Running(part, base, work, until) for part in parts]
    outcomes = []
    try:
        while running:
            for one in list(running):
                if outcome := one.poll():
                    running.remove(one)
                    outcomes.append(outcome)
                    print(f"{outcome.name}: {outcome.status}, {outcome.seconds:.0f} s", flush=True)
            time.sleep(0.05)
    finally:
        for one in running:
            one.kill()
    return outcomes


def prepare(work: Path, wheels: Path) -> str:
    """Makes package, harness and wheels importable for every part; returns what went wrong."""
    package = work / "checkout" / "moge_ops"
    package.mkdir(parents=True)
    for entry in (ROOT / "moge_ops").iterdir():
        (package / entry.name).symlink_to(entry)
    (package / "triton_kernels").symlink_to(ROOT / "triton_kernels")
    harness = str(ROOT / "bench" / "ops")
    paths = [str(package.parent), harness, *filter(None, [os.environ.get("PYTHONPATH")])]
    trouble = ""
    if found := sorted(wheels.glob("*.whl")):
        target = work / "wheels"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run(
            [*pip, "--no-index", "--no-deps", "--no-compile", "--target", str(target), *found],
            capture_output=True,
            text=True,
            check=False,
        )
        paths.insert(2, str(target))
        if done.returncode:
            trouble = f"wheels were not installed: {done.stderr.strip().splitlines()[-1]}"
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ["PYTHONUNBUFFERED"] = "1"
    os.environ.setdefault("MOGE_OPS_EXAMPLES", "5")  # per property test
    # the tests turn deterministic algorithms on, which cuBLAS refuses without
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return trouble


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "gpu", help="default: out/gpu")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on the CPU: does it run?")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="parts that run")
    parser.add_argument("--without", nargs="+", default=[], metavar="PEER", help="peers left out")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="in all")
    args = parser.parse_args()
    end = time.monotonic() + args.seconds - REPORT_SECONDS
    args.out.mkdir(parents=True, exist_ok=True)
    csv = args.out / "gpu.csv"
    csv.unlink(missing_ok=True)
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

    with tempfile.TemporaryDirectory(prefix="moge_gpu") as folder:
        work = Path(folder)
        trouble = prepare(work, ROOT / ".whl")
        base = ["--csv", str(csv.resolve()), "--work", str(work), "--date", now]
        base += ["--smoke"] if args.smoke else []
        outcomes = run_stage([Part("versions", 40, correctness=True)], base, work, 60)
        print((work / "versions.log").read_text(), flush=True)
        if outcomes[0].failed:
            print("this machine cannot run the suite: it needs a GPU that torch sees, or --smoke")
            return 2
        plan = stages(smoke=args.smoke, work=work)
        for part in (part for stage in plan for part in stage):
            for peer in args.without:
                with (work / f"{part.name}.without").open("a") as file:
                    file.write(f"{peer}|not run: left out\n")
        for i, stage in enumerate(plan):
            chosen = [p for p in stage if not args.only or p.name.split("-")[0] in args.only]
            later = sum(max(part.seconds for part in other) for other in plan[i + 1 :])
            if chosen:
                outcomes += run_stage(chosen, base, work, end - later - time.monotonic())

        log = args.out / "log.txt"
        with log.open("w") as file:
            for outcome in outcomes:
                text = (work / f"{outcome.name}.log").read_text(errors="replace")
                file.write(f"==== {outcome.name}: {outcome.status}\n{text[-200_000:]}\n")
        facts = {
            "trouble": trouble,
            "smoke": args.smoke,
            "seconds": time.monotonic() - end + args.seconds - REPORT_SECONDS,
            "outcomes": [outcome._asdict() for outcome in outcomes],
        }
        (work / "facts.json").write_text(json.dumps(facts))
        command = [sys.executable, str(HERE / "gpu_report.py"), str(csv), str(work / "facts.json")]
        sys.stdout.flush()
        try:
            done = subprocess.run(command, check=False, timeout=60, cwd=work)
        except subprocess.TimeoutExpired:
            print("the report took too long: rows are in", csv)
            return 1
        return done.returncode


if __name__ == "__main__":
    sys.exit(main())
