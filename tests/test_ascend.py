"""What is particular to the Ascend C kernels: their paths, limits and counts, all emulated."""

import csv
import importlib
import inspect
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
from moge_ops.ops.grouped_gemm import grouped_gemm
from moge_ops.reference.grouped_gate import grouped_gate as gate_oracle
from moge_ops.reference.grouped_gemm import grouped_gemm as gemm_oracle
from moge_ops.reference.grouped_mlp import grouped_mlp as mlp_oracle
from moge_ops.reference.load_balance_loss import load_balance_loss as loss_oracle
from moge_ops.reference.permute import permute as permute_oracle
from moge_ops.reference.route import route as route_oracle
from moge_ops.reference.swiglu import swiglu as swiglu_oracle
from moge_ops.reference.unpermute import unpermute as unpermute_oracle
from moge_ops.testing import assert_matches, group_ids, spaced_logits

_C: Any = pytest.importorskip("moge_ops._C", reason="built without the Ascend emulator")
ascend: Any = importlib.import_module("moge_ops.ascend")
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


@pytest.mark.parametrize("T", [15, 31])
def test_gate_of_a_tile_that_lacks_one_token(T: int) -> None:
    """What fills the tile, logits of 0, counts for no expert and has no gradient."""
    _C.set_emulation(cores=1)
    check_gate(spaced_logits(T, 64, torch.float32), None, torch.randn(64))


def test_gate_counts_more_tokens_than_float16_does() -> None:
    _C.set_emulation(cores=1, checks=False)
    T = 40_000  # 2500 a lane; 2048 is the last integer after which float16 skips one
    counts = grouped_gate(torch.zeros(T, 64), 8).counts
    assert counts.view(8, 8).tolist() == [[T] + [0] * 7] * 8


def test_loss_of_several_cores_and_tiles_of_ids() -> None:
    logits, experts = torch.randn(333, 41), torch.randint(-1, 42, (333, 70), dtype=torch.int32)
    assert_matches(
        moge_ops.load_balance_loss(logits, experts),
        loss_oracle(logits.double(), experts),
        "loss",
    )


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("F", [3841, 6401], ids=["past-the-backward's", "past-both"])
def test_swiglu_of_rows_longer_than_a_tile(F: int, dtype: torch.dtype) -> None:
    gate_up = torch.randn(3, 2 * F).to(dtype).requires_grad_()
    wide = gate_up.detach().double().requires_grad_()
    act, act64 = moge_ops.swiglu(gate_up), swiglu_oracle(wide)
    assert_matches(act, act64, "act")
    d_act = torch.randn(3, F).to(dtype)
    (grad,) = torch.autograd.grad(act, gate_up, d_act)
    (grad64,) = torch.autograd.grad(act64, wide, d_act.double())
    assert_matches(grad, grad64, "d_gate_up")


def test_more_columns_than_one_load_of_slots() -> None:
    experts = torch.randint(-1, 6, (3, 1500))
    routing = moge_ops.Routing(*route_oracle(experts, 6))
    x = torch.randn(3, 4)
    assert torch.equal(moge_ops.permute(x, routing), permute_oracle(x, *routing[:2]))


def offsets_of(counts: list[int]) -> Tensor:
    return torch.tensor([0, *counts]).cumsum(0).int()


def check_gemm(rows: Tensor, weight: Tensor, counts: list[int]) -> None:
    """Forward, dX and dW within tolerance."""
    offsets = offsets_of(counts)
    rows, weight = rows.requires_grad_(), weight.requires_grad_()
    rows64, weight64 = (x.detach().double().requires_grad_() for x in (rows, weight))
    out, out64 = grouped_gemm(rows, weight, offsets), gemm_oracle(rows64, weight64, offsets)
    assert_matches(out, out64, "out")
    d_out = torch.randn(out.shape).to(out.dtype)
    grads = torch.autograd.grad(out, (rows, weight), d_out)
    grads64 = torch.autograd.grad(out64, (rows64, weight64), d_out.double())
    for name, got, want in zip(("d_rows", "d_weight"), grads, grads64, strict=True):
        assert_matches(got, want, name)


def randn(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(sizes).to(dtype)


# rows of each expert, in, out: past one tile, one step in L1, one in L0, in each dimension
PRODUCTS = [
    pytest.param([200, 0, 129, 1], 600, 530, id="wide"),
    pytest.param([17, 0, 3, 40, 1], 530, 600, id="resident"),
    pytest.param([100, 1, 128], 1700, 300, id="contiguous"),
    pytest.param([3, 5, 0], 40, 700, id="few-rows-of-many"),
    pytest.param([1100, 5], 20, 300, id="several-swizzles"),
    pytest.param([130], 3, 272, id="shallow"),
    pytest.param([2] * 40, 16, 16, id="more-experts-than-cores"),
    pytest.param([128, 128], 128, 256, id="whole-tiles"),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(("counts", "I", "O"), PRODUCTS)
def test_products_of_several_tiles(counts: list[int], I: int, O: int, dtype: torch.dtype) -> None:
    check_gemm(randn(sum(counts), I, dtype=dtype), randn(len(counts), O, I, dtype=dtype), counts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launch", "counts", "I", "O", "dtype"),
    [
        pytest.param("fwd", [130] * 8, 1100, 600, torch.bfloat16, id="forward"),
        # in 16 bits, vector cores pack the weight of dX, and its strips are shorter
        pytest.param("dx", [130] * 8, 520, 1400, torch.float32, id="dX"),
        pytest.param("dw", [800], 1030, 1100, torch.float32, id="dW"),
    ],
)
def test_tiles_of_a_strip_find_the_last_ones_chunks_in_l1(
    launch: str, counts: list[int], I: int, O: int, dtype: torch.dtype
) -> None:
    """One core has strips of several tiles, deeper than L1: each reads less of the left factor."""
    rows, weight = randn(sum(counts), I, dtype=dtype), randn(len(counts), O, I, dtype=dtype)
    _C.set_emulation(cores=2)
    check_gemm(rows, weight, counts)
    offsets, results, read = offsets_of(counts), [], []
    for cores in (2, 48):
        _C.set_emulation(cores=cores)

        def products() -> None:
            out = grouped_gemm(rows, weight, offsets)
            results.append((out, *torch.autograd.grad(out.sum(), (rows, weight))))

        total = launches_of(products)[f"grouped_gemm_{launch}"]["total"]
        read.append(total["paths"]["gm->l1"]["bytes"])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    few, many = read
    assert few < many


def test_an_expert_with_very_many_rows() -> None:
    counts = [0, 1, 100_000, 2]
    check_gemm(randn(sum(counts), 8), randn(4, 5, 8), counts)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_addresses_that_no_transfer_likes(dtype: torch.dtype) -> None:
    counts = [20, 3]
    rows = randn(23 * 33 + 1, dtype=dtype)[1:].view(23, 33)
    weight = randn(2 * 21 * 33 + 3, dtype=dtype)[3:].view(2, 21, 33)
    check_gemm(rows.detach(), weight.detach(), counts)


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("rows", [40, 200], ids=["resident", "wide"])
def test_bad_rows_stay_apart(rows: int, bad: float) -> None:
    counts = [rows, 3]
    x, weight = randn(sum(counts), 70), randn(2, 40, 70)
    x[[5, rows - 1]] = bad
    x[rows] = bad  # the first of the next expert
    check_gemm(x, weight, counts)


@pytest.mark.parametrize("counts", [[150, 0, 9], [40, 0, 9]], ids=["wide", "resident"])
def test_products_do_not_depend_on_the_cores(counts: list[int]) -> None:
    rows, weight = randn(sum(counts), 300), randn(3, 290, 300)
    results = []
    for cores, seed in ((2, 0), (9, 1), (16, 2)):
        _C.set_emulation(cores=cores, seed=seed)
        out = grouped_gemm(rows.requires_grad_(), weight.requires_grad_(), offsets_of(counts))
        results.append((out, *torch.autograd.grad(out.sum(), (rows, weight))))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("P", [1, 8, 9, None], ids=["padded", "whole", "ragged", "one-group"])
def test_the_largest_gate_that_the_host_accepts_fits_into_ub(
    P: int | None, dtype: torch.dtype
) -> None:
    def gate(units: int, given: bool = False) -> None:
        E, G = (units, 1) if P is None else (units * P, units)
        logits = torch.randn(1, E).to(dtype).requires_grad_()
        scale, bias = torch.ones(E, requires_grad=True), torch.zeros(E)
        ids = torch.zeros(1, G, dtype=torch.int32) if given else None
        gating = grouped_gate(logits, G, bias=bias, router_scale=scale, experts=ids)
        gating.weights.sum().backward()

    least, most = 1, 16384  # the first is accepted, the second is not
    while most - least > 1:
        middle = (least + most) // 2
        try:
            gate(middle)
            least = middle
        except ValueError as error:
            if "fits into 188160 bytes of UB" not in str(error):
                raise
            most = middle
    assert least > 200
    gate(least, given=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("counts", [[150, 0, 9], [40, 0, 9]], ids=["wide", "resident"])
@pytest.mark.parametrize(("I", "O"), [(300, 290), (256, 64), (7, 5)])
def test_packed_weights_give_the_same(
    counts: list[int], I: int, O: int, dtype: torch.dtype
) -> None:
    rows, weight = randn(sum(counts), I, dtype=dtype), randn(3, O, I, dtype=dtype)
    packed = ascend.pack_weight(weight)
    got = ascend.grouped_gemm_packed(rows, packed, offsets_of(counts))
    assert torch.equal(got, grouped_gemm(rows, weight, offsets_of(counts)))
    want = gemm_oracle(rows.double(), weight.double(), offsets_of(counts))
    assert_matches(got, want, "out")
    lying = weight.mT.contiguous().mT
    assert torch.equal(ascend.pack_weight(lying).data, packed.data)


@pytest.mark.parametrize(
    ("N", "E", "O", "I"), [(6, 2, 0, 7), (6, 2, 5, 0), (6, 0, 5, 7), (0, 2, 5, 7)]
)
def test_packed_products_of_nothing(N: int, E: int, O: int, I: int) -> None:
    rows, weight, offsets = randn(N, I), randn(E, O, I), torch.linspace(0, N * (E > 0), E + 1).int()
    got = ascend.grouped_gemm_packed(rows, ascend.pack_weight(weight), offsets)
    assert torch.equal(got, gemm_oracle(rows, weight, offsets))


def test_packed_products_need_no_choice_of_a_backend() -> None:
    """A CPU tensor goes to the emulator whatever serves the operators."""
    rows, weight, offsets = randn(4, 7), randn(2, 5, 7).requires_grad_(), offsets_of([1, 3])
    with testing.backend("torch"):
        got = ascend.grouped_gemm_packed(rows, ascend.pack_weight(weight), offsets)
    assert torch.equal(got, grouped_gemm(rows, weight, offsets))
    with torch.no_grad():  # then rows that have a gradient elsewhere are accepted
        again = ascend.grouped_gemm_packed(
            rows.requires_grad_(), ascend.pack_weight(weight), offsets
        )
    assert torch.equal(again, got)


META = torch.device("meta")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": None}, TypeError, r"weight must be a Tensor \[E, O, I\], got NoneType"),
        ({"weight": randn(5, 7)}, ValueError, r"weight must be \[E, O, I\], got \[5, 7\]"),
        (
            {"weight": randn(2, 5, 7, dtype=torch.float64)},
            TypeError,
            r"weight must be float16 \| bfloat16 \| float32, got float64",
        ),
        (
            {"weight": torch.zeros(1, 65536, 0)},
            ValueError,
            "O and I must be at most 65535, got O=65536 and I=0",
        ),
        (
            {"weight": torch.zeros(1, 0, 65536)},
            ValueError,
            "O and I must be at most 65535, got O=0 and I=65536",
        ),
        ({"packed": randn(2, 5, 7)}, TypeError, "packed must be what pack_weight returned, got"),
        (
            {"packed": ascend.PackedWeight(torch.zeros(2, 1, 5, 8), 5, 7)},
            ValueError,
            r"packed.data must be .* = \[2, 1, 16, 8\], got \[2, 1, 5, 8\]",
        ),
        ({"rows": [1.0]}, TypeError, r"rows must be a Tensor \[N, I\], got list"),
        ({"rows": randn(7)}, ValueError, r"rows must be \[N, I\], got \[7\]"),
        ({"rows": randn(4, 8)}, ValueError, r"rows must be \[N, I\] = \[4, 7\], got \[4, 8\]"),
        (
            {"rows": randn(4, 7, dtype=torch.float16)},
            TypeError,
            "packed.data must have the dtype of rows, float16, got float32",
        ),
        (
            {"rows": randn(4, 7, dtype=torch.float64)},
            TypeError,
            r"rows must be float16 \| bfloat16 \| float32, got float64",
        ),
        (
            {"rows": randn(4, 7).requires_grad_()},
            ValueError,
            "rows must not require a gradient: this product has no backward pass",
        ),
        ({"offsets": torch.zeros(3)}, TypeError, "offsets must be int32, got float32"),
        ({"offsets": torch.zeros(1, 3).int()}, ValueError, r"offsets must be \[E \+ 1\], got"),
        (
            {"offsets": torch.zeros(4).int()},
            ValueError,
            r"offsets must be \[E \+ 1\] = \[3\], got \[4\]",
        ),
        (
            {"offsets": torch.zeros(3, device=META).int()},
            ValueError,
            "offsets must be on the device of rows, cpu, got meta",
        ),
        (
            {"rows": randn(4, 7).to(META)},
            ValueError,
            "packed.data must be on the device of rows, meta, got cpu",
        ),
    ],
)
def test_packed_products_refuse(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"weight": randn(2, 5, 7), "rows": randn(4, 7), "offsets": offsets_of([1, 3])} | change

    def product() -> None:
        packed = change["packed"] if "packed" in change else ascend.pack_weight(given["weight"])
        ascend.grouped_gemm_packed(given["rows"], packed, given["offsets"])

    _C.start_recording()
    with pytest.raises(error, match=message):
        product()
    assert not _C.stop_recording()


@pytest.mark.parametrize(("build", "there"), [("emulate", "meta"), ("cann", "cpu")])
def test_packed_products_run_where_the_extension_was_built_for(
    build: str, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = randn(4, 7).to(there), randn(2, 5, 7).to(there), offsets_of([1, 3]).to(there)
    monkeypatch.setattr(_C, "BACKEND", build)
    with pytest.raises(ValueError, match=rf"for which .*_BACKEND={build}\), got {there}"):
        ascend.grouped_gemm_packed(tensors[0], ascend.pack_weight(tensors[1]), tensors[2])


@pytest.mark.parametrize("offsets", [[0, 3, 2], [0, 2, 9], [1, 2, 4], [-1, 2, 4], [-9, -2, 99]])
def test_products_stay_inside_with_bad_offsets(offsets: list[int]) -> None:
    # an NPU cannot look at them without waiting: rows that two experts claim are undefined
    rows, weight = randn(4, 8), randn(2, 5, 8)
    _C.set_emulation(cores=1, checks=False)  # such a row is written twice
    given, inside = (
        grouped_gemm(rows, weight, x.int())
        for x in (torch.tensor(offsets), torch.tensor(offsets).clamp(0, 4))
    )
    assert torch.equal(given.nan_to_num(), inside.nan_to_num())


def launches_of(call: Any) -> dict[str, Any]:
    """Counters of each launch, by name."""
    _C.start_recording()
    call()
    return {launch["name"]: launch for launch in _C.stop_recording()}


def test_few_rows_read_each_weight_once_and_leave_no_core_idle() -> None:
    _C.set_emulation(cores=14)
    counts, I, O = [16, 0, 3, 1, 9], 256, 592
    rows, weight = randn(sum(counts), I), randn(len(counts), O, I)
    launch = launches_of(lambda: grouped_gemm(rows, weight, offsets_of(counts)))["grouped_gemm_fwd"]
    used = [core["global"]["weight"]["read"] for core in launch["cores"]]
    assert len(used) == 7
    assert sum(used) == 4 * O * I * 4  # of the expert without rows nothing
    assert max(used) - min(used) <= 16 * I * 4
    sizes = launch["total"]["paths"]["gm->l1"]["sizes"]
    assert min(sizes) >= 512  # each row of a transfer


def test_a_wide_product_spreads_over_all_cores() -> None:
    _C.set_emulation(cores=14)
    counts = [300, 20, 260, 1]
    rows, weight = randn(sum(counts), 64, dtype=torch.bfloat16), randn(4, 1024, 64).bfloat16()
    launch = launches_of(lambda: grouped_gemm(rows, weight, offsets_of(counts)))["grouped_gemm_fwd"]
    cycles = [core["products"]["bf16"]["cycles"] for core in launch["cores"]]
    assert len(cycles) == 7
    assert max(cycles) <= 1.3 * sum(cycles) / 7


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("weight_on", ["output", "activation"])
@pytest.mark.parametrize(("T", "F"), [(300, 200), (30, 150), (70, 17)])
def test_expert_layer_of_several_tiles(T: int, F: int, weight_on: str, dtype: torch.dtype) -> None:
    H, E, K = 40, 3, 2
    ids = torch.randint(-1, E, (T, K)).int()
    x, weights = randn(T, H, dtype=dtype), torch.rand(T, K) + 0.1
    w_gate_up, w_down = randn(E, 2 * F, H) / H**0.5, randn(E, H, F) / F**0.5
    args = [x, w_gate_up.to(dtype), w_down.to(dtype), weights]
    args64 = [t.double().requires_grad_() for t in args]
    for t in args:
        t.requires_grad_()
    routing = moge_ops.route(ids, E)
    y = moge_ops.grouped_mlp(*args, routing, weight_on=weight_on)  # type: ignore[misc]
    y64 = mlp_oracle(*args64, *route_oracle(ids, E), weight_on=weight_on)  # type: ignore[misc]
    assert_matches(y, y64, "y")
    d_y = randn(T, H, dtype=dtype)
    grads = torch.autograd.grad(y, args, d_y)
    grads64 = torch.autograd.grad(y64, args64, d_y.double())
    for name, got, want in zip(("d_x", "d_w_gate_up", "d_w_down"), grads, grads64, strict=False):
        assert_matches(got, want, name)
    assert_matches(grads[3].to(dtype), grads64[3], "d_weights", scale=H**0.5)


def test_a_row_longer_than_a_tile_of_the_layers_backward() -> None:
    kernels = _backend.load("ascend", "grouped_mlp")
    N, F = 5, 6000
    g, pre, weights = randn(N, F), randn(N, 2 * F), torch.rand(N)
    got = kernels.grouped_mlp_act_bwd(g, pre, weights)
    pre64 = pre.double().requires_grad_()
    w64 = weights.double().requires_grad_()
    act = pre64[:, :F] * pre64[:, :F].sigmoid() * pre64[:, F:] * w64[:, None]
    d_pre, d_weights = torch.autograd.grad(act, (pre64, w64), g.double())
    assert_matches(got[0], d_pre, "d_pre")
    assert_matches(got[1], act, "act")
    assert_matches(got[2], d_weights, "d_weights", scale=F**0.5)


def test_the_fused_projection_keeps_its_product_out_of_memory() -> None:
    """Without gradients no [N, 2F] is written: only the ring, which stays as small as it is."""
    _C.set_emulation(cores=2)
    T, H, E, F = 400, 32, 2, 144
    routing = moge_ops.route(torch.randint(0, E, (T, 2)).int(), E)
    args = (randn(T, H), randn(E, 2 * F, H), randn(E, H, F), torch.rand(T, 2))
    with torch.no_grad():
        layer = launches_of(lambda: moge_ops.grouped_mlp(*args, routing))["grouped_mlp_fwd"]
    moved = layer["total"]["global"]
    pre = 2 * T * 2 * F * 4
    assert "pre" not in moved
    assert moved["act"]["written"] == pre // 2
    # what passes through the ring is larger than the ring: it is written over and over
    ring = _C.grouped_mlp_ring(shape=_C.MlpShape(T=T, K=2, E=E, H=H, F=F)) * 4
    assert moved["ring"]["written"] == moved["ring"]["read"] >= pre > ring

    args[0].requires_grad_()
    saved = launches_of(lambda: moge_ops.grouped_mlp(*args, routing))["grouped_mlp_fwd"]
    assert saved["total"]["global"]["pre"] == {"read": 0, "written": pre}


H, E, G, F = 5120, 64, 8, 1344  # Pangu Pro MoE


def pangu_products(T: int) -> tuple[Tensor, dict[str, tuple[int, list[dict[str, Any]]]]]:
    """Rows of each expert; multiply-adds and cube cores' counters of the layer's products."""
    torch.use_deterministic_algorithms(False)  # or empty tensors of gigabytes would be filled
    routing = route_oracle(group_ids(T, E, G, 1), E)
    offsets = routing[2]
    gemm, mlp = (_backend.load("ascend", f"grouped_{name}") for name in ("gemm", "mlp"))
    x, act, pre = (torch.empty(T * G, n, dtype=torch.bfloat16) for n in (H, F, 2 * F))
    up, down = (torch.empty(E, *n, dtype=torch.bfloat16) for n in ((2 * F, H), (H, F)))
    weights = torch.empty(T, G)
    calls = {
        "up and down": (
            3,
            lambda: mlp.grouped_mlp_fwd(x[:T], up, down, weights, *routing, "output", False),
        ),
        "down": (1, lambda: gemm.grouped_gemm_fwd(act, down, offsets)),
        "dX of up": (2, lambda: gemm.grouped_gemm_dx(pre, up, offsets)),
        "dX of down": (1, lambda: gemm.grouped_gemm_dx(x, down, offsets)),
        "dW of up": (2, lambda: gemm.grouped_gemm_dw(pre, x, offsets)),
        "dW of down": (1, lambda: gemm.grouped_gemm_dw(x, act, offsets)),
    }
    _C.set_emulation(checks=False, counting=True)
    counted = {}
    for name, (parts, call) in calls.items():
        (launch,) = launches_of(call).values()
        cores = [core for core in launch["cores"] if core["kind"] == "AIC"]
        assert len(cores) == 24
        counted[name] = (parts * T * G * H * F, cores)
    return offsets.diff(), counted


@pytest.mark.slow
def test_full_size_products_keep_every_cube_busy() -> None:
    _, counted = pangu_products(8192)
    for name, (macs, cores) in counted.items():
        busiest = max(core["products"]["bf16"]["cycles"] for core in cores)
        assert macs / 16**3 / 24 >= 0.94 * busiest, name
        for core in cores:  # documented: 256 and 128 bytes a cycle
            paths = core["paths"]
            load = paths["l1->l0a"]["bytes"] / 256 + paths["l1->l0b"]["bytes"] / 128
            assert load <= 0.85 * busiest, name


@pytest.mark.parametrize(("T", "share"), [(1, 0.99), (16, 0.99), (128, 0.97), (456, 0.78)])
def test_full_size_weights_are_streamed_once_and_evenly(T: int, share: float) -> None:
    rows, counted = pangu_products(T)
    for name, (_, cores) in counted.items():
        if "dW" in name:
            continue
        weights = {"up and down": ("gate_up", "down")}.get(name, ("weight",))
        used = [sum(core["global"][weight]["read"] for weight in weights) for core in cores]
        parts = {"up and down": 3, "dX of up": 2}.get(name, 1)
        assert sum(used) == int((rows > 0).sum()) * parts * F * H * 2, name
        assert max(used) <= 1.005 * sum(used) / 24, name
        moved = sum(core["paths"]["gm->l1"]["bytes"] for core in cores)
        assert sum(used) >= share * moved, name


def test_strict_mode_asks_for_the_barriers_that_the_compiler_sets() -> None:
    _C.set_emulation(cores=2, strict=True)
    with pytest.raises(_C.EmulatorError, match="PipeBarrier<PIPE_V>") as error:
        moge_ops.swiglu(torch.randn(2, 64))
    assert error.value.rule == "sync.missing"


FLOAT64 = torch.zeros(2, 8, dtype=torch.float64)
WEIGHTS64 = (FLOAT64.new_zeros(4, 6, 8), FLOAT64.new_zeros(4, 8, 3))
ROUTING = moge_ops.Routing(*route_oracle(torch.zeros(2, 4), 4))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("logits", lambda: grouped_gate(FLOAT64, 2)),
        ("x", lambda: moge_ops.permute(FLOAT64, ROUTING)),
        ("rows", lambda: moge_ops.unpermute(FLOAT64.repeat(4, 1), ROUTING)),
        ("gate_up", lambda: moge_ops.swiglu(FLOAT64)),
        (
            "logits",
            lambda: moge_ops.load_balance_loss(FLOAT64, torch.zeros(2, 1, dtype=torch.int32)),
        ),
        ("rows", lambda: grouped_gemm(FLOAT64, FLOAT64.view(1, 2, 8), offsets_of([2]))),
        ("x", lambda: moge_ops.grouped_mlp(FLOAT64, *WEIGHTS64, torch.ones(2, 4), ROUTING)),
    ],
)
def test_float64_is_refused(name: str, call: Any) -> None:
    expected = rf"{name} must be float16 \| bfloat16 \| float32 for the Ascend .*, got float64"
    with pytest.raises(TypeError, match=expected):
        call()


# arguments without a fault; the addresses are checked, never read
PRODUCT = _C.GemmShape(N=2, E=2, O=8, I=8)
SOUND: dict[str, dict[str, Any]] = {
    "swiglu_fwd": {"gate_up": 64, "act": 64, "N": 1, "F": 8},
    "permute_fwd": {"x": 64, "row_to_slot": 64, "slot_to_row": 64, "rows": 64, "T": 1, "H": 8},
    "unpermute_fwd": {"rows": 64, "slot_to_row": 64, "weights": 0, "y": 64, "T": 1, "K": 8},
    "grouped_gemm_fwd": {"rows": 64, "weight": 64, "offsets": 64, "out": 64, "shape": PRODUCT},
    "grouped_gemm_dx": {
        **{"d_out": 64, "weight": 64, "offsets": 64, "packed": 0, "d_rows": 64},
        "shape": PRODUCT,
    },
    "grouped_gemm_dw": {
        **{"d_out": 64, "rows": 64, "offsets": 64, "packed": 0, "d_weight": 64},
        "shape": PRODUCT,
    },
    "grouped_mlp_fwd": {
        **{"x": 64, "gate_up": 64, "down": 64, "weights": 64, "slot_to_row": 64, "offsets": 64},
        **{"rows": 64, "row_weights": 64, "ring": 64, "pre": 64, "act": 64, "y": 64},
        **{"b_gate_up": 0, "b_down": 0, "series": 0, "activation": _C.ActivationTiling()},
        "shape": _C.MlpShape(T=2, K=1, E=2, H=8, F=8),
    },
    "grouped_mlp_act_bwd": {
        **{"g": 64, "pre": 64, "row_weights": 64, "d_pre": 64, "act": 64, "d_row_weights": 64},
        **{"more": 0, "series": 0, "d_series": 0, "activation": _C.ActivationTiling()},
        "N": 1,
    },
}


def launch(name: str, **change: Any) -> None:
    getattr(_C, name)(**{"dtype": _C.DType.float16, "stream": 0} | SOUND[name] | change)


def route(E: int) -> None:
    tensors = {"experts": 64, "row_to_slot": 64, "slot_to_row": 64, "offsets": 64, "workspace": 64}
    _C.route_fwd(**tensors, T=1, K=8, E=E, G=1, stream=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: launch("swiglu_fwd", gate_up=0), "swiglu_fwd: gate_up must not be null"),
        (lambda: launch("swiglu_fwd", act=129), "act must be aligned to 2 bytes, got"),
        (lambda: launch("swiglu_fwd", F=2**31), r"F must be in \[0, 2147483647\]"),
        (lambda: launch("swiglu_fwd", N=-1), r"N must be in .*, got -1"),
        (lambda: launch("swiglu_fwd", N=2**55), r"N must be in \[0, 18014398509481984\]"),
        (
            lambda: launch("permute_fwd", T=2**27, H=2**31 - 1, K=8),
            r"N \* H must be in \[0, 288230376151711744\], got 2305843008139952128",
        ),
        (
            lambda: launch("permute_fwd", T=2**28, K=8),
            r"permute_fwd: T must be in \[0, 268435455\], got 268435456",
        ),
        (lambda: launch("permute_fwd", K=2049), r"K must be in \[0, 2048\], got 2049"),
        (
            lambda: launch("unpermute_fwd", H=2**31),
            r"H must be in \[0, 2147483647\], got 2147483648",
        ),
        (lambda: route(E=16385), r"E must be in \[0, 16384\], got 16385"),
        (lambda: launch("grouped_gemm_fwd", out=0), "grouped_gemm_fwd: out must not be null"),
        (
            lambda: launch("grouped_gemm_dx", weight=65),
            "grouped_gemm_dx: weight must be aligned to 2 bytes, got address 65",
        ),
        (
            lambda: launch("grouped_gemm_dw", offsets=66),
            "grouped_gemm_dw: offsets must be aligned to 4 bytes, got address 66",
        ),
        (
            lambda: grouped_gemm(torch.zeros(1, 65536), torch.zeros(1, 1, 65536), offsets_of([1])),
            r"I must be in \[0, 65535\], got 65536",
        ),
        (
            lambda: _C.grouped_gemm_pitch(columns=65536),
            r"columns must be in \[0, 65535\], got 65536",
        ),
        (
            lambda: launch("grouped_gemm_dw", shape=_C.GemmShape(N=2**31, E=2, O=8, I=8)),
            r"N must be in \[0, 2147483647\], got 2147483648",
        ),
        (
            lambda: _C.grouped_mlp_ring(shape=_C.MlpShape(T=8, K=1, E=2**30, H=65535, F=32767)),
            r"grouped_mlp_ring: E \* O must be in \[0, 4397040108491\], got",
        ),
        (
            lambda: launch("grouped_mlp_fwd", row_weights=66),
            "grouped_mlp_fwd: row_weights must be aligned to 4 bytes, got address 66",
        ),
        (
            lambda: launch("grouped_mlp_act_bwd", F=65536),
            r"grouped_mlp_act_bwd: F must be in \[0, 65535\], got 65536",
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
        "product-null",
        "product-misaligned",
        "offsets-misaligned",
        "deep",
        "pitch",
        "product-rows",
        "many-weights",
        "row-weights",
        "wide-layer",
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
        launch(
            "unpermute_fwd",
            rows=x.data_ptr(),
            slot_to_row=rows.data_ptr(),
            y=act.data_ptr(),
            **{"T": 4, "H": 8, "K": 2, "dtype": _C.DType.float32},
        )
    assert error.value.rule == "gm.bounds"


@pytest.mark.slow
def test_the_committed_counters_are_those_of_the_kernels(tmp_path: Path) -> None:
    script, out = BENCH / "ascend" / "ascend_counters.py", tmp_path / "counters.csv"
    subprocess.run(
        [sys.executable, script, "--tokens", "1", "456", "--out", out],
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
    # Aimed at were 20 for the gate, which takes 18 where there is no router scale, and 6 for route,
    # whose smaller tiles cost cycles and save time.
    for dtype, most in (("float32", 20.1), ("bfloat16", 21.1)):
        assert float(rows["grouped_gate_fwd", dtype]["vector_cycles_per_token"]) <= most
    assert float(rows["route_fwd", "int32"]["vector_cycles_per_token"]) <= 7.4
    for launch in ("permute_fwd", "unpermute_fwd", "unpermute_bwd", "swiglu_fwd", "swiglu_bwd"):
        row = rows[launch, "bfloat16"]
        moved = int(row["gm_to_ub_bytes"]) + int(row["ub_to_gm_bytes"])
        assert moved <= int(row["floor_bytes"])
        assert row["pieces_under_2k"] == "0"


def test_launchers_read_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """On tensors without values: to read one raises."""
    launched = set[str]()
    # packed weights are for the device that the extension was built for
    kernels = {name for name in dir(_C) if "stream:" in (getattr(_C, name).__doc__ or "")}
    kernels.remove("grouped_gemm_packed")

    class Silent:
        def __getattr__(self, name: str) -> Any:
            return (lambda **_: launched.add(name)) if name in kernels else getattr(_C, name)

    modules = []
    for path in sorted(Path(ascend.__file__).parent.glob("*.py")):
        if path.stem in ("__init__", "_common"):
            continue
        modules.append(importlib.import_module(f"moge_ops.ascend.{path.stem}"))
        if hasattr(modules[-1], "_C"):
            monkeypatch.setattr(modules[-1], "_C", Silent())
        monkeypatch.setattr(modules[-1], "stream", lambda x: 0, raising=False)

    def new(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(sizes, dtype=dtype, device="meta")

    def ids(*sizes: int) -> Tensor:
        return new(*sizes, dtype=torch.int32)

    T, H, E, G, K, F = 5, 16, 8, 4, 4, 32
    N = T * K
    routing = {"row_to_slot": ids(N), "slot_to_row": ids(T, K)}
    gate: Any = {"num_groups": G, "score": "softmax", "renormalize": True, "scaling": 1.0}
    layer: Any = {
        "x": new(T, H),
        "w_gate_up": new(E, 2 * F, H),
        "w_down": new(E, H, F),
        "weights": new(T, K),
        **routing,
        "offsets": ids(E + 1),
    }
    down: Any = {"data": new(E, H, F // 2, dtype=torch.int8), "scale": new(E, H, 1), "zero": None}
    down |= {"scheme": "int4_w4a8", "group_size": None}
    parts = {"gate_up": (2 * F, H), "down": (H, F)}
    quantized: Any = {key: value for key, value in layer.items() if not key.startswith("w_")}
    quantized |= {"scheme": "int4_w4a8", "gate_up_group": None, "down_group": None}
    for part, (O, I) in parts.items():
        quantized[part] = new(E, O, I // 2, dtype=torch.int8)
        quantized |= {f"{part}_scale": new(E, O, 1), f"{part}_zero": None}
    calls: dict[str, dict[str, Any]] = {
        "grouped_gate_fwd": {
            "logits": new(T, E), "k": 1, "bias": new(E), "router_scale": new(E),
            "given": new(T, K, dtype=torch.int64), **gate
        },
        "grouped_gate_and_route_fwd": {
            "logits": new(T, E), "k": 1, "bias": None, "router_scale": new(E), "given": None, **gate
        },
        "grouped_gate_bwd": {
            "d_weights": new(T, K), "logits": new(T, E), "experts": ids(T, K),
            "router_scale": new(E), "given": True, **gate,
        },
        "route_fwd": {"experts": new(T, K, dtype=torch.int64), "num_experts": E, "num_groups": G},
        "permute_fwd": {"x": new(T, H), **routing},
        "unpermute_fwd": {"rows": new(N, H), "weights": new(T, K), **routing},
        "unpermute_bwd": {"d_y": new(T, H), "rows": new(N, H), "weights": new(T, K), **routing},
        "grouped_gemm_fwd": {"rows": new(N, H), "weight": new(E, F, H), "offsets": ids(E + 1)},
        "grouped_gemm_dx": {"d_out": new(N, F), "weight": new(E, F, H), "offsets": ids(E + 1)},
        "grouped_gemm_dw": {"d_out": new(N, F), "rows": new(N, H), "offsets": ids(E + 1)},
        "grouped_gemm_quantized_fwd": {"rows": new(N, F), **down, "offsets": ids(E + 1)},
        "grouped_gemm_quantized_dx": {
            "d_out": new(N, H), **down, "offsets": ids(E + 1), "columns": F
        },
        "grouped_mlp_quantized_fwd": {**quantized, "weight_on": "output", "save": True},
        "grouped_mlp_quantized_bwd": {
            **quantized, "d_y": new(T, H), "pre": new(N, 2 * F), "need_d_x": True
        },
        "swiglu_fwd": {"gate_up": new(N, 2 * F)},
        "swiglu_bwd": {"d_act": new(N, F), "gate_up": new(N, 2 * F)},
        "grouped_mlp_fwd": {**layer, "weight_on": "activation", "save": True},
        "grouped_mlp_bwd": {
            **layer, "d_y": new(T, H), "pre": new(N, 2 * F), "need_d_x": True, "need_d_w": True
        },
        "load_balance_loss_fwd": {
            "logits": new(T, E), "experts": new(T, K, dtype=torch.int64), "score": "softmax"
        },
        "load_balance_loss_bwd": {
            "d_loss": new(), "logits": new(T, E), "f": new(E), "score": "softmax"
        },
    }  # fmt: skip
    of_bytes: Any = {"scheme": "int8_w8a8", "data": new(E, H, F, dtype=torch.int8)}
    of_bytes |= {part: new(E, *sizes, dtype=torch.int8) for part, sizes in parts.items()}
    integers = [
        (name, calls[name] | {key: of_bytes[key] for key in calls[name].keys() & of_bytes.keys()})
        for name in ("grouped_gemm_quantized_fwd", "grouped_mlp_quantized_fwd")
    ]
    choice: Any = {"activation": "gelu", "b_gate_up": new(E, 2 * F), "b_down": new(E, H)}
    choice |= {"need_d_b": True, "series": new(2, 3), "need_d_series": True}
    others = [(name, calls[name] | choice) for name in calls if name.startswith("grouped_mlp_")]
    for name, arguments in [*calls.items(), *integers, *others]:
        module = next(module for module in modules if hasattr(module, name))
        launcher = getattr(module, name)
        names = inspect.signature(launcher).parameters
        launcher(**{key: value for key, value in arguments.items() if key in names})
    assert launched == kernels
