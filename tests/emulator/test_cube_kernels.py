"""Whole kernels of a cube core and its vector cores: results against NumPy, and what is counted."""

from types import ModuleType

import numpy as np
import pytest
from emulator_images import DTYPES
from emulator_runs import BYTES, X, run
from random_cases import joined


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
