"""The tables of seeded faults fit the code, and their runner tells a survivor from a kill."""

import re
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
import run_mutants

ROOT = run_mutants.ROOT
MUTANTS = [mutant for mutants in run_mutants.ROOMS.values() for mutant in mutants]
TRITON = [path for path in (ROOT / "triton_kernels").glob("*.py") if path.stem != "__init__"]
ASCEND = [path for path in (ROOT / "ascend_kernels").iterdir() if path.is_dir()]
DECLARATIONS = {"kernels.h", "pool.h", "choice.h"}
CPU = [path for path in (ROOT / "csrc" / "cpu").glob("*.h") if path.name not in DECLARATIONS]


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
        for word in tests.split():
            path, _, named = word.partition("::")
            for name in filter(None, named.partition("[")[0].split("::")):
                text = (ROOT / path).read_text()
                assert re.search(rf"^ *(def|class) {name}\b", text, re.MULTILINE), word


def test_no_mutant_is_there_twice() -> None:
    counts = Counter((mutant.file, mutant.old, mutant.new) for mutant in MUTANTS)
    assert not [key for key, count in counts.items() if count > 1]


def test_every_room_has_mutants() -> None:
    assert len(MUTANTS) >= 100
    assert all(len(mutants) >= 20 for mutants in run_mutants.ROOMS.values())


@pytest.mark.parametrize("path", [*TRITON, *ASCEND, *CPU], ids=lambda path: path.name)
def test_every_kernel_has_a_mutant(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    rooms = {"triton": TRITON, "ascend": ASCEND, "cpu": CPU}
    room = next(room for room, paths in rooms.items() if path in paths)
    table = f"tests/mutants/{room}_mutants.py"
    assert any((ROOT / mutant.file).is_relative_to(path) for mutant in MUTANTS), (
        f"{place} has no mutant: add to {table} faults that an engineer could make in it (a mask, "
        f"a stride, a term of a derivative), each with the tests that see it, and run "
        f"`make mutants ARGS='--only {place}'`"
    )


def mutant(old: str, new: str, tests: str = "-k add", equivalent: str = "") -> object:
    return run_mutants.Mutant("moge_ops/sums.py", old, new, "Wrong.", tests, equivalent)


@pytest.fixture
def sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of one function and its tests."""
    if not shutil.which("git"):
        pytest.skip("needs git")
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
    return tmp_path


@pytest.mark.slow
def test_the_runner_tells_a_survivor_from_a_kill(sums: Path) -> None:
    chosen = [
        ("python", mutant("a + b", "a - b")),
        ("python", mutant("# sum", "# total")),
        ("python", mutant("a + b", "b + a", tests="", equivalent="A sum commutes.")),
        ("python", mutant("a + b", "a - b", tests="-k fails")),  # fails without the fault, too
        ("python", mutant("a + b", "a - b", tests="-k none")),
        ("python", mutant("a * b", "a - b")),
        ("python", mutant("return a + b", "while True: pass")),
    ]
    results = list(run_mutants.run(chosen, 1, sums, patience=1.0))
    assert [result.outcome for result in results] == [
        *("killed", "SURVIVED", "equivalent", "ERROR", "ERROR", "ERROR", "killed")
    ]
    assert "hang" in results[-1].detail
    assert "a + b  # sum" in (sums / "moge_ops" / "sums.py").read_text()


@pytest.mark.slow
def test_the_runner_stops_at_once(sums: Path) -> None:
    chosen = [
        ("python", mutant("a + b", "a - b")),
        ("python", mutant("return a + b", "while True: pass")),
    ]
    results = run_mutants.run(chosen, 1, sums)
    assert next(results).outcome == "killed"
    started = time.monotonic()
    results.close()  # what Ctrl-C does to it
    assert time.monotonic() - started < 30.0, "it waited for a test that does not end"
