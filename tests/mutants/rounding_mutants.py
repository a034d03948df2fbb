"""Faults of token rounding."""

from mutant import Mutant

ROUNDED = "tests/test_round_tokens.py -k '{}'"

MUTANTS = [
    Mutant(
        "moge_ops/ops/_round_tokens.py",
        "enough = added.sum(1) >= missing",
        "enough = missing >= 0",
        "An expert that was refused keeps a part of a tile.",
        ROUNDED.format("refused or lists"),
    ),
    Mutant(
        "moge_ops/ops/_round_tokens.py",
        "free = free & (added | ~asked)",
        "free = free & ~asked",
        "An expert forgets the tokens that took it.",
        ROUNDED.format("refused or lists"),
    ),
    Mutant(
        "moge_ops/ops/_round_tokens.py",
        "up = 2 * rest > tile",
        "up = 2 * rest >= tile",
        "Halfway, an expert goes up.",
        ROUNDED.format("by_hand"),
    ),
    Mutant(
        "moge_ops/ops/_round_tokens.py",
        "(2 * grouped.cumsum(-1) + (tile - 1)) // per_tile",
        "(2 * grouped.cumsum(-1) + tile) // per_tile",
        "Halfway, the sum of a group goes up.",
        ROUNDED.format("lists or keep_their_sums"),
    ),
    Mutant(
        "moge_ops/ops/_round_tokens.py",
        "(ids < 0) | (ids >= E) | twice",
        "(ids < 0) | (ids >= E)",
        "A repeated id counts once but keeps two slots.",
        ROUNDED.format("repeated"),
    ),
    Mutant(
        "moge_ops/ops/_round_tokens.py",
        "can_ask = (~chosen & chosen.any(1, keepdim=True)).T",
        "can_ask = ~chosen.T",
        "Padding is added to experts.",
        ROUNDED.format("padding"),
    ),
    Mutant(
        "moge_ops/nn.py",
        "if self.training and self.round_to is not None and given is None:",
        "if self.round_to is not None and given is None:",
        "A layer rounds in evaluation too.",
        ROUNDED.format("training_only and torch"),
    ),
    Mutant(
        "moge_ops/ops/_round_tokens.py",
        "asks = min(T, ROUNDS * (tile - 1))",
        "asks = min(T, tile - 1)",
        "An expert that was refused has nobody left to ask.",
        ROUNDED.format("refused or lists"),
    ),
    Mutant(
        "moge_ops/ops/_round_tokens.py",
        "first = torch.arange(T - 1, -1, -1, device=scores.device)",
        "first = torch.arange(T, device=scores.device)",
        "Of equal scores the last token is asked, and another one is meant.",
        ROUNDED.format("ties"),
    ),
    Mutant(
        "moge_ops/ops/_round_tokens.py",
        "seen - (seen - wanted.long())[begin]",
        "seen",
        "A token's places are counted from the first token on.",
        ROUNDED.format("lists"),
    ),
    Mutant(
        "moge_ops/ops/_round_tokens.py",
        "torch.where(own < 0.0, own, own / torch.where(total == 0.0, 1.0, total))",
        "own / torch.where(total == 0.0, 1.0, total)",
        "Of several NaN, the one whose token has the smallest scores is kept.",
        ROUNDED.format("not_numbers"),
    ),
    Mutant(
        "moge_ops/ops/_round_tokens.py",
        "own.clamp_min(0.0).sort(1).values.sum(1, keepdim=True)",
        "own.clamp_min(0.0).sum(1, keepdim=True)",
        "Which of equal tokens stays depends on the order of their slots.",
        ROUNDED.format("order_of_slots"),
    ),
    Mutant(
        "moge_ops/ops/_round_tokens.py",
        "own = torch.where(own.isnan(), NEVER, own)  # infinite scores",
        "pass",
        "The share of an infinite score is compared by the bits of a NaN.",
        ROUNDED.format("not_numbers or infinite"),
    ),
    Mutant(
        "moge_ops/ops/_round_tokens.py",
        "x = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))",
        "x = logits.detach().float()",
        "A float64 logit beyond float32 makes its token the worst.",
        ROUNDED.format("infinite"),
    ),
]
