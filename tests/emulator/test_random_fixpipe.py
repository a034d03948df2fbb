"""The way out of L0C with random layouts, matrices, scales and ReLU, against a model in NumPy."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import random_cases as rc
from emulator_runs import BYTES

pytestmark = pytest.mark.slow

# as the documents number them, and whether they scale by one number or by one for each column
MODES = {
    ("float", "float"): ["NoQuant"],
    ("float", "half"): ["F322F16"],
    ("float", "bf16"): ["F322BF16"],
    ("float", "int8"): ["QF322B8_PRE", "VQF322B8_PRE"],
    ("float", "uint8"): ["QF322B8_PRE", "VQF322B8_PRE"],
    ("int32", "int32"): ["NoQuant"],
    ("int32", "half"): ["DEQF16", "VDEQF16"],
    ("int32", "int8"): ["REQ8", "VREQ8"],
    ("int32", "uint8"): ["REQ8", "VREQ8"],
}


def mode_numbers() -> dict[str, int]:
    names = "NoQuant F322F16 F322BF16 DEQF16 VDEQF16 QF322B8_PRE VQF322B8_PRE REQ8 VREQ8"
    return {name: i for i, name in enumerate(names.split())}


def converted(
    results: np.ndarray, to: str, mode: str, scales: np.ndarray, relu: bool
) -> np.ndarray:
    """Rows by columns, one scale for each column, to the bytes of the type."""
    negative = results < 0
    x = results.astype(np.float32)
    if mode not in ("NoQuant", "F322F16", "F322BF16"):
        factor = (scales & np.uint64(0xFFFFE000)).astype(np.uint32).view(np.float32)
        shifts = (scales >> np.uint64(36) & np.uint64(1)).astype(bool)
        shift = (scales >> np.uint64(32) & np.uint64(15)).astype(int) + 1
        if results.dtype == np.int32:
            shifted = np.clip(results >> shift, -32768, 32767).astype(np.float32)
            x = np.where(shifts, shifted, x)
        x = x * factor
    if relu:
        x = np.where(negative, np.float32(0), x)
    if to == "float":
        return x
    if to == "int32":
        return np.where(relu & negative, 0, results).astype(np.int32)
    if to == "half":
        with np.errstate(over="ignore"):
            return x.astype(np.float16)
    if to == "bf16":
        bits = x.view(np.uint32).astype(np.uint64)
        return (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)
    offset = (scales >> np.uint64(37) & np.uint64(511)).astype(int)
    offset = np.where(offset > 255, offset - 512, offset)
    signed = (scales >> np.uint64(46) & np.uint64(1)).astype(bool)
    whole = np.clip(np.rint(x), -256, 255).astype(int) + offset
    whole = np.where(signed, np.clip(whole, -128, 127), np.clip(whole, 0, 255))
    return np.asarray(whole.astype(np.uint8))


def choose(rng: np.random.Generator, source: str, to: str) -> dict[str, Any]:
    pick = rng.integers
    m, n = int(pick(1, 5)) * 16, int(pick(1, 5)) * 16
    if pick(0, 2):
        m -= int(pick(0, 15))
    p: dict[str, Any] = {"m": m, "n": n, "k": n if source == "float" else int(pick(1, 64))}
    p["format"] = int(pick(0, 3 if to in ("half", "bf16", "int8", "uint8") else 2))
    p["split"] = int(to == "float" and p["format"] == 1 and pick(0, 2))
    high = -(-m // 16) * 16
    p["row"], p["group"] = int(pick(0, m)), int(pick(0, n // 16))
    unit = 8 if p["split"] else 16
    p["nSize"] = int(pick(1, (n - p["group"] * 16) // unit + 1)) * unit
    p["mSize"] = int(pick(1, m - p["row"] + 1))
    p["srcStride"] = high
    p["relu"] = int(pick(0, 2))
    p["matrices"], p["srcNd"], p["dstNd"] = 1, 0, 0
    if p["format"] == 0:
        columns = p["nSize"] // 16
        if pick(0, 2):  # matrices beside each other in L0C
            p["nSize"], columns = 16, 1
            p["matrices"] = int(pick(1, (n - p["group"] * 16) // 16 + 1))
            p["srcNd"] = columns * high // 16
        if pick(0, 2):
            p["dst"] = p["nSize"] + int(pick(0, 9))
            p["dstNd"] = p["mSize"] * p["dst"] + int(pick(0, 9))
        else:  # and in the rows outside
            p["dst"] = p["nSize"] * p["matrices"] + int(pick(0, 9))
            p["dstNd"] = p["nSize"]
    else:
        size = {"half": 2, "bf16": 2, "int8": 1, "uint8": 1}.get(to, 4)
        width = 8 if p["split"] else 32 if size == 1 else 16
        p["dst"] = -(-p["mSize"] * width * size // 32) + int(pick(0, 5))
    return p


def scale_of(rng: np.random.Generator, to: str, count: int) -> np.ndarray:
    factors = (rng.standard_normal(count) * 2.0 ** rng.integers(-9, 4, count)).astype(np.float32)
    bits = factors.view(np.uint32).astype(np.uint64)
    bits |= rng.integers(0, 512, count).astype(np.uint64) << np.uint64(37)
    bits |= rng.integers(0, 16, count).astype(np.uint64) << np.uint64(32)
    bits |= rng.integers(0, 2, count).astype(np.uint64) << np.uint64(36)
    return bits | np.uint64((to != "uint8") << 46)


def laid_out(results: np.ndarray, p: dict[str, Any], size: int) -> np.ndarray:
    """The matrices where they belong in y, as bytes."""
    y = np.zeros(BYTES, np.uint8)
    for i, matrix in enumerate(results):
        rows, columns = matrix.shape
        for row in range(rows):
            line = np.ascontiguousarray(matrix[row]).view(np.uint8)
            if p["format"] == 0:
                at = (i * p["dstNd"] + row * p["dst"]) * size
                y[at : at + line.size] = line
                continue
            width = 8 if p["split"] else 32 if size == 1 else 16
            for first in range(0, columns, width):
                piece = line[first * size : (first + width) * size]
                at = first // width * p["dst"] * 32 + row * piece.size
                y[at : at + piece.size] = piece
    return y


@pytest.mark.parametrize(("source", "to"), MODES)
def test_ways_out(emulator: ModuleType, source: str, to: str) -> None:
    for rng in rc.trials(5, 200):
        p = choose(rng, source, to)
        mode = str(rng.choice(MODES[source, to]))
        m, n, k = p["m"], p["n"], p["k"]
        if m == 1:
            continue
        if source == "float":
            product = rng.standard_normal((m, k)) * 2.0 ** rng.integers(-20, 18, (m, k))
            product = product.astype(np.float32)
            x = [rc.left(product, 8), rc.right(np.eye(k, dtype=np.float32), 8)]
        else:
            a, b = (rng.integers(-128, 128, s).astype(np.int8) for s in ((m, k), (k, n)))
            product = a.astype(np.int32) @ b.astype(np.int32)
            x = [rc.left(a, 32), rc.right(b, 32)]
        by_vector = mode.startswith("V")
        scales = scale_of(rng, to, p["nSize"] if by_vector else 1)
        high = -(-m // 16) * 16
        start = p["group"] * high * 16 + p["row"] * 16
        one = int(scales[0])
        numbers = [
            *(f.nbytes for f in x),
            *(m, n, k, p["format"], start, int(by_vector)),
            *(p["nSize"], p["mSize"], p["srcStride"], p["dst"], mode_numbers()[mode], p["relu"]),
            *(p["matrices"], p["srcNd"], p["dstNd"], p["split"]),
            *(one & 0xFFFFFFFF, one >> 32),
        ]
        y = rc.run(emulator, "random_cube", f"out {source} {to}", rc.joined(*x), numbers, scales)
        results = []
        for i in range(p["matrices"]):
            first = p["group"] * 16 + i * p["srcNd"] * 16 // high * 16
            part = product[p["row"] :][: p["mSize"], first : first + p["nSize"]]
            results.append(converted(part, to, mode, scales, bool(p["relu"])))
        size = results[0].itemsize
        np.testing.assert_array_equal(y, laid_out(np.array(results), p, size), str((p, mode)))
