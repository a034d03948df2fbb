"""Times grouped_mlp with its routing against its peers, all in one run, and appends to a CSV.

The peers are the kernels of inference engines, Hugging Face's experts and torch's grouped_mm.
Quantised experts meet our own in bfloat16, and the engines' kernels for the same numbers.
Everyone gets the chosen experts and their weights; ours routes within the call. Every variant is
compared with the float64 oracle before it is timed, in a process that stays idle while another one
is timed. The rows of one point come from one interleaved run, the machine's ceilings among them.
"""

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import engines
import harness
import peers
import printing
import torch
from bench_grouped_mlp import works
from problem import BOTH, FORWARD, OURS, OURS_BFLOAT16, Problem, Work, problem
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn import Parameter
from torch.utils._pytree import tree_map_only
from workers import CEILINGS, TORCH, Team

from moge_ops.quant import SCHEMES
from moge_ops.testing import Sizes

PANGU = Sizes(1, H=5120, E=64, G=8, k=1, F=1344)
OWN = (OURS, OURS_BFLOAT16)  # the latter beside quantised experts
VARIANTS = (OURS, *engines.ENGINES, *TORCH)
HF = tuple(peers.HUGGING_FACE)
# what others may take of the cores meanwhile, column `busy`: a call of many threads waits for the
# last one, so that half a core taken may double its time
QUIET = 0.1
# tensors of a problem
PER_TOKEN, EXPERTS = ("x", "logits", "weights"), ("w_gate_up", "w_down")
COLUMNS = [
    *("date", "machine", "isa", "cores", "threads", "huge_pages", "python", "torch", "revision"),
    *("op", "variant", "version", "kernel", "dtype", "direction", "caches"),
    *("T", "H", "E", "G", "k", "F", "median_ms", "q20_ms", "q80_ms", "rounds", "busy"),
    *("flops", "bytes", "gflop_s", "gb_s", "of_read", "of_copy", "of_dense", "rms_error", "note"),
]


class Place(NamedTuple):
    """One place in the matrix."""

    s: Sizes
    dtype: torch.dtype
    direction: str
    caches: str = "hot"
    scheme: str = ""  # of quantised experts

    @property
    def weights(self) -> str:
        """What they are: a scheme, or a dtype."""
        return self.scheme or str(self.dtype).removeprefix("torch.")

    @property
    def name(self) -> str:
        return f"{self.weights} {self.direction} H={self.s.H} {self.caches} T={self.s.T}"

    @property
    def layer(self) -> tuple[Sizes, str]:
        """Places of one layer have their weights in common."""
        return self.s._replace(T=0), self.weights

    def variants(self) -> tuple[str, ...]:
        """The engines have no backward pass, and multiply bfloat16 or quantised weights."""
        if self.scheme:
            takers = (n for n, engine in engines.ENGINES.items() if self.scheme in engine.schemes)
            return (*OWN, *takers)
        engine = self.direction == FORWARD and self.dtype == torch.bfloat16
        return VARIANTS if engine else (OURS, *TORCH)


def matrix(*, smoke: bool) -> list[Place]:
    """All places; those of one layer follow each other, the largest layer last."""
    wide, narrow = torch.float32, torch.bfloat16
    if smoke:
        sizes = [s._replace(H=64, F=32) for s in harness.SMOKE]
        places = [
            Place(s, d, way) for d in (wide, narrow) for way in (FORWARD, BOTH) for s in sizes
        ]
        quantised = (Place(sizes[1], narrow, FORWARD, scheme=scheme) for scheme in SCHEMES)
        return [*places, Place(sizes[0], narrow, FORWARD, "cold"), *quantised]

    def of(s: Sizes, *tokens: int) -> list[Sizes]:
        return [s._replace(T=T) for T in tokens]

    training = of(harness.LAYER, 1, 16, 128, 512, 2048)
    serving = of(harness.LAYER, 1, 4, 16, 64, 128, 512, 2048)
    return [
        *(Place(s, wide, way) for way in (FORWARD, BOTH) for s in training),
        *(Place(s, narrow, BOTH) for s in training),
        *(Place(s, narrow, FORWARD) for s in serving),
        *(Place(s, narrow, FORWARD, "cold") for s in serving if s.T <= 16),
        *(
            Place(s, narrow, FORWARD, caches, scheme)
            for scheme in SCHEMES
            for s in of(harness.LAYER, 1, 4, 16, 64)
            for caches in (("hot", "cold") if s.T <= 16 else ("hot",))
        ),
        *(
            Place(s, narrow, FORWARD, scheme=scheme)
            for scheme in SCHEMES
            for s in of(PANGU, 1, 4, 16, 64)
        ),
        *(Place(s, narrow, FORWARD) for s in of(PANGU, 1, 8, 64, 256)),
    ]


class Point(NamedTuple):
    """What was measured at one place."""

    place: Place
    rows: dict[str, dict[str, Any]]  # by variant

    def ms(self, variant: str) -> float:
        """Median in milliseconds; infinite for a variant that was not timed."""
        return float(self.rows.get(variant, {}).get("median_ms") or inf)

    def fastest(self, variants: Sequence[str]) -> float:
        return min(map(self.ms, variants))


def dense_dtype(dtype: torch.dtype) -> torch.dtype:
    """What this CPU multiplies fastest; without instructions for bfloat16 that is float32."""
    return dtype if engines.level() in engines.MULTIPLY_BFLOAT16 else torch.float32


def taken() -> float:
    """Seconds of the cores that anyone has taken since the machine started."""
    stat = Path("/proc/stat")
    ticks = stat.read_text().partition("\n")[0].split()[1:9] if stat.exists() else [0] * 8
    user, nice, system, _idle, _iowait, *rest = map(int, ticks)
    return sum((user, nice, system, *rest)) / os.sysconf("SC_CLK_TCK")


def measure(
    place: Place, p: Problem, y: Tensor | None, team: Team, folder: Path, slow: dict[Any, str]
) -> Point:
    """Checks and times all variants at one place of the matrix; ``slow`` keeps who was too slow.

    ``y`` is what the oracle gives in the forward pass.

    Raises:
        AssertionError: One of torch's variants or ours differs from the oracle.
    """
    s, dtype, direction, caches, scheme = place
    key = place.layer, direction
    asked = place.variants()
    reasons = {name: peers.too_large(name, s, dtype) for name in asked}
    reasons |= {name: slow[key, name] for name in asked if (key, name) in slow}
    names = [name for name in asked if not reasons[name]]

    want, d_y = peers.oracle(p) if direction == BOTH else ({"y": y}, None)
    data = {"s": s, "x": p.x.detach(), "logits": p.logits.detach(), "ids": p.ids}
    file = folder / "point.pt"
    torch.save(data | {"weights": p.leaves["weights"].detach(), "d_y": d_y, "want": want}, file)
    found: dict[str, tuple[str, str]] = {}
    point = ("point", names, file, direction, caches == "cold", scheme)
    for answer in team.each(names, *point).values():
        found |= answer
    for name, (_, reason) in found.items():
        if reason:
            reasons[name], slow[key, name] = reason, f"{reason} at T = {s.T}"
    reasons |= {name: why for name, why in team.reasons.items() if name in asked}

    ceilings = team.of("dense").call("ceilings", dense_dtype(dtype))
    timed = [name for name in names if not reasons[name]]
    plan = harness.Plan(2.0 if scheme else 4.0)
    if caches == "cold":
        plan = plan._replace(rounds=(7, 15), sample_seconds=0.0)
    plan = harness.SMOKE_PLAN if s.H < harness.LAYER.H else plan
    start, before = time.perf_counter(), taken() - team.used()
    timings = harness.in_turns([*timed, *CEILINGS], team.sample, plan)
    others = (taken() - team.used() - before) / (time.perf_counter() - start) / os.cpu_count()
    read, copy = (ceilings[name].bytes / timings[name].median for name in ("read", "copy"))
    dense = ceilings["dense"].flops / timings["dense"].median

    forward, backward = works(p)
    both = Work(*(a + b for a, b in zip(forward, backward, strict=True)))
    weights = {n: torch.empty(getattr(p, n).shape, dtype=dtype, device="meta") for n in EXPERTS}
    plain, _ = works(replace(p, **weights))
    shared = {"dtype": place.weights, "direction": direction, "caches": caches}
    rows: dict[str, dict[str, Any]] = {}
    for name, timing in timings.items():
        work = both if direction == BOTH else plain if name == OURS_BFLOAT16 else forward
        work = ceilings.get(name, work)
        rows[name] = {
            **{"op": "ceiling" if name in CEILINGS else "moe", "variant": name},
            **shared,
            **s._asdict(),
            **harness.measured(timing, work),
            "busy": f"{max(others, 0.0):.2f}",
            "of_read": f"{work.bytes / timing.median / read:.3g}",
            "of_copy": f"{work.bytes / timing.median / copy:.3g}",
            "of_dense": f"{work.flops / timing.median / dense:.3g}",
            "rms_error": found[name][0] if name in found else "",
        }
    rows["dense"]["note"] = f"product in {dense_dtype(dtype)}"
    for name in asked:
        if reasons[name]:
            row = {"op": "moe", "variant": name, **shared, **s._asdict(), "note": reasons[name]}
            rows[name] = {"median_ms": "", **row}
    return Point(place, rows)


def points(places: Sequence[Place], team: Team, console: Console) -> Iterator[Point]:
    """Measures the places, layer after layer."""
    shm = Path("/dev/shm")  # a file there is memory; of one on a disk the pages are written back
    roomy = shm.is_dir() and shutil.disk_usage(shm).free > 2**33
    slow: dict[Any, str] = {}
    whole: Problem | None = None
    y: Tensor | None = None
    with tempfile.TemporaryDirectory(dir=shm if roomy else None) as name:
        folder, last = Path(name), None
        for place in track(places, "points", console=console, transient=True):
            if whole is None or place.layer != last:
                last = place.layer
                alike = [other for other in places if other.layer == last]
                whole = y = None  # one layer at a time, for the memory
                team.clear()
                most = max(other.s.T for other in alike)
                whole = layer(place._replace(s=place.s._replace(T=most)), folder / "layer.pt")
                asked = {variant for other in alike for variant in other.variants()}
                team.each(sorted(asked), "layer", folder / "layer.pt")
                if any(other.direction == FORWARD for other in alike):
                    y = peers.oracle_forward(whole)
            first = {n: Parameter(getattr(whole, n).detach()[: place.s.T]) for n in PER_TOKEN}
            want = None if y is None else y[: place.s.T]
            p = replace(whole, s=place.s, **first)
            yield measure(place, p, want, team, folder, slow)
            del p  # with its weights


def layer(place: Place, file: Path) -> Problem:
    """Inputs with given weights; those of the experts are the file's, which processes copy."""
    torch.manual_seed(0)
    p = problem(place.s, place.dtype, scheme=place.scheme)
    experts: list[Any] = [p.w_gate_up, p.w_down]
    file.unlink(missing_ok=True)  # who still has the last layer's file open keeps it
    torch.save(tree_map_only(Tensor, Tensor.detach, experts), file)
    experts = torch.load(file, mmap=True, weights_only=False)
    w_gate_up, w_down = (Parameter(w) if isinstance(w, Tensor) else w for w in experts)
    weights = Parameter(p.logits.detach().softmax(-1).gather(-1, p.ids))
    return replace(p, w_gate_up=w_gate_up, w_down=w_down, weights=weights)


def table(found: Sequence[Point]) -> Table:
    """One line per point: medians in milliseconds, and shares of the ceilings."""
    out = Table(title="grouped_mlp with its routing: milliseconds (median)", caption_justify="left")
    alone = {name: (name,) for name in (OURS, OURS_BFLOAT16, *engines.ENGINES, "torch grouped_mm")}
    columns = {**alone, "hugging face": HF}
    for heading in ("dtype, direction, sizes", *columns):
        out.add_column(heading, justify="left" if heading.startswith("dtype") else "right")
    for heading in ("peer / ours", "bfloat16 / ours", "of read", "of dense"):
        out.add_column(heading, justify="right")
    for point in found:
        ours = point.rows[OURS]
        # 0 where ours was too slow to be timed
        us = point.ms(OURS)
        ratios = [point.fastest(n) / us if us < inf else 0.0 for n in (VARIANTS[1:], OWN[1:])]
        cells = (point.fastest(names) for names in columns.values())
        out.add_row(
            point.place.name,
            *("" if ms == inf else f"{ms:.4g}" for ms in cells),
            *("" if ratio == inf else f"{ratio:.2f}" for ratio in ratios),
            *(ours.get("of_read", ""), ours.get("of_dense", "")),
            style="red" if min(ratios) < 1.0 else None,
        )
    return out


def environment(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """Columns that all rows share, and those of a variant's rows."""
    shared = harness.environment()
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if pages.exists() and "[never]" in pages.read_text():
        shared["huge_pages"] = "0"
    shared = {name: value for name, value in shared.items() if name in COLUMNS}
    own = {OURS: {"version": harness.version("moge-ops"), "kernel": engines.our_level()}}
    own[OURS_BFLOAT16] = own[OURS]
    for name, engine in engines.ENGINES.items():
        version = engines.version(engine.package, folder)
        own[name] = {"version": f"{engine.package} {version}".strip(), "kernel": engine.kernel()}
    for name in HF:
        own[name] = {"version": f"transformers {harness.version('transformers')}"}
    return {**shared, "isa": engines.level()}, own


def main() -> int:
    files = [f"{name}_{engines.level()}.csv" for name in ("cpu", "quant")]
    parser = harness.parser(__doc__, f"{files[0]}, of quantised experts {files[1]}")
    parser.set_defaults(out=None)
    parser.add_argument(
        "--filter", default="", help="regular expression on points, 'bfloat16 forward .* T=512$'"
    )
    parser.add_argument(
        "--peers", type=Path, default=engines.FOLDER, help="folder of the engines' wheels (.peers)"
    )
    parser.add_argument(
        "--in-process", action="store_true", help="no process of its own for ours and for torch's"
    )
    args = parser.parse_args()
    places = [p for p in matrix(smoke=args.smoke) if re.search(args.filter, p.name)]
    if not places:
        parser.error(f"--filter {args.filter!r} matches no point")

    shared, own = environment(args.peers)
    console = printing.console(190)
    console.print(f"{shared['machine']}, {shared['isa']}, ours: {own[OURS]['kernel']}")
    team = Team(args.peers, smoke=args.smoke, in_process=args.in_process)
    found = []
    try:
        for point in points(places, team, console):
            rows = [shared | own.get(name, {}) | row for name, row in point.rows.items()]
            out = args.out or harness.RESULTS / files[bool(point.place.scheme)]
            harness.append(out, rows, COLUMNS)
            found.append(point)
    finally:
        team.close()

    console.print(table(found))
    for point in found:
        if (others := float(point.rows["read"]["busy"])) > QUIET and not args.smoke:
            console.print(f"[red]{point.place.name}: others took {others:.0%} of the cores[/]")
        for name, row in point.rows.items():
            if (note := row.get("note", "")).startswith("not "):
                console.print(f"{point.place.name}: {name} {note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
