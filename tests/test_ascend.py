"""What is particular to the Ascend C kernels: their paths, limits and counts, all emulated."""

import csv
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import moge_ops
from moge_ops import _backend, testing
from moge_ops.ops.grouped_gate import grouped_gate
from moge_ops.reference.grouped_gate import grouped_gate as gate_oracle
from moge_ops.reference.permute import permute as permute_oracle
from moge_ops.reference.route import route as route_oracle
from moge_ops.reference.unpermute import unpermute as unpermute_oracle
from moge_ops.testing import assert_matches, group_ids, spaced_logits

_C: Any = pytest.importorskip("moge_ops._C", reason="built without the Ascend emulator")
BENCH = Path(__file__).resolve().parents[1] / "bench"
NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def _ascend() -> Iterator[None]:
    _C.set_emulation(cores=5)
    with testing.backend("ascend"):
        yield
    _C.set_emulation()


def check_route(experts: Tensor, E: int, num_groups: int | None) -> None:
    want = route_oracle(experts, E, num_groups=num_groups)
    for name, got, expected in zip(
        moge_ops.Routing._fields,
        moge_ops.route(experts, E, num_groups=num_groups),
        want,
        strict=True,
    ):
        assert torch.equal(got, expected), name


@pytest.mark.parametrize("T", [1, 127, 128, 129, 300, 1281, 2560])
@pytest.mark.parametrize("dropped", [False, True])
def test_route_by_streams(T: int, dropped: bool) -> None:
    experts = group_ids(T, 64, 8, 1)
    if dropped:
        experts[torch.rand(T, 8) < 0.3] = torch.randint(-(2**31), 2**31 - 1, (1,)).int()
        experts[torch.rand(T, 8) < 0.1] += 1  # some into the next group
    check_route(experts, 64, 8)


@pytest.mark.parametrize("T", [2561, 31000])
def test_route_of_more_tokens_than_streams_hold(T: int) -> None:
    check_route(group_ids(T, 64, 8, 1), 64, 8)


@pytest.mark.parametrize("id_", [0, 63, 64, -1])
def test_route_of_all_slots_to_one_expert(id_: int) -> None:
    check_route(torch.full((700, 8), id_), 64, 8)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("E", "G"), [(64, 8), (24, 4)])
def test_cores_in_any_order_give_the_same(E: int, G: int, seed: int) -> None:
    _C.set_emulation(cores=7, seed=seed)
    check_route(group_ids(2000, E, G, 1), E, G)
    logits = spaced_logits(200, E, torch.float32).requires_grad_()
    scale = torch.rand(E, requires_grad=True)
    gating = grouped_gate(logits, G, router_scale=scale)
    grads = torch.autograd.grad(gating.weights.square().sum(), (logits, scale))
    _C.set_emulation(cores=7)
    again = grouped_gate(logits, G, router_scale=scale)
    same = torch.autograd.grad(again.weights.square().sum(), (logits, scale))
    assert all(a.equal(b) for a, b in zip((*gating, *grads), (*again, *same), strict=True))


GATES = [
    pytest.param({}, id="plain"),
    pytest.param({"renormalize": True, "scaling": 2.5}, id="renormalized"),
    pytest.param({"score": "sigmoid", "renormalize": True}, id="sigmoid"),
]


def check_gate(logits: Tensor, bias: Tensor | None, scale: Tensor | None, **gate: Any) -> None:
    """The choice exactly, weights and gradients within tolerance, at Pangu's E and G."""
    logits.requires_grad_()
    leaves = [x.requires_grad_() for x in (logits, scale) if x is not None]
    leaves64 = [x.detach().double().requires_grad_() for x in leaves]
    gating = grouped_gate(logits, 8, bias=bias, router_scale=scale, **gate)
    options = {"bias": bias, "router_scale": leaves64[1] if scale is not None else None, **gate}
    weights, experts, counts = gate_oracle(leaves64[0], 8, **options)
    assert gating.experts.equal(experts)
    assert gating.counts.equal(counts)
    assert_matches(gating.weights, weights, "weights")
    d_weights = torch.randn_like(gating.weights)
    grads = torch.autograd.grad(gating.weights, leaves, d_weights)
    grads64 = torch.autograd.grad(weights, leaves64, d_weights.double())
    size = weights.detach().nan_to_num().square().mean().div(8).sqrt().item()
    for name, grad, grad64 in zip(("d_logits", "d_router_scale"), grads, grads64, strict=False):
        assert_matches(grad, grad64, name, scale=size if name == "d_logits" else None)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("T", [1, 16, 17, 64, 65, 401])
def test_gate_by_blocks(T: int, gate: dict[str, Any]) -> None:
    check_gate(spaced_logits(T, 64, torch.float32), None, torch.randn(64), **gate)
    bias = torch.randn(64)
    bias[:8], bias[9], bias[63] = -INF, NAN, INF
    check_gate(spaced_logits(T, 64, torch.float32), bias, None, **gate)


@pytest.mark.parametrize("gate", GATES)
def test_gate_by_blocks_keeps_nan_rows_apart(gate: dict[str, Any]) -> None:
    logits = spaced_logits(70, 64, torch.float32)
    logits[3, 5] = logits[66] = NAN
    logits[7, 9], logits[9] = INF, -INF
    check_gate(logits, None, torch.rand(64), **gate)


def test_gate_counts_more_tokens_than_float16_does() -> None:
    _C.set_emulation(cores=1, checks=False)
    T = 40_000  # 2500 a lane; 2048 is the last integer after which float16 skips one
    counts = grouped_gate(torch.zeros(T, 64), 8).counts
    assert counts.view(8, 8).tolist() == [[T] + [0] * 7] * 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("H", [5120, 5121, 10500], ids=["pangu", "odd", "several-parts"])
def test_rows_longer_than_a_tile(H: int, dtype: torch.dtype) -> None:
    routing = moge_ops.Routing(*route_oracle(torch.tensor([[0, 3, 9], [2, 0, 1]]), 4))
    x = torch.randn(2, H).to(dtype)
    rows = moge_ops.permute(x, routing)
    assert torch.equal(rows, permute_oracle(x, *routing[:2]))

    leaves = [torch.randn(6, H).to(dtype).requires_grad_(), torch.rand(2, 3).requires_grad_()]
    leaves64 = [leaf.detach().double().requires_grad_() for leaf in leaves]
    y = moge_ops.unpermute(leaves[0], routing, leaves[1])
    y64 = unpermute_oracle(leaves64[0], routing.slot_to_row, leaves64[1])
    assert_matches(y, y64, "y")
    d_y = torch.randn(2, H).to(dtype)
    grads = torch.autograd.grad(y, leaves, d_y)
    grads64 = torch.autograd.grad(y64, leaves64, d_y.double())
    assert_matches(grads[0], grads64[0], "d_rows")
    assert_matches(grads[1], grads64[1], "d_weights", scale=H**0.5)


def test_more_columns_than_one_load_of_slots() -> None:
    experts = torch.randint(-1, 6, (3, 1500))
    routing = moge_ops.Routing(*route_oracle(experts, 6))
    x = torch.randn(3, 4)
    assert torch.equal(moge_ops.permute(x, routing), permute_oracle(x, *routing[:2]))


def test_strict_mode_asks_for_the_barriers_that_the_compiler_sets() -> None:
    _C.set_emulation(cores=2, strict=True)
    with pytest.raises(_C.EmulatorError, match="PipeBarrier<PIPE_V>") as error:
        moge_ops.swiglu(torch.randn(2, 64))
    assert error.value.rule == "sync.missing"


FLOAT64 = torch.zeros(2, 8, dtype=torch.float64)
ROUTING = moge_ops.Routing(*route_oracle(torch.zeros(2, 4), 4))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("logits", lambda: grouped_gate(FLOAT64, 2)),
        ("x", lambda: moge_ops.permute(FLOAT64, ROUTING)),
        ("rows", lambda: moge_ops.unpermute(FLOAT64.repeat(4, 1), ROUTING)),
        ("gate_up", lambda: moge_ops.swiglu(FLOAT64)),
    ],
)
def test_float64_is_refused(name: str, call: Any) -> None:
    expected = rf"{name} must be float16 \| bfloat16 \| float32 for the Ascend .*, got float64"
    with pytest.raises(TypeError, match=expected):
        call()


def test_an_operator_without_kernels_says_so() -> None:
    with pytest.raises(ImportError, match="no Ascend C kernels of load_balance_loss yet"):
        _backend.load("ascend", "load_balance_loss")


HALF = _C.DType.float16


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _C.swiglu_fwd(0, 64, 1, 8, HALF, 0), "swiglu_fwd: gate_up must not be null"),
        (lambda: _C.swiglu_fwd(64, 129, 1, 8, HALF, 0), "act must be aligned to 2 bytes, got"),
        (lambda: _C.swiglu_fwd(64, 64, 1, 2**31, HALF, 0), r"F must be in \[0, 2147483647\]"),
        (lambda: _C.swiglu_fwd(64, 64, -1, 8, HALF, 0), r"N must be in .*, got -1"),
        (
            lambda: _C.swiglu_fwd(64, 64, 2**55, 8, HALF, 0),
            r"N must be in \[0, 18014398509481984\]",
        ),
        (
            lambda: _C.permute_fwd(64, 64, 64, 64, 2**27, 2**31 - 1, 8, HALF, 0),
            r"N \* H must be in \[0, 288230376151711744\], got 2305843008139952128",
        ),
        (
            lambda: _C.permute_fwd(64, 64, 64, 64, 2**28, 8, 8, HALF, 0),
            r"permute_fwd: T must be in \[0, 268435455\], got 268435456",
        ),
        (
            lambda: _C.permute_fwd(64, 64, 64, 64, 1, 8, 2049, HALF, 0),
            r"K must be in \[0, 2048\], got 2049",
        ),
        (
            lambda: _C.unpermute_fwd(64, 64, 0, 64, 1, 2**31, 8, HALF, 0),
            r"H must be in \[0, 2147483647\], got 2147483648",
        ),
        (
            lambda: _C.route_fwd(64, 64, 64, 64, 64, 1, 8, 16385, 1, 0),
            r"E must be in \[0, 16384\], got 16385",
        ),
        (
            lambda: grouped_gate(torch.zeros(1, 16000), 1),
            "a row of logits fits into 188160 bytes of UB, got E=16000 in 1 groups",
        ),
    ],
    ids=[
        "null",
        "misaligned",
        "wide",
        "negative",
        "tall",
        "large",
        "rows",
        "columns",
        "long",
        "experts",
        "ub",
    ],
)
def test_the_host_refuses(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_wrong_argument_is_an_error_of_the_emulator() -> None:
    x, act = torch.zeros(4, 16), torch.zeros(4, 8)
    rows = torch.full((32,), 40, dtype=torch.int32)  # rows that are not there
    with pytest.raises(_C.EmulatorError, match=r"gm\.bounds") as error:
        _C.unpermute_fwd(
            x.data_ptr(), rows.data_ptr(), 0, act.data_ptr(), 4, 8, 2, _C.DType.float32, 0
        )
    assert error.value.rule == "gm.bounds"


def test_the_committed_counters_are_those_of_the_kernels(tmp_path: Path) -> None:
    out = tmp_path / "counters.csv"
    subprocess.run(
        [sys.executable, BENCH / "ascend_counters.py", "--tokens", "1", "456", "--out", out],
        check=True,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    with out.open() as file, (BENCH / "results" / "ascend_counters.csv").open() as committed:
        rows = list(csv.DictReader(file))
        assert rows == [r for r in csv.DictReader(committed) if r["T"] != "8192"]
    assert {row["source"] for row in rows} == {"emulated"}


def test_the_counters_meet_their_targets() -> None:
    with (BENCH / "results" / "ascend_counters.csv").open() as file:
        rows = {(r["launch"], r["dtype"]): r for r in csv.DictReader(file) if r["T"] == "8192"}
    for dtype in ("float32", "bfloat16"):
        assert float(rows["grouped_gate_fwd", dtype]["vector_cycles_per_token"]) <= 20
    assert float(rows["route_fwd", "int32"]["vector_cycles_per_token"]) <= 6
    for launch in ("permute_fwd", "unpermute_fwd", "unpermute_bwd", "swiglu_fwd", "swiglu_bwd"):
        row = rows[launch, "bfloat16"]
        moved = int(row["gm_to_ub_bytes"]) + int(row["ub_to_gm_bytes"])
        assert moved <= int(row["floor_bytes"])
        assert row["pieces_under_2k"] == "0"
