"""SwiGLU of concatenated gate and up halves."""

from typing import Any

from torch import Tensor

from moge_ops import _backend, _checks
from moge_ops.reference.swiglu import swiglu as _reference

_fwd = _backend.define("swiglu(Tensor gate_up) -> Tensor", "swiglu", "swiglu_fwd")
_bwd = _backend.define("swiglu_bwd(Tensor d_act, Tensor gate_up) -> Tensor", "swiglu", "swiglu_bwd")


@_fwd.register_fake
def _(gate_up: Tensor) -> Tensor:
    return gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)


@_bwd.register_fake
def _(d_act: Tensor, gate_up: Tensor) -> Tensor:
    return gate_up.new_empty(gate_up.shape)


def _setup(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])


def _backward(ctx: Any, d_act: Tensor) -> Tensor:
    return _bwd(d_act, *ctx.saved_tensors)  # type: ignore[no-any-return]


_fwd.register_autograd(_backward, setup_context=_setup)


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
    _checks.tensor("gate_up", gate_up, "[N, 2F]", _checks.FLOATS)
    if gate_up.shape[1] % 2:
        raise ValueError(f"gate_up must be [N, 2F], got {list(gate_up.shape)}")
    if _backend.use_reference(gate_up):
        return _reference(gate_up)
    out: Tensor = _fwd(gate_up)
    return out
