"""Which experts three kinds of text need, and what is lost if only those are loaded.

One small MoGE model learns three kinds of text together: the Pentateuch, the sources of Python's
standard library, and lines of sums and products. The statistics of its routers over training text
of each kind are a task in a file of profiles. Measured on text that was held out: the loss with the
experts of the right task, of another, and with random ones, the same number in every group; how
many queries of 64 bytes find their own kind by the first layer's router; and the memory that a
process takes for the experts of one task, if only those are loaded.

PreMoe (Pei et al. 2025, arXiv:2505.17639) leaves out half of the experts of models that are a
hundred thousand times as large. What such models lose says nothing about this one, nor the reverse.
"""

import argparse
import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import torch
from bench_ops import finish, harness, printing
from kinds import KINDS, Mixture
from matplotlib.figure import Figure
from torch import Tensor
from train_demo import MODEL, SMOKE, Row, fitted, train

from moge_ops.models import PanguMoEForCausalLM
from moge_ops.models.checkpoint import save_pretrained
from moge_ops.models.pangu_moe import losses
from moge_ops.models.tokenizer import write_byte_tokenizer
from moge_ops.statistics import RouterStatistics

SHAPE = {  # routed experts that matter, and the released model's balance loss
    "num_hidden_layers": 3,
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 32,
    "router_aux_loss_coef": 0.001,
}
QUERY = 64  # bytes
RANDOM = 5  # seeds
PROFILES = "profiles.pt"
LOOKS = {  # Okabe and Ito's
    "scripture": ("#0072B2", "s", "--"),
    "python": ("#009E73", "D", "--"),
    "arithmetic": ("#D55E00", "o", "--"),
    "random": ("#777777", "^", ":"),
}
# a process of its own prints the bytes of the experts, and by how much it grew
LOADED = """
import os, sys
from pathlib import Path
from moge_ops import offload
from moge_ops.statistics import RouterStatistics

folder, profiles, keep = sys.argv[1:]
profiles = RouterStatistics.load(profiles)
for n in (1, int(keep)):  # the first load imports what loading needs
    before = int(Path("/proc/self/statm").read_text().split()[1])
    model = offload.load(folder, experts=profiles.masks([*profiles.sums][0], n, "selection"))
    grew = int(Path("/proc/self/statm").read_text().split()[1]) - before
    store = offload.of(model)
print(store.slots * store.slot_bytes, grew * os.sysconf("SC_PAGE_SIZE"))
"""


def loss(model: PanguMoEForCausalLM, x: Tensor, masks: dict[str, Tensor]) -> float:
    """Nats a byte with the experts of the masks, or with all if there are none."""
    for layer, moge in ((f"layers.{i}.moge", part.moge) for i, part in enumerate(model.layers)):
        moge.expert_mask = masks.get(layer)
    with torch.inference_mode():
        return float(losses(model(x, return_details=True), x)[0])


def pruned(
    model: PanguMoEForCausalLM, profiles: RouterStatistics, kind: str, x: Tensor
) -> Iterator[Row]:
    """A row for each number of experts, score and profile; of random experts the mean."""
    P, random = model.config.num_experts // model.config.num_groups, RouterStatistics()
    for seed in range(RANDOM):
        draw = torch.Generator().manual_seed(seed)
        random.sums[str(seed)] = {
            name: torch.rand(sums.shape, generator=draw, dtype=sums.dtype)
            for name, sums in profiles.sums[kind].items()
        }
    yield {"keep": P, "profile": "all", "score": "", "loss": loss(model, x, {})}
    for keep in (P // 2, P // 4):
        for score in ("selection", "weights"):
            for task in profiles.sums:
                found = loss(model, x, profiles.masks(task, keep, score))
                yield {"keep": keep, "profile": task, "score": score, "loss": found}
        each = [loss(model, x, random.masks(seed, keep)) for seed in random.sums]
        yield {"keep": keep, "profile": "random", "score": "", "loss": sum(each) / RANDOM}
    loss(model, x[:1], {})


def memory(folder: Path, keep: int) -> Row:
    """Of a process that loads the experts of one profile: theirs, and all that loading adds."""
    command = [sys.executable, "-c", LOADED, str(folder), str(folder / PROFILES), str(keep)]
    done = subprocess.run(command, check=True, capture_output=True)
    return dict(zip(("expert_bytes", "resident_bytes"), map(int, done.stdout.split()), strict=True))


def draw(path: Path) -> Figure:
    """Loss of each kind against the share of experts that stay."""
    rows: list[Row] = [row for row in harness.read(path) if row["score"] != "weights"]
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    for panel, kind in zip(figure.subplots(1, len(KINDS)), KINDS, strict=True):
        whole, *own = (row for row in rows if row["kind"] == kind)
        for profile in dict.fromkeys(row["profile"] for row in own):
            points = [whole, *(row for row in own if row["profile"] == profile)]
            colour, marker, line = LOOKS[profile]
            line, width = ("-", 2.5) if profile == kind else (line, 1.5)
            label = "random experts" if profile == "random" else f"{profile}'s experts"
            shares = [100.0 * int(row["keep"]) / int(whole["keep"]) for row in points]
            found = [float(row["loss"]) for row in points]
            panel.plot(shares, found, line, marker=marker, color=colour, lw=width, label=label)
        panel.set(title=f"{kind}, held out", xlabel="% of the experts", xlim=(105, 20))
        panel.set(ylabel="cross-entropy of a byte, nats", xticks=[100, 50, 25])
        finish(panel, ())
    first = rows[0]
    figure.suptitle(
        f"{first['parameters']} parameters, E {first['E']} in {first['G']} groups, "
        f"{first['steps']} steps; experts by selection score, random: mean of {RANDOM}\n"
        f"{harness.ran_on(first)}",
        fontsize="medium",
    )
    return figure


OPTIONS = {
    "steps": (200, 1, "updates of the model"),
    "batch": (2, 1, "pieces of each kind of text in a batch"),
    "length": (256, QUERY, "bytes of a piece"),
    "collect": (32, 1, "pieces of training text that a profile is of"),
    "pieces": (16, 1, "held-out pieces of each kind"),
    "queries": (100, 1, "queries of each kind"),
    "seed": (0, -sys.maxsize, "seed of weights and batches"),
}


def measured(args: argparse.Namespace, folder: Path) -> list[Row]:
    """Trains, collects profiles, saves both, and measures."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_byte_tokenizer(folder)
    config = fitted(SMOKE if args.smoke else dataclasses.replace(MODEL, **SHAPE), tokenizer)
    text = Mixture(tokenizer, args.batch, args.length, args.batch, args.seed)
    with printing.bar("training", args.steps) as advance:
        how = {"seed": args.seed, "advance": advance}
        model, _ = train(config, text, args.steps, args.learning_rate, **how)

    profiles = RouterStatistics()
    for name, kind in text.kinds.items():
        with torch.inference_mode(), profiles.collect(model, name):
            model(kind.sample(args.collect, args.length))
    save_pretrained(model, folder)
    profiles.save(folder / PROFILES)

    rows, sizes = list[Row](), dict[int, Row]()
    shared = {
        **harness.origin(),
        **{"python": sys.version.split()[0], "parameters": f"{model.parameter_counts()[0]:,}"},
        **{"seed": args.seed, "steps": args.steps, "E": config.num_experts, "G": config.num_groups},
        **{"tokens": args.pieces * (args.length - 1), "queries": args.queries},
        **{"file_bytes": (folder / PROFILES).stat().st_size},
    }
    for name, kind in text.kinds.items():
        queries = kind.held_out(args.queries, QUERY).split(1)
        right = sum(profiles.nearest(model, query) == name for query in queries)
        for row in pruned(model, profiles, name, kind.held_out(args.pieces, args.length)):
            keep = row["keep"]
            sizes[keep] = sizes.get(keep) or memory(folder, keep)
            row |= {"loss": f"{row['loss']:.4f}", "retrieved": f"{right / args.queries:.3f}"}
            rows.append({**shared, "kind": name, **row, **sizes[keep]})
    return rows


def main() -> int:
    parser = harness.example("Which experts three kinds of text need.", OPTIONS, 4e-3)
    parser.add_argument("--save", type=Path, help=f"new folder for the model and {PROFILES}")
    args = harness.parsed(parser, OPTIONS, length=MODEL.max_position_embeddings)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        rows = measured(args, args.save or Path(temporary))
    keys = ("kind", "retrieved", "keep", "expert_bytes", "resident_bytes", "profile")
    title = "Queries that find their kind, experts that stay, and the loss by two scores"
    table = printing.pivot(title, rows, keys, "score", itemgetter("loss"))
    harness.report(args.out / "premoe.csv", rows, [table], started, draw=draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
