"""Layers that replace the ``forward`` of a model's routers and experts: `kernels.kernelize`.

tools/hub.py puts this file into each variant as ``layers.py``. A layer has no state and no method
but ``forward``, which kernelize binds to the module that it replaces: ``self`` is that module. The
annotations say which attributes it must have.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from moge_ops.ops.grouped_gate import grouped_gate
from moge_ops.ops.grouped_mlp import grouped_mlp
from moge_ops.ops.route import route

__all__ = ["GatedSiluExperts", "GroupedTopKRouter", "SoftmaxTopKRouter"]

# attributes that mean another layer, wherever a module has them with another value than this
_ROUTER = {
    "bias": None,
    "e_score_correction_bias": None,
    "routed_scaling_factor": 1.0,
    "scoring_func": "softmax",
}
_EXPERTS = {  # flags of transformers' use_experts_implementation
    "has_bias": False,
    "has_gate": True,
    "has_post_expert_norm": False,
    "is_concatenated": True,
    "is_transposed": False,
}


def _refuse(module: nn.Module, expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        got = getattr(module, name, value)
        if got is not value and (isinstance(got, Tensor) or got != value):
            shown = "a tensor" if isinstance(got, Tensor) else repr(got)
            raise ValueError(
                f"{type(module).__name__}.{name} must be {value!r} for this layer, got {shown}: "
                "map the class to another layer, or leave it as it is"
            )


def _routed(router: Any, hidden_states: Tensor, num_groups: int) -> tuple[Tensor, Tensor, Tensor]:
    _refuse(router, _ROUTER)
    for name in ("n_group", "num_group"):  # DeepSeek's routers choose some of these groups first
        groups = getattr(router, name, None)
        if groups is not None and groups > 1:
            raise ValueError(
                f"{type(router).__name__}.{name} must be 1 for this layer, got {groups}: no layer "
                "here chooses groups first, so leave the class as it is"
            )
    if num_groups < 1 or router.top_k % num_groups:
        raise ValueError(
            f"{type(router).__name__}.router_n_groups must be positive and divide top_k="
            f"{router.top_k}, got {num_groups}: map a router without groups to SoftmaxTopKRouter"
        )
    logits = F.linear(hidden_states.reshape(-1, router.weight.shape[1]), router.weight)
    k, renormalize = router.top_k // num_groups, bool(router.norm_topk_prob)
    gating = grouped_gate(logits, num_groups, k, renormalize=renormalize)
    return logits, gating.weights.to(logits.dtype), gating.experts.long()


class GroupedTopKRouter(nn.Module):
    """MoGE's router, as in Intern-S1-Pro: softmax over all experts, the best of each group.

    ``forward`` returns logits ``[T, E]``, weights ``[T, K]`` in their dtype, and experts ``[T, K]``
    int64, group after group. Ties go to the lowest expert id.
    """

    has_backward = True
    can_torch_compile = True

    weight: Tensor
    """``[E, H]``."""
    top_k: int
    """K, a multiple of the groups."""
    router_n_groups: int
    norm_topk_prob: bool

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``[..., H] -> [T, E], [T, K], [T, K]``."""
        return _routed(self, hidden_states, self.router_n_groups)


class SoftmaxTopKRouter(nn.Module):
    """The router of models without groups, such as Qwen3-MoE: the best K of all experts.

    ``forward`` returns what that of :class:`GroupedTopKRouter` does, the best expert first.
    """

    has_backward = True
    can_torch_compile = True

    weight: Tensor
    """``[E, H]``."""
    top_k: int
    norm_topk_prob: bool

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``[..., H] -> [T, E], [T, K], [T, K]``."""
        return _routed(self, hidden_states, 1)


class GatedSiluExperts(nn.Module):
    """Stacked SwiGLU experts, such as Qwen3-MoE's, without bias; ``down(silu(gate) * up)``.

    Ids outside ``[0, E)`` are dropped slots, which add nothing.
    """

    has_backward = True
    can_torch_compile = True

    gate_up_proj: Tensor
    """``[E, 2F, H]``, gate half first."""
    down_proj: Tensor
    """``[E, H, F]``."""
    act_fn: Callable[[Tensor], Tensor]

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """``[T, H], [T, K], [T, K] -> [T, H]``, in the dtype of ``hidden_states``."""
        _refuse(self, _EXPERTS)
        act, own_gate = self.act_fn, getattr(type(self), "_apply_gate", None)
        other = ""
        if own_gate is not None and own_gate.__name__ != "_default_apply_gate":
            other = f"{type(self).__name__}._apply_gate"
        elif act is not F.silu and type(act).__name__ not in ("SiLU", "SiLUActivation"):
            other = f"the activation {getattr(act, '__name__', type(act).__name__)}"
        if other:
            raise ValueError(
                f"the experts must be silu(gate) * up, got {other}: map the class to another "
                "layer, or leave it as it is"
            )
        routing = route(top_k_index, self.down_proj.shape[0])
        x = hidden_states.to(self.down_proj.dtype)
        y = grouped_mlp(x, self.gate_up_proj, self.down_proj, top_k_weights, routing)
        return y.to(hidden_states.dtype)
