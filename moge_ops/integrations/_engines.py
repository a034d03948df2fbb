"""What the doors to engines share: the gate as their routing, and how a door stays shut."""

import functools
import logging
import os
from importlib.metadata import PackageNotFoundError, version

from torch import Tensor

from moge_ops.ops.grouped_gate import Gating, grouped_gate

logger = logging.getLogger("moge_ops")


def wanted(engine: str) -> bool:
    """Whether the variable ``MOGE_OPS_<ENGINE>`` leaves the door open: all but ``0`` does."""
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


def choose(logits: Tensor, num_groups: int, top_k: int, *, renormalize: bool) -> Gating:
    """The gate of a model whose config says G groups and K experts per token.

    Raises:
        ValueError: The logits ``[T, E]`` or K do not fit G groups.
    """
    if top_k % num_groups:
        raise ValueError(
            f"top_k must be a multiple of the router's {num_groups} groups, got {top_k}: the "
            "config of this model asks for another routing than MoGE's"
        )
    return grouped_gate(logits, num_groups, top_k // num_groups, renormalize=renormalize)
