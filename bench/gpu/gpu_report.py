"""The summary, targets and plots of ``make gpu``, from its CSV; gpu.py calls it at the end.

Every ratio is one of medians of the same point, timed in turns in one run. Exit code: 1 if a
correctness check failed or did not end.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from problem import BACKWARD, BOTH, FORWARD, OURS, OURS_BFLOAT16

from moge_ops.testing import PANGU

Row = dict[str, str]
LONGEST = 11_500  # characters of the summary: a terminal or a log may keep only the last 12,000


class Target(NamedTuple):
    """One of the project's goals, and what this run says about it."""

    name: str
    value: float | None  # None: no row for it
    limit: float
    most: bool = False  # the limit is the most, not the least

    @property
    def met(self) -> bool:
        if self.value is None:
            return False
        return self.value <= self.limit if self.most else self.value >= self.limit

    def __str__(self) -> str:
        wanted = f"{'at most' if self.most else 'at least'} {self.limit:g}"
        if self.value is None:
            return f"no figure  {self.name}, {wanted}"
        off = "" if self.met else f", off by {abs(self.value / self.limit - 1):.1%}"
        return f"{'met' if self.met else 'MISSED':<10} {self.name}: {self.value:.4g}, {wanted}{off}"


class Table:
    """The rows of one run."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = list(rows)

    def find(self, **fields: str) -> Row | None:
        """The last row with these fields and a time."""
        found = [
            row
            for row in self.rows
            if row["median_ms"] and all(row[name] == value for name, value in fields.items())
        ]
        return found[-1] if found else None

    def number(self, column: str, **fields: str) -> float | None:
        row = self.find(**fields)
        return float(row[column]) if row and row[column] else None

    def ours(self, column: str, **fields: str) -> float | None:
        return self.number(column, variant=OURS, **fields)

    def ratio(self, variant: str, **fields: str) -> float | None:
        """The variant's time over ours."""
        theirs = self.number("median_ms", variant=variant, **fields)
        ours = self.ours("median_ms", **fields)
        return theirs / ours if theirs and ours else None


def targets(table: Table) -> list[Target]:
    """The goals for one H100 SXM, in the order of the project's list."""
    found = []

    def add(name: str, value: float | None, limit: float, *, most: bool = False) -> None:
        found.append(Target(name, value, limit, most))

    layer = {"part": "layer", "router": "uniform"}
    layer |= {name: str(getattr(PANGU, name)) for name in "HEF"}
    for T, direction in product(("8192", "32768"), (FORWARD, BOTH)):
        point = {**layer, "op": "moe", "T": T, "direction": direction}
        name = f"Pangu layer, T {T}, {direction}"
        add(f"{name}: share of the dense rate", table.ours("of_dense", **point), 0.70)
        for peer, least in (("torch grouped_mm", 1.3), ("liger", 1.5), ("scattermoe", 1.5)):
            add(f"{name}: time of {peer} over ours", table.ratio(peer, **point), least)
    for direction, published in ((FORWARD, 558.0), (BACKWARD, 567.0)):
        rate = table.ours("tflop_s", part="sonic", op="moe", H="4096", direction=direction)
        add(f"SonicMoE's shape, {direction}: TFLOP/s", rate, published)
    for T in ("1", "16", "128", "456"):
        share = table.ours("of_copy", **layer, op="moe", T=T, direction=FORWARD)
        add(f"Pangu layer, T {T}, forward: share of the copy rate", share, 0.85)
    ms = table.ours("median_ms", part="gate", E="64", T="16384")
    add("gate, E 64, T 16384: microseconds", ms and ms * 1e3, 12.0, most=True)
    for T in ("8192", "32768"):
        whole, *parts = (
            table.ours("median_ms", **layer, op=op, T=T, direction=FORWARD)
            for op in ("moe", "grouped_gate", "route", "unpermute")
        )
        share = sum(part for part in parts if part) / whole if whole and all(parts) else None
        name = f"gate, route and combine, T {T}: share of the layer's forward"
        add(name, share, 0.05, most=True)
    saved = [r for r in table.rows if r["part"] == "memory" and r["variant"] == OURS]
    ratio = None
    if saved and saved[-1]["saved_bytes"]:
        ratio = int(saved[-1]["saved_bytes"]) / int(saved[-1]["bytes"])
    add("saved activations over x, [N, 2F] and indices", ratio, 1.01, most=True)
    return found


def short(value: str) -> str:
    return f"{float(value):.3g}" if value else "-"


RATES = ("TFLOP/s", "TB/s", "%dense", "%copy")


def rates(row: Row) -> list[str]:
    percents = (f"{100 * float(row[name]):.0f}" for name in ("of_dense", "of_copy"))
    return [short(row["tflop_s"]), short(row["tb_s"]), *percents]


def layers(table: Table) -> list[str]:
    """A line for each point of the whole layer: ours, then the peers' times over ours."""
    names = dict.fromkeys(row["variant"] for row in table.rows if row["op"] == "moe")
    others = [name for name in names if name != OURS]
    place = ("router", "direction", "T", "H")
    cells: dict[tuple[str, ...], list[str]] = {}  # of a point that was timed twice the last time
    for row in table.rows:
        if row["op"] == "moe" and row["variant"] == OURS and row["median_ms"]:
            point = {name: row[name] for name in ("part", "op", *place, "F")}
            ratios = [table.ratio(name, **point) for name in others]
            cells[tuple(point.values())] = [
                *(row[name] for name in place),
                short(row["median_ms"]),
                *rates(row),
                *("-" if ratio is None else f"{ratio:.2f}x" for ratio in ratios),
            ]
    title = "LAYER; columns of peers: their time over ours"
    return aligned(title, [*place, "ms", *RATES, *others], list(cells.values()))


def single_operators(table: Table) -> list[str]:
    cells = [
        [*(r[name] for name in ("op", "direction", "E", "T")), micros(r["median_ms"]), *rates(r)]
        for r in table.rows
        if r["part"] == "layer" and r["variant"] == OURS and r["median_ms"]
        if r["op"] not in ("moe", "ceiling", "split")
    ]
    return aligned("OPERATORS", ["op", "direction", "E", "T", "us", *RATES], cells)


def micros(ms: str, digits: int = 4) -> str:
    return f"{float(ms) * 1e3:.{digits}g}"


def gates(table: Table) -> list[str]:
    rows = [r for r in table.rows if r["part"] == "gate" and r["median_ms"]]
    variants = list(dict.fromkeys(r["variant"] for r in rows))
    times: dict[tuple[str, str], dict[str, str]] = {}
    for r in rows:
        times.setdefault((r["E"], r["T"]), {})[r["variant"]] = micros(r["median_ms"], 3)
    cells = [[*place, *(by.get(v, "-") for v in variants)] for place, by in times.items()]
    return aligned("GATE, us", ["E", "T", *variants], cells)


def quantised(table: Table) -> list[str]:
    """A line for each variant, a column for each T."""
    rows = [r for r in table.rows if r["op"] == "moe quantised" and r["median_ms"]]
    by = {(r["variant"], int(r["T"])): r for r in rows}
    tokens = sorted({T for _, T in by})

    def cell(variant: str, T: int) -> str:
        row, plain = by.get((variant, T)), by.get((OURS_BFLOAT16, T))
        if row is None:
            return "-"
        dense, copy = (round(100 * float(row[name])) for name in ("of_dense", "of_copy"))
        share = f"{dense}%d" if dense > copy else f"{copy}%c"
        faster = f"{float(plain['median_ms']) / float(row['median_ms']):.2f}x" if plain else "-"
        return f"{short(row['median_ms'])} {share} {faster}"

    cells = [[v, *(cell(v, T) for T in tokens)] for v in dict.fromkeys(r["variant"] for r in rows)]
    title = "QUANTISED, forward: ms, share of the dense or copy rate, bfloat16's time over it"
    return aligned(title, ["variant", *(f"T={T}" for T in tokens)], cells)


def memory(table: Table) -> list[str]:
    cells = [
        [
            r["variant"],
            *(f"{int(r[c]) / 2**20:.0f}" for c in ("saved_bytes", "bytes", "peak_bytes")),
        ]
        for r in table.rows
        if r["part"] == "memory" and r["saved_bytes"]
    ]
    heads = ["variant", "saved", "x+[N,2F]+indices", "peak"]
    return aligned("MEMORY of forward + backward, MiB", heads, cells)


def tiles(table: Table) -> list[str]:
    """What the search found for each kernel, by rows of the layer."""
    cells = {  # the last word on each
        (r["op"], r["T"]): [
            r["op"].removeprefix("tiles "),
            *(r["T"], short(r["median_ms"]), r["note"]),
        ]
        for r in table.rows
        if r["part"] == "tiles"
    }
    return aligned("TILES, ms", ["kernel", "T", "now", "what"], list(cells.values()))


MICROSECONDS = {"ns": 1e-3, "us": 1.0, "ms": 1e3, "s": 1e6}
PEAKS = {
    "Compute (SM) Throughput": "%SM",
    "Memory Throughput": "%memory",
    "DRAM Throughput": "%DRAM",
}


class Counted(NamedTuple):
    """One launch, as ncu saw it."""

    kernel: str
    us: float
    peaks: dict[str, str]  # metric -> percent
    reason: str  # ncu's own first advice on the warps' stalls, else on anything


def counted(path: Path) -> list[Counted]:
    """The launches of ncu's CSV (its page of details), the longest first."""
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    launches: dict[str, list[Row]] = {}
    for row in csv.DictReader(lines[start:]):
        launches.setdefault(row["ID"], []).append(row)
    found = []
    for rows in launches.values():
        metrics = {r["Metric Name"]: r for r in rows if r["Metric Name"]}
        duration = metrics.get("Duration")
        if duration is None:
            continue
        unit = duration["Metric Unit"].replace("second", "")
        unit = {"n": "ns", "u": "us", "m": "ms", "": "s"}.get(unit, unit)
        us = float(duration["Metric Value"].replace(",", "")) * MICROSECONDS[unit]
        peaks = {name: metrics[name]["Metric Value"] for name in PEAKS if name in metrics}
        said = [
            (r["Section Name"], r["Rule Description"]) for r in rows if r.get("Rule Description")
        ]
        said.sort(key=lambda rule: not rule[0].startswith("Warp State"))
        name = rows[0]["Kernel Name"].split("(")[0].split("<")[0]
        found.append(Counted(name, us, peaks, " ".join(said[0][1].split()) if said else ""))
    return sorted(found, key=lambda one: -one.us)


def counters(path: Path, most: int = 8) -> list[str]:
    """The longest launches, what they use of the card, and ncu's reason."""
    launches = counted(path)[:most]
    heads = ["kernel", "us", *PEAKS.values()]
    cells = [
        [one.kernel[-44:], f"{one.us:.4g}", *(one.peaks.get(name, "-") for name in PEAKS)]
        for one in launches
    ]
    reasons = [f"{one.kernel}: {one.reason[:160]}" for one in launches if one.reason]
    return [*aligned("NCU, the longest launches", heads, cells), *dict.fromkeys(reasons)]


def aligned(title: str, heads: list[str], cells: list[list[str]]) -> list[str]:
    """A table as lines; none without cells."""
    if not cells:
        return []
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    lines = (
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in (heads, *cells)
    )
    return [title, *lines]


def summary(table: Table, facts: Mapping[str, Any], ncu: Path) -> tuple[str, bool]:
    """The text, failures first, and whether all is correct; ``ncu`` need not exist."""
    outcomes = facts["outcomes"]
    failures = [f"{o['name']}: {o['status']}; {o['last']}" for o in outcomes if o["failed"]] + [
        f"{r['part']}: {' '.join(filter(None, (r['op'], r['router'], r['direction'], r['T'])))}: "
        f"{r['note'].removeprefix('FAILED: ')}"
        for r in table.rows
        if r["note"].startswith("FAILED")
    ]
    lines = [f"{len(failures)} FAILURES" if failures else "no failure", *failures[:20]]
    if facts["trouble"]:
        lines.append(facts["trouble"])
    ran = {o["name"] for o in outcomes}
    if "small" in ran:
        lines.append("compute-sanitizer was not found: the small sizes ran without it")
    if "counters" in ran and not facts["smoke"]:
        lines.append("ncu was not found: nothing was counted")
    if "counters-ncu" in ran and not counted(ncu):
        lines.append("ncu counted nothing: what it says is in log.txt, under counters-ncu")
    counts = [r["note"] for r in table.rows if r["op"] == "pytest"]
    checks = [r for r in table.rows if r["part"] == "checks" and r["note"] == "ok"]
    lines.append(f"tests: {counts[-1] if counts else 'no result'}; {len(checks)} checks are right")
    for o in outcomes:
        if o["status"] != "ok" and not o["failed"]:
            lines.append(f"{o['name']}: {o['status']}; {o['last']}")
    if table.rows:
        row = table.rows[-1]
        lines += [
            "",
            f"{row['device']}, driver {row['driver']}, torch {row['torch']}, Triton "
            f"{row['triton']}, {row['date']}, revision {row['revision']}, "
            f"{facts['seconds']:.0f} s; {row['peers']}",
        ]
    lines.append(
        f"Triton: {facts['carried']} binaries were brought along, {facts['compiled']} made here"
    )
    lines += ["", "CEILINGS"]
    for name in ("copy", "dense", "dense up", "dense down", "dense dW"):
        if row := table.find(part="ceilings", op="ceiling", variant=name):
            lines.append(f"{name}: {short(row['tflop_s'])} TFLOP/s, {short(row['tb_s'])} TB/s")
    if not facts["smoke"]:
        goals = targets(table)
        met = sum(goal.met for goal in goals)
        lines += ["", f"TARGETS (one H100 SXM): {met} of {len(goals)} met", *map(str, goals)]
    notes: dict[tuple[str, str], list[str]] = {}
    for r in table.rows:
        if r["note"].startswith("not run"):
            point = f"{r['router']} {r['direction']} T={r['T']}"
            notes.setdefault((r["variant"], r["note"]), []).append(point)
    if notes:
        lines += ["", "NOT RUN"]
        lines += [
            f"{variant}: {note[:200]} ({len(points)} rows, first {points[0]})"
            for (variant, note), points in notes.items()
        ]
    largest = max((int(r["T"]) for r in table.rows if r["part"] == "layer"), default=0)
    shown = {"8192", "128"} if largest >= 8192 else {str(largest)}
    single = Table(r for r in table.rows if r["T"] in shown)
    sections = [
        layers(table),
        quantised(table),
        gates(table),
        memory(table),
        tiles(table),
        counters(ncu),
        single_operators(single),
    ]
    for section in sections:
        lines += ["", *section] if section else []
    return "\n".join(lines), not failures


def main() -> int:
    parser = argparse.ArgumentParser(description="Summary, targets and plots of a CSV of gpu.py.")
    parser.add_argument("csv", type=Path)
    parser.add_argument("facts", type=Path, help="JSON of gpu.py: how its parts ended")
    args = parser.parse_args()
    rows: list[Row] = []
    if args.csv.exists():
        with args.csv.open(newline="") as file:
            rows = list(csv.DictReader(file))
    facts = json.loads(args.facts.read_text())
    text, right = summary(Table(rows), facts, args.csv.with_name("ncu.csv"))
    args.csv.with_name("summary.txt").write_text(text + "\n")
    try:
        import plots

        drawn = [str(path) for path in plots.draw_gpu(args.csv)]
    except Exception as error:  # the figures are in the CSV; a picture can be drawn later
        drawn = [f"no plot: {type(error).__name__}: {error}"]
    others = (args.csv.with_name("tiles") / "configs.csv", args.csv.with_name("ncu.csv"))
    files = [args.csv, *drawn, *(path for path in others if path.exists())]
    end = "\n\nFILES\n" + "\n".join(map(str, files))
    if len(text) + len(end) > LONGEST:
        text = text[: LONGEST - len(end)] + "\n... the rest is in summary.txt"
    print(text + end)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
