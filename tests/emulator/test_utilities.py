"""Scalars, prints, dumps, shapes and assertions of device code."""

from types import ModuleType

import numpy as np
import pytest


def run(module: ModuleType, name: str, x: np.ndarray, **options: object) -> list[np.ndarray]:
    """What a kernel leaves in y and z, as bytes."""
    whole = np.zeros((3, 2048), np.uint8)
    memory = [row[-row.ctypes.data % 512 :][:1024] for row in whole]  # as on a device
    memory[0][: x.nbytes] = x.view(np.uint8)
    module.utility(name, *memory, **options)
    return memory[1:]


def bf16(values: np.ndarray) -> np.ndarray:
    """Rounded to the nearest bfloat16, ties to even, as float32."""
    bits = np.float32(values).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)


def test_half_rounds_after_each_operation(emulator: ModuleType) -> None:
    a, b = x = np.array([1.2345, 0.7891], np.float16)
    y, _ = run(emulator, "half", x)
    total = np.float16(np.float16(a + b) * np.float16(3))
    expected = [a * b, a / b, a - b * np.float16(2), total, total, -a, np.float16(7) + b]
    assert y.view(np.float16)[:7].tolist() == np.array(expected, np.float16).tolist()


def test_bfloat16_rounds_after_each_operation(emulator: ModuleType) -> None:
    a, b = x = bf16(np.array([1.2345, 0.7891], np.float32))
    y, _ = run(emulator, "bf16", (x.view(np.uint32) >> 16).astype(np.uint16))
    total = bf16(bf16(a + b) * np.float32(3))
    expected = [a * b, a / b, a - bf16(b * np.float32(2)), total, total, -a, np.float32(7) + b]
    got = (y.view(np.uint16)[:7].astype(np.uint32) << 16).view(np.float32)
    assert got.tolist() == bf16(np.array(expected, np.float32)).tolist()


@pytest.mark.parametrize(
    ("value", "rounded"), [(2.5, [3, 3, 2, 2]), (-1.5, [-2, -1, -2, -2]), (3e9, [2**31 - 1] * 4)]
)
def test_scalars(emulator: ModuleType, value: float, rounded: list[int]) -> None:
    y, _ = run(emulator, "scalars", np.array([value], np.float32))
    numbers = y.view(np.int64)
    assert numbers[:4].tolist() == rounded
    assert numbers[4:12].tolist() == [5, 59, 8, -1, 8, -1, 62, 7]
    assert numbers[12:16].tolist() == [2, 64, 1, 1]


def test_each_core_knows_its_block(emulator: ModuleType) -> None:
    """Both vector cores of a block have one block_idx; GetBlockIdx counts on."""
    _, z = run(emulator, "cores", np.zeros(1, np.float32))
    assert z.view(np.int64)[:32:8].tolist() == [0, 1, 10, 11]


def test_prints_and_dumps(emulator: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    run(emulator, "prints", np.array([1.5, -2], np.float32))
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "-1 1099511627776 1.50 2.0 text 7"
    assert lines[1] == "no arguments, 100%"
    assert lines[2] == "tag 5, size 6"
    assert lines[3].startswith("DumpTensor: desc=3, addr=0, position=UB, data_type=half,")
    assert lines[4:6] == ["[[0.000000, 0.250000, 0.500000],", "[0.750000, -, -]]"]
    assert "position=GM, data_type=float, dump_size=2, block 0" in lines[6]
    assert lines[7] == "[1.500000, -2.000000]"
    assert "desc=5, addr=32," in lines[8]
    assert lines[9] == "[4.000000, 4.250000, 4.500000, 4.750000, ?, ?, ?, ?]"
    assert lines[10].startswith("0000: 0.000000, 0.250000,")
    assert lines[11] == "0016: 4.000000, 4.250000, 4.500000, 4.750000"
    assert lines[12] == f"{np.float16(1).view(np.int16)} at 10"


def test_flags_in_their_global_forms(emulator: ModuleType) -> None:
    x = np.arange(8, dtype=np.float32)
    y, _ = run(emulator, "flags", x)
    assert y.view(np.float32)[:8].tolist() == (x + 1).tolist()


def test_an_assertion_says_where_and_what(emulator: ModuleType) -> None:
    memory = [np.zeros(1024, np.uint8) for _ in range(3)]
    with pytest.raises(emulator.EmulatorError) as caught:
        emulator.fail("kernel.assert", *memory)
    assert "utilities.cpp:" in str(caught.value)
    assert '`blocks == 2, "blocks: %ld", blocks\' is false. blocks: 1' in str(caught.value)
