"""Gate and route in one Ascend C launch give the bits of the two launches; all emulated."""

import importlib
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import moge_ops
from moge_ops import testing
from moge_ops.ops.grouped_gate import SCORES
from moge_ops.testing import spaced_logits

_C: Any = pytest.importorskip("moge_ops._C", reason="built without the Ascend emulator")
importlib.import_module("moge_ops.ascend")

NAN, INF = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SIZES = [  # T, E, G, k: by which of gate's and route's kernels, on 5 cores
    pytest.param(1, 64, 8, 1, id="pangu-one-token"),
    pytest.param(15, 64, 8, 1, id="pangu-odd"),
    pytest.param(16, 64, 8, 1, id="pangu-sixteen"),
    pytest.param(65, 64, 8, 1, id="pangu-more-cores-for-the-gate"),
    pytest.param(255, 64, 8, 1, id="pangu-a-full-tile"),
    pytest.param(257, 64, 8, 1, id="pangu-one-past-a-tile"),
    pytest.param(456, 64, 8, 1, id="pangu-decode"),
    pytest.param(4100, 64, 8, 1, id="pangu-streams"),
    pytest.param(1, 8, 1, 1, id="one-block"),
    pytest.param(33, 24, 1, 3, id="plain-top-3"),
    pytest.param(17, 16, 2, 8, id="all-experts"),
    pytest.param(1300, 8, 1, 1, id="one-column"),
    pytest.param(331, 512, 8, 1, id="lists-merged-by-expert"),
    pytest.param(90, 256, 8, 8, id="deepseek"),
    pytest.param(33, 13, 1, 5, id="rows-of-no-whole-block"),
    pytest.param(7, 2, 2, 1, id="one-expert-per-group"),
    pytest.param(9, 1, 1, 1, id="one-expert"),
    pytest.param(20, 1280, 1, 2, id="slots"),
]
GATES = [
    pytest.param({"renormalize": renormalize, "score": score}, id=f"{score}-{renormalize}")
    for score, renormalize in itertools.product(SCORES, (False, True))
]


@pytest.fixture(autouse=True)
def _ascend() -> Iterator[None]:
    torch.manual_seed(0)
    _C.set_emulation(cores=5)
    with testing.backend("ascend"):
        yield
    _C.set_emulation()


def launched(call: Any, *arguments: Any, **options: Any) -> tuple[Any, list[str]]:
    """What a call returns, and what it launches."""
    _C.start_recording("")
    try:
        found = call(*arguments, **options)
    finally:
        launches = [launch["name"] for launch in _C.stop_recording()]
    return found, launches


def check(logits: Tensor, G: int, k: int = 1, **options: Any) -> None:
    found, launches = launched(moge_ops.gate_and_route, logits, G, k, **options)
    assert launches == ["grouped_gate_and_route_fwd"]
    gating = moge_ops.grouped_gate(logits, G, k, **options)
    groups = None if options.get("experts") is not None else G
    routing = moge_ops.route(gating.experts, logits.shape[1], num_groups=groups)
    pairs: list[tuple[Any, Any]] = [(found[0], gating), (found[1], routing)]
    for got, want in pairs:
        for name, a, b in zip(want._fields, got, want, strict=True):
            bits = torch.int32 if a.dtype == torch.float32 else a.dtype
            assert a.detach().view(bits).equal(b.detach().view(bits)), name


@pytest.mark.parametrize(("T", "E", "G", "k"), SIZES)
def test_every_size(T: int, E: int, G: int, k: int) -> None:
    check(spaced_logits(T, E, torch.float32), G, k)


@pytest.mark.parametrize("cores", [1, 2, 48])
@pytest.mark.parametrize(("T", "E", "G", "k"), SIZES[:7] + SIZES[9:12])
def test_every_number_of_cores(T: int, E: int, G: int, k: int, cores: int) -> None:
    _C.set_emulation(cores=cores)
    check(spaced_logits(T, E, torch.float32), G, k)


@pytest.mark.parametrize("cores", [9, 48])
def test_streams_on_more_cores_than_route_has_alone(cores: int) -> None:
    _C.set_emulation(cores=cores)
    check(spaced_logits(4111, 64, torch.bfloat16), 8)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kind(dtype: torch.dtype, gate: dict[str, Any]) -> None:
    for T, E, G, k in ((70, 64, 8, 1), (40, 48, 4, 2), (19, 15, 3, 2)):
        logits = spaced_logits(T, E, dtype)
        check(logits, G, k, bias=torch.randn(E), router_scale=torch.randn(E), scaling=2.5, **gate)
        logits[3, 5] = logits[T - 1] = NAN
        logits[9] = -INF
        check(logits, G, k, **gate)


@pytest.mark.parametrize("ids", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("T", [1, 17, 300])
@pytest.mark.parametrize(("E", "G", "k"), [(64, 8, 1), (24, 3, 2), (7, 1, 3)])
def test_a_choice_that_is_given(E: int, G: int, k: int, T: int, ids: torch.dtype) -> None:
    """Of any group, with repeated and dropped ones."""
    experts = torch.randint(-2, E + 2, (T, G * k), dtype=ids)
    experts[0] = torch.iinfo(ids).max
    check(torch.randn(T, E), G, k, experts=experts, renormalize=True)


def test_options_that_the_launch_does_not_see() -> None:
    logits = spaced_logits(40, 64, torch.float32)
    check(logits.T.contiguous().T, 8, expert_mask=torch.arange(64) % 3 > 0)
    found, launches = launched(moge_ops.gate_and_route, logits, 8, num_voted=2)
    assert launches == ["grouped_gate_fwd", "grouped_gate_and_route_fwd"]  # the vote comes first
    want = moge_ops.grouped_gate(logits, 8, num_voted=2)
    assert found[0].counts.equal(want.counts)


def test_all_tokens_on_one_expert_of_a_group() -> None:
    logits = torch.zeros(500, 64)
    logits[:, 5::8] = 1.0
    check(logits, 8)
    check(torch.zeros(500, 64), 4, 2)


def test_without_a_token_there_are_two_launches_or_fewer() -> None:
    found, launches = launched(moge_ops.gate_and_route, torch.zeros(0, 64), 8)
    assert "grouped_gate_and_route_fwd" not in launches
    gating, routing = found
    assert gating.counts.equal(torch.zeros(64, dtype=torch.int32))
    assert routing.offsets.equal(torch.zeros(65, dtype=torch.int32))
    assert routing.slot_to_row.shape == gating.weights.shape == (0, 8)


@pytest.mark.parametrize(
    ("T", "E", "G", "k"), [(456, 64, 8, 1), (4097, 64, 8, 1), (200, 64, 4, 2), (40, 1280, 1, 2)]
)
def test_schedules_agree(T: int, E: int, G: int, k: int) -> None:
    logits = torch.randn(T, E)
    results = []
    for cores, seed in ((1, 0), (5, 1), (48, 2), (48, 3)):
        _C.set_emulation(cores=cores, seed=seed)
        gating, routing = moge_ops.gate_and_route(logits, G, k)
        results.append((*gating, *routing))
    for other in results[1:]:
        assert all(a.equal(b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("given", [False, True])
def test_a_layer_launches_it_and_has_its_gradients(given: bool) -> None:
    layer = moge_ops.nn.MoGE(32, 16, 16, 4, router_scale=True)
    x = torch.randn(21, 32, requires_grad=True)
    ids = torch.randint(0, 16, (21, 4)) if given else None
    leaves = [x, *layer.parameters()]
    y, launches = launched(layer, x, routing=ids)
    assert launches[0] == "grouped_gate_and_route_fwd"
    assert not {"grouped_gate_fwd", "route_fwd"} & set(launches)
    d_y = torch.randn_like(y)
    got = torch.autograd.grad(y, leaves, d_y)
    with testing.backend("reference"):
        want_y = layer(x, routing=ids)
        want = torch.autograd.grad(want_y, leaves, d_y)
    torch.testing.assert_close(y, want_y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_the_modelled_time_of_decoding() -> None:
    """Targets of the launch on a 910B1, which takes 13 us of them before it begins."""
    for T, most in ((1, 17.0), (16, 17.0), (456, 20.0)):
        _C.set_emulation(cores=48, checks=False)
        _C.start_recording("910B1")
        moge_ops.gate_and_route(torch.randn(T, 64).bfloat16(), 8)
        (launch,) = _C.stop_recording()
        assert launch["times"]["seconds"] * 1e6 <= most, T
