"""What the doors to engines share: the gate as their routing, and how a door stays shut."""

import functools
import importlib
import inspect
import logging
import os
from collections.abc import Collection, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor

from moge_ops.ops.grouped_gate import Gating, grouped_gate

logger = logging.getLogger("moge_ops")


def wanted(engine: str) -> bool:
    """Whether an engine may be patched: yes, unless the variable ``MOGE_OPS_<ENGINE>`` is 0."""
    return os.environ.get(f"MOGE_OPS_{engine.upper()}", "1") != "0"


@functools.cache  # a door is tried in every process, and at times more than once
def leave(engine: str, distribution: str, reason: str) -> None:
    """Warns, once, that ``engine`` runs as if this package were not there.

    Args:
        engine: Its name, as people write it.
        distribution: The name under which pip knows it, for its version.
        reason: What was looked for and what was found, without a full stop.
    """
    try:
        found = version(distribution)
    except PackageNotFoundError:
        found = "of an unknown version"
    logger.warning(
        "moge_ops leaves %s %s as it is: %s. It runs with its own code, as without moge_ops.",
        engine,
        found,
        reason,
    )


def own_module(home: str) -> ModuleType:
    """A module of an engine.

    Raises:
        LookupError: It cannot be imported; the text is a reason for :func:`leave`.
    """
    try:
        return importlib.import_module(home)
    except Exception as error:  # engines import a GPU's libraries, which fail in their own ways
        raise LookupError(f"{home} cannot be imported: {type(error).__name__}: {error}") from error


def own_class(home: str, cls: str) -> Any:
    """A class of an engine.

    Raises:
        LookupError: It is not there; the text is a reason for :func:`leave`.
    """
    found = vars(own_module(home)).get(cls)
    if not isinstance(found, type):
        raise LookupError(f"there is no class {home}.{cls}")
    return found


def own_method(
    home: str,
    cls: str,
    name: str,
    *,
    parameters: Sequence[str] | None = None,
    reads: Collection[str] = (),
) -> FunctionType:
    """The function of an engine's method, or class method, if it is the one that is known here.

    Args:
        home, cls, name: The module, the class and the method.
        parameters: The names of its parameters; None for any.
        reads: Attributes that its code must read.

    Raises:
        LookupError: It is not; the text is a reason for :func:`leave`.
    """
    method, where = vars(own_class(home, cls)).get(name), f"{home}.{cls}.{name}"
    method = method.__func__ if isinstance(method, classmethod) else method
    if method is None:
        raise LookupError(f"there is no {where}")
    by = getattr(method, "__globals__", {}).get("__name__", type(method).__name__)
    if not isinstance(method, FunctionType) or by != home:
        raise LookupError(f"{where} has been replaced by {by} already")
    found = list(inspect.signature(method).parameters)
    if parameters is not None and found != list(parameters):
        took, takes = ", ".join(parameters), ", ".join(found)
        raise LookupError(f"{where} must take ({took}), and takes ({takes})")
    missing = sorted(set(reads) - set(method.__code__.co_names))
    if missing:
        raise LookupError(f"{where} must read {', '.join(missing)}, and does not")
    return method


def choose(logits: Tensor, num_groups: int, top_k: int, *, renormalize: bool) -> Gating:
    """The gate of a model whose config says G groups and K experts per token.

    Raises:
        ValueError: The logits ``[T, E]`` or K do not fit G groups.
    """
    if top_k % num_groups:
        raise ValueError(
            f"top_k must be a multiple of the router's {num_groups} groups, got {top_k}: the "
            "config of this model asks for another routing than MoGE's; mend its number of groups "
            "or of experts per token"
        )
    return grouped_gate(logits, num_groups, top_k // num_groups, renormalize=renormalize)
