"""A small language model that judges thoughts."""

from collections.abc import Callable
from typing import Any

import torch

from moge_ops import _checks
from moge_ops.models.tokenizer import Tokenizer


class LogitVerifier:
    """A small language model that answers by the logits of two tokens.

    One forward over the question, none to write an answer:
    ``p = sigmoid(logit[Yes] - logit[No])`` of the next token, which is at least 0.5 where the logit
    of "Yes" is at least that of "No".

    Args:
        model: ``model(ids [1, L], logits_to_keep=1)`` gives logits ``[1, 1, V]`` or an object that
            has them. It must be in eval mode, and its own: another thread runs it.
        tokenizer: The model's.
        prompt: Text of a question to ids; by default ``tokenizer.chat``.
        longest: Most tokens of all thoughts of a question together. Each has an equal part of them
            and loses its beginning, because answers stand at the end.
        yes, no: The two words. The first token of each counts.

    Raises:
        ValueError: The words have no token, or the same first token; or ``longest`` is below 1.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        tokenizer: Tokenizer,
        *,
        prompt: Callable[[str], list[int]] | None = None,
        longest: int = 2048,
        yes: str = "Yes",
        no: str = "No",
    ) -> None:
        _checks.integer("longest", longest, least=1)
        first = [tokenizer.encode(word)[:1] for word in (yes, no)]
        if not all(first) or first[0] == first[1]:
            raise ValueError(
                f"yes={yes!r} and no={no!r} must begin with two different tokens, got {first}"
            )
        self._answers = [first[0][0], first[1][0]]
        self._words = f"{yes} or {no}"
        self._model, self._tokenizer, self._longest = model, tokenizer, longest
        self._prompt = tokenizer.chat if prompt is None else prompt

    def __call__(self, question: str, thoughts: list[str]) -> float:
        """Probability of yes, of yes and no together.

        Raises:
            ValueError: The logits are not finite.
        """
        room = max(1, self._longest // max(1, len(thoughts)))
        parts = []
        for i, thought in enumerate(thoughts):
            ids = self._tokenizer.encode(thought)
            text = thought if len(ids) <= room else self._tokenizer.decode(ids[-room:])
            parts.append(f"Thought {i + 1}:\n{text}\n")
        parts.append(f"{question} Answer with {self._words} only.")
        parameter = next(iter(getattr(self._model, "parameters", lambda: ())()), None)
        device = None if parameter is None else parameter.device
        prompt = torch.tensor([self._prompt("\n".join(parts))], device=device)
        with torch.inference_mode():
            out = self._model(prompt, logits_to_keep=1)
            logits = getattr(out, "logits", out)[0, -1, self._answers].double()
        if not logits.isfinite().all():
            raise ValueError(f"the verifier's logits must be finite, got {logits.tolist()}")
        return float((logits[0] - logits[1]).sigmoid())
