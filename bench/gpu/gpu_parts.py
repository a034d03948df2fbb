"""The parts that measure; gpu.py starts each in a process of its own.

Every finding is a row that is in the CSV before the next one is made. A part that was started again
after a crash goes on with the points that it has not finished, without the peer that crashed.
"""

import argparse
import functools
import importlib.util
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import peers
import torch
from gpu_checks import checks, digest, made_operators, small, spot_check, tests
from gpu_gate import gate
from gpu_quant import quant, tunequant
from gpu_session import Session, why_not
from gpu_tuning import quick_tuning, tiles, tune, tunegate
from harness import agrees
from problem import BACKWARD, BOTH, FORWARD, ROUTERS, Operator, Problem, Work, problem
from torch import Tensor

# after which ncu gets no other call: it writes its figures at the end, and none if it is stopped
COUNTED_SECONDS = 10.0


def checked_layers(
    session: Session,
    p: Problem,
    variants: Iterable[str] | None = None,
    *,
    forget: bool,
) -> tuple[dict[str, Operator], dict[str, float], dict[str, str]]:
    """Those of the variants, or of all, that are right here, their errors, and why others are not.

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
    for name in [name for name in variants or peers.GPU_VARIANTS if name != peers.OURS]:
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
    session: Session,
    p: Problem,
    router: str,
    directions: Iterable[str],
    variants: Iterable[str] | None = None,
    *,
    forget: bool,
) -> None:
    """Rows for the whole layer at one point, of all variants unless some are named."""
    layers, errors, reasons = checked_layers(session, p, variants, forget=forget)
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
    # what needs no tuning comes first: where nothing was compiled beforehand, the tuning of peers
    # may outlast the part
    first, *_ = points
    untuned = f"{first}, untuned"
    for name in session.points([untuned, *points]):
        router, T, forget = points[first if name == untuned else name]
        torch.manual_seed(0)
        p = problem(scale.layer._replace(T=T), scale.dtype, scale.device, router=router)
        variants = peers.VARIANTS if name == untuned else peers.GPU_VARIANTS
        measure_layer(session, p, router, (FORWARD, BOTH), variants, forget=forget)
        if name != untuned and router == "uniform":
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
    first, *_ = points
    untuned = f"{first}, untuned"  # see layer
    for name in session.points([untuned, *points]):
        torch.manual_seed(0)
        p = problem(points[first if name == untuned else name], scale.dtype, scale.device)
        variants = (peers.OURS, "torch grouped_mm") if name == untuned else peers.GPU_VARIANTS
        directions = (FORWARD, BACKWARD) if name == untuned else (FORWARD, BOTH, BACKWARD)
        measure_layer(session, p, "uniform", directions, variants, forget=False)
        del p
        session.free()
        print(name, flush=True)


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


def counters(session: Session) -> None:
    """What ncu watches: each kernel of the layer, with many tokens and with few, and the gate."""
    scale = session.scale
    on_gpu = scale.device == "cuda"
    few = next((T for T in scale.tokens if scale.few >= T), scale.tokens[-1])
    calls = {}
    for T, direction in ((scale.tokens[0], BOTH), (few, FORWARD)):
        torch.manual_seed(0)
        p = problem(scale.layer._replace(T=T), scale.dtype, scale.device)
        layer = peers.layer(p, peers.OURS, torch.randn_like(p.x))
        calls[f"layer T={T} {direction}"] = layer.calls()[direction][0]
    gate = problem(scale.layer._replace(T=16384, H=8, F=8), scale.dtype, scale.device)
    calls["gate T=16384"] = gate.operator("grouped_gate").calls()[FORWARD][0]
    began = time.monotonic()
    for name, call in calls.items():
        if on_gpu and time.monotonic() - began > COUNTED_SECONDS:
            print(f"no time for {name}", flush=True)
            continue
        call()  # what it compiles and allocates at first is not watched
        session.synchronize()
        with torch.cuda.profiler.profile() if on_gpu else nullcontext():
            call()
            session.synchronize()
        print(name, flush=True)


def versions(session: Session) -> None:
    """Says what this machine has; anything that a part needs and lacks raises here.

    Raises:
        ModuleNotFoundError: Packages are missing.
    """
    names = ("triton", "pytest", "hypothesis", "safetensors", "rich")
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise ModuleNotFoundError(f"make gpu needs {', '.join(names)}; missing: {missing}")
    for name, value in session.shared.items():
        print(f"{name} {value}")
    if session.scale.device == "cuda":
        torch.zeros(1, device="cuda").item()


PARTS: dict[str, Callable[[Session], None]] = {
    part.__name__: part
    for part in (
        *(versions, ceilings, tests, checks, digest, small, tune, tunegate, tunequant),
        *(tiles, layer, sonic, gate, quant, memory, counters),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", help=f"{', '.join(PARTS)}; tune-0-4 is the first of four shares")
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of this run's notes")
    parser.add_argument("--date", required=True)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--tokens", type=int, nargs="+", default=[], help="of the layer")
    args = parser.parse_args()
    session = Session(
        *(args.part, args.csv, args.work, args.date), smoke=args.smoke, tokens=args.tokens
    )
    PARTS[args.part.partition("-")[0]](session)


if __name__ == "__main__":
    main()
