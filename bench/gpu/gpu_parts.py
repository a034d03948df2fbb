"""The parts of ``make gpu`` that measure and check; gpu.py starts each in a process of its own.

Every finding is a row that is in the CSV before the next one is made. A part that was started again
after a crash goes on with the points that it has not finished, without the peer that crashed.
"""

import argparse
import copy
import functools
import gc
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import harness
import peers
import torch
import torch.nn.functional as F
from harness import Plan, Sizes, Work
from torch import Tensor

import moge_ops
from moge_ops.reference.grouped_mlp import grouped_mlp as reference_mlp
from moge_ops.reference.route import route as reference_route
from moge_ops.testing import TOLERANCES, spaced_logits

COLUMNS = [
    *("date", "device", "capability", "driver", "python", "torch", "triton", "peers", "revision"),
    *("part", "op", "variant", "router", "dtype", "direction", "T", "H", "E", "G", "k", "F"),
    *("median_ms", "q20_ms", "q80_ms", "rounds", "flops", "bytes", "tflop_s", "tb_s"),
    *("of_dense", "of_copy", "rms_error", "saved_bytes", "peak_bytes", "note"),
]
FORWARD, BOTH, BACKWARD = "forward", "forward+backward", "backward"
GRADIENTS = ("d_x", "d_w_gate_up", "d_w_down", "d_logits")
# exit code of a part whose GPU context is broken: an error that no later call survives
BROKEN = 70
GATE_CALLS = 20  # in one graph, each on other logits


class Scale(NamedTuple):
    """What is measured: the real sizes, or tiny ones to see that every line runs."""

    device: str
    dtype: torch.dtype
    plan: Plan
    layer: Sizes  # T is replaced by those of `tokens`
    tokens: tuple[int, ...]  # in order of importance; peers choose configurations anew for few
    few: int  # up to here
    check_tokens: int
    repeats: int
    sonic: tuple[Sizes, ...]
    gate_tokens: tuple[int, ...]
    gate_experts: tuple[int, ...]
    memory_tokens: int
    compiler: str  # of torch.compile
    tests: tuple[str, str]  # where, and pytest's -k


PANGU = Sizes(1, H=5120, E=64, G=8, k=1, F=1344)
FULL = Scale(
    device="cuda",
    dtype=torch.bfloat16,
    plan=Plan(3.0, (5, 31), 0.0),
    layer=PANGU,
    tokens=(8192, 32768, 2048, 128, 1, 16, 456),
    few=456,
    check_tokens=2048,
    repeats=20,
    sonic=(
        Sizes(32768, H=4096, E=128, G=1, k=8, F=1024),
        Sizes(24576, H=1536, E=128, G=1, k=8, F=256),
    ),
    gate_tokens=(1, 16, 128, 1024, 4096, 16384, 65536, 131072),
    gate_experts=(64, 128, 256, 512, 1024),
    memory_tokens=32768,
    compiler="inductor",
    tests=("tests", "cuda"),
)
SMOKE = Scale(
    device="cpu",
    dtype=torch.float32,
    plan=harness.SMOKE_PLAN,
    layer=Sizes(1, H=32, E=8, G=2, k=1, F=16),
    tokens=(9, 1),
    few=1,
    check_tokens=12,
    repeats=2,
    sonic=(Sizes(8, H=32, E=8, G=1, k=2, F=16),),
    gate_tokens=(1, 9),
    gate_experts=(16,),
    memory_tokens=64,
    compiler="aot_eager",
    tests=("tests/test_swiglu.py", "torch"),
)


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


def driver() -> str:
    """Version of the GPU's driver, as nvidia-smi says it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.splitlines()[0].strip()


def environment(device: str) -> dict[str, Any]:
    """The columns that every row of a run shares, apart from its date."""
    on_gpu = device == "cuda"
    names = [name for name, _ in peers.PACKAGES.values()]
    found = {name: harness.version(name) for name in ("transformers", *names)}
    return {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu (smoke)",
        "capability": "{}.{}".format(*torch.cuda.get_device_capability()) if on_gpu else "",
        "driver": driver() if on_gpu else "",
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "triton": harness.version("triton"),
        "peers": "; ".join(f"{name} {version}" for name, version in found.items() if version),
        "revision": harness.revision(),
    }


class Session:
    """One run of one part: where its rows go, and where it stands."""

    def __init__(self, part: str, csv: Path, work: Path, date: str, *, smoke: bool) -> None:
        self.part, self.csv, self.work = part, csv, work
        self.scale = SMOKE if smoke else FULL
        self.smoke = smoke
        self.shared = {"date": date, "part": part, **environment(self.scale.device)}
        self.point = ""

    def _file(self, kind: str) -> Path:
        return self.work / f"{self.part}.{kind}"

    def _lines(self, kind: str) -> list[str]:
        file = self._file(kind)
        return file.read_text().splitlines() if file.exists() else []

    def given_up(self, name: str) -> str:
        """Why a point or a peer is left out; empty if it is not."""
        reasons = dict(line.partition("|")[::2] for line in self._lines("without"))
        return reasons.get(name, "")

    def write(self, *rows: Mapping[str, Any]) -> None:
        dtype = str(self.scale.dtype).removeprefix("torch.")
        shared = self.shared | {"dtype": dtype}
        harness.append(self.csv, [shared | row for row in rows], COLUMNS)

    def points(self, names: Iterable[str]) -> Iterator[str]:
        """Those that are neither finished nor given up."""
        for name in names:
            if name not in self._lines("done") and not self.given_up(name):
                self.point = name
                yield name
                with self._file("done").open("a") as file:
                    file.write(f"{name}\n")

    def enter(self, what: str) -> None:
        """Leaves a note for gpu.py: what runs now, and what to leave out if it does not end."""
        peer = what in peers.GPU_VARIANTS and what != peers.OURS
        whose = "peer" if peer or what.startswith("torch") else "ours"
        name = what if peer else self.point
        self._file("now").write_text(f"{name}|{whose}|{self.point}: {what}\n")

    def attempt(self, what: str, call: Callable[[], Any]) -> tuple[Any, str]:
        """``call()`` and "", or None and the reason why not."""
        self.enter(what)
        try:
            result, reason = call(), ""
            self.synchronize()
        except Exception as error:
            result, reason = None, first_line(error)
        if reason:
            gc.collect()
            try:
                self.synchronize()
            except Exception:
                print(f"{self.point}: {what} broke the GPU's context: {reason}", flush=True)
                os._exit(BROKEN)
        return result, reason

    def synchronize(self) -> None:
        harness.synchronize(self.scale.device)

    def check(self, name: str, call: Callable[[], float]) -> None:
        """A row for one check: ``call`` raises, or returns the error that it found."""
        error, reason = self.attempt(name, call)
        found = {"note": f"FAILED: {reason}"} if reason else {"rms_error": f"{error:.3g}"}
        self.write({"op": name, "variant": peers.OURS, "note": "ok", **found})
        print(f"{name}: {'FAILED ' + reason if reason else 'ok'}", flush=True)

    def free(self) -> None:
        gc.collect()
        if self.scale.device == "cuda":
            torch.cuda.empty_cache()

    def graph(self, run: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        """A replay of ``run``, and the result that it writes."""
        if self.scale.device == "cpu":
            result = run()

            def again() -> None:
                for old, new in zip(tensors(result), tensors(run()), strict=True):
                    old.detach().copy_(new.detach())

            return again, result
        stream = torch.cuda.Stream()  # what is made at a first call must be made before capture
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = run()
        return graph.replay, result


def tensors(result: Any) -> list[Tensor]:
    """The tensors of a nested result, in order."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, (tuple, list)):
        return [x for part in result for x in tensors(part)]
    return []


def timing_columns(timing: harness.Timing, work: Work) -> dict[str, Any]:
    columns = harness.measured(timing, work)
    gflop_s, gb_s = float(columns.pop("gflop_s")), float(columns.pop("gb_s"))
    return columns | {"tflop_s": f"{gflop_s / 1e3:.4g}", "tb_s": f"{gb_s / 1e3:.4g}"}


def time_rows(
    session: Session, calls: Mapping[str, tuple[Callable[[], object], Work]]
) -> dict[str, dict[str, Any]]:
    """Times ``calls`` and the two ceilings in turns: columns by name, with shares of ceilings."""
    session.enter("timing")
    scale = session.scale
    ceilings = harness.ceilings(scale.dtype, scale.device, smoke=session.smoke)
    everything = {**calls, **{name: (c.run, c.work) for name, c in ceilings.items()}}
    timings = harness.interleave(
        {name: run for name, (run, _) in everything.items()}, scale.plan, scale.device
    )
    dense = ceilings["dense"].work.flops / timings["dense"].median
    copy = ceilings["copy"].work.bytes / timings["copy"].median
    return {
        name: {
            **timing_columns(timings[name], work),
            "of_dense": f"{work.flops / timings[name].median / dense:.3g}",
            "of_copy": f"{work.bytes / timings[name].median / copy:.3g}",
        }
        for name, (_, work) in everything.items()
    }


def distance(got: Tensor, want: Tensor) -> tuple[float, float]:
    """RMS of the difference over that of ``want``, and the same of the worst line.

    A line is one of the last dimension; its unit is its own size plus the average one's.
    """
    if got.shape != want.shape:
        raise AssertionError(f"shape {list(got.shape)} instead of {list(want.shape)}")
    width = want.shape[-1] if want.ndim else 1
    got, want = got.detach().reshape(-1, width), want.detach().reshape(-1, width)
    size = torch.linalg.vector_norm(want, dtype=torch.float64)
    average = size * len(want) ** -0.5
    worst, squares = torch.zeros_like(size), torch.zeros_like(size)
    step = max(1, 2**26 // width)  # float32 copies of a whole gradient would not fit
    for a, b in zip(got.split(step), want.split(step), strict=True):
        error = torch.linalg.vector_norm(a.double() - b.double(), dim=-1)
        unit = torch.linalg.vector_norm(b.double(), dim=-1) + average
        worst = torch.maximum(worst, (error / unit.clamp_min(1e-300)).nan_to_num(torch.inf).max())
        squares += error.square().sum()
    rms = (squares.sqrt() / size.clamp_min(1e-300)).nan_to_num(torch.inf)
    return rms.item(), worst.item()


def agrees(got: Tensor, want: Tensor, what: str, dtype: torch.dtype, factor: float = 3.0) -> float:
    """RMS error, or AssertionError above ``factor`` times the limit of one operator's."""
    limit = factor * TOLERANCES[dtype].rms
    rms, line = distance(got, want)
    if not (rms <= limit and line <= 5.0 * limit):
        raise AssertionError(f"{what}: RMS error {rms:.3g}, of a line {line:.3g}, limit {limit:g}")
    return rms


def spot_check(p: peers.Problem, y: Tensor, grads: tuple[Tensor, ...], d_y: Tensor) -> float:
    """Compares some tokens and some experts of a layer of any size with the float64 oracle.

    ``y``, ``d_x`` and ``d_logits`` of 32 tokens, summed over slices of the experts; ``d_w`` of the
    first and of the busiest expert over all of their tokens.
    """
    tokens = torch.linspace(0, p.s.T - 1, min(p.s.T, 32), device=p.x.device).long()
    x = p.x.detach()[tokens].double().requires_grad_()
    logits = p.logits.detach()[tokens].double().requires_grad_()
    total = torch.zeros_like(x)
    sums = [torch.zeros_like(x), torch.zeros_like(logits)]
    for first in range(0, p.s.E, 8):
        part = slice(first, min(first + 8, p.s.E))
        local = p.ids[tokens] - first  # ids outside of the slice are dropped slots
        count = part.stop - first
        weights = logits.softmax(-1).gather(-1, p.ids[tokens])
        routing = reference_route(local.where((local >= 0) & (local < count), -1).int(), count)
        w_gate_up, w_down = (w.detach()[part].double() for w in (p.w_gate_up, p.w_down))
        out = reference_mlp(x, w_gate_up, w_down, weights, *routing)
        total += out.detach()
        for into, grad in zip(
            sums, torch.autograd.grad(out, (x, logits), d_y[tokens].double()), strict=True
        ):
            into += grad
    named = [("y", y, total), ("d_x", grads[0], sums[0]), ("d_logits", grads[3], sums[1])]
    worst = max(agrees(got[tokens], want, name, p.x.dtype) for name, got, want in named)

    counts = torch.bincount(p.ids.flatten(), minlength=p.s.E)
    for e in {0, int(counts.argmax())}:
        rows = (p.ids == e).any(-1)
        w = [w.detach()[e : e + 1].double().requires_grad_() for w in (p.w_gate_up, p.w_down)]
        weights = p.logits.detach()[rows].double().softmax(-1)[:, e : e + 1]
        alone = torch.zeros_like(weights, dtype=torch.int32)
        out = reference_mlp(p.x.detach()[rows].double(), *w, weights, *reference_route(alone, 1))
        want = torch.autograd.grad(out, w, d_y[rows].double())
        for name, got, d_w in zip(GRADIENTS[1:3], grads[1:3], want, strict=True):
            if len(alone):
                worst = max(worst, agrees(got[e], d_w[0], f"{name}[{e}]", p.x.dtype))
            elif got[e].any():
                raise AssertionError(f"{name}[{e}] of an expert without rows is not zero")
    return worst


def quick_tuning(session: Session, variant: str, *, forget: bool) -> None:
    """Peers' kernels choose among all of their configurations, with fewer repetitions each."""
    if session.scale.device == "cpu":  # nothing to time with: the first one
        for kernel in peers.tuned_kernels(variant):
            kernel.configs = kernel.configs[:1]
        return
    from triton.testing import do_bench

    for kernel in peers.tuned_kernels(variant):
        kernel.do_bench = functools.partial(do_bench, warmup=5, rep=20)
        if forget:
            kernel.cache.clear()


def layer_runs(
    session: Session, p: peers.Problem, *, forget: bool
) -> tuple[dict[str, peers.Run], dict[str, float], dict[str, str], Tensor]:
    """Every variant that is right here: how to run it, its error; why the others are not; d_y.

    Ours is compared with the oracle, peers with ours.
    """
    runs: dict[str, peers.Run] = {}
    errors: dict[str, float] = {}
    d_y = torch.randn_like(p.x)

    def both(run: peers.Run) -> tuple[Tensor, tuple[Tensor, ...]]:
        y = run(*p.leaves)
        return y.detach(), torch.autograd.grad(y, p.leaves, d_y)

    def first() -> tuple[Tensor, tuple[Tensor, ...]]:
        runs[peers.OURS] = peers.ours(p)
        y, grads = both(runs[peers.OURS])
        errors[peers.OURS] = spot_check(p, y, grads, d_y)
        return y, grads

    ours, reason = session.attempt(peers.OURS, first)
    if reason:
        return {}, {}, {peers.OURS: f"FAILED: {reason}"}, d_y

    def compared(name: str) -> tuple[peers.Run, float]:
        run = peers.GPU_VARIANTS[name](p)
        quick_tuning(session, name, forget=forget)
        y, grads = both(run)
        pairs = zip(("y", *GRADIENTS), (y, *grads), (ours[0], *ours[1]), strict=True)
        return run, max(agrees(got, want, what, p.x.dtype, 4.0) for what, got, want in pairs)

    reasons = {}
    for name in [name for name in peers.GPU_VARIANTS if name != peers.OURS]:
        if why := session.given_up(name) or peers.too_large(name, p.s, p.x.dtype):
            reasons[name] = why
            continue
        found, reason = session.attempt(name, functools.partial(compared, name))
        if reason:
            reasons[name] = f"not run: {reason}"
        else:
            runs[name], errors[name] = found
        session.free()
    return runs, errors, reasons, d_y


def layer_call(
    run: peers.Run, p: peers.Problem, d_y: Tensor, direction: str
) -> Callable[[], object]:
    if direction == FORWARD:
        return torch.no_grad()(lambda: run(*p.leaves))
    if direction == BOTH:
        return lambda: torch.autograd.grad(run(*p.leaves), p.leaves, d_y)
    y = run(*p.leaves)
    return lambda: torch.autograd.grad(y, p.leaves, d_y, retain_graph=True)


def used_experts(p: peers.Problem) -> int:
    return int((torch.bincount(p.ids.flatten(), minlength=p.s.E) > 0).sum())


def layer_work(p: peers.Problem, direction: str) -> Work:
    used = used_experts(p)
    forward = harness.mlp_work(p.s, used, p.x.dtype, backward=False)
    if direction == FORWARD:
        return forward
    both = harness.mlp_work(p.s, used, p.x.dtype, backward=True)
    return both if direction == BOTH else Work(*(b - f for b, f in zip(both, forward, strict=True)))


def measure_layer(
    session: Session, p: peers.Problem, router: str, directions: Iterable[str], *, forget: bool
) -> None:
    """Rows for the whole layer at one point, all variants."""
    runs, errors, reasons, d_y = layer_runs(session, p, forget=forget)
    place = {"op": "moe", "router": router, **p.s._asdict()}
    for direction in directions:
        missing = [
            {**place, "direction": direction, "variant": name, "note": reason}
            for name, reason in reasons.items()
        ]
        work = layer_work(p, direction)
        calls = {}
        for name, run in runs.items():
            call, reason = session.attempt(
                name, functools.partial(layer_call, run, p, d_y, direction)
            )
            if reason:
                missing.append(
                    {**place, "direction": direction, "variant": name, "note": f"not run: {reason}"}
                )
            else:
                calls[name] = (call, work)
        rows = time_rows(session, calls) if runs else {}
        session.write(
            *(
                {
                    **place,
                    "op": "moe" if name in calls else "ceiling",
                    "variant": name,
                    "direction": direction,
                    "rms_error": f"{errors[name]:.3g}" if name in errors else "",
                    **columns,
                }
                for name, columns in rows.items()
            ),
            *missing,
        )
        calls.clear()
        session.free()


class Operator(NamedTuple):
    """One operator of the layer at its inputs there."""

    run: Callable[[], Any]
    work: Work
    grads: Callable[[], Any] | None = None  # of its inputs, the forward not included
    grads_work: Work = Work(0, 0)
    both: Callable[[], Any] | None = None  # forward and backward: what a graph can hold


def operators(p: peers.Problem) -> dict[str, Operator]:
    """Every operator, and the products of the backward pass on their own."""
    s, ops = p.s, torch.ops.moge_ops
    x, w_gate_up, w_down, logits = (leaf.detach().requires_grad_() for leaf in p.leaves)
    gating = moge_ops.grouped_gate(logits, s.G, s.k)
    routing = moge_ops.route(gating.experts, s.E, num_groups=s.G)
    offsets, weights = routing.offsets, gating.weights.detach().requires_grad_()
    with torch.no_grad():
        rows = moge_ops.permute(x, routing)  # [N, H]
        pre = moge_ops.grouped_gemm(rows, w_gate_up, offsets)  # [N, 2F]
        act = moge_ops.swiglu(pre)  # [N, F]
        out = moge_ops.grouped_gemm(act, w_down, offsets)  # [N, H]
    shared = [
        (torch.randn(8 * s.F, s.H, device=x.device) * s.H**-0.5).to(x.dtype),
        (torch.randn(s.H, 4 * s.F, device=x.device) * (4 * s.F) ** -0.5).to(x.dtype),
    ]

    def shared_expert(x: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
        return F.linear(moge_ops.swiglu(F.linear(x, w_gate_up)), w_down)

    def operator(
        run: Callable[..., Tensor],
        inputs: tuple[Tensor, ...],
        work: Work,
        grads_work: Work,
    ) -> Operator:
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        result = run(*leaves)
        d = torch.randn_like(result)
        return Operator(
            torch.no_grad()(lambda: run(*leaves)),
            work,
            lambda: torch.autograd.grad(result, leaves, d, retain_graph=True),
            grads_work,
            lambda: torch.autograd.grad(run(*leaves), leaves, d),
        )

    used = used_experts(p)
    weight_up, weight_down = w_gate_up[0].nbytes, w_down[0].nbytes  # of one expert
    index = 4 * s.N
    up = Work(4 * s.N * s.H * s.F, rows.nbytes + used * weight_up + pre.nbytes)
    down = Work(2 * s.N * s.H * s.F, act.nbytes + used * weight_down + rows.nbytes)
    up_dw = Work(up.flops, rows.nbytes + pre.nbytes + w_gate_up.nbytes)
    down_dw = Work(down.flops, rows.nbytes + act.nbytes + w_down.nbytes)
    moved, sums = rows.nbytes + x.nbytes, 2 * s.N * s.H
    wide = 3 * 4 * s.F * s.H  # parameters of the shared expert
    d_pre, d_out = torch.randn_like(pre), torch.randn_like(out)
    dense = Work(2 * s.T * wide, wide * x.element_size() + 2 * x.nbytes)
    return {
        "grouped_gate": operator(
            lambda logits: moge_ops.grouped_gate(logits, s.G, s.k).weights,
            (logits,),
            Work(0, logits.nbytes + 2 * index + 4 * s.E),
            Work(0, 2 * logits.nbytes + 2 * index),
        ),
        "route": Operator(
            lambda: moge_ops.route(gating.experts, s.E, num_groups=s.G),
            Work(0, 3 * index + 4 * (s.E + 1)),
        ),
        "permute": operator(
            lambda x: moge_ops.permute(x, routing),
            (x,),
            Work(0, moved + index),
            Work(s.N * s.H, moved + index),
        ),
        "unpermute": operator(
            lambda rows, weights: moge_ops.unpermute(rows, routing, weights),
            (out, weights),
            Work(sums, moved + 2 * index),
            Work(2 * sums, moved + rows.nbytes + 3 * index),
        ),
        "grouped_gemm up": Operator(
            lambda: ops.grouped_gemm(rows, w_gate_up.detach(), offsets),
            up,
            lambda: (
                ops.grouped_gemm_dx(d_pre, w_gate_up.detach(), offsets),
                ops.grouped_gemm_dw(d_pre, rows, offsets),
            ),
            Work(2 * up.flops, up.bytes + up_dw.bytes),
        ),
        "grouped_gemm up dX": Operator(
            lambda: ops.grouped_gemm_dx(d_pre, w_gate_up.detach(), offsets), up
        ),
        "grouped_gemm up dW": Operator(lambda: ops.grouped_gemm_dw(d_pre, rows, offsets), up_dw),
        "grouped_gemm down": Operator(
            lambda: ops.grouped_gemm(act, w_down.detach(), offsets),
            down,
            lambda: (
                ops.grouped_gemm_dx(d_out, w_down.detach(), offsets),
                ops.grouped_gemm_dw(d_out, act, offsets),
            ),
            Work(2 * down.flops, down.bytes + down_dw.bytes),
        ),
        "grouped_gemm down dX": Operator(
            lambda: ops.grouped_gemm_dx(d_out, w_down.detach(), offsets), down
        ),
        "grouped_gemm down dW": Operator(lambda: ops.grouped_gemm_dw(d_out, act, offsets), down_dw),
        "swiglu": operator(
            moge_ops.swiglu,
            (pre,),
            Work(0, pre.nbytes + act.nbytes),
            Work(0, 2 * pre.nbytes + act.nbytes),
        ),
        "grouped_mlp": operator(
            lambda x, a, b, weights: moge_ops.grouped_mlp(x, a, b, weights, routing),
            (x, w_gate_up, w_down, weights),
            layer_work(p, FORWARD),
            layer_work(p, BACKWARD),
        ),
        "shared expert (torch)": operator(
            shared_expert, (x, *shared), dense, Work(2 * dense.flops, 2 * dense.bytes)
        ),
    }


def measure_operators(session: Session, p: peers.Problem, router: str) -> None:
    """Rows for every operator of the layer on its own."""
    made, reason = session.attempt("operators", lambda: operators(p))
    place = {"router": router, "variant": peers.OURS, **p.s._asdict()}
    if reason:
        session.write({**place, "op": "operators", "note": f"FAILED: {reason}"})
        return
    calls: dict[str, tuple[Callable[[], object], Work]] = {}
    for name, operator in made.items():
        calls[f"{name}|{FORWARD}"] = (operator.run, operator.work)
        if operator.grads:
            calls[f"{name}|{BACKWARD}"] = (operator.grads, operator.grads_work)
    rows = time_rows(session, calls)
    session.write(
        *(
            {**place, "op": name.split("|")[0], "direction": name.split("|")[1], **rows[name]}
            for name in calls
        )
    )


def measure_split(session: Session, p: peers.Problem, router: str) -> None:
    """Rows for the time of each kernel in the layer, as torch's profiler sees it."""
    activity = torch.profiler.ProfilerActivity
    on_gpu = session.scale.device == "cuda"
    run, d_y, calls = peers.ours(p), torch.randn_like(p.x), 5
    place = {"op": "split", "router": router, **p.s._asdict()}
    for direction in (FORWARD, BOTH):
        call = layer_call(run, p, d_y, direction)
        call()
        session.synchronize()
        session.enter("profiler")
        with torch.profiler.profile(activities=[activity.CUDA if on_gpu else activity.CPU]) as prof:
            for _ in range(calls):
                call()
            session.synchronize()
        times: dict[str, float] = {}
        for event in prof.key_averages():
            us = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            if us > 0:
                name = event.key.split("<")[0].split("(")[0][:60]
                times[name] = times.get(name, 0.0) + us / calls / 1e3
        session.write(
            *(
                {**place, "direction": direction, "variant": name, "median_ms": f"{ms:.4g}"}
                for name, ms in times.items()
            )
        )


# ------------------------------------------------------------------------------------ the parts


def ceilings(session: Session) -> None:
    """What the card gives: copy, a large dense product, the layer's own products as dense ones."""
    s, scale = session.scale.layer, session.scale

    def product(M: int, N: int, K: int) -> tuple[Callable[[], object], Work]:
        a, b = (torch.randn(*n, device=scale.device).to(scale.dtype) for n in ((M, K), (N, K)))
        c = torch.empty(M, N, device=scale.device, dtype=scale.dtype)
        size = a.nbytes + b.nbytes + c.nbytes
        return lambda: torch.mm(a, b.T, out=c), Work(2 * M * N * K, size)

    T = scale.tokens[0]
    N = s._replace(T=T).N
    calls = {
        "dense up": product(N, 2 * s.F, s.H),
        "dense down": product(N, s.H, s.F),
        "dense dW": product(2 * s.F, s.H, N // s.E),
    }
    rows = time_rows(session, calls)
    place = {"op": "ceiling", **s._replace(T=T)._asdict()}
    session.write(*({**place, "variant": name, **columns} for name, columns in rows.items()))


def checks(session: Session) -> None:
    """Graphs, determinism, torch.compile, and the gathered kernels many times over."""
    scale = session.scale
    torch.manual_seed(0)
    p = peers.problem(scale.layer._replace(T=scale.check_tokens), scale.dtype, scale.device)
    run, d_y = peers.ours(p), torch.randn_like(p.x)
    other = peers.problem(p.s._replace(H=8, F=8), scale.dtype, scale.device, router="zipf").logits

    def layer() -> tuple[Tensor, ...]:
        y = run(*p.leaves)
        return (y.detach(), *torch.autograd.grad(y, p.leaves, d_y))

    def same(got: Any, want: Any, what: str) -> None:
        for i, (a, b) in enumerate(zip(tensors(got), tensors(want), strict=True)):
            if not torch.equal(a, b):
                far = (a.double() - b.double()).abs().max().item()
                raise AssertionError(f"{what}: result {i} differs, by {far:.3g} at most")

    def against_the_oracle() -> float:
        y, *grads = layer()
        return spot_check(p, y, tuple(grads), d_y)

    def replayed(call: Callable[[], Any], renew: Callable[[], None]) -> float:
        replay, result = session.graph(call)
        for _ in range(2):
            for tensor in tensors(result):
                tensor.detach().fill_(7)  # a replay must write everything
            replay()
            session.synchronize()
            same(result, call(), "replay")
            renew()
        return 0.0

    def new_inputs() -> None:
        with torch.no_grad():
            p.x.copy_(torch.randn_like(p.x))
            p.logits.copy_(other)  # another routing, with very full and empty experts

    def twice(call: Callable[[], Any]) -> float:
        want = [tensor.clone() for tensor in tensors(call())]
        same(call(), want, "second run")
        return 0.0

    def compiled() -> float:
        function: Any = torch.compile(run, fullgraph=True, backend=scale.compiler)
        y = function(*p.leaves)
        got = (y, *torch.autograd.grad(y, p.leaves, d_y))
        pairs = zip(("y", *GRADIENTS), got, layer(), strict=True)
        return max(agrees(a, b, what, scale.dtype) for what, a, b in pairs)

    def gathered() -> float:
        """HOPPER's asynchronous copies: a race shows as an error that moves."""
        worst = 0.0
        for seed in range(scale.repeats):
            torch.manual_seed(seed)
            x = torch.randn_like(p.x)
            gating = moge_ops.grouped_gate(p.logits.detach(), p.s.G, p.s.k)
            routing = moge_ops.route(gating.experts, p.s.E, num_groups=p.s.G)
            rows = moge_ops.permute(x, routing)
            want = torch.ops.moge_ops.grouped_gemm(rows, p.w_gate_up.detach(), routing.offsets)
            args = (x, p.w_gate_up.detach(), p.w_down.detach(), gating.weights.detach(), *routing)
            first = torch.ops.moge_ops.grouped_mlp(*args, "output", True)
            worst = max(worst, agrees(first[1], want, f"pre, seed {seed}", scale.dtype, 1.0))
            for again in range(10):
                got = torch.ops.moge_ops.grouped_mlp(*args, "output", True)
                same(got, first, f"seed {seed}, run {again}")
        return worst

    def gathered_backward() -> float:
        want = [tensor.clone() for tensor in layer()]
        for again in range(5 * scale.repeats):
            same(layer(), want, f"run {again}")
        return 0.0

    found: list[tuple[str, Callable[[], float]]] = [
        ("layer against the oracle", against_the_oracle),
        ("layer twice", lambda: twice(layer)),
        ("layer in a graph", lambda: replayed(layer, new_inputs)),
    ]
    kept = p._replace(x=copy.deepcopy(p.x), logits=copy.deepcopy(p.logits))  # p's are renewed
    made, reason = session.attempt("operators", lambda: operators(kept))
    if reason:
        session.write({"op": "operators", "variant": peers.OURS, "note": f"FAILED: {reason}"})
    for name, operator in (made or {}).items():
        for direction, call in ((FORWARD, operator.run), (BOTH, operator.both)):
            if call:
                found.append((f"{name} {direction} twice", functools.partial(twice, call)))
                graph = functools.partial(replayed, call, lambda: None)
                found.append((f"{name} {direction} in a graph", graph))
    found += [
        ("gathered kernels, many times", gathered),
        ("gathered kernels, backward many times", gathered_backward),
        ("torch.compile", compiled),
    ]
    calls = dict(found)
    for name in session.points(calls):
        session.check(name, calls[name])


def small(session: Session) -> None:
    """Every operator, forward and backward, on small odd sizes: what compute-sanitizer watches."""
    sizes = [
        Sizes(1, H=16, E=4, G=2, k=1, F=8),
        Sizes(37, H=72, E=12, G=3, k=2, F=40),
        Sizes(130, H=256, E=16, G=8, k=1, F=136),
    ]
    torch.manual_seed(0)
    for dtype in (torch.bfloat16, torch.float32):
        for s in sizes:
            p = peers.problem(s, dtype, session.scale.device)
            for operator in operators(p).values():
                operator.run()
                if operator.grads:
                    operator.grads()
            loss = moge_ops.load_balance_loss(p.logits, p.ids.int())
            torch.autograd.grad(loss, p.logits)
            y = peers.ours(p)(*p.leaves)
            torch.autograd.grad(y, p.leaves, torch.randn_like(y))
            session.synchronize()
    print(f"{len(sizes)} sizes ran", flush=True)


class Reports:
    """A pytest plugin that keeps count, and writes a row for every failure as it happens."""

    def __init__(self, session: Session) -> None:
        self.session, self.counts = session, {"passed": 0, "failed": 0, "skipped": 0}

    def pytest_configure(self, config: Any) -> None:
        config.addinivalue_line("markers", "xdist_group: of pytest-xdist, which may be missing")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
            self.session.enter(", ".join(f"{n} {what}" for what, n in self.counts.items()))
        self.pytest_collectreport(report)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            lines = str(crash.message if crash else report.longrepr).strip().splitlines() or [""]
            note = f"FAILED: {lines[0][:200]}"
            self.session.write({"op": report.nodeid, "variant": peers.OURS, "note": note})


def tests(session: Session) -> None:
    """The operators' tests on the device."""
    import pytest

    root = Path(__file__).resolve().parents[1]
    reports = Reports(session)
    workers: list[str] = []
    if not session.smoke and importlib.util.find_spec("xdist"):
        workers = ["-n", str(min(8, os.cpu_count() or 1)), "--dist", "loadgroup"]
    where, which = session.scale.tests
    chosen = [str(root / where), "-k", which, "-p", "no:cacheprovider", *workers]
    chosen += ["--continue-on-collection-errors"]
    code = pytest.main(
        ["-q", "-c", str(root / "pyproject.toml"), "--rootdir", str(root), *chosen],
        plugins=[reports],
    )
    counts = ", ".join(f"{n} {what}" for what, n in reports.counts.items())
    note = counts if code == 0 else f"FAILED: pytest's exit code {int(code)}; {counts}"
    session.write({"op": "pytest", "variant": peers.OURS, "note": note})


def tune(session: Session) -> None:
    """Compiles a share of the peers' configurations, so that the timed parts find them on disk.

    On few experts: their number is in no key. Nothing is timed: all cores compile meanwhile.
    """
    share, shares = map(int, session.part.split("-")[1:])
    scale = session.scale
    shapes = [scale.layer, *scale.sonic]
    for name in session.points(f"{v} {i}" for i in range(len(shapes)) for v in peers.PACKAGES):
        variant, i = name.rsplit(" ", 1)
        if session.given_up(variant):
            continue
        s = shapes[int(i)]
        T = min(512, 16 * scale.few)
        p = peers.problem(s._replace(T=T, E=min(s.E, 16)), scale.dtype, scale.device)

        def compile_share(variant: str = variant, p: peers.Problem = p) -> None:
            run = peers.GPU_VARIANTS[variant](p)
            quick_tuning(session, variant, forget=False)
            for kernel in peers.tuned_kernels(variant):
                chosen = _configs(kernel)
                kernel.configs = chosen[share::shares] or chosen[:1]
                kernel.do_bench = lambda call, quantiles: (call(), [0.0] * len(quantiles))[1]
            y = run(*p.leaves)
            torch.autograd.grad(y, p.leaves, torch.randn_like(y))

        _, reason = session.attempt(variant, compile_share)
        print(f"{variant} {s}: {reason or 'compiled'}", flush=True)


def tunegate(session: Session) -> None:
    """The same for torch.compile of the gate."""
    for E in session.scale.gate_experts:
        compiled_gate(session.scale, E)
        torch._dynamo.reset()


@functools.cache
def _configs(kernel: Any) -> list[Any]:
    """All configurations of a kernel, as they were at the first call."""
    return list(kernel.configs)


def layer(session: Session) -> None:
    """Pangu's layer: every T and router, peers, operators, kernels."""
    scale = session.scale
    many = [T for T in scale.tokens if scale.few < T]
    few = [T for T in scale.tokens if scale.few >= T]
    points = {
        f"{router} T={T}": (router, T, group[0] == T and router == "uniform")
        for group in (many, few)
        for router in peers.ROUTERS
        for T in group
    }
    for name in session.points(points):
        router, T, forget = points[name]
        torch.manual_seed(0)
        p = peers.problem(scale.layer._replace(T=T), scale.dtype, scale.device, router=router)
        measure_layer(session, p, router, (FORWARD, BOTH), forget=forget)
        if router == "uniform":
            measure_operators(session, p, router)
            session.free()
            _, reason = session.attempt(
                "profiler", functools.partial(measure_split, session, p, router)
            )
            if reason:
                print(f"{name}: no split: {reason}", flush=True)
        del p
        session.free()
        print(name, flush=True)


def sonic(session: Session) -> None:
    """The two shapes of SonicMoE's figure 14, plain top-k."""
    scale = session.scale
    points = {f"T={s.T} H={s.H} F={s.F}": s for s in scale.sonic}
    for name in session.points(points):
        torch.manual_seed(0)
        p = peers.problem(points[name], scale.dtype, scale.device)
        measure_layer(session, p, "uniform", (FORWARD, BOTH, BACKWARD), forget=False)
        del p
        session.free()
        print(name, flush=True)


def torch_gate(logits: Tensor, G: int) -> tuple[Tensor, Tensor, Tensor]:
    """The gate with one expert per group in eager torch, as serving engines write it."""
    T, E = logits.shape
    weights, local = logits.softmax(-1, dtype=torch.float32).view(T, G, E // G).max(-1)
    ids = local + torch.arange(0, E, E // G, device=logits.device)
    ones = torch.ones(T * G, dtype=torch.int32, device=logits.device)
    counts = torch.zeros(E, dtype=torch.int32, device=logits.device)
    return weights, ids.int(), counts.scatter_add_(0, ids.flatten(), ones)


def compiled_gate(scale: Scale, E: int) -> Callable[[Tensor], Any]:
    """Compiled for E, any T."""
    function: Any = torch.compile(
        lambda logits: torch_gate(logits, scale.layer.G), dynamic=True, backend=scale.compiler
    )
    for T in (1, 64):  # T = 1 is always compiled for itself
        function(spaced_logits(T, E, scale.dtype).to(scale.device))
    return lambda logits: function(logits)


def gate(session: Session) -> None:
    """The gate against eager torch and torch.compile, in graphs of many calls."""
    scale = session.scale
    points = {f"E={E} T={T}": (E, T) for E in scale.gate_experts for T in scale.gate_tokens}
    compiled: dict[int, Callable[[Tensor], Any]] = {}
    for name in session.points(points):
        E, T = points[name]
        s = Sizes(T, H=0, E=E, G=scale.layer.G, k=1, F=0)
        place = {"op": "grouped_gate", "router": "uniform", "direction": FORWARD, **s._asdict()}
        if E not in compiled:
            torch._dynamo.reset()  # which limits how often one function is compiled
            made, reason = session.attempt(
                "torch.compile", functools.partial(compiled_gate, scale, E)
            )
            compiled[E] = made or (lambda logits, reason=reason: _raise(reason))
        torch.manual_seed(0)
        inputs = [spaced_logits(T, E, scale.dtype).to(scale.device) for _ in range(GATE_CALLS)]
        variants: dict[str, Callable[[Tensor], Any]] = {
            peers.OURS: lambda logits, s=s: moge_ops.grouped_gate(logits, s.G, 1),
            "torch eager": lambda logits, s=s: torch_gate(logits, s.G),
            "torch.compile": compiled[E],
        }
        work = Work(0, GATE_CALLS * (inputs[0].nbytes + 8 * s.N + 4 * E))
        calls: dict[str, tuple[Callable[[], object], Work]] = {}
        missing = []
        want = torch_gate(inputs[0].double(), s.G)

        def ready(
            run: Callable[[Tensor], Any], inputs: list[Tensor] = inputs, want: Any = want
        ) -> Any:
            weights, ids, counts = run(inputs[0])
            if not (torch.equal(ids, want[1]) and torch.equal(counts, want[2])):
                raise AssertionError("experts or counts differ")
            agrees(weights, want[0].double(), "weights", torch.float32)
            return session.graph(lambda: [run(logits) for logits in inputs])[0]

        with torch.no_grad():
            for variant, run in variants.items():
                replay, reason = session.attempt(variant, functools.partial(ready, run))
                if reason:
                    word = "FAILED" if variant == peers.OURS else "not run"
                    missing.append({**place, "variant": variant, "note": f"{word}: {reason}"})
                else:
                    calls[variant] = (replay, work)
            rows = time_rows(session, calls)
        for columns in rows.values():  # of one call
            for column in ("median_ms", "q20_ms", "q80_ms"):
                columns[column] = f"{float(columns[column]) / GATE_CALLS:.4g}"
            columns["bytes"] //= GATE_CALLS
        note = f"one of {GATE_CALLS} calls in a graph"
        session.write(*({**place, "variant": v, **rows[v], "note": note} for v in calls), *missing)


def _raise(reason: str) -> None:
    raise RuntimeError(reason)


def memory(session: Session) -> None:
    """What a forward saves for its backward, and the most that both hold, beyond the inputs."""
    scale = session.scale
    on_gpu = scale.device == "cuda"
    torch.manual_seed(0)
    s = scale.layer._replace(T=scale.memory_tokens)
    p = peers.problem(s, scale.dtype, scale.device)
    d_y = torch.randn_like(p.x)
    size = scale.dtype.itemsize
    # x, the pre-activation, both maps of the routing, weights and ids of the gate, its logits
    expected = (s.T * s.H + s.N * 2 * s.F + s.T * s.E) * size + 4 * 4 * s.N

    def measured(variant: str) -> dict[str, Any]:
        run = peers.GPU_VARIANTS[variant](p)
        quick_tuning(session, variant, forget=False)
        torch.autograd.grad(run(*p.leaves), p.leaves, d_y)  # tuning allocates, too
        session.free()
        weights = {w.untyped_storage().data_ptr() for w in (p.w_gate_up, p.w_down)}
        saved: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        before = 0
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = run(*p.leaves)
        torch.autograd.grad(y, p.leaves, d_y)
        peak = torch.cuda.max_memory_allocated() - before if on_gpu else 0
        kept = sum(n for place, n in saved.items() if place not in weights)
        return {"saved_bytes": kept, "peak_bytes": peak}

    place = {"op": "memory", "router": "uniform", "direction": BOTH, **s._asdict()}
    for variant in session.points(peers.GPU_VARIANTS):
        found, reason = None, peers.too_large(variant, s, scale.dtype)
        if not reason:
            found, reason = session.attempt(variant, functools.partial(measured, variant))
            reason = reason and f"{'FAILED' if variant == peers.OURS else 'not run'}: {reason}"
        session.write(
            {**place, "variant": variant, "bytes": expected, "note": reason} | (found or {})
        )
        session.free()


def versions(session: Session) -> None:
    """Says what this machine has; anything that a part needs and lacks raises here."""
    for name, value in session.shared.items():
        print(f"{name} {value}")
    if session.scale.device == "cuda":
        torch.zeros(1, device="cuda").item()


PARTS: dict[str, Callable[[Session], None]] = {
    part.__name__: part
    for part in (
        *(versions, ceilings, tests, checks, small, tune, tunegate),
        *(layer, sonic, gate, memory),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("part", help=f"{', '.join(PARTS)}; tune-0-4 is the first of four shares")
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of this run's notes")
    parser.add_argument("--date", required=True)
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    session = Session(args.part, args.csv, args.work, args.date, smoke=args.smoke)
    PARTS[args.part.partition("-")[0]](session)


if __name__ == "__main__":
    main()
