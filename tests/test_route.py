"""moge_ops.route agrees with its oracle, and with the laws of a permutation, on every backend."""

import re
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import moge_ops
from moge_ops import _backend
from moge_ops.reference.route import route as oracle
from moge_ops.testing import assert_matches, group_ids

SHAPES = [
    pytest.param(1, 64, 8, 1, id="one-token"),
    pytest.param(16, 64, 8, 1, id="pangu"),
    pytest.param(9, 24, 3, 2, id="experts-per-group-not-a-power-of-two"),
    pytest.param(7, 15, 5, 3, id="every-expert-of-a-group"),
    pytest.param(5, 6, 6, 1, id="one-expert-per-group"),
    pytest.param(11, 13, 1, 5, id="one-group"),
    pytest.param(3, 1, 1, 1, id="one-expert"),
    pytest.param(0, 8, 2, 1, id="no-tokens"),
    pytest.param(4, 8, 2, 0, id="no-columns"),
]
ONLY_TRITON = pytest.mark.parametrize(
    "device", ["cuda" if torch.cuda.is_available() else "triton"], indirect=True
)


def check(experts: Tensor, E: int, num_groups: int | None) -> moge_ops.Routing:
    routing = moge_ops.route(experts, E, num_groups=num_groups)
    for name, got, want in zip(
        routing._fields, routing, oracle(experts, E, num_groups=num_groups), strict=True
    ):
        assert got.dtype is torch.int32, name
        assert torch.equal(got, want), f"{name}: {got} != {want}"
    return routing


@pytest.mark.parametrize(("T", "E", "G", "k"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_matches_the_oracle(
    T: int, E: int, G: int, k: int, dtype: torch.dtype, device: str
) -> None:
    experts = group_ids(T, E, G, k).to(device, dtype)
    plain, grouped = check(experts, E, None), check(experts, E, G)
    for name, a, b in zip(plain._fields, plain, grouped, strict=True):
        assert torch.equal(a, b), name


@given(
    T=st.integers(0, 40),
    G=st.integers(1, 5),
    P=st.integers(1, 9),
    k=st.integers(0, 4),
    step=st.integers(1, 2),
    grouped=st.booleans(),
)
def test_any_shape_stride_and_id(
    T: int, G: int, P: int, k: int, step: int, grouped: bool, device: str
) -> None:
    E = G * P
    # duplicates, ids of other groups and ids of nobody
    experts = torch.randint(-2, E + 2, (G * k, T * step), device=device).t()[::step]
    check(experts, E, G if grouped else None)


@ONLY_TRITON
@given(
    T=st.integers(1, 20),
    G=st.integers(1, 3),
    P=st.sampled_from([1, 3, 8]),
    k=st.integers(1, 3),
    tile=st.sampled_from([8, 64]),
    max_programs=st.integers(1, 5),
)
def test_several_blocks_of_several_tiles(
    T: int, G: int, P: int, k: int, tile: int, max_programs: int, device: str
) -> None:
    E = G * P
    experts = torch.randint(-1, E + 1, (T, G * k), device=device)
    kernels = _backend.load("triton", "route")
    with mock.patch.multiple(kernels, TILE=tile, MAX_PROGRAMS=max_programs):
        check(experts, E, None)
        check(experts, E, G)


@ONLY_TRITON
def test_a_batch_that_fits_the_tile_takes_one_launch(device: str) -> None:
    kernels = _backend.load("triton", "route")
    with mock.patch.multiple(kernels, _route_count_kernel=None, _route_scan_kernel=None):
        check(group_ids(1024, 64, 8, 1).to(device), 64, 8)


@ONLY_TRITON
def test_one_past_the_tile(device: str) -> None:
    check(group_ids(1025, 64, 8, 1).to(device), 64, 8)


@given(
    T=st.integers(0, 20),
    G=st.integers(1, 4),
    P=st.integers(1, 5),
    k=st.integers(0, 3),
    pad_to=st.sampled_from([1, 2, 3, 16, 128]),
    lowest=st.sampled_from([0, -2]),
    grouped=st.booleans(),
)
def test_padded(
    T: int, G: int, P: int, k: int, pad_to: int, lowest: int, grouped: bool, device: str
) -> None:
    E, K = G * P, G * k
    num_groups = G if grouped else None
    experts = torch.randint(lowest, E - lowest, (T, K), device=device)
    routing = moge_ops.route(experts, E, num_groups=num_groups, pad_to=pad_to)
    want = oracle(experts, E, num_groups=num_groups, pad_to=pad_to)
    for name, a, b in zip(routing._fields, routing, want, strict=True):
        assert a.dtype is torch.int32, name
        assert torch.equal(a, b), f"{name}: {a} != {b}"

    row_to_slot, slot_to_row, offsets = routing
    plain = check(experts, E, num_groups)
    counts = plain.offsets.diff()
    assert (offsets % pad_to == 0).all()
    assert torch.equal(offsets.diff(), (counts + pad_to - 1) // pad_to * pad_to)
    assert offsets[-1] <= len(row_to_slot) == len(row_to_slot) // pad_to * pad_to
    # the rows of each expert are those without padding, and then padding
    for e in range(E):
        mine = row_to_slot[offsets[e] : offsets[e + 1]]
        assert torch.equal(
            mine[: counts[e]], plain.row_to_slot[plain.offsets[e] : plain.offsets[e + 1]]
        )
        assert (mine[counts[e] :] == -1).all()
    assert (row_to_slot[offsets[-1] :] == -1).all()
    kept = slot_to_row.flatten() >= 0
    assert torch.equal(kept, plain.slot_to_row.flatten() >= 0)
    slots = torch.arange(T * K, dtype=torch.int32, device=device)
    assert torch.equal(row_to_slot[slot_to_row.flatten()[kept].long()], slots[kept])


def test_padded_rows_are_enough_for_any_choice(device: str) -> None:
    for T, E in ((1, 3), (5, 3), (2, 9)):
        worst = torch.arange(T * 2, device=device).view(T, 2) % E  # the most experts with rows
        one = torch.zeros_like(worst)
        rows = [len(moge_ops.route(x, E, pad_to=4).row_to_slot) for x in (worst, one)]
        assert rows[0] == rows[1]  # no size depends on a value
        offsets = moge_ops.route(worst, E, pad_to=4).offsets
        assert 0 <= rows[0] - offsets[-1] <= 4 * min(E, 2 * T)
    # the bound is met: as many rows as slots and padding can make
    offsets = moge_ops.route(torch.tensor([[0, 1], [2, 2]], device=device), 3, pad_to=2).offsets
    assert offsets.tolist() == [0, 2, 4, 6]


def test_padding_reads_nothing_back() -> None:
    with FakeTensorMode():  # tensors without values
        routing = moge_ops.route(torch.zeros(5, 4, dtype=torch.int32), 8, num_groups=2, pad_to=16)
    assert routing.row_to_slot.shape == ((20 + 8 * 15) // 16 * 16,)


def test_padding_compiles_for_every_length() -> None:
    compiled = torch.compile(
        lambda x: moge_ops.route(x, 6, pad_to=4), backend="eager", fullgraph=True, dynamic=True
    )
    with torch._dynamo.config.patch(error_on_recompile=True):
        for T in (5, 9, 30, 1000):
            experts = torch.randint(0, 6, (T, 2))
            got, want = compiled(experts), moge_ops.route(experts, 6, pad_to=4)
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.slow_on("triton")
def test_the_example_of_padded_rows(device: str) -> None:
    page = (Path(__file__).parents[1] / "docs" / "operators" / "route.md").read_text()
    section = page.partition("## Padded rows")[2]
    block = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]
    names: dict[str, Any] = {}
    with torch.device(device):
        exec(block, names)
    assert (names["sizes"] % 16 == 0).all()
    gating = names["gating"]
    plain = moge_ops.route(gating.experts, names["E"], num_groups=2)
    inputs = [names[name] for name in ("x", "w_gate_up", "w_down")]
    assert_matches(names["y"], moge_ops.grouped_mlp(*inputs, gating.weights, plain).double(), "y")


def test_grouped_mlp_takes_no_padded_rows() -> None:
    routing = moge_ops.route(torch.tensor([[0, 1]]), 2, pad_to=4)
    x, w_gate_up, w_down = torch.zeros(1, 8), torch.zeros(2, 8, 8), torch.zeros(2, 8, 4)
    with pytest.raises(ValueError, match=r"no padded rows.* N = T \* K = 2, got 8"):
        moge_ops.grouped_mlp(x, w_gate_up, w_down, torch.ones(1, 2), routing)


@pytest.mark.parametrize(
    ("pad_to", "error", "message"),
    [
        (0, ValueError, r"pad_to must be in \[1, 2147483647\], got 0"),
        (2.0, TypeError, "pad_to must be an int, got float"),
        (2**30, ValueError, r"less than 2\^31 rows, got 1073741824, which makes 4294967296"),
    ],
)
def test_rejects_a_bad_padding(pad_to: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        moge_ops.route(torch.zeros(2, 2, dtype=torch.int32), 4, pad_to=pad_to)


def test_laws(device: str) -> None:
    T, E, G, k = 23, 20, 4, 2
    K, N = G * k, T * G * k
    experts = group_ids(T, E, G, k).to(device)
    row_to_slot, slot_to_row, offsets = moge_ops.route(experts, E, num_groups=G)

    rows = torch.arange(N, dtype=torch.int32, device=device)
    assert torch.equal(slot_to_row.flatten()[row_to_slot.long()], rows), "not inverse"
    assert torch.equal(row_to_slot.sort().values, rows), "not a permutation"
    expert_of_row = experts.flatten()[row_to_slot.long()]
    for e in range(E):
        mine = row_to_slot[offsets[e] : offsets[e + 1]]
        assert (expert_of_row[offsets[e] : offsets[e + 1]] == e).all(), f"expert {e} owns others"
        assert (mine[1:] > mine[:-1]).all(), f"expert {e} is not in the order of slots"
    group_starts = offsets[:: E // G]
    assert group_starts.tolist() == [g * T * k for g in range(G + 1)]
    for g in range(G):
        own = slot_to_row[:, g * k : (g + 1) * k]
        assert (own >= g * T * k).all(), g
        assert (own < (g + 1) * T * k).all(), g
    assert slot_to_row.shape == (T, K)


@pytest.mark.parametrize("num_groups", [None, 2])
def test_all_on_one_expert_leaves_the_others_empty(num_groups: int | None, device: str) -> None:
    experts = torch.tensor([[1, 6]], device=device).expand(9, 2)
    offsets = check(experts, 8, num_groups).offsets
    assert offsets.tolist() == [0, 0, 9, 9, 9, 9, 9, 18, 18]


def test_duplicates_in_a_row_keep_their_order(device: str) -> None:
    routing = check(torch.tensor([[2, 2, 0], [2, 1, 2]], device=device), 3, None)
    assert routing.slot_to_row.tolist() == [[2, 3, 0], [4, 1, 5]]


def test_ids_out_of_range_are_dropped(device: str) -> None:
    experts = torch.tensor([[-1, 0], [4, 3], [2**40 + 1, -(2**40)], [1, -(2**63)]], device=device)
    routing = check(experts, 4, None)
    assert routing.slot_to_row.tolist() == [[-1, 0], [-1, 2], [-1, -1], [1, -1]]
    assert routing.row_to_slot.tolist() == [1, 6, 3, -1, -1, -1, -1, -1]


def test_ids_of_another_group_are_dropped(device: str) -> None:
    experts = torch.tensor([[0, 1], [2, 3], [1, 2]], dtype=torch.int32, device=device)
    routing = check(experts, 4, 2)
    assert routing.slot_to_row.tolist() == [[0, -1], [-1, 3], [1, 2]]
    assert routing.offsets.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("num_groups", [None, 4])
def test_nothing_but_dropped_slots(num_groups: int | None, device: str) -> None:
    routing = check(torch.full((5, 4), -7, device=device), 8, num_groups)
    assert (routing.row_to_slot == -1).all()


def test_as_many_experts_as_it_takes(device: str) -> None:
    check(torch.randint(0, 16384, (3, 4), device=device), 16384, None)


def test_repeats_bit_for_bit(device: str) -> None:
    experts = torch.randint(-1, 9, (200, 4), device=device)
    first, second = (moge_ops.route(experts, 8) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("experts", "num_experts", "num_groups", "message"),
    [
        (torch.zeros(4, dtype=torch.int32), 4, None, r"experts must be \[T, K\], got \[4\]"),
        (torch.zeros(2, 3, dtype=torch.int32), 4, 2, r"divisible by num_groups=2, got \[2, 3\]"),
        (torch.zeros(2, 2, dtype=torch.int32), 5, 2, r"positive multiple of num_groups=2, got 5"),
        (torch.zeros(2, 2, dtype=torch.int32), 4, 0, r"num_groups must be at least 1, got 0"),
        (torch.zeros(2, 2, dtype=torch.int32), 0, None, r"num_experts must be in .*, got 0"),
        (torch.zeros(2, 2, dtype=torch.int32), -4, 2, r"num_experts must be in .*, got -4"),
        (torch.zeros(2, 2, dtype=torch.int32), 16385, None, r"must be in \[1, 16384\], got 16385"),
        (
            torch.empty(2**28, 8, dtype=torch.int32, device="meta"),
            4,
            None,
            r"T \* K below 2\^31, got \[268435456, 8\]",
        ),
    ],
    ids=["rank", "columns", "experts", "no-groups", "no-experts", "negative", "many", "rows"],
)
def test_rejects_a_bad_value(
    experts: Tensor, num_experts: int, num_groups: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        moge_ops.route(experts, num_experts, num_groups=num_groups)


@pytest.mark.parametrize(
    ("experts", "num_experts", "num_groups", "message"),
    [
        ([[0, 1]], 4, None, r"experts must be a Tensor \[T, K\], got list"),
        (torch.zeros(2, 2), 4, None, r"experts must be int32 \| int64, got float32"),
        (torch.zeros(2, 2, dtype=torch.int32), 4.0, None, "num_experts must be an int, got float"),
        (torch.zeros(2, 2, dtype=torch.int32), True, None, "num_experts must be an int, got bool"),
        (torch.zeros(2, 2, dtype=torch.int32), 4, "2", "num_groups must be an int, got str"),
    ],
    ids=["list", "float", "float-count", "bool-count", "str-groups"],
)
def test_rejects_a_bad_type(experts: Any, num_experts: Any, num_groups: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        moge_ops.route(experts, num_experts, num_groups=num_groups)
