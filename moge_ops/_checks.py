"""Argument checks of the public functions: expected and got, before any launch."""

import functools
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
IDS = (torch.int32, torch.int64)
# of one dimension: far above any real size, and two of them multiply within int64
MOST_SIZE = 2**31 - 1
MOST_FLOAT = sys.float_info.max

SAME: tuple[torch.dtype, ...] = ()
"""In a spec of :func:`tensors`: the dtype of the first tensor."""


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return " | ".join(str(d).removeprefix("torch.") for d in dtypes)


def _dimensions(layout: str) -> tuple[tuple[int, str, int], ...]:
    """``"[T, 2F, E + 1]" -> (1, "T", 0), (2, "F", 0), (1, "E", 1)``: factor, letters, summand."""
    found = []
    for text in layout[1:-1].split(", "):
        letters, _, summand = text.partition(" + ")
        name = letters.lstrip("0123456789")
        found.append((int(letters.removesuffix(name) or 1), name, int(summand or 0)))
    return tuple(found)


_cached_dimensions = functools.cache(_dimensions)


def tensor(name: str, x: Any, layout: str) -> None:
    """Checks that an argument is a dense tensor.

    Raises:
        TypeError: Not a tensor, or a sparse, mkldnn or nested one.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a Tensor {layout}, got {type(x).__name__}")
    # a nested tensor's layout may be strided
    if x.layout != torch.strided or x.is_nested:
        kind = "nested" if x.is_nested else str(x.layout).removeprefix("torch.").strip("_")
        raise TypeError(f"{name} must be a dense Tensor {layout}, got a {kind} one")


def _in_memory(name: str, x: Tensor) -> None:
    """Raises ValueError for a tensor whose storage was freed: reading it ends the process.

    A storage that was cut short, but not freed, is not seen: to ask every storage for its size
    would take three times as long, 2 % of a layer of one token.
    """
    if type(x) not in (Tensor, Parameter) or x.is_meta:
        return  # a subclass may have no memory of its own
    try:
        freed = x.data_ptr() == x.storage_offset() * x.itemsize
    except RuntimeError:  # within torch.func
        return
    # a wrapper of torch.func has a storage without an address
    if freed and x.numel() and not x.untyped_storage().nbytes():
        raise ValueError(
            f"{name} must have its {list(x.shape)} elements in memory, got a storage of 0 bytes: "
            "was it resized?"
        )


Spec = tuple[str, Any, str, tuple[torch.dtype, ...]]
# what has passed, as metadata of all tensors of a call -> its sizes; emptied when it is full
_passed: dict[tuple[Any, ...], dict[str, int]] = {}
MOST_PASSED = 1024


def _plain(x: Any) -> bool:
    """Whether a tensor is dense and has an address: then its metadata tells all of it."""
    try:
        return (
            (type(x) is Tensor or type(x) is Parameter)
            and x.layout is torch.strided
            and not x.is_nested
            and x.data_ptr() != x.storage_offset() * x.itemsize
        )
    except RuntimeError:  # within torch.func
        return False


def tensors(*specs: Spec) -> dict[str, int]:
    """Checks the tensors of a call by themselves and against each other.

    Args:
        specs: ``(name, tensor, layout, dtypes)`` for each; the caller leaves out what
            is absent. The letters of a layout, ``"[E, 2F, H]"`` or ``"[E + 1]"``, take their
            sizes from the first spec that has them, and every later one must agree; N is T·K, or
            more where rows are padded. All tensors are on the device of the first, and ``dtypes``
            may be :data:`SAME`: its dtype.

    Returns:
        Letters -> size.

    Raises:
        TypeError: Not a dense tensor, or of another dtype.
        ValueError: Another rank or size than its layout says, another device, or less memory.
    """
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return _compare(specs)  # sizes are symbols
    # to look up what has passed once takes a third of comparing it again
    metadata: list[Any] = []
    for _, x, layout, dtypes in specs:
        if not _plain(x):
            return _compare(specs)
        metadata += layout, dtypes, x.shape, x.dtype, x.device
    key = tuple(metadata)
    sizes = _passed.get(key)
    if sizes is None:
        sizes = _compare(specs)
        if len(_passed) >= MOST_PASSED:
            _passed.clear()
        _passed[key] = sizes
    return sizes


def _compare(specs: tuple[Spec, ...]) -> dict[str, int]:
    """What :func:`tensors` does, one tensor after the other."""
    traced = torch.compiler.is_compiling()
    # Dynamo ignores a cache in what it traces, and warns the user of it
    parse = _dimensions if traced else _cached_dimensions
    first_name, first, *_ = specs[0]
    sizes: dict[str, int] = {}
    for name, x, layout, dtypes in specs:
        tensor(name, x, layout)
        if not traced:
            _in_memory(name, x)
        if dtypes == SAME and x.dtype != first.dtype:
            raise TypeError(
                f"{name} must have the dtype of {first_name}, {_names((first.dtype,))}, "
                f"got {_names((x.dtype,))}"
            )
        if dtypes != SAME and x.dtype not in dtypes:
            raise TypeError(f"{name} must be {_names(dtypes)}, got {_names((x.dtype,))}")
        dimensions = parse(layout)
        if x.ndim != len(dimensions):
            raise ValueError(f"{name} must be {layout}, got {list(x.shape)}")
        expected = []
        for size, (factor, letters, summand) in zip(x.shape, dimensions, strict=True):
            if letters not in sizes:
                if size < summand or (size - summand) % factor:
                    raise ValueError(f"{name} must be {layout}, got {list(x.shape)}")
                sizes[letters] = (size - summand) // factor
                if letters == "N":
                    rows_of = name
            expected.append(factor * sizes[letters] + summand)
        if list(x.shape) != expected:
            raise ValueError(f"{name} must be {layout} = {expected}, got {list(x.shape)}")
        if x.device != first.device:
            raise ValueError(
                f"{name} must be on the device of {first_name}, {first.device}, got {x.device}"
            )
    # not as sets, which Dynamo of torch 2.10 cannot compare with keys
    if all(letter in sizes for letter in "NTK") and sizes["N"] < sizes["T"] * sizes["K"]:
        N = sizes["T"] * sizes["K"]
        raise ValueError(f"{rows_of} must have at least N = T * K = {N} rows, got {sizes['N']}")
    return sizes


def shape(name: str, x: Any, layout: str, expected: tuple[int, ...]) -> None:
    """Checks the sizes of a tensor that come from elsewhere than a tensor.

    Raises:
        TypeError: Not a dense tensor.
        ValueError: Of another shape.
    """
    tensor(name, x, layout)
    if tuple(x.shape) != expected:
        raise ValueError(f"{name} must be {layout} = {list(expected)}, got {list(x.shape)}")


def choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Checks a string option; raises ValueError."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r:.200}")


def groups(
    num_experts: int, num_groups: Any, k: Any = 1, name: str = "num_experts", num_null: int = 0
) -> None:
    """Checks that E experts, which the caller knows by ``name``, split into G groups of at least k.

    Raises:
        TypeError: A size is not an int.
        ValueError: G does not divide E, or k is above E/G and the null experts of a group.
    """
    integer("num_groups", num_groups, least=1)
    integer("k", k, least=1)
    if num_experts < 1 or num_experts % num_groups:
        raise ValueError(
            f"{name} must be a positive multiple of num_groups={num_groups}, got {num_experts}"
        )
    P = num_experts // num_groups
    if k > P + num_null:
        most = f"experts per group, {num_experts} / {num_groups} = {P}"
        if num_null:
            most = f"outputs per group, {P} experts + {num_null} null = {P + num_null}"
        raise ValueError(f"k must be at most the {most}, got {k}")


def voted(num_voted: Any, k: int, P: int) -> None:
    """Checks how many experts of a group stay; raises TypeError or ValueError."""
    integer("num_voted", num_voted)
    if not k <= num_voted <= P:
        raise ValueError(
            f"num_voted must be from k={k} to the experts per group, {P}, got {num_voted}"
        )


def integer(name: str, value: Any, least: int | None = None, most: int | None = None) -> None:
    """Checks an int within bounds.

    Raises:
        TypeError: Not an int (a bool is none).
        ValueError: Out of bounds.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        if torch._C._get_tracing_state() is not None:
            raise RuntimeError(
                f"{name} must be an int, got a Tensor, which torch.jit.trace makes of a size: use "
                "torch.export.export or torch.compile"
            )
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if (least is not None and value < least) or (most is not None and value > most):
        if least is None:
            bounds = f"at most {most}"
        elif most is None:
            bounds = f"at least {least}"
        else:
            bounds = f"in [{least}, {most}]"
        raise ValueError(f"{name} must be {bounds}, got {value}")


def parameters_take(name: str, x: Tensor, parameter: Tensor) -> None:
    """Checks that a module's input has the device and, without autocast, the dtype of a parameter.

    Raises:
        TypeError: Another dtype.
        ValueError: Another device.
    """
    if x.device != parameter.device:
        raise ValueError(
            f"{name} must be on the device of the parameters, {parameter.device}, got {x.device}"
        )
    if x.dtype != parameter.dtype and not _autocasts(x):
        raise TypeError(
            f"{name} must have the dtype of the parameters, {_names((parameter.dtype,))}, "
            f"got {_names((x.dtype,))}"
        )


def _autocasts(x: Tensor) -> bool:
    return (
        x.dtype in (torch.float16, torch.bfloat16, torch.float32)
        # "meta" knows no autocast; Dynamo before torch 2.13 cannot trace the general question
        and x.device.type != "meta"
        and torch.is_autocast_enabled(x.device.type)
    )


def no_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Where autocast would change the dtype of a product of ``x``, a block without it."""
    return torch.autocast(x.device.type, enabled=False) if _autocasts(x) else nullcontext()


def autocast(*tensors: Any) -> Any:
    """Casts float tensors to the autocast dtype of their device, where autocast is on."""
    if not torch.compiler.is_compiling() and not torch._C._is_any_autocast_enabled():
        return tensors

    def cast(x: Any) -> Any:
        if isinstance(x, Tensor) and _autocasts(x):
            return x.to(torch.get_autocast_dtype(x.device.type))
        return x

    return tuple(map(cast, tensors))
