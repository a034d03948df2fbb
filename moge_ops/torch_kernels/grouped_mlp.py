"""The expert layer on the CPU: experts in blocks small enough to stay in cache."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .grouped_gemm import matmul, spans
from .unpermute import unpermute_fwd

# Rows of one block: its activations stay in a core's L2 cache (1 MiB) between the two products.
# 512 was the fastest of 128 to 2048 at H 1024, F 256 (2 Zen 4 cores, November 2026).
BLOCK_ROWS = 512

# Experts with few rows are multiplied as one batch, padded to the longest of them: a call of their
# own each costs oneDNN more than the padding. [n, 1024] x [512, 1024] in bfloat16, 64 experts, one
# by one and in batches of 8: 6.4 and 4.7 ms at n = 2, 7.6 and 6.1 at 16, 16.4 and 14.8 at 64 (2
# Zen 4 cores, November 2026). Past 32 rows the padding eats the gain, and an expert without rows
# would have its weight read for nothing.
BATCH, BATCH_ROWS = 8, 32


class _Batch(NamedTuple):
    """Consecutive experts in one batched product."""

    experts: slice
    rows: Tensor  # [experts * longest], row of the block in each place; padding repeats one
    places: Tensor  # [n], the inverse: where each row of the block is

    def product(self, x: Tensor, w: Tensor, out: Tensor) -> None:
        """``out [n, O] = x [n, I] @ w [e, O, I].T``, each row with its expert's weight."""
        w = w[self.experts]
        padded = x.index_select(0, self.rows).view(w.shape[0], -1, x.shape[1])
        product = torch.bmm(padded, w.mT)
        torch.index_select(product.view(-1, w.shape[1]), 0, self.places, out=out)


class _Block(NamedTuple):
    """Consecutive experts whose rows are worked on together."""

    first: int  # row
    last: int
    spans: list[tuple[int, int, int]]  # expert, first and last row within the block
    batch: _Batch | None = None

    def product(self, x: Tensor, w: Tensor, out: Tensor) -> None:
        """``out [n, O] = x [n, I] @ w [E, O, I].T``, each row with its expert's weight."""
        if self.batch is not None:
            self.batch.product(x, w, out)
            return
        for e, a, b in self.spans:
            matmul(x[a:b], w[e], out[a:b])


def _batch(found: list[tuple[int, int]], e: int) -> _Batch | None:
    """The experts from ``e`` on as a batch, where that is worth it."""
    counts = [b - a for a, b in found[e : e + BATCH]]
    longest = max(counts)
    if longest > BATCH_ROWS or 4 * sum(map(bool, counts)) < 3 * len(counts):
        return None
    starts = torch.tensor([a for a, _ in found[e : e + BATCH]]) - found[e][0]
    filled = torch.tensor(counts)
    step = torch.arange(longest)
    rows = starts.unsqueeze(1) + torch.minimum(step, (filled - 1).clamp_min(0).unsqueeze(1))
    places = (step < filled.unsqueeze(1)).flatten().nonzero().flatten()
    return _Batch(slice(e, e + len(counts)), rows.flatten().clamp_max(sum(counts) - 1), places)


def _blocks(offsets: Tensor, N: int) -> Iterator[_Block]:
    """Blocks of a batch, or of about BLOCK_ROWS rows; experts without rows are left out."""
    found = spans(offsets, N)
    e = 0
    while e < len(found):
        first = found[e][0]
        batch = _batch(found, e)
        end = e + 1
        if batch is not None:
            end = batch.experts.stop
        else:
            while end < len(found) and found[end][0] - first < BLOCK_ROWS:
                end += 1
        inside = [(i, a - first, b - first) for i, (a, b) in enumerate(found[e:end], e) if a < b]
        if inside:
            yield _Block(first, found[end - 1][1], inside, batch)
        e = end


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
) -> tuple[Tensor, Tensor]:
    """``x [T, H] -> y [T, H], pre-activation [N, 2F]``, the latter empty unless ``save``."""
    N, width = row_to_slot.shape[0], w_down.shape[2]
    row_to_token = row_to_slot // max(slot_to_row.shape[1], 1)
    pre = x.new_empty(N if save else 0, 2 * width)
    out = x.new_empty(N, x.shape[1])
    for block in _blocks(offsets, N):
        here = slice(block.first, block.last)
        rows = x.index_select(0, row_to_token[here])  # [n, H]
        gate_up = pre[here] if save else x.new_empty(len(rows), 2 * width)
        block.product(rows, w_gate_up, gate_up)
        act = F.silu(gate_up[:, :width]).mul_(gate_up[:, width:])  # [n, F]
        if weight_on == "activation":
            act = (act * weights.flatten()[row_to_slot[here]].unsqueeze(-1)).to(x.dtype)
        block.product(act, w_down, out[here])
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``d_y [T, H] -> d_x, d_w_gate_up, d_w_down, d_weights``; empty where not needed."""
    N, width = row_to_slot.shape[0], w_down.shape[2]
    acc = torch.promote_types(x.dtype, torch.float32)
    row_to_token = row_to_slot // max(slot_to_row.shape[1], 1)
    d_rows = x.new_empty(N if need_d_x else 0, x.shape[1])
    d_w_gate_up = w_gate_up.new_empty(w_gate_up.shape if need_d_w else 0)
    d_w_down = w_down.new_empty(w_down.shape if need_d_w else 0)
    d_weights = weights.new_zeros(weights.numel())
    if need_d_w:
        for e, (a, b) in enumerate(spans(offsets, N)):
            if a == b:
                d_w_gate_up[e].zero_()
                d_w_down[e].zero_()

    for block in _blocks(offsets, N):
        here = slice(block.first, block.last)
        slots = row_to_slot[here]
        d_out = d_y.index_select(0, row_to_token[here])  # [n, H], not yet times the weight
        d_act = x.new_empty(len(slots), width)
        block.product(d_out, w_down.mT, d_act)

        # y = w (act W'), so with g = d_y W: d_w = g . act, d_act = w g, and dW = d_y' (w act):
        # the output of the down projection is not needed
        g = d_act.to(acc)
        gate, up = pre[here].to(acc).chunk(2, dim=-1)
        sig = gate.sigmoid()
        silu = gate * sig
        act = silu * up
        d_weights[slots] = (g * act).sum(-1).to(weights.dtype)
        row_weights = weights.flatten()[slots].to(acc).unsqueeze(-1)
        g.mul_(row_weights)
        d_pre = x.new_empty(len(slots), 2 * width)
        d_pre[:, width:] = g * silu
        d_pre[:, :width] = sig.add_(silu.mul_(1.0 - sig)).mul_(up).mul_(g)
        scaled_act = act.mul_(row_weights).to(x.dtype)

        if need_d_w:
            rows = x.index_select(0, row_to_token[here])
            for e, a, b in block.spans:
                torch.mm(d_out[a:b].T, scaled_act[a:b], out=d_w_down[e])
                torch.mm(d_pre[a:b].T, rows[a:b], out=d_w_gate_up[e])
        if need_d_x:
            block.product(d_pre, w_gate_up.mT, d_rows[here])
    d_x = unpermute_fwd(d_rows, row_to_slot, slot_to_row, None) if need_d_x else d_rows
    return d_x, d_w_gate_up, d_w_down, d_weights.view(weights.shape)
