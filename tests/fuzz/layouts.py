"""Any size, stride and storage: every operator against float64 formulas that share no code with it.

The formulas are dense: they weigh what every expert makes of every token, and sort in Python.
"""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise, product
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

import moge_ops
from moge_ops import testing
from moge_ops._backend import BACKENDS

Case = dict[str, Any]
Tensors = dict[str, Tensor]
DTYPES = {str(d).removeprefix("torch."): d for d in BACKENDS["torch"].dtypes}
DTYPES = {name: DTYPES[name] for name in ("float32", "float16", "bfloat16", "float64")}
# order in memory; gaps in the last and in the first dimension; start; dimensions of stride 0
LAYOUTS = [
    " ".join(filter(None, words))
    for words in product(
        ["", "swapped", "reversed"],
        ["", "step2", "rows2", "pad1", "pad3 step3"],
        ["", "offset1", "offset5"],
        ["", "expand-last", "expand-first", "slide"],
    )
]
# a strategy that is made anew costs more than a small operator
choice = functools.cache(lambda *values: st.sampled_from(values))
whole = functools.cache(st.integers)
SMALL, EDGES = whole(0, 7), choice(15, 16, 17, 31, 32, 33, 63, 64, 65)
MANY = choice(*range(8), 15, 16, 17, 31, 32, 33, 64, 65, 200)
FLAG = choice(False, True)


class AmbiguousError(Exception):
    """Two experts are too close for float32 to tell them apart: the choice is not compared."""


PLACES = st.tuples(*4 * [choice(*LAYOUTS)]).map(list)


# Inputs: values, then their place in memory


def lay(values: Tensor, layout: str, free: bool) -> Tensor:
    """``values`` in a storage that is wrong elsewhere; what is ``free`` may be repeated."""
    words = layout.split() if values.ndim else []
    shape, dims = list(values.shape), list(range(values.ndim))
    if "reversed" in words:
        dims.reverse()
    elif "swapped" in words and len(dims) > 1:
        dims[-2:] = dims[:-3:-1]
    pad = next((int(word[3:]) for word in words if word.startswith("pad")), 0)
    strides, step = [1] * len(dims), 1
    for d in reversed(dims):
        if d == len(dims) - 1:
            step *= next((int(word[4:]) for word in words if word.startswith("step")), 1)
        if d == 0 and "rows2" in words:
            step *= 2
        strides[d] = step
        step = step * max(1, shape[d]) + pad
    once, overlap = list(shape), False
    if free and values.numel():
        for word, d in (("expand-first", 0), ("expand-last", -1)):
            if word in words:
                strides[d], once[d] = 0, 1
        if "slide" in words and len(dims) > 1:
            strides[-2:], overlap = [1, 1], True
    start = next((int(word[6:]) for word in words if word.startswith("offset")), 0)
    last = sum(stride * (size - 1) for stride, size in zip(strides, shape, strict=True))
    wrong = math.nan if values.is_floating_point() else 1
    base = values.new_full((start + (last + 1 if values.numel() else 0) + 2,), wrong)
    if overlap:
        given = values.reshape(-1)
        base[start : start + last + 1] = given[torch.arange(last + 1) % len(given)]
    else:
        first = tuple(slice(size) for size in once)
        base.as_strided(once, strides, start).copy_(values[first])
    return base.as_strided(shape, strides, start)


def share(tensors: list[Tensor]) -> list[Tensor]:
    """The same views, but all of a dtype in one storage."""
    found = list(tensors)
    for dtype in {t.dtype for t in tensors}:
        bases, start = [], 0
        for i, t in enumerate(tensors):
            if t.dtype is dtype:
                base = t.as_strided((t.untyped_storage().nbytes() // t.itemsize,), (1,), 0)
                found[i] = (base, start)  # type: ignore[call-overload]
                bases.append(base)
                start += len(base)
        one = torch.cat(bases)
        for i, t in enumerate(tensors):
            if t.dtype is dtype:
                offset = found[i][1] + t.storage_offset()
                found[i] = one.as_strided(t.shape, t.stride(), offset)
    return found


def bits(tensors: Tensors) -> dict[str, Tensor]:
    """Everything in the storages, to compare."""
    return {
        name: torch.empty(0, dtype=torch.uint8).set_(t.untyped_storage()).clone()
        for name, t in tensors.items()
    }


class Draw:
    """Random values from the seed of a case."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def ints(self, low: int, high: int, *shape: int) -> Tensor:
        """Integers in [low, high]."""
        return torch.randint(low, high + 1, shape, generator=self.generator)


def sizes(draw: st.DrawFn, *names: str, least: int = 0) -> Case:
    """A size for each letter, at most one of them large."""
    large = draw(st.sampled_from([None, *names]))
    found = {name: draw(EDGES if name == large else SMALL) for name in names}
    return {name: max(least, size) for name, size in found.items()}


def spoil(x: Tensor, bad: list[list[Any]]) -> Tensor:
    """Replaces elements, or whole rows where the column is negative, by what is no number."""
    for t, e, value in bad:
        if x.numel():
            row = x[t % len(x)] if x.ndim > 1 else x
            row[... if e < 0 and x.ndim > 1 else e % len(row)] = float(value)
    return x


BAD = st.lists(
    st.tuples(st.integers(0, 70), st.integers(-1, 70), choice("nan", "inf", "-inf")).map(list),
    max_size=3,
)
IDS = choice("grouped", "any", "one", "first-few", "dropped", "huge")


def draw_ids(c: Case, draw: Draw) -> Tensor:
    """``[T, K]`` ids, some of them outside ``[0, E)``."""
    T, K, E, kind = c["T"], c["K"], c["E"], c["ids"]
    ids = draw.ints(-2, E + 2, T, K)
    if kind == "grouped":
        blocks = torch.arange(K) * (c.get("G") or 1) // max(K, 1)
        ids = draw.ints(0, max(0, E // (c.get("G") or 1) - 1), T, K) + blocks * (
            E // (c.get("G") or 1)
        )
    elif kind == "one":
        ids = torch.full((T, K), E // 2)
    elif kind == "first-few":
        ids = ids % max(1, E // 3)
    elif kind == "dropped":
        ids = torch.full((T, K), E)
    elif kind == "huge" and c["id_dtype"] == "int64":
        ids = torch.where(ids == E + 1, 2**40, torch.where(ids == -1, -(2**40), ids))
    return ids.to(getattr(torch, c["id_dtype"]))


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


# The formulas


def score_of(logits: Tensor, score: str) -> Tensor:
    return logits.softmax(-1) if score == "softmax" else logits.sigmoid()


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
    weights = scores.gather(1, ids)
    if c["renormalize"]:
        weights = weights / weights.sum(1, keepdim=True)
    weights = weights * c["scaling"]
    if "router_scale" in t:
        weights = weights * t["router_scale"][ids]
    counts = torch.tensor([ids.flatten().tolist().count(e) for e in range(scores.shape[1])])
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
    q = q / q.sum(1, keepdim=True) if c["score"] == "sigmoid" else q
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


# The operators: what a case of each has, its tensors, its call


def gate_fields(draw: st.DrawFn) -> Case:
    large = draw(choice(None, "T", "P", "G"))
    G, P = (draw(whole(1, 40 if large == name else 4)) for name in "GP")
    voted = draw(whole(0, P)) or None
    return {
        "T": draw(EDGES if large == "T" else SMALL),
        "G": G,
        "P": P,
        "k": draw(whole(1, voted or P)),
        "score": draw(choice("softmax", "sigmoid")),
        "renormalize": draw(FLAG),
        "scaling": draw(choice(1.0, 2.5, -0.3, 3)),
        "steps": draw(choice(64, 8, 2, 1)),
        "bad": draw(BAD),
        "bias": draw(choice(None, *DTYPES)),
        "bad_bias": draw(BAD),
        "router_scale": draw(choice(None, *DTYPES)),
        "expert_mask": draw(choice(None, 0.9, 0.3, 0.0)),
        "num_voted": voted,
        "row_mask": draw(choice(None, 0.5, 0.0)),
    }


def gate_values(c: Case, draw: Draw) -> Tensors:
    T, E, steps = c["T"], c["G"] * c["P"], c["steps"]
    logits = draw.ints(0, steps - 1, T, E).double() * (8.0 / steps) - 4.0
    t = {"logits": spoil(logits, c["bad"]).to(DTYPES[c["dtype"]])}
    if c["bias"]:
        bias = draw.ints(-2, 2, E).double() * 0.25
        t["bias"] = spoil(bias, c["bad_bias"]).to(DTYPES[c["bias"]])
    if c["router_scale"]:
        t["router_scale"] = draw.normal(E).to(DTYPES[c["router_scale"]])
    if c["expert_mask"] is not None:
        t["expert_mask"] = draw.normal(E).sigmoid() < c["expert_mask"]
    if c["row_mask"] is not None and c["num_voted"] is not None:
        t["row_mask"] = draw.normal(T).sigmoid() < c["row_mask"]
    return t


def gate_call(c: Case, t: Tensors) -> Tensors:
    options = {name: c[name] for name in ("score", "renormalize", "scaling", "num_voted")}
    return moge_ops.grouped_gate(
        t["logits"], c["G"], c["k"], **options, **rest(t, "logits")
    )._asdict()


def gate_units(c: Case, t: Tensors, want: Tensors, d: Tensor) -> dict[str, float]:
    """Renormalised, one weight's terms cancel: their size, not that of the result, is the unit."""
    weights, ids = want["weights"].detach().nan_to_num(0.0, 0.0, 0.0), want["experts"]
    scales = t.get("router_scale", torch.ones(c["G"] * c["P"])).detach().double()[ids]
    terms = torch.zeros(c["G"] * c["P"]).double()
    terms.index_add_(0, ids.flatten(), (weights / scales * d).nan_to_num(0.0).square().flatten())
    row = weights.square().sum(-1).mean().nan_to_num(0.0).item()
    return {"d_logits": (row / (c["G"] * c["P"])) ** 0.5, "d_router_scale": rms(terms.sqrt())}


def route_fields(draw: st.DrawFn) -> Case:
    G = draw(choice(None, 1, 2, 3, 8))
    factor = G or 1
    return {
        "T": draw(MANY),
        "K": factor * draw(whole(0, 4)),
        "E": factor * draw(choice(*range(1, 10), 16, 33)),
        "G": G,
        "ids": draw(IDS),
        "id_dtype": draw(choice("int32", "int64")),
    }


def routed_fields(draw: st.DrawFn, *letters: str) -> Case:
    return {
        **sizes(draw, "T", *letters),
        "K": draw(whole(0, 5)),
        "E": draw(whole(1, 9)),
        "ids": draw(IDS),
        "id_dtype": "int64",
        "weights": draw(choice(*DTYPES)),
        "weighted": draw(FLAG),
        "weight_on": draw(choice("output", "activation")),
    }


def routed_values(c: Case, draw: Draw) -> Tensors:
    ids = draw_ids(c, draw)
    return {"ids": ids, **sort_slots(ids, c["E"], None)}


def weights_values(c: Case, draw: Draw, t: Tensors) -> Tensor:
    weights = draw.normal(c["T"], c["K"]).to(DTYPES[c["weights"]])
    return weights.masked_fill(t["slot_to_row"] < 0, math.nan) if c["poison"] else weights


def permute_values(c: Case, draw: Draw) -> Tensors:
    x = draw.normal(c["T"], c["H"]).to(DTYPES[c["dtype"]])
    return {"x": x, **routed_values(c, draw)}


def unpermute_values(c: Case, draw: Draw) -> Tensors:
    t = routed_values(c, draw)
    rows = draw.normal(c["T"] * c["K"], c["H"]).to(DTYPES[c["dtype"]])
    if c["poison"]:
        rows[t["offsets"][-1] :] = math.nan
    return {"rows": rows, **({"weights": weights_values(c, draw, t)} if c["weighted"] else {}), **t}


def mlp_values(c: Case, draw: Draw) -> Tensors:
    T, H, F, E = (c[name] for name in "THFE")
    dtype = DTYPES[c["dtype"]]
    t = routed_values(c, draw)
    w_gate_up = (draw.normal(E, 2 * F, H) / max(1, H) ** 0.5).to(dtype)
    w_down = (draw.normal(E, H, F) / max(1, F) ** 0.5).to(dtype)
    if c["poison"]:  # an expert without rows is not read
        idle = t["offsets"][1:] == t["offsets"][:-1]
        w_gate_up[idle], w_down[idle] = math.inf, math.nan
    return {
        "x": draw.normal(T, H).to(dtype),
        "w_gate_up": w_gate_up,
        "w_down": w_down,
        "weights": weights_values(c, draw, t),
        **t,
    }


def gemm_fields(draw: st.DrawFn) -> Case:
    count = draw(choice(3, 20, 40))
    return {
        **sizes(draw, "O", "I"),
        "counts": draw(st.lists(st.integers(0, count), min_size=0, max_size=5)),
        "unused": draw(whole(0, 20)),
    }


def gemm_values(c: Case, draw: Draw) -> Tensors:
    counts, dtype = c["counts"], DTYPES[c["dtype"]]
    rows = draw.normal(sum(counts) + c["unused"], c["I"]).to(dtype)
    weight = draw.normal(len(counts), c["O"], c["I"]).to(dtype)
    if c["poison"]:
        rows[sum(counts) :] = math.nan
        weight[torch.tensor(counts, dtype=torch.int64) == 0] = math.inf
    offsets = torch.tensor([0, *counts]).cumsum(0).int()
    return {"rows": rows, "weight": weight, "offsets": offsets}


def loss_fields(draw: st.DrawFn) -> Case:
    return {
        "T": draw(MANY),
        "E": draw(choice(*range(1, 10), 16, 17, 33, 65)),
        "K": draw(whole(0, 5)),
        "ids": draw(IDS),
        "id_dtype": draw(choice("int32", "int64")),
        "score": draw(choice("softmax", "sigmoid")),
        "bad": draw(BAD),
    }


def loss_values(c: Case, draw: Draw) -> Tensors:
    logits = spoil(draw.normal(c["T"], c["E"]), c["bad"]).to(DTYPES[c["dtype"]])
    return {"logits": logits, "experts": draw_ids(c, draw)}


def loss_units(c: Case, t: Tensors, want: Tensors, d: Tensor) -> dict[str, float]:
    """With even shares the terms cancel: the unit is at least the size of one."""
    return {"d_logits": d.abs().item() / max(1, t["logits"].numel())}


def layer_fields(draw: st.DrawFn) -> Case:
    gate = gate_fields(draw)
    fixed = {"bad": [], "bad_bias": [], "row_mask": None}
    small = {name: draw(whole(1, 6)) for name in "HF"}
    lead = list(draw(choice((gate["T"],), (2, 3), (), (0, 2), (2, 1, 2))))
    T = math.prod(lead)
    more = {"lead": lead, "T": T, "S": draw(choice(0, 3)), "k": min(2, gate["k"])}
    weight_on = draw(choice("output", "activation"))
    return {**gate, **fixed, **small, **more, "G": min(3, gate["G"]), "weight_on": weight_on}


def layer_values(c: Case, draw: Draw) -> Tensors:
    t, H, F, S = gate_values(c, draw), c["H"], c["F"], c["S"]
    E, dtype = c["G"] * c["P"], DTYPES[c["dtype"]]
    t.pop("logits")
    named = {
        # few bits, so that the logits are exact
        "x": draw.ints(-4, 4, *c["lead"], H) * 0.25,
        "gate": draw.ints(-4, 4, E, H) * 0.25,
        "w_gate_up": draw.normal(E, 2 * F, H),
        "w_down": draw.normal(E, H, F),
    }
    if S:
        named |= {"shared_gate_up": draw.normal(2 * S, H), "shared_down": draw.normal(H, S)}
    t |= {name: value.to(dtype) for name, value in named.items()}
    return {name: v.to(dtype) if name in ("bias", "router_scale") else v for name, v in t.items()}


def layer_call(c: Case, t: Tensors) -> Tensors:
    options = {
        name: c[name] for name in ("score", "renormalize", "scaling", "num_voted", "weight_on")
    }
    layer = moge_ops.nn.MoGE(
        *(c["H"], c["F"], c["G"] * c["P"], c["G"], c["k"]),
        shared_size=c["S"],
        router_scale="router_scale" in t,
        selection_bias="bias" in t,
        dtype=t["x"].dtype,
        **options,
    )
    for name, value in rest(t, "x").items():
        layer._parameters.pop(name, None)  # so that a plain tensor may stand there
        layer._buffers.pop(name, None)
        setattr(layer, name, value)
    y, _, gating = layer(t["x"], return_routing=True)
    return {"y": y, "experts": gating.experts, "counts": gating.counts}


def layer_units(c: Case, t: Tensors, want: Tensors, d: Tensor) -> dict[str, float]:
    return dict.fromkeys(("y", *(f"d_{name}" for name in t)), 1.0)


def rest(t: Tensors, *without: str) -> Tensors:
    return {name: value for name, value in t.items() if name not in without}


def routing_of(t: Tensors) -> moge_ops.Routing:
    return moge_ops.Routing(t["row_to_slot"], t["slot_to_row"], t["offsets"])


class Op(NamedTuple):
    fields: Callable[[st.DrawFn], Case]
    values: Callable[[Case, Draw], Tensors]
    call: Callable[[Case, Tensors], Tensors]
    formula: Callable[[Case, Tensors], Tensors]
    leaves: tuple[str, ...] = ()  # that have a gradient
    units: Any = None  # of the comparison; None where the formula of the squares gives them
    linear: Any = None  # the formula with a product in the place of SwiGLU
    steps: int = 1  # roundings to the dtype, one after the other
    wide: bool = False  # results are rounded once only, whatever dtype they had before


OPS = {
    "grouped_gemm": Op(
        gemm_fields,
        gemm_values,
        lambda c, t: {"out": moge_ops.grouped_gemm(**t)},
        gemm_formula,
        ("rows", "weight"),
    ),
    "grouped_mlp": Op(
        lambda draw: routed_fields(draw, "H", "F"),
        mlp_values,
        lambda c, t: {
            "y": moge_ops.grouped_mlp(
                *(t[name] for name in ("x", "w_gate_up", "w_down", "weights")),
                routing_of(t),
                weight_on=c["weight_on"],
            )
        },
        lambda c, t: mlp_formula(c, t, silu),
        ("x", "w_gate_up", "w_down", "weights"),
        linear=lambda c, t: mlp_formula(c, t, torch.mul),
        steps=3,
    ),
    "grouped_gate": Op(
        gate_fields,
        gate_values,
        gate_call,
        gate_formula,
        ("logits", "router_scale"),
        gate_units,
        wide=True,
    ),
    "route": Op(
        route_fields,
        lambda c, draw: {"experts": draw_ids(c, draw)},
        lambda c, t: moge_ops.route(t["experts"], c["E"], num_groups=c["G"])._asdict(),
        lambda c, t: sort_slots(t["experts"], c["E"], c["G"]),
    ),
    "permute": Op(
        lambda draw: routed_fields(draw, "H"),
        permute_values,
        lambda c, t: {"rows": moge_ops.permute(t["x"], routing_of(t))},
        permute_formula,
        ("x",),
    ),
    "unpermute": Op(
        lambda draw: routed_fields(draw, "H"),
        unpermute_values,
        lambda c, t: {"y": moge_ops.unpermute(t["rows"], routing_of(t), t.get("weights"))},
        unpermute_formula,
        ("rows", "weights"),
        wide=True,
    ),
    "swiglu": Op(
        lambda draw: sizes(draw, "N", "F"),
        lambda c, draw: {"gate_up": 3.0 * draw.normal(c["N"], 2 * c["F"]).to(DTYPES[c["dtype"]])},
        lambda c, t: {"act": moge_ops.swiglu(t["gate_up"])},
        lambda c, t: {"act": silu(*t["gate_up"].chunk(2, -1))},
        ("gate_up",),
        linear=lambda c, t: {"act": torch.mul(*t["gate_up"].chunk(2, -1))},
        steps=2,
    ),
    "load_balance_loss": Op(
        loss_fields,
        loss_values,
        lambda c, t: {"loss": moge_ops.load_balance_loss(**t, score=c["score"])},
        loss_formula,
        ("logits",),
        loss_units,
        wide=True,
    ),
    "nn.MoGE": Op(
        layer_fields,
        layer_values,
        layer_call,
        layer_formula,
        ("x", "gate", "w_gate_up", "w_down", "shared_gate_up", "shared_down", "router_scale"),
        layer_units,
        steps=3,
    ),
}


@st.composite
def cases(draw: st.DrawFn, backend: str = "torch") -> Case:
    """One call of one operator."""
    op = draw(choice(*OPS))
    has = [name for name, dtype in DTYPES.items() if dtype in BACKENDS[backend].dtypes]
    case = {
        "op": op,
        "seed": draw(whole(0, 2**16)),
        "dtype": draw(
            choice(*(has if op != "nn.MoGE" else {"float32", has[-1]} & {"float32", "float64"}))
        ),
        "layouts": draw(PLACES),
        "shared": draw(FLAG),
        "poison": draw(FLAG),
        "grads": draw(choice(127, 0, 1, 2, 4, 8, 6, 9)),  # a bit for each input that has one
        "again": draw(choice(False, False, False, True)),
    }
    return {**case, **OPS[op].fields(draw)}


# The comparison


@contextmanager
def poisoned() -> Iterator[None]:
    """Uninitialised float memory holds NaN."""
    before = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = before  # type: ignore[attr-defined]


def differentiate(
    op: Op, c: Case, call: Any, t: Tensors, d: Tensor | None = None
) -> tuple[Tensors, Tensors]:
    """Results of a call, and the gradients that the case asks for."""
    leaves = {
        name: t[name].detach().requires_grad_()
        for i, name in enumerate(op.leaves)
        if name in t and c["grads"] >> i & 1
    }
    out = call(c, {**t, **leaves})
    if not leaves:
        return out, {}
    first = next(iter(out.values()))
    if d is None:
        d = torch.ones_like(first)
    found = torch.autograd.grad(first, leaves.values(), d, allow_unused=True)
    return out, {f"d_{name}": g for name, g in zip(leaves, found, strict=True)}  # type: ignore[misc]


def rms(x: Tensor) -> float:
    return (
        x.detach().double().nan_to_num(0.0, 0.0, 0.0).square().mean().sqrt().nan_to_num(0.0).item()
    )


def close(op: Op, c: Case, got: Tensor, want: Tensor, what: str, unit: float) -> None:
    """Within the tolerance of the coarsest dtype on the way."""
    least = DTYPES[c["dtype"]]
    least = torch.promote_types(least, torch.float32) if op.wide else least
    dtype = max((got.dtype, least), key=lambda dtype: torch.finfo(dtype).eps)
    limit = testing.TOLERANCES[dtype]
    # what is below the smallest step of a dtype cannot be told
    unit = max(
        unit, rms(want), torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps / limit.rms
    )
    half = torch.finfo(dtype).bits == 16
    testing.assert_matches(got.to(dtype), want, what, scale=unit, slack=op.steps if half else 1.0)


def check(c: Case, backend: str = "torch") -> None:
    """Results, gradients, inputs left alone, and the same bits again."""
    op, draw = OPS[c["op"]], Draw(c["seed"])
    values = op.values(c, draw)
    made = {
        name: lay(v, layout, not c["poison"] and name not in ("ids", *moge_ops.Routing._fields))
        for (name, v), layout in zip(values.items(), 3 * c["layouts"], strict=False)
    }
    if c["shared"]:
        made = dict(zip(made, share(list(made.values())), strict=True))
    wide = {name: v.double() if v.is_floating_point() else v for name, v in made.items()}
    try:
        formula = op.formula(c, wide)
    except AmbiguousError:
        return
    first = next(iter(formula.values()))
    dtype = DTYPES[c["dtype"]]
    out_dtype = (
        torch.promote_types(dtype, torch.float32)
        if first is formula.get("weights") or first.ndim == 0
        else dtype
    )
    d = lay(draw.normal(*first.shape).to(out_dtype), c["layouts"][-1], not c["poison"])
    if c["poison"] and "offsets" in made and first is not formula.get("y"):
        d[made["offsets"][-1] :] = math.nan  # of rows that nobody has
    d64 = d.double().nan_to_num(0.0)

    before = bits({**made, "d": d})
    if backend == "ascend":
        from moge_ops import _C

        _C.set_emulation(cores=3)
    with testing.backend(backend), poisoned():
        got, d_got = differentiate(op, c, op.call, rest(made, "ids"), d)
        if c["again"]:
            again, d_again = differentiate(op, c, op.call, rest(made, "ids"), d)
    for name, was in bits({**made, "d": d}).items():
        assert torch.equal(was, before[name]), f"{c['op']}: {name} was changed"
    if c["again"]:
        for name, x in {**got, **d_got}.items():
            y = {**again, **d_again}[name]
            assert torch.equal(x.isnan(), y.isnan()), (
                f"{c['op']} {name}: another NaN the second time"
            )
            assert torch.equal(x.nan_to_num(), y.nan_to_num()), f"{c['op']} {name}: other bits"

    want, d_want = differentiate(op, c, op.formula, wide, d64)
    units = squares(op, c, wide, d64) if op.units is None else op.units(c, wide, want, d64)
    for name, x in want.items():
        if x.is_floating_point():
            assert got[name].dtype is out_dtype, f"{c['op']} {name}: dtype {got[name].dtype}"
            close(op, c, got[name], x, f"{c['op']} {name}", units.get(name, 0.0))
        else:
            assert got[name].dtype is torch.int32, f"{c['op']} {name}: dtype {got[name].dtype}"
            assert torch.equal(got[name], x.int()), (
                f"{c['op']} {name}: {got[name].tolist()}, expected {x.tolist()}"
            )
    for name, g in d_want.items():
        leaf = made[name.removeprefix("d_")]
        x, g = d_got[name], torch.zeros(leaf.shape) if g is None else g
        assert x is not None, f"{c['op']} {name}: no gradient"
        assert x.dtype is leaf.dtype, f"{c['op']} {name}: dtype {x.dtype}"
        close(op, c, x, g.double(), f"{c['op']} {name}", units.get(name, 0.0))


def squares(op: Op, c: Case, t: Tensors, d: Tensor) -> dict[str, float]:
    """Sizes of what was summed: a sum of products, of squares, is the square of its terms' size."""
    squared = {name: v.square() if v.is_floating_point() else v for name, v in t.items()}
    out, gradients = differentiate(op, c, op.linear or op.formula, squared, d.square())
    found = {**out, **gradients}
    return {name: rms(v.sqrt()) for name, v in found.items() if v is not None}
