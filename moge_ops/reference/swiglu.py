"""Oracle of :func:`moge_ops.swiglu`."""

import torch
import torch.nn.functional as F
from torch import Tensor


def swiglu(gate_up: Tensor) -> Tensor:
    """``[N, 2F] -> [N, F]``, in float32 or wider."""
    acc = torch.promote_types(gate_up.dtype, torch.float32)
    gate, up = gate_up.to(acc).chunk(2, dim=-1)  # [N, F], [N, F]
    return (F.silu(gate) * up).to(gate_up.dtype)
