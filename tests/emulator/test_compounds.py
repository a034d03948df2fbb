"""Instructions of two steps, Casts of 4 bits, registers as masks, operators of whole tensors."""

import itertools
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

EMULATOR = Path(__file__).resolve().parents[2] / "csrc" / "emulator"
BYTES = 65536
SRC0, SRC1, DST, TMP = 0, 8192, 16384, 49152
TYPES = {
    "half": np.float16,
    "float": np.float32,
    "int8": np.int8,
    "uint8": np.uint8,
    "int16": np.int16,
    "int32": np.int32,
}
FORMS = ["count", "mask", "bits", "register", "counter"]


def values(dtype: type, seed: int) -> np.ndarray:
    """Small numbers with fractions, and what has no neighbours: zeros, infinities, NaN."""
    rng = np.random.default_rng(seed)
    count = 8192 // np.dtype(dtype).itemsize
    if np.issubdtype(dtype, np.integer):
        return rng.integers(-100, 100, count).astype(dtype)
    x = (rng.integers(-600, 600, count) / 8).astype(dtype)
    x[::19], x[::23], x[::29], x[::31] = 0.0, -0.0, np.inf, np.nan
    return x


def execute(
    emulator: ModuleType, op: str, name: str, a: np.ndarray, b: np.ndarray, **fields: Any
) -> tuple[np.ndarray, np.ndarray]:
    """UB before and after one instruction."""
    memory = np.random.default_rng(3).integers(0, 60, BYTES).astype(np.uint8)
    memory[SRC0 : SRC0 + a.nbytes] = a.view(np.uint8)
    memory[SRC1 : SRC1 + b.nbytes] = b.view(np.uint8)
    if "dst_values" in fields:
        d = fields.pop("dst_values")
        memory[DST : DST + d.nbytes] = d.view(np.uint8)
    if "tmp_values" in fields:
        t = fields.pop("tmp_values")
        memory[TMP : TMP + t.nbytes] = t.view(np.uint8)
    fields = {"dst": DST, "src0": SRC0, "src1": SRC1, "tmp": TMP, **fields}
    fields |= {"op": op, "dtype": name, "out_begin": 0, "out_end": BYTES}
    left = memory.copy()
    emulator.instruction(fields, memory, left)
    return memory, left


def choose(form: str, lanes: int) -> tuple[dict[str, Any], list[int]]:
    """A call's extent over contiguous operands, and the elements that it takes."""
    bits = 0x0F0F_1234_5678_9ABD_FFFF_0000_8000_0001 & ((1 << lanes) - 1)
    if form == "count":
        return {"form": form, "low": 3 * lanes - 5}, list(range(3 * lanes - 5))
    if form == "counter":
        fields = {"form": "mask", "low": 2 * lanes + 7, "repeat": 1, "counter": True}
        return fields, list(range(2 * lanes + 7))
    if form == "mask":
        inside = itertools.product(range(3), range(lanes - 3))
        return {"form": form, "low": lanes - 3, "repeat": 3}, [r * lanes + i for r, i in inside]
    chosen = [i for i in range(lanes) if bits >> i & 1]
    words = {"low": bits & (2**64 - 1), "high": bits >> 64}
    inside = itertools.product(range(3), chosen)
    return {"form": form, "repeat": 3, **words}, [r * lanes + i for r, i in inside]


def compare(memory: np.ndarray, left: np.ndarray, wanted: np.ndarray, chosen: list[int]) -> None:
    """The chosen elements of the destination are as wanted, all else is as it was."""
    before, after = (m[DST:TMP].view(wanted.dtype).copy() for m in (memory, left))
    before[chosen] = wanted[chosen]
    np.testing.assert_array_equal(after, before)
    if np.issubdtype(wanted.dtype, np.floating):  # a zero has a sign, that of NaN means nothing
        known = [i for i in chosen if not np.isnan(wanted[i])]
        np.testing.assert_array_equal(np.signbit(after[known]), np.signbit(before[known]))
    np.testing.assert_array_equal(left[:DST], memory[:DST])


def relu(x: np.ndarray) -> np.ndarray:
    """Keeps NaN, and makes -0 to 0."""
    return np.where(np.isnan(x), np.nan, np.where(x > 0, x, 0)).astype(x.dtype)


def integer(x: np.ndarray, dtype: type) -> np.ndarray:
    limits = np.iinfo(dtype)
    return np.clip(np.rint(np.nan_to_num(x, posinf=1e9, neginf=-1e9)), limits.min, limits.max)


SAME_TYPE = {
    "AddRelu": lambda a, b, _: relu(a + b),
    "SubRelu": lambda a, b, _: relu(a - b),
    "FusedMulAdd": lambda a, b, d: a * d + b,
    "MulAddRelu": lambda a, b, d: relu(a * d + b),
    "LeakyRelu": lambda a, _b, _d: np.where(np.signbit(a), a * 0.25, a),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("op", "name"),
    [
        *itertools.product(SAME_TYPE, ["half", "float"]),
        ("AddRelu", "int16"),
        ("SubRelu", "int16"),
    ],
)
def test_of_one_type(emulator: ModuleType, op: str, name: str, form: str) -> None:
    dtype = TYPES[name]
    a, b, d = values(dtype, 0), values(dtype, 1), values(dtype, 2)
    fields, chosen = choose(form, 256 // a.itemsize)
    strides = [1, 1, 8, 8] if op == "LeakyRelu" else [1, 1, 1, 8, 8, 8]
    memory, left = execute(
        emulator, op, name, a, b, dst_values=d, scalar=0.25, strides=strides, **fields
    )
    with np.errstate(all="ignore"):
        wanted = SAME_TYPE[op](*(x.astype(np.float64) for x in (a, b, d))).astype(dtype)
    compare(memory, left, wanted, chosen)


def two_types(op: str, name: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        if op == "AddDeqRelu":
            scaled = ((a + b).astype(np.float32) * np.float32(0.25)).astype(np.float16)
            return np.maximum(scaled, 0) + np.float16(0)
        if op == "CastDequant":
            return (a.astype(np.float32) * np.float32(0.25)).astype(np.float16)
        wide = (a.astype(np.int32), b.astype(np.int32)) if a.dtype == np.int16 else (a, b)
        x, y = wide
        result = {"AddReluCast": x + y, "SubReluCast": x - y, "MulCast": x * y}[op]
        if op != "MulCast":
            result = np.where(result > 0, result, 0).astype(result.dtype)
        if name == "half":
            return result.astype(np.float16)
        return integer(result.astype(np.float64), TYPES[name]).astype(TYPES[name])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("op", "name", "source"),
    [
        *(
            (op, *pair)
            for op in ("AddReluCast", "SubReluCast")
            for pair in (("int8", "half"), ("int8", "int16"), ("half", "float"))
        ),
        ("MulCast", "int8", "half"),
        ("MulCast", "uint8", "half"),
        ("AddDeqRelu", "half", "int32"),
        ("CastDequant", "half", "int32"),
    ],
)
def test_of_two_types(emulator: ModuleType, op: str, name: str, source: str, form: str) -> None:
    a, b = values(TYPES[source], 0), values(TYPES[source], 1)
    if op == "MulCast":
        a, b = a / 8, b / 8
    lanes = 256 // a.itemsize
    fields, chosen = choose(form, lanes)
    strides = [1, 1, 4, 8] if op == "CastDequant" else [1, 1, 1, 4, 8, 8]
    memory, left = execute(
        emulator, op, name, a, b, src_dtype=source, scalar=0.25, strides=strides, **fields
    )
    compare(memory, left, two_types(op, name, a, b), chosen)


@pytest.mark.parametrize("form", ["mask", "bits"])
def test_shift_right_rounds(emulator: ModuleType, form: str) -> None:
    a = np.random.default_rng(0).integers(-(2**15), 2**15, 4096).astype(np.int16)
    for bits in (0, 1, 5, 16):
        fields, chosen = choose(form, 128)
        memory, left = execute(
            emulator,
            "ShiftRightRounded",
            "int16",
            a,
            a,
            scalar=bits,
            strides=[1, 1, 8, 8],
            **fields,
        )
        whole = a.astype(np.int64)
        last = whole >> (bits - 1) & 1 if bits else 0
        compare(memory, left, ((whole >> bits) + last).astype(np.int16), chosen)


def test_the_mask_register_counts_instead_of_the_count(emulator: ModuleType) -> None:
    a = values(np.float32, 0)
    fields = {"form": "register", "low": 0xF0F0, "high": 0}
    memory, left = execute(emulator, "AddsByRegister", "float", a, a, scalar=1.0, **fields)
    compare(memory, left, a + 1, [i for i in range(64) if 0xF0F0 >> i & 1])


# --- 4 bits ---------------------------------------------------------------------------------------

ROUNDED = {
    "NONE": np.rint,
    "RINT": np.rint,
    "FLOOR": np.floor,
    "CEIL": np.ceil,
    "ROUND": lambda x: np.trunc(x + np.copysign(0.5, x)),
    "TRUNC": np.trunc,
}


def packed(numbers: np.ndarray) -> np.ndarray:
    """Two elements in a byte, the first in the lower half."""
    low, high = (numbers.astype(np.int8).view(np.uint8) & 15).reshape(-1, 2).T
    return low | high << 4


@pytest.mark.parametrize("mode", list(ROUNDED))
def test_cast_to_4_bits(emulator: ModuleType, mode: str) -> None:
    x = (np.random.default_rng(0).integers(-40, 40, 1024) / 4).astype(np.float16)
    x[:4] = np.nan, np.inf, -np.inf, 60000
    fields = {"form": "count", "low": 1000, "mode": list(ROUNDED).index(mode)}
    memory, left = execute(emulator, "Cast", "int4", x, x, src_dtype="half", **fields)
    with np.errstate(all="ignore"):
        numbers = np.clip(ROUNDED[mode](np.nan_to_num(x, posinf=99, neginf=-99)), -8, 7)
    compare(memory, left, packed(numbers), list(range(500)))


def test_cast_from_4_bits(emulator: ModuleType) -> None:
    numbers = np.random.default_rng(0).integers(-8, 8, 1024)
    fields = {"form": "count", "low": 1000, "src_dtype": "int4", "mode": 0}
    memory, left = execute(emulator, "Cast", "half", packed(numbers), numbers, **fields)
    compare(memory, left, numbers.astype(np.float16), list(range(1000)))


def test_cast_to_4_bits_with_strides(emulator: ModuleType) -> None:
    """A repeat is 128 elements: 64 bytes. Here three of them, 4 blocks apart."""
    x = np.arange(8192 // 2) % 16 - 8
    half = x.astype(np.float16)
    bits = 0xFFFF_0000_00FF_0003
    fields = {"form": "bits", "low": bits, "high": bits, "repeat": 3, "strides": [1, 1, 4, 8]}
    memory, left = execute(emulator, "Cast", "int4", half, half, src_dtype="half", mode=1, **fields)
    for repeat in range(3):
        wanted = memory[DST + 128 * repeat :][:64].copy()
        lanes = np.array([bits >> i % 64 & 1 for i in range(128)], bool)
        wanted[lanes[::2]] = packed(x[:128])[lanes[::2]]
        np.testing.assert_array_equal(left[DST + 128 * repeat :][:64], wanted)


def test_every_cast_of_the_table_has_a_test() -> None:
    names = {"int4b": "int4", "bfloat16": "bf16"}
    table = re.findall(r"X\((\w+), (\w+), k", (EMULATOR / "instructions.h").read_text())
    pairs = {tuple(names.get(t.lower(), t.lower()) for t in (dst, src)) for src, dst in table}
    tested = Path(__file__).with_name("test_cast.py").read_text()
    pairs_tested = set(re.findall(r'\("(\w+)", "(\w+)"\): "', tested))
    assert pairs - pairs_tested == {("half", "int4"), ("int4", "half")}


# --- Select and operators -------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["count", "mask"])
@pytest.mark.parametrize("name", ["half", "float"])
def test_select_by_the_same_bits_in_each_repeat(emulator: ModuleType, name: str, form: str) -> None:
    dtype = TYPES[name]
    a, b = values(dtype, 0), values(dtype, 1)
    bits = np.random.default_rng(2).integers(0, 256, 16).astype(np.uint8)
    lanes = 256 // a.itemsize
    fields, chosen = choose(form, lanes)
    memory, left = execute(
        emulator,
        "Select",
        name,
        a,
        b,
        tmp_values=bits,
        mode=0,
        strides=[1, 1, 1, 8, 8, 8],
        **fields,
    )
    taken = np.tile(np.unpackbits(bits, bitorder="little")[:lanes].astype(bool), a.size // lanes)
    compare(memory, left, np.where(taken, a, b), chosen)


@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("name", ["half", "float"])
def test_select_by_registers(emulator: ModuleType, name: str, mode: int) -> None:
    """Mode 0 repeats the bits, 1 takes the scalar, 2 the address of the bits from a register."""
    dtype = TYPES[name]
    a, b = values(dtype, 0), values(dtype, 1)
    b[0] = 3
    bits = np.random.default_rng(2).integers(0, 256, 256).astype(np.uint8)
    lanes = 256 // a.itemsize
    fields = {"form": "mask", "low": lanes - 5, "repeat": 3, "mode": mode}
    memory, left = execute(
        emulator,
        "SelectByRegister",
        name,
        a,
        b,
        tmp_values=bits,
        strides=[1, 1, 1, 8, 8, 8],
        **fields,
    )
    taken = np.unpackbits(bits, bitorder="little").astype(bool)
    taken = np.tile(taken[:lanes], 3) if mode == 0 else taken[: 3 * lanes]
    other = np.full(3 * lanes, b[0]) if mode == 1 else b[: 3 * lanes]
    chosen = [r * lanes + i for r in range(3) for i in range(lanes - 5)]
    if mode == 2:  # the address lies in UB behind the bits
        left[TMP:] = memory[TMP:]
    compare(memory, left, np.where(taken, a[: 3 * lanes], other), chosen)


@pytest.mark.parametrize("sign", ["+", "-", "*", "/"])
def test_operator_of_arithmetic(emulator: ModuleType, sign: str) -> None:
    a, b = values(np.float16, 0), values(np.float16, 1)
    memory, left = execute(emulator, sign, "half", a, b, form="count", low=333)
    with np.errstate(all="ignore"):
        wide = {
            "+": np.add,
            "-": np.subtract,
            "*": np.multiply,
            "/": np.divide,
        }[sign](a.astype(np.float32), b.astype(np.float32))
        wanted = wide.astype(np.float16)
    got = left[DST:].view(np.float16)
    np.testing.assert_array_equal(got[:333], wanted[:333])
    np.testing.assert_array_equal(left[DST + 666 : TMP], memory[DST + 666 : TMP])


@pytest.mark.parametrize(("sign", "function"), [("&", np.bitwise_and), ("|", np.bitwise_or)])
def test_operator_of_logic(emulator: ModuleType, sign: str, function: Any) -> None:
    a, b = values(np.int16, 0), values(np.int16, 1)
    memory, left = execute(emulator, sign, "int16", a, b, form="count", low=333)
    compare(memory, left, function(a, b), list(range(333)))


@pytest.mark.parametrize(
    ("sign", "function"),
    [
        ("<", np.less),
        (">", np.greater),
        ("==", np.equal),
        ("<=", np.less_equal),
        (">=", np.greater_equal),
        ("!=", np.not_equal),
    ],
)
def test_operator_of_comparison(emulator: ModuleType, sign: str, function: Any) -> None:
    a, b = (np.random.default_rng(i).integers(-2, 3, 4096).astype(np.float16) for i in (0, 1))
    memory, left = execute(emulator, sign, "half", a, b, form="count", low=384)
    wanted = np.packbits(function(a, b)[:384], bitorder="little")
    compare(memory, left, wanted, list(range(48)))
