"""Oracle of :func:`moge_ops.swiglu`."""

import torch.nn.functional as F
from torch import Tensor


def swiglu(gate_up: Tensor) -> Tensor:
    """``[N, 2F] -> [N, F]``."""
    gate, up = gate_up.chunk(2, dim=-1)  # [N, F], [N, F]
    return F.silu(gate) * up
