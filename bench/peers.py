"""Implementations that are timed side by side, all of one signature.

Each is ``experts_of(problem) -> run(x, w_gate_up, w_down, logits) -> y``. Ours chooses its experts
from the logits; a peer gets the chosen ids for nothing and computes their weights its own way, a
softmax and a gather, as a Hugging Face router does.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from harness import Sizes
from torch import Tensor
from torch.nn import Parameter

import moge_ops
from moge_ops.reference.grouped_gate import grouped_gate as reference_gate
from moge_ops.reference.grouped_mlp import grouped_mlp as reference_mlp
from moge_ops.reference.route import route as reference_route
from moge_ops.testing import spaced_logits

Run = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

# batched_mm copies the weights of every slot; past this it measures only the machine's memory
MOST_COPIED = 4 * 2**30


class Problem(NamedTuple):
    """Inputs of one point of the matrix."""

    s: Sizes
    x: Parameter  # [T, H]
    w_gate_up: Parameter  # [E, 2F, H]
    w_down: Parameter  # [E, H, F]
    logits: Parameter  # [T, E]
    ids: Tensor  # [T, K] int64

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What gets a gradient."""
        return self.x, self.w_gate_up, self.w_down, self.logits


def problem(s: Sizes, dtype: torch.dtype, device: str = "cpu") -> Problem:
    """Random inputs at the scale of a trained layer's; the leaves are parameters."""

    def leaf(x: Tensor, scale: float = 1.0) -> Parameter:
        return Parameter((x * scale).to(dtype))

    logits = spaced_logits(s.T, s.E, dtype).to(device)
    return Problem(
        s,
        leaf(torch.randn(s.T, s.H, device=device)),
        leaf(torch.randn(s.E, 2 * s.F, s.H, device=device), s.H**-0.5),
        leaf(torch.randn(s.E, s.H, s.F, device=device), s.F**-0.5),
        leaf(logits),
        reference_gate(logits, s.G, s.k)[1].long(),
    )


def oracle(p: Problem) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """``y``, the gradients of the leaves for a random ``d_y``, and that ``d_y`` in their dtype."""
    wide = [x.detach().double().requires_grad_() for x in p.leaves]
    x, w_gate_up, w_down, logits = wide
    weights, experts, _ = reference_gate(logits, p.s.G, p.s.k)
    y = reference_mlp(x, w_gate_up, w_down, weights, *reference_route(experts, p.s.E))
    d_y = torch.randn_like(p.x)
    grads = torch.autograd.grad(y, wide, d_y.double())
    return y.detach(), grads, d_y


def ours(p: Problem) -> Run:
    def run(x: Tensor, w_gate_up: Tensor, w_down: Tensor, logits: Tensor) -> Tensor:
        weights, experts, _ = moge_ops.grouped_gate(logits, p.s.G, p.s.k)
        routing = moge_ops.route(experts, p.s.E, num_groups=p.s.G)
        return moge_ops.grouped_mlp(x, w_gate_up, w_down, weights, routing)

    return run


def _weights(logits: Tensor, ids: Tensor) -> Tensor:
    return logits.softmax(-1, dtype=torch.float32).gather(-1, ids).to(logits.dtype)


def hugging_face(implementation: str) -> Callable[[Problem], Run]:
    """The experts of Qwen3-MoE under one of transformers' implementations."""

    def experts_of(p: Problem) -> Run:
        from transformers import Qwen3MoeConfig
        from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

        config = Qwen3MoeConfig(
            hidden_size=p.s.H,
            moe_intermediate_size=p.s.F,
            num_experts=p.s.E,
            num_experts_per_tok=p.s.K,
        )
        config._experts_implementation = implementation
        with torch.device("meta"):
            experts: Any = Qwen3MoeExperts(config)  # type: ignore[no-untyped-call]
        experts.gate_up_proj, experts.down_proj = p.w_gate_up, p.w_down

        def run(x: Tensor, w_gate_up: Tensor, w_down: Tensor, logits: Tensor) -> Tensor:
            y: Tensor = experts(x, p.ids, _weights(logits, p.ids))
            return y

        return run

    return experts_of


def torch_grouped_mm(p: Problem) -> Run:
    """``F.grouped_mm`` between a sort and a scatter."""

    def run(x: Tensor, w_gate_up: Tensor, w_down: Tensor, logits: Tensor) -> Tensor:
        weights = _weights(logits, p.ids)
        order = p.ids.flatten().argsort(stable=True)  # [N]
        ends = torch.bincount(p.ids.flatten(), minlength=p.s.E).cumsum(0).int()  # [E]
        token = order // p.s.K
        gate, up = F.grouped_mm(x[token], w_gate_up.mT, offs=ends).chunk(2, dim=-1)
        out = F.grouped_mm(F.silu(gate) * up, w_down.mT, offs=ends)  # [N, H]
        out = out * weights.flatten()[order].unsqueeze(-1)
        return torch.zeros_like(x).index_add(0, token, out)

    return run


OURS = "moge_ops"
HUGGING_FACE = {f"hf {name}": name for name in ("eager", "batched_mm", "grouped_mm")}
VARIANTS: dict[str, Callable[[Problem], Run]] = {
    OURS: ours,
    **{name: hugging_face(implementation) for name, implementation in HUGGING_FACE.items()},
    "torch grouped_mm": torch_grouped_mm,
}


def too_large(variant: str, s: Sizes, dtype: torch.dtype) -> str:
    """Why a variant is left out at these sizes; empty if it is not."""
    copied = s.N * 3 * s.F * s.H * dtype.itemsize
    if variant == "hf batched_mm" and copied > MOST_COPIED:
        return (
            f"not run: copies the weights of all {s.N} slots, {copied / 2**30:.1f} GiB in the "
            f"forward alone (limit {MOST_COPIED / 2**30:g})"
        )
    return ""
