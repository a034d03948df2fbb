"""moge_ops.swiglu agrees with its oracle, forward and backward, on every backend."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import moge_ops
from moge_ops.reference.swiglu import swiglu as oracle
from moge_ops.testing import assert_matches

SHAPES = [
    pytest.param(1, 8, id="one-row"),
    pytest.param(7, 33, id="odd"),
    pytest.param(3, 1025, id="one-past-the-tile"),
    pytest.param(0, 8, id="no-rows"),
    pytest.param(2, 0, id="no-columns"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def check(gate_up: torch.Tensor) -> None:
    x = gate_up.requires_grad_()
    x64 = x.detach().double().requires_grad_()
    out, out64 = moge_ops.swiglu(x), oracle(x64)
    d_out = torch.randn(out.shape, device=x.device).to(x.dtype)
    (dx,) = torch.autograd.grad(out, x, d_out)
    (dx64,) = torch.autograd.grad(out64, x64, d_out.double())

    assert out.dtype is x.dtype
    assert_matches(out, out64, "act")
    assert_matches(dx, dx64, "d_gate_up")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("N", "F"), SHAPES)
def test_matches_the_oracle(N: int, F: int, dtype: torch.dtype, device: str) -> None:
    check(torch.randn(N, 2 * F, device=device).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_rounds_once(dtype: torch.dtype, device: str) -> None:
    x = torch.randn(16, 64).to(dtype)
    exact = oracle(x.double())
    for act in (moge_ops.swiglu(x.to(device)).cpu(), oracle(x)):
        # half a unit in the last place, a hair for the float32 before it, and float16's subnormals
        allowed = exact.abs() * torch.finfo(dtype).eps * 0.501 + 1e-7
        assert ((act.double() - exact).abs() <= allowed).all()


@given(N=st.integers(0, 9), F=st.integers(0, 70), step=st.integers(1, 3))
def test_any_shape_and_stride(N: int, F: int, step: int, device: str) -> None:
    check(torch.randn(2 * F, N * step, device=device).t()[::step])


@pytest.mark.float64
def test_gradcheck(device: str) -> None:
    x = torch.randn(3, 10, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(moge_ops.swiglu, (x,))


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 2, 2)])
def test_rejects_a_bad_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"gate_up must be \[N, 2F\], got"):
        moge_ops.swiglu(torch.zeros(shape))


def test_rejects_a_bad_dtype() -> None:
    with pytest.raises(TypeError, match=r"gate_up must be float16 \| .*, got int32"):
        moge_ops.swiglu(torch.zeros(2, 4, dtype=torch.int32))
