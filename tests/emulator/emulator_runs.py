"""What tests of the emulator's kernels share: global memory, runs of kernels, sums in order."""

from types import ModuleType
from typing import Any

import numpy as np

BYTES = 65536
X = np.random.default_rng(0).standard_normal(BYTES // 4).astype(np.float32)


def aligned() -> np.ndarray:
    """Global memory: a device's allocations start on more than NumPy's 16 bytes."""
    memory = np.zeros(BYTES + 512, np.uint8)
    start = -memory.ctypes.data % 512
    return memory[start : start + BYTES]


def run(
    module: ModuleType,
    name: str,
    x: np.ndarray,
    z: np.ndarray | None = None,
    cube: bool = False,
    **options: Any,
):
    """Runs a correct kernel: (y, z) as bytes, and the counters."""
    memory = [aligned() for _ in range(3)]
    memory[0][: x.nbytes] = x.view(np.uint8).reshape(-1)
    if z is not None:
        memory[2][: z.nbytes] = z.view(np.uint8).reshape(-1)
    counters = (module.run_cube if cube else module.run)(name, *memory, **options)
    return memory[1], memory[2], counters


def tree_sum(values: np.ndarray) -> Any:
    """Sum of a power of two elements, neighbours first, rounded at every node."""
    while values.size > 1:
        values = values[::2] + values[1::2]
    return values[0]


def sum_in_order(values: np.ndarray, lanes: int) -> Any:
    """Sum of a count: trees of whole repeats, one added after the other."""
    repeats = np.append(values, np.zeros(-values.size % lanes, values.dtype)).reshape(-1, lanes)
    total = tree_sum(repeats[0])
    for row in repeats[1:]:
        total += tree_sum(row)
    return total


def padded(array: np.ndarray) -> np.ndarray:
    """The bytes of an array, to the next 32."""
    data = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
    return np.pad(data, (0, -data.size % 32))


class HighLevelRun:
    """One run of a kernel of high-level calls; its results come one after the other."""

    def __init__(self, module: ModuleType, name: str, arrays: list, arguments: list, **options):
        memory = [aligned() for _ in range(3)]
        data = np.concatenate([padded(array) for array in arrays])
        memory[0][: data.size] = data
        memory[2][: 4 * len(arguments)] = np.array(arguments, np.int32).view(np.uint8)
        self.counters = module.run_adv(name, *memory, **options)
        self.y, self.z, self.at = memory[1], memory[2].view(np.int32), 0

    def take(self, dtype, *shape: int) -> np.ndarray:
        size = int(np.prod(shape))
        array = self.y[self.at :].view(dtype)[:size].reshape(shape)
        self.at += -(-array.nbytes // 32) * 32
        return array
