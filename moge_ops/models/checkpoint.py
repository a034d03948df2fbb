"""Checkpoint folders in the released layout: ``config.json`` and safetensors, sharded or not."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moge_ops import _files
from moge_ops.models import _quantized
from moge_ops.models.layout import (
    Index,
    check_activations,
    original,
    parameter_counts,
    parameter_name,
    released_count,
    released_names,
    released_shapes,
    state_dict,
)
from moge_ops.models.pangu_moe import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.nn import FrozenWeight
from moge_ops.quant import QuantizedWeight, _compressed
from moge_ops.quant._plan import MOST_SHOWN, all_files, complain, is_quantized
from moge_ops.quant._shards import INDEX, MOST_CONFIG, SINGLE, headers, opened
from moge_ops.quant._shards import weight_files as _shards

try:
    from safetensors import SafetensorError
    from safetensors.torch import save_file
except ImportError as error:
    raise ImportError("checkpoints need safetensors: pip install 'moge-ops[models]'") from error

__all__ = [
    "INDEX",
    "MOST_CONFIG",
    "MOST_SHOWN",
    "SINGLE",
    "bytes_needed",
    "cast",
    "from_pretrained",
    "is_released",
    "opened",
    "read_config",
    "released",
    "save_pretrained",
    "stored_dtype",
    "stored_dtypes",
    "stored_tensors",
]

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
# parameters, by their released names, that many keep in float32 while the rest is in 16 bits
ROUTERS = ("mlp.gate.weight", "mlp.router_scale")
MIXED = (*ROUTERS, "norm.weight")
# keys of a config that say how another's weights are quantised
OF_QUANTIZED = ("quantization_config", "compression_config")
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
MOST_NAMED = 100_000  # tensors that are named one by one; the released model has 9,939


def released(model: PanguMoEForCausalLM) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the released layout: its name, and the part of a parameter that it is.

    Of quantised experts it is the tensors that compressed-tensors has for them.
    """
    state, frozen = state_dict(model), _frozen(model)
    for name, whole, index in released_names(model.config):
        if whole in frozen:
            yield from parts_of_expert(name, frozen[whole], index)
        else:
            yield name, state[whole][index]


def _frozen(model: PanguMoEForCausalLM) -> dict[str, QuantizedWeight]:
    """The quantised weights of a model, by the names that their parameters would have."""
    return {
        f"{at}.{name}": part.weight
        for at, module in model.named_modules()
        for name, part in module.named_children()
        if isinstance(part, FrozenWeight)
    }


def parts_of_expert(
    name: str, weight: QuantizedWeight, index: Index
) -> Iterator[tuple[str, Tensor]]:
    """What stands in the place of a released tensor, whose name and index these are."""
    expert, half = index[0] or 0, index[1] or 0 if len(index) > 1 else 0
    yield from _compressed.tensors(name.removesuffix(".weight"), weight, expert, half, len(index))


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


def _check_count(folder: Path, shards: dict[Path, set[str] | None], config: PanguMoEConfig) -> None:
    """Raises ValueError if a config asks for many more tensors than the files have."""
    asked, held = released_count(config), 0
    for path in shards:
        with opened(path) as shard:
            held += len(shard.keys())
    if asked > max(MOST_NAMED, 2 * held):
        names = ("num_hidden_layers", "num_experts", "num_nextn_predict_layers")
        sizes = ", ".join(f"{n}={getattr(config, n)}" for n in names if getattr(config, n))
        raise ValueError(
            f"{folder} does not fit its config.json: {sizes} are {asked:,} tensors, "
            f"the files hold {held:,}"
        )


def _check(
    folder: Path, shards: dict[Path, set[str] | None], config: PanguMoEConfig, stored: str
) -> None:
    """Compares all headers with the config, before anything is built; raises ValueError.

    A config may ask for any number of tensors, so that nothing is made for each of them unless the
    files hold about as many.
    """
    _check_count(folder, shards, config)
    shapes, problems, found = dict(released_shapes(config)), list[str](), set[str]()
    for path, listed in shards.items():
        with opened(path) as shard:
            names = set(shard.keys())
            for name in sorted(names if listed is None else names | listed):
                where, own = f"{name:.200} in {path.name}", original(name, config) or name
                if own not in shapes:
                    problems.append(f"unexpected: {where}")
                    continue
                found.add(name)
                if name not in names:
                    problems.append(f"missing: {where}, where the index has it")
                    continue
                if listed is not None and name not in listed:
                    problems.append(f"unexpected: {where}, where the index does not have it")
                header = shard.get_slice(name)
                if header.get_shape() != shapes[own]:
                    problems.append(
                        f"misshapen: {where} must be {shapes[own]}, got {header.get_shape()}"
                    )
                allowed = DTYPES if name.endswith(MIXED) else (stored,)
                if header.get_dtype() not in allowed:
                    kinds, got = " | ".join(allowed), header.get_dtype()
                    problems.append(f"wrong dtype: {where} must be {kinds}, got {got}")
    complain(folder, [f"missing: {name}" for name in shapes if name not in found] + problems)


def _check_copies(folder: Path, files: dict[Path, set[str] | None], config: PanguMoEConfig) -> None:
    """Raises ValueError if a head's own embedding or output head is another than the model's.

    The model has both once, so that a copy may be left out only if it is equal, bit for bit.
    """
    told, problems = dict(headers(files)), list[str]()
    for name, header in told.items():
        own = original(name, config)
        if own is None:
            continue
        with opened(header.file) as shard, opened(told[own].file) as other:
            # mapped, so that memory is not allocated for either
            pair = [f.get_tensor(n).flatten() for f, n in ((shard, name), (other, own))]
            if header[1:] != told[own][1:] or not torch.equal(*(x.view(torch.uint8) for x in pair)):
                where = f"{name:.200} in {header.file.name}"
                problems.append(f"unexpected: {where} must repeat {own}, got other values")
    complain(folder, problems)


def _stored(folder: Path, config: PanguMoEConfig, shards: dict[Path, set[str] | None]) -> str:
    """The dtype, in safetensors' code, from the config or else from the first file's header."""
    given = config.extra.get("dtype", config.extra.get("torch_dtype"))
    if given is None:
        with opened(next(iter(shards))) as shard:
            names = shard.keys()
            given = shard.get_slice(names[0]).get_dtype() if names else "none"
    return _code(folder, given)


def _code(folder: Path, dtype: Any) -> str:
    """A dtype in safetensors' code, if weights may have it; raises ValueError."""
    codes = {str(dtype).removeprefix("torch."): code for code, dtype in DTYPES.items()}
    stored = codes.get(str(dtype), str(dtype))
    if stored not in DTYPES:
        keys = "dtype or torch_dtype of config.json, or else the first tensor"
        raise ValueError(f"{folder} must hold {' | '.join(codes)} ({keys}), got {stored:.200}")
    return stored


def _quantized_folder(folder: Path, config: PanguMoEConfig) -> tuple[_quantized.Folder, str]:
    """A quantised folder that fits its config, and the dtype of what is not quantised."""
    _check_count(folder, all_files(folder), config)
    given = config.extra.get("dtype", config.extra.get("torch_dtype"))
    if given is None:  # of the first tensor that no format quantises
        told = dict(headers(all_files(folder)))
        embed = told.get("model.embed_tokens.weight")
        given = "none" if embed is None else embed.code
    stored = _code(folder, given)
    allowed = lambda name: DTYPES if name.endswith(MIXED) else (stored,)  # noqa: E731
    found = _quantized.look(folder, config, allowed)
    _check_copies(folder, all_files(folder), config)
    return found, stored


def stored_dtype(folder: str | Path) -> torch.dtype:
    """The dtype of a folder's weights; raises as :func:`from_pretrained` does."""
    folder = Path(folder)
    config = read_config(folder)
    if is_quantized(folder, config.extra):
        return DTYPES[_quantized_folder(folder, config)[1]]
    return DTYPES[_stored(folder, config, _shards(folder))]


def stored_tensors(folder: str | Path) -> Iterator[tuple[str, str, int]]:
    """Name, dtype and elements of every tensor in a folder's files, from their headers."""
    for name, header in headers(all_files(Path(folder))):
        yield name, header.code, math.prod(header.shape)


def bytes_needed(folder: Path, config: PanguMoEConfig, dtype: torch.dtype) -> int:
    """About what a folder's weights take in memory, if the plain ones are loaded in ``dtype``."""
    if not is_quantized(folder, config.extra):
        return parameter_counts(config)[0] * dtype.itemsize
    return sum(_files.regular(path) for path in all_files(folder))


def is_released(folder: str | Path) -> bool:
    """Whether a folder holds a language model in the released layout; raises if unreadable."""
    names = {name for name, _, _ in stored_tensors(folder)}
    return {"model.embed_tokens.weight", "lm_head.weight"} <= names


def stored_dtypes(folder: str | Path) -> dict[str, torch.dtype]:
    """The dtype of every parameter, after all files were checked.

    Raises as :func:`from_pretrained` does.
    """
    folder = Path(folder)
    config = read_config(folder)
    if is_quantized(folder, config.extra):
        raise ValueError(
            f"{folder} has quantised weights, as its files tell: only "
            "moge_ops.models.checkpoint.from_pretrained and convert read them"
        )
    shards = _shards(folder)
    _check(folder, shards, config, _stored(folder, config, shards))
    _check_copies(folder, shards, config)
    codes = {name: code for name, code, _ in stored_tensors(folder)}
    return {parameter_name(whole): DTYPES[codes[name]] for name, whole, _ in released_names(config)}


def checked(
    folder: str | Path, dtype: torch.dtype | None
) -> tuple[PanguMoEForCausalLM, list[Path]]:
    """A folder's model on the meta device, in ``dtype``, and the files that fill it completely.

    Raises as :func:`from_pretrained` does.
    """
    stored, config = stored_dtypes(folder), read_config(folder)
    return _on_meta(config, stored, dtype), list(_shards(Path(folder)))


def _on_meta(
    config: PanguMoEConfig, stored: dict[str, torch.dtype], dtype: torch.dtype | None
) -> PanguMoEForCausalLM:
    """A model on the meta device, in ``dtype`` or else in what is stored."""
    with torch.device("meta"):
        model = PanguMoEForCausalLM(config)
    if dtype is not None:
        return cast(model, dtype)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(stored[name])
    return model


def cast(model: PanguMoEForCausalLM, dtype: torch.dtype) -> PanguMoEForCausalLM:
    """Puts a model into another dtype, but for routers if the config has a ``router_dtype``."""
    routers = () if model.config.router_dtype is None else ("moge.gate", "moge.router_scale")
    for name, parameter in model.named_parameters():
        if not name.endswith(routers):
            parameter.data = parameter.data.to(dtype)
    return model


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

    Quantised folders load too, in the formats of :func:`moge_ops.quant.read_experts`: the weights
    of the experts stay as they are, in a :class:`moge_ops.nn.FrozenWeight` each; attention and
    shared experts, which are small, are dequantised if the folder has them quantised.

    Heads that predict further tokens may repeat the model's embedding and output head, as those of
    DeepSeek-V3 do. The copies must be equal to the model's own, and are left out.

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
    folder = Path(folder)
    config = read_config(folder)
    if is_quantized(folder, config.extra):
        found, code = _quantized_folder(folder, config)
        codes = {n: h.code if n.endswith(MIXED) else code for n, h in found.plan.headers.items()}
        stored = {
            parameter_name(whole): DTYPES[codes.get(name, code)]
            for name, whole, _ in released_names(config)
        }
        return _quantized.fill(_on_meta(config, stored, dtype), found, device).eval()
    model, shards = checked(folder, dtype)
    model.to_empty(device=device)
    parts = dict(released(model))
    for path in shards:
        with opened(path) as shard:
            for name in shard.keys():  # noqa: SIM118 - an opened file is no mapping
                if original(name, model.config) is not None:  # equal, as was checked
                    continue
                tensor, part = shard.get_tensor(name), parts.pop(name, None)
                if part is None or part.shape != tensor.shape:
                    raise ValueError(f"{path} was changed while it was read: {name:.200}")
                part.copy_(tensor)
    if parts:
        raise ValueError(f"{folder} was changed while it was read: it lacks {next(iter(parts))}")
    return model.eval()


def shard_size(size: int | str) -> int:
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

    Quantised experts are written in the format of compressed-tensors, without a loss, whatever the
    format that they came from; ``config.json`` lists the linear layers that are not quantised.

    Args:
        model: The model.
        folder: Created if it does not exist. Other files in it are left alone. A link in the place
            of a file is replaced, and what it leads to is left alone.
        max_shard_size: Most bytes of tensors in one file, as a number or like ``"5GB"`` or
            ``"500MiB"``. A tensor that is larger gets a file of its own.

    Raises:
        FileExistsError: The folder has weights already.
        OSError: A file cannot be written; the message names it.
        ValueError: ``max_shard_size`` is not a size; the weights of some experts are quantised
            and those of others are not, or are in another way; or the activation is not SwiGLU.
    """
    most, folder = shard_size(max_shard_size), Path(folder)
    refuse_weights(folder)
    check_activations(model)
    frozen = _frozen(model)
    places = [f"layers.{i}.moge" for i in range(model.config.num_hidden_layers)]
    places += [f"mtp.{j}.layer.moge" for j in range(model.config.num_nextn_predict_layers)]
    layers = [
        (frozen[f"{at}.w_gate_up"], frozen[f"{at}.w_down"])
        for at in places
        if f"{at}.w_gate_up" in frozen and f"{at}.w_down" in frozen
    ]
    if len(frozen) not in (0, 2 * len(places)):
        raise ValueError(
            "either all weights of experts must be quantised or none, to be written, got "
            f"{len(frozen)} of {2 * len(places)}"
        )
    told = _compressed.config(layers, _quantized.linear_layers(model.config)) if layers else None
    with _files.staged(folder, last="config.json") as stage:
        write_tensors(released(model), stage, most)
        write_config(model.config, model.embed.weight.dtype, told, stage)


def write_tensors(tensors: Iterable[tuple[str, Tensor]], folder: Path, most: int) -> None:
    """Writes tensors into files of at most ``most`` bytes, while they arrive."""
    files, shard, room, total = list[list[str]](), dict[str, Tensor](), most, 0

    def save() -> None:
        path = folder / f"model-{len(files) + 1:05}.safetensors"
        try:
            save_file(shard, path, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from None
        files.append(list(shard))
        shard.clear()

    for name, part in tensors:
        if shard and part.nbytes > room:
            save()
            room = most
        # parts share memory, which the format does not allow
        shard[name] = part.detach().to("cpu", copy=True).contiguous()
        room -= part.nbytes
        total += part.nbytes
    save()
    if len(files) == 1:
        (folder / "model-00001.safetensors").rename(folder / SINGLE)
        return
    weight_map = {}
    for i, names in enumerate(files, 1):
        file = f"model-{i:05}-of-{len(files):05}.safetensors"
        (folder / f"model-{i:05}.safetensors").rename(folder / file)
        weight_map.update(dict.fromkeys(names, file))
    _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_config(
    config: PanguMoEConfig, dtype: torch.dtype, told: dict[str, Any] | None, folder: Path
) -> None:
    """Writes ``config.json``; ``told`` tells how the weights are quantised."""
    values = config.to_dict()
    values = {k: v for k, v in values.items() if k not in OF_QUANTIZED}
    key = "dtype" if "dtype" in values else "torch_dtype"
    values |= {key: str(dtype).removeprefix("torch.")}
    if told is not None:
        values["quantization_config"] = told
    _write_json(folder / "config.json", values)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(values, indent=2) + "\n")
    except OSError as error:  # without the name of the file
        raise OSError(f"{path} cannot be written: {error}") from None
