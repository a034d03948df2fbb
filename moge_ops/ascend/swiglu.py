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
    _C.swiglu_fwd(
        gate_up=pointer(gate_up), act=pointer(act), N=N, F=F, dtype=dtype, stream=stream(act)
    )
    return act


def swiglu_bwd(d_act: Tensor, gate_up: Tensor) -> Tensor:
    """``[N, F], [N, 2F] -> [N, 2F]``."""
    dtype = dtype_of("gate_up", gate_up)
    N, F = d_act.shape
    d_act, gate_up = d_act.contiguous(), gate_up.contiguous()
    d_gate_up = torch.empty_like(gate_up)
    _C.swiglu_bwd(
        d_act=pointer(d_act),
        gate_up=pointer(gate_up),
        d_gate_up=pointer(d_gate_up),
        N=N,
        F=F,
        dtype=dtype,
        stream=stream(d_act),
    )
    return d_gate_up
