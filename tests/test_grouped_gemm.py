"""moge_ops.grouped_gemm agrees with its oracle, forward and backward, on every backend."""

import mmap
from contextlib import nullcontext
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moge_ops._backend import load
from moge_ops.ops.grouped_gemm import grouped_gemm
from moge_ops.reference.grouped_gemm import grouped_gemm as oracle
from moge_ops.testing import assert_matches, backend, rms_error

# rows of each expert, rows of none, in, out
SHAPES = [
    pytest.param([3, 0, 17, 1], 0, 24, 40, id="an-empty-expert"),
    pytest.param([16, 32], 0, 32, 16, id="whole-tiles"),
    pytest.param([17, 33], 0, 33, 17, id="one-past-the-tile"),
    pytest.param([0, 21, 0], 0, 7, 5, id="all-on-one-odd"),
    pytest.param([2, 3], 19, 16, 32, id="rows-of-no-expert"),
    pytest.param([0, 0], 5, 8, 8, id="no-rows-in-use"),
    pytest.param([0, 0], 0, 8, 8, id="no-rows"),
    pytest.param([4, 1], 0, 0, 8, id="nothing-to-sum"),
    pytest.param([4, 1], 0, 8, 0, id="no-columns"),
    pytest.param([1], 0, 1, 1, id="one-of-everything"),
    pytest.param([2, 0, 1, 5], 3, 24, 40, id="few-rows"),
    pytest.param([5, 600, 3], 0, 8, 40, id="more-row-tiles-than-a-swizzle"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def offsets_of(counts: list[int]) -> Tensor:
    return torch.tensor([0, *counts]).cumsum(0).int()


def check(rows: Tensor, weight: Tensor, offsets: Tensor, device: str) -> None:
    rows, weight = rows.to(device).requires_grad_(), weight.to(device).requires_grad_()
    rows64, weight64 = (t.detach().cpu().double().requires_grad_() for t in (rows, weight))
    out = grouped_gemm(rows, weight, offsets.to(device))
    out64 = oracle(rows64, weight64, offsets)
    assert out.dtype is rows.dtype
    assert_matches(out, out64, "out")

    d_out = torch.randn(out.shape).to(out.dtype)
    d_rows, d_weight = torch.autograd.grad(out, (rows, weight), d_out.to(device))
    d_rows64, d_weight64 = torch.autograd.grad(out64, (rows64, weight64), d_out.double())
    assert_matches(d_rows, d_rows64, "d_rows")
    assert_matches(d_weight, d_weight64, "d_weight")


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("counts", "unused", "I", "O"), SHAPES)
def test_matches_the_oracle(
    counts: list[int], unused: int, I: int, O: int, dtype: torch.dtype, device: str
) -> None:
    rows = torch.randn(sum(counts) + unused, I).to(dtype)
    check(rows, torch.randn(len(counts), O, I).to(dtype), offsets_of(counts), device)


def test_sizes_of_zero(device: str) -> None:
    for N, I, O in product((0, 3), (0, 4), (0, 4)):
        if not N * I * O:
            check(torch.randn(N, I), torch.randn(2, O, I), offsets_of([0, N]), device)


@pytest.mark.parametrize(("counts", "unused", "I", "O"), SHAPES)
def test_triton_with_specialized_warps_gives_the_same(
    counts: list[int], unused: int, I: int, O: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variant that no built-in row of the tables chooses."""
    on_gpu = torch.cuda.is_available()
    with nullcontext() if on_gpu else backend("triton"):  # there it serves unasked
        module = load("triton", "grouped_gemm")
        find_config, compiled = module.find_config, not load("triton", "_common").INTERPRETED
        if on_gpu and torch.cuda.get_device_capability()[0] != 9:
            pytest.skip("of Hopper only")
        tile = {"block_m": 128, "block_c": 256, "block_r": 64, "num_warps": 4, "num_stages": 4}

        def specialized(*args: Any, **kwargs: Any) -> Any:
            return find_config(*args, **kwargs)._replace(
                swap=0, specialize=1, **(tile if compiled else {})
            )

        monkeypatch.setattr(module, "find_config", specialized)
        rows = torch.randn(sum(counts) + unused, I).half()
        weight = torch.randn(len(counts), O, I).half()
        check(rows, weight, offsets_of(counts), "cuda" if on_gpu else "cpu")


def test_triton_without_specialized_warps_has_twice_as_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a row of the tables asks for them, and a bias has no kernel with them."""
    with nullcontext() if torch.cuda.is_available() else backend("triton"):
        module = load("triton", "grouped_gemm")
        find_config, constants, warps = module.find_config, module.constants, []

        def specialized(*args: Any, **kwargs: Any) -> Any:
            return find_config(*args, **kwargs)._replace(swap=0, specialize=1, num_warps=4)

        def noted(config: Any, *args: Any) -> Any:
            warps.append(config.num_warps)
            return constants(config, *args)

        monkeypatch.setattr(module, "find_config", specialized)
        monkeypatch.setattr(module, "constants", noted)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        rows, weight = torch.randn(4, 8, device=device), torch.randn(2, 5, 8, device=device)
        bias, offsets = torch.randn(2, 5, device=device), offsets_of([3, 1]).to(device)
        out = module.biased_product(rows, weight, offsets, bias)
    assert warps == [8]
    want = oracle(rows.double(), weight.double(), offsets)
    want += bias.double()[torch.tensor([0, 0, 0, 1], device=device)]
    assert_matches(out, want, "out")


@pytest.mark.slow_on("triton")
@given(
    counts=st.lists(st.integers(0, 35), min_size=1, max_size=5),
    unused=st.integers(0, 20),
    I=st.integers(1, 40),
    O=st.integers(1, 40),
    transposed=st.booleans(),
)
def test_any_shape_and_stride(
    counts: list[int], unused: int, I: int, O: int, transposed: bool, device: str
) -> None:
    N, E = sum(counts) + unused, len(counts)
    if transposed:
        rows, weight = torch.randn(I, N).t(), torch.randn(E, I, O).mT
    else:
        rows, weight = torch.randn(N, I + 3)[:, 3:], torch.randn(E, O, I)
    check(rows, weight, offsets_of(counts), device)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_products_of_any_number_of_threads(threads: int) -> None:
    """The CPU path cuts wide float32 products into one part for each thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for O in (256, 384, 257):
            check(torch.randn(5, 8), torch.randn(2, O, 8), offsets_of([2, 3]), "cpu")
    finally:
        torch.set_num_threads(before)


def test_experts_far_apart_in_memory(device: str) -> None:
    """Their offsets need 64 bits; on the CPU the memory between them is virtual only."""
    step, O, I = 2**30 + 8, 4, 5
    size = 2 * step + O * I
    if device == "cuda":  # 4 GiB: a copy of the CPU's would have the experts side by side
        memory = torch.empty(size, dtype=torch.float16, device=device)
    else:
        memory = torch.frombuffer(mmap.mmap(-1, 2 * size), dtype=torch.float16)
    weight = memory.as_strided((3, O, I), (step, I, 1))
    weight.copy_(torch.randn(3, O, I))
    check(torch.randn(5, I).half(), weight, offsets_of([2, 1, 2]), device)


@pytest.mark.slow_on("triton")
@pytest.mark.float64
def test_gradcheck(device: str, interpreted: bool) -> None:
    rows = torch.randn(7, 3, dtype=torch.float64, device=device, requires_grad=True)
    weight = torch.randn(3, 4, 3, dtype=torch.float64, device=device, requires_grad=True)
    offsets = offsets_of([2, 0, 4]).to(device)
    assert torch.autograd.gradcheck(
        lambda r, w: grouped_gemm(r, w, offsets), (rows, weight), fast_mode=interpreted
    )


def test_rows_of_no_expert_are_not_read(device: str) -> None:
    rows, weight = torch.randn(6, 8, device=device), torch.randn(2, 8, 8, device=device)
    rows[4:] = torch.nan
    out = grouped_gemm(
        rows.requires_grad_(), weight.requires_grad_(), offsets_of([1, 3]).to(device)
    )
    d_out = torch.ones_like(out)
    d_out[4:] = torch.nan
    d_rows, d_weight = torch.autograd.grad(out, (rows, weight), d_out)
    assert not out[4:].any()
    assert not d_rows[4:].any()
    assert out.isfinite().all()
    assert d_rows.isfinite().all()
    assert d_weight.isfinite().all()


def test_an_infinite_neighbour_stays_out(device: str) -> None:
    # tiles overrun an expert's weight in both dimensions: the next expert's must not leak in
    weight = torch.randn(3, 20, 40, device=device)
    weight[1] = torch.inf
    rows = torch.randn(9, 40, device=device)
    offsets = offsets_of([4, 0, 5]).to(device)
    assert grouped_gemm(rows, weight, offsets).isfinite().all()
    d_out = torch.randn(9, 20, device=device)
    out = grouped_gemm(rows.requires_grad_(), weight, offsets)
    assert torch.autograd.grad(out, rows, d_out)[0].isfinite().all()


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_bits_every_run(dtype: torch.dtype, device: str) -> None:
    rows = torch.randn(40, 33, device=device).to(dtype).requires_grad_()
    weight = torch.randn(4, 20, 33, device=device).to(dtype).requires_grad_()
    offsets = offsets_of([9, 0, 30, 1]).to(device)
    d_out = torch.randn(40, 20, device=device).to(dtype)

    def run() -> tuple[Tensor, ...]:
        out = grouped_gemm(rows, weight, offsets)
        return out, *torch.autograd.grad(out, (rows, weight), d_out)

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_rounds_no_worse_than_torch(device: str) -> None:
    dtype = torch.bfloat16
    counts = [40, 25, 63]
    rows = torch.randn(128, 256).to(dtype)
    weight = torch.randn(3, 96, 256).to(dtype)
    offsets = offsets_of(counts)
    exact = oracle(rows.double(), weight.double(), offsets)
    torch_error = rms_error(oracle(rows, weight, offsets), exact)
    out = grouped_gemm(rows.to(device), weight.to(device), offsets.to(device))
    assert rms_error(out.cpu(), exact) <= 1.1 * torch_error


def test_autocast_casts_both_operands(device: str) -> None:
    rows = torch.randn(4, 8, device=device, requires_grad=True)
    weight = torch.randn(1, 8, 8, device=device, requires_grad=True)
    with torch.autocast(device, torch.bfloat16):
        out = grouped_gemm(rows, weight, offsets_of([4]).to(device))
    assert out.dtype is torch.bfloat16
    out.sum().backward()
    assert rows.grad is not None
    assert rows.grad.dtype is torch.float32


@pytest.mark.float64
def test_autocast_leaves_float64_alone(device: str) -> None:
    rows, weight = (torch.randn(n, 8, dtype=torch.float64, device=device) for n in (4, 3))
    with torch.autocast(device, torch.bfloat16):
        out = grouped_gemm(rows, weight.unsqueeze(0), offsets_of([4]).to(device))
    assert out.dtype is torch.float64


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rows": torch.zeros(4)}, ValueError, r"rows must be \[N, I\], got \[4\]"),
        ({"rows": torch.zeros(4, 3)}, ValueError, r"= \[2, 5, 3\], got \[2, 5, 8\]"),
        ({"rows": torch.zeros(4, 8).half()}, TypeError, "dtype of rows, float16, got float32"),
        ({"rows": torch.zeros(4, 8).int()}, TypeError, r"rows must be float16 \| .*, got int32"),
        ({"weight": torch.zeros(5, 8)}, ValueError, r"weight must be \[E, O, I\], got \[5, 8\]"),
        ({"weight": None}, TypeError, r"weight must be a Tensor .*, got NoneType"),
        ({"offsets": torch.zeros(3)}, TypeError, "offsets must be int32, got float32"),
        ({"offsets": torch.zeros(4).int()}, ValueError, r"offsets must be .* = \[3\], got \[4\]"),
        ({"offsets": torch.zeros(3, device="meta").int()}, ValueError, "device of rows, cpu, got"),
    ],
)
def test_rejects(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {
        "rows": torch.zeros(4, 8),
        "weight": torch.zeros(2, 5, 8),
        "offsets": torch.tensor([0, 1, 4]).int(),
    }
    with pytest.raises(error, match=message):
        grouped_gemm(**{**arguments, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("offsets", [[0, 3, 2], [0, 2, 9], [1, 2, 4], [-1, 2, 4], [-9, -2, 99]])
def test_kernels_stay_inside_with_bad_offsets(offsets: list[int]) -> None:
    # a GPU cannot look at them without waiting: rows that two experts claim, or none, are undefined
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows, weight = torch.randn(4, 8, device=device), torch.randn(2, 5, 8, device=device)
    wild = torch.tensor(offsets, device=device).int()
    with nullcontext() if device == "cuda" else backend("triton"):
        given, inside = (grouped_gemm(rows, weight, o) for o in (wild, wild.clamp(0, 4)))
    torch.testing.assert_close(given, inside, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["torch", "reference"])
@pytest.mark.parametrize("offsets", [[0, 3, 2], [0, 2, 9], [1, 2, 4], [-1, 2, 4], [-1, -1, -1]])
def test_cpu_rejects_bad_offsets(offsets: list[int], name: str) -> None:
    with (
        backend(name),
        pytest.raises(ValueError, match="offsets must rise from 0 to at most N=4, got"),
    ):
        grouped_gemm(torch.zeros(4, 8), torch.zeros(2, 5, 8), torch.tensor(offsets).int())


def test_what_lies_beside_the_operands_stays_out(device: str) -> None:
    # strides that no descriptor takes: the masks of the pointers leave out what follows in memory
    around, beside = torch.full((9, 37), torch.inf), torch.full((3, 21, 37), torch.inf)
    after = torch.full((9, 26), torch.inf)
    rows, weight, d_out = (x.to(device) for x in (around, beside, after))
    rows, weight, d_out = rows[:, :33], weight[..., :33], d_out[:, :21]
    for x in (rows, weight, d_out):
        x.copy_(torch.randn(x.shape))
    check(rows, weight, offsets_of([4, 0, 5]), device)
    out = grouped_gemm(rows.requires_grad_(), weight, offsets_of([4, 0, 5]).to(device))
    (d_rows,) = torch.autograd.grad(out, rows, d_out)
    assert d_rows.isfinite().all()


def test_float32_is_multiplied_in_the_precision_that_torch_says() -> None:
    dot, before = load("triton", "_product").dot, torch.get_float32_matmul_precision()
    try:
        for said, precision in (("highest", "ieee"), ("high", "tf32"), ("medium", "tf32")):
            torch.set_float32_matmul_precision(said)
            assert dot(torch.float32).precision == precision
            assert dot(torch.bfloat16).precision == "ieee"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("layout", ["transposed", "strided", "offset", "8-bytes"])
def test_operands_that_no_descriptor_takes(layout: str, device: str) -> None:
    rows, weight = torch.randn(9, 24), torch.randn(3, 20, 24)
    if layout == "transposed":
        rows = rows.t().contiguous().t()
    elif layout == "strided":
        rows, weight = torch.randn(9, 48)[:, ::2], torch.randn(3, 20, 48)[..., ::2]
    elif layout == "offset":  # by one element
        rows = torch.randn(1 + 9 * 24)[1:].view(9, 24)
        weight = torch.randn(1 + 3 * 20 * 24)[1:].view(3, 20, 24)
    else:  # rows that begin at multiples of 8 bytes
        rows, weight = torch.randn(9, 26)[:, :24], torch.randn(3, 20, 26)[..., :24]
    check(rows, weight, offsets_of([4, 0, 5]), device)
