"""Quantised weights on the Ascend C kernels, emulated: integers bit for bit, products as usual."""

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import moge_ops
from moge_ops import _quantized, quant, testing
from moge_ops._quantized import QuantizedWeight
from moge_ops.reference.grouped_mlp import grouped_mlp as oracle
from moge_ops.testing import assert_matches, group_ids

_C: Any = pytest.importorskip("moge_ops._C", reason="built without the Ascend emulator")
ascend: Any = importlib.import_module("moge_ops.ascend._quantize")
NAN, INF = float("nan"), float("inf")
DTYPES = [torch.float16, torch.bfloat16, torch.float32]
all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def _ascend() -> Iterator[None]:
    _C.set_emulation(cores=5)
    with testing.backend("ascend"):
        yield
    _C.set_emulation()


def same(found: Tensor, want: Tensor) -> bool:
    """Bit for bit, but for the kind of a NaN."""
    return torch.equal(found.isnan(), want.isnan()) and torch.equal(
        found.nan_to_num(0.0), want.nan_to_num(0.0)
    )


def awkward(N: int, I: int, dtype: torch.dtype) -> Tensor:
    """Rows of many sizes: zeros, small, NaN, infinite, the largest, and ties."""
    rows = torch.randn(N, I) * torch.logspace(-3, 3, max(N, 1))[:N, None]
    rows = rows.to(dtype)
    last = I - 1
    for n, (column, value) in enumerate(
        ((0, NAN), (last, INF), (last // 2, -INF), (last, -NAN), (0, torch.finfo(dtype).max))
    ):
        if n < N - 1:
            rows[n + 1, column] = value
    if N > 8:
        rows[6] = 0.0
        small = torch.rand(I).mul(2.0**-101).to(dtype)  # nothing in float16
        rows[7] = small  # below 2^-100, and not far: 127 over that would make numbers of them
        rows[8] = torch.arange(I).remainder(255).sub(127).to(dtype) / 2  # half are ties
        rows[8, 0] = 127.0
    if N > 9:
        rows[9] = small
        rows[9, 0] = 2.0**-100
    return rows


@all_dtypes
@pytest.mark.parametrize("N", [1, 9, 37])
@pytest.mark.parametrize("I", [1, 15, 31, 32, 33, 64, 96, 160, 1344, 4128])
def test_rows_are_quantised_as_defined(N: int, I: int, dtype: torch.dtype) -> None:
    rows = awkward(N, I, dtype)
    q, scale = ascend.quantize_rows(rows)
    want, want_scale = _quantized.quantize_rows(rows)
    assert same(scale, want_scale[:, 0])
    assert torch.equal(q, want)


@all_dtypes
@pytest.mark.parametrize(("N", "I"), [(2, 10240), (3, 15360), (3, 15361), (2, 40001), (1, 65535)])
def test_rows_longer_than_a_tile(N: int, I: int, dtype: torch.dtype) -> None:
    rows = torch.randn(N, I).to(dtype)
    rows[0, -1] = 9.0
    q, scale = ascend.quantize_rows(rows)
    want, want_scale = _quantized.quantize_rows(rows)
    assert same(scale, want_scale[:, 0])
    assert torch.equal(q, want)


def test_many_rows_on_any_cores() -> None:
    rows = torch.randn(11_000, 32)
    want, want_scale = _quantized.quantize_rows(rows)
    for cores, seed in ((1, 0), (5, 1), (48, 2)):
        _C.set_emulation(cores=cores, seed=seed)
        q, scale = ascend.quantize_rows(rows)
        assert torch.equal(scale, want_scale[:, 0])
        assert torch.equal(q, want)


@all_dtypes
@pytest.mark.parametrize(("O", "I"), [(1, 1), (17, 33), (8, 64), (5, 96), (130, 32), (2, 30_000)])
def test_int8_weights_are_decoded_to_the_bits(O: int, I: int, dtype: torch.dtype) -> None:
    data = torch.randint(-128, 128, (3, O, I), dtype=torch.int8)
    for kind in DTYPES:
        scale = torch.randn(3, O, 1).to(kind)
        scale[0, 0], scale[1, 0], scale[2, 0] = 0.0, NAN, INF
        want = _quantized.decode(data, scale, None, "int8_w8a8", None, dtype)
        assert same(ascend.decode_weight(data, scale, None, "int8_w8a8", dtype), want)


@pytest.mark.parametrize("n", [1, 31, 32, 511, 513, 40_000])
def test_nibbles_are_unpacked(n: int) -> None:
    data = torch.randint(-128, 128, (1, 1, n), dtype=torch.int8)
    found = ascend.integers(data, "int4_w4a8")
    assert torch.equal(found, _quantized.unpack_nibbles(data))
    assert torch.equal(_quantized.pack_nibbles(found), data)


# --- products and the layer ---

SCHEMES: dict[str, tuple[str, dict[str, Any]]] = {
    "int8_w8a8": ("int8_w8a8", {}),
    "int4_w4a8": ("int4_w4a8", {}),
    "int8_w8a16": ("int8_w8a16", {}),
    "int8_w8a16, groups": ("int8_w8a16", {"group_size": 32}),
    "int4_w4a16": ("int4_w4a16", {"group_size": 32}),
    "int4_w4a16, zeros": ("int4_w4a16", {"group_size": 32, "symmetric": False}),
}
INTEGERS = [case for case in SCHEMES if "a8" in case]
all_schemes = pytest.mark.parametrize("case", SCHEMES)


def experts(case: str, E: int, O: int, I: int) -> QuantizedWeight:
    scheme, how = SCHEMES[case]
    return quant.quantize(torch.randn(E, O, I) / max(I, 1) ** 0.5, scheme, **how)


def starts(*counts: int) -> Tensor:
    return torch.tensor([0, *counts]).cumsum(0).int()


@pytest.mark.parametrize("kind", DTYPES, ids=str)
@all_dtypes
@pytest.mark.parametrize("case", INTEGERS)
def test_products_of_integers_have_the_bits_of_torch(
    case: str, dtype: torch.dtype, kind: torch.dtype
) -> None:
    counts = (0, 5, 1, 0, 40)
    for O, I in ((1, 2), (17, 34), (32, 1030)):
        rows = awkward(sum(counts) + 3, I, dtype)
        w = experts(case, len(counts), O, I)
        few = w.scale[:, :1].to(kind)  # one for all rows
        for scale in (w.scale.to(kind), few):
            weight = w._replace(scale=scale)
            found = moge_ops.grouped_gemm(rows, weight, starts(*counts))
            with testing.backend("torch"):
                want = moge_ops.grouped_gemm(rows, weight, starts(*counts))
            assert same(found, want), (O, I)
            assert not found[sum(counts) :].any()


@pytest.mark.parametrize("value", [0.0, NAN, INF, -0.5])
@pytest.mark.parametrize("case", INTEGERS)
def test_scales_of_any_value_spread_as_in_torch(case: str, value: float) -> None:
    rows, w = torch.randn(9, 64), experts(case, 2, 24, 64)
    w.scale[1, 3] = value
    found = moge_ops.grouped_gemm(rows, w, starts(4, 5))
    with testing.backend("torch"):
        assert same(found, moge_ops.grouped_gemm(rows, w, starts(4, 5)))


@all_dtypes
@all_schemes
def test_products_with_more_experts_than_are_decoded_together(
    case: str, dtype: torch.dtype
) -> None:
    """Experts without rows lie at the ends of the parts, and unused rows after the last."""
    for counts in ([3, 0, 0, 9] * 5, [0] * 16 + [7] + [0] * 17, [2] * 16, [1] * 17, [0] * 3):
        E, N = len(counts), sum(counts) + 5
        rows = torch.randn(N, 64).to(dtype).requires_grad_()
        w = experts(case, E, 40, 64)
        out = moge_ops.grouped_gemm(rows, w, starts(*counts))
        d_out = torch.randn_like(out)
        (d_rows,) = torch.autograd.grad(out, rows, d_out)
        with testing.backend("torch"):
            want = moge_ops.grouped_gemm(rows, w, starts(*counts))
            (d_want,) = torch.autograd.grad(want, rows, d_out)
        # products of numbers of the dtype: the torch backend rounds them once, as these do
        assert_matches(out, want.double().detach(), "out", slack=2.0)
        assert_matches(d_rows, d_want.double(), "d_rows", slack=2.0)
        assert not d_rows[N - 5 :].any()


@all_dtypes
@pytest.mark.parametrize("case", ["int8_w8a8", "int4_w4a8", "int8_w8a16", "int4_w4a16, zeros"])
def test_what_is_multiplied_backward_has_the_bits_of_dequantize(
    case: str, dtype: torch.dtype
) -> None:
    w = experts(case, 18, 20, 64)
    rows = torch.zeros(18 * 20, 64, dtype=dtype, requires_grad=True)
    out = moge_ops.grouped_gemm(rows, w, torch.arange(0, 18 * 20 + 1, 20, dtype=torch.int32))
    (d_rows,) = torch.autograd.grad(out, rows, torch.eye(20, dtype=dtype).repeat(18, 1))
    assert torch.equal(d_rows.view(18, 20, 64), quant.dequantize(w, dtype))


def layer(
    case: str, T: int, H: int, F: int, dtype: torch.dtype, dropped: float = 0.0
) -> tuple[Any, ...]:
    E, K = 20, 4
    ids = group_ids(T, E, K, 1)
    ids[torch.rand(T, K) < dropped] = -1
    routing = moge_ops.route(ids, E)
    up, down = experts(case, E, 2 * F, H), experts(case, E, H, F)
    return torch.randn(T, H).to(dtype), up, down, torch.rand(T, K) + 0.1, routing


@pytest.mark.parametrize("weight_on", ["output", "activation"])
@all_dtypes
@all_schemes
def test_the_layer_matches_the_oracle(case: str, dtype: torch.dtype, weight_on: str) -> None:
    odd = ((7, 34, 18),) if case in INTEGERS else ()
    for T, H, F in ((0, 32, 32), (1, 32, 32), (33, 96, 32), *odd):
        for dropped in (0.4, 1.0) if T == 33 else (0.0,):
            x, up, down, weights, routing = layer(case, T, H, F, dtype, dropped)
            x.requires_grad_()
            weights.requires_grad_()
            y = moge_ops.grouped_mlp(x, up, down, weights, routing, weight_on=weight_on)
            d_y = torch.randn_like(y)
            found = (y, *torch.autograd.grad(y, (x, weights), d_y))
            x64, weights64 = (t.detach().double().requires_grad_() for t in (x, weights))
            wide = oracle(x64, up, down, weights64, *routing, weight_on=weight_on, dtype=dtype)
            want = (wide, *torch.autograd.grad(wide, (x64, weights64), d_y.double()))
            # a number that is a hair from a tie may become the next of 127 integers
            limits = torch.bfloat16 if case in INTEGERS else dtype
            for name, a, b in zip(("y", "d_x", "d_weights"), found, want, strict=True):
                assert_matches(
                    a.to(limits if name != "d_weights" else torch.bfloat16),
                    b.detach(),
                    f"{name} {T, H, F, dropped}",
                    slack=2.0,
                )


@pytest.mark.parametrize("case", ["int8_w8a8", "int4_w4a16, zeros"])
def test_any_cores_in_any_order_give_the_same(case: str) -> None:
    x, up, down, weights, routing = layer(case, 50, 96, 64, torch.bfloat16, 0.2)
    x.requires_grad_()
    alone = None
    for cores, seed in ((2, 0), (6, 1), (48, 2)):
        _C.set_emulation(cores=cores, seed=seed)
        y = moge_ops.grouped_mlp(x, up, down, weights, routing)
        found = (y, *torch.autograd.grad(y, x, torch.ones_like(y)))
        alone = alone or found
        assert all(map(torch.equal, found, alone))


def test_weights_of_floats_are_refused() -> None:
    w = quant.quantize(torch.randn(2, 8, 32), "mxfp4_w4a16")
    with pytest.raises(NotImplementedError, match=r"no mxfp4_w4a16 weights: .* floats of 8 or 4"):
        moge_ops.grouped_gemm(torch.randn(4, 32), w, starts(2, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _C.quantize_rows(**SIZES, rows=0, q=0, scale=0, N=-1, I=4), "N must be in"),
        (lambda: _C.quantize_rows(**SIZES, rows=0, q=0, scale=0, N=1, I=2**31), "I must be in"),
        (lambda: _C.quantize_rows(**SIZES, rows=0, q=0, scale=0, N=1, I=4), "must not be null"),
        (lambda: _C.decode_weight(**SIZES, data=0, scale=0, weight=0, N=2**31, I=4), "N must be"),
        (lambda: _C.unpack_int4(packed=0, data=0, bytes=-1, stream=0), "bytes must be in"),
    ],
)
def test_the_host_refuses(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


SIZES: dict[str, Any] = {"dtype": _C.DType.float16, "stream": 0}
