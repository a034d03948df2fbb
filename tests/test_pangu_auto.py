"""Pangu Pro MoE in transformers: its forward, generation, files, and what they refuse.

The tools around transformers (Trainer, PEFT, TRL, accelerate, servers) are in ``ecosystem/``.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

transformers = pytest.importorskip("transformers", minversion="5.17")

from safetensors.torch import load_file  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DynamicCache,
    StaticCache,
)

from moge_ops.integrations import transformers as moge_transformers  # noqa: E402
from moge_ops.integrations.pangu_auto import _CACHE as CACHE  # noqa: E402
from moge_ops.integrations.pangu_auto import PanguProMoEForCausalLM  # noqa: E402
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM, checkpoint  # noqa: E402
from moge_ops.statistics import RouterStatistics  # noqa: E402
from moge_ops.testing import assert_matches  # noqa: E402

moge_transformers.register()

GOLDEN = Path(__file__).parent / "data" / "pangu_tiny"
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 16,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 32,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}


def tiny(seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    torch.manual_seed(seed)
    config = AutoConfig.for_model("PanguProMoE", **{**SIZES, **changes})
    return AutoModelForCausalLM.from_config(config).to(dtype).eval()


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(3, 64, shape, generator=torch.Generator().manual_seed(seed))


def recompute(model: Any) -> None:
    """Switches gradient checkpointing on, by its newer name where there is one."""
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    next(getattr(model, name) for name in names if hasattr(model, name))()


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN / "golden.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The golden checkpoint with a tokenizer: word ``w7`` is token 7."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(GOLDEN / name, tmp_path / name)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(96)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0")
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def pangu() -> Any:
    return AutoModelForCausalLM.from_pretrained(GOLDEN)


# forward


def test_auto_classes_load_our_model(pangu: Any, golden: dict[str, Tensor]) -> None:
    assert type(pangu) is PanguProMoEForCausalLM
    assert not pangu.training
    ours = checkpoint.from_pretrained(GOLDEN)
    base = AutoModel.from_pretrained(GOLDEN)
    with torch.no_grad():
        for ids, logits in (("input_ids", "logits"), ("input_ids_2", "logits_2")):
            got, want = pangu(golden[ids]).logits, golden[logits]
            assert_matches(got, ours(golden[ids]).double(), "logits")
            assert (got - want).abs().max() <= 1e-5 * want.abs().max()
        out = pangu(golden["input_ids"], output_hidden_states=True, output_router_logits=True)
        hidden = base(golden["input_ids"]).last_hidden_state
    assert len(out.hidden_states) == 3
    assert torch.equal(hidden, out.hidden_states[-1])
    assert len(out.router_logits) == 2
    assert pangu(golden["input_ids"], return_dict=False)[0].shape == (2, 19, 96)
    parts = base(golden["input_ids"], return_dict=False, output_hidden_states=True)
    assert [type(part) for part in parts] == [Tensor, DynamicCache, tuple]


def test_embeddings_in_place_of_ids() -> None:
    model, ids = tiny(), tokens(2, 9)
    embeddings = model.get_input_embeddings()(ids)
    assert torch.equal(model(inputs_embeds=embeddings).logits, model(ids).logits)
    for both in ({}, {"input_ids": ids, "inputs_embeds": embeddings}):
        with pytest.raises(ValueError, match="expected one of input_ids and inputs_embeds"):
            model(**both)


@pytest.mark.parametrize("use_cache", [None, True, False])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_sequences_do_not_see_each_other(attention: str, use_cache: bool | None) -> None:
    model = tiny()
    model.set_attn_implementation(attention)
    parts = [tokens(1, n, seed=n) for n in (5, 1, 7)]
    positions = torch.cat([torch.arange(x.shape[1]) for x in parts]).unsqueeze(0)
    packed = model(torch.cat(parts, 1), position_ids=positions, use_cache=use_cache).logits
    want = torch.cat([model(x).logits for x in parts], 1)
    assert_matches(packed, want, "logits")


@pytest.mark.parametrize("beside", ["mask", "cache", "static cache"])
def test_packing_beside_what_hides_it_from_transformers(beside: str) -> None:
    model, ids = tiny(), tokens(1, 6)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]])
    want = model(ids, position_ids=positions).logits
    caches = {"cache": DynamicCache(), "static cache": StaticCache(model.config, max_cache_len=6)}
    extra = {CACHE: caches[beside]} if beside in caches else {}
    if beside == "mask":
        extra = {"attention_mask": torch.ones_like(ids)}
    if beside != "static cache":
        assert_matches(model(ids, position_ids=positions, **extra).logits, want, "logits")
    for bad in ({"attention_mask": torch.tensor([[0, 1, 1, 1, 1, 1]])}, {CACHE: model(ids)[CACHE]}):
        with pytest.raises(ValueError, match="position_ids must not start again beside padding"):
            model(ids, position_ids=positions, **bad)


def test_replays_the_choices_of_a_rollout() -> None:
    old, model, ids = tiny(), tiny(1), tokens(2, 5)
    chosen = old.model(ids, output_router_logits=True).router_experts
    out = model.model(ids, output_router_logits=True, routing=chosen)
    assert all(a.equal(b) for a, b in zip(out.router_experts, chosen, strict=True))
    stacked = torch.stack([c.view(2, 5, -1) for c in chosen], 2)  # [B, L, layers, K]
    want = model(ids, routing=chosen).logits
    assert not torch.allclose(want, model(ids).logits)
    assert model(ids, routing=stacked).logits.equal(want)

    def gradients() -> list[Tensor]:
        loss = model(ids, labels=ids, routing=stacked).loss
        return list(torch.autograd.grad(loss, list(model.parameters())))

    model.train()
    plain = gradients()
    recompute(model)
    for got, kept in zip(gradients(), plain, strict=True):
        torch.testing.assert_close(got, kept)


def test_other_words_for_packing_must_say_the_same() -> None:
    model, ids = tiny(), tokens(1, 6)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]])
    want = model(ids, position_ids=positions).logits
    right = {
        "cu_seq_lens_q": torch.tensor([0, 3, 6]),
        "seq_idx": torch.tensor([[0, 0, 0, 1, 1, 1]]),
    }
    assert torch.equal(model(ids, position_ids=positions, **right).logits, want)
    for name, value in right.items():
        with pytest.raises(ValueError, match=f"{name} must begin sequences where position_ids"):
            model(ids, position_ids=torch.arange(6).unsqueeze(0), **{name: value})


def test_positions_are_those_given() -> None:
    model, ids = tiny(), tokens(2, 6)
    far = torch.arange(6).unsqueeze(0) * 3
    out = model(ids, position_ids=far, attention_mask=torch.ones_like(ids)).logits
    assert not torch.allclose(out, model(ids).logits)
    assert_matches(model(ids, position_ids=far).logits, out, "logits")  # a gap begins no sequence
    for bad in (torch.arange(4).view(1, 4), torch.tensor([[3]])):
        with pytest.raises(ValueError, match=r"position_ids must be \[B or 1, L\] = \[2 or 1, 6\]"):
            model(ids, position_ids=bad)
    moved = model(ids, position_ids=torch.arange(6).unsqueeze(0) + 7).logits
    # only distances matter, but for the float32 of the angles
    assert_matches(moved.float(), model(ids).logits, "logits")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_mask_of_four_dimensions(attention: str) -> None:
    model, ids = tiny(), tokens(2, 6)
    model.set_attn_implementation(attention)
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    seen = mask.bool()[:, None, None, :] & torch.ones(6, 6, dtype=torch.bool).tril()
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    got = model(ids, attention_mask=seen, position_ids=positions).logits
    assert_matches(got[mask == 1], model(ids, attention_mask=mask).logits[mask == 1], "logits")


def test_attentions_where_there_are_some() -> None:
    model, ids = tiny(), tokens(2, 6)
    want = model(ids).logits
    with pytest.raises(ValueError, match=r"output_attentions must be False with .*'sdpa'"):
        model(ids, output_attentions=True)
    model.set_attn_implementation("eager")
    out = model(ids, output_attentions=True)
    assert_matches(out.logits, want, "logits")
    assert [a.shape for a in out.attentions] == [(2, 4, 6, 6)] * 2
    assert_matches(out.attentions[1].sum(-1), torch.ones(2, 4, 6).double(), "attentions")
    assert not out.attentions[0].triu(1).any()


def test_attention_of_the_checkpoint_is_a_choice() -> None:
    model = AutoModelForCausalLM.from_pretrained(GOLDEN, attn_implementation="eager")
    assert model.config._attn_implementation == "eager"
    assert model(torch.arange(5).view(1, 5), output_attentions=True).attentions[0].ndim == 4
    with pytest.raises(ValueError, match="does not support Flash Attention 2"):
        AutoModelForCausalLM.from_pretrained(GOLDEN, attn_implementation="flash_attention_2")


@pytest.mark.parametrize(
    "which",
    [
        3,
        torch.tensor([0, 2]),
        torch.tensor([[0, 2], [5, 1]]),
        torch.tensor([[1, 0, 0, 1, 0, 1], [0, 0, 1, 0, 0, 0]], dtype=torch.bool),
    ],
    ids=["int", "1-D", "2-D", "bool"],
)
def test_logits_of_some_tokens(which: Any) -> None:
    model, ids = tiny(), tokens(2, 6)
    logits = model(ids).logits
    rows = torch.arange(2).unsqueeze(1)
    if isinstance(which, int):
        want = logits[:, -which:]
    elif which.dtype == torch.bool:
        want = logits[which]
    else:
        want = logits[:, which] if which.ndim == 1 else logits[rows, which]
    assert_matches(model(ids, logits_to_keep=which).logits, want, "logits")
    with pytest.raises(ValueError, match="logits_to_keep must be 0 with labels"):
        model(ids, labels=ids, logits_to_keep=which)


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
@pytest.mark.parametrize("static", [False, True])
def test_takes_a_cache_under_either_name(name: str, static: bool) -> None:
    model, ids = tiny(), tokens(2, 7)
    cache = StaticCache(model.config, max_cache_len=9) if static else DynamicCache()
    first = model(ids[:, :4], **{name: cache})
    assert first[CACHE] is cache
    got = torch.cat([first.logits, model(ids[:, 4:], **{name: cache}).logits], 1)
    assert_matches(got, model(ids).logits, "logits")


def test_returns_a_cache_but_not_in_training() -> None:
    model, ids = tiny(), tokens(1, 5)
    assert model(ids)[CACHE].get_seq_length() == 5
    assert CACHE not in model(ids, use_cache=False)
    assert CACHE not in model.train()(ids)
    recompute(model)
    with pytest.raises(ValueError, match="pass use_cache=False"):
        model(ids, use_cache=True)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"token_type_ids": torch.zeros(1, 5).long()}, "'token_type_ids': call the tokenizer"),
        ({"cache_position": torch.arange(5)}, "'cache_position': pass position_ids"),
        ({"cache_of_tomorrow": object()}, "'cache_of_tomorrow': leave it out"),
    ],
)
def test_ignores_no_argument(argument: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"cannot honour the argument {message}"):
        tiny()(tokens(1, 5), **argument)


def test_refuses_masks_and_packing_that_do_not_fit() -> None:
    model, ids = tiny(), tokens(2, 5)
    with pytest.raises(ValueError, match=r"attention_mask must be \[B, S\] = \[2, 5\], got"):
        model(ids, attention_mask=torch.ones(2, 4))
    cache = StaticCache(model.config, max_cache_len=9)
    model(ids, **{CACHE: cache})
    with pytest.raises(ValueError, match=r"attention_mask must be \[B, S\] = \[2, 7\], got"):
        model(ids[:, :2], attention_mask=torch.ones(2, 2), **{CACHE: cache})
    with pytest.raises(ValueError, match=r"labels must be \[B, L\] = \[2, 5\], got \[2, 4\]"):
        model(ids, labels=ids[:, 1:])
    with pytest.raises(ValueError, match="cu_seq_lens_q must come with position_ids"):
        model(ids, cu_seq_lens_q=torch.tensor([0, 10]))


def test_padding_neither_votes_nor_counts() -> None:
    model, ids = tiny(), tokens(2, 6)
    for layer in model.model.layers:
        layer.moge.num_voted = 1
    padded, mask = F.pad(ids, (10, 0)), F.pad(torch.ones_like(ids), (10, 0))
    cache = StaticCache(model.config, max_cache_len=16)
    seen = mask.bool()[:, None, None, :] & torch.ones(16, 16, dtype=torch.bool).tril()
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    calls = {
        "plain": {"input_ids": ids},
        "padded": {"input_ids": padded, "attention_mask": mask},
        # what `generate` passes beside a static cache
        "static": {
            "input_ids": padded,
            "attention_mask": seen,
            "position_ids": positions,
            CACHE: cache,
        },
    }
    logits, counts = {}, {}
    for name, call in calls.items():
        statistics = RouterStatistics()
        with statistics.collect(model, "a"), torch.no_grad():
            logits[name] = model(**call).logits[:, -6:]
        counts[name] = statistics.sums["a"]["model.layers.1.moge"][1]
    for name in ("padded", "static"):
        assert_matches(logits[name], logits["plain"], name)
        assert torch.equal(counts[name], counts["plain"]), name
        assert counts[name].sum() == ids.numel() * 8


# losses


def test_labels_give_the_reference_models_loss(golden: dict[str, Tensor]) -> None:
    model = AutoModelForCausalLM.from_pretrained(GOLDEN, router_aux_loss_coef=0.5)
    ours = checkpoint.from_pretrained(GOLDEN)
    ours.config.router_aux_loss_coef = 0.5
    ids = golden["input_ids"]
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    labels = ids.masked_fill(ids % 7 == 0, -100)
    want = ours.loss(ids, labels, mask)
    want.backward()

    recompute(model)
    model.train()
    out = model(ids, mask, labels=labels)
    assert_matches(out.loss, want.double(), "loss")
    assert 0.5 < out.aux_loss.item() < 5.0
    out.loss.backward()
    for mine, theirs in zip(
        [*model.model.parameters(), model.lm_head.weight], in_order(ours), strict=True
    ):
        assert theirs.grad is not None
        assert_matches(mine.grad, theirs.grad.double(), "gradient")


def in_order(model: PanguMoEForCausalLM) -> list[Tensor]:
    """Parameters in the order of the other class: the head comes last."""
    head = model.lm_head.weight
    return [*(p for p in model.parameters() if p is not head), head]


def test_evaluation_leaves_the_auxiliary_loss_out() -> None:
    model, ids = tiny(router_aux_loss_coef=0.5), tokens(2, 9)
    logits = model(ids).logits
    cross_entropy = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    out = model(ids, labels=ids)
    assert out.aux_loss is None
    assert_matches(out.loss.float(), cross_entropy, "loss")
    asked = model(ids, labels=ids, output_router_logits=True)
    assert_matches(asked.loss.float(), cross_entropy + 0.5 * asked.aux_loss, "loss")
    assert_matches(model.train()(ids, labels=ids).loss, asked.loss, "loss")
    assert list(model(ids, labels=ids)) == ["loss", "aux_loss", "logits"]


def test_accumulated_gradients_are_those_of_the_batch() -> None:
    ids, lengths = tokens(4, 24), torch.tensor([3, 20, 5, 24])
    mask = (torch.arange(24) < lengths.unsqueeze(1)).long()
    labels = ids.masked_fill(mask == 0, -100)
    number = (labels[:, 1:] != -100).sum()

    def gradients(parts: int) -> Tensor:
        model = tiny(router_aux_loss_coef=0.0).train()
        rows = zip(ids.chunk(parts), mask.chunk(parts), labels.chunk(parts), strict=True)
        for x, m, y in rows:
            model(x, attention_mask=m, labels=y, num_items_in_batch=number).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    whole = gradients(1)
    assert ((whole - gradients(4)).norm() / whole.norm()).item() < 1e-6

    # the load-balance loss of a part has its share of the labels
    model = tiny(router_aux_loss_coef=0.5).train()
    parts = [
        model(x, attention_mask=m, labels=y, num_items_in_batch=number)
        for x, m, y in zip(ids.chunk(4), mask.chunk(4), labels.chunk(4), strict=True)
    ]
    plain = tiny(router_aux_loss_coef=0.0).train()
    cross_entropy = plain(ids, attention_mask=mask, labels=labels).loss
    weights = (lengths - 1) / number
    aux_loss = sum(w * out.aux_loss for w, out in zip(weights, parts, strict=True))
    loss = sum(out.loss for out in parts)
    assert_matches(loss.float(), cross_entropy + 0.5 * aux_loss, "loss")


def test_padding_counts_in_no_loss_however_it_is_said() -> None:
    model, ids = tiny(router_aux_loss_coef=0.5).train(), tokens(2, 9)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    want = model(ids, attention_mask=mask, labels=ids).loss
    assert not torch.allclose(model(ids, labels=ids).loss, want)
    shifted = F.pad(ids[:, 1:], (0, 1), value=-100)
    seen = mask.bool()[:, None, None, :] & torch.ones(9, 9, dtype=torch.bool).tril()
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    for how in (
        {"attention_mask": mask, "shift_labels": shifted},
        {"attention_mask": seen, "position_ids": positions, "labels": ids},
    ):
        assert_matches(model(ids, **how).loss, want.double(), str(how.keys()))
    with pytest.raises(ValueError, match=r"shift_labels must be \[B, L\] = \[2, 9\]"):
        model(ids, shift_labels=shifted[:, 1:])
    with pytest.raises(ValueError, match="expected one of input_ids and inputs_embeds"):
        model(labels=ids)

    cache = model.eval()(ids[:, :4])[CACHE]  # labels of what follows cached tokens
    later = ids[:, 4:]
    full = torch.cat([torch.ones(2, 4).long(), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])], 1)
    got = model(later, attention_mask=full, labels=later, **{CACHE: cache}).loss
    unpadded = later.masked_fill(full[:, 4:] == 0, -100)
    again = model(ids[:, :4])[CACHE]
    assert_matches(got, model(later, labels=unpadded, **{CACHE: again}).loss.double(), "loss")


# generation


GREEDY = {"do_sample": False, "pad_token_id": 0}


@pytest.mark.parametrize("use_cache", [True, False])
def test_generates_the_golden_tokens(
    pangu: Any, golden: dict[str, Tensor], use_cache: bool
) -> None:
    prompt = golden["input_ids_2"]
    options = {"max_new_tokens": 12, "do_sample": False, "use_cache": use_cache}
    out = pangu.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    assert torch.equal(out[:, prompt.shape[1] :], golden["greedy_tokens"])


@pytest.mark.parametrize(
    "options",
    [
        {"prompt_lookup_num_tokens": 3},
        {"assistant": True},
        {"guidance_scale": 1.0},
        {"prefill_chunk_size": 3},
        {"cache_implementation": "static"},
    ],
    ids=lambda o: next(iter(o)),
)
def test_other_ways_of_greedy_decoding(options: dict[str, Any]) -> None:
    model, ids = tiny(), torch.tensor([[5, 6, 7, 5, 6, 7]])
    want = model.generate(ids, max_new_tokens=12, **GREEDY)
    if options.pop("assistant", False):
        options["assistant_model"] = tiny(seed=1, num_hidden_layers=1)
    mask = torch.ones_like(ids)
    got = model.generate(ids, attention_mask=mask, max_new_tokens=12, **GREEDY, **options)
    assert torch.equal(got, want)


def test_guidance_is_of_the_prompt() -> None:
    model, ids = tiny(), torch.tensor([[5, 6, 7, 5, 6, 7]])
    got = model.generate(ids, max_new_tokens=4, guidance_scale=1.5, **GREEDY)
    want, alone = ids, ids[:, -1:]
    for _ in range(4):  # the scores of the prompt, away from those without it
        with_it, without = (model(x).logits[:, -1].log_softmax(-1) for x in (want, alone))
        step = (without + 1.5 * (with_it - without)).argmax(-1, keepdim=True)
        want, alone = torch.cat([want, step], 1), torch.cat([alone, step], 1)
    assert torch.equal(got, want)


def test_a_second_turn_goes_on_with_the_cache() -> None:
    model, ids = tiny(), tokens(2, 6)
    options = {"max_new_tokens": 4, "eos_token_id": None, **GREEDY}
    first = model.generate(ids, return_dict_in_generate=True, **options)
    prompt = torch.cat([first.sequences, tokens(2, 5, seed=2)], 1)
    again = model.generate(prompt, **{CACHE: first[CACHE]}, **options)
    assert torch.equal(again, model.generate(prompt, **options))


@pytest.mark.parametrize("static", [False, True])
def test_left_padding_changes_no_token(static: bool) -> None:
    model, prompts = tiny(), [tokens(1, n, seed=n) for n in (3, 9, 6)]
    ids = torch.cat([F.pad(x, (9 - x.shape[1], 0)) for x in prompts])
    mask = torch.cat([F.pad(torch.ones_like(x), (9 - x.shape[1], 0)) for x in prompts])
    options = {"max_new_tokens": 8, "eos_token_id": None, **GREEDY}
    if static:
        options["cache_implementation"] = "static"
    got = model.generate(ids, attention_mask=mask, **options)
    for row, x in zip(got, prompts, strict=True):
        assert torch.equal(row[9:], model.generate(x, **options)[0, x.shape[1] :])


def test_beams_move_with_their_cache(pangu: Any, golden: dict[str, Tensor]) -> None:
    options = {
        "attention_mask": torch.ones_like(golden["input_ids"]),
        "max_new_tokens": 10,
        "num_beams": 4,
        "num_return_sequences": 3,
        **GREEDY,
    }
    with_cache = pangu.generate(golden["input_ids"], **options)
    assert with_cache.shape == (6, 29)
    assert torch.equal(pangu.generate(golden["input_ids"], use_cache=False, **options), with_cache)


@pytest.mark.slow
def test_a_static_cache_compiles_in_one_graph() -> None:
    model, ids = tiny(dtype=torch.float32), tokens(1, 6)
    options = {"max_new_tokens": 6, "eos_token_id": None, **GREEDY}
    want = model.generate(ids, **options)
    graphs = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    cache = StaticCache(model.config, max_cache_len=12)
    step = torch.compile(model, fullgraph=True, backend=count)
    got, x = ids, ids
    with torch.no_grad():
        for _ in range(6):
            position = torch.arange(got.shape[1] - x.shape[1], got.shape[1]).unsqueeze(0)
            logits = (model if x is ids else step)(x, position_ids=position, **{CACHE: cache})
            x = logits.logits[:, -1:].argmax(-1)
            got = torch.cat([got, x], 1)
    assert torch.equal(got, want)
    assert len(graphs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_any_length_compiles_in_one_graph(masked: bool) -> None:
    model, graphs = tiny(), []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, backend=count, dynamic=True)
    for n in (10, 7, 12):
        ids = tokens(2, n)
        mask = torch.ones_like(ids) if masked else None
        with torch.no_grad():
            got = compiled(ids, attention_mask=mask, use_cache=False).logits
        assert_matches(got, model(ids).logits, f"logits of {n}")
    assert len(graphs) == 1


def test_pipeline_generates_text(folder: Path, golden: dict[str, Tensor]) -> None:
    pipe = transformers.pipeline("text-generation", model=str(folder))
    options = {"max_new_tokens": 12, "do_sample": False, "return_full_text": False}

    def words(tokens: Tensor) -> list[str]:
        return [f"w{token}" for token in tokens.flatten()]

    (out,) = pipe(" ".join(words(golden["input_ids_2"])), **options)
    assert out["generated_text"].split() == words(golden["greedy_tokens"])


# files


def same_tensors(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(
        torch.equal(mine[k], theirs[k]) and mine[k].dtype == theirs[k].dtype for k in mine
    )


def test_saves_the_released_layout(pangu: Any, tmp_path: Path) -> None:
    for size in ("1MB", "5GB", "1MB"):  # into the same folder, again
        pangu.save_pretrained(tmp_path, max_shard_size=size)
        saved: dict[str, Tensor] = {}
        files = checkpoint._shards(tmp_path)
        assert len(files) == (1 if size == "5GB" else 3)
        for path in files:
            saved |= load_file(path)
        released = load_file(GOLDEN / "model.safetensors")
        assert saved.keys() == released.keys()
        assert all(torch.equal(saved[name], released[name]) for name in released)
    assert same_tensors(AutoModelForCausalLM.from_pretrained(tmp_path), pangu)


@pytest.mark.parametrize("released", [True, False])
def test_an_activation_that_no_config_has_is_not_saved(released: bool, tmp_path: Path) -> None:
    model = tiny()
    model.model.layers[0].moge.activation = "gelu"
    with pytest.raises(ValueError, match=r"layers\.0\.moge\.activation must be SwiGLU, .*'gelu'"):
        model.save_pretrained(tmp_path, save_original_format=released)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("released", [True, False])
@pytest.mark.parametrize("size", ["5GB", "20KB"])
def test_every_layout_comes_back_bit_for_bit(released: bool, size: str, tmp_path: Path) -> None:
    model = tiny(dtype=torch.bfloat16)
    model.save_pretrained(tmp_path, save_original_format=released, max_shard_size=size)
    assert same_tensors(AutoModelForCausalLM.from_pretrained(tmp_path), model)
    base = AutoModel.from_pretrained(tmp_path)
    assert same_tensors(base, model.model)
    # as Trainer resumes: the files as they are, shard by shard
    other = tiny(seed=1, dtype=torch.bfloat16)
    for path in checkpoint._shards(tmp_path):
        other.load_state_dict(load_file(path), strict=False)
    assert same_tensors(other, model)


def test_load_state_dict_names_what_is_wrong(tmp_path: Path) -> None:
    model = tiny()
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    assert not any(tiny(seed=1).load_state_dict(state))
    cut = {name: x for name, x in state.items() if "layers.1.mlp.router_scale" not in name}
    assert tiny(seed=1).load_state_dict(cut, strict=False).missing_keys == [
        "model.layers.1.moge.router_scale"
    ]
    some = {name: x for name, x in state.items() if "layers.1.mlp.experts.3.up" not in name}
    with pytest.raises(RuntimeError, match=r"layers\.1\.moge\.w_gate_up"):
        tiny(seed=1).load_state_dict(some)
    state["model.layers.0.mlp.experts.3.up_proj.weight"] = torch.zeros(3, 4)
    with pytest.raises(RuntimeError, match=r"size mismatch for .*experts\.3\.up_proj"):
        tiny(seed=1).load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"w_down is on the meta device: call to_empty first"):
        tiny().to("meta").load_state_dict(state, assign=True)


def test_a_variant_replaces_no_other_files(tmp_path: Path) -> None:
    model, other = tiny(), tiny(seed=1)
    model.save_pretrained(tmp_path)
    other.save_pretrained(tmp_path, variant="half")
    assert same_tensors(AutoModelForCausalLM.from_pretrained(tmp_path), model)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, variant="half")
    assert same_tensors(loaded, other)
    with pytest.raises(ValueError, match="use_safetensors must not be False"):
        AutoModelForCausalLM.from_pretrained(tmp_path, use_safetensors=False)


def test_classifies_sequences(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, num_labels=3, pad_token_id=0
    )
    ids = F.pad(tokens(2, 6), (0, 2))
    hidden = model.model(ids, attention_mask=(ids > 0).long()).last_hidden_state
    out = model(ids, attention_mask=(ids > 0).long(), labels=torch.tensor([0, 2]))
    assert_matches(out.logits, model.score(hidden[:, 5]).double(), "logits")
    out.loss.backward()
    assert model.model.layers[0].moge.w_down.grad.any()
    model.save_pretrained(tmp_path / "classifier")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "classifier")
    assert same_tensors(again, model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "auto", None], ids=str)
def test_auto_classes_load_any_dtype(dtype: torch.dtype | str | None) -> None:
    model = AutoModelForCausalLM.from_pretrained(GOLDEN, dtype=dtype)
    want = torch.float32 if dtype in ("auto", None) else torch.bfloat16
    assert model.dtype == model.config.dtype == want


def test_mixed_dtypes_load_and_save_as_they_are(tmp_path: Path) -> None:
    model = tiny(dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        if name.endswith(("moge.gate", "moge.router_scale", "norm.weight")):
            parameter.data = parameter.data.float() * 1.001  # no bfloat16 number
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert same_tensors(again, model)
    ids = tokens(2, 9)
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert again(ids, output_router_logits=True).router_logits[0].dtype == torch.float32

    for name, options in (("own", {"save_original_format": False}), ("again", {})):
        again.save_pretrained(tmp_path / name, **options)
        assert same_tensors(AutoModelForCausalLM.from_pretrained(tmp_path / name), model)
        inside = AutoModelForCausalLM.from_pretrained(tmp_path, subfolder=name)
        assert same_tensors(inside, model)
        assert same_tensors(AutoModel.from_pretrained(tmp_path / name), model.model)
        narrow = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.bfloat16)
        assert {p.dtype for p in narrow.parameters()} == {torch.bfloat16}
    one = tiny(dtype=torch.bfloat16)
    one.model.norm.weight.data = one.model.norm.weight.data.float() * 1.001
    one.save_pretrained(tmp_path / "one")
    assert same_tensors(AutoModelForCausalLM.from_pretrained(tmp_path / "one"), one)

    ours = checkpoint.from_pretrained(tmp_path)
    assert_matches(ours(ids), model(ids).logits.double(), "logits")
    checkpoint.save_pretrained(ours, tmp_path / "ours")
    assert same_tensors(AutoModelForCausalLM.from_pretrained(tmp_path / "ours"), model)
    narrow = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in narrow.parameters()} == {torch.bfloat16}


def test_a_router_dtype_of_the_config(tmp_path: Path) -> None:
    tiny(dtype=torch.float32, router_dtype="float32").save_pretrained(tmp_path)
    for model in (
        AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16),
        checkpoint.from_pretrained(tmp_path, dtype=torch.bfloat16),
    ):
        dtypes = {n: p.dtype for n, p in model.named_parameters()}
        wide = {n for n, dtype in dtypes.items() if dtype == torch.float32}
        assert {n.split(".")[-1] for n in wide} == {"gate", "router_scale"}
        assert set(dtypes.values()) == {torch.float32, torch.bfloat16}
    with pytest.raises(ValueError, match="router_dtype must be one of float64, float32"):
        PanguMoEConfig(router_dtype="int8")


def test_the_vocabulary_grows(tmp_path: Path) -> None:
    model, ids = tiny(), tokens(1, 5)
    want = model(ids).logits
    assert model.resize_token_embeddings() is model.get_input_embeddings()
    model.resize_token_embeddings(70)
    logits = model(torch.tensor([[66, 69]])).logits
    assert logits.shape == (1, 2, 70)
    assert_matches(model(ids).logits[..., :64], want, "logits")
    model.save_pretrained(tmp_path)
    assert same_tensors(AutoModelForCausalLM.from_pretrained(tmp_path), model)
    assert checkpoint.from_pretrained(tmp_path).config.vocab_size == 70


def test_a_new_model_from_a_config(tmp_path: Path) -> None:
    values = json.loads((GOLDEN / "config.json").read_text())
    config = AutoConfig.for_model(
        **{**values, "router_n_groups": 4, "num_experts": 12, "num_experts_per_tok": 4, "note": "x"}
    )
    assert (config.num_groups, config.note) == (4, "x")
    model = AutoModelForCausalLM.from_config(config)
    moge = model.model.layers[0].moge
    assert moge.num_groups == 4
    for weight in (model.model.embed.weight, moge.gate, moge.w_gate_up, moge.shared_down):
        assert 0.015 < weight.std() < 0.025  # initializer_range
    assert (moge.router_scale == 1).all()

    model.generation_config.max_new_tokens = 7
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.note == "x"
    assert again.generation_config.max_new_tokens == 7
    ids = torch.arange(9).view(1, 9)
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_the_72b_model_on_meta() -> None:
    config = AutoConfig.for_model("PanguProMoE")
    assert config.tie_word_embeddings is False
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert model.num_parameters() == 71_988_781_056


def test_reads_the_generation_config(folder: Path) -> None:
    transformers.GenerationConfig(max_new_tokens=7, eos_token_id=9).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.generation_config.max_new_tokens == 7
    assert model.generation_config.eos_token_id == 9


def test_runs_nothing_from_the_folder(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    values["auto_map"] = {
        "AutoConfig": "configuration_evil.Config",
        "AutoModelForCausalLM": "modeling_evil.Model",
    }
    (folder / "config.json").write_text(json.dumps(values))
    for name in ("configuration", "modeling"):
        (folder / f"{name}_evil.py").write_text("raise SystemExit('executed')")
    assert type(AutoModelForCausalLM.from_pretrained(folder)) is PanguProMoEForCausalLM


def test_refuses_damaged_folders(folder: Path) -> None:
    from safetensors.torch import save_file

    state = load_file(folder / "model.safetensors")
    gone = state.pop("model.layers.1.mlp.experts.3.up_proj.weight")
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing: model\.layers\.1\.mlp\.experts\.3\.up_proj"):
        AutoModelForCausalLM.from_pretrained(folder)
    state["model.layers.1.mlp.experts.3.up_proj.weight"] = gone[1:].contiguous()
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"misshapen: model\.layers\.1\.mlp\.experts\.3\.up_proj"):
        AutoModelForCausalLM.from_pretrained(folder)

    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="a pickle can run code"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_refuses_a_damaged_folder_of_its_own_layout(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tiny().save_pretrained(tmp_path, save_original_format=False)
    state = load_file(tmp_path / "model.safetensors")
    del state["model.layers.1.moge.w_down"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks model\.layers\.1\.moge\.w_down"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_refuses_another_model() -> None:
    with pytest.raises(ValueError, match="rope_scaling must be None, got"):
        AutoConfig.for_model("PanguProMoE", rope_scaling={"type": "yarn"})
    with pytest.raises((ValueError, RuntimeError), match=r"size|shape"):
        AutoModelForCausalLM.from_pretrained(GOLDEN, hidden_size=128)


def test_its_lists_for_evaluation_are_lists() -> None:
    config = tiny().config
    ignored = config.keys_to_ignore_at_inference
    assert isinstance(ignored, list)
    assert {CACHE, "aux_loss", "router_logits"} <= {*ignored}
