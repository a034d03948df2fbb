"""What each scheme of quantised experts costs a small model, with and without smoothing.

The model is that of `train_demo.py` with wider experts, trained for two to three minutes. Measured
on text that it has not seen: how much the loss of a byte grows, in nats; how far the predicted
distribution moves, as its divergence from the plain model's, which sees more, as gains and losses
do not cancel; how many (token, group) choices of an expert become others. Growth and divergence are
means over pieces of text, the growth that of each piece against itself, with standard errors.

So small a model has no outlying channels, and nothing for smoothing to do. Those of large models
are imitated in a second part: in each layer the norm before the experts is multiplied by 50 in six
channels, and all that reads it is divided by 50 there. The plain model computes the same as before.
That smoothing undoes this says that it works, and nothing about how large models quantise.

Pangu Pro MoE lost 0.37 to 0.80 points of benchmarks with W8A8, and 1.20 to 3.68 with W4A8
(arXiv:2505.21411). Points of a benchmark and nats of a byte are not the same measure, and no factor
leads from one to the other.
"""

import argparse
import copy
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from bench_ops import finish, harness, printing
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.table import Table
from torch import Tensor
from train_demo import MODEL, SMOKE, Row, Text, byte_tokenizer, fitted, train

from moge_ops.models import PanguMoEForCausalLM
from moge_ops.nn import FrozenWeight
from moge_ops.quant import QuantizedWeight, quantize_experts, smooth_experts

# wide enough for groups of 128 and for blocks of 128 x 128
WIDE = dataclasses.replace(
    MODEL,
    hidden_size=256,
    num_attention_heads=8,
    moe_intermediate_size=128,
    shared_expert_intermediate_size=512,
)
NARROW = dataclasses.replace(SMOKE, hidden_size=128, moe_intermediate_size=128, num_experts=16)
OUTLIERS, FACTOR = 6, 50.0
TRAINED, STRESSED = "as trained", "with outlying channels"
COLOURS = {TRAINED: "#0072B2", STRESSED: "#D55E00"}  # Okabe and Ito's


class Variant(NamedTuple):
    """One way to store the experts."""

    scheme: str
    group_size: int | None = None
    symmetric: bool = True

    def __str__(self) -> str:
        size = "" if self.group_size is None else f", {self.group_size}"
        if self.scheme.startswith("fp8"):
            size = ", row" if self.group_size is None else ", block"
        return f"{self.scheme}{size}{'' if self.symmetric else ', zero points'}"


PLAIN = Variant("plain")
VARIANTS = (
    Variant("int8_w8a8"),
    Variant("int8_w8a16"),
    Variant("fp8_w8a16"),
    Variant("fp8_w8a16", 128),
    *(Variant("int4_w4a16", g, symmetric) for g in (32, 64, 128) for symmetric in (True, False)),
    Variant("mxfp4_w4a16", 32),
)


class Found(NamedTuple):
    """What a model makes of the held-out text."""

    losses: Tensor  # [pieces], float64
    predicted: Tensor  # [pieces, L - 1, V], logarithms of probabilities, float64
    experts: Tensor  # [layers, T, K]


def measure(model: PanguMoEForCausalLM, batches: Sequence[Tensor]) -> Found:
    losses, predicted, experts = [], [], []
    with torch.inference_mode():
        for x in batches:
            out = model(x, return_details=True)
            predicted.append(out.logits[:, :-1].double().log_softmax(-1))  # [B, L - 1, V]
            of_next = predicted[-1].gather(2, x[:, 1:].unsqueeze(2)).squeeze(2)
            losses.append(-of_next.mean(1))
            experts.append(torch.stack([gating.experts for gating in out.gating]))
    return Found(torch.cat(losses), torch.cat(predicted), torch.cat(experts, 1))


def with_outliers(model: PanguMoEForCausalLM, seed: int) -> PanguMoEForCausalLM:
    """The same function, with some channels of the experts' input 50 times as large."""
    model, random = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.layers:
            norm, moge = layer.moge_norm, layer.moge
            channels = torch.randperm(len(norm.weight), generator=random)[:OUTLIERS]
            norm.weight[channels] *= FACTOR
            for weight in (moge.gate, moge.w_gate_up, moge.shared_gate_up):
                weight[..., channels] /= FACTOR
    return model


def quantized(
    model: PanguMoEForCausalLM, variant: Variant, calibration: Sequence[Tensor] | None
) -> PanguMoEForCausalLM:
    """A quantised copy, smoothed first if there is calibration."""
    model = copy.deepcopy(model)
    if variant != PLAIN:
        scheme, group_size, symmetric = variant
        quantize_experts(
            model, scheme, group_size=group_size, symmetric=symmetric, calibration=calibration
        )
    elif calibration is not None:
        smooth_experts(model, calibration)
    return model


def bits(model: PanguMoEForCausalLM) -> float:
    """Of one routed weight, scales and zero points included."""
    weights: list[Tensor | QuantizedWeight] = [
        w.weight if isinstance(w, FrozenWeight) else w
        for layer in model.layers
        for w in (layer.moge.w_gate_up, layer.moge.w_down)
    ]
    return 8.0 * sum(w.nbytes for w in weights) / sum(w.shape.numel() for w in weights)


def mean(name: str, each: Tensor) -> Row:
    """Two columns: the mean over pieces, and its standard error."""
    error = each.std() / len(each) ** 0.5
    return {name: f"{each.mean():.7f}", f"{name}_error": f"{error:.7f}"}


def compared(found: Found, plain: Found) -> Row:
    """Columns of one row; percentages are of what has become another."""
    layers = (found.experts != plain.experts).double().mean((1, 2)) * 100.0
    best = (found.predicted.argmax(-1) != plain.predicted.argmax(-1)).double().mean() * 100.0
    divergence = F.kl_div(found.predicted, plain.predicted, reduction="none", log_target=True)
    return {
        "loss": f"{found.losses.mean():.5f}",
        **mean("loss_change", found.losses - plain.losses),
        **mean("divergence", divergence.sum(2).mean(1)),
        "best_changed": f"{best:.4f}",
        "choices_changed": f"{layers.mean():.4f}",
        **{f"choices_changed_{i}": f"{share:.4f}" for i, share in enumerate(layers)},
    }


def draw(path: Path) -> Figure:
    """Growth of the loss, divergence, and changed choices, of every variant."""
    rows: list[Row] = [*harness.read(path)]
    first = rows[0]
    rows = [row for row in rows if row["variant"] != str(PLAIN)]
    names = list(dict.fromkeys(row["variant"] for row in rows))
    figure = Figure(figsize=(13.5, 7.6), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    loss, divergence, choices = panels
    for panel in panels:
        for i in range(1, len(names), 2):
            panel.axhspan(i - 0.5, i + 0.5, color="#f4f4f4", zorder=0)
    looks = {
        (model, smoothing): {"color": colour, "marker": marker, "mfc": fill or colour}
        for model, colour in COLOURS.items()
        for smoothing, marker, fill in (("no", "o", "white"), ("yes", "s", ""))
    }
    for i, (part, look) in enumerate(looks.items()):
        own = [row for row in rows if (row["model"], row["smoothing"]) == part]
        y = [names.index(row["variant"]) + 0.18 * (i - 1.5) for row in own]
        for panel, name in ((loss, "loss_change"), (divergence, "divergence")):
            x, error = ([1e3 * float(row[c]) for row in own] for c in (name, f"{name}_error"))
            panel.errorbar(x, y, xerr=[2.0 * e for e in error], elinewidth=1, ls="", ms=5.5, **look)
        choices.plot([float(row["choices_changed"]) for row in own], y, ls="", ms=5.5, **look)
    loss.axvline(0.0, color="#000000", lw=1)
    loss.set_yticks(range(len(names)), names)
    loss.set_ylim(len(names) - 0.5, -0.5)
    finish(loss, (), legend=False, title=f"Growth of the loss, from {first['loss']} nats")
    loss.set_xlabel("millinats of a byte, with two standard errors")
    finish(divergence, (), legend=False, title="Divergence of the next byte", xscale="log")
    divergence.set_xlabel("millinats of a byte, with two standard errors")
    finish(choices, (), legend=False, title="Changed choices of an expert", xscale="log")
    choices.set_xlabel("percent, mean over layers")
    handles = [
        Line2D([], [], ls="", label=model + (", smoothed" if smoothing == "yes" else ""), **look)
        for (model, smoothing), look in looks.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(
        f"{first['parameters']} parameters, E {first['E']}, K {first['K']}, "
        f"{first['steps']} steps; {first['tokens']} held-out bytes, King James Bible\n"
        f"{harness.ran_on(first)}",
        fontsize="medium",
    )
    return figure


OPTIONS = {
    "steps": (350, 1, "updates of the model"),
    "batch": (4, 1, "pieces of text in a batch"),
    "length": (256, 2, "bytes of a piece"),
    "pieces": (64, 2, "held-out pieces of text"),
    "calibration": (8, 1, "batches that smoothing sees"),
    "seed": (0, -sys.maxsize, "seed of weights, batches and outliers"),
}
AT_ONCE = 16  # pieces: the torch backend decodes all weights in every call


def parse() -> argparse.Namespace:
    parser = harness.example("What each scheme of quantised experts costs.", OPTIONS, 2e-3)
    args = harness.parsed(parser, OPTIONS, length=MODEL.max_position_embeddings)
    return args


def table(rows: Sequence[Row]) -> Table:
    """Growth of the loss in thousandths of a nat, and changed choices in percent."""
    numbers = ("bits", "as trained", "smoothed", "with outliers", "smoothed")
    title = "Growth of the loss in millinats ± its standard error, changed choices in %"
    found = printing.table_of(title, ["experts"], numbers)
    for name in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == name]
        cells = []
        for row in own:
            names = ("loss_change", "loss_change_error")
            change, error = (1e3 * float(row[name]) for name in names)
            cells.append(f"{change:+.2f}±{error:.2f} {float(row['choices_changed']):5.2f}")
        found.add_row(name, own[0]["bits"], *cells)
    return found


def main() -> int:
    args, started, tokenizer = parse(), time.perf_counter(), byte_tokenizer()
    config = fitted(NARROW if args.smoke else WIDE, tokenizer)
    text = Text(tokenizer, args.batch, args.length, args.seed)
    first, last = text.most + args.length, len(text.ids) - args.length
    pieces = text.pieces(torch.linspace(first, last, args.pieces).long()).split(AT_ONCE)

    with printing.bar("training", args.steps) as advance:
        how = {"seed": args.seed, "advance": advance}
        model, _ = train(config, text, args.steps, args.learning_rate, **how)
    calibration = [text.sample() for _ in range(args.calibration)]
    shared = {
        **harness.origin(),
        **{"parameters": f"{model.parameter_counts()[0]:,}", "seed": args.seed},
        **{"E": config.num_experts, "K": config.num_experts_per_tok, "steps": args.steps},
        **{"tokens": args.pieces * (args.length - 1), "pieces": args.pieces},
    }
    plain = measure(model, pieces)
    rows: list[Row] = []
    with printing.bar("quantising", len(COLOURS) * 2 * (len(VARIANTS) + 1)) as advance:
        for name, source in ((TRAINED, model), (STRESSED, with_outliers(model, args.seed))):
            for variant in (PLAIN, *VARIANTS):
                for smoothing, batches in (("no", None), ("yes", calibration)):
                    small = quantized(source, variant, batches)
                    rows.append(
                        {
                            **shared,
                            "model": name,
                            "variant": str(variant),
                            "smoothing": smoothing,
                            "bits": f"{bits(small):.2f}",
                            **compared(measure(small, pieces), plain),
                        }
                    )
                    advance()
    published = (
        "Pangu Pro MoE lost 0.37 to 0.80 points of benchmarks with W8A8, 1.20 to 3.68 with W4A8 "
        "(arXiv:2505.21411). Points are not nats: no factor leads from one to the other."
    )
    shown = table(rows), published
    harness.report(args.out / "quality.csv", rows, shown, started, draw=draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
