"""Runs one Pangu Pro MoE layer, full size by default, and checks every operator on the way.

Each operator, forward and backward, is compared with the float64 oracle on the same inputs, the
expert layers one expert at a time, so that memory stays bounded. One table says how long each took
and how far off it is; a picture shows the load of the devices under MoGE and under plain top-k.
Exit code: 0 if all is well, 1 if an error exceeds its limit, 2 for sizes that cannot be run.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import balance
import torch
import torch.nn.functional as F
from bench_ops import BACKWARD, FORWARD, Operator, Problem, Work, harness, printing
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from torch import Tensor

from moge_ops.nn import MoGE
from moge_ops.reference.grouped_gate import grouped_gate as reference_gate
from moge_ops.reference.grouped_gemm import grouped_gemm as reference_gemm
from moge_ops.reference.grouped_mlp import grouped_mlp as reference_mlp
from moge_ops.reference.route import route as reference_route
from moge_ops.reference.swiglu import swiglu as reference_swiglu
from moge_ops.testing import PANGU, TOLERANCES, Sizes, assert_matches, available

GIB = 2**30
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Check:
    """Errors of one operator in one direction."""

    def __init__(self) -> None:
        self.error, self.limit = 0.0, 0.0
        self.failures: list[str] = []

    def matches(self, got: Tensor, want: Tensor, what: str) -> None:
        """Floats, within the limits of their dtype."""
        self.limit = max(self.limit, TOLERANCES[got.dtype].rms)
        try:
            self.error = max(self.error, assert_matches(got, want, what, lines=True))
        except AssertionError as failure:
            self.failures.append(str(failure))

    def equals(self, got: Tensor, want: Tensor, what: str) -> None:
        """Integers, and bits: any difference is a failure."""
        if differ := int((got != want).sum()):
            self.failures.append(f"{what}: {differ} of {got.numel()} elements differ")


class Demo:
    """The layer, its inputs, and what was found out about each operator."""

    def __init__(
        self, s: Sizes, shared_size: int, dtype: torch.dtype, device: str, *, backward: bool
    ) -> None:
        self.s, self.shared_size, self.dtype, self.device = s, shared_size, dtype, device
        self.directions = (FORWARD, BACKWARD) if backward else (FORWARD,)
        numbers = ("ms", "GFLOP/s", "GB/s", "RMS error", "limit", "ok")
        title = "Every operator against the float64 oracle"
        self.table = printing.table_of(title, ("operator", "direction"), numbers)
        self.failures: list[str] = []
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )

    @contextmanager
    def step(self, what: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        """Shows a progress bar; yields the function that advances it."""
        task = self.progress.add_task(what, total=total)
        try:
            yield lambda: self.progress.advance(task)
        finally:
            self.progress.remove_task(task)

    def time(self, call: Callable[[], Any]) -> tuple[float, Any]:
        """Median seconds of three calls after a first one, and the last result."""
        seconds, result = [], None
        for _ in range(4):
            result = None  # the large gradients of one call are freed before the next
            harness.synchronize(self.device)
            start = time.perf_counter()
            result = call()
            harness.synchronize(self.device)
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds[1:]), result

    def add(self, op: str, direction: str, seconds: float, work: Work, check: Check) -> None:
        """One line of the table."""
        self.failures += [f"{op} {direction}: {failure}" for failure in check.failures]
        self.table.add_row(
            op,
            direction,
            f"{seconds * 1e3:.3g}",
            f"{work.flops / seconds / 1e9:.1f}" if work.flops else "",
            f"{work.bytes / seconds / 1e9:.2f}",
            f"{check.error:.2g}",
            f"{check.limit:.2g}",
            "[red]NO[/]" if check.failures else "yes",
        )

    def whole(self, name: str, p: Problem) -> None:
        """An operator whose oracle takes all of its input at once."""
        with self.step(name):
            op = p.operator(name)
            for direction in self.directions if op.inputs else (FORWARD,):
                call, work = op.calls()[direction]
                seconds, _ = self.time(call)
                check = Check()
                for what, got, want in op.exact() if direction == FORWARD else ():
                    check.equals(got, want, what)
                for what, got, want in harness.compare(op, direction) if op.oracle else ():
                    check.matches(got, want, what)
                self.add(name, direction, seconds, work, check)

    def by_expert(
        self,
        name: str,
        p: Problem,
        oracle: Callable[..., Tensor],
        rows: Mapping[str, tuple[Tensor, Tensor]],
        out_index: Tensor,
    ) -> tuple[dict[str, Tensor], Operator, dict[str, Tensor]]:
        """An operator whose oracle takes one expert at a time, so that its weights fit in float64.

        Args:
            name: The operator's.
            p: Its inputs.
            oracle: Takes, by name, the rows of one expert and its weights [1, ...].
            rows: Name -> (input as lines, index [N]): the line that each row reads. The other
                inputs are weights, [E, ...].
            out_index: [N], the line of the output to which each row adds.

        Returns:
            The oracle's ``output`` and gradients of ``rows``, by name of the input; the operator,
            and its own gradients.
        """
        with self.step(name):
            op = p.operator(name)
            timed = {way: self.time(op.calls()[way][0]) for way in self.directions}
        backward = BACKWARD in timed
        grads = dict(zip(op.inputs, timed[BACKWARD][1], strict=True)) if backward else {}
        weights = {key: w.detach() for key, w in op.inputs.items() if key not in rows}
        wide = {key: torch.zeros_like(x, dtype=torch.float64) for key, (x, _) in rows.items()}
        wide["output"] = torch.zeros_like(op.out, dtype=torch.float64)
        check, back_check = Check(), Check()
        with self.step(f"{name}: float64 oracle", self.s.E) as advance:
            for e, (a, b) in enumerate(itertools.pairwise(p.routing.offsets.tolist())):
                own = {key: x.detach()[index[a:b]] for key, (x, index) in rows.items()}
                own |= {key: w[e : e + 1] for key, w in weights.items()}
                own = {key: x.double().requires_grad_(backward) for key, x in own.items()}
                part = oracle(**own)
                wide["output"].index_add_(0, out_index[a:b], part.detach())
                if backward:
                    d_part = op.d_out[out_index[a:b]].double()
                    d_own = torch.autograd.grad(part, list(own.values()), d_part)
                    for key, d in zip(own, d_own, strict=True):
                        if key in rows:
                            wide[key].index_add_(0, rows[key][1][a:b], d)
                        else:
                            back_check.matches(grads[key][e], d[0], f"d_{key}, expert {e}")
                advance()
        check.matches(op.out, wide["output"], "output")
        self.add(name, FORWARD, timed[FORWARD][0], op.work, check)
        if backward:
            for key in rows:
                got = grads[key].view_as(wide[key]).to(self.dtype)
                back_check.matches(got, wide[key], f"d_{key}")
            self.add(name, BACKWARD, timed[BACKWARD][0], op.backward_work, back_check)
        return wide, op, grads

    def run(self) -> None:
        """Every operator, in the order in which the layer uses them."""
        s, device = self.s, self.device
        with self.step(f"drawing {3 * s.E * s.F * s.H / 1e9:.2f} G expert weights"):
            shape = (s.H, s.F, s.E, s.G, s.k)
            layer = MoGE(*shape, shared_size=self.shared_size, dtype=self.dtype, device=device)
            with torch.no_grad():  # not all ones, so that leaving it out would show
                scale = layer.get_parameter("router_scale").uniform_(0.5, 1.5)
        x = torch.randn(s.T, s.H, device=device).to(self.dtype)
        with torch.no_grad():
            logits, _ = layer.router(x)
        p = Problem(s, x, layer.w_gate_up, layer.w_down, logits, scale)
        for name in ("grouped_gate", "route", "permute", "unpermute"):
            self.whole(name, p)
        every = torch.arange(s.N, device=device)
        self.by_expert(
            "grouped_gemm",
            p,
            lambda rows, weight: reference_gemm(rows, weight, torch.tensor([0, len(rows)])),
            {"rows": (p.rows, every)},
            every,
        )
        for name in ("swiglu", "load_balance_loss"):
            self.whole(name, p)

        def mlp_oracle(x: Tensor, weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
            one = reference_route(torch.zeros(len(x), 1, dtype=torch.int32, device=device), 1)
            return reference_mlp(x, w_gate_up, w_down, weights, *one)

        slots = p.routing.row_to_slot.long()  # [N]
        lines = {"x": (x, slots // s.K), "weights": (p.gating.weights.view(-1, 1), slots)}
        routed, op, grads = self.by_expert("grouped_mlp", p, mlp_oracle, lines, slots // s.K)
        sample = {
            (name, e): grads[name][e].clone()
            for name in ("w_gate_up", "w_down")
            for e in {0, s.E // 2, s.E - 1}
            if grads
        }
        del grads
        self.layer(layer, p, op, routed, sample)

    def layer(
        self,
        layer: MoGE,
        p: Problem,
        experts: Operator,
        routed: Mapping[str, Tensor],
        sample: Mapping[tuple[str, int], Tensor],
    ) -> None:
        """The module: router, gate, routed and shared experts together.

        ``routed`` is the oracle of its experts, ``sample`` some gradients of their weights.
        """
        s, d_y = self.s, experts.d_out
        leaves = {"x": p.x.detach().requires_grad_(), **dict(layer.named_parameters())}
        with self.step("nn.MoGE"):
            with torch.no_grad():
                seconds, (y, logits, _) = self.time(lambda: layer(leaves["x"], return_routing=True))
            back_seconds, grads = 0.0, {}
            if BACKWARD in self.directions:
                live, tensors = layer(leaves["x"]), list(leaves.values())
                back_seconds, found = self.time(
                    lambda: torch.autograd.grad(live, tensors, d_y, retain_graph=True)
                )
                grads = dict(zip(leaves, found, strict=True))

        shared_elements = 3 * s.H * self.shared_size
        flops = 2 * s.T * (shared_elements + s.H * s.E)
        read = (shared_elements + s.E * s.H) * self.dtype.itemsize
        with self.step("nn.MoGE: float64 oracle"):
            wide = {
                name: leaf.detach().double().requires_grad_(bool(grads))
                for name, leaf in leaves.items()
                if name not in ("w_gate_up", "w_down")
            }
            shared = 0.0 * wide["x"]
            if self.shared_size:
                act = reference_swiglu(F.linear(wide["x"], wide["shared_gate_up"]))
                shared = F.linear(act, wide["shared_down"])
            check = Check()
            check.matches(logits, wide["x"] @ wide["gate"].T, "logits")
            check.matches(y, routed["output"] + shared, "y")
            work = Work(experts.work.flops + flops, experts.work.bytes + read)
            self.add("nn.MoGE", FORWARD, seconds, work, check)
            if not grads:
                return

            through = [name for name in wide if name == "x" or name.startswith("shared")]
            d = torch.autograd.grad(shared, [wide[name] for name in through], d_y.double())
            wants = dict(zip(through, d, strict=True))
            # from the layer's logits on: their rounding is the router product's, checked above
            at = [logits.double().requires_grad_(), wide["router_scale"]]
            weights = reference_gate(at[0], s.G, s.k, router_scale=at[1])[0]
            d_weights = routed["weights"].view_as(weights)
            d_logits, wants["router_scale"] = torch.autograd.grad(weights, at, d_weights)
            wants["x"] = wants["x"] + routed["x"] + d_logits @ wide["gate"].detach()
            wants["gate"] = d_logits.T @ wide["x"].detach()
            check = Check()
            for name, want in wants.items():
                check.matches(grads[name], want, f"d_{name}")
            # the experts' gradients were checked with grouped_mlp: here they are the same bits
            for (name, e), want in sample.items():
                check.equals(grads[name][e], want, f"d_{name}[{e}]")
            before = experts.backward_work
            work = Work(before.flops + 2 * flops, before.bytes + 2 * read)
            self.add("nn.MoGE", BACKWARD, back_seconds, work, check)


def needed(s: Sizes, shared_size: int, dtype: torch.dtype, *, backward: bool) -> int:
    """Bytes at the peak: weights, their gradients, activations, and the oracle's float64."""
    expert, shared = 3 * s.F * s.H, 3 * shared_size * s.H
    weights = (s.E * (expert + s.H) + shared) * dtype.itemsize
    activations = s.N * (3 * s.H + 8 * s.F) * dtype.itemsize
    oracle = 8 * ((5 if backward else 3) * s.N * s.H + 6 * s.N * s.F + 2 * max(expert, shared))
    base = 3 * GIB // 4  # Python, torch, and what is compared at a time
    return base + weights * (2 if backward else 1) + activations + oracle


OPTIONS = {
    "tokens": (256, 1, "T, rows of the input"),
    "hidden": (PANGU.H, 1, "H, size of a token"),
    "experts": (PANGU.E, 1, "E, routed experts"),
    "groups": (PANGU.G, 1, "G, groups of neighbouring experts"),
    "k": (PANGU.k, 1, "experts per group and token"),
    "expert-size": (PANGU.F, 1, "F, width of a routed expert"),
    "shared-size": (4 * PANGU.F, 0, "width of the shared expert, 0 for none"),
    "seed": (0, -sys.maxsize, "seed of the random weights and inputs"),
}


def parse() -> argparse.Namespace:
    text = "One MoGE layer: every operator checked against the oracle, and timed."
    parser = harness.sized(text, OPTIONS)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="weights' and input's")
    parser.add_argument("--no-backward", action="store_true", help="forward only")
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of balance.png")
    args = harness.parsed(parser, OPTIONS)
    if args.experts % args.groups:
        parser.error(f"--experts must be a multiple of --groups {args.groups}, got {args.experts}")
    P = args.experts // args.groups
    if args.k >= P:  # with nothing to choose, the loss has no gradient
        parser.error(f"--k must be below the experts per group, {P}, got {args.k}")
    return args


def main() -> int:
    args = parse()
    started = time.perf_counter()
    console = printing.console()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = DTYPES[args.dtype]
    s = Sizes(args.tokens, args.hidden, args.experts, args.groups, args.k, args.expert_size)
    torch.manual_seed(args.seed)

    here = harness.environment(device)
    console.print(
        f"MoGE layer: T {s.T}, H {s.H}, E {s.E}, G {s.G}, k {s.k}, F {s.F}, shared expert "
        f"{args.shared_size}, {args.dtype}, on {here['machine']} ({device}), "
        f"{here['threads']} threads, torch {here['torch']}"
    )
    backward = not args.no_backward
    free = available(device)
    if free is not None:
        need, need_forward = (
            needed(s, args.shared_size, dtype, backward=way) / GIB for way in (True, False)
        )
        if free / GIB < need_forward:
            console.print(
                f"[red]These sizes need about {need_forward:.1f} GiB, {free / GIB:.1f} GiB are "
                "available.[/] Smaller: --tokens, --experts, --expert-size, --hidden."
            )
            return 2
        if backward and free / GIB < need:
            console.print(
                f"Backward skipped: it needs about {need:.1f} GiB, {free / GIB:.1f} GiB are "
                "available."
            )
            backward = False

    demo = Demo(s, args.shared_size, dtype, device, backward=backward)
    with demo.progress:
        demo.run()
    console.print(demo.table)

    devices = 8 if s.G % 8 == 0 else s.G
    torch.manual_seed(args.seed)  # the picture does not depend on what was drawn before
    panels = balance.loads_of_one_batch(s, devices)
    caption = (
        f"T = {s.T}, {s.K} of {s.E} experts each, on {devices} devices; IS = (max - min) / tokens"
    )
    args.out.mkdir(parents=True, exist_ok=True)
    picture = args.out / "balance.png"
    balance.draw_loads(panels, caption).savefig(picture, dpi=150)
    console.print(f"Load balance: {caption}")
    for router, ways in panels.items():
        console.print(f"  {router}: " + "; ".join(f"{way} {b}" for way, b in ways.items()))
    console.print(f"Picture: {picture}")
    for failure in demo.failures:
        console.print(f"[red]FAILED[/] {failure}", highlight=False)
    console.print(f"{time.perf_counter() - started:.0f} s in all")
    return 1 if demo.failures else 0


if __name__ == "__main__":
    sys.exit(main())
