"""Times `grouped_mlp` with its routing against its peers, all in one run, and appends to a CSV.

Every variant is compared with the float64 oracle before it is timed. The rows of one point come
from one interleaved run, the ceilings of the machine among them.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import harness
import peers
import torch
from harness import Sizes, Work
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import moge_ops
from moge_ops.testing import TOLERANCES, rms_error

FULL = [Sizes(T) for T in (1, 16, 128, 512, 2048)]
DIRECTIONS = ("forward", "forward+backward")
ROUTING = ("grouped_gate", "route", "permute", "unpermute")
GRADIENTS = ("d_x", "d_w_gate_up", "d_w_down", "d_logits")

# Targets: at least as fast as the fastest Hugging Face path, of the dense product's rate, of the
# forward's time
RATIO = 1.0
OF_DENSE = {512: 0.45, 2048: 0.55}
SHARE, SHARE_FROM = 0.10, 512


class Point(NamedTuple):
    """One place in the matrix, and what was measured there."""

    s: Sizes
    dtype: torch.dtype
    direction: str
    rows: dict[str, dict[str, Any]]  # by variant

    @property
    def name(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {self.direction} T={self.s.T}"

    def ms(self, variant: str) -> float:
        """Median in milliseconds; infinite for a variant that was left out."""
        return float(self.rows[variant]["median_ms"] or "inf")

    @property
    def ratio(self) -> float:
        """The fastest Hugging Face path's time over ours."""
        return min(map(self.ms, peers.HUGGING_FACE)) / self.ms(peers.OURS)

    @property
    def of_dense(self) -> float:
        return float(self.rows[peers.OURS]["of_dense"])

    @property
    def share(self) -> float | None:
        """Time of the routing operators over the forward's."""
        if self.direction != "forward":
            return None
        return sum(map(self.ms, ROUTING)) / self.ms(peers.OURS)

    def misses(self) -> list[str]:
        """Targets that this point falls short of."""
        short = []
        if self.ratio < RATIO:
            short.append(f"ratio {self.ratio:.2f} < {RATIO:g}")
        if self.of_dense < OF_DENSE.get(self.s.T, 0.0):
            short.append(f"of dense {self.of_dense:.2f} < {OF_DENSE[self.s.T]}")
        if self.share is not None and self.s.T >= SHARE_FROM and self.share > SHARE:
            short.append(f"routing share {self.share:.1%} > {SHARE:.0%}")
        return short


def check(variant: str, run: peers.Run, p: peers.Problem, want: Any) -> float:
    """RMS error of the output and the gradients, the worst of them.

    Raises:
        AssertionError: Above three times the table's limit for one operator: this is a chain of
            several, and the softmax's gradient is a difference of nearly equal terms.
    """
    y64, grads64, d_y = want
    y = run(*p.leaves)
    grads = torch.autograd.grad(y, p.leaves, d_y)
    limit = 3 * TOLERANCES[p.x.dtype].rms
    worst = 0.0
    for name, got, wide in zip(("y", *GRADIENTS), (y, *grads), (y64, *grads64), strict=True):
        error = rms_error(got, wide)
        if not error <= limit:  # NaN fails too
            raise AssertionError(f"{variant}: {name}: RMS error {error:.3g} above {limit:g}")
        worst = max(worst, error)
    return worst


def timed(run: peers.Run, p: peers.Problem, d_y: Any, direction: str) -> Callable[[], object]:
    if direction == "forward":
        return torch.no_grad()(lambda: run(*p.leaves))
    return lambda: torch.autograd.grad(run(*p.leaves), p.leaves, d_y)


def routing_parts(p: peers.Problem) -> dict[str, tuple[Callable[[], object], Work]]:
    """The routing operators on their own, for their share of the forward."""
    weights, experts, _ = moge_ops.grouped_gate(p.logits.detach(), p.s.G, p.s.k)
    routing = moge_ops.route(experts, p.s.E, num_groups=p.s.G)
    x, logits = p.x.detach(), p.logits.detach()
    rows = moge_ops.permute(x, routing)
    index, moved = 4 * p.s.N, rows.nbytes + x.nbytes
    return {
        "grouped_gate": (
            lambda: moge_ops.grouped_gate(logits, p.s.G, p.s.k),
            Work(0, logits.nbytes + 2 * index + 4 * p.s.E),
        ),
        "route": (
            lambda: moge_ops.route(experts, p.s.E, num_groups=p.s.G),
            Work(0, 3 * index + 4 * (p.s.E + 1)),
        ),
        "permute": (lambda: moge_ops.permute(x, routing), Work(0, moved + index)),
        "unpermute": (
            lambda: moge_ops.unpermute(rows, routing, weights),
            Work(2 * p.s.N * p.s.H, moved + 2 * index),
        ),
    }


def measure(s: Sizes, dtype: torch.dtype, direction: str, *, smoke: bool) -> Point:
    """Checks and times all variants at one place of the matrix."""
    torch.manual_seed(0)
    p = peers.problem(s, dtype)
    want = peers.oracle(p)
    used = int((torch.bincount(p.ids.flatten(), minlength=s.E) > 0).sum())
    work = harness.mlp_work(s, used, dtype, backward=direction != "forward")

    reasons = {name: peers.too_large(name, s, dtype) for name in peers.VARIANTS}
    runs = {name: make(p) for name, make in peers.VARIANTS.items() if not reasons[name]}
    errors = {name: check(name, run, p, want) for name, run in runs.items()}
    calls: dict[str, tuple[Callable[[], object], Work]] = {
        name: (timed(run, p, want[2], direction), work) for name, run in runs.items()
    }
    if direction == "forward":
        calls.update(routing_parts(p))
    ceilings = harness.ceilings(dtype, smoke=smoke)
    calls.update({name: (ceiling.run, ceiling.work) for name, ceiling in ceilings.items()})

    plan = harness.SMOKE_PLAN if smoke else harness.Plan()
    timings = harness.interleave({name: run for name, (run, _) in calls.items()}, plan)
    dense, copy = (ceilings[name].work for name in ("dense", "copy"))
    flop_ceiling = dense.flops / timings["dense"].median
    byte_ceiling = copy.bytes / timings["copy"].median

    place = {
        "dtype": str(dtype).removeprefix("torch."),
        "direction": direction,
        **s._asdict(),
    }
    rows: dict[str, dict[str, Any]] = {}
    for name, (_, done) in calls.items():
        seconds = timings[name].median
        rows[name] = {
            "op": "ceiling" if name in ceilings else "moe" if name in runs else name,
            "variant": name if name not in ROUTING else peers.OURS,
            **place,
            **harness.measured(timings[name], done),
            "of_dense": f"{done.flops / seconds / flop_ceiling:.3g}",
            "of_copy": f"{done.bytes / seconds / byte_ceiling:.3g}",
            "rms_error": f"{errors[name]:.3g}" if name in errors else "",
        }
    for name, reason in reasons.items():
        if reason:
            rows[name] = {"op": "moe", "variant": name, **place, "median_ms": "", "note": reason}
    return Point(s, dtype, direction, rows)


def table(points: list[Point]) -> Table:
    """One line per point: medians in milliseconds, and what the targets are about."""
    out = Table(title="grouped_mlp with its routing: milliseconds (median)", caption_justify="left")
    for heading in ("dtype, direction, T", *peers.VARIANTS):
        out.add_column(heading, justify="left" if heading.startswith("dtype") else "right")
    for heading in ("HF / ours", "GFLOP/s", "of dense", "routing"):
        out.add_column(heading, justify="right")
    for point in points:
        ours = point.rows[peers.OURS]
        out.add_row(
            point.name,
            *(point.rows[name]["median_ms"] or "not run" for name in peers.VARIANTS),
            f"{point.ratio:.2f}",
            ours["gflop_s"],
            f"{point.of_dense:.2f}",
            "" if point.share is None else f"{point.share:.1%}",
            style="red" if point.misses() else None,
        )
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument(
        "--out",
        type=Path,
        default=harness.RESULTS / "cpu.csv",
        help="CSV to append to (default: bench/results/cpu.csv)",
    )
    parser.add_argument(
        "--filter", default="", help="regular expression on points, 'bfloat16 forward T=512$'"
    )
    args = parser.parse_args()

    matrix = [
        Point(s, dtype, direction, {})
        for dtype in (torch.float32, torch.bfloat16)
        for direction in DIRECTIONS
        for s in (harness.SMOKE if args.smoke else FULL)
    ]
    matrix = [point for point in matrix if re.search(args.filter, point.name)]
    if not matrix:
        parser.error(f"--filter {args.filter!r} matches no point")

    environment = harness.environment()
    console = Console(width=None if sys.stdout.isatty() else 160)
    points = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(matrix))
        for place in matrix:
            progress.update(task, description=place.name)
            point = measure(place.s, place.dtype, place.direction, smoke=args.smoke)
            harness.append(args.out, [environment | row for row in point.rows.values()])
            points.append(point)
            progress.advance(task)

    console.print(table(points))
    for point in points:
        for name in peers.VARIANTS:
            if note := point.rows[name].get("note"):
                console.print(f"{point.name}: {name} {note}")
    for point in [] if args.smoke else points:
        for miss in point.misses():
            console.print(f"[red]short of the target[/]: {point.name}: {miss}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
