"""The Ascend C emulator: each rule has a kernel that breaks it, arithmetic is that of NumPy."""

import importlib.util
import itertools
import re
import shutil
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
EMULATOR = ROOT / "csrc" / "emulator"
CXX = shutil.which("c++") or shutil.which("g++")

pytestmark = [
    pytest.mark.skipif(
        not (CXX and shutil.which("cmake") and importlib.util.find_spec("pybind11")),
        reason="needs a C++17 compiler, cmake and pybind11",
    ),
    pytest.mark.xdist_group("emulator"),  # one build
]

RULES = re.findall(r'X\(k\w+, "([\w.-]+)"', (EMULATOR / "rules.h").read_text())
FAILING = [
    name
    for path in (ROOT / "tests" / "ascend").glob("*.cpp")
    for name in re.findall(r'^(?:MUST_FAIL|\w+_FAILS)\("([^"]+)"', path.read_text(), re.M)
]
BYTES = 65536
RNG = np.random.default_rng(0)
X = RNG.standard_normal(BYTES // 4).astype(np.float32)


def aligned() -> np.ndarray:
    """Global memory: a device's allocations start on more than NumPy's 16 bytes."""
    memory = np.zeros(BYTES + 512, np.uint8)
    start = -memory.ctypes.data % 512
    return memory[start : start + BYTES]


def run(
    module: ModuleType,
    name: str,
    x: np.ndarray,
    z: np.ndarray | None = None,
    cube: bool = False,
    **options: Any,
):
    """Runs a correct kernel: (y, z) as bytes, and the counters."""
    memory = [aligned() for _ in range(3)]
    memory[0][: x.nbytes] = x.view(np.uint8).reshape(-1)
    if z is not None:
        memory[2][: z.nbytes] = z.view(np.uint8).reshape(-1)
    counters = (module.run_cube if cube else module.run)(name, *memory, **options)
    return memory[1], memory[2], counters


# --- rules ----------------------------------------------------------------------------------------


def test_every_rule_has_a_kernel_that_breaks_it(emulator: ModuleType) -> None:
    assert list(emulator.rules()) == RULES
    assert sorted(emulator.must_fail()) == sorted(FAILING)
    # the tables of types are static_asserts: csrc/typecheck/calls
    broken = {name.partition(" ")[0] for name in FAILING}
    assert broken == set(RULES) - {"dtype.table"}


@pytest.mark.parametrize("name", sorted(FAILING))
def test_rule(emulator: ModuleType, name: str) -> None:
    x, y, z = np.ones(BYTES // 4, np.float32).view(np.uint8), *np.zeros((2, BYTES), np.uint8)
    rule = name.partition(" ")[0]
    with pytest.raises(emulator.EmulatorError, match=r": rule [\w.-]+: .* \(.*\)$") as caught:
        emulator.fail(name, x, y, z, rules=f"{rule}=error")
    assert caught.value.rule == rule
    assert f"rule {rule}: " in str(caught.value)


def test_messages_say_what_to_do(emulator: ModuleType) -> None:
    memory = [np.zeros(BYTES, np.uint8) for _ in range(3)]
    with pytest.raises(emulator.EmulatorError) as caught:
        emulator.fail("copy.count-32B", *memory)
    assert str(caught.value) == (
        "DataCopy: rule copy.count-32B: count*sizeof(T) must be a multiple of 32 bytes, "
        "got count=5 of float (20 bytes) (block 0 of copy.count-32B)"
    )
    with pytest.raises(emulator.EmulatorError) as caught:
        emulator.fail("sync.missing", *memory)
    assert str(caught.value) == (
        "Exp: rule sync.missing: pipe V reads UB [16384, 16416) that DataCopy on pipe MTE2 wrote "
        "before: add SetFlag/WaitFlag<HardEvent::MTE2_V> or EnQue/DeQue (block 0 of sync.missing)"
    )


def test_a_truncated_parameter_is_told_with_its_call(emulator: ModuleType) -> None:
    memory = [np.zeros(BYTES, np.uint8) for _ in range(3)]
    for name, call, value in (("", "Exp", 257), (" stride", "DataCopy", 70000)):
        message = rf"^{call}: rule params.range: {value} does not fit the \d+ bits"
        with pytest.raises(emulator.EmulatorError, match=message):
            emulator.fail(f"params.range{name}", *memory)


def test_checks_can_be_switched_off(emulator: ModuleType) -> None:
    memory = [np.zeros(BYTES, np.uint8) for _ in range(3)]
    emulator.fail("sync.missing", *memory, checks=False)
    emulator.fail("gm.race", *memory, checks=False)
    with pytest.raises(emulator.EmulatorError):
        emulator.fail("gm.bounds", *memory, checks=False)
    counters = [run(emulator, "elementwise", X, checks=c)[2] for c in (False, True)]
    assert counters[0] == counters[1]


def test_allocations_do_not_overlap(emulator: ModuleType) -> None:
    x, z = np.zeros((2, BYTES), np.uint8)
    with pytest.raises(ValueError, match=r"allocations '\w' and '\w' of the launch overlap"):
        emulator.run("elementwise", x, x, z)


# --- correct kernels ------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [False, True])
def test_elementwise(emulator: ModuleType, strict: bool) -> None:
    if strict:  # Add follows Exp without a barrier
        with pytest.raises(emulator.EmulatorError, match="PipeBarrier<PIPE_V>"):
            run(emulator, "elementwise", X, strict=True)
        return
    y, _, counters = run(emulator, "elementwise", X)
    x = X[:1000]
    np.testing.assert_allclose(y.view(np.float32)[:1000], np.exp(x) + x, atol=1e-6)
    total = counters["total"]
    assert total["paths"] == {
        path: {
            "bytes": 4000,
            "transfers": 4,
            "pieces": 4,
            "smallest": 928,
            "sizes": {512: 1, 1024: 3},
        }
        for path in ("gm->ub", "ub->gm")
    }
    assert total["instructions"] == {
        (op, "float"): {"calls": 4, "repeats": 16, "elements": 1000} for op in ("Add", "Exp")
    }
    assert total["waits"] == {"MTE2_V": 4, "V_MTE3": 4, "V_MTE2": 2, "MTE3_V": 2}
    assert total["scalars"] == {"ub.get": 0, "ub.set": 0, "gm.get": 0, "gm.set": 0}
    assert total["peak_ub"] == 4 * 1024
    assert counters["cores"] == [total]


def test_bf16_double(emulator: ModuleType) -> None:
    bits = (X[:512].view(np.uint32) >> 16).astype(np.uint16)
    y, _, _ = run(emulator, "bf16_double", bits)
    twice = 2 * (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(y.view(np.uint16)[:512], twice.view(np.uint32) >> 16)


def test_softmax_rows(emulator: ModuleType) -> None:
    y, _, _ = run(emulator, "softmax_rows", X)
    x = X[:2560].reshape(40, 64)
    e = np.exp(x - x.max(1, keepdims=True))
    np.testing.assert_allclose(
        y.view(np.float32)[:2560].reshape(40, 64), e / e.sum(1, keepdims=True), rtol=1e-5
    )


def test_group_argmax(emulator: ModuleType) -> None:
    x = RNG.integers(0, 5, 2048).astype(np.float32)  # ties in almost every group
    y, _, _ = run(emulator, "group_argmax", x)
    np.testing.assert_array_equal(y.view(np.float32)[:256], x.reshape(256, 8).argmax(1))


def test_gather_rows(emulator: ModuleType) -> None:
    index = RNG.integers(0, 800, 33).astype(np.int32)
    y, _, counters = run(emulator, "gather_rows", X, index)
    rows = X[:16000].reshape(800, 20)[index]
    np.testing.assert_array_equal(y.view(np.float32)[:660].reshape(33, 20), rows)
    assert counters["total"]["scalars"]["gm.get"] == 33


def test_padded_rows(emulator: ModuleType) -> None:
    y, _, _ = run(emulator, "padded_rows", X)
    rows = np.full((6, 8), 7, np.float32)
    rows[:, 1:6] = X[:48].reshape(6, 8)[:, :5]
    np.testing.assert_array_equal(y.view(np.float32)[:48].reshape(6, 8), rows)
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(y[1024 + 27 * i :][:24], row[:6].view(np.uint8))


def test_partition(emulator: ModuleType) -> None:
    keys = RNG.integers(0, 8, 512).astype(np.float32)
    keys[keys == 3] = 4  # nothing for one key
    y, _, _ = run(emulator, "partition", keys)
    np.testing.assert_array_equal(y.view(np.int32)[:512], keys.argsort(kind="stable"))


def test_sort_scores(emulator: ModuleType) -> None:
    scores = RNG.integers(0, 40, 128).astype(np.float32)
    y, _, _ = run(emulator, "sort_scores", scores)
    pairs = y.view(np.float32)[:256].reshape(128, 2)
    order = (-scores).argsort(kind="stable")
    np.testing.assert_array_equal(pairs[:, 0], scores[order])
    np.testing.assert_array_equal(pairs[:, 1].copy().view(np.uint32), order)


@pytest.mark.parametrize("strict", [False, True])
def test_static_ping_pong(emulator: ModuleType, strict: bool) -> None:
    y, _, counters = run(emulator, "static_ping_pong", X, strict=strict)
    np.testing.assert_allclose(y.view(np.float32)[:4096], 3 * X[:4096], rtol=1e-6)
    assert counters["total"]["barriers"] == {"V": 8, "ALL": 1}
    assert counters["total"]["peak_ub"] == 4 * 2048


def test_manual_flags(emulator: ModuleType) -> None:
    y, _, _ = run(emulator, "manual_flags", X)
    np.testing.assert_array_equal(y.view(np.float32)[:64], X[:64] + X[0])


@pytest.mark.parametrize("strict", [False, True])
def test_scalar_orders(emulator: ModuleType, strict: bool) -> None:
    y, _, _ = run(emulator, "scalar_orders", X, strict=strict)
    np.testing.assert_array_equal(y.view(np.float32)[:64], X[:64] + 1)


def test_counter_mode(emulator: ModuleType) -> None:
    y, _, counters = run(emulator, "counter_mode", X)
    np.testing.assert_array_equal(y.view(np.float32)[:100], 2 * X[:100])
    assert counters["total"]["instructions"]["Muls", "float"]["elements"] == 100


def tree_sum(values: np.ndarray) -> Any:
    """Sum of a power of two elements, neighbours first, rounded at every node."""
    while values.size > 1:
        values = values[::2] + values[1::2]
    return values[0]


def sum_in_order(values: np.ndarray, lanes: int) -> Any:
    """Sum of a count: trees of whole repeats, one added after the other."""
    repeats = np.append(values, np.zeros(-values.size % lanes, values.dtype)).reshape(-1, lanes)
    total = tree_sum(repeats[0])
    for row in repeats[1:]:
        total += tree_sum(row)
    return total


@pytest.mark.parametrize("name", ["sync_all", "sync_all_soft"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sync_all(emulator: ModuleType, name: str, seed: int) -> None:
    y, _, counters = run(emulator, name, X, seed=seed)
    sums = [sum_in_order(part, 64) for part in X[: 6 * 512].reshape(6, 512)]
    for block in range(6):
        total = np.float32(block)
        for part in sums:
            total += part
        assert y.view(np.float32)[8 * block] == total
    assert [core["sync_all"] for core in counters["cores"]] == [1] * 6


def test_atomic_add(emulator: ModuleType) -> None:
    first = np.ones(512, np.float32)
    _, z, _ = run(emulator, "atomic_add", X, first)
    expected = first.copy()
    for part in X[: 6 * 512].reshape(6, 512):
        expected += part
    np.testing.assert_array_equal(z.view(np.float32)[:512], expected)


def test_scalar_exchange(emulator: ModuleType) -> None:
    y, _, _ = run(emulator, "scalar_exchange", X)
    np.testing.assert_array_equal(y.view(np.int32)[: 6 * 16 : 16], [21] * 6)


# --- the cube core --------------------------------------------------------------------------------


def joined(*arrays: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ascontiguousarray(a).view(np.uint8).reshape(-1) for a in arrays])


def operand(name: str, *shape: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random elements as the kernel reads them, and their values."""
    rng = np.random.default_rng(seed)
    if name == "int8":
        x = rng.integers(-128, 128, shape).astype(np.int8)
        return x, x.astype(np.float64)
    x = rng.standard_normal(shape).astype(np.float32)
    if name == "bf16":
        bits = (x.view(np.uint32) >> 16).astype(np.uint16)
        return bits, (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    x = x.astype(DTYPES[name])
    return x, x.astype(np.float64)


def assert_product(got: np.ndarray, a: np.ndarray, b: np.ndarray, ulp: float) -> None:
    """Sums in float32, in any order, then one rounding."""
    exact = a @ b
    error = np.abs(got - exact)
    assert (error <= ulp * np.abs(exact) + 2e-7 * (np.abs(a) @ np.abs(b))).all()


MATMULS = {
    "matmul half": ("half", "half", 40, 48, 70),
    "matmul half ta": ("half", "float", 40, 48, 70),
    "matmul half tb": ("half", "float", 40, 48, 70),
    "matmul half ta tb": ("half", "half", 40, 48, 70),
    "matmul bf16 tb": ("bf16", "bf16", 40, 48, 70),
    "matmul float": ("float", "float", 40, 48, 70),
    "matmul float ta tb": ("float", "float", 40, 48, 70),
    "matmul float ta": ("float", "float", 40, 48, 68),
    "matmul int8": ("int8", "int32", 40, 64, 70),
    "matmul int8 tb": ("int8", "int32", 40, 64, 70),
}


@pytest.mark.parametrize("name", MATMULS)
def test_matmul(emulator: ModuleType, name: str) -> None:
    dtype, result, m, n, k = MATMULS[name]
    a, a_values = operand(dtype, m, k)
    b, b_values = operand(dtype, k, n, seed=1)
    x = joined(a.T if " ta" in name else a, b if " tb" in name else b.T)
    y, _, counters = run(emulator, name, x, cube=True)
    if result == "int32":
        np.testing.assert_array_equal(y.view(np.int32)[: m * n].reshape(m, n), a_values @ b_values)
    elif result == "bf16":
        got = (y.view(np.uint16)[: m * n].astype(np.uint32) << 16).view(np.float32)
        assert_product(got.reshape(m, n), a_values, b_values, 2**-8)
    else:
        got = y.view(DTYPES[result])[: m * n].reshape(m, n)
        assert_product(got, a_values, b_values, 2**-11 if result == "half" else 0)
    k_fractals = -(-k // (32 // a.itemsize))
    fractals = -(-m // 16) * -(-n // 16) * k_fractals
    assert counters["total"]["products"] == {
        dtype: {
            "calls": 1,
            "fractals": fractals,
            "cycles": fractals * (2 if dtype == "float" else 1),
            "products": m * n * k,
        }
    }
    written = m * n * (2 if result in ("half", "bf16") else 4)
    assert counters["total"]["global"] == {
        "x": {"read": (m + n) * k * a.itemsize, "written": 0},
        "y": {"read": 0, "written": written},
    }
    assert counters["total"]["paths"]["l0c->gm"]["bytes"] == written
    pipes = counters["total"]["pipes"]
    assert pipes["MTE2"]["bytes"] == (m + n) * k * a.itemsize
    assert pipes["FIX"] == {"instructions": 1, "bytes": written, "cycles": 0}


def test_infinities_stay_in_their_rows(emulator: ModuleType) -> None:
    a, a_values = operand("half", 40, 70)
    b, b_values = operand("half", 70, 48, seed=1)
    a[3, 69], a[5, 0] = np.inf, np.nan
    y, _, _ = run(emulator, "matmul half tb", joined(a, b), cube=True)
    got = y.view(np.float32)[: 40 * 48].reshape(40, 48)
    np.testing.assert_array_equal(got[3], np.copysign(np.inf, b_values[69]))
    assert np.isnan(got[5]).all()
    rest = [row for row in range(40) if row not in (3, 5)]
    assert_product(got[rest], a_values[rest], b_values, 0)


def test_zero_tail(emulator: ModuleType) -> None:
    a, a_values = operand("half", 32, 70)
    b, b_values = operand("half", 48, 70, seed=1)
    y, _, _ = run(emulator, "zero_tail", joined(a, b, np.full(99, np.nan, np.float16)), cube=True)
    assert_product(y.view(np.float32)[: 32 * 48].reshape(32, 48), a_values, b_values.T, 0)


def test_no_terms(emulator: ModuleType) -> None:
    y, _, counters = run(emulator, "no_terms", X, cube=True)
    assert not y.any()
    assert counters["total"]["pipes"]["MTE1"] == {"instructions": 3, "bytes": 3072, "cycles": 0}


def test_short_ways(emulator: ModuleType) -> None:
    a, a_values = operand("float", 16, 32)
    b, b_values = operand("float", 16, 32, seed=1)
    fractals = [m.reshape(16, 4, 8).transpose(1, 0, 2) for m in (a, b)]
    x = joined(fractals[0], fractals[1][::-1])
    y, z, counters = run(emulator, "short_ways", x, X[:1024], cube=True)
    assert_product(y.view(np.float32)[:256].reshape(16, 16), a_values, b_values.T, 0)
    np.testing.assert_array_equal(z.view(np.float32)[:1024], X[:1024] + x.view(np.float32))
    assert counters["total"]["paths"]["gm->l0b"]["bytes"] == 2048
    assert counters["total"]["global"]["x"]["read"] == 4096 + 4096


def test_biased(emulator: ModuleType) -> None:
    a, a_values = operand("half", 40, 64)
    b, b_values = operand("half", 48, 64, seed=1)
    y, _, _ = run(emulator, "biased", joined(a, b), X[:48], cube=True)
    got = y.view(np.float32)[: 40 * 48].reshape(40, 48)
    np.testing.assert_allclose(got, a_values @ b_values.T + X[:48], atol=1e-4)


def test_gemv(emulator: ModuleType) -> None:
    a, a_values = operand("half", 300)
    b, b_values = operand("half", 48, 300, seed=1)
    x = joined(a, np.zeros(212, np.float16), b)
    y, _, _ = run(emulator, "gemv", x, cube=True)
    assert_product(y.view(np.float32)[:48], a_values[None], b_values.T, 0)


@pytest.fixture
def halves() -> tuple[np.ndarray, np.ndarray]:
    """Operands of a product of halves, 40 x 48 x 64, and the product."""
    a, a_values = operand("half", 40, 64)
    b, b_values = operand("half", 48, 64, seed=1)
    return joined(a, b), a_values @ b_values.T


@pytest.fixture
def integers() -> tuple[np.ndarray, np.ndarray]:
    a, a_values = operand("int8", 40, 64)
    b, b_values = operand("int8", 48, 64, seed=1)
    return joined(a, b), (a_values @ b_values.T).astype(np.float32)


def test_fixpipe_nz(emulator: ModuleType, halves: tuple[np.ndarray, np.ndarray]) -> None:
    x, product = halves
    y, _, _ = run(emulator, "fixpipe_nz", x, cube=True)
    columns = y.view(np.float16)[: 3 * 42 * 16].reshape(3, 42, 16)
    got = columns[:, :40].transpose(1, 0, 2).reshape(40, 48)
    np.testing.assert_allclose(got, np.maximum(product, 0), rtol=1e-3, atol=1e-5)
    assert not columns[:, 40:].any()


def test_fixpipe_split(emulator: ModuleType, halves: tuple[np.ndarray, np.ndarray]) -> None:
    x, product = halves
    y, _, _ = run(emulator, "fixpipe_split", x, cube=True)
    got = y.view(np.float32)[: 5 * 40 * 8].reshape(5, 40, 8).transpose(1, 0, 2).reshape(40, 40)
    np.testing.assert_allclose(got, product[:, :40], atol=1e-4)
    assert not y[5 * 40 * 32 :].any()


def scale_bits(factor: np.ndarray, offset: int = 0, signed: bool = True) -> np.ndarray:
    bits = np.asarray(factor, np.float32).view(np.uint32).astype(np.uint64)
    return bits | np.uint64((offset & 511) << 37 | signed << 46)


def kept(factor: np.ndarray) -> np.ndarray:
    """What the hardware keeps of a scale: 10 bits of the significand."""
    return (np.asarray(factor, np.float32).view(np.uint32) & 0xFFFFE000).view(np.float32)


@pytest.mark.parametrize("offset", [0, -7])
def test_fixpipe_int8(
    emulator: ModuleType, integers: tuple[np.ndarray, np.ndarray], offset: int
) -> None:
    x, product = integers
    factor = np.float32(0.0013)
    assert kept(factor) != factor
    z = scale_bits(factor, offset).reshape(1)
    y, _, _ = run(emulator, "fixpipe_int8", x, z, cube=True)
    wanted = np.clip(np.rint(product * kept(factor)) + offset, -128, 127)
    assert np.unique(wanted).size > 100
    got = y.view(np.int8)
    np.testing.assert_array_equal(got[:1280].reshape(40, 32), wanted[:, :32])
    np.testing.assert_array_equal(got[1280:1920].reshape(40, 16), wanted[:, 32:])


def test_fixpipe_scales(emulator: ModuleType, integers: tuple[np.ndarray, np.ndarray]) -> None:
    x, product = integers
    factors = np.abs(X[:48]) / 100
    y, _, _ = run(emulator, "fixpipe_scales", x, scale_bits(factors), cube=True)
    got = y.view(np.float16)[: 40 * 48].reshape(40, 48)
    np.testing.assert_array_equal(got, (product * kept(factors)).astype(np.float16))


def test_fixpipe_matrices(emulator: ModuleType) -> None:
    a, a_values = operand("half", 32, 64)
    b, b_values = operand("half", 64, 64, seed=1)
    y, _, _ = run(emulator, "fixpipe_matrices", joined(a, b), cube=True)
    got = y.view(np.float32)[: 2 * 32 * 40].reshape(2, 32, 40)
    wanted = (a_values @ b_values.T).reshape(32, 2, 32).transpose(1, 0, 2)
    np.testing.assert_allclose(got[:, :, :32], wanted, atol=1e-4)
    assert not got[:, :, 32:].any()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["blocked", "split_k"])
def test_many_products(emulator: ModuleType, name: str, seed: int) -> None:
    a, a_values = operand("half", 64, 128)
    b, b_values = operand("half", 96, 128, seed=1)
    y, z, counters = run(emulator, name, joined(a, b), cube=True, seed=seed)
    got = (y if name == "blocked" else z).view(np.float32)[: 64 * 96].reshape(64, 96)
    assert_product(got, a_values, b_values.T, 0)
    total = counters["total"]
    assert [core["products"]["half"]["fractals"] for core in counters["cores"]] == [4 * 6 * 4] * 2
    assert total["waits"]["MTE1_M"] == 4 * 4
    assert total["barriers"] == {"M": 16, "ALL": 2}
    # each row of A for two columns of tiles, each of B for two rows of them
    assert total["global"]["x"]["read"] == 2 * 128 * 2 * (64 + 96)
    assert total["peaks"] == {
        "L1": 2 * 262144,
        "L0A": 65536,
        "L0B": 65536,
        "L0C": 32 * 48 * 4,
    }


def test_nz_weights(emulator: ModuleType) -> None:
    a, a_values = operand("half", 32, 64)
    b, b_values = operand("half", 96, 64, seed=1)
    columns = b.reshape(96, 4, 16).transpose(1, 0, 2)
    y, _, counters = run(emulator, "nz_weights", joined(a, columns), cube=True)
    got = y.view(np.float32)[: 32 * 48].reshape(32, 48)
    assert_product(got, a_values[:, :32], b_values[48:, :32].T, 0)
    assert counters["total"]["paths"]["gm->l1"]["sizes"] == {128: 32, 1024: 2}


@pytest.mark.parametrize("seed", range(6))
def test_ring(emulator: ModuleType, seed: int) -> None:
    a, a_values = operand("half", 256, 64)
    b, b_values = operand("half", 64, 64, seed=1)
    y, _, counters = run(emulator, "ring", joined(a, b), cube=True, seed=seed)
    got = y.view(np.float16)[: 256 * 64].reshape(256, 64)
    assert_product(got / 2.0, a_values, b_values.T, 2**-11)
    assert [core["kind"] for core in counters["cores"]] == ["AIC", "AIV", "AIV"] * 2
    assert [core["cross"] for core in counters["cores"]] == [{"set": 4, "wait": 4}] * 6
    assert counters["AIC"]["global"]["z"] == {"read": 0, "written": 2 * 4 * 8192}
    assert counters["AIV"]["global"]["z"] == {"read": 2 * 4 * 8192, "written": 0}
    assert counters["AIV"]["products"] == {}


@pytest.mark.parametrize("seed", range(4))
def test_exchange(emulator: ModuleType, seed: int) -> None:
    y, _, _ = run(emulator, "exchange", X, cube=True, seed=seed)
    wanted = [(core ^ 1) + 1 + (core + 2) % 6 + 1 for core in range(6)]
    np.testing.assert_array_equal(y.view(np.float32)[:48:8], wanted)


@pytest.mark.parametrize("seed", range(4))
def test_relay(emulator: ModuleType, seed: int) -> None:
    y, _, _ = run(emulator, "relay", X, cube=True, seed=seed)
    np.testing.assert_array_equal(y.view(np.float32)[:32:8], [0, 0, 5, 6])


@pytest.mark.parametrize("seed", range(4))
def test_sync_all_mix(emulator: ModuleType, seed: int) -> None:
    a, a_values = operand("half", 64, 64)
    b, b_values = operand("half", 64, 64, seed=1)
    y, _, counters = run(emulator, "sync_all_mix", joined(a, b), cube=True, seed=seed)
    assert_product(y.view(np.float32)[:4096].reshape(64, 64), a_values, b_values.T, 0)
    assert [core["sync_all"] for core in counters["cores"]] == [1] * 6


def test_a_race_between_cores_is_told_with_both(emulator: ModuleType) -> None:
    memory = [np.ones(BYTES // 4, np.float32).view(np.uint8), *np.zeros((2, BYTES), np.uint8)]
    with pytest.raises(emulator.EmulatorError) as caught:
        emulator.fail("gm.race ring back early", *memory)
    assert str(caught.value) == (
        "Fixpipe: rule gm.race: writes byte 0 of 'z', which AIV 0 read by DataCopy with no SyncAll "
        "or flag between (AIC 0 of gm.race ring back early)"
    )
    with pytest.raises(emulator.EmulatorError, match="AIC 0 for cross-core flag 0, AIV 0 for"):
        emulator.fail("deadlock circle", *memory)


# --- counting mode --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["blocked", "nz_weights", "biased", "fixpipe_nz", "gemv"])
def test_counting_counts_the_same_products(emulator: ModuleType, name: str) -> None:
    y, _, counted = run(emulator, name, X, cube=True, counting=True, bulk=True)
    assert not y.any()
    x = RNG.standard_normal(BYTES // 2).astype(np.float16)
    assert counted == run(emulator, name, x, cube=True)[2]


@pytest.mark.parametrize(
    "name", ["elementwise", "bf16_double", "softmax_rows", "group_argmax", "counter_mode"]
)
def test_counting_counts_the_same_vectors(emulator: ModuleType, name: str) -> None:
    y, _, counted = run(emulator, name, X, counting=True, bulk=True)
    assert not y.any()
    assert counted == run(emulator, name, X)[2]


def test_counting_keeps_small_allocations_real(emulator: ModuleType) -> None:
    """The rows are bulk; which ones, the scalar unit reads from z."""
    index = RNG.integers(0, 800, 33).astype(np.int32)
    y, _, counted = run(emulator, "gather_rows", X, index, counting=True, bulk=True)
    assert not y.any()
    assert counted == run(emulator, "gather_rows", X, index)[2]
    keys = RNG.integers(0, 8, 512).astype(np.float32)
    y, _, _ = run(emulator, "partition", keys, counting=True)  # nothing bulk: all of it is done
    np.testing.assert_array_equal(y.view(np.int32)[:512], keys.argsort(kind="stable"))


def test_bulk_needs_counting(emulator: ModuleType) -> None:
    with pytest.raises(ValueError, match="allocation 'x' is bulk, which needs counting mode"):
        run(emulator, "elementwise", X, bulk=True)


# --- the model of time: what tests/test_ascend_model.py does not reach ----------------------------


def times_of(emulator: ModuleType, name: str) -> tuple[dict[str, list[tuple[float, float]]], float]:
    """Start and end of each instruction by pipe, and the latency of a transfer."""
    memory = [np.zeros(BYTES, np.uint8) for _ in range(3)]
    pipes: dict[str, list[tuple[float, float]]] = {}
    for _, pipe, _, start, end in emulator.schedule(name, *memory)["times"]["picture"]:
        pipes.setdefault(pipe, []).append((start, end))
    return pipes, emulator.time_parameters()["Latency"][0]


def test_barriers_take_time(emulator: ModuleType) -> None:
    pipes, latency = times_of(emulator, "barriers")
    (begin, first), (second, last) = pipes["MTE2"]
    assert second == pytest.approx(first + latency)
    assert last - second == pytest.approx(first - begin)  # four rows that touch are one
    ((vector, _),) = pipes["V"]
    assert vector >= last + latency


def test_a_copy_to_the_bias_table_takes_time(emulator: ModuleType) -> None:
    pipes, latency = times_of(emulator, "bias")
    ((_, arrived),) = pipes["MTE2"]
    ((start, end),) = pipes["MTE1"]
    assert start == pytest.approx(arrived + latency)
    # 256 bytes at the documented 32 a cycle
    assert end - start == pytest.approx(emulator.time_parameters()["LoadHead"][0] + 256 / 32)


# --- arithmetic -----------------------------------------------------------------------------------

DTYPES = {
    "half": np.float16,
    "float": np.float32,
    "int16": np.int16,
    "int32": np.int32,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "int8": np.int8,
    "uint8": np.uint8,
    "int64": np.int64,
}
SRC0, SRC1, DST, TMP = 0, 16384, 32768, 49152
FORMS = ["count", "mask", "bits", "register", "counter"]


def values(dtype: type, count: int = 8192 // 4, seed: int = 0) -> np.ndarray:
    """Numbers of every size that the type holds, small ones for integers."""
    rng = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.integer):
        low = 0 if np.issubdtype(dtype, np.unsignedinteger) else -100
        return rng.integers(low, 100, count).astype(dtype)
    sizes = 2.0 ** rng.integers(-26 if dtype == np.float16 else -30, 12, count)
    with np.errstate(over="ignore"):
        x = (rng.standard_normal(count) * sizes).astype(dtype)
    x[::97] = np.inf
    x[::101] = -0.0
    x[50::103] = x[49:-1:103][: x[50::103].size]
    return x


def image(**regions: np.ndarray) -> np.ndarray:
    """An image of UB; what the test does not name holds noise."""
    memory = np.random.default_rng(9).integers(0, 60, BYTES).astype(np.uint8)
    for name, data in regions.items():
        begin = globals()[name.upper()]
        memory[begin : begin + data.nbytes] = data.view(np.uint8).reshape(-1)
    return memory


def execute(
    module: ModuleType, op: str, dtype: str, memory: np.ndarray, **fields: Any
) -> np.ndarray:
    """The image after one instruction; only [out_begin, out_end) of it is compared by callers."""
    fields = {"dst": DST, "src0": SRC0, "src1": SRC1, "tmp": TMP} | fields
    fields = {"out_begin": 0, "out_end": BYTES} | fields
    result = memory.copy()
    taken, _ = module.instruction({"op": op, "dtype": dtype, **fields}, memory, result)
    execute.taken = taken
    return result


def at(strides: tuple[int, int], size: int, repeat: int, lane: int) -> int:
    """Byte offset of a lane, (block stride, repeat stride) in blocks of 32 bytes."""
    per_block = 32 // size
    return repeat * strides[1] * 32 + lane // per_block * strides[0] * 32 + lane % per_block * size


def form_fields(form: str, lanes: int) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    """A call's mask in one of the forms, and the (repeat, lane) pairs that it lets through."""
    bits = 0x0F0F_1234_5678_9ABD_FFFF_0000_8000_0001 & ((1 << lanes) - 1)
    words = {"low": bits & (2**64 - 1), "high": bits >> 64}
    chosen = [i for i in range(lanes) if bits >> i & 1]
    if form == "count":
        count = 3 * lanes - 5
        return {"form": "count", "low": count}, [divmod(i, lanes) for i in range(count)]
    if form == "counter":
        count = 2 * lanes + 7
        fields = {"form": "mask", "low": count, "repeat": 1, "counter": True}
        return fields, [divmod(i, lanes) for i in range(count)]
    if form == "mask":
        fields = {"form": "mask", "low": lanes - 3, "repeat": 3}
        return fields, list(itertools.product(range(3), range(lanes - 3)))
    return {"form": form, "repeat": 3, **words}, list(itertools.product(range(3), chosen))


def expected(
    memory: np.ndarray,
    pairs: list[tuple[int, int]],
    dst: tuple[type, tuple[int, int]],
    sources: list[tuple[int, type, tuple[int, int]]],
    function: Any,
) -> np.ndarray:
    """What is left of the image when `function` of the sources' lanes goes to the destination."""
    sizes = [np.dtype(t).itemsize for _, t, _ in sources]
    dst_size = np.dtype(dst[0]).itemsize
    columns = []
    for (begin, dtype, strides), size in zip(sources, sizes, strict=True):
        offsets = [begin + at(strides, size, r, i) for r, i in pairs]
        columns.append(np.array([memory[o : o + size].view(dtype)[0] for o in offsets], dtype))
    with np.errstate(all="ignore"):
        results = np.asarray(function(*columns)).astype(dst[0])
    left = memory.copy()
    for (r, i), result in zip(pairs, results, strict=True):
        begin = DST + at(dst[1], dst_size, r, i)
        left[begin : begin + dst_size] = np.array([result], dst[0]).view(np.uint8)
    return left


def assert_same(got: np.ndarray, wanted: np.ndarray, dtype: type, ulps: int = 0) -> None:
    """Equal outside the destination, and inside it to `ulps` units; all NaNs count as equal."""
    np.testing.assert_array_equal(got[:DST], wanted[:DST])
    np.testing.assert_array_equal(got[TMP:], wanted[TMP:])
    got, wanted = (memory[DST:TMP].view(dtype) for memory in (got, wanted))
    if np.issubdtype(dtype, np.floating):
        bits = {2: np.int16, 4: np.int32}[np.dtype(dtype).itemsize]
        nan = np.isnan(got) & np.isnan(wanted)
        far = np.abs(got.view(bits).astype(np.int64) - wanted.view(bits)) > ulps
        got, wanted = got[far & ~nan], wanted[far & ~nan]
    np.testing.assert_array_equal(got, wanted)


BINARY = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Max": np.maximum,
    "Min": np.minimum,
    "Div": np.divide,
    "And": np.bitwise_and,
    "Or": np.bitwise_or,
}
ARITHMETIC = ("int16", "half", "int32", "float")
BINARY_CASES = [
    *((op, dtype) for op in ("Add", "Sub", "Mul", "Max", "Min") for dtype in ARITHMETIC),
    *(("Div", dtype) for dtype in ("half", "float")),
    *((op, dtype) for op in ("And", "Or") for dtype in ("int16", "uint16")),
]
# dst, src0, src1 block strides, then repeat strides: gaps, a block read again and again
BINARY_STRIDES = (2, 1, 0, 17, 9, 4)
UNARY_STRIDES = (2, 1, 17, 9)


def wide(dtype: type) -> type:
    return np.float32 if np.issubdtype(dtype, np.floating) else np.int64


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("op", "name"), BINARY_CASES)
def test_binary(emulator: ModuleType, op: str, name: str, form: str) -> None:
    dtype = DTYPES[name]
    memory = image(src0=values(dtype), src1=values(dtype, seed=1))
    lanes = 256 // np.dtype(dtype).itemsize
    fields, pairs = form_fields(form, lanes)
    s = (1, 1, 1, 8, 8, 8) if form == "count" else BINARY_STRIDES
    got = execute(emulator, op, name, memory, strides=list(s), **fields)
    sources = [(SRC0, dtype, (s[1], s[4])), (SRC1, dtype, (s[2], s[5]))]
    wanted = expected(
        memory,
        pairs,
        (dtype, (s[0], s[3])),
        sources,
        lambda a, b: BINARY[op](a.astype(wide(dtype)), b.astype(wide(dtype))),
    )
    assert_same(got, wanted, dtype)


UNARY = {
    "Exp": np.exp,
    "Ln": np.log,
    "Sqrt": np.sqrt,
    "Rsqrt": lambda x: np.float32(1) / np.sqrt(x),
    "Reciprocal": lambda x: np.float32(1) / x,
    "Abs": np.abs,
    "Relu": lambda x: np.maximum(x, 0),
    "Not": np.bitwise_not,
}
UNARY_CASES = [
    *((op, dtype) for op in UNARY if op != "Not" for dtype in ("half", "float")),
    ("Relu", "int32"),
    ("Not", "int16"),
    ("Not", "uint16"),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("op", "name"), UNARY_CASES)
def test_unary(emulator: ModuleType, op: str, name: str, form: str) -> None:
    dtype = DTYPES[name]
    memory = image(src0=values(dtype))
    fields, pairs = form_fields(form, 256 // np.dtype(dtype).itemsize)
    s = (1, 1, 8, 8) if form == "count" else UNARY_STRIDES
    got = execute(emulator, op, name, memory, strides=list(s), **fields)
    wanted = expected(
        memory,
        pairs,
        (dtype, (s[0], s[2])),
        [(SRC0, dtype, (s[1], s[3]))],
        lambda a: UNARY[op](a if op == "Not" else a.astype(wide(dtype))),
    )
    # libm's last bit is its own
    assert_same(got, wanted, dtype, ulps={"Exp": 2, "Ln": 2}.get(op, 0))


SCALAR = {
    "Adds": np.add,
    "Muls": np.multiply,
    "Maxs": np.maximum,
    "Mins": np.minimum,
    "ShiftLeft": np.left_shift,
    "ShiftRight": np.right_shift,
}
SCALAR_CASES = [
    *((op, dtype) for op in ("Adds", "Muls", "Maxs", "Mins") for dtype in ARITHMETIC),
    *(
        (op, dtype)
        for op in ("ShiftLeft", "ShiftRight")
        for dtype in ("int16", "uint16", "int32", "uint32")
    ),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("op", "name"), SCALAR_CASES)
def test_scalar(emulator: ModuleType, op: str, name: str, form: str) -> None:
    dtype = DTYPES[name]
    memory = image(src0=values(dtype))
    fields, pairs = form_fields(form, 256 // np.dtype(dtype).itemsize)
    s = (1, 1, 8, 8) if form == "count" else UNARY_STRIDES
    scalar = 3 if np.issubdtype(dtype, np.integer) else 1.7
    got = execute(emulator, op, name, memory, strides=list(s), scalar=scalar, **fields)
    narrow = wide(dtype)(dtype(scalar))
    wanted = expected(
        memory,
        pairs,
        (dtype, (s[0], s[2])),
        [(SRC0, dtype, (s[1], s[3]))],
        lambda a: SCALAR[op](a.astype(wide(dtype)), narrow),
    )
    assert_same(got, wanted, dtype)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("op", ["MulAddDst", "Axpy"])
@pytest.mark.parametrize(
    ("name", "source"), [("half", "half"), ("float", "float"), ("float", "half")]
)
def test_accumulate(emulator: ModuleType, op: str, name: str, source: str, form: str) -> None:
    dtype, src = DTYPES[name], DTYPES[source]
    finite = [
        np.nan_to_num(values(t, seed=i), posinf=2, neginf=2) for i, t in enumerate((src, src))
    ]
    start = np.nan_to_num(values(dtype, seed=2), posinf=2, neginf=2)
    memory = image(src0=finite[0], src1=finite[1], dst=start)
    fields, pairs = form_fields(form, 256 // np.dtype(dtype).itemsize)
    ratio = np.dtype(dtype).itemsize // np.dtype(src).itemsize
    if op == "MulAddDst":
        s = (1, 1, 1, 8, 8 // ratio, 8 // ratio) if form == "count" else BINARY_STRIDES
        d, a, b = (s[0], s[3]), (s[1], s[4]), (s[2], s[5])
    else:
        s = (1, 1, 8, 8 // ratio) if form == "count" else UNARY_STRIDES
        d, a, b = (s[0], s[2]), (s[1], s[3]), (s[1], s[3])
    got = execute(
        emulator, op, name, memory, src_dtype=source, strides=list(s), scalar=1.7, **fields
    )

    def accumulate(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        factor = y if op == "MulAddDst" else src(1.7)
        exact = z.astype(np.float64) + x.astype(np.float64) * np.asarray(factor, np.float64)
        return exact.astype(np.float32)

    wanted = expected(
        memory, pairs, (dtype, d), [(SRC0, src, a), (SRC1, src, b), (DST, dtype, d)], accumulate
    )
    assert_same(got, wanted, dtype)


MODES = ["NONE", "RINT", "FLOOR", "CEIL", "ROUND", "TRUNC", "ODD"]
# (destination, source): modes
CASTS = {
    ("float", "half"): "NONE",
    ("int32", "half"): "RINT FLOOR CEIL ROUND TRUNC",
    ("int16", "half"): "RINT FLOOR CEIL ROUND TRUNC",
    ("int8", "half"): "NONE RINT FLOOR CEIL ROUND TRUNC",
    ("uint8", "half"): "NONE RINT FLOOR CEIL ROUND TRUNC",
    ("half", "float"): "NONE RINT FLOOR CEIL ROUND TRUNC ODD",
    ("bf16", "float"): "RINT FLOOR CEIL ROUND TRUNC",
    ("int32", "float"): "RINT FLOOR CEIL ROUND TRUNC",
    ("int16", "float"): "RINT FLOOR CEIL ROUND TRUNC",
    ("int64", "float"): "RINT FLOOR CEIL ROUND TRUNC",
    ("float", "float"): "RINT FLOOR CEIL ROUND TRUNC",
    ("float", "bf16"): "NONE",
    ("int32", "bf16"): "RINT FLOOR CEIL ROUND TRUNC",
    ("half", "int8"): "NONE",
    ("half", "uint8"): "NONE",
    ("half", "int16"): "NONE RINT FLOOR CEIL ROUND TRUNC",
    ("float", "int16"): "NONE",
    ("float", "int32"): "NONE RINT FLOOR CEIL ROUND TRUNC",
    ("int16", "int32"): "NONE",
    ("int64", "int32"): "NONE",
    ("half", "int32"): "NONE",
    ("int32", "int64"): "NONE",
    ("float", "int64"): "RINT FLOOR CEIL ROUND TRUNC",
}
CAST_CASES = [(*pair, mode) for pair, modes in CASTS.items() for mode in modes.split()]


def to_integral(x: np.ndarray, mode: str) -> np.ndarray:
    away = np.trunc(x) + np.where(np.abs(x - np.trunc(x)) >= 0.5, np.sign(x), 0)
    choices = {"FLOOR": np.floor, "CEIL": np.ceil, "TRUNC": np.trunc}
    return away if mode == "ROUND" else choices.get(mode, np.rint)(x)


def grid(name: str) -> np.ndarray:
    """Every number of a 16-bit type from 0 up, and the power of two in infinity's place."""
    if name == "half":
        numbers = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
        return np.append(numbers, 2.0**16)
    bits = np.arange(0x7F80, dtype=np.uint32) << 16
    return np.append(bits.view(np.float32).astype(np.float64), 2.0**128)


def to_short_bits(x: np.ndarray, name: str, mode: str) -> np.ndarray:
    """Bits of half or bf16, chosen from the list of its numbers."""
    numbers = grid(name)
    magnitude = np.abs(x.astype(np.float64))
    last = len(numbers) - 1  # infinity, which no finite number equals
    above = np.minimum(np.searchsorted(numbers, magnitude), last)
    exact = (numbers[above] == magnitude) & (above != last)
    below = np.where(exact, above, np.maximum(above - 1, 0))
    low, high, negative = magnitude - numbers[below], numbers[above] - magnitude, np.signbit(x)
    tie = (below % 2 == 1) | (mode == "ROUND")
    upwards = {
        "FLOOR": negative,
        "CEIL": ~negative,
        "TRUNC": np.zeros_like(negative),
        "ODD": below % 2 == 0,
    }.get(mode, (high < low) | ((high == low) & tie))
    bits = np.where((above != below) & upwards, above, below)
    bits = np.where(np.isinf(x), last, bits)
    return (bits | np.where(negative, 0x8000, 0)).astype(np.uint16)


def to_float(x: np.ndarray, mode: str) -> np.ndarray:
    """Integers to float in a rounding mode, by the neighbours of the nearest."""
    results = []
    for value in map(int, x):
        nearest = np.float32(value)
        around = [np.nextafter(nearest, np.float32(s)) for s in (-np.inf, np.inf)]
        below = max(v for v in (*around, nearest) if float(v) <= value)
        above = min(v for v in (*around, nearest) if float(v) >= value)
        if mode == "ROUND" and Fraction(float(below)) + Fraction(float(above)) == 2 * value:
            results.append(above if value > 0 else below)
        else:
            toward = below if value > 0 else above
            choices = {"FLOOR": below, "CEIL": above, "TRUNC": toward}
            results.append(choices.get(mode, nearest))
    return np.array(results, np.float32)


def cast_values(name: str) -> np.ndarray:
    if name == "bf16":
        return (values(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    dtype = DTYPES[name]
    rng = np.random.default_rng(3)
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        x = rng.integers(limits.min, limits.max, 1024, dtype, endpoint=True)
        x[: min(x.size, 256)] >>= 4
        x[:2] = limits.min, limits.max
        if name == "int64":  # ties and neighbours of ties between two floats
            x[2:10] = (1 << 24) + np.arange(8) - 3
            x[10:18] = -((1 << 25) + np.arange(8) - 3)
        return x
    x = values(dtype, 1024)
    # ties between integers, between two halves and between two bf16; the overflow of half
    x[:8] = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.0, -3.5]
    if dtype == np.float32:
        x[8:16] = [1 + 2**-11, 1 + 3 * 2**-11, 65519.0, 65520.0, -65536.0, 1e6, 2**-25, 3 * 2**-25]
        x[16:20] = [1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3.4e38]
    x[20] = np.nan
    return x


@pytest.mark.parametrize(("name", "source", "mode"), CAST_CASES)
def test_cast(emulator: ModuleType, name: str, source: str, mode: str) -> None:
    src = DTYPES.get(source, np.uint16)
    dst = DTYPES.get(name, np.uint16)
    x = cast_values(source)
    fields = {"src_dtype": source, "mode": MODES.index(mode), "scalar": 0.25}
    got = execute(emulator, "Cast", name, image(src0=x), form="count", low=1000, **fields)
    result = got[DST:].view(dst)[:1000]
    number = x[:1000]
    if source == "bf16":
        number = (number.astype(np.uint32) << 16).view(np.float32)
    real = number.astype(np.float64)
    nan = np.isnan(real)
    with np.errstate(all="ignore"):
        if (name, source) == ("half", "int32"):
            scaled = real.astype(np.float32) * np.float32(0.25)
            wanted, result = scaled.astype(np.float16).view(np.uint16), result.view(np.uint16)
        elif name == "float" and np.issubdtype(src, np.integer) and source != "bf16":
            wanted = to_float(number, mode)
        elif name == "float" and source == "float":
            wanted = to_integral(real, mode).astype(np.float32)
        elif name == "float":
            wanted = number.astype(np.float32)
        elif name in ("half", "bf16"):
            wanted = to_short_bits(number.astype(np.float32), name, mode)
            result = result.view(np.uint16)
        else:
            limits = np.iinfo(dst)
            whole = [0 if np.isnan(v) else v for v in to_integral(real, mode)]
            if source.startswith("int"):
                whole = number.tolist()
            wanted = np.array(
                [
                    limits.max if v > limits.max else limits.min if v < limits.min else int(v)
                    for v in whole
                ],
                dst,
            )
    if name in ("half", "bf16"):
        infinity = 0x7C00 if name == "half" else 0x7F80
        assert ((result[nan] & 0x7FFF) > infinity).all()
        result, wanted = result[~nan], wanted[~nan]
    np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize("form", ["mask", "bits", "register", "counter"])
@pytest.mark.parametrize(("name", "source"), [("float", "half"), ("half", "float")])
def test_cast_strides(emulator: ModuleType, name: str, source: str, form: str) -> None:
    src, dst = DTYPES[source], DTYPES[name]
    memory = image(src0=values(src))
    fields, pairs = form_fields(form, 64)
    got = execute(
        emulator,
        "Cast",
        name,
        memory,
        src_dtype=source,
        mode=0,
        strides=list(UNARY_STRIDES),
        **fields,
    )
    s = UNARY_STRIDES
    wanted = expected(memory, pairs, (dst, (s[0], s[2])), [(SRC0, src, (s[1], s[3]))], lambda a: a)
    assert_same(got, wanted, dst)


COMPARE = [np.less, np.greater, np.equal, np.less_equal, np.greater_equal, np.not_equal]
COMPARE_CASES = [
    *((name, mode) for name in ("half", "float") for mode in range(6)),
    ("int32", 2),
]


@pytest.mark.parametrize("op", ["Compare", "Compares", "CompareRegister"])
@pytest.mark.parametrize(("name", "mode"), COMPARE_CASES)
def test_compare(emulator: ModuleType, op: str, name: str, mode: int) -> None:
    if op == "CompareRegister" and name == "int32":
        name = "float"
    dtype = DTYPES[name]
    a = np.random.default_rng(5).integers(-2, 3, 1024).astype(dtype)
    b = np.random.default_rng(6).integers(-2, 3, 1024).astype(dtype)
    if name != "int32":
        a[5] = np.nan
    memory = image(src0=a, src1=b)
    lanes = 256 // np.dtype(dtype).itemsize
    other = b if op != "Compares" else np.ones_like(b)
    bits = np.packbits(COMPARE[mode](a, other), bitorder="little")
    form = "mask" if op == "CompareRegister" else "count"
    count = lanes if op == "CompareRegister" else 4 * lanes
    got = execute(emulator, op, name, memory, form=form, low=count, repeat=1, mode=mode, scalar=1.0)
    np.testing.assert_array_equal(got[DST : DST + count // 8], bits[: count // 8])
    if op == "CompareRegister":
        return
    # three repeats two blocks apart: their bits lie close together
    strides = [1, 1, 1, 8, 10, 10] if op == "Compare" else [1, 1, 8, 10]
    got = execute(
        emulator,
        op,
        name,
        memory,
        form="mask",
        low=lanes,
        repeat=3,
        mode=mode,
        scalar=1.0,
        strides=strides,
    )
    step = 10 * 32 // np.dtype(dtype).itemsize
    parts = [COMPARE[mode](a[i * step :][:lanes], other[i * step :][:lanes]) for i in range(3)]
    wanted = np.packbits(np.concatenate(parts), bitorder="little")
    np.testing.assert_array_equal(got[DST : DST + wanted.size], wanted)


@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("name", ["half", "float"])
def test_select(emulator: ModuleType, name: str, mode: int) -> None:
    dtype = DTYPES[name]
    a, b = values(dtype), values(dtype, seed=1)
    bits = np.random.default_rng(7).integers(0, 256, 256).astype(np.uint8)
    memory = image(src0=a, src1=b, tmp=bits)
    lanes = 256 // np.dtype(dtype).itemsize
    chosen = np.unpackbits(bits, bitorder="little").astype(bool)
    other = np.full_like(b, 2) if mode == 1 else b
    if mode:
        count = 2 * lanes + 11
        got = execute(
            emulator, "Select", name, memory, form="count", low=count, mode=mode, scalar=2.0
        )
        wanted = np.where(chosen[:count], a[:count], other[:count])
        np.testing.assert_array_equal(got[DST:].view(dtype)[:count], wanted)
    strides = [1, 1, 1, 8, 8, 8]
    got = execute(
        emulator,
        "Select",
        name,
        memory,
        form="mask",
        low=lanes,
        repeat=3,
        mode=mode,
        scalar=2.0,
        strides=strides,
    )
    used = np.tile(chosen[:lanes], 3) if mode == 0 else chosen[: 3 * lanes]
    wanted = np.where(used, a[: 3 * lanes], other[: 3 * lanes])
    np.testing.assert_array_equal(got[DST:].view(dtype)[: 3 * lanes], wanted)


def reduction_input(dtype: type) -> np.ndarray:
    """Small numbers with many ties for the extremes, and fractions for the sums."""
    rng = np.random.default_rng(8)
    x = rng.integers(-20, 20, 8192 // np.dtype(dtype).itemsize) + rng.integers(0, 4, 1)[0] / 8
    return x.astype(dtype)


def masked(x: np.ndarray, chosen: list[int], fill: float) -> np.ndarray:
    kept = np.full_like(x, fill)
    kept[chosen] = x[chosen]
    return kept


@pytest.mark.parametrize("form", ["mask", "bits", "register"])
@pytest.mark.parametrize("kind", ["Sum", "Max", "Min"])
@pytest.mark.parametrize("name", ["half", "float"])
def test_whole_reduce(emulator: ModuleType, name: str, kind: str, form: str) -> None:
    dtype = DTYPES[name]
    size = np.dtype(dtype).itemsize
    lanes = 256 // size
    x = reduction_input(dtype)
    if kind == "Sum":
        x = (x * np.random.default_rng(1).standard_normal(x.size)).astype(dtype)
    memory = image(src0=x)
    fields, pairs = form_fields(form, lanes)
    chosen = [i for r, i in pairs if r == 0]
    index_type = {2: np.uint16, 4: np.uint32}[size]
    for order in [0, 1, 2, 3] if kind != "Sum" else [2]:
        result_bytes = {0: 2 * size, 1: 2 * size, 2: size, 3: 4}[order]
        got = execute(
            emulator, f"WholeReduce{kind}", name, memory, strides=[2, 1, 9], mode=order, **fields
        )
        wanted = memory.copy()
        for repeat in range(3):
            row = x[repeat * 9 * 32 // size :][:lanes]
            if kind == "Sum":
                value, index = tree_sum(masked(row, chosen, 0)), 0
            else:
                fill = -np.inf if kind == "Max" else np.inf
                kept = masked(row, chosen, fill)
                index = int(kept.argmax() if kind == "Max" else kept.argmin())
                value = row[index]
            value_bytes = np.array([value], dtype).tobytes()
            index_bytes = np.array([index], index_type).tobytes()
            result = {
                0: value_bytes + index_bytes,
                1: index_bytes + value_bytes,
                2: value_bytes,
                3: np.array([index], np.uint32).tobytes(),
            }[order]
            begin = DST + repeat * 2 * result_bytes
            wanted[begin : begin + result_bytes] = np.frombuffer(result, np.uint8)
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("form", ["mask", "bits"])
@pytest.mark.parametrize("kind", ["Sum", "Max", "Min"])
@pytest.mark.parametrize("name", ["half", "float"])
def test_block_reduce(emulator: ModuleType, name: str, kind: str, form: str) -> None:
    dtype = DTYPES[name]
    size = np.dtype(dtype).itemsize
    lanes, per_block = 256 // size, 32 // size
    x = reduction_input(dtype)
    memory = image(src0=x)
    fields, pairs = form_fields(form, lanes)
    if form == "mask":
        fields["low"] = lanes // 2 + 3  # whole blocks without a lane
        pairs = [(r, i) for r, i in pairs if i < fields["low"]]
    chosen = [i for r, i in pairs if r == 0]
    got = execute(emulator, f"BlockReduce{kind}", name, memory, strides=[2, 1, 9], **fields)
    wanted = memory.copy()
    for repeat in range(3):
        row = x[repeat * 9 * 32 // size :][:lanes]
        for block in range(8):
            own = [i % per_block for i in chosen if i // per_block == block]
            if not own:
                continue
            part = row[block * per_block :][:per_block]
            result = {
                "Sum": tree_sum(masked(part, own, 0)),
                "Max": part[own].max(),
                "Min": part[own].min(),
            }[kind]
            begin = DST + repeat * 2 * 8 * size + block * size
            wanted[begin : begin + size] = np.array([result], dtype).view(np.uint8)
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name", ["half", "float"])
def test_pair_reduce(emulator: ModuleType, name: str) -> None:
    dtype = DTYPES[name]
    x = values(dtype)
    lanes = 256 // np.dtype(dtype).itemsize
    got = execute(
        emulator,
        "PairReduceSum",
        name,
        image(src0=x),
        form="mask",
        low=lanes,
        repeat=3,
        strides=[1, 1, 8],
    )
    with np.errstate(all="ignore"):
        wanted = x[: 3 * lanes : 2] + x[1 : 3 * lanes : 2]
    np.testing.assert_array_equal(got[DST:].view(dtype)[: wanted.size], wanted)


@pytest.mark.parametrize("count", [1, 64, 200, 1024])
@pytest.mark.parametrize("name", ["half", "float"])
def test_reduce_tensor(emulator: ModuleType, name: str, count: int) -> None:
    dtype = DTYPES[name]
    size = np.dtype(dtype).itemsize
    lanes = 256 // size
    x = reduction_input(dtype)
    part = {"out_begin": DST, "out_end": TMP, "low": count, "form": "count"}
    memory = image(src0=x)
    got = execute(emulator, "ReduceSum", name, memory, **part)[DST:].view(dtype)
    assert got[0] == sum_in_order(x[:count], lanes)
    for kind, index in (("Max", x[:count].argmax()), ("Min", x[:count].argmin())):
        got = execute(emulator, f"Reduce{kind}", name, memory, flag=True, **part)[DST:]
        assert got.view(dtype)[0] == x[index]
        assert got.view({2: np.uint16, 4: np.uint32}[size])[1] == index


def sorted_pairs(
    module: ModuleType, op: str, name: str, memory: np.ndarray, count: int, **fields: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores and indices of a sorted list, as the test kernel takes them apart, and tmp."""
    result = execute(module, op, name, memory, out_begin=DST + 8192, out_end=BYTES, **fields)
    scores = result[DST + 8192 :].view(DTYPES[name])[:count]
    return scores, result[DST + 12288 :].view(np.uint32)[:count], result[TMP:]


@pytest.mark.parametrize("name", ["half", "float"])
def test_sort32(emulator: ModuleType, name: str) -> None:
    scores = np.random.default_rng(2).integers(-9, 9, 96).astype(DTYPES[name])
    index = np.arange(96, dtype=np.uint32)[::-1].copy()
    memory = image(src0=scores, src1=index)
    got, ids, _ = sorted_pairs(emulator, "Sort32", name, memory, 96, repeat=3)
    for first in (0, 32, 64):
        part = slice(first, first + 32)
        order = first + (-scores[part]).argsort(kind="stable")
        np.testing.assert_array_equal(got[part], scores[order])
        np.testing.assert_array_equal(ids[part], index[order])


def pairs_of(scores: np.ndarray, ids: np.ndarray) -> np.ndarray:
    pairs = np.zeros((scores.size, 8), np.uint8)
    pairs[:, : scores.itemsize] = scores.view(np.uint8).reshape(scores.size, -1)
    pairs[:, 4:] = ids.astype(np.uint32).view(np.uint8).reshape(scores.size, 4)
    return pairs


@pytest.mark.parametrize("valid", [3, 7, 15])
@pytest.mark.parametrize("name", ["half", "float"])
def test_mrg_sort(emulator: ModuleType, name: str, valid: int) -> None:
    repeat, length, lists = (2, 16, 4) if valid == 15 else (1, 16, {3: 2, 7: 3}[valid])
    rng = np.random.default_rng(4)
    scores = -np.sort(-rng.integers(-9, 9, (4 * repeat, length)), axis=1).astype(DTYPES[name])
    ids = np.arange(scores.size).reshape(scores.shape)
    memory = image(src0=pairs_of(scores.reshape(-1), ids.reshape(-1)))
    fields = {"low": length, "mode": valid}
    if valid == 15:
        count = 4 * length
        got, got_ids, _ = sorted_pairs(
            emulator, "MrgSort", name, memory, 2 * count, repeat=2, **fields
        )
        for i in range(2):
            flat = scores[4 * i : 4 * i + 4].reshape(-1)
            order = (-flat).argsort(kind="stable")
            np.testing.assert_array_equal(got[i * count : (i + 1) * count], flat[order])
            np.testing.assert_array_equal(got_ids[i * count : (i + 1) * count], i * count + order)
    # up to where the first list ends
    flat = scores[:lists].reshape(-1)
    order = (-flat).argsort(kind="stable")
    end = min(int(np.flatnonzero(order == (i + 1) * length - 1)[0]) for i in range(lists)) + 1
    got, got_ids, tmp = sorted_pairs(
        emulator, "MrgSort", name, memory, end, repeat=1, flag=True, **fields
    )
    np.testing.assert_array_equal(got, flat[order[:end]])
    np.testing.assert_array_equal(got_ids, order[:end])
    taken = [int((order[:end] // length == i).sum()) for i in range(4)]
    np.testing.assert_array_equal(tmp.view(np.uint16)[:4], taken)


# --- moving and filling ---------------------------------------------------------------------------

MOVED = {"half": np.uint16, "bf16": np.uint16, "float": np.uint32, "int32": np.uint32}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MOVED)
def test_duplicate_and_copy(emulator: ModuleType, name: str, form: str) -> None:
    dtype = MOVED[name]
    memory = image(src0=np.random.default_rng(1).integers(0, 2**15, 4096).astype(dtype))
    fields, pairs = form_fields(form, 256 // np.dtype(dtype).itemsize)
    s = (1, 1, 8, 8) if form == "count" else UNARY_STRIDES
    fields["strides"] = list(s)
    three = {
        "half": np.float16(3).view(np.uint16),
        "bf16": 0x4040,
        "float": np.float32(3).view(np.uint32),
        "int32": 3,
    }[name]
    got = execute(emulator, "Duplicate", name, memory, scalar=3.0, **fields)
    source = [(SRC0, dtype, (s[1], s[3]))]
    fill = expected(memory, pairs, (dtype, (s[0], s[2])), source, lambda a: np.full_like(a, three))
    np.testing.assert_array_equal(got, fill)
    if form not in ("count", "counter"):  # its counter mode is of each repeat
        got = execute(emulator, "Copy", name, memory, **fields)
        copied = expected(memory, pairs, (dtype, (s[0], s[2])), source, lambda a: a)
        np.testing.assert_array_equal(got, copied)


def test_local_copy(emulator: ModuleType) -> None:
    memory = image()
    got = execute(emulator, "DataCopy", "float", memory, form="count", low=24)
    wanted = memory.copy()
    wanted[DST : DST + 96] = memory[:96]
    np.testing.assert_array_equal(got, wanted)
    got = execute(emulator, "DataCopy", "float", memory, form="", strides=[3, 2, 1, 4])
    wanted = memory.copy()
    for row in range(3):
        wanted[DST + row * 192 :][:64] = memory[row * 96 :][:64]
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name", ARITHMETIC)
def test_create_vec_index(emulator: ModuleType, name: str) -> None:
    got = execute(emulator, "CreateVecIndex", name, image(), low=300, scalar=5.0)
    np.testing.assert_array_equal(got[DST:].view(DTYPES[name])[:300], np.arange(5, 305))


@pytest.mark.parametrize("name", MOVED)
def test_brcb(emulator: ModuleType, name: str) -> None:
    dtype = MOVED[name]
    size = np.dtype(dtype).itemsize
    source = np.random.default_rng(1).integers(0, 2**15, 24).astype(dtype)
    memory = image(src0=source)
    got = execute(emulator, "Brcb", name, memory, repeat=3, strides=[2, 17])
    wanted = memory.copy()
    for i, value in enumerate(source):
        block = i // 8 * 17 + i % 8 * 2
        wanted[DST + 32 * block :][:32] = np.full(32 // size, value, dtype).view(np.uint8)
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name", MOVED)
def test_gather(emulator: ModuleType, name: str) -> None:
    dtype = MOVED[name]
    size = np.dtype(dtype).itemsize
    rng = np.random.default_rng(1)
    source = rng.integers(0, 2**15, 1000).astype(dtype)
    index = rng.integers(0, 900, 600)
    memory = image(src0=source, src1=(index * size).astype(np.uint32))
    base = 64 * size
    got = execute(emulator, "Gather", name, memory, form="count", low=250, scalar=base)
    np.testing.assert_array_equal(got[DST:].view(dtype)[:250], source[index[:250] + 64])
    lanes = 256 // size
    got = execute(
        emulator,
        "Gather",
        name,
        memory,
        form="mask",
        low=lanes - 1,
        repeat=3,
        strides=[9],
        scalar=base,
    )
    wanted = memory.copy()
    for repeat in range(3):
        row = source[index[repeat * lanes :][: lanes - 1] + 64].view(np.uint8)
        wanted[DST + repeat * 288 :][: row.size] = row
    np.testing.assert_array_equal(got, wanted)
    blocks = rng.integers(0, 60, 24)
    memory = image(src0=source, src1=(blocks * 32).astype(np.uint32))
    got = execute(emulator, "Gatherb", name, memory, repeat=3, strides=[2, 17])
    wanted = memory.copy()
    for i, block in enumerate(blocks):
        at_block = i // 8 * 17 + i % 8 * 2
        wanted[DST + 32 * at_block :][:32] = memory[32 * block :][:32]
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("pattern", range(8))
@pytest.mark.parametrize("name", MOVED)
def test_gather_mask(emulator: ModuleType, name: str, pattern: int) -> None:
    dtype = MOVED[name]
    size = np.dtype(dtype).itemsize
    rng = np.random.default_rng(1)
    source = rng.integers(0, 2**15, 8192 // size).astype(dtype)
    words = rng.integers(0, 256, 512).astype(np.uint8)
    memory = image(src0=source, src1=words)
    lanes, per_block = 256 // size, 32 // size

    def chosen(first_word: int, count: int) -> np.ndarray:
        if pattern == 0:
            bits = np.unpackbits(words[first_word:], bitorder="little")[:count]
            return bits.astype(bool)
        i = np.arange(count)
        if pattern == 7:
            return i >= 0
        return i % 2 == pattern - 1 if pattern < 3 else i % 4 == pattern - 3

    # (counter mode, elements, source's block stride, repeat stride, pattern's repeat stride)
    for counter, count, blocks, step, step_words in (
        (False, lanes, 2, 17, 1),
        (True, lanes + 21, 1, 12, 3),
    ):
        got = execute(
            emulator,
            "GatherMask",
            name,
            memory,
            flag=counter,
            low=lanes + 21,
            repeat=2,
            mode=pattern,
            strides=[blocks, step, step_words],
        )
        lane = np.arange(count)
        place = lane // per_block * per_block * blocks + lane % per_block
        wanted = np.concatenate(
            [
                source[r * step * per_block + place][chosen(r * step_words * 32, count)]
                for r in range(2)
            ]
        )
        assert execute.taken == wanted.size
        left = memory.copy()
        left[DST : DST + wanted.nbytes] = wanted.view(np.uint8)
        np.testing.assert_array_equal(got, left)
