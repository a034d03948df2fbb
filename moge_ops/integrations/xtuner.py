"""XTuner: its two grouped routers on the fused gate, by one call in a config file or script.

::

    from moge_ops.integrations import xtuner

    xtuner.register()  # ['GreedyGroupedRouter', 'NoAuxGroupedRouter']: these run on moge_ops now

XTuner has no plug-ins, so that every process which builds or runs a model has to call it. The
trainers' processes read the config file and do. The workers of XTuner's reinforcement learning do
not: they get the config pickled. With ``GreedyRouterConfig`` and ``NoAuxRouterConfig`` of
this module in it, in place of XTuner's own, they call it when they build the model.

``MOGE_OPS_XTUNER=0`` switches all of it off. Tested with XTuner's router files of git commit
b934f462 on a CPU; ``docs/engines/xtuner.md`` says what was not.
"""

import importlib
import inspect
import os
import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moge_ops.integrations import _engines
from moge_ops.ops.grouped_gate import grouped_gate

__all__ = ["GreedyGroupedRouter", "NoAuxGroupedRouter", "register"]

TINY = 1e-20  # what XTuner adds to the sum that it divides by
HOME = "xtuner.v1.module.router"
CONFIGS = ("GreedyRouterConfig", "NoAuxRouterConfig")
RESULTS = {"logits", "router_weights", "topk_weights", "topk_ids", "topkens_per_expert"}
PARAMETERS = ["self", "logits", "rollout_routed_experts"]


def _noisy(x: Tensor) -> Tensor:
    """``x`` under so much noise that the choice is random, where XTuner's variable asks for it."""
    if os.environ.get("XTUNER_ROUTER_DEBUG") == "true":
        return x + torch.randn_like(x) * 50
    return x


def _gated(
    router: Any,
    logits: Tensor,
    given: Tensor | None,
    dtype: torch.dtype,
    *,
    renormalize: bool,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights ``[T, K]`` in ``dtype``, ids ``[T, K]`` int64 or as given, counts ``[E]``."""
    E, G, K = router.n_routed_experts, router.router_n_groups, router.top_k
    if logits.ndim != 2 or logits.shape[1] != E:
        raise ValueError(
            f"logits must be [T, n_routed_experts={E}], got {list(logits.shape)}: the gate and the "
            "router's config must have the same number of experts"
        )
    if K % G:
        raise ValueError(
            f"num_experts_per_tok must be a multiple of router_n_groups={G}, got {K}: a grouped "
            "router takes the same number of experts from every group; change one of the two"
        )
    if given is not None and given.shape != (len(logits), K):
        raise ValueError(
            f"rollout_routed_experts must be [T, num_experts_per_tok] = [{len(logits)}, {K}], got "
            f"{list(given.shape)}"
        )
    scaling = float(router.router_scaling_factor)
    # the largest of E softmax scores is at least 1 / E, and the router's own choice contains it:
    # beside their sum TINY is lost in the rounding, and the kernel may divide
    by_kernel = renormalize and router.scoring_func != "sigmoid" and given is None
    gating = grouped_gate(
        logits,
        G,
        K // G,
        score="sigmoid" if router.scoring_func == "sigmoid" else "softmax",
        bias=bias,
        renormalize=by_kernel,
        scaling=1.0 if renormalize and not by_kernel else scaling,
        experts=given,
    )
    weights = gating.weights
    if renormalize and not by_kernel:
        weights = weights / (weights.sum(-1, keepdim=True) + TINY) * scaling
    ids = gating.experts.long() if given is None else given
    return weights.to(dtype), ids, gating.counts


class GreedyGroupedRouter(nn.Module):
    """XTuner's ``GreedyGroupedRouter``: the best K/G of each group by softmax or sigmoid.

    It computes what XTuner's own class does, for every K that G divides, where that one asserts
    K = 8. Where the chosen scores add up to less than about 1e-15, XTuner's 1e-20 in the
    denominator shrinks the weights, to zero where all scores underflow. That is kept: such weights
    do not add up to ``router_scaling_factor``. It needs logits below -34 under a sigmoid, or
    replayed experts that the softmax has given up.

    Args:
        n_routed_experts: E, number of experts.
        num_experts_per_tok: K, a multiple of G.
        router_n_groups: G, a divisor of E.
        norm_topk_prob: Divides a token's weights by their sum + 1e-20.
        scoring_func: ``"softmax"`` or ``"sigmoid"``.
        router_scaling_factor: Factor of all weights.

    Source:
        xtuner/v1/module/router/greedy.py, commit b934f462.
    """

    def __init__(
        self,
        *,
        n_routed_experts: int,
        num_experts_per_tok: int,
        router_n_groups: int,
        norm_topk_prob: bool = True,
        scoring_func: str = "softmax",
        router_scaling_factor: float = 1.0,
    ):
        super().__init__()
        self.n_routed_experts = n_routed_experts
        self.top_k = num_experts_per_tok
        self.router_n_groups = router_n_groups
        self.norm_topk_prob = norm_topk_prob
        self.scoring_func = scoring_func
        self.router_scaling_factor = router_scaling_factor

    # XTuner's instances run this function too, once register() was called: they have the attributes
    # above, and no method of this class
    def forward(
        self, logits: Tensor, rollout_routed_experts: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Routes tokens.

        Args:
            logits: ``[T, E]``, any float dtype.
            rollout_routed_experts: ``[T, K]``, int32 | int64: the experts to use, none is chosen.

        Returns:
            XTuner's ``RouterResults``: ``logits``; ``router_weights``, the scores ``[T, E]``,
            float32 for the softmax; ``topk_weights`` ``[T, K]``, of the same dtype, with their
            gradient; ``topk_ids`` ``[T, K]``, int64, or the given ones; ``topkens_per_expert``
            ``[E]``, in the dtype of the ids.

        Raises:
            ValueError: The logits or K do not fit the router's E and G.
        """
        logits = _noisy(logits)
        if self.scoring_func == "sigmoid":
            scores = logits.sigmoid()
        else:
            scores = F.softmax(logits, dim=-1, dtype=torch.float32)
        weights, ids, counts = _gated(
            self, logits, rollout_routed_experts, scores.dtype, renormalize=self.norm_topk_prob
        )
        return {
            "logits": logits,
            "router_weights": scores,
            "topk_weights": weights,
            "topk_ids": ids,
            "topkens_per_expert": counts.to(ids.dtype),
        }


class NoAuxGroupedRouter(nn.Module):
    """XTuner's ``NoAuxGroupedRouter``: a bias takes part in the choice, and not in the weights.

    In the buffer ``e_score_correction_bias`` ``[E]``, float32, the training loop keeps what it adds
    to the sigmoids. Any K that G divides; 1e-20 as in :class:`GreedyGroupedRouter`.

    Args:
        n_routed_experts: E, number of experts.
        num_experts_per_tok: K, a multiple of G.
        router_scaling_factor: Factor of all weights.
        router_n_groups: G, a divisor of E.
        scoring_func: ``"sigmoid"``; XTuner has no other here.
        n_group: Of the router without groups; has no part, in XTuner neither.
        topk_group: The same.
        norm_topk_prob: Divides a token's weights by their sum + 1e-20, if K > 1.
        router_bias_update_speed: The training loop's; has no part in the router.

    Source:
        xtuner/v1/module/router/noaux_router.py, commit b934f462.
    """

    e_score_correction_bias: Tensor

    def __init__(
        self,
        *,
        n_routed_experts: int,
        num_experts_per_tok: int,
        router_scaling_factor: float,
        router_n_groups: int,
        scoring_func: str,
        n_group: int,
        topk_group: int,
        norm_topk_prob: bool = True,
        router_bias_update_speed: float = 0.001,
    ):
        super().__init__()
        self.n_routed_experts = n_routed_experts
        self.top_k = num_experts_per_tok
        self.router_n_groups = router_n_groups
        self.norm_topk_prob = norm_topk_prob
        self.scoring_func = scoring_func
        self.router_scaling_factor = router_scaling_factor
        self.n_group = n_group
        self.topk_group = topk_group
        bias = torch.zeros(n_routed_experts, dtype=torch.float32)
        self.register_buffer("e_score_correction_bias", bias)

    def forward(
        self, logits: Tensor, rollout_routed_experts: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Routes tokens.

        Args:
            logits: ``[T, E]``, any float dtype.
            rollout_routed_experts: ``[T, K]``, int32 | int64: the experts to use, none is chosen.

        Returns:
            As :meth:`GreedyGroupedRouter.forward`, but ``router_weights`` are the biased scores
            divided by their sum, and ``topkens_per_expert`` is float32.

        Raises:
            NotImplementedError: ``scoring_func`` is not ``"sigmoid"``.
            ValueError: The logits or K do not fit the router's E and G.
        """
        if self.scoring_func != "sigmoid":
            raise NotImplementedError(
                f"scoring_func must be 'sigmoid', as in XTuner, got {self.scoring_func!r}"
            )
        scores, given, bias = logits.sigmoid(), rollout_routed_experts, self.e_score_correction_bias
        for_choice = scores + bias
        noisy = _noisy(scores)
        if noisy is not scores:
            for_choice = noisy
            if given is None:  # the gate takes no bias per token, so its softmax chooses by these
                k = self.top_k // self.router_n_groups
                # scaled down, as the exponentials of a softmax would vanish and tie
                spread = noisy.detach() / 50
                given = grouped_gate(spread, self.router_n_groups, k).experts.long()
        renormalize = self.norm_topk_prob and self.top_k > 1
        weights, ids, counts = _gated(
            self, logits, given, scores.dtype, renormalize=renormalize, bias=bias
        )
        return {
            "logits": logits,
            "router_weights": for_choice / for_choice.sum(-1, keepdim=True),
            "topk_weights": weights,
            "topk_ids": ids,
            "topkens_per_expert": counts.float(),
        }


def register() -> list[str]:
    """Lets XTuner's grouped routers run this module's ``forward``, in this process.

    Their classes stay: configs, checkpoints, ``isinstance`` and models that are built already are
    as before. More than one call does no harm. Where XTuner is not as this package knows it, there
    is a warning, and it runs with its own code.

    Returns:
        The names of the classes that run on moge_ops now; none with ``MOGE_OPS_XTUNER=0``.
    """
    if not _engines.wanted("xtuner"):
        return []
    done = []
    for home, ours in (
        (f"{HOME}.greedy", GreedyGroupedRouter),
        (f"{HOME}.noaux_router", NoAuxGroupedRouter),
    ):
        try:
            _engines.own_module(HOME)  # the same reason, and so one warning, where it fails
            theirs = _engines.own_class(home, ours.__name__)
            if vars(theirs).get("forward") is not ours.forward:
                _check(home, ours)
        except LookupError as error:
            _engines.leave("XTuner", "xtuner", str(error))
            continue
        theirs.forward = ours.forward
        done.append(ours.__name__)
    return done


def _check(home: str, ours: type[nn.Module]) -> None:
    """Raises LookupError, with the reason, if XTuner's class cannot run our ``forward``."""
    reads = {"n_routed_experts", "router_n_groups", "top_k", "norm_topk_prob", "scoring_func"}
    reads |= {"router_scaling_factor", *inspect.get_annotations(ours)}
    _engines.own_method(home, ours.__name__, "forward", parameters=PARAMETERS, reads=reads)
    results = getattr(sys.modules[home], "RouterResults", None)
    found = set(getattr(results, "__annotations__", ()))
    if found != RESULTS:
        raise LookupError(f"its RouterResults must have {sorted(RESULTS)}, got {sorted(found)}")


def __getattr__(name: str) -> Any:
    """The configs, which need XTuner, when they are asked for."""
    if name in CONFIGS:
        return getattr(importlib.import_module("moge_ops.integrations._xtuner_configs"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
