"""Who reads which norm, as one forward pass shows it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from moge_ops.nn import MoGE

__all__ = ["Place", "Weight", "places"]


class Weight(NamedTuple):
    """A matrix that reads the output of a norm."""

    parameter: Tensor
    axis: int  # of it, along H
    counts: bool  # its range does; that of a router does not, as it is never quantised


class Place(NamedTuple):
    """One norm, and all that reads it."""

    name: str
    norm: nn.Module
    weights: list[Weight]


def _of_norm(module: nn.Module) -> bool:
    """A vector of weights, perhaps one of biases, and nothing else."""
    parameters = dict(module.named_parameters())
    return "weight" in parameters and all(
        name in ("weight", "bias") and p.ndim == 1 for name, p in parameters.items()
    )


def _tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    return [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]


def _storage(x: Tensor) -> int:
    """The same for a tensor and its views."""
    return x.untyped_storage().data_ptr()


def places(model: nn.Module, piece: Tensor) -> list[Place]:
    """Norms that experts read, with all their readers, from one forward pass.

    Raises:
        ValueError: No norm is read by the experts, or its output is no multiple of its weight; a
            module reads the norm whose weights are not known here.
    """
    outputs: dict[int, tuple[str, nn.Module]] = {}  # storage -> its norm
    kept: list[Tensor] = []  # so that no other tensor gets such a storage
    inputs: dict[str, Tensor] = {}  # of the norms
    readers: dict[str, dict[str, nn.Module]] = {}  # norm -> its readers

    def written(name: str) -> Any:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            if isinstance(out, Tensor) and args and isinstance(args[0], Tensor):
                kept.append(out)
                outputs[_storage(out)], inputs[name] = (name, module), args[0]

        return hook

    def read(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            for x in _tensors(args, kwargs):
                if _storage(x) in outputs:
                    readers.setdefault(outputs[_storage(x)][0], {})[name] = module

        return hook

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if _of_norm(module):
                hooks.callback(module.register_forward_hook(written(name)).remove)
            elif next(module.parameters(recurse=False), None) is not None:
                hook = module.register_forward_pre_hook(read(name), with_kwargs=True)
                hooks.callback(hook.remove)
        model(piece)

    made, found = [], set()
    for norm, modules in readers.items():
        experts = {name: m for name, m in modules.items() if _experts(m) is not None}
        if not experts:
            continue
        found |= set(experts)
        module = model.get_submodule(norm)
        _check_norm(norm, module, inputs[norm])
        H = module.get_parameter("weight").shape[0]
        E = max(_experts(m)[0].shape[0] for m in experts.values())  # type: ignore[index]
        weights = {}
        for name, reader in modules.items():
            for weight in _weights(norm, name, reader, H, E):
                weights[id(weight.parameter)] = weight  # tied ones once
        made.append(Place(norm, module, list(weights.values())))
    missing = [n for n, m in model.named_modules() if _experts(m) is not None and n not in found]
    if missing or not made:
        raise ValueError(
            f"smoothing needs a norm whose output {missing[0] if missing else 'experts'} "
            f"read{'s' if missing else ''}, found none in {type(model).__name__}"
        )
    return made


def _experts(module: nn.Module) -> tuple[Tensor, int] | None:
    """The stacked first matrices of a module of plain experts, and their axis along H."""
    for name in ("w_gate_up", "gate_up_proj", "up_proj"):
        weight = getattr(module, name, None)
        if isinstance(weight, Tensor) and weight.ndim == 3:
            return weight, 1 if getattr(module, "is_transposed", False) else 2
    return None


def _weights(norm: str, name: str, module: nn.Module, H: int, E: int) -> Iterator[Weight]:
    """Matrices of one reader."""
    known = {n: p for n, p in module.named_parameters(recurse=False) if p.ndim > 1}
    experts = _experts(module)
    if type(module) is MoGE:
        yield Weight(module.gate, 1, False)
        if module.shared_gate_up is not None:
            yield Weight(module.shared_gate_up, 1, True)
    elif experts is None:
        weight = known.get("weight")
        if set(known) != {"weight"} or weight is None or tuple(weight.shape[1:]) != (H,):
            raise ValueError(
                f"{name} reads {norm} too, and smoothing takes MoGE layers, stacked experts, and "
                f"modules with one weight [rows, H={H}], got {type(module).__name__} with "
                f"{ {n: list(p.shape) for n, p in known.items()} }"
            )
        # one with E rows, or 1, is a router or the gate of a shared expert
        yield Weight(weight, 1, weight.shape[0] not in (E, 1))
    if experts is not None:
        if isinstance(module, MoGE) and type(module) is not MoGE:
            raise ValueError(
                f"{name} must be smoothed before it is split, got {type(module).__name__}"
            )
        yield Weight(*experts, True)


def _check_norm(name: str, norm: nn.Module, x: Tensor) -> None:
    """Raises ValueError unless the output is a multiple of the parameters."""

    def output() -> Tensor:
        y: Tensor = norm.forward(x)  # past the hooks
        return y

    kept = [(p, p.clone()) for p in norm.parameters()]
    once = output()
    for parameter, _ in kept:
        parameter.mul_(2.0)
    twice = output()
    for parameter, was in kept:
        parameter.copy_(was)  # twice may be too large to be halved
    # to the bit, but subnormals are rounded twice
    limits = torch.finfo(once.dtype)
    if not torch.allclose(twice, 2.0 * once, rtol=0.0, atol=2.0 * limits.tiny * limits.eps):
        raise ValueError(
            f"{name} must be a norm whose output is a multiple of its weight, "
            f"got {type(norm).__name__}"
        )
