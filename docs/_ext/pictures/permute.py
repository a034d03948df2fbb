"""What `permute` and `route` do to the rows of a small batch."""

import torch

import moge_ops
from pictures import Svg

T, E, G = 4, 8, 4
CELL, STEP, LEFT, RIGHT = 34, 24, 70, 330


def draw() -> Svg:
    """Tokens on the left, rows by expert on the right, an arrow for each routed row."""
    torch.manual_seed(3)
    gating = moge_ops.grouped_gate(torch.randn(T, E), G)
    routing = moge_ops.route(gating.experts, E, num_groups=G)
    owners = [e for e in range(E) for _ in range(int(gating.counts[e]))]
    svg = Svg(500, 40 + STEP * T * G)
    svg.text(LEFT, 12, "x [T, H]", "strong")
    svg.text(RIGHT, 12, "rows [N, H], by expert", "strong")
    spread = STEP * G
    for t in range(T):
        svg.box(LEFT, 30 + spread * t + spread / 2 - 12, 80, 22, f"token {t}", "faint")
    for n, (t, e) in enumerate(zip((routing.row_to_slot // G).tolist(), owners, strict=True)):
        y = 30 + STEP * n
        group = f"g{e // (E // G)}"
        svg.curve((LEFT + 80, 30 + spread * t + spread / 2), (RIGHT - 4, y + 10), group)
        svg.box(RIGHT, y, 80, 20, f"token {t}", group)
        svg.text(RIGHT + 90, y + 10, f"expert {e}")
    return svg
