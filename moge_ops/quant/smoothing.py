"""Expert-aware smoothing: outlying channels move from activations into weights, exactly.

Nothing is quantised here. Every factor is a power of two, so a smoothed model computes the same
numbers as before, bit for bit but for subnormals: the norm's output is ``x / s``, and all that
reads it has its columns multiplied by ``s``, the router too.
"""

import inspect
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moge_ops import _checks
from moge_ops.nn import FrozenWeight, MoGE, MoGEOutput
from moge_ops.quant._observer import Observer

__all__ = ["OBSERVERS", "Smoothing", "smooth_experts"]

OBSERVERS = ("minmax", "percentile")
"""How a channel's range is found: its largest size, or one that nearly all tokens stay within."""

_TRACED = 64  # tokens that show who reads which norm, and that the model has stayed the same
_MOST_EXPONENT = 10  # of a factor: float16 holds what it makes of usual weights
_FEWEST_ROWS = 32  # a range within an expert from fewer is chance, and is not used


class Smoothing(NamedTuple):
    """Settings of :func:`smooth_experts`.

    Attributes:
        alpha: Share of the difficulty that goes from activations to weights, in [0, 1].
        observer: One of :data:`OBSERVERS`, for the input of the layers.
        percentile: Of tokens, for the observer of that name.
        within: Also between the up and the down matrix of each expert of
            :class:`moge_ops.nn.MoGE`, by the largest sizes there: for schemes that round
            activations. Weights of 4 bits become harder to round where no channel is outlying.
    """

    alpha: float = 0.5
    observer: str = "minmax"
    percentile: float = 99.9
    within: bool = False


class _Weight(NamedTuple):
    """A matrix that reads the output of a norm."""

    parameter: Tensor
    axis: int  # of it, along H
    counts: bool  # its range does; that of a router does not, as it is never quantised


class _Place(NamedTuple):
    """One norm, and all that reads it."""

    name: str
    norm: nn.Module
    weights: list[_Weight]


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
    channel without activations or weights keeps its factor 1.

    With ``within`` the same is done within an expert, between the up rows and the down columns,
    with ranges of the SwiGLU output of the tokens that chose it: up is linear there. An expert with
    fewer than 32 tokens stays as it is.

    Who reads a norm is seen in a forward pass, not told by names. The logits of some tokens are
    compared before and after; where they differ, everything is put back, exactly.

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
            read by the experts; a module reads the norm whose weights are not known here; the model
            would change. It is as it was before then.

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
    batches = _batches(model, calibration)
    first = next(batches, None)
    if first is None:
        raise ValueError("calibration must give at least one batch of tokens, got none")
    piece = first[:1, :_TRACED]
    with torch.no_grad(), _evaluating(model):
        places = _places(model, piece)
        percentile = settings.percentile if settings.observer == "percentile" else None
        inputs = [Observer(place.name, percentile) for place in places]
        layers = {n: m for n, m in model.named_modules() if type(m) is MoGE and settings.within}
        inner = {n: [Observer(n) for _ in range(len(m.gate))] for n, m in layers.items()}
        with ExitStack() as hooks:
            for place, observer in zip(places, inputs, strict=True):
                hooks.callback(place.norm.register_forward_hook(_watch(observer)).remove)
            for name, layer in layers.items():
                hook = layer.register_forward_hook(_watch_within(inner[name]), with_kwargs=True)
                hooks.callback(hook.remove)
            for batch in _shown(itertools.chain([first], batches), calibration):
                _logits(model, batch)

        # all factors first, then all changes: an error before leaves nothing half done
        exponents = [
            _exponents(seen.ranges(), _range(place.weights), settings.alpha)
            for place, seen in zip(places, inputs, strict=True)
        ]
        exponents_within = {
            name: _exponents_within(layers[name], seen, settings.alpha)
            for name, seen in inner.items()
        }
        before = _logits(model, piece)

        def scale(sign: int) -> None:
            for place, exponent in zip(places, exponents, strict=True):
                _scale(place, sign * exponent)
            for name, exponent in exponents_within.items():
                _scale_within(layers[name], sign * exponent)

        scale(1)
        after = _logits(model, piece)
        # the same bits where a backend is deterministic
        slack = 1e-4 if torch.finfo(before.dtype).eps < 1e-5 else 1e-2
        if not (after - before).abs().max() <= slack * before.abs().max():
            scale(-1)
            raise ValueError(
                f"smoothing would change what {type(model).__name__} computes: something reads the "
                "norm before the experts without a module of its own"
            )
    return [place.name for place in places]


def _check(settings: Smoothing) -> None:
    _checks.choice("observer", settings.observer, OBSERVERS)
    if not 0.0 <= settings.alpha <= 1.0:
        raise ValueError(f"alpha must be in [0, 1], got {settings.alpha}")
    if not 0.0 < settings.percentile <= 100.0:
        raise ValueError(f"percentile must be in (0, 100], got {settings.percentile}")


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


def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    """Of the last token, where a model can be asked for these alone."""
    few = "logits_to_keep" in inspect.signature(model.forward).parameters
    out = model(ids, logits_to_keep=1) if few else model(ids)
    found = out if isinstance(out, Tensor) else getattr(out, "logits", None)
    logits: Tensor = out[0] if found is None else found
    return logits


# -- who reads which norm -------------------------------------------------------------------------


def _of_norm(module: nn.Module) -> bool:
    """A vector of weights, perhaps one of biases, and nothing else."""
    parameters = dict(module.named_parameters())
    return "weight" in parameters and all(
        name in ("weight", "bias") and p.ndim == 1 for name, p in parameters.items()
    )


def _tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    return [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]


def _storage(x: Tensor) -> int:
    """The same for a tensor and its views."""
    return x.untyped_storage().data_ptr()


def _places(model: nn.Module, piece: Tensor) -> list[_Place]:
    """Norms that experts read, with all their readers, from one forward pass."""
    outputs: dict[int, tuple[str, nn.Module]] = {}  # storage -> its norm
    kept: list[Tensor] = []  # so that no other tensor gets such a storage
    inputs: dict[str, Tensor] = {}  # of the norms
    readers: dict[str, dict[str, nn.Module]] = {}  # norm -> its readers

    def written(name: str) -> Any:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            if isinstance(out, Tensor) and args and isinstance(args[0], Tensor):
                kept.append(out)
                outputs[_storage(out)], inputs[name] = (name, module), args[0]

        return hook

    def read(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            for x in _tensors(args, kwargs):
                if _storage(x) in outputs:
                    readers.setdefault(outputs[_storage(x)][0], {})[name] = module

        return hook

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if _of_norm(module):
                hooks.callback(module.register_forward_hook(written(name)).remove)
            elif next(module.parameters(recurse=False), None) is not None:
                hook = module.register_forward_pre_hook(read(name), with_kwargs=True)
                hooks.callback(hook.remove)
        _logits(model, piece)

    places, found = [], set()
    for norm, modules in readers.items():
        experts = {name: m for name, m in modules.items() if _experts(m) is not None}
        if not experts:
            continue
        found |= set(experts)
        module = model.get_submodule(norm)
        _check_norm(norm, module, inputs[norm])
        H = module.get_parameter("weight").shape[0]
        E = max(_experts(m)[0].shape[0] for m in experts.values())  # type: ignore[index]
        weights = {}
        for name, reader in modules.items():
            for weight in _weights(norm, name, reader, H, E):
                weights[id(weight.parameter)] = weight  # tied ones once
        places.append(_Place(norm, module, list(weights.values())))
    missing = [n for n, m in model.named_modules() if _experts(m) is not None and n not in found]
    if missing or not places:
        raise ValueError(
            f"smoothing needs a norm whose output {missing[0] if missing else 'experts'} "
            f"read{'s' if missing else ''}, found none in {type(model).__name__}"
        )
    return places


def _experts(module: nn.Module) -> tuple[Tensor, int] | None:
    """The stacked first matrices of a module of plain experts, and their axis along H."""
    for name in ("w_gate_up", "gate_up_proj", "up_proj"):
        weight = getattr(module, name, None)
        if isinstance(weight, Tensor) and weight.ndim == 3:
            return weight, 1 if getattr(module, "is_transposed", False) else 2
    return None


def _weights(norm: str, name: str, module: nn.Module, H: int, E: int) -> Iterator[_Weight]:
    """Matrices of one reader."""
    known = {n: p for n, p in module.named_parameters(recurse=False) if p.ndim > 1}
    experts = _experts(module)
    if type(module) is MoGE:
        yield _Weight(module.gate, 1, False)
        if module.shared_gate_up is not None:
            yield _Weight(module.shared_gate_up, 1, True)
    elif experts is None:
        weight = known.get("weight")
        if set(known) != {"weight"} or weight is None or tuple(weight.shape[1:]) != (H,):
            raise ValueError(
                f"{name} reads {norm} too, and smoothing takes MoGE layers, stacked experts, and "
                f"modules with one weight [rows, H={H}], got {type(module).__name__} with "
                f"{ {n: list(p.shape) for n, p in known.items()} }"
            )
        # one with E rows, or 1, is a router or the gate of a shared expert
        yield _Weight(weight, 1, weight.shape[0] not in (E, 1))
    if experts is not None:
        if isinstance(module, MoGE) and type(module) is not MoGE:
            raise ValueError(
                f"{name} must be smoothed before it is split, got {type(module).__name__}"
            )
        yield _Weight(*experts, True)


def _check_norm(name: str, norm: nn.Module, x: Tensor) -> None:
    """Raises ValueError unless the output is a multiple of the parameters."""

    def output() -> Tensor:
        y: Tensor = norm.forward(x)  # past the hooks
        return y

    def scale(factor: float) -> None:
        for parameter in norm.parameters():
            parameter.mul_(factor)

    once = output()
    scale(2.0)
    twice = output()
    scale(0.5)
    if not torch.equal(twice, 2.0 * once):
        raise ValueError(
            f"{name} must be a norm whose output is a multiple of its weight, "
            f"got {type(norm).__name__}"
        )


# -- ranges and factors ---------------------------------------------------------------------------


def _watch(observer: Observer) -> Any:
    def hook(module: nn.Module, args: Any, out: Tensor) -> None:
        observer.update(out.flatten(0, -2))

    return hook


def _watch_within(observers: Sequence[Observer]) -> Any:
    """Observes the SwiGLU outputs of each expert."""

    def hook(layer: MoGE, args: Any, kwargs: Any, out: Any) -> None:
        x = (args[0] if args else kwargs["x"]).flatten(0, -2)  # [T, H]
        gating = out.gating if isinstance(out, MoGEOutput) else layer.router(x)[1]
        for e, observer in enumerate(observers):
            rows = x[(gating.experts == e).any(1)]
            gate, up = F.linear(rows, layer.w_gate_up[e]).chunk(2, -1)  # type: ignore[index]
            observer.update(F.silu(gate) * up)

    return hook


def _range(weights: Iterable[_Weight]) -> Tensor:
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
    assert isinstance(layer.w_down, Tensor)
    weights = torch.linalg.vector_norm(layer.w_down, torch.inf, dim=1).float()
    seen = torch.zeros_like(weights)
    for e, observer in enumerate(observers):
        if observer.rows >= _FEWEST_ROWS:
            seen[e] = observer.ranges()
    return _exponents(seen, weights, alpha)


def _power(exponent: Tensor, like: Tensor) -> Tensor:
    return torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), exponent).to(like)


def _scale(place: _Place, exponent: Tensor) -> None:
    for parameter in place.norm.parameters():
        parameter.mul_(_power(-exponent, parameter))
    for weight, axis, _ in place.weights:
        shape = [1] * weight.ndim
        shape[axis] = -1
        weight.mul_(_power(exponent, weight).view(shape))


def _scale_within(layer: MoGE, exponent: Tensor) -> None:
    gate_up, down = layer.w_gate_up, layer.w_down
    assert isinstance(gate_up, Tensor)
    assert isinstance(down, Tensor)
    up = torch.unflatten(gate_up, 1, (2, -1))[:, 1]  # [E, F, H]
    up.mul_(_power(-exponent, up).unsqueeze(2))
    down.mul_(_power(exponent, down).unsqueeze(1))
