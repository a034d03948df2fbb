"""SwiGLU of concatenated gate and up halves."""

from typing import Any

from torch import Tensor

from moge_ops import _backend, _checks
from moge_ops.reference.swiglu import swiglu as _reference


@_backend.define()
def swiglu_bwd(d_act: Tensor, gate_up: Tensor) -> Tensor:
    """``[N, F], [N, 2F] -> [N, 2F]``."""
    return gate_up.new_empty(gate_up.shape)


def _save(ctx: Any, inputs: Any, act: Tensor) -> None:
    ctx.save_for_backward(inputs.gate_up)


def _backward(ctx: Any, d_act: Tensor) -> dict[str, Tensor]:
    return {"gate_up": swiglu_bwd(d_act, *ctx.saved_tensors)}


@_backend.define(save=_save, backward=_backward)
def swiglu_fwd(gate_up: Tensor) -> Tensor:
    """``[N, 2F] -> [N, F]``."""
    return gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)


def swiglu(gate_up: Tensor) -> Tensor:
    r"""Computes ``silu(gate) * up`` for the two halves of the last dimension.

    .. math:: a_{nf} = g_{nf}\,\sigma(g_{nf})\,u_{nf}

    Args:
        gate_up: ``[N, 2F]``, float16 | bfloat16 | float32 | float64. Columns ``[0, F)`` are the
            gate, ``[F, 2F)`` are up. Any F; any strides.

    Returns:
        ``[N, F]``, dtype and device of ``gate_up``. Computed in float32 (float64 for float64),
        deterministic.

    Raises:
        TypeError: ``gate_up`` is not a floating-point tensor.
        ValueError: ``gate_up`` is not 2-D, or its last dimension is odd.

    Source:
        Shazeer 2020, "GLU Variants Improve Transformer", eq. 6 (arXiv:2002.05202).
    """
    _checks.tensors(("gate_up", gate_up, "[N, 2F]", _checks.FLOATS))
    if _backend.use_reference(gate_up):
        return _reference(gate_up)
    return swiglu_fwd(gate_up)
