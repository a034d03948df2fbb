"""The parts of ``make gpu`` that check: the tests, and what only a GPU can get wrong."""

import copy
import dataclasses
import functools
import hashlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import torch
import torch.nn.functional as F
from bench_grouped_gemm import products
from gpu_session import Session, tensors
from harness import agrees
from problem import (
    BACKWARD,
    BOTH,
    FORWARD,
    OPERATORS,
    ROUTERS,
    Operator,
    Problem,
    Work,
    problem,
)
from torch import Tensor

import moge_ops
from moge_ops.reference.grouped_gate import grouped_gate as reference_gate
from moge_ops.reference.grouped_mlp import grouped_mlp as reference_mlp
from moge_ops.reference.route import route as reference_route
from moge_ops.testing import Sizes

SHARED = "shared expert (torch)"
CHAIN = 3.0  # slack of the whole layer, which is several operators, against the oracle


def spot_check(p: Problem, found: dict[str, Tensor], d_y: Tensor) -> float:
    """Compares some tokens and some experts of a layer of any size with the float64 oracle.

    ``y``, ``d_x`` and ``d_logits`` of 32 tokens, summed over slices of the experts; ``d_w`` of the
    first and of the busiest expert over all of their tokens.
    """
    tokens = torch.linspace(0, p.s.T - 1, min(p.s.T, 32), device=p.x.device).long()
    x = p.x.detach()[tokens].double().requires_grad_()
    logits = p.logits.detach()[tokens].double().requires_grad_()
    want = {"y": torch.zeros_like(x), "d_x": torch.zeros_like(x)}
    want["d_logits"] = torch.zeros_like(logits)
    for first in range(0, p.s.E, 8):
        part = slice(first, min(first + 8, p.s.E))
        local = p.ids[tokens] - first  # ids outside of the slice are dropped slots
        count = part.stop - first
        weights = logits.softmax(-1).gather(-1, p.ids[tokens])
        routing = reference_route(local.where((local >= 0) & (local < count), -1).int(), count)
        w_gate_up, w_down = (w.detach()[part].double() for w in (p.w_gate_up, p.w_down))
        out = reference_mlp(x, w_gate_up, w_down, weights, *routing)
        d_x, d_logits = torch.autograd.grad(out, (x, logits), d_y[tokens].double())
        for name, value in {"y": out.detach(), "d_x": d_x, "d_logits": d_logits}.items():
            want[name] += value
    worst = agrees({name: found[name][tokens] for name in want}, want, CHAIN)

    counts = torch.bincount(p.ids.flatten(), minlength=p.s.E)
    for e in {0, int(counts.argmax())}:
        rows = (p.ids == e).any(-1)
        w = [w.detach()[e : e + 1].double().requires_grad_() for w in (p.w_gate_up, p.w_down)]
        weights = p.logits.detach()[rows].double().softmax(-1)[:, e : e + 1]
        alone = torch.zeros_like(weights, dtype=torch.int32)
        out = reference_mlp(p.x.detach()[rows].double(), *w, weights, *reference_route(alone, 1))
        d_w = torch.autograd.grad(out, w, d_y[rows].double())
        for name, d in zip(("d_w_gate_up", "d_w_down"), d_w, strict=True):
            what, got = f"{name}[{e}]", found[name][e]
            if len(alone):
                worst = max(worst, agrees({what: got}, {what: d[0]}, CHAIN))
            elif got.any():
                raise AssertionError(f"{what} of an expert without rows is not zero")
    return worst


def operators(p: Problem) -> dict[str, Operator]:
    """Every operator, the products of the backward pass on their own, and the shared expert."""
    s, x = p.s, p.x

    def shared_expert(x: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
        return F.linear(moge_ops.swiglu(F.linear(x, w_gate_up)), w_down)

    shared = {
        "x": x,
        "w_gate_up": (torch.randn(8 * s.F, s.H, device=x.device) * s.H**-0.5).to(x.dtype),
        "w_down": (torch.randn(s.H, 4 * s.F, device=x.device) * (4 * s.F) ** -0.5).to(x.dtype),
    }
    wide = 3 * 4 * s.F * s.H  # parameters of the shared expert
    dense = Work(2 * s.T * wide, wide * x.element_size() + 2 * x.nbytes)
    twice = Work(2 * dense.flops, 2 * dense.bytes)
    found = {name: p.operator(name) for name in OPERATORS if name != "grouped_gemm"}
    found |= {f"grouped_gemm {name}": product for name, product in products(p).items()}
    found[SHARED] = Operator(shared_expert, shared, dense, twice)
    for operator in found.values():
        if operator.inputs:
            _ = operator.d_out  # runs the forward here, where a failure has a name
    return found


def made_operators(session: Session, p: Problem, **place: Any) -> dict[str, Operator]:
    """The operators; none, and a row that says why, if they cannot be made."""
    found, reason = session.attempt("operators", lambda: operators(p))
    if reason:
        note = f"FAILED: {reason}"
        session.write({**place, "op": "operators", "variant": peers.OURS, "note": note})
    return found or {}


def same(got: Any, want: Any, what: str) -> None:
    """Bit for bit."""
    for i, (a, b) in enumerate(zip(tensors(got), tensors(want), strict=True)):
        if not torch.equal(a, b):
            far = (a.double() - b.double()).abs().max().item()
            raise AssertionError(f"{what}: result {i} differs, by {far:.3g} at most")


def twice(call: Callable[[], Any]) -> float:
    want = [tensor.clone() for tensor in tensors(call())]
    same(call(), want, "second run")
    return 0.0


def replayed(
    session: Session, call: Callable[[], Any], renew: Callable[[], None] = lambda: None
) -> float:
    """A graph gives what a call gives, also after ``renew`` has changed the inputs in place."""
    replay, result = session.graph(call)
    for _ in range(2):
        for tensor in tensors(result):
            tensor.detach().fill_(7)  # a replay must write everything
        replay()
        session.synchronize()
        same(result, call(), "replay")
        renew()
    return 0.0


def seeded(session: Session) -> tuple[Problem, Tensor, Operator]:
    """A layer with its ``d_y``, the same in every process."""
    scale = session.scale
    torch.manual_seed(0)
    p = problem(scale.layer._replace(T=scale.check_tokens), scale.dtype, scale.device)
    d_y = torch.randn_like(p.x)
    return p, d_y, peers.layer(p, peers.OURS, d_y)


def fingerprint(results: dict[str, Tensor]) -> str:
    """A digest of all bits of all results."""
    found = hashlib.sha256()
    for tensor in results.values():
        found.update(tensor.detach().contiguous().view(torch.uint8).cpu().numpy())
    return found.hexdigest()


def digest(session: Session) -> None:
    """Prints the fingerprint of the layer: the same in every process."""
    print(fingerprint(seeded(session)[2].results()))


def filled_with_nan(layer: Operator) -> float:
    """What is allocated starts as NaN: an element that nobody wrote shows."""
    want = layer.results()
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # with it torch.empty fills, see
    # torch.utils.deterministic.fill_uninitialized_memory
    try:
        filled = torch.empty(4, device=layer.d_out.device)
        if not filled.isnan().all():
            raise AssertionError(f"new memory should be NaN in this mode, got {filled.tolist()}")
        got = layer.results()
    finally:
        torch.use_deterministic_algorithms(before)
    same(list(got.values()), list(want.values()), "on memory filled with NaN")
    return 0.0


def most_tokens(session: Session) -> Sizes:
    """Of the largest check; half of the tokens as often as a smaller card needs it."""
    s = session.scale.layer._replace(T=session.scale.most_tokens)
    room = 0.4 * torch.cuda.mem_get_info()[1] if session.scale.device == "cuda" else 2.0**40
    # [N, H] and [N, 2F] thrice, and the weights with their gradients, 2 bytes each
    while s.T > 1 and room < 6 * s.N * (s.H + 2 * s.F) + 12 * s.E * s.F * s.H:
        s = s._replace(T=s.T // 2)
    return s


def most_ids(session: Session) -> float:
    """Experts and maps of the most tokens, each id as the oracle has it, under both routers."""
    s = session.scale.layer._replace(T=session.scale.most_tokens)
    for router in ROUTERS:
        logits = ROUTERS[router](s.T, s.E, session.scale.dtype).to(session.scale.device)
        gating = moge_ops.grouped_gate(logits, s.G, s.k)
        _, ids, counts = reference_gate(logits, s.G, s.k)
        same([gating.experts, gating.counts], [ids.int(), counts.int()], f"{router}, gate")
        routing = moge_ops.route(gating.experts, s.E, num_groups=s.G)
        want = reference_route(ids, s.E, num_groups=s.G)
        same(tuple(routing), tuple(want), f"{router}, route")
    return 0.0


def most_rows(session: Session) -> float:
    """The layer of the most tokens, whose rows pass 2^31 elements, against the oracle."""
    torch.manual_seed(0)
    s = most_tokens(session)
    if session.scale.device == "cuda" and s.N * s.H <= 2**31:
        raise MemoryError(f"a card of 80 GB or more passes 2^31 elements, this one has T = {s.T}")
    p = problem(s, session.scale.dtype, session.scale.device)
    d_y = torch.randn_like(p.x)
    return spot_check(p, peers.layer(p, peers.OURS, d_y).results(), d_y)


def checks(session: Session) -> None:
    """Graphs, determinism, torch.compile, and the gathered kernels many times over."""
    scale = session.scale
    p, d_y, layer = seeded(session)
    other = problem(p.s._replace(H=8, F=8), scale.dtype, scale.device, router="zipf").logits

    def run() -> list[Tensor]:
        return list(layer.results().values())

    def new_inputs() -> None:
        with torch.no_grad():
            p.x.copy_(torch.randn_like(p.x))
            p.logits.copy_(other)  # another routing, with very full and empty experts

    def elsewhere() -> float:
        here, there = fingerprint(layer.results()), session.another("digest")
        if here != there:
            raise AssertionError(f"other bits in another process: {here} here, {there} there")
        return 0.0

    def compiled() -> float:
        twin = peers.layer(p, peers.OURS, d_y)
        twin.run = torch.compile(twin.run, fullgraph=True, backend=scale.compiler)
        return agrees(twin.results(), layer.results(), CHAIN)

    def gathered() -> float:
        """Loads of gathered rows are asynchronous: a race shows as a result that changes."""
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
            what = f"pre, seed {seed}"
            worst = max(worst, agrees({what: first[1]}, {what: want}, 1.0))
            for again in range(10):
                got = torch.ops.moge_ops.grouped_mlp(*args, "output", True)
                same(got, first, f"seed {seed}, run {again}")
        return worst

    def gathered_backward() -> float:
        want = [tensor.clone() for tensor in run()]
        for again in range(5 * scale.repeats):
            same(run(), want, f"run {again}")
        return 0.0

    calls: dict[str, Callable[[], float]] = {
        "layer against the oracle": lambda: spot_check(p, layer.results(), d_y),
        "layer twice": lambda: twice(run),
        "layer in another process": elsewhere,
        "layer on memory filled with NaN": lambda: filled_with_nan(layer),
        "gate and route of the most tokens": lambda: most_ids(session),
        "layer of the most tokens": lambda: most_rows(session),
        "layer in a graph": lambda: replayed(session, run, new_inputs),
    }
    kept = dataclasses.replace(p, x=copy.deepcopy(p.x), logits=copy.deepcopy(p.logits))
    for name, operator in made_operators(session, kept).items():
        # its graph keeps nodes of the leaves alive, which hold the stream that they were made on: a
        # backward pass that is captured would wait for that one, which CUDA refuses
        vars(operator).pop("out", None)
        for direction, (call, _) in operator.calls().items():
            if direction != BACKWARD:  # a graph cannot hold it without the forward
                what = f"{name} {direction}"
                calls[f"{what} twice"] = functools.partial(twice, call)
                calls[f"{what} in a graph"] = functools.partial(replayed, session, call)
    calls |= {
        "gathered kernels, many times": gathered,
        "gathered kernels, backward many times": gathered_backward,
        "torch.compile": compiled,
    }
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
            p = problem(s, dtype, session.scale.device)
            for name, operator in operators(p).items():
                if name == SHARED:  # kernels of cuBLAS, which are not ours to check
                    continue
                calls = operator.calls()
                for direction in (FORWARD, BACKWARD):
                    if direction in calls:
                        calls[direction][0]()
            if p.x.is_cuda:  # elsewhere they are refused
                wild = torch.tensor([-9, s.N + 99] * s.E)[: s.E + 1].int().to(p.x.device)
                moge_ops.grouped_gemm(p.rows, p.w_gate_up.detach(), wild)
            peers.layer(p, peers.OURS, torch.randn_like(p.x)).calls()[BOTH][0]()
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


def files(where: Path) -> list[Path]:
    """The files of a folder whose text has a test with a device, and one that chooses its device.

    Each worker of pytest reads all files that it is given, and a file that needs what is not here
    would count as a failure.
    """
    if where.is_file():
        return [where]
    taking = [path for path in where.glob("test_*.py") if "device: str" in path.read_text()]
    return sorted({*taking, *where.glob("test_triton_quantized.py")}) or [where]


def tests(session: Session) -> None:
    """The operators' tests on the device."""
    import pytest

    root = Path(__file__).resolve().parents[2]
    reports = Reports(session)
    where, which = session.scale.tests
    options = ["-q", "-c", str(root / "pyproject.toml"), "--rootdir", str(root)]
    options += [*map(str, files(root / where)), "-k", which, "-p", "no:cacheprovider"]
    options += ["--continue-on-collection-errors"]
    if not session.smoke and importlib.util.find_spec("xdist"):
        options += ["-n", str(min(8, os.cpu_count() or 1)), "--dist", "loadgroup"]
    code = pytest.main(options, plugins=[reports])
    counts = ", ".join(f"{n} {what}" for what, n in reports.counts.items())
    note = counts if code == 0 else f"FAILED: pytest's exit code {int(code)}; {counts}"
    session.write({"op": "pytest", "variant": peers.OURS, "note": note})
