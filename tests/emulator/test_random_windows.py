"""LoadData of windows with random images, filters, parts and repeats, against a model in NumPy."""

from types import ModuleType

import numpy as np
import pytest
import random_cases as rc

pytestmark = pytest.mark.slow

IMAGE = ["l1H", "l1W", "channels", "columns", "rows", "first_column", "first_row"]
FILTER = ["stride_w", "stride_h", "filter_w", "filter_h", "dilation_w", "dilation_h"]
AROUND = ["left", "right", "top", "bottom", "padding", "transpose"]
REPEATS = ["repeat_stride", "repeat_times", "repeat_mode", "boundary"]
FIELDS = [*IMAGE, *FILTER, *AROUND, *REPEATS]


def places(p: dict[str, int]) -> tuple[int, int]:
    """Of the filter, down and across."""
    down = p["l1H"] + p["top"] + p["bottom"] - (p["filter_h"] - 1) * p["dilation_h"] - 1
    across = p["l1W"] + p["left"] + p["right"] - (p["filter_w"] - 1) * p["dilation_w"] - 1
    if down < 0 or across < 0:
        return 0, 0
    return down // p["stride_h"] + 1, across // p["stride_w"] + 1


def value(image: np.ndarray, p: dict[str, int], c0: int, row: int, column: int) -> int:
    """One element of the matrix of windows, from what the row and the column stand for."""
    _, across = places(p)
    points = p["filter_h"] * p["filter_w"]
    whole = p["channels"] // c0 * c0 * points  # columns of the groups that are whole
    if column < whole:
        group, rest = divmod(column, c0 * points)
        point, channel = divmod(rest, c0)
        channel += group * c0
    else:
        point, channel = divmod(column - whole, p["channels"] % c0)
        channel += p["channels"] // c0 * c0
    y = row // across * p["stride_h"] + point // p["filter_w"] * p["dilation_h"] - p["top"]
    x = row % across * p["stride_w"] + point % p["filter_w"] * p["dilation_w"] - p["left"]
    inside = 0 <= y < p["l1H"] and 0 <= x < p["l1W"]
    return int(image[y, x, channel]) if inside else p["padding"]


def in_l1(image: np.ndarray, c0: int) -> np.ndarray:
    """Groups of channels, the last of them as narrow as it is; then zeros up to 512 bytes."""
    groups = [image[..., at : at + c0].reshape(-1) for at in range(0, image.shape[-1], c0)]
    flat = np.concatenate(groups)
    return np.append(flat, np.zeros(-flat.size % (512 // image.itemsize), image.dtype))


def choose(rng: np.random.Generator, name: str, c0: int, to_right: bool) -> dict[str, int] | None:
    """Parameters of a part that the matrix has, or none."""
    p = dict.fromkeys(FIELDS, 0)
    pick = rng.integers
    rest = {8: (0, 4), 16: (0, 4, 8), 32: (0, 4, 8, 16)}[c0]
    p["channels"] = int(pick(0, 3)) * c0 + int(rng.choice(rest))
    p["l1H"], p["l1W"] = int(pick(1, 12)), int(pick(1, 20))
    for side in ("w", "h"):
        p[f"filter_{side}"], p[f"stride_{side}"] = int(pick(1, 4)), int(pick(1, 4))
        p[f"dilation_{side}"] = int(pick(1, 3))
    for side in ("left", "right", "top", "bottom"):
        p[side] = int(pick(0, 4))
    p["padding"], p["repeat_times"] = int(pick(0, 9)), 1
    down, across = places(p)
    height, width = down * across, p["channels"] * p["filter_h"] * p["filter_w"]
    if height == 0 or width == 0:
        return None
    p["first_row"] = int(pick(0, min(height, 100)))
    p["first_column"] = int(pick(0, -(-width // c0))) * c0
    p["rows"], p["columns"] = height - p["first_row"], width - p["first_column"]
    if pick(0, 2) and p["rows"] > 16:
        p["rows"] = int(pick(1, p["rows"] // 16 + 1)) * 16
    if pick(0, 2) and p["columns"] > c0:
        p["columns"] = int(pick(1, p["columns"] // c0 + 1)) * c0
    p["transpose"] = int(name != "int8" and not to_right and pick(0, 2))
    repeat = int(pick(0, 3))
    if repeat == 1 and p["rows"] >= 32:
        p["rows"], p["repeat_mode"] = 16, 0
        p["repeat_stride"] = int(pick(1, 3))
        room = (height - p["first_row"] - 16) // (16 * p["repeat_stride"]) + 1
        p["repeat_times"] = int(pick(1, min(room, 3) + 1))
    if repeat == 2 and p["columns"] >= 2 * c0:
        p["columns"], p["repeat_mode"] = c0, 1
        p["repeat_stride"] = int(pick(1, 3))
        room = (width - p["first_column"] - c0) // (c0 * p["repeat_stride"]) + 1
        p["repeat_times"] = int(pick(1, min(room, 3) + 1))
    return p


def part(image: np.ndarray, p: dict[str, int], c0: int) -> np.ndarray:
    times, step = p["repeat_times"], p["repeat_stride"]
    rows = [
        p["first_row"] + i * step * 16 + j
        for i in range(times if p["repeat_mode"] == 0 else 1)
        for j in range(p["rows"])
    ]
    columns = [
        p["first_column"] + i * step * c0 + j
        for i in range(times if p["repeat_mode"] == 1 else 1)
        for j in range(p["columns"])
    ]
    return np.array([[value(image, p, c0, r, c) for c in columns] for r in rows])


@pytest.mark.parametrize(
    "kernel",
    ["half", "half registers", "half packed", "float", "int8", "half right", "float right"],
)
def test_windows(emulator: ModuleType, kernel: str) -> None:
    name = kernel.split()[0]
    to_right = "right" in kernel
    dtype = rc.TYPES[name]
    c0 = 32 // np.dtype(dtype).itemsize
    done = 0
    for rng in rc.trials(4, 200):
        p = choose(rng, name, c0, to_right)
        if p is None:
            continue
        image = rng.integers(-9, 9, (p["l1H"], p["l1W"], p["channels"])).astype(dtype)
        loaded = part(image, p, c0)
        if loaded.size > 8192 or max(loaded.shape) > 200:
            continue
        source = in_l1(image, c0)
        if to_right:
            (k, n), m = loaded.shape, 16
            if n % 16:
                continue
            other = rng.integers(-3, 3, (m, k)).astype(dtype)
            x, wanted = rc.joined(source, rc.left(other, c0)), other.astype(int) @ loaded
        else:
            a = loaded.T if p["transpose"] else loaded
            (m, k), n = a.shape, 16
            if m == 1:
                continue
            other = rng.integers(-3, 3, (k, n)).astype(dtype)
            x, wanted = rc.joined(source, rc.right(other, c0)), a @ other.astype(int)
        other_size = (x.size - source.nbytes) // np.dtype(dtype).itemsize
        numbers = [m, n, k, source.size, other_size, *p.values()]
        y = rc.run(emulator, "matrix", kernel, x, numbers)
        got = y.view(np.int32 if name == "int8" else np.float32)[: m * n].reshape(m, n)
        np.testing.assert_array_equal(got, wanted, str(p))
        done += 1
    assert done > 30
