"""Three kinds of text for one small model: scripture, programs, and lines of arithmetic."""

import sysconfig
from pathlib import Path

import torch
from torch import Tensor
from train_demo import HELD_OUT, TEXT

from moge_ops.models.tokenizer import Tokenizer

MOST = 1_500_000  # bytes of a kind


def python() -> str:
    """Sources of the standard library of the Python that runs this."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in files)
    return "\n".join(text for text in texts if text.isascii())[:MOST]


def arithmetic() -> str:
    """Sums and products of random numbers below 100, always the same."""
    random = torch.Generator().manual_seed(0)
    numbers = torch.randint(100, (MOST // 16, 3), generator=random).tolist()
    return "\n".join(
        f"{a} + {b} = {a + b}" if odd % 2 else f"{a} x {b} = {a * b}" for a, b, odd in numbers
    )


KINDS = {"scripture": TEXT.read_text, "python": python, "arithmetic": arithmetic}


class Kind:
    """One kind of text as ids, in pieces that begin with the first token, as prompts do."""

    def __init__(self, text: str, tokenizer: Tokenizer, random: torch.Generator) -> None:
        of_byte = torch.tensor([tokenizer.raw(chr(byte))[-1] for byte in range(128)])
        self.ids = of_byte[torch.tensor(list(text.encode()))]
        self.first, self.cut = tokenizer.raw("")[0], int(len(self.ids) * (1.0 - HELD_OUT))
        self.random = random

    def _pieces(self, starts: Tensor, length: int) -> Tensor:
        pieces = self.ids[starts.unsqueeze(1) + torch.arange(length)]
        pieces[:, 0] = self.first
        return pieces

    def sample(self, batch: int, length: int) -> Tensor:
        """``[B, L]`` of the text before the held-out end."""
        starts = torch.randint(self.cut - length, (batch,), generator=self.random)
        return self._pieces(starts, length)

    def held_out(self, batch: int, length: int) -> Tensor:
        """``[B, L]``, evenly over the end of the text."""
        return self._pieces(torch.linspace(self.cut, len(self.ids) - length, batch).long(), length)


class Mixture:
    """All kinds of text, for `train`: a batch has ``batch`` pieces of each."""

    def __init__(
        self, tokenizer: Tokenizer, batch: int, length: int, pieces: int, seed: int = 0
    ) -> None:
        self.batch, self.length = batch, length
        self.random = torch.Generator().manual_seed(seed)
        self.kinds = {name: Kind(make(), tokenizer, self.random) for name, make in KINDS.items()}
        self.held_out = [kind.held_out(pieces, length) for kind in self.kinds.values()]

    def sample(self) -> Tensor:
        """``[kinds x B, L]`` of training text."""
        pieces = [kind.sample(self.batch, self.length) for kind in self.kinds.values()]
        return torch.cat(pieces)
