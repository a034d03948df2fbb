"""The fused expert layer: gather, two grouped products with SwiGLU between, weighted sum."""

import inspect
from typing import Any

import torch
from torch import Tensor

from moge_ops import _backend, _checks
from moge_ops._quantized import QuantizedWeight
from moge_ops.ops._activation import LAYOUTS, NAMES, SWIGLU, Activation, Extras, extras_of
from moge_ops.ops._layer import (
    QUANTIZED,
    bias_gradients,
    check_quantized,
    count_flops,
    count_flops_backward,
    count_quantized_flops,
    count_quantized_flops_backward,
    no_padding,
    part_by_part,
)
from moge_ops.ops._layer import (
    flops as flops,
)
from moge_ops.ops._layer import (
    flops_backward as flops_backward,
)
from moge_ops.ops.route import Routing, routing_specs
from moge_ops.reference.grouped_mlp import grouped_mlp as _reference

CHOICES = {"activation": NAMES}


@_backend.define(flops=count_flops_backward, choices=CHOICES)
def grouped_mlp_bwd(
    d_y: Tensor,
    x: Tensor,
    w_gate_up: Tensor,
    w_down: Tensor,
    weights: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    pre: Tensor,
    need_d_x: bool,
    need_d_w: bool,
    activation: str = "silu",
    gated: bool = True,
    interleaved: bool = False,
    alpha: float = 1.0,
    limit: float | None = None,
    shift: float = 0.0,
    b_down: Tensor | None = None,
    series: Tensor | None = None,
    need_d_b: bool = False,
    need_d_series: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``d_y [T, H] -> d_x, d_w_gate_up, d_w_down, d_weights, d_b_gate_up, d_b_down, d_series``.

    Empty where not needed; ``d_b_*`` are of the dtype of x, ``d_series`` is of that of series.
    """
    E, O, H = w_gate_up.shape
    return (
        x.new_empty(x.shape if need_d_x else (0, x.shape[1])),
        w_gate_up.new_empty(w_gate_up.shape if need_d_w else 0),
        w_down.new_empty(w_down.shape if need_d_w else 0),
        weights.new_empty(weights.shape),
        *bias_gradients(x, E, O, H, series, need_d_b, need_d_series),
    )


def _save(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
    _, pre = output
    ctx.mark_non_differentiable(pre)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(
        inputs.x,
        inputs.w_gate_up,
        inputs.w_down,
        inputs.weights,
        inputs.row_to_slot,
        inputs.slot_to_row,
        inputs.offsets,
        pre,
        inputs.b_down,
        inputs.series,
    )
    ctx.activation = inputs[_ACTIVATION:_BIASES]
    ctx.plain = ctx.activation == SWIGLU and all(b is None for b in inputs[_BIASES:])


GRADIENTS = ("x", "w_gate_up", "w_down", "weights", "b_gate_up", "b_down", "series")


def _backward(ctx: Any, d_y: Tensor | None, d_pre: None) -> dict[str, Tensor]:
    if d_y is None:
        return {}
    needs = ctx.needs
    *saved, b_down, series = ctx.saved_tensors
    arguments: list[Any] = [d_y, *saved, needs.x, needs.w_gate_up or needs.w_down]
    if not ctx.plain:
        arguments += [*ctx.activation, b_down, series]
        arguments += [needs.b_gate_up or needs.b_down, needs.series]
    found = grouped_mlp_bwd(*arguments)
    gradients = dict(zip(GRADIENTS, found, strict=True))
    return {name: d for name, d in gradients.items() if getattr(needs, name)}


@_backend.define(save=_save, backward=_backward, flops=count_flops, choices=CHOICES)
def grouped_mlp_fwd(
    x: Tensor,
    w_gate_up: Tensor,
    w_down: Tensor,
    weights: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    weight_on: str,
    save: bool,
    activation: str = "silu",
    gated: bool = True,
    interleaved: bool = False,
    alpha: float = 1.0,
    limit: float | None = None,
    shift: float = 0.0,
    b_gate_up: Tensor | None = None,
    b_down: Tensor | None = None,
    series: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``x [T, H] -> y [T, H], pre-activation [N, 2F]``, the latter empty unless ``save``.

    The pre-activation has the columns of ``w_gate_up``, in its order, and its bias: ``[N, F]``
    without a gate.
    """
    N = row_to_slot.shape[0] if save else 0
    return x.new_empty(x.shape), x.new_empty(N, w_gate_up.shape[1])


# places of the activation's parts, and of what follows them, among the arguments
_ACTIVATION, _BIASES = map(
    [*inspect.signature(grouped_mlp_fwd).parameters].index, ("activation", "b_gate_up")
)


@_backend.define(flops=count_quantized_flops_backward, choices=CHOICES)
def grouped_mlp_quantized_bwd(
    d_y: Tensor,
    gate_up: Tensor,
    gate_up_scale: Tensor,
    gate_up_zero: Tensor | None,
    down: Tensor,
    down_scale: Tensor,
    down_zero: Tensor | None,
    weights: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    pre: Tensor,
    scheme: str,
    gate_up_group: int | None,
    down_group: int | None,
    need_d_x: bool,
    activation: str = "silu",
    gated: bool = True,
    interleaved: bool = False,
    alpha: float = 1.0,
    limit: float | None = None,
    shift: float = 0.0,
    b_down: Tensor | None = None,
    series: Tensor | None = None,
    need_d_b: bool = False,
    need_d_series: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``d_y [T, H] -> d_x [T, H], d_weights [T, K], d_b_gate_up, d_b_down, d_series``.

    Empty where not needed, but for ``d_weights``.
    """
    (T, H), (E, O) = d_y.shape, gate_up.shape[:2]
    return (
        d_y.new_empty(T if need_d_x else 0, H),
        weights.new_empty(weights.shape),
        *bias_gradients(d_y, E, O, H, series, need_d_b, need_d_series),
    )


def _quantized_save(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
    _, pre = output
    ctx.mark_non_differentiable(pre)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[1:11], pre, inputs.b_down, inputs.series)
    ctx.fixed = (inputs.scheme, inputs.gate_up_group, inputs.down_group)
    ctx.activation = inputs[QUANTIZED : QUANTIZED + 6]


def _quantized_backward(ctx: Any, d_y: Tensor | None, d_pre: None) -> dict[str, Tensor]:
    if d_y is None:
        return {}
    needs = ctx.needs
    *saved, b_down, series = ctx.saved_tensors
    arguments: list[Any] = [d_y, *saved, *ctx.fixed, needs.x, *ctx.activation, b_down, series]
    arguments += [needs.b_gate_up or needs.b_down, needs.series]
    found = grouped_mlp_quantized_bwd(*arguments)
    names = ("x", "weights", "b_gate_up", "b_down", "series")
    gradients = dict(zip(names, found, strict=True))
    return {name: d for name, d in gradients.items() if getattr(needs, name)}


@_backend.define(
    save=_quantized_save, backward=_quantized_backward, flops=count_quantized_flops, choices=CHOICES
)
def grouped_mlp_quantized_fwd(
    x: Tensor,
    gate_up: Tensor,
    gate_up_scale: Tensor,
    gate_up_zero: Tensor | None,
    down: Tensor,
    down_scale: Tensor,
    down_zero: Tensor | None,
    weights: Tensor,
    row_to_slot: Tensor,
    slot_to_row: Tensor,
    offsets: Tensor,
    scheme: str,
    gate_up_group: int | None,
    down_group: int | None,
    weight_on: str,
    save: bool,
    activation: str = "silu",
    gated: bool = True,
    interleaved: bool = False,
    alpha: float = 1.0,
    limit: float | None = None,
    shift: float = 0.0,
    b_gate_up: Tensor | None = None,
    b_down: Tensor | None = None,
    series: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``x [T, H] -> y [T, H], pre-activation [N, 2F]``, the latter empty unless ``save``.

    The weights are the data, scales and zero points of two QuantizedWeights of one scheme.
    """
    N = row_to_slot.shape[0] if save else 0
    return x.new_empty(x.shape), x.new_empty(N, gate_up.shape[1])


def _quantized_mlp(
    x: Tensor,
    w_gate_up: Tensor | QuantizedWeight,
    w_down: Tensor | QuantizedWeight,
    weights: Tensor,
    routing: Routing,
    weight_on: str,
    extras: Extras,
) -> Tensor:
    check_quantized(x, w_gate_up, w_down, weights, routing, extras)
    if _backend.use_reference(x):
        options = extras.options()
        return _reference(
            x, w_gate_up, w_down, weights, *routing, weight_on=weight_on, dtype=x.dtype, **options
        )
    if (
        not isinstance(w_down, QuantizedWeight)
        or not isinstance(w_gate_up, QuantizedWeight)
        or w_down.scheme != w_gate_up.scheme
    ):
        return part_by_part(x, w_gate_up, w_down, weights, routing, weight_on, extras)
    save = torch.is_grad_enabled() and (
        x.requires_grad or weights.requires_grad or extras.need_gradient()
    )
    y, _ = grouped_mlp_quantized_fwd(
        x,
        *w_gate_up[:3],
        *w_down[:3],
        weights,
        *routing,
        w_down.scheme,
        w_gate_up.group_size,
        w_down.group_size,
        weight_on,
        save,
        *extras.parts(),
    )
    return y


def grouped_mlp(
    x: Tensor,
    w_gate_up: Tensor | QuantizedWeight,
    w_down: Tensor | QuantizedWeight,
    weights: Tensor,
    routing: Routing,
    *,
    weight_on: str = "output",
    activation: str | Activation = "silu",
    b_gate_up: Tensor | None = None,
    b_down: Tensor | None = None,
    series: Tensor | None = None,
) -> Tensor:
    r"""Applies each token's experts, gated MLPs, and sums their weighted outputs.

    .. math:: y_t = \sum_{c=1}^{K} w_{tc}\, D_e\,\bigl(\mathrm{silu}(A_e x_t) \odot B_e x_t\bigr),
        \qquad e = \mathrm{experts}_{tc}

    with :math:`A_e, B_e` the gate and up halves of ``w_gate_up[e]`` and :math:`D_e` =
    ``w_down[e]``. This is the default, SwiGLU. Other activations, and biases of both products, are
    choices of the same kernels.

    On a GPU rows are gathered while the first product loads them, the activation is its epilogue,
    and a gather-sum ends the second product. For the backward pass the arguments and the
    pre-activation ``[N, 2F]`` are kept, and nothing else (none of it where no gradient is needed).

    Args:
        x: ``[T, H]``, float16 | bfloat16 | float32 | float64, any strides.
        w_gate_up: ``[E, 2F, H]``, dtype of ``x``, gate half first; or quantised.
        w_down: ``[E, H, F]``, dtype of ``x``; or a :class:`moge_ops.quant.QuantizedWeight`, which
            gets no gradient. With int8_w8a8 and int4_w4a8, x and the activation, rounded to the
            dtype of ``x``, are quantised row by row; gradients are as if they were not, and
            ``weight_on`` makes no difference, as a weight is a factor of its row's scale (but
            ``b_down`` needs ``"output"`` there, too). For
            int4_w4a8 the cpu, triton and ascend backends unpack the weights to int8 for the call,
            which takes the memory of one layer's int8; the ascend backend's backward pass unpacks
            only some experts at a time. One kernel does all if both weights have one scheme; other
            mixes go part by part.
        weights: ``[T, K]``, any float dtype, as from :func:`moge_ops.grouped_gate`.
        routing: From :func:`moge_ops.route`, without ``pad_to``. Dropped slots add nothing.
        weight_on: ``"output"`` multiplies by the weight after the down projection (the released
            Pangu Pro MoE code), ``"activation"`` before it (vLLM-Ascend): equal in exact
            arithmetic, not in rounding.
        activation: What stands between the products: an :class:`moge_ops.Activation`, or the name
            of its function, which then has a gate (``Activation("relu2", gated=False)`` has none).
        b_gate_up: ``[E, 2F]``, or ``[E, F]`` without a gate, dtype of ``x``, in the order of the
            rows of ``w_gate_up``. Added to the first product.
        b_down: ``[E, H]``, dtype of ``x``, added to the second product, before the weight; only
            with ``weight_on="output"``.
        series: ``[2, n]``, any float dtype, n from 1 to 8: scales and shifts of the n terms of a
            series of SiLU. One series for all experts and columns; it has a gradient.

    Returns:
        ``[T, H]``, dtype of ``x``; products and the sum over experts accumulate in float32
        (float64 for float64), the sum in column order. Deterministic, forward and backward; the
        host does not wait for the device. Alignment, float32 precision, autocast and what another
        batch may change as in :func:`moge_ops.grouped_gemm`.

    Raises:
        TypeError: A dtype is not one of the above, those of ``x`` and the expert weights differ,
            or ``routing`` is not a :class:`moge_ops.Routing`.
        ValueError: Shapes or devices do not fit, ``weight_on`` or ``activation`` is unknown, or
            options do not go together.

    Source:
        Tang et al. 2025, "Pangu Pro MoE", section 2.1 (arXiv:2505.21411); what is saved follows
        Guo et al. 2025, "SonicMoE" (arXiv:2512.14080). The series: Wang et al. 2023, "PanGu-pi",
        eq. 7 (arXiv:2312.17276). The clamped gate: the released code of GPT-OSS.
    """
    (x,) = _checks.autocast(x)
    extras = extras_of(activation, b_gate_up, b_down, series, weight_on, x)
    if isinstance(w_gate_up, QuantizedWeight) or isinstance(w_down, QuantizedWeight):
        return _quantized_mlp(x, w_gate_up, w_down, weights, routing, weight_on, extras)
    up: Tensor
    down: Tensor
    up, down = _checks.autocast(w_gate_up, w_down)
    layouts = LAYOUTS[extras.activation.gated]
    sizes = _checks.tensors(
        ("x", x, "[T, H]", _checks.FLOATS),
        ("w_down", down, layouts["w_down"], _checks.SAME),
        ("w_gate_up", up, layouts["w_gate_up"], _checks.SAME),
        *extras.specs(_checks.SAME),
        *routing_specs(routing),
        ("weights", weights, "[T, K]", _checks.FLOATS),
    )
    no_padding(sizes)
    if _backend.use_reference(x):
        options = extras.options()
        return _reference(x, up, down, weights, *routing, weight_on=weight_on, **options)
    save = torch.is_grad_enabled() and (
        x.requires_grad
        or up.requires_grad
        or down.requires_grad
        or weights.requires_grad
        or extras.need_gradient()
    )
    y, _ = grouped_mlp_fwd(x, up, down, weights, *routing, weight_on, save, *extras.parts())
    return y
