"""The plug-in for SGLang, against stand-ins that have the names and signatures of 0.5.23."""

import enum
import functools
import logging
import sys
from collections.abc import Callable, Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from moge_ops.integrations import _engines, sglang
from moge_ops.ops.grouped_gate import grouped_gate

E, G, K = 64, 8, 16
LAYER = "InternS1ProTextDecoderLayer"
HookType = enum.Enum("HookType", ["BEFORE", "AFTER", "AROUND", "REPLACE"])

# executed in the module of each test, since the plug-in asks where a method comes from
MODEL_FILE = """
class InternS1ProTextDecoderLayer:
    def __init__(self, config, layer_id, quant_config=None):
        self.config = config
        self.mlp = config.mlp
        self.router_n_groups = config.router_n_groups
        self.routing = self._custom_routing_function

    def _custom_routing_function(self, hidden_states, gating_output, topk, renormalize):
        return "unpatched", self.router_n_groups
"""


class Registry:
    """Applies hooks to classes and modules as they say; a target that has one gets no other."""

    def __init__(self) -> None:
        self.hooks: list[tuple[str, Any, Any]] = []
        self.patched: set[str] = set()

    def register(self, target: str, hook: Any, hook_type: Any = HookType.AFTER) -> None:
        self.hooks.append((target, hook, hook_type))

    def apply_hooks(self) -> None:
        for target, hook, kind in self.hooks:
            if target in self.patched:
                continue
            self.patched.add(target)
            path, _, name = target.rpartition(".")
            home = sys.modules.get(path)
            if home is None:
                module, _, cls = path.rpartition(".")
                home = getattr(sys.modules[module], cls)
            setattr(home, name, self.wrap(getattr(home, name), hook, kind))

    @staticmethod
    def wrap(original: Callable[..., Any], hook: Any, kind: Any) -> Callable[..., Any]:
        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if kind is HookType.AROUND:
                return hook(original, *args, **kwargs)
            if kind is HookType.BEFORE:
                assert hook(*args, **kwargs) is None
            result = original(*args, **kwargs)
            return hook(result, *args, **kwargs) if kind is HookType.AFTER else result

        return wrapper


def module(monkeypatch: pytest.MonkeyPatch, name: str, **names: Any) -> ModuleType:
    """A module of that name, where ``import`` finds it for the length of a test."""
    made = ModuleType(name)
    made.__path__ = []
    vars(made).update(names)
    monkeypatch.setitem(sys.modules, name, made)
    parent, _, child = name.rpartition(".")
    if parent in sys.modules:
        monkeypatch.setattr(sys.modules[parent], child, made, raising=False)
    return made


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("MOGE_OPS_SGLANG", raising=False)
    caches = (sglang.register, sglang._patch, sglang._say, sglang._cannot_check, _engines.leave)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """SGLang with its registry, its utilities and one model's file."""
    registry = Registry()
    for name in ("sglang", "sglang.srt", "sglang.srt.plugins", "sglang.srt.models"):
        module(monkeypatch, name)
    hooks = module(
        monkeypatch,
        "sglang.srt.plugins.hook_registry",
        HookRegistry=registry,
        HookType=HookType,
    )
    utils = module(monkeypatch, "sglang.srt.utils", is_npu=lambda: False)
    common = module(monkeypatch, "sglang.srt.utils.common", make_layers=lambda build: build())
    model = module(monkeypatch, sglang.MODEL)
    exec(MODEL_FILE, vars(model))
    return SimpleNamespace(registry=registry, hooks=hooks, utils=utils, common=common, model=model)


def start(engine: SimpleNamespace) -> None:
    """As load_plugins does in each process."""
    sglang.register()
    engine.registry.apply_hooks()


def config(form: str = "STANDARD", backend: str = "triton", **fields: Any) -> SimpleNamespace:
    topk = SimpleNamespace(
        output_format=SimpleNamespace(name=form), runner_backend=SimpleNamespace(value=backend)
    )
    mlp = SimpleNamespace(topk=SimpleNamespace(topk_config=topk))
    return SimpleNamespace(**{"num_experts": E, "router_n_groups": G, "mlp": mlp} | fields)


def build(engine: SimpleNamespace, cfg: SimpleNamespace | None = None) -> Any:
    """A layer as SGLang builds it: through make_layers, which the plug-in hooks."""
    layer = getattr(engine.model, LAYER)
    return engine.common.make_layers(lambda: layer(config=cfg or config(), layer_id=3))


def route(layer: Any, logits: torch.Tensor, renormalize: bool = True, topk: int = K) -> Any:
    """As select_experts calls it: by keywords."""
    return layer.routing(
        hidden_states=torch.empty(len(logits), 4),
        gating_output=logits,
        topk=topk,
        renormalize=renormalize,
    )


def unpatched(engine: SimpleNamespace) -> bool:
    return bool(route(build(engine), torch.zeros(1, E))[0] == "unpatched")


@pytest.mark.parametrize("T", [0, 1, 5])
@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_routing_function_keeps_its_contract(
    engine: SimpleNamespace, dtype: torch.dtype, renormalize: bool, T: int
) -> None:
    start(engine)
    logits = torch.randn(T, E).to(dtype)
    with torch.inference_mode():
        weights, ids = route(build(engine), logits, renormalize)
        weights *= 2.5  # what the caller does
    want = grouped_gate(logits, G, K // G, renormalize=renormalize, scaling=2.5)
    assert weights.dtype == torch.float32
    assert ids.dtype == torch.int32
    assert weights.is_contiguous()
    assert ids.is_contiguous()
    torch.testing.assert_close(weights, want.weights.float(), rtol=1e-6, atol=0.0)
    assert torch.equal(ids, want.experts)


def test_a_model_without_groups_is_the_engines(engine: SimpleNamespace) -> None:
    start(engine)
    layer = build(engine, config("TRITON_KERNEL", router_n_groups=-1))
    assert route(layer, torch.zeros(1, E)) == ("unpatched", -1)


def test_starting_imports_no_model(
    engine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, sglang.MODEL)
    start(engine)  # the stand-in of the registry fails on a module that is not imported
    assert engine.common.make_layers(lambda: "another model") == "another model"
    assert [target for target, *_ in engine.registry.hooks] == [sglang.BUILD]
    monkeypatch.setitem(sys.modules, sglang.MODEL, engine.model)  # imported after a first model
    assert not unpatched(engine)
    assert not caplog.messages


def test_it_says_that_it_is_on(engine: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    start(engine)
    with caplog.at_level(logging.INFO, logger="moge_ops"):
        engine.common.make_layers(lambda: "of another model")
        build(engine, config(router_n_groups=-1))
        assert not caplog.messages  # whoever serves another model reads nothing of this one
        build(engine)
        build(engine)
    assert caplog.messages == ["moge_ops: the fused gate routes Intern-S1-Pro."]


def test_more_registrations_and_more_models_add_no_hook(engine: SimpleNamespace) -> None:
    start(engine)
    start(engine)
    build(engine)
    layer = getattr(engine.model, LAYER)
    before = dict(vars(layer))
    build(engine)
    assert dict(vars(layer)) == before
    assert [target for target, *_ in engine.registry.hooks] == [sglang.BUILD]


def test_it_is_switched_off(engine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOGE_OPS_SGLANG", "0")
    start(engine)
    assert not engine.registry.hooks
    assert unpatched(engine)


def warning(caplog: pytest.LogCaptureFixture) -> str:
    (line,) = [r.getMessage() for r in caplog.records if r.name == "moge_ops"]
    assert line.startswith("moge_ops leaves SGLang ")
    assert line.endswith("It runs with its own code, as without moge_ops.")
    return line


def test_without_sglang_there_is_one_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sglang", None)
    sglang.register()
    sglang.register.cache_clear()
    sglang.register()
    assert "registry of hooks" in warning(caplog)


@pytest.mark.parametrize(("place", "name"), [("hooks", "HookRegistry"), ("common", "make_layers")])
def test_an_engine_without_hooks_or_make_layers_is_left(
    engine: SimpleNamespace, caplog: pytest.LogCaptureFixture, place: str, name: str
) -> None:
    delattr(getattr(engine, place), name)
    sglang.register()
    assert name in warning(caplog)
    assert not engine.registry.hooks


def test_a_registry_with_other_arguments_is_left(
    engine: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    engine.hooks.HookRegistry = SimpleNamespace(register=lambda target: None)
    sglang.register()
    assert "positional argument" in warning(caplog)


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("", "there is no"),
        ("def {}(self, hidden_states, gating_output, topk): ...", "must take"),
        ("def {}(self, hidden_states, gating_output, topk, renormalize): ...", "router_n_groups"),
        ("{} = staticmethod(len)", "replaced by staticmethod already"),
    ],
    ids=["missing", "signature", "no groups", "no method"],
)
def test_another_routing_function_is_left(
    engine: SimpleNamespace, caplog: pytest.LogCaptureFixture, method: str, reason: str
) -> None:
    start(engine)
    layer = getattr(engine.model, LAYER)
    delattr(layer, sglang.ROUTING)
    layer.__getattr__ = lambda self, name: None  # the stand-in asks for the method
    exec(method.format("found"), vars(engine.model))
    if method:
        setattr(layer, sglang.ROUTING, engine.model.found)
    before = vars(layer).get(sglang.ROUTING)
    engine.common.make_layers(lambda: "of another model")
    assert not caplog.messages
    build(engine)
    assert reason in warning(caplog)
    assert vars(layer).get(sglang.ROUTING) is before


def test_a_missing_class_is_left(engine: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    start(engine)
    delattr(engine.model, LAYER)
    engine.common.make_layers(lambda: None)
    assert f"there is no class {sglang.MODEL}.{LAYER}" in warning(caplog)


@pytest.mark.parametrize("way", ["by the registry", "by assignment"])
def test_a_function_that_another_plug_in_replaced_is_left(
    engine: SimpleNamespace, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    start(engine)
    layer = getattr(engine.model, LAYER)

    def other(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, *args, **kwargs)

    if way == "by the registry":
        engine.registry.register(f"{sglang.MODEL}.{LAYER}.{sglang.ROUTING}", other, HookType.AROUND)
        engine.registry.apply_hooks()
    else:
        original = vars(layer)[sglang.ROUTING]
        setattr(layer, sglang.ROUTING, lambda *a, **k: original(*a, **k))
    assert unpatched(engine)
    assert f"replaced by {__name__} already" in warning(caplog)


def test_another_plug_in_at_the_constructor_lets_nothing_through(engine: SimpleNamespace) -> None:
    """The registry would pass over a second hook of one target, and with it the refusal."""
    start(engine)
    seen = []
    target = f"{sglang.MODEL}.{LAYER}.__init__"
    engine.registry.register(target, lambda *args, **named: seen.append(args), HookType.AFTER)
    engine.registry.apply_hooks()
    with pytest.raises(ValueError, match="got TRITON_KERNEL"):
        build(engine, config("TRITON_KERNEL"))
    assert seen
    assert not unpatched(engine)


@pytest.mark.parametrize("error", [RuntimeError, OSError, AssertionError, AttributeError])
def test_an_engine_that_cannot_be_imported_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    class Broken(MetaPathFinder):
        def find_spec(self, name: str, *_: Any) -> None:
            if name.partition(".")[0] == "sglang":
                raise error("libcudart.so.13")

    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    sglang.register()
    assert "libcudart.so.13" in warning(caplog)


@pytest.mark.parametrize(
    ("form", "backend"), [("TRITON_KERNEL", "triton_kernel"), ("BYPASSED", "flashinfer_mxfp4")]
)
def test_a_runner_that_ignores_the_routing_function_is_refused(
    engine: SimpleNamespace, form: str, backend: str
) -> None:
    start(engine)
    with pytest.raises(ValueError, match=f"got {form} .*'{backend}'.*--moe-runner-backend triton$"):
        build(engine, config(form, backend))


def test_an_npu_is_refused(engine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    start(engine)
    monkeypatch.setattr(engine.utils, "is_npu", lambda: True)
    with pytest.raises(ValueError, match=r"got an NPU, .*fused_topk_npu .*on a GPU$"):
        build(engine)
    build(engine, config(router_n_groups=-1))  # the choice is right there


def test_groups_that_do_not_divide_are_refused(engine: SimpleNamespace) -> None:
    start(engine)
    with pytest.raises(ValueError, match="multiple of router_n_groups=8, got 60"):
        build(engine, config(num_experts=60))
    with pytest.raises(ValueError, match="multiple of the router's 8 groups, got 12"):
        route(build(engine), torch.zeros(2, E), topk=12)


def test_a_topk_that_cannot_be_read_is_told_and_served(
    engine: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    start(engine)
    layer = build(engine, config(mlp=SimpleNamespace()))
    build(engine, config(mlp=SimpleNamespace()))
    assert route(layer, torch.zeros(1, E))[0].shape == (1, K)
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "cannot tell whether" in line


def test_the_entry_point_is_declared() -> None:
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    _, found, rest = text.partition('[project.entry-points."sglang.srt.plugins"]\n')
    assert found
    assert rest.startswith(f'moge_ops = "{sglang.__name__}:{sglang.register.__name__}"\n')
