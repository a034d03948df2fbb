"""Faults of speculation: the steps, the verification, the drafts and a cache of unequal rows."""

from mutant import Mutant

TESTS = "tests/test_speculation.py -k "

MUTANTS = [
    # --- a cache whose rows differ ---
    Mutant(
        "moge_ops/models/cache.py",
        "self._places = row, self.lengths[row] + new, new",
        "self._places = row, self.length + new, new",
        "New tokens of a shorter row go behind the longest one.",
        TESTS + "'unequal_numbers'",
    ),
    Mutant(
        "moge_ops/models/cache.py",
        "self.kv[:, :, :, :, self.length : S] = 0",
        "pass",
        "A row reads what memory held where only other rows have tokens.",
        TESTS + "'unequal_numbers'",
    ),
    Mutant(
        "moge_ops/models/cache.py",
        "self._length, self.lengths = length, None",
        "self._length = length",
        "A cache that is used again has its old rows' lengths.",
        TESTS + "'cache'",
    ),
    Mutant(
        "moge_ops/models/pangu_moe.py",
        "return (seen & (columns <= own[..., None])).unsqueeze(1)",
        "return seen.unsqueeze(1)",
        "A token sees the guesses after it.",
        TESTS + "'unequal_numbers'",
    ),
    Mutant(
        "moge_ops/models/cache.py",
        "own = slice(self.length, self.length + L)",
        "own = slice(L)",
        "New tokens are rotated as if they began the text.",
        TESTS + "'plain_ones and one_row'",
    ),
    # --- steps ---
    Mutant(
        "moge_ops/models/_steps.py",
        "added, self.done[b] = added[: i + 1], True",
        "self.done[b] = True",
        "Tokens that were accepted after the end stay.",
        TESTS + "'inside_a_run'",
    ),
    Mutant(
        "moge_ops/models/_steps.py",
        "self.lengths[b] += 1 + stayed[b]",
        "self.lengths[b] += 1 + len(row)",
        "Rejected guesses stay in the cache.",
        TESTS + "'unequal_numbers'",
    ),
    Mutant(
        "moge_ops/models/_steps.py",
        "rows[b] = ids[: self._left(b)]",
        "rows[b] = ids",
        "A hook's tokens are read beyond the end of the cache.",
        TESTS + "'up_to_the_last_one'",
    ),
    Mutant(
        "moge_ops/models/_steps.py",
        "return Accepted(tokens, real, hidden[:, : tokens.shape[1]])",
        "return Accepted(tokens, real, hidden[:, -tokens.shape[1] :])",
        "A draft gets the states of rejected guesses.",
        TESTS + "'draft_learns'",
    ),
    Mutant(
        "moge_ops/models/pangu_moe.py",
        "steps.force(hook([list(row) for row in new]), V)",
        "steps.force(hook(new), V)",
        "A hook that empties its lists hides the tokens from the draft.",
        TESTS + "'its_own'",
    ),
    # --- verification ---
    Mutant(
        "moge_ops/models/speculation.py",
        "own = [True] * len(row) if forced is not None and forced[b] else each[: len(row)]",
        "own = each[: len(row)]",
        "A hook's tokens are verified.",
        TESTS + "'come_next'",
    ),
    Mutant(
        "moge_ops/models/speculation.py",
        "found.append([*own, False].index(False))",
        "found.append(sum(own))",
        "Guesses after a rejected one stay.",
        TESTS + "'unequal_numbers'",
    ),
    Mutant(
        "moge_ops/models/speculation.py",
        "rest = (p - q).clamp_min(0.0)",
        "rest = p",
        "The token after a rejected guess is drawn from p, so that likely guesses come too often.",
        TESTS + "'verify_leaves'",
    ),
    Mutant(
        "moge_ops/models/speculation.py",
        "q = q * torch.tensor(rejected, device=device)[:, None]",
        "pass",
        "After guesses that all stay, q of the last one is taken away from p.",
        TESTS + "'verify_leaves'",
    ),
    Mutant(
        "moge_ops/models/speculation.py",
        "rest = torch.where(rest.sum(1, keepdim=True) > 0.0, rest, p)",
        "pass",
        "Nothing can be drawn where rounding has left nothing.",
        TESTS + "'rounding'",
    ),
    Mutant(
        "moge_ops/models/generation.py",
        "return dense.scatter_(-1, ids, probs / probs.sum(-1, keepdim=True))",
        "return dense.scatter_(-1, ids, probs)",
        "With top_p the probabilities do not add up to 1.",
        TESTS + "'dense'",
    ),
    # --- drafts ---
    Mutant(
        "moge_ops/models/speculation.py",
        "self._cache.keep(self._lengths)  # without the guesses",
        "pass",
        "A draft model goes on after guesses that were rejected.",
        TESTS + "'perfect_draft'",
    ),
    Mutant(
        "moge_ops/models/speculation.py",
        "for size in range(min(self.longest, len(row)), 0, -1):",
        "for size in range(1, min(self.longest, len(row)) + 1):",
        "The shortest match wins.",
        TESTS + "'test_guesses'",
    ),
]
