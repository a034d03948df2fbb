"""Helpers that several kernel files share."""

import torch
import triton
import triton.language as tl

# whether the kernels of this process were decorated for the interpreter
INTERPRETED: bool = triton.knobs.runtime.interpret


def acc_dtype(dtype: torch.dtype) -> tl.constexpr:
    """The accumulator: float32; float64 for float64, which serves gradcheck."""
    return tl.float64 if dtype is torch.float64 else tl.float32
