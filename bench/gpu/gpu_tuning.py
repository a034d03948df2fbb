"""What ``make gpu`` compiles beforehand, on all cores, and the search for our own tiles."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import autotune
import peers
import torch
from gpu_gate import compiled_gate
from gpu_session import Session
from problem import Problem, problem
from triton.testing import do_bench

from moge_ops.testing import Sizes

STATIC = "static figures"  # the origin of what was not found here
FURTHER = ", further"
MEMORY = 0.35  # of the card, for all shares of the compilation: the checks may take 0.4


def quick_tuning(session: Session, variant: str, *, forget: bool) -> None:
    """Peers' kernels choose among all of their configurations, with fewer repetitions each."""
    if session.scale.device == "cpu":  # nothing to time with: the first one
        for kernel in peers.tuned_kernels(variant):
            kernel.configs = kernel.configs[:1]
        return
    for kernel in peers.tuned_kernels(variant):
        kernel.do_bench = functools.partial(do_bench, warmup=5, rep=20)
        if forget:
            kernel.cache.clear()


def tune(session: Session) -> None:
    """Compiles a share of the peers' configurations and of our tiles, for the parts that time.

    Peers on few experts: their number is in no key, apart from SonicMoE's. Nothing is timed: all
    cores compile meanwhile.
    """
    share, shares = map(int, session.part.split("-")[1:])
    scale = session.scale
    if scale.device == "cuda":  # all shares together leave half of the card to the checks
        torch.cuda.set_per_process_memory_fraction(MEMORY / shares)
    shapes = [scale.layer, *scale.sonic]
    for name in session.points(f"{v} {i}" for i in range(len(shapes)) for v in peers.PACKAGES):
        variant, i = name.rsplit(" ", 1)
        if session.given_up(variant):
            continue
        s = shapes[int(i)]
        T = min(512, 16 * scale.few)
        E = s.E if variant == "sonicmoe" else min(s.E, 16)
        p = problem(s._replace(T=T, E=E), scale.dtype, scale.device)

        def share_of(kernel: Any, arguments: dict[str, Any]) -> list[Any]:
            valid: list[Any] = type(kernel).prune_configs(kernel, arguments)
            return valid[share::shares] or valid[:1]

        def compile_share(variant: str = variant, p: Problem = p) -> None:
            layer = peers.layer(p, variant, torch.randn_like(p.x))
            quick_tuning(session, variant, forget=False)
            for kernel in peers.tuned_kernels(variant):
                kernel.cache_results = False  # no part may take these times from disk
                kernel.prune_configs = functools.partial(share_of, kernel)
                kernel.do_bench = lambda call, quantiles: (call(), [0.0] * len(quantiles))[1]
            layer.results()
            layer.forward()  # other kernels of SonicMoE: without gradients it keeps less

        _, reason = session.attempt(variant, compile_share)
        print(f"{variant} {s}: {reason or 'compiled'}", flush=True)
        del p, compile_share
        session.free()
    for name in session.points(f"tiles {kernel} {limit:g}" for limit, kernel in autotune.ORDER):
        _, kernel, limit = name.split()
        one = functools.partial(ahead, session, kernel, float(limit), share, shares)
        _, reason = session.attempt("tiles", one)
        session.free()
        print(f"{name}: {reason or 'compiled'}", flush=True)


def tunegate(session: Session) -> None:
    """Compiles the gate by torch.compile, so that its part finds it on disk."""
    for E in session.scale.gate_experts:
        compiled_gate(session.scale, E)
        torch._dynamo.reset()


def ahead(session: Session, kernel: str, limit: float, share: int, shares: int) -> None:
    """Runs a share of the tiles that the search looks at first, once each."""
    trials = autotune.Trials(kernel, limit, *place(session, limit))
    for config in list(autotune.neighbours(kernel, trials.now))[share::shares]:
        trials.time(config, lambda call: 0.0)


def place(session: Session, limit: float) -> tuple[Sizes, str, int]:
    """Sizes, device and rows per expert of the search; a smoke run has Triton's interpreter."""
    if session.smoke:
        return Sizes(0, H=16, E=2, G=2, k=1, F=16), "cpu", 2
    return session.scale.layer, session.scale.device, autotune.SHAPE_CLASSES[limit]


def tiles(session: Session) -> None:
    """The search for our tiles: a row for each kernel and class of shapes, and their table.

    Parts that start later use the table. It is whole at any time, since the search may be stopped:
    each class gets one step, whose tiles were compiled beforehand, before any gets another.
    """
    table = session.csv.parent / "tiles" / "configs.csv"
    origin = "of no GPU" if session.smoke else autotune.origin()
    found = autotune.read_found(table, STATIC)  # if it was started again
    classes = {f"{kernel} {limit:g}": (kernel, limit) for limit, kernel in autotune.ORDER}

    def further() -> Iterator[str]:
        for name, key in classes.items():
            if key in found and found[key].config != autotune.present(*key):
                yield f"{name}{FURTHER}"

    for point in session.points(itertools.chain(classes, further())):
        kernel, limit = classes[point.removesuffix(FURTHER)]
        s, device, rows = place(session, limit)
        sizes = s._replace(T=rows * s.E // s.K)
        row = {"op": f"tiles {kernel}", "variant": peers.OURS, **sizes._asdict()}
        earlier = found.get((kernel, limit)) if point.endswith(FURTHER) else None
        search = functools.partial(searched, session, kernel, limit, s, device, rows, earlier)
        one, reason = session.attempt("search", search)
        if reason:
            if earlier is None:
                session.write({**row, "note": f"not run: {reason}"})
            continue
        found[kernel, limit] = one
        autotune.write_table(table, found, origin, STATIC)
        note = f"{described(one.config)}; {one.before:.4g} ms before; {one.tried} tiles tried"
        note += f", {one.wrong} GAVE ANOTHER RESULT" if one.wrong else ""
        session.write({**row, "median_ms": f"{one.after:.4g}", "note": note})
        print(f"{point}: {note}", flush=True)
        session.free()


def searched(
    session: Session,
    kernel: str,
    limit: float,
    s: Sizes,
    device: str,
    rows: int,
    earlier: autotune.Found | None,
) -> autotune.Found:
    """One step from the table's tile on, or all further ones from what was found earlier."""
    trials = autotune.Trials(kernel, limit, s, device, rows)
    time = trials.time

    def noted(config: Any, timer: autotune.Timer) -> float:
        session.enter(described(config))  # if it hangs, this is known
        return time(config, timer)

    trials.time = noted  # type: ignore[method-assign]
    if earlier is None:
        return trials.search(TIMERS[device], 1)
    trials.now = earlier.config
    one = trials.search(TIMERS[device])
    tried, wrong = earlier.tried + one.tried, earlier.wrong + one.wrong
    return one._replace(before=earlier.before, tried=tried, wrong=wrong)


def described(config: Any) -> str:
    """The fields of a tile that differ from their default, and those without one."""
    usual = type(config)._field_defaults
    kept = {k: v for k, v in config._asdict().items() if usual.get(k) != v}
    return " ".join(f"{k}={v}" for k, v in kept.items())


def _timed(call: autotune.Call) -> float:
    # the clocks of a card that has just waited for a compiler are low
    milliseconds: float = do_bench(call, warmup=25, rep=30, return_mode="median")
    return milliseconds


TIMERS: dict[str, autotune.Timer] = {"cuda": _timed, "cpu": lambda call: 1.0}
