"""What docs/guarantees.md promises and no other test holds; and that each test it names exists."""

import ast
import gc
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import moge_ops
from moge_ops import _extensions, testing

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "guarantees.md").read_text()
T, H, E, G, F = 7, 24, 8, 4, 16
# in a process of its own, where torch_npu has the host runtime: ATen for what the test does itself
ATEN = (
    f"sys.path.insert(0, {str(ROOT / 'csrc' / 'npu_host')!r})\n"
    "import aten_on_cpu; kept = aten_on_cpu.register()\n"
)


def functions(path: Path) -> set[str]:
    tree = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in tree if isinstance(node, ast.FunctionDef)}


def test_every_promise_names_a_test_that_exists() -> None:
    rows = re.findall(r"^\| (?!---|promise)(.*) \|$", PAGE, re.MULTILINE)
    assert len(rows) >= 20
    for row in rows:
        named = re.findall(r"`(\w+\.py)::(\w+)`", row)
        assert named, f"no test holds: {row}"
        for file, name in named:
            assert name in functions(ROOT / "tests" / file), f"{file}::{name}"


def layer(device: str = "cpu") -> tuple[list[Tensor], Callable[[], Tensor]]:
    """The inputs of a layer, and its call."""
    torch.manual_seed(0)
    sizes = ((T, H), (T, E), (E, 2 * F, H), (E, H, F))
    x, logits, w_gate_up, w_down = inputs = [
        torch.randn(s).to(device).requires_grad_() for s in sizes
    ]

    def call() -> Tensor:
        gating = moge_ops.grouped_gate(logits, G)
        routing = moge_ops.route(gating.experts, E, num_groups=G)
        return moge_ops.grouped_mlp(x, w_gate_up, w_down, gating.weights, routing)

    return inputs, call


def batches(
    dtype: torch.dtype, device: str, sizes: Sequence[int] = (1, 2, 5, 17, 300)
) -> Iterator[tuple[int, Tensor, Tensor, list[Tensor]]]:
    """Where a row is, x and logits of a batch around it, and the experts' weights."""
    torch.manual_seed(0)
    width = 136
    shapes = ((1, width), (1, E), (E, 2 * F, width), (E, width, F))
    x, logits, *weights = (torch.randn(s).to(device, dtype) for s in shapes)
    weights[0] *= width**-0.5
    for tokens in sizes:
        at = tokens * 5 // 7
        others = torch.randn(tokens, width).to(x), torch.randn(tokens, E).to(x)
        for all_rows, row in zip(others, (x, logits), strict=True):
            all_rows[at] = row[0]
        yield at, *others, weights


@pytest.mark.slow_on("triton")
def test_a_choice_does_not_depend_on_the_batch(
    device: str, float_dtypes: list[torch.dtype]
) -> None:
    for dtype in float_dtypes:
        for options in ({}, {"score": "sigmoid", "renormalize": True}):
            rows = []
            for at, _, logits, _ in batches(dtype, device):
                gating = moge_ops.grouped_gate(logits, G, **options)
                rows.append((gating.weights[at], gating.experts[at]))
            for weights, experts in rows:
                assert torch.equal(weights, rows[0][0])
                assert torch.equal(experts, rows[0][1])


@pytest.mark.slow_on("triton")
def test_a_product_depends_little_on_the_batch(
    device: str,
    float_dtypes: list[torch.dtype],
    interpreted: bool,
    request: pytest.FixtureRequest,
) -> None:
    backend = request.node.callspec.params["device"]
    few = {"sizes": (1, 17)} if interpreted else {}  # the interpreter is slow
    for dtype in float_dtypes:
        rows = []
        for at, x, logits, (w_gate_up, w_down) in batches(dtype, device, **few):
            gating = moge_ops.grouped_gate(logits, G)
            routing = moge_ops.route(gating.experts, E, num_groups=G)
            sorted_rows = moge_ops.permute(x, routing)
            product = moge_ops.grouped_gemm(sorted_rows, w_gate_up, routing.offsets)
            y = moge_ops.grouped_mlp(x, w_gate_up, w_down, gating.weights, routing)
            rows.append((product[routing.slot_to_row[at].long()], y[at]))
        for row in rows:
            for got, alone in zip(row, rows[0], strict=True):
                testing.assert_matches(got, alone.double(), f"{dtype}", slack=0.5)
                if backend == "ascend":
                    assert torch.equal(got, alone), dtype


FORKED = """
import os, sys, threading, torch
sys.path.insert(0, sys.argv[1])
from moge_ops import _backend, testing
from test_guarantees import layer

def bits(name):
    torch.set_num_threads(1)
    inputs, call = layer()
    with testing.backend(name):
        y = call()
        return [y, *torch.autograd.grad(y.sum(), inputs)]

backends = sys.argv[2:]
before = {name: bits(name) for name in backends}
torch.set_num_threads(2)
torch.randn(512, 512) @ torch.randn(512, 512)  # torch's threads have started
held, over = threading.Event(), threading.Event()

def launch():  # in the middle of a launch when the process forks
    with _backend.BACKENDS["triton"].on_cpu():
        held.set()
        over.wait()

threading.Thread(target=launch).start()
held.wait()
child = os.fork()
over.set()
if not child:
    same = all(torch.equal(a, b) for name in backends for a, b in zip(before[name], bits(name)))
    os._exit(0 if same else 7)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.slow
def test_a_forked_child_computes_the_same(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    script = tmp_path / "forked.py"
    script.write_text(FORKED)
    backends = ["torch", "triton", "reference"]
    backends += ["ascend"] if _extensions.build("_C") == "emulate" else []
    backends += [] if _extensions.cpu_level().startswith("off") else ["cpu"]
    command = [sys.executable, script, ROOT / "tests", *backends]
    environment = {"MOGE_OPS_BACKEND": "triton", "PATH": ""}  # the interpreter, in time
    done = subprocess.run(command, env=environment, timeout=240, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_fresh_process_computes_the_same(
    tmp_path: Path, device: str, request: pytest.FixtureRequest
) -> None:
    backend, _, level = request.node.callspec.params["device"].partition("_")
    inputs, call = layer(device)
    y = call()
    here = [y, *torch.autograd.grad(y.sum(), inputs)]
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); import test_guarantees as t\n"
        f"{ATEN if _extensions.npu_runtime() == 'host' else ''}"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        f"inputs, call = t.layer({device!r}); y = call()\n"
        "torch.save([y, *torch.autograd.grad(y.sum(), inputs)], sys.argv[2])"
    )
    environment = dict(os.environ)  # numpy's BLAS chooses its kernels by it: both need the same
    environment |= {"MOGE_OPS_BACKEND": backend} if device == "cpu" else {}
    environment |= {"MOGE_OPS_CPU_ISA": level} if level else {}
    command = [sys.executable, "-c", code, ROOT / "tests", tmp_path / "there.pt"]
    subprocess.run(command, env=environment, timeout=240, check=True)
    there = torch.load(tmp_path / "there.pt", map_location=device)
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def test_only_the_documented_tensors_are_saved(device: str) -> None:
    inputs, call = layer(device)
    saved: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        saved[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        call()
    own = {x.untyped_storage().data_ptr() for x in inputs}
    sizes = sorted(x.untyped_storage().nbytes() for p, x in saved.items() if p not in own)
    N = T * G
    # weights [T, K] float32, three tables of int32: ids, row_to_slot, slot_to_row; offsets
    expected = sorted([N * 2 * F * 4, 4 * N, 4 * N, 4 * N, 4 * N, 4 * (E + 1)])
    assert sizes == expected


@pytest.mark.slow
@pytest.mark.slow_on("triton")
def test_calls_keep_nothing(device: str) -> None:
    inputs, call = layer(device)

    def live() -> int:
        gc.collect()
        return sum(issubclass(type(x), Tensor) for x in gc.get_objects())

    def step() -> None:
        torch.autograd.grad(call().sum(), inputs)

    step()  # a first call may fill a cache
    before = live()
    step()
    # on a card, autograd's thread drops its last tensors in its own time
    end = time.monotonic() + 5.0
    while (left := live()) > before and device != "cpu" and time.monotonic() < end:
        time.sleep(0.01)
    assert left <= before


def test_streams_do_not_share_a_ticket(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ticket tells the last program of a grid; without a GPU, torch.cuda is played."""
    pytest.importorskip("triton")
    with testing.backend("triton"):
        from moge_ops.triton_kernels import _common
    playing: dict[str, Any] = {"stream": 1, "capturing": False}

    class Stream:
        @property
        def cuda_stream(self) -> int:
            return int(playing["stream"])

    class Device:
        type = "cuda"

    zeros = torch.zeros
    monkeypatch.setattr(_common, "_tickets", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: playing["capturing"])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(torch, "zeros", lambda *s, device, **k: zeros(*s, **k))
    gpu: Any = Device()

    first = _common.ticket(gpu)
    assert _common.ticket(gpu) is first
    playing["stream"] = 2
    assert _common.ticket(gpu) is not first
    playing["capturing"] = True
    captured = _common.ticket(gpu)
    assert captured is not _common.ticket(gpu)  # each captured launch has its own
    playing.update(stream=1, capturing=False)
    assert _common.ticket(gpu) is first
