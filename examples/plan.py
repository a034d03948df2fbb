"""Where the published layouts of Pangu Pro MoE stand among all plans of the planner.

Every plan for decoding on 4 to 512 devices is counted and modelled by `moge_ops.planner`: memory
from the shapes of the reference model, time by rooflines and rates of links. Nothing is timed. The
rows say for each number of devices which plan is the quickest, and for the layout of the paper,
attention DP2·TP4 and routed experts TP2·EP4 on eight devices, which rank it has and how much of the
best rate. Plain top-k's twin of the model, with one group, is planned beside it. The links of the
310P are an assumption of ours, so that its layout is ranked with slower and quicker ones, too, and
with other limits of a step.

Weights are int8, as the paper serves (arXiv:2505.21411), contexts have 2048 tokens, and a step may
take 100 ms. The published rate on four cards of a 800I A2 is there to compare: it was measured on
NPUs, with everything that a roofline leaves out.
"""

import sys
from collections.abc import Iterator
from itertools import product
from typing import Any

from bench_ops import finish, harness, printing
from matplotlib.figure import Figure
from rich.table import Table

from moge_ops import planner
from moge_ops.models import PanguMoEConfig
from moge_ops.planner import Chip, Found, Plans, Precision

DEVICES = (4, 8, 16, 32, 64, 128, 256, 512)
LENGTH, LATENCY = 2048, 0.1
PAPER = "DP2·TP4", "TP2·EP4"  # attention and routed experts on eight devices
MODELS = {"MoGE": PanguMoEConfig(), "plain top-k": planner.top_k_twin(PanguMoEConfig())}
LOOKS = {"MoGE": ("#D55E00", "o"), "plain top-k": ("#0072B2", "s")}  # Okabe and Ito's
CHIPS = {"Ascend 910B2": "910b2", "Ascend 310P": "310p"}
# rates of the 310P's links over those of planner.CHIPS, and most seconds of a step
LINKS, LATENCIES = (0.25, 1.0, 4.0), (0.06, LATENCY, 0.15, None)
COLUMNS = [
    *("chip", "way", "devices", "what", "attention", "experts", "rank", "plans", "share"),
    *("batch", "memory_gb", "modelled_step_ms", "modelled_tokens_s_device"),
    *("links", "latency_ms"),
]
Row = dict[str, Any]


def row(chip: str, way: str, devices: int, what: str, plans: Plans, found: Found) -> Row:
    """A plan, with its rank; equally quick ones share the best of their ranks."""
    quicker = sum(other.rate > found.rate * (1 + 1e-9) for other in plans.best)
    return {
        "chip": chip,
        "way": way,
        "devices": devices,
        "what": what,
        "attention": found.layout.attention,
        "experts": found.layout.experts,
        "rank": quicker + 1,
        "plans": len(plans.best),
        "share": f"{found.rate / plans.best[0].rate:.3f}",
        "batch": found.batch,
        "memory_gb": f"{found.memory.total / 1e9:.1f}",
        "modelled_step_ms": f"{1e3 * found.times.total:.2f}",
        "modelled_tokens_s_device": f"{found.rate:.5g}",
        "links": "1",
        "latency_ms": f"{1e3 * LATENCY:g}",
    }


def planned(config: PanguMoEConfig, devices: int, chip: Chip | str, latency: float | None) -> Plans:
    precision = Precision(matrix=1)
    return planner.plan(config, devices, chip, length=LENGTH, latency=latency, precision=precision)


def papers(plans: Plans) -> Found:
    """The plan with the layout of the paper."""
    return next(x for x in plans.best if (x.layout.attention, x.layout.experts) == PAPER)


def study(sizes: tuple[int, ...]) -> Iterator[Row]:
    """The best plan of each number of devices, and the paper's where it has eight."""
    for chip, name in CHIPS.items():
        for way, config in MODELS.items():
            for devices in sizes:
                plans = planned(config, devices, name, LATENCY)
                if not plans.best:
                    continue
                yield row(chip, way, devices, "best", plans, plans.best[0])
                if way == "MoGE" and devices == 8:
                    yield row(chip, way, devices, "paper", plans, papers(plans))


def varied() -> Iterator[Row]:
    """The paper's layout on eight chips of the 310P, under other conditions."""
    chip = planner.CHIPS["310p"]
    for links, latency in product(LINKS, LATENCIES):
        made = chip._replace(node_link=links * chip.node_link, net_link=links * chip.net_link)
        plans = planned(MODELS["MoGE"], 8, made, latency)
        found = row(chip.name, "MoGE", 8, "varied", plans, papers(plans))
        most = "any" if latency is None else f"{1e3 * latency:g}"
        yield {**found, "links": f"{links:g}", "latency_ms": most}


def draw(rows: list[dict[str, str]]) -> Figure:
    """Modelled tokens a second of a device, of the best plans."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for panel, chip in zip(figure.subplots(1, len(CHIPS)), CHIPS, strict=True):
        for way, (colour, marker) in LOOKS.items():
            best = [r for r in rows if (r["chip"], r["way"], r["what"]) == (chip, way, "best")]
            x = [int(r["devices"]) for r in best]
            y = [float(r["modelled_tokens_s_device"]) for r in best]
            panel.plot(x, y, color=colour, marker=marker, label=way)
        for r in rows:
            if (r["chip"], r["what"]) == (chip, "paper"):
                rate = float(r["modelled_tokens_s_device"])
                panel.plot([8], [rate], "k*", ms=12, label="the paper's layout")
        finish(
            panel,
            DEVICES,
            title=chip,
            xlabel="devices",
            ylabel="tokens/s of a device",
            legend=False,
        )
        panel.set_ylim(bottom=0)
        panel.legend(loc="lower right", frameon=False)
    figure.suptitle("Modelled, nothing timed: decoding in int8, contexts of 2048, 100 ms a step")
    return figure


def table(rows: list[dict[str, str]]) -> Table:
    shown = [name for name in COLUMNS if name not in ("plans", "memory_gb")]
    made = Table(*shown, title="The quickest plans, and the paper's")
    for r in rows:
        made.add_row(*(r[name] for name in shown))
    return made


def main() -> int:
    args = harness.example("Plans of decoding: a CSV, and a picture of it.", {}).parse_args()
    rows = [*study((4, 8) if args.smoke else DEVICES), *varied()]
    harness.write(args.out / "plan.csv", rows, COLUMNS)
    written = harness.read(args.out / "plan.csv")
    printing.console(150).print(table(written))
    draw(written).savefig(args.out / "plan.png", dpi=130)
    return 0


if __name__ == "__main__":
    sys.exit(main())
