"""Tile shapes of the grouped products, per device class and rows per expert, for 16-bit operands.

Each row of configs.csv is one tile and says where it comes from. "static figures" is the largest
tile whose accumulator stays in registers and whose stages fit in shared memory, according to
cross-compilation (bench/results/gpu_static.csv); a measured row names its machine and date. The
columns:
    kernel           gemm, up, down_bwd, dw, or dw_gathered
    device           a device class, see `device_class`; "unaligned" is for operands that NVIDIA's
                     chips cannot load 16 bytes at a time: masks and pointers take registers
    rows_per_expert  the row serves up to this number, on average
    the rest         the fields of `Config`
`MOGE_OPS_CONFIG_DIR` names a folder of such files, which bench/gpu/autotune.py can write. Their
rows replace all rows given here for the same kernel and device class. They are read once, and no
call ever times anything.
"""

import csv
import functools
import os
from pathlib import Path
from typing import NamedTuple

import torch
import triton

from ._common import INTERPRETED

KERNELS = ("gemm", "up", "down_bwd", "dw", "dw_gathered")
DEVICES = ("hopper", "ampere", "unaligned", "cdna")


class Config(NamedTuple):
    """The tile of a grouped product ``[BLOCK_M, R] x [R, BLOCK_C]``, and how it is compiled.

    For ``dw`` block_m and block_c tile a weight ``[O, I]``, and block_r counts rows.
    """

    block_m: int  # rows
    block_c: int  # columns; up has them twice, for gate and up
    block_r: int  # what one step reduces
    num_warps: int
    num_stages: int
    swap: int = 0  # 1: the weight is the left operand, for fewer rows than WGMMA takes
    blocks: int = 1  # programs per multiprocessor in a persistent grid
    specialize: int = 0  # 1: producer and consumer warps; gemm only, with num_warps 4


COLUMNS = ["kernel", "device", "rows_per_expert", *Config._fields, "origin"]
Table = dict[tuple[str, str], list[tuple[float, Config]]]

# the general cores multiply float32 in IEEE precision, with both operands in registers
_SINGLE = Config(32, 32, 16, 4, 2)

# small enough that small test shapes have several tiles in every dimension
_INTERPRETER = Config(16, 16, 32, 4, 2)


def device_class() -> str:
    """``interpreter``, ``hopper`` (sm_90, sm_100: 227 KiB shared, TMA), ``ampere`` or ``cdna``."""
    if INTERPRETED:
        return "interpreter"
    target = triton.runtime.driver.active.get_current_target()
    if target.backend != "cuda":
        return "cdna"
    # 12x are consumer chips: 99 KiB shared memory
    return "hopper" if 90 <= int(target.arch) < 120 else "ampere"


def _entry(line: dict[str, str]) -> tuple[tuple[str, str], tuple[float, Config]]:
    if list(line) != COLUMNS:
        raise ValueError(f"columns must be {','.join(COLUMNS)}, got {','.join(map(str, line))}")
    if line["kernel"] not in KERNELS or line["device"] not in DEVICES:
        place = f"{line['kernel']!r} on {line['device']!r}"
        raise ValueError(f"kernel must be one of {KERNELS}, device of {DEVICES}, got {place}")
    limit = float(line["rows_per_expert"])
    config = Config(*(int(line[field]) for field in Config._fields))
    for field in ("block_m", "block_c", "block_r", "num_warps"):
        value = getattr(config, field)
        if value < 1 or value & (value - 1):
            raise ValueError(f"{field} must be a power of two, got {value}")
    flags = {config.swap, config.specialize}
    if not limit > 0 or config.num_stages < 1 or config.blocks < 1 or flags - {0, 1}:
        raise ValueError(f"out of range: {line}")
    if not line["origin"]:
        raise ValueError("origin must say where the row comes from, got nothing")
    return (line["kernel"], line["device"]), (limit, config)


def read_table(path: Path) -> Table:
    """Entries of one file by kernel and device class; their rows per expert rise.

    Raises:
        ValueError: A line is not an entry, or no entry serves the most rows per expert.
    """
    table: Table = {}
    with path.open(newline="") as file:
        lines = csv.DictReader(file)
        for line in lines:
            try:
                key, entry = _entry(line)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {lines.line_num}: {error}") from error
            table.setdefault(key, []).append(entry)
    for key, entries in table.items():
        limits = [limit for limit, _ in entries]
        if limits != sorted(set(limits)) or limits[-1] != float("inf"):
            wanted = f"rows_per_expert of {' on '.join(key)} must rise and end with inf"
            raise ValueError(f"{path}: {wanted}, got {limits}")
    return table


@functools.cache
def _table() -> Table:
    table = read_table(Path(__file__).with_name("configs.csv"))
    folder = os.environ.get("MOGE_OPS_CONFIG_DIR")
    if folder:
        files = sorted(Path(folder).glob("*.csv"))
        if not files:
            raise ValueError(
                f"MOGE_OPS_CONFIG_DIR must name a folder of .csv files, got {folder!r}"
            )
        for path in files:
            table |= read_table(path)
    return table


def find_config(
    kernel: str,
    dtype: torch.dtype,
    rows: int,
    num_experts: int,
    columns: int | None,
    *,
    aligned: bool,
) -> Config:
    """The tile for ``rows`` rows over ``num_experts`` experts, on the current device.

    ``columns`` of the result may make the tile narrower; dw gives None. ``aligned`` says that the
    operands can be loaded 16 bytes at a time.
    """
    device = device_class()
    per_expert = rows / num_experts
    if device == "interpreter":
        return _INTERPRETER._replace(swap=int(per_expert <= 4))
    if dtype.itemsize > 2:
        return _SINGLE
    if device != "cdna" and not aligned:
        device = "unaligned"
    config = next(c for limit, c in _table()[kernel, device] if per_expert <= limit)
    # a tile of half the width moves a third more bytes per FLOP, which is worth it if it saves a
    # fifth of the columns that the tiles cover
    half = config.block_c // 2
    if columns and half >= 16 and _cover(columns, half) * 5 <= _cover(columns, config.block_c) * 4:
        config = config._replace(block_c=half)
    return config


def _cover(columns: int, block: int) -> int:
    """Columns of the tiles that cover the result's."""
    return -(-columns // block) * block
