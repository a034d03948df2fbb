"""Quantising the experts of a model in place."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from moge_ops._quantized import quantize
from moge_ops.nn import FrozenWeight

__all__ = ["expert_modules", "quantize_experts"]

# what the two weights are called: in nn.MoGE, and in transformers' experts interface
_NAMES = (("w_gate_up", "w_down"), ("gate_up_proj", "down_proj"), ("up_proj", "down_proj"))


def expert_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, str]]:
    """Name, module, and the names of its two stacked weights, of every layer of experts."""
    for name, module in model.named_modules():
        for up, down in _NAMES:
            weights = [getattr(module, weight, None) for weight in (up, down)]
            if all(
                isinstance(w, FrozenWeight) or (isinstance(w, Tensor) and w.ndim == 3)
                for w in weights
            ):
                yield name, module, up, down
                break


def quantize_experts(model: nn.Module, scheme: str, *, group_size: int | None = None) -> list[str]:
    """Quantises the routed experts of a model in place; routers and all the rest stay.

    Args:
        model: Any module that holds :class:`moge_ops.nn.MoGE` layers, or experts modules of
            transformers (``gate_up_proj`` and ``down_proj``, stacked).
        scheme: One of :data:`moge_ops.quant.SCHEMES`.
        group_size: As in :func:`moge_ops.quant.quantize`.

    Returns:
        Names of the layers, whose two weights are :class:`moge_ops.nn.FrozenWeight` now.

    Raises:
        ValueError: There is no such layer, or one is quantised already; and as
            :func:`moge_ops.quant.quantize` does.
    """
    found = list(expert_modules(model))
    if not found:
        raise ValueError(
            "the model must have layers of experts, moge_ops.nn.MoGE or modules with stacked "
            f"gate_up_proj and down_proj, got {type(model).__name__}"
        )
    for name, module, up, _ in found:
        if isinstance(getattr(module, up), FrozenWeight):
            raise ValueError(f"{name or 'the model'} is quantised already")
    for _, module, up, down in found:
        transposed = bool(getattr(module, "is_transposed", False))  # [E, I, O]
        for weight, halves in ((up, 1 if up == "up_proj" else 2), (down, 1)):
            plain: Any = getattr(module, weight)
            plain = plain.detach().mT if transposed else plain.detach()
            frozen = FrozenWeight(quantize(plain, scheme, group_size=group_size, halves=halves))
            delattr(module, weight)
            setattr(module, weight, frozen)
    return [name for name, *_ in found]
