"""Draws when the pipes of a core were busy, from the times that a program wrote (host/host.cpp)."""

import math
from html import escape
from pathlib import Path
from typing import NamedTuple

# in the order of the rows: what each does, and its colour
PIPES = {
    "S": ("scalar unit", "#8c8c8c"),
    "MTE2": ("reads global memory", "#3b7dd8"),
    "MTE1": ("L1 to L0", "#8e6bbf"),
    "M": ("cube", "#d1495b"),
    "V": ("vector", "#3a9d6e"),
    "FIX": ("L0C out", "#c98a1b"),
    "MTE3": ("writes global memory", "#e07b39"),
}
LEFT, RIGHT, WIDTH = 64, 16, 720
ROW, GAP = 26, 8
LETTER = 6.8  # width of one at size 12


class Slice(NamedTuple):
    """One instruction: its pipe is busy from start to end, in cycles."""

    core: int
    pipe: str
    op: str
    start: float
    end: float


class Launch(NamedTuple):
    """One launch: the slices of the cores that are drawn."""

    name: str
    device: str
    cycles: float
    seconds: float
    slices: list[Slice]


def read(path: Path) -> list[Launch]:
    """The launches of a file of times."""
    launches: list[Launch] = []
    for line in path.read_text().splitlines():
        fields = line.split("\t")
        if fields[0] == "launch":
            launches.append(Launch(fields[1], fields[2], float(fields[3]), float(fields[4]), []))
        else:
            core, pipe, op, start, end = fields
            launches[-1].slices.append(Slice(int(core), pipe, op, float(start), float(end)))
    return launches


def step(length: float) -> float:
    """A round distance of marks on an axis, for about eight of them."""
    power = 10 ** math.floor(math.log10(max(length, 1) / 8))
    return next(power * k for k in (1, 2, 5, 10) if power * k >= length / 8)


def text(x: float, y: float, content: str, more: str = "") -> str:
    """A line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(content)}</text>'


def rows_of(slices: list[Slice]) -> list[tuple[int, str]]:
    """Core and pipe of each row."""
    used = {(each.core, each.pipe) for each in slices}
    order = [*PIPES, *sorted({pipe for _, pipe in used} - set(PIPES))]
    return sorted(used, key=lambda row: (row[0], order.index(row[1])))


def panel(launch: Launch, top: float) -> tuple[list[str], float]:
    """One launch from `top` down, and where it ends."""
    length = max((each.end for each in launch.slices), default=1.0)
    scale = (WIDTH - LEFT - RIGHT) / length
    micro = launch.seconds * 1e6
    time = f"{launch.cycles:.0f} cycles, {micro:.1f} µs with the launch, on {launch.device}"
    parts = [text(12, top + 16, f"{launch.name}: {time}", 'class="name"')]
    y, places, core = top + 30, {}, None
    for row in rows_of(launch.slices):
        if row[0] != core:
            core = row[0]
            parts.append(text(12, y + 12, f"core {core}", 'class="core"'))
            y += 20
        places[row] = y
        parts.append(text(LEFT - 8, y + ROW / 2 + 4, row[1], 'text-anchor="end"'))
        parts.append(
            f'<rect class="lane" x="{LEFT}" y="{y}" width="{WIDTH - LEFT - RIGHT}" height="{ROW}"/>'
        )
        y += ROW + GAP
    bottom = y
    mark = step(length)
    for i in range(int(length / mark) + 1):
        x = LEFT + i * mark * scale
        parts.append(
            f'<line class="axis" x1="{x:.1f}" y1="{top + 34}" x2="{x:.1f}" y2="{bottom}"/>'
        )
        parts.append(text(x, bottom + 14, f"{i * mark:g}", 'text-anchor="middle"'))
    parts.append(text(WIDTH - RIGHT, bottom + 30, "cycles", 'text-anchor="end"'))
    for each in launch.slices:
        x, width = LEFT + each.start * scale, max((each.end - each.start) * scale, 0.7)
        colour = PIPES.get(each.pipe, ("", "#555555"))[1]
        y = places[each.core, each.pipe]
        told = f"{each.op}: {each.start:.0f} to {each.end:.0f}, {each.end - each.start:.0f} cycles"
        box = f'x="{x:.2f}" y="{y}" width="{width:.2f}" height="{ROW}" fill="{colour}"'
        parts.append(f'<rect class="work" {box}><title>{escape(told)}</title></rect>')
        if width > LETTER * len(each.op) + 6:
            parts.append(
                text(x + width / 2, y + ROW / 2 + 4, each.op, 'class="op" text-anchor="middle"')
            )
    return parts, bottom + 44


def draw(launches: list[Launch]) -> str:
    """An SVG with one panel for each launch."""
    parts = [text(12, 24, "When each pipe is busy: modelled, not measured", 'class="title"')]
    used = {each.pipe for launch in launches for each in launch.slices}
    x, y = 12.0, 36
    for pipe, (does, colour) in PIPES.items():
        if pipe not in used:
            continue
        label = f"{pipe}: {does}"
        if x + 17 + LETTER * len(label) > WIDTH:
            x, y = 12.0, y + 18
        parts.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colour}"/>')
        parts.append(text(x + 17, y + 10, label))
        x += 40 + LETTER * len(label)
    top = y + 26.0
    for launch in launches:
        drawn, top = panel(launch, top)
        parts += drawn
    style = (
        "text{font:12px sans-serif;fill:#222}.title{font:bold 16px sans-serif}"
        ".name{font:bold 13px sans-serif}.core{font-style:italic}.op{fill:#fff}"
        ".lane{fill:#f3f3f3}.axis{stroke:#bbb;stroke-width:.7}.work{stroke:#fff;stroke-width:.4}"
    )
    size = f'width="{WIDTH}" height="{top:.0f}" viewBox="0 0 {WIDTH} {top:.0f}"'
    ground = f'<rect width="{WIDTH}" height="{top:.0f}" fill="#fff"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>{ground}\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
