"""How evenly MoGE and plain top-k load the devices, counted, and what that costs, modelled.

Counted, by Monte Carlo and on the choices of the models that `train_demo.py` trained: expert
evaluations on each of eight devices that hold neighbouring experts. Modelled, from those counts:
the time of the routed experts of one Pangu Pro MoE layer in bfloat16, as a roofline, and tokens/s
of the expert layers on 4 to 512 devices. Nothing here is timed. Seeds are fixed: the CSV is the
same on every run, and the pictures are drawn from it.
"""

import functools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from bench_ops import finish, harness, printing
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

import moge_ops
from moge_ops import planner
from moge_ops.planner import Chip
from moge_ops.testing import PANGU, Sizes, router_logits

MOGE, TOP_K = "MoGE", "plain top-k"
LOOKS = {MOGE: ("#D55E00", ""), TOP_K: ("#56B4E9", "///")}  # Okabe and Ito's
LAYERS = 48
DEVICES = 8
TOKENS = (1, 8, 16, 64, 256, 1024, 4096, 16384)
VOTE_TOKENS = (4, 16, 64, 256)
ROUTERS = {"uniform": 0.0, "Zipf 0.5": 0.5, "Zipf 1": 1.0, "Zipf 1.5": 1.5}
TRAINED = "trained, layer {}"
CHUNK = 2**17  # tokens that are drawn at once
ITEM = 2  # bytes of a bfloat16
RATE = "modelled_tokens_s_card"

Row = dict[str, Any]


CHIPS = tuple(planner.CHIPS[name] for name in ("h100", "910b2"))


# -- what is counted ------------------------------------------------------------------------------


def imbalance(loads: Tensor, tokens: int) -> Tensor:
    """``[..., devices] -> [...]``: the imbalance score IS of arXiv:2505.21411."""
    return (loads.amax(-1) - loads.amin(-1)) / tokens


def peak(loads: Tensor) -> Tensor:
    """``[..., devices] -> [...]``: the largest load over the mean."""
    return loads.amax(-1) / loads.double().mean(-1)


class Balance:
    """Expert evaluations on each device, of one batch and one way to choose experts."""

    def __init__(self, loads: Sequence[int], tokens: int) -> None:
        self.loads = loads
        self.imbalance = float(imbalance(torch.tensor(loads), tokens))
        self.peak = float(peak(torch.tensor(loads)))

    def __str__(self) -> str:
        return f"IS {self.imbalance:.2f}, max/mean {self.peak:.2f}"


def choices(logits: Tensor, s: Sizes) -> dict[str, Tensor]:
    """``[..., E] ->`` experts ``[..., K]`` of both ways."""
    moge = moge_ops.grouped_gate(logits.flatten(0, -2), s.G, s.k).experts
    return {MOGE: moge.view(*logits.shape[:-1], s.K), TOP_K: logits.topk(s.K).indices}


def expert_rows(experts: Tensor, E: int) -> Tensor:
    """``[samples, T, K] -> [samples, E]``: rows of each expert."""
    samples = len(experts)
    first = torch.arange(samples).view(-1, 1, 1) * E
    return (experts + first).flatten().bincount(minlength=samples * E).view(samples, E)


def sampled_rows(tokens: int, exponent: float, samples: int, s: Sizes) -> dict[str, Tensor]:
    """Rows of each expert ``[samples, E]`` of both ways; the seed is the number of tokens."""
    torch.manual_seed(tokens)
    step = max(1, CHUNK // tokens)
    found: dict[str, list[Tensor]] = {MOGE: [], TOP_K: []}
    for first in range(0, samples, step):
        logits = router_logits(min(step, samples - first), tokens, s.E, exponent)
        for way, experts in choices(logits, s).items():
            found[way].append(expert_rows(experts, s.E))
    return {way: torch.cat(rows) for way, rows in found.items()}


# -- what is modelled -----------------------------------------------------------------------------


def step_seconds(rows: Tensor, devices: int, chip: Chip, s: Sizes) -> Tensor:
    """``[..., E] -> [...]``: the slowest device, which works on its experts one after another."""
    seconds = planner.expert_seconds(rows, chip, s.H, s.F, ITEM)
    return planner.device_loads(seconds, devices).amax(-1)


def modelled_us(chip: Chip) -> str:
    """Name of the column of a chip."""
    return f"modelled_us {chip.name}"


def modelled(rows: Tensor, s: Sizes) -> Row:
    """Mean microseconds of a layer on each chip."""
    return {
        modelled_us(chip): f"{float(step_seconds(rows, DEVICES, chip, s).mean()) * 1e6:.4g}"
        for chip in CHIPS
    }


# -- the studies, each an iterator of rows --------------------------------------------------------


def point(study: str, router: str, way: str, tokens: int, rows: Tensor, s: Sizes) -> Row:
    """Means over the samples of ``rows [samples, E]``."""
    loads = planner.device_loads(rows, DEVICES)
    return {
        "study": study,
        "router": router,
        "way": way,
        "tokens": tokens,
        "samples": len(rows),
        "imbalance": f"{float(imbalance(loads, tokens).double().mean()):.4f}",
        "max_over_mean": f"{float(peak(loads).mean()):.4f}",
        "experts_used": f"{float((rows > 0).double().sum(-1).mean()):.2f}",
        **modelled(rows, s),
    }


def study_routers(scale: float) -> Iterator[Row]:
    """Random routers at every batch size, and the distribution of IS at 16 tokens."""
    for router, exponent in ROUTERS.items():
        for tokens in TOKENS:
            # enough to know the mean of IS to 0.2 to 0.5 % at the batches that are compared with
            # published figures, and to 2 % elsewhere
            most = 2**22 if router == "uniform" and tokens <= 1024 else 2**19
            samples = int(scale * min(16384, most // tokens)) or 1
            for way, rows in sampled_rows(tokens, exponent, samples, PANGU).items():
                yield point("router", router, way, tokens, rows, PANGU)
                if router == "uniform" and tokens == 16:
                    scores = imbalance(planner.device_loads(rows, DEVICES), tokens)
                    for score, n in zip(*scores.unique(return_counts=True), strict=True):
                        row = {"study": "histogram", "router": router, "way": way, "tokens": tokens}
                        share = {"imbalance": f"{float(score):.4f}", "share": f"{n / samples:.5f}"}
                        yield {**row, "samples": samples, **share}


def study_trained(path: Path, scale: float) -> Iterator[Row]:
    """Batches of held-out tokens, each from a sequence of its own, through the trained routers."""
    with np.load(path) as file:
        trained = {way: torch.from_numpy(file[way]).long() for way in (MOGE, TOP_K)}
    for way, layers in trained.items():
        for layer, experts in enumerate(layers):  # [T, K]
            for tokens in TOKENS:
                torch.manual_seed(tokens)
                samples = int(scale * min(256, 2**19 // tokens))
                batches = torch.randint(len(experts), (samples, tokens))
                rows = expert_rows(experts[batches], PANGU.E)
                yield point("trained", TRAINED.format(layer), way, tokens, rows, PANGU)


def study_vote(scale: float) -> Iterator[Row]:
    """MoGE with only the ``num_voted`` most popular experts of each group."""
    s = PANGU
    for router in ("uniform", "Zipf 1"):
        for tokens in VOTE_TOKENS:
            torch.manual_seed(tokens)
            logits = router_logits(int(scale * 128), tokens, s.E, ROUTERS[router])
            free = choices(logits, s)[MOGE]
            for num_voted in range(1, s.P + 1):
                gate = functools.partial(moge_ops.grouped_gate, num_voted=num_voted)
                experts = torch.stack([gate(batch, s.G, s.k).experts for batch in logits])
                kept = float((experts == free).double().mean())
                row = point("vote", router, MOGE, tokens, expert_rows(experts, s.E), s)
                yield {**row, "num_voted": num_voted, "kept": f"{kept:.4f}"}


class Layout(NamedTuple):
    """A set of devices that holds all experts: ``ranks`` share them, each expert split ``tp`` ways.

    Whole groups bound MoGE's ranks to G, whole experts plain top-k's to E.
    """

    way: str
    ranks: int
    tp: int = 1

    @property
    def devices(self) -> int:
        return self.ranks * self.tp

    def on(self, devices: int) -> str:
        """Name with the replicas of the set that fill ``devices``."""
        parts = {"EP": self.ranks, "TP": self.tp, "DP": devices // self.devices}
        return "·".join(f"{name}{n}" for name, n in parts.items() if n > 1)


SIZES = (4, 8, 16, 32, 64, 128, 256, 512)  # devices of a cluster
LAYOUTS = [
    *(Layout(MOGE, min(n, PANGU.G), max(1, n // PANGU.G)) for n in SIZES),
    *(Layout(TOP_K, n) for n in SIZES if n <= PANGU.E),
]


def study_scale(scale: float) -> Iterator[Row]:
    """Tokens/s of the expert layers on a card: a model, of routed experts and links alone.

    Attention, the shared expert and latencies are left out, and so are the exchange of counts and
    the wait of the host that an uneven all-to-all needs. Of all layouts that fill the devices, each
    way has its quickest.
    """
    for router in ("uniform", "Zipf 1"):
        for per_card in (16, 128, 1024):
            found = [row for x in LAYOUTS for row in layout_rows(x, per_card, router, scale)]
            for chip in CHIPS:
                for way in (MOGE, TOP_K):
                    own = [r for r in found if (r["chip"], r["way"]) == (chip.name, way)]
                    for devices in SIZES:
                        fit = [row for row in own if row["layout"].devices <= devices]
                        row = max(fit, key=lambda row: float(row[RATE]))
                        yield {**row, "devices": devices, "layout": row["layout"].on(devices)}


def layout_rows(layout: Layout, per_card: int, router: str, scale: float) -> Iterator[Row]:
    """One set of devices, on each chip."""
    s = PANGU._replace(F=PANGU.F // layout.tp)
    tokens = per_card * layout.devices
    drawn = min(tokens, int(scale * 2**15) // layout.ranks * layout.ranks)
    samples = max(1, int(scale * 2**16) // drawn)
    torch.manual_seed(tokens)
    logits = router_logits(samples, drawn, s.E, ROUTERS[router])
    experts = choices(logits, s)[layout.way].long()
    more = tokens / drawn  # the counts of a larger batch are multiplied
    rows = expert_rows(experts, s.E) * more
    for chip in CHIPS:
        if layout.way == MOGE:
            links = planner.gather_seconds(layout.devices, per_card, s.H * ITEM, chip)
        else:
            ways = (layout.ranks, s.E, s.H * ITEM, chip)
            times = [planner.all_to_all_seconds(batch, *ways) for batch in experts]
            links = sum(times) / samples * more
        compute = float(step_seconds(rows, layout.ranks, chip, s).mean())
        yield {
            "study": "scale",
            "router": router,
            "way": layout.way,
            "tokens": tokens,
            "samples": samples,
            "chip": chip.name,
            "layout": layout,
            "tokens_per_card": per_card,
            "modelled_experts_us": f"{compute * 1e6:.4g}",
            "modelled_links_us": f"{links * 1e6:.4g}",
            RATE: f"{per_card / (LAYERS * (compute + links)):.4g}",
        }


COLUMNS = [
    *("study", "router", "way", "tokens", "samples", "imbalance", "max_over_mean", "experts_used"),
    *(modelled_us(chip) for chip in CHIPS),
    *("share", "num_voted", "kept", "chip", "devices", "layout", "tokens_per_card"),
    *("modelled_experts_us", "modelled_links_us", RATE),
]


# -- pictures, tables -----------------------------------------------------------------------------


def loads_of_one_batch(s: Sizes, devices: int) -> dict[str, dict[str, Balance]]:
    """Loads by ``s.T`` tokens, under a uniform and a skewed router and both ways to choose."""
    noise = router_logits(1, s.T, s.E, 0.0)
    skew = -(torch.randperm(s.E) + 1.0).log()  # Zipf 1
    found = {}
    for name, logits in {"uniform router": noise, "skewed router (Zipf)": noise + skew}.items():
        found[name] = {
            way: Balance(planner.device_loads(expert_rows(experts, s.E), devices)[0].tolist(), s.T)
            for way, experts in choices(logits, s).items()
        }
    return found


def draw_loads(panels: Mapping[str, Mapping[str, Balance]], caption: str) -> Figure:
    """One panel per router; in it the loads of MoGE beside those of plain top-k."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes: Sequence[Axes] = figure.subplots(1, len(panels), sharey=True)
    top = max(max(b.loads) for ways in panels.values() for b in ways.values())
    for panel, (router, ways) in zip(axes, panels.items(), strict=True):
        for i, (way, balance) in enumerate(ways.items()):
            colour, hatch = LOOKS[way]
            places = [d + 0.4 * i - 0.2 for d in range(len(balance.loads))]
            looks = {"color": colour, "hatch": hatch, "edgecolor": "white"}
            panel.bar(places, balance.loads, 0.4, label=f"{way}: {balance}", **looks)
        devices = range(len(balance.loads))
        panel.set(title=router, xlabel="device", ylim=(0, 1.3 * top))
        panel.set_xticks(devices, [str(d) for d in devices])
        panel.legend(loc="upper center", frameon=False)
    axes[0].set_ylabel("expert evaluations on the device")
    figure.suptitle(caption, fontsize="medium")
    return figure


def curve(rows: Sequence[Mapping[str, str]], x: str, y: str, **where: object) -> dict[int, float]:
    """x -> mean of y over the rows that have these values."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if all(row[name] == str(value) for name, value in where.items()):
            found.setdefault(int(row[x]), []).append(float(row[y]))
    return {key: sum(values) / len(values) for key, values in sorted(found.items())}


# label -> rows of plain top-k or of MoGE, colour, marker
CURVES = {
    "uniform": ({"router": "uniform"}, "#56B4E9", "o"),
    "Zipf 0.5": ({"router": "Zipf 0.5"}, "#009E73", "s"),
    "Zipf 1": ({"router": "Zipf 1"}, "#0072B2", "^"),
    "Zipf 1.5": ({"router": "Zipf 1.5"}, "#000000", "v"),
    "trained, mean of 4 layers": ({"study": "trained"}, "#CC79A7", "D"),
}


def plot(panel: Axes, points: Mapping[int, float], line: str, **looks: Any) -> None:
    panel.plot(list(points), list(points.values()), line, **looks)


def draw_balance(rows: list[dict[str, str]]) -> Figure:
    """Figure 2b, imbalance and peak load against the batch, and what they cost."""
    figure = Figure(figsize=(11, 8.2), layout="constrained")
    (histogram, score), (load, cost) = figure.subplots(2, 2)
    shares = [row for row in rows if row["study"] == "histogram" and row["way"] == TOP_K]
    scores, heights = ([float(row[name]) for row in shares] for name in ("imbalance", "share"))
    looks = {"color": LOOKS[TOP_K][0], "edgecolor": "white", "label": "plain top-k"}
    histogram.bar(scores, heights, 1 / 16, **looks)
    histogram.axvline(0.0, color=LOOKS[MOGE][0], lw=4, label="MoGE: 0 in every batch")
    labels = {"xlabel": "imbalance score IS = (max - min) / tokens", "ylabel": "share of batches"}
    finish(histogram, (), title="16 tokens, uniform router", **labels)
    ours = LOOKS[MOGE][0]
    for panel, column in ((score, "imbalance"), (load, "max_over_mean")):
        for label, (where, colour, marker) in CURVES.items():
            points = curve(rows, "tokens", column, **{"study": "router", **where}, way=TOP_K)
            plot(panel, points, "-", color=colour, marker=marker, ms=5, label=label)
        points = curve(rows, "tokens", column, study="router", way=MOGE)
        plot(panel, points, "-", color=ours, lw=3, label="MoGE, every router")
    for where, colour, marker in CURVES.values():
        where = {"study": "router", **where}
        for chip, line in zip(CHIPS, ("-", ":"), strict=True):
            top_k, moge = (
                curve(rows, "tokens", modelled_us(chip), **where, way=way) for way in (TOP_K, MOGE)
            )
            ratio = {tokens: us / moge[tokens] for tokens, us in top_k.items()}
            plot(cost, ratio, line, color=colour, marker=marker, ms=4)
    cost.axhline(1.0, color=ours, lw=3)
    batch = "tokens of the batch"
    for panel, title, x, y in (
        (score, "Imbalance score of plain top-k", batch, "IS, mean"),
        (load, "Load of the fullest device, plain top-k", batch, "max / mean over 8 devices"),
        (
            cost,
            "Modelled time of the routed experts, plain top-k / MoGE",
            f"{batch} (solid: H100, dotted: 910B2)",
            "ratio, slowest device",
        ),
    ):
        finish(panel, TOKENS, legend=False, title=title, xlabel=x, ylabel=y)
    handles, labels = load.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    figure.suptitle(
        "64 experts, 8 per token, on 8 devices: MoGE and plain top-k\n"
        "counted by Monte Carlo and on the models of make train-demo; times are modelled",
        fontsize="medium",
    )
    return figure


def draw_models(rows: list[dict[str, str]]) -> Figure:
    """The vote, and the scale model."""
    figure = Figure(figsize=(11, 8.2), layout="constrained")
    (used, kept), scales = figure.subplots(2, 2)
    lines = {"uniform": "-", "Zipf 1": ":"}
    colours = ("#56B4E9", "#009E73", "#0072B2", "#000000")
    for tokens, colour, marker in zip(VOTE_TOKENS, colours, "os^v", strict=True):
        for router, line in lines.items():
            looks = {"color": colour, "marker": marker, "ms": 5}
            looks |= {"label": f"{tokens} tokens"} if line == "-" else {}
            where = {"study": "vote", "router": router, "tokens": tokens}
            times = curve(rows, "num_voted", modelled_us(CHIPS[0]), **where)
            free = times[max(times)]
            plot(used, {voted: us / free for voted, us in times.items()}, line, **looks)
            plot(kept, curve(rows, "num_voted", "kept", **where), line, **looks)
    voted = "num_voted of 8 (solid: uniform, dotted: Zipf 1)"
    for panel, title, name in (
        (
            used,
            "The vote: modelled time on H100, of that without one",
            "time / time without a vote",
        ),
        (kept, "The vote: choices that stay as they were", "share of choices"),
    ):
        finish(panel, (), title=title, xlabel=voted, ylabel=name, ylim=(0, 1.08))
    for panel, chip in zip(scales, CHIPS, strict=True):
        for way, colour in ((MOGE, LOOKS[MOGE][0]), (TOP_K, "#0072B2")):
            for per_card, marker in ((16, "o"), (128, "s"), (1024, "^")):
                for router, line in lines.items():
                    looks = {"color": colour, "marker": marker, "ms": 5}
                    looks |= {"label": f"{way}, {per_card} tokens a card"} if line == "-" else {}
                    where = {"chip": chip.name, "way": way, "tokens_per_card": per_card}
                    plot(panel, curve(rows, "devices", RATE, **where, router=router), line, **looks)
        panel.set_yscale("log")
        rates = [1000 * n for n in (1, 2, 4, 8, 16, 32)]
        panel.set_yticks(rates, [str(rate) for rate in rates])
        finish(panel, SIZES, title=f"Model: expert layers on {chip.name}, quickest layout")
        panel.set(xlabel="devices (solid: uniform, dotted: Zipf 1)", ylabel="tokens/s of a card")
    figure.suptitle(
        "Models, nothing timed: rooflines of the routed experts of Pangu Pro MoE in bfloat16, and "
        "links at their published rates",
        fontsize="medium",
    )
    return figure


def by_way(rows: list[dict[str, str]], *names: str) -> dict[tuple[str, ...], dict[str, Any]]:
    """Values of the columns ``names`` -> the row of each way there."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), {})[row["way"]] = row
    return found


def tables(rows: list[dict[str, str]]) -> Iterator[Table]:
    table = printing.table_of(
        "Counted: 64 experts, 8 per token, 8 devices (MoGE: IS 0, max/mean 1)",
        ["router"],
        ["tokens", "IS", "max/mean", *(f"modelled us, {c.name}:\ntop-k, MoGE" for c in CHIPS)],
    )
    counted = [row for row in rows if row["study"] in ("router", "trained")]
    for (router, tokens), ways in by_way(counted, "router", "tokens").items():
        top = ways[TOP_K]
        times = [", ".join(ways[w][modelled_us(c)] for w in (TOP_K, MOGE)) for c in CHIPS]
        table.add_row(router, tokens, top["imbalance"], top["max_over_mean"], *times)
    yield table

    table = printing.table_of(
        "A model: tokens/s of a card, expert layers alone, quickest layouts",
        ["chip", "router", MOGE, TOP_K],
        ["tokens a card", "devices", "tokens/s", "tokens/s ", "MoGE / top-k"],
        caption="more devices than are listed: replicas of the last set",
    )
    before: object = None
    scaled = [row for row in rows if row["study"] == "scale"]
    for place, ways in by_way(scaled, "chip", "router", "tokens_per_card", "devices").items():
        moge, top_k = ways[MOGE], ways[TOP_K]
        ratio = f"{float(moge[RATE]) / float(top_k[RATE]):.2f}"
        rates = (place[:-1], moge[RATE], top_k[RATE])
        if rates != before:  # else the same set of devices, once more
            layouts, cells = (moge["layout"], top_k["layout"]), (moge[RATE], top_k[RATE], ratio)
            table.add_row(*place[:2], *layouts, *place[2:], *cells)
        before = rates
    yield table


def main() -> int:
    parser = harness.example("The balance study: a CSV, and pictures of it.", {})
    trained = harness.RESULTS / "train_experts.npz"
    parser.add_argument("--trained", type=Path, default=trained, help="train_demo.py wrote it")
    args = parser.parse_args()
    started = time.perf_counter()
    scale = 0.02 if args.smoke else 1.0
    studies = {
        "routers": study_routers(scale),
        "trained models": study_trained(args.trained, scale),
        "votes": study_vote(scale),
        "scale": study_scale(scale),
    }
    rows: list[Row] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for name, study in studies.items():
            rows += progress.track(study, description=name, total=None)

    harness.write(args.out / "balance.csv", rows, COLUMNS)
    written = harness.read(args.out / "balance.csv")
    console = printing.console(140)
    for table in tables(written):
        console.print(table)
    for name, draw in {"balance_study": draw_balance, "balance_models": draw_models}.items():
        draw(written).savefig(args.out / f"{name}.png", dpi=130)
        console.print(f"Picture: {args.out / name}.png")
    console.print(f"{time.perf_counter() - started:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
