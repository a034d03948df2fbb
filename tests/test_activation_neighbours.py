"""What reads the weights of a layer knows where its activation has gate and up, and if it has."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from moge_ops import Activation, offload
from moge_ops.distributed import optimizer_state_dict, state_dict
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM, checkpoint
from moge_ops.nn import FrozenWeight, MoGE
from moge_ops.quant import (
    SCHEMES,
    Smoothing,
    dequantize,
    quantize,
    quantize_experts,
    smooth_experts,
    smoothing,
)
from moge_ops.quant._observer import Observer
from moge_ops.reference._activation import activate
from moge_ops.surgery import (
    Sensitivity,
    expert_sensitivity,
    permute_experts,
    prune_experts,
    slim_experts,
)

H, F, E, G, S = 128, 32, 8, 4, 16
RELU2 = Activation("relu2", gated=False)
GPT_OSS = Activation(interleaved=True, alpha=1.702, limit=7.0, shift=1.0)
INTERLEAVED = Activation("gelu", interleaved=True)
WITHOUT_HALVES = [
    pytest.param(RELU2, id="relu2"),
    pytest.param(GPT_OSS, id="gpt-oss"),
    pytest.param(INTERLEAVED, id="interleaved"),
]
# gate and up in two halves, of which up is linear
LINEAR = [
    pytest.param(Activation(), id="swiglu"),
    pytest.param(Activation("gelu"), id="geglu"),
    pytest.param(Activation("relu2"), id="gated-relu2"),
    pytest.param(Activation(alpha=1.702), id="alpha"),
]
CONFIG = PanguMoEConfig(
    vocab_size=53,
    hidden_size=H,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_experts=E,
    num_groups=G,
    num_experts_per_tok=G,
    moe_intermediate_size=F,
    shared_expert_intermediate_size=S,
    max_position_embeddings=64,
    initializer_range=0.2,
    bos_token_id=1,
    eos_token_id=2,
)
IDS = torch.randint(53, (8, 32), generator=torch.Generator().manual_seed(0))


def layer(activation: Activation, width: int = F) -> MoGE:
    return MoGE(H, width, E, G, shared_size=S, activation=activation)


def language_model(activation: Activation) -> PanguMoEForCausalLM:
    torch.manual_seed(0)
    model = PanguMoEForCausalLM(CONFIG).eval()
    for of_model in model.layers:
        of_model.moge = layer(activation)
    return model


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(IDS)


# -- quantising -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["int8_w8a8", "int8_w8a16", "fp8_w8a16"])
def test_a_layer_without_a_gate_may_have_an_odd_width(scheme: str) -> None:
    plain = layer(RELU2, 7)
    x, want = torch.randn(5, H), plain.w_gate_up.detach().clone()
    near = plain(x)
    assert quantize_experts(plain, scheme) == [""]
    assert isinstance(plain.w_gate_up, FrozenWeight)
    assert torch.equal(plain.w_gate_up.weight.data, quantize(want, scheme).data)
    assert (plain(x) - near).square().mean() < 0.01 * near.square().mean()


@pytest.mark.parametrize(
    ("activation", "halves"),
    [(RELU2, 1), (GPT_OSS, 1), (Activation(), 2), (Activation("gelu", limit=1.0), 2)],
)
def test_blocks_are_cut_between_gate_and_up_alone(activation: Activation, halves: int) -> None:
    plain = layer(activation, 96)  # no multiple of a block's 128 rows
    want = quantize(plain.w_gate_up.detach(), "fp8_w8a16", group_size=128, halves=halves)
    quantize_experts(plain, "fp8_w8a16", group_size=128)
    got = plain.w_gate_up.weight
    assert torch.equal(got.scale, want.scale)
    assert torch.equal(dequantize(got, torch.float32), dequantize(want, torch.float32))


@pytest.mark.parametrize("activation", WITHOUT_HALVES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_calibration_without_settings_smooths_what_it_can(
    scheme: str, activation: Activation
) -> None:
    model = language_model(activation)
    want = logits(model)
    assert len(quantize_experts(model, scheme, calibration=[IDS])) == 2
    assert (logits(model) - want).square().mean() < 0.2 * want.square().mean()


# -- smoothing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", LINEAR)
def test_smoothing_within_stays_exact(activation: Activation) -> None:
    model = language_model(activation)
    want, was = logits(model), model.layers[0].moge.w_down.detach().clone()
    smooth_experts(model, [IDS], Smoothing(within=True))
    torch.testing.assert_close(logits(model), want, rtol=0.0, atol=4e-6 * float(want.abs().max()))
    assert not torch.equal(model.layers[0].moge.w_down, was)


@pytest.mark.parametrize("activation", LINEAR)
def test_ranges_within_are_of_the_own_activation(activation: Activation) -> None:
    moge, x = layer(activation), 3.0 * torch.randn(40, H)
    observers = [Observer("") for _ in range(E)]
    moge.register_forward_hook(smoothing._watch_within(observers), with_kwargs=True)
    with torch.no_grad():
        gating = moge(x, return_routing=True).gating
        for e, observer in enumerate(observers):
            rows = x[(gating.experts == e).any(1)]
            act = activate(rows @ moge.w_gate_up[e].T, *activation)
            torch.testing.assert_close(observer.ranges(), act.abs().amax(0))


@pytest.mark.parametrize(
    "activation",
    [*WITHOUT_HALVES, Activation(limit=7.0), Activation(shift=1.0)],
)
def test_smoothing_within_refuses_what_is_not_linear(activation: Activation) -> None:
    model = language_model(activation)
    want = {name: x.clone() for name, x in model.state_dict().items()}
    said = r"within must be False for 'layers\.0\.moge': only experts with gate and up in two "
    with pytest.raises(ValueError, match=said):
        smooth_experts(model, [IDS], Smoothing(within=True))
    assert all(torch.equal(x, want[name]) for name, x in model.state_dict().items())
    before = logits(model)
    smooth_experts(model, [IDS])  # the norm's channels may be smoothed before any activation
    torch.testing.assert_close(
        logits(model), before, rtol=0.0, atol=4e-6 * float(before.abs().max())
    )


# -- names, and the released layout ---------------------------------------------------------------


@pytest.mark.parametrize("activation", WITHOUT_HALVES)
def test_a_state_without_halves_is_whole(activation: Activation) -> None:
    moge = layer(activation, 7)
    state = state_dict(moge)
    for name, x in moge.state_dict().items():
        assert state[name].shape == x.shape, name
        assert state[name].data_ptr() == x.data_ptr(), name
    optimizer = torch.optim.AdamW(moge.parameters())
    averages = optimizer_state_dict(moge, optimizer)
    assert averages["w_gate_up.exp_avg"].shape == moge.w_gate_up.shape
    assert averages["shared_gate_up.exp_avg"].shape == moge.shared_gate_up.shape


@pytest.mark.parametrize("activation", [*LINEAR, Activation(limit=7.0, shift=1.0)])
def test_a_state_has_the_halves_apart(activation: Activation) -> None:
    moge = layer(activation, 7)
    state = state_dict(moge)
    assert state["w_gate_up"].shape == (E, 2, 7, H)
    assert torch.equal(state["w_gate_up"][:, 1], moge.w_gate_up[:, 7:])
    assert state["shared_gate_up"].shape == (2, S, H)


@pytest.mark.parametrize("activation", [*WITHOUT_HALVES, Activation("gelu")])
def test_the_released_layout_has_swiglu_alone(activation: Activation, tmp_path: Path) -> None:
    said = r"layers\.0\.moge\.activation must be SwiGLU, .* got " + re.escape(str(activation))
    model = language_model(activation)
    for _ in ("plain", "quantised"):
        with pytest.raises(ValueError, match=said):
            checkpoint.save_pretrained(model, tmp_path)
        if not isinstance(model.layers[0].moge.w_down, FrozenWeight):
            quantize_experts(model, "fp8_w8a16", group_size=128)
    assert not list(tmp_path.iterdir())
    checkpoint.save_pretrained(PanguMoEForCausalLM(CONFIG), tmp_path)
    with torch.device("meta"):
        model = language_model(activation)
    with pytest.raises(ValueError, match=r"layers\.0\.moge\.activation of model must be SwiGLU"):
        offload.load(tmp_path, model=model)


# -- surgery --------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", WITHOUT_HALVES)
def test_surgery_moves_whole_experts_and_refuses_to_cut_them(activation: Activation) -> None:
    moge, x = layer(activation), torch.randn(9, H)
    want = moge(x)
    permute_experts(moge, torch.arange(E).view(G, -1).flip(1).flatten())
    torch.testing.assert_close(moge(x), want)
    scores = {"": Sensitivity(torch.rand(E, F), torch.rand(S))}
    said = re.escape("the layer must have gate and up in two halves to be slimmed")
    with pytest.raises(ValueError, match=said):
        slim_experts(moge, 16, scores)
    with pytest.raises(ValueError, match=said):
        expert_sensitivity(moge, [x])
    rows = moge.w_gate_up[1::2].clone()
    prune_experts(moge, {"": torch.arange(E) % 2 == 1})
    assert torch.equal(moge.w_gate_up, rows)
    assert moge(x).shape == x.shape
