"""Tile shapes of the grouped products, per device class, dtype and rows per expert.

None was measured on a GPU yet. Origin of every row: the static figures of cross-compilation
(bench/results/resources.csv, November 2026): the largest tile that keeps its accumulator in
registers without spilling and its stages in shared memory.
"""

from typing import NamedTuple

import torch
import triton

from ._common import INTERPRETED


class Config(NamedTuple):
    """One tile of a grouped product ``[BLOCK_M, R] x [R, BLOCK_C]``."""

    block_m: int  # rows
    block_c: int  # columns
    block_r: int  # reduced dimension, per step
    num_warps: int
    num_stages: int


def device_class() -> str:
    """``interpreter``, ``hopper`` (sm_90, sm_100: 227 KiB shared, TMA), ``ampere`` or ``cdna``."""
    if INTERPRETED:
        return "interpreter"
    target = triton.runtime.driver.active.get_current_target()
    if target.backend != "cuda":
        return "cdna"
    # 12x are consumer chips: 99 KiB shared memory
    return "hopper" if 90 <= int(target.arch) < 120 else "ampere"


# kernel -> device class -> (rows per expert up to, config), 16-bit operands
_HALF: dict[str, dict[str, list[tuple[float, Config]]]] = {
    "gemm": {
        "hopper": [
            (16, Config(16, 128, 128, 4, 4)),
            (64, Config(64, 128, 64, 4, 4)),
            (float("inf"), Config(128, 256, 64, 8, 4)),
        ],
        "ampere": [
            (16, Config(16, 128, 64, 4, 4)),
            (64, Config(64, 128, 64, 4, 3)),
            (float("inf"), Config(128, 128, 32, 8, 4)),
        ],
        "cdna": [
            (16, Config(16, 128, 64, 4, 2)),
            (float("inf"), Config(128, 128, 32, 8, 2)),
        ],
    },
    # block_c counts columns of each half: the tile has gate and up
    "up": {
        "hopper": [
            (16, Config(16, 64, 128, 4, 4)),
            (64, Config(64, 64, 64, 4, 4)),
            (float("inf"), Config(128, 128, 64, 8, 4)),
        ],
        "ampere": [
            (16, Config(16, 64, 64, 4, 4)),
            (64, Config(64, 64, 64, 4, 3)),
            (float("inf"), Config(128, 64, 32, 8, 4)),
        ],
        "cdna": [
            (16, Config(16, 64, 64, 4, 2)),
            (float("inf"), Config(128, 64, 32, 8, 2)),
        ],
    },
    "down_bwd": {
        "hopper": [
            (16, Config(16, 128, 128, 4, 3)),
            (64, Config(64, 128, 64, 8, 3)),
            (float("inf"), Config(128, 128, 64, 8, 3)),
        ],
        "ampere": [
            (16, Config(16, 64, 64, 4, 3)),
            (float("inf"), Config(64, 128, 32, 8, 3)),
        ],
        "cdna": [
            (16, Config(16, 64, 64, 4, 2)),
            (float("inf"), Config(64, 128, 32, 8, 2)),
        ],
    },
    # block_m and block_c tile a weight [out, in]; block_r counts rows of the expert
    "dw": {
        "hopper": [
            (16, Config(128, 128, 16, 8, 3)),
            (float("inf"), Config(128, 256, 64, 8, 3)),
        ],
        "ampere": [
            (16, Config(128, 128, 16, 8, 3)),
            (float("inf"), Config(128, 128, 32, 8, 4)),
        ],
        "cdna": [
            (16, Config(128, 128, 16, 8, 2)),
            (float("inf"), Config(128, 128, 32, 8, 2)),
        ],
    },
}

# float32 in IEEE precision runs on the general cores, with both operands in registers
_SINGLE = Config(32, 32, 16, 4, 2)

# small enough that small test shapes have several tiles in every dimension
_INTERPRETER = Config(16, 16, 32, 4, 2)


def config(
    kernel: str, dtype: torch.dtype, rows: int, num_experts: int, *, aligned: bool
) -> Config:
    """The tile for ``rows`` rows over ``num_experts`` experts, on the current device.

    ``aligned``: the operands can be loaded 16 bytes at a time.
    """
    device = device_class()
    if device == "interpreter":
        return _INTERPRETER
    if dtype.itemsize > 2:
        return _SINGLE
    if device == "hopper" and not aligned:
        device = "ampere"  # the masked pointers of an odd weight take the largest tiles' registers
    per_expert = rows / num_experts
    return next(c for limit, c in _HALF[kernel][device] if per_expert <= limit)
