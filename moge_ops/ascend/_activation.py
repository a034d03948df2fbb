"""What stands between the two products of an expert, for the launchers."""

from typing import NamedTuple

from torch import Tensor

from moge_ops import _C

from ._common import dtype_of, pointer, stream

_PHI = {
    "silu": _C.Phi.silu,
    "gelu": _C.Phi.gelu,
    "gelu_tanh": _C.Phi.gelu_tanh,
    "relu": _C.Phi.relu,
    "relu2": _C.Phi.relu2,
}


class Choice(NamedTuple):
    """As :class:`moge_ops.Activation`, and the series ``[2, n]`` float32 or None."""

    name: str = "silu"
    gated: bool = True
    interleaved: bool = False
    alpha: float = 1.0
    limit: float | None = None
    shift: float = 0.0
    series: Tensor | None = None

    def tiling(self) -> _C.ActivationTiling:
        return _C.ActivationTiling(
            phi=_PHI[self.name],
            gated=self.gated,
            interleaved=self.interleaved,
            terms=0 if self.series is None else self.series.shape[1],
            alpha=self.alpha,
            limit=self.limit,
            shift=self.shift,
        )

    def swiglu(self) -> bool:
        """Whether this is the default, without a series."""
        return self == Choice() if self.series is None else False


def choice(
    name: str,
    gated: bool,
    interleaved: bool,
    alpha: float,
    limit: float | None,
    shift: float,
    series: Tensor | None,
) -> Choice:
    """With the series as the kernels read it."""
    wide = None if series is None else series.float().contiguous()
    return Choice(name, gated, interleaved, alpha, limit, shift, wide)


def activation_fwd(pre: Tensor, of: Choice, bias: Tensor | None) -> Tensor:
    """``[N, 2F] -> [N, F]``, or ``[N, F] -> [N, F]``.

    ``bias``, of the shape of pre, is added to it first.
    """
    N, F = pre.shape[0], pre.shape[1] // (2 if of.gated else 1)
    act = pre.new_empty(N, F)
    _C.activation_fwd(
        pre=pointer(pre),
        bias=pointer(bias),
        series=pointer(of.series),
        act=pointer(act),
        N=N,
        F=F,
        activation=of.tiling(),
        dtype=dtype_of("x", pre),
        stream=stream(pre),
    )
    return act
