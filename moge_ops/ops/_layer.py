"""What the fused expert layer counts, checks, and does in parts."""

from typing import Any

from torch import Tensor

from moge_ops import _checks, _quantized
from moge_ops._quantized import INTEGERS, QuantizedWeight
from moge_ops.ops._activation import LAYOUTS, SWIGLU, Activation, Extras
from moge_ops.ops.grouped_gemm import grouped_gemm
from moge_ops.ops.permute import permute
from moge_ops.ops.route import Routing, routing_specs
from moge_ops.ops.swiglu import swiglu
from moge_ops.ops.unpermute import unpermute
from moge_ops.reference._activation import activate
from moge_ops.reference.grouped_mlp import biased

# place of the activation's first part among the arguments of the quantised operators
QUANTIZED = 16


def flops(N: int, H: int, F: int, halves: int = 2) -> int:
    """Of N rows, dropped ones too, through an expert's three matrices, two without a gate."""
    return 2 * (halves + 1) * N * H * F


def flops_backward(
    N: int, H: int, F: int, need_d_x: bool = True, need_d_w: bool = True, halves: int = 2
) -> int:
    """The gradient of the activation, of gate, up and the input, and of the matrices."""
    return 2 * (1 + halves * need_d_x + (halves + 1) * need_d_w) * N * H * F


def count_flops(*args: Any) -> int:
    _, (_, O, _), (_, H, F), _, _, (T, K), *_ = args
    return flops(T * K, H, F, O // F if F else 2)


def count_flops_backward(*args: Any) -> int:
    _, _, (_, O, _), (_, H, F), _, _, (T, K), _, _, need_d_x, need_d_w, *_ = args
    return flops_backward(T * K, H, F, need_d_x, need_d_w, O // F if F else 2)


def count_quantized_flops(*args: Any) -> int:
    (_, H), (_, O, *_), *_ = args
    T, K = args[7]
    halves = 2 if all(args[QUANTIZED + 1 : QUANTIZED + 2]) else 1  # defaults are left out
    return flops(T * K, H, O // halves, halves)


def count_quantized_flops_backward(*args: Any) -> int:
    (_, H), (_, O, *_), *_ = args
    T, K = args[7]
    halves = 2 if all(args[QUANTIZED + 1 : QUANTIZED + 2]) else 1  # defaults are left out
    return flops_backward(T * K, H, O // halves, args[15], need_d_w=False, halves=halves)


def absent(like: Tensor) -> Tensor:
    """A gradient that nobody needs."""
    return like.new_empty(0)


def bias_gradients(
    like: Tensor, E: int, O: int, H: int, series: Tensor | None, need_d_b: bool, need_series: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Empty ``d_b_gate_up [E, O], d_b_down [E, H], d_series [2, n]``, or nothing."""
    return (
        like.new_empty(E, O) if need_d_b else absent(like),
        like.new_empty(E, H) if need_d_b else absent(like),
        absent(like) if series is None else series.new_empty(series.shape if need_series else 0),
    )


def no_padding(sizes: dict[str, int]) -> None:
    if sizes["N"] != sizes["T"] * sizes["K"]:
        raise ValueError(
            "routing must have no padded rows, which this operator does not need: N = T * K = "
            f"{sizes['T'] * sizes['K']}, got {sizes['N']}"
        )


def check_quantized(
    x: Tensor,
    w_gate_up: Tensor | QuantizedWeight,
    w_down: Tensor | QuantizedWeight,
    weights: Tensor,
    routing: Routing,
    extras: Extras,
) -> None:
    """Raises what :func:`moge_ops.grouped_mlp` says where one weight or both are quantised."""
    layouts = LAYOUTS[extras.activation.gated]
    plain = []
    for name, w in (("w_down", w_down), ("w_gate_up", w_gate_up)):
        if isinstance(w, QuantizedWeight):
            _quantized.check(name, w)
        else:
            plain.append((name, *_checks.autocast(w), layouts[name], _checks.SAME))
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
    O = 2 * F if extras.activation.gated else F
    for name, w, got, shape in (
        ("w_down", w_down, down, (E, H, F)),
        ("w_gate_up", w_gate_up, up, (E, O, H)),
    ):
        device = w.data.device if isinstance(w, QuantizedWeight) else w.device
        if got != shape or device != x.device:
            raise ValueError(
                f"{name} must be {layouts[name]} = {list(shape)} on {x.device}, "
                f"got {list(got)} on {device}"
            )
    for name, b, size in (("b_gate_up", extras.b_gate_up, O), ("b_down", extras.b_down, H)):
        if b is not None:
            _checks.shape(name, b, layouts.get(name, "[E, H]"), (E, size))
    _checks.tensors(("x", x, "[T, H]", _checks.FLOATS), *extras.specs(_checks.SAME))
    no_padding(sizes)


def applied(pre: Tensor, activation: Activation, series: Tensor | None = None) -> Tensor:
    """``[N, O] -> [N, F]``, the activation alone."""
    if activation == SWIGLU and series is None:
        return swiglu(pre)
    return activate(pre, *activation, series=series)


def part_by_part(
    x: Tensor,
    w_gate_up: Tensor | QuantizedWeight,
    w_down: Tensor | QuantizedWeight,
    weights: Tensor,
    routing: Routing,
    weight_on: str,
    extras: Extras,
) -> Tensor:
    """The layer from its parts, for weights of two kinds."""
    pre = grouped_gemm(permute(x, routing), w_gate_up, routing.offsets)
    pre = biased(pre, extras.b_gate_up, routing.offsets)
    act = applied(pre, extras.activation, extras.series)
    integers = isinstance(w_down, QuantizedWeight) and w_down.scheme in INTEGERS
    late = weight_on == "output" or integers
    if not late:
        of_rows = permute(
            weights.reshape(-1, 1),
            routing._replace(slot_to_row=routing.slot_to_row.view(-1, 1)),
        )
        act = act * of_rows.to(act.dtype)
    out = biased(grouped_gemm(act, w_down, routing.offsets), extras.b_down, routing.offsets)
    return unpermute(out, routing, weights if late else None)
