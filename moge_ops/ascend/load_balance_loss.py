"""Load-balance loss in Ascend C."""

import torch
from torch import Tensor

from moge_ops import _C

from ._common import dtype_of, pointer, stream
from .grouped_gate import SCORES


def load_balance_loss_fwd(logits: Tensor, experts: Tensor, score: str) -> tuple[Tensor, Tensor]:
    """``[T, E], [T, K] -> scalar, f [E]``."""
    dtype = dtype_of("logits", logits)
    T, E = logits.shape
    logits = logits.contiguous()
    if experts.dtype is torch.int64:  # a cast alone could bring an id into range
        experts = experts.where((experts >= 0) & (experts < E), -1)
    experts = experts.int()
    cores = _C.token_cores(T=T)
    loss = logits.new_empty((), dtype=torch.float32)
    f = logits.new_empty(E, dtype=torch.float32)
    scores = logits.new_empty(cores, E, dtype=torch.float32)
    counts = logits.new_empty(cores, E, dtype=torch.int32)
    _C.load_balance_loss_fwd(
        logits=pointer(logits),
        experts=pointer(experts),
        loss=pointer(loss),
        f=pointer(f),
        scores=pointer(scores),
        counts=pointer(counts),
        T=T,
        K=experts.shape[1],
        E=E,
        score=SCORES[score],
        dtype=dtype,
        stream=stream(logits),
    )
    return loss, f


def load_balance_loss_bwd(d_loss: Tensor, logits: Tensor, f: Tensor, score: str) -> Tensor:
    """``scalar, [T, E], [E] -> [T, E]``."""
    dtype = dtype_of("logits", logits)
    T, E = logits.shape
    logits, f = logits.contiguous(), f.contiguous()
    d_logits = torch.empty_like(logits)
    _C.load_balance_loss_bwd(
        d_loss=pointer(d_loss),
        logits=pointer(logits),
        f=pointer(f),
        d_logits=pointer(d_logits),
        T=T,
        E=E,
        score=SCORES[score],
        dtype=dtype,
        stream=stream(logits),
    )
    return d_logits
