"""Token rounding: every expert gets a whole number of tiles of rows."""

import torch
from torch import Tensor

from moge_ops import _checks
from moge_ops.ops.grouped_gate import SCORES, Gating, grouped_gate

ROUND_MODES = ("nearest", "down", "up", "expected", "balanced", "apportioned")
ROUNDS = 4  # of asking; in simulated routers of 64 to 512 experts nothing was left to ask after 4
NEVER = -1.0  # below every score
SPAN = 2**32  # above every rank


def _scores(logits: Tensor, score: str) -> Tensor:
    """``[T, E]`` float32, NaN below all numbers."""
    x = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    if score == "softmax":
        s = x.softmax(-1)
    else:
        s = x.sigmoid() if score == "sigmoid" else torch.nn.functional.softplus(x).sqrt()
    return torch.where(s.isnan(), NEVER, s).float()


def _rank(scores: Tensor) -> Tensor:
    """int64 within 32 bits, larger for a larger float32 score.

    The bits of numbers from 0 up are in their order as integers, and those of ``NEVER``, whose sign
    is set, are below them. No score is NaN.
    """
    return scores.contiguous().view(torch.int32).long()


def _in_turn(owner: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """The order of entries by owner, and within an owner the highest rank first, ``[N]``.

    And for each entry in that order where those of its owner begin, ``[N]``. Equal ranks stay as
    they were.
    """
    order = (owner * SPAN - rank).sort(stable=True).indices
    owners = owner[order]
    return order, torch.searchsorted(owners, owners)


def _place(wanted: Tensor, begin: Tensor) -> Tensor:
    """``[N]``: how many wanted entries an owner has up to and with each one, in turn."""
    seen = wanted.cumsum(0)
    return seen - (seen - wanted.long())[begin]


def _expected(scores: Tensor, chosen: Tensor, num_groups: int) -> Tensor:
    """``[E]``: how many tokens would choose an expert that is drawn by its share of the scores."""
    T, E = scores.shape
    s = scores.clamp_min(0.0).view(T, num_groups, E // num_groups)
    total = s.sum(-1, keepdim=True)
    share = s / torch.where(total == 0.0, 1.0, total)
    n = chosen.view(s.shape).sum(-1, keepdim=True)  # choices of a token in a group
    return (n * share).sum(0).view(E)


def _targets(counts: Tensor, tile: int, mode: str, num_groups: int, expected: Tensor) -> Tensor:
    """``[E]``: the multiple of the tile next below or above each count."""
    down = counts // tile * tile
    rest = counts - down
    if mode == "down":
        up = torch.zeros_like(rest, dtype=torch.bool)
    elif mode == "up":
        up = rest > 0
    elif mode == "nearest":
        up = 2 * rest > tile
    elif mode == "expected":
        up = (rest > 0) & (2 * (expected - down) > tile)
    else:
        # the multiple nearest to n, a half goes down
        grouped, per_tile = counts.view(num_groups, -1), 2 * tile
        sums = (2 * grouped.cumsum(-1) + (tile - 1)) // per_tile
        if mode == "balanced":
            tiles = sums.diff(dim=-1, prepend=torch.zeros_like(sums[:, :1]))
            return tiles.reshape(-1) * tile
        more = sums[:, -1:] - (down // tile).view(num_groups, -1).sum(-1, keepdim=True)
        order = rest.view(num_groups, -1).sort(dim=-1, descending=True, stable=True).indices
        place = torch.empty_like(order).scatter(
            -1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
        )
        up = (place < more).reshape(-1)
    return down + tile * up


def _choice(
    scores: Tensor,
    experts: Tensor,
    tile: int,
    num_groups: int,
    mode: str,
    extra: int,
    renormalize: bool,
) -> Tensor:
    """``[T, K + extra]`` int64: the ids that are taken, -1 elsewhere."""
    T, E = scores.shape
    K = experts.shape[1]
    ids = experts.long()
    twice = (ids.unsqueeze(2) == ids.unsqueeze(1)).tril(-1).any(-1)  # [T, K]
    ids = torch.where((ids < 0) | (ids >= E) | twice, E, ids)
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen = torch.nn.functional.pad(chosen, (0, 1)).scatter(1, ids, True)[:, :E]
    counts = chosen.sum(0)
    expected = _expected(scores, chosen, num_groups) if mode == "expected" else counts
    target = _targets(counts, tile, mode, num_groups, expected)
    down = counts // tile * tile

    # what each expert keeps of its slots: [T * K], by expert, best first
    own = torch.nn.functional.pad(scores, (0, 1)).gather(1, ids)
    if renormalize:
        # sorted, so that the sum does not depend on the order of a token's slots
        total = own.clamp_min(0.0).sort(1).values.sum(1, keepdim=True)
        own = torch.where(own < 0.0, own, own / torch.where(total == 0.0, 1.0, total))
        own = torch.where(own.isnan(), NEVER, own)  # infinite scores
    ids = ids.flatten()
    slots, begin = _in_turn(ids, _rank(own).view(-1))
    place = torch.arange(T * K, device=ids.device) - begin
    if not extra:
        most = torch.minimum(target, down)
    else:
        enough, added = _added(scores, chosen, (target - counts).clamp_min(0), tile, extra)
        most = torch.where(enough, target, down)
    owner = ids[slots]
    stays = place < torch.nn.functional.pad(most, (0, 1))[owner]
    kept = torch.empty_like(owner).scatter(0, slots, torch.where(stays, owner, -1)).view(T, K)
    return torch.cat((kept, added), 1) if extra else kept


def _added(
    scores: Tensor, chosen: Tensor, missing: Tensor, tile: int, extra: int
) -> tuple[Tensor, Tensor]:
    """Experts ask tokens that did not choose them.

    Returns:
        Of each expert whether it got all that it misses ``[E]``, and the experts that each token
        takes ``[T, extra]``, best first, then -1: those that did get all.
    """
    T = len(scores)
    can_ask = (~chosen & chosen.any(1, keepdim=True)).T
    # in a round an expert asks less than a tile of tokens, and no more refuse it
    asks = min(T, ROUNDS * (tile - 1))
    # score and token in one number, so that of equal scores the first token is best
    first = torch.arange(T - 1, -1, -1, device=scores.device)
    nobody = torch.iinfo(torch.int64).min
    best = torch.where(can_ask, _rank(scores.T) * SPAN + first, nobody).topk(asks).values
    there = best != nobody
    token = torch.where(there, T - 1 - best % SPAN, T).view(-1)  # [E * asks]
    order, begin = _in_turn(token, (best // SPAN).view(-1))
    free, added = there, torch.zeros_like(there)
    for _ in range(ROUNDS):  # who has accepted is asked again, and may now prefer another expert
        asked = free & (free.cumsum(1) <= missing.unsqueeze(1))
        by_token = asked.view(-1)[order]
        taken = by_token & (_place(by_token, begin) <= extra)
        added = torch.empty_like(taken).scatter(0, order, taken).view_as(free)
        free = free & (added | ~asked)
    enough = added.sum(1) >= missing
    taken = (added & enough.unsqueeze(1)).view(-1)[order]
    column = torch.where(taken, _place(taken, begin) - 1, extra)  # the last is thrown away
    ids = token.new_full(((T + 1) * (extra + 1),), -1)
    ids = ids.scatter(0, token[order] * (extra + 1) + column, order // max(asks, 1))
    return enough, ids.view(T + 1, extra + 1)[:T, :extra]


def round_tokens(
    logits: Tensor,
    experts: Tensor,
    tile: int,
    *,
    num_groups: int = 1,
    mode: str = "nearest",
    extra: int | None = None,
    score: str = "softmax",
    router_scale: Tensor | None = None,
    renormalize: bool = False,
    scaling: float = 1.0,
) -> Gating:
    r"""Drops and adds some tokens so that the rows of every expert are whole tiles.

    A grouped product computes whole tiles of rows, so that an expert with one row more than a
    tile computes two. Where :math:`n_e` tokens chose expert e, with M for ``tile``:

    .. math::
        n_e \to \lfloor n_e \rfloor_M \;\text{ or }\; \lceil n_e \rceil_M

    To go down, the expert drops the tokens that chose it with the lowest scores. To go up, it asks
    those of the other tokens whose score for it is highest. A token accepts at most ``extra`` such
    experts, its best by score, and an expert that was refused asks its next tokens, four times in
    all. Whoever still lacks tokens then goes down instead: the rows of every expert are a multiple
    of the tile in any case. It is the published rule wherever no token is asked by more than
    ``extra`` experts. Use it in training only, because a token's experts depend on its batch, and
    where an expert has at least two tiles of rows on average; with less than one, most is dropped.

    Plain torch, not a kernel of ours, except for the weights, which are those that
    :func:`moge_ops.grouped_gate` gives to the final choice. Besides the result it takes about 30
    bytes for each element of ``logits``, and up to 75 where T is hardly above 4·(tile - 1).

    Args:
        logits: ``[T, E]``, float16 | bfloat16 | float32 | float64, with any strides.
        experts: ``[T, K]``, int32 | int64: what the gate chose. Ids outside [0, E) are dropped
            slots, and a repeated id counts once. A token without any expert, as padding can be
            marked, is not asked.
        tile: M, at least 1. With 1 nothing changes; above T no expert can keep a row.
        num_groups: G, a divisor of E, for the modes that look at a group as a whole.
        mode: Which of the two multiples.

            - ``"nearest"``: the nearer one; halfway, the lower.
            - ``"down"``, ``"up"``: always that one.
            - ``"expected"``: the one nearer to the number of tokens that would be expected if a
              token's choices in a group were drawn by their shares of the group's scores.
            - ``"balanced"``: from one expert of a group to the next, the one that keeps the sum so
              far nearest to what was chosen so far. The sum of a group is then that of its choices
              rounded to the tile: under MoGE, the same in every group.
            - ``"apportioned"``: the same sums of groups by the fewest changes, as the experts with
              the largest remainders go up.
        extra: Additional columns, at most E - K: how many experts a token may get more than it
            chose. None for half of K, rounded up, or what E leaves, and for 0 with ``"down"``. The
            layer reserves rows for all T·(K + extra) slots, half as many again by default, though
            it computes only those in use. ``"up"`` needs more than the other modes.
        score, router_scale, renormalize, scaling: As in :func:`moge_ops.grouped_gate`. With
            ``renormalize`` the scores of a token's final experts are divided by their sum, and
            tokens that chose an expert are ranked by their shares of what they chose.

    Returns:
        A :class:`Gating` of ``weights`` and ``experts`` ``[T, K + extra]`` and ``counts`` ``[E]``,
        multiples of the tile. A column below K has its chosen expert, or -1 where it was dropped,
        with the weight 0; the others have added experts, best first, then -1. Give ``experts`` to
        :func:`moge_ops.route` without ``num_groups``. Equal scores go to the lowest token, and
        within a token to the lowest expert; a NaN comes last. Scores are compared in float32. The
        weights have gradients to ``logits`` and ``router_scale``; the choice has none.
        Deterministic; the host does not wait.

    Raises:
        TypeError: An argument has another type or dtype.
        ValueError: An argument has another shape, device or value.

    Source:
        Guo et al. 2025, "SonicMoE: Accelerating MoE with IO and Tile-aware Optimizations", token
        rounding (arXiv:2512.14080), algorithm 4, with its roundings NR-f, DOWN, UP and Balance-f.
        Its code rounds a half to the even multiple, and leaves the weights as softmax scores.
        "expected" is our reading of rounding by scores, "apportioned" and the bound on added
        experts are ours; the random rounding is left out.
    """
    sizes = _checks.tensors(
        ("logits", logits, "[T, E]", _checks.FLOATS), ("experts", experts, "[T, K]", _checks.IDS)
    )
    T, E, K = sizes["T"], sizes["E"], sizes["K"]
    _checks.integer("tile", tile, least=1, most=_checks.MOST_SIZE)
    _checks.groups(E, num_groups, name="the columns of logits")
    _checks.choice("mode", mode, ROUND_MODES)
    _checks.choice("score", score, SCORES)
    if not 1 <= K <= E:
        raise ValueError(f"experts must be [T, K] with K from 1 to E={E}, got {[T, K]}")
    if extra is None:
        extra = 0 if mode == "down" else min((K + 1) // 2, E - K)
    _checks.integer("extra", extra, least=0, most=E - K)
    if not isinstance(renormalize, bool):
        raise TypeError(f"renormalize must be a bool, got {type(renormalize).__name__}")
    with torch.no_grad():
        scores = _scores(logits, score)
        ids = _choice(scores, experts, tile, num_groups, mode, extra, renormalize)
    return grouped_gate(
        logits,
        1,
        K + extra,
        score=score,
        router_scale=router_scale,
        renormalize=renormalize,
        scaling=scaling,
        experts=ids.to(torch.int32),
    )
