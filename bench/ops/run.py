"""Times grouped_mlp with its routing against its peers, all in one run, and appends to a CSV.

Every variant is compared with the float64 oracle before it is timed. The rows of one point come
from one interleaved run, the ceilings of the machine among them.
"""

import re
import sys
from typing import Any, NamedTuple

import harness
import peers
import torch
from problem import BOTH, FORWARD, problem
from rich.console import Console
from rich.progress import track
from rich.table import Table

from moge_ops.testing import Sizes

FULL = [harness.LAYER._replace(T=T) for T in (1, 16, 128, 512, 2048)]
ROUTING = ("grouped_gate", "route", "permute", "unpermute")

# Targets
RATIO = 1.0  # least time of the fastest Hugging Face path over ours
OF_DENSE = {512: 0.45, 2048: 0.55}  # T -> least share of the dense product's rate
SHARE, SHARE_FROM = 0.10, 512  # largest share of the routing in a forward pass, from this T on


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
        if self.direction != FORWARD:
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


def measure(s: Sizes, dtype: torch.dtype, direction: str, *, smoke: bool) -> Point:
    """Checks and times all variants at one place of the matrix.

    Raises:
        AssertionError: Above three times the table's limit for one operator: this is a chain of
            several, and the softmax's gradient is a difference of nearly equal terms.
    """
    torch.manual_seed(0)
    p = problem(s, dtype)
    want, d_y = peers.oracle(p)
    calls: dict[str, Any] = {}
    errors: dict[str, str] = {}
    reasons = {name: peers.too_large(name, s, dtype) for name in peers.VARIANTS}
    for name in peers.VARIANTS:
        if not reasons[name]:
            layer = peers.layer(p, name, d_y)
            worst = harness.agrees(layer.results(), want, 3.0, f"{name}: ")
            errors[name], calls[name] = f"{worst:.3g}", layer.calls()[direction]
    if direction == FORWARD:  # the routing operators on their own, for their share
        calls |= {name: p.operator(name).calls()[FORWARD] for name in ROUTING}

    plan = harness.SMOKE_PLAN if smoke else harness.Plan()
    place = {"dtype": str(dtype).removeprefix("torch."), "direction": direction, **s._asdict()}
    rows: dict[str, dict[str, Any]] = {}
    for name, columns in harness.timed(calls, plan, dtype, smoke=smoke).items():
        rows[name] = {
            "op": "moe" if name in errors else name if name in ROUTING else "ceiling",
            "variant": peers.OURS if name in ROUTING else name,
            **place,
            **columns,
            "rms_error": errors.get(name, ""),
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
    parser = harness.parser(__doc__, "cpu.csv")
    parser.add_argument(
        "--filter", default="", help="regular expression on points, 'bfloat16 forward T=512$'"
    )
    args = parser.parse_args()

    matrix = [
        Point(s, dtype, direction, {})
        for dtype in (torch.float32, torch.bfloat16)
        for direction in (FORWARD, BOTH)
        for s in (harness.SMOKE if args.smoke else FULL)
    ]
    matrix = [point for point in matrix if re.search(args.filter, point.name)]
    if not matrix:
        parser.error(f"--filter {args.filter!r} matches no point")

    environment = harness.environment()
    console = Console(width=None if sys.stdout.isatty() else 160)
    points = []
    for place in track(matrix, "points", console=console, transient=True):
        point = measure(place.s, place.dtype, place.direction, smoke=args.smoke)
        harness.append(args.out, [environment | row for row in point.rows.values()])
        points.append(point)

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
