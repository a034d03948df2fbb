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
import string
import sys
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from bench_ops import harness, printing
from rich.table import Table
from torch import Tensor
from train_demo import MODEL, SMOKE, Row, Text, byte_tokenizer, fitted, updater

import moge_ops
from moge_ops.models import PanguMoEForCausalLM
from moge_ops.models.tokenizer import Tokenizer
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
    update = updater(model, steps, peak)
    for _ in range(steps):
        each, balance = loss_of(model, text.sample())
        update(each.mean() + BALANCE * balance)


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
    title = f"Held-out text, mean of {seeds} seed{'s' * (seeds > 1)}"
    found = printing.table_of(title, ["model"], ("loss", "kFLOP", "experts", *KINDS[:4]))
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        flops = printing.mean(own, "expert_flops", kind="all") / 1e3
        experts = (printing.mean(own, "experts", kind=kind) for kind in ("all", *KINDS[:4]))
        numbers = f"{printing.mean(own, 'loss', kind='all'):.4f}", f"{flops:.0f}"
        found.add_row(model, *numbers, *(f"{x:.2f}" for x in experts))
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
    parser = harness.example("A small model with null experts beside plain ones.", OPTIONS, 3e-3)
    few = {"steps": 3, "tune": 2, "batch": 2, "length": 48, "seeds": 1}
    args = harness.parsed(parser, OPTIONS, few, length=MODEL.max_position_embeddings)
    started, tokenizer = time.perf_counter(), byte_tokenizer()
    small = {"hidden_size": 32, "moe_intermediate_size": 8} if args.smoke else {}
    config = fitted(SMOKE if args.smoke else MODEL, tokenizer, **{**SHAPE, **small})
    E, K = config.num_experts, config.num_experts_per_tok
    if args.k > E + args.null:
        parser.error(f"--k must be at most {E} + --null = {E + args.null}, got {args.k}")
    of_ids = kinds_of_ids(tokenizer)
    shared = {**harness.origin(), "steps": args.steps, "tune": args.tune, "E": E}
    shared |= {"layers": config.num_hidden_layers}
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
    harness.report(args.out / "adamoe.csv", rows, [table(rows, args.seeds)], started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
