"""The Triton kernels of quantised experts: decoded weights and integers exactly, layers closely."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
import triton
import triton.language as tl

from moge_ops._backend import load
from moge_ops._quantized import (
    INTEGERS,
    QuantizedWeight,
    dequantize,
    int8_product,
    pack_int4,
    quantize_rows,
)
from moge_ops.ops.grouped_gemm import grouped_gemm
from moge_ops.ops.grouped_mlp import grouped_mlp
from moge_ops.ops.route import route
from moge_ops.quant import quantize
from moge_ops.reference.grouped_mlp import grouped_mlp as oracle
from moge_ops.testing import assert_matches, backend

HOST = load("triton", "_quantized")
WEIGHT, DECODE = load("triton", "_product").Weight, load("triton", "_decode").decode
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
FORMATS = [
    ("int8_w8a16", 64),
    ("int4_w4a16", 32),
    ("int4_w4a16", None),
    ("fp8_w8a16", 128),
    ("fp8_w8a16", None),
    ("mxfp4_w4a16", 32),
]
# scheme, groups of up and down, H, F, zero points
LAYERS = [
    pytest.param("int8_w8a8", (None, None), 33, 12, False, id="int8-rows-fused"),
    pytest.param("int8_w8a8", (None, None), 48, 17, False, id="int8-rows"),
    pytest.param("int4_w4a8", (None, None), 34, 12, False, id="int4-rows"),
    pytest.param("int8_w8a16", (32, None), 64, 9, False, id="int8"),
    pytest.param("int4_w4a16", (64, 32), 64, 32, True, id="int4-zeros"),
    pytest.param("fp8_w8a16", (128, 128), 136, 24, False, id="fp8-blocks"),
    pytest.param("mxfp4_w4a16", (32, 32), 32, 32, False, id="mxfp4"),
]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _triton() -> Iterator[None]:
    with nullcontext() if DEVICE == "cuda" else backend("triton"):
        yield


def offsets_of(counts: list[int]) -> Tensor:
    return torch.tensor([0, *counts], device=DEVICE).cumsum(0).int()


def launcher(op: str, direction: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(load("triton", op), f"{op}_quantized_{direction}")
    return found


def numbers(E: int, O: int, I: int, scheme: str) -> Tensor:
    """Every number of the scheme, stored; NaN too."""
    if scheme == "int4_w4a16":
        return pack_int4(torch.randint(-8, 8, (E, O, I)).to(torch.int8))
    if scheme == "mxfp4_w4a16":
        return torch.randint(0, 256, (E, O, I // 2)).to(torch.uint8)
    stored = I // 2 if scheme == "int4_w4a8" else I
    integers = torch.randint(-128, 128, (E, O, stored)).to(torch.int8)
    return integers.view(torch.float8_e4m3fn) if scheme == "fp8_w8a16" else integers


def make(
    E: int, O: int, I: int, scheme: str, group: int | None, *, S: int = 0, zero: bool = False
) -> QuantizedWeight:
    """Any stored numbers with any scales, of O / S rows each."""
    shape = (E, S or O, -(-I // (group or I)))
    if scheme == "mxfp4_w4a16":
        scale = torch.randint(100, 140, shape).to(torch.uint8)
    else:
        scale = torch.randn(shape)
    zeros = torch.randint(-8, 8, shape).to(torch.int8) if zero else None
    return QuantizedWeight(numbers(E, O, I, scheme), scale, zeros, scheme, group)


def same_numbers(a: Tensor, b: Tensor) -> bool:
    """Bit for bit, but for the sign of zero, which a sum with zero loses."""
    a, b = a.cpu(), b.cpu()
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(0.0), b.nan_to_num(0.0))


# scheme, group size, O, I, rows of scales, zero points
WEIGHTS = [
    pytest.param("int8_w8a16", None, 20, 37, 0, False, id="int8-whole-rows-odd"),
    pytest.param("int8_w8a16", 32, 17, 96, 0, False, id="int8-groups-of-32"),
    pytest.param("int8_w8a16", 64, 32, 64, 8, False, id="int8-scale-of-4-rows"),
    pytest.param("int8_w8a16", 128, 3, 256, 0, False, id="int8-groups-of-128"),
    pytest.param("int8_w8a8", None, 20, 37, 0, False, id="int8-whose-rows-are-int8-too"),
    pytest.param("int4_w4a8", None, 20, 38, 0, False, id="int4-whose-rows-are-int8"),
    pytest.param("int4_w4a16", None, 20, 40, 0, True, id="int4-whole-rows-zeros"),
    pytest.param("int4_w4a16", 32, 17, 96, 0, True, id="int4-groups-of-32-zeros"),
    pytest.param("int4_w4a16", 64, 32, 64, 0, False, id="int4-groups-of-64"),
    pytest.param("int4_w4a16", 128, 3, 256, 0, True, id="int4-groups-of-128-zeros"),
    pytest.param("fp8_w8a16", None, 20, 37, 0, False, id="fp8-whole-rows-odd"),
    pytest.param("fp8_w8a16", 128, 12, 136, 3, False, id="fp8-blocks-the-last-partial"),
    pytest.param("mxfp4_w4a16", 32, 17, 96, 0, False, id="mxfp4"),
]


@pytest.mark.parametrize(("scheme", "group", "O", "I", "S", "zero"), WEIGHTS)
def test_identity_rows_give_the_decoded_weight(
    scheme: str, group: int | None, O: int, I: int, S: int, zero: bool, request: Any
) -> None:
    """Forward and backward, through descriptors where the sizes allow, and pointers elsewhere."""
    dtype = DTYPES[len(request.node.name) % 3]
    w = make(1, O, I, scheme, group, S=S, zero=zero)
    nan = dequantize(w).isnan()
    if nan.any():  # 0 * NaN would be in every row
        w = w._replace(data=w.data.view(torch.int8).masked_fill(nan, 0).view(w.data.dtype))
    want = dequantize(w, dtype)[0]
    weight = w.to(DEVICE)
    eye = torch.eye(O, dtype=dtype, device=DEVICE)
    got = launcher("grouped_gemm", "dx")(eye, *weight[:3], offsets_of([O]), scheme, group, I)
    assert same_numbers(got, want)
    if scheme not in INTEGERS:  # which multiplies integers forward
        eye = torch.eye(I, dtype=dtype, device=DEVICE)
        got = launcher("grouped_gemm", "fwd")(eye, *weight[:3], offsets_of([I]), scheme, group)
        assert same_numbers(got.T, want)


@triton.jit
def _decoded(
    stored_ptr,
    out_ptr,
    scale_ptr,
    zero_ptr,
    scale_rows,
    groups,
    rows_per_scale,
    FORMAT: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
):
    weight = WEIGHT(
        *(None, None, None, None, None, None),
        scale_ptr,
        zero_ptr,
        scale_rows,
        groups,
        rows_per_scale,
    )
    offs_o = tl.arange(0, BLOCK_O)
    WORDS: tl.constexpr = BLOCK_I // FORMAT.packed
    stored = tl.load(stored_ptr + offs_o[:, None] * WORDS + tl.arange(0, WORDS)[None, :])
    w = DECODE(weight, stored, tl.program_id(0), offs_o, 0, FORMAT=FORMAT)
    tl.store(out_ptr + offs_o[:, None] * BLOCK_I + tl.arange(0, BLOCK_I)[None, :], w)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("scheme", "group"), FORMATS)
def test_every_stored_number_decodes_to_the_same_bits(
    scheme: str, group: int | None, dtype: torch.dtype
) -> None:
    """NaN, numbers below the normal ones and the signs of zeros too, and the least scales."""
    w = make(1, 16, 256, scheme, group, zero=scheme == "int4_w4a16")
    if scheme == "mxfp4_w4a16":
        w.scale[0, :8, 0] = torch.tensor([0, 1, 2, 100, 126, 127, 253, 254]).to(torch.uint8)
    else:
        w.scale[0, :4, 0] = torch.tensor([1e-42, -1e-38, 1e38, 3e-7])
    weight = w.to(DEVICE)
    stored = HOST.stored(*weight, dtype)
    out = torch.empty(16, 256, dtype=dtype, device=DEVICE)
    _decoded[(1,)](stored.data, out, BLOCK_O=16, BLOCK_I=256, **HOST.quantized_arguments(stored))
    want, got = dequantize(w, dtype)[0], out.cpu()
    assert torch.equal(got.isnan(), want.isnan())
    got, want = got.nan_to_num(0.0), want.nan_to_num(0.0)
    if DEVICE == "cpu" and dtype is torch.bfloat16:
        # the interpreter's conversion to bfloat16 has no numbers below the normal ones
        tiny = want.abs() < torch.finfo(dtype).tiny
        got, want = got.masked_fill(tiny, 0.0), want.masked_fill(tiny, 0.0)
    width = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
    assert torch.equal(got.view(width), want.view(width))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
def test_rows_become_the_same_integers(dtype: torch.dtype) -> None:
    rows = torch.randn(23, 77).to(dtype)
    rows[1], rows[2, 3], rows[3, 4], rows[4] = 0.0, torch.inf, torch.nan, 2.0**-101
    rows[5], rows[6, :4] = torch.arange(-38.0, 39.0) + 0.5, torch.tensor([127.0, 0.5, -2.5, 126.5])
    rows[6, 4:] = 1.5
    offsets = offsets_of([3, 0, 18])
    q, scale = HOST.quantize_rows(rows.to(DEVICE), offsets)
    want_q, want_scale = quantize_rows(rows)
    assert torch.equal(q[:21].cpu(), want_q[:21])
    assert same_numbers(scale[:21], want_scale[:21, 0])
    weights, slots = torch.rand(23, 1), torch.randperm(23).int()
    _, weighted = HOST.quantize_rows(rows.to(DEVICE), None, weights.to(DEVICE), slots.to(DEVICE))
    assert same_numbers(weighted, want_scale[:, 0] * weights[slots, 0])


def test_a_row_longer_than_a_step_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HOST, "BLOCK", 32)
    rows = torch.randn(5, 75)
    q, scale = HOST.quantize_rows(rows.to(DEVICE))
    want_q, want_scale = quantize_rows(rows)
    assert torch.equal(q.cpu(), want_q)
    assert same_numbers(scale, want_scale[:, 0])


@pytest.mark.parametrize(("I", "O"), [(300, 20), (64, 32), (1, 1)])
@pytest.mark.parametrize("counts", [[17, 0, 1], [2, 0, 1]], ids=["many", "few-rows"])
def test_products_of_integers_are_exact(counts: list[int], I: int, O: int) -> None:
    """Rows that are their own integers, and scales of one."""
    rows = torch.randint(-127, 128, (sum(counts) + 2, I))
    rows[:, 0] = 127
    data = torch.randint(-128, 128, (3, O, I)).to(torch.int8)
    data[0] = -128  # the largest sums
    w = QuantizedWeight(data, torch.ones(3, 1, 1), None, "int8_w8a8", None).to(DEVICE)
    offsets = offsets_of(counts)
    got = grouped_gemm(rows.float().to(DEVICE), w, offsets.to(DEVICE)).cpu()
    a, b = counts[0], sum(counts)
    want = torch.cat(
        [int8_product(rows[:a].char(), data[0]), int8_product(rows[a:b].char(), data[2])]
    )
    assert torch.equal(got[:b], want.float())
    assert not got[b:].any()


def test_scales_of_integers_are_multiplied_in_one_order() -> None:
    rows, w = torch.randn(9, 24), quantize(torch.randn(2, 20, 24), "int8_w8a8")
    w = w._replace(scale=w.scale[:, ::4].bfloat16())  # each of four rows
    got = grouped_gemm(rows.to(DEVICE), w.to(DEVICE), offsets_of([4, 5]).to(DEVICE)).cpu()
    q, scale = quantize_rows(rows)
    for e, (first, end) in enumerate([(0, 4), (4, 9)]):
        of_columns = w.scale[e].float().repeat_interleave(4, 0).T
        want = int8_product(q[first:end], w.data[e]) * (scale[first:end] * of_columns)
        assert torch.equal(got[first:end], want)


def test_a_row_that_is_not_finite_stays_alone() -> None:
    rows = torch.randn(6, 16)
    rows[2, 5] = torch.inf
    w = quantize(torch.randn(2, 8, 16), "int8_w8a8").to(DEVICE)
    got = grouped_gemm(rows.to(DEVICE), w, offsets_of([4, 2]).to(DEVICE)).cpu()
    assert got[2].isnan().all()
    assert got[[0, 1, 3, 4, 5]].isfinite().all()


@pytest.mark.parametrize("scheme", ["int8_w8a8", "int4_w4a16", "fp8_w8a16"])
def test_an_infinite_scale_of_a_neighbour_stays_out(scheme: str) -> None:
    w = quantize(torch.randn(3, 20, 64), scheme, group_size=32 if scheme[3] == "4" else None)
    w.scale[1] = torch.inf
    rows = torch.randn(9, w.shape[2]).to(DEVICE).requires_grad_()
    out = grouped_gemm(rows, w.to(DEVICE), offsets_of([4, 0, 5]).to(DEVICE))
    assert out.isfinite().all()
    assert torch.autograd.grad(out.sum(), rows)[0].isfinite().all()


def check(
    x: Tensor, w: tuple[QuantizedWeight, QuantizedWeight], ids: Tensor, weight_on: str
) -> None:
    """The layer and its gradients are the oracle's in float64.

    An activation that a rounding moves across a tie becomes another integer, which float32's limits
    do not allow for: where rows are rounded it is judged by those of bfloat16.
    """
    E, dtype = w[0].shape[0], x.dtype
    limits = torch.bfloat16 if w[0].scheme in INTEGERS else dtype
    weights = torch.rand(ids.shape) + 0.1
    args = [t.to(DEVICE).requires_grad_() for t in (x, weights)]
    args64 = [t.detach().double().requires_grad_() for t in (x, weights)]
    on = tuple(t.to(DEVICE) for t in w)
    y = grouped_mlp(args[0], *on, args[1], route(ids.to(DEVICE), E), weight_on=weight_on)
    routing = route(ids, E)
    y64 = oracle(args64[0], *w, args64[1], *routing, weight_on=weight_on, dtype=dtype)
    assert y.dtype is dtype
    assert_matches(y.to(limits), y64, "y")
    d_y = torch.randn(y.shape).to(dtype)
    d_x, d_weights = torch.autograd.grad(y, args, d_y.to(DEVICE))
    d_x64, d_weights64 = torch.autograd.grad(y64, args64, d_y.double())
    assert_matches(d_x.to(limits), d_x64, "d_x")
    # dot products over H, which may cancel: the unit is their terms' size
    unit = d_y.double().norm(dim=1).mean() * y64.norm(dim=1).mean() / ids.shape[1] ** 0.5
    scale = unit.item() if y.numel() and unit > 0 else None
    assert_matches(d_weights.to(limits), d_weights64, "d_weights", scale=scale)
    assert (d_weights.cpu()[(ids < 0) | (ids >= E)] == 0.0).all()


def layer(
    E: int, H: int, F: int, scheme: str, groups: tuple[int | None, int | None], zero: bool = False
) -> tuple[QuantizedWeight, QuantizedWeight]:
    up, down = torch.randn(E, 2 * F, H) / H**0.5, torch.randn(E, H, F) / F**0.5
    options = {"symmetric": not zero}
    return (
        quantize(up, scheme, group_size=groups[0], halves=2, **options),
        quantize(down, scheme, group_size=groups[1], **options),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "weight_on"),
    [(torch.float32, "activation"), (torch.bfloat16, "output"), (torch.float16, "activation")],
    ids=str,
)
@pytest.mark.parametrize(("scheme", "groups", "H", "F", "zero"), LAYERS)
def test_the_layer_matches_the_oracle(
    scheme: str,
    groups: tuple[int | None, int | None],
    H: int,
    F: int,
    zero: bool,
    dtype: torch.dtype,
    weight_on: str,
) -> None:
    T, E, K = (6 if dtype is torch.float16 else 7), 3, 2  # 4 rows for each expert are few
    ids = torch.randint(-1, E + 1, (T, K)).int()  # dropped slots too
    check(torch.randn(T, H).to(dtype), layer(E, H, F, scheme, groups, zero), ids, weight_on)


@pytest.mark.parametrize("scheme", ["int8_w8a8", "int8_w8a16"])
@pytest.mark.parametrize(
    "ids",
    [
        pytest.param(torch.zeros(0, 2), id="no-tokens"),
        pytest.param(torch.tensor([[2, 0]]), id="one-token"),
        pytest.param(torch.full((17, 1), 1), id="all-on-one-and-one-past-the-tile"),
        pytest.param(torch.full((3, 2), 9), id="all-dropped"),
    ],
)
def test_lopsided_routing(ids: Tensor, scheme: str) -> None:
    check(torch.randn(len(ids), 20), layer(3, 20, 8, scheme, (None, None)), ids.int(), "output")
