"""The parts that measure; gpu.py starts each in a process of its own.

Every finding is a row that is in the CSV before the next one is made. A part that was started again
after a crash goes on with the points that it has not finished, without the peer that crashed.
"""

import argparse
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import peers
import torch
from gpu_checks import checks, made_operators, small, spot_check, tests
from gpu_session import Scale, Session
from harness import agrees
from problem import BACKWARD, BOTH, FORWARD, ROUTERS, Operator, Problem, Work, problem
from torch import Tensor

import moge_ops
from moge_ops.testing import Sizes, assert_matches, spaced_logits

GATE_CALLS = 20  # in one graph, each on other logits


def why_not(variant: str, reason: str) -> str:
    """The note of a row without figures: ours must run, a peer need not."""
    return f"{'FAILED' if variant == peers.OURS else 'not run'}: {reason}"


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


def checked_layers(
    session: Session, p: Problem, *, forget: bool
) -> tuple[dict[str, Operator], dict[str, float], dict[str, str]]:
    """Every variant that is right here, its error, and why the others are left out.

    Ours is compared with the oracle, peers with ours.
    """
    layers: dict[str, Operator] = {}
    errors: dict[str, float] = {}
    d_y = torch.randn_like(p.x)
    ours = peers.layer(p, peers.OURS, d_y)

    def first() -> dict[str, Tensor]:
        results = ours.results()
        errors[peers.OURS] = spot_check(p, results, d_y)
        return results

    want, reason = session.attempt(peers.OURS, first)
    if reason:
        return {}, {}, {peers.OURS: why_not(peers.OURS, reason)}
    layers[peers.OURS] = ours

    def compared(name: str) -> tuple[Operator, float]:
        layer = peers.layer(p, name, d_y)
        quick_tuning(session, name, forget=forget)
        return layer, agrees(layer.results(), want, 4.0)

    reasons = {}
    for name in [name for name in peers.GPU_VARIANTS if name != peers.OURS]:
        if why := session.given_up(name) or peers.too_large(name, p.s, p.dtype):
            reasons[name] = why
            continue
        found, reason = session.attempt(name, functools.partial(compared, name))
        if reason:
            reasons[name] = why_not(name, reason)
        else:
            layers[name], errors[name] = found
        session.free()
    return layers, errors, reasons


def measure_layer(
    session: Session, p: Problem, router: str, directions: Iterable[str], *, forget: bool
) -> None:
    """Rows for the whole layer at one point, all variants."""
    layers, errors, reasons = checked_layers(session, p, forget=forget)
    for direction in directions:
        place = {"op": "moe", "router": router, **p.s._asdict(), "direction": direction}
        notes, calls = dict(reasons), {}

        def prepared(layer: Operator, direction: str = direction) -> Any:
            if direction == BACKWARD:
                _ = layer.out  # the forward that it needs
            return layer.calls()[direction]

        for name, layer in layers.items():
            call, reason = session.attempt(name, functools.partial(prepared, layer))
            if reason:
                notes[name] = why_not(name, reason)
            else:
                calls[name] = call
        rows = session.timed(calls) if layers else {}
        for name, columns in rows.items():
            kind = {"op": "moe" if name in calls else "ceiling", "variant": name}
            error = {"rms_error": f"{errors[name]:.3g}"} if name in errors else {}
            session.write({**place, **kind, **error, **columns})
        session.write(*({**place, "variant": name, "note": why} for name, why in notes.items()))
        session.free()


def measure_operators(session: Session, p: Problem, router: str) -> None:
    """Rows for every operator of the layer on its own."""
    place = {"router": router, **p.s._asdict()}
    calls = {
        (name, direction): call
        for name, operator in made_operators(session, p, **place).items()
        for direction, call in operator.calls().items()
        if direction != BOTH
    }
    rows = session.timed({"|".join(key): call for key, call in calls.items()}) if calls else {}
    for op, direction in calls:
        columns = rows[f"{op}|{direction}"]
        session.write({**place, "variant": peers.OURS, "op": op, "direction": direction, **columns})


def measure_split(session: Session, p: Problem, router: str) -> None:
    """Rows for the time of each kernel in the layer, as torch's profiler sees it."""
    activity = torch.profiler.ProfilerActivity
    on_gpu, repeats = session.scale.device == "cuda", 5
    layer = peers.layer(p, peers.OURS, torch.randn_like(p.x))
    for direction in (FORWARD, BOTH):
        call, _ = layer.calls()[direction]
        call()
        session.synchronize()
        session.enter("profiler")
        with torch.profiler.profile(activities=[activity.CUDA if on_gpu else activity.CPU]) as prof:
            for _ in range(repeats):
                call()
            session.synchronize()
        times: dict[str, float] = {}
        for event in prof.key_averages():
            us = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            if us > 0:
                name = event.key.split("<")[0].split("(")[0][:60]
                times[name] = times.get(name, 0.0) + us / repeats / 1e3
        place = {"op": "split", "router": router, **p.s._asdict(), "direction": direction}
        session.write(
            *({**place, "variant": name, "median_ms": f"{ms:.4g}"} for name, ms in times.items())
        )


def ceilings(session: Session) -> None:
    """What the card gives: copy, a large dense product, the layer's own products as dense ones."""
    scale = session.scale
    s = scale.layer._replace(T=scale.tokens[0])

    def product(M: int, C: int, R: int) -> tuple[Callable[[], object], Work]:
        a, b = (torch.randn(n, R, device=scale.device).to(scale.dtype) for n in (M, C))
        c = torch.empty(M, C, device=scale.device, dtype=scale.dtype)
        size = a.nbytes + b.nbytes + c.nbytes
        return lambda: torch.mm(a, b.T, out=c), Work(2 * M * C * R, size)

    calls = {
        "dense up": product(s.N, 2 * s.F, s.H),
        "dense down": product(s.N, s.H, s.F),
        "dense dW": product(2 * s.F, s.H, s.N // s.E),
    }
    place = {"op": "ceiling", **s._asdict()}
    rows = session.timed(calls).items()
    session.write(*({**place, "variant": name, **columns} for name, columns in rows))


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
        p = problem(s._replace(T=T, E=min(s.E, 16)), scale.dtype, scale.device)

        def compile_share(variant: str = variant, p: Problem = p) -> None:
            layer = peers.layer(p, variant, torch.randn_like(p.x))
            quick_tuning(session, variant, forget=False)
            for kernel in peers.tuned_kernels(variant):
                chosen = _configs(kernel)
                kernel.configs = chosen[share::shares] or chosen[:1]
                kernel.do_bench = lambda call, quantiles: (call(), [0.0] * len(quantiles))[1]
            layer.results()

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
        for router in ROUTERS
        for T in group
    }
    for name in session.points(points):
        router, T, forget = points[name]
        torch.manual_seed(0)
        p = problem(scale.layer._replace(T=T), scale.dtype, scale.device, router=router)
        measure_layer(session, p, router, (FORWARD, BOTH), forget=forget)
        if router == "uniform":
            measure_operators(session, p, router)
            session.free()
            split = functools.partial(measure_split, session, p, router)
            _, reason = session.attempt("profiler", split)
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
        p = problem(points[name], scale.dtype, scale.device)
        measure_layer(session, p, "uniform", (FORWARD, BOTH, BACKWARD), forget=False)
        del p
        session.free()
        print(name, flush=True)


def torch_gate(logits: Tensor, G: int) -> tuple[Tensor, Tensor, Tensor]:
    """The gate with one expert per group in eager torch, as serving engines write it."""
    T, E = logits.shape
    P = E // G
    weights, local = logits.softmax(-1, dtype=torch.float32).view(T, G, P).max(-1)
    ids = local + torch.arange(0, E, P, device=logits.device)
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
    compiled: dict[int, tuple[Any, str]] = {}  # E -> function, or why there is none
    for name in session.points(points):
        E, T = points[name]
        s = Sizes(T, H=0, E=E, G=scale.layer.G, k=1, F=0)
        if E not in compiled:
            torch._dynamo.reset()  # which limits how often one function is compiled
            make = functools.partial(compiled_gate, scale, E)
            compiled[E] = session.attempt("torch.compile", make)
        torch.manual_seed(0)
        inputs = [spaced_logits(T, E, scale.dtype).to(scale.device) for _ in range(GATE_CALLS)]
        measure_gate(session, s, inputs, *compiled[E])


def measure_gate(
    session: Session, s: Sizes, inputs: list[Tensor], compiled: Any, reason: str
) -> None:
    """Rows of one point, each figure that of one call; ``reason``: why ``compiled`` is None."""
    want = torch_gate(inputs[0].double(), s.G)
    variants: dict[str, Callable[[Tensor], Any]] = {
        peers.OURS: lambda logits: moge_ops.grouped_gate(logits, s.G, 1),
        "torch eager": lambda logits: torch_gate(logits, s.G),
        "torch.compile": compiled,
    }

    def ready(run: Callable[[Tensor], Any]) -> Any:
        if run is None:
            raise RuntimeError(reason)
        weights, ids, counts = run(inputs[0])
        if not (torch.equal(ids, want[1]) and torch.equal(counts, want[2])):
            raise AssertionError("experts or counts differ")
        assert_matches(weights, want[0].double(), "weights", lines=True, slack=3.0)
        return session.graph(lambda: [run(logits) for logits in inputs])[0]

    place = {"op": "grouped_gate", "router": "uniform", "direction": FORWARD, **s._asdict()}
    none = inputs[0].new_empty(0)
    one = Problem(s, none, none, none, inputs[0]).operator("grouped_gate").work
    work = Work(0, GATE_CALLS * one.bytes)
    calls: dict[str, tuple[Callable[[], object], Work]] = {}
    missing = []
    with torch.no_grad():
        for variant, run in variants.items():
            replay, why = session.attempt(variant, functools.partial(ready, run))
            if why:
                missing.append({**place, "variant": variant, "note": why_not(variant, why)})
            else:
                calls[variant] = (replay, work)
        rows = session.timed(calls)
    for columns in rows.values():
        for column in ("median_ms", "q20_ms", "q80_ms"):
            columns[column] = f"{float(columns[column]) / GATE_CALLS:.4g}"
        columns["bytes"] //= GATE_CALLS
    note = f"one of {GATE_CALLS} calls in a graph"
    session.write(*({**place, "variant": v, **rows[v], "note": note} for v in calls), *missing)


def memory(session: Session) -> None:
    """What a forward saves for its backward, and the most that both hold, beyond the inputs."""
    scale = session.scale
    on_gpu = scale.device == "cuda"
    torch.manual_seed(0)
    s = scale.layer._replace(T=scale.memory_tokens)
    p = problem(s, scale.dtype, scale.device)
    d_y = torch.randn_like(p.x)
    # x, the pre-activation, both maps of the routing, weights and ids of the gate, its logits
    expected = (s.T * s.H + s.N * 2 * s.F + s.T * s.E) * scale.dtype.itemsize + 4 * 4 * s.N

    def measured(variant: str) -> dict[str, Any]:
        layer = peers.layer(p, variant, d_y)
        quick_tuning(session, variant, forget=False)
        layer.both()  # tuning allocates, too
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
            y = layer.run(*layer.leaves)
        torch.autograd.grad(y, layer.leaves, d_y)
        peak = torch.cuda.max_memory_allocated() - before if on_gpu else 0
        kept = sum(n for place, n in saved.items() if place not in weights)
        return {"saved_bytes": kept, "peak_bytes": peak}

    place = {"op": "memory", "router": "uniform", "direction": BOTH, **s._asdict()}
    for variant in session.points(peers.GPU_VARIANTS):
        found, note = None, peers.too_large(variant, s, scale.dtype)
        if not note:
            found, reason = session.attempt(variant, functools.partial(measured, variant))
            note = reason and why_not(variant, reason)
        session.write(
            {**place, "variant": variant, "bytes": expected, "note": note} | (found or {})
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
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
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
