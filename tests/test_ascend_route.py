"""Route in Ascend C against its oracle: sorted tiles, streams, and what neither can hold."""

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import moge_ops
from moge_ops import testing
from moge_ops.reference.route import route as oracle
from moge_ops.testing import group_ids

_C: Any = pytest.importorskip("moge_ops._C", reason="built without the Ascend emulator")
importlib.import_module("moge_ops.ascend")


@pytest.fixture(autouse=True)
def _ascend() -> Iterator[None]:
    torch.manual_seed(0)
    with testing.backend("ascend"):
        yield
    _C.set_emulation()


def check(experts: Tensor, E: int, num_groups: int | None) -> None:
    got = moge_ops.route(experts, E, num_groups=num_groups)
    want = oracle(experts, E, num_groups=num_groups)
    for name, a, b in zip(got._fields, got, want, strict=True):
        assert torch.equal(a, b), name


def dropped(experts: Tensor) -> Tensor:
    """Some slots without an expert, and some with one of another group."""
    wild = torch.randint(-(2**31), 2**31 - 1, experts.shape).int()
    experts = torch.where(torch.rand(experts.shape) < 0.2, wild, experts)
    return experts + (torch.rand(experts.shape) < 0.1)


SIZES = [
    pytest.param(1, 64, 8, 1, id="one-token"),
    pytest.param(15, 8, 8, 1, id="one-expert-per-group"),
    pytest.param(16, 64, 8, 1, id="sixteen"),
    pytest.param(33, 1, 1, 1, id="one-expert"),
    pytest.param(33, 13, 1, 5, id="no-whole-block-of-experts"),
    pytest.param(17, 512, 16, 2, id="more-experts-than-slots"),
    pytest.param(255, 64, 8, 1, id="a-full-tile"),
    pytest.param(257, 64, 8, 1, id="one-past-a-tile"),
    pytest.param(300, 96, 16, 3, id="odd-groups"),
    pytest.param(331, 512, 8, 1, id="lists-merged-by-expert"),
    pytest.param(400, 384, 1, 8, id="plain-top-8"),
    pytest.param(90, 1024, 1, 40, id="the-most-experts"),
]


@pytest.mark.parametrize("cores", [1, 5, 48])
@pytest.mark.parametrize(("T", "E", "G", "k"), SIZES)
def test_route_by_sorting(T: int, E: int, G: int, k: int, cores: int) -> None:
    _C.set_emulation(cores=cores)
    experts = group_ids(T, E, G, k)
    check(experts, E, G)
    experts = dropped(experts)
    check(experts, E, G)
    check(experts, E, None)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("E", "G"), [(32, 4), (512, 8)])
def test_cores_in_any_order(E: int, G: int, seed: int) -> None:
    _C.set_emulation(cores=7, seed=seed)
    check(dropped(group_ids(600, E, G, 1)), E, G)


@pytest.mark.parametrize("E", [64, 512])
@pytest.mark.parametrize("id_", [0, 7, -1, 511])
def test_all_slots_to_one_expert(id_: int, E: int) -> None:
    """A list that is longer than what is merged at once is copied from tile to tile."""
    _C.set_emulation(cores=5)
    check(torch.full((900, 8), id_).int(), E, None)


def test_few_experts_of_many_have_all_slots() -> None:
    """Lists that are too long together, and short enough in part."""
    _C.set_emulation(cores=5)
    experts = torch.randint(0, 5, (900, 8)).int() * 20
    experts[torch.rand(900, 8) < 0.5] = 40
    check(experts, 512, None)


STREAMS = [
    pytest.param(3072, 64, 8, 1, id="pangu"),
    pytest.param(3073, 64, 8, 1, id="pangu-one-token-more"),
    pytest.param(1650, 64, 8, 2, id="two-of-a-group"),
    pytest.param(1100, 60, 12, 2, id="two-planes-and-odd-groups"),
    pytest.param(1030, 128, 16, 3, id="sixteen-groups"),
    pytest.param(8200, 24, 3, 1, id="segments-of-three-groups"),
    pytest.param(6200, 32, 4, 1, id="segments-of-four-groups"),
    pytest.param(25000, 8, 1, 1, id="segments-of-one-group"),
    pytest.param(6300, 4, 1, 4, id="plain-top-4"),
    pytest.param(3100, 8, 8, 1, id="one-expert-per-group"),
    pytest.param(4100, 6, 2, 3, id="an-odd-number-of-columns"),
]


@pytest.mark.parametrize(("T", "E", "G", "k"), STREAMS)
@pytest.mark.parametrize("cores", [5, 48])
def test_route_by_streams(T: int, E: int, G: int, k: int, cores: int) -> None:
    """Many slots of groups with few experts: several tiles of a core, and one."""
    _C.set_emulation(cores=cores, seed=cores)
    experts = group_ids(T, E, G, k)
    check(experts, E, G)
    check(dropped(experts), E, G)


@pytest.mark.parametrize(("E", "G", "K"), [(64, 8, 8), (64, 8, 16), (8, 1, 4), (128, 16, 16)])
def test_vector_cycles_of_full_tiles(E: int, G: int, K: int) -> None:
    """Six for eight slots, and some for each tile; the scalar unit reads nothing of a slot."""
    _C.set_emulation(cores=16)
    _C.start_recording()
    experts = group_ids(65536 // K, E, G, K // G)
    moge_ops.route(experts, E, num_groups=G)
    (launch,) = _C.stop_recording()
    cores = len(launch["cores"])
    assert sum(launch["total"]["scalars"].values()) <= cores * (2 * G + 16 + E) + 1
    cycles = sum(core["pipes"]["V"]["cycles"] for core in launch["cores"])
    assert cycles * 8 / experts.numel() < 7.0


@pytest.mark.parametrize("cores", [1, 5])
def test_more_slots_than_streams_hold(cores: int) -> None:
    """A core has three tiles at most; the same slots are then sorted."""
    _C.set_emulation(cores=cores)
    check(dropped(group_ids(8000, 64, 8, 1)), 64, 8)


@pytest.mark.parametrize(("E", "G"), [(64, 8), (8, 1)])
@pytest.mark.parametrize("id_", [0, 7, 8, 63, 64, -1])
def test_all_slots_by_streams_to_one_expert(id_: int, E: int, G: int) -> None:
    _C.set_emulation(cores=48)
    check(torch.full((4096, 8), id_).int(), E, G)


def test_several_tiles_of_a_core() -> None:
    _C.set_emulation(cores=3)
    check(dropped(group_ids(3001, 24, 4, 1)), 24, 4)


@pytest.mark.slow
@pytest.mark.parametrize(("E", "G", "k"), [(64, 8, 1), (512, 1, 8)])
def test_many_tokens(E: int, G: int, k: int) -> None:
    _C.set_emulation(cores=48)
    check(group_ids(31000, E, G, k), E, G)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("T", "E", "K"), [(600, 1032, 8), (3, 16, 2100)])
def test_more_experts_or_columns_than_are_sorted(T: int, E: int, K: int, seed: int) -> None:
    _C.set_emulation(cores=5, seed=seed)
    experts = torch.randint(-1, E + 1, (T, K)).int()
    check(experts, E, None)
    check(experts, E, 2)


@pytest.mark.parametrize(("T", "K"), [(0, 8), (5, 0)])
def test_nothing_to_route(T: int, K: int) -> None:
    check(torch.zeros(T, K).int(), 512, None)


def test_one_tile_needs_no_exchange() -> None:
    """What a decoding step takes: one core, no wait for others, three accesses of scalars."""
    _C.set_emulation(cores=48)
    _C.start_recording()
    moge_ops.route(group_ids(16, 512, 8, 1), 512, num_groups=8)
    (launch,) = _C.stop_recording()
    assert len(launch["cores"]) == 1
    assert launch["total"]["sync_all"] == 0
    assert sum(launch["total"]["scalars"].values()) == 3


@pytest.mark.parametrize(("E", "G"), [(64, 8), (512, 1)])
def test_scalar_accesses_are_of_experts_and_tiles(E: int, G: int) -> None:
    _C.set_emulation(cores=48)
    _C.start_recording()
    moge_ops.route(group_ids(3000, E, G, 8 // G), E, num_groups=G)
    (launch,) = _C.stop_recording()
    cores = len(launch["cores"])
    assert sum(launch["total"]["scalars"].values()) <= cores * (5 + 2 * min(E, 2 * cores))


@pytest.mark.parametrize("sizes", [{"G": 0}, {"G": 3}, {"G": 8, "K": 4}, {"E": 16385}, {"T": -1}])
def test_the_host_refuses(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"route_workspace: .* must"):
        _C.route_workspace(**{"T": 1, "K": 8, "E": 64, "G": 1} | sizes)
