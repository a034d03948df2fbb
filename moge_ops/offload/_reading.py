"""Reads tensors of safetensors files into memory that is there already.

No file is mapped: mapped pages would count into the resident set, and a file that shrinks under a
mapping kills the process, where a read of it is an error.
"""

import ctypes
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from moge_ops.quant._shards import MOST_HEADER

__all__ = ["Files", "Place", "read_together"]

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
PIECE = 16 * 2**20  # bytes that are staged at once where a tensor is converted
MOST_AT_ONCE = 2**30  # Linux reads at most 2 GB in one call


class _File:
    """An open file, which must stay as it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise FileNotFoundError(f"{path.parent} has no {path.name}") from None
        except OSError as error:
            raise OSError(f"{path} cannot be read: {error}") from None
        self.version = self._version(os.fstat(self.fd))

    @staticmethod
    def _version(found: os.stat_result) -> tuple[int, int, int, int]:
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def is_there(self) -> bool:
        """Whether the path still leads to the file that is open."""
        try:
            return self._version(self.path.stat()) == self.version
        except OSError:
            return False

    def read(self, offset: int, *into: memoryview) -> None:
        """Fills one memory after another from ``offset`` on."""
        rest = [memory for memory in into if memory]
        while rest:
            now = rest if len(rest[0]) <= MOST_AT_ONCE else [rest[0][:MOST_AT_ONCE]]
            try:
                n = os.preadv(self.fd, now, offset)
            except OSError as error:
                raise OSError(f"{self.path} cannot be read: {error}") from None
            if not n:
                break
            offset += n
            while rest and n >= len(rest[0]):
                n -= len(rest.pop(0))
            if n:
                rest[0] = rest[0][n:]
        # after the read: what was read before is from the file as it was
        if rest or self._version(os.fstat(self.fd)) != self.version:
            raise ValueError(f"{self.path} must not change while a model uses it, but it did")


class Place(NamedTuple):
    """Where a tensor, or a part of one, lies."""

    file: _File
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    name: str

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def where(self) -> str:
        """Tensor and file, for messages."""
        return f"{self.name:.200} in {self.file.path}"

    def part(self, i: int) -> "Place":
        """Its i-th part along the first dimension."""
        inner = self._replace(shape=self.shape[1:])
        return inner._replace(offset=self.offset + i * inner.nbytes)

    def read(self, into: Tensor) -> Tensor:
        """Reads it straight into a contiguous tensor of the CPU that is as large."""
        read_together([(self, into)])
        return into

    def new(self) -> Tensor:
        """Reads it into new memory."""
        return self.read(torch.empty(self.shape, dtype=self.dtype))

    def copy_to(self, into: Tensor) -> None:
        """Reads it into any tensor of its shape, in pieces where it has to be converted."""
        if tuple(into.shape) != self.shape:
            raise ValueError(f"{self.where} must be {list(into.shape)}, got {list(self.shape)}")
        if into.device.type == "cpu" and into.dtype == self.dtype and into.is_contiguous():
            self.read(into)
        elif self.nbytes <= PIECE or not self.shape:
            into.copy_(self.new())
        else:
            for i, rows in enumerate(into):
                self.part(i).copy_to(rows)


def read_together(pairs: Iterable[tuple[Place, Tensor]]) -> None:
    """Reads places into contiguous tensors of the CPU; those that touch in a file at once."""
    file, start, end, memories = None, 0, 0, list[memoryview]()
    for place, into in sorted(pairs, key=lambda pair: (id(pair[0].file), pair[0].offset)):
        assert into.is_contiguous()
        assert into.nbytes == place.nbytes
        assert into.device.type == "cpu"
        if not place.nbytes:
            continue
        if file is not place.file or place.offset != end:
            if file is not None:
                file.read(start, *memories)
            file, start, memories = place.file, place.offset, []
        memory = (ctypes.c_char * place.nbytes).from_address(into.data_ptr())
        memories.append(memoryview(memory).cast("B"))
        end = place.offset + place.nbytes
    if file is not None:
        file.read(start, *memories)


class Files:
    """The weight files of a folder, open.

    Attributes:
        places: Every tensor by its name.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._files: list[_File] = []
        self.places: dict[str, Place] = {}
        try:
            for path in paths:
                self._files.append(_File(path))
                self.places.update(self._header(self._files[-1]))
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _header(file: _File) -> Iterator[tuple[str, Place]]:
        size, start = file.version[2], bytearray(8)
        wrong = f"{file.path} is truncated or corrupted"
        if size < 8:
            raise ValueError(wrong)
        file.read(0, memoryview(start))
        length = int.from_bytes(start, "little")
        if length > min(size - 8, MOST_HEADER):
            raise ValueError(wrong)
        text = bytearray(length)
        file.read(8, memoryview(text))
        try:
            for name, told in json.loads(text).items():
                if name == "__metadata__":
                    continue
                first, last = told["data_offsets"]
                shape = tuple(told["shape"])
                place = Place(file, 8 + length + first, shape, DTYPES[told["dtype"]], name)
                if first < 0 or last - first != place.nbytes or 8 + length + last > size:
                    raise ValueError(wrong)
                yield name, place
        except (TypeError, LookupError, AttributeError, RecursionError, ValueError) as error:
            raise ValueError(f"{wrong}: {error!r:.200}") from None

    def check(self) -> None:
        """Raises ValueError if a path no longer leads to the file that is open."""
        for file in self._files:
            if not file.is_there():
                raise ValueError(f"{file.path} was changed while it was read")

    def close(self) -> None:
        """May come twice."""
        while self._files:
            os.close(self._files.pop().fd)
