"""Slimmed experts against pruned ones: one small model at an eighth of its experts' size.

One small MoGE model learns three kinds of text. It is the teacher. Students get an eighth of the
weights of its routed experts, in four ways, and learn from the teacher for the same number of
steps: all experts narrowed at once, by sensitivity or to random neurons; all experts narrowed in
two stages, with half of the steps in between; and all experts of each group but one
removed, by the statistics of their routers. Measured is the loss on text that was held out, right
after the surgery and after distillation, for several seeds of the student's batches.

SlimMoE (Li et al. 2025, arXiv:2506.18349) makes the same comparison with a model that is six
thousand times as large and 400 billion tokens, and prunes attention as well. What wins here says
nothing about such models, nor the reverse.
"""

import argparse
import copy
import dataclasses
import itertools
import sys
import time
from collections.abc import Callable, Sequence

import torch
from bench_ops import harness, printing
from kinds import Mixture
from torch import Tensor
from train_demo import MODEL, SMOKE, Row, byte_tokenizer, fitted, held_out_loss, train, updater

from moge_ops.models import PanguMoEForCausalLM
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

    def __init__(self, teacher: PanguMoEForCausalLM, text: Mixture) -> None:
        self.teacher, self.text = teacher, text

    def loss(self, model: PanguMoEForCausalLM) -> float:
        """Nats a byte, held out."""
        return held_out_loss(model, self.text)

    def scores(self, model: PanguMoEForCausalLM, batches: Sequence[Tensor]) -> Scores:
        """How much each neuron matters for the answers of the teacher."""
        return expert_sensitivity(model, batches, teacher=self.teacher)

    def distil(
        self, student: PanguMoEForCausalLM, steps: int, peak: float, advance: Callable[[], None]
    ) -> None:
        """The student learns the teacher's likeliest tokens."""
        update = updater(student, steps, peak)  # after the surgery, which replaces parameters
        for _ in range(steps):
            x = self.text.sample()
            with torch.inference_mode():
                wanted = self.teacher(x)
            update(distillation_loss(student(x), wanted.clone()))
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
        ends = [args.steps * stage // len(widths) for stage in range(len(widths) + 1)]
        for width, (begin, end) in zip(widths, itertools.pairwise(ends), strict=True):
            random = way == "random neurons"
            scores = random_scores(model, seed) if random else study.scores(model, batches)
            slim_experts(model, width, scores)
            cut = study.loss(model)
            study.distil(model, end - begin, args.peak, advance)
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
    parser = harness.example("Slimmed experts against pruned ones.", OPTIONS)
    parser.add_argument("--learning-rate", type=float, default=4e-3, help="of the teacher")
    parser.add_argument("--peak", type=float, default=1e-3, help="learning rate of the students")
    return harness.parsed(parser, OPTIONS)


def taught(args: argparse.Namespace, advance: Callable[[], None]) -> Study:
    """A teacher that was trained on three kinds of text."""
    tokenizer = byte_tokenizer()
    base = SMOKE if args.smoke else dataclasses.replace(MODEL, **SHAPE)
    config = fitted(base, tokenizer, moe_intermediate_size=WIDTH)
    text = Mixture(tokenizer, args.batch, args.length, args.pieces)
    teacher, _ = train(config, text, args.teach, args.learning_rate, advance=advance)
    return Study(teacher, text)


def measured(args: argparse.Namespace) -> list[Row]:
    with printing.bar("teacher", args.teach) as advance:
        study = taught(args, advance)
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
    with printing.bar("students", len(WAYS) * args.seeds * args.steps) as advance:
        for way in WAYS:
            for seed in range(args.seeds):
                rows.append(student(study, way, args, seed, advance))
    shared = {**harness.origin(), "teach": args.teach, "steps": args.steps}
    shared |= {"G": config.num_groups}
    shared |= {"k": config.num_experts_per_tok // config.num_groups}
    return [{**shared, **row} for row in rows]


def main() -> int:
    args, started = parse(), time.perf_counter()
    rows = measured(args)
    formats = dict.fromkeys(("experts", "width", "parameters", "active"), ",.0f")
    formats |= {"cut_loss": ".4f", "loss": ".4f"}
    title = "Held-out loss in nats a byte, after surgery and distilled"
    table = printing.table_of_means(title, rows, "way", formats)
    harness.report(args.out / "slim_moe.csv", rows, [table], started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
