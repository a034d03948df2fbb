"""Schedules by the figures of the emulator's model of time, for kernels small enough to follow."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from pictures import Svg
from tables.ascend import device, parameter

TILE = 8192  # bytes
LEFT, LANE = 84, 34


def _cycles(name: str) -> float:
    value = parameter(name)
    match = re.fullmatch(r"([\d.e]+)(?: / ([\d.]+))?", value)
    assert match is not None, value
    return float(match[1]) / float(match[2] or 1)


class Slice(NamedTuple):
    """An instruction on its pipe."""

    pipe: str
    label: str
    start: float
    end: float


def tiles(buffers: int, count: int) -> list[Slice]:
    """A vector core reads a tile and takes Exp of it, tile after tile.

    ``tests/test_ascend_model.py`` holds the emulator against the same terms.
    """
    copy = _cycles("CopyHead") + _cycles("Piece") + TILE / _cycles("VectorPort")
    vector = _cycles("VectorHead") + TILE / 4 / 32
    slices: list[Slice] = []
    reads: list[float] = []
    vectors: list[float] = []
    for i in range(count):
        free = vectors[i - buffers] if i >= buffers else 0.0
        start = max(free, reads[-1] if reads else 0.0)
        reads.append(start + copy)
        slices.append(Slice("MTE2", str(i), start, reads[-1]))
        begin = max(reads[-1] + _cycles("Latency"), vectors[-1] if vectors else 0.0)
        vectors.append(begin + vector)
        slices.append(Slice("V", str(i), begin, vectors[-1]))
    return slices


def buffers() -> Svg:
    """One buffer and two, on one scale."""
    count = 4
    plans = [(buffers, tiles(buffers, count)) for buffers in (1, 2)]
    scale = 590 / max(each.end for _, slices in plans for each in slices)
    svg = Svg(690, 250)
    for (number, slices), top in zip(plans, (12, 128), strict=True):
        svg.text(8, top, "one buffer" if number == 1 else "two buffers", "strong")
        lanes = {"MTE2": top + 16, "V": top + 16 + 46}
        for pipe, y in lanes.items():
            svg.text(8, y + 13, {"MTE2": "MTE2 reads", "V": "V, Exp"}[pipe], size=12)
        at = {(each.pipe, each.label): each for each in slices}
        for i in range(count):
            read, vector = at["MTE2", str(i)], at["V", str(i)]
            svg.line(
                (LEFT + read.end * scale, lanes["MTE2"] + 26),
                (LEFT + vector.start * scale, lanes["V"]),
                arrow=True,
            )
            if i + number < count:
                nexts = at["MTE2", str(i + number)]
                svg.line(
                    (LEFT + vector.end * scale, lanes["V"]),
                    (LEFT + nexts.start * scale, lanes["MTE2"] + 27),
                    arrow=True,
                )
        for each in slices:
            width = (each.end - each.start) * scale
            ink = f"g{int(each.label) % number}"
            svg.box(LEFT + each.start * scale, lanes[each.pipe], width, 26, each.label, ink)
    svg.text(
        LEFT,
        238,
        "both on one scale; V can use data a latency after MTE2 has read them",
        size=12,
    )
    return svg


# --- a grouped product that streams ---------------------------------------------------------------

ROWS, DEPTH, PIECE = 128, 512, 128  # a chunk's rows and depth, and the depth of L0
PARTS = (128, 112)  # columns of the two halves of one of gate/up's eleven tiles


def _load(columns: int) -> float:
    """MTE2 brings `columns` rows of DEPTH elements of 2 bytes into the cube's layout."""
    moved = columns * DEPTH * 2 / _cycles("CubePort")
    return _cycles("NdToNzHead") + columns * _cycles("Piece") + moved


def _piece(columns: int) -> float:
    """MTE1 loads a piece of both factors, each by one instruction."""
    head, left, right = _cycles("LoadHead"), ROWS * PIECE * 2 / 256, columns * PIECE * 2 / 128
    return 2 * head + left + right


def _product(columns: int) -> float:
    return _cycles("MmadHead") + ROWS / 16 * columns / 16 * PIECE / 16


def steps(chunks: int) -> Iterator[Slice]:
    """Left chunks, each with the right chunks of two parts, through two stages of each."""
    latency = _cycles("Latency")
    mte2 = mte1 = cube = 0.0
    left_free, right_free, l0_free = [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
    half = step = 0
    for chunk in range(chunks):
        left = 0.0
        for part, columns in enumerate(PARTS):
            if part == 0:
                start = max(mte2, left_free[chunk % 2])
                mte2 = start + _load(ROWS)
                left = mte2 + latency
                yield Slice("MTE2", f"L{chunk}", start, mte2)
            start = max(mte2, right_free[step % 2])
            mte2 = start + _load(columns)
            arrived = max(left, mte2 + latency)
            yield Slice("MTE2", f"R{chunk}{'ab'[part]}", start, mte2)
            for _ in range(DEPTH // PIECE):
                start = max(mte1, arrived, l0_free[half])
                mte1 = start + _piece(columns)
                yield Slice("MTE1", f"{chunk}{'ab'[part]}", start, mte1)
                start = max(cube, mte1)
                cube = start + _product(columns)
                yield Slice("M", f"{chunk}{'ab'[part]}", start, cube)
                l0_free[half] = cube
                half ^= 1
            right_free[step % 2] = mte1
            if part == 1:
                left_free[chunk % 2] = mte1
            step += 1


def step() -> Svg:
    """Two left chunks of a product, once it runs evenly."""
    slices = list(steps(12))
    names = ("8a", "8b", "9a", "9b")
    (first,) = (each.start for each in slices if each.label == "L8")
    begin = first - 150
    end = max(each.end for each in slices if (each.pipe, each.label) == ("M", names[-1])) + 150
    svg = Svg(700, 244)
    scale = (690 - LEFT) / (end - begin)
    lanes = {"MTE2": 44, "MTE1": 102, "M": 176}

    def x(time: float) -> float:
        return LEFT + (time - begin) * scale

    svg.text(8, 14, "L8: 128 rows of the left factor, depth 512", size=12)
    svg.text(300, 14, "R8a: the weight for it, part a of the tile's columns", size=12)
    for pipe, y in lanes.items():
        svg.text(8, y + 14, "M (cube)" if pipe == "M" else pipe, size=12)
    for each in slices:
        if each.start < begin or each.end > end:
            continue
        known = each.pipe == "MTE2" or each.label in names
        ink = {"L": "g1", "a": "g0", "b": "g4"}["L" if each.label[0] == "L" else each.label[-1]]
        text = each.label if each.pipe == "MTE2" else ""
        width = (each.end - each.start) * scale
        svg.box(x(each.start), lanes[each.pipe], width, 28, text, ink if known else "faint")
    latency = _cycles("Latency")
    for name in names:
        loads = [each for each in slices if (each.pipe, each.label) == ("MTE1", name)]
        (came,) = (each for each in slices if each.label == f"R{name}")
        svg.text(
            (x(loads[0].start) + x(loads[-1].end)) / 2, 144, f"step {name}", "strong", "middle", 12
        )
        if loads[0].start == came.end + latency:  # MTE1 had nothing else to wait for
            svg.line((x(came.end), 73), (x(loads[0].start), 100), arrow=True)
        for each in slices:
            if each.pipe == "MTE2" and each.start == loads[-1].end and each.end < end:
                svg.line((x(each.start), 101), (x(each.start), 74), arrow=True)
    micro = 1000 * float(device("910B1", "clock"))  # cycles
    axis = 214
    svg.line((LEFT, axis), (690, axis))
    for i in range(int((end - begin) / micro) + 1):
        svg.line((x(begin + i * micro), axis), (x(begin + i * micro), axis + 5))
        svg.text(
            x(begin + i * micro),
            axis + 16,
            f"{i} µs" if i == 0 else f"{i}",
            anchor="middle",
            size=12,
        )
    return svg
