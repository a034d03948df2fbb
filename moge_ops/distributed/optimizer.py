"""What optimizers keep, in the form that a mesh and one process share."""

import inspect
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from moge_ops.models.layout import split


def optimizer_state_dict(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What ``torch.distributed.checkpoint`` saves and loads of an optimizer, on any mesh and none.

    The companion of :func:`state_dict`, with the same names, shapes and placements: the average
    ``exp_avg`` of AdamW for the parameter ``embed.weight`` is ``embed.weight.exp_avg``. Loading
    writes into the optimizer's own memory, so that nothing has to be set afterwards. Learning
    rates and other settings are not in it: they are the training loop's.

    Args:
        module: As in :func:`state_dict`.
        optimizer: Of the module's parameters. One that has made no step yet gets its state by a
            step with gradients of zero and a learning rate of zero.

    Returns:
        Name to tensor, DTensors where the module is parallel; on the CPU where FSDP2 offloads.

    Raises:
        ValueError: The optimizer's step needs a closure, as that of LBFGS does; it has a parameter
            that is not the module's; or it keeps something that is neither a scalar nor of the
            shape of its parameter, as Adafactor does.
    """
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            "optimizer must make its step without a closure, like AdamW, got "
            f"{type(optimizer).__name__}"
        )
    # after a forward pass without a backward one, this also splits what FSDP2 had left whole
    shapes = {name: x.shape for name, x in module.state_dict().items()}
    own = set(module.parameters())
    for p in (p for group in optimizer.param_groups for p in group["params"]):
        if p not in own:
            raise ValueError(
                f"optimizer must have parameters of module alone, got another, {list(p.shape)}"
            )
    of_kinds: dict[str, dict[str, Tensor]] = {}
    # torch makes the state of a new optimizer only where no parameter has a gradient
    new = () if optimizer.state else [(p, p.grad) for p in own]
    for p, _ in new:
        p.grad = None
    try:
        found = get_optimizer_state_dict(module, optimizer)
    finally:
        for p, grad in new:
            p.grad = grad
    of_parameters = cast("dict[str, Any]", found["state"])
    for name, of_parameter in of_parameters.items():
        for kind, x in of_parameter.items():
            if not isinstance(x, Tensor) or (x.ndim and x.shape != shapes[name]):
                got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
                raise ValueError(
                    f"optimizer must keep scalars and tensors of the shape of their parameter "
                    f"{name} {list(shapes[name])}, got {got} for {kind}"
                )
            of_kinds.setdefault(kind, {})[name] = x
    return {
        f"{name}.{kind}": x
        for kind, tensors in of_kinds.items()
        for name, x in split(module, tensors).items()
    }
