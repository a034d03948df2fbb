"""Bad arguments: a TypeError or ValueError that names one, with what was expected and what came.

A call that is not refused is right only where its arguments may be valid.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

import moge_ops
from moge_ops import _backend, testing
from moge_ops.ops.grouped_gate import SCORES

Case = dict[str, Any]
Arguments = dict[str, Any]


def routing() -> Arguments:
    found = moge_ops.route(torch.tensor([[0, 2], [1, 3], [3, 3]]), 4)
    return {f"routing.{name}": x for name, x in found._asdict().items()}


def with_routing(call: Callable[..., Any]) -> Callable[..., Any]:
    """Takes the three tensors of a routing as arguments of their own."""

    def called(**arguments: Any) -> Any:
        parts = {n: arguments.pop(f"routing.{n}") for n in moge_ops.Routing._fields}
        return call(**{"routing": moge_ops.Routing(**parts), **arguments})

    return called


def layer(**attributes: Any) -> moge_ops.nn.MoGE:
    made = moge_ops.nn.MoGE(8, 4, 4, 2, num_voted=1)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def forward(x: Any, row_mask: Any, **attributes: Any) -> Any:
    try:
        made = layer(**attributes)
    except TypeError as error:  # torch's own, for a buffer that is no tensor
        raise TypeError(f"{error}, got") from error
    return made(x, row_mask=row_mask)


class Op(NamedTuple):
    call: Callable[..., Any]
    good: Callable[[], Arguments]
    optional: tuple[str, ...] = ()  # may be None


ON = torch.ones(4, dtype=torch.bool)


def gate(call: Callable[..., Any]) -> Op:
    return Op(
        call,
        lambda: {
            "logits": torch.randn(3, 4),
            "num_groups": 2,
            "k": 1,
            "score": "softmax",
            "bias": torch.zeros(4),
            "router_scale": torch.ones(4),
            "renormalize": False,
            "scaling": 1.0,
            "expert_mask": ON.clone(),
            "num_voted": 1,
            "row_mask": ON[:3].clone(),
            "experts": torch.zeros(3, 2, dtype=torch.int32),
        },
        ("bias", "router_scale", "expert_mask", "row_mask", "num_voted", "experts"),
    )


OPS = {
    "grouped_gate": gate(moge_ops.grouped_gate),
    "gate_and_route": gate(moge_ops.gate_and_route),
    "route": Op(
        moge_ops.route,
        lambda: {"experts": torch.tensor([[0, 2], [1, 3]]), "num_experts": 4, "num_groups": 2},
        ("num_groups",),
    ),
    "permute": Op(
        with_routing(moge_ops.permute),
        lambda: {"x": torch.randn(3, 8), "routing": None, **routing()},
    ),
    "unpermute": Op(
        with_routing(moge_ops.unpermute),
        lambda: {
            "rows": torch.randn(6, 8),
            "routing": None,
            **routing(),
            "weights": torch.ones(3, 2),
        },
        ("weights",),
    ),
    "grouped_gemm": Op(
        moge_ops.grouped_gemm,
        lambda: {
            "rows": torch.randn(4, 8),
            "weight": torch.randn(2, 4, 8),
            "offsets": torch.tensor([0, 1, 4]).int(),
        },
    ),
    "swiglu": Op(moge_ops.swiglu, lambda: {"gate_up": torch.randn(3, 8)}),
    "grouped_mlp": Op(
        with_routing(moge_ops.grouped_mlp),
        lambda: {
            "x": torch.randn(3, 8),
            "w_gate_up": torch.randn(4, 12, 8),
            "w_down": torch.randn(4, 8, 6),
            "weights": torch.ones(3, 2),
            "routing": None,
            **routing(),
            "weight_on": "output",
        },
    ),
    "load_balance_loss": Op(
        moge_ops.load_balance_loss,
        lambda: {
            "logits": torch.randn(3, 4),
            "experts": torch.tensor([[0, 2], [1, 3], [3, 3]]),
            "score": "softmax",
        },
    ),
    "load_balance_loss_from_probs": Op(
        moge_ops.load_balance_loss_from_probs,
        lambda: {"probs": torch.rand(3, 4), "counts": torch.tensor([3, 0, 1, 2])},
    ),
    "router_z_loss": Op(moge_ops.router_z_loss, lambda: {"logits": torch.randn(3, 4)}),
    "nn.MoGE": Op(
        lambda **sizes: moge_ops.nn.MoGE(**sizes)(torch.randn(3, sizes["hidden_size"])),
        lambda: {
            "hidden_size": 8,
            "expert_size": 4,
            "num_experts": 4,
            "num_groups": 2,
            "k": 1,
            "shared_size": 2,
            "score": "softmax",
            "renormalize": False,
            "scaling": 1.0,
            "num_voted": 1,
            "weight_on": "output",
        },
        ("num_voted",),
    ),
    "nn.MoGE.forward": Op(
        forward,
        lambda: {
            "x": torch.randn(3, 8),
            "row_mask": ON[:3].clone(),
            "expert_mask": ON.clone(),
            "num_voted": 1,
            "scaling": 1.0,
            "score": "softmax",
        },
        ("row_mask", "expert_mask", "num_voted"),
    ),
}

VALUES: list[Any] = [
    *(None, True, False, 0, 1, 2, 3, -1, 10**12, 2**63, 10**30, -(10**30), 1.0, 0.5, -1e300),
    *("", *SCORES, "output", "x" * 99, [], [1], [[1.0, 2.0], [3.0, 4.0]], {"a": 1}),
    *({"float": "nan"}, {"float": "inf"}, {"array": [1.0, 2.0]}, {"number": 2}, {"tensor": 2}),
    *({"tensor": 1.5}, {"bytes": "softmax"}, {"complex": 1}),
]


def decode(value: Any) -> Any:
    """What a value of VALUES stands for: JSON has no NaN, no array, no bytes."""
    if not isinstance(value, dict):
        return value
    ((kind, of),) = value.items()
    made = {
        "float": float,
        "array": np.array,
        "number": np.int64,
        "tensor": torch.tensor,
        "bytes": str.encode,
        "complex": complex,
    }
    return made[kind](of) if kind in made else value


def resized(x: Tensor) -> Tensor:
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


class Sub(Tensor):
    """A subclass of no meaning."""


FLOATS = ("float16", "bfloat16", "float64", "float32")
INTEGERS = ("int32", "int64")
REFUSED = ("complex64", "complex128", "uint8", "int8", "int16", "float8_e4m3fn", "uint32")
AS: dict[str, Callable[[Tensor], Any]] = {
    **{
        name: lambda x, name=name: x.to(getattr(torch, name))
        for name in (*FLOATS, *INTEGERS, *REFUSED, "bool")
    },
    "list": lambda x: x.tolist(),
    "tuple": tuple,
    "numpy": lambda x: x.numpy(),
    "sparse": lambda x: x.to_sparse(),
    "csr": lambda x: x.to_sparse_csr(),
    "csc": lambda x: x.to_sparse_csc(),
    "bsr": lambda x: x.to_sparse_bsr((1, 1)),
    "mkldnn": lambda x: x.to_mkldnn(),
    "nested": lambda x: torch.nested.nested_tensor(list(x.unbind())),
    "jagged": lambda x: torch.nested.nested_tensor(list(x.unbind()), layout=torch.jagged),
    "quantized": lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8),
    "meta": lambda x: x.to("meta"),
    "resized": resized,
    "subclass": lambda x: x.as_subclass(Sub),
    "negative view": lambda x: None if x.dtype is torch.bool else torch._neg_view(x),
    "gradient": lambda x: x.requires_grad_(),
    "more dimensions": lambda x: x.unsqueeze(0),
    "many dimensions": lambda x: x.view(*x.shape, *[1] * 20),
    "fewer dimensions": lambda x: x[0],
    "no dimensions": lambda x: x.flatten()[0],
    "empty": lambda x: x[:0],
    "no columns": lambda x: x[..., :0],
    "longer": lambda x: torch.cat([x, x]),
    "wider": lambda x: torch.cat([x, x], -1),
    "one wider": lambda x: torch.cat([x, x[..., :1]], -1),
    "shorter": lambda x: x[:-1],
    "narrower": lambda x: x[..., :-1],
    "turned": lambda x: x.mT if x.ndim > 1 else x.flip(0),
    "nan": lambda x: torch.full_like(x, math.nan),
    "falling": lambda x: x.flip(0),
    "above": lambda x: x + 1000,
    "below": lambda x: x - 1000,
    "all -1": lambda x: torch.full_like(x, -1),
    "lowest": lambda x: torch.full_like(x, torch.iinfo(x.dtype).min),
    "highest": lambda x: torch.full_like(x, torch.iinfo(x.dtype).max),
    "past int32": lambda x: x[:1, :1].expand(2**16, 2**16),
}
NO_STRIDES = ("sparse", "csr", "csc", "bsr", "mkldnn", "nested", "jagged", "quantized", "resized")
NO_TENSOR = ("list", "tuple", "numpy")
ALONE = (*NO_STRIDES, *NO_TENSOR, *REFUSED)
CONTENTS = ("falling", "above", "below", "all -1", "lowest", "highest")


def may_be_valid(op: str, name: str, value: Any, how: list[Any], backend: str) -> bool:
    """Whether a call with this argument may succeed."""
    good, kind = OPS[op].good(), how[1]
    was = good[name]
    if value is None:
        return name in OPS[op].optional
    if how[0] == "is":
        if name in ("score", "weight_on"):
            return kind in {"score": SCORES, "weight_on": ("output",)}[name]
        if name == "renormalize":
            return isinstance(value, bool)
        if name == "scaling":
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            return is_number and abs(value) < math.inf
        if type(was) is int:
            return type(value) is int and value >= (name != "shared_size")
        return isinstance(value, Tensor) and name == "x" and value.ndim > 0
    if kind in ALONE or (kind == "past int32" and name != "counts"):
        return False
    if kind in FLOATS:
        return was.is_floating_point() or name == "counts"
    if kind in INTEGERS:
        return not was.is_floating_point() and (was.dtype is not torch.bool)
    if kind == "bool":
        return was.dtype is torch.bool
    if kind == "meta":
        return sum(isinstance(x, Tensor) for x in good.values()) == 1
    if kind in ("more dimensions", "many dimensions", "fewer dimensions", "no dimensions"):
        return name in ("x", "row_mask") and op == "nn.MoGE.forward" and kind != "no dimensions"
    if kind in (*CONTENTS, "turned") and name == "offsets":
        return backend not in ("torch", "reference")  # the others do not look
    return True


@st.composite
def cases(draw: st.DrawFn, backend: str = "torch") -> Case:
    """A call with one or two bad arguments."""
    op = draw(st.sampled_from(sorted(OPS)))
    good = OPS[op].good()
    changes = {}
    for name in draw(st.lists(st.sampled_from(sorted(good)), min_size=1, max_size=2, unique=True)):
        kinds = list(AS) if isinstance(good[name], Tensor) else []
        if kinds and draw(st.integers(0, 3)):
            changes[name] = ["as", draw(st.sampled_from(kinds))]
        else:
            changes[name] = ["is", draw(st.sampled_from(VALUES))]
    return {"op": op, "changes": changes}


def change(arguments: Arguments, changes: dict[str, Any]) -> bool:
    """Replaces arguments; false where a change does not apply to its argument."""
    for name, (way, kind) in changes.items():
        if way == "is":
            arguments[name] = decode(kind)
            continue
        content = kind in (*CONTENTS, "turned", "negative view")
        if (name.startswith("routing.") and content) or (
            kind == "past int32" and name != "experts"
        ):
            return False  # a routing that route did not make, and what fills the memory
        try:
            changed = AS[kind](arguments[name])
        except Exception:  # no such tensor, as a sparse one in three dimensions
            return False
        if changed is None:
            return False
        arguments[name] = changed
    return True


def judge(case: Case, message: str, said: str, launched: bool) -> None:
    """Whether a message names an argument and what came, before any launch.

    A size that does not fit may be told of the argument that it does not fit; what is wrong in
    itself must be told of itself.
    """
    # launchers themselves look at offsets, and know what dtypes a chip has
    late = message.startswith("offsets must rise") or "for the Ascend C kernels" in message
    assert late or not launched, f"{said}: was refused after a launch: {message}"
    changes = case["changes"]
    names = [name for name, (way, kind) in changes.items() if way == "is" or kind in ALONE]
    if len(names) < len(changes):
        names = ["router_scale", *OPS[case["op"]].good()]
    names = [part for name in names for part in (name, *name.split("."))]
    named = re.search(rf"\b({'|'.join(map(re.escape, names))})\b", message)
    assert named, f"{said}: the message must name {' or '.join(names)}: {message}"
    assert "got" in message, f"{said}: the message does not say what came: {message}"


def check(case: Case, backend: str = "torch") -> None:
    """The call is refused as it should be, or may succeed and does."""
    op = case["op"]
    arguments = OPS[op].good()
    if not change(arguments, case["changes"]):
        return
    if "routing" in arguments and "routing" not in case["changes"]:
        del arguments["routing"]
    tensors = [x for x in arguments.values() if isinstance(x, Tensor)]
    all_meta = bool(tensors) and all(x.is_meta for x in tensors)  # then they do agree
    valid = [
        may_be_valid(op, name, arguments[name], how, backend) or (how[1] == "meta" and all_meta)
        for name, how in case["changes"].items()
    ]
    said = f"{op}({json.dumps(case['changes'])})"
    launch = mock.patch.object(_backend, "_launch_context", wraps=_backend._launch_context)
    with testing.backend(backend), launch as launched:
        try:
            OPS[op].call(**arguments)
        except (TypeError, ValueError) as error:
            judge(case, str(error), said, launched.called)
            return
        except (RuntimeError, MemoryError) as error:
            if "allocate" in str(error) or isinstance(error, MemoryError):
                return  # a size that is a size, but of more than there is
            raise
    assert all(valid), f"{said}: was not refused"
