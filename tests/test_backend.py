"""Which kernels serve a call: the device's, or on CPU tensors those that somebody asked for."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import moge_ops
from moge_ops import _backend, testing
from moge_ops._backend import BACKENDS
from moge_ops.reference import swiglu as oracle


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


def test_cpu_tensors_take_the_torch_path(loaded: list[tuple[str, str]]) -> None:
    moge_ops.swiglu(torch.ones(1, 4))
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
    assert loaded == [("torch", "swiglu")]


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
    monkeypatch.setattr(_backend, "ascend_build", lambda: "cann")
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
"""


@pytest.mark.parametrize(("built", "serves"), [("emulate", "torch_kernels"), ("cann", "ascend")])
def test_tensors_of_an_npu_take_ascend_c_only_if_it_was_built_for_one(
    monkeypatch: pytest.MonkeyPatch, built: str, serves: str
) -> None:
    pytest.importorskip("moge_ops._C", reason="built without the extension")
    monkeypatch.setattr(_backend, "ascend_build", lambda: built)
    assert _backend._load_for("privateuseone", "swiglu").__name__ == f"moge_ops.{serves}.swiglu"


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


@pytest.mark.parametrize("backend", ["torch", "reference", "triton"])
def test_the_environment_chooses_for_a_process(backend: str, tmp_path: Path) -> None:
    done = in_a_new_process(backend, tmp_path)
    assert done.returncode == 0, done.stderr
    imported, used = done.stdout.split()
    assert imported == "False"  # import moge_ops needs torch alone
    assert used == str(backend == "triton")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_environment_asks_for_the_interpreter_before_torch_imports_triton(
    tmp_path: Path,
) -> None:
    done = in_a_new_process("triton", tmp_path, LAYER)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", [LATE, KNOB], ids=["late", "knob"])
def test_triton_that_torch_has_imported_is_not_interpreted(tmp_path: Path, code: str) -> None:
    done = in_a_new_process("torch", tmp_path, code)
    assert "RuntimeError: the triton backend on CPU tensors needs Triton's interp" in done.stderr
    assert "set TRITON_INTERPRET=1, or MOGE_OPS_BACKEND=triton, before it starts" in done.stderr


def test_a_bad_name_in_the_environment_is_refused(tmp_path: Path) -> None:
    done = in_a_new_process("tpu", tmp_path)
    assert done.returncode
    assert f"backend must be one of {', '.join(BACKENDS)}, got 'tpu'" in done.stderr
