"""Quantised experts in transformers: in place, while loading, in files, and under adapters."""

import copy
import importlib
import json
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

transformers = pytest.importorskip("transformers", minversion="5.17")

from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
)
from transformers.trainer_utils import validate_quantization_for_training  # noqa: E402

from moge_ops import testing  # noqa: E402
from moge_ops._quantized import pack_int4  # noqa: E402
from moge_ops.integrations import _quantizer  # noqa: E402
from moge_ops.integrations.transformers import (  # noqa: E402
    ExpertsQuantizationConfig,
    load_quantized,
    register,
)
from moge_ops.models import checkpoint  # noqa: E402
from moge_ops.models.convert import convert_quantized  # noqa: E402
from moge_ops.nn import FrozenWeight, MoGE  # noqa: E402
from moge_ops.quant import (  # noqa: E402
    QuantizedWeight,
    dequantize,
    quantize,
    quantize_experts,
)
from moge_ops.testing import assert_matches, rms_error  # noqa: E402

register()

SMALL = {
    "vocab_size": 61,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_experts": 8, "head_dim": 8},
    "mixtral": {"num_local_experts": 6, "head_dim": 8},
    "deepseek_v3": {
        "n_routed_experts": 8,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
        "num_key_value_heads": 4,
    },
    # transposed, interleaved, with biases
    "gpt_oss": {"num_local_experts": 8, "head_dim": 8, "sliding_window": 16},
    "olmoe": {"num_experts": 8},
    "granitemoe": {"num_local_experts": 8},
    # without a gate
    "nemotron_h": {
        "n_routed_experts": 8,
        "moe_shared_expert_intermediate_size": 24,
        "head_dim": 8,
        "layers_block_type": ["attention", "moe"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
    },
    "PanguProMoE": {
        "num_experts": 8,
        "num_experts_per_tok": 4,
        "num_groups": 4,
        "shared_expert_intermediate_size": 32,
    },
}
# what they differ in shows in these three
KINDS = ("mixtral", "gpt_oss", "PanguProMoE")
OPTIONS: dict[str, dict[str, Any]] = {
    "int8_w8a8": {"scheme": "int8_w8a8"},
    "int8_w8a16": {"scheme": "int8_w8a16"},
    "int4_w4a16": {"scheme": "int4_w4a16"},
    "int4_w4a16-zeros": {"scheme": "int4_w4a16", "group_size": 32, "symmetric": False},
    "fp8_w8a16": {"scheme": "fp8_w8a16"},
    "fp8_w8a16-blocks": {"scheme": "fp8_w8a16", "group_size": 128},
    "mxfp4_w4a16": {"scheme": "mxfp4_w4a16"},
}
IDS = torch.arange(2 * 13).view(2, 13) * 7 % 58 + 3


@pytest.fixture(autouse=True)
def _backend_that_decodes() -> Iterator[None]:
    """The torch backend where the native kernels of quantised experts are not built."""
    kernels = importlib.import_module("moge_ops.cpu_kernels.grouped_mlp")
    native = hasattr(kernels, "grouped_mlp_quantized_fwd")
    with nullcontext() if native else testing.backend("torch"):
        yield


def tiny(model_type: str, dtype: torch.dtype = torch.float32, **sizes: Any) -> Any:
    """A random model whose weights are so large that the experts matter."""
    config = AutoConfig.for_model(model_type, **{**SMALL, **MODELS[model_type], **sizes})
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return model.to(dtype).eval()


def load(folder: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, **options)


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    out: Tensor = model(input_ids=IDS, use_cache=False).logits
    return out


def decoded(model: nn.Module, dtype: torch.dtype = torch.float32) -> Any:
    """The same model with plain weights, those that the quantised ones stand for."""
    plain = copy.deepcopy(model)
    for module in list(plain.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, FrozenWeight):
                weight = dequantize(child.weight, dtype)
                weight = (
                    weight.mT.contiguous() if getattr(module, "is_transposed", False) else weight
                )
                delattr(module, name)
                setattr(module, name, nn.Parameter(weight))
    return plain


def frozen(model: nn.Module) -> dict[str, FrozenWeight]:
    return {name: m for name, m in model.named_modules() if isinstance(m, FrozenWeight)}


def same_state(a: nn.Module, b: nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(
        x.dtype is two[name].dtype and torch.equal(x.view(torch.uint8), two[name].view(torch.uint8))
        for name, x in one.items()
    )


# ---- in place

CASES = [
    *((model_type, "int4_w4a16") for model_type in MODELS),
    *((model_type, case) for model_type in KINDS for case in OPTIONS if case != "int4_w4a16"),
]


@pytest.mark.parametrize(("model_type", "case"), CASES)
def test_a_model_is_that_of_the_decoded_weights(model_type: str, case: str) -> None:
    model = tiny(model_type)
    names = quantize_experts(model, **OPTIONS[case])
    assert len(names) == (1 if model_type in ("deepseek_v3", "nemotron_h") else 2)
    assert len(frozen(model)) == 2 * len(names)
    plain = decoded(model)
    tokens = model.generate(IDS, max_new_tokens=5, do_sample=False)
    assert tokens.shape == (2, 18)
    if case != "int8_w8a8":
        assert torch.equal(tokens, plain.generate(IDS, max_new_tokens=5, do_sample=False))
    got = logits(model)
    plain.double().set_experts_implementation("eager")
    want = logits(plain)
    if case == "int8_w8a8":  # the rows are rounded too, and a router may choose another expert
        assert rms_error(got, want) < 0.15
    else:
        assert rms_error(got, want) < 4 * testing.TOLERANCES[torch.float32].rms


@pytest.mark.parametrize(
    ("model_type", "rows"), [("mixtral", 6), ("gpt_oss", 3), ("nemotron_h", 3), ("PanguProMoE", 6)]
)
def test_blocks_of_gate_and_up_are_counted_apart_where_they_lie_apart(
    model_type: str, rows: int
) -> None:
    model = tiny(model_type)
    quantize_experts(model, "fp8_w8a16", group_size=128)
    up = next(w for name, w in frozen(model).items() if "up" in name)
    # 96 rows each: blocks end at multiples of 32, and of 64 where the 192 are one matrix
    assert up.scale.shape[1] == rows


def test_other_implementations_are_refused() -> None:
    model = tiny("mixtral")
    quantize_experts(model, "int8_w8a16")
    for name in ("eager", "grouped_mm"):
        with pytest.raises(ValueError, match="must be 'moge_ops' for quantised experts"):
            model.set_experts_implementation(name)
    model.set_experts_implementation("moge_ops")
    logits(model)
    model.config._experts_implementation = "eager"  # around the check: no wrong result
    with pytest.raises((TypeError, AttributeError), match="FrozenWeight"):
        logits(model)


def test_a_second_quantiser_is_refused() -> None:
    model = tiny("mixtral")
    quantize_experts(model, "int8_w8a16", skip=["model.layers.0"])
    with pytest.raises(ValueError, match="must not be quantised, got quant_method 'moge_ops'"):
        quantize_experts(model, "int8_w8a8", skip=["model.layers.1"])
    assert len(frozen(model)) == 2


def test_a_model_within_another_module() -> None:
    model = tiny("gpt_oss")
    want = copy.deepcopy(model)
    quantize_experts(want, "int4_w4a16", skip=["model.layers.0"])
    outer = nn.ModuleDict({"policy": model, "head": nn.Linear(3, 3)})
    names = quantize_experts(outer, "int4_w4a16", skip=["policy.model.layers.0"])
    assert names == ["policy.model.layers.1.mlp.experts"]
    assert same_state(model, want)
    assert model.config.quantization_config.modules_to_not_convert == ["model.layers.0"]
    assert model.is_quantized


def test_a_part_of_a_model_is_not_saved(tmp_path: Path) -> None:
    model = tiny("mixtral")
    quantize_experts(model.model, "int4_w4a16")
    logits(model)
    with pytest.raises(ValueError, match="has quantised experts without knowing it"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_composite_model(tmp_path: Path) -> None:
    sizes = {**SMALL, **MODELS["qwen3_moe"], "head_dim": 16}
    sizes["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [4, 2, 2],
    }
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 64,
        "deepstack_visual_indexes": [0],
        "num_position_embeddings": 16,
    }
    config = AutoConfig.for_model("qwen3_vl_moe", text_config=sizes, vision_config=vision)
    model = AutoModelForImageTextToText.from_config(config).eval()
    model.save_pretrained(tmp_path / "plain")
    names = quantize_experts(model, "int4_w4a16")
    assert names == [f"model.language_model.layers.{i}.mlp.experts" for i in range(2)]
    model.save_pretrained(tmp_path / "quantised")
    for name, options in (
        ("plain", {"quantization_config": ExpertsQuantizationConfig("int4_w4a16")}),
        ("quantised", {}),
    ):
        again = AutoModelForImageTextToText.from_pretrained(tmp_path / name, **options)
        assert same_state(again, model)
        assert torch.equal(logits(again), logits(model))


# ---- while loading, and from files


@pytest.mark.parametrize("model_type", MODELS)
def test_loading_quantises_as_in_place_does(model_type: str, tmp_path: Path) -> None:
    tiny(model_type, torch.bfloat16).save_pretrained(tmp_path / "plain")
    config = ExpertsQuantizationConfig("int4_w4a16", group_size=32)
    model = load(tmp_path / "plain", quantization_config=config)
    plain = load(tmp_path / "plain")  # some models keep a few tensors in float32
    quantize_experts(plain, "int4_w4a16", group_size=32)
    assert same_state(model, plain)
    assert torch.equal(logits(model), logits(plain))
    for m, name in ((model, "loaded"), (plain, "in-place")):
        m.save_pretrained(tmp_path / name, max_shard_size="20KB")
        again, info = load(tmp_path / name, output_loading_info=True)
        assert not any(info.values())
        assert same_state(again, model)
        assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("case", OPTIONS)
def test_every_scheme_survives_files(case: str, tmp_path: Path) -> None:
    tiny("gpt_oss").save_pretrained(tmp_path / "plain")
    options = {"quantization_config": ExpertsQuantizationConfig(**OPTIONS[case])}
    model = load(tmp_path / "plain", **options)
    model.save_pretrained(tmp_path / "quantised")
    written = json.loads((tmp_path / "quantised" / "config.json").read_text())
    assert written["quantization_config"] == {
        "quant_method": "moge_ops",
        "group_size": None,
        "symmetric": True,
        "modules_to_not_convert": None,
        **OPTIONS[case],
    }
    again = load(tmp_path / "quantised")
    assert same_state(again, model)
    again.save_pretrained(tmp_path / "again")
    files = [load_file(tmp_path / n / "model.safetensors") for n in ("quantised", "again")]
    assert files[0].keys() == files[1].keys()
    assert "model.layers.1.mlp.experts.down_proj.data" in files[0]


def test_some_stay_plain(tmp_path: Path) -> None:
    plain = tiny("mixtral")
    plain.save_pretrained(tmp_path / "plain")
    config = ExpertsQuantizationConfig("int8_w8a16", modules_to_not_convert=["model.layers.0"])
    model = load(tmp_path / "plain", quantization_config=config)
    first, second = (block.mlp.experts for block in model.model.layers)
    assert torch.equal(first.down_proj, plain.model.layers[0].mlp.experts.down_proj)
    assert isinstance(second.down_proj, FrozenWeight)
    model.save_pretrained(tmp_path / "quantised")
    again = load(tmp_path / "quantised")
    assert same_state(again, model)
    assert torch.equal(logits(again), logits(model))


def test_the_memory_of_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny("qwen3_moe", num_hidden_layers=3).save_pretrained(tmp_path)
    alive, seen = [], []

    def counting(weight: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(sum(ref() is not None for ref in alive))
        alive.append(weakref.ref(weight))
        return quantize(weight, *args, **kwargs)

    monkeypatch.setattr(_quantizer, "quantize", counting)
    load(tmp_path, quantization_config=ExpertsQuantizationConfig("int8_w8a16"))
    assert seen == [0] * 6  # no plain weight outlives its turn


def test_pangus_mixed_dtypes(tmp_path: Path) -> None:
    plain = tiny("PanguProMoE", torch.bfloat16)
    for block in plain.model.layers:
        block.moge.gate.data = block.moge.gate.data.float()
    plain.save_pretrained(tmp_path / "plain")
    config = ExpertsQuantizationConfig("fp8_w8a16", group_size=128)
    model = load(tmp_path / "plain", quantization_config=config)
    model.save_pretrained(tmp_path / "quantised")
    again = load(tmp_path / "quantised")
    for m in (model, again):
        moge = m.model.layers[0].moge
        assert isinstance(moge, MoGE)
        assert moge.gate.dtype is torch.float32
        assert m.lm_head.weight.dtype is torch.bfloat16
    assert same_state(again, model)
    assert torch.equal(logits(again), logits(model))


# ---- what is refused


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (ValueError, "scheme must be one of .*, got 'int3'", {"scheme": "int3"}),
        (ValueError, "quant_method must be one of moge_ops, got 'awq'", {"quant_method": "awq"}),
        (TypeError, "group_size must be an int", {"group_size": "64"}),
        (TypeError, "symmetric must be a bool, got 'no'", {"symmetric": "no"}),
        (TypeError, "must be a list of names, got 'a'", {"modules_to_not_convert": "a"}),
        (TypeError, "unexpected keyword argument 'bits'", {"bits": 4}),
    ],
)
def test_what_a_config_refuses(error: type[Exception], message: str, options: Any) -> None:
    with pytest.raises(error, match=message):
        ExpertsQuantizationConfig(**{"scheme": "int4_w4a16", **options})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A plain folder, and one with quantised experts."""
    root = tmp_path_factory.mktemp("folders")
    model = tiny("mixtral")
    model.save_pretrained(root / "plain")
    quantize_experts(model, "int4_w4a16")
    model.save_pretrained(root / "quantised")
    return {name: root / name for name in ("plain", "quantised")}


def changed(folder: Path, to: Path, change: Any) -> Path:
    """A copy of a folder in which ``change`` was applied to its tensors."""
    to.mkdir()
    for path in folder.glob("*.json"):
        (to / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, to / "model.safetensors", {"format": "pt"})
    return to


def name_of(tensors: dict[str, Tensor], end: str) -> str:
    return next(name for name in sorted(tensors) if "layers.1" in name and name.endswith(end))


def put(end: str, value: Any) -> Any:
    """Changes the tensor of layer 1 whose name ends so; None takes it away."""

    def change(tensors: dict[str, Tensor]) -> None:
        name = name_of(tensors, end)
        new = value(tensors.pop(name))
        if new is not None:
            tensors[name] = new

    return change


def add_zeros(tensors: dict[str, Tensor]) -> None:
    name = name_of(tensors, "down_proj.scale")
    tensors[name.replace("scale", "zero")] = torch.zeros_like(tensors[name], dtype=torch.int8)


@pytest.mark.parametrize(
    ("message", "options", "change"),
    [
        pytest.param(
            r"layers\.0\.mlp\.experts\.gate_up_proj: group_size=128 must divide the I=64",
            {"group_size": 128},
            None,
            id="group",
        ),
        pytest.param(
            "skip must name modules of the model, got model.layers.9",
            {"modules_to_not_convert": ["model.layers.9"]},
            None,
            id="skip",
        ),
        pytest.param(
            r"layers\.1\.mlp\.experts\.down_proj: weight must be finite",
            {},
            put("experts.3.w2.weight", lambda x: torch.full_like(x, torch.nan)),
            id="nan",
        ),
        pytest.param(
            r"layers\.1\.mlp\.experts\.down_proj: weight must be \[6, 64, 96\], got \[5, 64, 96\]",
            {},
            put("experts.3.w2.weight", lambda x: None),
            id="an-expert-less",
        ),
    ],
)
def test_what_a_plain_folder_must_be(
    message: str, options: Any, change: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = (
        folders["plain"] if change is None else changed(folders["plain"], tmp_path / "x", change)
    )
    with pytest.raises(ValueError, match=message):
        load(folder, quantization_config=ExpertsQuantizationConfig("int4_w4a16", **options))


def test_a_layer_of_experts_less(folders: dict[str, Path], tmp_path: Path) -> None:
    def drop(tensors: dict[str, Tensor]) -> None:
        for name in [n for n in tensors if "layers.1" in n and n.endswith("w2.weight")]:
            del tensors[name]

    folder = changed(folders["plain"], tmp_path / "x", drop)
    with pytest.raises(ValueError, match=r"lacks model\.layers\.1\.mlp\.experts\.down_proj$"):
        load(folder, quantization_config=ExpertsQuantizationConfig("int4_w4a16"))


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        pytest.param(
            ValueError,
            r"lacks model\.layers\.1\.mlp\.experts\.down_proj\.scale",
            put("down_proj.scale", lambda x: None),
            id="missing",
        ),
        pytest.param(
            ValueError,
            r"down_proj\.scale must be finite and not 0, got nan",
            put("down_proj.scale", lambda x: x * torch.nan),
            id="nan",
        ),
        pytest.param(
            ValueError,
            r"gate_up_proj\.scale must be \[E=6, a divisor of O=192",
            put("gate_up_proj.scale", lambda x: x[:, :5].clone()),
            id="scales",
        ),
        pytest.param(
            ValueError,
            r"down_proj must be \[6, 64, 96\], got \[6, 32, 96\]",
            lambda tensors: [
                put(f"down_proj.{part}", lambda x: x[:, :32].clone())(tensors)
                for part in ("data", "scale")
            ],
            id="another-model",
        ),
        pytest.param(
            ValueError,
            r"model\.safetensors: .*down_proj\.data must be I32 for int4_w4a16, got F32",
            put("down_proj.data", lambda x: x.float()),
            id="dtype",
        ),
        pytest.param(
            ValueError,
            r"down_proj\.zero must be absent, as config\.json says",
            add_zeros,
            id="zeros",
        ),
    ],
)
def test_what_a_quantised_folder_must_be(
    error: type[Exception], message: str, change: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        load(changed(folders["quantised"], tmp_path / "x", change))


def test_a_config_that_contradicts_its_tensors(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = changed(folders["quantised"], tmp_path / "x", lambda tensors: None)
    config = json.loads((folder / "config.json").read_text())
    for scheme, message in (("int8_w8a8", "must be I8 for int8_w8a8, got I32"), ("int3", "int3")):
        config["quantization_config"]["scheme"] = scheme
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=message):
            load(folder)


def test_a_dense_model_and_experts_on_disk(tmp_path: Path) -> None:
    sizes = {
        k: v for k, v in SMALL.items() if k not in ("moe_intermediate_size", "num_experts_per_tok")
    }
    dense = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes))
    dense.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"must have layers of experts .*, got LlamaForCausalLM"):
        load(tmp_path, quantization_config=ExpertsQuantizationConfig("int4_w4a16"))
    quantizer = _quantizer.ExpertsQuantizer(ExpertsQuantizationConfig("int4_w4a16"))
    with pytest.raises(ValueError, match="must not put quantised experts on disk"):
        quantizer.validate_environment(device_map={"model": "disk"})


# ---- training and tools


@pytest.mark.parametrize("model_type", KINDS)
def test_gradients_go_around_the_experts(model_type: str) -> None:
    model = tiny(model_type)
    quantize_experts(model, "int4_w4a16")
    assert not any(
        "gate_up" in name and "shared" not in name
        for name, _ in model.named_parameters()
        if not name.endswith("bias")
    )
    plain = decoded(model)
    grads = []
    for m in (model, plain):
        for name, parameter in m.named_parameters():  # as an adapter would
            parameter.requires_grad_(any(part in name for part in ("attn", "attention", "gate")))
        m.train()
        m(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        grads.append({n: p.grad for n, p in m.named_parameters() if p.grad is not None})
    assert any("qkv" in name or "q_proj" in name for name in grads[0])
    for name, grad in grads[0].items():
        assert_matches(grad, grads[1][name].double(), name, slack=10.0)
    assert all(x.grad is None for w in frozen(model).values() for x in w.buffers())


@pytest.mark.parametrize("model_type", KINDS)
def test_checkpointing(model_type: str) -> None:
    model = tiny(model_type).train()
    quantize_experts(model, "int8_w8a16")
    losses = []
    for checkpointed in (False, True):
        if checkpointed:
            names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
            next(getattr(model, name) for name in names if hasattr(model, name))()
        model.zero_grad()
        model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        losses.append(
            {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        )
    for name, grad in losses[0].items():
        assert torch.equal(grad, losses[1][name]), name


def test_trainer_takes_adapters_only(folders: dict[str, Path]) -> None:
    for model in (load(folders["quantised"]), tiny("mixtral")):
        if not frozen(model):
            quantize_experts(model, "int8_w8a16")
        with pytest.raises(ValueError, match="attach trainable adapters"):
            validate_quantization_for_training(model)
        model._hf_peft_config_loaded = True  # what PEFT's integration sets
        validate_quantization_for_training(model)
        assert model.hf_quantizer.is_trainable
        assert not model.hf_quantizer.is_qat_trainable


def test_casts_copies_and_sizes(folders: dict[str, Path]) -> None:
    model = load(folders["quantised"])
    want = logits(model)
    copied = copy.deepcopy(model)
    assert torch.equal(logits(copied), want)
    assert copied.hf_quantizer.quantization_config.scheme == "int4_w4a16"
    copied.to(torch.bfloat16)
    assert logits(copied).dtype is torch.bfloat16
    for name, weight in frozen(copied).items():
        assert torch.equal(weight.data, model.get_submodule(name).data)
        assert weight.scale.dtype is torch.float32
    with pytest.raises(ValueError, match="not supported for quantized model"):  # transformers' own
        model.half()
    plain = load(folders["plain"])
    in_experts = sum(p.numel() for n, p in plain.named_parameters() if "experts" in n)
    assert model.num_parameters() == plain.num_parameters() - in_experts
    assert model.get_memory_footprint() < 0.45 * plain.get_memory_footprint()


@pytest.mark.slow
def test_it_compiles(folders: dict[str, Path]) -> None:
    model = load(folders["quantised"])
    compiled = torch.compile(model, backend="aot_eager")
    assert torch.equal(logits(compiled), logits(model))
    assert model.hf_quantizer.is_compileable


def test_layers_that_a_config_cannot_describe_are_not_saved(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    model = load(folders["quantised"])
    model.hf_quantizer.serializable = False  # as load_quantized finds it
    with pytest.raises(ValueError, match="is not serializable"):
        model.save_pretrained(tmp_path)
    assert not copy.deepcopy(model).hf_quantizer.is_serializable()


def test_registering_twice() -> None:
    register()
    config = ExpertsQuantizationConfig("int8_w8a8")
    assert transformers.quantizers.AutoHfQuantizer.from_config(config).pre_quantized


# ---- folders that others quantised

Change = Callable[[str, Tensor], dict[str, Tensor]]  # of each tensor of a plain folder


def rewritten(folder: Path, to: Path, config: dict[str, Any], change: Change) -> Path:
    """A copy of a folder with other tensors, and a ``quantization_config``."""
    to.mkdir()
    values = json.loads((folder / "config.json").read_text())
    values["quantization_config"] = config
    (to / "config.json").write_text(json.dumps(values))
    tensors: dict[str, Tensor] = {}
    for name, x in load_file(folder / "model.safetensors").items():
        tensors |= change(name, x)
    save_file(tensors, to / "model.safetensors", {"format": "pt"})
    return to


FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
GPT_OSS = {"quant_method": "mxfp4"}


def to_fp8(name: str, x: Tensor) -> dict[str, Tensor]:
    """DeepSeek's blocks, of all linear layers; gate, up and down have one and a half of them."""
    if not re.search(r"(_proj|w[123])\.weight$", name):
        return {name: x}
    w = quantize(x.float()[None], "fp8_w8a16", group_size=128)
    rows = w.shape[1] // w.scale.shape[1]
    scale = w.scale[0].repeat_interleave(rows, 0)[::128].clone()
    return {name: w.data[0], f"{name}_scale_inv": scale}


def to_gpt_oss(name: str, x: Tensor) -> dict[str, Tensor]:
    """The released blocks, whose rows take turns of gate and up as in the plain weights."""
    if not name.endswith(("gate_up_proj", "down_proj")):
        return {name: x}
    w = quantize(x.float().mT.contiguous(), "mxfp4_w4a16")
    E, O, I = w.shape
    return {f"{name}_blocks": w.data.view(E, O, I // 32, 16), f"{name}_scales": w.scale}


def rounded(x: Tensor, scheme: str, **options: Any) -> Tensor:
    stacked = x.float() if x.ndim == 3 else x.float()[None]
    return dequantize(quantize(stacked, scheme, **options), torch.bfloat16).view(x.shape)


@pytest.fixture(scope="module")
def sizes_of_blocks() -> dict[str, int]:
    return {"hidden_size": 128, "intermediate_size": 192, "moe_intermediate_size": 192}


@pytest.mark.parametrize("model_type", ["mixtral", "deepseek_v3"])
def test_fp8_of_all_linear_layers(
    model_type: str, sizes_of_blocks: dict[str, int], tmp_path: Path
) -> None:
    plain = tiny(model_type, torch.bfloat16, **sizes_of_blocks)
    plain.save_pretrained(tmp_path / "plain")
    plain = load(tmp_path / "plain")
    model = load_quantized(rewritten(tmp_path / "plain", tmp_path / "fp8", FP8, to_fp8))
    assert not model.training
    assert model.dtype is torch.bfloat16
    weights = frozen(model)
    assert len(weights) == (2 if model_type == "deepseek_v3" else 4)
    assert {(w.scheme, w.group_size) for w in weights.values()} == {("fp8_w8a16", 128)}
    # transformers itself reads blocks that do not divide a matrix as smaller ones
    for name, parameter in plain.named_parameters():
        halves = 2 if "gate_up" in name else 1
        if name in weights:
            w = quantize(parameter.float(), "fp8_w8a16", group_size=128, halves=halves)
            assert torch.equal(dequantize(weights[name].weight), dequantize(w)), name
        elif name.endswith("_proj.weight"):
            want = rounded(parameter.detach(), "fp8_w8a16", group_size=128)
            assert torch.equal(model.get_parameter(name), want), name
        else:
            assert torch.equal(model.get_parameter(name), parameter), name
    model.save_pretrained(tmp_path / "ours")
    again = load_quantized(tmp_path / "ours")
    assert same_state(again, model)
    assert torch.equal(logits(again), logits(model))


def test_gpt_oss_as_transformers_decodes_it(tmp_path: Path) -> None:
    tiny("gpt_oss", torch.bfloat16).save_pretrained(tmp_path / "plain")
    folder = rewritten(tmp_path / "plain", tmp_path / "mxfp4", GPT_OSS, to_gpt_oss)
    model = load_quantized(folder)
    assert {w.scheme for w in frozen(model).values()} == {"mxfp4_w4a16"}
    theirs = load(folder, quantization_config=transformers.Mxfp4Config(dequantize=True))
    assert same_state(decoded(model, torch.bfloat16), theirs)
    model.save_pretrained(tmp_path / "ours")
    assert same_state(load(tmp_path / "ours"), model)


def test_pangu_as_the_reference_model_reads_it(tmp_path: Path) -> None:
    plain = tiny("PanguProMoE", torch.bfloat16)
    for block in plain.model.layers:
        block.moge.gate.data = block.moge.gate.data.float()
    plain.save_pretrained(tmp_path / "plain")
    reference = checkpoint.from_pretrained(tmp_path / "plain")
    quantize_experts(reference, "int4_w4a16", group_size=32)
    checkpoint.save_pretrained(reference, tmp_path / "compressed")
    model = load_quantized(tmp_path / "compressed")
    assert model.model.layers[0].moge.gate.dtype is torch.float32
    assert {w.scheme for w in frozen(model).values()} == {"int4_w4a16"}
    with torch.no_grad():
        assert torch.equal(logits(model), reference(IDS))
    with pytest.raises(ValueError, match="load_quantized"):
        load(tmp_path / "compressed")


def row_wise(w: Tensor) -> QuantizedWeight:
    """int4 with a scale for each row, which files may have and ``quantize`` does not make."""
    scale = w.abs().amax(-1, keepdim=True) / 7
    data = pack_int4((w / scale).round().to(torch.int8))
    return QuantizedWeight(data, scale, None, "int4_w4a16", None)


def in_groups(up: int, down: int) -> Callable[[bool, Tensor], QuantizedWeight]:
    return lambda is_up, w: quantize(w, "int4_w4a16", group_size=up if is_up else down)


@pytest.mark.parametrize(
    ("F", "how", "groups", "saved"),
    [
        # what convert writes by default, which is what a config without a size stands for
        pytest.param(96, None, [128, 32], True, id="defaults"),
        pytest.param(96, in_groups(64, 32), [64, 32], False, id="others"),
        pytest.param(64, in_groups(32, 64), [32, 64], False, id="larger-down"),
        # 32 does not divide the columns of the second, so that no group size does
        pytest.param(40, lambda is_up, w: row_wise(w), [None, None], False, id="rows"),
        pytest.param(
            96,
            lambda is_up, w: row_wise(w) if is_up else quantize(w, "int4_w4a16", group_size=32),
            [None, 32],
            False,
            id="rows-and-groups",
        ),
    ],
)
def test_int4_whose_two_weights_have_groups_of_their_own(
    F: int, how: Any, groups: list[int | None], saved: bool, tmp_path: Path
) -> None:
    sizes = {"hidden_size": 128, "moe_intermediate_size": F}
    tiny("PanguProMoE", torch.bfloat16, **sizes).save_pretrained(tmp_path / "plain")
    if how is None:
        convert_quantized(tmp_path / "plain", tmp_path / "compressed", "int4_w4a16")
        reference = checkpoint.from_pretrained(tmp_path / "compressed")
    else:
        reference = checkpoint.from_pretrained(tmp_path / "plain")
        for block in reference.layers:
            for name in ("w_gate_up", "w_down"):
                weight = how(name == "w_gate_up", getattr(block.moge, name).detach().float())
                delattr(block.moge, name)
                setattr(block.moge, name, FrozenWeight(weight))
        checkpoint.save_pretrained(reference, tmp_path / "compressed")
    model = load_quantized(tmp_path / "compressed")
    assert [w.group_size for w in frozen(model).values()] == 2 * groups
    with torch.no_grad():
        assert torch.equal(logits(model), reference(IDS))
    if saved:
        model.save_pretrained(tmp_path / "ours")
        again = load(tmp_path / "ours")
        assert same_state(again, model)
        assert torch.equal(logits(again), logits(model))
    else:
        with pytest.raises(ValueError, match="is not serializable"):
            model.save_pretrained(tmp_path / "ours")


@pytest.mark.parametrize(
    ("message", "change"),
    [
        pytest.param("missing: ", lambda n, x: {} if "3.w2" in n else to_fp8(n, x), id="an-expert"),
        pytest.param(
            r"misshapen: model\.layers\.0\.mlp\.experts\.down_proj must be \[6, 128, 192\]",
            lambda n, x: to_fp8(
                n,
                x[:, :128].clone()
                if "experts" in n and "w2" in n
                else x[:128].clone()
                if "experts" in n
                else x,
            ),
            id="another-model",
        ),
        pytest.param(
            r"missing: experts of model\.layers\.1\.mlp\.experts, got none",
            lambda n, x: {} if "layers.1" in n and "experts" in n else to_fp8(n, x),
            id="a-layer",
        ),
        pytest.param(
            r"unknown way: model\.layers\.0\.self_attn\.odd in model\.safetensors",
            lambda n, x: to_fp8(n, x) | {"model.layers.0.self_attn.odd": torch.ones(3).char()},
            id="unknown",
        ),
    ],
)
def test_folders_that_do_not_fit(
    message: str, change: Change, sizes_of_blocks: dict[str, int], tmp_path: Path
) -> None:
    tiny("mixtral", torch.bfloat16, **sizes_of_blocks).save_pretrained(tmp_path / "plain")
    folder = rewritten(tmp_path / "plain", tmp_path / "fp8", FP8, change)
    with pytest.raises(ValueError, match=message):
        load_quantized(folder)


def test_a_plain_folder_is_not_loaded_as_quantised(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="is not quantised"):
        load_quantized(folders["plain"])
