"""What the router of a model's first layer with experts says, without running a single expert."""

import re
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from moge_ops.nn import MoGE
from moge_ops.ops.grouped_gate import Gating


class FirstRouter(NamedTuple):
    """One call of the first layer that was reached."""

    name: str
    module: MoGE
    logits: Tensor  # [T, E]
    gating: Gating
    rows: Tensor | None  # [T] bool, false at padding


class _Seen(Exception):  # noqa: N818, because it is no error
    """The router has answered, and the rest of the model need not run."""


def moge_layers(model: nn.Module) -> dict[str, MoGE]:
    """The layers with experts by name."""
    return {name: x for name, x in model.named_modules() if isinstance(x, MoGE)}


@torch.no_grad()
def first_router(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None
) -> FirstRouter | None:
    """Runs a model up to the router of the first MoGE layer that is called; None if none is.

    The layer chooses among all its experts, whatever its ``expert_mask``.
    """
    found: list[FirstRouter] = []

    def watch(name: str, module: MoGE) -> Any:
        def hook(_: MoGE, args: Any, kwargs: dict[str, Any]) -> None:
            x, rows = args[0] if args else kwargs["x"], kwargs.get("row_mask")
            rows = None if rows is None else rows.flatten()
            mask: Any = module.expert_mask
            nothing: Any = None  # a buffer's type has no None
            module.expert_mask = nothing
            try:
                logits, gating = module.router(x.reshape(-1, x.shape[-1]), rows)
            finally:
                module.expert_mask = mask
            found.append(FirstRouter(name, module, logits, gating, rows))
            raise _Seen

        return module.register_forward_pre_hook(hook, with_kwargs=True)

    mask = {} if attention_mask is None else {"attention_mask": attention_mask}
    with ExitStack() as hooks, suppress(_Seen):
        for name, module in moge_layers(model).items():
            hooks.callback(watch(name, module).remove)
        model(input_ids, **mask)
    return found[0] if found else None


def check_sizes(task: str, sizes: Mapping[str, list[int]], model: nn.Module) -> None:
    """Checks layer -> ``[G, E/G]`` of a task; see :meth:`RouterStatistics.check`."""
    own = {
        name: [module.num_groups, module.w_down.shape[0] // module.num_groups]
        for name, module in moge_layers(model).items()
    }
    kinds = {_kind(name) for name in sizes}
    odd = sorted({name for name in own if _kind(name) in kinds} ^ set(sizes))
    if odd:
        where = "the model" if odd[0] in own else "the task"
        raise ValueError(
            f"{task!r} must be of this model's layers with experts, but only {where} has {odd[0]}"
        )
    for name, size in sizes.items():
        if size != own[name]:
            raise ValueError(
                f"{task!r} must be of this model, whose {name} has [G, E/G] = {own[name]}, "
                f"got {size}"
            )


def _kind(name: str) -> str:
    """The name of a layer without its place among others."""
    return re.sub(r"\d+", "*", name)
