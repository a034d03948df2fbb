"""TPipe, queues and pools, on vector and on cube cores."""

from types import ModuleType

import numpy as np
import pytest

BYTES = 65536
RNG = np.random.default_rng(0)


def run(emulator: ModuleType, name: str, x: np.ndarray, strict: bool = False) -> np.ndarray:
    memory = [np.zeros(BYTES, np.uint8) for _ in range(3)]
    memory[0][: x.nbytes] = x.view(np.uint8).reshape(-1)
    emulator.framework(name, *memory, strict=strict)
    return memory[1].view(np.float32)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "name",
    ["in_place", "bound_both_ways", "placed", "pipes", "many_queues", "pools", "own_pool"],
)
def test_queues_order_their_pipes(emulator: ModuleType, name: str, strict: bool) -> None:
    x = RNG.standard_normal(1024).astype(np.float32)
    assert (run(emulator, name, x, strict)[:1024] == x + np.float32(1)).all()


def test_the_rest_of_a_memory(emulator: ModuleType) -> None:
    left = (192 * 1024 - 4096) // 4
    assert (run(emulator, "rest", np.zeros(8))[:64] == left + 1).all()


def test_queues_of_a_cube_core(emulator: ModuleType) -> None:
    x = RNG.integers(-4, 4, 8192).astype(np.float16)
    y = run(emulator, "cube_queues", x)
    a = x[:1536].reshape(32, 48).astype(np.float32)
    for turn in range(2):
        b = x[1536 * (1 + turn) :][:768].reshape(48, 16).astype(np.float32)
        assert (y[512 * turn : 512 * (turn + 1)].reshape(32, 16) == a @ b).all()
