"""What the media give that experts are read from: the page cache, the disk, and memory itself."""

import json
import os
import random
import re
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).resolve().parents[1] / "ops"))

import harness  # before torch allocates: large pages
import torch

PAGE_CACHE, DISK = "page cache", "disk"
MEDIA = (PAGE_CACHE, DISK)
THREADS = (1, 2, 3, 4)
ROUNDS = 3
EXPERT = re.compile(r"(.*\.experts\.\d+)\.")

Row = dict[str, Any]


class Extent(NamedTuple):
    """Bytes of a file that lie together."""

    path: Path
    offset: int
    size: int


def experts_of(folder: Path) -> dict[str, list[Extent]]:
    """Name of an expert -> where its tensors lie; those that touch are one extent."""
    found: dict[str, list[Extent]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            start, end = entry["data_offsets"]
            if not (match := EXPERT.match(name)):
                continue
            own = found.setdefault(match[1], [])
            here = Extent(path, 8 + length + start, end - start)
            if own and (path, here.offset) == (own[-1].path, own[-1].offset + own[-1].size):
                before = own.pop()
                here = before._replace(size=before.size + here.size)
            own.append(here)
    return found


def drop(folder: Path) -> None:
    """Takes a folder's files out of the page cache."""
    for path in folder.glob("*.safetensors"):
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)  # pages that are not on the disk yet would stay
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


class Reader:
    """Reads experts of a folder in random order into a buffer like the pool, by some threads."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder = folder
        experts = [*experts_of(folder).values()]
        random.Random(0).shuffle(experts)
        self.expert = max(sum(part.size for part in parts) for parts in experts)
        self.experts = experts[: max(1, min(len(experts), most // self.expert))]
        self.bytes = sum(part.size for parts in self.experts for part in parts)
        paths = {part.path for parts in self.experts for part in parts}
        self.files = {path: os.open(path, os.O_RDONLY) for path in paths}
        self.buffer = torch.zeros(self.bytes, dtype=torch.uint8)
        self.view = memoryview(self.buffer.numpy())

    def read(self, threads: int) -> None:
        places, at = [], 0
        for parts in self.experts:
            for part in parts:
                places.append((part, at))
                at += part.size

        def one(place: tuple[Extent, int]) -> None:
            part, at = place
            done = 0
            while done < part.size:
                into = self.view[at + done : at + part.size]
                done += os.preadv(self.files[part.path], [into], part.offset + done)

        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(one, places):
                pass

    def rate(self, medium: str, threads: int) -> float:
        """Bytes a second."""
        if medium == DISK:
            drop(self.folder)
        start = time.perf_counter()
        self.read(threads)
        return self.bytes / (time.perf_counter() - start)

    def close(self) -> None:
        for file in self.files.values():
            os.close(file)


def read_rates(folder: Path, most: int) -> Iterator[Row]:
    """Bandwidth for expert-sized reads, by medium and threads: medians of rounds in turns."""
    reader = Reader(folder, most)
    points = [(medium, threads) for medium in MEDIA for threads in THREADS]
    found: dict[tuple[str, int], list[float]] = {point: [] for point in points}
    for _ in range(ROUNDS):
        for medium, threads in points:
            if medium == PAGE_CACHE and threads == THREADS[0]:
                reader.read(2)  # into the page cache, from where the disk's turn has dropped it
            found[medium, threads].append(reader.rate(medium, threads))
    reader.close()
    for (medium, threads), rates in found.items():
        yield {
            "study": "ceiling",
            "medium": medium,
            "threads_read": threads,
            "expert_bytes": reader.expert,
            "gb_s": f"{statistics.median(rates) / 1e9:.4g}",
        }


def copy_rate(*, smoke: bool) -> Row:
    """What a copy in memory moves, read and written bytes together."""
    plan = harness.SMOKE_PLAN if smoke else harness.Plan(seconds=2.0)
    found = harness.timed({}, plan, torch.float32, smoke=smoke)["copy"]
    return {"study": "ceiling", "medium": "memory copy", "gb_s": found["gb_s"]}
