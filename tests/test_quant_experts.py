"""Models with quantised experts are the same models with the weights that these stand for."""

import copy
import importlib
import io
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from moge_ops import testing
from moge_ops._quantized import INTEGERS
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.nn import FrozenWeight, MoGE
from moge_ops.quant import SCHEMES, dequantize, experts, quantize, quantize_experts
from moge_ops.testing import assert_matches, rms_error

WEIGHT_ONLY = [scheme for scheme in SCHEMES if scheme not in INTEGERS]
OPTIONS: dict[str, dict[str, Any]] = {
    "int8_w8a8": {"scheme": "int8_w8a8"},
    "int4_w4a8": {"scheme": "int4_w4a8"},
    "int8_w8a16-groups": {"scheme": "int8_w8a16", "group_size": 32},
    "int4_w4a16": {"scheme": "int4_w4a16"},
    "int4_w4a16-zeros": {"scheme": "int4_w4a16", "group_size": 32, "symmetric": False},
    "fp8_w8a16": {"scheme": "fp8_w8a16"},
    "fp8_w8a16-blocks": {"scheme": "fp8_w8a16", "group_size": 128},
    "mxfp4_w4a16": {"scheme": "mxfp4_w4a16"},
}
SIZES = {
    "vocab_size": 61,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 8,
    "num_experts_per_tok": 4,
    "num_groups": 4,
    "moe_intermediate_size": 96,
    "shared_expert_intermediate_size": 32,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": None,
    "initializer_range": 0.15,
}


@pytest.fixture(autouse=True)
def _backend_that_decodes() -> Iterator[None]:
    """The torch backend where the native kernels of quantised experts are not built."""
    kernels = importlib.import_module("moge_ops.cpu_kernels.grouped_mlp")
    native = hasattr(kernels, "grouped_mlp_quantized_fwd")
    with nullcontext() if native else testing.backend("torch"):
        yield


def layer(**options: Any) -> MoGE:
    return MoGE(64, 96, 8, 4, shared_size=32, **options)


def language_model(**changes: Any) -> PanguMoEForCausalLM:
    return PanguMoEForCausalLM(PanguMoEConfig(**{**SIZES, **changes})).eval()


def decoded(model: nn.Module, dtype: torch.dtype) -> Any:
    """The same model with plain weights, those that the quantised ones stand for."""
    plain = copy.deepcopy(model)
    for module in list(plain.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, FrozenWeight):
                delattr(module, name)
                setattr(module, name, nn.Parameter(dequantize(child.weight, dtype)))
    return plain


def frozen(model: nn.Module) -> list[FrozenWeight]:
    return [module for module in model.modules() if isinstance(module, FrozenWeight)]


def names_of(model: nn.Module) -> set[str]:
    return set(model.state_dict())


# ---- what they compute


@pytest.mark.parametrize("case", OPTIONS)
def test_a_layer_is_that_of_the_decoded_weights(case: str) -> None:
    model = layer()
    x = torch.randn(13, 64)
    assert quantize_experts(model, **OPTIONS[case]) == [""]
    plain = decoded(model, torch.float32)
    with torch.no_grad():
        y, want = model(x), plain.double()(x.double())
    if case in INTEGERS:  # the rows are rounded too: steps of 1/127 of the largest
        assert rms_error(y, want) < 0.02
    else:
        assert_matches(y, want, "y")


@pytest.mark.parametrize("case", OPTIONS)
def test_a_language_model_says_what_the_decoded_weights_say(case: str) -> None:
    model = language_model()
    quantize_experts(model, **OPTIONS[case])
    plain = decoded(model, torch.float32)
    ids = torch.randint(0, 61, (2, 13))
    with torch.no_grad():
        logits, want = model(ids), plain.double()(ids)
    if case in INTEGERS:
        assert rms_error(logits, want) < 0.1  # a router may choose another expert
    else:
        assert_matches(logits, want, "logits", slack=4.0)
        tokens, same = (m.generate(ids, 8, temperature=0.0) for m in (model, plain.float()))
        assert torch.equal(tokens, same)


def test_weights_that_a_scheme_has_are_kept_to_the_last_token() -> None:
    plain = language_model()
    for block in plain.layers:
        for name in ("w_gate_up", "w_down"):
            weight = getattr(block.moge, name)
            weight.data = dequantize(quantize(weight.data, "mxfp4_w4a16"))
    model = copy.deepcopy(plain)
    quantize_experts(model, "mxfp4_w4a16")
    for block, before in zip(model.layers, plain.layers, strict=True):
        assert torch.equal(dequantize(block.moge.w_down.weight), before.moge.w_down)
    ids = torch.randint(0, 61, (2, 5))
    tokens, want = (m.generate(ids, 12, temperature=0.0) for m in (model, plain))
    assert torch.equal(tokens, want)


@pytest.mark.parametrize("scheme", WEIGHT_ONLY)
def test_bfloat16_beside_a_float32_router(scheme: str) -> None:
    model = layer(dtype=torch.bfloat16, router_dtype=torch.float32)
    x = torch.randn(13, 64).bfloat16()
    quantize_experts(model, scheme)
    want = decoded(model, torch.bfloat16)
    y = model(x)
    assert y.dtype is torch.bfloat16
    assert rms_error(y, want(x).double()) < 2 * testing.TOLERANCES[torch.bfloat16].rms


# ---- adapters


def test_gradients_go_to_all_but_the_experts() -> None:
    model = layer()
    quantize_experts(model, "int4_w4a16")
    plain = decoded(model, torch.float32).double()
    x = torch.randn(13, 64, requires_grad=True)
    x_plain = x.detach().double().requires_grad_()
    d_y = torch.randn(13, 64)
    model(x).backward(d_y)
    plain(x_plain).backward(d_y.double())
    assert x.grad is not None
    assert x_plain.grad is not None
    assert_matches(x.grad, x_plain.grad, "d_x")
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert set(grads) == {"gate", "router_scale", "shared_gate_up", "shared_down"}
    for name, grad in grads.items():
        assert grad is not None, name
        assert_matches(grad, plain.get_parameter(name).grad, f"d_{name}")  # type: ignore[arg-type]


def test_checkpointing_gives_the_same_gradients() -> None:
    model = language_model().train()
    quantize_experts(model, "int8_w8a16")
    ids = torch.randint(0, 61, (2, 9))
    grads = []
    for checkpointed in (False, True):
        model.gradient_checkpointing = checkpointed
        model.zero_grad()
        model(ids).square().mean().backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters()})  # type: ignore[union-attr]
    for name, grad in grads[0].items():
        assert torch.equal(grad, grads[1][name]), name


@pytest.mark.slow
def test_it_compiles_in_one_graph() -> None:
    model = layer()
    quantize_experts(model, "int4_w4a16")
    x = torch.randn(13, 64)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), model(x))


# ---- a frozen weight as part of a module


@pytest.mark.parametrize("case", OPTIONS)
def test_casts_leave_it(case: str) -> None:
    model = layer()
    quantize_experts(model, **OPTIONS[case])
    before = [copy.deepcopy(dict(w.named_buffers())) for w in frozen(model)]
    for cast in (
        lambda m: m.to(torch.bfloat16),
        lambda m: m.half(),
        lambda m: m.double(),
        lambda m: m.to("cpu", torch.float32, non_blocking=True),
    ):
        cast(model)
        for weight, old in zip(frozen(model), before, strict=True):
            for name, x in weight.named_buffers():
                assert x.dtype is old[name].dtype
                assert torch.equal(x.view(torch.uint8), old[name].view(torch.uint8))
    assert model.gate.dtype is torch.float32


@pytest.mark.parametrize("case", OPTIONS)
def test_files_and_copies(case: str, tmp_path: Path) -> None:
    model, other = layer(), layer()
    for m in (model, other):
        quantize_experts(m, **OPTIONS[case])
    x = torch.randn(5, 64)
    y = model(x)
    assert not torch.equal(other(x), y)
    save_file(model.state_dict(), tmp_path / "layer.safetensors")
    stored = load_file(tmp_path / "layer.safetensors")
    parts = {"data", "scale", "zero"} if "zeros" in case else {"data", "scale"}
    assert {name for name in stored if name.startswith("w_down")} == {f"w_down.{p}" for p in parts}
    other.load_state_dict(stored)
    copied = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for m in (other, copied, torch.load(file, weights_only=False)):
        assert torch.equal(m(x), y)
    copied.w_down.scale.zero_()  # type: ignore[union-attr]
    assert torch.equal(model(x), y)


def test_a_plain_and_a_quantised_state_do_not_mix() -> None:
    model, plain = layer(), layer()
    quantize_experts(model, "int8_w8a16")
    for target, state in ((model, plain.state_dict()), (plain, model.state_dict())):
        with pytest.raises(RuntimeError, match="Missing key"):
            target.load_state_dict(state)


def test_meta_and_back() -> None:
    model = layer()
    quantize_experts(model, "int4_w4a16", symmetric=False)
    state = model.state_dict()
    empty = copy.deepcopy(model).to("meta")
    assert all(x.is_meta for x in empty.state_dict().values())
    x = torch.randn(5, 64)
    filled = empty.to_empty(device="cpu")
    filled.load_state_dict(state)
    assert torch.equal(filled(x), model(x))
    empty = copy.deepcopy(model).to("meta")
    empty.load_state_dict(state, assign=True)
    assert torch.equal(empty(x), model(x))


def test_what_print_shows() -> None:
    model = layer()
    quantize_experts(model, "fp8_w8a16")
    assert "FrozenWeight([8, 192, 64], scheme='fp8_w8a16', group_size=None)" in repr(model)


# ---- in place


def test_a_weight_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model()
    weights = [w for m in model.layers for w in (m.moge.w_gate_up, m.moge.w_down)]
    alive = [weakref.ref(weight) for weight in weights]
    del weights
    seen = []

    def counting(weight: Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(weight):  # not the check beforehand
            seen.append(sum(ref() is not None for ref in alive))
        return quantize(weight, *args, **kwargs)

    monkeypatch.setattr(experts, "quantize", counting)
    names = quantize_experts(model, "int8_w8a16")
    assert names == ["layers.0.moge", "layers.1.moge"]
    assert seen == [4, 3, 2, 1]
    assert not any(ref() is not None for ref in alive)


def test_some_stay_plain() -> None:
    model = language_model()
    assert quantize_experts(model, "int8_w8a16", skip=["layers.0"]) == ["layers.1.moge"]
    assert isinstance(model.layers[0].moge.w_down, nn.Parameter)
    assert isinstance(model.layers[1].moge.w_down, FrozenWeight)
    with pytest.raises(ValueError, match=r"layers\.1\.moge\.w_gate_up is quantised already"):
        quantize_experts(model, "int8_w8a16")
    assert isinstance(model.layers[0].moge.w_down, nn.Parameter)
    assert quantize_experts(model, "int4_w4a16", skip=["layers.1"]) == ["layers.0.moge"]


def spoil(model: PanguMoEForCausalLM, value: float) -> None:
    with torch.no_grad():
        model.layers[-1].moge.w_down[-1, -1, -1] = value


REFUSED = [
    pytest.param("scheme must be one of .*, got 'int3'", {"scheme": "int3"}, None, id="scheme"),
    pytest.param(
        r"w_gate_up: quantize: group_size must be one of", {"group_size": 48}, None, id="group"
    ),
    pytest.param(
        r"layers\.0\.moge\.w_down: group_size=64 must divide the I=96",
        {"group_size": 64},
        None,
        id="down-only",
    ),
    pytest.param(
        "symmetric must be True", {"scheme": "int8_w8a8", "symmetric": False}, None, id="zeros"
    ),
    pytest.param(
        r"layers\.1\.moge\.w_down must be finite, got NaN or infinity",
        {},
        lambda m: spoil(m, torch.nan),
        id="nan",
    ),
    pytest.param("must be finite", {}, lambda m: spoil(m, -torch.inf), id="infinity"),
    pytest.param("must be in memory, got a meta tensor", {}, lambda m: m.to("meta"), id="meta"),
    pytest.param(
        "skip must name modules of the model, got layers.7",
        {"skip": ["layers.7"]},
        None,
        id="skip",
    ),
    pytest.param("must have layers of experts", {"skip": ["layers"]}, None, id="all-skipped"),
]


@pytest.mark.parametrize(("message", "options", "prepare"), REFUSED)
def test_a_refusal_changes_nothing(message: str, options: dict[str, Any], prepare: Any) -> None:
    model = language_model()
    if prepare is not None:
        prepare(model)
    before = names_of(model)
    with pytest.raises(ValueError, match=message):
        quantize_experts(model, **{"scheme": "int4_w4a16", **options})
    assert names_of(model) == before
    assert not frozen(model)


def test_float64_beyond_float32() -> None:
    model = layer().double()
    with torch.no_grad():
        model.w_down[0, 0, 0] = 1e300
    with pytest.raises(ValueError, match="w_down must be finite"):
        quantize_experts(model, "int8_w8a16")


def test_a_model_without_experts() -> None:
    with pytest.raises(
        ValueError, match=r"must have layers of experts to quantise, .*, got Linear"
    ):
        quantize_experts(nn.Linear(3, 3), "int8_w8a16")


def test_stacked_weights_of_unknown_meaning_are_named() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_up_proj = nn.Parameter(torch.randn(2, 8, 16))
            self.down_proj = nn.Parameter(torch.randn(2, 8, 8))

    with pytest.raises(
        ValueError, match=r"must have layers of experts to quantise, .*, got Experts"
    ):
        quantize_experts(nn.ModuleList([Experts()]), "int8_w8a16")
