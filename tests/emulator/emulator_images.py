"""One instruction on an image of UB: operands, strides, masks, and what NumPy leaves there."""

import itertools
from types import ModuleType
from typing import Any

import numpy as np
from emulator_runs import BYTES

DTYPES = {
    "half": np.float16,
    "float": np.float32,
    "int16": np.int16,
    "int32": np.int32,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "int8": np.int8,
    "uint8": np.uint8,
    "int64": np.int64,
}
SRC0, SRC1, DST, TMP = 0, 16384, 32768, 49152
FORMS = ["count", "mask", "bits", "register", "counter"]
ARITHMETIC = ("int16", "half", "int32", "float")
MOVED = {"half": np.uint16, "bf16": np.uint16, "float": np.uint32, "int32": np.uint32}
# dst, src0, src1 block strides, then repeat strides: gaps, a block read again and again
BINARY_STRIDES = (2, 1, 0, 17, 9, 4)
UNARY_STRIDES = (2, 1, 17, 9)


def values(dtype: type, count: int = 8192 // 4, seed: int = 0) -> np.ndarray:
    """Numbers of every size that the type holds, small ones for integers."""
    rng = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.integer):
        low = 0 if np.issubdtype(dtype, np.unsignedinteger) else -100
        return rng.integers(low, 100, count).astype(dtype)
    sizes = 2.0 ** rng.integers(-26 if dtype == np.float16 else -30, 12, count)
    with np.errstate(over="ignore"):
        x = (rng.standard_normal(count) * sizes).astype(dtype)
    x[::97] = np.inf
    x[::101] = -0.0
    x[50::103] = x[49:-1:103][: x[50::103].size]
    return x


def wide(dtype: type) -> type:
    return np.float32 if np.issubdtype(dtype, np.floating) else np.int64


def image(**regions: np.ndarray) -> np.ndarray:
    """An image of UB; what the test does not name holds noise."""
    memory = np.random.default_rng(9).integers(0, 60, BYTES).astype(np.uint8)
    for name, data in regions.items():
        begin = globals()[name.upper()]
        memory[begin : begin + data.nbytes] = data.view(np.uint8).reshape(-1)
    return memory


def execute(
    module: ModuleType, op: str, dtype: str, memory: np.ndarray, **fields: Any
) -> np.ndarray:
    """The image after one instruction; only [out_begin, out_end) of it is compared by callers."""
    fields = {"dst": DST, "src0": SRC0, "src1": SRC1, "tmp": TMP} | fields
    fields = {"out_begin": 0, "out_end": BYTES} | fields
    result = memory.copy()
    taken, _ = module.instruction({"op": op, "dtype": dtype, **fields}, memory, result)
    execute.taken = taken
    return result


def at(strides: tuple[int, int], size: int, repeat: int, lane: int) -> int:
    """Byte offset of a lane, (block stride, repeat stride) in blocks of 32 bytes."""
    per_block = 32 // size
    return repeat * strides[1] * 32 + lane // per_block * strides[0] * 32 + lane % per_block * size


def form_fields(form: str, lanes: int) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    """A call's mask in one of the forms, and the (repeat, lane) pairs that it lets through."""
    bits = 0x0F0F_1234_5678_9ABD_FFFF_0000_8000_0001 & ((1 << lanes) - 1)
    words = {"low": bits & (2**64 - 1), "high": bits >> 64}
    chosen = [i for i in range(lanes) if bits >> i & 1]
    if form == "count":
        count = 3 * lanes - 5
        return {"form": "count", "low": count}, [divmod(i, lanes) for i in range(count)]
    if form == "counter":
        count = 2 * lanes + 7
        fields = {"form": "mask", "low": count, "repeat": 1, "counter": True}
        return fields, [divmod(i, lanes) for i in range(count)]
    if form == "mask":
        fields = {"form": "mask", "low": lanes - 3, "repeat": 3}
        return fields, list(itertools.product(range(3), range(lanes - 3)))
    return {"form": form, "repeat": 3, **words}, list(itertools.product(range(3), chosen))


def expected(
    memory: np.ndarray,
    pairs: list[tuple[int, int]],
    dst: tuple[type, tuple[int, int]],
    sources: list[tuple[int, type, tuple[int, int]]],
    function: Any,
) -> np.ndarray:
    """What is left of the image when `function` of the sources' lanes goes to the destination."""
    sizes = [np.dtype(t).itemsize for _, t, _ in sources]
    dst_size = np.dtype(dst[0]).itemsize
    columns = []
    for (begin, dtype, strides), size in zip(sources, sizes, strict=True):
        offsets = [begin + at(strides, size, r, i) for r, i in pairs]
        columns.append(np.array([memory[o : o + size].view(dtype)[0] for o in offsets], dtype))
    with np.errstate(all="ignore"):
        results = np.asarray(function(*columns)).astype(dst[0])
    left = memory.copy()
    for (r, i), result in zip(pairs, results, strict=True):
        begin = DST + at(dst[1], dst_size, r, i)
        left[begin : begin + dst_size] = np.array([result], dst[0]).view(np.uint8)
    return left


def assert_same(got: np.ndarray, wanted: np.ndarray, dtype: type, ulps: int = 0) -> None:
    """Equal outside the destination, and inside it to `ulps` units; all NaNs count as equal."""
    np.testing.assert_array_equal(got[:DST], wanted[:DST])
    np.testing.assert_array_equal(got[TMP:], wanted[TMP:])
    got, wanted = (memory[DST:TMP].view(dtype) for memory in (got, wanted))
    if np.issubdtype(dtype, np.floating):
        bits = {2: np.int16, 4: np.int32}[np.dtype(dtype).itemsize]
        nan = np.isnan(got) & np.isnan(wanted)
        far = np.abs(got.view(bits).astype(np.int64) - wanted.view(bits)) > ulps
        got, wanted = got[far & ~nan], wanted[far & ~nan]
    np.testing.assert_array_equal(got, wanted)
