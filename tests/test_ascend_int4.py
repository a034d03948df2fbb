"""Grouped products of bytes and integers of four bits in Ascend C, in two passes of four bits."""

import importlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import moge_ops
from moge_ops import testing
from moge_ops._quantized import int8_product
from moge_ops._quantized import quantize_rows as want_rows

_C: Any = pytest.importorskip("moge_ops._C", reason="built without the Ascend emulator")
common: Any = importlib.import_module("moge_ops.ascend._common")
quantize: Any = importlib.import_module("moge_ops.ascend._quantize")
mlp: Any = importlib.import_module("moge_ops.ascend.grouped_mlp")
gemm: Any = importlib.import_module("moge_ops.ascend.grouped_gemm")
NAN, INF = float("nan"), float("inf")
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
all_dtypes = pytest.mark.parametrize("dtype", [BF16, F16, F32], ids=str)


@pytest.fixture(autouse=True)
def _cores() -> Iterator[None]:
    _C.set_emulation(cores=5)
    with testing.backend("ascend"):
        yield
    _C.set_emulation()


def planes_of(q: Tensor) -> Tensor:
    """``int8 [N, I] -> int8 [N, 2, I / 2]``: ``q = 16 high + low + 8``, four bits each."""
    high = q >> 4
    low = (q & 15) - 8
    parts = torch.stack([high, low], 1) & 15
    return parts[..., ::2] | parts[..., 1::2] << 4


def numbers_of(packed: Tensor) -> Tensor:
    """Two's complement, the first of two in the lower half of a byte."""
    parts = torch.stack([packed & 15, packed >> 4 & 15], -1).flatten(-2)
    return (parts ^ 8) - 8


class Product:
    """Random numbers and scales; experts have ``counts`` rows, and ``more`` rows have none."""

    def __init__(self, counts: list[int], I: int, O: int, more: int = 0) -> None:
        N, E = sum(counts) + more, len(counts)
        self.rows = torch.randint(-128, 128, (N, I), dtype=torch.int8)
        self.weight = torch.randint(-128, 128, (E, O, I // 2), dtype=torch.int8)  # packed
        self.row_scale, self.scale = torch.rand(N) / 64, torch.rand(E, O) / 64
        self.offsets = torch.tensor([0, *counts]).cumsum(0).int()
        self.shape = _C.GemmShape(N=N, E=E, O=O, I=I)
        self.N, self.O = N, O

    def run(self, dtype: torch.dtype = F32) -> Tensor:
        """``[N, O]``, on the emulator."""
        out = torch.full((self.N, _C.grouped_gemm_pitch(columns=self.O)), NAN, dtype=dtype)
        ring = torch.empty(_C.grouped_gemm_int4_ring(shape=self.shape), dtype=torch.int32)
        tensors = {
            "planes": planes_of(self.rows),
            "row_scale": self.row_scale,
            "weight": self.weight,
            "scale": self.scale,
            "offsets": self.offsets,
            "ring": ring,
            "out": out,
        }
        pointers = {name: common.pointer(x) for name, x in tensors.items()}
        _C.grouped_gemm_int4(**pointers, shape=self.shape, dtype=common.dtype_of("", out), stream=0)
        return out[:, : self.O]

    def sums(self) -> Tensor:
        """``[N, O]`` int32."""
        sums = torch.zeros(self.N, self.O, dtype=torch.int32)
        weight = numbers_of(self.weight)
        for e, (a, b) in enumerate(pairwise(self.offsets.tolist())):
            sums[a:b] = int8_product(self.rows[a:b], weight[e]).int()
        return sums

    def want(self) -> Tensor:
        """The product of the torch backend: ``[N, O]`` float32."""
        out = torch.zeros(self.N, self.O)
        sums = self.sums()
        for e, (a, b) in enumerate(pairwise(self.offsets.tolist())):
            out[a:b] = sums[a:b].float() * (self.row_scale[a:b, None] * self.scale[e])
        return out


def same(got: Tensor, want: Tensor) -> None:
    """Bit for bit, but for the bits of a NaN."""
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


# rows of each expert, in, out: past one tile, one step in L1, one in L0, in each dimension
SHAPES = [
    pytest.param([100, 0, 57, 1], 600, 530, id="wide"),
    pytest.param([17, 0, 3, 40, 1], 530, 600, id="resident"),
    pytest.param([70, 2], 6002, 272, id="streaming"),
    pytest.param([56, 1, 55, 39, 40], 5120, 300, id="contiguous"),
    pytest.param([57], 5120, 300, id="one-more"),
    pytest.param([40, 7], 5122, 80, id="three-chunks"),
    pytest.param([3, 5, 0], 42, 700, id="few-rows-of-many"),
    pytest.param([300], 1344, 514, id="two-chunks"),
    pytest.param([60], 2, 274, id="shallow"),
    pytest.param([2] * 40, 16, 16, id="more-experts-than-cores"),
    pytest.param([112, 128], 128, 256, id="whole-tiles"),
    pytest.param([7, 8, 15, 16, 24], 130, 37, id="whole-fractals"),
    pytest.param([1], 2, 2, id="one"),
    pytest.param([0, 0], 34, 20, id="no-rows"),
]


@all_dtypes
@pytest.mark.parametrize(("counts", "I", "O"), SHAPES)
def test_products_are_those_of_torch(counts: list[int], I: int, O: int, dtype: torch.dtype) -> None:
    product = Product(counts, I, O, more=3)
    same(product.run(dtype), product.want().to(dtype))


@pytest.mark.parametrize("power", [0, -20, 30])
def test_sums_are_exact(power: int) -> None:
    """A power of two as scale leaves the sum's bits."""
    product = Product([20, 0, 7], 1000, 60, more=2)
    product.row_scale.fill_(2.0**power)
    product.scale.fill_(1)
    got = product.run()
    assert torch.equal((got / 2.0**power).double(), product.sums().double())
    assert got[:27].any()


@pytest.mark.parametrize("row", [-128, -127, -8, -1, 0, 7, 8, 127])
@pytest.mark.parametrize("number", [-8, 7])
def test_the_largest_sums(row: int, number: int) -> None:
    product = Product([2], 65534, 18)
    product.rows.fill_(row)
    product.weight.fill_(-120 if number == -8 else 119)  # both halves of a byte
    product.row_scale.fill_(1)
    product.scale.fill_(1)
    want = torch.tensor(row * number * 65534, dtype=torch.int32).float()
    same(product.run(), want.expand(2, 18))


def test_every_byte_times_every_number() -> None:
    """Each byte meets each number: column n is n - 8, alone in its row."""
    product = Product([128, 128], 16, 16)
    product.rows = torch.arange(-128, 128, dtype=torch.int8).unsqueeze(1).repeat(1, 16)
    numbers = torch.diag(torch.arange(-8, 8, dtype=torch.int8))
    product.weight = (numbers[:, ::2] & 15 | (numbers[:, 1::2] & 15) << 4).repeat(2, 1, 1)
    product.row_scale.fill_(1)
    product.scale.fill_(1)
    want = torch.arange(-128.0, 128)[:, None] * torch.arange(-8.0, 8)
    same(product.run(), want)


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


@pytest.mark.parametrize("counts", [[90, 0, 9], [40, 0, 9]], ids=["wide", "contiguous"])
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


@pytest.mark.parametrize(("counts", "I"), [([60, 0, 20], 40), ([60, 0, 20], 3000), ([9], 100)])
def test_the_strict_machine_finds_nothing_missing(counts: list[int], I: int) -> None:
    product = Product(counts, I, 290, more=5)
    _C.set_emulation(cores=5, strict=True)
    for dtype in (BF16, F32):
        same(product.run(dtype), product.want().to(dtype))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"O": 65536}, "O must be"),
        ({"I": 65536}, "I must be"),
        ({"I": 5}, "I must be even, got 5"),
        ({"N": 2**31}, "N must be"),
        ({"N": -1}, "N must be"),
        ({"E": 2**31}, "E must be"),
    ],
)
def test_the_host_refuses(change: dict[str, int], message: str) -> None:
    shape = _C.GemmShape(**({"N": 2, "E": 1, "O": 6, "I": 4} | change))
    names = ("planes", "row_scale", "weight", "scale", "offsets", "ring", "out")
    with pytest.raises(ValueError, match=message):
        _C.grouped_gemm_int4_ring(shape=shape)
    with pytest.raises(ValueError, match=message):
        _C.grouped_gemm_int4(
            **dict.fromkeys(names, 32), shape=shape, dtype=_C.DType.float32, stream=0
        )


# --- the rows as planes of four bits ---


def awkward(N: int, I: int, dtype: torch.dtype) -> Tensor:
    """Rows of many sizes; one of zeros, one of every integer, some that are not finite."""
    rows = torch.randn(N, I) * torch.logspace(-3, 3, max(N, 1))[:N, None]
    for n, value in enumerate((NAN, INF, -INF, 0.0)):
        if n + 1 < N:
            rows[n + 1, I // 2] = value
    if N > 6:
        rows[5] = 0.0
        rows[6] = torch.arange(I).remainder(255).sub(127)
    return rows.to(dtype)


@all_dtypes
@pytest.mark.parametrize(
    ("N", "I"),
    [(9, 510), (40, 64), (13, 128), (7, 96), (3, 2), (1, 5120), (2, 15362), (8, 1344), (1100, 66)],
)
def test_planes_are_the_quantised_rows(N: int, I: int, dtype: torch.dtype) -> None:
    rows = awkward(N, I, dtype)
    planes, scale = quantize.quantize_planes(rows)
    q, want_scale = want_rows(rows)
    same(scale, want_scale.flatten())
    assert torch.equal(planes, planes_of(q))
    high, low = numbers_of(planes).unbind(1)
    assert torch.equal(16 * high.int() + low + 8, q.int())


def test_planes_need_pairs() -> None:
    with pytest.raises(ValueError, match="I must be even, got 3"):
        quantize.quantize_planes(torch.ones(2, 3))


@all_dtypes
@pytest.mark.parametrize("H", [64, 70, 96, 128, 15364])
def test_permuted_planes_are_the_quantised_rows(H: int, dtype: torch.dtype) -> None:
    E, K, T = 8, 3, 10
    x = awkward(T, H, dtype)
    experts = torch.rand(T, E).topk(K).indices.int()
    experts[2, 1] = experts[7] = -1  # dropped
    row_to_slot, slot_to_row, _ = moge_ops.route(experts, E)
    planes, scale = quantize.permute_planes(x, slot_to_row)
    q, want_scale = want_rows(x)
    used = row_to_slot >= 0
    tokens = row_to_slot[used].long() // K
    same(scale[used], want_scale.flatten()[tokens])
    assert torch.equal(planes[used], planes_of(q)[tokens])


# --- which way a product goes ---


@pytest.mark.parametrize(("per_expert", "two"), [(2, True), (39, True), (40, False)])
@all_dtypes
def test_both_ways_give_the_same_bits(
    per_expert: int, two: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few rows are multiplied in two passes; for many, the weight is unpacked."""
    E, I, O = 2, 66, 50
    rows = awkward(E * per_expert, I, dtype)
    data = torch.randint(-128, 128, (E, O, I // 2), dtype=torch.int8)
    scale = torch.rand(E, O, 1)
    offsets = torch.tensor([0, per_expert + 1, 2 * per_expert], dtype=torch.int32)
    args = (rows, data, scale, None, offsets, "int4_w4a8", None)
    whole = gemm.int8_product(
        *quantize.quantize_rows(rows), numbers_of(data), scale.flatten(1), offsets, dtype
    )
    unpacked = []

    def integers(*of: Any) -> Tensor:
        unpacked.append(of)
        return numbers_of(data)

    monkeypatch.setattr(gemm, "integers", integers)
    same(gemm.grouped_gemm_quantized_fwd(*args), whole)
    assert len(unpacked) == (0 if two else 1)


@all_dtypes
@pytest.mark.parametrize("save", [False, True])
def test_layers_have_the_same_bits_both_ways(
    save: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropped slots, experts without rows, columns that fill no fractal."""
    T, H, F, E, K = 21, 130, 146, 7, 3
    x = torch.randn(T, H).to(dtype)
    experts = torch.rand(T, E - 1).topk(K).indices.int()
    experts[3, 0] = experts[9] = -1
    row_to_slot, slot_to_row, offsets = moge_ops.route(experts, E)
    up, down = (
        torch.randint(-128, 128, (E, *of), dtype=torch.int8)
        for of in ((2 * F, H // 2), (H, F // 2))
    )
    scales = torch.rand(E, 2 * F, 1) / 99, torch.rand(E, H, 1) / 99
    weights = torch.rand(T, K)

    def layer() -> tuple[Tensor, Tensor]:
        of_up, of_down = (up, scales[0], None), (down, scales[1], None)
        routed = (weights, row_to_slot, slot_to_row, offsets)
        more = ("int4_w4a8", None, None, "output", save)
        y, pre = mlp.grouped_mlp_quantized_fwd(x, *of_up, *of_down, *routed, *more)
        return y, pre

    got = layer()
    for module in (gemm, mlp):
        monkeypatch.setattr(module, "in_two_passes", lambda *of: False)
    want = layer()
    same(got[1], want[1])
    same(got[0], want[0])
    assert got[0].isfinite().all()
