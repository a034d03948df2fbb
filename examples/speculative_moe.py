"""Fewer rows between devices: experts that meet often share one, and tokens start near theirs.

Speculative MoE foresees from a token's id which experts it will take. Experts are grouped by how
often tokens take them together, and each batch's tokens are spread over the devices, equally many
on each, so that they find most of their experts where they are. Nothing that the model computes
changes, and tensor-parallel attention can leave a token on any device without more traffic.

Counted are the rows that a token sends to other devices, with a device's rows sent once however
many experts the token has there: for the routers of a small plain top-k model and of its MoGE twin,
trained here on three kinds of text, and for random routers. Statistics are of training text, counts
of held-out text. Under MoGE every token visits every group, so that nothing is left to save between
devices that hold whole groups; on twice as many devices a group's experts are on two of them.

Source: Li et al. 2025, "Speculative MoE" (arXiv:2503.04398).
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from bench_ops import harness, printing
from kinds import Kind, Mixture
from torch import Tensor
from train_demo import MODEL, SMOKE, byte_tokenizer, fitted, train

from moge_ops.models import PanguMoEForCausalLM
from moge_ops.placement import group_experts, schedule_tokens
from moge_ops.statistics import RouterStatistics
from moge_ops.testing import router_logits

E, K = 64, 8
MODELS = (("plain top-k", 1, 8), ("MoGE", 8, 8), ("MoGE", 8, 16))  # groups, devices
BATCH = 512  # tokens that are spread over the devices together
TOPICS = 16  # of the random router whose tokens differ
OPTIONS = {
    "steps": (120, 1, "updates of each model"),
    "batches": (4, 1, "batches of held-out tokens"),
    "seed": (0, -sys.maxsize, "seed of weights, batches and random routers"),
}
WAYS = ("in order", "experts grouped", "tokens scheduled", "both", "both, experts known")


class Seen(NamedTuple):
    """What a router chose: ids ``[T]`` of tokens, experts ``[T, K]``."""

    ids: Tensor
    experts: Tensor


def hits(experts: Tensor) -> Tensor:
    """``[T, K] -> [T, E]``, 1 for each expert that a token takes."""
    return torch.zeros(len(experts), E).scatter_(1, experts.long(), 1.0)


def cost(experts: Tensor, device: Tensor, owner: Tensor, devices: int) -> Tensor:
    """Mean number of other devices that a token has experts on, and the fullest device's load.

    ``owner [E]`` is the device of each expert. The load is in expert evaluations, over the mean.
    """
    work = hits(experts) @ F.one_hot(owner, devices).float()  # [T, devices]
    visits, loads = work.clamp_max(1.0), work.sum(0)
    sent = (visits.sum(1) - visits.gather(1, device.unsqueeze(1)).squeeze(1)).mean()
    return torch.stack([sent, loads.max() / loads.mean()])


def places(perm: Tensor, devices: int) -> Tensor:
    """``[E]``: the device of each expert, place i having expert ``perm[i]``."""
    return torch.empty_like(perm).scatter_(0, perm, torch.arange(E) // (E // devices))


def count(seen: Seen, pairs: Tensor, later: Seen, G: int, devices: int) -> dict[str, list[float]]:
    """What :func:`cost` says of ``later``, by what is arranged by what was ``seen``."""
    table = torch.zeros(int(max(seen.ids.max(), later.ids.max())) + 1, E)
    table.index_add_(0, seen.ids, hits(seen.experts))
    table /= table.sum(1, keepdim=True).clamp_min(1.0) / K  # experts that an id is expected to take
    orders = {False: torch.arange(E), True: group_experts(pairs, devices, num_groups=G)}
    found: dict[str, list[Tensor]] = {way: [] for way in WAYS}
    for first in range(0, len(later.ids) - BATCH + 1, BATCH):
        ids, experts = later.ids[first : first + BATCH], later.experts[first : first + BATCH]
        for way, values in found.items():
            owner = places(orders[way not in ("in order", "tokens scheduled")], devices)
            device = torch.arange(BATCH) * devices // BATCH
            if way not in ("in order", "experts grouped"):
                known = hits(experts) if way == WAYS[-1] else table[ids]
                device = schedule_tokens(known @ F.one_hot(owner, devices).float())
            values.append(cost(experts, device, owner, devices))
    return {way: torch.stack(values).mean(0).tolist() for way, values in found.items()}


def trained(args: argparse.Namespace, G: int) -> tuple[PanguMoEForCausalLM, dict[str, Kind]]:
    """A model of G groups on three kinds of text."""
    tokenizer = byte_tokenizer()
    base = SMOKE if args.smoke else dataclasses.replace(MODEL, num_hidden_layers=2)
    config = fitted(base, tokenizer, num_groups=G, router_aux_loss_coef=0.001)
    text = Mixture(tokenizer, 2, 256, 2, args.seed)
    model, _ = train(config, text, args.steps, args.learning_rate, seed=args.seed)
    return model, text.kinds


@torch.inference_mode()
def of_model(args: argparse.Namespace, G: int) -> Iterator[tuple[str, Seen, Tensor, Seen]]:
    """Of each layer what training text and held-out text chose, and the pairs of the former."""
    with torch.inference_mode(False), torch.enable_grad():
        model, kinds = trained(args, G)
    statistics, choices = RouterStatistics(co_activation=True), []
    pieces = args.batches * BATCH // (256 * len(kinds)) + 1
    for text in ("sample", "held_out"):
        ids = torch.cat([getattr(kind, text)(pieces, 256) for kind in kinds.values()])
        with statistics.collect(model, text):
            choices.append((ids, model(ids, return_details=True).gating))
    for layer, pairs in enumerate(statistics.pairs["sample"].values()):
        seen, later = (Seen(ids.flatten(), gating[layer].experts.long()) for ids, gating in choices)
        # the pieces are of one kind each; a serving batch is a mixture
        order = torch.randperm(len(later.ids), generator=torch.Generator().manual_seed(0))
        later = Seen(later.ids[order], later.experts[order])
        yield f"trained, layer {layer}", seen, pairs, later


def of_random(args: argparse.Namespace, G: int) -> Iterator[tuple[str, Seen, Tensor, Seen]]:
    """Zipf routers: one order of the experts for all tokens, and another for each topic."""
    torch.manual_seed(args.seed)
    for name, topics in (("Zipf 1", 1), (f"Zipf 1, {TOPICS} topics", TOPICS)):
        logits = router_logits(topics, 2 * args.batches * BATCH // topics, E, 1.0)
        topic = torch.arange(topics).repeat_interleave(logits.shape[1])
        best = logits.flatten(0, 1).view(-1, G, E // G).topk(K // G).indices
        experts = (best + torch.arange(G).view(1, G, 1) * (E // G)).flatten(1)
        order = torch.randperm(len(topic))
        halves = zip(topic[order].chunk(2), experts[order].chunk(2), strict=True)
        seen, later = (Seen(*half) for half in halves)
        own = hits(seen.experts).double()
        yield name, seen, own.T @ own, later


def main() -> int:
    parser = harness.example("Rows that tokens send to other devices.", OPTIONS, 4e-3)
    args, started = harness.parsed(parser, OPTIONS), time.perf_counter()
    rows: list[dict[str, Any]] = []
    for model, G, devices in MODELS:
        for source in (of_model, of_random):
            for router, *what in source(args, G):
                found = count(*what, G, devices)
                rows += [
                    {
                        **{"model": model, "devices": devices, "router": router, "way": way},
                        **{"rows_sent": f"{sent:.4f}", "max_over_mean": f"{load:.4f}"},
                    }
                    for way, (sent, load) in found.items()
                ]
    table = printing.pivot(
        "Other devices that a token sends its row to, and the peak load",
        rows,
        ("model", "devices", "router"),
        "way",
        lambda row: f"{row['rows_sent'][:4]}, {row['max_over_mean'][:4]}",
    )
    sizes = {"seed": args.seed, "steps": args.steps, "E": E, "K": K}
    common = {**harness.environment(), **sizes, "tokens": args.batches * BATCH}
    rows = [{**common, **row} for row in rows]
    harness.report(args.out / "speculative_moe.csv", rows, [table], started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
