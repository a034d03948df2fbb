"""The expert layer forward in Ascend C: one launch, whose phases hand rows to each other."""

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import moge_ops
from moge_ops import testing
from moge_ops.ops.grouped_gemm import grouped_gemm
from moge_ops.reference.grouped_mlp import grouped_mlp as mlp_oracle
from moge_ops.reference.route import route as route_oracle
from moge_ops.testing import assert_matches, group_ids

_C: Any = pytest.importorskip("moge_ops._C", reason="built without the Ascend emulator")
mlp: Any = importlib.import_module("moge_ops.ascend.grouped_mlp")
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@pytest.fixture(autouse=True)
def _ascend() -> Iterator[None]:
    _C.set_emulation(cores=6)
    with testing.backend("ascend"):
        yield
    _C.set_emulation()


def make(
    T: int, H: int, E: int, K: int, F: int, dtype: torch.dtype
) -> tuple[list[Tensor], moge_ops.Routing]:
    """x, the layer's weights, those of the slots, and a routing that drops a tenth of them."""
    ids = torch.randint(0, E, (T, K)).int()
    ids[torch.rand(T, K) < 0.1] = -1
    gate_up, down = torch.randn(E, 2 * F, H) / H**0.5, torch.randn(E, H, F) / F**0.5
    args = [torch.randn(T, H), gate_up, down]
    return [*(t.to(dtype) for t in args), torch.rand(T, K) + 0.1], moge_ops.route(ids, E)


def check(args: list[Tensor], routing: moge_ops.Routing, weight_on: str) -> None:
    got, pre = mlp.grouped_mlp_fwd(*args, *routing, weight_on, True)
    want = mlp_oracle(*(t.double() for t in args), *routing, weight_on=weight_on)
    assert_matches(got, want, "y")
    assert pre[int(routing.offsets[-1]) :].eq(0).all()
    assert torch.equal(got, mlp.grouped_mlp_fwd(*args, *routing, weight_on, False)[0])


@pytest.mark.parametrize("weight_on", ["output", "activation"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("T", "H", "E", "K", "F"),
    [
        (1, 64, 3, 2, 16),
        (1, 200, 3, 1, 33),
        (2, 17, 4, 17, 15),
        (15, 33, 2, 16, 48),
        (33, 40, 5, 33, 17),
        (140, 24, 2, 2, 16),
    ],
    ids=["one-token", "parts", "slots-17", "slots-16", "slots-33", "more-than-a-tile"],
)
def test_every_phase(
    T: int, H: int, E: int, K: int, F: int, dtype: torch.dtype, weight_on: str
) -> None:
    check(*make(T, H, E, K, F, dtype), weight_on)


@pytest.mark.parametrize("weight_on", ["output", "activation"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_rows_longer_than_a_part(dtype: torch.dtype, weight_on: str) -> None:
    _C.set_emulation(cores=2)
    check(*make(3, 5200, 2, 2, 16, dtype), weight_on)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_deep_down_product_streams(dtype: torch.dtype) -> None:
    """The left factor of down does not fit into L1 beside the weight."""
    check(*make(130, 48, 1, 1, 1800 if dtype == torch.float16 else 900, dtype), "output")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_launch_gives_the_bits_of_its_parts(dtype: torch.dtype) -> None:
    (x, gate_up, down, weights), routing = make(20, 72, 4, 3, 40, dtype)
    _C.start_recording()
    got = moge_ops.grouped_mlp(x, gate_up, down, weights, routing)
    assert [launch["name"] for launch in _C.stop_recording()] == ["grouped_mlp_fwd"]
    rows = grouped_gemm(moge_ops.permute(x, routing), gate_up, routing.offsets)
    rows = grouped_gemm(moge_ops.swiglu(rows), down, routing.offsets)
    assert torch.equal(got, moge_ops.unpermute(rows, routing, weights))


@pytest.mark.parametrize("weight_on", ["output", "activation"])
@pytest.mark.parametrize("T", [1, 5, 300])
def test_cores_in_any_order_give_the_same(T: int, weight_on: str) -> None:
    args, routing = make(T, 320, 3, 2, 24, torch.bfloat16)
    want = mlp.grouped_mlp_fwd(*args, *routing, weight_on, True)
    for cores, seed in ((2, 0), (4, 1), (14, 2), (48, 3)):
        _C.set_emulation(cores=cores, seed=seed)
        got = mlp.grouped_mlp_fwd(*args, *routing, weight_on, True)
        for a, b in zip(got, want, strict=True):
            assert torch.equal(a, b), (cores, seed)


@pytest.mark.parametrize("weight_on", ["output", "activation"])
def test_what_was_dropped_is_not_read(weight_on: str) -> None:
    (x, gate_up, down, weights), _ = make(9, 48, 3, 2, 16, torch.float32)
    ids = torch.randint(0, 3, (9, 2)).int()
    ids[2], ids[5, 1] = -1, -1
    routing = moge_ops.route(ids, 3)
    want = mlp.grouped_mlp_fwd(x, gate_up, down, weights, *routing, weight_on, False)[0]
    assert want[2].eq(0).all()
    x[2], weights[2], weights[5, 1] = float("nan"), float("nan"), float("inf")
    got = mlp.grouped_mlp_fwd(x, gate_up, down, weights, *routing, weight_on, False)[0]
    assert torch.equal(got, want)


def test_a_token_that_is_not_finite_stays_alone() -> None:
    args, routing = make(12, 48, 2, 2, 16, torch.bfloat16)
    want = mlp.grouped_mlp_fwd(*args, *routing, "output", False)[0]
    args[0][4] = float("inf")
    got = mlp.grouped_mlp_fwd(*args, *routing, "output", False)[0]
    others = torch.arange(12) != 4
    assert torch.equal(got[others], want[others])
    assert not got[4].isfinite().all() or (routing.slot_to_row[4] < 0).all()


@pytest.mark.parametrize(("T", "H", "F"), [(0, 8, 8), (3, 0, 8), (3, 8, 0)], ids="THF")
def test_nothing_to_launch(T: int, H: int, F: int) -> None:
    args, routing = make(T, max(H, 1), 2, 2, max(F, 1), torch.float32)
    args[0], args[1], args[2] = args[0][:, :H], args[1][:, : 2 * F, :H], args[2][:, :H, :F]
    _C.start_recording()
    y, pre = mlp.grouped_mlp_fwd(*args, *routing, "output", True)
    assert not _C.stop_recording()
    assert y.shape == (T, H)
    assert pre.shape == (2 * T, 2 * F)
    assert y.eq(0).all()
    assert pre.eq(0).all()


@pytest.mark.parametrize(("T", "most"), [(1, 1.04), (16, 1.02)])
def test_decoding_takes_little_longer_than_its_weights(T: int, most: float) -> None:
    """Modelled on 910B1: the launch's 13 us and memory's 1.6 TB/s are the floor."""
    torch.use_deterministic_algorithms(False)  # or empty tensors of gigabytes would be filled
    H, E, F, K = 5120, 64, 1344, 8
    routing = route_oracle(group_ids(T, E, K, 1), E)
    new = lambda *sizes: torch.empty(*sizes, dtype=torch.bfloat16)  # noqa: E731
    args = (new(T, H), new(E, 2 * F, H), new(E, H, F), torch.empty(T, K))
    _C.set_emulation(checks=False, counting=True)
    _C.start_recording("910B1")
    mlp.grouped_mlp_fwd(*args, *routing, "output", False)
    (launch,) = _C.stop_recording()
    weights = int((routing[2].diff() > 0).sum()) * 3 * F * H * 2
    assert launch["times"]["seconds"] <= most * (weights / 1.6e12 + 13e-6)
