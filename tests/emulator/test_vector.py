"""Vector arithmetic in each form of a call, against NumPy."""

from types import ModuleType

import numpy as np
import pytest
from emulator_images import (
    ARITHMETIC,
    BINARY_STRIDES,
    DST,
    DTYPES,
    FORMS,
    SRC0,
    SRC1,
    UNARY_STRIDES,
    assert_same,
    execute,
    expected,
    form_fields,
    image,
    values,
    wide,
)

BINARY = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Max": np.maximum,
    "Min": np.minimum,
    "Div": np.divide,
    "And": np.bitwise_and,
    "Or": np.bitwise_or,
}

BINARY_CASES = [
    *((op, dtype) for op in ("Add", "Sub", "Mul", "Max", "Min") for dtype in ARITHMETIC),
    *(("Div", dtype) for dtype in ("half", "float")),
    *((op, dtype) for op in ("And", "Or") for dtype in ("int16", "uint16")),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("op", "name"), BINARY_CASES)
def test_binary(emulator: ModuleType, op: str, name: str, form: str) -> None:
    dtype = DTYPES[name]
    memory = image(src0=values(dtype), src1=values(dtype, seed=1))
    lanes = 256 // np.dtype(dtype).itemsize
    fields, pairs = form_fields(form, lanes)
    s = (1, 1, 1, 8, 8, 8) if form == "count" else BINARY_STRIDES
    got = execute(emulator, op, name, memory, strides=list(s), **fields)
    sources = [(SRC0, dtype, (s[1], s[4])), (SRC1, dtype, (s[2], s[5]))]
    wanted = expected(
        memory,
        pairs,
        (dtype, (s[0], s[3])),
        sources,
        lambda a, b: BINARY[op](a.astype(wide(dtype)), b.astype(wide(dtype))),
    )
    assert_same(got, wanted, dtype)


UNARY = {
    "Exp": np.exp,
    "Ln": np.log,
    "Sqrt": np.sqrt,
    "Rsqrt": lambda x: np.float32(1) / np.sqrt(x),
    "Reciprocal": lambda x: np.float32(1) / x,
    "Abs": np.abs,
    "Relu": lambda x: np.maximum(x, 0),
    "Not": np.bitwise_not,
}
UNARY_CASES = [
    *((op, dtype) for op in UNARY if op != "Not" for dtype in ("half", "float")),
    ("Relu", "int32"),
    ("Not", "int16"),
    ("Not", "uint16"),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("op", "name"), UNARY_CASES)
def test_unary(emulator: ModuleType, op: str, name: str, form: str) -> None:
    dtype = DTYPES[name]
    memory = image(src0=values(dtype))
    fields, pairs = form_fields(form, 256 // np.dtype(dtype).itemsize)
    s = (1, 1, 8, 8) if form == "count" else UNARY_STRIDES
    got = execute(emulator, op, name, memory, strides=list(s), **fields)
    wanted = expected(
        memory,
        pairs,
        (dtype, (s[0], s[2])),
        [(SRC0, dtype, (s[1], s[3]))],
        lambda a: UNARY[op](a if op == "Not" else a.astype(wide(dtype))),
    )
    # libm's last bit is its own
    assert_same(got, wanted, dtype, ulps={"Exp": 2, "Ln": 2}.get(op, 0))


SCALAR = {
    "Adds": np.add,
    "Muls": np.multiply,
    "Maxs": np.maximum,
    "Mins": np.minimum,
    "ShiftLeft": np.left_shift,
    "ShiftRight": np.right_shift,
}
SCALAR_CASES = [
    *((op, dtype) for op in ("Adds", "Muls", "Maxs", "Mins") for dtype in ARITHMETIC),
    *(
        (op, dtype)
        for op in ("ShiftLeft", "ShiftRight")
        for dtype in ("int16", "uint16", "int32", "uint32")
    ),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("op", "name"), SCALAR_CASES)
def test_scalar(emulator: ModuleType, op: str, name: str, form: str) -> None:
    dtype = DTYPES[name]
    memory = image(src0=values(dtype))
    fields, pairs = form_fields(form, 256 // np.dtype(dtype).itemsize)
    s = (1, 1, 8, 8) if form == "count" else UNARY_STRIDES
    scalar = 3 if np.issubdtype(dtype, np.integer) else 1.7
    got = execute(emulator, op, name, memory, strides=list(s), scalar=scalar, **fields)
    narrow = wide(dtype)(dtype(scalar))
    wanted = expected(
        memory,
        pairs,
        (dtype, (s[0], s[2])),
        [(SRC0, dtype, (s[1], s[3]))],
        lambda a: SCALAR[op](a.astype(wide(dtype)), narrow),
    )
    assert_same(got, wanted, dtype)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("op", ["MulAddDst", "Axpy"])
@pytest.mark.parametrize(
    ("name", "source"), [("half", "half"), ("float", "float"), ("float", "half")]
)
def test_accumulate(emulator: ModuleType, op: str, name: str, source: str, form: str) -> None:
    dtype, src = DTYPES[name], DTYPES[source]
    finite = [
        np.nan_to_num(values(t, seed=i), posinf=2, neginf=2) for i, t in enumerate((src, src))
    ]
    start = np.nan_to_num(values(dtype, seed=2), posinf=2, neginf=2)
    memory = image(src0=finite[0], src1=finite[1], dst=start)
    fields, pairs = form_fields(form, 256 // np.dtype(dtype).itemsize)
    ratio = np.dtype(dtype).itemsize // np.dtype(src).itemsize
    if op == "MulAddDst":
        s = (1, 1, 1, 8, 8 // ratio, 8 // ratio) if form == "count" else BINARY_STRIDES
        d, a, b = (s[0], s[3]), (s[1], s[4]), (s[2], s[5])
    else:
        s = (1, 1, 8, 8 // ratio) if form == "count" else UNARY_STRIDES
        d, a, b = (s[0], s[2]), (s[1], s[3]), (s[1], s[3])
    got = execute(
        emulator, op, name, memory, src_dtype=source, strides=list(s), scalar=1.7, **fields
    )

    def accumulate(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        factor = y if op == "MulAddDst" else src(1.7)
        exact = z.astype(np.float64) + x.astype(np.float64) * np.asarray(factor, np.float64)
        return exact.astype(np.float32)

    wanted = expected(
        memory, pairs, (dtype, d), [(SRC0, src, a), (SRC1, src, b), (DST, dtype, d)], accumulate
    )
    assert_same(got, wanted, dtype)
