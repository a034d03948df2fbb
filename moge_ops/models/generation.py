"""Generation: prompts of any length as one batch, the choice of the next token, and the loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from moge_ops import _checks

if TYPE_CHECKING:
    from moge_ops.models.pangu_moe import KVCache, PanguMoEForCausalLM


def left_padded(
    prompts: Tensor | Sequence[Sequence[int]],
    mask: Tensor | None,
    *,
    pad: int,
    vocab_size: int,
    device: torch.device,
) -> tuple[Tensor, Tensor | None]:
    """One batch of prompts, checked.

    Args:
        prompts: ``[B, L]``, or a list of prompts of any lengths.
        mask: ``[B, L]``, 0 at padding of a tensor's prompts.
        pad: Id of padding, which is on the left.
        vocab_size: V.
        device: Of the model.

    Returns:
        Ids ``[B, L]`` int64 and, where there is padding, their mask.

    Raises:
        TypeError: The ids are not integers.
        ValueError: An empty prompt, an id outside [0, V), or padding elsewhere than on the left.
    """
    if not isinstance(prompts, Tensor):
        lengths = [len(row) for row in prompts]
        if not lengths or not all(lengths):
            raise ValueError(f"every prompt must have a token, got lengths {lengths}")
        L = max(lengths)
        rows = [[pad] * (L - len(row)) + [*row] for row in prompts]
        real = [[0] * (L - n) + [1] * n for n in lengths]
        prompts, mask = torch.tensor(rows, device=device), torch.tensor(real, device=device)
    _checks.tensor("input_ids", prompts, "[B, L]", _checks.IDS)
    mask = torch.ones_like(prompts) if mask is None else mask.long()
    _checks.shape("attention_mask", mask, "[B, L]", tuple(prompts.shape))
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
        temperature: Divides the logits; 0 takes the likeliest token, the first of equals.
        top_k: So many of the likeliest tokens may be chosen; 0 for all.
        top_p: Of those, the fewest whose probabilities reach this sum.
        generator: Of the random numbers.

    Raises:
        ValueError: A setting is out of range.
    """

    temperature: float
    top_k: int
    top_p: float
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if not self.temperature >= 0.0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")
        if not isinstance(self.top_k, int) or self.top_k < 0:
            raise ValueError(f"top_k must be an int of at least 0, got {self.top_k}")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")

    def __call__(self, logits: Tensor) -> Tensor:
        """``[B, V] -> [B]`` int64."""
        if self.temperature == 0.0:
            return logits.argmax(-1)
        V = logits.shape[-1]
        # ids that are not chosen from need no sorting: 50 of 153376 by default
        values, ids = (logits.float() / self.temperature).topk(min(self.top_k or V, V))
        probs = values.softmax(-1)  # [B, k], the largest first
        # a token stays while those before it have not reached top_p: so the first always does
        probs = probs.masked_fill(probs.cumsum(-1) - probs >= self.top_p, 0.0)
        return ids.gather(-1, torch.multinomial(probs, 1, generator=self.generator)).squeeze(-1)


def generate(
    model: "PanguMoEForCausalLM",
    input_ids: Tensor | Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    attention_mask: Tensor | None = None,
    temperature: float = 0.6,
    top_k: int = 50,
    top_p: float = 0.95,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int = 0,
    generator: torch.Generator | None = None,
    streamer: Callable[[Tensor], object] | None = None,
    cache: "KVCache | None" = None,
) -> Tensor:
    """Continues every prompt; the defaults are the published sampling settings.

    Args:
        input_ids: ``[B, L]``, or a list of prompts of any lengths.
        max_new_tokens: Most tokens to add.
        attention_mask: ``[B, L]``, 0 at padding on the left of a tensor's prompts.
        temperature, top_k, top_p, generator: As in :class:`Sampler`; temperature 0 is greedy.
        eos_token_id: One or more ids that end a row; by default the config's, ``()`` for none.
        pad_token_id: Fills shorter prompts on the left and ended rows on the right.
        streamer: Called with the ids ``[B]`` of every step.
        cache: Used instead of a new one, from its start.

    Returns:
        ``[B, L + n]`` int64, prompts and continuations; n is ``max_new_tokens``, or less where
        all rows have ended. The host waits in every step.

    Raises:
        TypeError: ``input_ids`` are not integers.
        ValueError: An empty prompt, an id or a setting out of range, padding elsewhere than on
            the left, or more tokens than the cache or the model's positions hold.
    """
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be at least 0, got {max_new_tokens}")
    embed, V = model.embed.weight, model.config.vocab_size
    if not 0 <= pad_token_id < V:
        raise ValueError(f"pad_token_id must be in [0, {V}), got {pad_token_id}")
    sampler = Sampler(temperature, top_k, top_p, generator)
    ids, mask = left_padded(
        input_ids, attention_mask, pad=pad_token_id, vocab_size=V, device=embed.device
    )
    B, L = ids.shape
    room = model.config.max_position_embeddings
    room = room if cache is None else min(room, cache.kv.shape[4])
    if L + max_new_tokens > room:
        raise ValueError(f"prompt and new tokens must fit into {room}, got {L} + {max_new_tokens}")
    cache = model.new_cache(B, L + max_new_tokens) if cache is None else cache
    cache.length = 0
    eos = model.config.eos_token_id if eos_token_id is None else eos_token_id
    ends = ids.new_tensor([eos] if isinstance(eos, int) else list(eos or ()))

    out, step = [ids], ids
    with torch.inference_mode():
        done = torch.zeros(B, dtype=torch.bool, device=ids.device)
        for n in range(max_new_tokens):
            seen = None if mask is None else F.pad(mask, (0, n), value=1)  # [B, L + n]
            logits = model(step, seen, cache, logits_to_keep=1)[:, -1]  # [B, V]
            chosen = sampler(logits).masked_fill(done, pad_token_id)  # [B]
            step = chosen.unsqueeze(1)
            out.append(step)
            if streamer is not None:
                streamer(chosen)
            done |= torch.isin(chosen, ends)
            if done.all():
                break
    return torch.cat(out, 1)  # outside the mode: a tensor for any use
