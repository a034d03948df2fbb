"""The type check against the real Ascend C headers, where their folders are given, and its lint."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "csrc" / "typecheck"
FOLDERS = [os.environ.get(name) for name in ("ASC_DEVKIT", "ASC_TOOLS")]
WRONG_CALLS = FOLDER / "wrong_calls.cpp"
LINES = WRONG_CALLS.read_text().splitlines()
# line number of each wrong call, which stands under the error that it must cause
WRONG = [number + 1 for number, line in enumerate(LINES, 1) if "expected-error@" in line]

needs_headers = pytest.mark.skipif(None in FOLDERS, reason="no ASC_DEVKIT and ASC_TOOLS")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"moge_typecheck_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lint, typecheck = load("lint"), load("typecheck")


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


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    devkit, tools = (Path(str(folder)) for folder in FOLDERS)
    folder = tmp_path_factory.mktemp("generated")
    return [str(option) for option in typecheck.options_for_headers(devkit, tools, folder)]


def test_without_the_headers_the_check_says_that_it_is_skipped() -> None:
    assert make() == "skipped: no ASC_DEVKIT\n"


@needs_headers
def test_every_source_passes_against_the_real_headers() -> None:
    out = make(f"ASC_DEVKIT={FOLDERS[0]}", f"ASC_TOOLS={FOLDERS[1]}")
    kernels = {path.relative_to(ROOT) for path in ROOT.glob("ascend_kernels/*/*.cpp")}
    hosts = {Path("csrc", path.name) for path in kernels}
    passed = {Path(line.split()[0]) for line in out.splitlines() if line.endswith("pass")}
    assert passed == kernels | hosts | {Path("csrc/typecheck/wrong_calls.cpp")}


@needs_headers
def test_each_wrong_call_is_rejected(
    headers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the compiler's own comparison with the comments: every wrong call is named."""
    assert not typecheck.check(typecheck.COMPILER, WRONG_CALLS, [*typecheck.KERNEL, *headers])
    out = capsys.readouterr().out
    missed = [LINES[number - 1] for number in WRONG if f"{WRONG_CALLS}:{number}:" not in out]
    assert len(WRONG) >= 6
    assert not missed


@needs_headers
def test_their_correct_twins_are_accepted(
    headers: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twins = tmp_path / "twins.cpp"
    kept = [line for number, line in enumerate(LINES, 1) if number not in WRONG]
    twins.write_text("\n".join(kept) + "\n")
    options = [*typecheck.KERNEL, *headers, "-Wno-unused-parameter"]
    assert typecheck.check(typecheck.COMPILER, twins, options), capsys.readouterr().out


@needs_headers
def test_an_expected_error_that_does_not_come_fails(
    headers: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So a correct call in a wrong one's place cannot pass unseen."""
    mended = tmp_path / "mended.cpp"
    wrong, right = LINES[WRONG[0] - 1], LINES[WRONG[0] - 3]
    mended.write_text(WRONG_CALLS.read_text().replace(f"}}}}\n{wrong}", f"}}}}\n{right}", 1))
    assert not typecheck.check(typecheck.COMPILER, mended, [*typecheck.VERIFY, *headers])
    assert "expected but not seen" in capsys.readouterr().out


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
