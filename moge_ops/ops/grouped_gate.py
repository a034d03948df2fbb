"""The gate of MoGE: scores, and the best k experts of every group."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moge_ops import _backend, _checks
from moge_ops.ops.route import MAX_EXPERTS, MAX_ROWS, Routing, route, route_fwd
from moge_ops.reference.grouped_gate import grouped_gate as _reference

SCORES = ("softmax", "sigmoid", "sqrtsoftplus")


class Gating(NamedTuple):
    """What :func:`grouped_gate` chose."""

    weights: Tensor
    """``[T, K]``, float32, or float64 for float64 logits."""
    experts: Tensor
    """``[T, K]`` int32; column g·k + j is the j-th best expert of group g, unless given."""
    counts: Tensor
    """``[E]`` int32, rows of each expert."""


@_backend.define()
def grouped_gate_bwd(
    d_weights: Tensor,
    logits: Tensor,
    experts: Tensor,
    num_groups: int,
    score: str,
    router_scale: Tensor | None,
    renormalize: bool,
    scaling: float,
    given: bool,
) -> tuple[Tensor, Tensor]:
    """``[T, K], [T, E], [T, K] -> d_logits [T, E], d_router_scale [E]``, or [0] without one.

    With ``given``, ``experts`` may hold any ids, and a slot whose id is outside [0, E) has no part.
    """
    scales = logits.shape[1] if router_scale is not None else 0
    like = logits if router_scale is None else router_scale
    return logits.new_empty(logits.shape), like.new_empty(scales)


def _save(ctx: Any, inputs: Any, output: tuple[Tensor, ...]) -> None:
    _, experts, *_ = output
    ctx.save_for_backward(inputs.logits, experts, inputs.router_scale)
    options = ("num_groups", "score", "renormalize", "scaling")
    ctx.options = {name: getattr(inputs, name) for name in options}
    ctx.options["given"] = inputs.given is not None


def _backward(ctx: Any, d_weights: Tensor, *_: None) -> dict[str, Tensor | None]:
    logits, experts, router_scale = ctx.saved_tensors
    d_logits, d_router_scale = grouped_gate_bwd(
        d_weights, logits, experts, router_scale=router_scale, **ctx.options
    )
    return {
        "logits": d_logits,
        "router_scale": None if router_scale is None else d_router_scale,
    }


@_backend.define(save=_save, backward=_backward)
def grouped_gate_fwd(
    logits: Tensor,
    num_groups: int,
    k: int,
    score: str,
    bias: Tensor | None,
    router_scale: Tensor | None,
    renormalize: bool,
    scaling: float,
    given: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``[T, E] -> weights [T, K], experts [T, K] int32, counts [E] int32``.

    ``given`` ``[T, K]`` int32 | int64 is taken for the choice; ids outside [0, E) become -1.
    """
    T, E = logits.shape
    K = num_groups * k
    weights = logits.new_empty(T, K, dtype=torch.promote_types(logits.dtype, torch.float32))
    experts = logits.new_empty(T, K, dtype=torch.int32)
    return weights, experts, logits.new_empty(E, dtype=torch.int32)


def _one_by_one(
    logits: Tensor, num_groups: int, *options: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """:func:`grouped_gate_and_route_fwd` in two launches, where a backend has none for both."""
    weights, experts, counts = grouped_gate_fwd(logits, num_groups, *options)
    given = options[-1] is not None
    rows = route_fwd(experts, logits.shape[1], None if given else num_groups)
    return weights, experts, counts, *rows


@_backend.define(save=_save, backward=_backward, otherwise=_one_by_one)
def grouped_gate_and_route_fwd(
    logits: Tensor,
    num_groups: int,
    k: int,
    score: str,
    bias: Tensor | None,
    router_scale: Tensor | None,
    renormalize: bool,
    scaling: float,
    given: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What :func:`grouped_gate_fwd` returns, and what ``route_fwd`` makes of its experts."""
    T, E = logits.shape
    K = num_groups * k
    weights = logits.new_empty(T, K, dtype=torch.promote_types(logits.dtype, torch.float32))
    ids = logits.new_empty(T, K, dtype=torch.int32)
    rows = ids.new_empty(T * K)
    return weights, ids, ids.new_empty(E), rows, ids.new_empty(T, K), ids.new_empty(E + 1)


def _without(logits: Tensor, bias: Tensor | None, expert_mask: Tensor) -> Tensor:
    """``bias``, -inf where an expert is off."""
    if bias is None:
        bias = logits.new_zeros(logits.shape[1], dtype=torch.float32)
    return bias.detach().masked_fill(~expert_mask, -math.inf)


def _voted(
    logits: Tensor,
    num_groups: int,
    score: str,
    bias: Tensor | None,
    expert_mask: Tensor | None,
    num_voted: int,
    row_mask: Tensor | None,
) -> Tensor:
    """``[E]`` bool: the ``num_voted`` experts of each group that most rows prefer."""
    _, best, counts = grouped_gate_fwd(
        logits.detach(),
        num_groups,
        k=1,
        score=score,
        bias=bias,
        router_scale=None,
        renormalize=False,
        scaling=1.0,
        given=None,
    )
    P = logits.shape[1] // num_groups
    places = torch.arange(P, device=logits.device)
    votes = counts.view(num_groups, P)
    if row_mask is not None:
        hits = (best % P).unsqueeze(-1) == places  # [T, G, P]
        votes = (hits & row_mask.view(-1, 1, 1)).sum(0)
    # as an index breaks the ties, no two are equal, and the n-th of a group bounds the first n
    order = votes.long() * P - places
    if expert_mask is not None:  # after those that are on, even without a vote
        order = order.masked_fill(~expert_mask.view_as(order), -P)
    kept: Tensor = order >= order.topk(num_voted).values[:, -1:]
    return kept.flatten()


def _choose(
    with_rows: bool,
    logits: Tensor,
    num_groups: int,
    k: int,
    score: str,
    bias: Tensor | None,
    router_scale: Tensor | None,
    renormalize: bool,
    scaling: float,
    expert_mask: Tensor | None,
    num_voted: int | None,
    row_mask: Tensor | None,
    experts: Tensor | None,
) -> tuple[Tensor, ...]:
    """What :func:`grouped_gate` returns, and ``with_rows`` the parts of its :class:`Routing`."""
    specs: list[Any] = [("logits", logits, "[T, E]", _checks.FLOATS)]
    for name, x in (("bias", bias), ("router_scale", router_scale)):
        if x is not None:
            specs.append((name, x, "[E]", _checks.FLOATS))
    for name, mask, layout in (("expert_mask", expert_mask, "[E]"), ("row_mask", row_mask, "[T]")):
        if mask is not None:
            specs.append((name, mask, layout, (torch.bool,)))
    if experts is not None:
        specs.append(("experts", experts, "[T, K]", _checks.IDS))
    sizes = _checks.tensors(*specs)
    E = sizes["E"]
    _checks.groups(E, num_groups, k, name="the columns of logits")
    if experts is not None and sizes["K"] != num_groups * k:
        raise ValueError(
            f"experts must be [T, K={num_groups * k}], k={k} of each of {num_groups} groups, "
            f"got {list(experts.shape)}"
        )
    _checks.choice("score", score, SCORES)
    if not isinstance(renormalize, bool):
        raise TypeError(f"renormalize must be a bool, got {type(renormalize).__name__}")
    if not isinstance(scaling, (int, float)) or isinstance(scaling, bool):
        raise TypeError(f"scaling must be a float, got {type(scaling).__name__}")
    if not abs(scaling) <= _checks.MOST_FLOAT:  # unlike math.isfinite, torch.compile can trace it
        raise ValueError(f"scaling must be finite, got {scaling!r:.200}")
    if num_voted is not None:
        _checks.voted(num_voted, k, E // num_groups)
    elif row_mask is not None:
        raise ValueError("row_mask must come with num_voted, got None")
    T, K = sizes["T"], num_groups * k
    if with_rows:
        _checks.integer("num_experts", E, least=1, most=MAX_EXPERTS)
        if not torch.compiler.is_compiling() and T * K > MAX_ROWS:
            raise ValueError(f"logits must be [T, E] with T * K below 2^31, got {[T, E]}, K={K}")
    groups = None if experts is not None else num_groups
    if _backend.use_reference(logits):
        gating = _reference(
            logits,
            num_groups,
            k,
            score=score,
            bias=bias,
            router_scale=router_scale,
            renormalize=renormalize,
            scaling=float(scaling),
            expert_mask=expert_mask,
            num_voted=num_voted,
            row_mask=row_mask,
            experts=experts,
        )
        return (*gating, *route(gating[1], E, num_groups=groups)) if with_rows else gating
    if experts is not None:
        bias = expert_mask = num_voted = None
    if expert_mask is not None:
        bias = _without(logits, bias, expert_mask)
    if num_voted is not None:
        voted = _voted(logits, num_groups, score, bias, expert_mask, num_voted, row_mask)
        bias = _without(logits, bias, voted)
    launch = grouped_gate_and_route_fwd if with_rows else grouped_gate_fwd
    options = (score, bias, router_scale, renormalize, float(scaling), experts)
    return launch(logits, num_groups, k, *options)


def grouped_gate(
    logits: Tensor,
    num_groups: int,
    k: int = 1,
    *,
    score: str = "softmax",
    bias: Tensor | None = None,
    router_scale: Tensor | None = None,
    renormalize: bool = False,
    scaling: float = 1.0,
    expert_mask: Tensor | None = None,
    num_voted: int | None = None,
    row_mask: Tensor | None = None,
    experts: Tensor | None = None,
) -> Gating:
    r"""Chooses, for every token, the ``k`` best experts of each of ``num_groups`` groups.

    .. math::
        \begin{split}
        s_t &= \mathrm{softmax}(l_t) \quad\text{or}\quad \sigma(l_t) \quad\text{or}\quad
            \sqrt{\log(1 + e^{l_t})} \\
        \{c_{t,gk}, \ldots, c_{t,gk+k-1}\} &= \mathrm{topk}_{e \in \text{group } g}(s_{te} + b_e) \\
        w_{tc} &= s_{tc}\,[\,/ \textstyle\sum_{c'} s_{tc'}\,] \cdot \text{scaling} \cdot r_c
        \end{split}

    Group g holds the E/G neighbouring experts from g·E/G on. Every token has exactly k experts in
    every group, so the groups carry equal loads whatever the router says. The ``grouped_topk`` of
    DeepSeek-style models is another gate: it first chooses some of the groups, then the best
    experts of those together, so that a group may get up to all of a token's experts, or none. For
    G > 1 no setting of one gives the other.

    Args:
        logits: ``[T, E]``, float16 | bfloat16 | float32 | float64, with any strides.
        num_groups: G, a divisor of E.
        k: Experts per group, at most E/G.
        score: ``"softmax"`` over all E logits, or, of each logit alone, ``"sigmoid"`` or
            ``"sqrtsoftplus"``, the square root of its softplus.
        bias: ``[E]``, any of these dtypes: added to the scores for the choice only, without a
            gradient. An expert whose bias is -inf is chosen where nothing else is left.
        router_scale: ``[E]``, any of these dtypes: factor of the chosen experts' weights, with a
            gradient. It plays no part in the choice.
        renormalize: Divides a row's chosen scores by their sum. Where the sum is exactly zero, as
            all of these scores underflow or their logits are -inf, each gets the share 1/K, and the
            row's logits the gradient zero.
        scaling: Factor of all weights.
        expert_mask: ``[E]`` bool, false for an expert that is off. Such an expert is treated as
            if its bias were -inf, and the softmax still runs over all E. A NaN ranks below the
            experts that are off, so a row of NaN chooses as if all were on. The host does not
            read the mask. A group with fewer than k experts on is therefore no error: experts
            that are off fill its other columns, in the order of their ids.
        num_voted: n, k <= n <= E/G, for a choice that touches few experts: every row votes for its
            best expert in each group; the n experts of a group with the most votes stay, ties to
            the lowest id; every row then chooses among those that stay. So a row's experts depend
            on the whole batch. The votes have no gradient and are counted without the host.
        row_mask: ``[T]`` bool, with ``num_voted``: the rows that vote, as padding should not. The
            others choose like the rest.
        experts: ``[T, K]``, int32 | int64, with any strides: the choice itself, which is then not
            made, as reinforcement learning trains on what its rollouts chose. The result has the
            weights of these experts under today's logits, in the same columns. Ids of another
            group, and repeated ids, are used as they are. An id outside [0, E) is a dropped slot:
            -1 in the result, with the weight 0 and no part in the sum of ``renormalize``; where
            that sum is zero, the other slots get 1/K all the same. ``bias``, ``expert_mask`` and
            ``num_voted`` are ignored.

    Returns:
        A :class:`Gating` of ``weights`` ``[T, K]``, ``experts`` ``[T, K]`` and ``counts`` ``[E]``,
        K = G·k, on the device of ``logits``. Unless ``experts`` is given, column g·k + j is the
        j-th best of group g; equal ones go to the lowest expert id. A NaN is never preferred to a
        number, not even to -inf, so a row of NaN chooses the lowest ids of each group; its weights
        are NaN. As in :func:`torch.softmax`, one NaN or +inf among a row's logits makes all its
        softmax scores NaN. Computed in float32 (float64 for float64), deterministic bit for bit;
        the host does not wait. Unless ``num_voted`` is given, a token's bits do not depend on its
        batch; but torch's elementwise scores on a CPU may differ in the last bit with the place in
        the batch. Only the weights have a gradient, with respect to ``logits`` and
        ``router_scale``.

    Raises:
        TypeError: An argument has another type or dtype.
        ValueError: An argument has another shape, device or value.

    Source:
        Tang et al. 2025, "Pangu Pro MoE: Mixture of Grouped Experts for Efficient Sparsity",
        section 2 (arXiv:2505.21411), and its released ``modeling_pangu_moe.py``: softmax over all
        experts, the maximum of each group, not renormalised, times ``router_scale``. Intern-S1-Pro
        renormalises. The bias of the choice: DeepSeek-V3, eq. 16 (arXiv:2412.19437). The root of
        the softplus: ``scoring_func`` of DeepSeek-V4. The vote:
        ``MERRouter`` of vLLM-Ascend 0.9, which counts all rows and leaves the ties open. Training
        with the choices of the rollout: Ma et al. 2025, "Stabilizing MoE Reinforcement Learning by
        Aligning Training and Inference Routers", R3 (arXiv:2510.11370).
    """
    options = (k, score, bias, router_scale, renormalize, scaling)
    changes = (expert_mask, num_voted, row_mask, experts)
    return Gating(*_choose(False, logits, num_groups, *options, *changes))


def gate_and_route(
    logits: Tensor,
    num_groups: int,
    k: int = 1,
    *,
    score: str = "softmax",
    bias: Tensor | None = None,
    router_scale: Tensor | None = None,
    renormalize: bool = False,
    scaling: float = 1.0,
    expert_mask: Tensor | None = None,
    num_voted: int | None = None,
    row_mask: Tensor | None = None,
    experts: Tensor | None = None,
) -> tuple[Gating, Routing]:
    """:func:`grouped_gate` and :func:`moge_ops.route` of its experts, as a layer needs both.

    The same as the two calls, bit for bit. An NPU does it in one launch, which decoding notices;
    other devices take one for each.

    Args:
        logits: ``[T, E]``, as for :func:`grouped_gate`.
        num_groups: G, a divisor of E.
        k: Experts per group, at most E/G.
        score, bias, router_scale, renormalize, scaling, expert_mask, num_voted, row_mask: As in
            :func:`grouped_gate`.
        experts: As in :func:`grouped_gate`. They are routed as the ids of one group, since any
            expert may stand in any column.

    Returns:
        The :class:`Gating` and the :class:`moge_ops.Routing` of its experts, without padding. Only
        the weights have a gradient.

    Raises:
        TypeError: As :func:`grouped_gate`.
        ValueError: As :func:`grouped_gate`; or there are 2^31 slots or more, or more experts than
            :func:`moge_ops.route` takes.

    Source:
        As for the two.
    """
    options = (k, score, bias, router_scale, renormalize, scaling)
    changes = (expert_mask, num_voted, row_mask, experts)
    found = _choose(True, logits, num_groups, *options, *changes)
    return Gating(*found[:3]), Routing(*found[3:])
