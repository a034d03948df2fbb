"""Fused operators for Mixture of Grouped Experts (MoGE), forward and backward."""

from moge_ops.ops.swiglu import swiglu

__version__ = "0.1.0"
__all__ = ["swiglu"]
