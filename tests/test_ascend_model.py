"""The model of time: schedules that can be worked out by hand, and the committed tables."""

import csv
import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest

for package in ("matplotlib", "rich"):
    pytest.importorskip(package, reason="needs the extra 'bench'")

BENCH = Path(__file__).resolve().parents[1] / "bench"
CXX = shutil.which("c++") or shutil.which("g++")
pytestmark = [
    pytest.mark.skipif(
        not (CXX and shutil.which("cmake") and importlib.util.find_spec("pybind11")),
        reason="needs a C++17 compiler, cmake and pybind11",
    ),
    pytest.mark.xdist_group("emulator"),  # one build
]

TILE = 8192  # bytes of a tile in tests/ascend/schedules.cpp
Slices = dict[tuple[int, str], list[tuple[str, float, float]]]


@pytest.fixture(scope="module")
def figures(emulator: ModuleType) -> dict[str, float]:
    return {name: value for name, (value, _, _) in emulator.time_parameters().items()}


def schedule(emulator: ModuleType, name: str, **options: Any) -> tuple[dict[str, Any], Slices]:
    """Times of a kernel, and its instructions by core and pipe: name, start, end."""
    memory = [np.zeros(65536, np.uint8) for _ in range(3)]
    times = emulator.schedule(name, *memory, **options)["times"]
    slices: Slices = {}
    for core, pipe, op, start, end in times["picture"]:
        slices.setdefault((core, pipe), []).append((op, start, end))
    return times, slices


def near(value: float) -> Any:
    return pytest.approx(value, rel=1e-6, abs=1e-3)


@pytest.mark.parametrize("name", ["one buffer", "two buffers", "queue"])
def test_a_flag_makes_a_pipe_wait_and_buffers_let_it_run_ahead(
    emulator: ModuleType, figures: dict[str, float], name: str
) -> None:
    _, slices = schedule(emulator, name)
    reads, vectors = slices[0, "MTE2"], slices[0, "V"]
    assert [len(reads), len(vectors)] == [4, 4]
    copy = figures["CopyHead"] + figures["Piece"] + TILE / figures["VectorPort"]
    vector = figures["VectorHead"] + 2048 / 32  # Exp: 32 elements a cycle
    for i in range(4):
        assert vectors[i][2] - vectors[i][1] == near(vector)
        arrived = reads[i][2] + figures["Latency"]
        assert vectors[i][1] == near(max(arrived, vectors[i - 1][2] if i else 0))
    for i in range(1, 4):
        buffers = 1 if name == "one buffer" else 2
        free = vectors[i - buffers][2] if i >= buffers else 0  # the buffer that is read into
        assert reads[i][1] == near(max(free, reads[i - 1][2]))
        # from memory at first: a tile is 16 lines, which no other core asks for
        assert reads[i][2] - reads[i][1] == near(copy)


def test_vector_instructions_take_their_documented_cycles(
    emulator: ModuleType, figures: dict[str, float]
) -> None:
    times, slices = schedule(emulator, "vectors")
    taken = [(op, end - start - figures["VectorHead"]) for op, start, end in slices[0, "V"]]
    repeats = 2048 / 64
    assert taken == [
        ("Duplicate", near(repeats)),
        ("Add", near(repeats)),
        ("Exp", near(2048 / 32)),
        ("Exp", near(2048 / 32)),
        # every fourth repeat writes to a bank that it reads
        ("Cast", near(2048 / 64 * 5 / 4)),
        ("Adds", near(repeats)),
    ]
    # the compiler lets a scalar access wait for the vectors, and what follows waits for its value
    assert slices[0, "V"][5][1] > slices[0, "V"][4][2] + figures["ScalarUb"] - figures["Issue"]
    assert times["cores"][0]["end"] >= slices[0, "V"][5][2]


def test_cores_share_the_memory(emulator: ModuleType, figures: dict[str, float]) -> None:
    _, _, clock, rate = emulator.devices()["910B1"]
    one, _ = schedule(emulator, "one reads")
    alone = 8 * (figures["CopyHead"] + figures["Piece"] + TILE / figures["VectorPort"])
    assert alone < one["cycles"] < alone + figures["Latency"] + 10 * figures["Issue"]
    every, _ = schedule(emulator, "all read")
    assert every["memory_bytes"] == 48 * 8 * TILE
    shared = every["memory_bytes"] / (rate / clock)
    assert shared > 2 * alone
    assert shared < every["cycles"] < shared + figures["Latency"] + 10 * figures["Issue"]


def test_nobody_passes_sync_all_before_the_last(
    emulator: ModuleType, figures: dict[str, float]
) -> None:
    _, slices = schedule(emulator, "meeting")
    last = max(slices[core, "MTE3"][-1][2] for core in (0, 1))
    assert last == slices[0, "MTE3"][3][2]
    met = last + figures["Latency"] + figures["SyncAllCycles"]
    for core in (0, 1):
        assert met <= slices[core, "V"][0][1] <= met + 10 * figures["Issue"]
    _, slices = schedule(emulator, "late")
    own = 100 * figures["ScalarUb"] + figures["SyncAllCycles"]
    for core in (0, 1):
        assert own <= slices[core, "V"][0][1] <= own + 10 * figures["Issue"]


def test_a_result_is_handed_from_a_cube_core_to_its_vector_cores(
    emulator: ModuleType, figures: dict[str, float]
) -> None:
    _, slices = schedule(emulator, "handed")
    ((_, start, end),) = slices[0, "M"]
    assert end - start == near(figures["MmadHead"] + 4 * 4 * 8 * 2)  # a fractal of float takes two
    ((_, out, done),) = slices[0, "FIX"]
    assert start <= out < end  # under unit flags it follows block by block
    assert done >= end
    for core in (1, 2):
        seen = done + figures["Latency"] + figures["CrossCycles"]
        assert slices[core, "MTE2"][0][1] == pytest.approx(seen, abs=10 * figures["Issue"])


@pytest.mark.parametrize("name", ["all read", "same rows", "meeting", "handed"])
def test_times_do_not_depend_on_the_order_that_the_cores_ran_in(
    emulator: ModuleType, name: str
) -> None:
    times, _ = schedule(emulator, name)
    for seed in (0, 1, 2):
        again, _ = schedule(emulator, name, seed=seed)
        assert {key: again[key] for key in ("cycles", "cores")} == {
            key: times[key] for key in ("cycles", "cores")
        }


def test_without_a_device_there_are_no_times(emulator: ModuleType) -> None:
    memory = [np.zeros(65536, np.uint8) for _ in range(3)]
    assert "times" not in emulator.run(emulator.must_pass()[0], *memory, checks=False)


# --- the committed tables -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> ModuleType:
    """bench/ascend/ascend_model.py, with the published points of published.py beside it"""
    with mock.patch.object(sys, "path", [str(BENCH / "ascend"), *sys.path]):
        return importlib.import_module("ascend_model")


def read(name: str) -> list[dict[str, str]]:
    with (BENCH / "results" / name).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize("device", ["910B1", "910B4"])
def test_the_committed_times_are_those_of_the_model(model: ModuleType, device: str) -> None:
    committed = [
        row for row in read("ascend_model.csv") if (row["device"], row["T"]) == (device, "1")
    ]
    found = [{key: str(value) for key, value in row.items()} for row in model.table(1, device)]
    assert found == committed


@pytest.mark.slow
def test_the_committed_decode_step_is_that_of_the_model() -> None:
    with mock.patch.object(sys, "path", [str(BENCH / "ascend"), *sys.path]):
        decode = importlib.import_module("decode_step")
    plan = next(plan for plan in decode.plans() if plan.expert_ranks == 4)
    committed = [
        row
        for row in read("ascend_decode.csv")
        if (row["plan"], row["chip"]) == (plan.name, plan.chip.name)
    ]
    found = [{key: str(value) for key, value in row.items()} for row in decode.table(plan)]
    assert found == committed


@pytest.mark.slow
def test_the_committed_check_is_that_of_the_model(model: ModuleType) -> None:
    committed = {row["case"]: row for row in read("ascend_model_check.csv")}
    cases = {case.case: case for case in model.published()}
    assert list(cases) == list(committed)
    module = model.build()
    for name in (
        "GM to UB, tiles of 64 x 1024",
        "GM to L1, tiles of 64 x 64",
        "GM to L1, all cores the same",
        "Add, case 5: past L2",
        "banks 5: the same, a block on",
        "int8 grouped product, four slots",
        "Mmad 128 x 256 x 512 in eight",
    ):
        assert model.check_row(cases[name], module) == committed[name]


def test_an_error_above_15_percent_has_its_cause() -> None:
    rows = read("ascend_model_check.csv")
    assert all(row["source"] == "modelled" for row in rows)
    for row in rows:
        error = 100 * (float(row["modelled"]) / float(row["published"]) - 1)
        assert float(row["error_percent"]) == pytest.approx(error, abs=0.2)
        assert abs(error) <= 15 or row["cause"], row["case"]
    errors = [abs(float(row["error_percent"])) for row in rows]
    assert sum(error <= 15 for error in errors) >= 0.95 * len(rows)
    assert sum(error <= 10 for error in errors) >= 0.75 * len(rows)
    assert sum(row["kind"] == "predicted" for row in rows) > len(rows) / 2
