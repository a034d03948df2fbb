"""Expert-aware smoothing: outlying channels move from activations into weights, exactly.

Nothing is quantised here. Every factor is a power of two that loses no bit of a parameter, so a
smoothed model computes the same numbers as before, bit for bit but for subnormal activations. The
norm's output is ``x / s``, and all that reads it has its columns multiplied by ``s``: the router
too.
"""

import inspect
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moge_ops import _checks, _null
from moge_ops.nn import FrozenWeight, MoGE, MoGEOutput
from moge_ops.ops._layer import applied
from moge_ops.quant._observer import Observer
from moge_ops.quant._readers import Place, Weight, places

__all__ = ["OBSERVERS", "Smoothing", "smooth_experts"]

OBSERVERS = ("minmax", "percentile")
"""How a channel's range is found: its largest size, or one that nearly all tokens stay within."""

_TRACED = 64  # tokens that show who reads which norm, and that the model has stayed the same
_MOST_EXPONENT = 10  # of a factor
_MOST_UNITS = 4  # in the last place of the largest logit, between two models that are the same
_MOST_NOISE = 4  # between them, as a multiple of that between two runs of one
_FEWEST_ROWS = 32  # a range within an expert from fewer is chance, and is not used


class Smoothing(NamedTuple):
    """Settings of :func:`smooth_experts`.

    Attributes:
        alpha: Share of the difficulty that goes from activations to weights, in [0, 1].
        observer: ``"minmax"`` or ``"percentile"``, for the input of the layers.
        percentile: Of tokens, for the observer of that name.
        within: Also between the up and the down matrix of each expert of
            :class:`moge_ops.nn.MoGE`, by the largest sizes there: for schemes that round
            activations. Weights of 4 bits become harder to round where no channel is outlying.
            The layers must have gate and up in two halves, without a limit or a shift.
    """

    alpha: float = 0.5
    observer: str = "minmax"
    percentile: float = 99.9
    within: bool = False


class _Part(NamedTuple):
    """What the factors multiply, or divide."""

    parameter: Tensor
    over: list[int]  # its axes along which a factor is the same
    sign: int  # 1 where factors multiply, -1 where they divide


def smooth_experts(
    model: nn.Module, calibration: Iterable[Tensor], smoothing: Smoothing | None = None
) -> list[str]:
    r"""Moves outliers of the experts' input into their weights; the model's function stays.

    For channel j of the norm before a layer of experts

    .. math:: s_j = 2^{\mathrm{round}(\log_2 (a_j^\alpha / w_j^{1-\alpha}) - c)}, \quad
        w_j = \max_{e} \max_i |W_{e,ij}|

    with :math:`a_j` the range of the norm's output over all calibration tokens, and :math:`w_j`
    that of column j over gate and up rows of *all* experts, the shared one too. c, the mean over
    channels, keeps the weights' size. The norm's weight is divided by s, columns of experts, shared
    expert and router are multiplied by it: the router, in its own dtype, gives the same logits. A
    channel without activations or weights keeps its factor 1. A factor is nearer to 1 where a
    parameter would overflow or lose bits as a subnormal, as float16 soon does.

    With ``within`` the same is done within an expert, between the up rows and the down columns,
    with ranges of the activation's output of the tokens that chose it: up is linear there. An
    expert with fewer than 32 tokens stays as it is.

    Who reads a norm is seen in a forward pass, not told by names. The logits of up to 64 tokens are
    compared before and after. Where they differ by more than two runs of the same model, and in
    float16, where activations become subnormal, by more than some units in the last place of the
    largest, everything is put back, exactly.

    Args:
        model: :class:`moge_ops.models.PanguMoEForCausalLM`, a transformers model, or any other that
            is called with token ids. It is put in evaluation mode meanwhile.
        calibration: Batches of token ids, ``[B, L]`` or ``[L]``, without padding; read once.
        smoothing: The settings.

    Returns:
        Names of the norms.

    Raises:
        TypeError: A batch is no tensor of integers.
        ValueError: A setting is out of range; there are no tokens, or one gives NaN; no norm is
            read by the experts; a module reads the norm whose weights are not known here; the
            activation of a layer does not go with ``within``; the model would change. It is as it
            was before then.

    Source:
        Xiao et al. 2022, "SmoothQuant", equation 4 (arXiv:2211.10438). The maximum over experts and
        the router's alignment: Tang et al. 2025, "Pangu Pro MoE", on quantisation
        (arXiv:2505.21411). Fu et al. 2025, "EAQuant" (arXiv:2506.13329), take the largest of the
        experts' own factors instead. Powers of two are ours.
    """
    settings = Smoothing() if smoothing is None else smoothing
    _check(settings)
    for name, module in model.named_modules():
        if isinstance(module, FrozenWeight):
            raise ValueError(f"{name} is quantised already, and must be smoothed before")
    layers = {n: m for n, m in model.named_modules() if type(m) is MoGE and settings.within}
    for name, layer in layers.items():
        if not up_is_linear(layer):
            raise ValueError(
                f"within must be False for {name!r}: only experts with gate and up in two halves, "
                f"without a limit or a shift, are smoothed within, got {layer.activation}"
            )
    batches = _batches(model, calibration)
    first = next(batches, None)
    if first is None:
        raise ValueError("calibration must give at least one batch of tokens, got none")
    piece = first[:1, :_TRACED]
    with torch.no_grad(), _evaluating(model):
        found = places(model, piece)
        percentile = settings.percentile if settings.observer == "percentile" else None
        inputs = [Observer(place.name, percentile) for place in found]
        inner = {n: [Observer(n) for _ in range(m.w_down.shape[0])] for n, m in layers.items()}
        with ExitStack() as hooks:
            for place, observer in zip(found, inputs, strict=True):
                hooks.callback(place.norm.register_forward_hook(_watch(observer)).remove)
            for name, layer in layers.items():
                hook = layer.register_forward_hook(_watch_within(inner[name]), with_kwargs=True)
                hooks.callback(hook.remove)
            for batch in _shown(itertools.chain([first], batches), calibration):
                _logits(model, batch, 1)

        # all factors first, then all changes: an error before leaves nothing half done
        changes = [
            (_parts(place), _exponents(seen.ranges(), _range(place.weights), settings.alpha))
            for place, seen in zip(found, inputs, strict=True)
        ]
        for name, layer in layers.items():
            exponent = _exponents_within(layer, inner[name], settings.alpha)
            changes.append((_parts_within(layer), exponent))
        before, again = _logits(model, piece), _logits(model, piece)
        done = []
        try:
            for parts, exponent in changes:
                bounded = _bounded(exponent, parts)  # by what the changes before have left
                _scale(parts, bounded)
                done.append((parts, bounded))
            _check_same(model, _logits(model, piece), before, again)
        except BaseException:
            for parts, exponent in reversed(done):
                _scale(parts, -exponent)
            raise
    return [place.name for place in found]


def _check(settings: Smoothing) -> None:
    _checks.choice("observer", settings.observer, OBSERVERS)
    if not 0.0 <= settings.alpha <= 1.0:
        raise ValueError(f"alpha must be in [0, 1], got {settings.alpha}")
    if not 0.0 < settings.percentile <= 100.0:
        raise ValueError(f"percentile must be in (0, 100], got {settings.percentile}")


def up_is_linear(layer: MoGE) -> bool:
    """Whether factors can move from the up rows of an expert to its down columns, exactly."""
    _, gated, interleaved, _, limit, shift = layer.activation
    return gated and not interleaved and limit is None and shift == 0.0


# -- batches --------------------------------------------------------------------------------------


def _batches(model: nn.Module, calibration: Iterable[Tensor]) -> Iterator[Tensor]:
    """``[B, L]`` on the model's device."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if isinstance(calibration, Tensor):
        raise TypeError("calibration must be an iterable of batches, got one Tensor: put it in []")
    for batch in calibration:
        if not isinstance(batch, Tensor) or batch.dtype not in _checks.IDS:
            got = batch.dtype if isinstance(batch, Tensor) else type(batch).__name__
            raise TypeError(f"calibration must give tensors of token ids, got {got}")
        if batch.ndim not in (1, 2) or not batch.numel():
            raise ValueError(f"calibration must give [B, L] or [L] ids, got {list(batch.shape)}")
        yield (batch if batch.ndim == 2 else batch.unsqueeze(0)).to(device)


def _shown(batches: Iterator[Tensor], source: Any) -> Iterator[Tensor]:
    """The same batches; on a terminal, with a bar that tells how many are done."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield from batches
        return
    total = len(source) if hasattr(source, "__len__") else None

    def show(done: int) -> None:
        bar = "" if not total else f"[{'#' * (20 * done // total):20}] "
        of = "" if not total else f" of {total}"
        sys.stderr.write(f"\rcalibration {bar}{done}{of} batches")
        sys.stderr.flush()

    show(0)
    try:
        for done, batch in enumerate(batches, 1):
            yield batch
            show(done)
    finally:
        sys.stderr.write("\n")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _logits(model: nn.Module, ids: Tensor, few: int = 0) -> Tensor:
    """Of all tokens, or of the last few where a model can be asked for these alone."""
    can = few and "logits_to_keep" in inspect.signature(model.forward).parameters
    out = model(ids, logits_to_keep=few) if can else model(ids)
    found = out if isinstance(out, Tensor) else getattr(out, "logits", None)
    logits: Tensor = out[0] if found is None else found
    return logits


def _check_same(model: nn.Module, after: Tensor, before: Tensor, again: Tensor) -> None:
    """Raises ValueError unless ``after`` is ``before``, which a second run found ``again``."""
    # powers of two leave the same bits in bfloat16 too, where one unit is much already
    eps = min(torch.finfo(before.dtype).eps, torch.finfo(torch.float32).eps)
    if any(p.dtype == torch.float16 for p in model.parameters()):
        eps = torch.finfo(torch.float16).eps  # activations become subnormal
    slack = _MOST_UNITS * eps * before.abs().max() + _MOST_NOISE * (again - before).abs().max()
    if not (after - before).abs().max() <= slack:
        raise ValueError(
            f"smoothing would change what {type(model).__name__} computes: something reads the "
            "norm before the experts without a module of its own"
        )


# -- ranges and factors ---------------------------------------------------------------------------


def _watch(observer: Observer) -> Any:
    def hook(module: nn.Module, args: Any, out: Tensor) -> None:
        observer.update(out.flatten(0, -2))

    return hook


def _watch_within(observers: Sequence[Observer]) -> Any:
    """Observes the outputs of each expert's activation."""

    def hook(layer: MoGE, args: Any, kwargs: Any, out: Any) -> None:
        x = (args[0] if args else kwargs["x"]).flatten(0, -2)  # [T, H]
        gating = out.gating if isinstance(out, MoGEOutput) else layer.router(x)[1]
        outputs = len(gating.counts)
        ids = _null.true_ids(gating.experts, outputs, layer.num_groups, layer.num_null)
        for e, observer in enumerate(observers):
            rows = x[(ids == e).any(1)]
            pre = F.linear(rows, layer.w_gate_up[e])  # type: ignore[index]
            observer.update(applied(pre, layer.activation))

    return hook


def _range(weights: Iterable[Weight]) -> Tensor:
    """``[H]``: the largest size in each column, over all rows of all experts."""
    found = []
    for weight in weights:
        if weight.counts:
            others = [a for a in range(weight.parameter.ndim) if a != weight.axis]
            found.append(torch.linalg.vector_norm(weight.parameter, torch.inf, dim=others).float())
    return torch.stack(found).amax(0)


def _exponents(activations: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """``[..., C]`` integers: logarithms to base two of the factors."""
    live = (activations > 0.0) & (weights > 0.0)
    s = alpha * activations.log2() - (1.0 - alpha) * weights.log2()
    s = torch.where(live, s, 0.0)
    middle = s.sum(-1, keepdim=True) / live.sum(-1, keepdim=True).clamp(min=1)
    exponent = torch.where(live, s - middle, 0.0).round()
    return exponent.clamp(-_MOST_EXPONENT, _MOST_EXPONENT).int()


def _exponents_within(layer: MoGE, observers: Sequence[Observer], alpha: float) -> Tensor:
    """``[E, F]``, 0 for an expert with few rows."""
    down = layer.get_parameter("w_down")  # [E, H, F]
    weights = torch.linalg.vector_norm(down, torch.inf, dim=1).float()
    seen = torch.zeros_like(weights)
    for e, observer in enumerate(observers):
        if observer.rows >= _FEWEST_ROWS:
            seen[e] = observer.ranges()
    return _exponents(seen, weights, alpha)


def _parts(place: Place) -> list[_Part]:
    """Of factors ``[H]``."""
    norm = [_Part(parameter.unsqueeze(0), [0], -1) for parameter in place.norm.parameters()]
    return norm + [
        _Part(weight, [a for a in range(weight.ndim) if a != axis], 1)
        for weight, axis, _ in place.weights
    ]


def _parts_within(layer: MoGE) -> list[_Part]:
    """Of factors ``[E, F]``."""
    up = torch.unflatten(layer.get_parameter("w_gate_up"), 1, (2, -1))[:, 1]  # [E, F, H]
    return [_Part(up, [2], -1), _Part(layer.get_parameter("w_down"), [1], 1)]


def _bounded(exponent: Tensor, parts: Iterable[_Part]) -> Tensor:
    """The nearest to ``exponent`` that multiply, and then divide, every part without a rounding."""
    for parameter, over, sign in parts:
        limits = torch.finfo(parameter.dtype)
        size = parameter.abs()
        most = _binary(size.amax(over))
        least = _binary(size.masked_fill_(size == 0.0, limits.max).amin(over))
        # a number that is subnormal already may grow
        low = (math.frexp(limits.tiny)[1] - least).clamp(max=0)
        high = (math.frexp(limits.max)[1] - most).clamp(min=0)
        exponent = sign * torch.minimum(torch.maximum(sign * exponent, low), high)
    return exponent


def _binary(x: Tensor) -> Tensor:
    """Integers e with x in [2^(e-1), 2^e)."""
    return torch.frexp(x if x.dtype == torch.float64 else x.float()).exponent


def _scale(parts: Iterable[_Part], exponent: Tensor) -> None:
    for parameter, over, sign in parts:
        power = torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), sign * exponent)
        for axis in over:
            power = power.unsqueeze(axis)
        parameter.mul_(power.to(parameter))
