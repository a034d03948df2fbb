"""The expert layer of weights of bytes in Ascend C: one launch with the bits of its parts."""

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import moge_ops
from moge_ops import _quantized, quant, testing
from moge_ops._quantized import QuantizedWeight
from moge_ops.ops.grouped_gemm import grouped_gemm
from moge_ops.reference.route import route as route_oracle
from moge_ops.testing import group_ids

_C: Any = pytest.importorskip("moge_ops._C", reason="built without the Ascend emulator")
mlp: Any = importlib.import_module("moge_ops.ascend.grouped_mlp")
NAN, INF = float("nan"), float("inf")
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


@pytest.fixture(autouse=True)
def _ascend() -> Iterator[None]:
    _C.set_emulation(cores=6)
    with testing.backend("ascend"):
        yield
    _C.set_emulation()


class Layer:
    """Random tokens, some of their slots dropped, and weights with scales of any size."""

    def __init__(
        self, T: int, H: int, E: int, K: int, F: int, dtype: torch.dtype, dropped: float = 0.1
    ) -> None:
        self.ids = torch.randint(0, E, (T, K)).int()
        self.ids[torch.rand(T, K) < dropped] = -1
        self.routing = moge_ops.route(self.ids, E)
        self.x = (torch.randn(T, H) * torch.logspace(-2, 2, T)[:, None]).to(dtype)
        self.gate_up = quant.quantize(torch.randn(E, 2 * F, H) / H**0.5, "int8_w8a8")
        self.down = quant.quantize(torch.randn(E, H, F) / F**0.5, "int8_w8a8")
        self.weights = torch.rand(T, K) + 0.1

    def run(self, save: bool = True) -> tuple[Tensor, Tensor]:
        """``y, pre``, of the kernel."""
        up, down = ((w.data, w.scale, None) for w in (self.gate_up, self.down))
        rest = (self.weights, *self.routing, "int8_w8a8", None, None, "output", save)
        y, pre = mlp.grouped_mlp_quantized_fwd(self.x, *up, *down, *rest)
        return y, pre

    def parts(self) -> tuple[Tensor, Tensor]:
        """The same of launches for each part: SwiGLU takes what was not rounded yet."""
        dtype, offsets = self.x.dtype, self.routing.offsets
        pre = grouped_gemm(moge_ops.permute(self.x, self.routing).float(), self.gate_up, offsets)
        act = moge_ops.swiglu(pre).to(dtype)
        out = grouped_gemm(act, self.down, offsets)
        return moge_ops.unpermute(out, self.routing, self.weights), pre.to(dtype)

    def check(self) -> None:
        (y, pre), (want, want_pre) = self.run(), self.parts()
        same(pre, want_pre)
        same(y, want)
        same(self.run(save=False)[0], want)


def same(got: Tensor, want: Tensor) -> None:
    """Bit for bit, but for the bits of a NaN."""
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [BF16, F16, F32], ids=str)
@pytest.mark.parametrize(
    ("T", "H", "E", "K", "F"),
    [
        (1, 64, 3, 2, 16),
        (1, 200, 3, 1, 33),
        (2, 17, 4, 17, 15),
        (15, 32, 2, 16, 48),
        (33, 40, 5, 33, 17),
        (140, 96, 2, 2, 64),
        (150, 160, 1, 1, 600),
        (7, 530, 40, 3, 130),
    ],
    ids=[
        "one-token",
        "one-slot",
        "slots-17",
        "slots-16",
        "slots-33",
        "tiles",
        "two-tiles",
        "experts-40",
    ],
)
def test_one_launch_gives_the_bits_of_its_parts(
    T: int, H: int, E: int, K: int, F: int, dtype: torch.dtype
) -> None:
    Layer(T, H, E, K, F, dtype).check()


@pytest.mark.parametrize(("T", "H", "F"), [(2, 16000, 16), (3, 33, 16001)])
@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
def test_rows_longer_than_a_tile(T: int, H: int, F: int, dtype: torch.dtype) -> None:
    Layer(T, H, 2, 2, F, dtype).check()


def test_pre_has_the_bits_of_torch() -> None:
    layer = Layer(21, 96, 3, 2, 40, F32)
    rows = moge_ops.permute(layer.x, layer.routing)
    with testing.backend("torch"):
        same(layer.run()[1], grouped_gemm(rows, layer.gate_up, layer.routing.offsets))


def test_it_is_one_launch() -> None:
    layer = Layer(20, 72, 4, 3, 40, BF16)
    args = (layer.x, layer.gate_up, layer.down, layer.weights, layer.routing)
    _C.start_recording()
    moge_ops.grouped_mlp(*args)
    assert [launch["name"] for launch in _C.stop_recording()] == ["grouped_mlp_int8_fwd"]


PLANES = ["permute_planes", "grouped_mlp_up_int4"]


@pytest.mark.parametrize(
    ("T", "launches"),
    [
        (20, [*PLANES, "quantize_planes", "grouped_gemm_int4", "unpermute_fwd"]),
        (40, [*PLANES, "unpack_int4", "quantize_rows", "grouped_gemm_int8", "unpermute_fwd"]),
        (60, ["unpack_int4", "unpack_int4", "grouped_mlp_int8_fwd"]),
    ],
)
def test_four_bits_are_unpacked_for_many_rows(T: int, launches: list[str]) -> None:
    layer = Layer(T, 72, 4, 3, 40, BF16)
    up, down = (
        quant.quantize(quant.dequantize(w, F32), "int4_w4a8") for w in (layer.gate_up, layer.down)
    )
    _C.start_recording()
    got = moge_ops.grouped_mlp(layer.x, up, down, layer.weights, layer.routing)
    names = [launch["name"] for launch in _C.stop_recording()]
    assert names == launches
    layer.gate_up, layer.down = (
        QuantizedWeight(_quantized.unpack_nibbles(w.data), w.scale, None, "int8_w8a8", None)
        for w in (up, down)
    )
    same(got, layer.run()[0])


@pytest.mark.parametrize("T", [1, 5, 150])
def test_cores_in_any_order_give_the_same(T: int) -> None:
    layer = Layer(T, 320, 3, 5, 24, BF16)
    want = layer.run()
    for cores, seed in ((2, 0), (4, 1), (14, 2), (48, 3)):
        _C.set_emulation(cores=cores, seed=seed)
        for a, b in zip(layer.run(), want, strict=True):
            assert torch.equal(a, b), (cores, seed)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_token_that_is_not_finite_stays_alone(value: float) -> None:
    layer = Layer(12, 48, 2, 2, 16, BF16, dropped=0.0)
    want = layer.run()[0]
    layer.x[4, 7] = value
    layer.check()
    got, others = layer.run()[0], torch.arange(12) != 4
    assert torch.equal(got[others], want[others])
    assert got[4].isnan().all()


@pytest.mark.parametrize("value", [NAN, INF, 0.0, -0.5])
def test_scales_of_any_value(value: float) -> None:
    layer = Layer(12, 48, 2, 2, 16, F32)
    layer.down.scale[0, 3] = value
    layer.check()
    layer.gate_up.scale[1, 3] = value
    layer.check()


def test_what_was_dropped_is_not_read() -> None:
    layer = Layer(9, 48, 3, 2, 16, F32, dropped=0.0)
    layer.ids[2], layer.ids[5, 1] = -1, -1
    layer.routing = moge_ops.route(layer.ids, 3)
    want, pre = layer.run()
    assert want[2].eq(0).all()
    assert pre[15:].eq(0).all()
    layer.x[2], layer.weights[2], layer.weights[5, 1] = NAN, NAN, INF
    assert torch.equal(layer.run()[0], want)


@pytest.mark.parametrize("dropped", [0.5, 1.0])
def test_many_rows_without_an_expert(dropped: float) -> None:
    Layer(90, 64, 3, 4, 32, BF16, dropped).check()


def test_tokens_of_zeros() -> None:
    layer = Layer(9, 48, 3, 2, 16, BF16)
    layer.x.zero_()
    assert not layer.run()[0].any()
    layer.check()


def test_weights_in_rows_that_are_not_contiguous() -> None:
    layer = Layer(9, 48, 3, 2, 16, BF16)
    want = layer.run()
    layer.x = layer.x.T.contiguous().T
    layer.weights = layer.weights.T.contiguous().T
    for a, b in zip(layer.run(), want, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("T", "H", "F"), [(0, 8, 8), (3, 0, 8), (3, 8, 0)], ids="THF")
def test_nothing_to_launch(T: int, H: int, F: int) -> None:
    layer = Layer(T, 8, 2, 2, 8, F32)
    layer.x = layer.x[:, :H]
    up, down = layer.gate_up, layer.down
    layer.gate_up = up._replace(data=up.data[:, : 2 * F, :H], scale=up.scale[:, : 2 * F])
    layer.down = down._replace(data=down.data[:, :H, :F], scale=down.scale[:, :H])
    _C.start_recording()
    y, pre = layer.run()
    assert not _C.stop_recording()
    same(y, torch.zeros(T, H))
    same(pre, torch.zeros(2 * T, 2 * F))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"T": 2**31}, "T"),
        ({"T": -1}, "T must be"),
        ({"H": 65536}, "H|O|I"),
        ({"F": 32768}, "F must be"),
        ({"E": 2**31}, "E must be"),
        ({"K": 2049}, "K must be"),
    ],
)
def test_the_host_refuses(change: dict[str, int], message: str) -> None:
    shape = _C.MlpShape(**({"T": 2, "K": 2, "E": 1, "H": 6, "F": 4} | change))
    names = "x gate_up gate_up_scale down down_scale weights slot_to_row offsets rows row_scale"
    pointers = dict.fromkeys([*names.split(), "ring", "pre", "act", "q", "y"], 32)
    with pytest.raises(ValueError, match=message):
        _C.grouped_mlp_int8_ring(shape=shape)
    with pytest.raises(ValueError, match=message):
        _C.grouped_mlp_int8_fwd(**pointers, shape=shape, dtype=_C.DType.float32, stream=0)


@pytest.mark.parametrize(("T", "most"), [(1, 1.06), (16, 1.04)])
def test_decoding_takes_little_longer_than_its_weights(T: int, most: float) -> None:
    """Modelled on 910B1: the launch's 13 us and memory's 1.6 TB/s are the floor."""
    torch.use_deterministic_algorithms(False)  # or empty tensors of gigabytes would be filled
    H, E, F, K = 5120, 64, 1344, 8
    routing = route_oracle(group_ids(T, E, K, 1), E)
    up = (torch.empty(E, 2 * F, H, dtype=torch.int8), torch.empty(E, 2 * F))
    down = (torch.empty(E, H, F, dtype=torch.int8), torch.empty(E, H))
    args = (torch.empty(T, H, dtype=BF16), *up, *down, torch.empty(T, K), *routing[1:], False)
    _C.set_emulation(checks=False, counting=True)
    _C.start_recording("910B1")
    mlp.grouped_mlp_int8_fwd(*args)
    (launch,) = _C.stop_recording()
    weights = int((routing[2].diff() > 0).sum()) * 3 * F * H
    assert launch["times"]["seconds"] <= most * (weights / 1.6e12 + 13e-6)
