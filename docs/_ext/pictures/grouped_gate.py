"""What `grouped_gate` chooses, from real scores; and how a vote leaves few experts in use."""

import torch

import moge_ops
from pictures import Svg

T, E, G = 4, 12, 4
P = E // G
CELL, ROW, LEFT, TOP = 34, 30, 70, 62


def draw() -> Svg:
    """Scores with the best of each group in its colour; ids, weights and counts beside them."""
    torch.manual_seed(1)
    logits = 1.5 * torch.randn(T, E)
    gating = moge_ops.grouped_gate(logits, G)
    scores = logits.softmax(-1)
    ids = LEFT + CELL * E + 24
    weights = ids + 27 * G + 20
    svg = Svg(weights + 38 * G + 2, TOP + ROW * T + 46)
    svg.text(LEFT, 10, "scores [T, E], in groups of P", "strong")
    svg.text(ids, 10, "experts [T, K]", "strong")
    svg.text(weights, 10, "weights [T, K]", "strong")
    for g in range(G):
        svg.text(LEFT + CELL * P * (g + 0.5), 30, f"group {g}", anchor="middle")
    for e in range(E):
        svg.text(LEFT + CELL * (e + 0.5), 50, f"{e}", anchor="middle", size=12)
    for t in range(T):
        y = TOP + ROW * t
        svg.text(LEFT - 8, y + 12, f"token {t}", anchor="end")
        chosen = gating.experts[t].tolist()
        for e in range(E):
            ink = f"g{e // P}" if e in chosen else "plain"
            svg.box(LEFT + CELL * e, y, CELL - 2, 24, f"{scores[t, e]:.2f}"[1:], ink)
        for g, e in enumerate(chosen):
            svg.box(ids + 27 * g, y, 25, 24, f"{e}", f"g{g}")
            svg.box(weights + 38 * g, y, 36, 24, f"{gating.weights[t, g]:.2f}", f"g{g}")
    y = TOP + ROW * T + 14
    svg.text(LEFT - 8, y + 12, "counts", "strong", "end")
    for e, count in enumerate(gating.counts.tolist()):
        svg.box(LEFT + CELL * e, y, CELL - 2, 24, f"{count}", f"g{e // P}" if count else "faint")
    return svg


def vote() -> Svg:
    """Votes of a batch for each expert; those that stay are coloured."""
    torch.manual_seed(5)
    batch, stay = 24, 2
    logits = torch.randn(batch, E) + torch.randn(E)
    votes = moge_ops.grouped_gate(logits, G).counts.tolist()
    used = moge_ops.grouped_gate(logits, G, k=stay, num_voted=stay).counts.tolist()
    height, base, unit = 210, 170, 6
    svg = Svg(LEFT + CELL * E + 20, height)
    svg.text(10, 12, f"votes of {batch} tokens, num_voted = {stay}", "strong")
    for e in range(E):
        x = LEFT + CELL * e
        tall = unit * votes[e]
        ink = f"g{e // P}" if used[e] else "faint"
        svg.box(x + 3, base - tall, CELL - 8, max(tall, 1), ink=ink)
        svg.text(x + CELL / 2 - 1, base - tall - 10, f"{votes[e]}", anchor="middle", size=12)
        svg.text(x + CELL / 2 - 1, base + 12, f"{e}", anchor="middle", size=12)
    for g in range(G):
        svg.text(LEFT + CELL * P * (g + 0.5), base + 30, f"group {g}", anchor="middle")
    svg.text(LEFT - 8, base + 12, "expert", anchor="end", size=12)
    return svg
