"""Quantised experts in the native CPU kernels: each format bit for bit, and the whole layer."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import moge_ops
from moge_ops import _quantized, quant
from moge_ops._extensions import cpu_level, cpu_levels
from moge_ops._quantized import QuantizedWeight
from moge_ops.ops.route import Routing
from moge_ops.reference.grouped_mlp import grouped_mlp as oracle
from moge_ops.testing import assert_matches

if cpu_level().startswith("off"):
    pytest.skip(f"no native kernels: {cpu_level()}", allow_module_level=True)

_cpu: Any = importlib.import_module("moge_ops._cpu")
LEVELS = [level for level, missing in cpu_levels() if not missing]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SCALES = [torch.float32, torch.bfloat16, torch.float16]
NAN, INF = float("nan"), float("inf")
native = pytest.mark.parametrize("device", [f"cpu_{level}" for level in LEVELS], indirect=True)
all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def integers(seed: int, low: int, high: int, *shape: int) -> Tensor:
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(seed))


def stored(
    scheme: str, E: int, O: int, I: int, group: int | None, rows: int = 1, zero: bool = False
) -> QuantizedWeight:
    """Every stored number occurs, where there is room; ``rows`` of them share a scale."""
    groups = -(-I // group) if group else 1
    shape = (E, O // rows, groups)
    scale = draw(1, *shape).abs() * 0.1 + 0.01
    if scheme in ("int8_w8a8", "int8_w8a16"):
        data = integers(2, -128, 127, E, O, I).to(torch.int8)
    elif scheme == "int4_w4a8":
        data = integers(2, -128, 127, E, O, I // 2).to(torch.int8)
    elif scheme == "int4_w4a16":
        data = integers(2, -(2**31), 2**31 - 1, E, O, I // 8).to(torch.int32)
    elif scheme == "fp8_w8a16":
        data = integers(2, 0, 255, E, O, I).to(torch.uint8).view(torch.float8_e4m3fn)
    else:
        data = integers(2, 0, 255, E, O, I // 2).to(torch.uint8)
        scale = integers(3, 110, 140, *shape).to(torch.uint8)
    zeros = integers(4, -8, 7, *shape).to(torch.int8) if zero else None
    return QuantizedWeight(data, scale, zeros, scheme, group)


# name: scheme, O, I, group, rows that share a scale, zero points
FORMATS: dict[str, tuple[str, int, int, int | None, int, bool]] = {
    "int8-rows": ("int8_w8a16", 33, 77, None, 1, False),
    "int8-one-scale": ("int8_w8a16", 34, 51, None, 34, False),
    "int8-groups-of-32": ("int8_w8a16", 18, 96, 32, 1, False),
    "int8-groups-of-128": ("int8_w8a16", 17, 256, 128, 1, False),
    "int8-of-w8a8": ("int8_w8a8", 35, 130, None, 1, False),
    "int4-of-w4a8": ("int4_w4a8", 35, 130, None, 1, False),
    "int4-rows": ("int4_w4a16", 19, 72, None, 1, False),
    "int4-groups-of-32": ("int4_w4a16", 33, 96, 32, 1, False),
    "int4-groups-of-64-zero": ("int4_w4a16", 20, 192, 64, 1, True),
    "int4-groups-of-128-zero-two-rows": ("int4_w4a16", 36, 384, 128, 2, True),
    "int4-rows-zero": ("int4_w4a16", 5, 40, None, 1, True),
    "fp8-rows": ("fp8_w8a16", 21, 45, None, 1, False),
    "fp8-blocks-a-partial-one": ("fp8_w8a16", 48, 300, 128, 16, False),
    "fp8-less-than-a-block": ("fp8_w8a16", 6, 50, 128, 3, False),
    "mxfp4": ("mxfp4_w4a16", 35, 96, 32, 1, False),
}


def equal(found: Tensor, want: Tensor) -> bool:
    """Bit for bit, but for the kind of a NaN and the sign of 0."""
    nan = want.isnan()
    return torch.equal(found.isnan(), nan) and torch.equal(found[~nan], want[~nan])


def check_through_products(weight: QuantizedWeight, want: Tensor) -> None:
    """The weight as products with unit vectors show it: with all at once, and with 1 to 6."""
    E, O, I = weight.shape
    eye = torch.eye(I, dtype=want.dtype)
    middle = I // 2
    for columns in (range(I), range(1), range(2), range(middle, middle + 3), range(I - 6, I)):
        some = torch.tensor([i for i in columns if 0 <= i < I])
        n = len(some)
        offsets = torch.arange(0, E * n + 1, n, dtype=torch.int32)
        out = moge_ops.grouped_gemm(eye[some].repeat(E, 1), weight, offsets)
        assert equal(out.view(E, n, O).mT, want[..., some]), f"{columns}"


def without_nan(weight: QuantizedWeight) -> QuantizedWeight:
    """A NaN times the zeros of a unit vector would hide its neighbours."""
    if weight.scheme != "fp8_w8a16":
        return weight
    codes = weight.data.view(torch.uint8)
    codes = torch.where(codes & 127 == 127, codes - 1, codes)
    return weight._replace(data=codes.view(torch.float8_e4m3fn))


@native
@all_dtypes
@pytest.mark.parametrize("name", FORMATS)
def test_decoded_weights_have_the_bits_of_dequantize(
    name: str, dtype: torch.dtype, device: str
) -> None:
    scheme, *shape = FORMATS[name]
    weight = without_nan(stored(scheme, 2, *shape))
    kinds = [torch.uint8] if scheme == "mxfp4_w4a16" else SCALES
    for kind in kinds:
        w = weight._replace(scale=weight.scale.to(kind))
        E, O, I = w.shape
        want = quant.dequantize(w, dtype)
        if scheme not in _quantized.INTEGERS:
            check_through_products(w, want)
        rows = torch.zeros(E * O, I, dtype=dtype, requires_grad=True)
        offsets = torch.arange(0, E * O + 1, O, dtype=torch.int32)
        out = moge_ops.grouped_gemm(rows, w, offsets)
        (d_rows,) = torch.autograd.grad(out, rows, torch.eye(O, dtype=dtype).repeat(E, 1))
        assert equal(d_rows.view(E, O, I), want), (kind, "backward")


@native
@all_dtypes
@pytest.mark.parametrize("exponent", [-140, -126, -120, -100, 100, 120])
def test_decoded_weights_at_the_ends_of_float32(
    exponent: int, dtype: torch.dtype, device: str
) -> None:
    """Numbers below the normal ones, or infinite: decoded, not flushed."""
    for name in ("int8-rows", "int4-groups-of-32", "fp8-rows"):
        scheme, O, I, *more = FORMATS[name]
        weight = without_nan(stored(scheme, 1, O, I, *more))
        weight = weight._replace(scale=weight.scale * 2.0**exponent)
        d_out = torch.eye(O, dtype=dtype)
        # float16 has no such numbers, and a product of pairs takes small ones for 0: a unit vector
        # shows those only that it multiplies
        want = quant.dequantize(weight, dtype)
        if not want.isfinite().all() or (dtype is not torch.float32 and exponent < 0):
            continue
        rows = torch.zeros(O, I, dtype=dtype, requires_grad=True)
        out = moge_ops.grouped_gemm(rows, weight, torch.tensor([0, O], dtype=torch.int32))
        (found,) = torch.autograd.grad(out, rows, d_out)
        assert equal(found.view(1, O, I), want), name
    for e in (0, 1, 2, 126, 127, 252, 253):
        weight = stored("mxfp4_w4a16", 1, 6, 64, 32)
        weight = weight._replace(scale=torch.full_like(weight.scale, e))
        want = quant.dequantize(weight, dtype)
        if not want.isfinite().all() or (dtype is not torch.float32 and e < 4):
            continue
        check_through_products(weight, want)


@native
@all_dtypes
def test_every_fp8_number_and_its_nan(dtype: torch.dtype, device: str) -> None:
    codes = torch.arange(256).to(torch.uint8).view(1, 256, 1)
    weight = QuantizedWeight(
        codes.view(torch.float8_e4m3fn), torch.full((1, 1, 1), 0.37), None, "fp8_w8a16", None
    )
    want = quant.dequantize(weight, dtype)
    for n in (1, 40):
        offsets = torch.tensor([0, n], dtype=torch.int32)
        out = moge_ops.grouped_gemm(torch.ones(n, 1, dtype=dtype), weight, offsets)
        assert all(equal(row, want[0, :, 0]) for row in out)
    assert int(want.isnan().sum()) == 2


@native
@all_dtypes
@pytest.mark.parametrize(("O", "I"), [(33, 77), (40, 130), (7, 3), (64, 64), (50, 257)], ids=str)
def test_products_of_integers_are_exact(O: int, I: int, dtype: torch.dtype, device: str) -> None:
    """Rows whose largest number is 127 are their own integers, with a scale of 1."""
    counts = [1, 0, 2, 9, 17, 33, 100]
    N, E = sum(counts), len(counts)
    rows = integers(1, -127, 127, N, I)
    rows[torch.arange(N), torch.arange(N) % I] = 127
    rows[1] = -127  # the largest sums of one sign
    weight = stored("int8_w8a8", E, O, I, None)
    weight.data[0] = -128
    weight = weight._replace(scale=torch.ones_like(weight.scale))
    offsets = torch.tensor([0, *counts]).cumsum(0).int()
    out = moge_ops.grouped_gemm(rows.to(dtype), weight, offsets)
    for e in range(E):
        part = slice(offsets[e], offsets[e + 1])
        exact = _quantized.int8_product(rows[part].to(torch.int8), weight.data[e])
        assert torch.equal(out[part], exact.to(torch.float32).to(dtype)), e


@native
def test_sums_of_integers_are_exact_for_the_longest_row(device: str) -> None:
    I = _quantized.MOST_INT8_COLUMNS
    for n in (1, 40):
        rows = torch.full((n, I), 127.0)
        weight = stored("int8_w8a8", 1, 2, I, None)
        weight.data[0, 0], weight.data[0, 1] = -128, 127
        weight = weight._replace(scale=torch.ones_like(weight.scale))
        out = moge_ops.grouped_gemm(rows, weight, torch.tensor([0, n], dtype=torch.int32))
        want = torch.tensor([-128 * 127 * I, 127 * 127 * I]).float()
        assert torch.equal(out, want.expand(n, 2))


@native
def test_rows_are_quantised_as_defined(device: str) -> None:
    """A weight of one column of ones at a time gives back the integers times their scale."""
    I = 37
    rows = draw(1, 25, I)
    rows[0] *= 1e-36  # below 2^-100: zero
    rows[1] *= 1e30
    rows[2, 3], rows[3, 3], rows[4] = NAN, INF, 0.0
    weight = QuantizedWeight(
        torch.eye(I).to(torch.int8)[None], torch.ones(1, I, 1), None, "int8_w8a8", None
    )
    q, scale = _quantized.quantize_rows(rows)
    for n in (7, 25):
        out = moge_ops.grouped_gemm(rows[:n], weight, torch.tensor([0, n], dtype=torch.int32))
        assert equal(out, q[:n].float() * scale[:n])


# The whole layer

SCHEMES: dict[str, dict[str, Any]] = {
    "int8_w8a8": {},
    "int4_w4a8": {},
    "int8_w8a16": {},
    "int8_w8a16-32": {"group_size": 32},
    "int4_w4a16-32": {"group_size": 32},
    "int4_w4a16-32-zero": {"group_size": 32, "symmetric": False},
    "fp8_w8a16": {},
    "fp8_w8a16-128": {"group_size": 128},
    "mxfp4_w4a16": {},
}


def layer(
    name: str, counts: list[int], H: int, F: int, dtype: torch.dtype, dropped: int = 0
) -> tuple[tuple[Tensor, QuantizedWeight, QuantizedWeight, Tensor], Routing]:
    """Expert e has the e-th number of rows; some slots have no row."""
    scheme, how = name.split("-")[0], SCHEMES[name]
    E = len(counts)
    ids = torch.repeat_interleave(torch.tensor([*range(E), -1]), torch.tensor([*counts, dropped]))
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(len(ids)))
    routing = moge_ops.route(ids[order, None].int(), E)
    halves = {"halves": 2} if "fp8" in name else {}
    up = quant.quantize(draw(2, E, 2 * F, H) / max(H, 1) ** 0.5, scheme, **how, **halves)
    down = quant.quantize(draw(3, E, H, F) / max(F, 1) ** 0.5, scheme, **how)
    T = len(ids)
    return (draw(1, T, H).to(dtype), up, down, draw(4, T, 1).abs() + 0.1), routing


def check(
    inputs: tuple[Tensor, QuantizedWeight, QuantizedWeight, Tensor],
    routing: Routing,
    weight_on: str,
) -> list[Tensor]:
    """The layer and its gradients against the oracle; returns them."""
    x, up, down, weights = inputs
    x, weights = x.detach().requires_grad_(), weights.detach().requires_grad_()
    y = moge_ops.grouped_mlp(x, up, down, weights, routing, weight_on=weight_on)
    d_y = draw(5, *y.shape).to(y.dtype)
    found = torch.autograd.grad(y, (x, weights), d_y)
    x64, weights64 = (t.detach().double().requires_grad_() for t in (x, weights))
    y64 = oracle(x64, up, down, weights64, *routing, weight_on=weight_on, dtype=x.dtype)
    found64 = torch.autograd.grad(y64, (x64, weights64), d_y.double())
    # A number of x or of the activation that is a hair from a tie may become the next integer, one
    # of 127, and float64 has the activation before it is rounded to x's dtype, too
    flips = {torch.float32: 300.0, torch.bfloat16: 1.5, torch.float16: 12.0}
    slack = flips[x.dtype] if up.scheme in _quantized.INTEGERS else 1.0
    assert_matches(y, y64.detach(), "y", slack=slack)
    assert_matches(found[0], found64[0], "d_x", slack=slack)
    # dot products of d_y and the rows of y without their weights, of numbers of x's dtype
    size = (y64 / weights64).detach().square().sum(-1).mean().sqrt().item()
    assert_matches(found[1].to(x.dtype), found64[1], "d_weights", scale=size, slack=slack)
    return [y.detach(), *found]


@native
@all_dtypes
@pytest.mark.parametrize("name", SCHEMES)
def test_the_layer_matches_the_oracle(name: str, dtype: torch.dtype, device: str) -> None:
    for counts, dropped in (([0, 0], 0), ([1], 0), ([3, 0, 7], 2), ([17, 1, 130, 0, 33], 3)):
        for weight_on in ("output", "activation"):
            inputs, routing = layer(name, counts, 160, 96, dtype, dropped)
            check(inputs, routing, weight_on)


@native
@all_dtypes
@pytest.mark.parametrize("name", ["int8_w8a8", "int8_w8a16", "fp8_w8a16"])
def test_the_layer_with_odd_sizes(name: str, dtype: torch.dtype, device: str) -> None:
    for H, F in ((1, 1), (33, 17), (65, 3), (130, 66)):
        inputs, routing = layer(name, [20, 0, 2], H, F, dtype)
        check(inputs, routing, "output")


@native
@pytest.mark.slow
@all_dtypes
@pytest.mark.parametrize("name", SCHEMES)
def test_the_same_bits_for_any_number_of_threads(
    name: str, dtype: torch.dtype, device: str
) -> None:
    for counts in ([40], [2, 0, 1], [70, 130, 1, 64, 65, 5]):
        inputs, routing = layer(name, counts, 256, 192, dtype, dropped=2)
        alone = None
        for number in (1, 2, 3):
            with threads(number):
                found = check(inputs, routing, "output")
            alone = alone or found
            assert all(map(torch.equal, found, alone)), number


@native
@all_dtypes
@pytest.mark.parametrize("name", SCHEMES)
def test_a_bad_row_spoils_itself_alone(name: str, dtype: torch.dtype, device: str) -> None:
    for counts in ([5], [20], [70, 3]):
        (x, *rest), routing = layer(name, counts, 96, 32, dtype)
        want = moge_ops.grouped_mlp(x, *rest, routing)
        bad = x.clone()
        bad[2], bad[4, 7] = NAN, INF
        y = moge_ops.grouped_mlp(bad, *rest, routing)
        keep = [t for t in range(len(x)) if t not in (2, 4)]
        assert torch.equal(y[keep], want[keep])
        assert y[2].isnan().all()
        assert not y[4].isfinite().all()


@native
@all_dtypes
@pytest.mark.parametrize("name", ["int8_w8a8", "int4_w4a16-32-zero"])
def test_layouts_leave_no_trace(name: str, dtype: torch.dtype, device: str) -> None:
    (x, up, down, weights), routing = layer(name, [9, 0, 20], 96, 64, dtype)
    want = moge_ops.grouped_mlp(x, up, down, weights, routing)
    wide = torch.full((2 * len(x), 101), NAN, dtype=dtype)
    wide[::2, 3:99] = x

    for other in (wide[::2, 3:99], x.mT.contiguous().mT):
        assert torch.equal(moge_ops.grouped_mlp(other, up, down, weights, routing), want)
