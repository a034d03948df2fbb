"""The native CPU kernels: their levels, threads, memory, and what only they could get wrong.

The operators' own tests run on this backend too; what stands here is not among them.
"""

import ctypes
import importlib
import mmap
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import moge_ops
from moge_ops import ops
from moge_ops._extensions import cpu_level, cpu_levels
from moge_ops.ops.route import Routing
from moge_ops.reference.grouped_gemm import grouped_gemm as gemm_oracle
from moge_ops.reference.grouped_mlp import grouped_mlp as mlp_oracle
from moge_ops.reference.load_balance_loss import load_balance_loss as loss_oracle
from moge_ops.reference.swiglu import swiglu as swiglu_oracle
from moge_ops.testing import assert_matches, backend

if cpu_level().startswith("off"):
    pytest.skip(f"no native kernels: {cpu_level()}", allow_module_level=True)

_cpu: Any = importlib.import_module("moge_ops._cpu")
LEVELS = [level for level, missing in cpu_levels() if not missing]
MISSING = [level for level, missing in cpu_levels() if missing]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
INF, NAN = float("inf"), float("nan")
EMULATED = "MOGE_OPS_CPU_MODULE" in os.environ
only_installed = pytest.mark.skipif(EMULATED, reason="a new process has the installed extension")
native = pytest.mark.parametrize("device", [f"cpu_{level}" for level in LEVELS], indirect=True)


# Levels


def in_new_process(code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


INFO = "from moge_ops.cli import main; main(['info'])"


@pytest.mark.slow
@only_installed
def test_an_unknown_level_is_refused() -> None:
    done = in_new_process("import moge_ops", MOGE_OPS_CPU_ISA="sse9")
    names = ", ".join(level for level, _ in cpu_levels())
    said = f"ValueError: MOGE_OPS_CPU_ISA: level must be one of {names}, got 'sse9'"
    assert done.returncode
    assert said in done.stderr


@pytest.mark.slow
@only_installed
def test_a_level_that_the_processor_lacks_is_refused() -> None:
    if not MISSING:
        pytest.skip("this processor has every level")
    done = in_new_process("import moge_ops", MOGE_OPS_CPU_ISA=MISSING[-1])
    said = f"RuntimeError: MOGE_OPS_CPU_ISA: level {MISSING[-1]} cannot run here: "
    assert done.returncode
    assert said + dict(cpu_levels())[MISSING[-1]] in done.stderr


@pytest.mark.slow
@only_installed
def test_info_prints_the_level_and_why_no_higher_one_runs() -> None:
    done = in_new_process(INFO, MOGE_OPS_CPU_ISA="avx2")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "native kernels" in line]
    assert "native kernels: avx2" in line
    for level, missing in cpu_levels():
        assert (f"no {level}: {missing}" in line) == bool(missing)


def test_without_being_asked_the_highest_level_runs() -> None:
    if "MOGE_OPS_CPU_ISA" in os.environ:
        pytest.skip("a level was asked for")
    assert cpu_level() == LEVELS[-1]
    assert _cpu.level() == LEVELS[-1]


def test_set_level_refuses_and_keeps_the_level() -> None:
    before = _cpu.level()
    with pytest.raises(ValueError, match=r"level must be one of avx2, .*, got 'sse9'"):
        _cpu.set_level("sse9")
    for level in MISSING:
        with pytest.raises(RuntimeError, match=f"level {level} cannot run here"):
            _cpu.set_level(level)
    assert _cpu.level() == before


def test_torch_has_brought_its_threads() -> None:
    assert _cpu.has_threads() == ("OpenMP" in torch.__config__.parallel_info())


# The same bits


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def route_of(counts: list[int], dropped: int = 0) -> Routing:
    """A shuffled routing in which expert e has the e-th number of rows; some slots have no row."""
    ids = torch.repeat_interleave(torch.tensor([*counts, dropped]))
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(len(ids)))
    return moge_ops.route(ids[order, None].int(), len(counts))


def layer(
    counts: list[int],
    H: int,
    F: int,
    dtype: torch.dtype,
    weight_on: str = "output",
    dropped: int = 0,
) -> tuple[tuple[Tensor, ...], Routing, Callable[[], list[Tensor]]]:
    """Inputs of the expert layer, and a call that returns its result and all gradients."""
    routing, E = route_of(counts, dropped), len(counts)
    T = routing.slot_to_row.shape[0]
    inputs = (
        draw(1, T, H, dtype=dtype),
        draw(2, E, 2 * F, H).div(max(H, 1) ** 0.5).to(dtype),
        draw(3, E, H, F).div(max(F, 1) ** 0.5).to(dtype),
        draw(4, T, 1).abs() + 0.1,
    )
    d_y = draw(5, T, H, dtype=dtype)

    def call() -> list[Tensor]:
        args = [t.detach().requires_grad_() for t in inputs]
        y = moge_ops.grouped_mlp(*args, routing, weight_on=weight_on)
        return [y.detach(), *torch.autograd.grad(y, args, d_y)]

    return inputs, routing, call


def product_calls(counts: list[int], I: int, O: int, dtype: torch.dtype) -> list[Tensor]:
    offsets = torch.tensor([0, *counts]).cumsum(0).int()
    rows = draw(1, sum(counts) + 3, I, dtype=dtype).requires_grad_()
    weight = draw(2, len(counts), O, I, dtype=dtype).requires_grad_()
    out = moge_ops.grouped_gemm(rows, weight, offsets)
    return [
        out.detach(),
        *torch.autograd.grad(out, (rows, weight), draw(3, *out.shape, dtype=dtype)),
    ]


def rowwise_calls(T: int, H: int, dtype: torch.dtype) -> list[Tensor]:
    E, K = 8, 4
    ids = torch.randint(-1, E, (T, K), generator=torch.Generator().manual_seed(0)).int()
    routing = moge_ops.route(ids, E)
    x = draw(1, T, H, dtype=dtype).requires_grad_()
    weights = draw(2, T, K).requires_grad_()
    rows = moge_ops.permute(x, routing)
    y = moge_ops.unpermute(rows, routing, weights)
    found = [
        *routing,
        rows,
        y,
        *torch.autograd.grad(y, (x, weights), draw(3, T, H, dtype=dtype)),
    ]
    gate_up = draw(4, T, 2 * H, dtype=dtype).requires_grad_()
    act = moge_ops.swiglu(gate_up)
    return [*found, act, *torch.autograd.grad(act, gate_up, draw(5, T, H, dtype=dtype))]


def gate_calls(T: int, E: int, dtype: torch.dtype, score: str) -> list[Tensor]:
    logits = draw(1, T, E, dtype=dtype).requires_grad_()
    scale = (draw(2, E).abs() + 0.5).requires_grad_()
    gate = moge_ops.grouped_gate(
        logits, 4, 2, score=score, router_scale=scale, renormalize=True, scaling=2.5
    )
    found = [*gate, *torch.autograd.grad(gate[0], (logits, scale), draw(3, *gate[0].shape))]
    loss = moge_ops.load_balance_loss(logits, gate[1], score=score)
    return [*found, loss, *torch.autograd.grad(loss, logits)]


# rows of each expert, H, F: of few blocks, whose columns are divided, and of many
DIVIDED = {
    "one-block-in-parts": ([40], 160, 192),
    "two-blocks-in-parts": ([70, 0, 3], 200, 130),
    "few-rows-in-parts": ([1, 2, 0, 1], 300, 260),
    "many-blocks": ([70, 130, 1, 64, 65, 200, 0, 33, 5, 9, 17, 80], 48, 40),
}


@native
@pytest.mark.parametrize("weight_on", ["output", "activation"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", DIVIDED)
def test_the_layer_has_the_same_bits_for_any_number_of_threads(
    name: str, dtype: torch.dtype, weight_on: str, device: str
) -> None:
    inputs, routing, call = layer(*DIVIDED[name], dtype, weight_on, dropped=2)
    alone = None
    for number in (1, 2, 3, 5, 5):
        with threads(number):
            found = call()
        alone = alone or found
        assert all(map(torch.equal, found, alone)), number
    y64 = mlp_oracle(*(t.double() for t in inputs), *routing, weight_on=weight_on)
    assert_matches(alone[0], y64, "y")


@native
def test_no_thread_goes_ahead_of_the_others(device: str) -> None:
    """Steps so long that all threads are at work when the first of them ends its own."""
    (x, *rest), routing, _ = layer([40, 30, 50, 9], 512, 512, torch.float32)
    # inputs that change: what an earlier call left in memory would be wrong
    for number in range(1, 9):
        args = (x * number, *rest, routing)
        with threads(1):
            want = moge_ops.grouped_mlp(*args)
        with threads(2 + number % 2):
            moge_ops.grouped_mlp(x * -number, *rest, routing)
            assert torch.equal(moge_ops.grouped_mlp(*args), want), number


@native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", DIVIDED)
def test_products_have_the_same_bits_for_any_number_of_threads(
    name: str, dtype: torch.dtype, device: str
) -> None:
    counts, H, F = DIVIDED[name]
    alone = None
    for number in (1, 2, 3, 5, 5):
        with threads(number):
            # enough products of numbers that threads are worth waking
            found = product_calls(counts, 4 * H, 4 * F, dtype)
        alone = alone or found
        assert all(map(torch.equal, found, alone)), number


@native
def test_all_threads_flush_numbers_below_the_normal_ones_where_the_caller_does(device: str) -> None:
    """That is a mode of one thread, and those of the pool are older than this one's wish."""
    rows, weight = torch.full((512, 256), 2e-20), torch.full((4, 256, 256), 2e-20)
    offsets = torch.arange(0, 513, 128, dtype=torch.int32)
    with threads(2):
        assert moge_ops.grouped_gemm(rows, weight, offsets).all()
        try:
            if not torch.set_flush_denormal(True):
                pytest.skip("the processor has no such mode")
            assert not moge_ops.grouped_gemm(rows, weight, offsets).any()
        finally:
            torch.set_flush_denormal(False)


@native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_have_the_same_bits_for_any_number_of_threads(dtype: torch.dtype, device: str) -> None:
    alone = None
    for number in (1, 2, 3, 5, 5):
        with threads(number):
            found = rowwise_calls(700, 301, dtype)
        alone = alone or found
        assert all(map(torch.equal, found, alone)), number


@native
@pytest.mark.parametrize("score", ["softmax", "sigmoid", "sqrtsoftplus"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gates_have_the_same_bits_for_any_number_of_threads(
    dtype: torch.dtype, score: str, device: str
) -> None:
    alone = None
    for number in (1, 2, 3, 5, 5):
        with threads(number):
            found = gate_calls(3001, 132, dtype, score)
        alone = alone or found
        assert all(map(torch.equal, found, alone)), number


@native
def test_the_loss_of_many_rows_and_ids_of_either_type(device: str) -> None:
    """More rows than are summed together."""
    logits = draw(1, 300, 12)
    logits[200:] += torch.arange(12)
    experts = torch.randint(0, 12, (300, 3))
    for ids in (experts, experts.int()):
        found = moge_ops.load_balance_loss(logits, ids)
        assert_matches(found, loss_oracle(logits.double(), ids), "loss")


# Threads and processes


def several() -> list[Tensor]:
    """Some of every kernel, of several threads each."""
    return [
        *layer([40, 3, 80], 96, 64, torch.float32)[2](),
        *layer([40], 160, 192, torch.bfloat16)[2](),
        *gate_calls(600, 64, torch.float32, "softmax"),
        *rowwise_calls(300, 100, torch.float16),
    ]


def test_threads_of_python_call_at_once() -> None:
    start = threading.Barrier(4)

    def run() -> list[list[Tensor]]:
        torch.set_num_threads(2)  # with some builds of OpenMP each thread has its own number
        start.wait(timeout=60)
        with backend("cpu"):
            return [several() for _ in range(4)]

    with threads(2), backend("cpu"):
        alone = several()
        with ThreadPoolExecutor(4) as pool:
            runs = [pool.submit(run) for _ in range(4)]
            for found in [found for done in runs for found in done.result(timeout=240)]:
                assert all(map(torch.equal, found, alone))


FORKED = """
import importlib.util, os, sys, torch
spec = importlib.util.spec_from_file_location("of_tests", sys.argv[1])
t = importlib.util.module_from_spec(spec)
sys.modules["of_tests"] = t
spec.loader.exec_module(t)
torch.set_num_threads(2)
with t.backend("cpu"):
    # small enough that torch's own operations need no threads: in a forked child they would hang
    call = t.layer([300], 64, 64, torch.float32)[2]
    want = call()
    for _ in range(2):
        child = os.fork()
        if not child:
            good = all(map(torch.equal, call(), want))
            os._exit(0 if good else 3)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0, status
    assert all(map(torch.equal, call(), want))  # the parent goes on
    print("done")
"""


@pytest.mark.slow
@only_installed
def test_a_forked_child_computes_the_same_and_ends() -> None:
    command = [sys.executable, "-c", FORKED, __file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


class Rows(torch.utils.data.Dataset[Tensor]):
    """Whose items are computed by a kernel."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Tensor:
        with backend("cpu"):
            return layer([40 + i], 160, 192, torch.float32)[2]()[0]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_of_a_data_loader_compute_the_same() -> None:
    with threads(2):
        want = [Rows()[i] for i in range(4)]
        loader: Any = torch.utils.data.DataLoader(
            Rows(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60
        )
        found = list(loader)
    for got, expected in zip(found, want, strict=True):
        # a worker has one thread; the bits are the same for any number
        assert torch.equal(got, expected)


@pytest.mark.parametrize("name", ["route", "grouped_mlp"])
def test_another_thread_runs_during_a_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that kept the interpreter to itself would leave the other thread where it stood."""
    # torch fills the results without the interpreter, and takes long enough to hide it
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    counted, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0.0005)

    inputs, routing, _ = layer([1500] * 4, 512, 512, torch.float32)
    ids = torch.randint(0, 64, (1_500_000, 8)).int()
    calls = {
        "route": lambda: moge_ops.route(ids, 64),
        "grouped_mlp": lambda: moge_ops.grouped_mlp(*inputs, routing),
    }
    thread = threading.Thread(target=count)
    with backend("cpu"), threads(1):
        calls[name]()
        thread.start()
        try:
            end, most = time.monotonic() + 60.0, 0
            # some steps come where the call enters and leaves the interpreter, many only during it
            while most < 20 and time.monotonic() < end:
                before = counted[0]
                calls[name]()
                most = max(most, counted[0] - before)
        finally:
            stop.set()
            thread.join()
    assert most >= 20


def test_memory_of_a_large_call_is_given_back() -> None:
    def resident() -> int:
        fields = Path("/proc/self/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    if not Path("/proc/self/statm").exists():
        pytest.skip("this system does not tell its memory")
    # [N, H] rows in float32 are 256 MiB of scratch
    routing = moge_ops.route(torch.zeros(2**16, 1).int(), 1)
    x = torch.zeros(1, 1024).expand(2**16, 1024)
    weights = torch.ones(2**16, 1)
    with backend("cpu"), torch.no_grad():
        moge_ops.grouped_mlp(
            x[:64],
            torch.zeros(1, 2, 1024),
            torch.zeros(1, 1024, 1),
            weights[:64],
            moge_ops.route(torch.zeros(64, 1).int(), 1),
        )
        before = resident()
        moge_ops.grouped_mlp(x, torch.zeros(1, 2, 1024), torch.zeros(1, 1024, 1), weights, routing)
    assert resident() - before < 2**27


# Dtypes and routings


@native
def test_weights_of_every_dtype_are_weighed_in_float32(device: str) -> None:
    inputs, routing, _ = layer([5, 40, 0], 24, 20, torch.bfloat16)
    want = None
    for dtype in (torch.bfloat16, torch.float32, torch.float64, torch.float16):
        weights = inputs[3].bfloat16().to(dtype).requires_grad_()
        y = moge_ops.grouped_mlp(*inputs[:3], weights, routing)
        (d_weights,) = torch.autograd.grad(y, weights, torch.ones_like(y))
        assert y.dtype is torch.bfloat16
        assert d_weights.dtype is dtype
        # autograd would convert another dtype: the operator itself gives this one
        parts = (
            *inputs[:3],
            weights.detach(),
            *routing,
            torch.zeros(len(inputs[0]), 40).bfloat16(),
        )
        assert (
            torch.ops.moge_ops.grouped_mlp_bwd(y.detach(), *parts, False, False)[3].dtype is dtype
        )
        want = y if want is None else want
        if dtype is not torch.float16:  # which bfloat16 does not fit into
            assert torch.equal(y, want)


@native
@pytest.mark.parametrize("bad", [-1, 12, 2**31 - 1, -(2**31)])
def test_a_row_of_no_slot_is_refused(bad: int, device: str) -> None:
    inputs, routing, _ = layer([5, 4, 3], 8, 8, torch.float32)
    row_to_slot = routing.row_to_slot.clone()
    row_to_slot[7] = bad
    wrong = Routing(row_to_slot, routing.slot_to_row, routing.offsets)
    said = r"row_to_slot must have, in its first 12 rows, numbers of 12 slots"
    with pytest.raises(ValueError, match=said):
        moge_ops.grouped_mlp(*inputs, wrong)
    x = torch.randn(12, 8, requires_grad=True)
    pre = torch.randn(12, 16)
    with pytest.raises(ValueError, match=said):
        ops.grouped_mlp.grouped_mlp_bwd(
            torch.randn(12, 8), x.detach(), *inputs[1:], *wrong, pre, True, True
        )
    if bad == -1:  # padding, for the operators that know it
        assert not moge_ops.permute(x, wrong)[7].any()
        return
    for call in (
        lambda: moge_ops.permute(x, wrong),
        lambda: moge_ops.unpermute(x, wrong),
        lambda: ops.unpermute.unpermute_bwd(
            torch.randn(12, 8), x.detach(), row_to_slot, routing.slot_to_row, inputs[3]
        ),
    ):
        with pytest.raises(ValueError, match=said):
            call()


@native
def test_a_slot_of_no_row_adds_nothing(device: str) -> None:
    """slot_to_row is looked at where it is used."""
    inputs, routing, _ = layer([5, 4, 3], 8, 8, torch.float32)
    want = moge_ops.grouped_mlp(*inputs, routing)
    slot_to_row = routing.slot_to_row.clone()
    for slot, bad in ((0, -7), (5, 12), (9, 2**31 - 1)):
        slot_to_row[slot] = bad
        want[slot] = 0.0
    wrong = Routing(routing.row_to_slot, slot_to_row, routing.offsets)
    assert torch.equal(moge_ops.grouped_mlp(*inputs, wrong), want)


@native
@pytest.mark.parametrize("offsets", [[0, 3, 2], [0, 2, 13], [1, 2, 4], [-1, 2, 4]])
def test_offsets_that_do_not_rise_are_refused(offsets: list[int], device: str) -> None:
    bad = torch.tensor(offsets).int()
    inputs, routing, _ = layer([5, 7], 8, 8, torch.float32)
    said = "offsets must rise from 0 to at most N=12, got"
    with pytest.raises(ValueError, match=said):
        moge_ops.grouped_mlp(*inputs, routing._replace(offsets=bad))
    rows, weight, d_out = torch.randn(12, 8), torch.randn(2, 4, 8), torch.randn(12, 4)
    gemm = ops.grouped_gemm
    for call in (
        lambda: moge_ops.grouped_gemm(rows, weight, bad),
        lambda: gemm.grouped_gemm_dx(d_out, weight, bad),
        lambda: gemm.grouped_gemm_dw(d_out, rows, bad),
    ):
        with pytest.raises(ValueError, match=said):
            call()


@native
def test_chosen_experts_out_of_range_are_refused(device: str) -> None:
    logits, experts = torch.randn(3, 8), torch.tensor([[0, 7], [1, 8], [2, 3]]).int()
    with pytest.raises(ValueError, match=r"experts must be in \[0, 8\)"):
        ops.grouped_gate.grouped_gate_bwd(
            torch.ones(3, 2), logits, experts, 2, "softmax", None, True, 1.0, False
        )


# Sizes and strides


def check_layer(inputs: tuple[Tensor, ...], routing: Routing, weight_on: str = "output") -> None:
    args = [t.detach().requires_grad_() for t in inputs]
    args64 = [t.detach().double().requires_grad_() for t in inputs]
    y = moge_ops.grouped_mlp(*args, routing, weight_on=weight_on)
    y64 = mlp_oracle(*args64, *routing, weight_on=weight_on)
    assert_matches(y, y64, "y")
    d_y = draw(9, *y.shape, dtype=y.dtype)
    found = torch.autograd.grad(y, args[:3], d_y)
    found64 = torch.autograd.grad(y64, args64[:3], d_y.double())
    for name, d, d64 in zip(("x", "w_gate_up", "w_down"), found, found64, strict=True):
        assert_matches(d, d64, f"d_{name}")


@native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "rows", [1, 2, 3, 7, 8, 9, 12, 13, 31, 32, 33, 63, 64, 65, 96, 97, 128, 129, 300]
)
def test_rows_of_one_expert_around_a_block(rows: int, dtype: torch.dtype, device: str) -> None:
    """From lines to panels, from one block to several, and slots without a row between them."""
    inputs, routing, _ = layer([0, rows, 0], 37, 19, dtype, dropped=3)
    check_layer(inputs, routing)


@native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("columns", [2, 15, 16, 17, 31, 32, 33, 34, 47, 49, 63, 65, 100])
def test_tails_of_every_length(columns: int, dtype: torch.dtype, device: str) -> None:
    for H, F in ((columns, 5), (6, columns), (columns, columns)):
        for weight_on in ("output", "activation"):
            inputs, routing, _ = layer([20, 0, 2], H, F, dtype)
            check_layer(inputs, routing, weight_on)


@native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layouts(dtype: torch.dtype, device: str) -> None:
    """Transposed, with gaps between rows and experts, repeated: the layout leaves no trace."""
    inputs, routing, _ = layer([20, 0, 2, 9], 19, 21, dtype)
    want = moge_ops.grouped_mlp(*inputs, routing)

    def gaps(t: Tensor) -> Tensor:
        room = t.new_full([2 * size + 1 for size in t.shape[:-1]] + [t.shape[-1] + 5], NAN)
        part = room[tuple(slice(1, None, 2) for _ in t.shape[:-1])][..., 3:-2]
        return part.copy_(t)

    def transposed(t: Tensor) -> Tensor:
        return t.mT.contiguous().mT

    def outward(t: Tensor) -> Tensor:
        return t.movedim(0, -2).contiguous().movedim(-2, 0)  # experts within the rows

    x, w_gate_up, w_down, weights = inputs
    for other in (
        (gaps(x), gaps(w_gate_up), gaps(w_down), weights),
        (transposed(x), transposed(w_gate_up), transposed(w_down), weights),
        (x, outward(w_gate_up), outward(w_down), weights),
        (x, w_gate_up, w_down, gaps(weights)),
    ):
        assert torch.equal(moge_ops.grouped_mlp(*other, routing), want)
        check_layer(other, routing)
    one = x[:1].expand_as(x), w_gate_up[:1].expand_as(w_gate_up), w_down[:1].expand_as(w_down)
    assert one[0].stride(0) == 0
    whole = [t.contiguous() for t in one]
    got = moge_ops.grouped_mlp(*one, weights, routing)
    assert torch.equal(got, moge_ops.grouped_mlp(*whole, weights, routing))
    check_layer((*one, weights), routing)


@native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_neighbours_in_memory_stay_out(dtype: torch.dtype, device: str) -> None:
    """Rows and columns that lie past those of the operands are infinite."""
    for rows, I, O in ((1, 3, 5), (5, 17, 33), (20, 31, 18), (70, 33, 65)):

        def inside(*shape: int) -> Tensor:
            room = torch.full([size + 3 for size in shape], INF).to(dtype)
            part = room[tuple(slice(1, size + 1) for size in shape)]
            return part.copy_(draw(sum(shape), *shape, dtype=dtype))

        offsets = torch.tensor([0, rows, rows]).int()
        x, weight = inside(rows + 2, I), inside(2, O, I)
        x[rows:], weight[1] = NAN, INF  # rows of no expert, an expert of no rows
        d_out = inside(rows + 2, O)
        d_out[rows:] = NAN
        args = [t.detach().requires_grad_() for t in (x, weight)]
        out = moge_ops.grouped_gemm(*args, offsets)
        found = [out, *torch.autograd.grad(out, args, d_out)]
        assert all(t.isfinite().all() for t in found)
        args64 = [t[:n].detach().double().requires_grad_() for t, n in ((x, rows), (weight, 1))]
        out64 = gemm_oracle(*args64, offsets[:2])
        found64 = [out64, *torch.autograd.grad(out64, args64, d_out[:rows].double())]
        for t, t64 in zip(found, found64, strict=True):
            assert_matches(t[: len(t64)], t64, "product")
            assert not t[len(t64) :].any()


def at_the_end_of_a_page(x: Tensor) -> Tensor:
    """A copy of ``x`` behind whose last element no memory can be read."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    size = -(-x.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    pages = libc.mmap(
        None,
        ctypes.c_size_t(size + mmap.PAGESIZE),
        mmap.PROT_READ | mmap.PROT_WRITE,
        mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
        -1,
        ctypes.c_long(0),
    )
    assert not libc.mprotect(ctypes.c_void_p(pages + size), ctypes.c_size_t(mmap.PAGESIZE), 0)
    memory = (ctypes.c_char * x.nbytes).from_address(pages + size - x.nbytes)
    return torch.frombuffer(memory, dtype=x.dtype).view(x.shape).copy_(x)


@native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("H", "F"), [(96, 80), (333, 130), (33, 17)])
def test_nothing_is_read_past_the_end(H: int, F: int, dtype: torch.dtype, device: str) -> None:
    """A read whose value is thrown away would change no result: here it ends the process."""
    routing = route_of([1, 0, 40, 3, 17])
    T, E = routing.slot_to_row.shape[0], 5
    x, w_gate_up, w_down, weights, *biases = leaves = [
        at_the_end_of_a_page(draw(i, *shape, dtype=dtype)).requires_grad_()
        for i, shape in enumerate([(T, H), (E, 2 * F, H), (E, H, F), (T, 1), (E, 2 * F), (E, H)])
    ]
    d_y = at_the_end_of_a_page(draw(5, T, H, dtype=dtype))
    more = dict(zip(("b_gate_up", "b_down"), biases, strict=True))
    for activation in ("silu", "gelu"):
        y = moge_ops.grouped_mlp(
            x, w_gate_up, w_down, weights, routing, activation=activation, **more
        )
        d_x, *_ = torch.autograd.grad(y, leaves, d_y)
        assert y.isfinite().all()
        assert d_x.isfinite().all()
    rows = at_the_end_of_a_page(moge_ops.permute(x.detach(), routing)).requires_grad_()
    out = moge_ops.grouped_gemm(rows, w_gate_up, routing.offsets)
    d_out = at_the_end_of_a_page(draw(6, *out.shape, dtype=dtype))
    d_rows, _ = torch.autograd.grad(out, (rows, w_gate_up), d_out)
    assert all(t.isfinite().all() for t in (out, d_rows))


@native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_bad_row_spoils_itself_alone(dtype: torch.dtype, device: str) -> None:
    """A row of NaN shares panels, and lines, with the others."""
    for counts in ([5], [20], [70, 3]):
        inputs, routing, _ = layer(counts, 33, 17, dtype)
        want = moge_ops.grouped_mlp(*inputs, routing)
        x = inputs[0].clone()
        x[2], x[4] = NAN, INF
        y = moge_ops.grouped_mlp(x, *inputs[1:], routing)
        keep = [t for t in range(len(x)) if t not in (2, 4)]
        assert torch.equal(y[keep], want[keep])
        assert y[2].isnan().all()


# Extreme values


@native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_swiglu_at_the_ends(dtype: torch.dtype, device: str) -> None:
    ends = [0.0, -0.0, 1e-30, -1e-30, 15.0, -15.0, 87.0, -87.0, 88.9, -88.9, 89.1, -89.1]
    ends += [103.0, -103.0, 104.5, -104.5, 200.0, -200.0, 6e4, -6e4, INF, -INF, NAN]
    gate = torch.tensor(ends).to(dtype)
    gate_up = torch.cat([gate, torch.ones_like(gate)])[None].requires_grad_()
    exact = gate_up.detach().double().requires_grad_()
    act, act64 = moge_ops.swiglu(gate_up), swiglu_oracle(exact)
    # -inf * sigmoid(-inf) is NaN by the formula, and torch says so
    silu = torch.nn.functional.silu(gate)
    assert torch.equal(act[0].isnan(), silu.isnan())
    assert torch.equal(act[0].isinf(), silu.isinf())
    fine = act[0].isfinite()
    # e^88.9 is infinite in float32, and the result 0, as torch's
    tiny = max(torch.finfo(dtype).smallest_normal, 1e-36)
    rtol = torch.finfo(dtype).eps * (8 if dtype is torch.float32 else 1)
    torch.testing.assert_close(
        act[0][fine].double(), act64[0][fine].detach(), rtol=rtol, atol=2 * tiny
    )
    (d,) = torch.autograd.grad(act, gate_up, torch.ones_like(act))
    (d64,) = torch.autograd.grad(act64, exact, torch.ones_like(act64))
    finite = d64.isfinite() & (d64.abs() < torch.finfo(dtype).max)
    rtol = torch.finfo(dtype).eps * 8
    torch.testing.assert_close(d[finite].double(), d64[finite], rtol=rtol, atol=1e-6)
    assert not d[d64.isnan()].isfinite().any()


@native
def test_the_exponential_is_within_two_units(device: str) -> None:
    """By way of a row of two scores, the softmax of (x, 0), and of the sigmoid."""
    x = torch.linspace(-87.0, 87.0, 40_001)
    logits = torch.stack([x, torch.zeros_like(x)], -1)
    for score in ("softmax", "sigmoid"):
        weights, experts, _ = moge_ops.grouped_gate(logits, 2, 1, score=score, renormalize=False)
        assert (experts == torch.tensor([0, 1])).all()
        want = torch.sigmoid(x.double())
        error = (weights[:, 0].double() - want).abs() / want
        assert error.max() < 4 * torch.finfo(torch.float32).eps


@native
def test_bfloat16_ties_and_what_is_no_number(device: str) -> None:
    """Rounded as torch rounds: to nearest even, a NaN stays one, what is too large is infinite."""
    bits = torch.randint(-(2**31), 2**31, (40_000,)).int()
    ties = (bits & -0x10000) | 0x8000
    payloads = torch.tensor([0x7F800001, 0x7FFFFFFF, -1, -0x7FFFFF]).int()
    x = torch.cat([bits, ties, payloads, ties ^ 1]).view(torch.float32)
    T = len(x) // 4 * 4
    for dtype in (torch.bfloat16, torch.float16):
        # the product 1 * w of an exact row and a float32 weight is rounded once
        routing = moge_ops.route(torch.zeros(T, 1).int(), 1)
        y = moge_ops.unpermute(torch.ones(T, 1, dtype=dtype), routing, x[:T, None])
        want = x[:T, None].to(dtype)
        assert torch.equal(y.isnan(), want.isnan())
        good = ~want.isnan()
        assert torch.equal(y[good], want[good])
        assert (y.view(torch.int16) == want.view(torch.int16))[good & (want != 0)].all()


@native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_gates_overflow_where_the_oracle_does(dtype: torch.dtype, device: str) -> None:
    for n in (3, 20, 70):
        routing = moge_ops.route(torch.zeros(n, 1).int(), 1)
        x = torch.linspace(-200, 200, n)[:, None].to(dtype)
        w_gate_up = torch.tensor([[[1.0], [0.5]]]).to(dtype)
        w_down, weights = torch.ones(1, 1, 1).to(dtype), torch.ones(n, 1)
        y = moge_ops.grouped_mlp(x, w_gate_up, w_down, weights, routing)
        args64 = [t.double() for t in (x, w_gate_up, w_down, weights)]
        assert_matches(y, mlp_oracle(*args64, *routing), "y")
