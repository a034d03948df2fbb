"""Slimmed experts against pruned ones: one small model at an eighth of its experts' size.

One small MoGE model learns three kinds of text. It is the teacher. Students get an eighth of the
weights of its routed experts, in four ways, and learn from the teacher for the same number of
steps: all experts narrowed at once, by sensitivity or to random neurons; all experts narrowed in
two stages, with half of the steps in between; and all experts of each group but one
removed, by the statistics of their routers. Measured is the loss on text that was held out, right
after the surgery and after distillation, for several seeds of the student's batches.

SlimMoE (Li et al. 2025, arXiv:2506.18349) makes the same comparison with a model that is ten
thousand times as large and 400 billion tokens, and prunes attention as well. What wins here says
nothing about such models, nor the reverse.
"""

import argparse
import copy
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
from train_demo import MODEL, SMOKE, Row, rate, train

from moge_ops.models import PanguMoEForCausalLM
from moge_ops.models.pangu_moe import losses
from moge_ops.models.tokenizer import BOS, CLOSE, write_byte_tokenizer
from moge_ops.statistics import RouterStatistics
from moge_ops.surgery import (
    Sensitivity,
    distillation_loss,
    expert_sensitivity,
    prune_experts,
    slim_experts,
)

WIDTH = 128  # of the teacher's experts
SHAPE = {  # routed experts that matter, and the released model's balance loss
    "num_hidden_layers": 2,
    "shared_expert_intermediate_size": 0,  # no width that all ways would share
    "router_aux_loss_coef": 0.001,
}
STAGES = {"multi-stage": (48, 16), "one-shot": (16,)}
WAYS = ("multi-stage", "one-shot", "random neurons", "pruned experts")

Scores = dict[str, Sensitivity]


class Study:
    """The teacher, and text to learn from and to be measured on."""

    def __init__(self, teacher: PanguMoEForCausalLM, text: SimpleNamespace) -> None:
        self.teacher, self.text = teacher, text

    def loss(self, model: PanguMoEForCausalLM) -> float:
        """Nats a byte, held out."""
        with torch.inference_mode():
            found = [losses(model(x, return_details=True), x)[0] for x in self.text.held_out]
        return float(torch.stack(found).mean())

    def scores(self, model: PanguMoEForCausalLM, batches: Sequence[Tensor]) -> Scores:
        """How much each neuron matters for the answers of the teacher."""
        return expert_sensitivity(model, batches, teacher=self.teacher)

    def distil(
        self, student: PanguMoEForCausalLM, steps: int, peak: float, advance: Callable[[], None]
    ) -> None:
        """The student learns the teacher's likeliest tokens."""
        # made after the surgery, which replaces parameters
        optimizer = torch.optim.AdamW(student.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
        for step in range(steps):
            x = self.text.sample()
            with torch.inference_mode():
                wanted = self.teacher(x)
            loss = distillation_loss(student(x), wanted.clone())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = rate(step, steps, peak)
            optimizer.step()
            advance()


def random_scores(model: PanguMoEForCausalLM, seed: int) -> Scores:
    draw = torch.Generator().manual_seed(seed)
    config = model.config
    shape = config.num_experts, config.moe_intermediate_size
    return {
        f"layers.{i}.moge": Sensitivity(torch.rand(shape, generator=draw), None)
        for i in range(config.num_hidden_layers)
    }


def student(
    study: Study, way: str, args: argparse.Namespace, seed: int, advance: Callable[[], None]
) -> Row:
    """One student: its losses and its size."""
    study.text.random.manual_seed(seed)
    model = copy.deepcopy(study.teacher)
    batches = [x for _ in range(args.calibrate) for x in study.text.sample().split(1)]
    if way == "pruned experts":
        profiles = RouterStatistics()
        with torch.inference_mode(), profiles.collect(model, way):
            model(torch.cat(batches))
        P = model.config.num_experts // model.config.num_groups
        prune_experts(model, profiles.masks(way, keep=P * STAGES["one-shot"][0] // WIDTH))
        cut = study.loss(model)
        study.distil(model, args.steps, args.peak, advance)
    else:
        widths = STAGES.get(way, STAGES["one-shot"])
        for width in widths:
            random = way == "random neurons"
            scores = random_scores(model, seed) if random else study.scores(model, batches)
            slim_experts(model, width, scores)
            cut = study.loss(model)
            study.distil(model, args.steps // len(widths), args.peak, advance)
    total, active = model.parameter_counts()
    return {
        **{"way": way, "seed": seed, "parameters": total, "active": active},
        **{"experts": model.config.num_experts, "width": model.config.moe_intermediate_size},
        **{"cut_loss": f"{cut:.4f}", "loss": f"{study.loss(model):.4f}"},
    }


OPTIONS = {
    "teach": (250, 1, "updates of the teacher"),
    "steps": (60, 2, "updates of each student"),
    "batch": (2, 1, "pieces of each kind of text in a batch"),
    "length": (128, 16, "bytes of a piece"),
    "calibrate": (4, 1, "batches that sensitivity and statistics are of"),
    "pieces": (8, 1, "held-out pieces of each kind"),
    "seeds": (2, 1, "students of each way"),
}


def parse() -> argparse.Namespace:
    parser = harness.sized("Slimmed experts against pruned ones.", OPTIONS)
    parser.add_argument("--learning-rate", type=float, default=4e-3, help="of the teacher")
    parser.add_argument("--peak", type=float, default=1e-3, help="learning rate of the students")
    parser.add_argument("--smoke", action="store_true", help="a tiny model: does it run?")
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="of the CSV")
    return harness.parsed(parser, OPTIONS)


def taught(args: argparse.Namespace, progress: Progress) -> Study:
    """A teacher that was trained on three kinds of text."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = write_byte_tokenizer(Path(folder))
    ids = {"bos_token_id": tokenizer.id_of(BOS), "eos_token_id": tokenizer.id_of(CLOSE)}
    base = SMOKE if args.smoke else dataclasses.replace(MODEL, **SHAPE)
    sizes = {"vocab_size": tokenizer.size, "moe_intermediate_size": WIDTH}
    config = dataclasses.replace(base, **sizes, **ids)
    random = torch.Generator().manual_seed(0)
    kinds = [Kind(make(), tokenizer, random) for make in KINDS.values()]
    text = SimpleNamespace(
        random=random,
        sample=lambda: torch.cat([kind.sample(args.batch, args.length) for kind in kinds]),
        held_out=[kind.held_out(args.pieces, args.length) for kind in kinds],
    )
    bar = progress.add_task("teacher", total=args.teach)
    own = argparse.Namespace(
        seed=0, steps=args.teach, every=args.teach, learning_rate=args.learning_rate
    )
    teacher, _ = train(config, text, own, lambda: progress.advance(bar))
    return Study(teacher, text)


def measured(args: argparse.Namespace) -> list[Row]:
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        study = taught(args, progress)
        bar = progress.add_task("students", total=len(WAYS) * args.seeds * args.steps)
        config, teacher = study.teacher.config, study.teacher
        total, active = teacher.parameter_counts()
        loss = f"{study.loss(teacher):.4f}"
        rows: list[Row] = [
            {
                **{"way": "teacher", "seed": 0, "parameters": total, "active": active},
                **{"experts": config.num_experts, "width": config.moe_intermediate_size},
                **{"cut_loss": loss, "loss": loss},
            }
        ]
        for way in WAYS:
            for seed in range(args.seeds):
                rows.append(student(study, way, args, seed, lambda: progress.advance(bar)))
    here = harness.environment()
    shared = {name: here[name] for name in ("date", "machine", "threads", "torch", "revision")}
    shared |= {"teach": args.teach, "steps": args.steps, "G": config.num_groups}
    shared |= {"k": config.num_experts_per_tok // config.num_groups}
    return [{**shared, **row} for row in rows]


def table(rows: Sequence[Row]) -> Table:
    """Means over the seeds."""
    found = Table(title="Held-out loss in nats a byte")
    for heading in ("", "experts", "width", "parameters", "active", "after surgery", "distilled"):
        found.add_column(heading, justify="right" if heading else "left")
    for way in ("teacher", *WAYS):
        own = [row for row in rows if row["way"] == way]
        cells = [str(own[0][name]) for name in ("experts", "width")]
        cells += [f"{own[0][name]:,}" for name in ("parameters", "active")]
        for name in ("cut_loss", "loss"):
            cells.append(f"{sum(float(row[name]) for row in own) / len(own):.4f}")
        found.add_row(way, *cells)
    return found


def main() -> int:
    args, started = parse(), time.perf_counter()
    rows = measured(args)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table(rows))
    harness.write(args.out / "slim_moe.csv", rows)
    console.print(f"{args.out / 'slim_moe.csv'}; {time.perf_counter() - started:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
