"""Draws GFLOP/s against T from the CSV of `run.py`, and from nothing else."""

import argparse
import csv
from collections.abc import Mapping
from pathlib import Path

import harness
import peers
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# Okabe and Ito's colours can be told apart by the colour-blind; markers and dashes repeat the
# difference for a print in black and white
STYLES = {
    peers.OURS: ("#D55E00", "o", "-"),
    "hf eager": ("#0072B2", "s", "--"),
    "hf batched_mm": ("#009E73", "^", "--"),
    "hf grouped_mm": ("#56B4E9", "D", "--"),
    "torch grouped_mm": ("#CC79A7", "v", ":"),
    "dense": ("#000000", "", "-."),
}
LABELS = {"dense": "one 2048³ product"}

Row = dict[str, str]


def newest(path: Path) -> dict[tuple[str, str, int, str], Row]:
    """The last timing of each (dtype, direction, T, variant) in the file."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["op"] in ("moe", "ceiling")]
    rows.sort(key=lambda row: row["date"])
    return {(row["dtype"], row["direction"], int(row["T"]), row["variant"]): row for row in rows}


def draw_rates(rows: Mapping[tuple[str, str, int, str], Row]) -> Figure:
    """GFLOP/s against T, one panel per dtype and direction."""
    dtypes = sorted({key[0] for key in rows}, reverse=True)  # float32 first
    directions = sorted({key[1] for key in rows})
    figure = Figure(figsize=(5.2 * len(directions), 3.9 * len(dtypes) + 0.9), layout="constrained")
    panels = figure.subplots(len(dtypes), len(directions), sharex=True, sharey=True, squeeze=False)
    for i, dtype in enumerate(dtypes):
        for j, direction in enumerate(directions):
            panel: Axes = panels[i, j]
            for variant, (colour, marker, line) in STYLES.items():
                points = sorted(
                    (T, float(row["gflop_s"]))
                    for (d, way, T, name), row in rows.items()
                    if (d, way, name) == (dtype, direction, variant) and row["median_ms"]
                )
                tokens, rates = zip(*points, strict=True) if points else ((), ())
                panel.plot(tokens, rates, line, color=colour, marker=marker, ms=5)
            ticks = sorted({key[2] for key in rows})
            panel.set(title=f"{dtype}, {direction}", xscale="log", yscale="log")
            panel.set_xticks(ticks, [str(T) for T in ticks])
            panel.minorticks_off()
            panel.grid(color="#dddddd", linewidth=0.6)
            panel.set_axisbelow(True)
            if i == len(dtypes) - 1:
                panel.set_xlabel("tokens T")
            if j == 0:
                panel.set_ylabel("GFLOP/s (more is better)")

    last = max(rows.values(), key=lambda row: row["date"])
    figure.suptitle(
        f"Gate, routing and experts: H {last['H']}, E {last['E']}, G {last['G']}, k {last['k']}, "
        f"F {last['F']}\n{last['machine']}, {last['threads']} threads, torch {last['torch']}, "
        f"{last['date'][:10]}",
        fontsize="medium",
    )
    handles = [
        Line2D([], [], color=colour, marker=marker, ls=line, label=LABELS.get(variant, variant))
        for variant, (colour, marker, line) in STYLES.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws GFLOP/s against T from a CSV of run.py.")
    parser.add_argument("csv", type=Path, nargs="?", default=harness.RESULTS / "cpu.csv")
    parser.add_argument("--out", type=Path, help="picture (default: beside the CSV, .png)")
    args = parser.parse_args()
    out = args.out or args.csv.with_suffix(".png")
    draw_rates(newest(args.csv)).savefig(out, dpi=150)
    print(out)


if __name__ == "__main__":
    main()
