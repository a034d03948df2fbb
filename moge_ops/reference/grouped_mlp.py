"""Oracle of :func:`moge_ops.grouped_mlp`: its parts, one after the other."""

from torch import Tensor

from moge_ops.reference.grouped_gemm import grouped_gemm
from moge_ops.reference.permute import permute
from moge_ops.reference.swiglu import swiglu
from moge_ops.reference.unpermute import unpermute


def grouped_mlp(
    x: Tensor,
    w_gate_up: Tensor,
    w_down: Tensor,
    weights: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    *,
    weight_on: str = "output",
) -> Tensor:
    """``[T, H] -> [T, H]``."""
    rows = permute(x, row_to_slot, slot_to_row)  # [N, H]
    act = swiglu(grouped_gemm(rows, w_gate_up, offsets))  # [N, F]
    if weight_on == "activation":
        row_weights = permute(weights.reshape(-1, 1), row_to_slot, slot_to_row.reshape(-1, 1))
        act = act * row_weights.to(act.dtype)  # [N, F]
    out = grouped_gemm(act, w_down, offsets)  # [N, H]
    return unpermute(out, slot_to_row, weights if weight_on == "output" else None)
