"""SwiGLU in Ascend C."""

import torch
from torch import Tensor

from moge_ops import _C

from ._common import dtype_of, pointer, stream


def swiglu_fwd(gate_up: Tensor) -> Tensor:
    """``[N, 2F] -> [N, F]``."""
    dtype = dtype_of("gate_up", gate_up)
    gate_up = gate_up.contiguous()
    N, F = gate_up.shape[0], gate_up.shape[1] // 2
    act = gate_up.new_empty(N, F)
    _C.swiglu_fwd(pointer(gate_up), pointer(act), N, F, dtype, stream(act))
    return act


def swiglu_bwd(d_act: Tensor, gate_up: Tensor) -> Tensor:
    """``[N, F], [N, 2F] -> [N, 2F]``."""
    dtype = dtype_of("gate_up", gate_up)
    d_act, gate_up = d_act.contiguous(), gate_up.contiguous()
    d_gate_up = torch.empty_like(gate_up)
    _C.swiglu_bwd(
        pointer(d_act), pointer(gate_up), pointer(d_gate_up), *d_act.shape, dtype, stream(d_act)
    )
    return d_gate_up
