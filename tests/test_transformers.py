"""Hugging Face models on moge_ops agree with their eager experts, forward and backward.

Each model's largest error goes into the report (``--junitxml``), as a property of its test.
"""

import copy
import functools
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

transformers = pytest.importorskip("transformers", minversion="5.17")

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM  # noqa: E402
from transformers.activations import ACT2FN  # noqa: E402
from transformers.integrations.moe import use_experts_implementation  # noqa: E402

from moge_ops.integrations import _experts_interface  # noqa: E402
from moge_ops.integrations import transformers as moge_transformers  # noqa: E402
from moge_ops.testing import TOLERANCES, assert_matches, rms_error  # noqa: E402

moge_transformers.register()

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# model type -> its own sizes; widths are odd if the model allows it
MODELS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_experts": 8, "moe_intermediate_size": 19, "head_dim": 8},
    "mixtral": {"num_local_experts": 6, "head_dim": 8},
    "deepseek_v3": {
        "n_routed_experts": 8,
        "n_group": 2,
        "topk_group": 1,
        "moe_intermediate_size": 19,
        "first_k_dense_replace": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
        "num_key_value_heads": 4,
    },
    "gpt_oss": {"num_local_experts": 8, "head_dim": 8, "sliding_window": 16},
    "olmoe": {"num_experts": 8},
    "granitemoe": {"num_local_experts": 8},
    "nemotron_h": {
        "n_routed_experts": 8,
        "moe_intermediate_size": 19,
        "moe_shared_expert_intermediate_size": 24,
        "head_dim": 8,
        "layers_block_type": ["attention", "moe"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
    },
}
REPORT: dict[tuple[str, torch.dtype], float] = {}


def tiny(model_type: str, dtype: torch.dtype, **sizes: Any) -> nn.Module:
    """A random model whose weights are so large that the experts matter."""
    config = AutoConfig.for_model(model_type, **{**SMALL, **MODELS[model_type], **sizes})
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).double()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return model.to(dtype).eval()


def experts_of(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if hasattr(module, "is_transposed")]


def run(model: nn.Module, implementation: str) -> dict[str, Tensor]:
    """Logits, and the gradient of every parameter that has one."""
    model.set_experts_implementation(implementation)
    ids = torch.arange(2 * 13).view(2, 13) * 7 % 61
    model.zero_grad()
    logits = model(input_ids=ids, use_cache=False).logits
    logits.backward(torch.linspace(-1, 1, logits.numel()).view(logits.shape).to(logits.dtype))
    grads = {f"d_{n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits.detach(), **grads}


def largest(results: dict[str, Tensor], oracle: dict[str, Tensor]) -> float:
    """Largest error of any element, relative to the largest element of its tensor."""
    return max(
        ((results[name].double() - want).abs().max() / want.abs().max().clamp_min(1e-30)).item()
        for name, want in oracle.items()
    )


def assert_close(actual: Tensor, want: Tensor, name: str, dtype: torch.dtype) -> None:
    """``assert_matches``, but in bfloat16 four times the RMS limit, as every step rounds."""
    if dtype is torch.bfloat16:
        assert rms_error(actual, want) <= 4 * TOLERANCES[dtype].rms, name
    else:
        assert_matches(actual, want, name)


@pytest.mark.parametrize("model_type", MODELS)
def test_a_model_matches_its_eager_experts(
    model_type: str, record_property: Callable[[str, object], None]
) -> None:
    model = tiny(model_type, torch.float32)
    oracle = run(copy.deepcopy(model).double(), "eager")
    ours = run(model, "moge_ops")
    assert sum("experts" in name for name in oracle) >= 2
    assert ours.keys() == oracle.keys()
    for name, want in oracle.items():
        assert_close(ours[name], want, name, torch.float32)
    record_property("largest error", largest(ours, oracle))


@pytest.mark.parametrize("model_type", MODELS)
def test_a_model_matches_its_eager_experts_in_bfloat16(
    model_type: str, record_property: Callable[[str, object], None]
) -> None:
    # one expert layer: nothing before the router differs, so no rounding can flip its choice
    sizes = {"deepseek_v3": {"first_k_dense_replace": 0}}.get(model_type, {})
    model = tiny(model_type, torch.bfloat16, num_hidden_layers=1, **sizes)
    eager, ours = run(model, "eager"), run(model, "moge_ops")
    assert ours.keys() == eager.keys()
    for name, want in eager.items():
        assert_close(ours[name], want, name, torch.bfloat16)
    record_property("largest error", largest(ours, eager))


def test_fp8_experts_refuse_the_name() -> None:
    from transformers.integrations.finegrained_fp8 import ALL_FP8_EXPERTS_FUNCTIONS

    with pytest.raises(KeyError, match="`moge_ops` is not a valid experts implementation"):
        ALL_FP8_EXPERTS_FUNCTIONS.get_interface("moge_ops", None)


class Experts(nn.Module):
    """Experts with any of the flags, by their definition: every expert on every token."""

    def __init__(self, config: Any, E: int = 5, H: int = 20, F: int = 11) -> None:
        super().__init__()
        self.flags = config.flags
        width = F if self.flag("has_gate") is False else 2 * F
        self.up = "gate_up_proj" if width == 2 * F else "up_proj"
        for name, out, inner in ((self.up, width, H), ("down_proj", H, F)):
            shape = (E, inner, out) if self.flag("is_transposed") else (E, out, inner)
            setattr(self, name, nn.Parameter(torch.randn(shape) * inner**-0.5))
            if self.flag("has_bias"):
                setattr(self, f"{name}_bias", nn.Parameter(torch.randn(E, out)))
        self.act_fn = config.act_fn
        if self.flag("has_post_expert_norm"):
            self.post_expert_norm = nn.RMSNorm(H, eps=1e-5)

    def flag(self, name: str) -> bool | None:
        return self.flags.get(name)

    def linear(self, x: Tensor, name: str, e: int) -> Tensor:
        weight = getattr(self, name)[e]
        y = x @ (weight if self.flag("is_transposed") else weight.T)
        return y + getattr(self, f"{name}_bias")[e] if self.flag("has_bias") else y

    def forward(self, hidden_states: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        total = torch.zeros_like(hidden_states)
        for e in range(self.down_proj.shape[0]):
            pre = self.linear(hidden_states, self.up, e)
            if self.flag("has_gate") is False:
                act = self.act_fn(pre)
            elif type(self).__name__ == "ClampedExperts":
                act = self._apply_gate(pre)
            elif self.flag("is_concatenated") is False:
                act = self.act_fn(pre[:, ::2]) * pre[:, 1::2]
            else:
                gate, up = pre.chunk(2, -1)
                act = self.act_fn(gate) * up
            y = self.linear(act, "down_proj", e)
            if self.flag("has_post_expert_norm"):
                y = self.post_expert_norm(y)
            total = total + y * (weights * (index == e)).sum(1, keepdim=True)
        return total


class ClampedExperts(Experts):
    """Experts with their own gate, as in GPT-OSS."""

    alpha, limit = 1.7, 0.7

    def _apply_gate(self, pre: Tensor) -> Tensor:
        gate = pre[..., ::2].clamp(max=self.limit)
        up = pre[..., 1::2].clamp(-self.limit, self.limit)
        return (up + 1) * gate * torch.sigmoid(self.alpha * gate)


def experts(
    base: type[Experts] = Experts, act_fn: nn.Module | None = None, E: int = 5, **flags: bool
) -> nn.Module:
    known = inspect.signature(use_experts_implementation).parameters
    if unknown := flags.keys() - known.keys():
        pytest.skip(f"transformers {transformers.__version__} has no {', '.join(unknown)}")
    cls = use_experts_implementation(type(base.__name__, (base,), {}), **flags)
    config = SimpleNamespace(
        flags=flags, act_fn=act_fn or nn.SiLU(), _experts_implementation="eager"
    )
    return cls(config, E)


FLAGS = [
    pytest.param({}, id="plain"),
    pytest.param({"is_transposed": True}, id="transposed"),
    pytest.param({"is_concatenated": False}, id="interleaved"),
    pytest.param({"has_bias": True}, id="biases"),
    pytest.param({"act_fn": nn.GELU()}, id="gelu"),
    pytest.param({"has_gate": False, "act_fn": nn.ReLU()}, id="no-gate"),
    pytest.param({"has_gate": False, "has_bias": True, "is_transposed": True}, id="no-gate-biases"),
    pytest.param({"has_post_expert_norm": True}, id="norm"),
    pytest.param({"act_fn": nn.Mish(), "has_bias": True}, id="mish"),
    pytest.param(
        {
            "base": ClampedExperts,
            "is_transposed": True,
            "is_concatenated": False,
            "has_bias": True,
        },
        id="gpt-oss",
    ),
]


def call(
    module: nn.Module, implementation: str, x: Tensor, index: Tensor, weights: Tensor, d_y: Tensor
) -> dict[str, Tensor]:
    module.config._experts_implementation = implementation
    inputs = {"x": x.requires_grad_(), "weights": weights.requires_grad_()}
    inputs.update(module.named_parameters())
    y = module(x, index, weights)
    grads = torch.autograd.grad(y, list(inputs.values()), d_y)
    return {"y": y.detach(), **{f"d_{n}": g for n, g in zip(inputs, grads, strict=True)}}


def slots(T: int, E: int, K: int) -> Tensor:
    """Different experts for each token; some of the last ones are on another rank."""
    index = torch.rand(T, E + 2).argsort(-1)[:, :K]
    return index.clamp_max(E)


@pytest.mark.slow
@pytest.mark.parametrize("flags", FLAGS)
def test_every_flag_of_the_interface(flags: dict[str, Any], device: str) -> None:
    check(flags, torch.float32, device)


@pytest.mark.parametrize("flags", FLAGS)
def test_every_flag_in_bfloat16(flags: dict[str, Any]) -> None:
    check(flags, torch.bfloat16, "cpu")


def check(flags: dict[str, Any], dtype: torch.dtype, device: str) -> None:
    module = experts(**flags).to(device, dtype)
    index = slots(13, 5, 3).to(device)
    assert (index == 5).any()
    x = torch.randn(13, 20, device=device).to(dtype)
    weights = torch.rand(13, 3, device=device)
    d_y = torch.randn(13, 20, device=device).to(dtype)
    ours = call(module, "moge_ops", x, index, weights, d_y)
    oracle = call(
        copy.deepcopy(module).double(),
        "eager",
        x.detach().double(),
        index,
        weights.detach().double(),
        d_y.double(),
    )
    assert ours["y"].dtype is dtype
    for name, want in oracle.items():
        assert_close(ours[name], want, name, dtype)
    assert not ours["d_weights"][index == 5].any()


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("flags", [{}, {"act_fn": nn.Mish()}], ids=["fused", "in-steps"])
def test_ranks_of_expert_parallelism_add_up(flags: dict[str, Any], device: str) -> None:
    module = experts(E=6, **flags).to(device)
    index = torch.rand(9, 6).argsort(-1)[:, :4].to(device)
    x, weights, d_y = (torch.randn(9, n, device=device) for n in (20, 4, 20))
    whole = call(module, "moge_ops", x, index, weights, d_y)

    parts = []
    for rank in range(2):
        local = copy.deepcopy(module)
        local._is_expert_parallel = True
        for name, parameter in module.named_parameters():
            setattr(local, name, nn.Parameter(parameter.detach()[3 * rank : 3 * rank + 3]))
        here = index // 3 == rank
        parts.append(
            call(local, "moge_ops", x, torch.where(here, index % 3, 3), weights * here, d_y)
        )
    for name in ("y", "d_x", "d_weights"):
        assert_matches(parts[0][name] + parts[1][name], whole[name].double(), name)
    for name in whole.keys() - {"y", "d_x", "d_weights"}:
        assert_matches(torch.cat([p[name] for p in parts]), whole[name].double(), name)


SILU = [
    pytest.param({"act_fn": act_fn}, id=name)
    for name, act_fn in (("silu", ACT2FN["silu"]), ("swish", ACT2FN["swish"]), ("F.silu", F.silu))
]


@pytest.mark.parametrize("flags", FLAGS + SILU)
def test_which_experts_are_fused(
    flags: dict[str, Any], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    fused = moge_transformers.grouped_mlp
    monkeypatch.setattr(
        moge_transformers,
        "grouped_mlp",
        lambda *args, **options: calls.append(1) or fused(*args, **options),
    )
    module = experts(**flags)
    module.config._experts_implementation = "moge_ops"
    module(torch.randn(2, 20), slots(2, 5, 3), torch.rand(2, 3))
    assert len(calls) == (request.node.callspec.id not in ("norm", "mish"))


@pytest.mark.parametrize("flags", FLAGS)
def test_no_tokens(flags: dict[str, Any]) -> None:
    module = experts(**flags)
    module.config._experts_implementation = "moge_ops"
    y = module(torch.randn(0, 20), slots(0, 5, 3), torch.rand(0, 3))
    assert y.shape == (0, 20)


@pytest.mark.parametrize("flags", FLAGS)
def test_dtypes_mix_as_in_eager(flags: dict[str, Any]) -> None:
    module = experts(**flags)
    index, x, weights = slots(7, 5, 3), torch.randn(7, 20), torch.rand(7, 3)
    want = call(copy.deepcopy(module), "eager", x, index, weights, x)
    with torch.autocast("cpu", torch.bfloat16):
        auto = call(module, "moge_ops", x, index, weights, x)
    mixed = call(module.bfloat16(), "moge_ops", x, index, weights, x)
    for name, w in want.items():
        assert auto[name].dtype is torch.float32
        assert_close(auto[name], w, f"autocast {name}", torch.bfloat16)
        assert_close(mixed[name], w, f"mixed {name}", torch.bfloat16)
    assert mixed["y"].dtype is torch.float32


def test_rejects_quantised_weights() -> None:
    module = experts()
    module.down_proj = nn.Parameter(module.down_proj.to(torch.uint8), requires_grad=False)
    with pytest.raises(TypeError, match=r"must be float16 \| .*, got uint8"):
        moge_transformers.experts_forward(
            module, torch.randn(2, 20), slots(2, 5, 3), torch.rand(2, 3)
        )


@pytest.mark.slow
@pytest.mark.parametrize("flags", FLAGS)
def test_compiles_in_one_graph(flags: dict[str, Any]) -> None:
    module = experts(**flags)
    index, x, weights = slots(7, 5, 3), torch.randn(7, 20), torch.rand(7, 3)
    want = call(module, "moge_ops", x, index, weights, x)
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    inputs = [x, weights, *module.parameters()]
    y = compiled(x, index, weights)
    got = [y.detach(), *torch.autograd.grad(y, inputs, x.detach())]
    for name, g in zip(want, got, strict=True):
        assert_matches(g, want[name].double(), name)


@pytest.mark.slow
def test_a_model_compiles_in_one_graph() -> None:
    model = tiny("qwen3_moe", torch.float32)
    want = run(model, "moge_ops")
    torch.compiler.reset()
    model.forward = torch.compile(model.forward, fullgraph=True, backend="aot_eager")
    got = run(model, "moge_ops")
    for name, w in want.items():
        assert_matches(got[name], w.double(), name)


def test_a_model_generates_the_same_tokens() -> None:
    model = tiny("mixtral", torch.float32)
    prompt = torch.tensor([[5, 9, 3, 17], [0, 0, 8, 4]])
    options = {"attention_mask": (prompt > 0).int(), "max_new_tokens": 6, "do_sample": False}
    model.set_experts_implementation("eager")
    want = model.generate(prompt, **options)
    model.set_experts_implementation("moge_ops")
    assert torch.equal(model.generate(prompt, **options), want)


# models without the interface, as small as their configurations allow
SILENT: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama4_text": {"num_local_experts": 4, "intermediate_size_mlp": 24, "head_dim": 8},
    "doge": {"num_experts": 4, "is_moe": True},
    "jetmoe": {"num_local_experts": 4},
    "switch_transformers": {"d_model": 32, "d_kv": 8, "d_ff": 24, "num_experts": 4},
    "nllb-moe": {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "num_experts": 4},
}
WOULD_DO_NOTHING = r"experts_implementation='moge_ops' would do nothing in {}: .* Leave the option"


def silent(model_type: str) -> tuple[type, Any]:
    config = AutoConfig.for_model(model_type, **{**SMALL, **SILENT[model_type]})
    causal = type(config) in AutoModelForCausalLM._model_mapping
    return AutoModelForCausalLM if causal else AutoModel, config


@pytest.mark.parametrize("model_type", SILENT)
def test_refuses_a_model_that_the_option_would_not_change(model_type: str, tmp_path: Path) -> None:
    auto, config = silent(model_type)
    model = auto.from_config(config)
    message = WOULD_DO_NOTHING.format(type(model).__name__)
    with pytest.raises(ValueError, match=message):
        model.set_experts_implementation("moge_ops")
    with pytest.raises(ValueError, match=message):
        auto.from_config(config, experts_implementation="moge_ops")
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        auto.from_pretrained(tmp_path, experts_implementation="moge_ops")
    named = AutoConfig.from_pretrained(tmp_path, experts_implementation="moge_ops")
    with pytest.raises(ValueError, match=message):
        auto.from_pretrained(tmp_path, config=named, output_loading_info=True)

    # without the option, and with another, all is as before
    assert type(auto.from_pretrained(tmp_path)) is type(model)
    assert type(auto.from_pretrained(tmp_path, experts_implementation="eager")) is type(model)
    model.set_experts_implementation("eager")


def llava(text: str, **sizes: Any) -> Any:
    """Configuration of a tiny vision tower beside a language model."""
    vision = {**SMALL, "image_size": 8, "patch_size": 4, "model_type": "clip_vision_model"}
    return AutoConfig.for_model(
        "llava", text_config={**SMALL, **sizes, "model_type": text}, vision_config=vision
    )


def test_a_vision_tower_beside_experts_needs_none(tmp_path: Path) -> None:
    auto = transformers.AutoModelForImageTextToText
    config = llava("mixtral", **MODELS["mixtral"])
    model = auto.from_config(config)
    model.save_pretrained(tmp_path)
    model.set_experts_implementation("moge_ops")
    models = [
        model,
        auto.from_config(config, experts_implementation="moge_ops"),
        auto.from_pretrained(tmp_path, experts_implementation="moge_ops"),
        auto.from_pretrained(tmp_path, experts_implementation={"text_config": "moge_ops"}),
    ]
    for each in models:
        modules = experts_of(each)
        assert len(modules) == 2
        assert {m.config._experts_implementation for m in modules} == {"moge_ops"}
    with pytest.raises(ValueError, match="would do nothing in LlavaForConditionalGeneration"):
        auto.from_pretrained(tmp_path, experts_implementation={"vision_config": "moge_ops"})
    with pytest.raises(ValueError, match="would do nothing in LlavaForConditionalGeneration"):
        auto.from_config(llava("llama"), experts_implementation="moge_ops")


def test_our_own_model_takes_the_option() -> None:
    model = AutoModelForCausalLM.from_pretrained(Path(__file__).parent / "data" / "pangu_tiny")
    model.set_experts_implementation("moge_ops")


def renamed_flag(experts_class: Any, *, experts_interface: Any, transposed: bool = False) -> Any:
    return use_experts_implementation(experts_class, experts_interface=experts_interface)


def without_flags(experts_class: Any, **options: Any) -> Any:
    def init(self: nn.Module, config: Any) -> None:
        nn.Module.__init__(self)
        self.config = config

    decorated = use_experts_implementation(experts_class, **options)
    decorated.__init__ = init
    return decorated


def without_call(experts_class: Any, **options: Any) -> Any:
    decorated = use_experts_implementation(experts_class, **options)
    decorated.forward = lambda self, *args: None
    return decorated


def own_gate(experts_class: Any, **options: Any) -> Any:
    experts_class._apply_gate = lambda self, pre: pre
    return use_experts_implementation(experts_class, **options)


@pytest.mark.parametrize(
    ("decorator", "message"),
    [
        (renamed_flag, "has flags unknown here, transposed"),
        (without_flags, "do not have the flags that they were given, has_bias, has_gate"),
        (without_call, "the registered function is not called with the module and its inputs"),
        (own_gate, "experts have no _apply_gate"),
    ],
)
def test_another_interface_is_an_error(
    decorator: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    functools.update_wrapper(decorator, use_experts_implementation)
    if decorator is renamed_flag:
        del decorator.__wrapped__  # its own signature
    monkeypatch.setattr(_experts_interface, "use_experts_implementation", decorator)
    with pytest.raises(ImportError, match=rf"differs from .*, 5\.17 to 5\.24: .*{message}"):
        moge_transformers.register()


def test_a_renamed_entry_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(transformers.PreTrainedModel, "_from_config")
    with pytest.raises(ImportError, match="PreTrainedModel has no _from_config"):
        moge_transformers.register()


@pytest.mark.slow
def test_a_renamed_import_is_an_error() -> None:
    program = """
import transformers.integrations.moe as moe
del moe._default_apply_gate
try:
    import moge_ops.integrations.transformers
except ImportError as error:
    assert "5.17 to 5.24" in str(error) and "_default_apply_gate" in str(error), error
else:
    raise AssertionError("imported without it")
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.slow
def test_registers_only_when_told() -> None:
    program = """
import sys
import moge_ops
assert "transformers" not in sys.modules
from transformers import AutoConfig
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from moge_ops.integrations.transformers import experts_forward, register
assert "moge_ops" not in ALL_EXPERTS_FUNCTIONS
try:
    AutoConfig.for_model("PanguProMoE")
except ValueError:
    pass
else:
    raise AssertionError("registered by the import")
register()
register()
assert ALL_EXPERTS_FUNCTIONS["moge_ops"] is experts_forward
assert AutoConfig.for_model("PanguProMoE").num_groups == 8
"""
    subprocess.run([sys.executable, "-c", program], check=True)


class GroupedRouter(nn.Module):
    """Intern-S1-Pro's: the best of each group of the softmax, renormalised."""

    def __init__(self, E: int, G: int, K: int, renormalize: bool) -> None:
        super().__init__()
        self.num_experts, self.router_n_groups, self.top_k = E, G, K
        self.norm_topk_prob = renormalize
        self.weight = nn.Parameter(torch.randn(E, 10))

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        E, G, K = self.num_experts, self.router_n_groups, self.top_k
        logits = F.linear(hidden_states.reshape(-1, 10), self.weight)
        scores = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        order = scores.unflatten(1, (G, -1)).sort(dim=-1, descending=True, stable=True).indices
        chosen = order[..., : K // G] + torch.arange(0, E, E // G).view(G, 1)
        chosen = chosen.flatten(1)  # [T, K]
        weights = scores.gather(1, chosen)
        if self.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        return logits, weights.to(logits.dtype), chosen


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate_up, self.down = nn.Linear(10, 2 * width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class GroupedBlock(nn.Module):
    """Pangu Pro MoE's: the maximum of each group of the softmax, times router_scale."""

    def __init__(self, E: int, G: int) -> None:
        super().__init__()
        self.num_experts, self.num_groups, self.top_k = E, G, G
        self.gate = nn.Linear(10, E, bias=False)
        self.experts = nn.ModuleList(Mlp(6) for _ in range(E))
        self.shared_expert = Mlp(12)
        self.router_scale = nn.Parameter(torch.rand(1, E) + 0.5)

    def forward(self, hidden_states: Tensor, layer_number: int) -> tuple[Tensor, Tensor]:
        x = hidden_states.reshape(-1, 10)
        logits = self.gate(x)
        scores = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        best, chosen = scores.unflatten(1, (self.num_groups, -1)).max(-1)  # [T, G]
        dense = torch.zeros_like(scores).unflatten(1, (self.num_groups, -1))
        dense = dense.scatter(-1, chosen.unsqueeze(-1), best.unsqueeze(-1)).flatten(1)  # [T, E]
        dense = dense * self.router_scale
        y = sum(dense[:, e, None] * expert(x) for e, expert in enumerate(self.experts))
        y = (y + self.shared_expert(x)).to(x.dtype)
        return y.view(hidden_states.shape), logits


class RemoteModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.routers = nn.ModuleList(
            [GroupedRouter(24, 4, 8, True), GroupedRouter(24, 4, 4, False)]
        )
        self.blocks = nn.ModuleList([GroupedBlock(12, 4), GroupedBlock(8, 8)])
        self.plain = nn.Linear(10, 10)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.plain(x)
        out = [router(x) for router in self.routers]
        out += [block(x, 3) for block in self.blocks]
        return [tensor for part in out for tensor in part]


SWAPPED = ["routers.0", "routers.1", "blocks.0", "blocks.1"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_swapped_routing_is_the_same(dtype: torch.dtype) -> None:
    model = RemoteModel().to(dtype)
    x = torch.randn(2, 17, 10).to(dtype)
    swapped = copy.deepcopy(model)
    assert moge_transformers.swap_moge_routing(swapped) == SWAPPED
    assert swapped.state_dict().keys() == model.state_dict().keys()

    got, want = swapped(x), model.double()(x.double()) if dtype is torch.float32 else model(x)
    integers = 0
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        if w.is_floating_point():
            assert g.dtype is dtype
            assert_close(g, w.double(), f"output {i}", dtype)
        else:
            assert torch.equal(g, w)
            integers += 1
    assert integers == 2

    def gradients(model: nn.Module, out: list[Tensor]) -> dict[str, Tensor]:
        floats = [t for t in out if t.is_floating_point()]
        loss = sum((t.double() * torch.linspace(-1, 1, t.shape[-1])).sum() for t in floats)
        loss.backward()
        return {name: p.grad for name, p in model.named_parameters()}

    grads = gradients(model, want)
    for name, g in gradients(swapped, got).items():
        assert_close(g, grads[name].double(), f"d_{name}", dtype)


def test_swapping_twice_and_copying() -> None:
    model = RemoteModel()
    assert moge_transformers.swap_moge_routing(model) == SWAPPED
    assert moge_transformers.swap_moge_routing(model) == SWAPPED
    other = copy.deepcopy(model)
    nn.init.zeros_(other.routers[0].weight)
    logits, _, chosen = other.routers[0](torch.randn(3, 10))
    assert not logits.any()
    # all are equal: the lowest of each group
    assert chosen[0].tolist() == [0, 1, 6, 7, 12, 13, 18, 19]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("routers.0", {"scoring_func": "sigmoid"}, "scoring_func must be 'softmax', got 'sigmoid'"),
        ("routers.0", {"e_score_correction_bias": torch.zeros(24)}, "has e_score_correction_bias"),
        ("routers.0", {"routed_scaling_factor": 2.5}, "routed_scaling_factor must be 1, got 2.5"),
        ("routers.1", {"router_n_groups": 5}, "router_n_groups divide it and top_k, .*=5"),
        ("routers.1", {"router_n_groups": -1}, "router_n_groups divide it and top_k, .*=-1"),
        ("routers.1", {"top_k": 6}, "router_n_groups divide it and top_k, .*=6"),
        ("routers.1", {"num_experts": 12}, "must be the 24 rows of weight .*num_experts=12"),
        ("routers.1", {"norm_topk_prob": None}, "it has no norm_topk_prob"),
        ("blocks.0", {"top_k": 8}, "num_groups must divide 12 and be top_k=8, got 4"),
        ("blocks.0", {"num_experts": 8}, "num_experts=8 experts .*, got 12 and 12"),
        ("blocks.0", {"num_groups": None}, "it has no num_groups"),
        ("blocks.1", {"forward": print}, "its forward has already been replaced"),
    ],
)
def test_refuses_another_routing(name: str, change: dict[str, Any], message: str) -> None:
    model = RemoteModel()
    module = model.get_submodule(name)
    for attribute, value in change.items():
        if value is None:
            delattr(module, attribute)
        else:
            setattr(module, attribute, value)
    with pytest.raises(ValueError, match=f"{name} .* cannot route by grouped_gate: .*{message}"):
        moge_transformers.swap_moge_routing(model)
    untouched = model.get_submodule("routers.0" if name != "routers.0" else "routers.1")
    assert "forward" not in vars(untouched)


def test_refuses_a_model_without_grouped_routing() -> None:
    with pytest.raises(ValueError, match=r"no MoGE routing that is known here: .* got Sequential"):
        moge_transformers.swap_moge_routing(nn.Sequential(nn.Linear(3, 3)))
