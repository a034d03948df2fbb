"""The fused expert layer: gather, two grouped products with SwiGLU between, weighted sum."""

from typing import Any

import torch
from torch import Tensor

from moge_ops import _backend, _checks, _quantized
from moge_ops._quantized import INTEGERS, QuantizedWeight
from moge_ops.ops.grouped_gemm import grouped_gemm
from moge_ops.ops.permute import permute
from moge_ops.ops.route import Routing, routing_specs
from moge_ops.ops.swiglu import swiglu
from moge_ops.ops.unpermute import unpermute
from moge_ops.reference.grouped_mlp import grouped_mlp as _reference

WEIGHT_ON = ("output", "activation")


def flops(N: int, H: int, F: int) -> int:
    """Of N rows, dropped ones too, through an expert's three matrices."""
    return 6 * N * H * F


def flops_backward(N: int, H: int, F: int, need_d_x: bool = True, need_d_w: bool = True) -> int:
    """The gradient of the activation, of gate, up and the input, and of three matrices."""
    return (2 + 4 * need_d_x + 6 * need_d_w) * N * H * F


def _flops(*args: Any) -> int:
    _, _, (_, H, F), _, _, (T, K), *_ = args
    return flops(T * K, H, F)


def _flops_backward(*args: Any) -> int:
    _, _, _, (_, H, F), _, _, (T, K), *_, need_d_x, need_d_w = args
    return flops_backward(T * K, H, F, need_d_x, need_d_w)


@_backend.define(flops=_flops_backward)
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``d_y [T, H] -> d_x, d_w_gate_up, d_w_down, d_weights``; empty where not needed."""
    return (
        x.new_empty(x.shape if need_d_x else (0, x.shape[1])),
        w_gate_up.new_empty(w_gate_up.shape if need_d_w else 0),
        w_down.new_empty(w_down.shape if need_d_w else 0),
        weights.new_empty(weights.shape),
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
    )


def _backward(ctx: Any, d_y: Tensor | None, d_pre: None) -> dict[str, Tensor]:
    if d_y is None:
        return {}
    needs = ctx.needs
    x, w_gate_up, w_down, weights, row_to_slot, slot_to_row, offsets, pre = ctx.saved_tensors
    found = grouped_mlp_bwd(
        d_y,
        x,
        w_gate_up,
        w_down,
        weights,
        row_to_slot,
        slot_to_row,
        offsets,
        pre,
        needs.x,
        needs.w_gate_up or needs.w_down,
    )
    gradients = dict(zip(("x", "w_gate_up", "w_down", "weights"), found, strict=True))
    return {name: d for name, d in gradients.items() if getattr(needs, name)}


@_backend.define(save=_save, backward=_backward, flops=_flops)
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
) -> tuple[Tensor, Tensor]:
    """``x [T, H] -> y [T, H], pre-activation [N, 2F]``, the latter empty unless ``save``."""
    N = row_to_slot.shape[0] if save else 0
    return x.new_empty(x.shape), x.new_empty(N, w_gate_up.shape[1])


def _quantized_flops(*args: Any) -> int:
    (_, H), (_, O, *_), *_ = args
    T, K = args[7]
    return flops(T * K, H, O // 2)


def _quantized_flops_backward(*args: Any) -> int:
    (_, H), (_, O, *_), *_ = args
    T, K = args[7]
    return flops_backward(T * K, H, O // 2, args[-1], need_d_w=False)


@_backend.define(flops=_quantized_flops_backward)
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
) -> tuple[Tensor, Tensor]:
    """``d_y [T, H] -> d_x [T, H], d_weights [T, K]``; the former empty where not needed."""
    T, H = d_y.shape
    return d_y.new_empty(T if need_d_x else 0, H), weights.new_empty(weights.shape)


def _quantized_save(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
    _, pre = output
    ctx.mark_non_differentiable(pre)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[1:11], pre)
    ctx.fixed = (inputs.scheme, inputs.gate_up_group, inputs.down_group)


def _quantized_backward(ctx: Any, d_y: Tensor | None, d_pre: None) -> dict[str, Tensor]:
    if d_y is None:
        return {}
    arguments: list[Any] = [d_y, *ctx.saved_tensors, *ctx.fixed, ctx.needs.x]
    found = grouped_mlp_quantized_bwd(*arguments)
    gradients = dict(zip(("x", "weights"), found, strict=True))
    return {name: d for name, d in gradients.items() if getattr(ctx.needs, name)}


@_backend.define(save=_quantized_save, backward=_quantized_backward, flops=_quantized_flops)
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
) -> Tensor:
    (x,) = _checks.autocast(x)
    plain = []
    for name, w in (("w_down", w_down), ("w_gate_up", w_gate_up)):
        if isinstance(w, QuantizedWeight):
            _quantized.check(name, w)
        else:
            plain.append((name, *_checks.autocast(w), _LAYOUTS[name], _checks.SAME))
    sizes = _checks.tensors(
        ("x", x, "[T, H]", _checks.FLOATS),
        *plain,
        *routing_specs(routing),
        ("weights", weights, "[T, K]", _checks.FLOATS),
    )
    up, down = (
        _quantized.sizes(w) if isinstance(w, QuantizedWeight) else tuple(w.shape)
        for w in (w_gate_up, w_down)
    )
    H, E, F = sizes["H"], sizes["E"], down[2]
    for name, w, got, shape in (
        ("w_down", w_down, down, (E, H, F)),
        ("w_gate_up", w_gate_up, up, (E, 2 * F, H)),
    ):
        device = w.data.device if isinstance(w, QuantizedWeight) else w.device
        if got != shape or device != x.device:
            raise ValueError(
                f"{name} must be {_LAYOUTS[name]} = {list(shape)} on {x.device}, "
                f"got {list(got)} on {device}"
            )
    _no_padding(sizes)
    if _backend.use_reference(x):
        return _reference(
            x, w_gate_up, w_down, weights, *routing, weight_on=weight_on, dtype=x.dtype
        )
    if (
        not isinstance(w_down, QuantizedWeight)
        or not isinstance(w_gate_up, QuantizedWeight)
        or w_down.scheme != w_gate_up.scheme
    ):  # part by part
        act = swiglu(grouped_gemm(permute(x, routing), w_gate_up, routing.offsets))
        integers = isinstance(w_down, QuantizedWeight) and w_down.scheme in INTEGERS
        late = weight_on == "output" or integers
        if not late:
            of_rows = permute(
                weights.reshape(-1, 1),
                routing._replace(slot_to_row=routing.slot_to_row.view(-1, 1)),
            )
            act = act * of_rows.to(act.dtype)
        out = grouped_gemm(act, w_down, routing.offsets)
        return unpermute(out, routing, weights if late else None)
    save = torch.is_grad_enabled() and (x.requires_grad or weights.requires_grad)
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
    )
    return y


_LAYOUTS = {"w_gate_up": "[E, 2F, H]", "w_down": "[E, H, F]"}


def _no_padding(sizes: dict[str, int]) -> None:
    if sizes["N"] != sizes["T"] * sizes["K"]:
        raise ValueError(
            "routing must have no padded rows, which this operator does not need: N = T * K = "
            f"{sizes['T'] * sizes['K']}, got {sizes['N']}"
        )


def grouped_mlp(
    x: Tensor,
    w_gate_up: Tensor | QuantizedWeight,
    w_down: Tensor | QuantizedWeight,
    weights: Tensor,
    routing: Routing,
    *,
    weight_on: str = "output",
) -> Tensor:
    r"""Applies each token's experts, SwiGLU MLPs, and sums their weighted outputs.

    .. math:: y_t = \sum_{c=1}^{K} w_{tc}\, D_e\,\bigl(\mathrm{silu}(A_e x_t) \odot B_e x_t\bigr),
        \qquad e = \mathrm{experts}_{tc}

    with :math:`A_e, B_e` the gate and up halves of ``w_gate_up[e]`` and :math:`D_e` =
    ``w_down[e]``. On a GPU: rows are gathered while the first product loads them, SwiGLU is its
    epilogue, and a gather-sum ends the second product. For the backward pass the arguments and the
    pre-activation ``[N, 2F]`` are kept, and nothing else (none of it where no gradient is needed).

    Args:
        x: ``[T, H]``, float16 | bfloat16 | float32 | float64, any strides.
        w_gate_up: ``[E, 2F, H]``, dtype of ``x``, gate half first; or quantised.
        w_down: ``[E, H, F]``, dtype of ``x``; or a :class:`moge_ops.quant.QuantizedWeight`, which
            gets no gradient. With int8_w8a8 and int4_w4a8, x and the activation, rounded to the
            dtype of ``x``, are quantised row by row; gradients are as if they were not, and
            ``weight_on`` makes no difference, as a weight is a factor of its row's scale. For
            int4_w4a8 the cpu, triton and ascend backends unpack the weights to int8 for the call,
            which takes the memory of one layer's int8; the ascend backend's backward pass unpacks
            only some experts at a time. One kernel does all if both weights have one scheme; other
            mixes go part by part.
        weights: ``[T, K]``, any float dtype, as from :func:`moge_ops.grouped_gate`.
        routing: From :func:`moge_ops.route`, without ``pad_to``. Dropped slots add nothing.
        weight_on: ``"output"`` multiplies by the weight after the down projection (the released
            Pangu Pro MoE code), ``"activation"`` before it (vLLM-Ascend): equal in exact
            arithmetic, not in rounding.

    Returns:
        ``[T, H]``, dtype of ``x``; products and the sum over experts accumulate in float32
        (float64 for float64), the sum in column order. Deterministic, forward and backward; the
        host does not wait for the device. Alignment, float32 precision, autocast and what another
        batch may change as in :func:`moge_ops.grouped_gemm`.

    Raises:
        TypeError: A dtype is not one of the above, those of ``x`` and the expert weights differ,
            or ``routing`` is not a :class:`moge_ops.Routing`.
        ValueError: Shapes or devices do not fit, or ``weight_on`` is unknown.

    Source:
        Tang et al. 2025, "Pangu Pro MoE", section 2.1 (arXiv:2505.21411); what is saved follows
        Guo et al. 2025, "SonicMoE" (arXiv:2512.14080).
    """
    if isinstance(w_gate_up, QuantizedWeight) or isinstance(w_down, QuantizedWeight):
        _checks.choice("weight_on", weight_on, WEIGHT_ON)
        return _quantized_mlp(x, w_gate_up, w_down, weights, routing, weight_on)
    up: Tensor
    down: Tensor
    x, up, down = _checks.autocast(x, w_gate_up, w_down)
    sizes = _checks.tensors(
        ("x", x, "[T, H]", _checks.FLOATS),
        ("w_down", down, "[E, H, F]", _checks.SAME),
        ("w_gate_up", up, "[E, 2F, H]", _checks.SAME),
        *routing_specs(routing),
        ("weights", weights, "[T, K]", _checks.FLOATS),
    )
    _no_padding(sizes)
    _checks.choice("weight_on", weight_on, WEIGHT_ON)
    if _backend.use_reference(x):
        return _reference(x, up, down, weights, *routing, weight_on=weight_on)
    save = torch.is_grad_enabled() and (
        x.requires_grad or up.requires_grad or down.requires_grad or weights.requires_grad
    )
    y, _ = grouped_mlp_fwd(x, up, down, weights, *routing, weight_on, save)
    return y
