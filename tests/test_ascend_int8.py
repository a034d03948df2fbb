"""Grouped products of bytes in Ascend C, which are exact until they are rounded to their dtype."""

import importlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from moge_ops._quantized import int8_product

_C: Any = pytest.importorskip("moge_ops._C", reason="built without the Ascend emulator")
common: Any = importlib.import_module("moge_ops.ascend._common")
NAN, INF = float("nan"), float("inf")
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


@pytest.fixture(autouse=True)
def _cores() -> Iterator[None]:
    _C.set_emulation(cores=5)
    yield
    _C.set_emulation()


class Product:
    """Random bytes and scales; experts have ``counts`` rows, and ``more`` rows have none."""

    def __init__(self, counts: list[int], I: int, O: int, more: int = 0) -> None:
        N, E = sum(counts) + more, len(counts)
        self.rows = torch.randint(-128, 128, (N, I), dtype=torch.int8)
        self.weight = torch.randint(-128, 128, (E, O, I), dtype=torch.int8)
        self.row_scale, self.scale = torch.rand(N) / 64, torch.rand(E, O) / 64
        self.offsets = torch.tensor([0, *counts]).cumsum(0).int()
        self.shape = _C.GemmShape(N=N, E=E, O=O, I=I)
        self.N, self.O = N, O

    def pointers(self, **more: Tensor | None) -> dict[str, Any]:
        names = ("rows", "row_scale", "weight", "scale", "offsets")
        tensors = {name: getattr(self, name) for name in names} | more
        return {name: common.pointer(x) for name, x in tensors.items()} | {
            "shape": self.shape,
            "stream": 0,
        }

    def run(self, dtype: torch.dtype = F32) -> Tensor:
        """``[N, O]``, on the emulator."""
        out = torch.full((self.N, _C.grouped_gemm_pitch(columns=self.O)), NAN, dtype=dtype)
        ring = torch.empty(_C.grouped_gemm_int8_ring(shape=self.shape), dtype=torch.int32)
        _C.grouped_gemm_int8(**self.pointers(ring=ring, out=out), dtype=common.dtype_of("", out))
        return out[:, : self.O]

    def want(self) -> Tensor:
        """The product of the torch backend: ``[N, O]`` float32."""
        out = torch.zeros(self.N, self.O)
        starts = self.offsets.tolist()
        for e, (a, b) in enumerate(pairwise(starts)):
            scales = self.row_scale[a:b, None] * self.scale[e]
            out[a:b] = int8_product(self.rows[a:b], self.weight[e]) * scales
        return out


def same(got: Tensor, want: Tensor) -> None:
    """Bit for bit, but for the bits of a NaN."""
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


# rows of each expert, in, out: past one tile, one step in L1, one in L0, in each dimension
SHAPES = [
    pytest.param([200, 0, 129, 1], 600, 530, id="wide"),
    pytest.param([17, 0, 3, 40, 1], 530, 600, id="resident"),
    pytest.param([130, 2], 3000, 272, id="streaming"),
    pytest.param([100, 1, 128], 5120, 300, id="contiguous"),
    pytest.param([40, 7], 5117, 80, id="three-chunks"),
    pytest.param([3, 5, 0], 40, 700, id="few-rows-of-many"),
    pytest.param([300], 1344, 514, id="two-chunks"),
    pytest.param([130], 3, 274, id="shallow"),
    pytest.param([2] * 40, 16, 16, id="more-experts-than-cores"),
    pytest.param([128, 128], 128, 256, id="whole-tiles"),
    pytest.param([1], 1, 2, id="one"),
    pytest.param([0, 0], 33, 20, id="no-rows"),
]


@pytest.mark.parametrize("dtype", [BF16, F16, F32], ids=str)
@pytest.mark.parametrize(("counts", "I", "O"), SHAPES)
def test_products_are_those_of_torch(counts: list[int], I: int, O: int, dtype: torch.dtype) -> None:
    product = Product(counts, I, O, more=3)
    same(product.run(dtype), product.want().to(dtype))


@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
def test_odd_columns(dtype: torch.dtype) -> None:
    product = Product([33, 1, 0, 15], 45, 37)
    same(product.run(dtype), product.want().to(dtype))


@pytest.mark.parametrize("power", [0, -20, 30])
def test_sums_are_exact(power: int) -> None:
    """A power of two as scale leaves the sum's bits."""
    product = Product([20, 0, 7], 1000, 60, more=2)
    product.row_scale.fill_(2.0**power)
    product.scale.fill_(1)
    product.rows[0], product.weight[0, 0] = 127, 127
    got = product.run()
    parts = ((slice(0, 20), 0), (slice(20, 27), 2))
    sums = torch.cat([int8_product(product.rows[a], product.weight[e]) for a, e in parts])
    assert sums[0, 0] == 127 * 127 * 1000
    assert torch.equal((got[:27] / 2.0**power).double(), sums.double())
    assert not got[27:].any()


@pytest.mark.parametrize(("left", "right"), [(-128, 127), (-128, -128), (127, 127)])
def test_the_largest_sums(left: int, right: int) -> None:
    product = Product([2], 65535, 18)
    product.rows.fill_(left)
    product.weight.fill_(right)
    product.row_scale.fill_(1)
    product.scale.fill_(1)
    want = torch.tensor(left * right * 65535, dtype=torch.int32).float()
    same(product.run(), want.expand(2, 18))


@pytest.mark.parametrize("bad", [NAN, INF, 0.0])
def test_bad_scales_stay_apart(bad: float) -> None:
    product = Product([40, 3, 0], 70, 52, more=4)
    product.row_scale[[5, 39, 44]] = bad  # the last is of a row without an expert
    product.scale[1, 7] = bad
    product.scale[2] = bad
    got = product.run()
    same(got, product.want())
    assert got.isfinite().all() == (bad == 0.0)
    assert not got[43:].any()


@pytest.mark.parametrize("counts", [[150, 0, 9], [40, 0, 9]], ids=["wide", "contiguous"])
def test_products_do_not_depend_on_the_cores(counts: list[int]) -> None:
    product = Product(counts, 300, 580, more=1)
    results = []
    for cores, seed in ((2, 0), (5, 1), (24, 2), (48, 3)):  # two are one cube core's
        _C.set_emulation(cores=cores, seed=seed)
        results.append(product.run(BF16))
    for other in results[1:]:
        same(other, results[0])


@pytest.mark.parametrize(("N", "E", "O", "I"), [(0, 2, 6, 4), (3, 2, 0, 4), (3, 2, 6, 0)])
def test_products_of_nothing(N: int, E: int, O: int, I: int) -> None:
    product = Product([N] + [0] * (E - 1), I, O)
    same(product.run(), torch.zeros(N, O))


def test_rows_of_no_expert_at_all() -> None:
    product = Product([0, 0], 40, 20, more=140)
    product.row_scale.fill_(NAN)
    same(product.run(BF16), torch.zeros(140, 20, dtype=BF16))


@pytest.mark.parametrize("offsets", [[0, 4, 30, 30], [-4, 2, 2, 1000], [3, 3, 3, 3]])
def test_products_stay_inside_with_bad_offsets(offsets: list[int]) -> None:
    product = Product([3, 3, 4], 20, 40)
    product.offsets = torch.tensor(offsets, dtype=torch.int32)
    product.run()


@pytest.mark.parametrize(("counts", "I"), [([130, 0, 20], 40), ([130, 0, 20], 3000), ([9], 100)])
def test_the_strict_machine_finds_nothing_missing(counts: list[int], I: int) -> None:
    """Every flag and barrier is there."""
    product = Product(counts, I, 290, more=5)
    _C.set_emulation(cores=5, strict=True)
    for dtype in (BF16, F32):
        same(product.run(dtype), product.want().to(dtype))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"O": 65536}, "O must be"),
        ({"I": 65536}, "I must be"),
        ({"N": 2**31}, "N must be"),
        ({"N": -1}, "N must be"),
        ({"E": 2**31}, "E must be"),
    ],
)
def test_the_host_refuses(change: dict[str, int], message: str) -> None:
    shape = _C.GemmShape(**({"N": 2, "E": 1, "O": 6, "I": 4} | change))
    tensors = ("rows", "row_scale", "weight", "scale", "offsets", "ring")
    pointers = dict.fromkeys(tensors, 32) | {"shape": shape, "dtype": _C.DType.float32, "stream": 0}
    calls: tuple[Callable[[], Any], ...] = (
        lambda: _C.grouped_gemm_int8_ring(shape=shape),
        lambda: _C.grouped_gemm_int8(out=32, **pointers),
    )
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()


def test_a_missing_scale_is_an_error() -> None:
    product = Product([3], 20, 40)
    product.row_scale = torch.empty(0)
    with pytest.raises(ValueError, match="row_scale"):
        product.run()
