"""Modules that own parameters."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moge_ops import _checks, _null
from moge_ops._frozen import FrozenWeight
from moge_ops._pooled import PooledWeight
from moge_ops.ops._activation import WEIGHT_ON, Activation, checked
from moge_ops.ops._layer import applied
from moge_ops.ops._round_tokens import ROUND_MODES, round_tokens
from moge_ops.ops.grouped_gate import SCORES, Gating, gate_and_route, grouped_gate
from moge_ops.ops.grouped_mlp import grouped_mlp
from moge_ops.ops.route import Routing, route

__all__ = ["FrozenWeight", "MoGE", "MoGEOutput", "PooledWeight"]


class MoGEOutput(NamedTuple):
    """What :class:`MoGE` returns with ``return_routing``."""

    y: Tensor
    """``[..., H]``."""
    logits: Tensor
    """``[T, E]``, or ``[T, E + G·n]`` with n null experts in each group."""
    gating: Gating
    """The weights, the chosen experts and their counts; with null experts those of outputs."""


class MoGE(nn.Module):
    r"""A Mixture of Grouped Experts layer: router, grouped gate, routed and shared experts.

    .. math:: y = \mathrm{shared}(x) + \sum_{c=1}^{K} w_c\,\mathrm{expert}_{e_c}(x)

    with the experts :math:`e_c` and weights :math:`w_c` of :func:`moge_ops.grouped_gate` on
    ``x @ gate.T``. Every token takes exactly k experts from each of the G groups; a group is E/G
    neighbouring experts.

    With ``num_null=n`` the router of each group has n more outputs, after those of its experts. A
    token still chooses k outputs of each group, and a null one, which AdaMoE calls a null expert,
    is no work and adds nothing: a token takes from 0 to K experts. ``logits`` and ``gating`` then
    are of the E + G·n outputs, and the weights of null slots are 0;
    :func:`moge_ops.load_balance_loss_from_probs` keeps the null outputs in use. If all outputs are
    chosen equally often, a token takes K · E / (E + G·n) experts on average: choose k and n so.

    Attributes:
        gate: ``[E, H]``, the router; ``[E + G·n, H]`` with null experts.
        router_scale: ``[E]``, ones at first; None if ``router_scale=False``.
        w_gate_up: ``[E, 2F, H]``, gate half first, or a :class:`FrozenWeight`, which
            :func:`moge_ops.quant.quantize_experts` puts there, or a :class:`PooledWeight`, which
            :func:`moge_ops.offload.load` does.
        w_down: ``[E, H, F]``, or as ``w_gate_up``.
        shared_gate_up: ``[2S, H]``; None if ``shared_size`` is 0.
        shared_down: ``[H, S]``; None if ``shared_size`` is 0.
        bias: Buffer with an entry for each row of ``gate``, zeros at first, added to the scores for
            selection only; None unless ``selection_bias``.
        expert_mask: Buffer ``[E]`` bool, as in :func:`moge_ops.grouped_gate`; None at first. Assign
            a mask to switch experts off. It is not in the state dict.

    Args:
        hidden_size: H, width of a token.
        expert_size: F, width of one routed expert.
        num_experts: E, number of routed experts.
        num_groups: G, must divide E.
        k: Experts that a token takes from each group, at most E/G, or E/G + n with null experts.
        shared_size: S, width of the shared expert; 0 for no shared expert.
        score, renormalize, scaling: As in :func:`moge_ops.grouped_gate`.
        router_scale: Whether the layer learns a factor for each expert, as Pangu Pro MoE does.
        selection_bias: Whether the layer has ``bias``.
        num_voted: Experts of each group that the votes of the batch leave in use, as in
            :func:`moge_ops.grouped_gate`; None for no vote. The attribute may change at any time.
        num_null: n, null experts of each group. ``renormalize`` divides by the scores of a token's
            true experts alone, as AdaMoE's released code does; without it the weights are the
            shares of a softmax over all outputs. A layer with null experts has neither votes nor
            rounding.
        weight_on: As in :func:`moge_ops.grouped_mlp`.
        activation: As in :func:`moge_ops.grouped_mlp`, of the shared expert too. Without a gate
            ``w_gate_up`` is ``[E, F, H]``. The attribute is checked whenever it changes.
        round_to: The tile of :func:`moge_ops.round_tokens`: in training mode the number of rows
            of every expert is a multiple of it, and padding takes no expert. A choice that
            ``routing`` gives is not rounded, nor one of experts in a pool. What the layer reports
            is still the router's own choice. An expert with less than half a tile of rows loses
            them with ``"nearest"``: in a batch where all have so few, only a shared expert adds to
            the output. None for no rounding. The attribute may change at any time.
        round_mode: As ``mode`` there.
        device, dtype: Of all parameters and of ``bias``.
        router_dtype: Of ``gate``, ``router_scale`` and ``bias``, if it is another: float32 beside
            bfloat16 experts, because a small error of a logit may choose another expert. The router
            computes in the dtype of ``gate``, under autocast too.

    Raises:
        TypeError, ValueError: A size is not a positive int, G, k and E do not fit, a layer with
            null experts has votes or rounding, or ``round_mode`` is unknown.

    Source:
        Tang et al. 2025, "Pangu Pro MoE", section 2.1 (arXiv:2505.21411). The router in higher
        precision: Fedus et al. 2021, "Switch Transformers", section 2.4 (arXiv:2101.03961);
        DeepSeek-V3 keeps its gates in their original precision, section 3.3 (arXiv:2412.19437).
        Null experts: Zeng et al. 2024, "AdaMoE" (arXiv:2406.13233); those of several groups are
        ours.
    """

    def __init__(
        self,
        hidden_size: int,
        expert_size: int,
        num_experts: int,
        num_groups: int,
        k: int = 1,
        *,
        shared_size: int = 0,
        score: str = "softmax",
        renormalize: bool = False,
        scaling: float = 1.0,
        router_scale: bool = True,
        selection_bias: bool = False,
        num_voted: int | None = None,
        num_null: int = 0,
        weight_on: str = "output",
        activation: str | Activation = "silu",
        round_to: int | None = None,
        round_mode: str = "nearest",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        router_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _checks.integer("hidden_size", hidden_size, least=1, most=_checks.MOST_SIZE)
        _checks.integer("expert_size", expert_size, least=1, most=_checks.MOST_SIZE)
        _checks.integer("num_experts", num_experts, least=1, most=_checks.MOST_SIZE)
        _checks.integer("shared_size", shared_size, least=0, most=_checks.MOST_SIZE)
        _checks.integer("num_null", num_null, least=0, most=_checks.MOST_SIZE)
        _checks.groups(num_experts, num_groups, k, num_null=num_null)
        outputs = num_experts + num_groups * num_null
        _checks.choice("score", score, SCORES)
        _checks.choice("weight_on", weight_on, WEIGHT_ON)
        self.num_groups, self.k = num_groups, k
        self.score, self.renormalize, self.scaling = score, renormalize, scaling
        if num_voted is not None:
            _checks.voted(num_voted, k, num_experts // num_groups)
        self.num_voted, self.num_null, self.weight_on = num_voted, num_null, weight_on
        if round_to is not None:
            _checks.integer("round_to", round_to, least=1, most=_checks.MOST_SIZE)
        _checks.choice("round_mode", round_mode, ROUND_MODES)
        self.round_to, self.round_mode = round_to, round_mode
        self._check_null()
        self.activation = activation
        halves = 2 if self.activation.gated else 1

        of_router = dtype if router_dtype is None else router_dtype

        def parameter(*shape: int, dtype: torch.dtype | None = dtype) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        H, E, F_ = hidden_size, num_experts, expert_size
        self.gate = parameter(outputs, H, dtype=of_router)
        self.router_scale = parameter(E, dtype=of_router) if router_scale else None
        self.w_gate_up: nn.Parameter | FrozenWeight | PooledWeight = parameter(E, halves * F_, H)
        self.w_down: nn.Parameter | FrozenWeight | PooledWeight = parameter(E, H, F_)
        self.shared_gate_up = parameter(halves * shared_size, H) if shared_size else None
        self.shared_down = parameter(H, shared_size) if shared_size else None
        bias = torch.empty(outputs, device=device, dtype=of_router) if selection_bias else None
        self.register_buffer("bias", bias)
        self.register_buffer("expert_mask", None, persistent=False)
        self.reset_parameters()

    @property
    def activation(self) -> Activation:
        """What stands between the two products, of the shared expert too."""
        return self._activation

    @activation.setter
    def activation(self, activation: str | Activation) -> None:
        self._activation = checked(activation, None)

    def reset_parameters(self) -> None:
        """Draws the weights as ``nn.Linear`` does: uniform within 1/sqrt(inputs)."""
        weights = (self.gate, self.w_gate_up, self.w_down, self.shared_gate_up, self.shared_down)
        for weight in weights:
            if isinstance(weight, Tensor):
                bound = 1.0 / math.sqrt(weight.shape[-1])
                nn.init.uniform_(weight, -bound, bound)
        if self.router_scale is not None:
            nn.init.ones_(self.router_scale)
        if isinstance(self.bias, Tensor):
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        """Sizes and options, for ``print``."""
        E, H, F_ = self.w_down.shape
        shared = 0 if self.shared_down is None else self.shared_down.shape[1]
        other = "" if self.activation == Activation() else f", activation={self.activation}"
        return (
            f"hidden_size={H}, expert_size={F_}, num_experts={E}, num_groups={self.num_groups}, "
            f"k={self.k}, shared_size={shared}, score={self.score!r}, "
            f"renormalize={self.renormalize}, weight_on={self.weight_on!r}{other}"
            + (f", num_null={self.num_null}" if self.num_null else "")
            + (
                f", round_to={self.round_to}, round_mode={self.round_mode!r}"
                if self.round_to
                else ""
            )
        )

    def router_weights(self) -> tuple[Tensor, Tensor | None]:
        """``gate [E, H]`` and ``router_scale [E]``, or None, as the router uses them."""
        return self.gate, self.router_scale

    def router(
        self, x: Tensor, row_mask: Tensor | None = None, experts: Tensor | None = None
    ) -> tuple[Tensor, Gating]:
        """Logits ``[T, E]`` and gating of tokens ``x [T, H]``.

        ``row_mask [T]`` says which of them vote; ``experts [T, K]`` is the choice, if it is made.
        """
        return self._router(grouped_gate, x, row_mask, experts)

    def _check_null(self) -> None:
        """Raises ValueError if something is on that does not know null experts."""
        for name in ("num_voted", "round_to"):
            if self.num_null and getattr(self, name) is not None:
                raise ValueError(
                    f"{name} must be None in a layer with null experts, got {getattr(self, name)}"
                )

    def _router(
        self, choose: Callable[..., Any], x: Tensor, row_mask: Tensor | None, experts: Tensor | None
    ) -> tuple[Tensor, Any]:
        gate, router_scale = self.router_weights()
        with _checks.no_autocast(x):
            logits = F.linear(x.to(gate.dtype), gate)
        if self.num_null:
            gating, rows = self._with_null(logits, router_scale, experts)
            return logits, gating if choose is grouped_gate else (gating, rows)
        return logits, choose(
            logits,
            self.num_groups,
            self.k,
            score=self.score,
            bias=self.bias if isinstance(self.bias, Tensor) else None,
            router_scale=router_scale,
            renormalize=self.renormalize,
            scaling=self.scaling,
            expert_mask=self.expert_mask if isinstance(self.expert_mask, Tensor) else None,
            num_voted=self.num_voted,
            row_mask=None if self.num_voted is None else row_mask,
            experts=experts,
        )

    def _with_null(
        self, logits: Tensor, router_scale: Tensor | None, experts: Tensor | None
    ) -> tuple[Gating, Routing]:
        """The gating among the E + G·n outputs, and the rows of its true experts."""
        self._check_null()
        G, n, mask = self.num_groups, self.num_null, self.expert_mask
        gating = grouped_gate(
            logits,
            G,
            self.k,
            score=self.score,
            bias=self.bias if isinstance(self.bias, Tensor) else None,
            expert_mask=_null.with_null(mask, G, n) if isinstance(mask, Tensor) else None,
            experts=experts,
        )
        ids, E = _null.true_ids(gating.experts, logits.shape[1], G, n), self.w_down.shape[0]
        how = (router_scale, self.renormalize, self.scaling)
        gating = _null.weights_of_true(gating, ids, E, *how)
        return gating, route(ids, E, num_groups=None if experts is not None else G)

    def given(self, routing: Tensor | None, tokens: Sequence[int]) -> Tensor | None:
        """``routing`` ``[*tokens, K]``, or flat already, as ids ``[T, K]``."""
        if routing is None:
            return None
        _checks.tensor("routing", routing, "[..., K]")
        K, T = self.num_groups * self.k, math.prod(tokens)
        if routing.shape not in ((*tokens, K), (T, K)):
            raise ValueError(
                f"routing must be [..., K] = {[*tokens, K]} like x, or [T, K] = {[T, K]}, got "
                f"{list(routing.shape)}"
            )
        if routing.dtype not in _checks.IDS:
            raise TypeError(f"routing must be int32 or int64, got {routing.dtype}")
        return routing.reshape(T, K)

    def counted(self, row_mask: Tensor | None) -> Tensor | None:
        """``[T]`` bool: which rows of the reported gating count in statistics; None for all."""
        return None if row_mask is None else row_mask.flatten()

    def forward(
        self,
        x: Tensor,
        *,
        return_routing: bool = False,
        row_mask: Tensor | None = None,
        routing: Tensor | None = None,
    ) -> Tensor | MoGEOutput:
        """Applies the layer to every token.

        Args:
            x: ``[..., H]``, in the dtype of the experts; under autocast in any.
            return_routing: Also return the router's logits and the gating, for a balance loss.
            row_mask: ``[...]`` bool, false at padding: it does not vote, and
                :class:`moge_ops.statistics.RouterStatistics` leaves it out.
            routing: ``[..., K]`` or ``[T, K]``, int32 | int64: ids of the experts that each token
                takes, as a rollout chose them. The router then makes no choice, but gives these
                their weights: ``experts`` of :func:`moge_ops.grouped_gate`.

        Returns:
            ``[..., H]``, or a :class:`MoGEOutput`.

        Raises:
            TypeError: ``x``, ``row_mask`` or ``routing`` is not a dense tensor, or of another
                dtype.
            ValueError: The last dimension of ``x`` is not H, or ``row_mask`` or ``routing`` does
                not fit; or a gradient is needed where the experts are in a pool.
            OSError: An expert cannot be read.
        """
        H = self.gate.shape[1]
        _checks.tensor("x", x, "[..., H]")
        if x.ndim < 1 or x.shape[-1] != H:
            raise ValueError(f"x must be [..., H={H}], got {list(x.shape)}")
        if row_mask is not None:
            _checks.shape("row_mask", row_mask, "[...]", tuple(x.shape[:-1]))
            if row_mask.dtype != torch.bool:
                raise TypeError(f"row_mask must be bool, got {row_mask.dtype}")
        w_gate_up, w_down = (
            w if isinstance(w, Tensor) else w.weight for w in (self.w_gate_up, self.w_down)
        )
        # quantised weights take any float; what else has a dtype is the shared expert's, or nothing
        like = next((w for w in (w_down, self.shared_down) if isinstance(w, Tensor)), None)
        if like is not None:
            _checks.parameters_take("x", x, like)
        tokens = x.reshape(-1, H)  # [T, H]
        voters = None if row_mask is None else row_mask.flatten()
        given = self.given(routing, x.shape[:-1])
        if isinstance(self.w_down, PooledWeight):
            logits, gating = self._router(grouped_gate, tokens, voters, given)
            y = self._pooled(self.w_down, tokens, gating)
        else:
            logits, (gating, rows) = self._router(gate_and_route, tokens, voters, given)
            weights = gating.weights
            if self.training and self.round_to is not None and given is None:
                weights, ids, _ = self._rounded(self.round_to, logits, gating.experts, voters)
                rows = route(ids, logits.shape[1])
            y = self._experts(tokens, w_gate_up, w_down, weights, rows)
            shared = self._shared(tokens)
            y = y if shared is None else y + shared
        y = y.reshape(x.shape)
        return MoGEOutput(y, logits, gating) if return_routing else y

    def _rounded(
        self, tile: int, logits: Tensor, experts: Tensor, row_mask: Tensor | None
    ) -> Gating:
        """``[T, E], [T, K]`` -> the gating that gives every expert whole tiles."""
        if row_mask is not None:
            experts = experts.masked_fill(~row_mask.unsqueeze(1), -1)
        return round_tokens(
            logits,
            experts,
            tile,
            num_groups=self.num_groups,
            mode=self.round_mode,
            score=self.score,
            router_scale=self.router_weights()[1],
            renormalize=self.renormalize,
            scaling=self.scaling,
        )

    def _pooled(self, place: PooledWeight, x: Tensor, gating: Gating) -> Tensor:
        """``[T, H] -> [T, H]``, by experts that come into slots of a pool."""
        if torch.is_grad_enabled() and (x.requires_grad or gating.weights.requires_grad):
            raise ValueError(
                "a layer whose experts are in a pool must need no gradient, as others take their "
                "slots before a backward pass: call it under torch.no_grad()"
            )
        with place.pool.taken(place.layer, x, gating) as experts:
            shared = self._shared(x)  # while they come
            w_gate_up, w_down, ids = experts()
            rows = route(ids, w_down.shape[0])
            y = self._experts(x, w_gate_up, w_down, gating.weights, rows)
        return y if shared is None else y + shared

    def _experts(self, x: Tensor, *layer: Any) -> Tensor:
        """:func:`moge_ops.grouped_mlp` with the layer's options."""
        return grouped_mlp(x, *layer, weight_on=self.weight_on, activation=self.activation)

    def _shared(self, x: Tensor) -> Tensor | None:
        """``[T, H] -> [T, H]``, by the shared expert; None if there is none."""
        if self.shared_gate_up is None or self.shared_down is None:
            return None
        act = applied(F.linear(x, self.shared_gate_up), self.activation)
        return F.linear(act, self.shared_down)
