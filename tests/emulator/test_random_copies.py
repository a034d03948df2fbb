"""Copies with random strides, paddings, layouts and boxes, against models in NumPy."""

from types import ModuleType

import numpy as np
import pytest
import random_cases as rc
from emulator_runs import BYTES

pytestmark = pytest.mark.slow

UB = 32768  # bytes that the kernels clear and write out


def noise(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(1, 256, BYTES).astype(np.uint8)


@pytest.mark.parametrize("name", ["int8", "half", "float"])
def test_padding(emulator: ModuleType, name: str) -> None:
    dtype = rc.TYPES[name]
    size = np.dtype(dtype).itemsize
    refused = 0
    for rng in rc.trials(6, 300):
        x, pick = noise(rng), rng.integers
        rows, bytes_ = int(pick(0, 9)), int(pick(0, 300 // size)) * size
        start, src_gap, dst_gap = int(pick(0, 99)), int(pick(0, 99)), int(pick(0, 5))
        given, is_set = bool(pick(0, 2)), bool(pick(0, 2))
        left, right = (int(pick(0, 32 // size + 1)) * int(pick(0, 2)) for _ in range(2))
        set_value, value = int(pick(1, 100)), int(pick(1, 100))
        width = -(-(left * size + bytes_ + right * size) // 32) * 32
        numbers = [start, rows, bytes_, src_gap, dst_gap, given, left, right]
        numbers += [is_set, set_value, value, UB]
        wanted = np.zeros(BYTES, np.uint8)
        undefined = False
        for row in range(rows if bytes_ else 0):
            at = row * (width + dst_gap * 32)
            data = x[start + row * (bytes_ + src_gap) :][:bytes_]
            if left + right == 0:
                filling = data[:size]
            else:
                filling = np.array([value if given else set_value], dtype).view(np.uint8)
                undefined = undefined or not (given or is_set)
            wanted[at : at + width] = np.tile(filling, width // size)
            wanted[at + left * size :][:bytes_] = data
        if undefined:
            refused += 1
            with pytest.raises(emulator.EmulatorError, match=r"gm\.undefined"):
                rc.run(emulator, "random_vector", f"pad in {name}", x, numbers)
            continue
        y = rc.run(emulator, "random_vector", f"pad in {name}", x, numbers)
        np.testing.assert_array_equal(y[:UB], wanted[:UB], str(numbers))
    assert 20 < refused < 100


@pytest.mark.parametrize("name", ["int8", "half", "float"])
def test_rows_out(emulator: ModuleType, name: str) -> None:
    size = np.dtype(rc.TYPES[name]).itemsize
    for rng in rc.trials(7, 200):
        x, pick = noise(rng), rng.integers
        rows, bytes_ = int(pick(0, 9)), int(pick(0, 300 // size)) * size
        start, src_gap, dst_gap = int(pick(0, 99)), int(pick(0, 5)), int(pick(0, 99))
        y = rc.run(
            emulator, "random_vector", f"pad out {name}", x, [start, rows, bytes_, src_gap, dst_gap]
        )
        wanted = np.zeros(BYTES, np.uint8)
        for row in range(rows):
            at = row * (-(-bytes_ // 32) + src_gap) * 32
            wanted[start + row * (bytes_ + dst_gap) :][:bytes_] = x[at : at + bytes_]
        np.testing.assert_array_equal(y, wanted)


@pytest.mark.parametrize("name", ["int8", "half", "float"])
def test_rows_to_columns(emulator: ModuleType, name: str) -> None:
    size = np.dtype(rc.TYPES[name]).itemsize
    c0 = 32 // size
    for rng in rc.trials(8, 200):
        x, pick = noise(rng), rng.integers
        matrices, rows, columns = int(pick(0, 4)), int(pick(1, 20)), int(pick(1, 3 * c0))
        src_row = columns + int(pick(0, 9))
        src_matrix = int(pick(0, 3)) * rows * src_row
        blocks = -(-columns // c0)
        dst_row = int(pick(1, 4))
        dst_column = rows * dst_row + int(pick(0, 4))
        dst_matrix = (blocks * dst_column + int(pick(0, 3))) * c0  # elements, whole blocks
        if pick(0, 2):  # the columns of a row side by side
            dst_column, dst_row = 1, blocks + int(pick(0, 3))
            dst_matrix = (rows * dst_row + int(pick(0, 3))) * c0
        if matrices * dst_matrix * size > UB:
            continue
        p = [matrices, rows, columns, src_matrix, src_row, dst_column, dst_row, dst_matrix]
        y = rc.run(emulator, "random_vector", f"to columns {name}", x, p)
        wanted = np.zeros(UB, np.uint8)
        for i in range(matrices):
            for row in range(rows):
                data = x[(i * src_matrix + row * src_row) * size :][: columns * size]
                data = np.append(data, np.zeros(-data.size % 32, np.uint8))
                for block in range(blocks):
                    at = i * dst_matrix * size + (row * dst_row + block * dst_column) * 32
                    wanted[at : at + 32] = data[block * 32 :][:32]
        np.testing.assert_array_equal(y[:UB], wanted, str(p))


@pytest.mark.parametrize("name", ["half", "float"])
def test_columns_to_rows(emulator: ModuleType, name: str) -> None:
    size = np.dtype(rc.TYPES[name]).itemsize
    for rng in rc.trials(9, 200):
        x, pick = noise(rng), rng.integers
        matrices, rows, columns = int(pick(0, 4)), int(pick(1, 20)), int(pick(1, 4)) * 16
        src_matrix, src_column = int(pick(1, 6)), int(pick(0, 20))
        dst_row = columns + int(pick(0, 9))
        dst_matrix = rows * dst_row + int(pick(0, 9))
        p = [matrices, rows, columns, src_matrix, src_column, dst_row, dst_matrix]
        y = rc.run(emulator, "random_vector", f"to rows {name}", x, p)
        source = x[:UB].view(rc.TYPES[name])
        wanted = np.zeros(BYTES // size, rc.TYPES[name])
        for i in range(matrices):
            for row in range(rows):
                for column in range(0, columns, 16):
                    at = i * src_matrix * 256 + column // 16 * src_column * 16 + row * 16
                    to = i * dst_matrix + row * dst_row + column
                    wanted[to : to + 16] = source[at : at + 16]
        np.testing.assert_array_equal(y, wanted.view(np.uint8), str(p))


def side(rng: np.random.Generator, pieces: list[int], block: int, whole: bool) -> list[list[int]]:
    """A box: (first, last, gap, piece, extent) of each dimension. `whole`: gaps are blocks."""
    box = []
    for i, number in enumerate(pieces):
        piece = block if i == 0 else 1
        unit = block // pieces[-1] if i == 0 else 1
        step = unit if whole and i == 0 else 1
        first, gap = int(rng.integers(0, 4)) * step, int(rng.integers(0, 4)) * step
        length = number * piece + (number - 1) * gap
        rest = 1 + int(rng.integers(0, 3)) * step
        if i == 0 and whole:
            rest = step * (1 + int(rng.integers(0, 3)))
        box.append([first, first + length - 1, gap, piece, first + length - 1 + rest])
    return box


@pytest.mark.parametrize("name", ["int8", "half", "float"])
@pytest.mark.parametrize("out", [False, True])
def test_boxes(emulator: ModuleType, name: str, out: bool) -> None:
    dtype = rc.TYPES[name]
    c0 = 32 // np.dtype(dtype).itemsize
    done = 0
    for rng in rc.trials(10, 150):
        x = noise(rng)
        dimensions = int(rng.integers(1, 4))
        blocks = int(rng.integers(1, 3))
        pieces = [
            int(rng.integers(1, 4)),
            *(int(rng.integers(2, 4)) for _ in range(dimensions - 1)),
        ]
        boxes = []
        for local in (not out, out):
            box = side(rng, [*pieces, 1], blocks * c0, False)[:dimensions]
            if local:  # addresses in UB are whole blocks
                first, _, gap, piece, _ = box[0]
                first, gap = first * c0, gap * c0
                length = pieces[0] * piece + (pieces[0] - 1) * gap
                box[0] = [first, first + length - 1, gap, piece, first + length]
            boxes.append(box)
        sizes = [np.prod([d[4] for d in box]) * x.itemsize * (32 // c0) for box in boxes]
        if max(sizes) > UB:
            continue
        numbers = [dimensions, int(out)]
        for box in boxes:
            for i, d in enumerate(box):
                numbers += [d[0], d[1], d[2], blocks if i == 0 else 1, d[4]]
        y = rc.run(emulator, "random_vector", f"slice {name}", x, numbers)

        def elements(box: list[list[int]], pieces: list[int] = pieces) -> np.ndarray:
            axes = [
                [d[0] + i * (d[3] + d[2]) + j for i in range(count) for j in range(d[3])]
                for d, count in zip(box, pieces, strict=True)
            ]
            at, row = np.array(axes[0]), 1
            for d, axis in zip(box, axes[1:], strict=False):
                row *= d[4]
                at = np.add.outer(np.array(axis) * row, at)
            return at.reshape(-1)

        wanted = np.zeros(BYTES // (32 // c0), dtype)
        wanted[elements(boxes[0])] = x.view(dtype)[elements(boxes[1])]
        np.testing.assert_array_equal(y, wanted.view(np.uint8), str(numbers))
        done += 1
    assert done > 50


@pytest.mark.parametrize("name", ["half", "float"])
def test_counted_copies(emulator: ModuleType, name: str) -> None:
    """In counter mode a repeat takes the mask's elements, in whole blocks but the last."""
    size = np.dtype(rc.TYPES[name]).itemsize
    c0, half = 32 // size, UB // 2
    done = 0
    for rng in rc.trials(11, 300):
        x, pick = noise(rng), rng.integers
        counted = int(pick(0, 2))
        mask = int(pick(1, 200 if counted else 256 // size + 1))
        blocks, repeats = -(-mask // c0), int(pick(0, 5))
        src_block, src_repeat = int(pick(0, 4)), int(pick(0, 30))
        dst_block = int(pick(1, 4))
        dst_repeat = blocks * dst_block + int(pick(0, 4))
        reach = (repeats * dst_repeat + blocks * dst_block) * 32
        if max(reach, (repeats * src_repeat + blocks * src_block) * 32) > half:
            continue
        p = [counted, mask, repeats, dst_block, src_block, dst_repeat, src_repeat]
        y = rc.run(emulator, "random_vector", f"copy {name}", x, p)
        wanted = np.append(x[:half], np.zeros(half, np.uint8))
        for repeat in range(repeats):
            for element in range(mask):
                block, rest = divmod(element, c0)
                at = (repeat * src_repeat + block * src_block) * 32 + rest * size
                to = half + (repeat * dst_repeat + block * dst_block) * 32 + rest * size
                wanted[to : to + size] = x[at : at + size]
        np.testing.assert_array_equal(y[:UB], wanted, str(p))
        done += 1
    assert done > 150
