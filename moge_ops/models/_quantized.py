"""Quantised checkpoint folders of the reference model: only its experts stay quantised.

The linear layers of attention and of the shared experts are small; where a folder has them
quantised too, they are dequantised as they are read. The experts of heads that predict further
tokens are quantised like all others.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moge_ops.models.layout import original, released_names, released_shapes, state_dict
from moge_ops.models.pangu_moe import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.nn import FrozenWeight
from moge_ops.quant import dequantize
from moge_ops.quant._layouts_others import AscendStatic
from moge_ops.quant._plan import Plan, Weight, check_matrix, complain, plan
from moge_ops.quant._shards import Header
from moge_ops.quant.formats import Filling, read

__all__ = ["OF_CACHE", "Folder", "fill", "fill_rest", "linear_layers", "look"]

EXPERTS = "model.layers.{}.mlp.experts"
# scales of a quantised cache: keys and values are kept in the model's dtype here
OF_CACHE = re.compile(r".*\.(kv_cache_(scale|offset)|[kv]_scale)")
FLOATS = ("F64", "F32", "F16", "BF16")


class Folder(NamedTuple):
    """A folder that fits its config."""

    plan: Plan
    linears: dict[str, Weight]  # module of a quantised linear layer -> its weight
    places: dict[str, tuple[str, str]]  # tensor of one -> module, part


def linear_layers(config: PanguMoEConfig) -> list[str]:
    """Modules of all linear layers but the routed experts."""
    found = []
    for name, shape in released_shapes(config):
        module, _, kind = name.rpartition(".")
        if kind == "weight" and len(shape) == 2 and ".mlp.experts." not in name:
            found.append(module)
    return [module for module in found if module != "model.embed_tokens"]


def look(folder: Path, config: PanguMoEConfig, allowed: Callable[[str], Collection[str]]) -> Folder:
    """Compares all headers with the config; raises ValueError.

    What a head repeats of the model is left out here: its values have to be compared.

    Args:
        folder: The folder.
        config: Its config.
        allowed: The dtypes, in safetensors' code, of a tensor that is not quantised.
    """
    E, F, H = config.num_experts, config.moe_intermediate_size, config.hidden_size
    layers = range(config.num_hidden_layers + config.num_nextn_predict_layers)
    found = plan(folder, {EXPERTS.format(i): (E, F, H) for i in layers})
    parts = defaultdict[str, dict[str, tuple[str, Header]]](dict)
    for name, header in found.headers.items():
        if original(name, config) in found.headers:
            continue  # of a head: a copy, which the caller compares
        if name not in found.places and not OF_CACHE.fullmatch(name):
            module, _, part = name.rpartition(".")
            parts[module][part] = name, header
    linears, places, problems = dict[str, Weight](), dict[str, tuple[str, str]](), list[str]()
    linear = set(linear_layers(config))
    for name, shape in released_shapes(config):
        if ".mlp.experts." in name:
            continue
        module, _, part = name.rpartition(".")
        have = parts[module]
        extra = have.keys() - {"weight", "bias"}
        odd = "weight" in have and have["weight"][1].code not in FLOATS
        if part == "weight" and module in linear and (extra or odd):
            layout = found.choose(module)
            if layout is not None:
                bias = have.pop("bias", None)
                if bias and isinstance(layout, AscendStatic):
                    have.pop("quant_bias", None)  # has it too, rounded
                problems += check_matrix(layout, module, have, shape[0], shape[1], [])
                if layout.scale in have:
                    dtype = layout.scale_dtype(have[layout.scale][1].code)
                    linears[module] = Weight(layout, (1, shape[0], shape[1]), 1, dtype)
                places |= {have[p][0]: (module, p) for p in have if p in layout.parts()}
                parts[module] = {} if bias is None else {"bias": bias}
                continue
        if part not in have:
            problems.append(f"missing: {name}")
            continue
        _, header = have.pop(part)
        where = f"{name} in {header.file.name}"
        if header.shape != shape:
            problems.append(f"misshapen: {where} must be {shape}, got {header.shape}")
        # biases of quantised layers are often wider than the rest
        codes = FLOATS if part == "bias" and module in linears else allowed(name)
        if header.code not in codes:
            problems.append(f"wrong dtype: {where} must be {' | '.join(codes)}, got {header.code}")
    for have in parts.values():
        problems += [f"unexpected: {n:.200} in {header.file.name}" for n, header in have.values()]
    complain(folder, problems)
    return Folder(found, linears, places)


def fill(
    model: PanguMoEForCausalLM, folder: Folder, device: torch.device | str
) -> PanguMoEForCausalLM:
    """Gives a model on the meta device the weights of a folder."""
    layers: list[Any] = [*model.layers, *(head.layer for head in model.mtp)]
    for layer in layers:
        del layer.moge.w_gate_up, layer.moge.w_down
    model.to_empty(device=device)
    for path, up, down in read(folder.plan, device):
        moge = layers[int(path.split(".")[2])].moge
        moge.w_gate_up, moge.w_down = FrozenWeight(up), FrozenWeight(down)
    state = state_dict(model)
    parts = {
        name: state[whole][index]
        for name, whole, index in released_names(model.config)
        if whole in state
    }
    rest = {name for name in folder.plan.headers if name in parts or name in folder.places}
    fill_rest(parts, folder, folder.plan.tensors(lambda name: name in rest), device)
    return model


def fill_rest(
    parts: dict[str, Tensor],
    folder: Folder,
    tensors: Iterable[tuple[str, Tensor, str]],
    device: torch.device | str,
) -> None:
    """Fills all but the experts.

    Args:
        parts: What is to be filled, by released names.
        folder: Whose.
        tensors: Name, content, and name with its file.
        device: Of ``parts``.
    """
    waiting = dict[str, Filling]()
    left = defaultdict[str, int](int)
    for module, _ in folder.places.values():
        left[module] += 1
    for name, tensor, where in tensors:
        if name not in folder.places:
            parts[name].copy_(tensor)
            continue
        module, part = folder.places[name]
        if module not in waiting:
            waiting[module] = Filling(folder.linears[module], device)
        waiting[module].put(0, 0, part, tensor, where)
        left[module] -= 1
        if not left[module]:
            waiting[module].finish(0, 0)
            place: Tensor = parts[f"{module}.weight"]
            place.copy_(dequantize(waiting.pop(module).weight, place.dtype)[0])
