"""Quantised experts: weights of 8 and 4 bits, what makes them, and what reads them from files."""

from moge_ops._quantized import SCHEMES, QuantizedWeight, dequantize
from moge_ops.quant.experts import quantize_experts
from moge_ops.quant.formats import read_experts
from moge_ops.quant.rounding import quantize
from moge_ops.quant.smoothing import Smoothing, smooth_experts

__all__ = [
    "SCHEMES",
    "QuantizedWeight",
    "Smoothing",
    "dequantize",
    "quantize",
    "quantize_experts",
    "read_experts",
    "smooth_experts",
]
