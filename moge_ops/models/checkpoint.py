"""Checkpoint folders in the released layout: ``config.json`` and safetensors, sharded or not."""

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moge_ops import _files
from moge_ops.models.layout import (
    parameter_name,
    released_count,
    released_names,
    released_shapes,
    state_dict,
)
from moge_ops.models.pangu_moe import PanguMoEConfig, PanguMoEForCausalLM

try:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file
except ImportError as error:
    raise ImportError("checkpoints need safetensors: pip install 'moge-ops[models]'") from error

__all__ = [
    "from_pretrained",
    "is_released",
    "read_config",
    "released",
    "save_pretrained",
    "stored_dtype",
    "stored_dtypes",
    "stored_tensors",
]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
# parameters, by their released names, that many keep in float32 while the rest is in 16 bits
MIXED = ("mlp.gate.weight", "mlp.router_scale", "norm.weight")
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
MOST_SHOWN = 20  # problems in one message; a folder of another model has thousands
MOST_NAMED = 100_000  # tensors that are named one by one; the released model has 9,939
# bytes that are read; the released config has 1 kB, its index 1 MB, and safetensors itself
# takes no header above 100 MB
MOST_CONFIG, MOST_INDEX, MOST_HEADER = 2**20, 64 * 2**20, 100_000_000


def released(model: PanguMoEForCausalLM) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the released layout: its name, and the part of a parameter that it is."""
    state = state_dict(model)
    for name, whole, index in released_names(model.config):
        yield name, state[whole][index]


def read_config(folder: str | Path) -> PanguMoEConfig:
    """The configuration of a folder.

    Raises:
        FileNotFoundError: There is no ``config.json``.
        ValueError: It is not JSON, no regular file, or not of a model that can be built.
    """
    path = Path(folder) / "config.json"
    values = _files.read_object(path, MOST_CONFIG)
    try:
        return PanguMoEConfig.from_dict(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _shards(folder: Path) -> dict[Path, set[str] | None]:
    """The folder's weight files, each with the tensors that the index says it holds."""
    if not (folder / INDEX).exists():
        if (folder / SINGLE).exists():
            return {folder / SINGLE: None}
        pickles = sorted(path.name for kind in PICKLES for path in folder.glob(kind))
        if pickles:
            raise ValueError(
                f"{folder} must hold safetensors, got {', '.join(pickles)}: a pickle can run code "
                "when it is read, so none is read; convert it to safetensors first"
            )
        raise FileNotFoundError(f"{folder} has neither {SINGLE} nor {INDEX}")
    weight_map = _files.read_object(folder / INDEX, MOST_INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{folder / INDEX} must have a weight_map of names and files")
    shards: dict[Path, set[str]] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or not re.fullmatch(r"[^/\\]+\.safetensors", file):
            raise ValueError(
                f"{folder / INDEX} must name safetensors files of its own folder, "
                f"got {file!r:.200} for {name:.200}"
            )
        # os.path takes a name that no file system allows for one that does not exist
        if folder / file not in shards and not os.path.exists(folder / file):
            raise FileNotFoundError(
                f"{folder / INDEX} names {file:.200} for {name:.200}: no such file"
            )
        shards.setdefault(folder / file, set()).add(name)
    return dict(shards)


def opened(path: Path) -> Any:
    """Opens a shard: parses its header, checks its size, and maps its data without reading it."""
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


def _check(
    folder: Path, shards: dict[Path, set[str] | None], config: PanguMoEConfig, stored: str
) -> None:
    """Compares all headers with the config, before anything is built; raises ValueError.

    A config may ask for any number of tensors, so that nothing is made for each of them unless the
    files hold about as many.
    """
    asked, held = released_count(config), 0
    for path in shards:
        with opened(path) as shard:
            held += len(shard.keys())
    if asked > max(MOST_NAMED, 2 * held):
        sizes = f"num_hidden_layers={config.num_hidden_layers}, num_experts={config.num_experts}"
        raise ValueError(
            f"{folder} does not fit its config.json: {sizes} are {asked:,} tensors, "
            f"the files hold {held:,}"
        )
    shapes, problems, found = dict(released_shapes(config)), list[str](), set[str]()
    for path, listed in shards.items():
        with opened(path) as shard:
            names = set(shard.keys())
            for name in sorted(names if listed is None else names | listed):
                where = f"{name:.200} in {path.name}"
                if name not in shapes:
                    problems.append(f"unexpected: {where}")
                    continue
                found.add(name)
                if name not in names:
                    problems.append(f"missing: {where}, where the index has it")
                    continue
                if listed is not None and name not in listed:
                    problems.append(f"unexpected: {where}, where the index does not have it")
                header = shard.get_slice(name)
                if header.get_shape() != shapes[name]:
                    problems.append(
                        f"misshapen: {where} must be {shapes[name]}, got {header.get_shape()}"
                    )
                allowed = DTYPES if name.endswith(MIXED) else (stored,)
                if header.get_dtype() not in allowed:
                    kinds, got = " | ".join(allowed), header.get_dtype()
                    problems.append(f"wrong dtype: {where} must be {kinds}, got {got}")
    problems = [f"missing: {name}" for name in shapes if name not in found] + problems
    if problems:
        more = len(problems) - MOST_SHOWN
        lines = [*problems[:MOST_SHOWN], *([f"and {more} more"] if more > 0 else [])]
        raise ValueError("\n  ".join([f"{folder} does not fit its config.json:", *lines]))


def _stored(folder: Path, config: PanguMoEConfig, shards: dict[Path, set[str] | None]) -> str:
    """The dtype, in safetensors' code, from the config or else from the first file's header."""
    given = config.extra.get("dtype", config.extra.get("torch_dtype"))
    codes = {str(dtype).removeprefix("torch."): code for code, dtype in DTYPES.items()}
    if given is None:
        with opened(next(iter(shards))) as shard:
            names = shard.keys()
            stored: str = shard.get_slice(names[0]).get_dtype() if names else "none"
    else:
        stored = codes.get(str(given), str(given))
    if stored not in DTYPES:
        keys = "dtype or torch_dtype of config.json, or else the first tensor"
        raise ValueError(f"{folder} must hold {' | '.join(codes)} ({keys}), got {stored:.200}")
    return stored


def stored_dtype(folder: str | Path) -> torch.dtype:
    """The dtype of a folder's weights; raises as :func:`from_pretrained` does."""
    folder = Path(folder)
    return DTYPES[_stored(folder, read_config(folder), _shards(folder))]


def stored_tensors(folder: str | Path) -> Iterator[tuple[str, str, int]]:
    """Name, dtype and elements of every tensor in a folder's files, from their headers."""
    for path in _shards(Path(folder)):
        with opened(path) as shard:
            for name in shard.keys():  # noqa: SIM118 - an opened file is no mapping
                header = shard.get_slice(name)
                yield name, header.get_dtype(), math.prod(header.get_shape())


def is_released(folder: str | Path) -> bool:
    """Whether a folder holds a language model in the released layout; raises if unreadable."""
    names = {name for name, _, _ in stored_tensors(folder)}
    return {"model.embed_tokens.weight", "lm_head.weight"} <= names


def stored_dtypes(folder: str | Path) -> dict[str, torch.dtype]:
    """The dtype of every parameter, after all files were checked.

    Raises as :func:`from_pretrained` does.
    """
    folder = Path(folder)
    config, shards = read_config(folder), _shards(folder)
    _check(folder, shards, config, _stored(folder, config, shards))
    codes = {name: code for name, code, _ in stored_tensors(folder)}
    return {parameter_name(whole): DTYPES[codes[name]] for name, whole, _ in released_names(config)}


def checked(
    folder: str | Path, dtype: torch.dtype | None
) -> tuple[PanguMoEForCausalLM, list[Path]]:
    """A folder's model on the meta device, in ``dtype``, and the files that fill it completely.

    Raises as :func:`from_pretrained` does.
    """
    stored, config = stored_dtypes(folder), read_config(folder)
    with torch.device("meta"):
        model = PanguMoEForCausalLM(config)
    for name, parameter in model.named_parameters():
        if dtype is None:
            parameter.data = parameter.data.to(stored[name])
        elif config.router_dtype is None or not name.endswith(("moge.gate", "moge.router_scale")):
            parameter.data = parameter.data.to(dtype)
    return model, list(_shards(Path(folder)))


def from_pretrained(
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> PanguMoEForCausalLM:
    """Loads a released folder.

    First the names, shapes and dtypes in all files are checked. Then the weights are allocated
    once, and every tensor is copied to its place in the stacked weights, one file at a time, so the
    peak of memory is the weights and one file. Nothing in the folder is executed, and no pickle is
    read.

    Args:
        folder: Holds ``config.json``, and either ``model.safetensors`` or the files that
            ``model.safetensors.index.json`` names.
        dtype: Dtype of the weights, but for routers if the config has a ``router_dtype``. By
            default every tensor keeps the dtype that it has in the files, where routers and norms
            may be in float32 beside weights in bfloat16.
        device: Device of the weights.

    Returns:
        The model, in evaluation mode.

    Raises:
        FileNotFoundError: A file is missing; the message names it.
        ValueError: A file is damaged, is a pickle or lies outside the folder; or tensors are
            missing, unexpected or misshapen, or do not have the dtype that ``config.json`` gives;
            or somebody changed the files meanwhile. The message names file and tensors.
    """
    model, shards = checked(folder, dtype)
    model.to_empty(device=device)
    parts = dict(released(model))
    for path in shards:
        with opened(path) as shard:
            for name in shard.keys():  # noqa: SIM118 - an opened file is no mapping
                tensor, part = shard.get_tensor(name), parts.pop(name, None)
                if part is None or part.shape != tensor.shape:
                    raise ValueError(f"{path} was changed while it was read: {name:.200}")
                part.copy_(tensor)
    if parts:
        raise ValueError(f"{folder} was changed while it was read: it lacks {next(iter(parts))}")
    return model.eval()


def _bytes(size: int | str) -> int:
    """``"5GB"`` as a number."""
    match = re.fullmatch(r"(\d+)\s*([KMG]i?B)?", str(size))
    if not match or not int(match[1]):
        raise ValueError(f"max_shard_size must be a number of bytes or like '5GB', got {size!r}")
    return int(match[1]) * UNITS[match[2] or ""]


def refuse_weights(folder: Path) -> None:
    """Raises FileExistsError if a folder has weights already."""
    there = sorted(path.name for path in (*folder.glob("*.safetensors"), *folder.glob(INDEX)))
    if there:
        raise FileExistsError(f"{folder} must have no weights yet, got {', '.join(there)}")


def save_pretrained(
    model: PanguMoEForCausalLM, folder: str | Path, *, max_shard_size: int | str = "5GB"
) -> None:
    """Writes a model in the released layout; a folder that was loaded comes back bit for bit.

    The files are written into a new folder inside ``folder`` and move to their places when all are
    whole, ``config.json`` last. If the writing fails, nothing is left of it.

    Args:
        model: The model.
        folder: Created if it does not exist. Other files in it are left alone. A link in the place
            of a file is replaced, and what it leads to is left alone.
        max_shard_size: Most bytes of tensors in one file, as a number or like ``"5GB"`` or
            ``"500MiB"``. A tensor that is larger gets a file of its own.

    Raises:
        FileExistsError: The folder has weights already.
        OSError: A file cannot be written; the message names it.
        ValueError: ``max_shard_size`` is not a size.
    """
    most, folder = _bytes(max_shard_size), Path(folder)
    refuse_weights(folder)
    with _files.staged(folder, last="config.json") as stage:
        _write(model, stage, most)


def _write(model: PanguMoEForCausalLM, folder: Path, most: int) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    room = most
    for name, part in released(model):
        if shards[-1] and part.nbytes > room:
            shards.append({})
            room = most
        shards[-1][name] = part
        room -= part.nbytes
    weight_map = {}
    for i, shard in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else f"model-{i:05}-of-{len(shards):05}.safetensors"
        # parts share memory, which the format does not allow: copied, one shard at a time
        copies = {name: part.to("cpu", copy=True).contiguous() for name, part in shard.items()}
        try:
            save_file(copies, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"{folder / file} cannot be written: {error}") from None
        weight_map.update(dict.fromkeys(shard, file))
    if len(shards) > 1:
        total = sum(part.nbytes for shard in shards for part in shard.values())
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    config = model.config.to_dict()
    key = "dtype" if "dtype" in config else "torch_dtype"
    dtype = str(model.embed.weight.dtype).removeprefix("torch.")
    _write_json(folder / "config.json", {**config, key: dtype})


def _write_json(path: Path, values: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(values, indent=2) + "\n")
    except OSError as error:  # without the name of the file
        raise OSError(f"{path} cannot be written: {error}") from None
