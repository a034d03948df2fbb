"""Reductions, gathering, sorting and transposing against NumPy, by tests/ascend/rearranged.cpp."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from emulator_runs import BYTES, aligned

DTYPES: dict[str, Any] = {
    **{name: np.dtype(name) for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32")},
    "half": np.dtype(np.float16),
    "float": np.dtype(np.float32),
}
FLOATS = ["half", "float"]


def run(module: ModuleType, name: str, x: np.ndarray, *numbers: int, **options: Any) -> np.ndarray:
    """What a kernel leaves in y, in the type of x."""
    memory = [aligned() for _ in range(3)]
    memory[0][: x.nbytes] = x.view(np.uint8).reshape(-1)
    memory[2][: 4 * len(numbers)] = np.array(numbers, np.int32).view(np.uint8)
    run.counters = module.rearrange(name, *memory, **options)
    return memory[1].view(x.dtype)


def image(name: str) -> np.ndarray:
    """64 KiB of any bits, the same each time."""
    return np.random.default_rng(1).integers(0, 256, BYTES, np.uint8).view(DTYPES[name])


def bits(a: np.ndarray) -> np.ndarray:
    """As integers, so that NaN equals NaN."""
    return a.view(np.dtype(f"u{a.dtype.itemsize}"))


# --- transposing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [0, 1, 2])
@pytest.mark.parametrize("name", DTYPES)
def test_blocks(emulator: ModuleType, name: str, form: int) -> None:
    x = bits(image(name))
    size = x.itemsize
    per_block = 32 // max(size, 2)
    for dst_high, src_high, repeat, dst_step, src_step, dst_pitch, src_pitch in (
        (0, 0, 1, 0, 0, 32, 32),
        (1, 0, 1, 2, 3, 64, 96),
        (0, 1, 3, 16, 1, 32, 512),
        (1, 1, 4, 17, 20, 32, 32),
    ):
        numbers = (form, dst_high, src_high, repeat, dst_step, src_step, dst_pitch, src_pitch)
        got = run(emulator, f"blocks {name}", x, *numbers)
        wanted = np.zeros(BYTES // size, x.dtype)
        # a single repeat starts one step further
        for step in [1] if repeat == 1 else range(repeat):
            first = np.arange(16) * src_pitch + step * src_step * 32
            columns = np.stack([x[at // size :][: 32 // size] for at in first])
            if size == 1:
                columns = columns[:, 16 * src_high :][:, :16]
            rows = columns.T.reshape(16, per_block)
            for i, row in enumerate(rows):
                at = i * dst_pitch + step * dst_step * 32 + (16 * dst_high if size == 1 else 0)
                wanted[at // size :][:per_block] = row
        np.testing.assert_array_equal(got, wanted)


def test_a_repeat_of_blocks_takes_two_cycles(emulator: ModuleType) -> None:
    """256 bytes a cycle, of which 8-bit elements fill half a block."""
    for name, cycles in (("int8", 7), ("half", 14), ("float", 14)):
        run(emulator, f"blocks {name}", bits(image(name)), 1, 0, 0, 7, 16, 16, 32, 32)
        calls = run.counters["total"]["instructions"]["TransDataTo5HD", name]
        assert calls == {
            "calls": 1,
            "repeats": cycles,
            "elements": 7 * 16 * (8 if name == "float" else 16),
        }


@pytest.mark.parametrize("name", DTYPES)
def test_formats(emulator: ModuleType, name: str) -> None:
    x = bits(image(name))
    rows = 32 if x.itemsize == 1 else 16
    for n, c, h, w in ((2, 3, 4, 16), (1, 16, 8, 4), (3, 5, 1, 32), (0, 3, 4, 8)):
        count = n * c * h * w
        for kind, shape, axes, tmp in (
            (11, (n, c, h, w), (0, 2, 3, 1), (c + 2) * rows * 32),
            (12, (n, h, w, c), (0, 3, 1, 2), (2 * c + 1) * rows * 32),
        ):
            got = run(emulator, f"format {name}", x, kind, n, c, h, w, tmp)
            wanted = np.zeros(BYTES // x.itemsize, x.dtype)
            wanted[:count] = x[:count].reshape(shape).transpose(axes).reshape(-1)
            np.testing.assert_array_equal(got, wanted)
    assert not run(emulator, f"format {name}", x, 0, 1, 3, 4, 16, 32).any()  # none


@pytest.mark.parametrize("name", ["int16", "uint16", "half"])
def test_squares(emulator: ModuleType, name: str) -> None:
    x = bits(image(name))
    for in_place in (0, 1):
        got = run(emulator, f"square {name}", x, in_place)[:256]
        np.testing.assert_array_equal(got.reshape(16, 16), x[:256].reshape(16, 16).T)
    got = run(emulator, "format uint16", x, 10, 0, 0, 16, 16, 32)[:256]
    np.testing.assert_array_equal(got.reshape(16, 16), x[:256].reshape(16, 16).T)


# --- reductions -----------------------------------------------------------------------------------


def tree(row: np.ndarray) -> Any:
    """Sum of neighbours, of their sums and so on; of any number."""
    while row.size > 1:
        row = np.append(row, np.zeros(row.size % 2, row.dtype))
        row = row[::2] + row[1::2]
    return row[0]


def normal(name: str) -> np.ndarray:
    size = BYTES // DTYPES[name].itemsize
    return np.random.default_rng(3).standard_normal(size).astype(DTYPES[name])


@pytest.mark.parametrize("by_register", [0, 1])
@pytest.mark.parametrize("count", [1, 100, 128, 700, 8320])
@pytest.mark.parametrize("name", FLOATS)
def test_sum_of_a_count(emulator: ModuleType, name: str, count: int, by_register: int) -> None:
    """Repeats are added one after the other: a tree of them rounds differently."""
    x = normal(name)
    lanes = 256 // x.itemsize
    sums = [
        tree(np.append(row, np.zeros(lanes - row.size, x.dtype)))
        for row in np.split(x[:count], range(lanes, count, lanes))
    ]
    wanted = sums[0]
    for value in sums[1:]:
        wanted = wanted + value
    if count == 8320:
        assert wanted != tree(np.array(sums))
    got = run(emulator, f"sum {name}", x, count, by_register)
    assert got[0] == got[32 // x.itemsize] == wanted


@pytest.mark.parametrize(("repeats", "stride"), [(1, 8), (65, 8), (300, 1)])
@pytest.mark.parametrize("name", FLOATS)
def test_sum_of_repeats(emulator: ModuleType, name: str, repeats: int, stride: int) -> None:
    x = normal(name)
    size = x.itemsize
    rows = [x[i * stride * 32 // size :][: 256 // size] for i in range(repeats)]
    tmp = -(-repeats * size // 32) * 32
    got = run(emulator, f"sum of repeats {name}", x, 256 // size, repeats, stride, tmp)
    assert got[0] == tree(np.array([tree(row) for row in rows]))


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("name", FLOATS)
def test_extremes(emulator: ModuleType, name: str, kind: int) -> None:
    """The temporary tensor ends as early as it may, is the source, or is the destination."""
    x = normal(name)
    size = x.itemsize
    lanes, per_block = 256 // size, 32 // size

    def needed(repeats: int) -> int:
        levels = [2 * repeats, -(-2 * repeats // lanes) * 2]
        if levels[1] > 2:
            levels.append(-(-levels[1] // lanes) * 2)
        return sum(-(-level // per_block) * 32 for level in levels)

    for count, repeats, stride in (
        (1, 0, 8),
        (288, 0, 8),
        (8320, 0, 8),
        (lanes, 4, 8),
        (9, 300, 1),
    ):
        if repeats == 0:
            place = np.arange(count)
        else:
            place = (np.arange(repeats)[:, None] * stride * per_block + np.arange(count)).reshape(
                -1
            )
        at = int(x[place].argmax() if kind == 0 else x[place].argmin())
        index = at if repeats == 0 else at // count * lanes + at % count
        for tmp in (163840 - needed(repeats or max(count // lanes, 1)), 0, BYTES):
            got = run(emulator, f"extreme {name}", x, kind, count, repeats, stride, tmp)
            assert got[0] == x[place[at]]
            assert bits(got)[1] == index


@pytest.mark.parametrize("repeats", [1, 5])
@pytest.mark.parametrize("name", FLOATS)
def test_registers_of_extremes(emulator: ModuleType, name: str, repeats: int) -> None:
    x = normal(name)
    got = run(emulator, f"register {name}", x, repeats)
    part = x[: repeats * 256 // x.itemsize]
    assert got[[0, 2, 4]].tolist() == [part.max(), part.min(), x[:100].max()]
    assert bits(got)[[1, 3]].tolist() == [part.argmax(), part.argmin()]


@pytest.mark.parametrize("name", FLOATS)
def test_in_place(emulator: ModuleType, name: str) -> None:
    x = normal(name)
    lanes = 256 // x.itemsize
    rows = x[: 3 * lanes].reshape(3, lanes)
    for kind, wanted in enumerate(
        (
            (rows[:, ::2] + rows[:, 1::2]).reshape(-1),
            np.array([tree(row) for row in rows], x.dtype),
            rows.reshape(3, 8, -1).max(axis=2).reshape(-1),
            x[1 : 3 * lanes : 2],
        )
    ):
        got = run(emulator, f"in place {name}", x, kind)
        np.testing.assert_array_equal(got[: wanted.size], wanted)
        np.testing.assert_array_equal(got[wanted.size : 3 * lanes], x[wanted.size : 3 * lanes])


# --- carried along, and beyond a range ------------------------------------------------------------


@pytest.mark.parametrize("name", FLOATS)
def test_what_nothing_has_written_is_carried(emulator: ModuleType, name: str) -> None:
    x = normal(name)
    first = 32 // x.itemsize
    for kind in range(4):
        got = run(emulator, f"carried {name}", x, kind)
        if kind == 0:
            got = got.reshape(-1, first)[:16, 0]
            np.testing.assert_array_equal(got, x[:16])
        else:
            np.testing.assert_array_equal(got[:first], x[:first])


def test_a_list_without_indices(emulator: ModuleType) -> None:
    x = normal("float")
    got = run(emulator, "without index", x)
    np.testing.assert_array_equal(got[:64], -np.sort(-x[:64]))


def test_masks_beyond_the_lanes(emulator: ModuleType) -> None:
    x = normal("float")
    got = run(emulator, "masks", x, rules="mask.range=warning")
    assert got[0] == tree(x[:64])
    assert not got[1:].any()
    (warning,) = run.counters["warnings"]
    assert warning["rule"] == "mask.range"


def test_repeats_that_take_no_effect(emulator: ModuleType) -> None:
    pairs = np.zeros((16, 2), np.float32)
    pairs[:, 0] = [9, 7, 5, 3, 8, 6, 4, 2, *[0] * 8]
    rules = "mrg-sort.repeat=warning"
    got = run(emulator, "repeats without effect", pairs.reshape(-1), rules=rules)
    assert got.reshape(-1, 2)[:9, 0].tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 0]
    (warning,) = run.counters["warnings"]
    assert warning["rule"] == "mrg-sort.repeat"
