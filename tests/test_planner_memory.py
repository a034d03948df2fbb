"""The planner's bytes are those that gloo processes measure, and those of shapes on meta."""

import json
import multiprocessing
import runpy
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from moge_ops.models import PanguMoEConfig
from moge_ops.planner import Layout, Precision
from moge_ops.planner._memory import (
    Work,
    rotation_bytes,
    stage_memory,
)

WORKER = Path(__file__).with_name("planner_worker.py")
worker = runpy.run_path(str(WORKER))
CONFIG = PanguMoEConfig(**worker["SIZES"])
WORK = Work(worker["ROWS"], worker["LENGTH"], worker["LENGTH"])
LIMIT = 120.0


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, int]]]:
    """Bytes of every case on every rank, of four processes and of one."""
    found: dict[str, list[dict[str, int]]] = {}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["moge_ops.distributed", "pytest"])
    for world in (1, 4):
        folder = tmp_path_factory.mktemp(f"world{world}")
        ranks = [
            context.Process(
                target=runpy.run_path, args=(str(WORKER), {"WORLD": (r, world, folder)})
            )
            for r in range(world)
        ]
        for rank in ranks:
            rank.start()
        end = time.monotonic() + LIMIT
        for rank in ranks:
            rank.join(max(end - time.monotonic(), 0.0))
            rank.kill()
        for r in range(world):
            path = folder / f"{r}.json"
            assert path.exists(), f"rank {r} of {world} ended without a result"
            for case, sizes in json.loads(path.read_text()).items():
                found.setdefault(case, []).append(sizes)
    return found


def layout_of(case: str) -> tuple[Layout, int]:
    (dp, tp, ep), heads, recompute, dtype = worker["CASES"][case]
    hp = {None: 1, "groups": ep, "width": tp}[heads]
    shard = 3 if dp > 1 else 0
    made = Layout(ep, tp, hp, dp, 1, WORK.rows, recompute, shard)
    return made, getattr(torch, dtype).itemsize


@pytest.mark.slow
@pytest.mark.xdist_group("distributed")
@pytest.mark.parametrize("case", worker["CASES"])
def test_counted_bytes_are_measured_ones(case: str, measured: dict[str, Any]) -> None:
    """Exact on every rank; where FSDP2 splits unevenly, exact on the rank with most."""
    layout, item = layout_of(case)
    memory = stage_memory(CONFIG, layout, Precision(item, item), WORK, 1, 0)
    assert len(measured[case]) == layout.devices
    want = {"parameters": memory.parameters, "gradients": memory.gradients}
    want["moments"] = memory.states // Precision(item).states * 2
    if layout.dp == 1:
        want["activations"] = memory.activations
        if layout.recompute == "full":  # held by a closure, where autograd's hooks do not see it
            want["activations"] -= rotation_bytes(CONFIG, WORK, item)
    for name, count in want.items():
        assert max(sizes[name] for sizes in measured[case]) == count, name
    if layout.dp == 1:
        assert all(sizes == measured[case][0] for sizes in measured[case])
