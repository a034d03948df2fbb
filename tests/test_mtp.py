"""Heads of further tokens: their formula, their loss, what they draft, and their files."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("safetensors")

from safetensors.torch import load_file, save_file

from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM, checkpoint, layout, mtp
from moge_ops.models.convert import convert_quantized
from moge_ops.models.generation import Sampler
from moge_ops.models.pangu_moe import losses
from moge_ops.models.speculation import Accepted, Proposal
from moge_ops.nn import FrozenWeight, MoGE
from moge_ops.quant import quantize_experts

reference = runpy.run_path(str(Path(__file__).parent / "reference_pangu.py"))

SIZES = {
    "vocab_size": 31,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 12,
    "num_experts_per_tok": 4,
    "num_groups": 4,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 14,
    "max_position_embeddings": 96,
    "eos_token_id": None,
}
PROMPTS = {
    "one-row": [[3, 1, 4, 1, 5]],
    "one-token": [[7]],
    "even-rows": [[3, 1, 4], [1, 5, 9]],
    "uneven-rows": [[3, 1, 4, 1, 5, 9], [2], [6, 5]],
}


def make(heads: int, dtype: torch.dtype = torch.float64, **changes: Any) -> PanguMoEForCausalLM:
    """A model whose weights are so large that every part of it matters."""
    torch.manual_seed(0)
    config = PanguMoEConfig(**{**SIZES, "num_nextn_predict_layers": heads, **changes})
    model = PanguMoEForCausalLM(config).to(dtype)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape) * (1.0 if p.ndim == 1 else 2.0 * p.shape[-1] ** -0.5))
            if "norm" in name or "router_scale" in name:
                p.copy_(1.0 + 0.2 * torch.randn(p.shape))
    return model.eval()


def numpy_head(
    model: PanguMoEForCausalLM, j: int, hidden: np.ndarray[Any, Any], ids: Tensor
) -> np.ndarray[Any, Any]:
    """``[L, H]`` of head j, from hidden states ``[L, H]`` and the next tokens ``[L]``."""
    config, tensors = model.config.to_dict(), dict(checkpoint.released(model))
    arrays = {name: x.detach().double().numpy() for name, x in tensors.items()}
    w = reference["part"](arrays, f"model.layers.{model.config.num_hidden_layers + j}.")
    norm = lambda x, name: reference["rms_norm"](x, w[f"{name}.weight"], config["rms_norm_eps"])  # noqa: E731
    e = arrays["model.embed_tokens.weight"][ids.numpy()]
    x = np.concatenate([norm(e, "enorm"), norm(hidden, "hnorm")], -1) @ w["eh_proj.weight"].T
    attention = reference["part"](w, "self_attn.")
    x = x + reference["attention"](norm(x, "input_layernorm"), attention, config)
    experts = reference["part"](w, "mlp.")
    x = x + reference["moge"](norm(x, "post_attention_layernorm"), experts, config)[0]
    out: np.ndarray[Any, Any] = norm(x, "shared_head.norm")
    return out


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)  # angles are float32


class TestLoss:
    def test_is_the_formula(self) -> None:
        model, ids = make(2), torch.randint(0, 31, (1, 7))
        out = model(ids, return_details=True)
        hidden, head = out.hidden_states[-1][0].detach().numpy(), model.lm_head.weight
        expected = []
        for j in range(2):
            hidden = numpy_head(model, j, hidden[: 6 - j], ids[0, j + 1 :])
            logits = torch.tensor(hidden[: 5 - j]) @ head.T
            expected.append(F.cross_entropy(logits, ids[0, j + 2 :]))
        close(mtp.losses(model, out, ids)[0].detach(), sum(expected).detach() / 2)

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_padding_counts_in_neither_term(self, side: str) -> None:
        model = make(2)
        rows = [torch.randint(0, 31, (1, n)) for n in (8, 5)]
        ends = (3, 0) if side == "left" else (0, 3)
        ids = torch.cat([rows[0], F.pad(rows[1], ends, value=9)])
        mask = torch.cat([torch.ones(1, 8), F.pad(torch.ones(1, 5), ends)])
        together = mtp.losses(model, model(ids, mask, return_details=True), ids, None, mask)
        alone = [mtp.losses(model, model(x, return_details=True), x)[0] for x in rows]
        other = ids.masked_fill(mask == 0, 4)
        again = mtp.losses(model, model(other, mask, return_details=True), other, None, mask)
        close(together[0].detach(), again[0].detach())
        close(together[1].detach(), again[1].detach())
        # heads 0 and 1 predict 6 and 5 tokens of the longer row, 3 and 2 of the other
        each = [self.of_heads(model, x) for x in rows]
        weighted = [(each[0][j] * (6 - j) + each[1][j] * (3 - j)) / (9 - 2 * j) for j in range(2)]
        close(together[0].detach(), sum(weighted) / 2)
        assert len(alone) == 2

    def of_heads(self, model: PanguMoEForCausalLM, ids: Tensor) -> list[float]:
        out = model(ids, return_details=True)
        mean = float(mtp.losses(model, out, ids)[0])
        labels = ids.clone()
        labels[:, 3:] = -100  # for the second head nothing is left, for the first token 2
        hidden = out.hidden_states[-1][0].detach().numpy()
        logits = numpy_head(model, 0, hidden[:-1], ids[0, 1:])[:-1] @ (
            model.lm_head.weight.detach().numpy().T
        )
        first = float(F.cross_entropy(torch.tensor(logits), ids[0, 2:]))
        return [first, 2 * mean - first]

    def test_labels_that_are_left_out(self) -> None:
        model, ids = make(1), torch.randint(0, 31, (1, 6))
        labels = torch.full_like(ids, -100)
        labels[0, 4] = ids[0, 4]
        out = model(ids, return_details=True)
        hidden = numpy_head(model, 0, out.hidden_states[-1][0].detach().numpy()[:5], ids[0, 1:])
        logits = torch.tensor(hidden[2:3]) @ model.lm_head.weight.T
        expected = F.cross_entropy(logits, ids[0, 4:5])
        close(mtp.losses(model, out, ids, labels)[0].detach(), expected.detach())

    @pytest.mark.parametrize("length", [1, 2, 3])
    def test_short_texts_have_nothing_to_predict(self, length: int) -> None:
        model, ids = make(2), torch.randint(0, 31, (2, length))
        found = mtp.losses(model, model(ids, return_details=True), ids)
        assert all(bool(x.isfinite()) for x in found)
        assert (float(found[0]) == 0.0) == (length < 3)

    def test_gradients_reach_the_heads_and_the_model(self) -> None:
        model = make(2).train()
        ids = torch.randint(0, 31, (2, 9))
        mtp.losses(model, model(ids, return_details=True), ids)[0].backward()
        for name, p in model.named_parameters():
            assert p.grad is not None, name
            assert float(p.grad.abs().sum()) > 0.0, name

    def test_recomputing_gives_the_same_gradients(self) -> None:
        model, ids, found = make(1).train(), torch.randint(0, 31, (1, 6)), []
        for model.gradient_checkpointing in (False, True):
            model.zero_grad()
            sum(mtp.losses(model, model(ids, return_details=True), ids)).backward()  # type: ignore[union-attr]
            grad = model.mtp[0].eh_proj.weight.grad
            assert grad is not None
            found.append(grad.clone())
        torch.testing.assert_close(found[0], found[1])

    def test_the_model_s_own_loss_has_no_heads(self) -> None:
        model, ids = make(1), torch.randint(0, 31, (2, 6))
        plain = losses(model(ids, return_details=True), ids)
        factor = model.config.router_aux_loss_coef
        close(model.loss(ids).detach(), (plain[0] + factor * plain[1]).detach())

    def test_bad_input(self) -> None:
        ids = torch.randint(0, 31, (2, 6))
        out = make(0)(ids, return_details=True)
        with pytest.raises(ValueError, match="must have heads, got num_nextn_predict_layers=0"):
            mtp.losses(make(0), out, ids)
        with pytest.raises(ValueError, match=r"labels must be \[B, L\]"):
            mtp.losses(make(1), out, ids, ids[:, 1:])
        with pytest.raises(ValueError, match="attention_mask must be"):
            mtp.losses(make(1), out, ids, None, ids[:, 1:])


class Watched(mtp.MTPDraft):
    """Compares every greedy guess with what the heads give for the whole text at once."""

    rounds = 0

    def start(self, model: Any, ids: Tensor, mask: Any, room: int, sampler: Sampler) -> None:
        super().start(model, ids, mask, room, sampler)
        first = ids.ne(-1).long().argmax(1) if mask is None else mask.long().argmax(1)
        self.ids = [[int(row[i])] for row, i in zip(ids, first, strict=True)]
        self.states: list[list[Tensor]] = [[] for _ in ids]

    def propose(self, new: Accepted, n: int) -> Proposal:
        found = super().propose(new, n)
        for b, real in enumerate(new.real):
            self.ids[b] += new.tokens[b][real].tolist()
            self.states[b] += list(new.hidden[b][real])
            if real.any() and found.rows[b]:
                self.rounds += 1
                assert found.rows[b] == self.expected(b, n)
        return found

    def expected(self, b: int, n: int) -> list[int]:
        model = self._model
        tokens, hidden, guesses = list(self.ids[b][1:]), torch.stack(self.states[b])[None], []
        for j in range(n):
            head = model.mtp[min(j, len(model.mtp) - 1)]
            x = model.embed(torch.tensor([tokens]))
            context = model._context(x, tuple(x.shape[:2]), None, None)
            out = head(x, hidden, context)[0]
            guesses.append(int(model.lm_head(out[0, -1]).argmax()))
            if j < len(model.mtp) - 1:  # the next head, from this one's states
                tokens, hidden = [*tokens[1:], guesses[-1]], out
            else:  # the same head goes on in the next column
                tokens, hidden = [*tokens, guesses[-1]], torch.cat([hidden, out[:, -1:]], 1)
        return guesses


class Halves(Watched):
    """Every second guess is made right, so that rows accept unequally."""

    def start(self, model: Any, ids: Tensor, *rest: Any) -> None:
        super().start(model, ids, *rest)
        self.prompts, self.calls = ids, 0

    def propose(self, new: Accepted, n: int) -> Proposal:
        found = super().propose(new, n)
        self.calls += 1
        for b, row in enumerate(found.rows):
            if row and (b + self.calls) % 2 and new.real[b].any():
                text = self._model.generate([self.ids[b]], 1 + b, temperature=0.0)
                right = text[0, len(self.ids[b]) :][:n].tolist()
                row[: len(right)] = right
        return found


class TestDraft:
    @pytest.mark.parametrize("heads", [1, 2, 3])
    @pytest.mark.parametrize("kind", PROMPTS)
    def test_greedy_tokens_are_those_without(self, kind: str, heads: int) -> None:
        model = make(heads)
        plain = model.generate(PROMPTS[kind], 14, temperature=0.0)
        for n in (1, 2, 4):
            draft = Watched()
            found = model.generate(PROMPTS[kind], 14, temperature=0.0, draft=draft, draft_tokens=n)
            assert found.tolist() == plain.tolist()
            assert draft.rounds or (heads == 3 and kind == "one-token")

    @pytest.mark.parametrize("heads", [1, 2, 3])
    def test_rows_that_accept_unequally(self, heads: int) -> None:
        model, prompts = make(heads), PROMPTS["uneven-rows"]
        draft = Halves()
        found = model.generate(prompts, 16, temperature=0.0, draft=draft, draft_tokens=3)
        assert found.tolist() == model.generate(prompts, 16, temperature=0.0).tolist()
        assert draft.accepted > 8
        assert draft.passes < 16

    def test_rows_that_end_early(self) -> None:
        model, prompts = make(1), PROMPTS["uneven-rows"]
        plain = model.generate(prompts, 16, temperature=0.0)
        ends = sorted({int(plain[0, 8]), int(plain[1, 12])})
        expected = model.generate(prompts, 16, temperature=0.0, eos_token_id=ends)
        found = model.generate(
            prompts, 16, temperature=0.0, eos_token_id=ends, draft=Halves(), draft_tokens=3
        )
        assert found.tolist() == expected.tolist()

    def test_by_name(self) -> None:
        model = make(1)
        expected = model.generate(PROMPTS["one-row"], 9, temperature=0.0)
        found = model.generate(PROMPTS["one-row"], 9, temperature=0.0, draft="mtp")
        assert found.tolist() == expected.tolist()

    def test_sampled_guesses_come_with_their_distribution(self) -> None:
        model, seen = make(1), list[Proposal]()

        class Kept(mtp.MTPDraft):
            def propose(self, new: Accepted, n: int) -> Proposal:
                seen.append(super().propose(new, n))
                return seen[-1]

        options = {"temperature": 0.9, "top_k": 5, "generator": torch.Generator().manual_seed(1)}
        model.generate(PROMPTS["uneven-rows"], 12, draft=Kept(), draft_tokens=2, **options)
        for rows, probs in seen:
            assert probs is not None
            torch.testing.assert_close(probs.sum(-1), torch.ones(probs.shape[:2]))
            assert ((probs > 0).sum(-1) <= 5).all()
            assert (probs.gather(2, torch.tensor(rows)[:, :, None]) > 0).all()

    def test_a_model_without_heads(self) -> None:
        with pytest.raises(ValueError, match="draft='mtp' must come with a model that has heads"):
            make(0).generate([[1]], 4, draft="mtp")

    def test_trained_guesses_are_accepted(self) -> None:
        """Text that counts in a circle is learned in some steps."""
        torch.manual_seed(0)
        model = make(1, torch.float32, initializer_range=0.05).train()
        model.reset_parameters()
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(80):
            ids = (torch.randint(0, 31, (8, 1)) + torch.arange(12)) % 31
            out = model(ids, return_details=True)
            further = mtp.losses(model, out, ids)[0]
            optimizer.zero_grad()
            (losses(out, ids)[0] + 0.3 * further).backward()
            optimizer.step()
        draft = mtp.MTPDraft()
        found = model.eval().generate([[3, 4, 5, 6]], 12, temperature=0.0, draft=draft)
        assert found[0].tolist() == list(range(3, 19))
        assert draft.accepted > 0.5 * draft.proposed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoint.save_pretrained(make(2, torch.float32), tmp_path / "heads")
    return tmp_path / "heads"


def edit(path: Path, change: Callable[[Any], object]) -> None:
    if path.suffix == ".json":
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))
    else:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})


class TestFolders:
    def test_come_back_bit_for_bit(self, folder: Path, tmp_path: Path) -> None:
        loaded = checkpoint.from_pretrained(folder)
        expected = make(2, torch.float32).state_dict()
        assert loaded.state_dict().keys() == expected.keys()
        for name, x in loaded.state_dict().items():
            assert torch.equal(x, expected[name]), name
        checkpoint.save_pretrained(loaded, tmp_path / "again")
        for name in ("config.json", "model.safetensors"):
            assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()

    def test_names_are_those_that_were_released(self, folder: Path) -> None:
        names = load_file(folder / "model.safetensors").keys()
        for i in (2, 3):
            own = {n.removeprefix(f"model.layers.{i}.") for n in names if f".layers.{i}." in n}
            theirs = {n.removeprefix("model.layers.0.") for n in names if ".layers.0." in n}
            assert own - theirs == {
                "enorm.weight",
                "hnorm.weight",
                "eh_proj.weight",
                "shared_head.norm.weight",
            }
            assert theirs < own

    @pytest.mark.parametrize("heads", [0, 1, 3])
    def test_counts(self, heads: int) -> None:
        model = make(heads)
        config = model.config
        names = list(layout.released_names(config))
        assert layout.released_count(config) == len(names) == len({name for name, _, _ in names})
        state = layout.state_dict(model)
        for (name, whole, index), (again, shape) in zip(
            names, layout.released_shapes(config), strict=True
        ):
            assert name == again
            assert list(state[whole][index].shape) == shape, name
        assert {layout.parameter_name(whole) for _, whole, _ in names} == dict(
            model.named_parameters()
        ).keys()
        assert model.parameter_counts() == layout.parameter_counts(config)
        assert model.parameter_counts()[1] == make(0).parameter_counts()[1]

    def test_damage_is_named(self, folder: Path) -> None:
        def change(tensors: dict[str, Tensor]) -> None:
            del tensors["model.layers.2.enorm.weight"], tensors["model.layers.3.mlp.gate.weight"]
            tensors["model.layers.2.eh_proj.weight"] = torch.zeros(24, 24)
            tensors["model.layers.4.hnorm.weight"] = torch.zeros(24)

        edit(folder / "model.safetensors", change)
        with pytest.raises(ValueError, match=r"does not fit its config\.json") as e:
            checkpoint.from_pretrained(folder)
        at = "in model.safetensors"
        assert {line.strip() for line in str(e.value).splitlines()[1:]} == {
            "missing: model.layers.2.enorm.weight",
            "missing: model.layers.3.mlp.gate.weight",
            f"misshapen: model.layers.2.eh_proj.weight {at} must be [24, 48], got [24, 24]",
            f"unexpected: model.layers.4.hnorm.weight {at}",
        }

    @pytest.mark.parametrize(
        ("heads", "said"),
        [
            (0, "unexpected: model.layers.2.eh_proj.weight"),
            (1, "unexpected: model.layers.3.eh_proj.weight"),
            (3, "missing: model.layers.4.e"),
            (10**6, "num_nextn_predict_layers=1000000 are .* tensors, the"),
            (-1, "num_nextn_predict_layers must be an int of at least 0, got -1"),
            (1.0, "num_nextn_predict_layers must be an int of at least 0, got 1.0"),
            (None, "num_nextn_predict_layers must be an int of at least 0, got None"),
        ],
    )
    def test_a_config_that_does_not_fit(self, heads: Any, said: str, folder: Path) -> None:
        edit(folder / "config.json", lambda v: v.update(num_nextn_predict_layers=heads))
        with pytest.raises(ValueError, match=said):
            checkpoint.from_pretrained(folder)

    def test_a_config_may_lack_the_number(self, tmp_path: Path) -> None:
        checkpoint.save_pretrained(make(0, torch.float32), tmp_path)
        edit(tmp_path / "config.json", lambda v: v.pop("num_nextn_predict_layers"))
        assert not len(checkpoint.from_pretrained(tmp_path).mtp)

    def test_heads_are_quantised_like_the_layers(self, folder: Path, tmp_path: Path) -> None:
        convert_quantized(folder, tmp_path / "converted", "int8_w8a8")
        loaded = checkpoint.from_pretrained(tmp_path / "converted")
        model = checkpoint.from_pretrained(folder)
        quantize_experts(model, "int8_w8a8")
        checkpoint.save_pretrained(model, tmp_path / "saved")
        again = checkpoint.from_pretrained(tmp_path / "saved")
        for each in (loaded, again):
            experts = [m for m in each.modules() if isinstance(m, MoGE)]
            assert len(experts) == 4
            assert all(isinstance(m.w_down, FrozenWeight) for m in experts)
            for name, x in each.state_dict().items():
                assert torch.equal(x, model.state_dict()[name]), name
        plain = model.generate([[1, 2, 3]], 8, temperature=0.0)
        assert loaded.generate([[1, 2, 3]], 8, temperature=0.0, draft="mtp").equal(plain)

    def test_heads_that_are_plain_beside_quantised_layers(
        self, folder: Path, tmp_path: Path
    ) -> None:
        model = checkpoint.from_pretrained(folder)
        heads, model.mtp = model.mtp, torch.nn.ModuleList()
        quantize_experts(model, "int8_w8a8")
        model.mtp = heads
        with pytest.raises(ValueError, match=r"either all weights of experts .* got 4 of 8"):
            checkpoint.save_pretrained(model, tmp_path / "some")


class TestTransformers:
    def test_has_no_heads(
        self, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        auto = pytest.importorskip("moge_ops.integrations.pangu_auto")
        model, told = auto.PanguProMoEForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not told["unexpected_keys"]
        ids = torch.tensor([[1, 2, 3]])
        with torch.inference_mode():
            expected = checkpoint.from_pretrained(folder)(ids)
            torch.testing.assert_close(model(ids).logits, expected)
        model.save_pretrained(tmp_path / "saved")
        assert "num_nextn_predict_layers" not in (tmp_path / "saved" / "config.json").read_text()
        with torch.inference_mode():
            again = checkpoint.from_pretrained(tmp_path / "saved")(ids)
        assert torch.equal(again, expected)

    def test_a_damaged_head_is_an_error(self, folder: Path) -> None:
        auto = pytest.importorskip("moge_ops.integrations.pangu_auto")
        edit(folder / "model.safetensors", lambda t: t.pop("model.layers.3.enorm.weight"))
        with pytest.raises(ValueError, match=r"missing: model\.layers\.3\.enorm\.weight"):
            auto.PanguProMoEForCausalLM.from_pretrained(folder)

    def test_quantised(self, folder: Path, tmp_path: Path) -> None:
        theirs = pytest.importorskip("moge_ops.integrations.transformers")
        theirs.register()
        convert_quantized(folder, tmp_path / "quantised", "int8_w8a8")
        model = theirs.load_quantized(tmp_path / "quantised")
        ids = torch.tensor([[1, 2, 3]])
        with torch.inference_mode():
            expected = checkpoint.from_pretrained(tmp_path / "quantised")(ids)
            torch.testing.assert_close(model(ids).logits, expected)


@pytest.mark.slow
def test_the_example_and_the_measurement_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("matplotlib", "rich", "tokenizers"):
        pytest.importorskip(package, reason="needs the extras 'bench' and 'models'")
    root = Path(__file__).resolve().parents[1]
    monkeypatch.syspath_prepend(str(root / "examples"))
    monkeypatch.setattr(sys, "argv", ["speculation.py", "--smoke"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(root / "examples" / "speculation.py"), run_name="__main__")
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "experts of a" in out
    assert out.count(" mtp ") == 8
    options = ["--smoke", "--out", str(tmp_path / "out.csv"), "--models", str(tmp_path / "models")]
    monkeypatch.setattr(sys, "argv", ["speculation.py", *options])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(root / "bench" / "inference" / "speculation.py"), run_name="__main__")
    assert stop.value.code == 0
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 2 * 7  # batches, samplings, variants
