"""How much memory is left, and how much this process has."""

import os
import resource
from pathlib import Path

import torch

__all__ = ["available", "held"]


def available(device: str) -> int | None:
    """Bytes that can still be allocated; None if the system does not tell."""
    if device.startswith(("cuda", "npu")):
        free: int = torch.get_device_module(device).mem_get_info(device)[0]
        return free
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    left = next(
        int(line.split()[1]) * 1024
        for line in meminfo.read_text().splitlines()
        if line.startswith("MemAvailable")
    )
    group = Path("/sys/fs/cgroup")  # a container has a limit of its own
    try:
        limit = int((group / "memory.max").read_text())
        return min(left, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return left


def held() -> int:
    """Bytes of this process that are in memory, or the most that were, if the system says no more.

    Pages of files that are mapped count: those of libraries, above all.
    """
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if os.uname().sysname == "Darwin" else most * 1024
