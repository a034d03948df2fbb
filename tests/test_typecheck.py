"""The type check against the real Ascend C headers, where their folders are given, and its lint."""

import os
import subprocess
import sys
from pathlib import Path

import lint
import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = [os.environ.get(name) for name in ("ASC_DEVKIT", "ASC_TOOLS")]
needs_headers = pytest.mark.skipif(None in FOLDERS, reason="no ASC_DEVKIT and ASC_TOOLS")


def make(*arguments: str) -> str:
    """Of this call's variables alone, also where `make` runs the tests."""
    inherited = {"ASC_DEVKIT", "ASC_TOOLS", "ACL", "MAKEFLAGS"}
    env = {name: value for name, value in os.environ.items() if name not in inherited}
    command = ["make", "--no-print-directory", "typecheck-ascend", f"PYTHON={sys.executable}"]
    result = subprocess.run(
        [*command, *arguments], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_without_the_headers_the_check_says_that_it_is_skipped() -> None:
    assert make() == "skipped: no ASC_DEVKIT\n"


@needs_headers
def test_every_source_passes_against_the_real_headers() -> None:
    out = make(f"ASC_DEVKIT={FOLDERS[0]}", f"ASC_TOOLS={FOLDERS[1]}")
    kernels = {path.relative_to(ROOT) for path in ROOT.glob("ascend_kernels/*/*.cpp")}
    hosts = {Path("csrc", path.name) for path in kernels}
    passed = {Path(line.split()[0]) for line in out.splitlines() if line.endswith("pass")}
    assert passed == kernels | hosts
    assert out.endswith("the emulator and the real headers: 0 differ\n")


@pytest.mark.parametrize(
    "line",
    [
        "tensor.SetGlobalBuffer(reinterpret_cast<T*>(address));",
        "tensor.SetGlobalBuffer(reinterpret_cast<const float*>(address));",
        "tensor.SetGlobalBuffer((half *)address);",
        "void Init(__gm__ T* x, T* y);",
        "void Init(uint8_t *x);",
        "using Rows = std::array<float*, 2>;",
        "int32_t** rows = nullptr;",
        "GlobalTensor<T>* tensor;",
        '__global__ __vector__ void add(GM_ADDR x, uint8_t* y) {  // "GM_ADDR"',
    ],
)
def test_lint_finds_a_missing_address_space(line: str) -> None:
    ((number, pointer),) = lint.findings(f"// a T* in a comment\n\n{line}\n")
    assert number == 3
    assert pointer.endswith("*")


@pytest.mark.parametrize(
    "line",
    [
        "tensor.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(address));",
        "tensor.SetGlobalBuffer((__gm__ const half *)address);",
        "void Init(GM_ADDR x, __gm__ uint8_t* y, TPipe* pipe);",
        "using Rows = std::array<__gm__ float*, 2>;",
        "const uint64_t bytes = rows * sizeof(T) * 2; total *= bytes;",
        'const char text[] = "T*";  // T* and /* uint8_t* */',
        "return *this;",
    ],
)
def test_lint_leaves_the_correct_twins_alone(line: str) -> None:
    assert not list(lint.findings(line))


def test_no_kernel_lacks_an_address_space(capsys: pytest.CaptureFixture[str]) -> None:
    assert not lint.main(), capsys.readouterr().out
