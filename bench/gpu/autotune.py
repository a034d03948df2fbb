"""Times tiles of the grouped products on this machine's GPU, and writes a table of the best.

`MOGE_OPS_CONFIG_DIR=FOLDER` makes the operators use what `autotune.py FOLDER` has written.
"""

import argparse
import csv
import datetime
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
import triton
from moge_ops.triton_kernels import _configs, grouped_gemm, grouped_mlp
from moge_ops.triton_kernels._configs import Config
from moge_ops.triton_kernels._weight_gradient import weight_gradient
from torch import Tensor
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError

from moge_ops.testing import PANGU, Sizes

# most rows per expert of a class -> those that are timed for it
SHAPE_CLASSES = {16.0: 8, 64.0: 48, float("inf"): 1024}
# where the time goes first: many rows, and the products of both passes
ORDER = [*itertools.product([float("inf"), 16.0, 64.0], ("up", "gemm", "down_bwd"))]
ORDER += [*itertools.product([float("inf"), 16.0, 64.0], ("dw_gathered", "dw"))]
NEVER = float("inf")  # the time of a tile that cannot run
SMALLEST_GAIN = 0.02  # differences below are noise
LARGEST_ERROR = 0.02  # of a tile's result from that of the first one: both round
Call = Callable[[], Iterable[Tensor | None]]
Timer = Callable[[Call], float]  # milliseconds


def products(rows: int, s: Sizes, device: str) -> dict[str, Call]:
    """A call of each kernel in a layer, with ``rows`` rows per expert; ``s.T`` is not used.

    N = E rows, T = N / K tokens; x ``[T, H]``, both weights ``[E, 2F, H]`` and ``[E, H, F]``.
    """
    H, F, E, K = s.H, s.F, s.E, s.K
    T, N = rows * E // K, rows * E

    def new(*sizes: int) -> Tensor:
        return torch.randn(sizes, dtype=torch.bfloat16, device=device)

    x, pre, act = new(T, H), new(N, 2 * F), new(N, F)
    w_gate_up, w_down = new(E, 2 * F, H), new(E, H, F)
    # of an expert in the order of tokens, as `route` has them: gathered rows lie not too far apart
    slots = (
        torch.randperm(N, device=device, dtype=torch.int32).view(E, rows).sort(-1).values.ravel()
    )
    slot_to_row = slots.argsort().int().view(T, K)
    offsets = torch.arange(0, N + 1, rows, device=device, dtype=torch.int32)
    weights = torch.rand(T, K, device=device)
    layer = (x, w_gate_up, w_down, weights, slots, slot_to_row, offsets)
    gathered = {"row_to_slot": slots, "K": K, "gather_rows": True}
    permuted = new(N, H)
    return {
        "gemm": lambda: (
            grouped_gemm.grouped_gemm_fwd(act, w_down, offsets),
            grouped_gemm.grouped_gemm_dx(permuted, w_down, offsets),
        ),
        "up": lambda: grouped_mlp.grouped_mlp_fwd(*layer, "output", True),
        "down_bwd": lambda: grouped_mlp.grouped_mlp_bwd(x, *layer, pre, False, False),
        "dw": lambda: (grouped_gemm.grouped_gemm_dw(act, permuted, offsets),),
        "dw_gathered": lambda: (weight_gradient(pre, x, offsets, **gathered),),
    }


def neighbours(kernel: str, config: Config) -> Iterator[Config]:
    """Every change of one field by one step."""
    for field in ("block_m", "block_c", "block_r", "num_warps"):
        value = getattr(config, field)
        smallest, largest = (4, 8) if field == "num_warps" else (16, 256)
        if (kernel, field) == ("up", "block_c"):
            largest = 128  # gate and up have as many each, and descriptors no more than 256
        for other in (2 * value, value // 2):
            if smallest <= other <= largest:
                yield config._replace(**{field: other})
    for stages in (config.num_stages + 1, config.num_stages - 1):
        if stages > 0:
            yield config._replace(num_stages=stages)
    if kernel == "gemm":
        yield config._replace(specialize=1 - config.specialize, swap=0, num_warps=4)


def fastest(
    kernel: str, config: Config, time: Callable[[Config], float], steps: float = math.inf
) -> tuple[Config, dict[Config, float]]:
    """From ``config`` on, one step at a time while a step is faster by more than noise.

    With the times of all that were tried.
    """
    times = {config: time(config)}

    def faster(one: Config) -> bool:
        return times[one] < (1 - SMALLEST_GAIN) * times[config]

    while steps > 0:
        for other in neighbours(kernel, config):
            if other not in times:
                times[other] = time(other)
        best = min(times, key=lambda c: times[c])
        if faster(best):  # once more, one after the other: clocks may have changed in between
            times |= {c: time(c) for c in (config, best)}
        if not faster(best):
            break
        config, steps = best, steps - 1
    return config, times


def device_class() -> str:
    """The table's class for this GPU; under the interpreter, which has no rows, that of Hopper."""
    found = _configs.device_class()
    return "hopper" if found == "interpreter" else found


def present(kernel: str, limit: float) -> Config:
    """The tile that the table has for a class of shapes."""
    return next(c for end, c in _configs._table()[kernel, device_class()] if limit <= end)


class Trials:
    """Tiles of one kernel and one class of shapes, on one card."""

    def __init__(self, kernel: str, limit: float, s: Sizes, device: str, rows: int = 0) -> None:
        self.kernel = kernel
        self.now = present(kernel, limit)
        self.call = products(rows or SHAPE_CLASSES[limit], s, device)[kernel]
        self.want: list[Tensor] = []
        self.wrong: list[Config] = []

    def using(self, config: Config) -> AbstractContextManager[object]:
        """The kernel has this tile for every shape."""
        only = {(self.kernel, device_class()): [(float("inf"), config)]}
        return mock.patch.dict(_configs._table(), only)

    def time(self, config: Config, timer: Timer) -> float:
        """Milliseconds with one tile; ``NEVER`` where it does not build, or gives another result.

        Raises:
            RuntimeError: Under deterministic algorithms: times differ from run to run, and with
                them the order of sums.
        """
        if torch.are_deterministic_algorithms_enabled():
            raise RuntimeError(
                "the search needs torch.use_deterministic_algorithms(False), got True"
            )
        with self.using(config):
            try:
                found = [x for x in self.call() if x is not None]
                self.want = self.want or found
                if not all(map(close, found, self.want)):
                    self.wrong.append(config)
                    print(f"{self.kernel}: ANOTHER RESULT with {config}", flush=True)
                    return NEVER
                return timer(self.call)
            except Exception as error:
                if not unfit(error):
                    raise
                return NEVER

    def search(self, timer: Timer, steps: float = math.inf) -> "Found":
        """The fastest tile that is found from ``now`` on."""
        best, times = fastest(self.kernel, self.now, lambda config: self.time(config, timer), steps)
        return Found(best, times[self.now], times[best], len(times), len(self.wrong))


def unfit(error: Exception) -> bool:
    """Whether a tile is not for this chip, or not for this compiler."""
    unbuilt = (CompilationError, OutOfResources, PTXASError)
    # "invalid argument": the driver's, of a launch or a box that the chip does not take
    said = ("PassManager", "invalid argument")
    return isinstance(error, unbuilt) or any(words in str(error) for words in said)


def close(got: Tensor, want: Tensor) -> bool:
    """NaN is never close."""
    error, size = (  # without float32 copies, which take more memory than all the rest
        torch.linalg.vector_norm(x, dtype=torch.promote_types(x.dtype, torch.float32))
        for x in (got - want, want)
    )
    return bool(error <= LARGEST_ERROR * size)


class Found(NamedTuple):
    """What a search found."""

    config: Config
    before: float  # milliseconds of the table's tile
    after: float
    tried: int
    wrong: int  # of them, those that gave another result


def write_table(
    path: Path, found: Mapping[tuple[str, float], Found], origin: str, kept: str
) -> None:
    """A table of all kernels: what was found, and the present tiles elsewhere; with origins."""
    lines = []
    for kernel, limit in itertools.product(_configs.KERNELS, SHAPE_CLASSES):
        one = found.get((kernel, limit))
        config, source = (one.config, origin) if one else (present(kernel, limit), kept)
        lines.append([kernel, device_class(), limit, *config, source])
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")  # whoever is stopped leaves a whole table
    with unfinished.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([_configs.COLUMNS, *lines])
    unfinished.replace(path)


def read_found(path: Path, kept: str) -> dict[tuple[str, float], Found]:
    """What was found according to a table of :func:`write_table`, without the times."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["origin"] != kept]
    return {
        (line["kernel"], float(line["rows_per_expert"])): Found(
            Config(*(int(line[field]) for field in Config._fields)), NEVER, NEVER, 0, 0
        )
        for line in lines
    }


def origin() -> str:
    """Of rows that are measured here and today."""
    name, today = torch.cuda.get_device_name(), datetime.date.today()
    return f"measured on {name}; {today}; Triton {triton.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    found: dict[tuple[str, float], Found] = {}
    for kernel, limit in ((kernel, limit) for limit, kernel in ORDER):
        one = Trials(kernel, limit, PANGU, "cuda").search(triton.testing.do_bench)
        print(kernel, limit, *one, flush=True)
        found[kernel, limit] = one
        write_table(folder / "configs.csv", found, origin(), "static figures")


if __name__ == "__main__":
    main()
