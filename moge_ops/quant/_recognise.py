"""Which layout a folder's matrices have, by its ``config.json`` and the names of its tensors."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moge_ops import _files
from moge_ops._quantized import group_sizes
from moge_ops.quant._layouts import GptOss, Layout, Mxfp4, Packed, Plain8
from moge_ops.quant._layouts_others import AWQ, GPTQ, AscendStatic, AscendW4
from moge_ops.quant._shards import MOST_CONFIG

__all__ = ["Chooser", "description", "quantization_config", "recognise"]

Chooser = Callable[[str], "Layout | None"]  # of a matrix, by its module's name; None: not quantised

DESCRIPTION = "quant_model_description*.json"  # of msmodelslim
MOST_DESCRIPTION = 64 * 2**20
METHODS = ("compressed-tensors", "fp8", "gptq", "awq", "mxfp4")
FORMATS = (
    *("int-quantized", "pack-quantized", "float-quantized", "naive-quantized"),
    "mxfp4-pack-quantized",
)
ASCEND = ("W8A8_DYNAMIC", "W8A8", "W8A8_MIX", "W8A16", "W4A8_DYNAMIC", "FLOAT")


def quantization_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The part of a ``config.json`` that tells how its weights are quantised, or None."""
    for at in (config, config.get("text_config")):
        if isinstance(at, Mapping):
            for key in ("quantization_config", "compression_config"):
                if isinstance(found := at.get(key), dict):
                    return found
    return None


def description(folder: Path) -> Path | None:
    """The file in which msmodelslim tells the type of every tensor, or None.

    Raises:
        ValueError: There are several.
    """
    found = sorted(folder.glob(DESCRIPTION))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"{folder} must have one {DESCRIPTION}, got {names}")
    return found[0] if found else None


def recognise(folder: Path, names: Iterable[str]) -> Chooser:
    """The layout of every matrix of a folder whose tensors have these names.

    Raises:
        ValueError: The folder is not quantised, or in a way that is not read; also when the result
            is called. The message names the file, and what is not read.
    """
    path = folder / "config.json"
    config = quantization_config(_files.read_object(path, MOST_CONFIG))
    if config is None:
        described = description(folder)
        if described is None:
            raise ValueError(
                f"{folder} is not quantised: {path.name} has no quantization_config, and there is "
                f"no {DESCRIPTION}"
            )
        return _named(described, _ascend(_files.read_object(described, MOST_DESCRIPTION)))
    method = config.get("quant_method")
    makers: dict[str, Callable[[dict[str, Any]], Chooser]] = {
        "compressed-tensors": _compressed,
        "fp8": lambda c: _always(_fp8(c, names)),
        "gptq": lambda c: _always(_gptq(c)),
        "awq": lambda c: _always(_awq(c)),
        "mxfp4": lambda c: _always(_grouped(GptOss("mxfp4_w4a16", 32))),
    }
    if not isinstance(method, str) or method not in makers:
        kinds, got = ", ".join(METHODS), f"{method!r:.100}"
        raise ValueError(f"{path}: quantization_config.quant_method must be {kinds}, got {got}")
    with _naming(path):
        return _named(path, makers[method](config))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Puts the file's name before a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _named(path: Path, choose: Chooser) -> Chooser:
    def named(module: str) -> Layout | None:
        with _naming(path):
            return choose(module)

    return named


def _always(layout: Layout) -> Chooser:
    return lambda module: layout


def _one_of(key: str, value: Any, allowed: tuple[Any, ...]) -> Any:
    # `==` takes True for 1; hostile values may have no hash
    if not any(type(value) is type(x) and value == x for x in allowed):
        kinds = ", ".join(map(str, allowed))
        raise ValueError(f"{key} must be one of {kinds}, got {value!r:.100}")
    return value


def _grouped(layout: Layout) -> Layout:
    """The layout, if its scheme knows the group size."""
    group_sizes("group_size", layout.scheme, layout.group_size)
    return layout


def _group_size(value: Any) -> int | None:
    """-1 and None stand for a whole row."""
    if value is None or value == -1:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"group_size must be an int, got {value!r:.100}")
    return value


# ----- compressed-tensors -----


def _compressed(config: Mapping[str, Any]) -> Chooser:
    sparsity = config.get("sparsity_config")
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        got = f"{sparsity['format']!r:.100}"
        raise ValueError(f"sparsity_config: sparse weights are not read, got {got}")
    groups = config.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise ValueError("config_groups must be an object of groups, got none")
    made = dict[str, "Layout | None"]()

    def layout(name: str) -> Layout | None:
        if name not in made:
            group = groups[name]
            if not isinstance(group, dict):  # a preset's name and its targets
                raise ValueError(f"config_groups.{name:.100} must be an object with weights")
            try:
                made[name] = _of_group(group, group.get("format") or config.get("format"))
            except ValueError as error:
                raise ValueError(f"config_groups.{name:.100}: {error}") from None
        return made[name]

    return lambda module: None if (name := _target(groups, module)) is None else layout(name)


def _target(groups: Mapping[str, Any], module: str) -> str | None:
    """The group of a module: a full name goes before a pattern, and that before a class."""
    if len(groups) == 1:  # tensors tell what is quantised, so that no pattern need be tried
        return next(iter(groups))
    best: tuple[int, str] | None = None
    for name, group in groups.items():
        targets = group.get("targets") if isinstance(group, dict) else None
        if not isinstance(targets, list):
            raise ValueError(f"config_groups.{name:.100}.targets must be a list, got {targets!r}")
        for target in map(str, targets):
            if target.startswith("re:"):
                try:
                    rank = 1 if re.match(target[3:], module) else 3
                except re.error as error:
                    raise ValueError(
                        f"config_groups.{name:.100}.targets: {target:.200} is no pattern: {error}"
                    ) from None
            else:
                rank = 0 if target == module else 2 if target == "Linear" else 3
            if rank < 3 and (best is None or rank < best[0]):
                best = rank, name
    return best and best[1]


def _of_group(group: Mapping[str, Any], format: Any) -> Layout | None:
    """The layout of one group of ``config_groups``."""
    weights = group.get("weights")
    if weights is None:
        return None
    if not isinstance(weights, dict):
        raise ValueError(f"weights must be an object, got {weights!r:.100}")
    _one_of("format", format, FORMATS)
    kind = str(weights.get("type", "int")).lower()
    bits, symmetric = weights.get("num_bits", 8), weights.get("symmetric", True)
    size = _group_size(weights.get("group_size"))
    strategy = weights.get("strategy")
    if strategy is None:  # as compressed-tensors infers it
        strategy = "tensor" if weights.get("group_size") is None else "group" if size else "channel"
    order = weights.get("actorder")
    if order not in (None, False, "weight", "static"):
        raise ValueError(f"weights.actorder: activation order is not read, got {order!r:.100}")
    acts = group.get("input_activations")
    if format == "mxfp4-pack-quantized":
        _one_of("weights.num_bits", bits, (4,))
        _one_of("weights.type", kind, ("float",))
        return _grouped(Mxfp4("mxfp4_w4a16", size))
    if format == "pack-quantized":
        _one_of("weights.type", kind, ("int",))
        _one_of("weights.num_bits", bits, (4, 8))
        _one_of("weights.strategy", strategy, ("group", "channel"))
        _one_of("weights.symmetric", symmetric, (True, False) if bits == 4 else (True,))
        size = size if strategy == "group" else None
        scheme = "int4_w4a16" if bits == 4 else "int8_w8a16"
        if bits == 4 and size is None and symmetric and _to_int8(acts):
            scheme = "int4_w4a8"
        return _grouped(Packed(scheme, size, has_zero=not symmetric))
    _one_of("weights.num_bits", bits, (8,))
    _one_of("weights.symmetric", symmetric, (True,))
    if kind == "int" and format != "float-quantized":
        scheme = "int8_w8a8" if _to_int8(acts) else "int8_w8a16"
        allowed = ("channel", "tensor") if scheme == "int8_w8a8" else ("channel", "tensor", "group")
        _one_of("weights.strategy", strategy, allowed)
        return _grouped(Plain8(scheme, size if strategy == "group" else None))
    _one_of("weights.type", kind, ("float",) if format != "int-quantized" else ("int",))
    _one_of("weights.strategy", strategy, ("tensor", "channel", "group", "block"))
    if strategy == "block":
        return _blocks("weights.block_structure", weights.get("block_structure"), "weight_scale")
    size = size if strategy == "group" else None
    return _grouped(Plain8("fp8_w8a16", size, "all" if strategy == "tensor" else "one"))


def _to_int8(acts: Any) -> bool:
    """Whether activations are rounded to int8, by a group's ``input_activations``."""
    acts = acts if isinstance(acts, dict) else {"num_bits": 16}
    return (acts.get("type", "int"), acts.get("num_bits", 8)) == ("int", 8)


def _blocks(key: str, size: Any, scale: str) -> Layout:
    if size not in ([128, 128], "128x128"):
        raise ValueError(f"{key} must be [128, 128], got {size!r:.100}")
    return Plain8("fp8_w8a16", 128, "block", scale=scale)


# ----- other methods -----


def _fp8(config: Mapping[str, Any], names: Iterable[str]) -> Layout:
    _one_of("fmt", config.get("fmt", "e4m3"), ("e4m3", "float8_e4m3fn"))
    inverse = any(name.endswith("_scale_inv") for name in names)
    scale = "weight_scale_inv" if inverse else "weight_scale"  # both are multipliers
    if (size := config.get("weight_block_size")) is not None:
        return _blocks("weight_block_size", size, scale)
    return Plain8("fp8_w8a16", None, "all", scale=scale)


def _gptq(config: Mapping[str, Any]) -> Layout:
    bits = _one_of("bits", config.get("bits"), (4, 8))
    if config.get("desc_act"):
        raise ValueError("desc_act: columns in activation order are not read")
    version = config.get("checkpoint_format") or "gptq"
    _one_of("checkpoint_format", version, ("gptq", "gptq_v2"))
    symmetric = config.get("sym", True)
    _one_of("sym", symmetric, (True, False) if bits == 4 else (True,))
    scheme = "int4_w4a16" if bits == 4 else "int8_w8a16"
    size = _group_size(config.get("group_size"))
    added = 1 if version == "gptq" else 0
    return _grouped(GPTQ(scheme, size, has_zero=not symmetric, added=added))


def _awq(config: Mapping[str, Any]) -> Layout:
    _one_of("bits", config.get("bits", config.get("w_bit")), (4,))
    _one_of("version", str(config.get("version", "gemm")).lower(), ("gemm",))
    _one_of("zero_point", config.get("zero_point", True), (True,))
    size = _group_size(config.get("group_size", config.get("q_group_size")))
    return _grouped(AWQ("int4_w4a16", size, has_zero=True))


def _ascend(types: Mapping[str, Any]) -> Chooser:
    """msmodelslim's AscendV1: the description has the type of every tensor."""
    layouts: dict[str, Layout | None] = {
        "W8A8_DYNAMIC": Plain8("int8_w8a8", offset="weight_offset"),
        "W8A8_MIX": Plain8("int8_w8a8", offset="weight_offset", mixed=True),
        "W8A16": Plain8("int8_w8a16", offset="weight_offset"),
        "W8A8": AscendStatic("int8_w8a8"),
        "W4A8_DYNAMIC": AscendW4("int4_w4a16"),
        "FLOAT": None,
    }

    def choose(module: str) -> Layout | None:
        kind = types.get(f"{module}.weight")
        if kind is None:
            raise ValueError(f"{module:.200}.weight must have a type, got none")
        return layouts[_one_of(f"{module:.200}.weight", kind, ASCEND)]

    return choose
