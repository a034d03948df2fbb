"""What every operator computes, in formulas that share no code with it.

They are dense: they weigh what every expert makes of every token, and sort in Python.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

Case = dict[str, Any]
Tensors = dict[str, Tensor]


class AmbiguousError(Exception):
    """Two experts are too close for float32 to tell them apart: the choice is not compared."""


def sort_slots(ids: Tensor, E: int, G: int | None) -> Tensors:
    """The routing of ids, sorted in Python."""
    T, K = ids.shape
    slots: list[list[int]] = [[] for _ in range(E)]
    for slot, e in enumerate(ids.flatten().tolist()):
        if 0 <= e < E and (G is None or e // (E // G) == slot % K // (K // G)):
            slots[e].append(slot)
    order = [slot for own in slots for slot in own]
    rows = [-1] * (T * K)
    for row, slot in enumerate(order):
        rows[slot] = row
    return {
        "row_to_slot": torch.tensor(order + [-1] * (T * K - len(order)), dtype=torch.int32),
        "slot_to_row": torch.tensor(rows, dtype=torch.int32).view(T, K),
        "offsets": torch.tensor([0, *map(len, slots)]).cumsum(0).int(),
    }


def score_of(logits: Tensor, score: str) -> Tensor:
    if score == "sqrtsoftplus":
        soft = torch.logaddexp(logits, torch.zeros_like(logits))
        # the root of 0 has no derivative
        return torch.where(soft > 0.0, torch.where(soft > 0.0, soft, 1.0).sqrt(), soft)
    return logits.softmax(-1) if score == "softmax" else logits.sigmoid()


def shares_of(scores: Tensor) -> Tensor:
    total = scores.sum(1, keepdim=True)
    shares = scores / torch.where(total == 0.0, 1.0, total)
    return torch.where(total == 0.0, 1.0 / max(1, scores.shape[1]), shares)


def choose(c: Case, t: Tensors) -> tuple[Tensor, Tensor]:
    """Scores ``[T, E]`` and the chosen ids ``[T, K]`` of the gate; raises AmbiguousError."""
    logits, G, P = t["logits"], c["G"], c["P"]
    E = G * P
    scores = score_of(logits, c["score"])
    bias = t["bias"].tolist() if "bias" in t else [0.0] * E
    off = {e for e in range(E) if "expert_mask" in t and not t["expert_mask"][e]}
    table, given = scores.tolist(), logits.tolist()
    limit = 1e-12 if c["dtype"] == "float64" else 4e-6

    def best(n: int, off: set[int]) -> list[list[int]]:
        def key(e: int) -> tuple[bool, float, int]:
            value = row[e] + (-math.inf if e in off else bias[e])
            return math.isnan(value), -value, e

        chosen = []
        for row, logit in zip(table, given, strict=True):
            chosen.append([])
            for g in range(G):
                order = sorted(range(g * P, g * P + P), key=key)
                chosen[-1] += order[:n]
                for a, b in pairwise(order):
                    one, other = key(a)[1], key(b)[1]
                    rounded = row[a] + row[b] + (abs(one) + abs(other)) * ("bias" in t)
                    same = logit[a] == logit[b] and bias[a] == bias[b]
                    # two scores of 0 or 1 are equal in float32 too, but for the bias
                    if not same and 0 <= other - one <= limit * rounded < math.inf:
                        raise AmbiguousError
        return chosen

    if c["num_voted"] is not None:
        votes = [0] * E
        for t_, row_ in enumerate(best(1, off)):
            if "row_mask" not in t or t["row_mask"][t_]:
                for e in row_:
                    votes[e] += 1
        stays: set[int] = set()
        for g in range(G):
            on = [e for e in range(g * P, g * P + P) if e not in off]
            stays |= set(sorted(on, key=lambda e: (-votes[e], e))[: c["num_voted"]])
        off = set(range(E)) - stays
    return scores, torch.tensor(best(c["k"], off), dtype=torch.int64).view(len(table), G * c["k"])


def gate_formula(c: Case, t: Tensors) -> Tensors:
    scores, ids = choose(c, t)
    E = scores.shape[1]
    if "experts" in t:
        ids = torch.where((t["experts"] < 0) | (t["experts"] >= E), -1, t["experts"]).long()
    used, at = ids >= 0, ids.clamp_min(0)
    weights = torch.where(used, scores.gather(1, at), 0.0)
    if c["renormalize"]:
        weights = torch.where(used, shares_of(weights), 0.0)
    weights = weights * c["scaling"]
    if "router_scale" in t:
        weights = weights * torch.where(used, t["router_scale"][at], 0.0)
    counts = torch.tensor([ids.flatten().tolist().count(e) for e in range(E)])
    return {"weights": weights, "experts": ids, "counts": counts}


def mlp_formula(c: Case, t: Tensors, act: Callable[[Tensor, Tensor], Tensor]) -> Tensors:
    E = t["w_down"].shape[0]
    hits = t["ids"].unsqueeze(-1) == torch.arange(E)  # [T, K, E]
    used = hits.any(1).any(0).view(E, 1, 1)
    w_gate_up, w_down = (torch.where(used, t[name], 0.0) for name in ("w_gate_up", "w_down"))
    gate, up = torch.einsum("th,efh->tef", t["x"], w_gate_up).chunk(2, -1)
    out = torch.einsum("tef,ehf->teh", act(gate, up), w_down)
    weights = torch.where(hits, t["weights"].unsqueeze(-1), 0.0).sum(1)  # [T, E]
    return {"y": torch.einsum("te,teh->th", weights, out)}


def gemm_formula(c: Case, t: Tensors) -> Tensors:
    row, offsets = torch.arange(len(t["rows"])).unsqueeze(1), t["offsets"]
    own = (row >= offsets[:-1]) & (row < offsets[1:])  # [N, E]
    rows = torch.where(own.any(1, keepdim=True), t["rows"], 0.0)
    weight = torch.where(own.any(0).view(-1, 1, 1), t["weight"], 0.0)
    return {
        "out": torch.where(own.unsqueeze(-1), torch.einsum("ni,eoi->neo", rows, weight), 0).sum(1)
    }


def permute_formula(c: Case, t: Tensors) -> Tensors:
    of_slot = t["row_to_slot"].unsqueeze(1) == torch.arange(t["slot_to_row"].numel())  # [N, T * K]
    return {"rows": of_slot.double() @ t["x"].repeat_interleave(t["slot_to_row"].shape[1], 0)}


def unpermute_formula(c: Case, t: Tensors) -> Tensors:
    of_row = t["slot_to_row"].unsqueeze(-1) == torch.arange(len(t["rows"]))  # [T, K, N]
    rows = torch.where(of_row.any(0).any(0).unsqueeze(1), t["rows"], 0.0)
    weights = of_row.double()
    if "weights" in t:
        weights = torch.where(of_row, t["weights"].unsqueeze(-1), 0.0)
    return {"y": weights.sum(1) @ rows}


def loss_formula(c: Case, t: Tensors) -> Tensors:
    T, E = t["logits"].shape
    q = score_of(t["logits"], c["score"])
    q = q if c["score"] == "softmax" else shares_of(q)
    if not T * c["K"]:
        return {"loss": q.sum() * 0.0}
    counts = [0] * E
    for e in t["experts"].flatten().tolist():
        if 0 <= e < E:
            counts[e] += 1
    return {"loss": (torch.tensor(counts).double() * (E / (c["K"] * T)) * q.mean(0)).sum()}


def layer_formula(c: Case, t: Tensors) -> Tensors:
    x = t["x"].reshape(-1, c["H"])
    gating = gate_formula(c, {**t, "logits": x @ t["gate"].T})
    y = mlp_formula(c, {**t, **gating, "x": x, "ids": gating["experts"]}, silu)["y"]
    if c["S"]:
        gate, up = (x @ t["shared_gate_up"].T).chunk(2, -1)
        y = y + silu(gate, up) @ t["shared_down"].T
    return {"y": y.view(t["x"].shape), "experts": gating["experts"], "counts": gating["counts"]}


def silu(gate: Tensor, up: Tensor) -> Tensor:
    return gate * gate.sigmoid() * up


def rms(x: Tensor) -> float:
    return (
        x.detach().double().nan_to_num(0.0, 0.0, 0.0).square().mean().sqrt().nan_to_num(0.0).item()
    )
