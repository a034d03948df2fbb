"""How many experts the verification of several tokens reads."""

import torch

import moge_ops
from pictures import Svg

E, G = 64, 8
P = E // G
TOKENS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
BATCHES = 200
LEFT, TOP, WIDTH, HEIGHT = 50, 34, 560, 240


def _used(m: int, num_voted: int | None) -> float:
    """Mean number of distinct experts of m tokens under a uniform router, counted."""
    torch.manual_seed(m)
    used = 0
    for logits in torch.randn(BATCHES, m, E):
        counts = moge_ops.grouped_gate(logits, G, num_voted=num_voted).counts
        used += int((counts > 0).sum())
    return used / BATCHES


def distinct() -> Svg:
    """Experts read against tokens verified: the formula, and what the gate gives."""
    bottom, last = TOP + HEIGHT, TOKENS[-1]
    svg = Svg(LEFT + WIDTH + 90, bottom + 52)

    def place(m: float, used: float) -> tuple[float, float]:
        return LEFT + WIDTH * m / last, bottom - HEIGHT * used / E

    svg.line((LEFT, TOP), (LEFT, bottom), (LEFT + WIDTH, bottom))
    for used in (0, 16, 32, 48, 64):
        y = place(0, used)[1]
        svg.line((LEFT - 5, y), (LEFT, y))
        svg.text(LEFT - 9, y, str(used), anchor="end", size=12)
    for m in (1, 2, 4, 8, 12, 16):
        x = place(m, 0)[0]
        svg.line((x, bottom), (x, bottom + 5))
        svg.text(x, bottom + 17, str(m), anchor="middle", size=12)
    curve = [place(m / 4, E * (1 - (1 - 1 / P) ** (m / 4))) for m in range(4, 4 * last + 1)]
    svg.line(*curve)
    for num_voted, ink in ((None, "g0"), (4, "g1"), (2, "g2")):
        for m in TOKENS:
            x, y = place(m, _used(m, num_voted))
            svg.box(x - 5, y - 5, 10, 10, ink=ink)
        name = "no vote" if num_voted is None else f"num_voted={num_voted}"
        svg.text(x + 10, y, name, size=12)
    svg.text(4, 12, f"distinct experts of {E} that one layer reads")
    svg.text(LEFT + WIDTH / 2, bottom + 40, "tokens in one forward pass", anchor="middle")
    return svg
