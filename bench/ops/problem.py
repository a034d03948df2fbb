"""Inputs of one layer, and what an operator is to a benchmark.

Each `bench_<op>.py` has ``operator(p: Problem) -> Operator``, the one place that knows the
operator's oracle, its FLOPs and its bytes.
"""

import importlib
import math
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._pytree import tree_map_only

import moge_ops
from moge_ops.quant import QuantizedWeight, dequantize
from moge_ops.reference.grouped_gate import grouped_gate as reference_gate
from moge_ops.testing import Sizes, router_logits, spaced_logits

FORWARD, BACKWARD, BOTH = "forward", "backward", "forward+backward"
OURS, OURS_BFLOAT16 = "moge_ops", "moge_ops bfloat16"  # among the variants
OPERATORS = [m.name for m in pkgutil.iter_modules(moge_ops.ops.__path__) if m.name[0] != "_"]


class Work(NamedTuple):
    """What one call has to do: FLOPs, and the bytes that any implementation must move."""

    flops: int
    bytes: int


NOTHING = Work(0, 0)


@dataclass(eq=False)
class Operator:
    """An operator at its inputs; the forward that a backward needs runs once, when first asked."""

    run: Callable[..., Any]  # takes the tensors of `inputs` in their order
    inputs: Mapping[str, Tensor]  # name -> what gets a gradient
    work: Work  # the forward's
    backward_work: Work = NOTHING  # without the forward
    oracle: Callable[..., Any] | None = None  # as `run`, in float64
    exact: Callable[[], Iterable[tuple[str, Tensor, Tensor]]] = tuple  # integers: name, got, want

    @cached_property
    def leaves(self) -> list[Tensor]:
        return [x.detach().requires_grad_() for x in self.inputs.values()]

    @cached_property
    def out(self) -> Tensor:
        return self.run(*self.leaves)

    @cached_property
    def d_out(self) -> Tensor:
        return torch.randn(self.out.shape, device=self.out.device).to(self.out.dtype)

    def forward(self) -> Any:
        with torch.no_grad():
            return self.run(*self.leaves)

    def backward(self) -> tuple[Tensor, ...]:
        return torch.autograd.grad(self.out, self.leaves, self.d_out, retain_graph=True)

    def both(self) -> tuple[Tensor, ...]:
        return torch.autograd.grad(self.run(*self.leaves), self.leaves, self.d_out)

    def results(self) -> dict[str, Tensor]:
        """Output and gradients, of one call."""
        y = self.run(*self.leaves)
        grads = torch.autograd.grad(y, self.leaves, self.d_out)
        names = (f"d_{name}" for name in self.inputs)
        return {"y": y.detach(), **dict(zip(names, grads, strict=True))}

    def calls(self) -> dict[str, tuple[Callable[[], Any], Work]]:
        """Direction -> call and its work."""
        found: dict[str, tuple[Callable[[], Any], Work]] = {FORWARD: (self.forward, self.work)}
        if self.inputs:
            whole = (a + b for a, b in zip(self.work, self.backward_work, strict=True))
            found[BACKWARD] = (self.backward, self.backward_work)
            found[BOTH] = (self.both, Work(*whole))
        return found


def zipf_logits(T: int, E: int, dtype: torch.dtype) -> Tensor:
    """``[T, E]`` logits under which the expert of rank r is chosen first with probability ~ 1/r.

    Rounded to multiples of 1/8, as those of :func:`moge_ops.testing.spaced_logits`.
    """
    logits = router_logits(1, T, E, 1.0)[0].clamp(-16.0, 16.0)
    return (logits * 8.0).round().div(8.0).to(dtype)


ROUTERS = {"uniform": spaced_logits, "zipf": zipf_logits}


@dataclass(eq=False)
class Problem:
    """Inputs of one layer; those of its operators follow from them when they are first asked."""

    s: Sizes
    x: Parameter  # [T, H]
    w_gate_up: Parameter | QuantizedWeight  # [E, 2F, H]
    w_down: Parameter | QuantizedWeight  # [E, H, F]
    logits: Parameter  # [T, E]
    router_scale: Parameter | None = None  # [E]
    weights: Parameter | None = None  # [T, K], where the gate's work is given: then no logits

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    @property
    def leaves(self) -> dict[str, Tensor]:
        """What gets a gradient."""
        last = "logits" if self.weights is None else "weights"
        return {name: getattr(self, name) for name in ("x", "w_gate_up", "w_down", last)}

    @cached_property
    def ids(self) -> Tensor:
        """``[T, K]`` int64, by the oracle: what peers get."""
        return reference_gate(self.logits.detach(), self.s.G, self.s.k)[1].long()

    @cached_property
    def used(self) -> int:
        """Experts that have a row."""
        return int((torch.bincount(self.ids.flatten(), minlength=self.s.E) > 0).sum())

    @cached_property
    def gating(self) -> moge_ops.Gating:
        with torch.no_grad():
            return moge_ops.grouped_gate(
                self.logits, self.s.G, self.s.k, router_scale=self.router_scale
            )

    @cached_property
    def routing(self) -> moge_ops.Routing:
        return moge_ops.route(self.gating.experts, self.s.E, num_groups=self.s.G)

    @cached_property
    def rows(self) -> Tensor:
        """``[N, H]``"""
        return moge_ops.permute(self.x.detach(), self.routing)

    @cached_property
    def gate_up(self) -> Tensor:
        """``[N, 2F]``"""
        return moge_ops.grouped_gemm(self.rows, self.w_gate_up.detach(), self.routing.offsets)

    @cached_property
    def act(self) -> Tensor:
        """``[N, F]``"""
        return moge_ops.swiglu(self.gate_up)

    @cached_property
    def out(self) -> Tensor:
        """``[N, H]``"""
        return moge_ops.grouped_gemm(self.act, self.w_down.detach(), self.routing.offsets)

    @property
    def index(self) -> int:
        """Bytes of one int32 or float32 for every slot."""
        return 4 * self.s.N

    @property
    def moved(self) -> int:
        """Bytes of one ``[T, H]`` and one ``[N, H]``."""
        return (self.s.T + self.s.N) * self.s.H * self.dtype.itemsize

    def operator(self, name: str) -> Operator:
        """The operator ``name`` at its inputs here."""
        found: Operator = importlib.import_module(f"bench_{name}").operator(self)
        return found


# root mean square of what random bits stand for, before the scale
SIZES = {"int8": 74.0, "int4": 4.6, "fp8": 0.6, "mxfp4": 2.9}
DIFFERENT = 11  # quantised experts; the others are copies, because a large layer takes minutes


def random_quantized(
    scheme: str, s: Sizes, device: str = "cpu", *, whole_rows: bool = False
) -> list[QuantizedWeight]:
    """``[E, 2F, H]`` and ``[E, H, F]`` of random bits; expert e is e modulo ``DIFFERENT``.

    What the peers' kernels know and no more: one group size for both products, blocks of fp8_w8a16
    that are counted through gate and up; ``whole_rows``: a scale for each of its rows instead.
    """
    different = torch.arange(s.E, device=device) % DIFFERENT
    D = min(s.E, DIFFERENT)
    group = {"fp8_w8a16": None if whole_rows else 128, "mxfp4_w4a16": 32}.get(scheme)
    if scheme == "int4_w4a16":
        group = next(n for n in (128, 64, 32) if s.H % n == s.F % n == 0)
    kind = scheme.partition("_")[0]

    def weight(O: int, I: int) -> QuantizedWeight:
        bits = 4 if kind in ("int4", "mxfp4") else 8
        words = torch.randint(-(2**63), 2**63 - 1, (D * O * I * bits // 64,), device=device)
        data = words.view(torch.int8).view(D, O, -1)[different]
        rows = math.gcd(O, 128) if kind == "fp8" and group else 1  # that share a scale
        shape = (D, O // rows, math.ceil(I / (group or I)))
        scale = (0.5 + torch.rand(shape, device=device)) * I**-0.5
        scale = (
            (scale[different] / SIZES[kind]).bfloat16().float()
        )  # in which some kernels keep scales
        if scheme == "int4_w4a16":
            data = data.view(torch.int32)
        elif kind == "fp8":  # below 2, and no NaN
            data = data.bitwise_and_(~0x40).view(torch.float8_e4m3fn)
        elif kind == "mxfp4":
            data, scale = data.view(torch.uint8), (scale.log2().round() + 127.0).to(torch.uint8)
        return QuantizedWeight(data, scale, None, scheme, group)

    return [weight(2 * s.F, s.H), weight(s.H, s.F)]


def decoded(w: QuantizedWeight, dtype: torch.dtype) -> Tensor:
    """What a weight of :func:`random_quantized` stands for."""
    first: QuantizedWeight = tree_map_only(Tensor, lambda x: x[:DIFFERENT], w)
    return dequantize(first, dtype)[torch.arange(w.shape[0], device=w.device) % DIFFERENT]


def problem(
    s: Sizes,
    dtype: torch.dtype,
    device: str = "cpu",
    *,
    router: str = "uniform",
    scheme: str = "",
) -> Problem:
    """Random inputs at the scale of a trained layer's; the leaves are parameters."""

    def leaf(x: Tensor, scale: float = 1.0) -> Parameter:
        return Parameter(x.mul_(scale).to(dtype))  # in place: the weights of a layer are gigabytes

    logits = ROUTERS[router](s.T, s.E, dtype).to(device)
    if scheme:
        x = leaf(torch.randn(s.T, s.H))
        return Problem(s, x, *random_quantized(scheme, s), leaf(logits))
    return Problem(
        s,
        leaf(torch.randn(s.T, s.H, device=device)),
        leaf(torch.randn(s.E, 2 * s.F, s.H, device=device), s.H**-0.5),
        leaf(torch.randn(s.E, s.H, s.F, device=device), s.F**-0.5),
        leaf(logits),
    )
