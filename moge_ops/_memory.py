"""How much memory is left."""

from pathlib import Path

import torch

__all__ = ["available"]


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
