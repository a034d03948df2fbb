"""The order of tiles of a persistent grid, and what one tile of the up projection does."""

from pictures import Svg
from pictures._parts import swizzled

TILES_M, TILES_C, PROGRAMS = 8, 6, 12
# name -> height of a swizzle, as in bench/results/tile_order.csv
ORDERS = {"columns first": 1, "rows first": TILES_M, "swizzled by 4": 4}


def orders() -> Svg:
    """The tiles of one expert in three orders, with what the first wave of programs reads."""
    cell, gap = 32, 34
    step = cell * TILES_C + gap
    svg = Svg(step * len(ORDERS) - gap + 24, 44 + cell * TILES_M + 44)
    for i, (name, swizzle) in enumerate(ORDERS.items()):
        left, top = 16 + step * i, 44
        tiles = [swizzled(i, swizzle, TILES_M, TILES_C) for i in range(TILES_M * TILES_C)]
        svg.text(left, 12, name, "strong")
        svg.text(left, 32, "column tiles from left to right", size=12)
        for place, (m, c) in enumerate(tiles):
            ink = "g0" if place < PROGRAMS else "plain"
            svg.box(left + cell * c, top + cell * m, cell - 2, cell - 2, str(place), ink)
        rows, columns = (len(set(axis)) for axis in zip(*tiles[:PROGRAMS], strict=True))
        below = top + cell * TILES_M
        svg.text(left, below + 14, f"the first {PROGRAMS} tiles read")
        svg.text(left, below + 32, f"{rows} row tiles, {columns} column tiles")
    return svg


def up() -> Svg:
    """From tokens and both halves of a weight to a tile of the activation."""
    svg = Svg(700, 272)
    svg.text(10, 12, "x [T, H]", "strong")
    tokens, slots = 7, [1, 2, 4, 6]
    for t in range(tokens):
        svg.box(10, 28 + 22 * t, 70, 20, f"token {t}", "g0" if t in slots else "plain")
    svg.text(190, 12, "left operand", "strong")
    for m, t in enumerate(slots):
        svg.box(190, 48 + 26 * m, 90, 22, f"token {t}", "g0")
        svg.curve((80, 38 + 22 * t), (188, 59 + 26 * m), "plain")
    svg.text(10, 196, "row_to_slot // K says which rows to load,")
    svg.text(10, 214, "step by step of H; no [N, H] copy is made")
    svg.text(330, 12, "w_gate_up[e]: [2F, H]", "strong")
    svg.box(330, 28, 130, 70, "", "plain")
    svg.box(330, 44, 130, 22, "gate, BLOCK_C", "g1")
    svg.box(330, 110, 130, 70, "", "plain")
    svg.box(330, 126, 130, 22, "up, same columns", "g2")
    svg.text(330, 196, "the same F columns of both halves:")
    svg.text(330, 214, "one box of a tensor descriptor")
    svg.line((280, 100), (326, 100), arrow=True)
    svg.text(566, 12, "accumulator", "strong")
    svg.box(566, 62, 60, 76, "gate", "g1")
    svg.box(626, 62, 60, 76, "up", "g2")
    svg.line((460, 100), (562, 100), arrow=True)
    svg.text(470, 86, "tl.dot, float32", size=12)
    svg.line((626, 138), (626, 238), arrow=True)
    svg.text(618, 160, "silu(gate) · up", anchor="end", size=12)
    svg.box(510, 240, 180, 24, "act [BLOCK_M, BLOCK_C]", "plain")
    svg.line((510, 252), (434, 252), arrow=True)
    svg.text(428, 252, "act [N, F], and gate and up where a gradient follows", anchor="end")
    return svg
