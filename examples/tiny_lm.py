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
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
from bench_ops import harness
from kinds import KINDS, Kind
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table
from torch import Tensor
from train_demo import MODEL, Row, held_out_loss, rate, train

from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.models.tokenizer import BOS, CLOSE, write_byte_tokenizer
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
    optimizer = torch.optim.AdamW(student.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    again, step = len(batches) // 2, 0
    steps = len(batches) + again
    todo = [*batches]
    while todo:
        loss = student.loss(todo.pop(0))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, args.peak)
        optimizer.step()
        advance()
        step += 1
        if step == len(batches):
            p = torch.ones(len(batches))
            if hard:
                with torch.inference_mode():
                    p = torch.stack([student.loss(x) for x in batches]).softmax(0)
            todo = [batches[i] for i in p.multinomial(again, generator=draw).tolist()]


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
    parser = harness.sized("A small model from a large one.", OPTIONS)
    parser.add_argument("--learning-rate", type=float, default=4e-3, help="of the large model")
    parser.add_argument("--peak", type=float, default=3e-3, help="learning rate of the students")
    parser.add_argument("--smoke", action="store_true", help="few steps: does it run?")
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="of the CSV")
    args = harness.parsed(parser, OPTIONS)
    if args.smoke:
        few = {"teach": 2, "batches": 2, "length": 32, "calibrate": 3, "pieces": 1, "seeds": 1}
        vars(args).update(few)
    return args


def row(way: str, seed: int, model: PanguMoEForCausalLM, start: float, end: float) -> Row:
    total, active = model.parameter_counts()
    sizes = {"way": way, "seed": seed, "parameters": total, "active": active}
    return {**sizes, "start_loss": f"{start:.4f}", "loss": f"{end:.4f}"}


def measured(args: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = write_byte_tokenizer(Path(folder))
    ids = {"bos_token_id": tokenizer.id_of(BOS), "eos_token_id": tokenizer.id_of(CLOSE)}
    draw = torch.Generator().manual_seed(0)
    kinds = [Kind(make(), tokenizer, draw) for make in KINDS.values()]
    text = SimpleNamespace(
        sample=lambda: torch.cat([kind.sample(args.batch, args.length) for kind in kinds]),
        held_out=[kind.held_out(args.pieces, args.length) for kind in kinds],
    )
    steps = args.batches + args.batches // 2
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("large model", total=args.teach)
        own = argparse.Namespace(
            **{**vars(args), "seed": 0, "steps": args.teach, "every": args.teach}
        )
        config = dataclasses.replace(MODEL, vocab_size=tokenizer.size, **ids)
        large, _ = train(config, text, own, lambda: progress.advance(bar))
        loss = held_out_loss(large, text)
        rows = [row("large model", 0, large, loss, loss)]
        bar = progress.add_task("students", total=len(WAYS) * args.seeds * steps)
        for way in WAYS:
            for seed in range(args.seeds):
                draw.manual_seed(seed)
                torch.manual_seed(seed)
                seen = [kinds[i % 3].sample(args.batch, args.length) for i in range(args.batches)]
                student = born(large, way, seen[: args.calibrate], draw)
                start = held_out_loss(student, text)
                learn(student, seen, way == HARD, args, draw, lambda: progress.advance(bar))
                rows.append(row(way, seed, student, start, held_out_loss(student, text)))
    here = harness.environment()
    shared = {name: here[name] for name in ("date", "machine", "threads", "torch", "revision")}
    return [{**shared, "teach": args.teach, "steps": steps, **found} for found in rows]


def table(rows: Sequence[Row]) -> Table:
    """Means over the seeds."""
    found = Table(title="Held-out loss in nats a byte")
    for heading in ("", "parameters", "active", "at the start", "at the end"):
        found.add_column(heading, justify="right" if heading else "left")
    for way in ("large model", *WAYS):
        own = [x for x in rows if x["way"] == way]
        cells = [f"{own[0][name]:,}" for name in ("parameters", "active")]
        for name in ("start_loss", "loss"):
            cells.append(f"{sum(float(x[name]) for x in own) / len(own):.4f}")
        found.add_row(way, *cells)
    return found


def main() -> int:
    args, started = parse(), time.perf_counter()
    rows = measured(args)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table(rows))
    harness.write(args.out / "tiny_lm.csv", rows)
    console.print(f"{args.out / 'tiny_lm.csv'}; {time.perf_counter() - started:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
