"""Compare and Select, against NumPy."""

from types import ModuleType

import numpy as np
import pytest
from emulator_images import DST, DTYPES, execute, image, values


def unequal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """As the documents' table has it: NaN is not."""
    return (a < b) | (a > b)


COMPARE = [np.less, np.greater, np.equal, np.less_equal, np.greater_equal, unequal]
COMPARE_CASES = [
    *((name, mode) for name in ("half", "float") for mode in range(6)),
    ("int32", 2),
]


@pytest.mark.parametrize("op", ["Compare", "Compares", "CompareRegister"])
@pytest.mark.parametrize(("name", "mode"), COMPARE_CASES)
def test_compare(emulator: ModuleType, op: str, name: str, mode: int) -> None:
    if op == "CompareRegister" and name == "int32":
        name = "float"
    dtype = DTYPES[name]
    a = np.random.default_rng(5).integers(-2, 3, 1024).astype(dtype)
    b = np.random.default_rng(6).integers(-2, 3, 1024).astype(dtype)
    if name != "int32":
        a[5] = np.nan
    memory = image(src0=a, src1=b)
    lanes = 256 // np.dtype(dtype).itemsize
    other = b if op != "Compares" else np.ones_like(b)
    bits = np.packbits(COMPARE[mode](a, other), bitorder="little")
    form = "mask" if op == "CompareRegister" else "count"
    count = lanes if op == "CompareRegister" else 4 * lanes
    got = execute(emulator, op, name, memory, form=form, low=count, repeat=1, mode=mode, scalar=1.0)
    np.testing.assert_array_equal(got[DST : DST + count // 8], bits[: count // 8])
    if op == "CompareRegister":
        return
    # three repeats two blocks apart: their bits lie close together
    strides = [1, 1, 1, 8, 10, 10] if op == "Compare" else [1, 1, 8, 10]
    got = execute(
        emulator,
        op,
        name,
        memory,
        form="mask",
        low=lanes,
        repeat=3,
        mode=mode,
        scalar=1.0,
        strides=strides,
    )
    step = 10 * 32 // np.dtype(dtype).itemsize
    parts = [COMPARE[mode](a[i * step :][:lanes], other[i * step :][:lanes]) for i in range(3)]
    wanted = np.packbits(np.concatenate(parts), bitorder="little")
    np.testing.assert_array_equal(got[DST : DST + wanted.size], wanted)


def test_a_repeat_that_is_not_full_gives_no_bits(
    emulator: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOGE_EMULATOR_RULES", "compare.count-256B=off")
    same = np.zeros(128, np.float32)
    memory = image(src0=same, src1=same)
    got = execute(emulator, "Compare", "float", memory, form="count", low=100, mode=2)
    wanted = memory.copy()
    wanted[DST : DST + 8] = 255
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("name", ["half", "float"])
def test_select(emulator: ModuleType, name: str, mode: int) -> None:
    dtype = DTYPES[name]
    a, b = values(dtype), values(dtype, seed=1)
    bits = np.random.default_rng(7).integers(0, 256, 256).astype(np.uint8)
    memory = image(src0=a, src1=b, tmp=bits)
    lanes = 256 // np.dtype(dtype).itemsize
    chosen = np.unpackbits(bits, bitorder="little").astype(bool)
    other = np.full_like(b, 2) if mode == 1 else b
    if mode:
        count = 2 * lanes + 11
        got = execute(
            emulator, "Select", name, memory, form="count", low=count, mode=mode, scalar=2.0
        )
        wanted = np.where(chosen[:count], a[:count], other[:count])
        np.testing.assert_array_equal(got[DST:].view(dtype)[:count], wanted)
    strides = [1, 1, 1, 8, 8, 8]
    got = execute(
        emulator,
        "Select",
        name,
        memory,
        form="mask",
        low=lanes,
        repeat=3,
        mode=mode,
        scalar=2.0,
        strides=strides,
    )
    used = np.tile(chosen[:lanes], 3) if mode == 0 else chosen[: 3 * lanes]
    wanted = np.where(used, a[: 3 * lanes], other[: 3 * lanes])
    np.testing.assert_array_equal(got[DST:].view(dtype)[: 3 * lanes], wanted)
