"""Draws the results: rates against T from the CSV alone, and the load balance of the demo."""

import argparse
import csv
from collections.abc import Mapping, Sequence
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


class Balance:
    """Expert evaluations on each device, of one way to choose experts."""

    def __init__(self, loads: Sequence[int], tokens: int) -> None:
        self.loads = loads
        self.imbalance = (max(loads) - min(loads)) / tokens  # IS of arXiv 2505.21411
        self.peak = max(loads) * len(loads) / sum(loads)

    def __str__(self) -> str:
        return f"IS {self.imbalance:.2f}, max/mean {self.peak:.2f}"


def draw_balance(panels: Mapping[str, Mapping[str, Balance]], caption: str) -> Figure:
    """One panel per router; in it the loads of MoGE beside those of plain top-k."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes: Sequence[Axes] = figure.subplots(1, len(panels), sharey=True)
    looks = {"MoGE": ("#D55E00", ""), "plain top-k": ("#56B4E9", "///")}
    top = max(max(b.loads) for ways in panels.values() for b in ways.values())
    for panel, (router, ways) in zip(axes, panels.items(), strict=True):
        for i, (way, balance) in enumerate(ways.items()):
            colour, hatch = looks[way]
            places = [d + 0.4 * i - 0.2 for d in range(len(balance.loads))]
            panel.bar(
                places,
                balance.loads,
                0.4,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                label=f"{way}: {balance}",
            )
        devices = range(len(balance.loads))
        panel.set(title=router, xlabel="device", ylim=(0, 1.3 * top))
        panel.set_xticks(devices, [str(d) for d in devices])
        panel.legend(loc="upper center", frameon=False)
    axes[0].set_ylabel("expert evaluations on the device")
    figure.suptitle(caption, fontsize="medium")
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
