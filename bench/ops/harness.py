"""What the benchmarks share: sizes, interleaved timing, ceilings, comparison, the CSV."""

import argparse
import csv
import datetime
import math
import os
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

# Large pages for large tensors. torch reads this at its first allocation. Without it the system
# spends most of a memory-bound operator's time on clearing new pages of 4 KiB: a gather of 64 MiB
# takes 39 ms instead of 16 (2 Zen 4 cores, torch 2.13, November 2026)
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import printing
import torch
from problem import BACKWARD, FORWARD, Operator, Work
from torch import Tensor

from moge_ops.testing import Sizes, assert_matches

if TYPE_CHECKING:  # what draws is not in the engines' environments
    from matplotlib.figure import Figure

RESULTS = Path(__file__).resolve().parents[1] / "results"
LAYER = Sizes(1, H=1024, E=64, G=8, k=1, F=256)
PER_OP = [LAYER._replace(T=T) for T in (16, 512)]
SMOKE = [Sizes(T, H=32, E=8, G=2, k=2, F=16) for T in (1, 9)]


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


class Timing(NamedTuple):
    """Seconds of one call: the median and the 20 % and 80 % quantiles over the rounds."""

    median: float
    q20: float
    q80: float
    rounds: int


class Plan(NamedTuple):
    """How long to measure."""

    seconds: float = 4.0  # all rounds together, within these bounds on their number:
    rounds: tuple[int, int] = (7, 41)
    sample_seconds: float = 2e-3  # a shorter call is repeated; one sample is the mean


SMOKE_PLAN = Plan(0.0, (3, 3), 0.0)


# written between two samples: larger than any GPU's L2 cache
FLUSHED = 2**28


def host_sampler(
    variants: Mapping[str, Callable[[], object]],
) -> Callable[[str, int], float]:
    """Seconds of one call by the host's clock, the mean of several."""

    def sample(name: str, calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            variants[name]()
        return (time.perf_counter() - start) / calls

    return sample


def event_sampler(
    variants: Mapping[str, Callable[[], object]], device: str = "cuda"
) -> Callable[[str, int], float]:
    """Seconds of one call on the GPU, by events around it; its L2 cache is flushed before.

    The flush is repeated for as long as the host needs to issue the call, so that the kernels
    are queued when the first of them starts: launches cost nothing, as in a CUDA graph. A
    call that waits for the device pays for that, up to the last flush.
    """
    cache = torch.empty(FLUSHED, dtype=torch.int8, device=device)
    flushes: dict[str, int] = {}

    def timed(run: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3

    def flushes_for(run: Callable[[], object]) -> int:
        run()
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        issued = time.perf_counter() - start
        torch.cuda.synchronize()
        cache.zero_()
        # 1.5: the host is not equally fast every time
        return min(32, math.ceil(1.5 * issued / timed(cache.zero_)) + 1)

    def sample(name: str, calls: int) -> float:
        run = variants[name]
        if name not in flushes:
            flushes[name] = flushes_for(run)
        total = 0.0
        for _ in range(calls):
            for _ in range(flushes[name]):
                cache.zero_()
            total += timed(run)
        return total / calls

    return sample


def interleave(
    variants: Mapping[str, Callable[[], object]], plan: Plan, device: str = "cpu"
) -> dict[str, Timing]:
    """Times variants in turns, so that a change of the machine's pace meets all of them."""
    sample = event_sampler(variants) if device == "cuda" else host_sampler(variants)
    return in_turns(list(variants), sample, plan)


def in_turns(
    names: Sequence[str], sample: Callable[[str, int], float], plan: Plan
) -> dict[str, Timing]:
    """Times by ``sample(name, calls) -> seconds``, the mean of some calls.

    Every round samples every name, each in an order of its own: what ran before decides what is
    left in the caches.
    """

    def calls_of(name: str) -> int:
        sample(name, 1)  # warm-up
        return max(1, math.ceil(plan.sample_seconds / sample(name, 1)))

    calls = {name: calls_of(name) for name in names}
    one_round = sum(sample(name, calls[name]) * calls[name] for name in names)
    fewest, most = plan.rounds
    n = max(fewest, min(most, int(plan.seconds / one_round)))

    samples: dict[str, list[float]] = {name: [] for name in names}
    order = random.Random(0)
    for _ in range(n):
        for name in order.sample(names, len(names)):
            samples[name].append(sample(name, calls[name]))

    def timing(x: list[float]) -> Timing:
        q = statistics.quantiles(x, n=5, method="inclusive")
        return Timing(statistics.median(x), q[0], q[3], len(x))

    return {name: timing(x) for name, x in samples.items()}


Calls = Mapping[str, tuple[Callable[[], object], Work]]


def ceilings(dtype: torch.dtype, device: str, *, smoke: bool) -> Calls:
    """Calls that show what the machine gives.

    ``dense``: a 2048³ product in ``dtype``. ``copy``: 256 MiB to another place. On a GPU 8192³ and
    2 GiB, which fill it and pass its caches; 4096³ where a CPU has tiles.
    """
    gpu = device == "cuda"
    n = 64 if smoke else 8192 if gpu else 4096 if torch.cpu._is_amx_tile_supported() else 2048
    a, b, c = (torch.randn(n, n, device=device).to(dtype) for _ in range(3))
    elements = 2**10 if smoke else 2**28 if gpu else 2**25
    source = torch.ones(elements, dtype=torch.float64, device=device)
    target = torch.zeros_like(source)
    return {
        "dense": (lambda: torch.mm(a, b, out=c), Work(2 * n**3, 3 * n * n * dtype.itemsize)),
        "copy": (lambda: target.copy_(source), Work(0, 2 * source.nbytes)),
    }


def timed(
    calls: Calls, plan: Plan, dtype: torch.dtype, device: str = "cpu", *, smoke: bool = False
) -> dict[str, dict[str, Any]]:
    """Times ``calls`` and the ceilings in turns: columns by name, with shares of the ceilings."""
    calls = {**calls, **ceilings(dtype, device, smoke=smoke)}
    timings = interleave({name: run for name, (run, _) in calls.items()}, plan, device)
    dense = calls["dense"][1].flops / timings["dense"].median
    copy = calls["copy"][1].bytes / timings["copy"].median
    return {
        name: {
            **measured(timings[name], work),
            "of_dense": f"{work.flops / timings[name].median / dense:.3g}",
            "of_copy": f"{work.bytes / timings[name].median / copy:.3g}",
        }
        for name, (_, work) in calls.items()
    }


COLUMNS = [
    *("date", "machine", "cores", "threads", "huge_pages"),
    *("python", "torch", "transformers", "revision"),
    *("op", "variant", "dtype", "direction", "T", "H", "E", "G", "k", "F"),
    *("median_ms", "q20_ms", "q80_ms", "rounds", "flops", "bytes", "gflop_s", "gb_s"),
    *("of_dense", "of_copy", "rms_error", "note"),
]


def _machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else [])
        if line.startswith("model name")
    ]
    return names[0] if names else platform.processor() or platform.machine()


def revision() -> str:
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("MOGE_OPS_REVISION", "")  # an unpacked archive, or no git


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def environment(device: str = "cpu") -> dict[str, Any]:
    """The columns that every row of a run shares."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "date": now.strftime("%Y-%m-%dT%H:%MZ"),
        "machine": _machine(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "huge_pages": os.environ["THP_MEM_ALLOC_ENABLE"],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "revision": revision(),
    }


def origin() -> dict[str, Any]:
    """When, where and with what an example ran: the first columns of its CSV."""
    here = environment()
    return {name: here[name] for name in ("date", "machine", "threads", "torch", "revision")}


def ran_on(row: Mapping[str, str]) -> str:
    """What :func:`origin` says, for the title of a picture."""
    threads = f"{row['threads']} thread{'s' * (row['threads'] != '1')}"
    return f"{row['machine']}, {threads}, torch {row['torch']}, {row['date'][:10]}"


def measured(timing: Timing, work: Work) -> dict[str, Any]:
    """The columns of a timing: milliseconds, counts and rates."""
    return {
        "median_ms": f"{timing.median * 1e3:.4g}",
        "q20_ms": f"{timing.q20 * 1e3:.4g}",
        "q80_ms": f"{timing.q80 * 1e3:.4g}",
        "rounds": timing.rounds,
        "flops": work.flops,
        "bytes": work.bytes,
        "gflop_s": f"{work.flops / timing.median / 1e9:.4g}",
        "gb_s": f"{work.bytes / timing.median / 1e9:.4g}",
    }


def append(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> None:
    """Appends rows to a CSV, with its header if the file is new.

    Raises:
        ValueError: The file there has other columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    if not new:
        with path.open(newline="") as file:
            header = next(csv.reader(file), [])
        if header != list(columns):
            raise ValueError(f"{path.name} must have the columns {list(columns)}, got {header}")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
    """A CSV anew; its columns are those of the first row unless they are given."""
    path.unlink(missing_ok=True)
    append(path, rows, columns or list(rows[0]))


def report(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    shown: Iterable[object],
    started: float,
    columns: Sequence[str] = (),
    draw: "Callable[[Path], Figure] | None" = None,
) -> None:
    """Prints tables and lines, writes a CSV, draws its picture, and says where and how long."""
    out = printing.console()
    out.print(*shown, sep="\n")
    write(path, rows, columns)
    if draw:
        draw(path).savefig(path.with_suffix(".png"), dpi=150)
        out.print(f"Picture: {path.with_suffix('.png')}, drawn from {path.name}")
    out.print(f"{path}; {time.perf_counter() - started:.0f} s in all")


Options = Mapping[str, tuple[int, int, str]]  # name -> default, least, help


def sized(description: str, options: Options) -> argparse.ArgumentParser:
    """A parser with numbers; :func:`parsed` checks them."""
    found = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for name, (default, _, text) in options.items():
        found.add_argument(f"--{name}", type=int, default=default, help=text)
    return found


def example(description: str, options: Options, rate: float = 0.0) -> argparse.ArgumentParser:
    """The parser of an example that writes to a folder, and trains if it has a learning rate."""
    found = sized(description, options)
    if rate:
        found.add_argument("--learning-rate", type=float, default=rate, help="at its peak")
    found.add_argument("--smoke", action="store_true", help="tiny sizes: does it run?")
    found.add_argument("--out", type=Path, default=RESULTS, help="folder of what it writes")
    return found


def parsed(
    parser: argparse.ArgumentParser,
    options: Options,
    smoke: Mapping[str, int] | None = None,
    **most: int,
) -> argparse.Namespace:
    """Arguments whose numbers are at least those of the options, and at most those of ``most``.

    With ``--smoke`` those that were left alone take their values from ``smoke``.
    """
    args = parser.parse_args()
    for name, few in (smoke or {}).items():
        if args.smoke and getattr(args, name) == options[name][0]:
            setattr(args, name, few)
    for name, (_, least, _) in options.items():
        value = getattr(args, name.replace("-", "_"))
        if value < least:
            parser.error(f"--{name} must be at least {least}, got {value}")
        if value > most.get(name, value):
            parser.error(f"--{name} must be at most {most[name]}, got {value}")
    return args


def parser(doc: str | None, results: str) -> argparse.ArgumentParser:
    """Options of a script that appends to a CSV of bench/results."""
    found = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    found.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it runs")
    text = f"CSV to append to (default: bench/results/{results})"
    found.add_argument("--out", type=Path, default=RESULTS / results, help=text)
    return found


def compare(op: Operator, direction: str) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What ``op`` computes in one direction: name, ours, the float64 oracle's."""
    assert op.oracle is not None
    wide = [x.detach().double().requires_grad_(direction == BACKWARD) for x in op.leaves]
    want = op.oracle(*wide)
    if direction == FORWARD:
        yield "output", op.out, want
        return
    # a float32 gradient of a bfloat16 operator carries the rounding of its other tensors
    dtypes = {x.dtype for x in (op.out, *op.leaves)}
    coarsest = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    want_grads = torch.autograd.grad(want, wide, op.d_out.double())
    for name, grad, want_grad in zip(op.inputs, op.backward(), want_grads, strict=True):
        yield f"d_{name}", grad.to(coarsest), want_grad


def agrees(
    found: Mapping[str, Tensor], want: Mapping[str, Tensor], slack: float, whose: str = ""
) -> float:
    """The largest RMS error; AssertionError beyond ``slack`` times the limits of one operator."""
    return max(
        assert_matches(got, want[name], whose + name, lines=True, slack=slack)
        for name, got in found.items()
    )


def check_and_time(benchmark: Any, op: Operator, direction: str) -> None:
    """Compares output and gradients of ``op`` with its oracle, then times one direction.

    Rates go to the ``extra_info`` of ``benchmark``, the fixture of pytest-benchmark.
    """
    for name, integers, wanted in op.exact():
        assert torch.equal(integers, wanted), name
    for way in (FORWARD, BACKWARD) if op.oracle else ():
        for name, got, want in compare(op, way):
            assert_matches(got, want, name)
    run, work = op.calls()[direction]

    def call() -> None:
        run()
        synchronize("cuda" if torch.cuda.is_available() else "cpu")

    benchmark(call)
    benchmark.extra_info.update(work._asdict())
    if benchmark.stats is not None:  # None under --benchmark-disable
        median = benchmark.stats.stats.median
        benchmark.extra_info["gflop_s"] = work.flops / median / 1e9
        benchmark.extra_info["gb_s"] = work.bytes / median / 1e9
