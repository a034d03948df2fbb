"""A small model from a large one: inherited weights against random parts and random weights.

A MoGE model of four layers learns three kinds of text. Students of the same smaller sizes, a
thirteenth of its parameters, begin in one of four ways: with the layers, channels, heads, experts
and neurons that matter most, by learned masks or by first-order scores; with random ones; and with
random weights. All of them then see the same batches once, and random ones of them, half as many,
once more. In a fifth way these are drawn by the student's loss on them. Measured is the loss on
text that was held out, at the start and at the end.

PanGu-pi Pro (Tang et al. 2024, arXiv:2402.02791) does this with dense models of a billion
parameters and trillions of tokens. What wins here says nothing about such models, nor the reverse.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence

import torch
from bench_ops import harness, printing
from kinds import Mixture
from torch import Tensor
from train_demo import MODEL, Row, byte_tokenizer, fitted, held_out_loss, train, updater

from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.statistics import RouterStatistics
from moge_ops.surgery import (
    Importance,
    Sensitivity,
    channel_importance,
    inherit,
    layer_importance,
)

DEPTH = {"num_hidden_layers": 2}
WIDTH = {
    **{"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "num_experts": 32},
    **{"moe_intermediate_size": 16, "shared_expert_intermediate_size": 64},
}
LEARNED, HARD, FIRST = "learned masks", "learned masks, hard batches", "first order"
PARTS, WEIGHTS = "random parts", "random weights"
WAYS = (LEARNED, HARD, FIRST, PARTS, WEIGHTS)


def random_importance(config: PanguMoEConfig, draw: torch.Generator) -> Importance:
    """Scores that say nothing."""

    def scores(*shape: int) -> Tensor:
        return torch.rand(shape, generator=draw)

    layers, F = range(config.num_hidden_layers), config.moe_intermediate_size
    S = config.shared_expert_intermediate_size
    return Importance(
        scores(config.hidden_size),
        {f"layers.{i}.attention": scores(config.num_key_value_heads) for i in layers},
        {f"layers.{i}.moge": Sensitivity(scores(config.num_experts, F), scores(S)) for i in layers},
    )


def random_masks(config: PanguMoEConfig, keep: int, draw: torch.Generator) -> dict[str, Tensor]:
    """The same number of experts in each group."""
    shape = config.num_hidden_layers, config.num_groups, config.num_experts // config.num_groups
    ranks = torch.rand(shape, generator=draw).argsort(-1).argsort(-1)
    return {f"layers.{i}.moge": mask.flatten() for i, mask in enumerate(ranks < keep)}


def born(
    large: PanguMoEForCausalLM, way: str, batches: Sequence[Tensor], draw: torch.Generator
) -> PanguMoEForCausalLM:
    """A student before it learns: fewer layers first, then less of each."""
    flat = dataclasses.replace(large.config, **DEPTH)
    config = dataclasses.replace(flat, **WIDTH)
    if way == WEIGHTS:
        return PanguMoEForCausalLM(config)
    n, keep = config.num_hidden_layers, config.num_experts // config.num_groups
    if way == PARTS:
        order = torch.rand(large.config.num_hidden_layers, generator=draw)
        medium = inherit(large, flat, layers=order.topk(n).indices.sort().values.tolist())
        importance, masks = random_importance(flat, draw), random_masks(flat, keep, draw)
    else:
        order = layer_importance(large, batches)
        medium = inherit(large, flat, layers=order.topk(n).indices.sort().values.tolist())
        importance = channel_importance(medium, batches, None if way == FIRST else config)
        profiles = RouterStatistics()
        with torch.inference_mode(), profiles.collect(medium, "text"):
            medium(torch.cat(list(batches)))
        masks = profiles.masks("text", keep=keep)
    return inherit(medium, config, importance, experts=masks)


def learn(
    student: PanguMoEForCausalLM,
    batches: Sequence[Tensor],
    hard: bool,
    args: argparse.Namespace,
    draw: torch.Generator,
    advance: Callable[[], None],
) -> None:
    """All batches once, and then half of them again, along one curve of learning rates."""
    again = len(batches) // 2
    update = updater(student, len(batches) + again, args.peak)

    def see(some: Sequence[Tensor]) -> None:
        for x in some:
            update(student.loss(x))
            advance()

    see(batches)
    p = torch.ones(len(batches))
    if hard:
        with torch.inference_mode():
            p = torch.stack([student.loss(x) for x in batches]).softmax(0)
    see([batches[i] for i in p.multinomial(again, generator=draw).tolist()])


OPTIONS = {
    "teach": (300, 1, "updates of the large model"),
    "batches": (120, 2, "batches that a student sees, half of them twice"),
    "batch": (2, 1, "pieces of text in a batch, all of one kind"),
    "length": (128, 16, "bytes of a piece"),
    "calibrate": (12, 3, "batches that scores are of"),
    "pieces": (8, 1, "held-out pieces of each kind"),
    "seeds": (2, 1, "students of each way"),
}


def parse() -> argparse.Namespace:
    parser = harness.example("A small model from a large one.", OPTIONS)
    parser.add_argument("--learning-rate", type=float, default=4e-3, help="of the large model")
    parser.add_argument("--peak", type=float, default=3e-3, help="learning rate of the students")
    few = {"teach": 2, "batches": 2, "length": 32, "calibrate": 3, "pieces": 1, "seeds": 1}
    return harness.parsed(parser, OPTIONS, few)


def row(way: str, seed: int, model: PanguMoEForCausalLM, start: float, end: float) -> Row:
    total, active = model.parameter_counts()
    sizes = {"way": way, "seed": seed, "parameters": total, "active": active}
    return {**sizes, "start_loss": f"{start:.4f}", "loss": f"{end:.4f}"}


def measured(args: argparse.Namespace) -> list[Row]:
    tokenizer = byte_tokenizer()
    text = Mixture(tokenizer, args.batch, args.length, args.pieces)
    draw, kinds = text.random, [*text.kinds.values()]
    steps = args.batches + args.batches // 2
    with printing.bar("large model", args.teach) as advance:
        config = fitted(MODEL, tokenizer)
        large, _ = train(config, text, args.teach, args.learning_rate, advance=advance)
    loss = held_out_loss(large, text)
    rows = [row("large model", 0, large, loss, loss)]
    with printing.bar("students", len(WAYS) * args.seeds * steps) as advance:
        for way in WAYS:
            for seed in range(args.seeds):
                draw.manual_seed(seed)
                torch.manual_seed(seed)
                seen = [kinds[i % 3].sample(args.batch, args.length) for i in range(args.batches)]
                student = born(large, way, seen[: args.calibrate], draw)
                start = held_out_loss(student, text)
                learn(student, seen, way == HARD, args, draw, advance)
                rows.append(row(way, seed, student, start, held_out_loss(student, text)))
    shared = {**harness.origin(), "teach": args.teach, "steps": steps}
    return [{**shared, **found} for found in rows]


def main() -> int:
    args, started = parse(), time.perf_counter()
    rows = measured(args)
    formats = {"parameters": ",.0f", "active": ",.0f", "start_loss": ".4f", "loss": ".4f"}
    table = printing.table_of_means("Held-out loss in nats a byte", rows, "way", formats)
    harness.report(args.out / "tiny_lm.csv", rows, [table], started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
