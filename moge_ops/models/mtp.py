"""Heads that predict tokens beyond the next one: their layers, their loss, and drafting with them.

Dimensions are those of ``moge_ops.models.pangu_moe``; D is the number of heads. A column is the
place of a token in a row: column i of the first head has the model's hidden state of token i and
the embedding of token i + 1, and predicts token i + 2.

Source: DeepSeek-AI 2024, "DeepSeek-V3", section 2.2 (arXiv:2412.19437).
"""

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from moge_ops import _checks
from moge_ops.models.cache import Cache, KVCache
from moge_ops.models.generation import Sampler
from moge_ops.models.pangu_moe import (
    IGNORED,
    Context,
    Layer,
    Norm,
    PanguMoEConfig,
    PanguMoEForCausalLM,
    PanguMoEOutput,
    balance,
    predicted,
)
from moge_ops.models.speculation import Accepted, Draft, Guesses, Proposal
from moge_ops.ops.grouped_gate import Gating

__all__ = ["MTPDraft", "MTPHead", "losses"]


class MTPHead(nn.Module):
    r"""One more layer, which sees the next token too and predicts the one after it.

    .. math::
        h'_i = \mathrm{norm}(\mathrm{layer}(W\,[\mathrm{enorm}(e_{i+1});\ \mathrm{hnorm}(h_i)]))

    with the embedding :math:`e_{i+1}` of the next token and the hidden state :math:`h_i` after the
    model's last norm, or after the norm of the head before. The embedding and the output head are
    the model's, so that the head has neither.

    Args:
        config: The model's configuration.

    Source:
        DeepSeek-AI 2024, "DeepSeek-V3", equations 21 and 22 (arXiv:2412.19437). The order in the
        joined vector is that of its released files.
    """

    def __init__(self, config: PanguMoEConfig) -> None:
        super().__init__()
        H = config.hidden_size
        self.enorm = Norm(H, config.rms_norm_eps)
        self.hnorm = Norm(H, config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * H, H, bias=False)
        self.layer = Layer(config, 0)  # of a cache of its own
        self.norm = Norm(H, config.rms_norm_eps)

    def forward(
        self, embedded: Tensor, hidden: Tensor, context: Context, cache: Cache | None = None
    ) -> tuple[Tensor, Tensor, Gating]:
        """Hidden states ``[B, L, H]`` after the norm, with the router's logits and its choice.

        Args:
            embedded: ``[B, L, H]``, embeddings of the tokens that follow those of ``hidden``.
            hidden: ``[B, L, H]``, after the model's last norm or that of the head before.
            context: As for a layer of the model.
            cache: Keys and values of the columns before.
        """
        x = self.eh_proj(torch.cat([self.enorm(embedded), self.hnorm(hidden)], -1))
        x, router_logits, gating = self.layer(x, context, cache)
        return self.norm(x), router_logits, gating


def losses(
    model: PanguMoEForCausalLM,
    out: PanguMoEOutput,
    input_ids: Tensor,
    labels: Tensor | None = None,
    attention_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The two terms of the heads' loss, to be added to the model's own with a factor.

    Head j predicts token i + j + 2 from the hidden state of token i, as the head before gives it,
    and token i + j + 1.

    Args:
        model: The model, with one head or more.
        out: What ``model(input_ids, attention_mask, return_details=True)`` returned.
        input_ids: ``[B, L]``, integers in [0, V).
        labels: ``[B, L]``, tokens to predict; ``IGNORED`` where nothing is predicted. By default
            ``input_ids``.
        attention_mask: ``[B, L]``, 0 at padding, which counts in neither term.

    Returns:
        Two scalars, float32 or wider: the mean over heads of their cross-entropy, in which a head
        counts as 0 if there is nothing for it to predict, and the mean over heads of
        :func:`moge_ops.load_balance_loss`. The published factor of the first is 0.3, and 0.1 late
        in training. Gradients reach the heads, the model, its embedding and its output head.

    Raises:
        ValueError: The model has no heads, or a shape does not fit.

    Source:
        DeepSeek-AI 2024, "DeepSeek-V3", equations 23 to 25 (arXiv:2412.19437).
    """
    B, L = input_ids.shape
    labels = input_ids if labels is None else labels
    _checks.shape("labels", labels, "[B, L]", (B, L))
    if not len(model.mtp):
        raise ValueError("the model must have heads, got num_nextn_predict_layers=0")
    hidden = out.hidden_states[-1]
    _checks.shape("out.hidden_states[-1]", hidden, "[B, L, H]", (B, L, hidden.shape[-1]))
    acc = torch.promote_types(hidden.dtype, torch.float32)
    real = None
    if attention_mask is not None:
        _checks.shape("attention_mask", attention_mask, "[B, L]", (B, L))
        real = attention_mask.bool()
    targets, rows = predicted(labels, attention_mask), real
    recompute = model.gradient_checkpointing and model.training and torch.is_grad_enabled()
    cross_entropy, balances = hidden.new_zeros((), dtype=acc), list[Tensor]()
    for j, head in enumerate(model.mtp):
        n = L - j - 1  # columns that have a next token
        if n < 1:
            break
        if rows is not None and real is not None:  # all tokens that a column has seen are real
            rows = rows[:, :n] & real[:, j + 1 :]
        x = model.embed(input_ids[:, j + 1 :])
        context = model._context(x, (B, n), rows, None)
        if recompute:
            found = checkpoint(head, x, hidden[:, :n], context, use_reentrant=False)
        else:
            found = head(x, hidden[:, :n], context)
        hidden, scores, gating = found
        balances.append(balance([scores], [gating.experts], rows))
        wanted = targets[:, j + 2 :]
        if rows is not None:
            wanted = wanted.masked_fill(~rows[:, : n - 1], IGNORED)
        logits = model.lm_head(hidden[:, : n - 1]).to(acc).flatten(0, 1)
        total = F.cross_entropy(logits, wanted.flatten(), ignore_index=IGNORED, reduction="sum")
        cross_entropy = cross_entropy + total / (wanted != IGNORED).sum().clamp_min(1)
    if not balances:
        return cross_entropy, cross_entropy
    return cross_entropy / len(model.mtp), torch.stack(balances).sum() / len(model.mtp)


class MTPDraft(Draft):
    """Guesses of the model's own heads: ``generate(draft="mtp")``.

    Head j makes guess j, and the last head all further ones, for which it takes its own hidden
    state in the place of the one before. Every head has the keys and values of all columns; those
    that it computed from guesses it computes again when the model's true hidden states are there.

    A batch whose longest prompt has fewer tokens than there are heads, less one, gets no guesses.
    """

    def start(
        self, model: Any, ids: Tensor, mask: Tensor | None, room: int, sampler: Sampler
    ) -> None:
        """Makes a cache for each head; raises ValueError for a model without heads."""
        if not len(model.mtp):
            raise ValueError(
                "draft='mtp' must come with a model that has heads for further tokens, got "
                "num_nextn_predict_layers=0"
            )
        (B, L), weight = ids.shape, model.embed.weight
        one = dataclasses.replace(model.config, num_hidden_layers=1)
        options = {"device": weight.device, "dtype": weight.dtype}
        self._model, self._sampler = model, sampler
        # a padded column more, as rows differ by what they accept
        self._caches = [KVCache(one, B, room + 1, **options) for _ in model.mtp]
        self._pads = [0] * B if mask is None else (L - mask.sum(1)).tolist()
        self._lengths: list[int] = []  # columns of each row with true hidden states, after a round
        self._tails: list[Tensor] = []  # for each head but the first: the input of its first column
        self._rows = torch.arange(B, device=ids.device)
        self._too_short = len(model.mtp) - 1 > L

    def propose(self, new: Accepted, n: int) -> Proposal:
        """Runs each head over the new tokens and the guesses before its own, then the last one
        over its own guesses."""
        model, ids, hidden = self._model, new.tokens, new.hidden
        B, width = ids.shape
        if self._too_short or n < 1:
            return Proposal([[] for _ in range(B)])
        first = not self._lengths
        if first:  # all rows end in the last column, and padding is before them
            begin, counts, depth = [0] * B, [width] * B, min(n, len(self._caches))
        else:
            begin, counts, depth = self._lengths, new.real.sum(1).tolist(), len(self._tails) + 1
        even = min(counts) == width
        # of one head in even rows nothing is gathered, and a step of a small model is short
        ends = ids if even and depth == 1 else torch.tensor(counts, device=ids.device)
        guesses, tails = Guesses(self._sampler), list[Tensor]()
        for j in range(depth):
            back = 0 if first else j  # columns that the last round had computed from guesses
            if j and first:
                ids = torch.cat([ids[:, 1:], guesses.tokens[-1][:, None]], 1)
                tails.append(hidden[:, width - j])
            elif j:
                ids = F.pad(ids, (0, 1)).index_put_((self._rows, ends + j - 1), guesses.tokens[-1])
                hidden = torch.cat([self._tails[j - 1][:, None], hidden], 1)
                tails.append(hidden[self._rows, ends])
            places, real = [x - back for x in begin], [x + back for x in counts]
            hidden = self._run(j, places, ids, hidden, real)
            last = hidden[:, -1:]
            if not even:  # a row that has ended has no new token, and its guesses are not read
                last = hidden[self._rows, (ends + back - 1).clamp_min(0)][:, None]
            guesses.add(model.lm_head(last[:, 0]))
        self._tails = tails
        self._lengths = [x + y for x, y in zip(begin, counts, strict=True)]
        for i in range(n - depth):
            places = [x + i for x in self._lengths]
            last = self._run(depth - 1, places, guesses.tokens[-1][:, None], last, [1] * B)
            guesses.add(model.lm_head(last[:, 0]))
        return guesses.proposal(n)

    def _run(
        self, j: int, places: list[int], ids: Tensor, hidden: Tensor, real: list[int]
    ) -> Tensor:
        """One head over the columns from ``places`` on, of which each row has ``real``."""
        model, cache = self._model, self._caches[j]
        cache.keep(places)
        mask = cache.mask(self._pads, real, ids.shape[1])
        x = model.embed(ids)
        context = model._context(x, tuple(ids.shape), mask, cache)
        y: Tensor = model.mtp[j](x, hidden, context, cache)[0]
        return y
