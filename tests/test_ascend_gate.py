"""The Ascend C gate for many sizes, options and schedules, against its oracle; all emulated."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from moge_ops import testing
from moge_ops.ops.grouped_gate import SCORES, Gating, grouped_gate
from moge_ops.reference.grouped_gate import grouped_gate as oracle
from moge_ops.testing import assert_matches, spaced_logits

_C: Any = pytest.importorskip("moge_ops._C", reason="built without the Ascend emulator")
NAN, INF = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SIZES = [  # E, G, k
    pytest.param(8, 1, 1, id="one-block"),
    pytest.param(8, 8, 1, id="one-expert-per-group"),
    pytest.param(16, 2, 8, id="all-experts"),
    pytest.param(24, 1, 3, id="half-a-square"),
    pytest.param(40, 8, 2, id="five-per-group"),
    pytest.param(48, 16, 2, id="three-per-group"),
    pytest.param(64, 1, 8, id="plain-top-8"),
    pytest.param(64, 4, 2, id="sixteen-per-group"),
    pytest.param(120, 8, 1, id="fifteen-per-group"),
    pytest.param(256, 8, 8, id="deepseek"),
    pytest.param(512, 8, 1, id="intern"),
    pytest.param(384, 3, 3, id="blocks"),
    pytest.param(512, 1, 8, id="most-per-group"),
    pytest.param(640, 1, 1, id="more-than-512"),
]
GATES = [
    pytest.param({"renormalize": renormalize, "score": score}, id=f"{score}-{renormalize}")
    for score, renormalize in itertools.product(SCORES, (False, True))
]


@pytest.fixture(autouse=True)
def _ascend() -> Iterator[None]:
    _C.set_emulation(cores=5)
    with testing.backend("ascend"):
        yield
    _C.set_emulation()


def check(
    logits: Tensor, G: int, k: int, bias: Tensor | None, scale: Tensor | None, **gate: Any
) -> Gating:
    """The choice exactly, weights and gradients within tolerance."""
    leaves = [x.requires_grad_() for x in (logits, scale) if x is not None]
    leaves64 = [x.detach().double().requires_grad_() for x in leaves]
    gating = grouped_gate(logits, G, k, bias=bias, router_scale=scale, **gate)
    scale64 = leaves64[1] if scale is not None else None
    weights, experts, counts = oracle(leaves64[0], G, k, bias=bias, router_scale=scale64, **gate)
    assert gating.experts.equal(experts), "experts"
    assert gating.counts.equal(counts), "counts"
    assert_matches(gating.weights, weights, "weights")
    d_weights = torch.randn_like(gating.weights)
    grads = torch.autograd.grad(gating.weights, leaves, d_weights)
    grads64 = torch.autograd.grad(weights, leaves64, d_weights.double())
    size = weights.detach().nan_to_num().square().sum(-1).mean().div(logits.shape[1]).sqrt().item()
    for name, grad, grad64 in zip(("d_logits", "d_router_scale"), grads, grads64, strict=False):
        assert_matches(grad, grad64, name, scale=size if name == "d_logits" else None)
    return gating


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("E", "G", "k"), SIZES)
def test_every_size(E: int, G: int, k: int, dtype: torch.dtype) -> None:
    _C.set_emulation(cores=2)
    check(spaced_logits(37, E, dtype), G, k, None, torch.randn(E))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("E", "G", "k"), [(24, 3, 1), (72, 3, 4), (256, 2, 3), (512, 8, 1)])
def test_every_kind(E: int, G: int, k: int, gate: dict[str, Any]) -> None:
    check(spaced_logits(19, E, torch.float32), G, k, None, torch.randn(E), scaling=2.5, **gate)
    bias = torch.randn(E)
    bias[:2], bias[9], bias[E - 1] = -INF, NAN, INF
    check(spaced_logits(19, E, torch.float32), G, k, bias, None, **gate)


@pytest.mark.parametrize("T", [0, 1, 15, 17, 63, 65, 300])
@pytest.mark.parametrize("cores", [1, 5, 48])
def test_every_number_of_tokens(T: int, cores: int) -> None:
    _C.set_emulation(cores=cores)
    check(spaced_logits(T, 64, torch.float32), 4, 2, torch.randn(64), torch.randn(64))
    check(spaced_logits(T, 16, torch.float32), 2, 1, None, torch.randn(16))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("E", "G", "k"), [(48, 4, 1), (48, 4, 3), (256, 2, 4)])
def test_rows_with_nan_stay_apart(E: int, G: int, k: int, gate: dict[str, Any]) -> None:
    logits = spaced_logits(70, E, torch.float32)
    logits[3, 5] = logits[66] = NAN
    logits[9] = -INF
    if gate["score"] == "softmax":
        logits[7, 9] = INF
    check(logits, G, k, None, torch.rand(E), **gate)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(("E", "G", "k"), [(64, 1, 8), (64, 4, 1), (80, 2, 3), (256, 1, 8)])
def test_ties_go_to_the_first_experts(E: int, G: int, k: int, score: str) -> None:
    logits = torch.randint(0, 3, (40, E)).float()
    logits[5] = 0.0
    want = oracle(logits, G, k, score=score)
    got = grouped_gate(logits, G, k, score=score)
    assert got.experts.equal(want[1])
    assert got.counts.equal(want[2])


@pytest.mark.parametrize(("E", "G", "k"), [(128, 4, 1), (64, 1, 8), (128, 1, 2)])
def test_schedules_agree(E: int, G: int, k: int) -> None:
    logits = torch.randn(300, E, requires_grad=True)
    results = []
    for cores, seed in ((1, 0), (5, 1), (48, 2), (48, 3)):
        _C.set_emulation(cores=cores, seed=seed)
        gating = grouped_gate(logits, G, k, renormalize=True)
        (grad,) = torch.autograd.grad(gating.weights.square().sum(), logits)
        results.append((*gating, grad))
    for other in results[1:]:
        assert all(a.equal(b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(("E", "G"), [(0, 1), (8, 0), (8, 3)])
def test_the_host_refuses_groups_that_are_none(E: int, G: int) -> None:
    options = {"score": _C.GateScore.softmax, "renormalize": False, "scaling": 1.0, "given": False}
    tiling = _C.GroupedGateTiling(T=1, E=E, G=G, k=1, **options)
    names = ("logits", "bias", "router_scale", "given", "weights", "experts", "counts", "workspace")
    with pytest.raises(ValueError, match="G must divide E, both at least 1"):
        _C.grouped_gate_fwd(
            **dict.fromkeys(names, 0), tiling=tiling, dtype=_C.DType.float32, stream=0
        )
