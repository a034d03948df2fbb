"""How `route` sorts slots, and what padding and dropped slots do to its rows."""

import moge_ops
from pictures import Svg
from pictures._parts import routed

T, E, G = 4, 6, 3
P = E // G
CELL, LEFT = 48, 100


def _spans(svg: Svg, offsets: list[int], left: float, cell: float, y: float) -> None:
    """The experts under their rows."""
    for e in range(E):
        first, last = offsets[e], offsets[e + 1]
        if first == last:
            continue
        x0, x1 = left + cell * first + 2, left + cell * last - 6
        svg.line((x0, y), (x1, y))
        svg.text((x0 + x1) / 2, y + 12, f"expert {e}", anchor="middle", size=12)


def draw() -> Svg:
    """Slots in their order above, rows by expert below, a line for each."""
    gating, routing, _ = routed(T, E, G, seed=4)
    N = T * G
    svg = Svg(LEFT + CELL * N + 6, 236)
    ids = gating.experts.flatten().tolist()
    for t in range(T):
        svg.text(LEFT + CELL * G * (t + 0.5) - 2, 10, f"token {t}", anchor="middle")
    svg.text(4, 34, "experts", "strong")
    svg.text(4, 60, "slot", "strong")
    for slot in range(N):
        x = LEFT + CELL * slot
        svg.box(x, 22, CELL - 4, 24, f"{ids[slot]}", f"g{ids[slot] // P}")
        svg.text(x + CELL / 2 - 2, 60, f"{slot}", anchor="middle", size=12)
    svg.text(4, 150, "row", "strong")
    svg.text(4, 178, "row_to_slot", "strong", size=12)
    for row, slot in enumerate(routing.row_to_slot.tolist()):
        x = LEFT + CELL * row
        svg.line((LEFT + CELL * (slot + 0.5) - 2, 70), (x + CELL / 2 - 2, 138), arrow=True)
        svg.text(x + CELL / 2 - 2, 150, f"{row}", anchor="middle", size=12)
        svg.box(x, 166, CELL - 4, 24, f"{slot}", f"g{ids[slot] // P}")
    _spans(svg, routing.offsets.tolist(), LEFT, CELL, 204)
    return svg


def padded() -> Svg:
    """Rows of the same batch with one dropped slot: plain, and padded to multiples of 2."""
    experts = routed(T, E, G, seed=4)[0].experts.clone()
    experts[1, 2] = -1
    ids = experts.flatten().tolist()
    plain = moge_ops.route(experts, E, num_groups=G)
    routing = moge_ops.route(experts, E, num_groups=G, pad_to=2)
    N, left, cell = len(routing.row_to_slot), 4, 38
    svg = Svg(left + cell * N + 2, 172)
    svg.text(
        left, 12, "row_to_slot without padding: one row is free, for the dropped slot", "strong"
    )
    svg.text(left, 100, f"row_to_slot with pad_to=2: N = {N} rows, enough for any choice", "strong")
    for y, found in ((26, plain), (114, routing)):
        for row, slot in enumerate(found.row_to_slot.tolist()):
            ink = "faint" if slot < 0 else f"g{ids[slot] // P}"
            svg.box(left + cell * row, y, cell - 4, 24, f"{slot}", ink)
        _spans(svg, found.offsets.tolist(), left, cell, y + 32)
    return svg
