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
from moge_ops.triton_kernels._weight_gradient import weight_gradient
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError

from moge_ops.testing import PANGU

# most rows per expert of a class -> those that are timed for it
SHAPE_CLASSES = {16.0: 8, 64.0: 48, float("inf"): 1024}
H, F, E, K = PANGU.H, PANGU.F, PANGU.E, PANGU.K
Call = Callable[[], object]
Timer = Callable[[Call], float]


def products(rows: int, device: str) -> dict[str, Call]:
    """A call of each kernel in the layer of Pangu Pro MoE, with ``rows`` rows per expert."""
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
    permuted = new(N, H)

    def gemm() -> None:
        grouped_gemm.grouped_gemm_fwd(act, w_down, offsets)
        grouped_gemm.grouped_gemm_dx(permuted, w_down, offsets)

    return {
        "gemm": gemm,
        "up": lambda: grouped_mlp.grouped_mlp_fwd(*layer, "output", True),
        "down_bwd": lambda: grouped_mlp.grouped_mlp_bwd(x, *layer, pre, False, False),
        "dw": lambda: grouped_gemm.grouped_gemm_dw(act, permuted, offsets),
        "dw_gathered": lambda: weight_gradient(pre, x, offsets, **gathered),
    }


def neighbours(kernel: str, config: Config) -> Iterator[Config]:
    """Every change of one field by one step."""
    for field in ("block_m", "block_c", "block_r", "num_warps"):
        value = getattr(config, field)
        smallest, largest = (4, 8) if field == "num_warps" else (16, 256)
        for other in (2 * value, value // 2):
            if smallest <= other <= largest:
                yield config._replace(**{field: other})
    for stages in (config.num_stages + 1, config.num_stages - 1):
        if stages > 0:
            yield config._replace(num_stages=stages)
    if kernel == "gemm":
        yield config._replace(specialize=1 - config.specialize, swap=0, num_warps=4)


def fastest(kernel: str, config: Config, time: Callable[[Config], float]) -> Config:
    """From ``config`` on, one step at a time while a step is faster."""
    times = {config: time(config)}
    best = None
    while best != config:
        best = config
        for other in neighbours(kernel, best):
            if other not in times:
                times[other] = time(other)
        config = min(times, key=lambda c: times[c])
    return config


def search(device: str, timer: Timer, origin: str) -> Iterator[list[object]]:
    """Lines of a table: the best tile of every kernel and shape class.

    Raises:
        RuntimeError: Under deterministic algorithms: times differ from run to run, and with them
            the order of sums.
    """
    if torch.are_deterministic_algorithms_enabled():
        raise RuntimeError("the search needs torch.use_deterministic_algorithms(False), got True")
    place = _configs.device_class()
    for kernel, (limit, rows) in itertools.product(_configs.KERNELS, SHAPE_CLASSES.items()):
        call = products(rows, device)[kernel]

        def time(config: Config, kernel: str = kernel, call: Call = call) -> float:
            with mock.patch.dict(_configs._table(), {(kernel, place): [(float("inf"), config)]}):
                try:
                    return timer(call)
                except (CompilationError, OutOfResources, PTXASError):
                    return float("inf")  # not for this chip
                except RuntimeError as error:
                    if "PassManager" not in str(error):
                        raise
                    return float("inf")  # not for this compiler

        entries = _configs._table()[kernel, place]
        now = next(config for end, config in entries if limit <= end)
        yield [kernel, place, limit, *fastest(kernel, now, time), origin]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    name, today = torch.cuda.get_device_name(), datetime.date.today()
    origin = f"measured on {name}; {today}; Triton {triton.__version__}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "configs.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(_configs.COLUMNS)
        for line in search("cuda", triton.testing.do_bench, origin):
            print(*line, flush=True)
            table.writerow(line)


if __name__ == "__main__":
    main()
