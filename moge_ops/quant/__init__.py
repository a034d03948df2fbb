"""Quantised experts: weights of 8 and 4 bits, and what makes them."""

from moge_ops._quantized import SCHEMES, QuantizedWeight, dequantize, quantize
from moge_ops.quant.experts import quantize_experts

__all__ = ["SCHEMES", "QuantizedWeight", "dequantize", "quantize", "quantize_experts"]
