"""Draws a CSV of `run.py` or of gpu.py, and nothing but what is in it."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import harness
import peers
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

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
GPU_STYLES = {
    **{name: style for name, style in STYLES.items() if name != "dense"},
    "liger": ("#E69F00", "P", "--"),
    "moe-ops": ("#8B6914", "X", "--"),
    "scattermoe": ("#6A3D9A", "<", "--"),
    "sonicmoe": ("#555555", "*", "--"),
}
FEW = 456  # tokens: up to here the weights' bytes decide, above it the products
KERNELS = 8  # largest ones that the split shows by name
LABELS = {"dense": "one 2048³ product"}

Row = dict[str, str]


def finish(panel: Axes, ticks: Sequence[int], *, legend: bool = True, **labels: Any) -> None:
    """Labels, grid and legend; with ``ticks`` x is logarithmic and has these alone."""
    panel.set(**labels)
    if ticks:
        panel.set_xscale("log", base=2)
        panel.set_xticks(ticks, [str(tick) for tick in ticks])
    panel.minorticks_off()
    panel.grid(color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    if legend:
        panel.legend(frameon=False, fontsize="small")


def plot(panel: Axes, points: Sequence[tuple[int, float]], style: tuple[str, str, str]) -> None:
    colour, marker, line = style
    x, y = zip(*sorted(points), strict=True) if points else ((), ())
    panel.plot(x, y, line, color=colour, marker=marker, ms=5)


def key(styles: Mapping[str, tuple[str, str, str]]) -> list[Line2D]:
    """Handles of a legend."""
    return [
        Line2D([], [], color=colour, marker=marker, ls=line, label=LABELS.get(variant, variant))
        for variant, (colour, marker, line) in styles.items()
    ]


def newest(path: Path) -> dict[tuple[str, str, int, str], Row]:
    """The last timing of each (dtype, direction, T, variant) in the file."""
    rows = [row for row in harness.read(path) if row["op"] in ("moe", "ceiling")]
    rows.sort(key=lambda row: row["date"])
    return {(row["dtype"], row["direction"], int(row["T"]), row["variant"]): row for row in rows}


def draw_rates(rows: Mapping[tuple[str, str, int, str], Row]) -> Figure:
    """GFLOP/s against T, one panel per dtype and direction."""
    dtypes = sorted({dtype for dtype, _, _, _ in rows}, reverse=True)  # float32 first
    directions = sorted({direction for _, direction, _, _ in rows})
    figure = Figure(figsize=(5.2 * len(directions), 3.9 * len(dtypes) + 0.9), layout="constrained")
    panels = figure.subplots(len(dtypes), len(directions), sharex=True, sharey=True, squeeze=False)
    for i, dtype in enumerate(dtypes):
        for j, direction in enumerate(directions):
            panel: Axes = panels[i, j]
            for variant, style in STYLES.items():
                points = [
                    (T, float(row["gflop_s"]))
                    for (d, way, T, name), row in rows.items()
                    if (d, way, name) == (dtype, direction, variant) and row["median_ms"]
                ]
                plot(panel, points, style)
            ticks, title = sorted({T for _, _, T, _ in rows}), f"{dtype}, {direction}"
            finish(panel, ticks, legend=False, title=title, yscale="log")
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
    figure.legend(handles=key(STYLES), loc="outside lower center", ncols=3, frameon=False)
    return figure


def newest_run(path: Path) -> list[Row]:
    """The rows of the last run in a CSV of gpu.py, for Pangu's layer under the uniform router."""
    rows = harness.read(path)
    last = max((row["date"] for row in rows), default="")
    return [
        row
        for row in rows
        if (row["date"], row["part"], row["router"]) == (last, "layer", "uniform")
        and row["median_ms"]
    ]


def caption(row: Row) -> str:
    return (
        f"H {row['H']}, E {row['E']}, G {row['G']}, k {row['k']}, F {row['F']}, {row['dtype']}\n"
        f"{row['device']}, torch {row['torch']}, Triton {row['triton']}, {row['date'][:10]}"
    )


def draw_layer(rows: Sequence[Row]) -> Figure:
    """TB/s of few tokens and TFLOP/s of many against T, with the measured ceilings."""
    directions = ("forward", "forward+backward")
    figure = Figure(figsize=(11, 8.6), layout="constrained")
    panels = figure.subplots(2, 2, squeeze=False)
    rates = {"tb_s": ("TB/s", "copy"), "tflop_s": ("TFLOP/s", "dense")}
    for i, direction in enumerate(directions):
        for j, (column, (unit, ceiling)) in enumerate(rates.items()):
            panel: Axes = panels[i, j]
            here = [
                row
                for row in rows
                if row["direction"] == direction
                and row["op"] in ("moe", "ceiling")
                and (int(row["T"]) <= FEW) == (column == "tb_s")
            ]
            for variant, style in (GPU_STYLES | {ceiling: STYLES["dense"]}).items():
                points = [(int(r["T"]), float(r[column])) for r in here if r["variant"] == variant]
                if points:
                    plot(panel, points, style)
            ticks = sorted({int(row["T"]) for row in here})
            labels = {"xlabel": "tokens T", "ylabel": f"{unit} (more is better)"}
            finish(panel, ticks, legend=False, title=direction, **labels)
            panel.set_ylim(bottom=0)
    figure.suptitle(f"Gate, routing and experts: {caption(rows[-1])}", fontsize="medium")
    shown = {row["variant"] for row in rows}
    handles = key({name: style for name, style in GPU_STYLES.items() if name in shown})
    label = "measured ceiling: copy (left), dense 8192³ product (right)"
    handles.append(Line2D([], [], color="#000000", ls="-.", label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def draw_split(rows: Sequence[Row]) -> Figure:
    """Share of each kernel in the layer's time on the device, one bar per T."""
    rows = [row for row in rows if row["op"] == "split"]
    totals: dict[str, float] = {}
    for row in rows:
        totals[row["variant"]] = totals.get(row["variant"], 0.0) + float(row["median_ms"])
    named = sorted(totals, key=lambda name: -totals[name])[:KERNELS]
    colours = [colour for colour, _, _ in GPU_STYLES.values()]
    looks = {name: (colours[i % len(colours)], ("", "///")[i % 2]) for i, name in enumerate(named)}
    looks["other"] = ("#bbbbbb", "")
    figure = Figure(figsize=(11, 6.0), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True, squeeze=False)
    tokens = sorted({int(row["T"]) for row in rows})
    for panel, direction in zip(panels[0], ("forward", "forward+backward"), strict=True):
        for place, T in enumerate(tokens):
            times: dict[str, float] = {}
            for row in rows:
                if row["direction"] == direction and int(row["T"]) == T:
                    name = row["variant"] if row["variant"] in named else "other"
                    times[name] = times.get(name, 0.0) + float(row["median_ms"])
            whole, bottom = sum(times.values()), 0.0
            for name, (colour, hatch) in looks.items():
                share = times.get(name, 0.0) / whole if whole else 0.0
                panel.bar(place, share, 0.7, bottom, color=colour, hatch=hatch, edgecolor="white")
                bottom += share
            panel.text(place, 1.01, f"{whole:.3g} ms", ha="center", va="bottom", fontsize="small")
        panel.set(title=direction, xlabel="tokens T", ylim=(0, 1.08))
        panel.set_xticks(range(len(tokens)), [str(T) for T in tokens])
    panels[0][0].set_ylabel("share of the layer's time on the device")
    figure.suptitle(f"Kernels of gate, routing and experts: {caption(rows[-1])}", fontsize="medium")
    handles = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=name.strip("_")[:40])
        for name, (colour, hatch) in looks.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def draw_gpu(path: Path) -> list[Path]:
    """Pictures beside a CSV of gpu.py: those that its rows are enough for."""
    rows = newest_run(path)
    drawn = []
    for name, op, draw in (("layer", "moe", draw_layer), ("split", "split", draw_split)):
        if any(row["op"] == op for row in rows):
            picture = path.with_name(f"{path.stem}_{name}.png")
            draw(rows).savefig(picture, dpi=150)
            drawn.append(picture)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws a CSV of run.py, or one of gpu.py.")
    parser.add_argument("csv", type=Path, nargs="?", default=harness.RESULTS / "cpu.csv")
    parser.add_argument("--out", type=Path, help="picture of run.py's (default: beside, .png)")
    args = parser.parse_args()
    with args.csv.open() as file:
        gpu = "tflop_s" in file.readline().split(",")
    if gpu:
        print(*draw_gpu(args.csv), sep="\n")
        return
    out = args.out or args.csv.with_suffix(".png")
    draw_rates(newest(args.csv)).savefig(out, dpi=150)
    print(out)


if __name__ == "__main__":
    main()
