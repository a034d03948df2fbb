"""How often an expert that a step needs is in the pool: played by the rules of a cache, not timed.

A trace is a list of visits. A visit is what one layer needs at one step: different keys, each an
expert of that layer. All of them must be in the pool at once, so that those which are there are
kept before others make room. `offload.py` writes the rows.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path += [str(Path(__file__).resolve().parents[1] / "ops")]
sys.path += [str(Path(__file__).resolve().parents[2] / "examples")]

import torch
import train_demo
from torch import Tensor

import moge_ops
from moge_ops.testing import PANGU, router_logits

LAYERS = 12  # of the drawn routers; four times as many change a hit rate by less than 0.01
STEPS = {1: 400, 8: 100}  # batch -> steps, of which the first half fills the pool
SHARES = {"1/8": 1 / 8, "1/4": 1 / 4, "1/3": 1 / 3, "1/2": 1 / 2, "3/4": 3 / 4}
ROUTERS = {"uniform": 0.0, "Zipf 0.5": 0.5, "Zipf 1": 1.0, "Zipf 1.5": 1.5}
POLICIES = LRU, LFU, WAIT, OPTIMUM = "LRU", "LFU", "wait", "optimum"
AGEING = 0.98  # of a count, from one visit of a layer to its next
KEPT = 0.15  # see `drawn`

Row = dict[str, Any]
Visit = list[int]


class Played(NamedTuple):
    """What a cache did over the visits that count."""

    hits: int
    asked: int

    @property
    def rate(self) -> float:
        return self.hits / max(1, self.asked)


def next_uses(trace: Sequence[Visit]) -> list[list[float]]:
    """For each visit and key, the visit that needs the key next."""
    after: dict[int, float] = {}
    found: list[list[float]] = []
    for i in range(len(trace) - 1, -1, -1):
        found.append([after.get(key, math.inf) for key in trace[i]])
        after.update(dict.fromkeys(trace[i], i))
    return found[::-1]


class Worth:
    """What the keys of ``layers`` layers of E experts are worth, by a policy."""

    def __init__(self, policy: str, layers: int, E: int) -> None:
        self.policy, self.layers, self.E = policy, layers, E
        self.layer = np.repeat(np.arange(layers), E)
        self.last = np.full(layers * E, -1.0)
        self.uses = np.zeros(layers * E)  # aged for WAIT
        self.turns = np.zeros(layers)  # aged
        self.coming = np.full(layers * E, np.inf)

    def visit(self, i: int, keys: Visit, coming: Sequence[float]) -> None:
        layer = i % self.layers
        if self.policy == WAIT:
            self.uses[layer * self.E : (layer + 1) * self.E] *= AGEING
            self.turns[layer] = AGEING * self.turns[layer] + 1.0
        self.uses[keys] += 1.0
        self.last[keys] = i
        self.coming[keys] = coming

    def of(self, keys: Any, i: int) -> Any:
        """Worth of keys in visit i."""
        if self.policy == LRU:
            return self.last[keys]
        if self.policy == LFU:
            return self.uses[keys] + self.last[keys] / (i + 1) / 2  # the time decides equal counts
        if self.policy == OPTIMUM:
            return -self.coming[keys]
        layers = self.layers
        rest = (self.layer[keys] - i - 1) % layers + 1
        share = (self.uses[keys] + 0.5) / (self.turns[self.layer[keys]] + 1.0)
        return -(rest + layers * (1.0 / np.minimum(share, 1.0) - 1.0))


def play(
    trace: Sequence[Visit], layers: int, E: int, slots: int, policy: str, skip: int = 0
) -> Played:
    """Hits of a pool that starts empty, over the visits from ``skip`` on.

    Visit i is of layer i % layers; expert e of layer l has the key l * E + e. What has the least
    worth makes room, the lowest key among equals:

    - LRU: what was needed the longest ago.
    - LFU: what was needed the fewest times, and of these the longest ago.
    - WAIT: what is expected to wait the longest. A layer comes round after d visits, and needs one
      of its experts in a share p of them, so that the expert waits d + layers * (1/p - 1) visits.
      The share is counted, and older visits count less.
    - OPTIMUM: what is needed last, which no machine knows (Belady 1966): a bound.

    Raises:
        ValueError: A visit needs more keys than there are slots.
    """
    worth = Worth(policy, layers, E)
    resident = np.zeros(layers * E, dtype=bool)
    hits = asked = 0
    for i, (visit, coming) in enumerate(zip(trace, next_uses(trace), strict=True)):
        if len(visit) > slots:
            raise ValueError(f"slots must be at least {len(visit)}, got {slots}")
        missing = len(visit) - int(resident[visit].sum())
        if i >= skip:
            asked += len(visit)
            hits += len(visit) - missing
        worth.visit(i, visit, coming)
        excess = int(resident.sum()) + missing - slots
        if excess > 0:
            resident[visit] = False  # in use now, so they stay
            spare = resident.nonzero()[0]
            resident[spare[np.argsort(worth.of(spare, i), kind="stable")[:excess]]] = False
        resident[visit] = True
    return Played(hits, asked)


# -- traces ---------------------------------------------------------------------------------------


def visits(experts: Tensor, E: int) -> list[Visit]:
    """``[layers, steps, B, K]`` ids -> the visits in the order of decoding."""
    layers, steps = experts.shape[:2]
    keys = experts.flatten(2) + E * torch.arange(layers).view(-1, 1, 1)
    return [
        sorted(set(keys[layer, step].tolist())) for step in range(steps) for layer in range(layers)
    ]


def reuse(experts: Tensor) -> tuple[float, float]:
    """Of ``[layers, steps, B, K]``: the share of a row's choices that were its choices a step ago,
    and the share that would be if steps came in random order."""

    def same(x: Tensor, y: Tensor) -> float:
        return float((x.unsqueeze(-1) == y.unsqueeze(-2)).any(-1).double().mean())

    order = torch.randperm(experts.shape[1])
    shuffled = experts[:, order]
    return same(experts[:, 1:], experts[:, :-1]), same(shuffled[:, 1:], shuffled[:, :-1])


def drawn(exponent: float, batch: int, stay: float, layers: int, steps: int) -> Tensor:
    """``[layers, steps, B, K]``: MoGE's choice of a router with skew.

    ``stay`` is the probability that a row keeps its expert of a group from one step to the next
    without a new draw. 0.15 gives a uniform router the repetitions that Jiang et al. 2024 publish
    for the middle layers of Mixtral, a quarter (arXiv:2401.04088, table 5).
    """
    s = PANGU
    logits = router_logits(layers, steps * batch, s.E, exponent).flatten(0, 1)
    experts = moge_ops.grouped_gate(logits, s.G, s.k).experts.long()
    experts = experts.view(layers, steps, batch, s.G * s.k)
    if stay:
        kept = torch.rand(experts.shape) < stay
        for step in range(1, steps):
            before, here = experts[:, step - 1], experts[:, step]
            experts[:, step] = torch.where(kept[:, step], before, here)
    return experts


# -- a trained model ------------------------------------------------------------------------------


class Trained(NamedTuple):
    """What the routers of a trained model chose while it generated, and what could be guessed."""

    experts: Tensor  # [layers, steps, B, K]
    early: Tensor  # [layers - 1, T, K]: the next layer's router on the input of this one's experts
    late: Tensor  # [layers - 1, T, K]: and on what these experts return
    E: int


@torch.inference_mode()
def generated(model: Any, first: int, batch: int, steps: int) -> Trained:
    """Samples ``batch`` texts, and collects the choices of every layer.

    The choices come from one forward over the texts. Decoding makes the same ones, up to rounding,
    because no token sees a later one.
    """
    ids = model.generate(torch.full((batch, 1), first), steps, temperature=1.0, top_k=0, top_p=1.0)
    ids = ids[:, -steps:]
    before: list[Tensor] = []
    hooks = [
        layer.moge_norm.register_forward_pre_hook(lambda _, args: before.append(args[0]))
        for layer in model.layers
    ]
    out = model(ids, return_details=True)
    for hook in hooks:
        hook.remove()
    K, L = model.config.num_experts_per_tok, ids.shape[1]
    chosen = torch.stack([g.experts.long().view(batch, L, K) for g in out.gating])

    def guess(hidden: Sequence[Tensor]) -> Tensor:
        return torch.stack(
            [
                layer.moge.router(layer.moge_norm(x).flatten(0, 1))[1].experts.long()
                for layer, x in zip(model.layers[1:], hidden, strict=False)
            ]
        )

    return Trained(
        chosen.transpose(1, 2),
        guess(before),
        guess(out.hidden_states[1:]),
        model.config.num_experts,
    )


def trained(smoke: bool) -> Trained:
    """The model of `train_demo.py`, trained for a shorter time."""
    tokenizer, steps = train_demo.byte_tokenizer(), 2 if smoke else 150
    base = train_demo.SMOKE if smoke else train_demo.MODEL
    config = train_demo.fitted(base, tokenizer, eos_token_id=None)  # texts of one length
    text = train_demo.Text(tokenizer, 2 if smoke else 8, 32 if smoke else 256, 0)
    print(f"training the small model for {steps} steps")
    model, _ = train_demo.train(config, text, steps, 3e-3)
    torch.manual_seed(0)
    return generated(model, text.first, 8, 16 if smoke else 256)


# -- rows -----------------------------------------------------------------------------------------


def hit_rows(experts: Tensor, E: int, **where: Any) -> Iterator[Row]:
    """Of ``[layers, steps, B, K]``: every share of the experts that can be resident."""
    layers, steps, batch = experts.shape[:3]
    trace = visits(experts, E)
    for name, share in SHARES.items():
        slots = int(share * layers * E)
        if slots < max(map(len, trace)):
            continue  # less than a layer needs
        rates = {p: play(trace, layers, E, slots, p, len(trace) // 2).rate for p in POLICIES}
        yield {
            **{"study": "hits", **where, "batch": batch, "resident": name, "slots": slots},
            **{"layers": layers, "steps": steps, "reuse": reuse(experts)[0]},
            **rates,
        }


def trained_rows(found: Trained) -> Iterator[Row]:
    """Hits of the trained model's choices, as they came and in random order, and its guesses."""
    layers, steps, batch, K = found.experts.shape
    shuffled = found.experts[:, torch.randperm(steps)]
    for order, experts in {"as generated": found.experts, "shuffled": shuffled}.items():
        where = {"router": "trained", "order": order}
        yield from hit_rows(experts, found.E, **where)
        each = [[*hit_rows(x, found.E, **where)] for x in experts.split(1, dim=2)]
        for same in zip(*each, strict=True):
            means = {n: sum(r[n] for r in same) / batch for n in (*POLICIES, "reuse")}
            yield same[0] | means
    real = found.experts.transpose(1, 2).reshape(layers, -1, K)[1:]
    for order, guess in {"before the experts": found.early, "after them": found.late}.items():
        right = (guess.unsqueeze(-1) == real.unsqueeze(-2)).any(-1).double().mean(dim=(1, 2))
        for layer, share in enumerate(right.tolist(), 1):
            yield {
                **{"study": "guess", "router": "trained", "order": order},
                **{"layers": layer, "right": share},
            }


def rows(*, smoke: bool = False) -> Iterator[Row]:
    """Hit rates, then guesses."""
    layers = 2 if smoke else LAYERS
    for batch, steps in STEPS.items():
        for router, exponent in ROUTERS.items():
            for order, kept in {"independent": 0.0, f"{KEPT:.0%} kept": KEPT}.items():
                torch.manual_seed(batch)
                experts = drawn(exponent, batch, kept, layers, 10 if smoke else steps)
                yield from hit_rows(experts, PANGU.E, router=router, order=order)
    yield from trained_rows(trained(smoke))
