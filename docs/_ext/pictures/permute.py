"""What `permute` and `route` do to the rows of a small batch."""

from pictures import Svg
from pictures._parts import routed

T, E, G = 4, 8, 4
CELL, STEP, LEFT, RIGHT = 34, 24, 70, 330


def draw() -> Svg:
    """Tokens on the left, rows by expert on the right, an arrow for each routed row."""
    _, routing, owners = routed(T, E, G, seed=3)
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
