"""The way of a small batch through `grouped_mlp`."""

from pictures import Svg
from pictures._parts import routed

T, E, G = 3, 8, 4
STEP = 24


def draw() -> Svg:
    """Tokens, their rows by expert, and the weighted sums, with the routing weights of a gate."""
    gating, routing, owners = routed(T, E, G, seed=3)
    slots = routing.row_to_slot.tolist()
    weights = gating.weights.flatten().tolist()
    x, up, act, out, y = 10, 150, 306, 402, 610  # left edges
    svg = Svg(690, 44 + STEP * T * G)
    for at, name in (
        (x, "x [T, H]"),
        (up, "gate, up [N, 2F]"),
        (act, "act [N, F]"),
        (y, "y [T, H]"),
    ):
        svg.text(at, 12, name, "strong")
    svg.text(out, 12, "rows [N, H] · weight", "strong")
    spread = STEP * G
    for t in range(T):
        middle = 34 + spread * t + spread / 2
        svg.box(x, middle - 12, 64, 24, f"token {t}", "faint")
        svg.box(y, middle - 12, 64, 24, f"token {t}", "faint")
    for n, (slot, e) in enumerate(zip(slots, owners, strict=True)):
        top = 34 + STEP * n
        middle, group = top + 10, f"g{e // (E // G)}"
        token = 34 + spread * (slot // G) + spread / 2
        svg.curve((x + 64, token), (up - 4, middle), group)
        svg.box(up, top, 60, 20, f"A{e} x", group)
        svg.box(up + 60, top, 60, 20, f"B{e} x", group)
        svg.line((up + 120, middle), (act - 4, middle), arrow=True)
        svg.box(act, top, 60, 20, "a", group)
        svg.line((act + 60, middle), (out - 4, middle), arrow=True)
        svg.box(out, top, 96, 20, f"D{e} a · {weights[slot]:.2f}", group)
        svg.curve((out + 96, middle), (y - 4, token), group)
    return svg
