"""Products of each expert's rows with its weight, one expert after the other."""

from itertools import pairwise

import torch
from torch import Tensor

from moge_ops._quantized import INTEGERS, decode, int8_product, quantize_rows, row_integers


def spans(offsets: Tensor, N: int) -> list[tuple[int, int, int]]:
    """Experts that have rows with the first and last of them, from ``offsets [E + 1]``.

    Raises:
        ValueError: The offsets do not rise from 0 to at most N.
    """
    starts: list[int] = offsets.tolist()
    if starts[0] != 0 or starts[-1] > N or starts != sorted(starts):
        raise ValueError(f"offsets must rise from 0 to at most N={N}, got {starts}")
    return [(e, a, b) for e, (a, b) in enumerate(pairwise(starts)) if a < b]


def matmul(x: Tensor, w: Tensor, out: Tensor) -> None:
    """``out [n, O] = x [n, I] @ w [O, I].T``."""
    O = w.shape[0]
    parts = min(torch.get_num_threads(), O // 128)
    if x.is_cpu and x.dtype is torch.float32 and parts > 1 and O % parts == 0:
        # MKL gives a thin float32 product to one thread, but spreads a batch over all: two halves
        # of the columns take 6.7 ms against 12.7 at [2, 1024] x [512, 1024], 64 experts, 2 cores
        halves = torch.bmm(x.expand(parts, *x.shape), torch.unflatten(w, 0, (parts, -1)).mT)
        torch.unflatten(out, 1, (parts, -1)).copy_(halves.transpose(0, 1))
    else:
        torch.mm(x, w.T, out=out)


def _rows(x: Tensor, width: int, found: list[tuple[int, int, int]]) -> Tensor:
    """``[N, width]``, zero past the last expert's rows, the rest to be filled."""
    out = x.new_empty(x.shape[0], width)
    out[found[-1][2] if found else 0 :].zero_()
    return out


def grouped_gemm_fwd(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``[N, I], [E, O, I], [E + 1] -> [N, O]``."""
    found = spans(offsets, rows.shape[0])
    out = _rows(rows, weight.shape[1], found)
    for e, a, b in found:
        matmul(rows[a:b], weight[e], out[a:b])
    return out


def grouped_gemm_dx(d_out: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``[N, O], [E, O, I], [E + 1] -> [N, I]``."""
    found = spans(offsets, d_out.shape[0])
    d_rows = _rows(d_out, weight.shape[2], found)
    for e, a, b in found:
        torch.mm(d_out[a:b], weight[e], out=d_rows[a:b])
    return d_rows


def grouped_gemm_dw(d_out: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
    """``[N, O], [N, I], [E + 1] -> [E, O, I]``."""
    found = spans(offsets, rows.shape[0])
    d_weight = rows.new_empty(len(offsets) - 1, d_out.shape[1], rows.shape[1])
    zero_others(d_weight, found)
    for e, a, b in found:
        torch.mm(d_out[a:b].T, rows[a:b], out=d_weight[e])
    return d_weight


def zero_others(d_weight: Tensor, found: list[tuple[int, int, int]]) -> None:
    """Clears the gradients ``[E, ...]`` of the experts without rows."""
    filled = [-1, *(e for e, _, _ in found), len(d_weight)]
    for before, after in pairwise(filled):
        if after - before > 1:
            d_weight[before + 1 : after].zero_()


def expert_decoded(
    e: int,
    data: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    scheme: str,
    group_size: int | None,
    dtype: torch.dtype,
) -> Tensor:
    """``[O, I]``, one expert's weight."""
    return decode(data[e], scale[e], None if zero is None else zero[e], scheme, group_size, dtype)


def quantized_product(
    rows: Tensor,
    data: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    offsets: Tensor,
    scheme: str,
    group_size: int | None,
    dtype: torch.dtype,
) -> Tensor:
    """:func:`grouped_gemm_quantized_fwd` with a result in ``dtype``, that of the rows or wider."""
    O = data.shape[1]
    found = spans(offsets, rows.shape[0])
    out = rows.new_empty(len(rows), O, dtype=dtype)
    if not data.numel():
        return out.zero_()
    out[found[-1][2] if found else 0 :].zero_()
    if scheme in INTEGERS:
        q, row_scale = quantize_rows(rows)
        for e, a, b in found:
            of_rows = scale[e].float().repeat_interleave(O // scale.shape[1], dim=0)  # [O, 1]
            out[a:b] = int8_product(q[a:b], row_integers(data[e], scheme)) * (
                row_scale[a:b] * of_rows.T
            )
        return out
    for e, a, b in found:
        weight = expert_decoded(e, data, scale, zero, scheme, group_size, rows.dtype)
        out[a:b] = rows[a:b] @ weight.T
    return out


def grouped_gemm_quantized_fwd(
    rows: Tensor,
    data: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    offsets: Tensor,
    scheme: str,
    group_size: int | None,
) -> Tensor:
    """``[N, I], QuantizedWeight of [E, O, I], [E + 1] -> [N, O]``."""
    return quantized_product(rows, data, scale, zero, offsets, scheme, group_size, rows.dtype)


def grouped_gemm_quantized_dx(
    d_out: Tensor,
    data: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    offsets: Tensor,
    scheme: str,
    group_size: int | None,
    columns: int,
) -> Tensor:
    """``[N, O], QuantizedWeight of [E, O, I], [E + 1] -> [N, I = columns]``."""
    found = spans(offsets, d_out.shape[0])
    d_rows = _rows(d_out, columns, found)
    if not data.numel():
        return d_rows.zero_()
    for e, a, b in found:
        weight = expert_decoded(e, data, scale, zero, scheme, group_size, d_out.dtype)
        torch.mm(d_out[a:b], weight, out=d_rows[a:b])
    return d_rows
