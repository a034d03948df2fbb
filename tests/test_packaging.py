"""What the build ships and what it needs; `make test-wheel` runs this on the installed wheel."""

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import moge_ops
from moge_ops import _extensions, cli

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    f"{prefix}{path.relative_to(ROOT).as_posix()}"
    for folder, prefix in (("moge_ops", ""), ("triton_kernels", "moge_ops/"))
    for path in (ROOT / folder).rglob("*.py")
)


# the extensions' types and how they were built, and the tiles of the Triton kernels
DATA = (
    *("py.typed", "_C.pyi", "_C.txt", "_cpu.pyi", "_cpu.txt"),
    "triton_kernels/configs.csv",
)


@pytest.fixture
def dist() -> Path:
    """Folder of the sdist and the wheel; the installed moge_ops is that wheel."""
    if "MOGE_OPS_DIST" not in os.environ:
        pytest.skip("no MOGE_OPS_DIST: `make test-wheel` builds a wheel, installs it and sets it")
    return Path(os.environ["MOGE_OPS_DIST"])


def test_wheel_holds_every_module_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    extensions = {n for n in names if n.endswith(".so")}
    built = {"_C": _extensions.build("_C") == "emulate", "_cpu": _extensions.build("_cpu") == "on"}
    assert {Path(n).name.partition(".")[0] for n in extensions} == {m for m in built if built[m]}
    assert names - extensions == {*MODULES, *(f"moge_ops/{n}" for n in DATA)}


def test_sdist_holds_what_the_tests_need(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.split()
    assert {name for name in tracked if (ROOT / name).is_file()} - names <= {".gitignore"}


def test_what_runs_is_the_installed_wheel(dist: Path) -> None:
    assert ROOT not in {Path(entry).resolve() for entry in sys.path}
    installed = Path(moge_ops.__file__).parent
    assert installed != ROOT / "moge_ops"
    assert installed.parent.name == "site-packages"
    assert (installed / "triton_kernels" / "swiglu.py").is_file()
    assert (installed / "py.typed").is_file()


def test_no_top_level_module_but_moge_ops(dist: Path, tmp_path: Path) -> None:
    files = importlib.metadata.files("moge-ops") or []
    packages = {file.parts[0].partition("-")[0] for file in files if file.name != "moge-ops"}
    assert packages == {"moge_ops"}  # what is left out is the console script, in bin
    code = "from importlib.util import find_spec; import sys; print(*map(find_spec, sys.argv[1:]))"
    names = ["triton_kernels", "bench", "tests", "setup"]
    found = subprocess.run(
        [sys.executable, "-c", code, *names], cwd=tmp_path, check=True, stdout=subprocess.PIPE
    )
    assert found.stdout.split() == [b"None"] * len(names)


def test_the_console_script_is_the_command_line() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="moge-ops")
    assert script.load() is cli.main


def test_version_is_said_once_more_only_in_the_metadata() -> None:
    assert moge_ops.__version__ == importlib.metadata.version("moge-ops")


def test_build_needs_no_torch() -> None:
    """The build runs in its own environment, which holds only what is declared."""
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    assert [line for line in lines if line.startswith("requires = ")] == [
        'requires = ["setuptools>=77", "pybind11>=3", "cmake>=3.18", "ninja>=1.11"]'
    ]
    tree = ast.parse((ROOT / "setup.py").read_text())
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imported |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    others = {name.partition(".")[0] for name in imported if name} - sys.stdlib_module_names
    assert others == {"setuptools", "pybind11"}


def built(tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs setup.py in a copy of the tree, because it writes to the tree."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "moge_ops").mkdir()
    code = "import sys; sys.argv = ['setup.py', '--name']; import runpy; runpy.run_path('setup.py')"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | env,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "module", "note"),
    [
        ({"MOGE_ASCEND_BACKEND": "off"}, "_C", "off: MOGE_ASCEND_BACKEND=off at installation"),
        ({"PATH": "/nowhere"}, "_C", "off: no cmake at installation"),
        (
            {"CXX": "no-such-compiler"},
            "_C",
            "off: no compiler for C++17 at installation (no-such-compiler)",
        ),
        ({"MOGE_ASCEND_BACKEND": "cann"}, "_C", "cann"),
        ({"MOGE_OPS_CPU": "off"}, "_cpu", "off: MOGE_OPS_CPU=off at installation"),
        ({"PATH": "/nowhere"}, "_cpu", "off: no cmake at installation"),
        (
            {"CXX": "no-such-compiler"},
            "_cpu",
            "off: no compiler for C++17 -mavx512bf16 -mamx-tile -mamx-bf16 at installation "
            "(no-such-compiler)",
        ),
    ],
    ids=["off", "no-cmake", "no-compiler", "cann", "cpu-off", "cpu-no-cmake", "cpu-no-compiler"],
)
def test_an_extension_is_optional(
    env: dict[str, str], module: str, note: str, tmp_path: Path
) -> None:
    pytest.importorskip("setuptools", "77")
    if "CXX" in env and not shutil.which("cmake"):
        pytest.skip("there is no cmake, which is asked for first")
    done = built(tmp_path, **env)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "moge_ops" / f"{module}.txt").read_text().strip() == note


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [("MOGE_ASCEND_BACKEND", "npu", "emulate, cann or off"), ("MOGE_OPS_CPU", "1", "on or off")],
)
def test_an_unknown_way_to_build_is_refused(
    name: str, value: str, allowed: str, tmp_path: Path
) -> None:
    pytest.importorskip("setuptools", "77")
    done = built(tmp_path, **{name: value})
    assert done.returncode
    assert f"{name} must be {allowed}, got {value!r}" in done.stderr


def test_torch_is_the_only_dependency_of_the_core() -> None:
    declared = importlib.metadata.requires("moge-ops") or []
    assert [line for line in declared if "extra ==" not in line] == ["torch>=2.10"]
