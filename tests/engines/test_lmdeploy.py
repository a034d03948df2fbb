"""LMDeploy's own class and its own loader of module maps, with the file that replaces the gate.

`make test-engines` puts the wheel, without its heavy dependencies, on the path.
"""

import ast
import importlib.metadata
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lmdeploy.pytorch.backends.default.moe import DefaultSoftmaxTopKImpl
from lmdeploy.pytorch.backends.default.op_backend import DefaultOpsBackend
from lmdeploy.pytorch.backends.moe import SoftmaxTopKBuildSpec
from lmdeploy.pytorch.config import ModelConfig
from lmdeploy.pytorch.models import module_map, patch

from moge_ops.integrations import _engines, lmdeploy
from moge_ops.testing import assert_matches, distinct_logits, rms_error

VERSION = "0.18.0"
G = 8
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
OWN = DefaultSoftmaxTopKImpl.forward


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """LMDeploy after a worker has executed the file of the module map."""
    monkeypatch.delenv("MOGE_OPS_LMDEPLOY", raising=False)
    monkeypatch.setattr(DefaultSoftmaxTopKImpl, "forward", OWN)  # given back after the test
    monkeypatch.setattr(ModelConfig, "from_pretrained", vars(ModelConfig)["from_pretrained"])
    monkeypatch.setattr(sys, "path", sys.path.copy())
    for cached in (lmdeploy.register, _engines.leave):
        cached.cache_clear()
    maps = dict(module_map.CUSTOM_MODULE_MAP)
    patch.update_custom_module_map(lmdeploy.MODULE_MAP_FILE)
    assert maps == module_map.CUSTOM_MODULE_MAP
    yield
    lmdeploy.register.cache_clear()
    sys.modules.pop("map_mod")


def build(top_k: int, n_groups: int) -> Any:
    """The chooser as SoftmaxTopK of nn/moe/base.py builds it."""
    return DefaultOpsBackend.build_op(SoftmaxTopKBuildSpec(top_k, -1, n_groups=n_groups))


def test_the_version_is_the_one_that_was_read() -> None:
    assert importlib.metadata.version("lmdeploy") == VERSION


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("E", "K"), [(64, 8), (512, 8), (512, 16)])
def test_the_gate_is_lmdeploys(E: int, K: int, dtype: torch.dtype) -> None:
    logits = distinct_logits(10_000, E, dtype)
    chooser = build(K, G)
    assert DefaultSoftmaxTopKImpl.forward is not OWN
    weights, ids = OWN(chooser, logits)
    fused, chosen = chooser.forward(logits)
    assert chosen.dtype == ids.dtype == torch.int64
    assert torch.equal(chosen, ids)
    exact = logits.double().softmax(-1).gather(-1, ids)
    assert fused.dtype == weights.dtype == torch.float32
    assert_matches(fused, exact, "weights")
    # both are at the last bit, and the exp of either differs between processors
    assert rms_error(fused, exact) <= 1.05 * rms_error(weights, exact)


@pytest.mark.usefixtures("served")
def test_no_token_is_routed_to_nothing() -> None:
    weights, ids = build(16, G).forward(torch.empty(0, 512))
    assert weights.shape == ids.shape == (0, 16)
    assert ids.dtype == torch.int64


@pytest.mark.usefixtures("served")
def test_models_without_groups_are_lmdeploys() -> None:
    logits = torch.randn(100, 64)
    for ours, theirs in zip(build(8, -1).forward(logits), OWN(build(8, -1), logits), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("served")
def test_a_second_execution_changes_nothing() -> None:
    fused = DefaultSoftmaxTopKImpl.forward
    patch.update_custom_module_map(lmdeploy.MODULE_MAP_FILE)
    assert DefaultSoftmaxTopKImpl.forward is fused
    assert str(Path(lmdeploy.MODULE_MAP_FILE).parent) not in sys.path


PARENT = """
import pickle, sys
from lmdeploy.pytorch.config import DistConfig, ModelConfig
from moge_ops.integrations import lmdeploy
lmdeploy.register()
config = ModelConfig.from_pretrained(sys.argv[1], dist_config=DistConfig(), device_type="cuda")
sys.stdout.buffer.write(pickle.dumps(config))
"""
WORKER = """
import pickle, sys
from lmdeploy.pytorch.models.patch import update_custom_module_map
from lmdeploy.pytorch.backends.default.moe import DefaultSoftmaxTopKImpl
config, own, path = pickle.load(sys.stdin.buffer), DefaultSoftmaxTopKImpl.forward, [*sys.path]
assert not [name for name in sys.modules if name.startswith("moge_ops")]
if config.custom_module_map is not None:  # as _build_model of engine/model_agent/agent.py
    update_custom_module_map(config.custom_module_map)
assert sys.path == path
print(int(DefaultSoftmaxTopKImpl.forward is not own))
"""


@pytest.mark.parametrize("switch", ["0", "1"])
def test_workers_are_reached_through_the_models_config(tmp_path: Path, switch: str) -> None:
    """LMDeploy's own config, by pickle to a process that knows nothing of this package."""
    config = {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "router_n_groups": G,
        "torch_dtype": "float16",  # whether a GPU has bfloat16, it would ask the GPU
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    environment = {**os.environ, "MOGE_OPS_LMDEPLOY": switch, "HF_HUB_OFFLINE": "1"}
    given = b""
    for code in (PARENT, WORKER):
        command = [sys.executable, "-c", code, str(tmp_path)]
        run = subprocess.run(command, input=given, capture_output=True, env=environment)
        assert run.returncode == 0, run.stderr.decode()
        given = run.stdout
    assert given.decode() == f"{switch}\n"


# What the page says of the engine without running it: a change of theirs fails here.


def test_this_version_does_not_pass_the_module_map_on_by_itself() -> None:
    """No line of it gives PytorchEngineConfig.custom_module_map to ModelConfig."""
    root = Path(inspect.getfile(patch)).parents[1]
    names = set()
    for path in root.rglob("*.py"):
        if "custom_module_map" in (text := path.read_text()):
            for node in ast.walk(ast.parse(text)):
                targets = node.targets if isinstance(node, ast.Assign) else []
                names |= {ast.unparse(t) for t in targets if isinstance(t, ast.Attribute)}
                if isinstance(node, ast.Call):
                    keywords = {k.arg for k in node.keywords}
                    names |= {ast.unparse(node.func)} if "custom_module_map" in keywords else set()
    assert not {name for name in names if name.endswith(".custom_module_map")}
    assert "cls" in names  # MiscConfig.from_engine_config, and no other class
    assert not {name for name in names if "ModelConfig" in name}


def test_the_router_with_a_bias_takes_its_weights_from_biased_scores() -> None:
    from lmdeploy.pytorch.backends.default.moe_router import DefaultRouterNoauxTCImpl as Router

    assert "router_n_groups > 0" in inspect.getsource(Router.forward)
    router = Router("sigmoid", 8, 1, 1, 64, 1.0, renormalize=False, router_n_groups=G)
    logits, bias = torch.randn(5, 64), torch.rand(64)
    weights, ids = router.forward(logits, bias)
    torch.testing.assert_close(weights, (logits.sigmoid() + bias).gather(-1, ids))


def test_two_places_execute_the_file_before_the_model_is_built() -> None:
    root = Path(inspect.getfile(patch)).parents[1]
    for place in ("engine/model_agent/agent.py", "spec_decode/proposers/base.py"):
        found = [n for n in ast.walk(ast.parse((root / place).read_text())) if type(n) is ast.Call]
        calls = [ast.unparse(n.func) for n in sorted(found, key=lambda n: n.lineno)]
        assert calls.index("update_custom_module_map") < calls.index("build_patched_model")
