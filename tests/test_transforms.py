"""Derivatives that kernels do not have: torch.func, forward mode, and both of higher order."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import moge_ops
from moge_ops.testing import group_ids

T, H, E, G, WIDTH = 4, 6, 8, 4, 3
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEP = 1e-6


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, device=DEVICE)


def layer(**options: Any) -> moge_ops.nn.MoGE:
    sizes = {"shared_size": 2, "device": DEVICE, "dtype": torch.float64}
    return moge_ops.nn.MoGE(H, WIDTH, E, G, **sizes, **options)


def calls() -> dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]]:
    """Name -> a function of tensors, and those tensors."""
    ids = group_ids(T, E, G, 1).to(DEVICE)
    some = torch.where(ids % 3 == 0, -1, ids)  # slots are dropped
    routing, partial = (moge_ops.route(i, E, num_groups=G) for i in (ids, some))
    on = torch.arange(E, device=DEVICE) % 2 > 0
    moge, voting = layer(), layer(num_voted=1, score="sigmoid", renormalize=True)
    mlp = (randn(T, H), randn(E, 2 * WIDTH, H), randn(E, H, WIDTH), randn(T, G))

    def gate(a: Tensor, s: Tensor) -> Tensor:
        return moge_ops.grouped_gate(a, G, router_scale=s, renormalize=True).weights

    def chosen(a: Tensor) -> Tensor:
        rows = torch.ones_like(a[:, 0]).bool()
        return moge_ops.grouped_gate(a, G, expert_mask=on, num_voted=1, row_mask=rows).weights

    def expert_layer(*a: Tensor) -> Tensor:
        return moge_ops.grouped_mlp(*a, partial, weight_on="activation")  # type: ignore[arg-type,call-arg,misc]

    return {
        "gate": (gate, (randn(T, E), randn(E))),
        "gate, experts off and votes": (chosen, (randn(T, E),)),
        "gate, the choice given": (
            lambda a, s: moge_ops.grouped_gate(a, G, router_scale=s, experts=some).weights,
            (randn(T, E), randn(E)),
        ),
        "route, permute": (
            lambda a: moge_ops.permute(a, moge_ops.route(some, E, num_groups=G)),
            (randn(T, H),),
        ),
        "unpermute": (
            lambda a, w: moge_ops.unpermute(a, partial, w),
            (randn(T * G, H), randn(T, G)),
        ),
        "grouped_gemm": (
            lambda a, w: moge_ops.grouped_gemm(a, w, partial.offsets),
            (randn(T * G, H), randn(E, WIDTH, H)),
        ),
        "swiglu": (moge_ops.swiglu, (randn(5, 2 * WIDTH),)),
        "grouped_mlp": (lambda *a: moge_ops.grouped_mlp(*a, routing), mlp),  # type: ignore[arg-type,call-arg]
        "grouped_mlp, weight on activation": (expert_layer, mlp),
        "load_balance_loss": (lambda a: moge_ops.load_balance_loss(a, ids), (randn(T, E),)),
        "router_z_loss": (moge_ops.router_z_loss, (randn(T, E),)),
        "layer": (moge, (randn(T, H),)),
        "layer that votes": (voting, (randn(T, H),)),
        "layer, the choice given": (lambda a: moge(a, routing=some), (randn(T, H),)),
    }


NAMES = list(calls())


def gradients(f: Callable[..., Tensor], args: tuple[Tensor, ...], d: Tensor) -> tuple[Tensor, ...]:
    """What autograd gives, through the kernels."""
    leaves = tuple(a.detach().requires_grad_() for a in args)
    return torch.autograd.grad(f(*leaves), leaves, d)


def close(got: Any, want: Any, rtol: float = 1e-9) -> None:
    torch.testing.assert_close(got, want, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", NAMES)
def test_forward_mode(name: str) -> None:
    f, args = calls()[name]
    tangents = tuple(map(torch.randn_like, args))
    ahead, behind = (
        f(*(a + sign * STEP * t for a, t in zip(args, tangents, strict=True))) for sign in (1, -1)
    )
    want = (ahead - behind) / (2 * STEP)
    assert want.norm() > 0.01
    close(jvp(f, args, tangents)[1], want, rtol=1e-6)
    with forward_ad.dual_level():
        out = f(*map(forward_ad.make_dual, args, tangents))
        close(forward_ad.unpack_dual(out).tangent, want, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_reverse_mode(name: str) -> None:
    f, args = calls()[name]
    out, pull = vjp(f, *args)
    d = torch.randn_like(out)
    close(pull(d), gradients(f, args, d))
    every = tuple(range(len(args)))
    close(grad(lambda *a: (f(*a) * d).sum(), every)(*args), gradients(f, args, d))


@pytest.mark.parametrize("name", NAMES)
def test_whole_jacobians(name: str) -> None:
    f, args = calls()[name]
    want = torch.autograd.functional.jacobian(f, args)
    every = tuple(range(len(args)))
    close(jacrev(f, every)(*args), want)
    close(jacfwd(f, every)(*args), want)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_each_sample(name: str) -> None:
    f, args = calls()[name]
    samples = tuple(torch.stack((a, 0.5 * a, -a)) for a in args)
    every = tuple(range(len(args)))
    got = vmap(grad(lambda *a: f(*a).square().sum(), every))(*samples)
    for i, one in enumerate(zip(*samples, strict=True)):
        close(tuple(g[i] for g in got), gradients(f, one, 2.0 * f(*one)))


def test_gradients_of_the_parameters_for_each_sample() -> None:
    moge, x = layer(), randn(3, 2, H)
    parameters = dict(moge.named_parameters())

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        y: Tensor = functional_call(moge, parameters, (x,))
        return y.square().sum()

    got = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for i, sample in enumerate(x):
        want = torch.autograd.grad(loss(parameters, sample), tuple(parameters.values()))
        close([g[i] for g in got.values()], list(want))


def test_second_derivatives() -> None:
    moge, x = layer(), randn(2, H)
    v = torch.randn_like(x)

    def slope(x: Tensor) -> Tensor:
        return torch.autograd.grad(moge(x).square().sum(), x)[0]

    ahead, behind = (slope((x + sign * STEP * v).requires_grad_()) for sign in (1, -1))
    second = hessian(lambda x: moge(x).square().sum())(x)
    close(torch.einsum("abij,ij->ab", second, v), (ahead - behind) / (2 * STEP), rtol=1e-6)


@pytest.mark.slow
def test_a_gradient_within_a_compiled_function() -> None:
    moge = moge_ops.nn.MoGE(H, WIDTH, 2, 1, device=DEVICE, dtype=torch.float64)
    x, f = randn(3, 2, H), grad(lambda x: moge(x).square().sum())
    torch._dynamo.reset()
    close(torch.compile(f, fullgraph=True, backend="aot_eager")(x), f(x))


def test_no_operator_loses_a_tangent() -> None:
    swiglu, x = torch.ops.moge_ops.swiglu, randn(2, 4)
    error = pytest.raises(NotImplementedError, match=r"moge_ops::swiglu has no forward-mode deriv")
    with error:
        jvp(swiglu, (x,), (x,))
    with forward_ad.dual_level(), error:
        swiglu(forward_ad.make_dual(x, x))
    earlier = moge_ops.swiglu(x.requires_grad_())
    with (
        forward_ad.dual_level(),
        pytest.raises(NotImplementedError, match=r"moge_ops::swiglu_bwd .* outside"),
    ):
        torch.autograd.grad(earlier, x, forward_ad.make_dual(earlier.detach(), earlier.detach()))
