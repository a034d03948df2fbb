"""More nonlinearity in a block: a series of SiLU terms in the experts, a shortcut around attention.

PanGu-pi (Wang et al. 2023, arXiv:2312.17276) finds that features of tokens become alike in deep
models, and adds to a block of Llama the augmented shortcut, ``MSA(Z) + Z + T(Z)`` with T two thin
matrices and a GELU between (section 4.1), and the series informed activation, a sum of n shifted
and scaled terms (section 4.2). A small MoGE model learns the text that ships here with neither,
with each and with both, in equal steps on the same batches; beside shortcuts experts are narrower,
so that all have about as many parameters. Measured on held-out text: the loss, and of the features
behind every block the effective dimension (section 5.2: principal components that explain 80 % of
the variance) and the diversity (section 3: distance to the nearest matrix with equal rows, here
divided by the norm).

A sum of bottlenecks, as in equation 4, is one as wide as all together. `series` is equation 7, a
scale and a shift for each term; the matrices for every term of equation 9 are left out. The paper
reduces the width 32 times, which would leave 3 columns here: we take 4, the best of its table 3.
Sizes, the norm before the shortcut, the series' start at SwiGLU and the text are ours.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from bench_ops import harness, printing
from rich.table import Table
from torch import Tensor, nn
from train_demo import TEXT, Row, Text, byte_tokenizer, updater

import moge_ops

TERMS, REDUCTION = 2, 4  # of a series; of the width, in a shortcut
BALANCE, RATE = 0.01, 3e-3  # factor of the loss for load balance; learning rate at its peak


class Sizes(NamedTuple):
    """Of a model: a series of ``terms``, and shortcuts of ``width``, or none where it is 0."""

    H: int = 96
    heads: int = 4
    layers: int = 4
    E: int = 16
    G: int = 4
    F: int = 64
    terms: int = 0
    width: int = 0


def forms(sizes: Sizes) -> dict[str, Sizes]:
    """The columns of experts pay for the shortcut: 3·E·H parameters each, for 2·H·width."""
    width, series = sizes.H // REDUCTION, {"terms": TERMS}
    thin = sizes._replace(width=width, F=sizes.F - round(2 * width / (3 * sizes.E)))
    found = {"plain SwiGLU": sizes, "series": sizes._replace(**series)}
    return found | {"shortcut": thin, "both": thin._replace(**series)}


class Block(nn.Module):
    """Attention with an augmented shortcut, and experts with a series."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        H, width = sizes.H, sizes.width
        self.norms = nn.ModuleList([nn.RMSNorm(H), nn.RMSNorm(H)])
        self.attention = nn.MultiheadAttention(H, sizes.heads, bias=False, batch_first=True)
        self.shortcut = None
        if width:  # T(Z)
            down, up = nn.Linear(H, width, bias=False), nn.Linear(width, H, bias=False)
            self.shortcut = nn.Sequential(down, nn.GELU(), up)
        self.moge = moge_ops.nn.MoGE(H, sizes.F, sizes.E, sizes.G)
        start = torch.zeros(2, sizes.terms)  # the first term is SwiGLU, the second silu(0) = 0
        start[0, :1] = 1.0
        self.series = nn.Parameter(start) if sizes.terms else None

    def experts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[T, H] -> [T, H]``, and the loss for load balance."""
        moge = self.moge
        logits = F.linear(x, moge.gate)
        scale = moge.router_scale
        gating, routing = moge_ops.gate_and_route(logits, moge.num_groups, router_scale=scale)
        layer = moge.w_gate_up, moge.w_down, gating.weights, routing
        y = moge_ops.grouped_mlp(x, *layer, series=self.series)
        return y, moge_ops.load_balance_loss(logits, gating.experts)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, L, H] -> [B, L, H]``, and the loss for load balance."""
        z = self.norms[0](x)
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        y = x + self.attention(z, z, z, attn_mask=mask, is_causal=True, need_weights=False)[0]
        if self.shortcut is not None:
            y = y + self.shortcut(z)
        added, balance = self.experts(self.norms[1](y).flatten(0, 1))
        return y + added.view_as(y), balance


class Model(nn.Module):
    """Blocks between an embedding of ids and places, and the logits of the next id."""

    def __init__(self, sizes: Sizes, vocabulary: int, length: int) -> None:
        super().__init__()
        self.embed, self.places = (nn.Embedding(n, sizes.H) for n in (vocabulary, length))
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.layers))
        self.norm, self.head = nn.RMSNorm(sizes.H), nn.Linear(sizes.H, vocabulary, bias=False)
        for table in (self.embed, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """``[B, L]`` -> cross-entropy, mean loss for balance, features of every block."""
        x = self.embed(ids) + self.places.weight[: ids.shape[1]]
        balances, features = [], []
        for block in self.blocks:
            x, balance = block(x)
            balances.append(balance)
            features.append(x)
        logits = self.head(self.norm(x))[:, :-1].flatten(0, 1)
        loss = F.cross_entropy(logits, ids[:, 1:].flatten())
        return loss, torch.stack(balances).mean(), features


def effective_dimension(features: Tensor) -> int:
    """Principal components of ``[T, H]`` that explain 80 % of the variance."""
    centred = features.double() - features.double().mean(0)
    variances = torch.linalg.eigvalsh(centred.T @ centred).flip(0)
    return int((variances.cumsum(0) < 0.8 * variances.sum()).sum()) + 1


def diversity(features: Tensor) -> float:
    """Distance of ``[L, H]`` to the nearest matrix with equal rows, in shares of its norm."""
    return float((features - features.mean(0)).norm() / features.norm())


def train(model: Model, text: Text, steps: int) -> None:
    update = updater(model, steps, RATE, weight_decay=0.0)
    for _ in range(steps):
        loss, balance, _ = model(text.sample())
        update(loss + BALANCE * balance)


@torch.inference_mode()
def measured(model: Model, text: Text) -> Iterator[Row]:
    """A row for each block; the first token of a piece is unlike all others, and left out."""
    losses, _, features = zip(*(model(ids) for ids in text.held_out), strict=True)
    for layer, batches in enumerate(zip(*features, strict=True)):
        pieces = torch.cat(batches)[:, 1:]
        yield {
            "loss": f"{sum(map(float, losses)) / len(losses):.4f}",
            "layer": layer,
            "effective_dimension": effective_dimension(pieces.flatten(0, 1)),
            "diversity": f"{sum(map(diversity, pieces)) / len(pieces):.4f}",
        }


def shown(rows: Sequence[Row]) -> Iterator[Table | str]:
    """Means over seeds behind the last block; then losses against the plain ones, seed by seed."""
    rows = [row for row in rows if row["layer"] == row["layers"] - 1]
    formats = {"loss": ".4f", "parameters": ",.0f", "active": ",.0f"}
    formats |= {"effective_dimension": ".1f", "diversity": ".4f"}
    yield printing.table_of_means("Held-out text", rows, "form", formats)
    plain, *others = dict.fromkeys(row["form"] for row in rows)
    for form in others:
        losses = ([float(r["loss"]) for r in rows if r["form"] == name] for name in (form, plain))
        apart = sorted(own - alone for own, alone in zip(*losses, strict=True))
        word = "lower" if apart[-1] < 0 else "higher" if apart[0] > 0 else "not clearly another"
        yield f"{form}: {word} loss than {plain}, {apart[0]:+.4f} to {apart[-1]:+.4f} by seed"


OPTIONS = {
    "steps": (200, 1, "updates of each model"),
    "batch": (6, 1, "pieces of text in a batch"),
    "length": (128, 3, "bytes of a piece"),
    "seeds": (2, 1, "runs from other weights and batches"),
}


def main() -> int:
    parser = harness.example("Trains a small model with and without PanGu-pi's parts.", OPTIONS)
    few = {"steps": 3, "batch": 2, "length": 32, "seeds": 1}
    args = harness.parsed(parser, OPTIONS, few, length=TEXT.stat().st_size // 10)
    started, shared = time.perf_counter(), harness.origin()
    tokenizer, rows = byte_tokenizer(), list[Row]()
    for seed in range(args.seeds):
        for form, own in forms(Sizes(H=32, layers=2, F=8) if args.smoke else Sizes()).items():
            text = Text(tokenizer, args.batch, args.length, seed)
            torch.manual_seed(seed)
            model = Model(own, tokenizer.size, args.length)
            train(model, text, args.steps)
            total = sum(weight.numel() for weight in model.parameters())
            idle = own.layers * (own.E - own.G) * 3 * own.H * own.F  # in experts not taken
            counts = {"steps": args.steps, "parameters": total, "active": total - idle}
            of = {**shared, "form": form, "seed": seed, **counts, **own._asdict()}
            rows += [{**of, **row} for row in measured(model, text)]
    harness.report(args.out / "pangu_pi.csv", rows, shown(rows), started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
