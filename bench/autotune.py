"""Times tiles of the grouped products on this machine's GPU, and writes a table of the best.

`MOGE_OPS_CONFIG_DIR=FOLDER` makes the operators use what `autotune.py FOLDER` has written.
"""

import argparse
import csv
import datetime
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
import triton
from moge_ops.triton_kernels import _configs, grouped_gemm, grouped_mlp
from moge_ops.triton_kernels._configs import Config
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError

# rows per expert up to -> what is timed for it
SHAPE_CLASSES = {16.0: 8, 64.0: 48, float("inf"): 1024}
H, F, E, K = 5120, 1344, 64, 8
Timer = Callable[[Callable[[], object]], float]


def products(rows: int, device: str) -> dict[str, Callable[[], object]]:
    """A call of each kernel with that many rows per expert, of the layer of Pangu Pro MoE."""
    T, N = rows * E // K, rows * E

    def new(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, dtype=torch.bfloat16, device=device)

    x, pre, act = new(T, H), new(N, 2 * F), new(N, F)
    w_gate_up, w_down = new(E, 2 * F, H), new(E, H, F)
    slots = torch.randperm(N, device=device, dtype=torch.int32)
    slot_to_row = slots.argsort().int().view(T, K)
    offsets = torch.arange(0, N + 1, rows, device=device, dtype=torch.int32)
    weights = torch.rand(T, K, device=device)
    layer = (x, w_gate_up, w_down, weights, slots, slot_to_row, offsets)
    gathered = {"row_to_slot": slots, "K": K, "gather_rows": True}
    return {
        "gemm": lambda: grouped_gemm.grouped_gemm_fwd(act, w_down, offsets),
        "up": lambda: grouped_mlp.grouped_mlp_fwd(*layer, "output", True),
        "down_bwd": lambda: grouped_mlp.grouped_mlp_bwd(x, *layer, pre, False, False),
        "dw": lambda: grouped_gemm.grouped_gemm_dw(act, new(N, H), offsets),
        "dw_gathered": lambda: grouped_gemm.weight_gradient(pre, x, offsets, **gathered),
    }


def candidates(kernel: str, limit: float) -> Iterator[Config]:
    """The present entry, and its neighbours."""
    now = next(c for end, c in _configs._table()[kernel, _configs.device_class()] if limit <= end)
    around = itertools.product(
        (now.block_m, 2 * now.block_m, now.block_m // 2),
        (now.block_c, 2 * now.block_c, now.block_c // 2),
        (now.block_r, 2 * now.block_r, now.block_r // 2),
        (4, 8),
        (2, 3, 4, 5),
    )
    for sides in around:
        if min(sides[:3]) >= 16:
            yield now._replace(**dict(zip(Config._fields, sides, strict=False)))


def search(device: str, timer: Timer, origin: str) -> list[list[object]]:
    """Lines of a table: the fastest candidate of every kernel and shape class.

    Raises:
        RuntimeError: Under deterministic algorithms: times differ from run to run, and with them
            the order of sums.
    """
    if torch.are_deterministic_algorithms_enabled():
        raise RuntimeError("the search needs torch.use_deterministic_algorithms(False), got True")
    place = _configs.device_class()
    lines: list[list[object]] = []
    for kernel in _configs.KERNELS:
        for limit, rows in SHAPE_CLASSES.items():
            call = products(rows, device)[kernel]
            times: dict[Config, float] = {}
            for config in candidates(kernel, limit):
                table = {(kernel, place): [(float("inf"), config)]}
                with mock.patch.dict(_configs._table(), table):
                    try:
                        times[config] = timer(call)
                    except (CompilationError, OutOfResources, PTXASError):
                        continue  # too large for this chip
            lines.append([kernel, place, limit, *min(times, key=lambda c: times[c]), origin])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    name, today = torch.cuda.get_device_name(), datetime.date.today()
    origin = f"measured on {name}; {today}; Triton {triton.__version__}"
    lines = search("cuda", triton.testing.do_bench, origin)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "configs.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([_configs.COLUMNS, *lines])


if __name__ == "__main__":
    main()
