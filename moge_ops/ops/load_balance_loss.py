"""The auxiliary losses of a router: load balance, and the size of its logits."""

from typing import Any

import torch
from torch import Tensor

from moge_ops import _backend, _checks
from moge_ops.ops.grouped_gate import SCORES
from moge_ops.reference.load_balance_loss import load_balance_loss as _reference

_fwd = _backend.define(
    "load_balance_loss(Tensor logits, Tensor experts, str score) -> (Tensor, Tensor)",
    "load_balance_loss",
    "load_balance_loss_fwd",
)
_bwd = _backend.define(
    "load_balance_loss_bwd(Tensor d_loss, Tensor logits, Tensor f, str score) -> Tensor",
    "load_balance_loss",
    "load_balance_loss_bwd",
)


@_fwd.register_fake
def _(logits: Tensor, experts: Tensor, score: str) -> tuple[Tensor, Tensor]:
    acc = torch.promote_types(logits.dtype, torch.float32)
    return logits.new_empty((), dtype=acc), logits.new_empty(logits.shape[1], dtype=acc)


@_bwd.register_fake
def _(d_loss: Tensor, logits: Tensor, f: Tensor, score: str) -> Tensor:
    return logits.new_empty(logits.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, _experts, ctx.score = inputs
    f = output[1]
    ctx.mark_non_differentiable(f)
    ctx.save_for_backward(logits, f)


def _backward(ctx: Any, d_loss: Tensor, d_f: Tensor) -> tuple[Tensor, None, None]:
    return _bwd(d_loss, *ctx.saved_tensors, ctx.score), None, None


_fwd.register_autograd(_backward, setup_context=_setup)


def load_balance_loss(logits: Tensor, experts: Tensor, *, score: str = "softmax") -> Tensor:
    r"""Sums, over the experts, share of the batch times mean score: least when both are even.

    .. math::
        L = \sum_i f_i\,p_i, \qquad
        f_i = \frac{E}{K T} \sum_{t,j} [c_{tj} = i], \qquad
        p_i = \frac{1}{T} \sum_t q_{ti}

    with q the softmax of the logits or, for ``"sigmoid"``, the sigmoids divided by their sum. It
    is 1 for a uniform choice. The factor that weighs it against the model's loss is the caller's.

    Args:
        logits: ``[T, E]``, float16 | bfloat16 | float32 | float64, with any strides.
        experts: ``[T, K]`` int32 | int64, the chosen ids c; those outside [0, E) count for no
            expert.
        score: ``"softmax"`` or ``"sigmoid"``, as the gate that chose them.

    Returns:
        A float32 scalar (float64 for float64 logits), 0 where T·K is 0. The gradient goes through
        p, to ``logits``. Deterministic bit for bit; the host does not wait.

    Raises:
        TypeError: An argument has another type or dtype.
        ValueError: An argument has another shape, device or value.

    Source:
        Tang et al. 2025, "Pangu Pro MoE", its auxiliary loss (arXiv:2505.21411); for the sigmoid
        DeepSeek-V3, eq. 17 to 20 (arXiv:2412.19437).
    """
    _checks.tensor("logits", logits, "[T, E]", _checks.FLOATS)
    T, E = logits.shape
    if E < 1:
        raise ValueError(f"logits must be [T, E] with E at least 1, got {list(logits.shape)}")
    _checks.tensor("experts", experts, "[T, K]", _checks.IDS)
    _checks.shape("experts", experts, "[T, K]", (T, experts.shape[1]))
    _checks.same_device("experts", experts, "logits", logits)
    _checks.choice("score", score, SCORES)
    if _backend.use_reference(logits):
        return _reference(logits, experts, score=score)
    loss: Tensor = _fwd(logits, experts, score)[0]
    return loss


def router_z_loss(logits: Tensor) -> Tensor:
    r"""Mean squared log-sum-exp of a router's logits, which keeps them small and training stable.

    .. math:: L_z = \frac{1}{T} \sum_t \Bigl(\log \sum_i e^{l_{ti}}\Bigr)^2

    Plain torch, not a kernel of ours: it is one reduction of a small tensor, which torch.compile
    fuses. The factor that weighs it against the model's loss is the caller's (1e-3 in the paper).

    Args:
        logits: ``[T, E]``, float16 | bfloat16 | float32 | float64, with any strides.

    Returns:
        A float32 scalar (float64 for float64 logits), 0 where T is 0, with a gradient to
        ``logits``. Computed in that dtype; the host does not wait.

    Raises:
        TypeError: ``logits`` has another type or dtype.
        ValueError: ``logits`` is not ``[T, E]``.

    Source:
        Zoph et al. 2022, "ST-MoE", eq. 5 (arXiv:2202.08906).
    """
    _checks.tensor("logits", logits, "[T, E]", _checks.FLOATS)
    acc = torch.promote_types(logits.dtype, torch.float32)
    z = logits.to(acc).logsumexp(-1)  # [T]
    return z.square().sum() / max(len(z), 1)
