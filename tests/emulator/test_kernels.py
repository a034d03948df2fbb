"""Whole vector kernels in the documented styles: results against NumPy, and what is counted."""

from types import ModuleType

import numpy as np
import pytest
from emulator_runs import X, run, sum_in_order

RNG = np.random.default_rng(1)


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
