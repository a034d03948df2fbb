"""Quantising the experts of a model in place."""

import importlib
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from moge_ops._quantized import INTEGERS, QuantizedWeight, check, check_values
from moge_ops.nn import FrozenWeight, MoGE
from moge_ops.quant.rounding import quantize
from moge_ops.quant.smoothing import Smoothing, smooth_experts, up_is_linear

__all__ = [
    "ExpertWeight",
    "check_loaded",
    "expert_modules",
    "expert_weights",
    "placeholder",
    "quantize_experts",
]


class ExpertWeight(NamedTuple):
    """One stacked weight of a layer of experts, plain or quantised, and where it is."""

    layer: str  # name of the module
    module: nn.Module
    attribute: str  # of the module
    halves: int  # matrices that lie stacked along O
    transposed: bool  # a plain one is [E, I, O]; a quantised one is always [E, O, I]

    @property
    def name(self) -> str:
        """Full name in the model."""
        return f"{self.layer}.{self.attribute}".removeprefix(".")

    @property
    def value(self) -> Tensor | FrozenWeight:
        """What is there now: a plain one detached and as ``[E, O, I]``."""
        value: Any = getattr(self.module, self.attribute)
        if isinstance(value, FrozenWeight):
            return value
        plain: Tensor = value.detach()
        return plain.mT if self.transposed else plain

    def put(self, weight: QuantizedWeight) -> FrozenWeight:
        """Takes the place of the weight that was there, and lets go of that."""
        frozen = FrozenWeight(weight)
        delattr(self.module, self.attribute)
        setattr(self.module, self.attribute, frozen)
        return frozen


def _is_interface(module: nn.Module) -> bool:
    """Whether it is an experts module of transformers, known by the flags of its interface."""
    return all(hasattr(module, name) for name in ("_apply_gate", "has_gate", "is_transposed"))


def _names(module: nn.Module) -> tuple[str, str] | None:
    """What the two weights of a layer of experts are called; None for another module."""
    if isinstance(module, MoGE):
        return "w_gate_up", "w_down"
    if _is_interface(module):
        return "gate_up_proj" if module.has_gate else "up_proj", "down_proj"
    return None


def expert_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, str]]:
    """Name, module, and the names of its two stacked weights, of every layer of experts."""
    for layer, module in model.named_modules():
        names = _names(module)
        if names is not None:
            yield layer, module, *names


def expert_weights(model: nn.Module, skip: Collection[str] = ()) -> list[ExpertWeight]:
    """The stacked weights of all layers of experts whose names do not begin with one of ``skip``.

    Raises:
        ValueError: There is no such layer; a weight is not of three dimensions; or a name in
            ``skip`` is that of no module.
    """
    modules = dict(model.named_modules())
    unknown = [name for name in skip if name not in modules]
    if unknown:
        raise ValueError(f"skip must name modules of the model, got {', '.join(unknown)}")
    found = []
    for layer, module, *names in expert_modules(model):
        if any(f"{layer}.".startswith(f"{name}.") for name in skip):
            continue
        for attribute in names:
            value = getattr(module, attribute, None)
            name = f"{layer}.{attribute}".removeprefix(".")
            if not isinstance(value, Tensor | FrozenWeight) or len(value.shape) != 3:
                got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"{name} must be stacked, [E, O, I], and whole, got {got}")
            if isinstance(module, MoGE):
                concatenated = module.activation.gated and not module.activation.interleaved
            else:
                concatenated = bool(module.is_concatenated)
            both = attribute in ("w_gate_up", "gate_up_proj") and concatenated
            transposed = not isinstance(module, MoGE) and bool(module.is_transposed)
            found.append(ExpertWeight(layer, module, attribute, 2 if both else 1, transposed))
    if not found:
        stacked = {
            type(module).__name__
            for module in modules.values()
            if all(hasattr(module, name) for name in ("gate_up_proj", "down_proj"))
            and isinstance(module.down_proj, Tensor)
        }
        got = ", ".join(sorted(stacked) or [type(model).__name__])
        raise ValueError(
            "the model must have layers of experts to quantise, moge_ops.nn.MoGE or modules with "
            f"transformers' experts interface, got {got}"
        )
    return found


def placeholder(
    shape: torch.Size, scheme: str, group_size: int | None, symmetric: bool, halves: int
) -> QuantizedWeight:
    """A weight without memory, to be filled by a loader; raises as :func:`quantize` does."""
    E = shape[0]
    none = torch.empty(0, *shape[1:], dtype=torch.float32, device="meta")
    weight = quantize(none, scheme, group_size=group_size, symmetric=symmetric, halves=halves)
    data, scale = (x.new_empty(E, *x.shape[1:]) for x in weight[:2])
    zero = None if symmetric else scale.new_empty(scale.shape, dtype=torch.int8)
    return weight._replace(data=data, scale=scale, zero=zero)


def check_loaded(name: str, frozen: FrozenWeight, shape: torch.Size) -> None:
    """Checks what a loader put into a :func:`placeholder` of ``shape``, the values too.

    Raises:
        TypeError, ValueError: Dtypes or shapes do not fit the scheme or the model, or scales or
            zero points are not usable.
    """
    check_values(name, frozen.weight)
    if frozen.shape != shape:
        raise ValueError(f"{name} must be {list(shape)}, got {list(frozen.shape)}")


def _check(weight: ExpertWeight, **how: Any) -> None:
    """Raises ValueError or TypeError, naming it, if a weight cannot be quantised."""
    value = weight.value
    if isinstance(value, FrozenWeight):
        raise ValueError(f"{weight.name} is quantised already")
    if type(value) is not Tensor:  # split over processes, or another library's quantised one
        raise ValueError(f"{weight.name} must be a plain tensor, got {type(value).__name__}")
    if value.is_meta:
        raise ValueError(
            f"{weight.name} must be in memory, got a meta tensor: load the model first"
        )
    try:
        # none of its experts: shapes, scheme and group size are checked as for all
        check(weight.name, quantize(value[:0], halves=weight.halves, **how))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{weight.name}: {error}") from None
    most = torch.finfo(torch.float32).max
    if not all(bool(w.abs().amax() <= most) for w in value.unbind() if w.numel()):
        raise ValueError(f"{weight.name} must be finite, got NaN or infinity")


@torch.no_grad()
def quantize_experts(
    model: nn.Module,
    scheme: str,
    *,
    group_size: int | None = None,
    symmetric: bool = True,
    skip: Collection[str] = (),
    calibration: Iterable[Tensor] | None = None,
    smoothing: Smoothing | None = None,
) -> list[str]:
    """Quantises the routed experts of a model in place; routers and all the rest stay.

    A weight at a time: the plain one is freed when the quantised one is there, unless something
    else holds it. All weights are read beforehand, so that an error leaves the model as it was.

    A model of transformers then runs its experts by moge_ops, whatever ``experts_implementation``
    was; ``save_pretrained`` writes the quantised weights and says so in ``config.json``; Trainer
    takes the model with adapters only. Pass the whole model: one that holds it learns nothing of
    this, and refuses to be saved.

    Args:
        model: Any module that holds :class:`moge_ops.nn.MoGE` layers, or modules with transformers'
            experts interface (Mixtral, Qwen3-MoE, DeepSeek-V3, GPT-OSS and others).
        scheme: One of :data:`moge_ops.quant.SCHEMES`.
        group_size, symmetric: As in :func:`moge_ops.quant.quantize`.
        skip: Names of modules whose experts stay plain, and of modules that hold such.
        calibration: Batches of token ids, ``[B, L]`` or ``[L]``, by which outlying channels of all
            layers are smoothed before, as :func:`moge_ops.quant.smooth_experts` does. By default
            nothing is smoothed.
        smoothing: Its settings; by default also within experts for int8_w8a8 and int4_w4a8,
            which round the activations there, if ``within`` is possible in all layers.

    Returns:
        Names of the layers, whose two weights are :class:`moge_ops.nn.FrozenWeight` now.

    Raises:
        ValueError: There is no layer of experts; a weight is quantised already, on the meta device,
            split over several processes, or not finite; transformers has quantised the model; a
            name in ``skip`` is unknown; and as :func:`moge_ops.quant.quantize` and
            :func:`moge_ops.quant.smooth_experts`.
        TypeError: Weights are no floats, or calibration gives no ids.
        ImportError: The release of transformers is not supported.
    """
    how: dict[str, Any] = {"scheme": scheme, "group_size": group_size, "symmetric": symmetric}
    weights = expert_weights(model, skip)
    for weight in weights:
        _check(weight, **how)
    host = _transformers(model)
    if host is not None:
        host.refuse_other_quantizers(model)
    if calibration is not None:
        if smoothing is None:  # schemes of integers round activations within experts too
            layers = (m for m in model.modules() if isinstance(m, MoGE))
            smoothing = Smoothing(within=scheme in INTEGERS and all(map(up_is_linear, layers)))
        smooth_experts(model, calibration, smoothing)
    for weight in weights:
        plain: Any = weight.value
        weight.put(quantize(plain, halves=weight.halves, **how))
        del plain  # before the next one is made
    if host is not None:
        host.adopt(model, skip=skip, **how)
    return list(dict.fromkeys(weight.layer for weight in weights))


def _transformers(model: nn.Module) -> Any:
    """What tells a model of transformers that its experts are quantised; None for another model."""
    ours = any(
        hasattr(module, "set_experts_implementation") or _is_interface(module)
        for module in model.modules()
    )
    if not ours:
        return None
    # by name: this room knows nothing of transformers, which such a model has imported already
    importlib.import_module("moge_ops.integrations.transformers").register()
    return importlib.import_module("moge_ops.integrations._quantizer")
