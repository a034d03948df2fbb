"""Parts of generation: one batch of prompts of any lengths, and the choice of the next token."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moge_ops import _checks

__all__ = ["Sampler", "draw", "left_padded"]


def left_padded(
    prompts: Tensor | Sequence[Sequence[int]],
    mask: Tensor | None,
    *,
    pad: int,
    vocab_size: int,
    device: torch.device,
) -> tuple[Tensor, Tensor | None]:
    """Checks prompts and puts them into one batch, with padding on the left.

    Args:
        prompts: ``[B, L]`` int32 | int64, or a list of prompts of any lengths.
        mask: ``[B, L]``, 0 at padding, for prompts that are a tensor.
        pad: Id that is written where there is padding.
        vocab_size: V, above all ids.
        device: Device of the model.

    Returns:
        Ids ``[B, L]`` int64, and their mask ``[B, L]`` int64, or None if there is no padding.

    Raises:
        TypeError: The ids are not integers.
        ValueError: A prompt is empty, an id is outside [0, V), padding is not on the left, or a
            mask comes with a list.
    """
    if not isinstance(prompts, Tensor):
        lengths = [len(row) for row in prompts]
        if not lengths or not all(lengths):
            raise ValueError(f"every prompt must have a token, got lengths {lengths}")
        if mask is not None:
            raise ValueError("attention_mask must be None for a list of prompts, got one")
        L = max(lengths)
        rows = [[pad] * (L - len(row)) + [*row] for row in prompts]
        real = [[0] * (L - n) + [1] * n for n in lengths]
        for each in (each for row in rows for each in row):
            if isinstance(each, int) and not -(2**63) <= each < 2**63:
                raise ValueError(f"input_ids must be in [0, {vocab_size}), got {each:.3e}")
        prompts, mask = torch.tensor(rows, device=device), torch.tensor(real, device=device)
    _checks.tensors(("input_ids", prompts, "[B, L]", _checks.IDS))
    mask = torch.ones_like(prompts) if mask is None else mask
    _checks.shape("attention_mask", mask, "[B, L]", tuple(prompts.shape))
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError("attention_mask must be 0 or 1 everywhere, got other values")
    mask = mask.long()
    if not prompts.numel():
        raise ValueError(f"every prompt must have a token, got input_ids {list(prompts.shape)}")
    if not mask[:, -1].all() or (mask.diff(dim=1) < 0).any():
        raise ValueError("attention_mask must be zeros and then ones in every row")
    bad = ((prompts < 0) | (prompts >= vocab_size)) & (mask != 0)
    if bad.any():
        row, column = bad.nonzero()[0].tolist()
        got = f"{int(prompts[row, column])} in row {row}, column {column}"
        raise ValueError(f"input_ids must be in [0, {vocab_size}), got {got}")
    return prompts.long().masked_fill(mask == 0, pad), None if mask.all() else mask


@dataclass(frozen=True)
class Sampler:
    """Chooses the next token of every row.

    Args:
        temperature: Divides the logits. 0 takes the likeliest token, the lowest id among equals.
        top_k: Only the ``top_k`` likeliest tokens can be chosen; 0 for all.
        top_p: Among these, only the fewest likeliest whose probabilities add up to ``top_p``.
        generator: Source of the random numbers; None for torch's own.

    Raises:
        TypeError: ``top_k`` is not an int.
        ValueError: A setting is out of range.
    """

    temperature: float
    top_k: int
    top_p: float
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if not self.temperature >= 0.0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")
        _checks.integer("top_k", self.top_k, least=0)
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")

    def __call__(self, logits: Tensor) -> Tensor:
        """``[..., V] -> [...]`` int64.

        Raises:
            ValueError: The largest logit of a row is NaN or infinite; others may be -inf.
        """
        if self.temperature == 0.0:
            return self._likeliest(logits).squeeze(-1)
        probs, ids = self._filtered(logits)
        return ids.gather(-1, draw(probs, self.generator).unsqueeze(-1)).squeeze(-1)

    def distribution(self, logits: Tensor) -> Tensor:
        """The probabilities that a call draws from, ``[..., V] -> [..., V]`` float32.

        Raises:
            ValueError: As in a call.
        """
        dense = torch.zeros(logits.shape, dtype=torch.float32, device=logits.device)
        if self.temperature == 0.0:
            return dense.scatter_(-1, self._likeliest(logits), 1.0)
        probs, ids = self._filtered(logits)
        return dense.scatter_(-1, ids, probs / probs.sum(-1, keepdim=True))

    def _likeliest(self, logits: Tensor) -> Tensor:
        """``[..., V] -> [..., 1]``; raises unless the largest logit is finite."""
        ids = logits.argmax(-1, keepdim=True)
        _finite(logits.gather(-1, ids))
        return ids

    def _filtered(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The candidates' weights, largest first and 0 where ``top_p`` leaves one out; their ids.

        Both are ``[..., top_k]``; the weights do not add up to 1.
        """
        V = logits.shape[-1]
        # only the candidates are sorted: by default 50 of 153376 ids
        values, ids = logits.float().topk(min(self.top_k or V, V))
        best = values[..., :1]
        _finite(best)
        # differences, because logits / temperature may be too large; these become -inf at most
        limits = torch.finfo(torch.float32)
        scaled = (values - best) / min(max(self.temperature, limits.tiny), limits.max)
        probs = scaled.softmax(-1)  # [..., top_k], largest first
        # a token stays if those before it do not reach top_p, so the first one always stays
        probs = probs.masked_fill(probs.cumsum(-1) - probs >= self.top_p, 0.0)
        return probs, ids


def draw(weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """An id with a chance in proportion to its weight, ``[..., V] -> [...]`` int64.

    Of clocks that ring at these rates, the first one is each with that chance. It is what
    ``torch.multinomial`` does for one draw, whose checks would take longer than the draw.
    """
    clocks = torch.empty_like(weights).exponential_(generator=generator)
    return (weights / clocks).argmax(-1)


def _finite(best: Tensor) -> None:
    """Raises ValueError unless the largest logits are finite; NaN counts as the largest."""
    if (best - best).any():  # 0, or NaN
        raise ValueError(f"the logits are not finite, the largest is {best.float().max().item()}")
