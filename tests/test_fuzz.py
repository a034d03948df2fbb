"""A slice of `make fuzz` on every run, the failing cases that it kept, and that it can fail."""

import json
import mmap
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import run_fuzz
import torch
from hypothesis import HealthCheck, given, settings

from moge_ops._extensions import cpu_level

# NumPy's of NaN operands, torch's of tensors in beta, which are among the bad arguments
pytestmark = pytest.mark.filterwarnings("ignore")


KEPT = sorted(run_fuzz.KEPT.glob("*.json"))
EXAMPLES = {"layouts:triton": 8, "layouts:ascend": 20}  # the interpreter takes half a second


def target(name: str) -> Any:
    if name.endswith("triton") and torch.cuda.is_available():
        pytest.skip("Triton is loaded for the GPU, not for the interpreter")
    if name.endswith("ascend"):
        pytest.importorskip("moge_ops._C", reason="built without the Ascend emulator")
    if name.endswith("cpu") and cpu_level().startswith("off"):
        pytest.skip(f"no native kernels: {cpu_level()}")
    return run_fuzz.load(name)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in EXAMPLES)) for n in run_fuzz.TARGETS],
)
def test_slice(name: str) -> None:
    found = target(name)

    @settings(max_examples=EXAMPLES.get(name, 60), suppress_health_check=list(HealthCheck))
    @given(found.cases())
    def run(case: Any) -> None:
        found.check(case)

    run()


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_kept_case(path: Path) -> None:
    kept = json.loads(path.read_text())
    target(kept["target"]).check(kept["case"])


FAKE = """
import ctypes, time
from hypothesis import strategies as st

def cases():
    return st.fixed_dictionaries({"n": st.integers(0, 1000)})

def check(case):
    if case["n"] >= 13:
        KIND
"""
KINDS = {
    "nothing": "pass",
    "fault": "raise AssertionError(f'too much: {case}')",
    "memory": "bytearray(9 * 2**30)",
    "crash": "ctypes.string_at(0)",
    "hang": "time.sleep(1000)",
}


def fuzz(folder: Path, kind: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A run of the runner on a target with one fault."""
    (folder / "fake.py").write_text(FAKE.replace("KIND", KINDS[kind]))
    return subprocess.run(
        [
            *(sys.executable, run_fuzz.__file__, "--target", str(folder / "fake.py")),
            *("--limit", "1", "--seed", "5", "--keep", str(folder / "kept"), *arguments),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_runner_catches(kind: str, tmp_path: Path) -> None:
    examples = 3 if kind == "hang" else 6
    done = fuzz(tmp_path, kind, "--examples", str(examples))
    row = re.search(r"fake\.py +(\d+) +(\d+) +(\d+) +(\d+) ", done.stdout)
    assert row is not None, done.stdout + done.stderr
    cases, faults, crashes, hangs = map(int, row.groups())
    assert done.returncode == (kind != "nothing"), done.stdout
    assert cases >= examples, "a child that died was not replaced"
    counts = {"fault": faults, "memory": faults, "crash": crashes, "hang": hangs}
    assert {name for name, count in counts.items() if count} == {
        "fault": {"fault", "memory"},
        "memory": {"fault", "memory"},
    }.get(kind, {kind} - {"nothing"})
    kept = [json.loads(path.read_text())["case"] for path in (tmp_path / "kept").glob("*.json")]
    if kind in ("fault", "memory"):
        assert kept == [{"n": 13}], "the case was not made as small as it can be"
    else:
        assert len(kept) == crashes + hangs
        assert all(case["n"] >= 13 for case in kept)


def test_the_runner_stops_in_time(tmp_path: Path) -> None:
    done = fuzz(tmp_path, "nothing", "--minutes", "0.02")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_runner_refuses_an_unknown_target() -> None:
    command = [sys.executable, run_fuzz.__file__, "--target", "layouts:none"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "--target must be one of layouts:torch" in done.stderr


@pytest.mark.slow
def test_ctrl_c_reports_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "fake.py").write_text(FAKE.replace("KIND", KINDS["fault"]))
    command = [sys.executable, run_fuzz.__file__, "--target", str(tmp_path / "fake.py")]
    command += ["--keep", str(tmp_path / "kept"), "--minutes", "9"]
    run = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        # a job in the background of a shell ignores Ctrl-C, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        end = time.monotonic() + 120.0
        while not list(tmp_path.glob("*/faults")):
            assert time.monotonic() < end
            time.sleep(0.2)
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 1, out + err
    assert re.search(r"fake\.py +\d+ +1 +0 +0 ", out), out + err
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_memory_is_checked() -> None:
    peak = run_fuzz.load("folders").module.peak
    rest = peak(reset=True)
    if rest is None:
        pytest.skip("this system does not tell the peak of memory")
    # of the system: an allocator may hand out what is resident already
    with mmap.mmap(-1, 2**26) as block:
        for page in range(0, 2**26, mmap.PAGESIZE):
            block[page] = 1
    assert 0.9 * 2**26 < peak() - rest < 2**27
