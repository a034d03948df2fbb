"""The model of time: what tests/test_ascend_model.py does not reach."""

from types import ModuleType

import numpy as np
import pytest
from emulator_runs import BYTES


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


def test_requests_for_one_line_are_answered_in_turn(emulator: ModuleType) -> None:
    figures = {name: value for name, (value, _, _) in emulator.time_parameters().items()}
    memory = [np.zeros(BYTES, np.uint8) for _ in range(3)]
    times = emulator.schedule("same rows", *memory)["times"]
    requests = 48 * 4 * 64
    # the first request of all meets no other
    least = (requests - 64) * figures["SameLine"]
    assert least < times["cycles"] < least + 2 * figures["Latency"]
    for seed in (1, 2):
        assert (
            emulator.schedule("same rows", *memory, seed=seed)["times"]["cycles"]
            == (times["cycles"])
        )


def test_parts_of_lines_keep_some_channels_busy(emulator: ModuleType) -> None:
    figures = {name: value for name, (value, _, _) in emulator.time_parameters().items()}
    memory = [np.zeros(BYTES, np.uint8) for _ in range(3)]
    times = emulator.schedule("rows apart", *memory)["times"]
    _, _, clock, rate = emulator.devices()["910B1"]
    share = 16 / (16 + figures["Channels"] - 1)
    of_memory = 16 * 256 * 128 / (rate / clock * share)
    alone = 64 * (figures["CopyHead"] + 4 * figures["Piece"] + 512 / figures["VectorPort"])
    assert times["cycles"] == pytest.approx(max(of_memory, alone), abs=2 * figures["Latency"])


def test_banks_of_ub_make_vectors_wait(emulator: ModuleType) -> None:
    figures = {name: value for name, (value, _, _) in emulator.time_parameters().items()}
    pipes, _ = times_of(emulator, "banks")
    taken = [end - start - figures["VectorHead"] for start, end in pipes["V"]]
    repeats = 2048 / 64
    want = [repeats, 2 * repeats, 2 * repeats, repeats, 2 * repeats, 2 * 8, 2 * 4, 2 * 1]
    assert taken[2:] == [pytest.approx(cycles) for cycles in want]
