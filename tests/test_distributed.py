"""Expert parallelism on gloo: 2, 4 and 8 processes agree with one.

Importing torch is what costs, so a forkserver imports it once, and each world size is one launch
that runs every check of distributed_worker.py.
"""

import json
import multiprocessing
import runpy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).with_name("distributed_worker.py")
worker = runpy.run_path(str(WORKER))
LIMIT = 150.0  # seconds for one world size
CHECKS = [(size, name) for size in worker["TIMEOUTS"] for name in worker["checks"](size)]
Results = list[dict[str, Any]]  # of every rank


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Results]:
    """What the checks of a world size found, from its one launch."""
    known: dict[int, Results] = {}

    def of(size: int) -> Results:
        if size not in known:
            known[size] = launch(size, tmp_path_factory.mktemp(f"world{size}"))
        return known[size]

    return of


def launch(size: int, folder: Path) -> Results:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["moge_ops.distributed", "pytest"])
    ranks = [
        context.Process(target=runpy.run_path, args=(str(WORKER), {"WORLD": (r, size, folder)}))
        for r in range(size)
    ]
    for rank in ranks:
        rank.start()
    end = time.monotonic() + LIMIT
    for rank in ranks:
        rank.join(max(end - time.monotonic(), 0.0))
        rank.kill()
    files = [folder / f"{r}.json" for r in range(size)]
    return [json.loads(file.read_text()) if file.exists() else {} for file in files]


@pytest.mark.slow
@pytest.mark.xdist_group("distributed")
@pytest.mark.parametrize(("size", "check"), CHECKS)
def test_on_gloo(size: int, check: str, results: Callable[[int], Results]) -> None:
    for rank, found in enumerate(results(size)):
        assert check in found, f"rank {rank} did not come to this check, after {list(found)[-1:]}"
        assert "error" not in found[check], f"rank {rank}: {found[check]['error']}"
