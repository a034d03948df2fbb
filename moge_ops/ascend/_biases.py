"""The biases of an expert's two products where no kernel adds them, and their gradients."""

import torch
from torch import Tensor

from .grouped_gemm import grouped_gemm_dw, grouped_gemm_fwd
from .unpermute import take_scalars, unpermute_bwd, unpermute_fwd


def biases_of_rows(bias: Tensor, N: int, offsets: Tensor) -> Tensor:
    """``[E, O], [E + 1] -> [N, O]``: each row has the bias of its expert, or zeros."""
    return grouped_gemm_fwd(bias.new_ones(N, 1), bias.unsqueeze(-1), offsets)


def only_biases(
    weights: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    b_down: Tensor,
) -> Tensor:
    """``[T, H]``: the weighted biases of each token's experts."""
    rows = biases_of_rows(b_down, row_to_slot.shape[0], offsets)
    return unpermute_fwd(rows, row_to_slot, slot_to_row, weights)


def unpermute_biased(
    out: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    weights: Tensor,
    offsets: Tensor,
    b_down: Tensor,
) -> Tensor:
    """``[N, H] -> [T, H]``: a row and its expert's bias are two slots of one weight."""
    N = row_to_slot.shape[0]
    rows = torch.cat((out, biases_of_rows(b_down, N, offsets)))
    biases = torch.where(slot_to_row < 0, slot_to_row, slot_to_row + N)
    slots = torch.cat((slot_to_row, biases), 1)
    return unpermute_fwd(rows, row_to_slot, slots, torch.cat((weights, weights), 1))


def bias_part(
    d_y: Tensor,
    weights: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    b_down: Tensor | None,
) -> Tensor | None:
    """``d_y [T, H], b_down [E, H] -> [N]`` float32: the bias's part of a row's weight's gradient.

    The kernel that returns rows to tokens sums such products in float32; the cube would round them.
    """
    if b_down is None:
        return None
    rows = biases_of_rows(b_down, row_to_slot.shape[0], offsets)
    _, d_weights = unpermute_bwd(d_y, rows, row_to_slot, slot_to_row, weights.float())
    return take_scalars(d_weights, row_to_slot)


def _sum_rows(d_rows: Tensor, factors: Tensor, offsets: Tensor) -> Tensor:
    """``[N, O], [N] -> [E, O]``: sums of each expert's rows times their factors, of one dtype."""
    return grouped_gemm_dw(d_rows, factors.unsqueeze(-1), offsets).squeeze(-1)


def bias_sums(
    d_pre: Tensor, d_out: Tensor, row_weights: Tensor, offsets: Tensor, need: bool
) -> tuple[Tensor, Tensor]:
    """``[N, O], [N, H], [N] -> d_b_gate_up [E, O], d_b_down [E, H]``; empty where not needed."""
    if not need:
        return d_pre.new_empty(0), d_pre.new_empty(0)
    ones = torch.ones_like(row_weights, dtype=d_pre.dtype)
    # a weight may be too small for float16
    d_b_down = _sum_rows(d_out.float(), row_weights.float(), offsets)
    return _sum_rows(d_pre, ones, offsets), d_b_down.to(d_out.dtype)
