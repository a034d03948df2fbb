"""Any size, stride and storage: every operator against float64 formulas."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
from formulas import AmbiguousError, Case, Tensors, rms
from hypothesis import strategies as st
from operators import DTYPES, FLAG, OPS, Draw, Op, choice, rest, whole
from torch import Tensor

import moge_ops
from moge_ops import testing
from moge_ops._backend import BACKENDS

# order in memory; gaps in the last and in the first dimension; start; elements that repeat, which
# are rarer, because errors that repeat are not told from faults as well as others
LAYOUTS = [
    " ".join(filter(None, words))
    for words in product(
        ["", "swapped", "reversed"],
        ["", "step2", "rows2", "pad1", "pad3 step3"],
        ["", "offset1", "offset5"],
        [*5 * [""], "expand-last", "expand-first", "slide"],
    )
]
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
    if op.units is None:
        equal = any(repeats(v) for v in (*made.values(), d) if v.is_floating_point())
        units = sizes_of_terms(op, c, wide, d64, equal)
    else:
        units = op.units(c, wide, want, d64)
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


def repeats(x: Tensor) -> bool:
    """Whether elements share their memory."""
    extent = 1 + sum(stride * (n - 1) for n, stride in zip(x.shape, x.stride(), strict=True))
    return x.numel() > extent or any(
        s == 0 < n - 1 for n, s in zip(x.shape, x.stride(), strict=True)
    )


def sizes_of_terms(op: Op, c: Case, t: Tensors, d: Tensor, equal: bool) -> dict[str, float]:
    """Sizes of what was summed: terms that differ add up by their squares, equal ones by sizes.

    The formula is a sum of products: of squares it gives the square, of sizes the size.
    """
    power, root = (torch.abs, torch.abs) if equal else (torch.square, torch.sqrt)
    powers = {name: power(v) if v.is_floating_point() else v for name, v in t.items()}
    out, gradients = differentiate(op, c, op.linear or op.formula, powers, power(d))
    found = {**out, **gradients}
    return {name: rms(root(v)) for name, v in found.items() if v is not None}
