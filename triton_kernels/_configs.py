"""Tile shapes of the grouped products, per device class and rows per expert, for 16-bit operands.

They come from configs.csv, one row each with its origin: "static figures" is the largest tile that
keeps its accumulator in registers without spilling and its stages in shared memory, by
cross-compilation (bench/results/gpu_static.csv); a measured row says where and when. The columns:
    kernel           gemm, up, down_bwd, dw, or dw_gathered
    device           a device class, see `device_class`; "unaligned" for what NVIDIA's chips cannot
                     load 16 bytes at a time, whose masks and pointers take the registers
    rows_per_expert  the row serves up to this many, on average
    the rest         the fields of `Config`
`MOGE_OPS_CONFIG_DIR` names a folder of such files, as bench/autotune.py writes them: what they hold
of a kernel and device class takes the place of what is here. They are read once. Nothing is ever
timed in a call.
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
    """One tile of a grouped product ``[BLOCK_M, R] x [R, BLOCK_C]``.

    ``dw``: block_m and block_c tile a weight ``[out, in]``, block_r counts rows of the expert.
    """

    block_m: int  # rows
    block_c: int  # columns; of up, in each half: the tile has gate and up
    block_r: int  # reduced dimension, per step
    num_warps: int
    num_stages: int
    swap: int = 0  # the product of the transposed operands, for fewer rows than WGMMA takes
    blocks: int = 1  # programs per multiprocessor, of a persistent grid
    specialize: int = 0  # of gemm: warps that load beside those that multiply; num_warps 4


COLUMNS = ["kernel", "device", "rows_per_expert", *Config._fields, "origin"]
Table = dict[tuple[str, str], list[tuple[float, Config]]]

# float32 in IEEE precision runs on the general cores, with both operands in registers
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
    """Entries of one file, by kernel and device class, rising in rows per expert.

    Raises:
        ValueError: A line that is not an entry, or a last one that has an end.
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


def config(
    kernel: str,
    dtype: torch.dtype,
    rows: int,
    num_experts: int,
    columns: int | None,
    *,
    aligned: bool,
) -> Config:
    """The tile for ``rows`` rows over ``num_experts`` experts, on the current device.

    ``columns``: of the result, to choose a narrower tile by, None for dw. ``aligned``: the operands
    can be loaded 16 bytes at a time.
    """
    device = device_class()
    per_expert = rows / num_experts
    if device == "interpreter":
        return _INTERPRETER._replace(swap=int(per_expert <= 4))
    if dtype.itemsize > 2:
        return _SINGLE
    if device != "cdna" and not aligned:
        device = "unaligned"
    tile = next(c for limit, c in _table()[kernel, device] if per_expert <= limit)
    # a tile of half the width moves a third more bytes per FLOP: worth it from a fifth of the
    # columns on that the whole width would leave empty
    half = tile.block_c // 2
    if columns and half >= 16 and _cover(columns, half) * 5 <= _cover(columns, tile.block_c) * 4:
        tile = tile._replace(block_c=half)
    return tile


def _cover(columns: int, block: int) -> int:
    """Columns of the tiles that cover the result's."""
    return -(-columns // block) * block
