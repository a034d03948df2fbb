"""Rows of every expert before and after token rounding, with the lines of the tiles."""

import torch
from torch import Tensor

import moge_ops
from pictures import Svg

T, E, G, K, TILE = 96, 8, 2, 4, 8
WIDTH, BASE, UNIT = 38, 150, 1.5


def _rows(svg: Svg, left: float, title: str, counts: Tensor, chosen: Tensor) -> None:
    """A bar for each expert: what stays in its group's colour, what was added in another."""
    svg.text(left, 12, title, "strong")
    for y in range(0, int(chosen.max()) + TILE, TILE):
        svg.line((left, BASE - UNIT * y), (left + WIDTH * E, BASE - UNIT * y))
    for e, (n, before) in enumerate(zip(counts.tolist(), chosen.tolist(), strict=True)):
        x = left + WIDTH * e + 6
        stay = min(n, before)
        svg.box(x, BASE - UNIT * stay, 26, UNIT * stay, ink=f"g{e * G // E}")
        if n > before:
            svg.box(x, BASE - UNIT * n, 26, UNIT * (n - before), ink="g3")
        svg.text(x + 13, BASE + 12, str(n), anchor="middle", size=12)


def draw() -> Svg:
    """Plain and nearest side by side."""
    torch.manual_seed(0)
    logits = torch.randn(T, E)
    gating = moge_ops.grouped_gate(logits, G, K // G)
    rounded = moge_ops.round_tokens(logits, gating.experts, TILE, num_groups=G)
    svg = Svg(2 * WIDTH * E + 60, 200)
    _rows(svg, 6, "chosen", gating.counts, gating.counts)
    _rows(svg, WIDTH * E + 46, "rounded to tiles of 8", rounded.counts, gating.counts)
    for g in range(G):
        svg.box(6 + 160 * g, 180, 16, 14, ink=f"g{g}")
        svg.text(28 + 160 * g, 187, f"rows of group {g}")
    svg.box(326, 180, 16, 14, ink="g3")
    svg.text(348, 187, "added rows")
    return svg
