"""What a capacity factor drops and pads, and what that costs, beside MoGE, which needs none.

With a capacity every expert has room for C rows. What does not fit is dropped, what is empty is
padding. DeepSpeed drops by position (the last tokens of the batch), in random order (random token
selection, RTS) or the smallest scores first. Counted on uniform and Zipf routers and on those that
train here: dropped slots, and padded rows. Trained from the same weights on the same batches:
MoGE, plain top-k that drops nothing, and plain top-k with each way to drop; their held-out losses.

An operator for this is not needed: a dropped slot is the id -1, which `moge_ops.route` and the
`routing=` of a layer take, and no row is computed for it.

Sources: Rajbhandari et al. 2022, "DeepSpeed-MoE" (arXiv:2201.05596); Kim et al. 2021, "Scalable and
Efficient MoE Training for Multitask Multilingual Models", which has RTS (arXiv:2109.10465); the
capacity, its least value and the order by score as DeepSpeed's `sharded_moe.py` has them. Not
theirs: that a kept slot keeps its weight, where DeepSpeed divides by the sum of the kept ones.
"""

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import torch
from balance import MOGE, ROUTERS, TOP_K
from bench_ops import harness, printing
from rich.table import Table
from torch import Tensor
from train_demo import MODEL, SMOKE, Row, Text, byte_tokenizer, fitted, held_out_loss, train

import moge_ops
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.nn import MoGE, MoGEOutput
from moge_ops.testing import router_logits

FACTORS = (1.0, 1.25, 2.0)
ORDERS = ("position", "random", "score")
LEAST = 4  # rows of an expert: DeepSpeed's min_capacity
COLUMNS = (
    *("kind", "router", "way", "order", "factor", "tokens", "capacity", "slots", "dropped"),
    *("padding", "loss", "loss_without_drops"),
)


def capacity(tokens: int, num_experts: int, K: int, factor: float) -> int:
    """``max(4, ceil(T / E * factor * K))``; a fraction, as 10 * 1.1 is more than 11 in float64."""
    return max(LEAST, math.ceil(Fraction(tokens * K, num_experts) * Fraction(str(factor))))


def kept(experts: Tensor, num_experts: int, most: int, key: Tensor) -> Tensor:
    """Ids ``[T, K]``, -1 where an expert has ``most`` slots with a smaller ``key [T, K]``."""
    ids = experts.flatten().long()
    order = key.flatten().argsort(stable=True)
    order = order[ids[order].argsort(stable=True)]  # by expert, and within it by key
    counts = ids.bincount(minlength=num_experts)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(ids)) - (counts.cumsum(0) - counts)[ids[order]]
    return torch.where(place.view_as(experts) < most, experts, -1)


def keys(order: str, weights: Tensor, draw: torch.Generator) -> Tensor:
    """``[T, K]``: which slots of an expert stay, the smallest first."""
    if order == "position":
        return torch.arange(len(weights)).unsqueeze(1).expand_as(weights)
    return torch.rand(weights.shape, generator=draw) if order == "random" else -weights


class Capacity:
    """Makes every layer of a model drop, until it is removed."""

    def __init__(self, model: PanguMoEForCausalLM, factor: float, order: str, seed: int) -> None:
        self.factor, self.order = factor, order
        self.draw, self.dropped, self.slots = torch.Generator().manual_seed(seed), 0, 0
        self.hooks: list[Any] = []
        for layer in model.layers:
            self.hooks.append(layer.moge.register_forward_pre_hook(self.before, with_kwargs=True))
            self.hooks.append(layer.moge.register_forward_hook(self.after))

    def before(self, moge: MoGE, args: tuple[Tensor], options: dict[str, Any]) -> Any:
        """Gives the layer the ids that its router chooses, without those that are dropped."""
        with torch.no_grad():
            _, self.free = moge.router(args[0].flatten(0, -2))
        (T, K), E = self.free.experts.shape, len(self.free.counts)
        key = keys(self.order, self.free.weights, self.draw)
        ids = kept(self.free.experts, E, capacity(T, E, K, self.factor), key)
        if torch.is_grad_enabled():  # of the training batches
            self.dropped, self.slots = self.dropped + int((ids < 0).sum()), self.slots + T * K
        return args, options | {"routing": ids}

    def after(self, _: MoGE, __: Any, out: MoGEOutput) -> MoGEOutput:
        """The balance loss counts what the router chose, dropped or not, as DeepSpeed's does."""
        return out._replace(gating=out.gating._replace(experts=self.free.experts))

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()


def counted(router: str, way: str, experts: Tensor, num_experts: int) -> Iterator[Row]:
    """From choices ``[samples, T, K]``: a row for each factor; one for MoGE, which has none."""
    samples, T, K = experts.shape
    slots = samples * T * K
    row = {"kind": "counted", "router": router, "way": way, "tokens": T, "slots": slots}
    first = torch.arange(T).unsqueeze(1).expand(T, K)  # in any order equally many are dropped
    for factor in (None,) if way == MOGE else FACTORS:
        ids, room = experts, slots
        if factor is not None:
            most = capacity(T, num_experts, K, factor)
            ids = [kept(each, num_experts, most, first) for each in experts]
            room, row = samples * num_experts * most, row | {"factor": factor, "capacity": most}
        filled = sum(int(moge_ops.route(each, num_experts).offsets[-1]) for each in ids)
        yield row | {"dropped": slots - filled, "padding": room - filled}


def drawn(args: argparse.Namespace, config: PanguMoEConfig) -> Iterator[Row]:
    """Counts of random routers with the model's E, K and G."""
    E, K, G = config.num_experts, config.num_experts_per_tok, config.num_groups
    for router in ("uniform", "Zipf 1"):
        torch.manual_seed(args.seed)
        logits = router_logits(args.samples, args.batch * args.length, E, ROUTERS[router])
        moge = moge_ops.grouped_gate(logits.flatten(0, 1), G, K // G).experts
        yield from counted(router, MOGE, moge.view(*logits.shape[:2], K), E)
        yield from counted(router, TOP_K, logits.topk(K).indices, E)


def trained(args: argparse.Namespace, config: PanguMoEConfig, tokenizer: Any) -> Iterator[Row]:
    """Trains every way, and counts on the middle layer of those that drop nothing."""
    layer = config.num_hidden_layers // 2
    for way, order in ((MOGE, ""), (TOP_K, ""), *((TOP_K, order) for order in ORDERS)):
        text, limits = Text(tokenizer, args.batch, args.length, args.seed), list[Capacity]()
        twin = config if way == MOGE else dataclasses.replace(config, num_groups=1)

        def limit(model: PanguMoEForCausalLM, order: str = order, limits: Any = limits) -> None:
            if order:
                limits.append(Capacity(model, args.factor, order, args.seed))

        how = {"seed": args.seed, "change": limit}
        model, found = train(twin, text, args.steps, args.learning_rate, **how)
        row = {"kind": "trained", "way": way, "order": order, "loss": found[-1]["held_out_loss"]}
        for each in limits:
            each.remove()
            row |= {"factor": args.factor, "dropped": each.dropped, "slots": each.slots}
        yield row | {"loss_without_drops": f"{held_out_loss(model, text):.4f}"}
        if not order:
            with torch.inference_mode():
                ids = [model(x, return_details=True).gating[layer].experts for x in text.held_out]
            yield from counted("trained", way, torch.stack(ids), config.num_experts)


def tables(rows: list[Row]) -> Iterator[Table]:
    """What is dropped and padded, and the losses."""
    numbers = ("factor", "rows of an expert", "dropped", "padding")
    title = "Of all slots: dropped, and rows that are padding"
    found = printing.table_of(title, ["router", "way"], numbers)
    for row in (row for row in rows if row["kind"] == "counted"):
        shares = (f"{100 * row[name] / row['slots']:.1f} %" for name in ("dropped", "padding"))
        limits = (str(row.get(name, "")) for name in ("factor", "capacity"))
        found.add_row(row["router"], row["way"], *limits, *shares)
    yield found
    numbers = ("factor", "dropped in training", "loss", "without drops")
    found = printing.table_of("Held-out loss in nats a byte", ["way", "dropped by"], numbers)
    for row in (row for row in rows if row["kind"] == "trained"):
        share = f"{100 * row.get('dropped', 0) / row.get('slots', 1):.1f} %"
        cells = (row["way"], row["order"] or "none", str(row.get("factor", "")), share)
        found.add_row(*cells, row["loss"], row["loss_without_drops"])
    yield found


OPTIONS = {
    "steps": (150, 1, "updates of each model"),
    "batch": (4, 1, "pieces of text in a batch"),
    "length": (256, 2, "bytes of a piece"),
    "samples": (16, 1, "batches of each random router"),
    "seed": (0, 0, "seed of weights, batches and random order"),
}


def main() -> int:
    parser = harness.example("What a capacity factor drops, counted and trained.", OPTIONS, 3e-3)
    parser.add_argument("--factor", type=float, default=1.0, help="of the models that train")
    args = harness.parsed(parser, OPTIONS, length=MODEL.max_position_embeddings)
    if not 0.0 < args.factor < math.inf:
        parser.error(f"--factor must be a positive number, got {args.factor}")
    started, tokenizer = time.perf_counter(), byte_tokenizer()
    base = SMOKE if args.smoke else dataclasses.replace(MODEL, num_hidden_layers=3)
    config = fitted(base, tokenizer)
    total = PanguMoEForCausalLM(config).parameter_counts()[0]
    shared = {**harness.origin(), "parameters": f"{total:,}"}
    shared |= {"seed": args.seed, "steps": args.steps, "E": config.num_experts}
    shared |= {"K": config.num_experts_per_tok, "G": config.num_groups}
    rows = [shared | row for row in (*drawn(args, config), *trained(args, config, tokenizer))]
    harness.report(args.out / "deepspeed_moe.csv", rows, tables(rows), started, (*shared, *COLUMNS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
