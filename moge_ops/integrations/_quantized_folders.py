"""Folders that others quantised, in transformers: their experts stay as they are.

transformers would decode them all, or ask for the format's own library.
"""

# mypy: allow-untyped-calls

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig

from moge_ops.integrations._quantizer import (
    METHOD,
    ExpertsQuantizationConfig,
    Filled,
    experts_from,
)
from moge_ops.models._quantized import OF_CACHE
from moge_ops.nn import MoGE
from moge_ops.quant import QuantizedWeight, dequantize
from moge_ops.quant._plan import Plan, Weight, check_matrix, complain, plan
from moge_ops.quant.experts import ExpertWeight
from moge_ops.quant.formats import Filling, read

__all__ = ["load_quantized"]

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_NUMBERS = ("I8", "U8", "I32", "F8_E4M3", "F8_E5M2")  # of quantised weights, in safetensors' code


def load_quantized(
    folder: str | Path, *, auto_class: Any = AutoModelForCausalLM, **options: Any
) -> Any:
    """Loads a quantised folder so that its experts stay quantised, and run on moge_ops.

    All formats of :func:`moge_ops.quant.read_experts`. Other linear layers, where they are
    quantised too, are decoded. The peak of memory is the loaded model, a copy of what is not
    quantised experts, and one layer. ``save_pretrained`` writes moge_ops' own format, which
    ``from_pretrained`` reads.

    Args:
        folder: A local folder of safetensors files.
        auto_class: Makes the model, as ``AutoModelForImageTextToText`` does.
        options: Of ``from_pretrained``: ``dtype``, ``device_map``, ``attn_implementation``, ...

    Returns:
        The model.

    Raises:
        FileNotFoundError: There is no ``config.json``, or no weights.
        ValueError: The folder is not quantised; as :func:`moge_ops.quant.read_experts`; or its
            experts are not those of the model that ``config.json`` describes.
    """
    folder = Path(folder)
    config = AutoConfig.from_pretrained(folder)
    parts = [config, *(getattr(config, key, None) for key in config.sub_configs)]
    described = [part for part in parts if getattr(part, "quantization_config", None) is not None]
    if any(part.quantization_config.get("quant_method") == METHOD for part in described):
        return auto_class.from_pretrained(folder, **options)
    found = plan(folder)
    if not found.layers:
        raise ValueError(f"{folder} must have quantised experts, got none")
    for part in described:
        del part.quantization_config
    with torch.device("meta"):
        model_class: Any = type(auto_class.from_config(config))
    layout, down = (weight.layout for weight in next(iter(found.layers.values())))
    # groups of two sizes may be what each weight has by default
    size = layout.group_size if layout.group_size == down.group_size else None
    how = ExpertsQuantizationConfig(layout.scheme, group_size=size, symmetric=not layout.has_zero)
    token = experts_from.set(lambda weights: _fill(found, weights))
    try:
        model = model_class.from_pretrained(
            None,
            config=config,
            state_dict=_rest(found, _dtype(config, options.get("dtype"))),
            quantization_config=how,
            **options,
        )
    finally:
        experts_from.reset(token)
    model.config.name_or_path = str(folder)
    if (folder / "generation_config.json").exists() and model.can_generate():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def _dtype(config: PreTrainedConfig, asked: Any) -> torch.dtype:
    """In which layers are decoded."""
    for dtype in (asked, config.dtype, config.get_text_config().dtype):
        if isinstance(dtype, torch.dtype):
            return dtype
    return torch.bfloat16


def _rest(found: Plan, dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors but the experts', decoded."""
    modules = defaultdict[str, dict[str, Any]](dict)
    for name, header in found.headers.items():
        if name not in found.places and not OF_CACHE.fullmatch(name):
            module, _, part = name.rpartition(".")
            modules[module][part] = name, header
    linears, problems = dict[str, Weight](), list[str]()
    for module, have in modules.items():
        numbers = any(header.code in _NUMBERS for _, header in have.values())
        layout = found.choose(module) if numbers else None
        if layout is None or layout.main not in have or layout.scale not in have:
            problems += [
                f"quantised in an unknown way: {name:.200} in {header.file.name}"
                for name, header in have.values()
                if header.code in _NUMBERS
            ]
            continue
        shape = have[layout.main][1].shape
        if len(shape) != 2:
            problems.append(f"misshapen: {have[layout.main][0]:.200} must be [O, I], got {shape}")
            continue
        O, I = layout.sizes(shape)
        stored = {part: x for part, x in have.items() if part != "bias"}
        problems += check_matrix(layout, module, stored, O, I, [])
        scale = layout.scale_dtype(have[layout.scale][1].code)
        linears[module] = Weight(layout, (1, O, I), 1, scale)
    complain(found.folder, problems)

    state, waiting = dict[str, Tensor](), dict[str, Filling]()
    left = {module: len(modules[module].keys() - {"bias"}) for module in linears}
    wanted = {name for have in modules.values() for name, _ in have.values()}
    for name, tensor, where in found.tensors(lambda name: name in wanted):
        module, _, part = name.rpartition(".")
        if module not in linears or part == "bias":
            state[name] = tensor.clone()  # it is the file's memory
            continue
        if module not in waiting:
            waiting[module] = Filling(linears[module], "cpu")
        waiting[module].put(0, 0, part, tensor, where)
        left[module] -= 1
        if not left[module]:
            waiting[module].finish(0, 0)
            state[f"{module}.weight"] = dequantize(waiting.pop(module).weight, dtype)[0]
    return state


def _fill(found: Plan, weights: Mapping[str, Filled]) -> None:
    """Gives a model's experts what a folder has."""
    layers = defaultdict[str, list[Filled]](list)
    for filled in weights.values():
        layers[_number(filled.weight.layer)].append(filled)
    paths = defaultdict[str, list[str]](list)
    for path in found.layers:
        paths[_number(path)].append(path)
    problems = []
    for number, parts in layers.items():
        if len(parts) != 2 or len(paths[number]) != 1:
            got = ", ".join(paths[number]) or "none"
            problems.append(f"missing: experts of {parts[0].weight.layer}, got {got}")
            continue
        for filled, stored in zip(parts, found.layers[paths[number][0]], strict=True):
            expected, sizes = list(filled.shape), list(stored.sizes)
            if sizes != expected:
                problems.append(f"misshapen: {filled.weight.name} must be {expected}, got {sizes}")
    complain(found.folder, problems)
    for path, *read_weights in read(found, "cpu"):
        # a layer that the model leaves out is one for predicting several tokens
        for filled, weight in zip(layers.get(_number(path), []), read_weights, strict=False):
            filled.weight.put(_in_its_order(filled.weight, weight).to(filled.device))


def _number(name: str) -> str:
    """Of a layer, by which a file's names and a model's are compared."""
    match = _LAYER.search(f"{name}.")
    return match[1] if match else name


def _in_its_order(place: ExpertWeight, weight: QuantizedWeight) -> QuantizedWeight:
    """Rows of gate and up take turns in some modules; what is read has gate's first."""
    module: Any = place.module
    if place.attribute != "gate_up_proj" or isinstance(module, MoGE) or module.is_concatenated:
        return weight
    O = weight.shape[1]

    def turned(x: Tensor) -> Tensor:
        return torch.unflatten(x, 1, (2, -1)).transpose(1, 2).flatten(1, 2)

    if weight.scale.shape[1] == 1:
        return weight._replace(data=turned(weight.data))
    if weight.scale.shape[1] != O:
        raise ValueError(f"{place.name} takes turns of gate and up, which blocks of rows do not")
    zero = None if weight.zero is None else turned(weight.zero)
    return weight._replace(data=turned(weight.data), scale=turned(weight.scale), zero=zero)
