"""The steps of ``generate``: what each row reads next, and what becomes of it.

In every step a row has its last token, which the cache lacks, and up to m proposed ones. These are
a draft's guesses, which are verified, or the tokens of a hook, which are not.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from moge_ops import _checks
from moge_ops.models.generation import Sampler
from moge_ops.models.speculation import Accepted, Draft, Proposal, match, verify

# every row's new ids -> row -> the ids that come next there
Hook = Callable[[list[list[int]]], Mapping[int, Sequence[int]] | None]


class Step(NamedTuple):
    """One forward of the model."""

    ids: Tensor  # [B, L]: the prompts; later [B, m + 1], padded on the right
    mask: Tensor | None  # [B, S] of the forward
    rows: list[list[int]]  # each row's proposed tokens
    forced: list[bool]  # where they are a hook's
    probs: Tensor | None = None  # [B, m, V], what guesses were drawn from; None: they are certain


class Steps:
    """The rows of a batch while they grow.

    Args:
        ids: ``[B, L]``, the prompts, padded on the left.
        mask: ``[B, L]``, 0 at padding; None if there is none.
        most: Most new ids of a row.
        ends: Ids that end a row.
        pad: Id that fills ended rows.

    Attributes:
        texts: Each row's new ids, its end included.
        done: Whether a row has ended, by one of ``ends`` or by having ``most`` ids.
        lengths: Columns of each row in the cache that hold its text and what is padding before it.
    """

    def __init__(
        self, ids: Tensor, mask: Tensor | None, most: int, ends: Iterable[int], pad: int
    ) -> None:
        B, L = ids.shape
        self.ids, self.mask, self.most, self.pad = ids, mask, most, pad
        self.ends = frozenset(ends)
        self.pads = [0] * B if mask is None else (L - mask.sum(1)).tolist()
        self.texts: list[list[int]] = [[] for _ in range(B)]
        self.done = [most == 0] * B
        self.lengths = [L - 1] * B  # as of the prompts' last tokens, which the first step reads
        self._forced: dict[int, list[int]] = {}
        self._stayed: list[int] = []  # proposed tokens of each row that stayed in the last step

    @property
    def alive(self) -> bool:
        """Whether a row goes on."""
        return not all(self.done)

    @property
    def longest(self) -> int:
        """Most new ids of a row so far."""
        return max(map(len, self.texts))

    @property
    def left(self) -> int:
        """Most ids that a row may still get."""
        return max(map(self._left, range(len(self.texts))))

    def _left(self, b: int) -> int:
        return 0 if self.done[b] else self.most - len(self.texts[b])

    def first(self) -> Step:
        """The step that reads the prompts."""
        B = len(self.texts)
        return Step(self.ids, self.mask, [[] for _ in range(B)], [False] * B)

    def choose(self, step: Step, logits: Tensor, sampler: Sampler) -> list[list[int]]:
        """Verifies a step and chooses the token after it; returns each row's new ids.

        Args:
            step: The step.
            logits: ``[B, m + 1, V]``, or the last ones ``[B, 1, V]``.
            sampler: How tokens are chosen.

        Raises:
            ValueError: The logits are not finite.
        """
        if not any(step.rows):
            chosen, stayed = sampler(logits[:, -1]).tolist(), [0] * len(self.texts)
        elif sampler.temperature == 0.0:
            stayed, chosen = match(sampler(logits).tolist(), step.rows, step.forced)
        else:
            probs, guesses = sampler.distribution(logits), Proposal(step.rows, step.probs)
            stayed, chosen = verify(probs, guesses, sampler.generator, step.forced)
        new = []
        for b, row in enumerate(step.rows):
            # the token chosen before is in the cache now, with those after it that stayed
            self.lengths[b] += 1 + stayed[b]
            new.append(self._extend(b, [*row[: stayed[b]], chosen[b]]))
        if any(self.done) and self.alive:
            # what the cache holds of an ended row does not matter, so it does not stick out
            pairs = list(zip(self.lengths, self.done, strict=True))
            most = max(n for n, done in pairs if not done)
            self.lengths = [most if done else n for n, done in pairs]
        self._stayed = stayed
        return new

    def _extend(self, b: int, ids: Sequence[int]) -> list[int]:
        """Adds ids to a row as far as they go; returns those that were added."""
        added = list(ids[: self._left(b)])
        for i, each in enumerate(added):
            if each in self.ends:
                added, self.done[b] = added[: i + 1], True
                break
        self.texts[b] += added
        self.done[b] |= len(self.texts[b]) == self.most
        return added

    def stream(
        self, new: list[list[int]], streamer: Callable[[Tensor], object], *, whole: bool
    ) -> None:
        """Calls a streamer with the new ids, ``[B]`` at a time.

        With ``whole``, every row has one, and an ended row has padding; else -1 stands for none.
        """
        none = self.pad if whole else -1
        for i in range(max(map(len, new))):
            column = [row[i] if i < len(row) else none for row in new]
            streamer(torch.tensor(column, device=self.ids.device))

    def force(self, tokens: Any, vocab_size: int) -> None:
        """Takes what a hook returned, for the next step.

        Raises:
            TypeError: It is no mapping of ints to sequences of ints.
            ValueError: A row does not exist, or an id is not in [0, V).
        """
        tokens = {} if tokens is None else tokens
        if not isinstance(tokens, Mapping):
            kind = type(tokens).__name__
            raise TypeError(f"the hook must return a mapping of rows to ids, or None, got {kind}")
        for b, ids in tokens.items():
            _checks.integer("a row of the hook", b, least=0, most=len(self.texts) - 1)
            for each in ids:
                _checks.integer("an id of the hook", each, least=0, most=vocab_size - 1)
        self._forced = {b: list(ids) for b, ids in tokens.items() if len(ids)}

    def count(self, step: Step, draft: Draft) -> None:
        """Adds a verified step to a draft's counters."""
        draft.passes += 1
        for row, stayed, forced in zip(step.rows, self._stayed, step.forced, strict=True):
            if not forced:
                draft.proposed += len(row)
                draft.accepted += stayed

    def accepted(self, step: Step, new: list[list[int]], hidden: Tensor) -> Accepted:
        """What a draft learns after a step, of which ``hidden`` are the states."""
        device, n = self.ids.device, max(map(len, new))
        tokens = torch.tensor([[*row, *[0] * (n - len(row))] for row in new], device=device)
        if step.ids is self.ids:  # the prompts, of whose last tokens these are the successors
            tokens = torch.cat([self.ids[:, 1:], tokens], 1)
            real = torch.ones_like(tokens).bool() if self.mask is None else self.mask.bool()
        else:
            of_rows = [[i < len(row) for i in range(n)] for row in new]
            real = torch.tensor(of_rows, device=device)
        return Accepted(tokens, real, hidden[:, : tokens.shape[1]])

    def next(self, cache: Any, proposal: Proposal | None) -> Step:
        """The next step: a hook's tokens, where there are some, in place of a draft's guesses."""
        B, device = len(self.texts), self.ids.device
        rows = self._rows(proposal) if proposal is not None or self._forced else [[]] * B
        m, last = max(map(len, rows)), [text[-1] for text in self.texts]
        if any(self.done):
            last = [self.pad if done else x for x, done in zip(last, self.done, strict=True)]
        if m == 0 and cache.lengths is None:  # an ended row reads padding, so that all rows agree
            n = cache.length + 1 - self.ids.shape[1]
            mask = None if self.mask is None else F.pad(self.mask, (0, n), value=1)
            return Step(torch.tensor(last, device=device).unsqueeze(1), mask, rows, [False] * B)

        fed = [[x, *row, *[self.pad] * (m - len(row))] for x, row in zip(last, rows, strict=True)]
        ids = torch.tensor(fed, device=device)
        new = [0 if done else 1 + len(row) for row, done in zip(rows, self.done, strict=True)]
        forced = [b in self._forced for b in range(B)]
        probs = None if proposal is None else proposal.probs
        if probs is not None and probs.shape[1] != m:  # a hook may have more, the end leave fewer
            probs = F.pad(probs[:, :m], (0, 0, 0, max(0, m - probs.shape[1])))
        return Step(ids, cache.mask(self.pads, new, m + 1), rows, forced, probs)

    def _rows(self, proposal: Proposal | None) -> list[list[int]]:
        """What every row reads after its last token, as far as it goes."""
        rows: list[list[int]] = [[] for _ in self.texts]
        if proposal is not None:
            # the token after guesses comes from the model
            rows = [row[: max(0, self._left(b) - 1)] for b, row in enumerate(proposal.rows)]
        for b, ids in self._forced.items():
            rows[b] = ids[: self._left(b)]
        return rows

    def result(self) -> Tensor:
        """``[B, n]``, the new ids of all rows, with padding after an ended row's."""
        n = self.longest
        rows = [[*row, *[self.pad] * (n - len(row))] for row in self.texts]
        return torch.tensor(rows, dtype=torch.long, device=self.ids.device)
