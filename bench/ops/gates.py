"""The gates of engines beside ours: launches and bytes counted, times on this CPU measured.

Counted: an engine's own function runs on fake CUDA tensors, which need no GPU and compute nothing.
Every operation that writes memory counts as one launch, and its operands as the bytes that it
moves. Views and allocations do not count, nor what a function keeps from call to call. An operation
may launch several kernels, as `topk` does, so that this is the least that an engine launches. Ours
is counted where it hands a kernel to Triton, with the sums of its programs on 132 multiprocessors.

Measured: the functions of those that run on a CPU and our native kernel, in turns, in one process.

An engine that `engine_gates.py` does not find is left out, and said.
"""

import functools
import importlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["TRITON_INTERPRET"] = "0"  # read by Triton; its launches are counted, not run

import engines
import harness
import torch
from engine_gates import ENGINES, Engine, G, Gate, K, of_results
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import moge_ops
from moge_ops.integrations import xtuner as xtuner_door
from moge_ops.testing import TOLERANCES, distinct_logits

EXPERTS = (64, 512)
COUNTED = (1, 64, 4096)
MEASURED = (1, 4, 16, 64, 256, 1024, 4096)
OURS = "moge_ops"
MULTIPROCESSORS = 132  # an H100 SXM has
PLAN = harness.Plan(seconds=1.5, rounds=(15, 41), sample_seconds=3e-3)
SLEEP = 0.01  # until the threads of who ran before have stopped waiting for work
COLUMNS = [
    *("date", "machine", "cores", "threads", "huge_pages", "python", "torch", "triton", "revision"),
    *("kind", "engine", "version", "kernel", "dtype", "T", "E", "G", "K"),
    *("launches", "bytes", "operations", "median_us", "q20_us", "q80_us", "rounds", "note"),
]

FAKE = FakeTensorMode()  # one for all: engines keep tensors of it

Row = dict[str, Any]


def ours(logits: Tensor) -> tuple[Tensor, Tensor]:
    gating = moge_ops.grouped_gate(logits, G, K // G, renormalize=True)
    return gating.weights, gating.experts


def door(E: int) -> Gate:
    """Ours within XTuner, which wants all scores, int64 ids and counts as well."""
    router = xtuner_door.GreedyGroupedRouter(
        n_routed_experts=E, num_experts_per_tok=K, router_n_groups=G
    )
    return functools.partial(of_results, router)


# ---- counted


def moved(x: Tensor) -> int:
    """Bytes of a tensor; what is broadcast is read once."""
    sizes = (n for n, stride in zip(x.shape, x.stride(), strict=True) if stride)
    return functools.reduce(int.__mul__, sizes, x.itemsize) if x.numel() else 0


class Launches(TorchDispatchMode):
    """Names and bytes of the operations that write memory."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        before, after = (
            [x for x in tree_leaves(tree) if isinstance(x, Tensor)]
            for tree in ((args, kwargs), out)
        )
        name = func._schema.name.rpartition("::")[2]
        storages = {x.untyped_storage()._cdata for x in before}
        writes = func._schema.is_mutable or any(
            x.untyped_storage()._cdata not in storages for x in after
        )
        if writes and "empty" not in name:
            self.found.append((name, sum(map(moved, before + after))))
        return out


def count(gate: Gate, T: int, E: int, dtype: torch.dtype) -> list[tuple[str, int]]:
    with FAKE, torch.no_grad():  # inference mode would show calls, and not what they run
        logits = torch.empty(T, E, dtype=dtype, device="cuda")
        gate(logits)  # what it keeps from call to call is made here
        with Launches() as launches:
            gate(logits)
    return launches.found


def count_ours(T: int, E: int, dtype: torch.dtype) -> list[tuple[str, int]]:
    """Ours on a GPU: what is handed to Triton, and what runs beside it."""
    from triton.runtime.jit import JITFunction

    launcher = importlib.import_module("moge_ops.triton_kernels.grouped_gate")
    found: list[tuple[str, int]] = []

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        tensors = {name: x for name, x in kwargs.items() if isinstance(x, Tensor)}
        again = tensors.get("partials_ptr")  # written, and read by the last program
        size = sum(map(moved, tensors.values())) + (0 if again is None else moved(again))
        found.append((kernel.__name__.strip("_"), size))

    def call() -> None:
        logits = torch.empty(T, E, dtype=dtype, device="meta")
        options = {"score": "softmax", "renormalize": True, "scaling": 1.0}
        launcher.grouped_gate_fwd(
            logits, G, K // G, bias=None, router_scale=None, given=None, **options
        )

    programs = mock.patch.object(
        launcher,
        "num_programs",
        lambda device, tiles, blocks=1: min(tiles, MULTIPROCESSORS * blocks),
    )
    with mock.patch.object(JITFunction, "run", run), programs, torch.no_grad():
        call()
        found.clear()
        with Launches() as beside:
            call()
    return beside.found + found


def counted(gates: Mapping[str, Engine], sizes: Sequence[int], Es: Sequence[int]) -> list[Row]:
    rows = []
    for E in Es:
        for T in sizes:
            for name, engine in gates.items():
                found = count(engine.gate(E), T, E, engine.dtype)
                rows.append(count_row(name, engine.version, engine.dtype, T, E, found))
            dtypes = [torch.bfloat16, *(engine.dtype for engine in gates.values())]
            for dtype in dict.fromkeys(dtypes):
                found = count_ours(T, E, dtype)
                rows.append(count_row(OURS, version_of_ours(), dtype, T, E, found))
            if "xtuner" in gates:
                # the operator is opaque to this count: its own figure stands in
                found = count(door(E), T, E, torch.float32)
                found = [x for x in found if x[0] != "grouped_gate"]
                found += count_ours(T, E, torch.float32)
                rows.append(
                    count_row(f"{OURS} in xtuner", version_of_ours(), torch.float32, T, E, found)
                )
    return rows


def version_of_ours() -> str:
    return harness.version("moge-ops")


def count_row(
    name: str, version: str, dtype: torch.dtype, T: int, E: int, found: list[tuple[str, int]]
) -> Row:
    return {
        **{"kind": "counted", "engine": name, "version": version, "note": "no GPU"},
        **sizes_of(dtype, T, E),
        "launches": len(found),
        "bytes": sum(size for _, size in found),
        "operations": " ".join(operation for operation, _ in found),
    }


def sizes_of(dtype: torch.dtype, T: int, E: int) -> Row:
    return {"dtype": str(dtype).removeprefix("torch."), "T": T, "E": E, "G": G, "K": K}


# ---- measured


def check(name: str, gate: Gate, logits: Tensor) -> None:
    """Its choice is ours, and so are its weights."""
    (weights, ids), (own_weights, own_ids) = gate(logits), ours(logits)
    if not torch.equal(ids.long(), own_ids.long()):
        raise AssertionError(f"{name} chooses other experts than {OURS}")
    tolerance = TOLERANCES[torch.float32]
    torch.testing.assert_close(
        own_weights, weights, rtol=tolerance.rtol, atol=tolerance.atol / K, msg=f"weights of {name}"
    )


def measured(
    gates: Mapping[str, Engine], sizes: Sequence[int], Es: Sequence[int], plan: harness.Plan
) -> list[Row]:
    rows: list[Row] = []
    level = engines.our_level()
    for E in Es:
        made = {name: engine.gate(E) for name, engine in gates.items() if engine.on_cpu}
        for T in sizes:
            logits = distinct_logits(T, E, torch.bfloat16)
            for name, gate in made.items():
                check(name, gate, logits)
            calls = {name: functools.partial(gate, logits) for name, gate in made.items()}
            calls[OURS] = functools.partial(ours, logits)
            timings = harness.in_turns(list(calls), rested(calls, plan), plan)
            for name, timing in timings.items():
                own = name == OURS
                rows.append(
                    {
                        **{"kind": "measured", "engine": name, **sizes_of(torch.bfloat16, T, E)},
                        "version": version_of_ours() if own else gates[name].version,
                        "kernel": level if own else "torch, eager",
                        "median_us": f"{timing.median * 1e6:.4g}",
                        "q20_us": f"{timing.q20 * 1e6:.4g}",
                        "q80_us": f"{timing.q80 * 1e6:.4g}",
                        "rounds": timing.rounds,
                        "note": "checked",
                    }
                )
    return rows


def rested(
    calls: Mapping[str, Callable[[], object]], plan: harness.Plan
) -> Callable[[str, int], float]:
    """Samples after a rest, and a call that wakes its own threads."""
    timed = harness.host_sampler(calls)

    def sample(name: str, n: int) -> float:
        if plan.seconds:
            time.sleep(SLEEP)
        calls[name]()
        return timed(name, n)

    return sample


# ---- the table


def table(rows: Sequence[Row]) -> str:
    """Markdown of what was counted and what was measured."""
    lines = []
    for kind in ("counted", "measured"):
        some = [row for row in rows if row["kind"] == kind]
        names = list(dict.fromkeys((row["engine"], row["dtype"]) for row in some))
        places = list(dict.fromkeys((row["E"], row["T"]) for row in some))
        at = {(row["engine"], row["dtype"], row["E"], row["T"]): row for row in some}

        def text(row: Row | None, kind: str = kind) -> str:
            if row is None:
                return ""
            if kind == "counted":
                return f"{row['launches']}, {int(row['bytes']) / 1024:,.1f} KiB"
            return f"{row['median_us']} ({row['q20_us']}-{row['q80_us']})"

        heads = ["E", "T", *(f"{name}, {dtype}" for name, dtype in names)]
        lines += [f"{kind}:", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        lines += [
            f"| {E} | {T} | {' | '.join(text(at.get((*name, E, T))) for name in names)} |"
            for E, T in places
        ]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = harness.parser(__doc__, "gates.csv")
    for name, (_, folder) in ENGINES.items():
        parser.add_argument(f"--{name}", type=Path, default=folder, help="folder of its package")
    args = parser.parse_args()
    torch.manual_seed(0)

    gates = {}
    for name, (make, _) in ENGINES.items():
        try:
            gates[name] = make(getattr(args, name))
        except (OSError, LookupError, ValueError) as error:
            print(f"note: no {name}: {error}")
    counted_sizes, measured_sizes, plan, Es = COUNTED, MEASURED, PLAN, EXPERTS
    if args.smoke:
        counted_sizes, measured_sizes, plan, Es = (3,), (3,), harness.SMOKE_PLAN, (64,)
    rows = counted(gates, counted_sizes, Es)
    with torch.inference_mode():
        rows += measured(gates, measured_sizes, Es, plan)
    everywhere = {**harness.environment(), "triton": harness.version("triton")}
    del everywhere["transformers"]
    harness.write(args.out, [{**everywhere, **row} for row in rows], COLUMNS)
    print(table(rows))


if __name__ == "__main__":
    main()
