"""Loads a folder without its experts, and gives the model a store of them."""

import dataclasses
import re
import weakref
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from moge_ops import _checks
from moge_ops.models import _quantized, checkpoint
from moge_ops.models.layout import parameter_name, released_names, state_dict
from moge_ops.models.pangu_moe import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.nn import MoGE, PooledWeight
from moge_ops.offload._reading import DTYPES, Files
from moge_ops.offload._sources import (
    Key,
    Matrix,
    Memory,
    PlainFiles,
    QuantizedFiles,
    Source,
)
from moge_ops.offload._store import ExpertStore, Layer, in_place
from moge_ops.ops._activation import Activation
from moge_ops.ops.route import MAX_EXPERTS
from moge_ops.quant._plan import all_files, is_quantized

__all__ = ["load", "of"]

# Threads that read at once. Of experts that are not in the page cache 1, 2, 4 and 8 threads read
# 0.18, 0.58, 0.67 and 0.66 GB/s (a cloud disk, 2 busy Zen 4 cores, November 2026).
THREADS = 4
MATRICES = {"gate_proj": (0, 0), "up_proj": (0, 1), "down_proj": (1, 0)}
GB = 10**9


class _Found(NamedTuple):
    """A folder whose headers fit its config."""

    config: PanguMoEConfig
    files: Files
    stored: dict[str, torch.dtype]  # of every parameter
    quantized: _quantized.Folder | None


def of(model: nn.Module) -> ExpertStore:
    """The store of a model that :func:`load` made.

    Raises:
        ValueError: It has none.
    """
    for module in model.modules():
        if isinstance(module, PooledWeight) and isinstance(module.pool, ExpertStore):
            return module.pool
    raise ValueError(
        f"model must be one that moge_ops.offload.load gave, got {type(model).__name__}"
    )


def load(
    folder: str | Path,
    resident: int | str | None = None,
    *,
    model: Any = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    experts: Mapping[str, Tensor] | None = None,
) -> Any:
    """Loads a released folder whose routed experts come into memory when they are needed.

    On the CPU they are read from the files, which must stay as they are; a file that is deleted
    can still be read. For another device they are held in host memory, pinned for a GPU, and
    copied; there ``resident`` counts the memory of the device. The copies to GPUs were not run yet.

    The model is for inference: it takes no gradient, has no state dict, cannot be copied, and stays
    on its device. Its bits are those of the model that
    :func:`moge_ops.models.checkpoint.from_pretrained` gives.

    If all experts that may be used fit, all are read now, and the files are closed.

    Args:
        folder: As for :func:`moge_ops.models.checkpoint.from_pretrained`, quantised or not.
        resident: Most bytes of all weights in memory, as a number or like ``"8GB"``; None for room
            for all. It does not count activations and the cache of keys and values. Where bits
            depend on the places of weights (the torch backend and int4_w4a8), it counts a copy of
            one layer's experts.
        model: A model on the meta device to fill: the reference model, or
            :class:`moge_ops.integrations.pangu_auto.PanguProMoEForCausalLM`. By default a reference
            model is made.
        dtype: Of all but the experts, which are used as they are stored. By default that of the
            files.
        device: Where the model computes.
        experts: Layer -> ``[E]`` bool, as :meth:`moge_ops.statistics.RouterStatistics.masks` gives:
            the experts that stay on. Others are never read. Layers without a mask keep all.

    Returns:
        The model, in evaluation mode, without gradients.

    Raises:
        FileNotFoundError, OSError: A file is missing or cannot be read.
        TypeError: A mask is not bool, or ``resident`` is no number.
        ValueError: As ``from_pretrained``; or ``resident`` is smaller than the weights outside the
            experts and the experts of one layer; ``dtype`` is not that of the experts; the model is
            not on the meta device, or of other sizes or activations; a mask fits no layer, or
            leaves a group fewer than k experts.
    """
    device, folder = torch.device(device), Path(folder)
    return _load(folder, resident, model, dtype, device, experts, device.type != "cpu")


def _load(
    folder: Path,
    resident: int | str | None,
    model: Any,
    dtype: torch.dtype | None,
    device: torch.device,
    experts: Mapping[str, Tensor] | None,
    in_memory: bool,
) -> Any:
    most = None if resident is None else _size(resident)
    found = _look(folder)
    try:
        if model is None:
            with torch.device("meta"):
                model = PanguMoEForCausalLM(found.config)
        _check_model(model)
        if not any(name.startswith("mtp.") for name, _ in model.named_parameters()):
            found = _without_heads(found)
        parts = _Parts(model, found, dtype)
        layers = parts.layers(experts)
        store = _store(found, parts, layers, most, device, in_memory)
        try:
            parts.fill(store, layers, device)
            found.files.check()
            if in_memory:
                found.files.close()
            if store.slots == sum(len(layer.usable) for layer in layers):
                store.load_all()
        except BaseException:
            store.close()
            raise
    except BaseException:
        found.files.close()
        raise
    return model.requires_grad_(False).eval()


def _size(resident: int | str) -> int:
    units = checkpoint.UNITS
    if isinstance(resident, bool) or not isinstance(resident, int | str):
        raise TypeError(f"resident must be bytes or like '8GB', got {type(resident).__name__}")
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]i?B)?", str(resident))
    if not match or not float(match[1]):
        raise ValueError(f"resident must be a number of bytes or like '8GB', got {resident!r}")
    return int(float(match[1]) * units[match[2] or ""])


def _look(folder: Path) -> _Found:
    """Checks all headers, and opens the files."""
    config = checkpoint.read_config(folder)
    files = Files(all_files(folder))
    try:
        if is_quantized(folder, config.extra):
            found, code = checkpoint._quantized_folder(folder, config)
            codes = {
                parameter_name(whole): found.plan.headers[name].code
                if name.endswith(checkpoint.MIXED) and name in found.plan.headers
                else code
                for name, whole, _ in released_names(config)
            }
            stored = {name: DTYPES[code] for name, code in codes.items()}
            out = _Found(config, files, stored, found)
        else:
            out = _Found(config, files, checkpoint.stored_dtypes(folder), None)
        files.check()
    except BaseException:
        files.close()
        raise
    return out


def _without_heads(found: _Found) -> _Found:
    """For a model that ignores a folder's heads of further tokens, as transformers' class does."""
    config = dataclasses.replace(found.config, num_nextn_predict_layers=0)
    stored = {name: dtype for name, dtype in found.stored.items() if not name.startswith("mtp.")}
    return found._replace(config=config, stored=stored)


def _check_model(model: Any) -> None:
    """Raises ValueError unless it has layers of experts on the meta device."""
    if not isinstance(model, nn.Module) or not any(isinstance(m, MoGE) for m in model.modules()):
        raise ValueError(f"model must hold MoGE layers, got {type(model).__name__}")
    off = next((n for n, p in model.named_parameters() if not p.is_meta), None)
    if off is not None:
        raise ValueError(f"model must be on the meta device, got one with {off} in memory")


class _Parts:
    """A model's parameters and the tensors of the files that fill them.

    Raises ValueError if they do not fit.
    """

    def __init__(self, model: nn.Module, found: _Found, dtype: torch.dtype | None) -> None:
        self.model, self.found = model, found
        own = dict(model.named_parameters())
        # transformers' class holds the layers in a model of its own
        self.prefix = "" if "embed.weight" in own else "model."
        config = found.config
        kept = dict[str, torch.dtype]()
        for name, stored in found.stored.items():
            expert = name.endswith(("moge.w_gate_up", "moge.w_down"))
            router = name.endswith(("moge.gate", "moge.router_scale"))
            if expert and dtype not in (None, stored) and found.quantized is None:
                raise ValueError(
                    f"dtype must be {stored}, that of the experts in the files, got {dtype}: "
                    "moge-ops convert --dtype writes a folder with another"
                )
            given = dtype is not None and not (router and config.router_dtype is not None)
            kept[self.own(name, own)] = dtype if given else stored  # type: ignore[assignment]
        for name, parameter in own.items():
            if name not in kept:
                raise ValueError(f"{found.config.extra.get('architectures')} lacks {name}")
            parameter.data = parameter.data.to(kept[name])

    def own(self, name: str, there: Mapping[str, object]) -> str:
        """A name of the reference model as this model has it."""
        for own in (name, f"{self.prefix}{name}"):
            if own in there:
                return own
        raise ValueError(
            f"model must be of the folder's config.json, got {type(self.model).__name__} "
            f"without {name}"
        )

    def layers(self, experts: Mapping[str, Tensor] | None) -> list[Layer]:
        """All layers of experts, with those that may be used."""
        modules = dict(self.model.named_modules())
        layers, masks = list[Layer](), dict(experts or {})
        for name, module in modules.items():
            if not isinstance(module, MoGE):
                continue
            E, c = len(module.gate), self.found.config
            got, shape = list(module.w_down.shape), [E, c.hidden_size, c.moe_intermediate_size]
            if got != shape:
                raise ValueError(f"{name}.w_down of model must be {shape}, got {got}")
            if module.activation != Activation():
                raise ValueError(
                    f"{name}.activation of model must be SwiGLU, as in the files, got "
                    f"{module.activation}"
                )
            usable = list(range(E))
            if name in masks:
                usable = _usable(name, masks.pop(name), module)
            above = modules[name.rpartition(".")[0]]
            norm = getattr(above, "moge_norm", None)
            ref = None if norm is None else weakref.ref(norm)
            layers.append(Layer(name, weakref.ref(module), ref, usable, E))
        if masks:
            names = ", ".join(layer.name for layer in layers)
            raise ValueError(f"experts must name layers, of {names:.200}, got {next(iter(masks))}")
        return layers

    def of_experts(self, layers: list[Layer]) -> dict[Key, list[Matrix]]:
        """Where the files have each expert that may be used."""
        index = {layer.name: i for i, layer in enumerate(layers)}
        usable = [set(layer.usable) for layer in layers]
        modules = dict(self.model.named_modules())
        layer_of = dict[str, int]()
        found = defaultdict[Key, list[Matrix]](list)
        places = self.found.files.places
        for name, whole, _ in released_names(self.found.config):
            path, experts, rest = name.partition(".mlp.experts.")
            if not experts:
                continue
            i = index[self.own(whole.rpartition(".")[0], modules)]
            layer_of[f"{path}.mlp.experts"] = i
            if self.found.quantized is None:
                e, matrix, _ = rest.split(".")
                if int(e) in usable[i]:
                    found[i, int(e)].append(Matrix(*MATRICES[matrix], "", places[name]))
        if self.found.quantized is not None:
            for name, place in self.found.quantized.plan.places.items():
                if place.path not in layer_of:  # of a head that the model has not
                    continue
                i, weight = layer_of[place.path], 0 if place.weight == "up" else 1
                one = {place.expert} if place.expert is not None else None
                for expert in usable[i] if one is None else usable[i] & one:
                    at = places[name] if one else places[name].part(expert)
                    found[i, expert].append(Matrix(weight, place.half, place.part, at))
        return dict(found)

    def dtype(self) -> torch.dtype:
        """That of the activations."""
        return self.model.get_parameter(
            self.own("embed.weight", dict(self.model.named_parameters()))
        ).dtype

    def rest(self) -> int:
        """Bytes of all but the experts."""
        parameters = self.model.named_parameters()
        experts = ("moge.w_gate_up", "moge.w_down")
        return sum(p.nbytes for name, p in parameters if not name.endswith(experts))

    def fill(self, store: ExpertStore, layers: list[Layer], device: torch.device) -> None:
        """Puts the store in the place of the experts, and reads all the rest."""
        modules: list[Any] = [layer.module() for layer in layers]
        experts = [(module.w_gate_up, module.w_down) for module in modules]
        for module in modules:
            del module.w_gate_up, module.w_down
        self.model.to_empty(device=device)
        for module, weights in zip(modules, experts, strict=True):
            module.w_gate_up, module.w_down = weights  # on the meta device, for their names
        state = state_dict(self.model)
        for i, (module, layer) in enumerate(zip(modules, layers, strict=True)):
            E = layer.num_experts
            del module.w_gate_up, module.w_down
            module.w_gate_up = PooledWeight(store, i, 0, E)
            module.w_down = PooledWeight(store, i, 1, E)
            if len(layer.usable) < E:
                mask = torch.zeros(E, dtype=torch.bool, device=device)
                mask[layer.usable] = True
                module.expert_mask = mask
        places, quantized = self.found.files.places, self.found.quantized
        parts = dict[str, Tensor]()
        for name, whole, index in released_names(self.found.config):
            if ".mlp.experts." not in name:
                parts[name] = state[self.own(whole, state)].detach()[index]
        if quantized is None:
            for name, part in parts.items():
                places[name].copy_to(part)
            return
        coded = [name for name in places if name in quantized.places]
        for name, part in parts.items():
            if name in places and name not in quantized.places:
                places[name].copy_to(part)
        tensors = ((name, places[name].new(), places[name].where) for name in coded)
        _quantized.fill_rest(parts, quantized, tensors, device)


def _usable(name: str, mask: Tensor, module: MoGE) -> list[int]:
    """Ids that a mask keeps."""
    E, G = len(module.gate), module.num_groups
    _checks.shape(f"experts[{name!r}]", mask, "[E]", (E,))
    if mask.dtype != torch.bool:
        raise TypeError(f"experts[{name!r}] must be bool, got {mask.dtype}")
    least = int(mask.view(G, -1).sum(1).min())
    if least < module.k:
        raise ValueError(
            f"experts[{name!r}] must keep at least k={module.k} experts of each group, got {least}"
        )
    usable: list[int] = mask.nonzero().flatten().tolist()
    return usable


def _store(
    found: _Found,
    parts: _Parts,
    layers: list[Layer],
    most: int | None,
    device: torch.device,
    in_memory: bool,
) -> ExpertStore:
    """Allocates as many slots as there may be."""
    experts = parts.of_experts(layers)
    meta, (_, F, H) = _pool_like(found)
    each, rest = meta, parts.rest()
    every, least = len(experts), max(len(layer.usable) for layer in layers)
    slots = every if most is None else min(every, (most - rest) // each)
    # one layer's experts in their own order, beside the pool; nothing moves where all are there
    E, copied, scheme = layers[0].num_experts, 0, None
    if found.quantized is not None:
        scheme = next(iter(found.quantized.plan.layers.values())).down.empty("meta").scheme
    if slots < every or any(len(layer.usable) < E for layer in layers):
        copied = 0 if in_place(scheme, device.type, parts.dtype()) else E
    if most is not None:
        slots = min(slots, (most - rest) // each - copied)
    slots = min(slots, MAX_EXPERTS)  # ids of slots are routed
    if slots < least:
        need = rest + (least + copied) * each
        raise ValueError(
            f"resident must be at least {need / GB:.6f} GB, for {rest / GB:.6f} GB outside the "
            f"experts and {least + copied} experts of one layer{' and its copy' * bool(copied)}, "
            f"got {(most or 0) / GB:.6f} GB"
        )

    def from_files(n: int) -> Source:
        if found.quantized is None:
            return PlainFiles(found.files, experts, (n, F, H))
        layer = next(iter(found.quantized.plan.layers.values()))
        return QuantizedFiles(found.files, experts, layer, n)

    if in_memory:
        keys = [(i, e) for i, layer in enumerate(layers) for e in layer.usable]
        source: Source = Memory(from_files(every), keys, slots, device)
    else:
        source = from_files(slots)
    return ExpertStore(source, layers, slots, THREADS)


def _pool_like(found: _Found) -> tuple[int, tuple[int, int, int]]:
    """Bytes of a slot, and E, F and H; raises ValueError if layers differ."""
    c = found.config
    sizes = (c.num_experts, c.moe_intermediate_size, c.hidden_size)
    if found.quantized is None:
        dtype = next(d for name, d in found.stored.items() if name.endswith("moge.w_down"))
        return 3 * sizes[1] * sizes[2] * dtype.itemsize, sizes
    first, *others = found.quantized.plan.layers.values()
    for path, layer in zip(list(found.quantized.plan.layers)[1:], others, strict=True):
        if layer != first:
            raise ValueError(
                f"experts of all layers must be quantised in one way to share a pool, got {path} "
                "in another than the first"
            )
    return sum(w._replace(sizes=(1, *w.sizes[1:])).empty("meta").nbytes for w in first), sizes
