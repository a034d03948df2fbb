"""The kernels hub's own library loads what tools/hub.py writes, and puts its layers into models.

It needs the `kernels` of requirements/engines.txt, and no network: `make test-engines`.
"""

import copy
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported

import kernels
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub import constants
from kernels import (
    LayerRepository,
    LocalLayerRepository,
    Mode,
    get_kernel,
    get_loaded_kernels,
    get_local_kernel,
    kernelize,
    replace_kernel_forward_from_hub,
    use_kernel_forward_from_hub,
    use_kernel_mapping,
)
from kernels._rust import Build, Digest, DigestAlgorithm, DigestValidationError, Metadata
from torch import Tensor, nn
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.qwen3_moe import modeling_qwen3_moe as qwen3

import moge_ops
from moge_ops.testing import TOLERANCES, assert_matches, group_ids, rms_error

ROOT = Path(__file__).resolve().parents[2]
H, WIDTH = 32, 24
SIZES = [(64, 8), (512, 8)]  # experts, groups


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hub_tool", ROOT / "tools" / "hub.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hub = tool()


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hub")
    hub.write(out, hub.REPO, 1)
    return out


@pytest.fixture
def mapping(repo: Path) -> dict[str, Any]:
    names = get_local_kernel(repo, backend="cpu").layers.__all__
    return {name: {"cpu": LocalLayerRepository(repo, layer_name=name)} for name in names}


@pytest.fixture
def stock() -> Iterator[None]:
    """Qwen3-MoE's own classes, marked as replaceable."""
    classes = {
        qwen3.Qwen3MoeTopKRouter: "SoftmaxTopKRouter",
        qwen3.Qwen3MoeExperts: "GatedSiluExperts",
    }
    for cls, name in classes.items():
        replace_kernel_forward_from_hub(cls, name)
    yield
    for cls in classes:
        del cls.kernel_layer_name, cls.kernel_condition


@use_kernel_forward_from_hub("GroupedTopKRouter")
class EagerRouter(nn.Module):
    """A MoGE router in eager torch, with the attributes that Intern-S1-Pro's has."""

    def __init__(self, E: int, G: int, top_k: int, *, norm: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(E, H) / H**0.5)
        self.top_k, self.router_n_groups, self.norm_topk_prob = top_k, G, norm

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        G, E = self.router_n_groups, self.weight.shape[0]
        logits = F.linear(hidden_states.reshape(-1, H), self.weight)
        exact = torch.promote_types(logits.dtype, torch.float32)
        best = logits.to(exact).softmax(-1).view(-1, G, E // G).topk(self.top_k // G, -1)
        ids = (best.indices + torch.arange(G).view(-1, 1) * (E // G)).flatten(1)
        weights = best.values.flatten(1)
        if self.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        return logits, weights.to(logits.dtype), ids


def forward_of(module: nn.Module) -> str:
    return module.forward.__func__.__qualname__  # type: ignore[no-any-return, attr-defined]


def kernelized(model: nn.Module, mapping: dict[str, Any], mode: Mode) -> Any:
    with use_kernel_mapping(mapping, inherit_mapping=False):
        return kernelize(copy.deepcopy(model), mode=mode, device="cpu", use_fallback=False)


def gradients(model: nn.Module, y: Tensor, *more: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters()) | {f"input {i}": x for i, x in enumerate(more)}
    d_y = (torch.arange(y.numel()).remainder(17).view(y.shape) / 16 + 0.5).to(y.dtype)
    return dict(zip(named, torch.autograd.grad(y, list(named.values()), d_y), strict=True))


def test_offline() -> None:
    assert constants.HF_HUB_OFFLINE


def test_it_reads_build_toml(repo: Path) -> None:
    backends = {str(backend).lower() for backend in Build.open(repo).general.backends}
    assert backends == {backend for backend, _ in hub.VARIANTS.values()}


def test_it_agrees_with_the_digest(repo: Path, tmp_path: Path) -> None:
    for name in hub.VARIANTS:
        folder = repo / "build" / name
        metadata = Metadata.read_from_file(folder / "metadata.json")
        assert metadata.version == 1
        metadata.digest.validate(Digest.hash_variant(DigestAlgorithm.SHA256, folder))
        (tmp_path / "metadata.json").write_bytes((folder / "metadata.json").read_bytes())
        with pytest.raises(DigestValidationError, match=r"Missing file: _backend\.py"):
            metadata.digest.validate(Digest.hash_variant(DigestAlgorithm.SHA256, tmp_path))


def test_every_way_to_load_it(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = get_local_kernel(repo)  # torch for CPUs: its variant is found without being asked for
    ident = Metadata.read_from_file(repo / "build/torch-cpu/metadata.json").id
    assert kernel.__name__ == ident
    assert kernel is sys.modules[ident]
    for path in (repo, repo / "build", repo / "build" / "torch-cpu"):
        assert get_local_kernel(path, backend="cpu") is kernel
    monkeypatch.setenv("LOCAL_KERNELS", f"{hub.REPO}={repo}")
    assert get_kernel(hub.REPO, version=1) is kernel
    assert [str(k.metadata.name) for k in get_loaded_kernels() if k.module is kernel] == [hub.NAME]
    monkeypatch.delenv("LOCAL_KERNELS")
    with pytest.raises(Exception, match=r"offline|cache|snapshot"):
        get_kernel(hub.REPO, version=1)


def test_it_stands_beside_the_package(repo: Path) -> None:
    kernel, logits = get_local_kernel(repo), torch.randn(5, 64)
    assert hasattr(torch.ops, kernel.__name__)
    assert kernel.__name__ != "moge_ops"
    for package in (kernel, moge_ops):
        with torch.profiler.profile() as profile:
            package.grouped_gate(logits, 8)
        found = {e.key for e in profile.key_averages() if e.key.endswith("::grouped_gate")}
        assert found == {f"{package.__name__}::grouped_gate"}


def layer(package: Any, logits: Tensor, x: Tensor, w_up: Tensor, w_down: Tensor) -> list[Tensor]:
    """All public functions, in the order in which a layer needs them."""
    E = logits.shape[1]
    gating = package.grouped_gate(logits, 8, renormalize=True)
    routing = package.route(gating.experts, E, num_groups=8)
    both = package.gate_and_route(logits, 8, renormalize=True)
    assert all(map(torch.equal, (*both[0], *both[1]), (*gating, *routing)))
    y = package.grouped_mlp(x, w_up, w_down, gating.weights, routing)
    act = package.swiglu(package.grouped_gemm(package.permute(x, routing), w_up, routing.offsets))
    rows = package.grouped_gemm(act, w_down, routing.offsets)
    z = package.unpermute(rows, routing, gating.weights)
    loss = package.load_balance_loss(logits, gating.experts) + package.router_z_loss(logits)
    loss = loss + package.load_balance_loss_from_probs(logits.softmax(-1), gating.counts)
    return [gating.weights, y, z, loss]


@pytest.mark.parametrize("variant", ["torch-cpu", "torch-cuda"])
def test_its_functions(repo: Path, variant: str) -> None:
    """The variant for GPUs has no GPU here: its Triton kernels run interpreted."""
    kernel = get_local_kernel(repo / "build" / variant)
    torch.manual_seed(0)
    shapes = ((9, 16), (9, H), (16, 2 * WIDTH, H), (16, H, WIDTH))
    args = [torch.randn(shape).div(shape[-1] ** 0.5).requires_grad_() for shape in shapes]
    wide = [x.detach().double().requires_grad_() for x in args]
    with moge_ops.testing.backend("reference"):
        expected = layer(moge_ops, *wide)
        expected += torch.autograd.grad([y.sum() for y in expected], wide)
    backend = "triton" if variant == "torch-cuda" else "torch"
    with kernel._backend.override(backend):
        got = layer(kernel, *args)
        got += torch.autograd.grad([y.sum() for y in got], args)
    assert kernel._backend.load(backend, "route").__name__.startswith(kernel.__name__)
    for i, (y, oracle) in enumerate(zip(got, expected, strict=True)):
        assert_matches(y, oracle, f"result {i}", slack=3.0)  # a chain of operators


@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAINING], ids=str)
@pytest.mark.parametrize(("E", "G"), SIZES)
@pytest.mark.parametrize("norm", [False, True])
def test_a_moge_router(mapping: dict[str, Any], mode: Mode, E: int, G: int, norm: bool) -> None:
    torch.manual_seed(E)
    eager = EagerRouter(E, G, 8, norm=norm)
    ours = kernelized(eager, mapping, mode)
    assert forward_of(ours) == "GroupedTopKRouter.forward"
    x = torch.randn(10, 100, H)
    if mode is Mode.INFERENCE:
        with torch.no_grad():
            results, stock, oracle = ours(x), eager(x), copy.deepcopy(eager).double()(x.double())
    else:
        results, stock, oracle = ours(x), eager(x), copy.deepcopy(eager).double()(x.double())
    assert [y.dtype for y in results] == [y.dtype for y in stock]
    assert torch.equal(results[0], stock[0])
    assert torch.equal(results[2], stock[2])
    assert_matches(results[1], oracle[1], "weights")
    # the logits are the same bits: what differs is the gate
    exact = stock[0].detach().double().softmax(-1).gather(-1, stock[2])
    exact = exact / exact.sum(-1, keepdim=True) if norm else exact
    assert rms_error(results[1], exact) <= rms_error(stock[1], exact) + TOLERANCES[x.dtype].rms / 9
    if mode is Mode.TRAINING:
        wide = copy.deepcopy(eager).double()
        expected = gradients(wide, wide(x.double())[1])
        for name, value in gradients(ours, results[1]).items():
            assert_matches(value, expected[name], name)


@pytest.mark.usefixtures("stock")
@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAINING], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_stock_experts(mapping: dict[str, Any], mode: Mode, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(hidden_size=H, moe_intermediate_size=WIDTH, num_experts=16)
    eager = qwen3.Qwen3MoeExperts(config).to(dtype)
    for weight in eager.parameters():
        nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    ours = kernelized(eager, mapping, mode)
    assert forward_of(ours) == "GatedSiluExperts.forward"
    ids, weights = group_ids(40, 16, 4, 1).long(), torch.rand(40, 4).to(dtype)
    x = torch.randn(40, H).to(dtype)
    wide, inputs = copy.deepcopy(eager).double(), (x.double(), weights.double())
    if mode is Mode.INFERENCE:
        with torch.no_grad():
            y, oracle = ours(x, ids, weights), wide(inputs[0], ids, inputs[1])
        assert_matches(y, oracle, "y")
        return
    for tensor in (x, weights, *inputs):
        tensor.requires_grad_()
    y, oracle = ours(x, ids, weights), wide(inputs[0], ids, inputs[1])
    assert_matches(y, oracle, "y")
    expected = gradients(wide, oracle, *inputs)
    for name, value in gradients(ours, y, x, weights).items():
        assert_matches(value, expected[name], name)


def small_model() -> Qwen3MoeForCausalLM:
    config = Qwen3MoeConfig(
        **{"vocab_size": 64, "hidden_size": H, "intermediate_size": 48, "head_dim": 8},
        **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
        **{"moe_intermediate_size": WIDTH, "num_experts": 16, "num_experts_per_tok": 4},
        norm_topk_prob=True,
    )
    return Qwen3MoeForCausalLM(config)


@pytest.mark.usefixtures("stock")
@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAINING], ids=str)
def test_a_whole_stock_model(mapping: dict[str, Any], mode: Mode) -> None:
    torch.manual_seed(0)
    eager = small_model()
    ours = kernelized(eager, mapping, mode)
    replaced = sorted(forward_of(m) for m in ours.modules() if "forward" in vars(m))
    assert replaced == ["GatedSiluExperts.forward"] * 2 + ["SoftmaxTopKRouter.forward"] * 2
    ids = torch.randint(0, 64, (2, 9))
    wide = copy.deepcopy(eager).double()
    wide.set_experts_implementation("eager")  # torch's grouped product has no float64
    if mode is Mode.INFERENCE:
        with torch.no_grad():
            assert_matches(ours(ids).logits, wide(ids).logits, "logits", slack=3.0)
        options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
        assert torch.equal(ours.generate(ids, **options), eager.generate(ids, **options))
        return
    results, oracle = ours(ids, labels=ids), wide(ids, labels=ids)
    assert_matches(results.logits, oracle.logits, "logits", slack=3.0)
    expected = gradients(wide, oracle.loss)
    for name, value in gradients(ours, results.loss).items():
        # through both layers and the attention: what little a gradient has may be cancelled
        scale = max(expected[name].square().mean().sqrt().item(), 1e-4)
        assert_matches(value, expected[name], name, slack=5.0, scale=scale)


@pytest.mark.usefixtures("stock")
def test_kernelized_layers_compile_whole(mapping: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        hidden_size=H, moe_intermediate_size=WIDTH, num_experts=16, num_experts_per_tok=4
    )
    block = qwen3.Qwen3MoeSparseMoeBlock(config)
    for weight in block.parameters():
        nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    model = nn.Sequential(block, EagerRouter(64, 8, 8, norm=True))
    ours = kernelized(model, mapping, Mode.TRAINING | Mode.TORCH_COMPILE)
    x = torch.randn(2, 7, H)
    called, compiled = ours(x)[1], torch.compile(ours, fullgraph=True)(x)[1]
    torch.testing.assert_close(compiled, called)
    expected = gradients(ours, called)
    for name, value in gradients(ours, compiled).items():
        torch.testing.assert_close(value, expected[name])


def test_flags_say_what_the_layers_can(repo: Path) -> None:
    module = get_local_kernel(repo).layers
    for name in module.__all__:
        assert getattr(module, name).has_backward is True
        assert getattr(module, name).can_torch_compile is True


@pytest.mark.usefixtures("stock")
def test_other_experts_are_refused(mapping: dict[str, Any]) -> None:
    config = Qwen3MoeConfig(
        hidden_size=H, moe_intermediate_size=WIDTH, num_experts=16, hidden_act="gelu"
    )
    ours = kernelized(qwen3.Qwen3MoeExperts(config), mapping, Mode.INFERENCE)
    with pytest.raises(ValueError, match=r"silu\(gate\) \* up, got the activation GELU"):
        ours(torch.randn(3, H), group_ids(3, 16, 4, 1).long(), torch.rand(3, 4))


def test_a_class_with_another_signature_is_refused(mapping: dict[str, Any]) -> None:
    @use_kernel_forward_from_hub("SoftmaxTopKRouter")
    class Another(nn.Module):
        def forward(self, hidden_states: Tensor, mask: Tensor) -> Tensor:
            return hidden_states

    repos = {"SoftmaxTopKRouter": {"cpu": copy.copy(mapping["SoftmaxTopKRouter"]["cpu"])}}
    kernels.layer.layer._CACHED_LAYER.clear()  # it looks once for each layer
    with pytest.raises(TypeError, match="different number of arguments"):
        kernelized(Another(), repos, Mode.INFERENCE)


def test_the_documented_mapping_is_accepted(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A LayerRepository, as a user of the hub writes it; LOCAL_KERNELS says where it is."""
    monkeypatch.setenv("LOCAL_KERNELS", f"{hub.REPO}={repo}")
    layer_repo = LayerRepository(
        hub.REPO, layer_name="GroupedTopKRouter", revision="v1", trust_remote_code=[hub.REPO]
    )
    ours = kernelized(
        EagerRouter(64, 8, 8, norm=True), {"GroupedTopKRouter": {"cpu": layer_repo}}, Mode.INFERENCE
    )
    assert forward_of(ours) == "GroupedTopKRouter.forward"


@pytest.mark.usefixtures("stock")
def test_the_blocks_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.write(tmp_path / "out" / "hub", hub.REPO, 1)
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "engines" / "hub.md").read_text()
    namespace: dict[str, Any] = {"logits": torch.randn(3, 64), "model": small_model()}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, namespace)
    experts = namespace["model"].model.layers[1].mlp.experts
    assert forward_of(experts) == "GatedSiluExperts.forward"
    with use_kernel_mapping({}, inherit_mapping=False):
        kernelize(namespace["model"], mode=Mode.INFERENCE, device="cpu")
    assert forward_of(experts) == qwen3.Qwen3MoeExperts.forward.__qualname__
