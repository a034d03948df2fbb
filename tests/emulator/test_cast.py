"""Casts in each rounding mode of their tables, against NumPy."""

from fractions import Fraction
from types import ModuleType

import numpy as np
import pytest
from emulator_images import (
    DST,
    DTYPES,
    SRC0,
    UNARY_STRIDES,
    assert_same,
    execute,
    expected,
    form_fields,
    image,
    values,
)

MODES = ["NONE", "RINT", "FLOOR", "CEIL", "ROUND", "TRUNC", "ODD"]
# (destination, source): modes
CASTS = {
    ("float", "half"): "NONE",
    ("int32", "half"): "RINT FLOOR CEIL ROUND TRUNC",
    ("int16", "half"): "RINT FLOOR CEIL ROUND TRUNC",
    ("int8", "half"): "NONE RINT FLOOR CEIL ROUND TRUNC",
    ("uint8", "half"): "NONE RINT FLOOR CEIL ROUND TRUNC",
    ("half", "float"): "NONE RINT FLOOR CEIL ROUND TRUNC ODD",
    ("bf16", "float"): "RINT FLOOR CEIL ROUND TRUNC",
    ("int32", "float"): "RINT FLOOR CEIL ROUND TRUNC",
    ("int16", "float"): "RINT FLOOR CEIL ROUND TRUNC",
    ("int64", "float"): "RINT FLOOR CEIL ROUND TRUNC",
    ("float", "float"): "RINT FLOOR CEIL ROUND TRUNC",
    ("float", "bf16"): "NONE",
    ("int32", "bf16"): "RINT FLOOR CEIL ROUND TRUNC",
    ("half", "int8"): "NONE",
    ("half", "uint8"): "NONE",
    ("half", "int16"): "NONE RINT FLOOR CEIL ROUND TRUNC",
    ("float", "int16"): "NONE",
    ("float", "int32"): "NONE RINT FLOOR CEIL ROUND TRUNC",
    ("int16", "int32"): "NONE",
    ("int64", "int32"): "NONE",
    ("half", "int32"): "NONE",
    ("int32", "int64"): "NONE",
    ("float", "int64"): "RINT FLOOR CEIL ROUND TRUNC",
}
CAST_CASES = [(*pair, mode) for pair, modes in CASTS.items() for mode in modes.split()]


def to_integral(x: np.ndarray, mode: str) -> np.ndarray:
    away = np.trunc(x) + np.where(np.abs(x - np.trunc(x)) >= 0.5, np.sign(x), 0)
    choices = {"FLOOR": np.floor, "CEIL": np.ceil, "TRUNC": np.trunc}
    return away if mode == "ROUND" else choices.get(mode, np.rint)(x)


def grid(name: str) -> np.ndarray:
    """Every number of a 16-bit type from 0 up, and the power of two in infinity's place."""
    if name == "half":
        numbers = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
        return np.append(numbers, 2.0**16)
    bits = np.arange(0x7F80, dtype=np.uint32) << 16
    return np.append(bits.view(np.float32).astype(np.float64), 2.0**128)


def to_short_bits(x: np.ndarray, name: str, mode: str) -> np.ndarray:
    """Bits of half or bf16, chosen from the list of its numbers."""
    numbers = grid(name)
    magnitude = np.abs(x.astype(np.float64))
    last = len(numbers) - 1  # infinity, which no finite number equals
    above = np.minimum(np.searchsorted(numbers, magnitude), last)
    exact = (numbers[above] == magnitude) & (above != last)
    below = np.where(exact, above, np.maximum(above - 1, 0))
    low, high, negative = magnitude - numbers[below], numbers[above] - magnitude, np.signbit(x)
    tie = (below % 2 == 1) | (mode == "ROUND")
    upwards = {
        "FLOOR": negative,
        "CEIL": ~negative,
        "TRUNC": np.zeros_like(negative),
        "ODD": below % 2 == 0,
    }.get(mode, (high < low) | ((high == low) & tie))
    bits = np.where((above != below) & upwards, above, below)
    bits = np.where(np.isinf(x), last, bits)
    return (bits | np.where(negative, 0x8000, 0)).astype(np.uint16)


def to_float(x: np.ndarray, mode: str) -> np.ndarray:
    """Integers to float in a rounding mode, by the neighbours of the nearest."""
    results = []
    for value in map(int, x):
        nearest = np.float32(value)
        around = [np.nextafter(nearest, np.float32(s)) for s in (-np.inf, np.inf)]
        below = max(v for v in (*around, nearest) if float(v) <= value)
        above = min(v for v in (*around, nearest) if float(v) >= value)
        if mode == "ROUND" and Fraction(float(below)) + Fraction(float(above)) == 2 * value:
            results.append(above if value > 0 else below)
        else:
            toward = below if value > 0 else above
            choices = {"FLOOR": below, "CEIL": above, "TRUNC": toward}
            results.append(choices.get(mode, nearest))
    return np.array(results, np.float32)


def cast_values(name: str) -> np.ndarray:
    if name == "bf16":
        return (values(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    dtype = DTYPES[name]
    rng = np.random.default_rng(3)
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        x = rng.integers(limits.min, limits.max, 1024, dtype, endpoint=True)
        x[: min(x.size, 256)] >>= 4
        x[:2] = limits.min, limits.max
        if name == "int64":  # ties and neighbours of ties between two floats
            x[2:10] = (1 << 24) + np.arange(8) - 3
            x[10:18] = -((1 << 25) + np.arange(8) - 3)
        return x
    x = values(dtype, 1024)
    # ties between integers, between two halves and between two bf16; the overflow of half
    x[:8] = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.0, -3.5]
    if dtype == np.float32:
        x[8:16] = [1 + 2**-11, 1 + 3 * 2**-11, 65519.0, 65520.0, -65536.0, 1e6, 2**-25, 3 * 2**-25]
        x[16:20] = [1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3.4e38]
    x[20] = np.nan
    return x


@pytest.mark.parametrize(("name", "source", "mode"), CAST_CASES)
def test_cast(emulator: ModuleType, name: str, source: str, mode: str) -> None:
    src = DTYPES.get(source, np.uint16)
    dst = DTYPES.get(name, np.uint16)
    x = cast_values(source)
    fields = {"src_dtype": source, "mode": MODES.index(mode), "scalar": 0.25}
    got = execute(emulator, "Cast", name, image(src0=x), form="count", low=1000, **fields)
    result = got[DST:].view(dst)[:1000]
    number = x[:1000]
    if source == "bf16":
        number = (number.astype(np.uint32) << 16).view(np.float32)
    real = number.astype(np.float64)
    nan = np.isnan(real)
    with np.errstate(all="ignore"):
        if (name, source) == ("half", "int32"):
            scaled = real.astype(np.float32) * np.float32(0.25)
            wanted, result = scaled.astype(np.float16).view(np.uint16), result.view(np.uint16)
        elif name == "float" and np.issubdtype(src, np.integer) and source != "bf16":
            wanted = to_float(number, mode)
        elif name == "float" and source == "float":
            wanted = to_integral(real, mode).astype(np.float32)
        elif name == "float":
            wanted = number.astype(np.float32)
        elif name in ("half", "bf16"):
            wanted = to_short_bits(number.astype(np.float32), name, mode)
            result = result.view(np.uint16)
        else:
            limits = np.iinfo(dst)
            whole = [0 if np.isnan(v) else v for v in to_integral(real, mode)]
            if source.startswith("int"):
                whole = number.tolist()
            wanted = np.array(
                [
                    limits.max if v > limits.max else limits.min if v < limits.min else int(v)
                    for v in whole
                ],
                dst,
            )
    if name in ("half", "bf16"):
        infinity = 0x7C00 if name == "half" else 0x7F80
        assert ((result[nan] & 0x7FFF) > infinity).all()
        result, wanted = result[~nan], wanted[~nan]
    np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize("form", ["mask", "bits", "register", "counter"])
@pytest.mark.parametrize(("name", "source"), [("float", "half"), ("half", "float")])
def test_cast_strides(emulator: ModuleType, name: str, source: str, form: str) -> None:
    src, dst = DTYPES[source], DTYPES[name]
    memory = image(src0=values(src))
    fields, pairs = form_fields(form, 64)
    got = execute(
        emulator,
        "Cast",
        name,
        memory,
        src_dtype=source,
        mode=0,
        strides=list(UNARY_STRIDES),
        **fields,
    )
    s = UNARY_STRIDES
    wanted = expected(memory, pairs, (dst, (s[0], s[2])), [(SRC0, src, (s[1], s[3]))], lambda a: a)
    assert_same(got, wanted, dst)
