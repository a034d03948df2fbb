"""SwiGLU."""

import torch
from torch import Tensor

from moge_ops import _cpu

from ._common import DTYPES, NONE, adjacent, matrix


def swiglu_fwd(gate_up: Tensor) -> Tensor:
    """``[N, 2F] -> [N, F]``."""
    gate_up = adjacent(gate_up)
    N, F = gate_up.shape[0], gate_up.shape[1] // 2
    act = gate_up.new_empty(N, F)
    _cpu.swiglu_fwd(
        dtype=DTYPES[gate_up.dtype],
        gate_up=matrix(gate_up),
        d_act=NONE,
        out=act.data_ptr(),
        N=N,
        F=F,
        threads=torch.get_num_threads(),
    )
    return act


def swiglu_bwd(d_act: Tensor, gate_up: Tensor) -> Tensor:
    """``[N, F], [N, 2F] -> [N, 2F]``."""
    d_act, gate_up = adjacent(d_act), adjacent(gate_up)
    d_gate_up = gate_up.new_empty(gate_up.shape)
    _cpu.swiglu_bwd(
        dtype=DTYPES[gate_up.dtype],
        gate_up=matrix(gate_up),
        d_act=matrix(d_act),
        out=d_gate_up.data_ptr(),
        N=gate_up.shape[0],
        F=d_act.shape[1],
        threads=torch.get_num_threads(),
    )
    return d_gate_up
