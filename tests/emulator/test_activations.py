"""Activations and their like, element by element: results against NumPy."""

from types import ModuleType

import numpy as np
import pytest
from emulator_runs import HighLevelRun


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("count", [16, 64, 333, 1024])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_activations(emulator: ModuleType, dtype, count: int, strict: bool) -> None:
    rng = np.random.default_rng(count)
    gate, x = rng.uniform(-4, 4, (2, count)).astype(dtype)
    name = "activations half" if dtype == np.float16 else "activations float"
    run = HighLevelRun(emulator, name, [gate, x], [count], strict=strict)
    a, b = gate.astype(np.float64), x.astype(np.float64)
    sigmoid = 1 / (1 + np.exp(-b))
    gelu = b / (1 + np.exp(-0.0713548162726 * b * (22.363860002236 + b * b)))
    swish = b / (1 + np.exp(-1.702 * b))
    for expected in (
        sigmoid,
        sigmoid,
        b * sigmoid,
        swish,
        a * b * sigmoid,
        a * gelu,
        gelu,
        swish,
        gelu,
    ):
        actual = run.take(dtype, count).astype(np.float64)
        bound = 4e-6 if dtype == np.float32 else 2e-2
        np.testing.assert_allclose(actual, expected, bound, bound / 4)


def test_activations_as_documented(emulator: ModuleType) -> None:
    # numbers from the pages of Sigmoid, Gelu and FasterGelu
    x = np.array([-100, -5, -0.5, 0, 1, 10, 50, 100] * 2, np.float32)
    run = HighLevelRun(emulator, "activations float", [x, x], [16])
    told = [0, 0.00669285, 0.37754067, 0.5, 0.73105858, 0.9999546, 1, 1]
    np.testing.assert_allclose(run.take(np.float32, 2, 8)[0], told, 1e-6, 1e-8)
    x = np.array([-2.56, -1.571, -0.417, -0.0874, 0.407, 1.231, 2.055, 2.55] * 2, np.float16)
    run = HighLevelRun(emulator, "activations half", [x, x], [16])
    results = [run.take(np.float16, 2, 8)[0] for _ in range(9)]
    told = [
        -0.01295471,
        -0.09130859,
        -0.14111328,
        -0.04067993,
        0.26782227,
        1.0966797,
        2.0136719,
        2.5390625,
    ]
    np.testing.assert_allclose(results[6], told, 6e-3)
    x = np.array([-1.83887, -3.60742, 3.12891, -0.620605, 2.0625, -2.77344, 1.3291, 3.77539] * 2)
    run = HighLevelRun(emulator, "activations half", [x.astype(np.float16)] * 2, [16])
    results = [run.take(np.float16, 2, 8)[0] for _ in range(9)]
    told = [-0.0769653, -0.00775528, 3.11328, -0.160034, 2.00195, -0.0244446, 1.20312, 3.76758]
    np.testing.assert_allclose(results[7], told, 6e-3)
