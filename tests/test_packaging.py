"""What the build ships, and what it needs; `make test-wheel` runs this on the installed wheel."""

import ast
import importlib.metadata
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import moge_ops

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    f"{prefix}{path.relative_to(ROOT).as_posix()}"
    for folder, prefix in (("moge_ops", ""), ("triton_kernels", "moge_ops/"))
    for path in (ROOT / folder).rglob("*.py")
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
    assert names == {*MODULES, "moge_ops/py.typed"}


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
    assert {file.parts[0].partition("-")[0] for file in files} == {"moge_ops"}
    code = "from importlib.util import find_spec; import sys; print(*map(find_spec, sys.argv[1:]))"
    names = ["triton_kernels", "bench", "tests", "setup"]
    found = subprocess.run(
        [sys.executable, "-c", code, *names], cwd=tmp_path, check=True, stdout=subprocess.PIPE
    )
    assert found.stdout.split() == [b"None"] * len(names)


def test_version_is_said_once_more_only_in_the_metadata() -> None:
    assert moge_ops.__version__ == importlib.metadata.version("moge-ops")


def test_build_needs_setuptools_only() -> None:
    """The build runs in an environment of its own that holds what is declared: no torch."""
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    assert [line for line in lines if line.startswith("requires = ")] == [
        'requires = ["setuptools>=77"]'
    ]
    tree = ast.parse((ROOT / "setup.py").read_text())
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imported |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert imported == {"setuptools"}


def test_torch_is_the_only_dependency_of_the_core() -> None:
    declared = importlib.metadata.requires("moge-ops") or []
    assert [line for line in declared if "extra ==" not in line] == ["torch>=2.6"]
