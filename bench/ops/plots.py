"""Draws a CSV of `run.py` or of gpu.py, and nothing but what is in it."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import harness
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator
from peers import HUGGING_FACE
from problem import BOTH, FORWARD, OURS, OURS_BFLOAT16

from moge_ops.quant import SCHEMES

# Okabe and Ito's colours can be told apart by the colour-blind; markers and dashes repeat the
# difference for a print in black and white
STYLES = {
    OURS: ("#D55E00", "o", "-"),
    "hf eager": ("#0072B2", "s", "--"),
    "hf batched_mm": ("#009E73", "^", "--"),
    "hf grouped_mm": ("#56B4E9", "D", "--"),
    "torch grouped_mm": ("#CC79A7", "v", ":"),
    "liger": ("#E69F00", "P", "--"),
    "moe-ops": ("#8B6914", "X", "--"),
    "scattermoe": ("#6A3D9A", "<", "--"),
    "sonicmoe": ("#555555", "*", "--"),
}
HF = "Hugging Face, fastest of three"
CPU_STYLES = {
    OURS: STYLES[OURS],
    "vllm": ("#0072B2", "s", "--"),
    "sglang": ("#009E73", "^", "--"),
    "zentorch": ("#E69F00", "P", "--"),
    HF: STYLES["hf grouped_mm"],
    "torch grouped_mm": STYLES["torch grouped_mm"],
}
QUANTISED_STYLES = {
    OURS: STYLES[OURS],
    OURS_BFLOAT16: ("#555555", "D", ":"),
    "sglang": CPU_STYLES["sglang"],
    "zentorch": CPU_STYLES["zentorch"],
}
CEILING = ("#000000", "", "-.")
# picture of a CPU -> the passes that it shows; the second has what the engines cannot do
CPU_PICTURES = {
    "": [("bfloat16", FORWARD)],
    "_training": [("float32", FORWARD), ("float32", BOTH), ("bfloat16", BOTH)],
}
FEW = 456  # tokens: up to here the weights' bytes decide, above it the products
KEY = ("dtype", "direction", "H", "T")  # of a row of run.py: its panel and its place there
KERNELS = 8  # largest ones that the split shows by name

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
        Line2D([], [], color=colour, marker=marker, ls=line, label=variant)
        for variant, (colour, marker, line) in styles.items()
    ]


def drawn(path: Path) -> tuple[dict[tuple[str, str, int], dict[str, dict[int, Row]]], str]:
    """Rows by (dtype, direction, H), line and T: the newest, of cold caches where there is one.

    Warm caches of a server hold a small layer, which then seems to pass the memory's rate.
    """
    found: dict[tuple[str, str, int], dict[str, dict[int, Row]]] = {}
    rows = [row for row in harness.read(path) if row["op"] == "moe" and row["median_ms"]]
    rows.sort(key=lambda row: (row["caches"] == "cold", row["date"]))
    latest = {(*(row[name] for name in KEY), row["variant"]): row for row in rows}
    for row in latest.values():
        lines = found.setdefault((row["dtype"], row["direction"], int(row["H"])), {})
        line = lines.setdefault(HF if row["variant"] in HUGGING_FACE else row["variant"], {})
        other = line.get(int(row["T"]), row)
        line[int(row["T"])] = min(row, other, key=lambda row: float(row["median_ms"]))
    last = max(rows, key=lambda row: row["date"])
    kernel = next(row["kernel"] for row in reversed(rows) if row["variant"] == OURS)
    where = f"{last['machine']} ({last['isa']}), {last['threads']} threads"
    return found, f"{where}, ours: {kernel}, torch {last['torch']}, {last['date'][:10]}"


def draw_cpu(paths: Sequence[Path], passes: Sequence[tuple[str, str]]) -> Figure | None:
    """Share of the machine's bound against T, one line of panels per machine."""
    machines = [drawn(path) for path in paths]
    columns = [
        panel
        for way in passes
        for panel in sorted({it for found, _ in machines for it in found if it[:2] == way})
    ]
    if not columns:
        return None
    size = 4.9 * len(columns) + 0.6, 3.7 * len(machines) + 0.9
    figure = Figure(figsize=size, layout="constrained")
    parts = figure.subfigures(len(machines), 1, squeeze=False)[:, 0]
    for part, (found, where) in zip(parts, machines, strict=True):
        part.suptitle(where, fontsize="medium")
        panels = part.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for panel, (dtype, direction, H) in zip(panels, columns, strict=True):
            lines = found.get((dtype, direction, H), {})
            for variant, style in CPU_STYLES.items():
                points = [
                    (T, max(float(row["of_read"]), float(row["of_dense"])))
                    for T, row in lines.get(variant, {}).items()
                ]
                if points:
                    plot(panel, points, style)
            panel.axhline(1.0, color=CEILING[0], ls=CEILING[2])
            ticks = sorted({T for line in lines.values() for T in line})
            title = f"{dtype}, {direction}, H {H}"
            finish(panel, ticks, legend=False, title=title, xlabel="tokens T")
        panels[0].set_ylim(bottom=0)  # of all: they share it
        panels[0].set_ylabel("least time / time (more is better)")
    label = "bound: stream of reads, or dense product"
    shown = {line for found, _ in machines for it in columns for line in found.get(it, {})}
    handles = key({line: style for line, style in CPU_STYLES.items() if line in shown})
    handles += [Line2D([], [], color=CEILING[0], ls=CEILING[2], label=label)]
    ncols = 2 * len(columns) - 1  # the labels of one panel stand below each other
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols, frameon=False)
    return figure


def draw_quantised(paths: Sequence[Path]) -> Figure | None:
    """Milliseconds against T: a column for each scheme, a line for each machine and H."""
    lines = []
    for path in paths:
        found, where = drawn(path)
        sizes = sorted({H for scheme, _, H in found if scheme in SCHEMES})
        lines += [(H, found, where) for H in sizes]
    if not lines:
        return None
    measured = {scheme for _, found, _ in lines for scheme, _, _ in found}
    schemes = [scheme for scheme in SCHEMES if scheme in measured]
    size = 2.7 * len(schemes) + 0.6, 3.0 * len(lines) + 0.8
    figure = Figure(figsize=size, layout="constrained")
    parts = figure.subfigures(len(lines), 1, squeeze=False)[:, 0]
    for part, (H, found, where) in zip(parts, lines, strict=True):
        part.suptitle(f"H {H}: {where}", fontsize="medium")
        panels = part.subplots(1, len(schemes), sharey=True, squeeze=False)[0]
        for panel, scheme in zip(panels, schemes, strict=True):
            here = found.get((scheme, FORWARD, H), {})
            for variant, style in QUANTISED_STYLES.items():
                line = here.get(variant, {})
                plot(panel, [(T, float(row["median_ms"])) for T, row in line.items()], style)
            panel.set_yscale("log")
            panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            panel.yaxis.set_major_formatter("{x:g}")
            ticks = sorted({T for line in here.values() for T in line})
            finish(panel, ticks, legend=False, title=scheme, xlabel="tokens T")
        panels[0].set_ylabel("ms, forward (less is better)")
    handles = key(QUANTISED_STYLES)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
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
            for variant, style in (STYLES | {ceiling: CEILING}).items():
                points = [(int(r["T"]), float(r[column])) for r in here if r["variant"] == variant]
                if points:
                    plot(panel, points, style)
            ticks = sorted({int(row["T"]) for row in here})
            labels = {"xlabel": "tokens T", "ylabel": f"{unit} (more is better)"}
            finish(panel, ticks, legend=False, title=direction, **labels)
            panel.set_ylim(bottom=0)
    figure.suptitle(f"Gate, routing and experts: {caption(rows[-1])}", fontsize="medium")
    shown = {row["variant"] for row in rows}
    handles = key({name: style for name, style in STYLES.items() if name in shown})
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
    colours = [colour for colour, _, _ in STYLES.values()]
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
    parser = argparse.ArgumentParser(description="Draws CSVs of run.py, or one of gpu.py.")
    text = "CSVs (default: those of all CPUs in bench/results)"
    parser.add_argument("csv", type=Path, nargs="*", help=text)
    parser.add_argument("--out", type=Path, help="picture of run.py's (default: beside, .png)")
    args = parser.parse_args()
    paths = args.csv or sorted(harness.RESULTS.glob("cpu_*.csv"))
    if paths and "tflop_s" in paths[0].read_text().partition("\n")[0].split(","):
        print(*draw_gpu(paths[0]), sep="\n")
        return
    out = args.out or (args.csv[0].with_suffix(".png") if args.csv else harness.RESULTS / "cpu.png")
    for name, passes in CPU_PICTURES.items():
        if figure := draw_cpu(paths, passes):
            picture = out.with_name(f"{out.stem}{name}.png")
            figure.savefig(picture, dpi=150)
            print(picture)
    quantised = args.csv or sorted(harness.RESULTS.glob("quant_*.csv"))
    if figure := draw_quantised(quantised):
        picture = out.with_name(f"{out.stem}_quant.png" if args.csv or args.out else "quant.png")
        figure.savefig(picture, dpi=150)
        print(picture)


if __name__ == "__main__":
    main()
