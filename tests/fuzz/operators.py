"""The operators of the layouts: what a case of each has, its tensors, its call and its formula."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from formulas import (
    Case,
    Tensors,
    gate_formula,
    gemm_formula,
    layer_formula,
    loss_formula,
    mlp_formula,
    permute_formula,
    rms,
    silu,
    sort_slots,
    unpermute_formula,
)
from hypothesis import strategies as st
from torch import Tensor

import moge_ops
from moge_ops._backend import BACKENDS
from moge_ops.ops.grouped_gate import SCORES

DTYPES = {str(d).removeprefix("torch."): d for d in BACKENDS["torch"].dtypes}
DTYPES = {name: DTYPES[name] for name in ("float32", "float16", "bfloat16", "float64")}
# a strategy that is made anew costs more than a small operator
choice = functools.cache(lambda *values: st.sampled_from(values))
whole = functools.cache(st.integers)
SMALL, EDGES = whole(0, 7), choice(15, 16, 17, 31, 32, 33, 63, 64, 65)
MANY = choice(*range(8), 15, 16, 17, 31, 32, 33, 64, 65, 200)
FLAG = choice(False, True)


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


def gate_fields(draw: st.DrawFn) -> Case:
    large = draw(choice(None, "T", "P", "G"))
    G, P = (draw(whole(1, 40 if large == name else 4)) for name in "GP")
    voted = draw(whole(0, P)) or None
    return {
        "T": draw(EDGES if large == "T" else SMALL),
        "G": G,
        "P": P,
        "k": draw(whole(1, voted or P)),
        "score": draw(choice(*SCORES)),
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
        "given": draw(choice(None, None, "int32", "int64")),
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
    if c["given"]:  # any ids, some twice and some of no expert
        t["experts"] = draw.ints(-1, E, T, c["G"] * c["k"]).to(getattr(torch, c["given"]))
    return t


def choose(call: Callable[..., Any], c: Case, t: Tensors) -> Any:
    options = {name: c[name] for name in ("score", "renormalize", "scaling", "num_voted")}
    return call(t["logits"], c["G"], c["k"], **options, **rest(t, "logits"))


def both_call(c: Case, t: Tensors) -> Tensors:
    gating, routing = choose(moge_ops.gate_and_route, c, t)
    return gating._asdict() | routing._asdict()


def both_formula(c: Case, t: Tensors) -> Tensors:
    gating, G = gate_formula(c, t), None if "experts" in t else c["G"]
    return gating | sort_slots(gating["experts"], c["G"] * c["P"], G)


def gate_units(c: Case, t: Tensors, want: Tensors, d: Tensor) -> dict[str, float]:
    """Renormalised, one weight's terms cancel: their size, not that of the result, is the unit."""
    weights, ids = want["weights"].detach().nan_to_num(0.0, 0.0, 0.0), want["experts"].clamp_min(0)
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
        "score": draw(choice(*SCORES)),
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
        lambda c, t: choose(moge_ops.grouped_gate, c, t)._asdict(),
        gate_formula,
        ("logits", "router_scale"),
        gate_units,
        wide=True,
    ),
    "gate_and_route": Op(
        gate_fields,
        gate_values,
        both_call,
        both_formula,
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
