"""`init_process_group("hccl")` and moge_ops.distributed on 2 and 4 cards, a process for each."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

LIMIT = 150.0  # seconds
WORKER = Path(__file__).with_name("collectives_worker.py")
CHECKS = ("check_collectives", "check_expert_parallel", "check_loss", "check_model")


@pytest.mark.parametrize(("ranks", "different"), [(2, True), (4, False)])
def test_on_hccl(ranks: int, different: bool, tmp_path: Path) -> None:
    checks = CHECKS
    if different:
        (tmp_path / "different").touch()
        checks = (*CHECKS, "check_different_collectives")
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
    end = time.monotonic() + LIMIT
    # until all are done or one has failed, for which the others would wait
    while any(p.poll() is None for p in processes) and not any(p.poll() for p in processes):
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    codes = [process.poll() for process in processes]
    for process in processes:
        process.kill()
    texts = []
    for log in logs:
        log.seek(0)
        texts.append(log.read()[-3000:])
    said = "\n".join(f"rank {rank}: {text}" for rank, text in enumerate(texts))
    assert codes == [0] * ranks, said
    for check in checks:
        assert all((tmp_path / f"{check}-{rank}").exists() for rank in range(ranks)), said
