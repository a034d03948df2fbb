"""What the random tests share: memory for a kernel, random numbers, layouts."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
from emulator_runs import aligned

TYPES = {
    "half": np.float16,
    "float": np.float32,
    "int8": np.int8,
    "uint8": np.uint8,
    "int32": np.int32,
}


def run(
    module: ModuleType,
    kernels: str,
    name: str,
    x: np.ndarray,
    numbers: list[int],
    tail: np.ndarray | None = None,
    **options: Any,
) -> np.ndarray:
    """What a kernel leaves in y, as bytes. z has the numbers, and `tail` behind 64 of them."""
    memory = [aligned() for _ in range(3)]
    data = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
    memory[0][: data.size] = data
    z = (np.array(numbers, np.int64) & 0xFFFFFFFF).astype(np.uint32).view(np.uint8)
    memory[2][: z.size] = z
    if tail is not None:
        memory[2][256 : 256 + tail.nbytes] = tail.view(np.uint8)
    getattr(module, kernels)(name, *memory, **options)
    return memory[1]


def joined(*arrays: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in arrays])


def nibbles(values: np.ndarray) -> np.ndarray:
    """Two in a byte, the first in its lower half."""
    pairs = (values.reshape(-1, 2) & 15).astype(np.uint8)
    return pairs[:, 0] | pairs[:, 1] << 4


def left(matrix: np.ndarray, c0: int) -> np.ndarray:
    """A in fractals of 16 x c0, row of blocks by row; zeros where it ends inside of one."""
    rows, columns = matrix.shape
    padded = np.zeros((-(-rows // 16) * 16, -(-columns // c0) * c0), matrix.dtype)
    padded[:rows, :columns] = matrix
    return padded.reshape(-1, 16, padded.shape[1] // c0, c0).transpose(0, 2, 1, 3)


def right(matrix: np.ndarray, c0: int) -> np.ndarray:
    """B, of k rows: fractals by rows of k, columns of 16 inside."""
    return left(matrix.T, c0).transpose(1, 0, 2, 3)


def bits_of_bf16(values: np.ndarray) -> np.ndarray:
    """Of numbers that bf16 holds."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def stored(values: np.ndarray, name: str) -> np.ndarray:
    """Small integers as the bytes of a type."""
    if name == "int4":
        return nibbles(values.reshape(-1))
    if name == "bf16":
        return bits_of_bf16(values)
    return values.astype(TYPES[name])


def trials(seed: int, count: int) -> Iterator[np.random.Generator]:
    """Yields one random generator for each trial."""
    for i in range(count):
        yield np.random.default_rng([seed, i])
