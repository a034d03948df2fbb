"""The expert layer on the CPU: experts in blocks small enough to stay in cache."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from moge_ops._quantized import INTEGERS

from ._activation import Choice, activation_bwd, activation_fwd
from ._sums import Sums
from .grouped_gemm import (
    grouped_gemm_quantized_dx,
    grouped_gemm_quantized_fwd,
    matmul,
    quantized_product,
    spans,
    zero_others,
)
from .unpermute import unpermute_fwd

# Rows of one block: its activations stay in a core's L2 cache (1 MiB) between the two products.
# 512 was the fastest of 128 to 2048 at H 1024, F 256 (2 Zen 4 cores, November 2026).
BLOCK_ROWS = 512

# Experts may be multiplied as one batch, padded to the longest of them, where that costs less than
# a call of their own for each. What a call is worth, found with H 256 to 1024, F = H/4, E 64 (2
# Zen 4 cores, torch 2.13, November 2026): PADDED multiply-adds, fewer the wider the type; reading
# SKIPPED bytes of weights of experts without rows, which lie between the others; or, instead,
# copying COPIED bytes of weights of those that have rows. In bfloat16, T = 16, one by one and as
# batches: 2.9 and 0.7 ms at H 256, 5.7 and 2.8 at 512, 11.1 and 9.8 at 1024.
BATCH, PADDED, SKIPPED, COPIED = 32, 20 * 2**20, 2**18, 2**16


class _Batch(NamedTuple):
    """Experts in one batched product."""

    experts: slice | Tensor
    rows: Tensor | None  # [experts * longest], row of the block in each place; None: as they come
    places: Tensor | None  # [n], the inverse: where each row of the block is

    def weights(self, w: Tensor) -> Tensor:
        if isinstance(self.experts, slice):
            return w[self.experts]
        # a copy along the memory, whichever way the matrices lie there
        lying = w.stride(-1) != 1
        copy = (w.mT if lying else w).index_select(0, self.experts)
        return copy.mT if lying else copy

    def product(self, x: Tensor, w: Tensor, out: Tensor, bias: Tensor | None = None) -> None:
        """``out [n, O] = x [n, I] @ w [E, O, I].T + bias [E, O]``, each row with its expert's."""
        w = self.weights(w)
        bias = None if bias is None else bias[self.experts].unsqueeze(1)
        if self.rows is None or self.places is None:
            one, other = (torch.unflatten(y, 0, (w.shape[0], -1)) for y in (x, out))
            if bias is None:
                torch.bmm(one, w.mT, out=other)
            else:
                torch.baddbmm(bias, one, w.mT, out=other)
            return
        padded = x.index_select(0, self.rows).view(w.shape[0], -1, x.shape[1])
        product = torch.bmm(padded, w.mT) if bias is None else torch.baddbmm(bias, padded, w.mT)
        torch.index_select(product.view(-1, w.shape[1]), 0, self.places, out=out)


class _Block(NamedTuple):
    """Consecutive experts whose rows are worked on together."""

    rows: slice
    spans: list[tuple[int, int, int]]  # expert, first and last row within the block
    batch: _Batch | None

    def product(self, x: Tensor, w: Tensor, out: Tensor, bias: Tensor | None = None) -> None:
        """``out [n, O] = x [n, I] @ w [E, O, I].T + bias [E, O]``, each row with its expert's."""
        if self.batch is not None:
            self.batch.product(x, w, out, bias)
            return
        for e, a, b in self.spans:
            if bias is None:
                matmul(x[a:b], w[e], out[a:b])
            else:
                torch.addmm(bias[e], x[a:b], w[e].T, out=out[a:b])

    def add(self, bias: Tensor | None, out: Tensor) -> None:
        """Adds to each row of ``out [n, O]`` the ``bias [E, O]`` of its expert."""
        if bias is not None:
            for e, a, b in self.spans:
                out[a:b] += bias[e]

    def dot(self, d_out: Tensor, bias: Tensor, acc: torch.dtype) -> Tensor:
        """``[n]``: each row of ``d_out [n, H]`` times the ``bias [E, H]`` of its expert."""
        parts = [d_out[a:b].to(acc) @ bias[e].to(acc) for e, a, b in self.spans]
        return torch.cat(parts) if parts else d_out.new_empty(0, dtype=acc)


def _batch(spans: list[tuple[int, int, int]], w: Tensor) -> _Batch | None:
    """The experts as a batch, where that is worth it."""
    ids = [e for e, _, _ in spans]
    counts = [b - a for _, a, b in spans]
    n, longest = sum(counts), max(counts)
    padding = (longest * len(ids) - n) * w[0].numel()
    if len(ids) == 1 or padding * w.itemsize**2 > len(ids) * PADDED:
        return None
    experts: slice | Tensor
    device = w.device
    skipped = ids[-1] + 1 - ids[0] - len(ids)
    if skipped * w[0].nbytes <= len(ids) * SKIPPED:
        experts = slice(ids[0], ids[-1] + 1)
        place_of = [e - ids[0] for e in ids]
    elif w[0].nbytes <= COPIED:
        experts = torch.tensor(ids, device=device)
        place_of = list(range(len(ids)))
    else:
        return None
    if (place_of[-1] + 1) * longest == n:
        return _Batch(experts, None, None)
    shift, count = torch.tensor(
        ([i * longest - a for i, (_, a, _) in zip(place_of, spans, strict=True)], counts),
        device=device,
    )
    row = torch.arange(n, device=device)
    places = shift.repeat_interleave(count, output_size=n).add_(row)
    rows = places.new_zeros((place_of[-1] + 1) * longest).scatter_(0, places, row)
    return _Batch(experts, rows, places)


def _blocks(found: list[tuple[int, int, int]], w: Tensor) -> Iterator[_Block]:
    """Blocks of a batch, or of about BLOCK_ROWS rows."""

    def inside(stop: int) -> list[tuple[int, int, int]]:
        return [(e, a - first, b - first) for e, a, b in found[i:stop]]

    i = 0
    while i < len(found):
        first = found[i][1]
        stop = min(i + BATCH, len(found))
        batch = _batch(inside(stop), w)
        if batch is None:
            stop = i + 1
            while stop < len(found) and found[stop][1] - first < BLOCK_ROWS:
                stop += 1
        yield _Block(slice(first, found[stop - 1][2]), inside(stop), batch)
        i = stop


def grouped_mlp_fwd(
    x: Tensor,
    w_gate_up: Tensor,
    w_down: Tensor,
    weights: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    weight_on: str,
    save: bool,
    activation: str = "silu",
    gated: bool = True,
    interleaved: bool = False,
    alpha: float = 1.0,
    limit: float | None = None,
    shift: float = 0.0,
    b_gate_up: Tensor | None = None,
    b_down: Tensor | None = None,
    series: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``x [T, H] -> y [T, H], pre-activation [N, 2F]``, the latter empty unless ``save``."""
    N, columns = row_to_slot.shape[0], w_gate_up.shape[1]
    if not N * w_down.shape[0] * x.shape[1] or not (w_down.numel() or b_down is not None):
        return x.new_zeros(x.shape), x.new_zeros(N if save else 0, columns)
    of = Choice(activation, gated, interleaved, alpha, limit, shift, series)
    row_to_token = row_to_slot // slot_to_row.shape[1]
    pre = x.new_empty(N if save else 0, columns)
    out = x.new_empty(N, x.shape[1])
    for block in _blocks(spans(offsets, N), w_gate_up):
        here = block.rows
        rows = x.index_select(0, row_to_token[here])  # [n, H]
        gate_up = pre[here] if save else x.new_empty(len(rows), columns)
        block.product(rows, w_gate_up, gate_up, b_gate_up)
        act = activation_fwd(gate_up, of).to(x.dtype)  # [n, F]
        if weight_on == "activation":
            act = (act * weights.flatten()[row_to_slot[here]].unsqueeze(-1)).to(x.dtype)
        block.product(act, w_down, out[here], b_down)
    y = unpermute_fwd(out, row_to_slot, slot_to_row, weights if weight_on == "output" else None)
    return y, pre


def grouped_mlp_bwd(
    d_y: Tensor,
    x: Tensor,
    w_gate_up: Tensor,
    w_down: Tensor,
    weights: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    pre: Tensor,
    need_d_x: bool,
    need_d_w: bool,
    activation: str = "silu",
    gated: bool = True,
    interleaved: bool = False,
    alpha: float = 1.0,
    limit: float | None = None,
    shift: float = 0.0,
    b_down: Tensor | None = None,
    series: Tensor | None = None,
    need_d_b: bool = False,
    need_d_series: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``d_y [T, H] -> d_x, d_w_gate_up, d_w_down, d_weights, d_b_gate_up, d_b_down, d_series``.

    Empty where not needed.
    """
    N, width = row_to_slot.shape[0], w_down.shape[2]
    of = Choice(activation, gated, interleaved, alpha, limit, shift, series)
    acc = torch.promote_types(x.dtype, torch.float32)
    d_w_gate_up = w_gate_up.new_empty(w_gate_up.shape if need_d_w else 0)
    d_w_down = w_down.new_empty(w_down.shape if need_d_w else 0)
    d_weights = weights.new_zeros(weights.numel())
    sums = Sums.of(x, w_gate_up.shape[:2], need_d_b, series, need_d_series)
    if not N * w_down.shape[0] * x.shape[1] or not (w_down.numel() or b_down is not None):
        d_x = x.new_zeros(x.shape if need_d_x else (0, x.shape[1]))
        d_weights = d_weights.view(weights.shape)
        return d_x, d_w_gate_up.zero_(), d_w_down.zero_(), d_weights, *sums.results(x.dtype)
    row_to_token = row_to_slot // slot_to_row.shape[1]
    d_rows = x.new_empty(N if need_d_x else 0, x.shape[1])
    found = spans(offsets, N)
    if need_d_w:
        zero_others(d_w_gate_up, found)
        zero_others(d_w_down, found)

    for block in _blocks(found, w_gate_up):
        here = block.rows
        slots = row_to_slot[here]
        d_out = d_y.index_select(0, row_to_token[here])  # [n, H], not yet times the weight
        d_act = x.new_empty(len(slots), width)
        block.product(d_out, w_down.mT, d_act)

        # y = w (act W'), so with g = d_y W: d_w = g . act, d_act = w g, and dW = d_y' (w act):
        # the output of the down projection is not needed
        row_weights = weights.flatten()[slots].to(acc).unsqueeze(-1)
        d_pre, act, d_slots, d_terms = activation_bwd(d_act.to(acc), pre[here], row_weights, of)
        if b_down is not None:
            d_slots += block.dot(d_out, b_down, acc)
        d_weights[slots] = d_slots.to(weights.dtype)
        sums.add(block.spans, d_pre, d_out, row_weights, d_terms)
        scaled_act = act.mul_(row_weights).to(x.dtype)

        if need_d_w:
            rows = x.index_select(0, row_to_token[here])
            for e, a, b in block.spans:
                torch.mm(d_out[a:b].T, scaled_act[a:b], out=d_w_down[e])
                torch.mm(d_pre[a:b].T, rows[a:b], out=d_w_gate_up[e])
        if need_d_x:
            block.product(d_pre, w_gate_up.mT, d_rows[here])
    d_x = unpermute_fwd(d_rows, row_to_slot, slot_to_row, None) if need_d_x else d_rows
    d_weights = d_weights.view(weights.shape)
    return d_x, d_w_gate_up, d_w_down, d_weights, *sums.results(x.dtype)


def grouped_mlp_quantized_fwd(
    x: Tensor,
    gate_up: Tensor,
    gate_up_scale: Tensor,
    gate_up_zero: Tensor | None,
    down: Tensor,
    down_scale: Tensor,
    down_zero: Tensor | None,
    weights: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    scheme: str,
    gate_up_group: int | None,
    down_group: int | None,
    weight_on: str,
    save: bool,
    activation: str = "silu",
    gated: bool = True,
    interleaved: bool = False,
    alpha: float = 1.0,
    limit: float | None = None,
    shift: float = 0.0,
    b_gate_up: Tensor | None = None,
    b_down: Tensor | None = None,
    series: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``x [T, H] -> y [T, H], pre-activation [N, 2F]``, the latter empty unless ``save``."""
    acc = torch.promote_types(x.dtype, torch.float32)
    used = int(offsets[-1])
    slots = row_to_slot[:used]
    rows = x.index_select(0, slots // slot_to_row.shape[1])  # [used, H]
    up = (gate_up, gate_up_scale, gate_up_zero, offsets, scheme, gate_up_group)
    wide = quantized_product(rows, *up, acc)  # [used, 2F]
    found = _Block(slice(0, used), spans(offsets, len(row_to_slot)), None)
    found.add(b_gate_up, wide)
    of = Choice(activation, gated, interleaved, alpha, limit, shift, series)
    act = activation_fwd(wide, of).to(x.dtype)
    late = weight_on == "output" or scheme in INTEGERS
    if not late:
        act = (act * weights.flatten()[slots].unsqueeze(-1)).to(x.dtype)
    out = grouped_gemm_quantized_fwd(act, down, down_scale, down_zero, offsets, scheme, down_group)
    found.add(b_down, out)
    dropped = len(row_to_slot) - used
    out = F.pad(out, (0, 0, 0, dropped)) if dropped else out
    y = unpermute_fwd(out, row_to_slot, slot_to_row, weights if late else None)
    pre = wide.to(x.dtype) if save else x.new_empty(0, wide.shape[1])
    return y, F.pad(pre, (0, 0, 0, dropped)) if save and dropped else pre


def grouped_mlp_quantized_bwd(
    d_y: Tensor,
    gate_up: Tensor,
    gate_up_scale: Tensor,
    gate_up_zero: Tensor | None,
    down: Tensor,
    down_scale: Tensor,
    down_zero: Tensor | None,
    weights: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    pre: Tensor,
    scheme: str,
    gate_up_group: int | None,
    down_group: int | None,
    need_d_x: bool,
    activation: str = "silu",
    gated: bool = True,
    interleaved: bool = False,
    alpha: float = 1.0,
    limit: float | None = None,
    shift: float = 0.0,
    b_down: Tensor | None = None,
    series: Tensor | None = None,
    need_d_b: bool = False,
    need_d_series: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``d_y [T, H] -> d_x [T, H], d_weights [T, K], d_b_gate_up, d_b_down, d_series``.

    Empty where not needed, but for ``d_weights``.
    """
    acc = torch.promote_types(d_y.dtype, torch.float32)
    used = int(offsets[-1])
    slots = row_to_slot[:used]
    d_out = d_y.index_select(0, slots // slot_to_row.shape[1])  # [used, H]
    width = gate_up.shape[1] // (2 if gated else 1)
    d_act = grouped_gemm_quantized_dx(
        d_out, down, down_scale, down_zero, offsets, scheme, down_group, width
    )
    row_weights = weights.flatten()[slots].to(acc).unsqueeze(-1)
    of = Choice(activation, gated, interleaved, alpha, limit, shift, series)
    d_pre, _, d_slots, d_terms = activation_bwd(d_act.to(acc), pre[:used], row_weights, of)
    block = _Block(slice(0, used), spans(offsets, len(row_to_slot)), None)
    if b_down is not None:
        d_slots += block.dot(d_out, b_down, acc)
    sums = Sums.of(d_y, gate_up.shape[:2], need_d_b, series, need_d_series)
    sums.add(block.spans, d_pre, d_out, row_weights, d_terms)
    d_weights = weights.new_zeros(weights.numel())
    d_weights[slots] = d_slots.to(weights.dtype)
    d_x = d_y.new_empty(0, d_y.shape[1])
    if need_d_x:
        up = (gate_up, gate_up_scale, gate_up_zero, offsets, scheme, gate_up_group)
        d_rows = grouped_gemm_quantized_dx(d_pre, *up, d_y.shape[1])
        d_rows = F.pad(d_rows, (0, 0, 0, len(row_to_slot) - used))
        d_x = unpermute_fwd(d_rows, row_to_slot, slot_to_row, None)
    return d_x, d_weights.view(weights.shape), *sums.results(d_y.dtype)
