"""The file of :class:`moge_ops.statistics.RouterStatistics`."""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moge_ops import _files

# the first had tasks alone, without selection scores; the second no experts of each token; files of
# the third may lack `pairs`, and whether they were to be collected
VERSION = 3

Layers = dict[str, dict[str, Tensor]]  # task -> layer -> numbers


def is_threshold(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (number and 0.0 <= value <= 1.0)


def write(
    path: Any, threshold: float | None, co_activation: bool, parts: Mapping[str, Layers]
) -> None:
    """Writes all parts; a file that was there stays until the new one is whole."""
    on_cpu = {
        part: {task: {k: v.cpu() for k, v in layers.items()} for task, layers in tasks.items()}
        for part, tasks in parts.items()
    }
    data = io.BytesIO()
    settings = {"threshold": threshold, "co_activation": co_activation}
    torch.save({"version": VERSION, **settings, **on_cpu}, data)
    _files.write(path, data.getvalue())


def _layers(wrong: str, found: Any) -> list[tuple[str, Any]]:
    """Layers and what they hold, of all tasks."""
    tasks = [*found.values()] if isinstance(found, dict) else [found]
    if not all(isinstance(each, dict) for each in tasks):
        raise ValueError(f"{wrong}, got tasks without layers")
    return [item for each in tasks for item in each.items()]


def read(path: Path) -> tuple[float | None, bool, dict[str, Layers]]:
    """Threshold, whether pairs are collected, and ``sums``, ``tokens`` and ``pairs``.

    See :meth:`RouterStatistics.load`.
    """
    wrong = f"{path} must be a file that RouterStatistics.save wrote"
    _files.regular(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its reader meets
        # torch's own text is a page, and advises to execute what is in the file
        raise ValueError(f"{wrong}, got one that is damaged or of another kind") from error
    if not isinstance(found, dict):
        raise ValueError(f"{wrong}, got {type(found).__name__}")
    version = found.get("version")
    if isinstance(version, dict) or version is None:  # of the first version, which had none
        found = {"sums": found}
    elif version not in range(2, VERSION + 1):
        raise ValueError(f"{wrong}, of version 1 to {VERSION}, got version {version!r:.200}")
    threshold: Any = found.get("threshold")
    layers = _layers(wrong, found.get("sums"))
    if not is_threshold(threshold):
        raise ValueError(f"{wrong}, got threshold {threshold!r:.200}")
    co_activation: Any = found.get("co_activation", bool(found.get("pairs")))
    if not isinstance(co_activation, bool):
        raise ValueError(f"{wrong}, got co_activation {co_activation!r:.200}")
    for layer, x in layers:
        right = isinstance(x, Tensor) and x.ndim == 3 and x.dtype == torch.float64
        if not right or len(x) not in (2, 3) or not x.numel():
            raise ValueError(f"{wrong}, got {layer} without [3, G, E/G] float64")
    for layer, x in _layers(wrong, found.get("tokens", {})):
        if not (isinstance(x, Tensor) and x.ndim == 1 and x.dtype == torch.float64 and len(x)):
            raise ValueError(f"{wrong}, got {layer} without [K + 1] float64 of its tokens")
    for layer, x in _layers(wrong, found.get("pairs", {})):
        square = isinstance(x, Tensor) and x.ndim == 2 and x.shape[0] == x.shape[1]
        if not square or x.dtype != torch.float64:
            raise ValueError(f"{wrong}, got {layer} without [E, E] float64 of its pairs")
    for task, each in found.get("pairs", {}).items():
        for layer, x in each.items():
            of_sums = found["sums"].get(task, {}).get(layer)
            E = 0 if of_sums is None else of_sums[0].numel()
            if len(x) != E:
                raise ValueError(f"{wrong}, got {layer} with E={E} and pairs of {len(x)} experts")
    sums = {
        task: {
            layer: x if len(x) == 3 else torch.cat([x, torch.full_like(x[:1], math.nan)])
            for layer, x in each.items()
        }
        for task, each in found["sums"].items()
    }
    more = {part: found.get(part, {}) for part in ("tokens", "pairs")}
    return threshold, co_activation, {"sums": sums, **more}
