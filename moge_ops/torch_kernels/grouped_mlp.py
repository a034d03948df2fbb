"""The expert layer on the CPU: experts in blocks small enough to stay in cache."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .grouped_gemm import matmul, spans
from .unpermute import unpermute_fwd

# Rows of one block: its activations stay in a core's L2 cache (1 MiB) between the two products.
# 512 was the fastest of 128 to 2048 at H 1024, F 256 (2 Zen 4 cores, November 2026).
BLOCK_ROWS = 512


def _blocks(offsets: Tensor, N: int) -> Iterator[list[tuple[int, int, int]]]:
    """Runs of (expert, first row, last row) with rows, about BLOCK_ROWS rows in each."""
    block: list[tuple[int, int, int]] = []
    for e, (a, b) in enumerate(spans(offsets, N)):
        if a < b:
            block.append((e, a, b))
            if b - block[0][1] >= BLOCK_ROWS:
                yield block
                block = []
    if block:
        yield block


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
        first, last = block[0][1], block[-1][2]
        rows = x.index_select(0, row_to_token[first:last])  # [n, H]
        gate_up = pre[first:last] if save else x.new_empty(last - first, 2 * width)
        for e, a, b in block:
            matmul(rows[a - first : b - first], w_gate_up[e], gate_up[a - first : b - first])
        act = F.silu(gate_up[:, :width]).mul_(gate_up[:, width:])  # [n, F]
        if weight_on == "activation":
            row_weights = weights.flatten()[row_to_slot[first:last]].unsqueeze(-1)
            act = (act * row_weights).to(x.dtype)
        for e, a, b in block:
            matmul(act[a - first : b - first], w_down[e], out[a:b])
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
        first, last = block[0][1], block[-1][2]
        slots = row_to_slot[first:last]
        d_out = d_y.index_select(0, row_to_token[first:last])  # [n, H], not yet times the weight
        d_act = x.new_empty(last - first, width)
        for e, a, b in block:
            torch.mm(d_out[a - first : b - first], w_down[e], out=d_act[a - first : b - first])

        # y = w (act W'), so with g = d_y W: d_w = g . act, d_act = w g, and dW = d_y' (w act):
        # the output of the down projection is not needed
        g = d_act.to(acc)
        gate, up = pre[first:last].to(acc).chunk(2, dim=-1)
        sig = gate.sigmoid()
        silu = gate * sig
        act = silu * up
        d_weights[slots] = (g * act).sum(-1).to(weights.dtype)
        row_weights = weights.flatten()[slots].to(acc).unsqueeze(-1)
        g.mul_(row_weights)
        d_pre = x.new_empty(last - first, 2 * width)
        d_pre[:, width:] = g * silu
        d_pre[:, :width] = sig.add_(silu.mul_(1.0 - sig)).mul_(up).mul_(g)
        scaled_act = act.mul_(row_weights).to(x.dtype)

        rows = x.index_select(0, row_to_token[first:last]) if need_d_w else x
        for e, a, b in block:
            part = slice(a - first, b - first)
            if need_d_w:
                torch.mm(d_out[part].T, scaled_act[part], out=d_w_down[e])
                torch.mm(d_pre[part].T, rows[part], out=d_w_gate_up[e])
            if need_d_x:
                torch.mm(d_pre[part], w_gate_up[e], out=d_rows[a:b])
    d_x = unpermute_fwd(d_rows, row_to_slot, slot_to_row, None) if need_d_x else d_rows
    return d_x, d_w_gate_up, d_w_down, d_weights.view(weights.shape)
