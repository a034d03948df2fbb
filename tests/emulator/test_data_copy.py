"""Data movement: what each transfer leaves in global memory, against NumPy."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from emulator_runs import aligned

RNG = np.random.default_rng(0)


def run(emulator: ModuleType, name: str, x: np.ndarray, dtype: Any, at: int = 0) -> np.ndarray:
    """What a kernel leaves in y, where its x starts at byte `at` of its memory."""
    memory = [aligned() for _ in range(3)]
    memory[0][at : at + x.nbytes] = x.view(np.uint8).reshape(-1)
    emulator.data_copy(name, *memory)
    return memory[1].view(dtype)


def test_padded_rows(emulator: ModuleType) -> None:
    x = RNG.standard_normal((6, 8)).astype(np.float16)
    y = run(emulator, "pad_params", x, np.float16, at=1)
    rows = np.ones((6, 16), np.float16)
    rows[:, 2:7] = x[:, :5]
    assert (y[:96].reshape(6, 16) == rows).all()
    assert (y.view(np.uint8)[193:199] == rows.reshape(-1)[:3].view(np.uint8)).all()


def test_the_value_of_a_padding(emulator: ModuleType) -> None:
    x = RNG.standard_normal((3, 5)).astype(np.float32)
    y = run(emulator, "pad_value", x, np.float32)[:24].reshape(3, 8)
    assert (y[:, 1:6] == x).all()
    assert (y[:, [0, 6, 7]] == 7).all()


def test_without_padding_a_block_repeats_its_first_element(emulator: ModuleType) -> None:
    x = RNG.integers(-99, 99, (2, 17)).astype(np.int16)
    y = run(emulator, "pad_repeats", x, np.int16)[:64].reshape(2, 32)
    assert (y[:, :17] == x).all()
    assert (y[:, 17:] == x[:, :1]).all()


def test_slices(emulator: ModuleType) -> None:
    x = RNG.standard_normal((4, 3, 40)).astype(np.float32)
    y = run(emulator, "slices", x, np.float32)
    wanted = np.zeros((2, 2, 24), np.float32)
    taken = x[1::2, ::2]
    wanted[..., :8], wanted[..., 16:] = taken[..., 3:11], taken[..., 16:24]
    assert (y[:96].reshape(2, 2, 24) == wanted).all()
    assert (y[96:112] == wanted.reshape(-1)[:16]).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_layouts(emulator: ModuleType, dtype: Any) -> None:
    x = RNG.standard_normal((2, 5, 40)).astype(dtype)
    y = run(emulator, f"layouts {'half' if dtype == np.float16 else 'float'}", x, dtype)
    width = 32 // x.itemsize
    columns = -(-24 // width)
    nz = np.zeros((2, 768), dtype)
    for column in range(columns):
        piece = np.zeros((2, 5, width), dtype)
        part = x[:, :, column * width : min(24, column * width + width)]
        piece[:, :, : part.shape[2]] = part
        nz[:, column * 5 * width : (column + 1) * 5 * width] = piece.reshape(2, -1)
    flat = nz.reshape(-1)
    known = 5 * width * columns
    assert (y[:known] == flat[:known]).all()
    back = y.view(np.uint8)[8192:].view(dtype)
    for matrix in range(2):
        for row in range(3):
            wanted = flat[matrix * 768 + row * 16 : matrix * 768 + row * 16 + 16]
            at = matrix * 80 + row * 20
            assert (back[at : at + 16] == wanted).all()


def test_copy_in_counter_mode(emulator: ModuleType) -> None:
    x = RNG.standard_normal(512).astype(np.float32)
    y = run(emulator, "copy_counted", x, np.float32)[:256]
    wanted = np.zeros(256, np.float32)
    for repeat in range(2):
        taken = x.reshape(-1, 8)[repeat : repeat + 20 : 2].reshape(-1)[:76]
        wanted[repeat * 96 : repeat * 96 + 76] = taken
    wanted[[192, 194]] = x[[0, 2]]
    assert (y == wanted).all()


def test_undefined_bytes_are_carried_along(emulator: ModuleType) -> None:
    x = RNG.standard_normal((2, 5)).astype(np.float32)
    y = run(emulator, "carried", x, np.float32)
    assert (y[:10].reshape(2, 5) == x + np.float32([[1], [0]])).all()
    assert (y[10:15] == x[1] + np.float32(2)).all()


def test_doubles(emulator: ModuleType) -> None:
    x = RNG.standard_normal(64)
    y = run(emulator, "doubles", x, np.float64)
    assert (y[:16] == x[:16]).all()
    assert (y[20:36] == x[32:48]).all()
    assert (y[64:67] == x[:3]).all()


def test_l1_takes_any_byte_of_global_memory(emulator: ModuleType) -> None:
    x = RNG.standard_normal(64).astype(np.float16)
    y = run(emulator, "odd_bytes", x, np.uint8, at=1)
    assert (y[3:131] == x.view(np.uint8)).all()


def test_a_list_of_tensors(emulator: ModuleType) -> None:
    memory = [aligned() for _ in range(3)]
    memory[0].view(np.int32)[:64] = np.arange(64) + 100
    address = memory[0].ctypes.data
    # 2 dimensions, index 0; 1 dimension, index 1; then the addresses
    words = [6 * 8, 2, 3, 4, 1 | 1 << 32, 8, address, address + 128]
    memory[2].view(np.uint64)[: len(words)] = words
    emulator.data_copy("listed", *memory)
    assert memory[1].view(np.int32)[:8].tolist() == [2, 2, 4, 100, 1, 8, 133, 132]


def test_advice_is_off_until_it_is_asked_for(emulator: ModuleType) -> None:
    memory = [aligned() for _ in range(3)]
    assert emulator.data_copy("doubles", *memory)["warnings"] == []
    warnings = emulator.data_copy("doubles", *memory, rules="advice.*=warning")["warnings"]
    assert {w["rule"] for w in warnings} == {"advice.transfer-16KB"}
    warnings = emulator.data_copy("pad_params", *memory, rules="advice.gm-512B=warning")["warnings"]
    assert [w["count"] for w in warnings] == [2]
