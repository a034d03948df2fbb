"""Argument checks of the public functions: expected and got, before any launch."""

from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
IDS = (torch.int32, torch.int64)


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return " | ".join(str(d).removeprefix("torch.") for d in dtypes)


def tensor(name: str, x: Any, layout: str, dtypes: tuple[torch.dtype, ...]) -> None:
    """Checks type, rank and dtype; ``layout`` names the dimensions, ``"[T, E]"``.

    Raises:
        TypeError: ``x`` is not a tensor, or of another dtype.
        ValueError: ``x`` has another rank.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a Tensor {layout}, got {type(x).__name__}")
    if x.dtype not in dtypes:
        raise TypeError(f"{name} must be {_names(dtypes)}, got {_names((x.dtype,))}")
    if x.ndim != layout.count(",") + 1:
        raise ValueError(f"{name} must be {layout}, got {list(x.shape)}")


def shape(name: str, x: Tensor, layout: str, expected: tuple[int, ...]) -> None:
    """Checks the sizes of ``x``; raises ValueError."""
    if tuple(x.shape) != expected:
        raise ValueError(f"{name} must be {layout} = {list(expected)}, got {list(x.shape)}")


def same_device(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Checks that two arguments share a device; raises ValueError."""
    if x.device != other.device:
        raise ValueError(
            f"{name} must be on the device of {other_name}, {other.device}, got {x.device}"
        )


def same_dtype(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Checks that two arguments share a dtype; raises TypeError."""
    if x.dtype != other.dtype:
        raise TypeError(
            f"{name} must have the dtype of {other_name}, {_names((other.dtype,))}, "
            f"got {_names((x.dtype,))}"
        )


def choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Checks a string option; raises ValueError."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def groups(num_experts: int, num_groups: Any, k: Any = 1) -> None:
    """Checks that E experts split into G groups of at least k.

    Raises:
        TypeError: A size is not an int.
        ValueError: G does not divide E, or k is above E/G.
    """
    for name, value in (("num_groups", num_groups), ("k", k)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be an int, got {type(value).__name__}")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if num_experts < 1 or num_experts % num_groups:
        raise ValueError(
            f"the number of experts must be a positive multiple of num_groups={num_groups}, "
            f"got {num_experts}"
        )
    if k > num_experts // num_groups:
        raise ValueError(
            f"k must be at most the experts per group, {num_experts} / {num_groups} = "
            f"{num_experts // num_groups}, got {k}"
        )


def voted(num_voted: Any, k: int, per_group: int) -> None:
    """Checks how many experts of a group stay; raises TypeError or ValueError."""
    if not isinstance(num_voted, int) or isinstance(num_voted, bool):
        raise TypeError(f"num_voted must be an int, got {type(num_voted).__name__}")
    if not k <= num_voted <= per_group:
        raise ValueError(
            f"num_voted must be from k={k} to the experts per group, {per_group}, got {num_voted}"
        )


def autocast(*tensors: Any) -> Any:
    """Casts float tensors to the autocast dtype of their device, where autocast is on."""

    def cast(x: Any) -> Any:
        if (
            isinstance(x, Tensor)
            and x.dtype in (torch.float16, torch.bfloat16, torch.float32)
            and torch.amp.is_autocast_available(x.device.type)
            and torch.is_autocast_enabled(x.device.type)
        ):
            return x.to(torch.get_autocast_dtype(x.device.type))
        return x

    return tuple(map(cast, tensors))


def integer(name: str, value: Any, least: int | None = None, most: int | None = None) -> None:
    """Checks an int within bounds.

    Raises:
        TypeError: Not an int (a bool is none).
        ValueError: Out of bounds.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if (least is not None and value < least) or (most is not None and value > most):
        if least is None:
            bounds = f"at most {most}"
        elif most is None:
            bounds = f"at least {least}"
        else:
            bounds = f"in [{least}, {most}]"
        raise ValueError(f"{name} must be {bounds}, got {value}")
