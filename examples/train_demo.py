"""Trains a small MoGE model and its plain top-k twin on the text that ships here, and draws both.

The twin is the same model with one group, so a token takes the best K of all experts; both start
from the same weights and see the same batches. Recorded are the losses, and how many expert
evaluations fall to each of eight devices that hold neighbouring experts. What the CSV holds is what
the picture shows. The experts that held-out tokens chose at the end go into an .npz, which
`balance.py` reads. With `--mtp` both models also learn to predict further tokens, with which
`moge-ops generate --draft mtp` drafts.
"""

import argparse
import dataclasses
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from balance import DEVICES, MOGE, TOP_K, imbalance, peak
from bench_ops import finish, harness, printing
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from moge_ops import planner
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM, mtp
from moge_ops.models.checkpoint import save_pretrained
from moge_ops.models.pangu_moe import losses
from moge_ops.models.tokenizer import BOS, CLOSE, Tokenizer, write_byte_tokenizer

TEXT = Path(__file__).resolve().parent / "data" / "pentateuch.txt"
HELD_OUT = 0.1  # share of the text, at its end
LOOKS = {MOGE: ("#D55E00", "-"), TOP_K: ("#0072B2", "--")}  # Okabe and Ito's
PROMPT = "In the beginning God"
MTP_FACTOR = 0.3  # of the loss of further tokens: arXiv:2412.19437, section 4.2

# the released model's proportions, at a fortieth of its width
MODEL = PanguMoEConfig(
    hidden_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    moe_intermediate_size=32,
    shared_expert_intermediate_size=128,
    max_position_embeddings=1024,
    router_aux_loss_coef=0.01,
)
SMOKE = dataclasses.replace(
    MODEL,
    hidden_size=32,
    num_hidden_layers=2,
    moe_intermediate_size=8,
    shared_expert_intermediate_size=16,
)

Row = dict[str, Any]


class Text:
    """The text as ids, in pieces that all begin with the first token, as prompts do."""

    def __init__(self, tokenizer: Tokenizer, batch: int, length: int, seed: int) -> None:
        ids = torch.tensor(tokenizer.encode(TEXT.read_text()))
        cut = int(len(ids) * (1.0 - HELD_OUT))
        self.ids, self.batch, self.length = ids, batch, length
        self.first = tokenizer.raw("")[0]
        self.most = cut - length
        self.random = torch.Generator().manual_seed(seed)
        # the same for all, and all over the end of the text
        starts = torch.linspace(cut, len(ids) - length, 4 * batch).long()
        self.held_out = self.pieces(starts).split(batch)

    def pieces(self, starts: Tensor) -> Tensor:
        """``[B] -> [B, L]``"""
        pieces = self.ids[starts.unsqueeze(1) + torch.arange(self.length)]
        pieces[:, 0] = self.first
        return pieces

    def sample(self) -> Tensor:
        """A random batch ``[B, L]`` of the text before the held-out end."""
        return self.pieces(torch.randint(self.most, (self.batch,), generator=self.random))


def byte_tokenizer() -> Tokenizer:
    """The tokenizer of bytes, without its folder."""
    with tempfile.TemporaryDirectory() as folder:
        return write_byte_tokenizer(folder)


def fitted(config: PanguMoEConfig, tokenizer: Tokenizer, **changes: Any) -> PanguMoEConfig:
    """The config with the tokenizer's ids, and other changes."""
    ids = {"bos_token_id": tokenizer.id_of(BOS), "eos_token_id": tokenizer.id_of(CLOSE)}
    return dataclasses.replace(config, vocab_size=tokenizer.size, **{**ids, **changes})


def rate(step: int, steps: int, peak: float) -> float:
    """Learning rate: up for a tenth of the steps, then down along a cosine to a tenth."""
    warm = max(1, steps // 10)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.55 + 0.45 * math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def updater(
    model: nn.Module, steps: int, peak: float, weight_decay: float = 0.1
) -> Callable[[Tensor], None]:
    """The function that takes the loss of each step and updates the model."""
    options = {"lr": 1.0, "betas": (0.9, 0.95), "weight_decay": weight_decay}
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    rates = LambdaLR(optimizer, lambda step: rate(step, steps, peak))

    def update(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()

    return update


def held_out_loss(model: PanguMoEForCausalLM, text: Text) -> float:
    with torch.inference_mode():
        found = [losses(model(x, return_details=True), x)[0] for x in text.held_out]
    return float(torch.stack(found).mean())


def held_out_loss_of_heads(model: PanguMoEForCausalLM, text: Text) -> float:
    with torch.inference_mode():
        found = [mtp.losses(model, model(x, return_details=True), x)[0] for x in text.held_out]
    return float(torch.stack(found).mean())


def chosen_experts(model: PanguMoEForCausalLM, text: Text) -> Tensor:
    """``[layers, T, K]``: the experts of every second batch of held-out text."""
    with torch.inference_mode():
        gating = [model(x, return_details=True).gating for x in text.held_out[::2]]
    layers = zip(*gating, strict=True)
    return torch.stack([torch.cat([gates.experts for gates in layer]) for layer in layers])


def train(
    config: PanguMoEConfig,
    text: Text,
    steps: int,
    peak: float,
    *,
    seed: int = 0,
    every: int | None = None,
    advance: Callable[[], None] = lambda: None,
    change: Callable[[PanguMoEForCausalLM], object] = lambda model: None,
) -> tuple[PanguMoEForCausalLM, list[Row]]:
    """The trained model, and a row for each layer at every ``every``-th step, the first and last.

    ``change`` gets the new model before the first step.
    """
    torch.manual_seed(seed)
    model = PanguMoEForCausalLM(config)
    change(model)
    update = updater(model, steps, peak)
    rows: list[Row] = []
    recent: list[float] = []
    for step in range(steps + 1):
        x = text.sample()
        out = model(x, return_details=True)
        cross_entropy, balance = losses(out, x)
        recent.append(float(cross_entropy.detach()))
        if step % (every or steps) == 0 or step == steps:
            validation = held_out_loss(model, text)
            for layer, gating in enumerate(out.gating):
                loads = planner.device_loads(gating.counts, DEVICES)
                rows.append(
                    {
                        "step": step,
                        "layer": layer,
                        "loss": f"{sum(recent) / len(recent):.4f}",
                        "held_out_loss": f"{validation:.4f}",
                        "balance_loss": f"{float(balance.detach()):.4f}",
                        "tokens": x.numel(),
                        "imbalance": f"{float(imbalance(loads, x.numel())):.4f}",
                        **{f"device_{d}": n for d, n in enumerate(loads.tolist())},
                    }
                )
            recent.clear()
        if step == steps:
            break
        loss = cross_entropy + config.router_aux_loss_coef * balance
        if len(model.mtp):
            further, balance = mtp.losses(model, out, x)
            loss = loss + MTP_FACTOR * further + config.router_aux_loss_coef * balance
        update(loss)
        advance()
    return model.eval(), rows


def by_step(rows: Sequence[Row], model: str, column: str) -> tuple[list[int], list[float]]:
    """Steps, and the mean over layers of a column."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if row["model"] == model:
            found.setdefault(int(row["step"]), []).append(float(row[column]))
    return list(found), [sum(values) / len(values) for values in found.values()]


def draw(path: Path) -> Figure:
    """Loss, imbalance, and the devices' shares of one layer, of both models."""
    rows: list[Row] = [*harness.read(path)]
    figure = Figure(figsize=(10.5, 7.6), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    loss, score = panels[0]
    for model, (colour, line) in LOOKS.items():
        steps, values = by_step(rows, model, "loss")
        middle = [(a + b) / 2 for a, b in pairwise(steps)]  # each is the mean since the last
        loss.plot(middle, values[1:], line, color=colour, alpha=0.45, label=f"{model}, training")
        steps, values = by_step(rows, model, "held_out_loss")
        loss.plot(steps, values, line, color=colour, lw=2, label=f"{model}, held-out text")
        score.plot(*by_step(rows, model, "imbalance"), line, color=colour, lw=2, label=model)
    loss.set(title="Loss", ylabel="cross-entropy of a byte, nats")
    score.set(
        title="Imbalance score, mean over layers",
        ylabel="(max - min) / tokens of a batch",
        ylim=(-0.04, None),
    )

    layers = sorted({int(row["layer"]) for row in rows})
    layer = layers[len(layers) // 2]
    rows = [row for row in rows if row["layer"] == str(layer)]
    top = max(int(row[f"device_{d}"]) for row in rows for d in range(DEVICES))
    for panel, (model, (colour, _)) in zip(panels[1], LOOKS.items(), strict=True):
        own = [row for row in rows if row["model"] == model]
        steps = [int(row["step"]) for row in own]
        for d in range(DEVICES):
            loads = [int(row[f"device_{d}"]) for row in own]
            label = f"each of {DEVICES} devices" if d == 0 else None
            panel.plot(steps, loads, color=colour, lw=1, label=label)
        share = int(rows[0]["tokens"]) * int(rows[0]["K"]) / DEVICES
        panel.axhline(share, color="#000000", ls=":", lw=1.5, label="even share")
        panel.set(title=f"{model}: tokens of each device, layer {layer}", xlabel="step")
        panel.set(ylim=(0, 1.25 * top))
    panels[1][0].set_ylabel("expert evaluations in a batch")
    for panel in panels.flat:
        finish(panel, ())
    first = rows[0]
    figure.suptitle(
        f"{first['parameters']} parameters, E {first['E']}, K {first['K']}, "
        f"{DEVICES} devices, {first['tokens']} tokens a batch, King James Bible by bytes\n"
        f"{harness.ran_on(first)}",
        fontsize="medium",
    )
    return figure


OPTIONS = {
    "steps": (300, 1, "updates of each model"),
    "batch": (8, 1, "pieces of text in a batch"),
    "length": (256, 2, "bytes of a piece"),  # a byte to predict, and one before it
    "every": (10, 1, "steps from one record to the next"),
    "seed": (0, -sys.maxsize, "seed of the weights and the batches"),
    "mtp": (0, 0, "heads that predict further tokens, in both models"),
}


def parse() -> argparse.Namespace:
    text = "Trains a MoGE model and its plain top-k twin, and draws both."
    parser = harness.example(text, OPTIONS, 3e-3)
    parser.add_argument("--save", type=Path, help="new folder for the MoGE model, to generate with")
    args = harness.parsed(parser, OPTIONS, length=MODEL.max_position_embeddings)
    if args.mtp > args.length - 2:
        parser.error(f"--mtp must be at most --length - 2 = {args.length - 2}, got {args.mtp}")
    return args


def main() -> int:
    args = parse()
    started = time.perf_counter()
    console, tokenizer = printing.console(), byte_tokenizer()
    base = SMOKE if args.smoke else MODEL
    config = fitted(base, tokenizer, num_nextn_predict_layers=args.mtp)
    total, active = PanguMoEForCausalLM(config).parameter_counts()
    here = harness.origin()
    shared = {
        **here,
        **{"parameters": f"{total:,}", "active": f"{active:,}", "seed": args.seed},
        **{"E": config.num_experts, "K": config.num_experts_per_tok},
    }
    console.print(
        f"{total:,} parameters, {active:,} active; {args.steps} steps of {args.batch} x "
        f"{args.length} bytes; {here['machine']}, {here['threads']} threads, torch {here['torch']}"
    )

    twins = {MOGE: config, TOP_K: dataclasses.replace(config, num_groups=1)}
    rows: list[Row] = []
    experts: dict[str, Any] = {}
    numbers = ("seconds", "held-out loss", "imbalance score", "most / mean tokens")
    table = printing.table_of("At the last step", ["model"], numbers)
    for name, twin in twins.items():
        text = Text(tokenizer, args.batch, args.length, args.seed)
        begun = time.perf_counter()
        with printing.bar(name, args.steps) as advance:
            how = {"seed": args.seed, "every": args.every, "advance": advance}
            model, found = train(twin, text, args.steps, args.learning_rate, **how)
        seconds = time.perf_counter() - begun
        experts[name] = chosen_experts(model, text).byte().numpy()
        rows += [{**shared, "model": name, "G": twin.num_groups, **row} for row in found]
        table.add_row(name, f"{seconds:.0f}", *summary(found[-twin.num_hidden_layers :]))
        if name == MOGE:
            moge = model
    sample = moge.generate([tokenizer.raw(PROMPT)], 160, temperature=0.0)
    console.print(f"MoGE goes on: {tokenizer.decode(sample[0].tolist())}", markup=False)
    if args.mtp:
        further = held_out_loss_of_heads(moge, text)
        console.print(f"Heads of MoGE: held-out loss {further:.4f}, mean over {args.mtp}")
    if args.save:
        save_pretrained(moge, args.save)
        write_byte_tokenizer(args.save)
        console.print(f"Model: moge-ops generate {args.save} --raw '{PROMPT}'")
    harness.report(args.out / "train.csv", rows, [table], started, draw=draw)
    np.savez_compressed(args.out / "train_experts.npz", **experts)
    return 0


def summary(layers: Sequence[Row]) -> tuple[str, ...]:
    """Loss, imbalance and the largest share of a device, the last two of the average layer."""
    loads = torch.tensor([[row[f"device_{d}"] for d in range(DEVICES)] for row in layers])
    score = imbalance(loads, layers[0]["tokens"]).mean()
    return layers[0]["held_out_loss"], f"{score:.3f}", f"{peak(loads).mean():.3f}"


if __name__ == "__main__":
    sys.exit(main())
