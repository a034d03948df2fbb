"""`init_process_group("hccl")` and moge_ops.distributed on 2 and 4 cards, a process for each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("collectives_worker.py")
CHECKS = ("check_collectives", "check_expert_parallel", "check_loss", "check_model")


@pytest.mark.parametrize("ranks", [2, 4])
def test_on_hccl(ranks: int, tmp_path: Path) -> None:
    path = os.pathsep.join(sys.path)
    environment = {**os.environ, "MOGE_NPU_HOST_CARDS": str(ranks), "PYTHONPATH": path}
    logs = [(tmp_path / f"log-{rank}").open("w+") for rank in range(ranks)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(ranks), str(tmp_path)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        for rank, log in enumerate(logs)
    ]
    try:
        for process in processes:
            process.wait(150)
    finally:
        for process in processes:
            process.kill()
    for rank, log in enumerate(logs):
        log.seek(0)
        text = log.read()
        for check in CHECKS:
            assert (tmp_path / f"{check}-{rank}").exists(), f"rank {rank}: {check}: {text[-3000:]}"
