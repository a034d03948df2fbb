"""Loads to L0, products and results with random parameters, against models in NumPy."""

from types import ModuleType

import numpy as np
import pytest
import random_cases as rc

pytestmark = pytest.mark.slow

C0 = {"half": 16, "bf16": 16, "float": 8, "int8": 32, "int4": 64}
SIDES = {"half": 16, "bf16": 16, "float": 16, "int8": 32, "int4": 64}  # of a square


def transposed(squares: np.ndarray, name: str) -> np.ndarray:
    """Squares, which lie in fractals of 16 rows, to fractals of the squares transposed."""
    side, c0 = SIDES[name], C0[name]
    if name == "float":  # the second fractal has the columns from 8 on
        whole = squares.reshape(-1, 2, 16, 8).transpose(0, 2, 1, 3).reshape(-1, 16, 16)
        turned = whole.transpose(0, 2, 1)
        return turned.reshape(-1, 16, 2, 8).transpose(0, 2, 1, 3)
    turned = squares.reshape(-1, side, side).transpose(0, 2, 1)
    return turned.reshape(-1, side // 16, 16, c0)


def show(module: ModuleType, name: str, source: np.ndarray, numbers: list[int]) -> np.ndarray:
    """The fractals of L0 that the last numbers name, after a load that the others describe."""
    c0, to_right = C0[name], numbers[0]
    ones = np.eye(c0, dtype=np.int64)
    ones = rc.left(ones, c0) if to_right else rc.right(np.eye(c0, max(c0, 16), dtype=int), c0)
    x = [rc.stored(source, name), rc.stored(ones, name)]
    sizes = [a.nbytes for a in x]
    numbers = [*numbers[:2], *sizes, c0, *numbers[2:]]
    y = rc.run(module, "random_cube", f"fractals {name}", rc.joined(*x), numbers)
    count = numbers[11]
    dtype = np.int32 if name.startswith("int") else np.float32
    if to_right:  # k by 16
        return y.view(dtype)[: count * c0 * 16].reshape(count, c0, 16).transpose(0, 2, 1)
    wide = max(c0, 16)
    return y.view(dtype)[: count * 16 * wide].reshape(count, 16, wide)[:, :, :c0]


@pytest.mark.parametrize("name", C0)
def test_fractals(emulator: ModuleType, name: str) -> None:
    c0 = C0[name]
    for rng in rc.trials(1, 200):
        fractals = int(rng.integers(2, 40))
        source = rng.integers(-8, 8, (fractals, 16, c0))
        start = int(rng.integers(0, fractals))
        stride = int(rng.integers(0, 4))
        most = (fractals - 1 - start) // stride + 1 if stride else 9
        repeat = int(rng.integers(1, min(most, 9) + 1))
        gap = int(rng.integers(0, 4))
        turn = int(rng.integers(0, 2)) if c0 == 16 else 0
        places = [i * (1 + gap) for i in range(repeat)]
        to_right = int(rng.integers(0, 2))
        load = [start, repeat, stride, gap, turn, 0]
        got = show(emulator, name, source, [to_right, 0, *load, repeat, *places])
        wanted = source[[start + i * stride for i in range(repeat)]]
        np.testing.assert_array_equal(got, wanted.transpose(0, 2, 1) if turn else wanted)


@pytest.mark.parametrize("name", C0)
def test_squares(emulator: ModuleType, name: str) -> None:
    c0 = C0[name]
    parts = {"float": 2, "int8": 2, "int4": 4}.get(name, 1)
    for rng in rc.trials(2, 200):
        squares = int(rng.integers(2, 24 // parts + 1))
        source = rng.integers(-8, 8, (squares * parts, 16, c0))
        down = bool(rng.integers(0, 2))
        stride = int(rng.integers(0, 3))
        start = int(rng.integers(0, squares))
        room = start if down else squares - 1 - start
        repeat = int(rng.integers(1, min(room // stride if stride else 3, 3) + 2))
        # squares beside each other, or their parts
        inner, outer = ((0, parts - 1), (repeat - 1, 0))[int(rng.integers(0, 2))]
        extra = int(rng.integers(0, 3))
        inner, outer = (inner, outer + extra) if inner == 0 else (inner + extra, outer)
        places = [i * (1 + outer) + j * (1 + inner) for i in range(repeat) for j in range(parts)]
        to_right = 1 if name == "int4" else int(rng.integers(0, 2))
        load = [start, repeat, stride, outer, inner, int(down)]
        got = show(emulator, name, source, [to_right, 1, *load, len(places), *places])
        order = [start + (-i if down else i) * stride for i in range(repeat)]
        wanted = transposed(source.reshape(squares, -1)[order], name).reshape(-1, 16, c0)
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name", C0)
def test_products(emulator: ModuleType, name: str) -> None:
    """Every way to start, and sizes that end inside of a fractal."""
    c0 = C0[name]
    for rng in rc.trials(3, 200):
        m, n = int(rng.integers(1, 50)), int(rng.integers(16, 60))
        k = int(rng.integers(1, 4 * c0))
        if name == "int4":
            k += k % 2
        low, high = (-8, 8) if name == "int4" else (-20, 20)
        a, b = rng.integers(low, high, (m, k)), rng.integers(low, high, (k, n))
        start = int(rng.choice([0, 1, 3] if name == "int4" else [0, 1, 2, 3]))
        dtype = np.int32 if name.startswith("int") else np.float32
        bias = rng.integers(-1000, 1000, -(-n // 16) * 16).astype(dtype)
        if m == 1:  # one row lies as it is
            row = np.zeros((1, -(-k // (16 * c0)) * 16 * c0), int)
            row[0, :k] = a
            factors = [rc.stored(row, name), rc.stored(rc.right(b, c0), name)]
        else:
            factors = [rc.stored(rc.left(a, c0), name), rc.stored(rc.right(b, c0), name)]
        numbers = [f.nbytes for f in factors] + [m, n, k, start]
        y = rc.run(emulator, "random_cube", f"product {name}", rc.joined(*factors), numbers, bias)
        wide = -(-n // 16) * 16
        got = y.view(dtype)[: m * wide].reshape(m, wide)[:, : n // 16 * 16]
        wanted = a @ b * (2 if start == 1 else 1) + (bias[:n] if start >= 2 else 0)
        np.testing.assert_array_equal(got, wanted[:, : n // 16 * 16])
