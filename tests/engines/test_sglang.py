"""The plug-in in SGLang's own registry of hooks, and its gate against SGLang's own function.

`make test-engines` puts the wheel, without its heavy dependencies, on the path: the registry is
imported, Intern-S1-Pro's layer is compiled out of its file, whose imports need a GPU's packages.
"""

import ast
import functools
import importlib.metadata
import importlib.util
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt import plugins
from sglang.srt.plugins import hook_registry
from sglang.srt.utils import common

from moge_ops.integrations import _engines, sglang
from moge_ops.testing import assert_matches, distinct_logits, rms_error

VERSION = "0.5.23"
G = 8
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def file(module: str) -> ast.Module:
    """A module's file, which is not imported, parsed."""
    root = importlib.util.find_spec("sglang").submodule_search_locations[0]
    path = Path(root, *module.split(".")[1:]).with_suffix(".py")
    return ast.parse(path.read_text(), str(path))


def definition(tree: ast.Module, name: str) -> Any:
    """A function or class at the top of a file, or ``Class.method``."""
    body: Any = tree
    for part in name.split("."):
        (body,) = [n for n in body.body if getattr(n, "name", None) == part]
    return body


def execute(home: ModuleType, *nodes: ast.stmt) -> ModuleType:
    # annotations name classes of files that are not imported
    future = ast.parse("from __future__ import annotations").body
    tree = ast.Module([*future, *nodes], [])
    exec(compile(ast.fix_missing_locations(tree), home.__name__, "exec"), vars(home))
    return home


class Layer(torch.nn.Module):
    """Stands in for Qwen3MoeDecoderLayer: what InternS1ProTextDecoderLayer reads of it."""

    def __init__(self, config: Any, layer_id: int, **_: Any) -> None:
        super().__init__()
        self.config, self.hidden_size = config, config.hidden_size
        experts = SimpleNamespace(runner_backend=config.backend)
        self.mlp = SimpleNamespace(experts=experts)


@functools.cache
def binding() -> ModuleType:
    """SGLang's own decision of the format of TopK's output."""
    names = file("sglang.srt.layers.moe.utils")
    utils = execute(
        ModuleType("utils"),
        *ast.parse("from enum import Enum").body,
        definition(names, "_MoeRunnerBackendPredicates"),
        definition(names, "MoeRunnerBackend"),
    )
    topk = file("sglang.srt.layers.moe.topk")
    home = execute(
        ModuleType("topk"),
        *ast.parse("from enum import IntEnum, auto").body,
        definition(topk, "TopKOutputFormat"),
        definition(topk, "_can_bypass_trtllm_routing"),
        definition(topk, "TopK.bind_runner_backend"),
    )
    home.RoutingMethodType = SimpleNamespace(Unspecified=None)
    home.backends = utils.MoeRunnerBackend
    return home


class TopK:
    """SGLang's TopK with its own ``bind_runner_backend``, and nothing that needs a GPU."""

    def __init__(self, top_k: int, custom_routing_function: Any, renormalize: bool, **_: Any):
        self._runner_backend_bound, self.is_fp4_experts = False, False
        self.routing, self.renormalize = custom_routing_function, renormalize
        self.topk_config = SimpleNamespace(
            output_format=None, fused_gate_packed_ids=False, routing_method_type=None
        )

    def bind_runner_backend(self, backend: Any) -> None:
        binding().bind_runner_backend(self, backend)


def model() -> ModuleType:
    """The file of Intern-S1-Pro: its decoder layer, over stand-ins for what it builds."""
    home = ModuleType(sglang.MODEL)
    vars(home).update(
        torch=torch,
        functools=functools,
        TopK=TopK,
        Qwen3MoeDecoderLayer=Layer,
        InternS1ProTextAttention=lambda **_: None,
        add_prefix=lambda name, prefix: f"{prefix}.{name}",
    )
    return execute(home, definition(file(sglang.MODEL), sglang.LAYER))


def config(E: int, K: int = 16, backend: str = "triton", groups: int = G, **fields: Any) -> Any:
    return SimpleNamespace(
        hidden_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-6,
        attention_bias=False,
        norm_topk_prob=True,
        num_experts=E,
        num_experts_per_tok=K,
        router_n_groups=groups,
        backend=binding().backends(backend),
        **fields,
    )


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """SGLang after load_plugins() with our entry point; its model's file is imported later."""
    point = importlib.metadata.EntryPoint(
        "moge_ops", f"{sglang.__name__}:register", plugins.GENERAL_PLUGINS_GROUP
    )

    def installed(group: str) -> list[importlib.metadata.EntryPoint]:
        return [point] if group == plugins.GENERAL_PLUGINS_GROUP else []

    monkeypatch.setattr(plugins, "entry_points", installed)
    monkeypatch.setattr(plugins, "_plugins_loaded", False)
    monkeypatch.delenv("MOGE_OPS_SGLANG", raising=False)
    patched = {m: vars(m).get("make_layers") for m in (common, sys.modules["sglang.srt.utils"])}
    caches = (sglang.register, sglang._patch, sglang._say, _engines.leave)
    for cached in caches:
        cached.cache_clear()
    hook_registry.HookRegistry.reset()
    plugins.load_plugins()
    assert sglang.MODEL not in sys.modules
    home = model()
    monkeypatch.setitem(sys.modules, "sglang.srt.models", ModuleType("sglang.srt.models"))
    monkeypatch.setitem(sys.modules, sglang.MODEL, home)
    yield home
    hook_registry.HookRegistry.reset()
    for module, function in patched.items():
        module.make_layers = function
    for cached in caches:
        cached.cache_clear()


def build(home: ModuleType, cfg: Any) -> Any:
    """A layer, after make_layers was called for it as SGLang does; its rest needs a GPU's parts."""
    with pytest.raises((ImportError, AttributeError, RuntimeError, TypeError)):
        sys.modules["sglang.srt.utils"].make_layers(1, None)
    return getattr(home, sglang.LAYER)(cfg, layer_id=0)


def test_the_version_is_the_one_that_was_read() -> None:
    assert importlib.metadata.version("sglang") == VERSION


@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("E", "K"), [(64, 8), (512, 8), (512, 16)])
def test_the_gate_is_sglangs(
    served: ModuleType, E: int, K: int, dtype: torch.dtype, renormalize: bool
) -> None:
    logits = distinct_logits(10_000, E, dtype)
    own = getattr(model(), sglang.LAYER)(config(E, K), layer_id=0)
    ours = build(served, config(E, K))
    call = {"hidden_states": logits, "topk": K, "renormalize": renormalize}
    weights, ids = own.mlp.topk.routing(gating_output=logits, **call)
    fused, chosen = ours.mlp.topk.routing(gating_output=logits, **call)
    assert chosen.dtype == torch.int32
    assert ids.dtype == torch.int64  # their function ran, not ours
    assert torch.equal(chosen.long(), ids)
    exact = logits.double().softmax(-1).gather(-1, ids)
    if renormalize:
        exact /= exact.sum(-1, keepdim=True)
    assert fused.dtype == torch.float32
    assert_matches(fused, exact, "weights")
    # both are at the last bit, and the exp of either differs between processors
    assert rms_error(fused, exact) <= 1.05 * rms_error(weights, exact)


def test_no_token_is_routed_to_nothing(served: ModuleType) -> None:
    routing = build(served, config(512)).mlp.topk.routing
    weights, ids = routing(torch.empty(0, 64), torch.empty(0, 512), 16, True)
    assert weights.shape == ids.shape == (0, 16)
    assert ids.dtype == torch.int32


def test_it_says_that_it_is_on(served: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        build(served, config(64))
    assert caplog.messages == ["moge_ops: the fused gate routes Intern-S1-Pro."]


@pytest.mark.parametrize("backend", ["auto", "triton", "deep_gemm", "flashinfer_trtllm", "cutlass"])
def test_runners_that_call_the_routing_function_are_served(
    served: ModuleType, backend: str
) -> None:
    layer = build(served, config(64, backend=backend))
    assert layer.mlp.topk.topk_config.output_format.name == "STANDARD"


@pytest.mark.parametrize(
    ("backend", "form"), [("triton_kernel", "TRITON_KERNEL"), ("flashinfer_mxfp4", "BYPASSED")]
)
def test_runners_that_do_not_are_refused(served: ModuleType, backend: str, form: str) -> None:
    with pytest.raises(ValueError, match=f"got {form} from .*'{backend}'"):
        build(served, config(64, backend=backend))
    build(served, config(64, backend=backend, groups=-1))


def test_an_npu_is_refused(served: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["sglang.srt.utils"], "is_npu", lambda: True)
    with pytest.raises(ValueError, match="got an NPU"):
        build(served, config(64))


# What the plug-in knows of the engine without running it: a change of theirs fails here.


def test_the_models_layers_are_built_by_make_layers() -> None:
    assert "make_pp_layers(" in ast.unparse(
        definition(file("sglang.srt.models.qwen2_moe"), "Qwen2MoeModel.__init__")
    )
    assert "make_layers(" in ast.unparse(
        definition(file("sglang.srt.utils.common"), "make_pp_layers").body[-1]
    )
    bases = [
        ("interns1pro", "InternS1ProTextModel", "Qwen3MoeLLMModel"),
        ("qwen3_vl_moe", "Qwen3MoeLLMModel", "Qwen3MoeModel"),
        ("qwen3_moe", "Qwen3MoeModel", "Qwen2MoeModel"),
    ]
    for home, name, base in bases:
        cls = definition(file(f"sglang.srt.models.{home}"), name)
        assert [ast.unparse(b) for b in cls.bases] == [base]


def test_sglang_calls_the_function_by_these_keywords() -> None:
    body = definition(file("sglang.srt.layers.moe.topk"), "select_experts")
    (call,) = [
        n
        for n in ast.walk(body)
        if isinstance(n, ast.Call) and ast.unparse(n.func) == "custom_routing_function"
    ]
    assert not call.args
    assert [k.arg for k in call.keywords] == sglang.ARGUMENTS[1:]


def test_two_paths_still_ignore_it() -> None:
    npu = definition(file("sglang.srt.hardware_backend.npu.moe.topk"), "fused_topk_npu")
    assert "custom_routing_function" not in ast.unparse(npu)
    cuda = definition(file("sglang.srt.layers.moe.topk"), "TopK.forward_cuda")
    (branch,) = [
        n
        for n in ast.walk(cuda)
        if isinstance(n, ast.If)
        and ast.unparse(n.test) == "output_format == TopKOutputFormat.TRITON_KERNEL"
    ]
    text = "\n".join(map(ast.unparse, branch.body))
    assert "routing(router_logits, " in text
    assert "select_experts" not in text
    assert "custom_routing_function" not in text


def test_this_version_does_not_build_the_model_by_itself(served: ModuleType) -> None:
    """Qwen2MoeModel passes a start_layer that the layer of Intern-S1-Pro does not take."""
    init = definition(file("sglang.srt.models.qwen2_moe"), "Qwen2MoeModel.__init__")
    assert "start_layer=pp_start_layer" in ast.unparse(init)
    with pytest.raises(TypeError, match="start_layer"):
        getattr(served, sglang.LAYER)(config(64), layer_id=0, start_layer=0)
