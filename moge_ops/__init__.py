"""Fused operators for Mixture of Grouped Experts (MoGE), forward and backward."""

from moge_ops import _interrupt  # noqa: F401  # isort: skip - before torch, whose import takes seconds
from moge_ops import nn, placement, quant, statistics, surgery, testing
from moge_ops.ops._activation import Activation
from moge_ops.ops._round_tokens import round_tokens
from moge_ops.ops.grouped_gate import Gating, gate_and_route, grouped_gate
from moge_ops.ops.grouped_gemm import grouped_gemm
from moge_ops.ops.grouped_mlp import grouped_mlp
from moge_ops.ops.load_balance_loss import (
    load_balance_loss,
    load_balance_loss_from_probs,
    router_z_loss,
)
from moge_ops.ops.permute import permute
from moge_ops.ops.route import Routing, route
from moge_ops.ops.swiglu import swiglu
from moge_ops.ops.unpermute import unpermute

__version__ = "0.1.0"
__all__ = [
    "Activation",
    "Gating",
    "Routing",
    "gate_and_route",
    "grouped_gate",
    "grouped_gemm",
    "grouped_mlp",
    "load_balance_loss",
    "load_balance_loss_from_probs",
    "nn",
    "permute",
    "placement",
    "quant",
    "round_tokens",
    "route",
    "router_z_loss",
    "statistics",
    "surgery",
    "swiglu",
    "testing",
    "unpermute",
]
