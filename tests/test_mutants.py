"""The tables of seeded faults fit the code, and their runner tells a survivor from a kill."""

import importlib.util
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests" / "mutants"


def loaded() -> ModuleType:
    """The runner, which imports the tables beside it."""
    spec = importlib.util.spec_from_file_location("moge_mutants_run", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(FOLDER))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


runner = loaded()
MUTANTS = [mutant for mutants in runner.ROOMS.values() for mutant in mutants]
TRITON = [path for path in (ROOT / "triton_kernels").glob("*.py") if path.stem != "__init__"]
ASCEND = [path for path in (ROOT / "ascend_kernels").iterdir() if path.is_dir()]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.file}: {mutant.why}")
def test_a_mutant_still_applies(mutant: tuple[str, ...]) -> None:
    file, old, new, why, tests, equivalent = mutant
    count = (ROOT / file).read_text().count(old)
    assert count == 1, f"the code has changed: {old!r} must be in {file} once, it is {count} times"
    assert new != old
    assert why.endswith("."), "why it matters is a sentence"
    assert bool(tests) != bool(equivalent), "either tests see it, or a proof says why none can"
    if tests:
        files = [word.partition("::")[0] for word in tests.split() if word.startswith("tests/")]
        assert files, f"a selection names a file, got {tests!r}"
        assert all((ROOT / name).is_file() for name in files), files


def test_no_mutant_is_there_twice() -> None:
    counts = Counter((mutant.file, mutant.old, mutant.new) for mutant in MUTANTS)
    assert not [key for key, count in counts.items() if count > 1]


def test_every_room_has_mutants() -> None:
    assert len(MUTANTS) >= 100
    assert all(len(mutants) >= 20 for mutants in runner.ROOMS.values())


@pytest.mark.parametrize("path", [*TRITON, *ASCEND], ids=lambda path: path.name)
def test_every_kernel_has_a_mutant(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    table = f"tests/mutants/{'triton' if path in TRITON else 'ascend'}_mutants.py"
    assert any((ROOT / mutant.file).is_relative_to(path) for mutant in MUTANTS), (
        f"{place} has no mutant: add to {table} faults that an engineer could make in it (a mask, "
        f"a stride, a term of a derivative), each with the tests that see it, and run "
        f"`make mutants ARGS='--only {place}'`"
    )


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_the_runner_tells_a_survivor_from_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # a run takes half a second then
    package, kernels = tmp_path / "moge_ops", tmp_path / "triton_kernels"
    for folder in (package, kernels):
        folder.mkdir()
        (folder / "__init__.py").touch()
    (package / "sums.py").write_text("def add(a, b):\n    return a + b  # sum\n")
    (tmp_path / "test_sums.py").write_text(
        "from moge_ops.sums import add\n\n\n"
        "def test_add():\n    assert add(2, 3) == 5\n\n\n"
        "def test_fails():\n    assert add(2, 2) == 5\n"
    )
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)

    def mutant(old: str, new: str, tests: str = "-k add", equivalent: str = "") -> object:
        return runner.Mutant("moge_ops/sums.py", old, new, "Wrong.", tests, equivalent)

    chosen = [
        ("python", mutant("a + b", "a - b")),
        ("python", mutant("# sum", "# total")),
        ("python", mutant("a + b", "b + a", tests="", equivalent="A sum commutes.")),
        ("python", mutant("a + b", "a - b", tests="-k fails")),  # fails without the fault, too
        ("python", mutant("a + b", "a - b", tests="-k none")),
        ("python", mutant("a * b", "a - b")),
        ("python", mutant("return a + b", "while True: pass")),
    ]
    results = list(runner.run(chosen, 1, tmp_path, patience=1.0))
    assert [result.outcome for result in results] == [
        *("killed", "SURVIVED", "equivalent", "ERROR", "ERROR", "ERROR", "killed")
    ]
    assert "hang" in results[-1].detail
    assert "a + b  # sum" in (package / "sums.py").read_text()
