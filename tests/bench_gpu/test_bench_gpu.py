"""`make gpu` as far as it goes without a GPU: every part on tiny sizes on the CPU.

Nothing here measures; figures are made up where a test needs some.
"""

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from suite import GPU, OPS, ROOT, SERVING, module, read

from moge_ops import _backend
from moge_ops.testing import Sizes, assert_matches

for package in ("matplotlib", "rich", "transformers"):
    pytest.importorskip(package, reason="needs the extra 'bench'")

TRITON_PEERS = ("liger", "moe-ops", "scattermoe")
# the former take long under the interpreter; test_bench.py runs the latter
FP8_PEER = "torch scaled_grouped_mm fp8_w8a8"
LEFT_OUT = (*TRITON_PEERS, "hf eager", "hf batched_mm", "hf grouped_mm")
# torch's own capture of a graph needs a GPU: the smoke run calls the function again instead
MEASURED = {
    *("ceilings", "checks", "tests", "tiles", "layer", "sonic", "gate", "quant", "memory"),
}


# ---------------------------------------------------------------------------- the whole, smoke


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder and output of a run of everything, apart from some peers."""
    out = tmp_path_factory.mktemp("gpu")
    command = [sys.executable, str(GPU / "gpu.py"), "--smoke", "--out", str(out)]
    done = subprocess.run(
        [*command, "--without", *LEFT_OUT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    return out, done.stdout


def one_smoke_run(test: Callable[..., None]) -> Callable[..., None]:
    """In one worker: a second run would share the cores with the first."""
    return pytest.mark.slow(pytest.mark.xdist_group("smoke")(test))


@one_smoke_run
def test_every_part_runs_and_writes_rows(smoke: tuple[Path, str]) -> None:
    out, said = smoke
    rows = read(out / "gpu.csv")
    assert {row["part"] for row in rows} == MEASURED
    assert len({row["date"] for row in rows}) == 1
    assert not [row for row in rows if row["note"].startswith("FAILED")]
    for part in (*MEASURED, "demo", "tune-0-1", "tunegate", "tunequant", "counters"):
        assert f"\n{part}: ok, " in said
    files = ("gpu.csv", "gpu_layer.png", "gpu_split.png", "tiles/configs.csv")
    assert said.rstrip().splitlines()[-len(files) :] == [str(out / name) for name in files]
    summary = (out / "summary.txt").read_text()
    assert summary.startswith("no failure\n")
    assert summary.strip() in said
    assert "==== layer: ok" in (out / "log.txt").read_text()
    assert all((out / name).is_file() for name in ("gpu_layer.png", "gpu_split.png"))


@one_smoke_run
def test_rows_state_work_and_shares_of_the_ceilings_of_their_point(
    smoke: tuple[Path, str],
) -> None:
    rows = [row for row in read(smoke[0] / "gpu.csv") if row["part"] in ("layer", "sonic")]
    timed = [row for row in rows if row["op"] == "moe" and row["median_ms"]]
    place = ("part", "router", "direction", "T", "H", "variant")
    # a point whose first rows waited for no tuning was timed again
    layers = list({tuple(row[name] for name in place): row for row in timed}.values())
    assert len(layers) < len(timed)
    points = {
        (r["part"], r["router"], r["direction"], r["T"], r["H"]): r
        for r in rows
        if r["variant"] == "dense"
    }
    directions = {"forward": 1, "forward+backward": 3, "backward": 2}
    assert {key[2] for key in points} == set(directions)
    assert {key[1] for key in points} == {"uniform", "zipf"}
    assert {row["variant"] for row in layers} == {"moge_ops", "torch grouped_mm"}
    for row in layers:
        T, H, G, k, F = (int(row[name]) for name in "THGkF")
        assert int(row["flops"]) == 6 * T * G * k * H * F * directions[row["direction"]]
        seconds = float(row["median_ms"]) / 1e3
        rate = int(row["flops"]) / seconds / 1e12
        assert float(row["tflop_s"]) == pytest.approx(rate, rel=1e-2)
        assert float(row["tb_s"]) == pytest.approx(int(row["bytes"]) / seconds / 1e12, rel=1e-2)
        key = tuple(row[n] for n in ("part", "router", "direction", "T", "H"))
        share = rate / float(points[key]["tflop_s"])
        assert float(row["of_dense"]) == pytest.approx(share, rel=2e-2)
        assert 0 < float(row["rms_error"]) < 1e-4
    left_out = {row["variant"] for row in rows if row["note"] == "not run: left out"}
    assert left_out == set(LEFT_OUT)
    single = {row["op"] for row in rows if row["T"] == "9"}
    assert {"grouped_gate", "route", "permute", "unpermute", "swiglu", "grouped_mlp"} <= single
    assert {f"grouped_gemm {p}" for p in ("up", "down", "up dX", "up dW", "down dX")} <= single


@one_smoke_run
def test_saved_activations_are_those_of_the_design(smoke: tuple[Path, str]) -> None:
    rows = [row for row in read(smoke[0] / "gpu.csv") if row["part"] == "memory"]
    saved = {row["variant"]: int(row["saved_bytes"]) for row in rows if row["saved_bytes"]}
    expected = int(rows[0]["bytes"])
    assert saved["moge_ops"] / expected == pytest.approx(1.0, abs=0.01)
    assert saved["torch grouped_mm"] > 1.5 * expected


@one_smoke_run
def test_quantised_rows_count_the_bytes_of_the_experts_in_use(smoke: tuple[Path, str]) -> None:
    rows = [row for row in read(smoke[0] / "gpu.csv") if row["part"] == "quant"]
    times = [row for row in rows if row["op"] == "moe quantised" and row["median_ms"]]
    number = 3 * 64 * 32  # parameters of an expert, F 32 and H 64
    wide, groups = 4 * (2 * 32 + 64), number // 32  # a float32 for each row; groups of 32 columns
    expert = {
        "moge_ops bfloat16": 2 * number,
        "moge_ops int8_w8a8": number + wide,
        "moge_ops int4_w4a8": number // 2 + wide,
        "moge_ops int8_w8a16": number + wide,
        "moge_ops int4_w4a16": number // 2 + 4 * groups,
        "moge_ops fp8_w8a16": number + wide,
        "moge_ops mxfp4_w4a16": number // 2 + groups,
    }
    used = {(row["variant"], row["T"]): int(row["bytes"]) for row in times}
    for variant, size in expert.items():
        experts, rest = divmod(used.pop((variant, "9")) - 2 * 9 * 64 * 2, size)
        assert 2 < experts <= 8
        assert not rest
        assert used.pop((variant, "1")) == 2 * 64 * 2 + 2 * size  # two groups, one expert each
    assert {variant for variant, _ in used} <= {FP8_PEER}  # where torch has it for this device
    for row in times:
        assert int(row["flops"]) == 6 * int(row["T"]) * 2 * 64 * 32
        assert row["dtype"] == "bfloat16"
        assert 0 < float(row["rms_error"]) < (0.07 if row["variant"] == FP8_PEER else 0.01)
    notes = {row["variant"]: row["note"] for row in rows if row["note"]}
    assert all(note.startswith("not run: ") for note in notes.values())
    assert notes.keys() <= module("peers").FP8_VARIANTS.keys()
    assert "\nQUANTISED, forward" in smoke[1]


# ------------------------------------------------------------------------ the measuring parts


@pytest.mark.slow
@pytest.mark.parametrize("variant", TRITON_PEERS)
def test_a_peer_gives_our_result_and_gradients(variant: str, session: Any) -> None:
    """Under the interpreter, each kernel with the first of its configurations."""
    peers, parts = module("peers"), module("gpu_parts")
    distribution = peers.PACKAGES[variant][0]
    if not module("harness").version(distribution):
        pytest.skip(f"{distribution} is not installed (requirements/peers.txt)")
    torch.manual_seed(0)
    s = Sizes(5, H=32, E=8, G=2, k=2, F=16)
    p = module("problem").problem(s, torch.float32, router="zipf")
    only = {name: peers.GPU_VARIANTS[name] for name in ("moge_ops", variant)}
    with mock.patch.object(peers, "GPU_VARIANTS", only):
        layers, errors, reasons = parts.checked_layers(session, p, only, forget=True)
    assert not reasons
    assert set(layers) == {"moge_ops", variant}
    assert 0 < errors[variant] < 1e-5
    assert not [k for k in peers.tuned_kernels(variant) if len(k.configs) != 1]


def test_peers_of_the_wheels_are_those_that_are_timed() -> None:
    def pinned(file: str) -> set[str]:
        lines = (ROOT / "requirements" / file).read_text().splitlines()
        assert all(line.count("==") == 1 for line in lines if not line.startswith("#"))
        return {line.partition("==")[0] for line in lines if not line.startswith("#")}

    known = {distribution for distribution, _ in module("peers").PACKAGES.values()}
    assert pinned("peers.txt") == known - {"sonic-moe"}
    assert pinned("gpu-peers.txt") & known == {"sonic-moe"}  # the others are what it needs


@pytest.mark.parametrize("broken", ["output", "gradient"])
def test_our_wrong_result_is_a_failure_and_is_not_timed(
    broken: str, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = _backend.load(SERVING, "grouped_mlp")
    if broken == "output":
        forward = kernels.grouped_mlp_fwd

        def larger(*inputs: Any) -> Any:
            y, pre = forward(*inputs)
            return y * 1.1, pre

        monkeypatch.setattr(kernels, "grouped_mlp_fwd", larger)
        said = "y: RMS error"
    else:
        backward = kernels.grouped_mlp_bwd

        def wrong(*inputs: Any) -> Any:
            d_x, d_w_gate_up, *rest = backward(*inputs)
            d_w_gate_up[0, 3] += 1.0  # one line of one expert
            return (d_x, d_w_gate_up, *rest)

        monkeypatch.setattr(kernels, "grouped_mlp_bwd", wrong)
        said = r"d_w_gate_up[0]: RMS error"
    parts = module("gpu_parts")
    torch.manual_seed(0)
    p = module("problem").problem(session.scale.layer._replace(T=9), torch.float32)
    parts.measure_layer(session, p, "uniform", ["forward"], forget=False)
    (row,) = read(session.csv)
    assert row["variant"] == "moge_ops"
    assert row["note"].startswith(f"FAILED: AssertionError: {said}")
    assert not row["median_ms"]


def quantised_rows(session: Any) -> dict[str, dict[str, str]]:
    """Rows of the part ``quant`` at one T, by variant."""
    session.scale = session.scale._replace(quant=session.scale.quant[:1])
    module("gpu_quant").quant(session)
    return {row["variant"]: row for row in read(session.csv)}


def test_a_scheme_with_a_wrong_result_is_a_failure_and_is_not_timed(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = _backend.load(SERVING, "grouped_mlp")
    forward = kernels.grouped_mlp_quantized_fwd

    def wrong(*inputs: Any) -> Any:
        y, pre = forward(*inputs)
        return (y * 1.1 if "int4_w4a16" in inputs else y), pre

    monkeypatch.setattr(kernels, "grouped_mlp_quantized_fwd", wrong)
    rows = quantised_rows(session)
    row = rows.pop("moge_ops int4_w4a16")
    assert row["note"].startswith("FAILED: AssertionError: y: RMS error")
    assert not row["median_ms"]
    others = [row for name, row in rows.items() if name.startswith("moge_ops")]
    assert len(others) == 6
    assert all(float(row["median_ms"]) > 0 and not row["note"] for row in others)


@pytest.mark.parametrize("right", [True, False])
def test_torch_in_fp8_gets_what_it_takes_and_is_compared(
    right: bool, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch has no such product for CPUs: shapes and layouts are checked by its rules for CUDA."""
    functional = torch.nn.functional
    if not hasattr(functional, "scaled_grouped_mm"):
        pytest.skip("needs torch >= 2.10")

    def product(
        a: Any, b: Any, a_scale: Any, a_way: Any, b_scale: Any, b_way: Any, **rest: Any
    ) -> Any:
        assert a_way == b_way == functional.ScalingType.RowWise
        *meta, offsets = (x.to("meta") for x in (a, b, a_scale, b_scale, rest["offs"]))
        out = torch._scaled_grouped_mm(*meta, offs=offsets, out_dtype=rest["output_dtype"])
        assert out.shape == (9 * 2, b.shape[2])
        assert a.shape[1] % 16 == b.shape[2] % 16 == 0
        wide = b.float() * b_scale.unsqueeze(1)
        rows = a.float() * (a_scale.unsqueeze(1) if right else 1.0)
        starts = [0, *rest["offs"].tolist()]
        parts = [rows[i:j] @ w for i, j, w in zip(starts[:-1], starts[1:], wide, strict=True)]
        return torch.cat(parts).to(out.dtype)

    monkeypatch.setattr(functional, "scaled_grouped_mm", product)
    row = quantised_rows(session)[FP8_PEER]
    if right:
        assert float(row["median_ms"]) > 0
        assert 0.02 < float(row["rms_error"]) < 0.07  # it does round rows
    else:
        assert row["note"].startswith("not run: AssertionError: y: RMS error")
        assert not row["median_ms"]


def test_a_scheme_that_crashes_is_a_failure_and_leaves_the_others(session: Any) -> None:
    (session.work / "layer.without").write_text("moge_ops int8_w8a8|not run: exit code 70\n")
    rows = quantised_rows(session)
    assert rows["moge_ops int8_w8a8"]["note"] == "not run: exit code 70"
    assert float(rows["moge_ops int4_w4a8"]["median_ms"]) > 0
    said = {"moge_ops int8_w8a8": "moge_ops int8_w8a8|ours|", FP8_PEER: f"{FP8_PEER}|peer|"}
    for what, note in said.items():
        session.enter(what)
        assert (session.work / "layer.now").read_text().startswith(note)


def test_the_oracle_of_some_tokens_is_that_of_all() -> None:
    peers, problem = module("peers"), module("problem")
    torch.manual_seed(0)
    p = problem.problem(Sizes(7, H=32, E=8, G=2, k=1, F=16), torch.float64)
    want, _ = peers.oracle(p)
    tokens = torch.tensor([5, 0, 6])
    torch.testing.assert_close(peers.oracle_forward(p), want["y"])
    torch.testing.assert_close(peers.oracle_forward(p, tokens), want["y"][tokens])


@pytest.mark.parametrize("how", ["raises", "wrong"])
def test_a_peer_that_cannot_run_says_why_and_costs_nothing_else(
    how: str, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers, parts = module("peers"), module("gpu_parts")

    def raises(p: Any) -> Any:
        raise RuntimeError("no kernel image\nmore")

    def wrong(p: Any) -> Any:
        run = peers.ours(p)
        return lambda *leaves: run(*leaves) * 1.0001  # eight times the limit

    variants = {"moge_ops": peers.ours, "liger": {"raises": raises, "wrong": wrong}[how]}
    monkeypatch.setattr(peers, "GPU_VARIANTS", variants)
    monkeypatch.setattr(peers, "PACKAGES", {})
    p = module("problem").problem(session.scale.layer._replace(T=9), torch.float32)
    parts.measure_layer(session, p, "uniform", ["forward"], forget=False)
    rows = {row["variant"]: row for row in read(session.csv)}
    assert float(rows["moge_ops"]["median_ms"]) > 0
    want = {"raises": "RuntimeError: no kernel image", "wrong": "AssertionError: y: RMS error"}
    assert rows["liger"]["note"].startswith(f"not run: {want[how]}")
    assert not rows["liger"]["median_ms"]


@pytest.mark.slow
def test_a_test_that_fails_or_cannot_be_collected_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_cuda(): assert 1 == 2\ndef test_cuda2(): pass\n")
    (tmp_path / "test_other.py").write_text("import no_such_package\n")
    code = (
        "import sys, gpu_checks; from gpu_session import Session; from pathlib import Path\n"
        "here = Path(sys.argv[1])\n"
        "s = Session('tests', here / 'x.csv', here, 'now', smoke=True)\n"
        "s.scale = s.scale._replace(tests=(str(here), 'cuda')); gpu_checks.tests(s)\n"
    )
    command, path = [sys.executable, "-c", code, str(tmp_path)], {"PYTHONPATH": str(OPS)}
    subprocess.run(command, cwd=GPU, env=os.environ | path, capture_output=True, check=True)
    notes = {row["op"].rpartition("/")[2]: row["note"] for row in read(tmp_path / "x.csv")}
    assert "FAILED: assert 1 == 2" in notes["test_it.py::test_cuda"]
    assert notes["test_other.py"].startswith("FAILED: ")
    assert notes["pytest"] == "FAILED: pytest's exit code 1; 1 passed, 1 failed, 0 skipped"
    assert len(notes) == 3
    assert (tmp_path / "tests.now").read_text() == "|ours|: 1 passed, 1 failed, 0 skipped\n"


def test_files_whose_tests_take_a_device_are_collected_there() -> None:
    names = {path.stem for path in module("gpu_checks").files(ROOT / "tests")}
    assert {"test_grouped_mlp", "test_quant", "test_nn", "test_triton_quantized"} <= names
    assert not names & {"test_transforms", "test_docs", "test_hub", "test_packaging"}


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("layer twice", "second", "second run: result 0 differs"),
        ("layer in another process", "here", "other bits in another process"),
        ("layer on memory filled with NaN", "unwritten", "on memory filled with NaN: result 0"),
        ("gate and route of the most tokens", "ids", "uniform, gate: result 0 differs"),
        ("layer of the most tokens", "pre", "d_x: RMS error"),
        ("gathered kernels, many times", "pre", "pre, seed 0: RMS error"),
    ],
)
def test_checks_find_what_they_look_for(
    name: str, wrong: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = module("gpu_checks")
    monkeypatch.setenv("PYTHONPATH", f"{OPS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    session = module("gpu_session").Session(
        "checks", tmp_path / "x.csv", tmp_path, "now", smoke=True
    )
    kernels = _backend.load(SERVING, "grouped_mlp")
    forward, calls = kernels.grouped_mlp_fwd, iter(range(10**6))

    def broken(*inputs: Any) -> Any:
        y, pre = forward(*inputs)
        if wrong in ("second", "here"):
            return y * (1 + 1e-6 * (next(calls) if wrong == "second" else 1)), pre
        if wrong == "unwritten":
            first, y = y, torch.empty_like(y)
            y[1:] = first[1:]
            return y, pre
        return y, pre.roll(1, 0)

    def other_ids(*inputs: Any) -> Any:
        weights, ids, counts = choose(*inputs)
        ids[-1, 0] ^= 1
        return weights, ids, counts

    if wrong == "ids":
        gate = _backend.load(SERVING, "grouped_gate")
        choose = gate.grouped_gate_fwd
        monkeypatch.setattr(gate, "grouped_gate_fwd", other_ids)
    else:
        monkeypatch.setattr(kernels, "grouped_mlp_fwd", broken)
    points = session.points
    monkeypatch.setattr(session, "points", lambda names: points(n for n in names if n == name))
    parts.checks(session)
    (row,) = read(session.csv)
    assert row["op"] == name
    assert row["note"].startswith(f"FAILED: AssertionError: {said}")


def test_one_wrong_line_of_many_is_found() -> None:
    agrees = functools.partial(assert_matches, lines=True, slack=3.0)
    want = torch.randn(20_000, 64)
    got = want * (1 + 1e-7)
    assert agrees(got, want, "y") < 1e-6
    got[777] += 2e-4  # adds little to the error of the whole
    with pytest.raises(AssertionError, match="y: RMS error"):
        agrees(got, want, "y")
    got[777] = torch.nan
    with pytest.raises(AssertionError, match="y: RMS error inf"):
        agrees(got, want, "y")


def test_no_older_graph_holds_the_leaves_of_what_is_captured(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_checks, problem = module("gpu_checks"), module("problem")
    captured = []

    def replayed(_: Any, call: Any, *renew: Any) -> float:
        captured.append(owner := getattr(call, "__self__", None))
        assert not isinstance(owner, problem.Operator) or "out" not in vars(owner)
        return 0.0

    monkeypatch.setattr(gpu_checks, "replayed", replayed)
    names = lambda calls: [name for name in calls if "graph" in name]  # noqa: E731
    session.points = names
    session.check = lambda name, call: call()
    gpu_checks.checks(session)
    assert sum(isinstance(owner, problem.Operator) for owner in captured) > 10


def test_logits_of_the_gate_are_those_that_compare_exactly(session: Any) -> None:
    logits = module("gpu_gate").spread_logits(session.scale._replace(dtype=torch.bfloat16), 64, 32)
    assert logits.dtype == torch.bfloat16
    assert torch.equal(logits.unique().double(), torch.arange(-4.0, 4.0, 0.125).double())


def test_a_note_is_whole_at_any_moment(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session.enter("one thing")
    monkeypatch.setattr(Path, "replace", mock.Mock(side_effect=SystemExit))  # killed here
    with pytest.raises(SystemExit):
        session.enter("another")
    assert (session.work / "layer.now").read_text() == "here|ours|here: one thing\n"


def test_an_unwritten_result_of_a_replay_is_found(session: Any) -> None:
    tensors = module("gpu_session").tensors
    x = torch.ones(3)
    replay, result = session.graph(lambda: (x * 2, [x + 1]))
    assert [t.tolist() for t in tensors(result)] == [[2.0] * 3, [2.0] * 3]
    x.fill_(5.0)
    replay()
    assert [t.tolist() for t in tensors(result)] == [[10.0] * 3, [6.0] * 3]


def test_a_broken_context_ends_the_process(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = module("gpu_session").BROKEN

    def synchronize() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(session, "synchronize", synchronize)
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit, match=str(broken)):
        session.attempt("liger", lambda: 1)
    assert (session.work / "layer.now").read_text() == "liger|peer|here: liger\n"


def test_a_part_started_again_goes_on_where_it_was(session: Any) -> None:
    seen = list(session.points(["a", "b"]))
    (session.work / "layer.without").write_text("c|not run: hung\nliger|not run: crashed\n")
    assert seen == ["a", "b"]
    assert list(session.points(["a", "b", "c", "d"])) == ["d"]
    assert session.given_up("liger") == "not run: crashed"
    assert not session.given_up("scattermoe")


class Clock:
    """In place of torch.cuda.Event: `record` notes the host's time."""

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "Clock") -> float:
        return (end.at - self.at) * 1e3


def test_events_time_one_call_after_a_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = module("harness")
    monkeypatch.setattr(torch.cuda, "Event", Clock)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(harness, "FLUSHED", 2**16)
    order: list[str] = []
    sample = harness.event_sampler({"a": lambda: (time.sleep(0.01), order.append("a"))}, "cpu")
    assert 0.01 <= sample("a", 2) < 0.5
    assert len(order) == 2 + 2  # two to see how long the host needs


def test_a_graph_is_captured_after_a_call_on_another_stream(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    for name in ("Stream", "current_stream", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, mock.MagicMock(name))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext(order.append("stream")))
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: nullcontext(order.append("graph")))
    session.scale = session.scale._replace(device="cuda")
    _, result = session.graph(lambda: order.append("run") or 7)
    assert result == 7
    assert order == ["stream", "run", "graph", "run"]


def test_a_search_that_was_started_again_keeps_what_it_had(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_tuning, autotune = module("gpu_tuning"), module("autotune")
    table = session.csv.parent / "tiles" / "configs.csv"
    one = autotune.present("up", 16.0)._replace(num_stages=5)
    found = autotune.Found(one, 2.0, 1.0, 9, 0)
    autotune.write_table(table, {("up", 16.0): found}, "measured", gpu_tuning.STATIC)
    monkeypatch.setattr(gpu_tuning, "searched", lambda *place: found)
    monkeypatch.setattr(session, "points", lambda names: iter(["gemm 16"]))
    gpu_tuning.tiles(session)
    again = autotune.read_found(table, gpu_tuning.STATIC)
    assert {key: kept.config for key, kept in again.items()} == dict.fromkeys(
        [("up", 16.0), ("gemm", 16.0)], one
    )


def test_each_class_gets_a_step_before_any_gets_another(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_tuning, autotune = module("gpu_tuning"), module("autotune")
    order = []

    def searched(_: Any, kernel: str, limit: float, *more: Any) -> Any:
        order.append((limit, kernel, more[-1] is not None))
        config = autotune.present(kernel, limit)
        better = kernel == "up" and limit == 16.0
        stages = config.num_stages + better
        return autotune.Found(config._replace(num_stages=stages), 2.0, 1.0, 9, 0)

    monkeypatch.setattr(gpu_tuning, "searched", searched)
    monkeypatch.setattr(session, "free", lambda: None)
    gpu_tuning.tiles(session)
    assert order == [*((*one, False) for one in autotune.ORDER), (16.0, "up", True)]
