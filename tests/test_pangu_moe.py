"""The model agrees with the released modelling code's output, and with formulas in numpy."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from moge_ops.models import KVCache, PanguMoEConfig, PanguMoEForCausalLM, checkpoint
from moge_ops.models.generation import Sampler
from moge_ops.nn import MoGEOutput

HERE = Path(__file__).parent
FOLDER = HERE / "data" / "pangu_tiny"
reference = runpy.run_path(str(HERE / "reference_pangu.py"))

# limits of the largest error over the largest value; angles are float32 in either dtype
EXACT = {torch.float32: 1e-5, torch.float64: 1e-6}


def config(**changes: Any) -> PanguMoEConfig:
    sizes = {
        "vocab_size": 31,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_experts": 12,
        "num_experts_per_tok": 4,
        "num_groups": 4,
        "moe_intermediate_size": 9,
        "shared_expert_intermediate_size": 14,
        "max_position_embeddings": 64,
        "eos_token_id": None,
    }
    return PanguMoEConfig(**{**sizes, **changes})


def random_model(dtype: torch.dtype = torch.float32, **changes: Any) -> PanguMoEForCausalLM:
    """A model whose weights are so large that every part of it matters."""
    model = PanguMoEForCausalLM(config(**changes)).to(dtype)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape) * (1.0 if p.ndim == 1 else 2.0 * p.shape[-1] ** -0.5))
            if "norm" in name or "router_scale" in name:
                p.copy_(1.0 + 0.2 * torch.randn(p.shape))
    return model.eval()


def ids_of(B: int, L: int) -> Tensor:
    return torch.randint(0, 31, (B, L))


def released(model: PanguMoEForCausalLM) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model's tensors in numpy under their released names, and its config."""
    tensors = {name: part.double().cpu().numpy() for name, part in checkpoint.released(model)}
    return tensors, model.config.to_dict()


def error(actual: Tensor, oracle: Any) -> float:
    """Largest error over the largest value."""
    wide = np.asarray(oracle, dtype=np.float64)
    assert tuple(actual.shape) == wide.shape
    return float(np.abs(actual.detach().double().numpy() - wide).max() / np.abs(wide).max())


def rms(actual: Any, oracle: Any) -> float:
    return float(np.sqrt(np.mean((actual - oracle) ** 2) / np.mean(oracle**2)))


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    with np.load(FOLDER / "golden.npz") as file:
        return dict(file)


@pytest.fixture
def load() -> Callable[..., PanguMoEForCausalLM]:
    return lambda **options: checkpoint.from_pretrained(FOLDER, **options)


class TestReleasedCode:
    """The golden values are the released modelling code's: float32, attention without a cache."""

    @pytest.mark.parametrize("which", ["", "_2"], ids=["two-rows", "one-row"])
    def test_logits(self, which: str, golden: dict[str, Any], load: Any) -> None:
        logits = load()(torch.from_numpy(golden[f"input_ids{which}"]))
        assert error(logits, golden[f"logits{which}"]) < 1e-5

    def test_every_layer(self, golden: dict[str, Any], load: Any) -> None:
        model, layer_outputs, moges = load(), [], []
        for layer in model.layers:
            layer.register_forward_hook(lambda *a: layer_outputs.append(a[-1][0]))
            layer.moge.register_forward_hook(lambda _, x, y: moges.append((x[0], y.y)))
        out = model(torch.from_numpy(golden["input_ids"]), return_details=True)
        for i, (state, want) in enumerate(
            zip(out.hidden_states, golden["hidden_states"], strict=True)
        ):
            assert error(state, want) < 1e-5, f"hidden state {i}"
        for i, layer in enumerate(model.layers):
            assert error(layer_outputs[i], golden["layer_outputs"][i]) < 1e-5, f"layer {i}"
            assert error(out.router_logits[i], golden["router_logits"][i]) < 1e-5, f"router {i}"
            ids = out.gating[i].experts
            assert torch.equal(ids.long(), torch.from_numpy(golden["selected_experts"][i]))
            weights = golden["routing_weights"][i] * layer.moge.router_scale.detach()[ids].numpy()
            assert error(out.gating[i].weights, weights) < 1e-5, f"weights {i}"
        assert error(moges[0][0], golden["moe_input"]) < 1e-5
        assert error(moges[0][1], golden["moe_output"]) < 1e-5

    def test_the_limit_sees_a_wrong_eps(self, golden: dict[str, Any], load: Any) -> None:
        model = load()
        assert {m.eps for m in model.modules() if isinstance(m, torch.nn.RMSNorm)} == {1e-5}
        for module in model.modules():
            if isinstance(module, torch.nn.RMSNorm):
                module.eps = 1e-6
        logits = model(torch.from_numpy(golden["input_ids"]))
        assert error(logits, golden["logits"]) > 1e-5

    def test_greedy_tokens_with_the_cache(self, golden: dict[str, Any], load: Any) -> None:
        prompt = torch.from_numpy(golden["input_ids_2"])
        out = load().generate(prompt, 12, temperature=0)
        assert torch.equal(out, torch.cat([prompt, torch.from_numpy(golden["greedy_tokens"])], 1))

    def test_greedy_tokens_without_the_cache(self, golden: dict[str, Any], load: Any) -> None:
        model, ids = load(), torch.from_numpy(golden["input_ids_2"])
        for want, want_logits in zip(
            golden["greedy_tokens"][0], golden["greedy_logits"], strict=True
        ):
            logits = model(ids)[0, -1]
            assert error(logits, want_logits) < 1e-5
            assert int(logits.argmax()) == want
            ids = torch.cat([ids, logits.argmax().view(1, 1)], 1)

    def test_bfloat16_is_as_near_as_the_released_code(
        self, golden: dict[str, Any], load: Any
    ) -> None:
        model = load(dtype=torch.bfloat16)
        logits = [model(torch.from_numpy(golden[f"input_ids{s}"])).float() for s in ("", "_2")]
        ours, theirs, wide = (
            np.concatenate([np.ravel(part) for part in parts])
            for parts in (
                [x.detach() for x in logits],
                [golden["logits_bf16"], golden["logits_bf16_2"]],
                [golden["logits"], golden["logits_2"]],
            )
        )
        rounding = rms(theirs, wide)
        assert rms(ours, theirs) < 1.5 * rounding
        assert rms(ours, wide) < 1.5 * rounding

    def test_the_formulas_in_numpy_give_the_same(self, golden: dict[str, Any]) -> None:
        values = json.loads((FOLDER / "config.json").read_text())
        out = reference["forward"](
            load_file(FOLDER / "model.safetensors"), values, golden["input_ids"]
        )
        assert np.array_equal(out["selected_experts"], golden["selected_experts"])
        for name in ("logits", "hidden_states", "router_logits", "routing_weights"):
            assert error(torch.from_numpy(out[name]), golden[name]) < 1e-5, name


SHAPES = [
    pytest.param({}, id="three-experts-in-each-of-four-groups"),
    pytest.param({"num_groups": 2, "num_experts": 10}, id="two-of-five-in-each-group"),
    pytest.param({"num_groups": 1, "num_experts": 7}, id="plain-top-k-odd-experts"),
    pytest.param({"num_key_value_heads": 4}, id="as-many-keys-as-queries"),
    pytest.param({"num_key_value_heads": 1, "num_hidden_layers": 1}, id="one-key-head"),
    pytest.param({"num_attention_heads": 12, "num_key_value_heads": 3}, id="heads-of-two"),
    pytest.param({"shared_expert_intermediate_size": 0}, id="no-shared-expert"),
    pytest.param({"rope_theta": 100.0, "rms_norm_eps": 0.3}, id="other-theta-and-eps"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("changes", SHAPES)
def test_agrees_with_the_formulas(changes: dict[str, Any], dtype: torch.dtype) -> None:
    model, ids = random_model(dtype, **changes), ids_of(2, 7)
    out, want = model(ids, return_details=True), reference["forward"](*released(model), ids.numpy())
    assert out.logits.dtype is dtype
    assert error(out.logits, want["logits"]) < EXACT[dtype]
    for i, layer in enumerate(model.layers):
        assert error(out.hidden_states[i], want["hidden_states"][i]) < EXACT[dtype], i
        assert error(out.router_logits[i], want["router_logits"][i]) < EXACT[dtype], i
        ids_i = out.gating[i].experts
        assert np.array_equal(ids_i.numpy(), want["selected_experts"][i])
        weights = want["routing_weights"][i] * layer.moge.router_scale.detach()[ids_i].numpy()
        assert error(out.gating[i].weights, weights) < EXACT[dtype], i
    assert error(out.hidden_states[-1], want["hidden_states"][-1]) < EXACT[dtype]


@pytest.mark.slow_on("triton")
def test_every_backend_gives_the_same_logits_and_gradients(device: str) -> None:
    model, ids = random_model(num_hidden_layers=1).to(device), ids_of(2, 3)
    want = reference["forward"](*released(model), ids.numpy())["logits"]
    logits = model(ids.to(device))
    assert error(logits.cpu(), want) < EXACT[torch.float32]
    wide = random_model(torch.float64, num_hidden_layers=1)
    wide.load_state_dict({name: x.double().cpu() for name, x in model.state_dict().items()})
    model.loss(ids.to(device)).backward()
    wide.loss(ids).backward()
    for (name, p), q in zip(model.named_parameters(), wide.parameters(), strict=True):
        assert p.grad is not None
        assert error(p.grad.cpu(), q.grad) < 1e-4, name


class TestCache:
    def test_tokens_may_come_in_any_parts(self) -> None:
        model, ids = random_model(torch.float64), ids_of(2, 9)
        want = model(ids)
        for parts in ([9], [4, 5], [3, 1, 5], [1] * 9):
            cache = model.new_cache(2, 9)
            with torch.no_grad():
                logits = [model(part, cache=cache) for part in ids.split(parts, 1)]
            assert cache.length == 9
            assert error(torch.cat(logits, 1), want.detach()) < 1e-12, parts

    def test_shorter_prompts_are_padded_on_the_left(self) -> None:
        model = random_model(torch.float64)
        rows = [ids_of(1, n)[0].tolist() for n in (2, 7, 5)]
        L = max(map(len, rows))
        ids = torch.tensor([[11] * (L - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (L - len(row)) + [1] * len(row) for row in rows])
        logits = model(ids, mask)
        cache = model.new_cache(3, L)
        with torch.no_grad():
            parts = [model(ids[:, a:b], mask[:, :b], cache) for a, b in ((0, 3), (3, 4), (4, L))]
        for i, row in enumerate(rows):
            want = model(torch.tensor([row])).detach()[0]
            assert error(logits[i, L - len(row) :], want) < 1e-12, f"row {i}"
            assert error(torch.cat(parts, 1)[i, L - len(row) :], want) < 1e-12, f"row {i}, cached"

    def test_no_query_sees_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        attend, masks = F.scaled_dot_product_attention, []

        def spy(*args: Any, **kwargs: Any) -> Tensor:
            masks.append(args[3])
            return attend(*args, **kwargs)

        monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
        random_model()(ids_of(2, 4), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]))
        assert all(mask.any(-1).all() for mask in masks)
        assert len(masks) == 2

    def test_only_the_logits_that_are_asked_for(self) -> None:
        model, ids = random_model(torch.float64), ids_of(2, 5)
        assert error(model(ids, logits_to_keep=2), model(ids)[:, -2:].detach()) < 1e-12

    def test_a_forward_that_fails_leaves_the_cache(self) -> None:
        model = random_model()
        cache = model.new_cache(1, 8)
        with torch.no_grad():
            model(ids_of(1, 3), cache=cache)
            with pytest.raises(
                ValueError, match=r"the cache holds 1 rows of 8 tokens, got 1 .* 3 \+ 6"
            ):
                model(ids_of(1, 6), cache=cache)
            with pytest.raises(ValueError, match="holds 1 rows of 8 tokens, got 2 rows"):
                model(ids_of(2, 1), cache=cache)
            with pytest.raises(ValueError, match=r"must be in \[0, 31\), got 31 to 31"):
                model(torch.tensor([[31]]), cache=cache)
        assert cache.length == 3


class TestTraining:
    def test_loss_follows_its_formula(self) -> None:
        model, ids = random_model(torch.float64, router_aux_loss_coef=0.7), ids_of(2, 6)
        out = reference["forward"](*released(model), ids.numpy())
        logp = np.log(reference["softmax"](out["logits"][:, :-1]))
        picked = np.take_along_axis(logp, ids.numpy()[:, 1:, None], -1)
        balance = []
        for logits, chosen in zip(out["router_logits"], out["selected_experts"], strict=True):
            f = np.bincount(chosen.ravel(), minlength=12) * 12 / chosen.size
            balance.append((f * reference["softmax"](logits).mean(0)).sum())
        want = -picked.mean() + 0.7 * np.mean(balance)
        assert model.loss(ids).item() == pytest.approx(want, rel=1e-6)

    def test_labels_that_are_ignored(self) -> None:
        model, ids = random_model(torch.float64, router_aux_loss_coef=0.0), ids_of(1, 6)
        labels = ids.clone()
        labels[:, :4] = -100
        logp = model(ids).log_softmax(-1)
        want = -(logp[0, 3, ids[0, 4]] + logp[0, 4, ids[0, 5]]) / 2
        assert model.loss(ids, labels).item() == pytest.approx(want.item(), rel=1e-12)

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_padding_counts_in_neither_term(self, side: str) -> None:
        model, ids = random_model(torch.float64, router_aux_loss_coef=1.0), ids_of(1, 6)
        pad, ones = torch.full((1, 3), 5), torch.ones(1, 6, dtype=torch.int64)
        both = (pad, ids) if side == "left" else (ids, pad)
        mask = (0 * pad, ones) if side == "left" else (ones, 0 * pad)
        loss = model.loss(torch.cat(both, 1), attention_mask=torch.cat(mask, 1))
        assert loss.item() == pytest.approx(model.loss(ids).item(), rel=1e-12)

    def test_gradients_are_those_of_the_loss(self) -> None:
        model, ids = random_model(torch.float64, router_aux_loss_coef=0.1), ids_of(2, 5)
        model.loss(ids).backward()
        step = 1e-6
        for name, p in model.named_parameters():
            assert p.grad is not None, name
            direction = torch.randn_like(p)
            losses = []
            for sign in (1.0, -1.0):
                with torch.no_grad():
                    p.add_(direction, alpha=sign * step)
                    losses.append(model.loss(ids).item())
                    p.sub_(direction, alpha=sign * step)
            slope = (losses[0] - losses[1]) / (2 * step)
            assert (p.grad * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-8), (
                name
            )

    def test_checkpointing_recomputes_and_changes_nothing(self) -> None:
        model, ids = random_model().train(), ids_of(2, 5)
        calls: list[Any] = []
        for layer in model.layers:
            layer.attention.register_forward_hook(lambda *_: calls.append(_[0]))

        def gradients() -> list[Tensor]:
            model.zero_grad()
            model.loss(ids).backward()
            return [p.grad.clone() for p in model.parameters() if p.grad is not None]

        plain, once = gradients(), len(calls)
        model.gradient_checkpointing = True
        recomputed = gradients()
        assert len(calls) - once == 2 * once == 4
        assert len(plain) == len(list(model.parameters()))
        assert all(map(torch.equal, plain, recomputed))

    def test_it_learns(self) -> None:
        model, ids = PanguMoEForCausalLM(config()), ids_of(4, 8)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        first = model.loss(ids).item()
        for _ in range(25):
            optimizer.zero_grad()
            model.loss(ids).backward()
            optimizer.step()
        assert model.loss(ids).item() < 0.3 * first

    def test_attention_dropout_only_in_training(self) -> None:
        model, ids = random_model(attention_dropout=0.5), ids_of(1, 6)
        assert torch.equal(model(ids), model(ids))
        model.train()
        assert not torch.equal(model(ids), model(ids))

    def test_autocast(self) -> None:
        model, ids = random_model(), ids_of(2, 6)
        want = model.loss(ids)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.loss(ids)
        loss.backward()
        assert loss.item() == pytest.approx(want.item(), rel=0.05)
        assert loss.item() != want.item()
        assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in model.parameters())

    @pytest.mark.slow
    @pytest.mark.parametrize("recompute", [False, True])
    def test_forward_and_loss_are_one_graph(self, recompute: bool) -> None:
        model, ids = random_model().train(), ids_of(2, 5)
        model.gradient_checkpointing = recompute
        whole = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert error(whole(ids), model(ids).detach()) < 1e-6
        torch.compile(model.loss, fullgraph=True, backend="aot_eager")(ids).backward()
        compiled = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        model.loss(ids).backward()
        for (name, p), grad in zip(model.named_parameters(), compiled, strict=True):
            assert error(grad, p.grad) < 1e-5, name

    @pytest.mark.slow
    @pytest.mark.parametrize("masked", [False, True])
    def test_any_length_is_the_same_graph(self, masked: bool) -> None:
        torch._dynamo.reset()  # what other tests compiled may have made the length a symbol
        model, counter = random_model(), CompileCounterWithBackend("aot_eager")
        whole = torch.compile(model, fullgraph=True, backend=counter)
        for n in (10, 7, 12, 9):
            ids = ids_of(2, n)
            mask = torch.ones_like(ids) if masked else None
            assert error(whole(ids, mask), model(ids, mask).detach()) < 1e-6, n
        assert counter.frame_count == 2  # with the first length as a number, then for any


def greedy(model: PanguMoEForCausalLM, row: list[int], n: int) -> list[int]:
    """Greedy tokens without a cache, one row at a time."""
    for _ in range(n):
        row = [*row, int(model(torch.tensor([row]))[0, -1].argmax())]
    return row


class TestGenerate:
    def test_prompts_of_any_lengths(self) -> None:
        model = random_model(torch.float64)
        rows = [ids_of(1, n)[0].tolist() for n in (1, 6, 3)]
        out = model.generate(rows, 5, temperature=0, pad_token_id=30)
        assert out.shape == (3, 11)
        for i, row in enumerate(rows):
            assert out[i].tolist() == [30] * (6 - len(row)) + greedy(model, row, 5), f"row {i}"
        mask = torch.arange(6) >= torch.tensor([[6 - len(row)] for row in rows])
        again = model.generate(
            out[:, :6].masked_fill(~mask, 7), 5, attention_mask=mask, temperature=0, pad_token_id=30
        )
        assert torch.equal(again, out)

    def test_a_row_ends_at_eos_and_the_batch_with_its_last_row(self) -> None:
        model = random_model(torch.float64)
        rows = [ids_of(1, 4)[0].tolist() for _ in range(2)]
        free = [greedy(model, row, 8)[4:] for row in rows]
        ends = [free[0][2], free[1][4]]
        want = []
        for row in free:
            stop = min(row.index(eos) for eos in ends if eos in row)
            want.append(row[: stop + 1])
        n = max(map(len, want))
        steps: list[list[int]] = []
        out = model.generate(
            rows, 8, temperature=0, eos_token_id=ends, pad_token_id=1,
            streamer=lambda ids: steps.append(ids.tolist()),
        )  # fmt: skip
        assert out[:, 4:].tolist() == [row + [1] * (n - len(row)) for row in want]
        assert steps == out[:, 4:].T.tolist()
        assert n < 8

    def test_the_configured_eos_is_the_default(self) -> None:
        model, row = random_model(torch.float64), ids_of(1, 4)[0].tolist()
        free = greedy(model, row, 6)
        model.config.eos_token_id = free[5]
        n = free[4:].index(free[5]) + 1
        assert model.generate([row], 6, temperature=0)[0].tolist() == free[: 4 + n]
        assert model.generate([row], 6, temperature=0, eos_token_id=())[0].tolist() == free

    def test_the_same_seed_gives_the_same_text(self) -> None:
        model, ids = random_model(), ids_of(2, 3)

        def text(seed: int) -> Tensor:
            return model.generate(ids, 20, generator=torch.Generator().manual_seed(seed))

        assert torch.equal(text(1), text(1))
        assert not torch.equal(text(1), text(2))

    def test_a_cache_can_be_used_again(self) -> None:
        model, cache = random_model(torch.float64), KVCache(config(), 1, 12, dtype=torch.float64)
        for _ in range(2):
            row = ids_of(1, 5)[0].tolist()
            out = model.generate([row], 7, temperature=0, cache=cache)
            assert out[0].tolist() == greedy(model, row, 7)

    def test_the_result_can_be_trained_on(self) -> None:
        model = random_model()
        model.loss(model.generate(ids_of(1, 3), 4)).backward()
        assert model.embed.weight.grad is not None

    def test_no_new_tokens(self) -> None:
        ids = ids_of(2, 3)
        assert torch.equal(random_model().generate(ids, 0), ids)

    @pytest.mark.parametrize(
        ("prompts", "options", "said"),
        [
            ([[]], {}, r"every prompt must have a token, got lengths \[0\]"),
            ([[1], []], {}, r"every prompt must have a token, got lengths \[1, 0\]"),
            ([], {}, r"every prompt must have a token, got lengths \[\]"),
            (torch.zeros(1, 0, dtype=torch.long), {}, r"must have a token, got input_ids \[1, 0\]"),
            ([[1, 2], [3, 31]], {}, r"must be in \[0, 31\), got 31 in row 1, column 1"),
            ([[-1]], {}, r"must be in \[0, 31\), got -1 in row 0, column 0"),
            (torch.tensor([[40]]), {}, r"must be in \[0, 31\), got 40"),
            ([[1] * 60], {"max_new_tokens": 5}, r"must fit into 64, got 60 \+ 5"),
            ([[1] * 6], {"cache": KVCache(config(), 1, 8)}, r"must fit into 8, got 6 \+ 4"),
            ([[1]], {"cache": KVCache(config(), 2, 8)}, "holds 2 rows of 8 tokens, got 1 rows"),
            ([[1]], {"max_new_tokens": -1}, "max_new_tokens must be at least 0, got -1"),
            ([[1]], {"temperature": -0.1}, "temperature must be at least 0, got -0.1"),
            ([[1]], {"temperature": float("nan")}, "temperature must be at least 0, got nan"),
            ([[1]], {"top_k": -1}, "top_k must be at least 0, got -1"),
            ([[1]], {"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
            ([[1]], {"top_p": 1.1}, r"top_p must be in \(0, 1\], got 1.1"),
            ([[1]], {"pad_token_id": 31}, r"pad_token_id must be in \[0, 31\), got 31"),
        ],
    )  # fmt: skip
    def test_says_what_is_wrong(self, prompts: Any, options: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            random_model().generate(prompts, **{"max_new_tokens": 4, **options})

    def test_masks_that_are_none(self) -> None:
        model, ids = random_model(), ids_of(1, 3)
        for mask in ([[0.5, 1.0, 1.0]], [[-1, 0, 1]], [[0, 1, 2]]):
            with pytest.raises(ValueError, match="attention_mask must be 0 or 1 everywhere"):
                model.generate(ids, 1, attention_mask=torch.tensor(mask))
        with pytest.raises(ValueError, match="attention_mask must be None for a list"):
            model.generate(ids.tolist(), 1, attention_mask=torch.ones(1, 3))
        with pytest.raises(ValueError, match=r"input_ids must be in \[0, \d+\), got 1\.181e\+21"):
            model.generate([[2**70]], 1)

    def test_wrong_masks_and_types(self) -> None:
        model, ids = random_model(), ids_of(2, 3)
        for mask in ([[1, 1, 0], [1, 1, 1]], [[1, 0, 1], [1, 1, 1]], [[0, 0, 0], [1, 1, 1]]):
            with pytest.raises(ValueError, match="must be zeros and then ones in every row"):
                model.generate(ids, 2, attention_mask=torch.tensor(mask))
        with pytest.raises(
            ValueError, match=r"attention_mask must be \[B, L\] = \[2, 3\], got \[2, 2\]"
        ):
            model.generate(ids, 2, attention_mask=torch.ones(2, 2))
        with pytest.raises(
            ValueError, match=r"attention_mask must be \[B, S\] = \[2, 3\], got \[2, 4\]"
        ):
            model(ids, torch.ones(2, 4))
        with pytest.raises(TypeError, match=r"input_ids must be int32 \| int64, got float32"):
            model.generate(ids.float(), 2)
        listed: Any = [[1, 1, 1]] * 2
        for call in (
            lambda: model(ids, listed),
            lambda: model.generate(ids, 2, attention_mask=listed),
            lambda: model.loss(ids, attention_mask=listed),
        ):
            with pytest.raises(TypeError, match=r"attention_mask must be a Tensor .*, got list"):
                call()
        with pytest.raises(TypeError, match=r"labels must be a Tensor \[B, L\], got list"):
            model.loss(ids, listed)
        with pytest.raises(ValueError, match=r"input_ids must be \[B, L\], got \[3\]"):
            model(ids[0])
        with pytest.raises(ValueError, match=r"labels must be \[B, L\] = \[2, 3\], got \[2, 2\]"):
            model.loss(ids, ids[:, 1:])


class TestSampler:
    LOGITS = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05]).log()[[3, 0, 4, 1, 2]]

    @pytest.mark.parametrize(
        ("temperature", "top_k", "top_p", "likely"),
        [
            (1.0, 0, 1.0, [0.1, 0.5, 0.05, 0.2, 0.15]),
            (1.0, 2, 1.0, [0, 0.5 / 0.7, 0, 0.2 / 0.7, 0]),
            (1.0, 0, 0.6, [0, 0.5 / 0.7, 0, 0.2 / 0.7, 0]),
            (1.0, 0, 0.4, [0, 1, 0, 0, 0]),
            (1.0, 3, 0.8, [0, 0.5 / 0.7, 0, 0.2 / 0.7, 0]),  # 0.7 of 0.85 reaches 0.8
            (1.0, 99, 1.0, [0.1, 0.5, 0.05, 0.2, 0.15]),
            (0.5, 2, 1.0, [0, 25 / 29, 0, 4 / 29, 0]),  # probabilities squared
            (0.0, 50, 0.95, [0, 1, 0, 0, 0]),
        ],
    )
    def test_frequencies(
        self, temperature: float, top_k: int, top_p: float, likely: list[float]
    ) -> None:
        n = 20000
        sampler = Sampler(temperature, top_k, top_p, torch.Generator().manual_seed(0))
        counts = torch.bincount(sampler(self.LOGITS.expand(n, 5)), minlength=5) / n
        want = torch.tensor(likely, dtype=torch.float32)
        assert torch.equal(counts == 0, want == 0)
        # five standard deviations of a frequency
        assert ((counts - want).abs() <= 5 * (want * (1 - want) / n).sqrt() + 1e-6).all()

    def test_greedy_takes_the_first_of_equals(self) -> None:
        assert Sampler(0.0, 50, 0.95)(torch.tensor([[1.0, 3.0, 3.0]])).tolist() == [1]


class TestConfig:
    def test_a_released_file_comes_back(self) -> None:
        values = json.loads((FOLDER / "config.json").read_text())
        read = PanguMoEConfig.from_dict(values)
        assert read.num_groups == 8
        assert read.rms_norm_eps == 1e-5
        assert read.extra["_attn_implementation_autoset"] is True
        assert read.to_dict() == values

    @pytest.mark.parametrize("key", ["num_groups", "router_n_groups"])
    def test_the_file_may_say_the_groups(self, key: str) -> None:
        values = {**PanguMoEConfig().to_dict(), "custom": [1, {"a": None}]}
        del values["num_groups"]
        values[key] = 4
        read = PanguMoEConfig.from_dict(values)
        assert read.num_groups == 4
        again = PanguMoEConfig.from_dict(read.to_dict())
        assert again.num_groups == 4
        assert again.extra["custom"] == [1, {"a": None}]
        assert again.extra[key] == 4

    def test_a_change_is_written(self) -> None:
        values = json.loads((FOLDER / "config.json").read_text())
        read = PanguMoEConfig.from_dict(values)
        read.num_groups, read.rope_theta = 4, 5.0
        assert read.to_dict() == {**values, "num_groups": 4, "rope_theta": 5.0}

    def test_the_72b_model_on_meta(self) -> None:
        with torch.device("meta"):
            model = PanguMoEForCausalLM(PanguMoEConfig())
        assert model.parameter_counts() == (71_988_781_056, 16_498_139_136)
        assert all(p.is_meta for p in model.parameters())

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"hidden_size": 25}, "must be a multiple of num_attention_heads=4, got 25"),
            ({"num_key_value_heads": 3}, "must be a multiple of num_key_value_heads=3, got 4"),
            ({"num_experts_per_tok": 6}, "num_experts_per_tok must be a multiple of num_groups=4"),
            ({"hidden_size": 20}, "hidden_size / num_attention_heads must be even, got 5"),
            ({"num_hidden_layers": 0}, "num_hidden_layers must be an int of at least 1, got 0"),
            ({"vocab_size": "31"}, "vocab_size must be an int of at least 1, got '31'"),
            ({"shared_expert_intermediate_size": -1}, "must be an int of at least 0, got -1"),
            ({"num_experts": 13}, "experts must be a positive multiple of num_groups=4, got 13"),
            ({"num_experts_per_tok": 16}, "at most the experts per group, 12 / 4 = 3, got 4"),
        ],
    )  # fmt: skip
    def test_sizes_that_do_not_fit(self, changes: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            config(**changes)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"hidden_act": "gelu"}, "hidden_act must be 'silu', got 'gelu'"),
            ({"tie_word_embeddings": True}, "tie_word_embeddings must be False, got True"),
            ({"rope_scaling": {"factor": 4}}, "rope_scaling must be None, got {'factor': 4}"),
            ({"model_type": "qwen3_moe"}, "model_type must be 'PanguProMoE', got 'qwen3_moe'"),
        ],
    )
    def test_files_of_other_models(self, changes: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            PanguMoEConfig.from_dict({**config().to_dict(), **changes})

    def test_a_file_without_a_size(self) -> None:
        values = config().to_dict()
        del values["num_experts"], values["vocab_size"]
        with pytest.raises(ValueError, match="the config lacks vocab_size, num_experts"):
            PanguMoEConfig.from_dict(values)


def test_replays_the_choices_of_another_model() -> None:
    """One model rolls out, another trains on its choices: these count, with their own weights."""
    torch.manual_seed(3)
    old, new = random_model(torch.float64), random_model(torch.float64)
    ids = ids_of(2, 5)
    mask = torch.ones(2, 5)
    mask[0, :2] = 0
    chosen = [g.experts for g in old(ids, mask, return_details=True).gating]
    own = new(ids, mask, return_details=True)
    replayed = new(ids, mask, return_details=True, routing=chosen)
    assert all(g.experts.equal(c) for g, c in zip(replayed.gating, chosen, strict=True))
    changed = (replayed.logits - own.logits).abs().max()
    assert changed > 1e-3, "the choice of another model changes nothing"
    # as an engine returns it, and its own choice, change nothing more than rounding
    stacked = torch.stack([c.view(2, 5, -1) for c in chosen], 2)
    assert new(ids, mask, routing=stacked).equal(replayed.logits)
    again = new(ids, mask, routing=[g.experts for g in own.gating])
    assert error(again, own.logits.detach()) < 1e-12

    # of the weights' derivative, one against a difference of the loss
    loss = new.loss(ids, attention_mask=mask, routing=chosen)
    gate = new.layers[0].moge.gate
    (grad,) = torch.autograd.grad(loss, gate)
    with torch.no_grad():
        step = torch.randn_like(gate) * 1e-6
        ends = []
        for sign in (1, -1):
            gate += sign * step
            ends.append(new.loss(ids, attention_mask=mask, routing=chosen))
            gate -= sign * step
    assert ((ends[0] - ends[1]) / 2 - (grad * step).sum()).abs() < 1e-5 * (grad * step).abs().sum()

    new.gradient_checkpointing = True
    new.train()
    (again,) = torch.autograd.grad(new.loss(ids, attention_mask=mask, routing=chosen), gate)
    assert again.equal(grad)


@pytest.mark.parametrize(
    ("routing", "error", "message"),
    [
        (7, TypeError, "a tensor .*, or a sequence .* got int"),
        (torch.zeros(2, 3, 2, 5).long(), ValueError, r"routing must be .*2, 3, 2, 4.*2, 3, 2, 5"),
        ([torch.zeros(6, 4).long()], ValueError, "the ids of 2 layers, got 1"),
        ([torch.zeros(6, 4).long(), torch.zeros(5, 4)], ValueError, r"\[6, 4\].*got \[5, 4\]"),
        ([torch.zeros(6, 4).long(), None], ValueError, "got NoneType"),
    ],
)
def test_refuses_choices_that_do_not_fit(
    routing: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        random_model()(ids_of(2, 3), routing=routing)


def test_new_weights_have_the_configured_width() -> None:
    model = PanguMoEForCausalLM(config(initializer_range=0.5, hidden_size=64))
    for name, p in model.named_parameters():
        if p.ndim > 1:
            assert p.std().item() == pytest.approx(0.5, rel=0.2), name
        else:
            assert torch.equal(p, torch.full_like(p, 0.0 if name.endswith("bias") else 1.0)), name


def test_the_experts_are_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    model, outputs = random_model(), []
    for layer in model.layers:
        layer.moge.register_forward_hook(lambda *a: outputs.append(a[-1]))
    model(ids_of(1, 3))
    assert [type(out) for out in outputs] == [MoGEOutput, MoGEOutput]
