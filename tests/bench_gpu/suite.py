"""What the tests of `make gpu` share: its modules, its rows, made-up parts."""

import csv
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from moge_ops import _backend

ROOT = Path(__file__).resolve().parents[2]
SERVING = _backend.serving("cpu")  # CPU tensors unasked
GPU, OPS = ROOT / "bench" / "gpu", ROOT / "bench" / "ops"


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def part(folder: Path, name: str, code: str, **fields: Any) -> Any:
    script = folder / f"{name}.py"
    script.write_text(f"import os, signal, sys, time\nfrom pathlib import Path\n{code}\n")
    return module("gpu").Part(name, 1.0, command=(str(script),), **fields)


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
