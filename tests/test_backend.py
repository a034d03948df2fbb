"""Which kernels serve a call: the device's, or on CPU tensors those that somebody asked for."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.utils.backend_registration
from torch import Tensor

import moge_ops
from moge_ops import _backend, _extensions, testing
from moge_ops._backend import BACKENDS
from moge_ops.reference import swiglu as oracle

DEFAULT = _backend.serving("cpu")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(backend, operator) of every kernel module that was asked for."""
    seen: list[tuple[str, str]] = []
    load = _backend.load

    def recorded(backend: str, op: str) -> ModuleType:
        seen.append((backend, op))
        return load(backend, op)

    monkeypatch.setattr(_backend, "load", recorded)
    return seen


def test_cpu_tensors_take_the_native_kernels(loaded: list[tuple[str, str]]) -> None:
    moge_ops.swiglu(torch.ones(1, 4))
    assert loaded == [(DEFAULT, "swiglu")]


def test_float64_takes_the_torch_path(loaded: list[tuple[str, str]]) -> None:
    moge_ops.swiglu(torch.ones(1, 4, dtype=torch.float64))
    assert loaded == [("torch", "swiglu")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are loaded for the GPU")
def test_triton_reroutes_forward_and_backward(loaded: list[tuple[str, str]]) -> None:
    x = torch.ones(1, 4, requires_grad=True)
    with testing.backend("triton"):
        loaded.clear()
        moge_ops.swiglu(x).sum().backward()
    assert loaded.count(("triton", "swiglu")) == 2
    loaded.clear()
    moge_ops.swiglu(x)
    assert loaded == [(DEFAULT, "swiglu")]


def test_reference_goes_past_the_dispatcher(loaded: list[tuple[str, str]]) -> None:
    x = torch.randn(2, 6, requires_grad=True)
    with testing.backend("reference"):
        assert loaded == [("reference", "swiglu")]  # the first look, whether it can be loaded
        loaded.clear()
        out = moge_ops.swiglu(x)
    assert torch.equal(out, oracle.swiglu(x))
    assert out.grad_fn is not None
    assert "moge_ops" not in out.grad_fn.name()
    assert not loaded


def test_plain_torch_serves_what_no_kernel_can(loaded: list[tuple[str, str]]) -> None:
    x = torch.randn(3, 2, 6)
    kernels = torch.func.vmap(moge_ops.swiglu)(x)  # kernels, for one sample after the other
    assert loaded == [(DEFAULT, "swiglu")] * 3
    loaded.clear()
    plain, _ = torch.func.vjp(torch.func.vmap(moge_ops.swiglu), x)
    torch.func.vmap(torch.func.grad(lambda x: moge_ops.swiglu(x).sum()))(x)
    torch.func.jvp(moge_ops.swiglu, (x[0],), (x[0],))
    with torch.autograd.forward_ad.dual_level():
        moge_ops.swiglu(x[0])
    assert not loaded
    torch.testing.assert_close(plain, kernels)
    moge_ops.swiglu(x[0])
    assert loaded == [(DEFAULT, "swiglu")]


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """The results of calls that start together, each in a thread of its own."""
    together = threading.Barrier(len(calls))

    def started(call: Callable[[], Any]) -> Any:
        together.wait(timeout=60)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [done.result(timeout=60) for done in [pool.submit(started, call) for call in calls]]


def steps(x: Tensor) -> list[Tensor]:
    """A result and its gradient, by the backend of this thread."""
    x = x.clone().requires_grad_()
    routing = moge_ops.route(torch.tensor([[1], [0]]), 2)
    y = moge_ops.unpermute(moge_ops.swiglu(moge_ops.permute(x, routing)), routing)
    return [y, *torch.autograd.grad(y.square().sum(), x)]


ON_CPU = [name for name in BACKENDS if name != "triton" or not torch.cuda.is_available()]
PAIRS = [(first, second) for i, first in enumerate(ON_CPU) for second in ON_CPU[i:]]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_two_threads_get_what_each_gets_alone(first: str, second: str) -> None:
    if "ascend" in (first, second):
        extension = pytest.importorskip("moge_ops._C", reason="built without the Ascend emulator")
        extension.set_emulation(cores=3)
    if "cpu" in (first, second) and DEFAULT != "cpu":
        pytest.skip(f"no native kernels: {_extensions.cpu_level()}")
    x = torch.randn(2, 8)

    def of(name: str) -> Callable[[], list[Tensor]]:
        def run() -> list[Tensor]:
            with testing.backend(name):
                return [t for _ in range(3) for t in steps(x)]

        return run

    alone = [of(first)(), of(second)()]
    for got, want in zip(in_threads(of(first), of(second)), alone, strict=True):
        assert all(map(torch.equal, got, want))


def test_an_override_is_of_its_thread_alone(loaded: list[tuple[str, str]]) -> None:
    x = torch.ones(1, 4)
    entered, left = threading.Event(), threading.Event()

    def first() -> None:
        with testing.backend("reference"):
            entered.set()
            assert left.wait(timeout=60)
        moge_ops.swiglu(x)

    def second() -> None:  # enters after the first, and leaves before it
        assert entered.wait(timeout=60)
        loaded.clear()
        moge_ops.swiglu(x)
        assert loaded == [(DEFAULT, "swiglu")]
        with testing.backend("reference"):
            pass
        left.set()

    in_threads(first, second)
    loaded.clear()
    moge_ops.swiglu(x)
    assert loaded == [(DEFAULT, "swiglu")]


def test_a_backward_pass_runs_in_the_thread_that_calls_it() -> None:
    # so that an override, which is of one thread, covers it
    seen: list[int] = []
    x = torch.ones(1, 4, requires_grad=True)
    y = moge_ops.swiglu(x)
    y.register_hook(lambda _: seen.append(threading.get_ident()))
    (caller,) = in_threads(lambda: (y.sum().backward(), threading.get_ident())[1])
    assert seen == [caller] != [threading.get_ident()]


def test_a_compiled_call_sees_the_backend_of_its_thread(loaded: list[tuple[str, str]]) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(moge_ops.swiglu, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 4)

    def kernels() -> list[tuple[str, str]]:
        loaded.clear()
        assert torch.equal(compiled(x), moge_ops.swiglu(x))
        return loaded.copy()

    assert kernels() == [(DEFAULT, "swiglu")] * 2
    with testing.backend("reference"):
        assert kernels() == []
        assert in_threads(kernels) == [[(DEFAULT, "swiglu")] * 2]
    assert kernels() == [(DEFAULT, "swiglu")] * 2


def test_the_reference_has_no_launchers() -> None:
    x = torch.ones(1, 4, requires_grad=True)
    y = moge_ops.swiglu(x)
    with testing.backend("reference"):
        with pytest.raises(RuntimeError, match=r"the backward pass .* outside of backend\('ref"):
            y.sum().backward()
        with pytest.raises(RuntimeError, match=r"operators of torch.ops, outside"):
            torch.ops.moge_ops.swiglu(x)


def test_an_unknown_backend_is_refused() -> None:
    with (
        pytest.raises(ValueError, match=f"one of {', '.join(BACKENDS)}, got 'tpu'"),
        testing.backend("tpu"),
    ):
        pass


def test_a_backend_that_is_not_there_raises_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "moge_ops.ascend.swiglu", None)  # halts its import
    _backend.load.cache_clear()
    with (
        pytest.raises(ImportError, match=r"'ascend' cannot be loaded: .*extension is not built"),
        testing.backend("ascend"),
    ):
        pass
    assert torch.equal(moge_ops.swiglu(torch.zeros(1, 4)), torch.zeros(1, 2))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_kernels_loaded_for_a_gpu_are_not_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backend.load("triton", "_common"), "INTERPRETED", False)
    with (
        pytest.raises(RuntimeError, match=r"already loaded for a GPU .* set TRITON_INTERPRET=1"),
        testing.backend("triton"),
    ):
        pass


def test_kernels_built_for_an_npu_are_not_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_extensions, "build", lambda _: "cann")
    with (
        pytest.raises(RuntimeError, match=r"built for an NPU: .* MOGE_ASCEND_BACKEND=emulate"),
        testing.backend("ascend"),
    ):
        pass


USES = """
import sys, torch, moge_ops
print("triton" in sys.modules)
moge_ops.swiglu(torch.ones(1, 4))
print("moge_ops.triton_kernels.swiglu" in sys.modules)
"""
LATE = """
import torch, moge_ops
x = torch.ones(1, 4)
moge_ops.swiglu(x)  # torch imports Triton while it registers or calls an operator
import triton
with moge_ops.testing.backend("triton"):
    moge_ops.swiglu(x)
"""
# the knob alone is not enough: Triton's own functions are compiled by then
KNOB = """
import os, torch, moge_ops, triton
os.environ["TRITON_INTERPRET"] = "1"
with moge_ops.testing.backend("triton"):
    moge_ops.swiglu(torch.ones(1, 4))
"""
# all of it before anybody has asked for the interpreter, as README's example
LAYER = """
import torch, moge_ops
layer = moge_ops.nn.MoGE(16, 8, 8, 4, shared_size=8)
layer(torch.randn(3, 16)).sum().backward()
x = torch.randn(3, 8)
ids = moge_ops.grouped_gate(x, 2).experts
routing = moge_ops.route(ids, 8)
rows = moge_ops.permute(x, routing)
moge_ops.unpermute(moge_ops.grouped_gemm(rows, torch.randn(8, 4, 8), routing.offsets), routing)
moge_ops.load_balance_loss(x, ids)
"""


@pytest.mark.parametrize(
    ("built", "runtime", "serves"),
    [
        ("cann", "cann", "ascend"),
        ("emulate", "host", "ascend"),
        ("emulate", "cann", "torch_kernels"),
        ("cann", "host", "torch_kernels"),
        ("cann", "off: torch_npu was not imported", "torch_kernels"),
        ("off: no cmake", "cann", "torch_kernels"),
    ],
)
def test_tensors_of_an_npu_take_ascend_c_where_build_and_runtime_fit(
    monkeypatch: pytest.MonkeyPatch, built: str, runtime: str, serves: str
) -> None:
    pytest.importorskip("moge_ops._C", reason="built without the extension")
    monkeypatch.setattr(_extensions, "build", lambda _: built)
    monkeypatch.setattr(_extensions, "npu_runtime", lambda: runtime)
    assert _backend.load(_backend.serving("privateuseone"), "swiglu").__name__ == (
        f"moge_ops.{serves}.swiglu"
    )
    # and says why not
    assert _extensions.npu_kernels().startswith("off") == (serves != "ascend")


def in_a_new_process(
    backend: str, tmp_path: Path, code: str = USES
) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=env | {"MOGE_OPS_BACKEND": backend},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "reference", "triton"])
def test_the_environment_chooses_for_a_process(backend: str, tmp_path: Path) -> None:
    done = in_a_new_process(backend, tmp_path)
    assert done.returncode == 0, done.stderr
    imported, used = done.stdout.split()
    assert imported == "False"  # import moge_ops needs torch alone
    assert used == str(backend == "triton")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_environment_asks_for_the_interpreter_before_torch_imports_triton(
    tmp_path: Path,
) -> None:
    done = in_a_new_process("triton", tmp_path, LAYER)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("code", [LATE, KNOB], ids=["late", "knob"])
def test_triton_that_torch_has_imported_is_not_interpreted(tmp_path: Path, code: str) -> None:
    done = in_a_new_process("torch", tmp_path, code)
    assert "RuntimeError: the triton backend on CPU tensors needs Triton's interp" in done.stderr
    assert "set TRITON_INTERPRET=1, or MOGE_OPS_BACKEND=triton, before it starts" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no devices in Python",
)
@pytest.mark.skipif(_extensions.build("_C") == "cann", reason="the device is the NPU")
def test_the_torch_path_stays_on_a_device_without_kernels(tmp_path: Path) -> None:
    worker = Path(__file__).with_name("other_device_worker.py")
    done = in_a_new_process("torch", tmp_path, worker.read_text())
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(rows) == 12
    for name, error, forward, backward in rows:
        assert float(error) < 1e-5, name
        # the host reads the offsets of products alone, once for each operator that has some
        products = {"steps": ("1", "2"), "moved": ("0", "0"), "loss": ("0", "0")}
        assert (forward, backward) == products.get(name, ("1", "1")), name


@pytest.mark.slow
def test_a_bad_name_in_the_environment_is_refused(tmp_path: Path) -> None:
    done = in_a_new_process("tpu", tmp_path)
    assert done.returncode
    assert f"backend must be one of {', '.join(BACKENDS)}, got 'tpu'" in done.stderr
