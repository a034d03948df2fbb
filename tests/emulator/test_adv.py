"""The high-level calls of the Ascend C emulator: results against NumPy, and their limits."""

from types import ModuleType

import numpy as np
import pytest
from emulator_runs import BYTES, HighLevelRun

TOLERANCE = {np.float32: 2e-6, np.float16: 2e-3}


def nz(matrix: np.ndarray) -> np.ndarray:
    """Columns of 16, all rows of each together."""
    return np.ascontiguousarray(matrix.reshape(len(matrix), -1, 16).swapaxes(0, 1))


def nd(fractals: np.ndarray, rows: int) -> np.ndarray:
    return fractals.reshape(-1, rows, 16).swapaxes(0, 1).reshape(rows, -1)


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "adv.tmp-size softmax",
            r"SoftMax: rule adv.tmp-size: .* needs a temporary tensor of 288 b",
        ),
        ("local.bounds softmax", r"\w+ in SoftMax: rule local.bounds: "),
        (
            "topk.params k",
            r"TopK: rule topk.params: 1 <= k <= n <= inner, got k=18, n=17, inner=32",
        ),
    ],
)
def test_messages_name_the_call(emulator: ModuleType, name: str, text: str) -> None:
    memory = [np.ones(BYTES // 4, np.float32).view(np.uint8), *np.zeros((2, BYTES), np.uint8)]
    with pytest.raises(emulator.EmulatorError, match="^" + text):
        emulator.fail(name, *memory)


# --- sorting --------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("count", [32, 64, 96, 128, 160, 544, 2048])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("full", [True, False])
def test_sort(emulator: ModuleType, dtype, full: bool, count: int, strict: bool) -> None:
    rng = np.random.default_rng(count)
    # many ties: the index tells whether their order stays
    value = rng.integers(-20, 20, count).astype(dtype)
    value[rng.integers(0, count, 2)] = [np.inf, -np.inf]
    index = rng.permutation(count).astype(np.uint32)
    name = f"sort {'half' if dtype == np.float16 else 'float'} {'full' if full else 'runs'}"
    run = HighLevelRun(emulator, name, [value, index], [count], strict=strict)
    runs = value.reshape(1 if full else -1, count if full else 32)
    order = np.argsort(-runs, axis=-1, kind="stable")
    expected = np.take_along_axis(runs, order, -1).reshape(-1)
    np.testing.assert_array_equal(run.take(dtype, count), expected)
    expected = np.take_along_axis(index.reshape(runs.shape), order, -1).reshape(-1)
    np.testing.assert_array_equal(run.take(np.uint32, count), expected)


@pytest.mark.parametrize("stops", [False, True])
def test_merge(emulator: ModuleType, stops: bool) -> None:
    rng = np.random.default_rng(1)
    lengths = [32, 64, 20, 44]
    lists = [-np.sort(-rng.integers(0, 50, n)).astype(np.float32) for n in lengths]
    total = sum(lengths)
    pairs = np.zeros((total, 2), np.float32)
    pairs[:, 0] = np.concatenate(lists)
    pairs[:, 1] = np.arange(total, dtype=np.uint32).view(np.float32)
    run = HighLevelRun(emulator, "merge stops" if stops else "merge", [pairs], lengths)
    merged = run.take(np.float32, total, 2)
    order = np.argsort(-pairs[:, 0], kind="stable")
    taken = np.zeros(4, int)
    for element in order:
        taken[np.searchsorted(np.cumsum(lengths), element, "right")] += 1
        if stops and (taken == lengths).any():
            break
    count = taken.sum()
    np.testing.assert_array_equal(
        merged[:count].view(np.uint32), pairs[order[:count]].view(np.uint32)
    )
    if stops:
        np.testing.assert_array_equal(run.z[8:12], taken)
        assert not merged[count:].any()


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize(
    ("name", "dtype", "k", "rows", "inner", "n"),
    [
        ("float normal", np.float32, 5, 3, 96, 90),
        ("float normal index finished", np.float32, 5, 4, 32, 31),
        ("float normal", np.float32, 64, 2, 1024, 1024),
        ("half normal", np.float16, 20, 3, 160, 160),
        ("half normal finished", np.float16, 9, 3, 64, 64),
        ("float small", np.float32, 1, 7, 32, 32),
        ("float small index", np.float32, 8, 4, 32, 17),
        ("half small", np.float16, 3, 8, 32, 32),
    ],
)
def test_topk(
    emulator: ModuleType,
    name: str,
    dtype,
    k: int,
    rows: int,
    inner: int,
    n: int,
    largest: bool,
    given: bool,
) -> None:
    rng = np.random.default_rng(k)
    worst = -np.inf if largest else np.inf
    value = rng.integers(-50, 50, (rows, inner)).astype(dtype)
    value[0, 3] = np.nan  # comes first, whatever is wanted
    value[:, n:] = worst
    small, finished = "small" in name, rng.random(rows) < 0.5
    index = np.arange(inner, dtype=np.int32) * 3 + 7
    given_index = np.tile(index, (rows, 1)) if small else index
    arguments = [k, rows, inner, n, largest, given]
    run = HighLevelRun(emulator, f"topk {name}", [value, given_index, finished], arguments)
    score = -value.astype(np.float64) if largest else value.astype(np.float64)
    order = np.argsort(np.where(np.isnan(score), -np.inf, score), axis=-1, kind="stable")
    order[0] = [3, *(i for i in order[0] if i != 3)]
    order = order[:, :k]
    width = k if small else -(-k // (32 // value.itemsize)) * (32 // value.itemsize)
    result = run.take(dtype, rows, width)
    np.testing.assert_array_equal(result[:, :k], np.take_along_axis(value, order, -1))
    assert not result[:, k:].any()
    expected = index[order] if "index" in name else order
    if "finished" in name:
        expected[finished] = n
    width = k if small else -(-k // 8) * 8
    result = run.take(np.int32, rows, width)
    np.testing.assert_array_equal(result[:, :k], expected)
    assert (result[:, k:] == -1).all()


# --- softmax --------------------------------------------------------------------------------------

# rows, columns, original rows and columns, bytes of temporary memory: the least, or more
SHAPES = [
    (1, 8, 1, 8, 288),
    (5, 16, 5, 13, 320),
    (8, 64, 8, 64, 288 + 64 * 8),
    (20, 72, 20, 70, 3000),
    (11, 208, 11, 200, 2 * 1024),
    (3, 2048, 3, 2048, 4096),
    (40, 128, 40, 128, 0),
]


def close(actual: np.ndarray, expected: np.ndarray, dtype) -> None:
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(actual.astype(np.float64), expected, tolerance, tolerance * 1e-2)


def softmax(x: np.ndarray, columns: int) -> tuple[np.ndarray, ...]:
    """The softmax of all, as if only the first columns were there, their sums and maxima."""
    x = x.astype(np.float64)
    most = x[:, :columns].max(-1, keepdims=True)
    exponential = np.exp(x - most)
    total = exponential[:, :columns].sum(-1, keepdims=True)
    return exponential / total, total, most


def tmp_bytes(shape: tuple, dtype, use: int = 0, matrices: int = 0) -> int:
    """The least for one row, or that of the shape if it is more."""
    half = dtype == np.float16
    least = (64 if half else 32) + 256 + use + shape[1] * 4 * (matrices + half)
    return shape[4] and max(shape[4], least)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("name", "shape"),
    # a row of half has whole 16 elements
    [(n, s) for n in ("float", "half", "mixed") for s in SHAPES if n == "float" or s[1] >= 16],
)
def test_softmax(emulator: ModuleType, name: str, shape: tuple, strict: bool) -> None:
    dtype, of_sums = (
        np.float32 if name == "float" else np.float16,
        np.float16 if name == "half" else np.float32,
    )
    rows, columns = shape[:2]
    columns = columns // 16 * 16 if dtype == np.float16 else columns
    x = np.random.default_rng(2).normal(0, 2, (rows, columns)).astype(dtype)
    original = min(shape[3], columns)
    arguments = [
        rows,
        columns,
        shape[2],
        original,
        tmp_bytes((rows, columns, 0, 0, shape[4]), dtype),
    ]
    run = HighLevelRun(emulator, f"softmax {name}", [x], arguments, strict=strict)
    expected, total, most = softmax(x, original)
    close(run.take(dtype, rows, columns), expected, dtype)
    blocks = 32 // np.dtype(of_sums).itemsize
    close(run.take(of_sums, rows, blocks), np.tile(total, blocks), of_sums)
    close(run.take(of_sums, rows, blocks), np.tile(most, blocks), of_sums)


@pytest.mark.parametrize("tmp", [0, 1024])
@pytest.mark.parametrize("name", ["float", "half"])
def test_softmax_of_fractals(emulator: ModuleType, name: str, tmp: int) -> None:
    dtype = np.float32 if name == "float" else np.float16
    x = np.random.default_rng(3).normal(0, 2, (16, 48)).astype(dtype)
    run = HighLevelRun(emulator, f"softmax {name} nz", [nz(x)], [16, 48, 16, 42, tmp])
    expected, total, most = softmax(x, 42)
    close(nd(run.take(dtype, 3, 16, 16), 16), expected, dtype)
    blocks = 32 // x.itemsize
    close(run.take(dtype, 16, blocks), np.tile(total, blocks), dtype)
    close(run.take(dtype, 16, blocks), np.tile(most, blocks), dtype)


def test_softmax_of_a_tiling(emulator: ModuleType) -> None:
    x = np.random.default_rng(4).normal(0, 2, (24, 64)).astype(np.float32)
    run = HighLevelRun(emulator, "softmax tiled", [x], [24, 64])
    close(run.take(np.float32, 24, 64), softmax(x, 64)[0], np.float32)


@pytest.mark.parametrize("name", ["float", "half", "mixed"])
def test_simple_softmax(emulator: ModuleType, name: str) -> None:
    dtype, of_sums = (
        np.float32 if name == "float" else np.float16,
        np.float16 if name == "half" else np.float32,
    )
    rng = np.random.default_rng(5)
    x = rng.normal(0, 2, (13, 80)).astype(dtype)
    total, most = (rng.uniform(1, 4, (13, 1)).astype(of_sums) for _ in range(2))
    blocks = [np.tile(a, 32 // a.itemsize) for a in (total, most)]
    run = HighLevelRun(emulator, f"simple {name}", [x, *blocks], [13, 80, 13, 80, 2048])
    expected = np.exp(x.astype(np.float64) - most) / total
    close(run.take(dtype, 13, 80), expected, dtype)


def test_log_softmax(emulator: ModuleType) -> None:
    # the documents' own example, in part
    x = np.array([[-100, -80, -60, -50, -30, -20, -15, -10], [9, 10, 15, 20, 30, 50, 60, 80]])
    x = x.astype(np.float32)
    run = HighLevelRun(emulator, "log float", [x], [2, 8, 2, 8, 512])
    told = [
        -39.08944,
        -30.40355,
        -21.71766,
        -17.374716,
        -8.688826,
        -4.345881,
        -2.1744084,
        -0.00293603,
    ]
    np.testing.assert_allclose(run.take(np.float32, 2, 8)[0], told, 1e-5, 1e-6)
    x = np.random.default_rng(6).normal(0, 2, (16, 32)).astype(np.float16)
    run = HighLevelRun(emulator, "log half nz", [nz(x)], [16, 32, 16, 32, 2048])
    close(nd(run.take(np.float16, 2, 16, 16), 16), np.log10(softmax(x, 32)[0]), np.float16)


@pytest.mark.parametrize("name", ["adjust", "adjust step", "adjust nz"])
@pytest.mark.parametrize("rows_found", [[], [0, 7, 15]])
def test_adjust(emulator: ModuleType, name: str, rows_found: list[int]) -> None:
    rng = np.random.default_rng(7)
    x = rng.random((16, 32), np.float32)
    most = rng.random((16, 1), np.float32)
    most[rows_found] = np.finfo(np.float32).min
    blocks = most if name.endswith("step") else np.tile(most, 8)
    fractals = name.endswith("nz")
    run = HighLevelRun(emulator, name, [nz(x) if fractals else x, blocks], [16, 32, 16, 32])
    expected = np.where(most == np.finfo(np.float32).min, np.float32(7), x)
    result = run.take(np.float32, 16, 32)
    np.testing.assert_array_equal(nd(result, 16) if fractals else result, expected)
    assert run.z[8] == bool(rows_found)


FLASH_SHAPES = [(5, 32, 5, 32, 1), (12, 80, 12, 80, 8192), (24, 64, 24, 64, 0)]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (name, shape)
        for name in ("flash float", "flash mixed", "flash2 float", "flash2 half", "flash2 mixed")
        for shape in FLASH_SHAPES
        if shape[4] or name.startswith("flash2")  # the kernels of flash give their memory
    ],
)
def test_flash(emulator: ModuleType, name: str, shape: tuple) -> None:
    version, kind = name.split()
    dtype, of_sums = (
        np.float32 if kind == "float" else np.float16,
        np.float16 if kind == "half" else np.float32,
    )
    rows, columns = shape[:2]
    first, rest = np.random.default_rng(8).normal(0, 2, (2, rows, columns)).astype(dtype)
    arguments = [*shape[:4], tmp_bytes(shape, dtype, 64)]
    run = HighLevelRun(emulator, name, [first, rest], arguments)
    divides = version == "flash"
    one, total, most = softmax(first, columns)
    wide = rest.astype(np.float64)
    new_most = np.maximum(most, wide.max(-1, keepdims=True))
    factor = np.exp(most - new_most)
    two = np.exp(wide - new_most)
    new_total = factor * total + two.sum(-1, keepdims=True)
    if divides:
        factor, two = factor * total / new_total, two / new_total
    else:
        one = one * total
    close(run.take(dtype, rows, columns), one, dtype)
    close(run.take(dtype, rows, columns), two, np.float16 if kind == "half" else dtype)
    blocks = 32 // np.dtype(of_sums).itemsize
    close(run.take(of_sums, rows, blocks), np.tile(new_total, blocks), of_sums)
    close(run.take(of_sums, rows, blocks), np.tile(new_most, blocks), of_sums)
    blocks = 32 // np.dtype(dtype).itemsize
    close(run.take(dtype, rows, blocks), np.tile(factor, blocks), dtype)


@pytest.mark.parametrize("shape", [(16, 48, 16, 48, 1), (16, 80, 16, 80, 20000)])
@pytest.mark.parametrize(
    "name", ["grad float", "grad half nz", "grad float front", "grad half front"]
)
def test_grad(emulator: ModuleType, name: str, shape: tuple) -> None:
    dtype = np.float16 if "half" in name else np.float32
    rows, columns = shape[:2]
    grad, result = np.random.default_rng(9).uniform(0, 1, (2, rows, columns)).astype(dtype)
    arguments = [*shape[:4], tmp_bytes(shape, dtype, 0, 1)]
    fractals = "nz" in name
    run = HighLevelRun(
        emulator, name, [nz(a) if fractals else a for a in (grad, result)], arguments
    )
    grad, result = grad.astype(np.float64), result.astype(np.float64)
    total = (grad * result).sum(-1, keepdims=True)
    if "front" in name:
        blocks = 32 // np.dtype(dtype).itemsize
        close(run.take(dtype, rows, blocks), np.tile(total, blocks), dtype)
        return
    expected = (grad - total) * result
    out = run.take(dtype, rows, columns)
    close(nd(out, rows) if fractals else out, expected, dtype)
