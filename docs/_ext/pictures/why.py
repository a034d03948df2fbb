"""Why MoGE: the choice itself, and the loads that follow from it."""

import torch
from torch import Tensor

import moge_ops
from pictures import Svg
from tables import balance

T, E, G = 6, 16, 4
K, P = G, E // G  # one expert of each group
CELL = 17


def _grid(svg: Svg, left: float, title: str, experts: Tensor) -> None:
    """Tokens down, experts across; the experts of a device stand together."""
    svg.text(left, 12, title, "strong")
    loads = experts.flatten().bincount(minlength=E).view(G, P).sum(1).tolist()
    for g, load in enumerate(loads):
        x = left + g * (P * CELL + 8)
        svg.text(x + P * CELL / 2, 36, f"device {g}", anchor="middle", size=12)
        for t in range(T):
            for e in range(P):
                chosen = g * P + e in experts[t].tolist()
                svg.box(x + e * CELL, 50 + t * CELL, CELL, CELL, ink=f"g{g}" if chosen else "plain")
        svg.text(x + P * CELL / 2, 66 + T * CELL, f"{load} rows", "strong", "middle")


def choice() -> Svg:
    """The same logits, chosen from in two ways."""
    torch.manual_seed(5)
    logits = torch.randn(T, E) + torch.linspace(0.8, -0.8, E)  # a router that prefers the first
    svg = Svg(712, 82 + T * CELL)
    for t in range(T):
        svg.text(0, 50 + (t + 0.5) * CELL, f"token {t}", size=12)
    _grid(svg, 60, f"plain top-{K} of {E}", logits.topk(K).indices)
    _grid(svg, 400, f"the best of each of {G} groups", moge_ops.grouped_gate(logits, G).experts)
    return svg


LEFT, TOP, WIDTH, HEIGHT = 56, 34, 600, 220
MOST_SCORE, MOST_SHARE = 1.75, 0.14


def imbalance() -> Svg:
    """Figure 2b of the paper: how often plain top-k's devices are how unevenly loaded."""
    bottom, unit = TOP + HEIGHT, WIDTH / MOST_SCORE
    width = unit / 16 - 2  # a batch of 16 tokens has scores in sixteenths
    svg = Svg(LEFT + WIDTH + 30, bottom + 56)
    for row in balance.rows("histogram"):
        score, share = float(row["imbalance"]), float(row["share"])
        x = LEFT + (score + 1 / 16) * unit - width / 2
        if row["way"] == balance.MOGE:
            # its share is 1, far above the scale
            svg.box(x, TOP, width, HEIGHT, ink="g1")
            samples = f"MoGE: 0 in all {int(row['samples']):,} batches"
            svg.text(x + width + 8, TOP + 10, samples, "strong")
        elif share * HEIGHT / MOST_SHARE >= 0.5:
            height = HEIGHT * share / MOST_SHARE
            svg.box(x, bottom - height, width, height, ink="g0")
    mean = balance.mean("imbalance", "uniform", "16")
    middle = LEFT + (mean + 1 / 16) * unit
    svg.line((middle, bottom), (middle, TOP + 2))
    svg.text(middle + 8, TOP + 10, f"plain top-k, mean {mean:.2f}", "strong")
    svg.line((LEFT, TOP), (LEFT, bottom), (LEFT + WIDTH, bottom))
    for percent in (0, 5, 10):
        y = bottom - HEIGHT * percent / 100 / MOST_SHARE
        svg.line((LEFT - 5, y), (LEFT, y))
        svg.text(LEFT - 9, y, f"{percent} %", anchor="end", size=12)
    for quarter in range(7):
        x = LEFT + (quarter / 4 + 1 / 16) * unit
        svg.line((x, bottom), (x, bottom + 5))
        svg.text(x, bottom + 17, f"{quarter / 4:g}", anchor="middle", size=12)
    title = "imbalance score: (most - least loaded device) / tokens"
    svg.text(LEFT + WIDTH / 2, bottom + 42, title, anchor="middle")
    svg.text(4, 12, "share of batches")
    return svg
