"""Oracle of :func:`moge_ops.grouped_gemm`."""

from itertools import pairwise

import torch
from torch import Tensor
from torch._C import _functorch

from moge_ops._quantized import INTEGERS, QuantizedWeight, dequantize, fake_quantize_rows


def _readable(x: Tensor) -> bool:
    """Whether ``x`` has values that the host may read: not while a graph of it is traced."""
    if torch.compiler.is_compiling():
        return False
    while _functorch.is_functorch_wrapped_tensor(x):
        if _functorch.is_batchedtensor(x):  # of each sample another
            return False
        x = _functorch.get_unwrapped(x)
    return True


def grouped_gemm(
    rows: Tensor,
    weight: Tensor | QuantizedWeight,
    offsets: Tensor,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """``[N, I], [E, O, I] -> [N, O]``; rows of no expert are zero.

    ``dtype`` is that of the rows of a kernel whose oracle computes here in float64: what the kernel
    decodes a weight to.

    Raises:
        ValueError: The offsets do not rise from 0 to at most N.
    """
    if isinstance(weight, QuantizedWeight):
        if weight.scheme in INTEGERS:  # no integer or scale is rounded, only the result is
            wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
            plain = dequantize(weight, wide.dtype)
            return grouped_gemm(fake_quantize_rows(wide), plain, offsets).to(rows.dtype)
        weight = dequantize(weight, dtype or rows.dtype).to(rows.dtype)
    N = rows.shape[0]
    if not _readable(offsets):  # every expert multiplies all rows
        row = torch.arange(N, device=rows.device).unsqueeze(1)  # [N, 1]
        out = rows.new_zeros(N, weight.shape[1])
        for e, w in enumerate(weight.unbind()):
            mine = (row >= offsets[e]) & (row < offsets[e + 1])
            # others' rows as zeros, because 0 times what they may hold is no zero in a gradient
            out = torch.where(mine, torch.where(mine, rows, 0.0) @ w.T, out)
        return out
    starts = offsets.tolist()
    if starts[0] != 0 or starts[-1] > N or starts != sorted(starts):
        raise ValueError(f"offsets must rise from 0 to at most N={N}, got {starts}")
    outs = [rows[a:b] @ weight[e].T for e, (a, b) in enumerate(pairwise(starts))]
    tail = rows.new_zeros(N - starts[-1], weight.shape[1])
    return torch.cat([*outs, tail])  # [N, O]
