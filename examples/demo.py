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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import balance
import harness
import torch
import torch.nn.functional as F
from harness import Sizes, Work
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor

import moge_ops
from moge_ops._memory import available
from moge_ops.nn import MoGE
from moge_ops.reference.grouped_gate import grouped_gate as reference_gate
from moge_ops.reference.grouped_gemm import grouped_gemm as reference_gemm
from moge_ops.reference.grouped_mlp import grouped_mlp as reference_mlp
from moge_ops.reference.load_balance_loss import load_balance_loss as reference_loss
from moge_ops.reference.permute import permute as reference_permute
from moge_ops.reference.route import route as reference_route
from moge_ops.reference.swiglu import swiglu as reference_swiglu
from moge_ops.reference.unpermute import unpermute as reference_unpermute
from moge_ops.testing import TOLERANCES

GIB = 2**30
# Elements that are compared at a time. Temporaries of 2 MB stay in the cache; those of a whole
# weight cost six times as much, most of it the kernel's, for fresh pages (Zen 4, November 2026).
BLOCK = 2**18
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FORWARD, BACKWARD = "forward", "backward"


class Check:
    """Errors of one operator in one direction, against the limits of one dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.limit = TOLERANCES[dtype].rms
        self.error = 0.0
        self.failures: list[str] = []

    def matches(self, got: Tensor, want: Tensor, what: str) -> None:
        """Compares the RMS error of the whole with the limit, and of each line, the last dimension.

        A line may be off by the limit times its own size plus that of the average line, and the
        fewer its elements, the more their errors scatter: 5 times that for a line of one. A single
        wrong element in a line of thousands is above it.
        """
        width = want.shape[-1] if want.ndim else 1
        got, want = (x.detach().reshape(-1, width) for x in (got, want))
        factor = self.limit * (1.0 + 4.0 * width**-0.5)
        size = torch.linalg.vector_norm(want)
        average = size * len(want) ** -0.5
        worst, place, squares = 0.0, 0, torch.zeros_like(size)
        for first in range(0, len(want), max(1, BLOCK // width)):
            block = slice(first, first + max(1, BLOCK // width))
            error = torch.linalg.vector_norm(got[block].double() - want[block], dim=-1)
            bound = factor * (torch.linalg.vector_norm(want[block], dim=-1) + average)
            # a NaN is worse than any number
            ratio = (error / bound.clamp_min(1e-300)).nan_to_num(torch.inf)
            if ratio.max() > worst:
                worst, place = float(ratio.max()), first + int(ratio.argmax())
            squares += error.square().sum()
        rms = float((squares.sqrt() / size.clamp_min(1e-300)).nan_to_num(torch.inf))
        self.error = max(self.error, rms)
        if rms > self.limit or worst > 1.0:
            self.failures.append(
                f"{what}: RMS error {rms:.3g}, worst in line {place} of {len(want)}: "
                f"{worst:.3g} times what a line may be off"
            )

    def equals(self, got: Tensor, want: Tensor, what: str) -> None:
        """Integers, and bits: any difference is a failure."""
        differ = int((got != want).sum())
        if differ:
            self.failures.append(f"{what}: {differ} of {got.numel()} elements differ")


class Demo:
    """The layer, its inputs, and what was found out about each operator."""

    def __init__(
        self, s: Sizes, shared_size: int, dtype: torch.dtype, device: str, *, backward: bool
    ) -> None:
        self.s, self.shared_size, self.dtype = s, shared_size, dtype
        self.device, self.backward = device, backward
        self.table = Table(title="Every operator against the float64 oracle")
        for heading in ("operator", "direction"):
            self.table.add_column(heading)
        for heading in ("ms", "GFLOP/s", "GB/s", "RMS error", "limit", "ok"):
            self.table.add_column(heading, justify="right")
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

    def time_both(
        self, op: Callable[..., Tensor], leaves: Sequence[Tensor]
    ) -> tuple[float, Tensor, Tensor, float, tuple[Tensor, ...]]:
        """Forward's seconds, output, a random gradient of it, backward's seconds, gradients."""
        with torch.no_grad():
            seconds, out = self.time(lambda: op(*leaves))
        d_out = torch.randn(out.shape, device=self.device).to(out.dtype)
        if not self.backward:
            return seconds, out, d_out, 0.0, ()
        live = op(*leaves)
        back_seconds, grads = self.time(
            lambda: torch.autograd.grad(live, leaves, d_out, retain_graph=True)
        )
        return seconds, out, d_out, back_seconds, grads

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

    def whole(
        self,
        name: str,
        op: Callable[..., Tensor],
        oracle: Callable[..., Tensor],
        inputs: Mapping[str, Tensor],
        forward: Work,
        backward: Work,
        check: Check | None = None,
    ) -> None:
        """An operator whose oracle takes all of its input at once."""
        leaves = [x.detach().requires_grad_() for x in inputs.values()]
        wide = [x.detach().double().requires_grad_() for x in leaves]
        seconds, out, d_out, back_seconds, grads = self.time_both(op, leaves)
        check = check or Check(out.dtype)
        want = oracle(*wide)
        check.matches(out, want, "output")
        self.add(name, FORWARD, seconds, forward, check)
        if self.backward:
            want_grads = torch.autograd.grad(want, wide, d_out.double())
            check = Check(self.dtype)
            for input_name, grad, want_grad in zip(inputs, grads, want_grads, strict=True):
                check.matches(grad, want_grad, f"d_{input_name}")
            self.add(name, BACKWARD, back_seconds, backward, check)

    def by_expert(
        self,
        name: str,
        op: Callable[..., Tensor],
        oracle: Callable[..., Tensor],
        rows: Mapping[str, tuple[Tensor, Tensor]],
        experts: Mapping[str, Tensor],
        out_index: Tensor,
        offsets: Tensor,
        forward: Work,
        backward: Work,
    ) -> tuple[dict[str, Tensor], Tensor, tuple[Tensor, ...]]:
        """An operator whose oracle takes one expert at a time, so that its weights fit in float64.

        Args:
            name: Of the operator.
            op: Takes ``rows``, then ``experts``.
            oracle: The same, for the rows of one expert and its weights [1, ...].
            rows: Name -> (tensor, index [N]): the line of the tensor that each row reads.
            experts: Name -> weights [E, ...].
            out_index: [N], the line of the output to which each row adds.
            offsets: [E + 1], rows of the experts.
            forward: FLOPs and bytes.
            backward: FLOPs and bytes.

        Returns:
            The oracle's output and gradients of ``rows`` (``output``, ``d_<name>``), the gradient
            of the output that was used, and the operator's gradients.
        """
        inputs = (*(x for x, _ in rows.values()), *experts.values())
        with self.step(name):
            leaves = [x.detach().requires_grad_() for x in inputs]
            seconds, out, d_out, back_seconds, grads = self.time_both(op, leaves)

        wide = {f"d_{n}": torch.zeros_like(x, dtype=torch.float64) for n, (x, _) in rows.items()}
        wide["output"] = torch.zeros_like(out, dtype=torch.float64)
        check, back_check = Check(self.dtype), Check(self.dtype)
        with self.step(f"{name}: float64 oracle", self.s.E) as advance:
            for e, (a, b) in enumerate(itertools.pairwise(offsets.tolist())):
                own = [x.detach()[index[a:b]] for x, index in rows.values()]
                own += [w.detach()[e : e + 1] for w in experts.values()]
                own = [x.double().requires_grad_(self.backward) for x in own]
                part = oracle(*own)
                wide["output"].index_add_(0, out_index[a:b], part.detach())
                if self.backward:
                    d = torch.autograd.grad(part, own, d_out[out_index[a:b]].double())
                    for (row_name, (_, index)), d_row in zip(rows.items(), d, strict=False):
                        wide[f"d_{row_name}"].index_add_(0, index[a:b], d_row)
                    for i, weight in enumerate(experts, len(rows)):
                        back_check.matches(grads[i][e], d[i][0], f"d_{weight}, expert {e}")
                advance()
        check.matches(out, wide["output"], "output")
        self.add(name, FORWARD, seconds, forward, check)
        if self.backward:
            for row_name, grad in zip(rows, grads, strict=False):
                back_check.matches(grad, wide[f"d_{row_name}"], f"d_{row_name}")
            self.add(name, BACKWARD, back_seconds, backward, back_check)
        return wide, d_out, grads

    def run(self) -> None:
        """Every operator, in the order in which the layer uses them."""
        s, device, item = self.s, self.device, self.dtype.itemsize
        with self.step(f"drawing {3 * s.E * s.F * s.H / 1e9:.2f} G expert weights"):
            shape = (s.H, s.F, s.E, s.G, s.k)
            layer = MoGE(*shape, shared_size=self.shared_size, dtype=self.dtype, device=device)
            with torch.no_grad():  # not all ones, so that leaving it out would show
                scale = layer.get_parameter("router_scale").uniform_(0.5, 1.5)
        x = torch.randn(s.T, s.H, device=device).to(self.dtype)
        with torch.no_grad():
            logits, gating = layer.router(x)
        routing = moge_ops.route(gating.experts, s.E, num_groups=s.G)
        slots = routing.row_to_slot.long()  # [N]
        used = int((gating.counts > 0).sum())

        with self.step("grouped_gate, route, permute, unpermute"):
            # [N, H] on one side, [T, H] on the other; int32 or float32 for every slot
            side, index = (s.N + s.T) * s.H * item, 4 * s.N
            self.gate(logits, scale)
            self.route(gating.experts, routing)
            self.whole(
                "permute",
                lambda x: moge_ops.permute(x, routing),
                lambda x: reference_permute(x, routing.row_to_slot, routing.slot_to_row),
                {"x": x},
                Work(0, side + index),
                Work(0, side + index),
            )
            rows = moge_ops.permute(x, routing)
            self.whole(
                "unpermute",
                lambda rows, weights: moge_ops.unpermute(rows, routing, weights),
                lambda rows, weights: reference_unpermute(rows, routing.slot_to_row, weights),
                {"rows": rows, "weights": gating.weights},
                Work(2 * s.N * s.H, side + 2 * index),
                Work(3 * s.N * s.H, side + rows.nbytes + 3 * index),
            )

        flops, pre = 4 * s.N * s.H * s.F, 2 * s.N * s.F * item
        read, all_weights = used * layer.w_gate_up[0].nbytes, layer.w_gate_up.nbytes
        every = torch.arange(s.N, device=device)
        self.by_expert(
            "grouped_gemm",
            lambda rows, weight: moge_ops.grouped_gemm(rows, weight, routing.offsets),
            lambda rows, weight: reference_gemm(rows, weight, torch.tensor([0, len(rows)])),
            {"rows": (rows, every)},
            {"weight": layer.w_gate_up},
            every,
            routing.offsets,
            Work(flops, rows.nbytes + read + pre),
            Work(2 * flops, 2 * rows.nbytes + read + pre + all_weights),
        )
        with self.step("swiglu, load_balance_loss"):
            self.whole(
                "swiglu",
                moge_ops.swiglu,
                reference_swiglu,
                {"gate_up": torch.randn(s.N, 2 * s.F, device=device).to(self.dtype)},
                Work(0, 3 * pre // 2),
                Work(0, 5 * pre // 2),
            )
            self.whole(
                "load_balance_loss",
                lambda logits: moge_ops.load_balance_loss(logits, gating.experts),
                lambda logits: reference_loss(logits, gating.experts),
                {"logits": logits},
                Work(0, logits.nbytes + index),
                Work(0, 2 * logits.nbytes + index),
            )

        def mlp(x: Tensor, weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
            weights = weights.view(s.T, s.K)
            return moge_ops.grouped_mlp(x, w_gate_up, w_down, weights, routing)

        def mlp_oracle(x: Tensor, weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
            one = reference_route(torch.zeros(len(x), 1, dtype=torch.int32, device=device), 1)
            return reference_mlp(x, w_gate_up, w_down, weights, *one)

        forward, both = (harness.mlp_work(s, used, self.dtype, backward=b) for b in (False, True))
        backward = Work(both.flops - forward.flops, both.bytes - forward.bytes)
        wide, d_y, grads = self.by_expert(
            "grouped_mlp",
            mlp,
            mlp_oracle,
            {"x": (x, slots // s.K), "weights": (gating.weights.reshape(-1, 1), slots)},
            {"w_gate_up": layer.w_gate_up, "w_down": layer.w_down},
            slots // s.K,
            routing.offsets,
            forward,
            backward,
        )
        sample = {
            f"{name}[{e}]": grads[i][e].clone()
            for i, name in enumerate(("w_gate_up", "w_down"), 2)
            for e in sorted({0, s.E // 2, s.E - 1})
            if self.backward
        }
        del grads
        self.layer(layer, x, d_y, wide, sample, forward, backward)

    def gate(self, logits: Tensor, scale: Tensor) -> None:
        s = self.s
        got = moge_ops.grouped_gate(logits, s.G, s.k, router_scale=scale)
        _, experts, counts = reference_gate(logits.double(), s.G, s.k)
        check = Check(got.weights.dtype)
        check.equals(got.experts, experts, "experts")
        check.equals(got.counts, counts, "counts")
        chosen = s.N * (4 + 4)  # weights float32, ids int32
        self.whole(
            "grouped_gate",
            lambda logits, r: moge_ops.grouped_gate(logits, s.G, s.k, router_scale=r).weights,
            lambda logits, r: reference_gate(logits, s.G, s.k, router_scale=r)[0],
            {"logits": logits, "router_scale": scale},
            Work(0, logits.nbytes + chosen + 4 * s.E),
            Work(0, 2 * logits.nbytes + chosen),
            check,
        )

    def route(self, experts: Tensor, routing: moge_ops.Routing) -> None:
        s = self.s
        seconds, _ = self.time(lambda: moge_ops.route(experts, s.E, num_groups=s.G))
        check = Check(self.dtype)
        check.limit = 0.0
        wants = reference_route(experts, s.E)
        for name, got, want in zip(routing._fields, routing, wants, strict=True):
            check.equals(got, want, name)
        self.add("route", FORWARD, seconds, Work(0, 4 * (3 * s.N + s.E + 1)), check)

    def layer(
        self,
        layer: MoGE,
        x: Tensor,
        d_y: Tensor,
        routed: Mapping[str, Tensor],
        sample: Mapping[str, Tensor],
        forward: Work,
        backward: Work,
    ) -> None:
        """The module: router, gate, routed and shared experts together.

        ``routed`` is the oracle of its experts, ``sample`` some gradients of their weights,
        ``forward`` and ``backward`` their work.
        """
        s = self.s
        x = x.detach().requires_grad_()
        leaves = {"x": x, **dict(layer.named_parameters())}
        with self.step("nn.MoGE"):
            with torch.no_grad():
                seconds, (y, logits, _) = self.time(lambda: layer(x, return_routing=True))
            grads: dict[str, Tensor] = {}
            if self.backward:
                live = layer(x)
                back_seconds, found = self.time(
                    lambda: torch.autograd.grad(live, [*leaves.values()], d_y, retain_graph=True)
                )
                grads = dict(zip(leaves, found, strict=True))

        shared_elements = 3 * s.H * self.shared_size
        flops = 2 * s.T * (shared_elements + s.H * s.E)
        read = (shared_elements + s.E * s.H) * self.dtype.itemsize
        check, back_check = Check(self.dtype), Check(self.dtype)
        with self.step("nn.MoGE: float64 oracle"):
            wide = {
                name: leaf.detach().double().requires_grad_(self.backward)
                for name, leaf in leaves.items()
                if name not in ("w_gate_up", "w_down")
            }
            # from the layer's logits on: their rounding is the router product's, checked first
            check.matches(logits, wide["x"] @ wide["gate"].T, "logits")
            wide["logits"] = logits.double().requires_grad_(self.backward)
            through = [name for name in wide if name == "x" or name.startswith("shared")]
            shared = 0.0 * wide["x"]
            if self.shared_size:
                act = reference_swiglu(F.linear(wide["x"], wide["shared_gate_up"]))
                shared = F.linear(act, wide["shared_down"])
            check.matches(y, routed["output"] + shared, "y")
            self.add(
                "nn.MoGE",
                FORWARD,
                seconds,
                Work(forward.flops + flops, forward.bytes + read),
                check,
            )
            if not self.backward:
                return

            d = torch.autograd.grad(shared, [wide[name] for name in through], d_y.double())
            wants = dict(zip(through, d, strict=True))
            weights = reference_gate(wide["logits"], s.G, s.k, router_scale=wide["router_scale"])[0]
            d_logits, wants["router_scale"] = torch.autograd.grad(
                weights,
                (wide["logits"], wide["router_scale"]),
                routed["d_weights"].view(weights.shape),
            )
            wants["x"] = wants["x"] + routed["d_x"] + d_logits @ wide["gate"].detach()
            wants["gate"] = d_logits.T @ wide["x"].detach()
            for name, want in wants.items():
                back_check.matches(grads[name], want, f"d_{name}")
            # the experts' gradients were checked with grouped_mlp: here they are the same bits
            for place, want in sample.items():
                name, _, e = place.rstrip("]").partition("[")
                back_check.equals(grads[name][int(e)], want, f"d_{place}")
            self.add(
                "nn.MoGE",
                BACKWARD,
                back_seconds,
                Work(backward.flops + 2 * flops, backward.bytes + 2 * read),
                back_check,
            )


def needed(s: Sizes, shared_size: int, dtype: torch.dtype, *, backward: bool) -> int:
    """Bytes at the peak: weights, their gradients, activations, and the oracle's float64."""
    expert, shared = 3 * s.F * s.H, 3 * shared_size * s.H
    weights = (s.E * (expert + s.H) + shared) * dtype.itemsize
    activations = s.N * (3 * s.H + 8 * s.F) * dtype.itemsize
    oracle = 8 * ((5 if backward else 3) * s.N * s.H + 6 * s.N * s.F + 2 * max(expert, shared))
    base = 3 * GIB // 4  # Python, torch, and what is compared at a time
    return base + weights * (2 if backward else 1) + activations + oracle


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="One MoGE layer: every operator checked against the oracle, and timed.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for name, default, text in (
        ("tokens", 256, "T, rows of the input"),
        ("hidden", 5120, "H, size of a token"),
        ("experts", 64, "E, routed experts"),
        ("groups", 8, "G, groups of neighbouring experts"),
        ("k", 1, "experts per group and token"),
        ("expert-size", 1344, "F, width of a routed expert"),
        ("shared-size", 5376, "width of the shared expert, 0 for none"),
        ("seed", 0, "of the random weights and inputs"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=text)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of weights and input")
    parser.add_argument("--no-backward", action="store_true", help="forward only")
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of balance.png")
    args = parser.parse_args()

    for name in ("tokens", "hidden", "experts", "groups", "k", "expert_size"):
        if getattr(args, name) < 1:
            option = f"--{name.replace('_', '-')}"
            parser.error(f"{option} must be at least 1, got {getattr(args, name)}")
    if args.shared_size < 0:
        parser.error(f"--shared-size must be at least 0, got {args.shared_size}")
    if args.experts % args.groups:
        parser.error(f"--experts must be a multiple of --groups {args.groups}, got {args.experts}")
    if args.k >= args.experts // args.groups:  # with nothing to choose, the loss has no gradient
        parser.error(
            f"--k must be below the experts per group, {args.experts // args.groups}, got {args.k}"
        )
    return args


def main() -> int:
    args = parse()
    started = time.perf_counter()
    console = Console(width=None if sys.stdout.isatty() else 120)
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
    torch.manual_seed(args.seed)  # the same picture whatever was drawn before
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
