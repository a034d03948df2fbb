"""What `unpermute` does to the rows of a small batch."""

from pictures import Svg
from pictures._parts import routed

T, E, G = 4, 8, 4
STEP, LEFT, RIGHT = 24, 80, 420


def draw() -> Svg:
    """Rows by expert on the left, each with its weight; tokens on the right."""
    gating, routing, owners = routed(T, E, G, seed=3)
    weights = gating.weights.flatten().tolist()
    svg = Svg(540, 40 + STEP * T * G)
    svg.text(4, 12, "rows [N, H], by expert, each times its weight", "strong")
    svg.text(RIGHT, 12, "y [T, H]", "strong")
    spread = STEP * G
    for t in range(T):
        svg.box(RIGHT, 30 + spread * t + spread / 2 - 12, 100, 22, f"token {t}", "faint")
    for n, (slot, e) in enumerate(zip(routing.row_to_slot.tolist(), owners, strict=True)):
        y, t = 30 + STEP * n, slot // G
        group = f"g{e // (E // G)}"
        svg.text(4, y + 10, f"expert {e}")
        svg.box(LEFT, y, 80, 20, f"token {t}", group)
        svg.text(LEFT + 90, y + 10, f"w = {weights[slot]:.2f}")
        svg.curve((LEFT + 164, y + 10), (RIGHT - 4, 30 + spread * t + spread / 2), group)
    return svg
