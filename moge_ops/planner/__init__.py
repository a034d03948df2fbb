"""Plans for many devices: which ranks split what, counted memory and modelled time.

:func:`plan` tries every way to spread a model over some devices, for training, prefill or decoding,
and says which are the quickest that fit and why the others fall out. ``moge-ops plan`` prints it.
Bytes are counted from the shapes that :func:`moge_ops.distributed.parallelize` gives a rank, and
from what the operators keep for the backward pass; tests compare them with measured ones on gloo.
Seconds are those of a model, rooflines and published rates of links: nothing is timed.
"""

from moge_ops.planner._cost import (
    CHIPS,
    Chip,
    all_to_all_seconds,
    device_loads,
    expert_seconds,
    gather_seconds,
)
from moge_ops.planner._layout import RECOMPUTE, Layout
from moge_ops.planner._memory import Memory, Precision
from moge_ops.planner._search import (
    KINDS,
    MOST_BATCH,
    MOST_DEVICES,
    Found,
    Plans,
    plan,
    top_k_twin,
)
from moge_ops.planner._time import Times

__all__ = [
    "CHIPS",
    "KINDS",
    "MOST_BATCH",
    "MOST_DEVICES",
    "RECOMPUTE",
    "Chip",
    "Found",
    "Layout",
    "Memory",
    "Plans",
    "Precision",
    "Times",
    "all_to_all_seconds",
    "device_loads",
    "expert_seconds",
    "gather_seconds",
    "plan",
    "top_k_twin",
]
