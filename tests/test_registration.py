"""Every operator as torch.library and autograd see it: opcheck, compile, autocast, and more."""

import functools
import inspect
import pkgutil
import re
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.export import Dim
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import moge_ops
from moge_ops import _checks
from moge_ops._backend import BACKENDS, load
from moge_ops.testing import group_ids

Check = Callable[[Any, tuple[Any, ...]], object]

T, H, E, G, k, WIDTH = 6, 24, 8, 4, 1, 16
K = G * k


def ids(device: str) -> Tensor:
    return group_ids(T, E, G, k).to(device)


def routing(device: str) -> moge_ops.Routing:
    return moge_ops.route(ids(device), E, num_groups=G)


def leaf(*shape: int, device: str) -> Tensor:
    return torch.randn(*shape, device=device).requires_grad_()


def mlp_args(device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        leaf(T, H, device=device),
        leaf(E, 2 * WIDTH, H, device=device),
        leaf(E, H, WIDTH, device=device),
        leaf(T, K, device=device),
    )


def raw_calls(device: str) -> dict[str, tuple[Any, ...]]:
    """Operator -> arguments of one call, for every operator in the ``moge_ops`` namespace."""
    r = routing(device)
    x, w_gate_up, w_down, weights = mlp_args(device)
    rows = leaf(T * K, H, device=device)
    d_rows = torch.randn(T * K, H, device=device)
    logits, d_y = leaf(T, E, device=device), torch.randn(T, H, device=device)
    scale = leaf(E, device=device)
    pre = torch.randn(T * K, 2 * WIDTH, device=device)
    plain = [t.detach() for t in (x, w_gate_up, w_down, weights)]
    up, down = (moge_ops.quant.quantize(w, "int8_w8a8") for w in plain[1:3])
    return {
        "grouped_gate": (logits, G, k, "softmax", None, scale, True, 2.0, None),
        "grouped_gate_and_route": (logits, G, k, "softmax", None, scale, True, 2.0, None),
        "grouped_gate_bwd": (
            torch.randn(T, K, device=device),
            logits.detach(),
            ids(device),
            G,
            "softmax",
            scale.detach(),
            True,
            2.0,
            False,
        ),
        "route": (ids(device), E, G),
        "permute": (x, r.row_to_slot, r.slot_to_row),
        "unpermute": (rows, r.row_to_slot, r.slot_to_row, weights),
        "unpermute_bwd": (
            d_y,
            rows.detach(),
            r.row_to_slot,
            r.slot_to_row,
            weights.detach(),
        ),
        "grouped_gemm": (rows, w_gate_up, r.offsets),
        "grouped_gemm_dx": (pre, w_gate_up.detach(), r.offsets),
        "grouped_gemm_dw": (pre, d_rows, r.offsets),
        "swiglu": (leaf(5, 2 * WIDTH, device=device),),
        "swiglu_bwd": (
            torch.randn(5, WIDTH, device=device),
            torch.randn(5, 2 * WIDTH, device=device),
        ),
        "grouped_mlp": (x, w_gate_up, w_down, weights, *r, "output", True),
        "grouped_mlp_bwd": (d_y, *plain, *r, pre, True, True),
        "grouped_gemm_quantized": (rows, *up[:3], r.offsets, *up[3:]),
        "grouped_gemm_quantized_dx": (pre, *up[:3], r.offsets, *up[3:], H),
        "grouped_mlp_quantized": (
            *(x, *up[:3], *down[:3], weights, *r, "int8_w8a8", None, None, "output", True),
        ),
        "grouped_mlp_quantized_bwd": (
            *(d_y, *up[:3], *down[:3], plain[3], *r, pre, "int8_w8a8", None, None, True),
        ),
        "load_balance_loss": (logits, ids(device), "softmax"),
        "load_balance_loss_bwd": (
            torch.ones((), device=device),
            logits.detach(),
            torch.rand(E, device=device),
            "softmax",
        ),
    }


OPS = sorted(
    name.removeprefix("moge_ops::").removesuffix(".default")
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("moge_ops::")
)


STEMS = [m.name for m in pkgutil.iter_modules(moge_ops.ops.__path__) if m.name[0] != "_"]


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"])
@pytest.mark.parametrize("op", OPS)
def test_every_backend_has_the_declared_launcher(op: str, backend: str) -> None:
    home = max((stem for stem in STEMS if op.startswith(stem)), key=len)
    launcher = op if op.endswith(("_bwd", "_dx", "_dw")) else f"{op}_fwd"
    if op == "grouped_gate_and_route" and backend != "ascend":
        assert not hasattr(load(backend, home), launcher)  # the two operators, one by one
        return
    declared = getattr(torch.ops.moge_ops, op).default._schema.arguments
    found = inspect.signature(getattr(load(backend, home), launcher)).parameters
    assert list(found) == [argument.name for argument in declared]


def test_every_operator_is_in_the_table() -> None:
    assert sorted(raw_calls("cpu")) == OPS


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("op", OPS)
def test_opcheck(op: str, device: str, opcheck: Check) -> None:
    opcheck(getattr(torch.ops.moge_ops, op), raw_calls(device)[op])


@pytest.mark.slow_on("triton")
def test_opcheck_of_a_choice_that_is_given(device: str, opcheck: Check) -> None:
    given = ids(device).flip(1)
    forward = (*raw_calls(device)["grouped_gate"][:-1], given)
    opcheck(torch.ops.moge_ops.grouped_gate, forward)
    d_weights, logits, _, *rest, _ = raw_calls(device)["grouped_gate_bwd"]
    backward = (d_weights, logits, given, *rest, True)
    opcheck(torch.ops.moge_ops.grouped_gate_bwd, backward)


def scattered(x: Tensor) -> Tensor:
    """``x`` in every second element of a larger memory, its first dimension last there."""
    if not x.ndim:
        return x
    turned = x.movedim(0, -1)
    memory = x.new_empty(*turned.shape[:-1], 2 * turned.shape[-1])
    return memory[..., 1::2].copy_(turned).movedim(-1, 0)


def repeated(x: Tensor) -> Tensor:
    """The first of ``x`` in all places, with a stride of zero."""
    return x[:1].expand_as(x) if x.ndim else x


@pytest.mark.slow_on("triton")
@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")  # masked elements are computed too
@pytest.mark.parametrize("op", OPS)
def test_any_strides(op: str, device: str) -> None:
    call = getattr(torch.ops.moge_ops, op)
    args = [a.detach() if isinstance(a, Tensor) else a for a in raw_calls(device)[op]]

    def run(layout: Callable[[Tensor], Tensor]) -> Any:
        return call(*(layout(a) if isinstance(a, Tensor) else a for a in args))

    close = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4, equal_nan=True)
    close(run(scattered), run(torch.clone))
    close(run(repeated), run(lambda x: repeated(x).contiguous()))


def public_calls(device: str) -> dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]]:
    """Operator -> a function of differentiable tensors, and those tensors."""
    r = routing(device)
    x, w_gate_up, w_down, weights = mlp_args(device)
    quantized = [moge_ops.quant.quantize(w, "int8_w8a8") for w in (w_gate_up, w_down)]
    chosen, on = ids(device), torch.arange(E, device=device) % (E // G) > 0
    return {
        "grouped_gate": (
            lambda a, s: moge_ops.grouped_gate(a, G, router_scale=s, renormalize=True).weights,
            (leaf(T, E, device=device), leaf(E, device=device)),
        ),
        "grouped_gate, experts off and votes": (
            lambda a: (
                moge_ops.grouped_gate(
                    a, G, expert_mask=on, num_voted=1, row_mask=torch.ones_like(a[:, 0]).bool()
                ).weights
            ),
            (leaf(T, E, device=device),),
        ),
        "grouped_gate, the choice given": (
            lambda a, s: moge_ops.grouped_gate(a, G, k, router_scale=s, experts=chosen).weights,
            (leaf(T, E, device=device), leaf(E, device=device)),
        ),
        "gate_and_route": (
            lambda a, s: moge_ops.gate_and_route(a, G, router_scale=s, scaling=2.0)[0].weights,
            (leaf(T, E, device=device), leaf(E, device=device)),
        ),
        "route and permute": (
            lambda a: moge_ops.permute(a, moge_ops.route(chosen, E, num_groups=G)),
            (x,),
        ),
        "unpermute": (
            lambda a, w: moge_ops.unpermute(a, r, w),
            (leaf(T * K, H, device=device), weights),
        ),
        "grouped_gemm": (
            lambda a, w: moge_ops.grouped_gemm(a, w, r.offsets),
            (leaf(T * K, H, device=device), w_gate_up),
        ),
        "swiglu": (moge_ops.swiglu, (leaf(5, 2 * WIDTH, device=device),)),
        "grouped_mlp": (
            lambda *a: moge_ops.grouped_mlp(*a, r),  # type: ignore[call-arg, arg-type]
            (x, w_gate_up, w_down, weights),
        ),
        "grouped_gemm, quantised": (
            lambda a: moge_ops.grouped_gemm(a, quantized[0], r.offsets),
            (leaf(T * K, H, device=device),),
        ),
        "grouped_mlp, quantised": (
            lambda x, w: moge_ops.grouped_mlp(x, *quantized, w, r),
            (x, weights),
        ),
        "grouped_mlp, only down quantised": (
            lambda x, up, w: moge_ops.grouped_mlp(x, up, quantized[1], w, r),
            (x, w_gate_up, weights),
        ),
        "load_balance_loss": (
            lambda a: moge_ops.load_balance_loss(a, chosen),
            (leaf(T, E, device=device),),
        ),
    }


PUBLIC = list(public_calls("cpu"))


def test_every_public_operator_is_in_the_table() -> None:
    assert {word for name in PUBLIC for word in re.findall(r"\w+", name)} >= set(STEMS)


def run(f: Callable[..., Tensor], args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    out = f(*args)
    return out, *torch.autograd.grad(out.square().sum(), args)


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("op", PUBLIC)
def test_compiles_whole(op: str, device: str) -> None:
    f, args = public_calls(device)[op]
    torch._dynamo.reset()
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for got, want in zip(run(compiled, args), run(f, args), strict=True):
        assert torch.equal(got, want)


@pytest.mark.slow_on("triton")
def test_compiles_whole_under_autocast(device: str) -> None:
    f, args = public_calls(device)["grouped_mlp"]
    torch._dynamo.reset()
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    with torch.autocast(device, torch.bfloat16):
        got, want = compiled(*args), f(*args)
    assert got.dtype is torch.bfloat16
    assert torch.equal(got, want)


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("op", PUBLIC)
def test_recomputation_gives_the_same_bits_and_shapes(op: str, device: str) -> None:
    f, args = public_calls(device)[op]
    calls = 0

    def counted(*a: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return f(*a)  # type: ignore[no-any-return]

    # checkpoint itself raises where the recomputation saves another shape, dtype or device
    again = run(lambda *a: checkpoint(counted, *a, use_reentrant=False), args)
    assert calls == 2
    assert all(torch.equal(a, b) for a, b in zip(again, run(f, args), strict=True))


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("op", PUBLIC)
def test_a_second_backward_gives_the_same(op: str, device: str) -> None:
    f, args = public_calls(device)[op]
    loss = f(*args).square().sum()
    first = torch.autograd.grad(loss, args, retain_graph=True)
    second = torch.autograd.grad(loss, args)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("op", PUBLIC)
def test_without_grad_mode(op: str, device: str) -> None:
    f, args = public_calls(device)[op]
    with torch.no_grad():
        out = f(*args)
    assert not out.requires_grad
    assert torch.equal(out, f(*args))


@pytest.mark.parametrize("op", PUBLIC)
def test_runs_on_fake_tensors(op: str, device: str) -> None:
    f, args = public_calls(device)[op]
    want = f(*args)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        got = f(*(mode.from_tensor(a) for a in args))
    assert (got.shape, got.dtype, got.device) == (want.shape, want.dtype, want.device)


def layer(device: str, **options: Any) -> moge_ops.nn.MoGE:
    return moge_ops.nn.MoGE(H, WIDTH, E, G, shared_size=8, device=device, **options)


@pytest.mark.slow_on("triton")
def test_the_layer_compiles_whole(device: str) -> None:
    moge, x = layer(device), leaf(2, 3, H, device=device)
    torch._dynamo.reset()
    compiled = torch.compile(moge, fullgraph=True, backend="aot_eager")
    parameters = (x, *moge.parameters())
    got = torch.autograd.grad(compiled(x).square().sum(), parameters)
    want = torch.autograd.grad(moge(x).square().sum(), parameters)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.slow_on("triton")
def test_the_layer_compiles_with_a_changing_number_of_tokens(device: str) -> None:
    moge = layer(device)
    torch._dynamo.reset()
    compiled = torch.compile(moge, fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens in (3, 7, 4):
        x = torch.randn(tokens, H, device=device)
        assert torch.equal(compiled(x), moge(x))


@pytest.mark.skipif(not shutil.which("c++"), reason="inductor needs a C++ compiler")
def test_the_layer_compiles_whole_by_inductor() -> None:
    moge, x = layer("cpu"), leaf(2, 3, H, device="cpu")
    torch._dynamo.reset()
    compiled = torch.compile(moge, fullgraph=True)
    parameters = (x, *moge.parameters())
    got = torch.autograd.grad(compiled(x).square().sum(), parameters)
    want = torch.autograd.grad(moge(x).square().sum(), parameters)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.slow_on("triton")
def test_autocast(device: str) -> None:
    moge, x = layer(device), leaf(5, H, device=device)
    with torch.autocast(device, torch.bfloat16):
        y, _, gating = moge(x, return_routing=True)
        y.float().sum().backward()
    assert y.dtype is torch.bfloat16
    assert gating.weights.dtype is torch.float32  # scores stay in float32
    assert x.grad is not None
    assert all(p.grad is not None and p.grad.dtype is p.dtype for p in moge.parameters())
    half = layer(device, dtype=torch.bfloat16)
    half.load_state_dict(moge.state_dict())
    assert torch.allclose(y, half(x.detach().bfloat16()), rtol=0.05, atol=0.05)


SPECIAL = {
    "sparse_coo": lambda x: x.to_sparse(),
    "sparse_csr": lambda x: x.to_sparse_csr(),
    "mkldnn": lambda x: x.to_mkldnn(),
    "nested": lambda x: torch.nested.nested_tensor([x], layout=torch.strided),
    "jagged": lambda x: torch.nested.nested_tensor([x], layout=torch.jagged),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, of its own prototypes
@pytest.mark.parametrize("kind", SPECIAL)
def test_only_dense_tensors_are_taken(kind: str) -> None:
    x = SPECIAL[kind](torch.randn(3, 2 * H))
    expected = rf"must be a dense Tensor .*, got a {kind.replace('jagged', 'nested')} one"
    for call in (moge_ops.swiglu, lambda x: moge_ops.permute(x, routing("cpu")), layer("cpu")):
        with pytest.raises(TypeError, match=expected):
            call(x)


@pytest.mark.parametrize("offset", [0, 4])
def test_a_tensor_without_its_memory_is_refused(offset: int) -> None:
    x = torch.zeros(3 * H + offset)[offset:].view(3, H)
    x.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"gate_up must have its \[3, 24\] .* got a storage of 0"):
        moge_ops.swiglu(x)
    assert moge_ops.swiglu(torch.zeros(0, 4)).shape == (0, 2)
    assert moge_ops.swiglu(torch.zeros(3, 4, device="meta")).is_meta


@pytest.mark.parametrize("x", [[[1.0] * H], None, 3.0])
def test_the_layer_takes_tensors_only(x: Any) -> None:
    with pytest.raises(TypeError, match=r"x must be a Tensor \[..., H\], got"):
        layer("cpu")(x)
    with pytest.raises(TypeError, match=r"row_mask must be a Tensor \[...\], got list"):
        layer("cpu", num_voted=1)(torch.zeros(3, H), row_mask=[True] * 3)


def test_checks_let_torch_func_through() -> None:
    x = torch.randn(2, 8)
    with moge_ops.testing.backend("reference"):
        d_x = torch.func.grad(lambda x: moge_ops.swiglu(x).sum())(x)
        want = torch.autograd.grad(moge_ops.swiglu(x.requires_grad_()).sum(), x)[0]
    torch.testing.assert_close(d_x, want)
    x = x.detach()
    wrapped = torch.func.functionalize(moge_ops.swiglu)(x)  # its storage has no address
    torch.testing.assert_close(wrapped, moge_ops.swiglu(x))


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "dim", [None, Dim("T"), Dim("T", max=64), Dim.DYNAMIC, Dim.AUTO], ids=lambda dim: str(dim)
)
def test_the_layer_exports(dim: Any, strict: bool) -> None:
    moge = layer("cpu", num_voted=1).eval()
    exported = torch.export.export(
        moge, (torch.randn(3, H),), dynamic_shapes=({0: dim},), strict=strict
    ).module()
    for tokens in (3,) if dim is None else (1, 3, 7):
        x = torch.randn(tokens, H)
        assert torch.equal(exported(x), moge(x))


def test_the_layer_exports_with_two_dimensions_free() -> None:
    moge = layer("cpu").eval()
    free = ({0: Dim("B"), 1: Dim("S")},)
    exported = torch.export.export(moge, (torch.randn(2, 3, H),), dynamic_shapes=free).module()
    x = torch.randn(5, 2, H)
    assert torch.equal(exported(x), moge(x))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_traced_layer_ends_in_one_error() -> None:
    with pytest.raises(RuntimeError, match=r"num_experts must be an int, .* use torch\.export"):
        torch.jit.trace(layer("cpu"), torch.randn(3, H))


def test_what_has_passed_is_not_taken_for_another() -> None:
    x, r = torch.randn(T, H), routing("cpu")
    for _ in range(2):  # the second call finds what the first has passed
        assert moge_ops.permute(x, r).shape == (T * K, H)
    for other, error in (
        (torch.randn(T + 1, H), r"x must be|routing.slot_to_row must be"),
        (x.int(), "x must be float16"),
        (x.to("meta"), "must be on the device of x, meta, got cpu"),
        (x.to_sparse(), "x must be a dense Tensor"),
        (x[0], "x must be"),
    ):
        with pytest.raises((TypeError, ValueError), match=error):
            moge_ops.permute(other, r)
    with pytest.raises(TypeError, match="weight must have the dtype of rows, float32, got float64"):
        moge_ops.grouped_gemm(x, torch.randn(E, 5, H).double(), r.offsets)
    x.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"x must have its .* got a storage of 0 bytes"):
        moge_ops.permute(x, r)


def test_what_has_passed_is_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checks, "_passed", {})
    monkeypatch.setattr(_checks, "MOST_PASSED", 3)
    for rows in range(1, 20):
        assert moge_ops.swiglu(torch.zeros(rows, 4)).shape == (rows, 2)
        assert len(_checks._passed) <= 3


class Doubled(TorchFunctionMode):
    """Twice the result of our operators."""

    def __torch_function__(
        self, f: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = f(*args, **(kwargs or {}))
        return 2.0 * out if "moge_ops" in str(f) else out


def test_who_replaces_an_operator_is_differentiated_too() -> None:
    x = leaf(5, 2 * WIDTH, device="cpu")
    once = torch.autograd.grad(moge_ops.swiglu(x).sum(), x)[0]
    with Doubled():
        y = moge_ops.swiglu(x).sum()
    torch.testing.assert_close(torch.autograd.grad(y, x)[0], 2.0 * once)


def test_samples_of_a_leaf() -> None:
    x = leaf(3, 5, 2 * WIDTH, device="cpu")
    got = torch.autograd.grad(torch.func.vmap(moge_ops.swiglu)(x).square().sum(), x)[0]
    want = torch.autograd.grad(moge_ops.swiglu(x.flatten(0, 1)).square().sum(), x)[0]
    torch.testing.assert_close(got, want)


def test_dynamo_does_not_look_into_a_kernel() -> None:
    @torch._dynamo.disable(recursive=False)
    def eager(x: Tensor) -> Any:  # what it calls may be compiled
        return torch.ops.moge_ops.swiglu(x)

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    x = leaf(5, 2 * WIDTH, device="cpu")
    got = torch.compile(lambda x: eager(x + 1.0), backend="eager")(x)
    assert torch.equal(got, moge_ops.swiglu(x + 1.0))
    # that of the function, and what is left of it after the call
    assert torch._dynamo.utils.counters["frames"]["total"] == 2
