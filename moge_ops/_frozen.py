"""The place of a quantised weight in a module."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from moge_ops._quantized import QuantizedWeight, check, check_values


class FrozenWeight(nn.Module):
    """The place of a quantised weight in a module: buffers ``data``, ``scale`` and ``zero``.

    They are in the state dict, and move with the module; ``.to(dtype)``, ``.half()`` and the like
    leave them as they are.

    Args:
        weight: Its parts become the buffers; they are not copied.

    Raises:
        TypeError: A dtype is not that of the scheme.
        ValueError: Shapes do not fit, or a scale is 0 or not finite; in a state dict too.
    """

    data: Tensor
    scale: Tensor
    zero: Tensor | None

    def __init__(self, weight: QuantizedWeight) -> None:
        super().__init__()
        (check if weight.data.is_meta else check_values)("weight", weight)
        self.scheme, self.group_size = weight.scheme, weight.group_size
        for name, x in zip(("data", "scale", "zero"), weight[:3], strict=True):
            self.register_buffer(name, x)

    @property
    def weight(self) -> QuantizedWeight:
        """What the operators take."""
        return QuantizedWeight(self.data, self.scale, self.zero, self.scheme, self.group_size)

    @property
    def shape(self) -> torch.Size:
        """``[E, O, I]``."""
        return self.weight.shape

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FrozenWeight":
        def moved(x: Tensor) -> Tensor:
            nothing = fn(x.new_empty(0))  # what it does, without a converted copy
            return fn(x) if nothing.dtype == x.dtype else x.to(nothing.device)

        super()._apply(moved, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        prefix, errors = args[1], args[6]
        if not self.data.is_meta and not errors:
            try:
                check_values(prefix.removesuffix("."), self.weight)
            except (TypeError, ValueError) as error:
                errors.append(str(error))

    def extra_repr(self) -> str:
        """Shape, scheme and group size, for ``print``."""
        return f"{list(self.shape)}, scheme={self.scheme!r}, group_size={self.group_size}"
