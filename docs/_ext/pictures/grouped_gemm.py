"""What `grouped_gemm` does to the rows of a small batch, and the order of a kernel's tiles."""

from pictures import Svg
from pictures._parts import routed, swizzled

T, E, G = 3, 8, 4
SEED = 3  # leaves an expert without rows
ROW = 19  # height of one row


def draw() -> Svg:
    """Rows by expert, the weight that each expert's rows meet, and the result."""
    _, routing, _ = routed(T, E, G, SEED)
    tokens = (routing.row_to_slot // G).tolist()
    offsets = routing.offsets.tolist()
    left, middle, right = 20, 290, 520
    svg = Svg(640, 40 + ROW * T * G + 12 * E)
    svg.text(left, 12, "rows [N, I], by expert", "strong")
    svg.text(middle, 12, "weight [E, O, I]", "strong")
    svg.text(right, 12, "result [N, O]", "strong")
    y = 30.0
    for e in range(E):
        group = f"g{e // (E // G)}"
        count = offsets[e + 1] - offsets[e]
        height = max(ROW * count, 20)
        center = y + height / 2
        for i in range(count):
            svg.box(left, y + ROW * i, 90, ROW, f"token {tokens[offsets[e] + i]}", group)
            svg.box(right, y + ROW * i, 60, ROW, "", group)
        first, last = offsets[e], offsets[e + 1] - 1
        rows = f"{first} to {last}" if count > 1 else f"{first}" if count else "no rows"
        svg.text(left + 100, center, rows)
        if count:
            svg.curve((left + 165, center), (middle - 4, center), group)
            svg.curve((middle + 104, center), (right - 4, center), group)
        svg.box(middle, center - 10, 100, 20, f"weight[{e}]", group if count else "faint")
        y += height + 12
    svg.height = y
    return svg


def tiles() -> Svg:
    """The tiles of two experts in the order in which a persistent grid takes them."""
    programs, swizzle, columns, block_m = 6, 3, 4, 4
    counts = [18, 6]  # rows of both experts: five tiles of rows, then two
    cell, row, left = 74, 9, 230
    svg = Svg(left + cell * columns + 160, 56)
    svg.text(left, 12, "column tiles of the result", "strong")
    for c in range(columns):
        svg.text(left + cell * (c + 0.5), 34, str(c), anchor="middle")
    y, first = 50.0, 0
    for e, count in enumerate(counts):
        tiles_m = -(-count // block_m)
        svg.text(10, y + row * count / 2, f"expert {e}: {count} rows")
        for place in range(tiles_m * columns):
            m, c = swizzled(place, swizzle, tiles_m, columns)
            number = first + place
            program, wave = number % programs, number // programs
            size = row * block_m
            inside = row * min(block_m, count - block_m * m)
            x, top_y = left + cell * c, y + size * m
            svg.box(x + 1, top_y + 1, cell - 2, size - 2, "", "faint")
            svg.box(x + 1, top_y + 1, cell - 2, inside - 2, "", f"g{wave}")
            svg.text(x + cell / 2, top_y + inside / 2, f"{number}: p{program}", anchor="middle")
        for m in range(tiles_m):
            end = min(block_m * (m + 1), count) - 1
            middle = y + row * (block_m * m + end + 1) / 2
            svg.text(left - 10, middle, f"{block_m * m} to {end}", anchor="end")
        y += row * block_m * tiles_m + 24
        first += tiles_m * columns
    waves = -(-first // programs)
    legend = [(f"wave {wave}", f"g{wave}") for wave in range(waves)] + [("past its end", "faint")]
    for i, (text, ink) in enumerate(legend):
        svg.box(left + cell * columns + 30, 60 + 26 * i, 110, 20, text, ink)
    svg.height = y
    return svg
