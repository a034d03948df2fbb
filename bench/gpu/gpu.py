"""Checks and measures everything on one GPU, in at most nine minutes.

Needs torch >= 2.11, Triton >= 3.6 with a C compiler, pytest, hypothesis, safetensors and rich; no
network, and nothing that outlasts the run: the package runs from this checkout, peers from what is
installed and from ``.whl/``, which ``make gpu-wheels`` and ``make gpu-kernels`` fill. It replaces
the files of the last one. Each part is a process with a limit of time: one that hangs, or breaks
the GPU's context, costs nothing of the others. Exit code: 0, 1 if a check failed or something of
ours hung or crashed, 2 without a GPU.
"""

import argparse
import datetime
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from brought import ROOT, binaries, prepare

HERE = Path(__file__).resolve().parent
SECONDS = 540.0
REPORT_SECONDS = 25.0
VERSIONS_SECONDS = 30.0
RESTARTS = 4
# of one run, apart from its tiles
FILES = ("gpu.csv", "summary.txt", "log.txt", "gpu_layer.png", "gpu_split.png", "ncu.csv")
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
    most: float = math.inf  # seconds after which it is stopped, whatever is left
    stall: float = 0.0  # seconds without a new note after which it counts as hung; 0: never
    correctness: bool = False  # it fails if it does not end
    command: tuple[str, ...] = ()  # if it is no function of gpu_parts.py
    prefix: tuple[str, ...] = ()  # comes before python in the command line
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def kind(self) -> str:
        return self.name.partition("-")[0]


class Outcome(NamedTuple):
    """How a part ended."""

    name: str
    status: str
    seconds: float
    failed: bool  # in correctness
    last: str  # what it did last, if it did not end well


def cuda_tool(name: str) -> str:
    """Path of a tool of CUDA's, if it is here."""
    places = [Path("/usr/local/cuda/bin"), *Path("/opt/nvidia/nsight-compute").glob("*")]
    elsewhere = [str(place / name) for place in places if (place / name).is_file()]
    return shutil.which(name) or next(iter(elsewhere), "")


def small(tool: str) -> Part:
    """The small sizes under a tool of compute-sanitizer, or without where there is none."""
    sanitizer = cuda_tool("compute-sanitizer")
    # racecheck reports each reduction of Triton in which threads write one value to one place
    # (https://github.com/triton-lang/triton/issues/7264): what it finds is to be read, no failure
    races = tool == "racecheck" and bool(sanitizer)
    levels = ("--racecheck-detect-level", "error") if races else ()
    return Part(
        f"small-{tool}" if sanitizer else "small",
        120,
        correctness=not races,
        prefix=(sanitizer, "--tool", tool, *levels, "--error-exitcode", "9") if sanitizer else (),
        environment=(("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),),  # sees every allocation
    )


# what of ncu names the reason of a time: shares of the peaks, occupancy, stalls
SECTIONS = ("SpeedOfLight", "LaunchStats", "Occupancy", "SchedulerStats", "WarpStateStats")


def counted(out: Path) -> Part:
    """Kernels under ncu, which leaves what it counted in ``out``; without it they only run."""
    ncu = cuda_tool("ncu")
    options = ("--profile-from-start", "off", "--clock-control", "none", "--csv")
    options += ("--page", "details", "--log-file", str(out / "ncu.csv"))
    sections = (option for name in SECTIONS for option in ("--section", name))
    prefix = (ncu, *options, *sections) if ncu else ()
    return Part("counters-ncu" if ncu else "counters", 35, prefix=prefix)


def stages(*, smoke: bool, work: Path, out: Path, tokens: int = 7) -> list[list[Part]]:
    """Stages run one after the other. Parts that time nothing share one and run side by side.

    ``tokens``: how many numbers of tokens the layer is timed at.
    """
    demo = (str(ROOT / "examples" / "demo.py"), *DEMO[smoke], "--out", str(work / "demo"))
    shares = 1 if smoke else max(1, min(6, (os.cpu_count() or 1) // 2 - 2))
    # with so many processes on the cores, a test or a compilation may be silent for a minute; a
    # smoke run may have two cores, and other tests beside it
    stall = 300 if smoke else 100
    sharing = (("QUACK_COMPILE_WORKERS", "1"),)  # QuACK would start eight processes in each
    # memcheck alone where the tool is missing: both would be the same
    watched = [small(tool) for tool in ("memcheck", "racecheck")]
    # what was compiled beforehand is for the usual tiles
    static = (("MOGE_OPS_CONFIG_DIR", ""),)
    return [
        [Part("ceilings", 25, stall=30)],
        [
            Part("tests", 120, stall=stall, correctness=True),
            Part("checks", 120, stall=stall, correctness=True),
            Part("demo", 120, correctness=True, command=demo),
            *{part.name: part for part in watched}.values(),
            *(Part(f"tune-{share}-{shares}", 120, environment=sharing) for share in range(shares)),
            Part("tunegate", 120),
            Part("tunequant", 120),
        ],
        [Part("tiles", 60, most=100, stall=stall / 2)],
        [Part("layer", min(110, 30 + 12 * tokens), stall=100)],
        [Part("sonic", 45, stall=45)],
        [Part("gate", 30, stall=30)],
        [Part("quant", 40, stall=30, environment=static)],
        [Part("memory", 20, stall=20)],
        [counted(out)],
    ]


class Running:
    """A part at work; a crash or a hang starts it again without what it was doing."""

    def __init__(self, part: Part, base: Sequence[str], work: Path, until: float) -> None:
        self.part, self.base, self.work, self.until = part, base, work, until
        self.began, self.failed = time.monotonic(), False
        self.survived: list[str] = []  # why it was started again
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
        """Ends it with its children, which may have outlived it."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # one that waits in the driver cannot be killed
            self.process.wait(timeout=5)

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
        self.kill()
        if code is None:
            return self.end(f"killed after {now - self.began:.0f} s", self.part.correctness)
        if code == 0:
            return self.end("ok", False)
        return self.again(f"exit code {code}")

    def again(self, why: str) -> Outcome | None:
        """Starts it once more without the peer, or else the point, that it had reached."""
        unknown = "||" if self.part.prefix else "|ours|"  # or the tool's own exit code
        left = self.note.read_text().strip() if self.note.exists() else unknown
        name, whose, doing = left.split("|", 2)
        self.failed |= self.part.correctness or whose == "ours"
        alive = self.process.poll() is None
        little = self.until - time.monotonic() < 10
        if not name or alive or little or len(self.survived) == RESTARTS:
            return self.end(why, self.failed)
        with (self.work / f"{self.part.name}.without").open("a") as file:
            file.write(f"{name}|not run: {why} at {doing}\n")
        with (self.work / f"{self.part.name}.log").open("a") as log:
            log.write(f"\n== {why} at {doing}: started again without {name}\n")
        self.note.unlink()
        self.survived.append(f"{why} at {doing}")
        self.start()
        return None

    def end(self, status: str, failed: bool) -> Outcome:
        lasts = [*self.survived, *([] if status == "ok" else [self.last()[:300]])]
        if self.survived:
            status += f", after {len(self.survived)} restarts"
        seconds, last = time.monotonic() - self.began, "; ".join(filter(None, lasts))
        return Outcome(self.part.name, status, seconds, failed or self.failed, last)


def run_stage(
    parts: Sequence[Part], base: Sequence[str], work: Path, seconds: float
) -> list[Outcome]:
    """Runs parts at the same time; none outlasts ``seconds``."""
    now = time.monotonic()
    if len(parts) > 1:  # a thread of torch for each core in each of twenty processes slows all down
        parts = [p._replace(environment=(*p.environment, ("OMP_NUM_THREADS", "1"))) for p in parts]
    running: list[Running] = []
    outcomes = []
    try:
        for part in parts:
            running.append(Running(part, base, work, now + min(seconds, part.most)))
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


def planned(plan: Sequence[Sequence[Part]], only: Sequence[str]) -> list[list[Part]]:
    """The stages with what is asked for: everything, or the parts of some kinds.

    Raises:
        SystemExit: A kind does not exist.
    """
    kinds = list(dict.fromkeys(part.kind for stage in plan for part in stage))
    if unknown := [kind for kind in only if kind not in kinds]:
        sys.exit(f"--only takes {', '.join(kinds)}, got {', '.join(unknown)}")
    chosen = [[part for part in stage if not only or part.kind in only] for stage in plan]
    return [stage for stage in chosen if stage]


def kept(plan: Sequence[Sequence[Part]]) -> float:
    """Seconds that stages are given."""
    return sum(max(part.seconds for part in stage) for stage in plan)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "gpu", help="default: out/gpu")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on the CPU: does it run?")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="parts that run")
    parser.add_argument("--without", nargs="+", default=[], metavar="PEER", help="peers left out")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="in all")
    parser.add_argument("--tokens", nargs="+", type=int, default=[], help="of Pangu's layer")
    args = parser.parse_args()
    for ended in (signal.SIGTERM, signal.SIGHUP):  # the parts, in sessions of their own, end too
        signal.signal(ended, lambda number, _: sys.exit(128 + number))
    end = time.monotonic() + args.seconds - REPORT_SECONDS
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    csv, tiles = out / "gpu.csv", out / "tiles" / "configs.csv"
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

    with tempfile.TemporaryDirectory(prefix="moge_gpu") as folder:
        work = Path(folder)
        trouble = prepare(work, ROOT / ".whl")
        carried = binaries(work)
        if args.smoke:  # Triton asks once, when it is imported
            os.environ["TRITON_INTERPRET"] = "1"
        sizes = {"tokens": len(args.tokens)} if args.tokens else {}
        plan = planned(stages(smoke=args.smoke, work=work, out=out, **sizes), args.only)
        base = ["--csv", str(csv), "--work", str(work), "--date", now]
        base += ["--smoke"] if args.smoke else []
        base += ["--tokens", *map(str, args.tokens)] if args.tokens else []
        versions = Part("versions", VERSIONS_SECONDS, correctness=True)
        outcomes = run_stage([versions], base, work, VERSIONS_SECONDS)
        print((work / "versions.log").read_text(), flush=True)
        if outcomes[0].failed:
            print("this machine cannot run the suite, see above: it needs a GPU that torch sees")
            print("and the packages that `make gpu` names, or --smoke for tiny sizes on the CPU")
            return 2
        for old in (tiles, *(out / name for name in FILES)):
            old.unlink(missing_ok=True)
        for part in (part for stage in plan for part in stage):
            for peer in args.without:
                with (work / f"{part.name}.without").open("a") as file:
                    file.write(f"{peer}|not run: left out\n")
        for i, stage in enumerate(plan):
            left = end - time.monotonic()
            # all of the rest are cut alike where there is not enough
            here, later = kept(plan[i : i + 1]), kept(plan[i + 1 :])
            seconds = max(left - later, left * here / (here + later))
            outcomes += run_stage(stage, base, work, seconds)
            if tiles.exists():
                os.environ["MOGE_OPS_CONFIG_DIR"] = str(tiles.parent)

        log = out / "log.txt"
        with log.open("w") as file:
            for outcome in outcomes:
                text = (work / f"{outcome.name}.log").read_text(errors="replace")
                file.write(f"==== {outcome.name}: {outcome.status}\n{text[-200_000:]}\n")
        facts = {
            "trouble": trouble,
            "carried": carried,
            "compiled": binaries(work) - carried,
            "smoke": args.smoke,
            "seconds": time.monotonic() - end + args.seconds - REPORT_SECONDS,
            "outcomes": [outcome._asdict() for outcome in outcomes],
        }
        (work / "facts.json").write_text(json.dumps(facts))
        command = [sys.executable, str(HERE / "gpu_report.py"), str(csv), str(work / "facts.json")]
        sys.stdout.flush()
        try:
            done = subprocess.run(command, check=False, timeout=REPORT_SECONDS, cwd=work)
        except subprocess.TimeoutExpired:
            print("the report took too long: rows are in", csv)
            return 1
        return done.returncode


if __name__ == "__main__":
    sys.exit(main())
