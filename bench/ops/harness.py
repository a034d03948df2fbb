"""What the benchmarks share: sizes, interleaved timing, ceilings, FLOP and byte counts, the CSV."""

import csv
import datetime
import math
import os
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

# Large pages for large tensors. torch reads it at its first allocation; without it most of the time
# of a memory-bound operator is the kernel's, clearing new pages of 4 KiB: 39 against 16 ms for a
# gather of 64 MiB (2 Zen 4 cores, torch 2.13, November 2026)
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch
from torch import Tensor

from moge_ops.testing import assert_matches, group_ids

RESULTS = Path(__file__).parent / "results"


class Sizes(NamedTuple):
    """The legend of dimensions: K = G·k experts per token, N = T·K routed rows."""

    T: int
    H: int = 1024
    E: int = 64
    G: int = 8
    k: int = 1
    F: int = 256

    @property
    def K(self) -> int:  # noqa: N802 - a dimension's name
        return self.G * self.k

    @property
    def N(self) -> int:  # noqa: N802
        return self.T * self.K

    def ids(self) -> Tensor:
        """Random experts ``[T, K]``, k different ones in each group."""
        return group_ids(self.T, self.E, self.G, self.k)


SMOKE = [Sizes(T, H=32, E=8, G=2, k=2, F=16) for T in (1, 9)]
PER_OP = [Sizes(16), Sizes(512)]


class Work(NamedTuple):
    """What one call has to do: FLOPs, and the bytes that any implementation must move."""

    flops: int
    bytes: int


def mlp_work(s: Sizes, used: int, dtype: torch.dtype, *, backward: bool) -> Work:
    """Of the two products of ``grouped_mlp``, with ``used`` experts that hold a row.

    Forward: x, the weights of the experts in use, y. Backward on top: the saved pre-activation
    once out and once in, d_y, x and d_x, the same weights again, every expert's d_w.
    """
    expert = 3 * s.F * s.H
    flops = 6 * s.N * s.H * s.F
    elements = 2 * s.T * s.H + used * expert
    if backward:
        flops *= 3
        elements += 3 * s.T * s.H + 2 * s.N * 2 * s.F + (used + s.E) * expert
    return Work(flops, elements * dtype.itemsize)


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
    stand in the queue when the first of them starts: launches cost nothing, as in a CUDA graph. A
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
    """Times variants in turns, so that a change of the machine's pace meets all of them.

    Every round calls every variant, each in an order of its own: what ran before decides what is
    left in the caches.
    """
    sample = event_sampler(variants) if device == "cuda" else host_sampler(variants)

    def calls_of(name: str) -> int:
        sample(name, 1)  # warm-up
        return max(1, math.ceil(plan.sample_seconds / sample(name, 1)))

    calls = {name: calls_of(name) for name in variants}
    one_round = sum(sample(name, calls[name]) * calls[name] for name in variants)
    fewest, most = plan.rounds
    n = max(fewest, min(most, int(plan.seconds / one_round)))

    names = list(variants)
    samples: dict[str, list[float]] = {name: [] for name in names}
    order = random.Random(0)
    for _ in range(n):
        for name in order.sample(names, len(names)):
            samples[name].append(sample(name, calls[name]))

    def timing(x: list[float]) -> Timing:
        q = statistics.quantiles(x, n=5, method="inclusive")
        return Timing(statistics.median(x), q[0], q[3], len(x))

    return {name: timing(x) for name, x in samples.items()}


class Ceiling(NamedTuple):
    """A call that shows what the machine gives, and its work."""

    run: Callable[[], object]
    work: Work


def ceilings(dtype: torch.dtype, device: str = "cpu", *, smoke: bool = False) -> dict[str, Ceiling]:
    """``dense``: a 2048³ product in ``dtype``. ``copy``: 256 MiB to another place.

    On a GPU 8192³ and 2 GiB, which fill it and pass its caches.
    """
    gpu = device == "cuda"
    n = 64 if smoke else 8192 if gpu else 2048
    a, b, c = (torch.randn(n, n, device=device).to(dtype) for _ in range(3))
    elements = 2**10 if smoke else 2**28 if gpu else 2**25
    source = torch.ones(elements, dtype=torch.float64, device=device)
    target = torch.zeros_like(source)
    return {
        "dense": Ceiling(lambda: torch.mm(a, b, out=c), Work(2 * n**3, 3 * n * n * dtype.itemsize)),
        "copy": Ceiling(lambda: target.copy_(source), Work(0, 2 * source.nbytes)),
    }


COLUMNS = [
    *(
        "date",
        "machine",
        "cores",
        "threads",
        "huge_pages",
        "python",
        "torch",
        "transformers",
        "revision",
    ),
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


def check_and_time(
    benchmark: Any,
    op: Callable[..., Tensor],
    oracle: Callable[..., Tensor],
    inputs: Mapping[str, Tensor],
    *,
    direction: str,
    forward: Work,
    backward: Work,
) -> None:
    """Compares output and gradients of ``op`` with the float64 oracle, then times one direction.

    Args:
        benchmark: The fixture of pytest-benchmark.
        op: Takes the tensors of ``inputs`` in their order.
        oracle: The same in float64.
        inputs: Name and value of every differentiable input.
        direction: ``"forward"`` or ``"backward"``; the latter without the forward before it.
        forward: FLOPs and bytes of one forward.
        backward: And of one backward.
    """
    leaves = [x.requires_grad_() for x in inputs.values()]
    wide = [x.detach().double().requires_grad_() for x in leaves]
    out, want = op(*leaves), oracle(*wide)
    assert_matches(out, want, "output")
    d_out = torch.randn(out.shape, device=out.device).to(out.dtype)
    grads = torch.autograd.grad(out, leaves, d_out, retain_graph=True)
    want_grads = torch.autograd.grad(want, wide, d_out.double())
    # a float32 gradient of a bfloat16 operator carries the rounding of its other tensors
    coarsest = max((x.dtype for x in (out, *leaves)), key=lambda dtype: torch.finfo(dtype).eps)
    for name, grad, want_grad in zip(inputs, grads, want_grads, strict=True):
        assert_matches(grad.to(coarsest), want_grad, f"d_{name}")

    def run_forward() -> Tensor:
        with torch.no_grad():
            return op(*leaves)

    def run_backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(out, leaves, d_out, retain_graph=True)

    device = out.device.type
    run, work = {"forward": (run_forward, forward), "backward": (run_backward, backward)}[direction]
    time_with(benchmark, run, work, device)


def time_with(benchmark: Any, run: Callable[[], object], work: Work, device: str) -> None:
    """Times ``run`` with pytest-benchmark; FLOPs, bytes and rates go to its ``extra_info``."""

    def call() -> None:
        run()
        synchronize(device)

    benchmark(call)
    benchmark.extra_info.update(work._asdict())
    if benchmark.stats is not None:  # None under --benchmark-disable
        median = benchmark.stats.stats.median
        benchmark.extra_info["gflop_s"] = work.flops / median / 1e9
        benchmark.extra_info["gb_s"] = work.bytes / median / 1e9
