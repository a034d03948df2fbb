"""Smoothing leaves what a model computes as it is, to the bit, and evens out its channels."""

import copy
import dataclasses
import io
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.nn import FrozenWeight, MoGE
from moge_ops.quant import Smoothing, quantize_experts, smooth_experts
from moge_ops.quant import smoothing as module
from moge_ops.quant._observer import Observer
from moge_ops.testing import backend

V, H = 53, 32
CONFIG = PanguMoEConfig(
    vocab_size=V,
    hidden_size=H,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_experts=16,
    num_groups=4,
    num_experts_per_tok=4,
    moe_intermediate_size=32,
    shared_expert_intermediate_size=16,
    max_position_embeddings=64,
    initializer_range=0.2,
    bos_token_id=1,
    eos_token_id=2,
)
OUTLIERS = [3, 17]
IDS = torch.randint(V, (4, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _torch_backend() -> Iterator[None]:
    torch.manual_seed(0)
    with backend("torch"):
        yield


def pangu(config: PanguMoEConfig = CONFIG) -> PanguMoEForCausalLM:
    """With outlying channels before the experts of every layer."""
    model = PanguMoEForCausalLM(config)
    with torch.no_grad():
        for layer in model.layers:
            layer.moge_norm.weight[OUTLIERS] *= 50.0
            layer.moge.gate[:, OUTLIERS] /= 50.0
            layer.moge.w_gate_up[..., OUTLIERS] /= 50.0
            layer.moge.shared_gate_up[:, OUTLIERS] /= 50.0
    return model


def logits(model: nn.Module, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        out = model(ids)
    return out if isinstance(out, Tensor) else out.logits


def same(model: nn.Module, want: dict[str, Tensor]) -> bool:
    return all(torch.equal(x, want[name]) for name, x in model.state_dict().items())


# -- ranges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("percentile", "rank"), [(0.01, 1), (50.0, 500), (99.0, 990), (99.9, 999), (100.0, 1000)]
)
def test_percentile_is_at_most_a_sixteenth_too_large(percentile: float, rank: int) -> None:
    x = torch.randn(1000, 7) * torch.tensor([1e-3, 0.1, 1.0, 3.0, 50.0, 2e4, 0.0])
    observer = Observer("x", percentile)
    for part in x.split(300):
        observer.update(part)
    exact = x.abs().sort(0).values[rank - 1]
    found = observer.ranges()
    assert (found >= exact).all()
    assert (found <= (exact * (1 + 1 / 16)).clamp(min=2.0**-16 * 17 / 16)).all()
    assert found[-1] == 0.0


def test_percentile_leaves_rare_outliers_out_and_minmax_does_not() -> None:
    x = torch.ones(10_000, 2)
    x[5, 0] = 1000.0
    ranges = {}
    for percentile in (None, 99.9):
        observer = Observer("x", percentile)
        observer.update(x)
        ranges[percentile] = observer.ranges()
    assert ranges[None].tolist() == [1000.0, 1.0]
    assert ranges[99.9][0] <= 17 / 16
    assert ranges[99.9][1] == 1.0


def test_order_of_batches_does_not_matter() -> None:
    parts = torch.randn(6, 50, 3).unbind()
    found = []
    for order in (parts, parts[::-1]):
        observer = Observer("x", 90.0)
        for part in order:
            observer.update(part)
        found.append(observer.ranges())
    assert torch.equal(*found)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_observer_refuses_numbers_that_are_not_finite(bad: float) -> None:
    with pytest.raises(ValueError, match=r"norm: calibration must give finite numbers"):
        Observer("norm").update(torch.tensor([[1.0, bad]]))


def test_observer_without_a_row() -> None:
    observer = Observer("norm")
    observer.update(torch.empty(0, 3))
    with pytest.raises(ValueError, match="norm: calibration must give at least one token"):
        observer.ranges()


def test_factors_by_hand() -> None:
    activations = torch.tensor([64.0, 1.0, 0.0, 8.0, 1.0])
    weights = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.25])
    # log2 s = 3, 0, -, -, 1 for alpha 1/2; the mean over live channels is 4/3
    assert module._exponents(activations, weights, 0.5).tolist() == [2, -1, 0, 0, 0]
    # alpha 1 looks at activations alone: 6, 0, -, -, 0 less 2
    assert module._exponents(activations, weights, 1.0).tolist() == [4, -2, 0, 0, -2]
    # none is live, and none is too far
    assert module._exponents(torch.zeros(2), weights[:2], 0.5).tolist() == [0, 0]
    far = module._exponents(torch.tensor([1e30, 1e-30]), torch.ones(2), 1.0)
    assert far.tolist() == [10, -10]


@pytest.mark.parametrize("sign", [1, -1])
def test_factors_in_float16_by_hand(sign: int) -> None:
    least, most = 2.0**-14, 65504.0  # normal numbers
    channels = [[8 * least, 1.0], [-least, 0.0], [0.0, 0.0], [1.0, -most / 4], [least / 1024, 1.0]]
    part = module._Part(torch.tensor(channels).half(), [1], sign)
    for wish, want in ((-10, [-3, 0, -10, -10, 0]), (10, [10, 10, 10, 2, 10])):
        found = module._bounded(torch.full((5,), sign * wish), [part])
        assert (sign * found).tolist() == want


# -- the reference model --------------------------------------------------------------------------


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("observer", ["minmax", "percentile"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_logits_stay_the_same(dtype: torch.dtype, observer: str, within: bool) -> None:
    model = pangu().to(dtype)
    before, routers = logits(model), [layer.moge.gate.clone() for layer in model.layers]
    done = smooth_experts(model, [IDS], Smoothing(0.7, observer, 99.0, within))
    assert done == ["layers.0.moge_norm", "layers.1.moge_norm"]
    assert torch.equal(logits(model), before)
    for layer, gate in zip(model.layers, routers, strict=True):
        assert not torch.equal(layer.moge.gate, gate)


def narrow(model: nn.Module) -> nn.Module:
    """In float16, with weights at its lower end."""
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if name.endswith("w_gate_up"):
                parameter[0, :, OUTLIERS[0]] = 3e-7  # subnormal
                parameter[1, :4, OUTLIERS[1]] = 6.2e-5
                parameter[2, -1, :4] = 7e-5  # of up: an expert's own factor divides it too
            elif name.endswith("norm.weight"):
                parameter[7] = 1e-4
    return model.half()


@pytest.mark.parametrize("within", [False, True])
def test_float16_loses_no_bit_of_a_parameter(within: bool) -> None:
    model = narrow(pangu())
    before, old = logits(model), copy.deepcopy(model.state_dict())
    # the norm before the experts has numbers that are subnormal, and differ when its weight doubles
    assert smooth_experts(model, [IDS.repeat(4, 1)], Smoothing(0.7, within=within))
    # activations are subnormal here and there
    assert (logits(model) - before).abs().max() <= 2.0**-8 * before.abs().max()
    moved = 0
    for name, x in model.state_dict().items():
        mantissas = [torch.frexp(y.double()).mantissa for y in (x, old[name])]
        assert torch.equal(*mantissas), name
        moved += not torch.equal(x, old[name])
    assert moved == (10 if within else 8)


def test_router_keeps_its_logits_in_its_own_dtype() -> None:
    model = pangu(dataclasses.replace(CONFIG, router_dtype="float32"))
    for name, parameter in model.named_parameters():
        if "gate" not in name.split(".") and "router_scale" not in name:
            parameter.data = parameter.data.bfloat16()
    before = model(IDS, return_details=True)
    smooth_experts(model, [IDS])
    after = model(IDS, return_details=True)
    assert model.layers[0].moge.gate.dtype == torch.float32
    for was, now in zip(before.router_logits, after.router_logits, strict=True):
        assert was.dtype == torch.float32
        assert torch.equal(was, now)


def test_factors_are_those_of_the_formula() -> None:
    model = pangu()
    old = copy.deepcopy(model)
    seen: dict[int, Tensor] = {}
    for i, layer in enumerate(old.layers):
        layer.moge_norm.register_forward_hook(
            lambda _, args, out, i=i: seen.__setitem__(i, out.flatten(0, 1).abs().amax(0))
        )
    logits(old)
    smooth_experts(model, [IDS])
    for i, (layer, was) in enumerate(zip(model.layers, old.layers, strict=True)):
        of_experts = was.moge.w_gate_up.abs().amax((0, 1))  # of all, gate and up
        w = torch.maximum(of_experts, was.moge.shared_gate_up.abs().amax(0))
        s = (seen[i] / w).sqrt().log2()
        s = 2.0 ** (s - s.mean()).round()
        assert torch.equal(layer.moge_norm.weight, was.moge_norm.weight / s)
        for name in ("gate", "w_gate_up", "shared_gate_up"):
            assert torch.equal(getattr(layer.moge, name), getattr(was.moge, name) * s), name
        assert torch.equal(layer.moge.w_down, was.moge.w_down)
        assert s[OUTLIERS].min() > s.median()


def test_within_an_expert_up_and_down_even_out() -> None:
    model = PanguMoEForCausalLM(CONFIG)
    F_ = CONFIG.moe_intermediate_size
    with torch.no_grad():
        model.layers[0].moge.w_gate_up[:, F_] *= 64.0  # the first up row
        model.layers[0].moge.w_down[:, :, 0] /= 64.0
    old = copy.deepcopy(model)
    ids = torch.randint(V, (4, 50))
    smooth_experts(model, [ids], Smoothing(within=True))
    was, now = old.layers[0].moge, model.layers[0].moge
    counts = old(ids, return_details=True).gating[0].counts
    assert (counts < 32).any()  # such an expert stays
    for e, rows in enumerate(counts.tolist()):
        s = (now.w_down[e] / was.w_down[e]).nanmedian(0).values  # [F]
        assert torch.equal(now.w_down[e], was.w_down[e] * s)
        assert (s[0] > 2.0) == (rows >= 32)
        assert rows >= 32 or (s == 1.0).all()


def test_experts_that_no_token_chose() -> None:
    model = pangu()
    for layer in model.layers:
        mask = torch.ones(16, dtype=torch.bool)
        mask[::4] = False
        layer.moge.expert_mask = mask
    before = logits(model)
    smooth_experts(model, [IDS], Smoothing(within=True))
    assert torch.equal(logits(model), before)


def test_dead_channels_stay() -> None:
    model = pangu()
    with torch.no_grad():
        model.layers[0].moge_norm.weight[4] = 0.0
        model.layers[0].moge.w_gate_up[..., 5] = 0.0
        model.layers[0].moge.shared_gate_up[..., 5] = 0.0
    old = copy.deepcopy(model)
    smooth_experts(model, [IDS])
    columns = [4, 5]
    was, now = old.layers[0].moge.gate[:, columns], model.layers[0].moge.gate[:, columns]
    assert torch.equal(was, now)
    assert torch.equal(logits(model), logits(old))


def test_repairs_what_outliers_do_to_int8() -> None:
    model = pangu()
    want, error = logits(model), {}
    for calibration in (None, [IDS]):
        few = copy.deepcopy(model)
        assert len(quantize_experts(few, "int8_w8a8", calibration=calibration)) == 2
        assert isinstance(few.layers[0].moge.w_down, FrozenWeight)
        error[calibration is None] = (logits(few) - want).square().mean().sqrt()
    assert error[False] < 0.3 * error[True]


@pytest.mark.parametrize(
    ("scheme", "within"),
    [("int8_w8a8", True), ("int4_w4a8", True), ("int8_w8a16", False), ("int4_w4a16", False)],
)
def test_evens_out_within_experts_where_activations_are_rounded(scheme: str, within: bool) -> None:
    want = pangu()
    model = copy.deepcopy(want)
    ids = IDS.repeat(4, 1)  # so that every expert has tokens enough
    smooth_experts(want, [ids], Smoothing(within=within))
    quantize_experts(want, scheme)
    other = copy.deepcopy(model)
    quantize_experts(model, scheme, calibration=[ids])
    assert same(model, want.state_dict())
    quantize_experts(other, scheme, calibration=[ids], smoothing=Smoothing(within=not within))
    assert not torch.equal(other.layers[0].moge.w_down.scale, model.layers[0].moge.w_down.scale)


def test_batches_may_be_sequences_and_come_from_a_generator() -> None:
    models = [pangu() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    smooth_experts(models[0], [IDS[:2], IDS[2:]])
    smooth_experts(models[1], (row.int() for row in IDS))
    want = models[0].state_dict()
    assert all(torch.equal(x, want[name]) for name, x in models[1].state_dict().items())


def test_training_mode_comes_back() -> None:
    model = pangu().train()
    model.layers[1].eval()
    smooth_experts(model, [IDS])
    assert model.training
    assert model.layers[0].moge.training
    assert not model.layers[1].training


@pytest.mark.parametrize("terminal", [True, False])
def test_shows_progress_on_a_terminal_alone(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = io.StringIO()
    monkeypatch.setattr(said, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", said)
    smooth_experts(pangu(), [IDS, IDS])
    smooth_experts(pangu(), iter([IDS]))
    shown = said.getvalue()
    if terminal:
        assert "\rcalibration [##########          ] 1 of 2 batches" in shown
        assert "\rcalibration [####################] 2 of 2 batches\n" in shown
        assert shown.endswith("\rcalibration 1 batches\n")
    else:
        assert not shown


# -- other models ---------------------------------------------------------------------------------


def hugging_face(name: str) -> Any:
    transformers = pytest.importorskip("transformers", reason="needs the extra 'models'")
    sizes = {
        "vocab_size": V,
        "hidden_size": H,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "num_experts": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "max_position_embeddings": 64,
        "pad_token_id": None,
        "initializer_range": 0.2,
    }
    config = getattr(transformers, f"{name}Config")(**sizes)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.post_attention_layernorm.weight[OUTLIERS] *= 8.0
    return model


# stacked; transposed and with biases; with a shared expert that has a gate
@pytest.mark.parametrize("name", ["Qwen3Moe", "GptOss", "Qwen2Moe"])
def test_transformers_models_stay_the_same(name: str) -> None:
    model = hugging_face(name)
    before, old = logits(model), copy.deepcopy(model)
    done = smooth_experts(model, [IDS])
    assert done == [f"model.layers.{i}.post_attention_layernorm" for i in range(2)]
    assert torch.equal(logits(model), before)
    norms = [m.model.layers[0].post_attention_layernorm.weight for m in (old, model)]
    assert (norms[1] / norms[0])[OUTLIERS].max() < 1.0


def test_pangu_of_transformers_stays_the_same() -> None:
    pytest.importorskip("transformers", reason="needs the extra 'models'")
    from moge_ops.integrations.pangu_auto import PanguProMoEConfig, PanguProMoEForCausalLM

    model = PanguProMoEForCausalLM(PanguProMoEConfig(**CONFIG.to_dict())).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.moge_norm.weight[OUTLIERS] *= 8.0
    before = logits(model)
    done = quantize_experts(model, "int8_w8a8", calibration=[IDS])
    assert done == [f"model.layers.{i}.moge" for i in range(2)]
    assert (logits(model) - before).abs().max() < 0.1 * before.abs().max()
    assert model.model.layers[0].moge_norm.weight[OUTLIERS].max() < 8.0


class Block(nn.Module):
    """A layer of experts after a norm, and whatever else reads the norm."""

    def __init__(self, norm: nn.Module, other: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(V, H)
        self.norm = norm
        self.moge = MoGE(H, 16, 8, 4)
        self.other = other
        with torch.no_grad():
            for parameter in norm.parameters():
                parameter[OUTLIERS] *= 50.0

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.embed(ids))
        y: Tensor = self.moge(x)
        return y if self.other is None else y + self.other(x)


class ZeroCentred(nn.RMSNorm):
    """As in Gemma: one is added to the weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (H,)) * (1.0 + self.weight)


def test_layer_norm_with_bias_and_other_readers() -> None:
    norm = nn.LayerNorm(H)
    nn.init.normal_(norm.bias)
    model = Block(norm, nn.Linear(H, H))
    before, old = logits(model), copy.deepcopy(model)
    assert smooth_experts(model, [IDS]) == ["norm"]
    assert torch.equal(logits(model), before)
    assert not torch.equal(model.other.weight, old.other.weight)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: Block(nn.Identity()), "smoothing needs a norm whose output moge reads, found"),
        (lambda: Block(ZeroCentred(H)), "norm must be a norm whose output is a multiple of its"),
        (lambda: Block(nn.RMSNorm(H), nn.Bilinear(H, H, 3)), "other reads norm too, and smoothing"),
        (lambda: Block(nn.RMSNorm(H), lambda x: x), "smoothing would change what Block computes"),
        (lambda: nn.Sequential(nn.Embedding(V, H)), "read, found none in Sequential"),
    ],
    ids=["no norm", "zero-centred", "unknown reader", "hidden reader", "no experts"],
)
def test_what_cannot_be_smoothed_stays_as_it_was(
    model: Callable[[], nn.Module], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = model()
    if isinstance(getattr(made, "other", None), nn.Bilinear):
        monkeypatch.setattr(nn.Bilinear, "forward", lambda self, x: x @ self.weight[0])
    before = copy.deepcopy(made.state_dict())
    with pytest.raises(ValueError, match=said):
        smooth_experts(made, [IDS])
    assert same(made, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
@pytest.mark.parametrize("size", [3e-3, 1.0])
def test_hidden_readers_are_found_in_16_bits_too(dtype: torch.dtype, size: float) -> None:
    weight = size * torch.randn(H, H, dtype=torch.float64).to(dtype)
    model = Block(nn.RMSNorm(H), lambda x: F.linear(x, weight))
    model = narrow(model) if dtype == torch.float16 else model.to(dtype)
    before, old = logits(model), copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="smoothing would change what Block computes"):
        smooth_experts(model, [IDS])
    assert same(model, old)
    assert torch.equal(logits(model), before)


def test_factors_within_are_put_back_before_those_of_the_norm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Block(nn.RMSNorm(H), lambda x: x).half()
    with torch.no_grad():
        model.moge.w_gate_up.uniform_(1e-4, 2e-4)  # a factor of 1/32 alone would lose bits
    monkeypatch.setattr(
        module, "_exponents", lambda seen, weights, alpha: torch.full_like(weights, 5).int()
    )
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="smoothing would change what Block computes"):
        smooth_experts(model, [IDS], Smoothing(within=True))
    assert same(model, before)


def test_readers_of_few_tokens_are_found() -> None:
    class Last(Block):
        def forward(self, ids: Tensor, logits_to_keep: int = 0) -> Tensor:
            return super().forward(ids)[:, -logits_to_keep:]

    model = Last(nn.RMSNorm(H), lambda x: x * (torch.arange(x.shape[1]) == 3).unsqueeze(1))
    with pytest.raises(ValueError, match="smoothing would change what Last computes"):
        smooth_experts(model, [IDS])


class Noisy(Block):
    """Two runs are not quite the same."""

    def forward(self, ids: Tensor) -> Tensor:
        y = super().forward(ids)
        return y + 1e-3 * torch.rand_like(y)


def test_noise_between_two_runs_is_no_change() -> None:
    assert smooth_experts(Noisy(nn.RMSNorm(H)), [IDS]) == ["norm"]
    model = Noisy(nn.RMSNorm(H), lambda x: x)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="smoothing would change what Noisy computes"):
        smooth_experts(model, [IDS])
    assert same(model, before)


def test_error_between_two_changes_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pangu()
    before = copy.deepcopy(model.state_dict())

    def fail(exponent: Tensor, parts: Any) -> Tensor:
        if not same(model, before):
            raise torch.OutOfMemoryError
        return exponent

    monkeypatch.setattr(module, "_bounded", fail)
    with pytest.raises(torch.OutOfMemoryError):
        smooth_experts(model, [IDS])
    assert same(model, before)


def test_norm_of_large_float16_weights_stays() -> None:
    model = Block(nn.RMSNorm(H)).half()
    with torch.no_grad():
        model.embed.weight[:, OUTLIERS[0]] = 0.01
        model.norm.weight[OUTLIERS[0]] = 6e4  # twice that is inf
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="norm must be a norm whose output is a multiple"):
        smooth_experts(model, [IDS])
    assert same(model, before)


def test_split_layers_are_refused() -> None:
    class Split(MoGE):
        pass

    model = Block(nn.RMSNorm(H))
    model.moge = Split(H, 16, 8, 4)
    with pytest.raises(ValueError, match="moge must be smoothed before it is split, got Split"):
        smooth_experts(model, [IDS])


def test_quantised_experts_are_refused() -> None:
    model = pangu()
    quantize_experts(model, "int8_w8a16")
    with pytest.raises(ValueError, match=r"layers.0.moge.w_gate_up is quantised already"):
        smooth_experts(model, [IDS])


@pytest.mark.parametrize(
    ("calibration", "error", "said"),
    [
        ([], ValueError, "at least one batch of tokens, got none"),
        (IDS, TypeError, "an iterable of batches, got one Tensor"),
        ([IDS.float()], TypeError, "tensors of token ids, got torch.float32"),
        ([[1, 2]], TypeError, "tensors of token ids, got list"),
        ([IDS[:, :0]], ValueError, r"\[B, L\] or \[L\] ids, got \[4, 0\]"),
        ([IDS[None]], ValueError, r"\[B, L\] or \[L\] ids, got \[1, 4, 24\]"),
        ([IDS, IDS + V], ValueError, "input_ids must be in"),
    ],
    ids=["none", "tensor", "floats", "list", "empty", "3-d", "unknown ids"],
)
def test_bad_calibration_changes_nothing(
    calibration: Any, error: type[Exception], said: str
) -> None:
    model = pangu()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=said):
        quantize_experts(model, "int8_w8a8", calibration=calibration)
    assert same(model, before)


def test_activations_that_are_not_finite_change_nothing() -> None:
    model = pangu()
    with torch.no_grad():
        model.embed.weight[7] = torch.nan
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"layers.0.moge_norm: calibration must give finite"):
        smooth_experts(model, [torch.tensor([1, 2]), torch.tensor([6, 7])])
    del before["embed.weight"]
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in before.items())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Smoothing(alpha=1.5), r"alpha must be in \[0, 1\], got 1.5"),
        (Smoothing(alpha=float("nan")), r"alpha must be in \[0, 1\], got nan"),
        (Smoothing(observer="mean"), "observer must be"),
        (Smoothing(percentile=0.0), r"percentile must be in \(0, 100\], got 0.0"),
    ],
)
def test_bad_settings(settings: Smoothing, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        smooth_experts(pangu(), [IDS], settings)
