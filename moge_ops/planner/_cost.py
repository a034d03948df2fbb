"""Rooflines of products, and bytes over links: the one model of `make balance` and the planner."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from moge_ops import _checks
from moge_ops.ops.grouped_gate import grouped_gate

DRAWN = 2**12  # most tokens whose experts are drawn at once; larger batches multiply their counts


class Chip(NamedTuple):
    """Rates of one device.

    Attributes:
        name: What tables call it.
        flops: FLOP/s of dense bfloat16 or float16 products; of int8 twice as many.
        bytes: Bytes/s of its memory.
        node_link: Bytes/s of its links to devices of its node, each way.
        net_link: Bytes/s of its link to other nodes, each way.
        node: Devices of a node.
        memory: Bytes of its memory.
    """

    name: str
    flops: float
    bytes: float
    node_link: float
    net_link: float
    node: int = 8
    memory: float = 64e9


CHIPS = {
    # An 8192³ bfloat16 product and a device copy, timed on one such card elsewhere. NVLink 4: 900
    # GB/s in both directions together (NVIDIA, H100 datasheet); ConnectX-7: 400 Gb/s a GPU (DGX
    # H100 user guide)
    "h100": Chip("H100 SXM", 798e12, 3.0e12, 450e9, 50e9, memory=80e9),
    # The specification's, the product derived from cores and clock. HCCS: 7 links of 56 GB/s in
    # both directions together, and RoCE of 200 Gb/s, as published for the Atlas 800 A2 servers
    "910b2": Chip("Ascend 910B2", 354e12, 1.6e12, 196e9, 25e9),
    # One of the two chips of a 300I Duo card. The links are ours: half of what PCIe 4.0 x16 gives a
    # card each way, and a network of 100 Gb/s shared by the eight chips of a server
    "310p": Chip("Ascend 310P", 70e12, 204e9, 16e9, 1.6e9, memory=48e9),
}


def expert_seconds(
    rows: Tensor, chip: Chip, H: int, F: int, itemsize: int = 2, speed: float = 1.0
) -> Tensor:
    """``[..., E] -> [..., E]``: roofline of each expert's two products.

    An expert with rows takes the longer of reading its weights and of multiplying; one without
    takes nothing. Activations, launches and tails of tiles are left out.

    Args:
        rows: Rows of each expert.
        chip: The device.
        H, F: Hidden size and width of an expert.
        itemsize: Bytes of a weight.
        speed: Products a second, over those of ``chip.flops``: 2 for int8.
    """
    weights = 3 * H * F * itemsize / chip.bytes
    products = rows * (6 * H * F / (chip.flops * speed))
    return torch.where(rows > 0, products.clamp_min(weights), 0.0)


def device_loads(rows: Tensor, devices: int) -> Tensor:
    """``[..., E] -> [..., devices]``, each device holding E/devices neighbours.

    Raises:
        TypeError: ``rows`` is not a tensor, or ``devices`` not an int.
        ValueError: The devices do not divide E.
    """
    _checks.tensor("rows", rows, "[..., E]")
    _checks.integer("devices", devices, least=1)
    if not rows.ndim:
        raise ValueError("rows must be [..., E], got []")
    if rows.shape[-1] % devices:
        raise ValueError(f"devices must divide E={rows.shape[-1]}, got {devices}")
    return rows.view(*rows.shape[:-1], devices, rows.shape[-1] // devices).sum(-1)


def gather_seconds(devices: int, tokens: float, token: int, chip: Chip) -> float:
    """All-gather in, reduce-scatter out: each token, each way, to every device of a set.

    A token crosses the network once for each other node, whose devices share that traffic.

    Args:
        devices: Neighbours that share the tokens.
        tokens: Tokens of each device.
        token: Bytes of a token.
        chip: The device.
    """
    sent = tokens * token
    far = max(0, devices - chip.node) / chip.node
    return 2 * sent * max((devices - 1) / chip.node_link, far / chip.net_link)


def all_to_all_seconds(experts: Tensor, ranks: int, E: int, token: int, chip: Chip) -> float:
    """Dispatch and combine: each token, each way, to the ranks on which its experts are.

    ``experts`` is ``[T, K]``; each rank has T/ranks neighbouring tokens of ``token`` bytes. The
    slowest device counts, by what it sends or what it receives. A token takes the network once to
    each other node:

        sender --network--> the device in the same place of that node --link--> ranks of its experts
        sender -----------------------------link--------------------> ranks on its own node

    Where the ranks do not fill the last node, its devices take the places that it lacks in turn.

    Raises:
        TypeError: ``experts`` is not a tensor of integers, or a size not an int.
        ValueError: The ranks do not divide T or E, or there is no token.
    """
    T = _checks.tensors(("experts", experts, "[T, K]", _checks.IDS))["T"]
    if not T:
        raise ValueError(f"experts must be [T, K] with T at least 1, got {list(experts.shape)}")
    _checks.integer("E", E, least=1)
    _checks.integer("ranks", ranks, least=1)
    for name, size in (("T", T), ("E", E)):
        if size % ranks:
            raise ValueError(f"ranks must divide {name}={size}, got {ranks}")
    experts, node = experts.long(), min(ranks, chip.node)
    card, nodes = torch.arange(T) // (T // ranks), -(-ranks // node)
    first = torch.arange(nodes) * node
    place, home = card % node, card // node
    # [T, nodes]: the device of each node that has the token, if it comes there
    relay = first + place.unsqueeze(1) % (ranks - first).clamp_max(node)
    meets = torch.zeros(T, nodes * node).scatter_(1, experts // (E // ranks), 1.0)
    crosses = meets.view(T, nodes, node).amax(-1)
    crosses[torch.arange(T), home] = 0.0
    meets.scatter_(1, relay, 0.0)  # the token is there already

    def by(rank: Tensor, x: Tensor) -> Tensor:
        return x.new_zeros(nodes * node).index_add_(0, rank.flatten(), x.flatten())

    onward = meets.view(T, nodes, node).sum(-1)
    near = max(meets.sum(0).amax(), by(relay, onward).amax())
    far = max(by(card, crosses.sum(-1)).amax(), by(relay, crosses).amax())
    return 2 * token * max(float(near) / chip.node_link, float(far) / chip.net_link)


def ring_seconds(ranks: int, stride: int, size: float, chip: Chip) -> float:
    """One way of a ring, an all-gather or a reduce-scatter of ``size`` bytes in all.

    The ranks are ``stride`` devices apart. Those of a node come first, over its links; then each
    device has its part of the node's bytes to exchange with the same place of other nodes.
    """
    inner = max(1, min(ranks, chip.node // stride))
    outer = ranks / inner
    near = (inner - 1) / inner * size / chip.node_link
    return near + (outer - 1) / outer * size / inner / chip.net_link


def dense_seconds(
    tokens: float, weights: float, chip: Chip, itemsize: float = 2, speed: float = 1.0
) -> float:
    """Roofline of a product of ``tokens`` rows with that number of weights; 0 without tokens."""
    if not tokens:
        return 0.0
    products = 2 * tokens * weights / (chip.flops * speed)
    return max(products, weights * itemsize / chip.bytes)


@functools.lru_cache(maxsize=64)
def drawn_experts(T: int, E: int, G: int, k: int) -> Tensor:
    """``[samples, T, K]``: experts of random tokens under a uniform router; T seeds them."""
    samples = max(1, DRAWN // T)
    random = torch.Generator().manual_seed(T)
    logits = torch.rand(samples * T, E, generator=random)
    return grouped_gate(logits, G, k).experts.long().view(samples, T, -1)


@functools.lru_cache(maxsize=2**16)
def routed_seconds(
    T: int,
    sizes: tuple[int, int, int, int, int],
    ranks: int,
    chip: Chip,
    itemsize: int,
    speed: float,
) -> float:
    """The slowest of the ranks that share the experts, which works on them one after another.

    Args:
        T: Tokens of all ranks.
        sizes: E, G, k, H, and the part of F that a rank has.
        ranks: Ranks that have whole experts.
        chip, itemsize, speed: As in :func:`expert_seconds`.
    """
    E, G, k, H, F = sizes
    drawn = min(T, DRAWN)
    experts = drawn_experts(drawn, E, G, k)
    samples = len(experts)
    first = torch.arange(samples).view(-1, 1, 1) * E
    counts = (experts + first).flatten().bincount(minlength=samples * E).view(samples, E)
    seconds = expert_seconds(counts * (T / drawn), chip, H, F, itemsize, speed)
    return float(device_loads(seconds, ranks).amax(-1).mean())


@functools.lru_cache(maxsize=2**16)
def exchanged_seconds(
    T: int, sizes: tuple[int, int, int], ranks: int, token: int, chip: Chip
) -> float:
    """:func:`all_to_all_seconds` of T tokens under a uniform router; ``sizes`` is E, G, k."""
    E, G, k = sizes
    drawn = min(T, max(ranks, DRAWN // ranks * ranks))
    experts = drawn_experts(drawn, E, G, k)
    times = [all_to_all_seconds(batch, ranks, E, token, chip) for batch in experts[:4]]
    return sum(times) / len(times) * (T / drawn)
