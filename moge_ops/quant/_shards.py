"""The weight files of a checkpoint folder: which there are, and what their headers say."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from moge_ops import _files

__all__ = ["INDEX", "MOST_CONFIG", "SINGLE", "Files", "Header", "headers", "opened", "weight_files"]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# bytes that are read; the released config has 1 kB, its index 1 MB, and safetensors itself
# takes no header above 100 MB
MOST_CONFIG, MOST_INDEX, MOST_HEADER = 2**20, 64 * 2**20, 100_000_000

Files = dict[Path, "set[str] | None"]  # each file with the tensors that the index says it holds


class Header(NamedTuple):
    """What a file says of one tensor."""

    file: Path
    code: str  # dtype, as safetensors calls it
    shape: list[int]


def weight_files(folder: Path, single: str = SINGLE) -> Files:
    """The folder's weight files; ``single`` is what the file is called where it is one."""
    index = f"{single}.index.json"
    if not (folder / index).exists():
        if (folder / single).exists():
            return {folder / single: None}
        pickles = sorted(path.name for kind in PICKLES for path in folder.glob(kind))
        if pickles:
            raise ValueError(
                f"{folder} must hold safetensors, got {', '.join(pickles)}: a pickle can run code "
                "when it is read, so none is read; convert it to safetensors first"
            )
        raise FileNotFoundError(f"{folder} has neither {single} nor {index}")
    weight_map = _files.read_object(folder / index, MOST_INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{folder / index} must have a weight_map of names and files")
    found: dict[Path, set[str]] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or not re.fullmatch(r"[^/\\]+\.safetensors", file):
            raise ValueError(
                f"{folder / index} must name safetensors files of its own folder, "
                f"got {file!r:.200} for {name:.200}"
            )
        # os.path takes a name that no file system allows for one that does not exist
        if folder / file not in found and not os.path.exists(folder / file):
            raise FileNotFoundError(
                f"{folder / index} names {file:.200} for {name:.200}: no such file"
            )
        found.setdefault(folder / file, set()).add(name)
    return dict(found)


def opened(path: Path) -> Any:
    """Opens a shard: parses its header, checks its size, and maps its data without reading it."""
    try:  # here, because moge_ops.quant is imported where safetensors is not installed
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError("checkpoints need safetensors: pip install 'moge-ops[models]'") from error
    _files.regular(path)
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or corrupted: {error}{_first_cut(path)}") from None
    # without the name of the file; the second, where it is larger than the addresses that are left
    except (OSError, MemoryError) as error:
        raise OSError(f"{path} cannot be read: {error}") from None


def _first_cut(path: Path) -> str:
    """Names the first tensor that a file holds in part, if the file's header can be read."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        held = path.stat().st_size - 8 - length
        try:
            header = json.loads(file.read(length) if held >= 0 and length <= MOST_HEADER else b"")
            ends = {k: v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"}
            cut = [(end, name) for name, end in ends.items() if end > held]
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return ""
    return f"; the first tensor that is not whole is {min(cut)[1]}" if cut else ""


def headers(found: Files) -> Iterator[tuple[str, Header]]:
    """Name and header of every tensor in the files."""
    for path in found:
        with opened(path) as shard:
            for name in shard.keys():  # noqa: SIM118 - an opened file is no mapping
                header = shard.get_slice(name)
                yield name, Header(path, header.get_dtype(), header.get_shape())
