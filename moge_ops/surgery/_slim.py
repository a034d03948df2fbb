"""Narrower experts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from moge_ops import _checks
from moge_ops.nn import MoGE
from moge_ops.surgery._layers import called, check_plain, owned_layers, put, same_names, tell
from moge_ops.surgery._sensitivity import Sensitivity

__all__ = ["slim_experts"]

MULTIPLE = 16
"""Of the width of an expert. A fractal of the cube unit of an NPU has 16 rows, a panel of the CPU's
kernels 16 columns, and 16 numbers of one byte are the 16 bytes that a descriptor's row has to be a
multiple of; numbers of two bytes need 8."""


@torch.no_grad()
def slim_experts(
    model: nn.Module,
    width: int,
    sensitivity: Mapping[str, Sensitivity],
    *,
    shared_width: int | None = None,
) -> None:
    r"""Narrows every expert of a model to the neurons that matter most.

    Each expert keeps its own ``width`` neurons of the largest score, of equal scores the one before
    the others, in their order: the same rows of the gate half and of the up half of ``w_gate_up``,
    and these columns of ``w_down``. Routers stay as they are, so that a layer chooses as before; it
    computes what it would if the other neurons were zero.

    Weights become new parameters with the ``requires_grad`` of the old ones and without gradients.
    An optimizer or a wrapper that was made before holds the old ones: make it after this.

    Args:
        model: A model with layers of :class:`moge_ops.nn.MoGE`, or one such layer. Its config, or
            that of a model within it, becomes a copy whose ``moe_intermediate_size`` is the width,
            so that it is saved and loaded in the released layout.
        width: New F, at most F. If it is another one, a multiple of 16, so that the tiles of every
            backend stay whole: tiles of an NPU and panels of the CPU's kernels have 16 columns, and
            rows of 16 bytes, one byte each when quantised, load fastest on a GPU.
        sensitivity: Layer -> scores, as from :func:`expert_sensitivity`.
        shared_width: New S of the shared expert, in the same way, and
            ``config.shared_expert_intermediate_size``; None leaves it as wide as it is.

    Raises:
        TypeError: A width is not an int, ``sensitivity`` is no mapping, or scores are no
            :class:`Sensitivity`.
        ValueError: A width is above the present one or no multiple of 16; scores are of other
            layers than the model's, of other sizes or not finite; there is no shared expert to
            narrow; or experts are quantised, offloaded or split over devices. Nothing is changed
            then.

    Source:
        Li et al. 2025, "SlimMoE" (arXiv:2506.18349): all experts stay, and neurons go. Its pruning
        of attention heads is left out.
    """
    layers = owned_layers(model)
    same_names("sensitivity", sensitivity, layers)
    for name, layer in layers.items():
        check_plain(name, layer)
        if not isinstance(sensitivity[name], Sensitivity):
            kind = type(sensitivity[name]).__name__
            raise TypeError(f"sensitivity[{name!r}] must be a Sensitivity, got {kind}")
        E, _, F_ = layer.w_down.shape
        check_width("width", width, F_)
        found, what = sensitivity[name], f"of {called(name)}"
        check_scores(f"sensitivity.experts {what}", found.experts, "[E, F]", (E, F_))
        if shared_width is not None:
            if layer.shared_down is None:
                raise ValueError(
                    f"shared_width must be None, as {called(name)} has no shared expert"
                )
            S = layer.shared_down.shape[1]
            check_width("shared_width", shared_width, S)
            check_scores(f"sensitivity.shared {what}", found.shared, "[S]", (S,))
    tell(model, "moe_intermediate_size", dict.fromkeys(layers, width))
    if shared_width is not None:
        tell(model, "shared_expert_intermediate_size", dict.fromkeys(layers, shared_width))
    for name, layer in layers.items():
        _slim(layer, ("w_gate_up", "w_down"), sensitivity[name].experts, width)
        if shared_width is not None:
            of_shared: Any = sensitivity[name].shared
            _slim(layer, ("shared_gate_up", "shared_down"), of_shared, shared_width)


def check_width(name: str, width: int, most: int) -> None:
    """Checks a new width; raises TypeError, ValueError."""
    _checks.integer(name, width)
    if width != most and (width < 1 or width > most or width % MULTIPLE):
        raise ValueError(
            f"{name} must be a multiple of {MULTIPLE}, so that no tile is cut, and at most the "
            f"present {most}, got {width}"
        )


def check_scores(name: str, scores: Any, layout: str, shape: tuple[int, ...]) -> None:
    """Checks the sizes of scores, and that they are finite; raises TypeError, ValueError."""
    _checks.shape(name, scores, layout, shape)
    if not bool(scores.isfinite().all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity")


def _slim(layer: MoGE, names: tuple[str, str], scores: Tensor, width: int) -> None:
    """Keeps ``width`` neurons of each expert, ``[..., 2F, H]`` and ``[..., H, F]``."""
    if width == scores.shape[-1]:
        return
    up, down = (getattr(layer, name) for name in names)
    order = scores.to(up.device).argsort(dim=-1, descending=True, stable=True)
    index = order[..., :width].sort(-1).values  # [..., width]
    halves = up.view(*up.shape[:-2], 2, -1, up.shape[-1])  # [..., 2, F, H]
    rows = index[..., None, :, None].expand(*halves.shape[:-2], width, halves.shape[-1])
    columns = index[..., None, :].expand(*down.shape[:-1], width)
    put(layer, names[0], halves.gather(-2, rows).flatten(-3, -2))
    put(layer, names[1], down.gather(-1, columns))
