"""`moge-ops info` loads what it reports on, and says why something is not usable."""

import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from moge_ops import _backend, _extensions, ops
from moge_ops.cli import main

OPS = [module.name for module in pkgutil.iter_modules(ops.__path__) if module.name[0] != "_"]


def cells(text: str) -> dict[str, list[str]]:
    """First word of each line -> the other words."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}


def usable(text: str, op: str) -> dict[str, str]:
    """Backend -> what it runs ``op`` on, from the columns of the table."""
    lines = {line.split()[0]: re.split(r"  +", line)[1:] for line in text.splitlines() if line}
    return dict(zip(lines["operator"], lines[op], strict=True))


def in_a_new_process(setup: str, tmp_path: Path) -> str:
    """Output of ``info`` after ``setup``, in a process without TRITON_INTERPRET."""
    code = f"""
import os, sys, torch
{setup}
from moge_ops.cli import main
main(["info"])
print("TRITON_INTERPRET", os.environ.get("TRITON_INTERPRET"))
"""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=env, cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def test_every_operator_has_its_row(capsys: pytest.CaptureFixture[str]) -> None:
    main(["info"])
    text = capsys.readouterr().out
    found = cells(text)
    on = "cuda" if torch.cuda.is_available() else "interpreter"
    emulated = _extensions.build("_C") == "emulate"
    ascend = "emulated" if emulated else "no"
    for op in OPS:
        row = usable(text, op)
        assert list(row) == list(_backend.BACKENDS)
        expected = {"torch": "cpu", "reference": "any device", "triton": on, "ascend": ascend}
        assert row == row | expected
    assert found["torch"] == [torch.__version__]
    assert f"ascend c  {_extensions.build('_C')}" in text


def test_says_why_the_ascend_extension_is_not_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_extensions, "build", lambda _: "off: no cmake at installation")
    monkeypatch.setitem(sys.modules, "moge_ops.ascend.swiglu", None)  # stops its import
    _backend.load.cache_clear()
    main(["info"])
    text = capsys.readouterr().out
    assert "ascend c  off: no cmake at installation" in text
    assert "the extension is not built: off: no cmake at installation" in text


def test_says_why_one_module_does_not_load(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = _backend.load

    def broken(backend: str, op: str) -> ModuleType:
        if (backend, op) == ("torch", "swiglu"):
            raise AttributeError("no such intrinsic")
        return load(backend, op)

    monkeypatch.setattr(_backend, "load", broken)
    main(["info"])
    text = capsys.readouterr().out
    assert usable(text, "swiglu")["torch"] == "no"
    assert "swiglu: torch: AttributeError: no such intrinsic" in text


@pytest.mark.parametrize(
    ("built", "runtime", "says"),
    [
        ("emulate", "off: torch_npu was not imported", "off: torch_npu was not imported"),
        ("cann", "cann", "torch_npu on CANN; Ascend C kernels: npu"),
        (
            "emulate",
            "cann",
            "torch_npu on CANN; Ascend C kernels: off: the extension was built with emulate, and "
            "torch_npu runs on cann",
        ),
    ],
)
def test_says_what_serves_an_npu(
    built: str,
    runtime: str,
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_extensions, "build", lambda name: built if name == "_C" else "on")
    monkeypatch.setattr(_extensions, "npu_runtime", lambda: runtime)
    main(["info"])
    text = capsys.readouterr().out
    assert f"npu       {says}" in text.splitlines()
    on = "npu" if (built, runtime) == ("cann", "cann") else "emulated"
    assert usable(text, "swiglu")["ascend"] == on


EXTRAS = ("numpy", "rich", "safetensors", "sentencepiece", "tokenizers", "transformers", "triton")
WITHOUT_EXTRAS = f"sys.modules.update(dict.fromkeys({EXTRAS}))"


@pytest.mark.slow
def test_works_with_torch_alone(tmp_path: Path) -> None:
    text = in_a_new_process(WITHOUT_EXTRAS, tmp_path)
    for op in OPS:
        row = usable(text, op)
        assert (row["torch"], row["reference"], row["triton"]) == ("cpu", "any device", "no")
    assert "all: triton: ImportError: backend 'triton' cannot be loaded: import of triton" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [["generate", "tiny", "why?"], ["inspect", "tiny"], ["make-tiny", "tiny"]]
)
def test_the_other_commands_say_what_to_install(command: list[str], tmp_path: Path) -> None:
    code = f"import sys; {WITHOUT_EXTRAS}; from moge_ops.cli import main; main({command})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    said = "checkpoints need safetensors: pip install 'moge-ops[models]'"
    assert done.stderr.splitlines()[-1] == f"{command[0]}: {said}"  # torch may warn before
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_chooses_the_interpreter_without_a_gpu(tmp_path: Path) -> None:
    text = in_a_new_process("", tmp_path)
    assert usable(text, "swiglu")["triton"] == "interpreter"


@pytest.mark.slow
def test_leaves_the_interpreter_off_where_there_is_a_gpu(tmp_path: Path) -> None:
    text = in_a_new_process("torch.cuda.is_available = lambda: True", tmp_path)
    assert usable(text, "swiglu")["triton"] == "cuda"
    assert cells(text)["TRITON_INTERPRET"] == ["None"]


def test_needs_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "info" in capsys.readouterr().err
