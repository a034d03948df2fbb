"""What surgery needs of a model: its layers with experts, and places for weights of other sizes."""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from moge_ops._first_router import moge_layers
from moge_ops.nn import FrozenWeight, MoGE, PooledWeight

if TYPE_CHECKING:
    from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
    from moge_ops.models.pangu_moe import Layer

OUTPUTS = ("gate", "bias")  # what has an entry for each output of the router
OF_EXPERTS = ("router_scale", "expert_mask")  # and for each expert
EXPERTS = ("w_gate_up", "w_down")


def called(name: str) -> str:
    """What a message calls a layer, whose name is "" where it is the whole model."""
    return repr(name) if name else "the layer"


def owned_layers(model: nn.Module) -> dict[str, MoGE]:
    """The layers with experts by name, at least one, each with whole weights of its own.

    Raises:
        ValueError: There is none, or experts are offloaded or split over devices.
    """
    layers = moge_layers(model)
    if not layers:
        raise ValueError(
            f"model must have layers of moge_ops.nn.MoGE, got none in {type(model).__name__}"
        )
    for name, layer in layers.items():
        for weight in (layer.w_gate_up, layer.w_down):
            if isinstance(weight, PooledWeight):
                raise ValueError(
                    f"{called(name)} must own its experts, got one whose experts are offloaded"
                )
            if len(weight.shape) != 3 or hasattr(weight, "device_mesh"):
                raise ValueError(
                    f"{called(name)} must have all experts on one device, got weights that are "
                    "split: save the model, and load it into one process"
                )
    return layers


def check_pangu(what: str, model: Any) -> None:
    """Checks that a model is one whose parts surgery knows; raises TypeError."""
    from moge_ops.models import PanguMoEForCausalLM  # layers can be cut without it

    if not isinstance(model, PanguMoEForCausalLM):
        raise TypeError(f"{what} must be a PanguMoEForCausalLM, got {type(model).__name__}")


def check_config(model: "PanguMoEForCausalLM", config: "PanguMoEConfig") -> None:
    """Checks that the config of a smaller model is of the model's kind; raises TypeError."""
    kind = type(model.config)
    if not isinstance(config, kind):
        raise TypeError(f"config must be a {kind.__name__}, got {type(config).__name__}")


def pangu_layers(model: nn.Module) -> "list[Layer]":
    """The layers of the language model, with their types."""
    layers: Any = model.layers
    return list(layers)


def outputs_of(layer: MoGE, index: Tensor) -> Tensor:
    """The router's outputs of the experts ``[E']``, group by group, each with its null ones.

    Equally many experts of each group stand together in ``index``.
    """
    G, n = layer.num_groups, layer.num_null
    P = layer.w_down.shape[0] // G
    experts = index.view(G, -1)
    null = torch.arange(P, P + n, device=index.device).expand(G, n)
    return (experts[:, :1] // P * (P + n) + torch.cat([experts % P, null], 1)).flatten()


def check_plain(name: str, layer: MoGE) -> None:
    """Checks that a layer's experts can be slimmed; raises ValueError."""
    if isinstance(layer.w_gate_up, FrozenWeight) or isinstance(layer.w_down, FrozenWeight):
        raise ValueError(
            f"{called(name)} must have plain experts to be slimmed, got quantised ones, whose "
            "neurons share scales and have no gradient: slim first, then quantise"
        )
    if layer.activation.interleaved or not layer.activation.gated:
        raise ValueError(
            f"{called(name)} must have gate and up in two halves to be slimmed, "
            f"got {layer.activation}"
        )


def check_mapping(what: str, given: Any) -> None:
    """Checks that something is given by the names of layers; raises TypeError."""
    if not isinstance(given, Mapping):
        kind = type(given).__name__
        raise TypeError(f"{what} must be a Mapping whose keys are names of layers, got {kind}")


def same_names(what: str, given: Any, layers: Mapping[str, MoGE]) -> None:
    """Checks that a mapping is of exactly the model's layers; raises TypeError, ValueError."""
    check_mapping(what, given)
    odd = sorted(given.keys() ^ layers.keys(), key=str)
    if odd:
        name = odd[0]
        got = f"{name!r}, which is no such layer" if name in given else f"none of {called(name)}"
        key = ", '' where the model is the layer" if "" in layers else ""
        raise ValueError(f"{what} must be of this model's layers with experts{key}, got {got}")


def put(module: nn.Module, name: str, x: Tensor) -> None:
    """Puts a tensor of another size in the place of a parameter or of a buffer."""
    was = getattr(module, name)
    if isinstance(was, nn.Parameter):
        x = nn.Parameter(x, requires_grad=was.requires_grad)
    setattr(module, name, x)


def tell(model: nn.Module, name: str, sizes: Mapping[str, int]) -> None:
    """Writes a new size of layers into every config of the model that has it.

    The model gets copies of its configs, because other models may hold the same objects.

    Args:
        model: The model.
        name: Of the size in a config.
        sizes: Layer -> size.
    """
    places: list[tuple[str, Any]] = [
        (f"{path}.", module) for path, module in model.named_modules() if "config" in vars(module)
    ]
    # all in one copy: modules share a config, and one config may hold another
    configs = copy.deepcopy([module.config for _, module in places])
    for (path, module), config in zip(places, configs, strict=True):
        module.config = config
        inside = [n for layer, n in sizes.items() if path == "." or f"{layer}.".startswith(path)]
        if inside and hasattr(config, name):
            setattr(config, name, inside[0])
