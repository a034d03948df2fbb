"""How `make gpu` starts, watches and ends its parts, and what it takes along from `.whl`."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from suite import GPU, OPS, ROOT, alive, module, part

for package in ("matplotlib", "rich", "transformers"):
    pytest.importorskip(package, reason="needs the extra 'bench'")


@pytest.mark.slow
def test_a_part_that_hangs_or_crashes_leaves_the_rest(tmp_path: Path) -> None:
    child = "import subprocess; c = subprocess.Popen(['sleep', '600'])\n"
    hangs = f"{child}Path('pid').write_text(str(c.pid)); time.sleep(600)"
    found = module("gpu").run_stage(
        [
            part(tmp_path, "hangs", hangs, correctness=True),
            part(tmp_path, "slow", "time.sleep(600)"),
            part(tmp_path, "crashes", "os.kill(os.getpid(), signal.SIGSEGV)"),
            part(tmp_path, "raises", "raise RuntimeError('no luck')"),
            part(tmp_path, "fine", "print('well')"),
        ],
        [],
        tmp_path,
        6.0,
    )
    by_name = {outcome.name: outcome for outcome in found}
    assert by_name["fine"].status == "ok"
    assert by_name["crashes"].status == "exit code -11"
    assert by_name["raises"].last == "RuntimeError: no luck"
    assert by_name["hangs"].status.startswith("killed after ")
    assert {name for name, outcome in by_name.items() if outcome.failed} == {
        *("hangs", "crashes", "raises")
    }
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not alive(pid):
            break
        time.sleep(0.05)
    assert not alive(pid)  # its children, too


@pytest.mark.slow
@pytest.mark.parametrize("how", ["os._exit(70)", "time.sleep(600)"])
@pytest.mark.parametrize("whose", ["peer", "ours"])
def test_a_part_goes_on_without_what_crashed_or_hung(whose: str, how: str, tmp_path: Path) -> None:
    code = f"""
me = Path(__file__).stem
without = Path(f"{{me}}.without")
if not without.exists():
    Path(f"{{me}}.now").write_text("liger|{whose}|T=8: liger\\n")
    {how}
print("went on")
"""
    (outcome,) = module("gpu").run_stage(
        [part(tmp_path, "layer", code, stall=4.0)], [], tmp_path, 30.0
    )
    assert outcome.status == "ok, after 1 restarts"
    assert outcome.failed == (whose == "ours")
    why = "exit code 70" if "exit" in how else "hung for 4 s"
    assert outcome.last == f"{why} at T=8: liger"
    assert (tmp_path / "layer.without").read_text() == f"liger|not run: {why} at T=8: liger\n"
    assert "went on" in (tmp_path / "layer.log").read_text()


def test_what_memcheck_found_is_said(tmp_path: Path) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(
        "#!/bin/sh\necho ========= COMPUTE-SANITIZER\n"
        "echo '========= Invalid __global__ read of size 2 bytes'\n"
        "echo '=========     at kernel+0x10'\nexit 9\n"
    )
    tool.chmod(0o755)
    gpu = module("gpu")
    with mock.patch.dict(os.environ, {"PATH": f"{tmp_path}:{os.environ['PATH']}"}):
        names = {p.name for p in gpu.stages(smoke=True, work=tmp_path, out=tmp_path)[1]}
        watched, races = gpu.small("memcheck"), gpu.small("racecheck")
    assert {"small-memcheck", "small-racecheck"} <= names
    assert watched.prefix[:3] == (str(tool), "--tool", "memcheck")
    for one in (watched, races):
        (outcome,) = gpu.run_stage([one], [], tmp_path, 30.0)
        assert outcome.failed == (one is watched)  # races may be no faults of ours
        assert outcome.status == "exit code 9"
        assert outcome.last.startswith("========= Invalid __global__ read of size 2 bytes")


def test_all_limits_together_are_nine_minutes(tmp_path: Path) -> None:
    gpu = module("gpu")
    stages = gpu.stages(smoke=False, work=tmp_path, out=tmp_path)
    assert gpu.kept(stages) + gpu.VERSIONS_SECONDS + gpu.REPORT_SECONDS <= gpu.SECONDS <= 540


def test_a_layer_of_few_sizes_leaves_time_to_the_checks(tmp_path: Path) -> None:
    gpu = module("gpu")
    few, all_of_them = (
        gpu.kept(gpu.planned(gpu.stages(smoke=False, work=tmp_path, out=tmp_path, **n), ["layer"]))
        for n in ({"tokens": 1}, {})
    )
    assert few < all_of_them / 2


def test_only_some_parts_run(tmp_path: Path) -> None:
    gpu = module("gpu")
    stages = gpu.stages(smoke=False, work=tmp_path, out=tmp_path)
    assert gpu.planned(stages, []) == stages
    chosen = gpu.planned(stages, ["small", "gate", "checks"])
    assert [[part.kind for part in stage] for stage in chosen] == [["checks", "small"], ["gate"]]
    with pytest.raises(SystemExit, match=r"--only takes ceilings, tests, .*, got gates"):
        gpu.planned(stages, ["gate", "gates"])


def test_a_part_may_be_stopped_before_the_others(tmp_path: Path) -> None:
    slow = part(tmp_path, "slow", "time.sleep(600)", most=1.0)
    (outcome,) = module("gpu").run_stage([slow], [], tmp_path, 30.0)
    assert outcome.status == "killed after 1 s"
    assert not outcome.failed


def test_quantised_experts_keep_the_tiles_that_were_compiled(tmp_path: Path) -> None:
    stages = module("gpu").stages(smoke=False, work=tmp_path, out=tmp_path)
    (quant,) = (part for stage in stages for part in stage if part.name == "quant")
    assert ("MOGE_OPS_CONFIG_DIR", "") in quant.environment


@pytest.mark.parametrize("code", ["", "sys.exit(3)"])
def test_children_end_with_their_part(code: str, tmp_path: Path) -> None:
    child = "import subprocess; child = subprocess.Popen(['sleep', '600'])\n"
    one = part(tmp_path, "leaver", f"{child}print(child.pid, flush=True)\n{code}")
    module("gpu").run_stage([one], [], tmp_path, 30.0)
    pid = int((tmp_path / "leaver.log").read_text().split()[0])
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(pid)


def test_parts_side_by_side_have_a_thread_each(tmp_path: Path) -> None:
    gpu = module("gpu")
    both = [part(tmp_path, name, "print(os.environ.get('OMP_NUM_THREADS'))") for name in ("a", "b")]
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "7"}):
        for parts, threads in ((both, "1"), (both[:1], "7")):
            (tmp_path / "a.log").unlink(missing_ok=True)
            gpu.run_stage(parts, [], tmp_path, 30.0)
            assert (tmp_path / "a.log").read_text() == f"{threads}\n"


@pytest.fixture
def environment() -> Iterator[None]:
    """What prepare() sets is undone."""
    with mock.patch.dict(os.environ):
        yield


def test_packed_wheels_are_unpacked_with_what_their_pth_names(
    tmp_path: Path, environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels, work = tmp_path / "whl", tmp_path / "work"
    wheels.mkdir()
    for name in ("one", "two"):
        with zipfile.ZipFile(wheels / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", "here = 1\n")
            wheel.writestr(f"{name}_folder/inner/below.py", "")
    with zipfile.ZipFile(wheels / "two-1.0-py3-none-any.whl", "a") as wheel:
        wheel.writestr("two.pth", "\nimport sys\ntwo_folder/inner")
    module("pack").pack(wheels)
    assert [file.name for file in wheels.iterdir()] == ["wheels.tar.xz"]
    brought_along = module("brought")
    monkeypatch.setattr(brought_along, "ROOT", tmp_path)  # a checkout without a package
    (tmp_path / "moge_ops").mkdir()
    assert brought_along.prepare(work, wheels) == ""
    paths = os.environ["PYTHONPATH"].split(os.pathsep)
    assert paths[2:4] == [str(work / "wheels"), str(work / "wheels" / "two_folder" / "inner")]
    assert (work / "wheels" / "one.py").read_text() == "here = 1\n"


@pytest.mark.slow
def test_the_package_and_the_wheels_run_from_where_they_are(
    tmp_path: Path, environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "whl"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "carried-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried.py", "here = 1\n")
        info = "carried-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    assert module("brought").prepare(tmp_path / "work", wheels) == ""
    code = (
        "import carried, moge_ops, moge_ops.triton_kernels.swiglu as kernel\n"
        "print(moge_ops.__file__, kernel.__file__, carried.__file__, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    checkout = tmp_path / "work" / "checkout" / "moge_ops"
    assert done.stdout.splitlines() == [
        str(checkout / "__init__.py"),
        str(checkout / "triton_kernels" / "swiglu.py"),
        str(tmp_path / "work" / "wheels" / "carried.py"),
    ]
    (wheels / "broken-1.0-py3-none-any.whl").write_bytes(b"no zip")
    assert "wheels were not installed" in module("brought").prepare(tmp_path / "again", wheels)


@pytest.mark.slow
def test_what_is_compiled_ahead_is_found(
    tmp_path: Path, environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed, unpacked elsewhere, and asked for again: nothing is compiled a second time."""
    pytest.importorskip("triton")
    monkeypatch.setenv("PYTHONPATH", f"{OPS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    some = ROOT / "tests" / "test_swiglu.py"
    command = [sys.executable, str(GPU / "compile_ahead.py"), "--only", "tests", "--tests", some]
    archive = tmp_path / "brought" / "kernels.tar.xz"
    done = subprocess.run(
        [*command, "--", archive], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    brought_along, work = module("brought"), tmp_path / "work"
    assert brought_along.prepare(work, archive.parent) == ""
    binaries = brought_along.binaries(work)
    assert binaries > 10
    assert f"{binaries} binaries of Triton" in done.stdout
    again = ["-m", "pytest", "-q", "-p", "compile_ahead", "-p", "no:cacheprovider", str(some)]
    environment = {"MOGE_OPS_TARGET": "sm_90", "TRITON_INTERPRET": "0", "MOGE_OPS_EXAMPLES": "5"}
    environment |= {"PYTHONPATH": f"{GPU}{os.pathsep}{os.environ['PYTHONPATH']}"}
    environment |= {"MOGE_OPS_FAILURES": str(tmp_path / "failures")}
    subprocess.run([sys.executable, *again], cwd=tmp_path, env=os.environ | environment, check=True)
    assert not (tmp_path / "failures").exists()
    assert brought_along.binaries(work) == binaries


@pytest.mark.slow
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (tmp_path / "gpu.csv").write_text("of an earlier run")
    command = [sys.executable, str(GPU / "gpu.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "it needs a GPU that torch sees" in done.stdout
    assert (tmp_path / "gpu.csv").read_text() == "of an earlier run"


def test_what_was_brought_along_and_does_not_serve_is_said(
    tmp_path: Path, environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought_along = module("brought")
    monkeypatch.setattr(brought_along, "ROOT", tmp_path)  # a checkout without a package
    (tmp_path / "moge_ops").mkdir()
    brought = tmp_path / "brought"
    (brought / "kernels" / "ABC").mkdir(parents=True)
    (brought / "kernels" / "made-for").write_text("Triton 3.5.0, Python 3.12")
    group = {"child_paths": {"k.cubin": "/where/it/was/k.cubin"}}
    (brought / "kernels" / "ABC" / "__grp__k.json").write_text(json.dumps(group))
    with tarfile.open(brought / "kernels.tar.xz", "w:xz") as archive:
        archive.add(brought / "kernels", arcname="kernels")
    (brought / "wheels.tar.xz").write_bytes(b"no archive")
    os.environ["MOGE_OPS_CONFIG_DIR"] = "of the user"
    trouble = brought_along.prepare(tmp_path / "work", brought)
    served = brought_along.made_for()
    assert f"kernels are for Triton 3.5.0, Python 3.12, which does not serve {served}" in trouble
    assert "wheels.tar.xz is broken: " in trouble
    assert "MOGE_OPS_CONFIG_DIR" not in os.environ
    place = tmp_path / "work" / "kernels" / "ABC"
    group = json.loads((place / "__grp__k.json").read_text())
    assert group == {"child_paths": {"k.cubin": str(place / "k.cubin")}}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_parts_too(number: int, tmp_path: Path) -> None:
    command = [sys.executable, str(GPU / "gpu.py"), "--smoke", "--only", "layer"]
    with subprocess.Popen([*command, "--out", str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while b"revision" not in process.stdout.readline():  # `versions` has ended
            assert process.poll() is None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (started := children.read_text().split()):
            assert process.poll() is None
        time.sleep(1.0)  # now gpu.py knows what it has started
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    assert not any(alive(int(child)) for child in started)
