"""Shares and mean scores of an even and of a lopsided router, and the loss that they make."""

import torch
from torch import Tensor

import moge_ops
from pictures import Svg

T, E, K = 256, 8, 2
WIDTH, BASE, UNIT = 40, 156, 46


def _router(svg: Svg, left: float, title: str, logits: Tensor) -> None:
    """Bars of f and of E p for each expert."""
    experts = moge_ops.grouped_gate(logits, 1, k=K).experts
    loss = float(moge_ops.load_balance_loss(logits, experts))
    f = torch.bincount(experts.flatten(), minlength=E) * (E / (T * K))
    p = logits.softmax(-1).mean(0)
    svg.text(left, 12, f"{title}: L = {loss:.2f}", "strong")
    svg.line((left, BASE - UNIT), (left + WIDTH * E, BASE - UNIT))
    for e in range(E):
        x = left + WIDTH * e
        for place, (height, ink) in enumerate(((float(f[e]), "g0"), (float(E * p[e]), "g1"))):
            svg.box(x + 3 + 17 * place, BASE - UNIT * height, 16, UNIT * height, ink=ink)
        svg.text(x + WIDTH / 2, BASE + 12, f"{e}", anchor="middle", size=12)


def draw() -> Svg:
    """Two routers side by side."""
    torch.manual_seed(2)
    even = torch.randn(T, E)
    lopsided = torch.randn(T, E) + torch.linspace(0.9, -0.9, E)
    svg = Svg(2 * WIDTH * E + 60, 206)
    _router(svg, 6, "even router", even)
    _router(svg, WIDTH * E + 46, "lopsided router", lopsided)
    svg.box(6, 184, 16, 14, ink="g0")
    svg.text(28, 191, "f, share of the slots, 1 is even")
    svg.box(286, 184, 16, 14, ink="g1")
    svg.text(308, 191, "E · p, mean score, 1 is even")
    return svg
