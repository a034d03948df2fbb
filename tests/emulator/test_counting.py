"""Counting mode: it counts what a run with data does."""

from types import ModuleType

import numpy as np
import pytest
from emulator_runs import BYTES, X, run

RNG = np.random.default_rng(1)


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
