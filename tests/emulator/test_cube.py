"""Windows of images, products of other kinds and results by what was set, against NumPy."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from emulator_runs import aligned
from random_cases import joined, left, right

RNG = np.random.default_rng(0)


def run(
    module: ModuleType, name: str, x: np.ndarray, z: np.ndarray | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """What a kernel leaves in y, as bytes, and the counters."""
    memory = [aligned() for _ in range(3)]
    memory[0][: x.nbytes] = x.reshape(-1).view(np.uint8)
    if z is not None:
        memory[2][: z.nbytes] = z.reshape(-1).view(np.uint8)
    counters = module.matrix(name, *memory)
    return memory[1], counters["total"]


# --- windows --------------------------------------------------------------------------------------

PLAIN = {
    "l1H": 1,
    "l1W": 32,
    "channels": 32,
    "columns": 32,
    "rows": 32,
    "first_column": 0,
    "first_row": 0,
    "stride_w": 1,
    "stride_h": 1,
    "filter_w": 1,
    "filter_h": 1,
    "dilation_w": 1,
    "dilation_h": 1,
    "left": 0,
    "right": 0,
    "top": 0,
    "bottom": 0,
    "padding": 0,
    "transpose": 0,
    "repeat_stride": 0,
    "repeat_times": 1,
    "repeat_mode": 0,
    "boundary": 0,
}
FILTERED = {
    "l1H": 6,
    "l1W": 9,
    "filter_w": 3,
    "filter_h": 2,
    "stride_w": 2,
    "dilation_h": 2,
    "left": 1,
    "right": 2,
    "top": 2,
    "bottom": 1,
    "padding": 7,
}


def window_matrix(image: np.ndarray, p: dict[str, int], c0: int) -> np.ndarray:
    """A row for each place of the filter; columns by group of channels, point, channel."""
    height, width, channels = image.shape
    padded = np.full(
        (height + p["top"] + p["bottom"], width + p["left"] + p["right"], channels),
        p["padding"],
        image.dtype,
    )
    padded[p["top"] :][:height, p["left"] :][:, :width] = image
    reach_h = (p["filter_h"] - 1) * p["dilation_h"] + 1
    reach_w = (p["filter_w"] - 1) * p["dilation_w"] + 1
    rows = []
    for y in range(0, padded.shape[0] - reach_h + 1, p["stride_h"]):
        for x in range(0, padded.shape[1] - reach_w + 1, p["stride_w"]):
            window = padded[y : y + reach_h : p["dilation_h"], x : x + reach_w : p["dilation_w"]]
            points = window.reshape(-1, channels)
            groups = [points[:, at : at + c0].reshape(-1) for at in range(0, channels, c0)]
            rows.append(np.concatenate(groups))
    return np.array(rows)


def in_l1(image: np.ndarray, c0: int) -> np.ndarray:
    """Groups of channels, in each the rows of the image."""
    groups = [image[..., at : at + c0].reshape(-1) for at in range(0, image.shape[-1], c0)]
    flat = np.concatenate(groups)
    return np.append(flat, np.zeros(-flat.size % (512 // image.itemsize), image.dtype))


def part(matrix: np.ndarray, p: dict[str, int], c0: int) -> np.ndarray:
    """What is loaded: all repeats as one matrix."""
    rows, columns = [], []
    for i in range(p["repeat_times"]):
        step = i * p["repeat_stride"]
        if i == 0 or p["repeat_mode"] == 0:
            first = p["first_row"] + step * 16
            rows += range(first, first + p["rows"])
        if i == 0 or p["repeat_mode"] == 1:
            first = p["first_column"] + step * c0
            columns += range(first, first + p["columns"])
    return matrix[np.ix_(rows, columns)]


WINDOWS: dict[str, tuple[str, dict[str, int]]] = {
    "a matrix": ("half", {}),
    "a part": ("half", {"l1W": 48, "channels": 64, "first_row": 5, "first_column": 16}),
    "a filter": ("half", FILTERED | {"columns": 192, "rows": 35}),
    "a part under a filter": (
        "half",
        FILTERED | {"first_row": 3, "first_column": 48, "columns": 64, "rows": 32},
    ),
    "four channels": ("half", FILTERED | {"channels": 4, "columns": 24, "rows": 35}),
    "a group and a quarter": ("half", FILTERED | {"channels": 20, "columns": 120, "rows": 35}),
    "registers": ("half registers", FILTERED | {"columns": 192, "rows": 35}),
    "packed": ("half packed", FILTERED | {"columns": 192, "rows": 35}),
    "transposed": ("half", {"transpose": 1, "channels": 48, "columns": 48}),
    "rows repeated": (
        "half",
        {"l1W": 96, "rows": 16, "repeat_stride": 2, "repeat_times": 3},
    ),
    "columns repeated": (
        "half",
        {"channels": 80, "columns": 16, "repeat_stride": 2, "repeat_times": 3, "repeat_mode": 1},
    ),
    "to the right": ("half right", {"l1W": 48, "rows": 48, "channels": 64, "columns": 64}),
    "a part to the right": (
        "half right",
        FILTERED | {"first_row": 3, "first_column": 48, "columns": 64, "rows": 32},
    ),
    "floats": ("float", {"channels": 24, "columns": 24, "rows": 31, "l1W": 31}),
    "floats transposed": ("float", {"transpose": 1, "channels": 40, "columns": 40}),
    "floats to the right": ("float right", {"channels": 48, "columns": 48}),
    "bytes": ("int8", FILTERED | {"channels": 64, "columns": 192, "rows": 35}),
    "bytes, eight channels": ("int8", FILTERED | {"channels": 8, "columns": 48, "rows": 35}),
}
TYPES = {"half": np.float16, "float": np.float32, "int8": np.int8}


@pytest.mark.parametrize("case", WINDOWS)
def test_windows(emulator: ModuleType, case: str) -> None:
    kernel, changes = WINDOWS[case]
    p = PLAIN | changes
    dtype = TYPES[kernel.partition(" ")[0]]
    c0 = 32 // np.dtype(dtype).itemsize
    image = RNG.integers(-9, 9, (p["l1H"], p["l1W"], p["channels"])).astype(dtype)
    loaded = part(window_matrix(image, p, c0), p, c0)
    stored = in_l1(image, c0)
    if "right" in kernel:
        k, n = loaded.shape
        m = 16
        other = RNG.integers(-3, 3, (m, k)).astype(dtype)
        stored_other, expected = left(other, c0), other.astype(float) @ loaded
    else:
        a = loaded.T if p["transpose"] else loaded
        (m, k), n = a.shape, 32
        other = RNG.integers(-3, 3, (k, n)).astype(dtype)
        stored_other, expected = right(other, c0), a.astype(float) @ other
    numbers = np.array([m, n, k, stored.size, stored_other.size, *p.values()], np.int32)
    y, counters = run(emulator, kernel, joined(stored, stored_other), numbers)
    got = y.view(np.int32 if dtype == np.int8 else np.float32)[: m * n].reshape(m, n)
    np.testing.assert_array_equal(got, expected)
    path = "l1->l0b" if "right" in kernel else "l1->l0a"
    assert (
        counters["paths"][path]["bytes"]
        == -(-loaded.shape[0] // 16) * -(-loaded.shape[1] // c0) * 512
    )


def test_a_boundary_of_l1_leads_back_to_its_start(emulator: ModuleType) -> None:
    matrix = RNG.integers(-9, 9, (32, 32)).astype(np.float16)
    other = RNG.integers(-3, 3, (32, 32)).astype(np.float16)
    stored = matrix.reshape(32, 2, 16).transpose(1, 0, 2)  # columns of 1024 bytes
    numbers = np.array([32, 32, 32, 1024, 1024, *(PLAIN | {"boundary": 1024}).values()], np.int32)
    y, _ = run(emulator, "half", joined(stored, right(other, 16)), numbers)
    twice = np.concatenate([matrix[:, :16]] * 2, axis=1).astype(float)
    np.testing.assert_array_equal(y.view(np.float32)[:1024].reshape(32, 32), twice @ other)


def test_time_of_windows(emulator: ModuleType) -> None:
    """The documented rates: 256 bytes a cycle if a fractal is of one row of places."""
    image = np.ones((1, 32, 32), np.float16)
    numbers = np.array([32, 32, 32, 1024, 1024, *PLAIN.values()], np.int32)
    x = joined(in_l1(image, 16), right(np.ones((32, 32), np.float16), 16))
    _, counters = run(emulator, "half", x, numbers)
    # four fractals to the left at 256, four to the right at 128
    assert counters["pipes"]["MTE1"]["cycles"] == 4 * 512 / 256 + 4 * 512 / 128
    slow = PLAIN | {"l1H": 8, "l1W": 4}
    numbers = np.array([32, 32, 32, 1024, 1024, *slow.values()], np.int32)
    _, counters = run(emulator, "half", x, numbers)
    # four rows of places a fractal: 512 / (4 + 2) bytes a cycle
    assert counters["pipes"]["MTE1"]["cycles"] == 4 * 6 + 4 * 512 / 128


# --- products -------------------------------------------------------------------------------------


def nibbles(values: np.ndarray) -> np.ndarray:
    """Two in a byte, the first in its lower half."""
    pairs = (values.reshape(-1, 2) & 15).astype(np.uint8)
    return pairs[:, 0] | pairs[:, 1] << 4


def test_int4_product(emulator: ModuleType) -> None:
    a = RNG.integers(-8, 8, (32, 128))
    b = RNG.integers(-8, 8, (128, 48))
    x = joined(nibbles(left(a, 64)), nibbles(right(b, 64)))
    y, counters = run(emulator, "int4 product", x)
    got = y.view(np.int32)[: 32 * 48].reshape(32, 48)
    np.testing.assert_array_equal(got, a[:, :100] @ b[:100])
    assert counters["products"]["int4"]["cycles"] == 2 * 3 * 2


def half_float(values: np.ndarray, to_zero: bool) -> np.ndarray:
    bits = values.view(np.uint32).astype(np.uint64)
    tie = 0 if to_zero else bits >> 12 & 1
    return ((bits + 0x7FF + tie) & 0xFFFFF000).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("mode", ["even", "zero"])
def test_hf32(emulator: ModuleType, mode: str) -> None:
    a = RNG.standard_normal((32, 16)).astype(np.float32)
    b = RNG.standard_normal((16, 48)).astype(np.float32)
    a[0, 0] = 1 + 2**-12  # as near to 1 as to the next
    a[0, 1] = 1 + 3 * 2**-12
    a[0, 2:], b[0, 0], b[1, 0] = 0, 1, 1
    y, counters = run(emulator, f"hf32 {mode}", joined(left(a, 8), right(b, 8)))
    got = y.view(np.float32)[: 32 * 48].reshape(32, 48)
    rounded = [half_float(v, mode == "zero").astype(float) for v in (a, b)]
    np.testing.assert_allclose(got, rounded[0] @ rounded[1], atol=4e-6)
    assert got[0, 0] == (2 + 2**-11 if mode == "zero" else 2 + 2**-10)
    assert counters["products"]["float"]["cycles"] == 2 * 3 * 2


def test_a_product_starts_from_the_table(emulator: ModuleType) -> None:
    a = RNG.integers(-9, 9, (32, 16)).astype(np.float16)
    b = RNG.integers(-9, 9, (16, 32)).astype(np.float16)
    bias = RNG.standard_normal(32).astype(np.float32)
    y, counters = run(emulator, "from table", joined(left(a, 16), right(b, 16)), bias)
    got = y.view(np.float32)[:1024].reshape(32, 32)
    np.testing.assert_allclose(got, a.astype(float) @ b + bias, atol=1e-4)
    assert counters["paths"]["l1->bt"]["bytes"] == 128


def test_sparse_product(emulator: ModuleType) -> None:
    a = RNG.integers(-128, 128, (32, 128)).astype(np.int8)
    dense = RNG.integers(-128, 128, (64, 32)).astype(np.int8)
    rows = np.array([sorted(RNG.choice(4, 2, False)) for _ in range(32 * 32)]).reshape(32, 32, 2)
    b = np.zeros((32, 4, 32), np.int64)
    index = np.zeros((64, 32), np.uint8)
    for group in range(32):
        for column in range(32):
            first, second = rows[group, column]
            b[group, first, column], b[group, second, column] = dense[2 * group :][:2, column]
            index[2 * group :][:2, column] = first, second - 1
    packed = right(index, 32).reshape(-1, 4).astype(np.uint8)
    packed = packed[:, 0] | packed[:, 1] << 2 | packed[:, 2] << 4 | packed[:, 3] << 6
    y, _ = run(emulator, "sparse", left(a, 32), joined(right(dense, 32), packed))
    got = y.view(np.int32)[:1024].reshape(32, 32)
    np.testing.assert_array_equal(got, a.astype(np.int64) @ b.reshape(128, 32))


# --- loads ----------------------------------------------------------------------------------------


def test_transposed_int4(emulator: ModuleType) -> None:
    a = RNG.integers(-8, 8, (64, 64))
    b = RNG.integers(-8, 8, (64, 64))  # k by n, as it lies in L1: rows of k
    x = joined(nibbles(left(a, 64)), nibbles(b))
    y, _ = run(emulator, "transposed int4", x)
    np.testing.assert_array_equal(y.view(np.int32)[:4096].reshape(64, 64), a @ b)


def test_fractals_backwards_into_l1(emulator: ModuleType) -> None:
    x = RNG.standard_normal((8, 128)).astype(np.float32)
    y, counters = run(emulator, "backwards", x)
    got = y.view(np.float32)[:1024].reshape(8, 128)
    np.testing.assert_array_equal(got[::2], x[[7, 5, 3, 1]])
    assert (got[1::2] == 1.5).all()
    assert counters["paths"]["gm->l1"]["bytes"] == 2048


# --- ways out -------------------------------------------------------------------------------------


def results(dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Operands in fractals, and the product, 32 by 48."""
    c0 = 32 // np.dtype(dtype).itemsize
    a = RNG.integers(-9, 9, (32, 32)).astype(dtype)
    b = RNG.integers(-9, 9, (32, 48)).astype(dtype)
    return joined(left(a, c0), right(b, c0)), a.astype(float) @ b


def scale_bits(factors: np.ndarray, offset: int = 0) -> np.ndarray:
    bits = factors.astype(np.float32).view(np.uint32).astype(np.uint64)
    return bits | np.uint64((offset & 511) << 37) | np.uint64(1 << 46)


def test_results_to_l1(emulator: ModuleType) -> None:
    x, product = results(np.float16)
    y, counters = run(emulator, "to L1", x)
    got = y.view(np.float16)[:1536].reshape(3, 32, 16).transpose(1, 0, 2).reshape(32, 48)
    np.testing.assert_array_equal(got, np.maximum(product, 0))
    assert counters["paths"]["l0c->l1"]["bytes"] == 3072
    assert counters["pipes"]["FIX"]["cycles"] == 1536 / 64


def test_scales_of_columns(emulator: ModuleType) -> None:
    x, product = results(np.int8)
    factors = 2.0 ** RNG.integers(-3, 3, 48)
    y, counters = run(emulator, "scales", x, scale_bits(factors))
    got = y.view(np.float16)[:1536].reshape(32, 48)
    np.testing.assert_array_equal(got, (product * factors).astype(np.float16))
    assert counters["paths"]["l1->fb"]["bytes"] == 384


def test_scales_of_columns_to_l1(emulator: ModuleType) -> None:
    """A negative result under ReLU has no factor; 9 bits are rounded to, then comes the offset."""
    x, product = results(np.int8)
    factors = 2.0 ** RNG.integers(-3, 3, 48) * RNG.choice([-1, 1], 48)
    y, _ = run(emulator, "scales to L1", x, scale_bits(factors, -100))
    scaled = np.where(product < 0, 0, product * factors)
    expected = np.clip(np.clip(np.rint(scaled), -256, 255) - 100, -128, 127)
    got = np.concatenate(  # 32 columns, then the last 16
        [y.view(np.int8)[:1024].reshape(32, 32), y.view(np.int8)[1024:1536].reshape(32, 16)], axis=1
    )
    np.testing.assert_array_equal(got, expected)


def test_matrices_as_they_were_set(emulator: ModuleType) -> None:
    x, product = results(np.int8)
    y, _ = run(emulator, "matrices", x, scale_bits(np.array([0.5])))
    got = y.view(np.float16)[:1024].reshape(2, 32, 16)
    np.testing.assert_array_equal(got, [product[:, :16] / 2, product[:, 32:] / 2])


def test_unit_flags_are_cleared(emulator: ModuleType) -> None:
    a = RNG.integers(-9, 9, (32, 16)).astype(np.float16)
    b = RNG.integers(-9, 9, (16, 32)).astype(np.float16)
    y, _ = run(emulator, "unit flags cleared", joined(left(a, 16), right(b, 16)))
    got = y.view(np.float32)[:1024].reshape(32, 32)
    np.testing.assert_array_equal(got, a.astype(float) @ b)
