"""Which build serves `npu` tensors, what `info` says of it, and what cannot be built."""

import os
import re
import subprocess
import sys
from pathlib import Path

import build_npu_host as build
import pytest
import torch
import torch_npu

from moge_ops import _backend, _extensions, swiglu
from moge_ops.cli import main

WHEEL = Path(torch_npu.__file__).parent
BUILT = Path(os.environ["LD_LIBRARY_PATH"].split(os.pathsep)[0]).parent  # up to date


def test_tensors_take_torchs_kernels_where_ours_cannot_serve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = torch.randn(3, 8).npu()
    want = swiglu(x).cpu()
    monkeypatch.setattr(_extensions, "npu_runtime", lambda: "cann")
    monkeypatch.setattr(_backend.load("ascend", "swiglu"), "swiglu_fwd", None)
    torch.testing.assert_close(swiglu(x).cpu(), want)


def test_info_tells(capsys: pytest.CaptureFixture[str]) -> None:
    main(["info"])
    lines = capsys.readouterr().out.splitlines()
    assert f"torch-npu {torch_npu.__version__}" in lines
    assert {"npu:0     Ascend910B1", "npu:1     Ascend910B1"} <= {*lines}
    where = "torch_npu on the host runtime of csrc/npu_host, which is no NPU"
    assert f"npu       {where}; Ascend C kernels: emulated" in lines


def test_a_function_that_a_newer_wheel_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch_npu" / "lib").mkdir(parents=True)
    (tmp_path / "torch_npu" / "__init__.py").touch()
    source = tmp_path / "asks.c"
    source.write_text(
        "int aclrtTwist(void); int HcclTurn(void);\nint f() { return aclrtTwist() + HcclTurn(); }"
    )
    library = tmp_path / "torch_npu" / "lib" / "libasks.so"
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    spec = type("Spec", (), {"origin": str(tmp_path / "torch_npu" / "__init__.py")})
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda _: spec)
    monkeypatch.setattr(build.metadata, "version", lambda _: "9.9.9")
    with pytest.raises(
        SystemExit,
        match=r"torch_npu 9.9.9 is linked with functions that the host "
        r"runtime has not: HcclTurn, aclrtTwist",
    ):
        build.build(BUILT)


def test_a_release_that_was_never_run(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build.metadata, "version", lambda _: "9.9.9")
    build.build(BUILT)
    assert "torch_npu 9.9.9 was never run on the host runtime; 2.10.0" in capfd.readouterr().err
    assert build.missing(WHEEL, BUILT / "lib" / "libascendcl.so") == []


def test_without_torch_npu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit, match=r"has no torch_npu: pip install 'moge-ops\[npu\]'"):
        build.build(BUILT)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda tool: None if tool == "c++" else tool)
    with pytest.raises(SystemExit, match=r"npu_host: there is no c\+\+ here"):
        build.build(BUILT)


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("ASCEND_HOME_PATH", "/", "stands in for CANN where there is none, and / is here"),
        ("HOME", "{tmp_path}", "stands in for CANN where there is none, and {tmp_path}/Ascend is"),
        ("MOGE_NPU_HOST_CARDS", "16", "MOGE_NPU_HOST_CARDS must be an integer from 1 to 8, got 16"),
        ("MOGE_NPU_HOST_MEMORY", "16GB", "MOGE_NPU_HOST_MEMORY must be an integer .*, got 16GB"),
        ("MOGE_NPU_HOST_SEED", "often", "MOGE_NPU_HOST_SEED must be an integer .*, got often"),
    ],
)
def test_what_the_runtime_refuses(variable: str, value: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "Ascend").mkdir()
    done = subprocess.run(
        [sys.executable, build.__file__, str(BUILT)],
        env={**os.environ, variable: value.format(tmp_path=tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert re.search(says.format(tmp_path=tmp_path), done.stderr)
    assert done.stderr.startswith("npu_host: ")
