"""Cores that wait for each other by global memory; atomic transfers; scalar accesses."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from emulator_runs import BYTES, aligned

COUNT = 64
FLAGS = 16384
X = np.random.default_rng(0).integers(-40, 40, BYTES // 4).astype(np.float32)


def run(
    module: ModuleType, name: str, x: np.ndarray = X, z: Any = (), **options: Any
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    memory = [aligned() for _ in range(3)]
    memory[0][: x.nbytes] = x.view(np.uint8)
    old = np.asarray(z).view(np.uint8)
    memory[2][: old.size] = old
    counters = module.sync(name, *memory, **options)
    return memory[1], memory[2], counters


def rows(memory: np.ndarray, count: int) -> np.ndarray:
    return memory.view(np.float32)[: count * COUNT].reshape(count, COUNT)


ROWS = rows(X.view(np.uint8), 16)

# --- polls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("checks", [True, False])
def test_a_core_that_polls_gives_way(emulator: ModuleType, seed: int, checks: bool) -> None:
    y, _, _ = run(emulator, "polled", seed=seed, checks=checks)
    assert np.array_equal(rows(y, 1)[0], 2 * ROWS[:4].sum(0))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["chained", "chained_cube"])
def test_a_chain_of_cores(emulator: ModuleType, name: str, seed: int) -> None:
    y, z, _ = run(emulator, name, seed=seed)
    assert np.array_equal(rows(y, 1)[0], ROWS[0])
    assert z[FLAGS : FLAGS + 256].view(np.int32)[::16].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("seed", range(4))
def test_uncached_data_and_flag(emulator: ModuleType, seed: int) -> None:
    _, z, _ = run(emulator, "uncached", seed=seed)
    assert z[FLAGS : FLAGS + 192].view(np.int32)[::16].tolist() == [6, 21, 42]


def test_polls_are_the_same_each_time(emulator: ModuleType) -> None:
    runs = [run(emulator, "polled", seed=seed)[2] for seed in (0, 0, 3, 3)]
    assert runs[0] == runs[1]
    assert runs[2] == runs[3]


def test_who_reads_again_what_nobody_changes_is_no_deadlock(emulator: ModuleType) -> None:
    table = np.arange(64, dtype=np.int32)
    _, z, _ = run(emulator, "reread", z=table)
    assert z[FLAGS : FLAGS + 256].view(np.int32)[::16].tolist() == [100 * table.sum()] * 4


def test_a_value_left_in_the_cache_reaches_memory_with_a_warning(emulator: ModuleType) -> None:
    _, z, counters = run(emulator, "left_dirty", rules="dcache.not-cleaned=warning")
    assert z.view(np.int32)[:64:16].tolist() == [7] * 4
    assert {warning["rule"] for warning in counters["warnings"]} == {"dcache.not-cleaned"}


# --- workspaces -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_ib_set_and_wait(emulator: ModuleType, seed: int) -> None:
    y, _, _ = run(emulator, "paired", seed=seed)
    assert np.array_equal(rows(y, 3), ROWS[:3])


@pytest.mark.parametrize("seed", range(4))
def test_blocks_take_turns(emulator: ModuleType, seed: int) -> None:
    y, _, _ = run(emulator, "in_turn", seed=seed)
    assert np.array_equal(rows(y, 2), ROWS[[3, 3]])


@pytest.mark.parametrize("seed", range(4))
def test_a_group_waits_for_another(emulator: ModuleType, seed: int) -> None:
    y, _, _ = run(emulator, "grouped", seed=seed)
    assert np.array_equal(rows(y, 14)[[2, 3, 4, 5]], ROWS[[0, 1, 0, 1]])
    assert np.array_equal(rows(y, 14)[[10, 11, 12, 13]], ROWS[[2, 3, 2, 3]])


@pytest.mark.parametrize("seed", range(4))
def test_some_of_the_cores_meet(emulator: ModuleType, seed: int) -> None:
    y, _, _ = run(emulator, "some_meet", seed=seed)
    assert np.array_equal(rows(y, 6), ROWS[[1, 2, 0, 4, 5, 3]])


@pytest.mark.parametrize("seed", range(4))
def test_one_vector_core_beside_each_cube_core(emulator: ModuleType, seed: int) -> None:
    y, _, counters = run(emulator, "pairs", seed=seed)
    assert np.array_equal(rows(y, 3), ROWS[[1, 2, 0]] + 11)
    assert [core["kind"] for core in counters["cores"]] == ["AIC", "AIV"] * 3


def test_ids_that_the_kernel_chooses(emulator: ModuleType) -> None:
    y, _, _ = run(emulator, "chosen_ids")
    assert y.view(np.int32)[:COUNT].tolist() == list(range(COUNT))


# --- atomic transfers -----------------------------------------------------------------------------

COMBINE = {"add": np.add, "max": np.maximum, "min": np.minimum}
DTYPES = {
    "float": np.float32,
    "half": np.float16,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
}


@pytest.mark.parametrize("seed", [0, 2])
@pytest.mark.parametrize(
    "name",
    [
        "add float",
        "add half",
        "add int8",
        "max float",
        "max half",
        "max int32",
        "max int16",
        "min float",
        "min int8",
    ],
)
def test_atomic_transfers(emulator: ModuleType, name: str, seed: int) -> None:
    how, dtype = name.split()
    x = X.astype(DTYPES[dtype])
    old = X[1000 : 1000 + COUNT].astype(x.dtype)
    _, z, _ = run(emulator, name, x, old, seed=seed)
    terms = np.vstack([old[None], x[: 3 * COUNT].reshape(3, COUNT)])
    assert np.array_equal(z.view(x.dtype)[:COUNT], COMBINE[how].reduce(terms))


def test_the_register_of_atomic_transfers(emulator: ModuleType) -> None:
    x = X.astype(np.float16)
    old = x[500 : 500 + COUNT]
    _, z, _ = run(emulator, "atomic_register", x, old)
    assert np.array_equal(z.view(np.float16)[:COUNT], old + x[:COUNT])
    # of the type and of the kind: half added, bf16 added, the least int8, nothing
    codes = z[FLAGS : FLAGS + 256].view(np.int32)[::16]
    assert codes.tolist() == [2 * 16, 6 * 16, 5 * 16 + 2, 0]
