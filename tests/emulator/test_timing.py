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
