"""SwiGLU in torch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def swiglu_fwd(gate_up: Tensor) -> Tensor:
    """``[N, 2F] -> [N, F]``."""
    acc = torch.promote_types(gate_up.dtype, torch.float32)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate.to(acc)).mul_(up).to(gate_up.dtype)


def swiglu_bwd(d_act: Tensor, gate_up: Tensor) -> Tensor:
    """``[N, F], [N, 2F] -> [N, 2F]``."""
    acc = torch.promote_types(gate_up.dtype, torch.float32)
    gate, up = gate_up.to(acc).chunk(2, dim=-1)
    d = d_act.to(acc)
    sig = gate.sigmoid()
    silu = gate * sig
    d_gate = d * up * (sig + silu * (1.0 - sig))  # silu' = s + g s (1 - s)
    return torch.cat([d_gate, d * silu], dim=-1).to(gate_up.dtype)
