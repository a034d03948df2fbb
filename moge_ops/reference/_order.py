"""The stable sort of the oracles."""

import torch
from torch import Tensor


def argsort(x: Tensor, descending: bool = False) -> Tensor:
    """Order of the last dimension, the first of equals first."""
    if torch.onnx.is_in_onnx_export():
        # ONNX has no stable sort by name, but its TopK, which stands for a sort, is one
        return torch.sort(x, descending=descending).indices
    return torch.sort(x, stable=True, descending=descending).indices
