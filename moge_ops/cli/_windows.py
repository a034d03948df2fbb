"""A text of any length, in pieces that a model takes at once."""

import argparse
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from moge_ops.cli import _models as models
from moge_ops.cli._loading import check_ids
from moge_ops.models import PanguMoEForCausalLM
from moge_ops.models.tokenizer import load_tokenizer

WINDOW = 512  # most tokens in one forward
MOST_TEXT = 64 * 2**20  # bytes of a file of text; it may be a pipe, or a device without end


def tokens_of(args: argparse.Namespace, text: str | None) -> list[int]:
    """At most ``--max-tokens`` ids of a text, or of the file ``--text`` if it is None.

    Raises:
        OSError: The file cannot be read.
        ValueError: ``--max-tokens`` is below 1, the file is empty, too large or not UTF-8, or the
            model has a smaller vocabulary than its tokenizer.
    """
    if args.max_tokens < 1:
        raise ValueError(f"--max-tokens must be at least 1, got {args.max_tokens}")
    if text is None:
        try:
            with open(args.text, "rb") as file:
                data = file.read(MOST_TEXT + 1)
            text = data.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{args.text} is not UTF-8: {error}") from None
        if len(data) > MOST_TEXT:
            raise ValueError(f"{args.text} must have at most {MOST_TEXT:,} bytes, got more")
        if not text:
            raise ValueError(f"{args.text} must have a text, got an empty file")
    tokenizer = load_tokenizer(args.folder)
    ids = tokenizer.raw(text)[: args.max_tokens]
    check_ids(tokenizer, ids, models.checkpoint.read_config(args.folder))
    return ids


def windows(model: PanguMoEForCausalLM, ids: Sequence[int]) -> Iterator[Tensor]:
    """``[1, L]``, one piece of a text after another."""
    width = min(WINDOW, model.config.max_position_embeddings)
    for start in range(0, len(ids), width):
        yield torch.tensor([ids[start : start + width]], device=model.embed.weight.device)
