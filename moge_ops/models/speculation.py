"""Speculation: guesses of the next tokens that the model verifies several at a time.

A :class:`Draft` guesses, ``generate`` runs the model once over a row's last token and its guesses,
and :func:`verify` or :func:`match` says how many of them stay. m is the most guesses of a row.

Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding"
(arXiv:2211.17192), algorithm 1; Chen et al. 2023, "Accelerating Large Language Model Decoding with
Speculative Sampling" (arXiv:2302.01318), algorithm 2.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from moge_ops import _checks
from moge_ops.models.generation import Sampler, draw

__all__ = [
    "Accepted",
    "Draft",
    "DraftModel",
    "PromptLookup",
    "Proposal",
    "make_draft",
    "match",
    "verify",
]

NAMES = ("lookup", "mtp")


class Accepted(NamedTuple):
    """What a draft learns before it guesses."""

    tokens: Tensor
    """``[B, n]`` int64, the ids that each row got since the last call; in the first call the
    prompt's too, from its second token on."""
    real: Tensor
    """``[B, n]`` bool, false at padding: on the left in the first call, on the right later."""
    hidden: Tensor
    """``[B, n, H]``, the model's hidden states after the last norm: ``hidden[b, i]`` is of the
    token before ``tokens[b, i]``."""


class Proposal(NamedTuple):
    """Guesses of every row's next tokens."""

    rows: list[list[int]]
    """At most m guesses of each of the B rows."""
    probs: Tensor | None = None
    """``[B, m, V]``, the distribution that each guess was drawn from. None: the guesses follow from
    the text alone, as a greedy choice or a look-up does."""


class Draft(ABC):
    """Guesses next tokens. ``generate`` keeps the counters.

    Attributes:
        passes: Forwards of the model since ``start``, the prompt's included.
        proposed: Guesses that the model verified.
        accepted: Those that stayed.
    """

    passes = proposed = accepted = 0

    @abstractmethod
    def start(
        self, model: Any, ids: Tensor, mask: Tensor | None, room: int, sampler: Sampler
    ) -> None:
        """Begins with new prompts.

        Args:
            model: The model that verifies.
            ids: ``[B, L]`` int64, padded on the left.
            mask: ``[B, L]``, 0 at padding; None if there is none.
            room: Most columns that a cache of the draft needs, guesses included.
            sampler: How the model chooses its tokens.

        Raises:
            ValueError: The draft does not fit the model.
        """

    @abstractmethod
    def propose(self, new: Accepted, n: int) -> Proposal:
        """At most n guesses of each row's tokens after the ``new`` ones.

        What was guessed before and is not among the ``new`` tokens was rejected. The guesses of a
        row that has ended are not read.
        """


class PromptLookup(Draft):
    """Guesses that the text goes on as it did after the same tokens before.

    The last three tokens are looked up, then the last two, then the last one. The most recent place
    wins. Without any there is no guess. Where a copy reaches the end of the text it goes on with
    its own beginning, so that a text which repeats itself has as many guesses as asked for.

    Args:
        longest: Most tokens that are looked up together.

    Source: Saxena 2023, "Prompt Lookup Decoding".
    """

    def __init__(self, longest: int = 3) -> None:
        _checks.integer("longest", longest, least=1)
        self.longest = longest
        self._rows: list[list[int]] = []
        self._next: list[dict[tuple[int, ...], int]] = []  # tokens -> place of what came after them

    def start(
        self, model: Any, ids: Tensor, mask: Tensor | None, room: int, sampler: Sampler
    ) -> None:
        """Begins with every prompt's first token; ``propose`` gets the others."""
        first = ids.new_zeros(len(ids)) if mask is None else mask.long().argmax(1)
        self._rows = ids.gather(1, first[:, None]).tolist()
        self._next = [{} for _ in self._rows]

    def propose(self, new: Accepted, n: int) -> Proposal:
        """Guesses of the rows in which the last token has occurred before."""
        guesses = []
        for b, (ids, real) in enumerate(zip(new.tokens.tolist(), new.real.tolist(), strict=True)):
            for each, counts in zip(ids, real, strict=True):
                if counts:
                    self._append(b, each)
            guesses.append(self._guess(b, n))
        return Proposal(guesses)

    def _append(self, b: int, token: int) -> None:
        row = self._rows[b]
        for size in range(1, min(self.longest, len(row)) + 1):
            self._next[b][tuple(row[-size:])] = len(row)
        row.append(token)

    def _guess(self, b: int, n: int) -> list[int]:
        row = self._rows[b]
        for size in range(min(self.longest, len(row)), 0, -1):
            at = self._next[b].get(tuple(row[-size:]))
            if at is not None:
                period = len(row) - at
                return [row[at + i % period] for i in range(n)]
        return []


class Guesses:
    """Guesses of all rows that a model makes one after the other, in one piece for the host."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self.tokens: list[Tensor] = []
        self._probs: list[Tensor] = []

    def add(self, logits: Tensor) -> Tensor:
        """The next guess ``[B]`` of every row, from ``[B, V]``."""
        if self._sampler.temperature == 0.0:
            tokens = self._sampler(logits)
        else:
            self._probs.append(self._sampler.distribution(logits))
            tokens = draw(self._probs[-1], self._sampler.generator)
        self.tokens.append(tokens)
        return tokens

    def proposal(self, n: int) -> Proposal:
        """The first n of them."""
        probs = torch.stack(self._probs[:n], 1) if self._probs else None
        return Proposal(torch.stack(self.tokens[:n], 1).tolist(), probs)


class DraftModel(Draft):
    """Guesses what a smaller model would choose, by the same settings of the sampler.

    Args:
        model: A :class:`moge_ops.models.PanguMoEForCausalLM` on the device of the model that
            verifies. Where its positions end before that model's, its guesses become poor.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model

    def start(
        self, model: Any, ids: Tensor, mask: Tensor | None, room: int, sampler: Sampler
    ) -> None:
        """Makes a cache for the rows; raises ValueError for a model of another vocabulary."""
        V, own = model.config.vocab_size, self.model.config.vocab_size
        if own != V:
            raise ValueError(f"the draft model must have the model's vocabulary of {V}, got {own}")
        B, L = ids.shape
        self._sampler, self._cache = sampler, self.model.new_cache(B, room)
        self._first: Tensor | None = ids[:, :1]
        self._pads = [0] * B if mask is None else (L - mask.sum(1)).tolist()
        self._lengths = [0] * B

    def propose(self, new: Accepted, n: int) -> Proposal:
        """Runs the model over the new tokens and its own guesses but the last."""
        ids, real = new.tokens, new.real
        if self._first is not None:
            goes_on = [1] * len(ids)
            ids = torch.cat([self._first, ids], 1)
            padding = torch.tensor(self._pads, device=ids.device)[:, None]
            real = torch.arange(ids.shape[1], device=ids.device) >= padding
            self._lengths, self._first = [ids.shape[1]] * len(ids), None
            mask = real if any(self._pads) else None
            logits = self.model(ids, mask, self._cache, logits_to_keep=1)[:, -1]
        else:
            self._cache.keep(self._lengths)  # without the guesses
            counts = real.sum(1).tolist()
            goes_on = [min(x, 1) for x in counts]  # a row that has ended reads nothing
            logits = self._run(ids, counts)
            self._lengths = [x + y for x, y in zip(self._lengths, counts, strict=True)]
            self._cache.keep(self._lengths)  # without padding
        guesses = Guesses(self._sampler)
        guesses.add(logits)
        for _ in range(n - 1):
            guesses.add(self._run(guesses.tokens[-1][:, None], goes_on))
        return guesses.proposal(n)

    def _run(self, ids: Tensor, counts: list[int]) -> Tensor:
        """Logits ``[B, V]`` after each row's last real token, of which it has ``counts``."""
        B, L = ids.shape
        logits: Tensor = self.model(ids, self._cache.mask(self._pads, counts, L), self._cache)
        if min(counts) == L:
            return logits[:, -1]
        last = torch.tensor([max(x - 1, 0) for x in counts], device=ids.device)
        return logits[torch.arange(B, device=ids.device), last]


def make_draft(draft: str | nn.Module | Draft) -> Draft:
    """The draft that an argument of ``generate`` means.

    Raises:
        TypeError: It is none of them.
        ValueError: No draft has this name.
    """
    if isinstance(draft, Draft):
        return draft
    if isinstance(draft, nn.Module):
        return DraftModel(draft)
    if not isinstance(draft, str):
        kinds = f"one of {', '.join(NAMES)}, a model or a Draft"
        raise TypeError(f"draft must be {kinds}, got {type(draft).__name__}")
    _checks.choice("draft", draft, NAMES)
    if draft == "lookup":
        return PromptLookup()
    from moge_ops.models.mtp import MTPDraft  # it imports this file

    return MTPDraft()


def _staying(
    agrees: list[list[bool]], rows: Sequence[Sequence[int]], forced: Sequence[bool] | None
) -> list[int]:
    """How many guesses of each row come before the first that does not stay."""
    found = []
    for b, (each, row) in enumerate(zip(agrees, rows, strict=True)):
        own = [True] * len(row) if forced is not None and forced[b] else each[: len(row)]
        found.append([*own, False].index(False))
    return found


def match(
    choices: list[list[int]], rows: list[list[int]], forced: Sequence[bool] | None = None
) -> tuple[list[int], list[int]]:
    """Greedy verification: a guess stays if it is the model's choice.

    Args:
        choices: m + 1 ids of each row, what the model chooses after the last token and each guess.
        rows: Each row's guesses, at most m.
        forced: B of them, true where a row's guesses stay unchecked.

    Returns:
        For each row, how many guesses stay, and the token after them.
    """
    pairs = zip(choices, rows, strict=True)
    agrees = [[x == y for x, y in zip(own, row, strict=False)] for own, row in pairs]
    n = _staying(agrees, rows, forced)
    return n, [own[i] for own, i in zip(choices, n, strict=True)]


def verify(
    probs: Tensor,
    proposal: Proposal,
    generator: torch.Generator | None = None,
    forced: Sequence[bool] | None = None,
) -> tuple[list[int], list[int]]:
    r"""Speculative sampling: the tokens have the model's distribution, whatever the guesses.

    A guess x that was drawn from q stays with probability :math:`\min(1, p(x) / q(x))`. In the
    place of the first that does not, a token is drawn from :math:`\max(p - q, 0)`, scaled to add up
    to 1; after guesses that all stay, from p. A certain guess has q = 1.

    Args:
        probs: ``[B, m + 1, V]`` float32, p after the last token and after each guess.
        proposal: The guesses.
        generator: Source of the random numbers; None for torch's own.
        forced: B of them, true where a row's guesses stay unchecked.

    Returns:
        For each row, how many guesses stay, and the token after them.

    Source: Leviathan et al. 2023, algorithm 1, and Chen et al. 2023, equation 2.
    """
    rows, device = proposal.rows, probs.device
    B, m = len(rows), probs.shape[1] - 1
    guessed = torch.tensor([[*row, *[0] * (m - len(row))] for row in rows], device=device)
    guessed = guessed.view(B, m, 1).long()
    chance = torch.rand(B, m, 1, generator=generator, device=device)
    if proposal.probs is not None:
        chance = chance * proposal.probs.gather(2, guessed)
    stays = chance < probs[:, :m].gather(2, guessed)  # below, so that p = 0 never stays
    n = _staying(stays.squeeze(2).tolist(), rows, forced)
    rest = _at(probs, n)  # [B, V]
    rejected = [i < len(row) for i, row in zip(n, rows, strict=True)]
    if any(rejected):
        p, at = rest, [min(i, m - 1) for i in n]
        if proposal.probs is not None:
            q = _at(proposal.probs, at)
        else:
            q = torch.zeros_like(p).scatter_(1, _at(guessed, at), 1.0)
        if not all(rejected):
            q = q * torch.tensor(rejected, device=device)[:, None]
        rest = (p - q).clamp_min(0.0)
        # where p and q differ by rounding alone nothing may be left, and p is as good
        rest = torch.where(rest.sum(1, keepdim=True) > 0.0, rest, p)
    return n, draw(rest, generator).tolist()


def _at(x: Tensor, columns: Sequence[int]) -> Tensor:
    """One column of each row, ``[B, m, ...] -> [B, ...]``."""
    m = x.shape[1]
    places = torch.tensor([b * m + i for b, i in enumerate(columns)], device=x.device)
    return x.flatten(0, 1).index_select(0, places)
