"""Blocks that take each other's rows in random order: every schedule gives the same rows, and a
wait that is left out is found in each."""

from types import ModuleType

import numpy as np
import pytest
import random_cases as rc

pytestmark = pytest.mark.slow

KINDS = ["together", "IBSet", "polls"]
BLOCKS, ROW = 4, 64


def choose(rng: np.random.Generator) -> np.ndarray:
    """For each round and block two rows of other blocks, the second one further on."""
    rounds = int(rng.integers(2, 5))
    step = rng.integers(1, BLOCKS, (rounds, BLOCKS, 2))
    return (np.arange(BLOCKS)[:, None] + step) % BLOCKS


def expected(x: np.ndarray, sources: np.ndarray) -> np.ndarray:
    rows = x[: BLOCKS * ROW].reshape(BLOCKS, ROW)
    for source in sources:
        rows = rows[source].sum(1)
    return rows


@pytest.mark.parametrize("kind", range(3), ids=KINDS)
def test_every_schedule_gives_the_same_rows(emulator: ModuleType, kind: int) -> None:
    x = np.random.default_rng(0).integers(-40, 40, 4096).astype(np.float32)
    for rng in rc.trials(30, 40):
        sources = choose(rng)
        numbers = [kind, len(sources), 0, *sources.reshape(-1).tolist()]
        for seed in range(6):
            y = rc.run(emulator, "random_vector", "rows of others", x, numbers, seed=seed)
            got = y.view(np.float32)[: BLOCKS * ROW].reshape(BLOCKS, ROW)
            np.testing.assert_array_equal(got, expected(x, sources))


@pytest.mark.parametrize("kind", range(3), ids=KINDS)
def test_a_wait_left_out_is_found(emulator: ModuleType, kind: int) -> None:
    x = np.ones(4096, np.float32)
    for rng in rc.trials(31, 40):
        sources = choose(rng)
        left_out = int(rng.integers(BLOCKS * 2, sources.size))
        if kind == 0:
            left_out -= left_out % 2  # one wait for both rows
        row, other = sources.reshape(-1)[[left_out, left_out ^ 1]]
        if kind != 0 and row == other:
            continue  # the other wait is for the same row
        numbers = [kind, len(sources), left_out + 1, *sources.reshape(-1).tolist()]
        for seed in range(6):
            with pytest.raises(emulator.EmulatorError) as caught:
                rc.run(emulator, "random_vector", "rows of others", x, numbers, seed=seed)
            assert caught.value.rule in ("gm.race", "cross-core.unpaired")
