"""What each link carries when a plain top-k layer spans nodes: flat, by node, and gathered.

Pangu Ultra MoE exchanges rows in two steps, between the nodes and inside them, since a link between
nodes is far slower. `moge_ops.distributed.TopKExpertParallel` does so on a mesh of two dimensions;
the tests compare what it moves with this kind of count. Here the rows of many tokens are counted,
for the sizes of Pangu Ultra MoE with random routers and for a small trained one, and turned into a
time by published rates of links. Nothing here is timed.

Source: Tang et al. 2025, "Pangu Ultra MoE" (arXiv:2505.04519).
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from bench_ops import harness, printing
from rich.table import Table
from torch import Tensor

from moge_ops import planner
from moge_ops.testing import router_logits

H, E, K = 7680, 256, 8  # of Pangu Ultra MoE
ITEM = 2  # bytes of a bfloat16
MESHES = ((2, 8), (4, 8), (8, 8))  # nodes, devices of each
ROUTERS = {"uniform": 0.0, "Zipf 0.5": 0.5, "Zipf 1": 1.0}
CHIPS = (planner.CHIPS["h100"], planner.CHIPS["910b2"])


class Rows(NamedTuple):
    """Rows of a token, on the mean, that cross the links of each kind on their way to experts."""

    near: float  # inside a node
    far: float  # between nodes


def spread(experts: Tensor, num_experts: int, nodes: int, devices: int) -> tuple[Tensor, ...]:
    """Where tokens are and go: node and device, ``[T, 1]`` of the token, ``[T, K]`` of its slots.

    Token t lives on rank t mod ranks, and rank r has neighbouring experts.
    """
    ranks = nodes * devices
    source = torch.arange(len(experts)).unsqueeze(1) % ranks
    target = experts // (num_experts // ranks)
    return source // devices, source % devices, target // devices, target % devices


def flat(experts: Tensor, num_experts: int, nodes: int, devices: int) -> Rows:
    """Each row goes to its expert's device."""
    node, device, to_node, to_device = spread(experts, num_experts, nodes, devices)
    same = to_node == node
    near = same & (to_device != device)
    return Rows(near.sum(1).double().mean().item(), (~same).sum(1).double().mean().item())


def by_node(experts: Tensor, num_experts: int, nodes: int, devices: int) -> Rows:
    """A token goes once to each node that needs it; its rows go on from there."""
    node, device, to_node, to_device = spread(experts, num_experts, nodes, devices)
    reached = torch.zeros(len(experts), nodes, dtype=torch.bool).scatter_(1, to_node, True)
    far = reached.scatter(1, node, False).sum(1).double().mean().item()
    return Rows((to_device != device).sum(1).double().mean().item(), far)


def gathered(experts: Tensor, num_experts: int, nodes: int, devices: int) -> Rows:
    """Every token goes to all nodes, so that this step has one size: the paper's first step."""
    return Rows(by_node(experts, num_experts, nodes, devices).near, nodes - 1.0)


WAYS = {"flat": flat, "by node": by_node, "gathered": gathered}


def column(chip: planner.Chip) -> str:
    """Of the CSV: microseconds by the chip's links."""
    return f"modelled_us_{chip.name.replace(' ', '_')}"


def row(router: str, way: str, nodes: int, devices: int, experts: Tensor, E: int) -> dict[str, Any]:
    found = WAYS[way](experts, E, nodes, devices)
    times = {
        # there and back, the two kinds of links after each other
        column(chip): 2e6 * (H * ITEM) * (found.near / chip.node_link + found.far / chip.net_link)
        for chip in CHIPS
    }
    sizes = {"router": router, "E": E, "K": experts.shape[1], "nodes": nodes, "devices": devices}
    return {**sizes, "way": way, "rows_near": found.near, "rows_far": found.far, **times}


def choices(tokens: int, trained: Path) -> Iterator[tuple[str, Tensor, int]]:
    """Name, experts ``[T, K]`` and E of each router."""
    for name, exponent in ROUTERS.items():
        torch.manual_seed(tokens)
        yield name, router_logits(1, tokens, E, exponent)[0].topk(K).indices, E
    with np.load(trained) as file:
        layers = torch.from_numpy(file["plain top-k"]).long()  # [layers, T, K]
    yield "trained, layer 2", layers[min(2, len(layers) - 1)][:tokens], 64


def table(rows: list[dict[str, Any]]) -> Table:
    title = "Rows of a token on the links, one way; modelled microseconds, both ways"
    names = ("router", "nodes x devices", "way")
    found = printing.table_of(title, names, ("inside", "between", *(chip.name for chip in CHIPS)))
    for r in rows:
        times = (f"{r[column(chip)]:.2f}" for chip in CHIPS)
        numbers = f"{r['rows_near']:.2f}", f"{r['rows_far']:.2f}"
        found.add_row(r["router"], f"{r['nodes']} x {r['devices']}", r["way"], *numbers, *times)
    return found


def main() -> int:
    parser = harness.example("Rows on the links of a plain top-k layer.", {})
    trained = harness.RESULTS / "train_experts.npz"
    parser.add_argument("--trained", type=Path, default=trained, help="train_demo.py wrote it")
    args, started = parser.parse_args(), time.perf_counter()
    tokens = 256 if args.smoke else 16384
    rows = [
        row(router, way, nodes, devices, experts, num_experts)
        for router, experts, num_experts in choices(tokens, args.trained)
        for nodes, devices in MESHES
        for way in WAYS
    ]
    common = {**harness.environment(), "tokens": tokens, "H": H}
    written = [{**common, **r} for r in rows]
    harness.report(args.out / "pangu_ultra.csv", written, [table(rows)], started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
