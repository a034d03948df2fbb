"""Null experts: how many experts each kind of byte takes, and what a model saves with them.

A small model with a plain top-k router learns the text that ships here. Then it goes on in several
ways, from the same weights and with the same batches: as it is; with smaller K; and as AdaMoE
(Zeng et al. 2024, arXiv:2406.13233) fine-tunes a model: its routers get null experts, and the loss
for load balance lets these share one load. A token takes as many experts as it chose that are not
null. Measured on text that was held out: the loss, the experts that a token takes, and their FLOPs.

Sizes, steps and the text are ours; the paper fine-tunes Mixtral-8x7B and a Llama 2 with adapters.
Its code divides a token's weights by their sum. Here they are shares of the softmax over all
outputs, times (E + n) / E to keep their size, so that the text's own loss reaches null outputs.
"""

import copy
import dataclasses
import string
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from bench_ops import harness
from rich.console import Console
from rich.table import Table
from torch import Tensor
from train_demo import MODEL, SMOKE, TEXT, Row, Text, rate

import moge_ops
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.models.tokenizer import BOS, CLOSE, Tokenizer, write_byte_tokenizer
from moge_ops.nn import MoGE
from moge_ops.statistics import RouterStatistics

SHAPE = {  # a plain top-k router
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_groups": 1,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 0,
}
BALANCE = 0.01  # factor of the loss for load balance
KINDS = ("first letter", "later letter", "space", "punctuation", "other")


def kinds_of_ids(tokenizer: Tokenizer) -> Tensor:
    """``[V]``: the index in `KINDS` of each byte; every letter is a first one."""
    found = torch.full((tokenizer.size,), KINDS.index("other"))
    for kind, letters in ((0, string.ascii_letters), (2, " \n"), (3, string.punctuation)):
        found[[tokenizer.raw(letter)[-1] for letter in letters]] = kind
    return found


def kinds_of(x: Tensor, of_ids: Tensor) -> Tensor:
    """``[B, L]`` ids -> the index in `KINDS` of each byte."""
    found = of_ids[x]
    letter = found == 0
    return found.masked_fill(letter & F.pad(letter[:, :-1], (1, 0)), 1)


def layers(model: PanguMoEForCausalLM) -> list[MoGE]:
    return [layer.moge for layer in model.layers]


def changed(model: PanguMoEForCausalLM, k: int, num_null: int) -> PanguMoEForCausalLM:
    """A copy whose tokens choose k outputs, with null experts drawn like the router's others."""
    model = copy.deepcopy(model)
    for layer in model.layers:
        old = layer.moge
        E, F_, H = old.w_down.shape[0], old.w_down.shape[2], old.w_down.shape[1]
        layer.moge = MoGE(H, F_, E, 1, k, num_null=num_null, scaling=(E + num_null) / E)
        state = old.state_dict()
        drawn = torch.randn(num_null, H) * state["gate"].std()
        state["gate"] = torch.cat([state["gate"], drawn])
        layer.moge.load_state_dict(state)
    return model


def loss_of(model: PanguMoEForCausalLM, x: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each next byte ``[B, L - 1]``, and the null-aware loss for balance."""
    out = model(x, return_details=True)
    each = F.cross_entropy(out.logits[:, :-1].transpose(1, 2), x[:, 1:], reduction="none")
    of_layers = [
        moge_ops.load_balance_loss_from_probs(
            logits.softmax(-1), gating.counts, num_null=moge.num_null
        )
        for logits, gating, moge in zip(out.router_logits, out.gating, layers(model), strict=True)
    ]
    return each, torch.stack(of_layers).mean()


def train(model: PanguMoEForCausalLM, text: Text, steps: int, peak: float) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(steps):
        each, balance = loss_of(model, text.sample())
        optimizer.zero_grad()
        (each.mean() + BALANCE * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, peak)
        optimizer.step()


@torch.inference_mode()
def measured(model: PanguMoEForCausalLM, text: Text, of_ids: Tensor) -> Iterator[Row]:
    """A row for all held-out bytes, and one for each kind: bytes, loss and experts of a layer."""
    statistics = RouterStatistics()
    kind = torch.cat([kinds_of(x, of_ids) for x in text.held_out])
    rows_of = {"all": kind >= 0, **{name: kind == n for n, name in enumerate(KINDS)}}
    each = torch.cat([loss_of(model, x)[0] for x in text.held_out])
    out = model(torch.cat([*text.held_out]), return_details=True)
    for name, rows in rows_of.items():
        for i, moge in enumerate(layers(model)):
            how = {"logits": out.router_logits[i], "num_null": moge.num_null}
            statistics.update(name, str(i), out.gating[i], 1, rows.flatten(), **how)
        experts = list(statistics.mean_experts(name).values())
        rows = rows[:, :-1]  # a byte from which the next one is told
        yield {
            "kind": name,
            "bytes": int(rows.sum()),
            "loss": f"{float(each[rows].mean()):.4f}",
            "experts": f"{sum(experts) / len(experts):.3f}",
            **{f"experts_{i}": f"{x:.3f}" for i, x in enumerate(experts)},
        }


def table(rows: list[Row], seeds: int) -> Table:
    """Of each model the mean over seeds."""
    found = Table(title=f"Held-out text, mean of {seeds} seed{'s' * (seeds > 1)}")
    found.add_column("model")
    for name in ("loss", "experts", "kFLOP", *KINDS[:4]):
        found.add_column(name, justify="right")
    for model in dict.fromkeys(row["model"] for row in rows):

        def mean(kind: str, column: str, model: str = model) -> float:
            own = [row for row in rows if (row["model"], row["kind"]) == (model, kind)]
            return sum(float(row[column]) for row in own) / len(own)

        found.add_row(
            *(model, f"{mean('all', 'loss'):.4f}", f"{mean('all', 'experts'):.2f}"),
            f"{mean('all', 'expert_flops') / 1e3:.0f}",
            *(f"{mean(kind, 'experts'):.2f}" for kind in KINDS[:4]),
        )
    return found


OPTIONS = {
    "steps": (250, 1, "updates of the plain model"),
    "tune": (80, 1, "further updates of each model"),
    "k": (4, 1, "outputs that a token of the model with null experts chooses"),
    "null": (16, 1, "null experts"),
    "batch": (6, 1, "pieces of text in a batch"),
    "length": (192, 2, "bytes of a piece"),
    "seeds": (2, 1, "runs from other weights and batches"),
}


def main() -> int:
    parser = harness.sized("Trains a small model with null experts beside plain ones.", OPTIONS)
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="at its peak")
    parser.add_argument("--smoke", action="store_true", help="a tiny model: does it run?")
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of the CSV")
    args = harness.parsed(parser, OPTIONS)
    if args.smoke:
        args.steps, args.tune, args.batch, args.length, args.seeds = 3, 2, 2, 48, 1
    most = min(int(TEXT.stat().st_size * 0.1), MODEL.max_position_embeddings)
    if args.length > most:
        parser.error(f"--length must be at most {most}, got {args.length}")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = write_byte_tokenizer(folder)
    config: PanguMoEConfig = dataclasses.replace(
        SMOKE if args.smoke else MODEL,
        **{**SHAPE, **({"hidden_size": 32, "moe_intermediate_size": 8} if args.smoke else {})},
        vocab_size=tokenizer.size,
        bos_token_id=tokenizer.id_of(BOS),
        eos_token_id=tokenizer.id_of(CLOSE),
    )
    E, K = config.num_experts, config.num_experts_per_tok
    if args.k > E + args.null:
        parser.error(f"--k must be at most {E} + --null = {E + args.null}, got {args.k}")
    of_ids, here = kinds_of_ids(tokenizer), harness.environment()
    shared = {
        **{name: here[name] for name in ("date", "machine", "threads", "torch", "revision")},
        **{"steps": args.steps, "tune": args.tune, "E": E, "layers": config.num_hidden_layers},
    }
    models = {f"plain, K {k}": (k, 0) for k in range(K, 1, -1)}
    models["null experts"] = (args.k, args.null)
    rows: list[Row] = []
    for seed in range(args.seeds):
        text = Text(tokenizer, args.batch, args.length, seed)
        torch.manual_seed(seed)
        base = changed(PanguMoEForCausalLM(config), K, 0)
        train(base, text, args.steps, args.learning_rate)
        for name, (k, null) in models.items():
            model = changed(base, k, null)
            text.random.manual_seed(1000 + seed)  # the same batches for all
            train(model, text, args.tune, args.learning_rate / 2)
            for row in measured(model.eval(), text, of_ids):
                one = 6 * config.hidden_size * config.moe_intermediate_size  # FLOPs of an expert
                flops = sum(float(row[f"experts_{i}"]) for i in range(config.num_hidden_layers))
                sizes = {"seed": seed, "model": name, "k": k, "num_null": null}
                rows.append({**shared, **sizes, **row, "expert_flops": round(one * flops)})
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table(rows, args.seeds))
    harness.write(args.out / "adamoe.csv", rows)
    console.print(f"{args.out / 'adamoe.csv'}; {time.perf_counter() - started:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
