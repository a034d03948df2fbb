"""Speculation, offloaded and quantised experts, TrimR's hook and PreMoe's masks, together.

The oracle is plain decoding, a token a step, of the same model resident in memory: with the same
quantised weights, and with the same experts switched off. Logits have its bits where nothing is
guessed; a forward of several tokens may round otherwise, so guesses are compared by their tokens.
"""

import functools
import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("safetensors")

from moge_ops import offload
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.models.checkpoint import from_pretrained, save_pretrained
from moge_ops.models.speculation import make_draft
from moge_ops.models.tokenizer import Tokenizer
from moge_ops.models.trimr import QUESTIONS, Reason, TrimR, Words
from moge_ops.offload import _loading
from moge_ops.quant import SCHEMES, quantize_experts
from moge_ops.statistics import RouterStatistics

pytestmark = pytest.mark.slow

V, LAYERS, E, K, NEW = 40, 3, 8, 4, 24
SIZES: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_experts": E,
    "num_experts_per_tok": K,
    "num_groups": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 16,
    "max_position_embeddings": 128,
    "eos_token_id": 7,
    "initializer_range": 0.3,
    "num_nextn_predict_layers": 1,
}
KINDS = ("float32", *SCHEMES)
DRAFTS = ("lookup", "mtp", "model")
# slots of the pool: one layer's, a few more, all of the model and its head
BUDGETS = {"tight": E, "some": 2 * E + 3, "loose": (LAYERS + 1) * E}
BATCHES = {"one": [[3, 1, 4, 1, 5, 9]], "three": [[2, 7, 1, 8], [6], [1, 4, 1, 4, 1, 4, 2]]}

Make = Callable[..., PanguMoEForCausalLM]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder of each kind, written when it is first asked for; not to be changed."""

    @functools.cache
    def folder(kind: str) -> Path:
        torch.manual_seed(1)
        model = PanguMoEForCausalLM(PanguMoEConfig(**SIZES))
        if kind in SCHEMES:
            quantize_experts(model, kind, group_size=32 if kind == "int4_w4a16" else None)
        path = tmp_path_factory.mktemp("series") / kind
        save_pretrained(model, path)
        return path

    return folder


@pytest.fixture(scope="module")
def masks(folders: Callable[[str], Path]) -> dict[str, Tensor]:
    """The experts that a task needs, three of four in each group; the head keeps all."""
    model, statistics = from_pretrained(folders("float32")), RouterStatistics()
    with torch.inference_mode(), statistics.collect(model, "task"):
        model(torch.arange(V)[None])
    found = statistics.masks("task", 3, score="selection")
    assert all(int(mask.sum()) == 6 for mask in found.values())
    return found


@pytest.fixture(scope="module")
def other() -> PanguMoEForCausalLM:
    """A draft model."""
    torch.manual_seed(2)
    sizes = SIZES | {"num_hidden_layers": 1, "num_nextn_predict_layers": 0}
    return PanguMoEForCausalLM(PanguMoEConfig(**sizes)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def resident(folders: Callable[[str], Path], masks: dict[str, Tensor]) -> Make:
    """The oracle's models."""

    @functools.cache
    def load(kind: str, masked: bool = False) -> PanguMoEForCausalLM:
        model = from_pretrained(folders(kind)).requires_grad_(False)
        for layer, mask in masks.items() if masked else ():
            model.get_submodule(layer).expert_mask = mask
        return model

    return load


@pytest.fixture
def offloaded(folders: Callable[[str], Path], masks: dict[str, Tensor]) -> Iterator[Make]:
    """Models with a store; all are closed at the end."""
    stores = []

    def load(
        kind: str, budget: str, masked: bool = False, in_memory: bool = False
    ) -> PanguMoEForCausalLM:
        folder, experts = folders(kind), masks if masked else None
        rest, each = outside(folder)
        slots = BUDGETS[budget] - (2 * LAYERS if masked and budget == "loose" else 0)
        # its kernel takes a layer's experts in their own order, from a copy beside the pool
        copied = E if kind == "int4_w4a8" else 0
        most = rest + (slots + copied) * each
        model: PanguMoEForCausalLM = _loading._load(
            folder, most, None, None, torch.device("cpu"), experts, in_memory
        )
        stores.append(offload.of(model))
        assert slots <= stores[-1].slots <= slots + copied
        return model

    yield load
    for store in stores:
        store.close()


@functools.cache
def outside(folder: Path) -> tuple[int, int]:
    """Bytes of the weights that are no experts, and of one expert."""
    model = offload.load(folder)
    with offload.of(model) as store:
        return sum(p.nbytes for p in model.parameters()), store.slot_bytes


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    yield
    if threads():
        gc.collect()  # slow beside the other tests' objects, and rarely needed
    assert not threads()


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("moge_ops")]


def guesser(name: str, other: PanguMoEForCausalLM) -> Any:
    return make_draft(other if name == "model" else name)


def answer(model: PanguMoEForCausalLM, rows: Sequence[Sequence[int]], **options: Any) -> Tensor:
    return model.generate(rows, NEW, temperature=0.0, **options)


def same(model: PanguMoEForCausalLM, want: PanguMoEForCausalLM, draft: Any) -> None:
    """Asserts that both decode each batch to the same tokens, ``want`` without a draft."""
    for name, rows in BATCHES.items():
        assert torch.equal(answer(model, rows, draft=draft), answer(want, rows)), name
        assert draft is None or draft.passes > 0


def test_the_oracle_says_different_things(resident: Make) -> None:
    """No test below may pass because every model says the same, or one token again and again."""
    said = {(k, m): answer(resident(k, m), BATCHES["three"]) for k in KINDS for m in (False, True)}
    assert len({tuple(ids.flatten().tolist()) for ids in said.values()}) >= len(KINDS) + 1
    assert all(len(set(ids[0, -NEW:].tolist())) > 3 for ids in said.values())


@pytest.mark.parametrize(
    ("budget", "in_memory"), [("tight", False), ("tight", True), ("some", False), ("loose", False)]
)
@pytest.mark.parametrize("draft", DRAFTS)
def test_speculation_and_offloading(
    resident: Make,
    offloaded: Make,
    other: PanguMoEForCausalLM,
    draft: str,
    budget: str,
    in_memory: bool,
) -> None:
    model = offloaded("float32", budget, in_memory=in_memory)
    same(model, resident("float32"), guesser(draft, other))


@pytest.mark.parametrize("kind", SCHEMES)
@pytest.mark.parametrize("draft", ["lookup", "mtp"])
def test_speculation_and_quantised(
    resident: Make, other: PanguMoEForCausalLM, draft: str, kind: str
) -> None:
    same(resident(kind), resident(kind), guesser(draft, other))


@pytest.mark.parametrize("draft", DRAFTS)
def test_speculation_and_masks(resident: Make, other: PanguMoEForCausalLM, draft: str) -> None:
    same(resident("float32", True), resident("float32", True), guesser(draft, other))


@pytest.mark.parametrize(
    ("budget", "in_memory", "masked"),
    [("tight", False, False), ("some", True, True), ("loose", False, True)],
)
@pytest.mark.parametrize("kind", KINDS)
def test_offloading_quantised_and_masks(
    resident: Make, offloaded: Make, kind: str, masked: bool, in_memory: bool, budget: str
) -> None:
    """The pairs, and the three together: bits of the logits, and tokens."""
    model, want = offloaded(kind, budget, masked, in_memory), resident(kind, masked)
    with torch.inference_mode():
        for shape in ((3, 7), (1, 1), (2, 20)):
            ids = torch.randint(V, shape)
            assert torch.equal(model(ids), want(ids))
    same(model, want, None)


@pytest.mark.parametrize("kind", SCHEMES)
def test_quantised_and_masks(resident: Make, folders: Any, masks: Any, kind: str) -> None:
    """Experts that are off are never asked: with other weights in them, the same logits."""
    broken, want = from_pretrained(folders(kind)).requires_grad_(False), resident(kind, True)
    for layer, mask in masks.items():
        moge: Any = broken.get_submodule(layer)
        moge.expert_mask = mask
        for weight in (moge.w_gate_up, moge.w_down):
            for part in weight.buffers() if hasattr(weight, "buffers") else ():
                if part.ndim and len(part) == E and part.dtype == torch.float32:  # scales
                    part[~mask] = 3.0
    ids = torch.randint(V, (2, 9))
    with torch.inference_mode():
        assert torch.equal(broken(ids), want(ids))
        assert not torch.equal(want(ids), resident(kind)(ids))


@pytest.mark.parametrize("kind", SCHEMES)
def test_speculation_offloading_and_quantised(resident: Make, offloaded: Make, kind: str) -> None:
    same(offloaded(kind, "tight"), resident(kind), make_draft("mtp"))
    same(offloaded(kind, "some", True), resident(kind, True), make_draft("lookup"))


@pytest.mark.parametrize("draft", DRAFTS)
def test_samples_of_an_offloaded_model(
    resident: Make, offloaded: Make, other: PanguMoEForCausalLM, draft: str
) -> None:
    """The same guesses, the same random numbers: the same samples as of the resident model."""
    models = resident("int8_w8a16", True), offloaded("int8_w8a16", "tight", True)
    said = [
        model.generate(
            BATCHES["three"],
            NEW,
            draft=guesser(draft, other),
            generator=torch.Generator().manual_seed(4),
        )
        for model in models
    ]
    assert torch.equal(*said)


def test_a_draft_whose_experts_are_offloaded(resident: Make, offloaded: Make) -> None:
    draft = make_draft(offloaded("int4_w4a16", "tight"))
    same(offloaded("float32", "tight"), resident("float32"), draft)
    assert 0 < draft.accepted < draft.proposed


# TrimR

WORDS = Words("m1 m2 m3 ", "s1 s2 ", "a1 a2 ")
NAMES = ["</t>", *WORDS.mild.split(), *WORDS.strong.split(), *WORDS.answer.split()]
TOKENS = {name: 10 + 3 * i for i, name in enumerate(NAMES)}


def said(ids: Sequence[int]) -> str:
    """Every token is a sentence, and every second one begins a thought."""
    return "".join(f"{'Wait' if i % 2 else 'So'} {i}. " for i in ids)


TOKENIZER = Tokenizer(
    Path("sentences"), V, lambda text: [TOKENS[name] for name in text.split()], said, TOKENS.get
)


def alike(question: str, thoughts: list[str]) -> bool:
    """Whether two thoughts have lengths of one kind, which no model knows."""
    return question != QUESTIONS.agree or len({len(each) // 12 for each in thoughts}) == 1


class Settled:
    """A hook that is asked when it has every verdict, so that it cuts at the same place again."""

    def __init__(self, hook: TrimR) -> None:
        self.hook, self.inserted = hook, list[tuple[int, list[int]]]()

    def __call__(self, new: list[list[int]]) -> dict[int, list[int]]:
        until = time.monotonic() + 10
        for row in self.hook._rows:
            while row.call is not None and not row.call.done and time.monotonic() < until:
                time.sleep(0)
        found = self.hook(new)
        self.inserted += found.items()
        return found


def trimmed(
    model: PanguMoEForCausalLM, rows: Sequence[Sequence[int]], **options: Any
) -> tuple[list[list[int]], Any]:
    """New ids of each row, and what the hook did."""
    hook = TrimR(
        TOKENIZER, alike, budget=NEW, words=WORDS, end="</t>", least=1, agreeing=1, grace=4,
        repeats=3, repeated=3,
    )  # fmt: skip
    with hook:
        settled = Settled(hook)
        ids = answer(model, rows, hook=settled, pad_token_id=0, **options)
        L = max(map(len, rows))
        return ids[:, L:].tolist(), (hook.reports, settled.inserted)


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("kind", KINDS)
def test_trimr_and_offloading_quantised_and_masks(
    resident: Make, offloaded: Make, kind: str, masked: bool
) -> None:
    for rows in BATCHES.values():
        want = trimmed(resident(kind, masked), rows)
        assert trimmed(offloaded(kind, "tight", masked), rows) == want


def test_trimr_does_something(resident: Make) -> None:
    seen = [trimmed(resident(k, m), BATCHES["three"])[1][0] for k in KINDS for m in (False, True)]
    reasons = [cut.reason for reports in seen for report in reports for cut in report.cuts]
    assert {Reason.AGREEMENT, Reason.WENT_ON, Reason.REPETITION} <= set(reasons)
    assert any(not report.cuts for reports in seen for report in reports)


@pytest.mark.parametrize("rows", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize(
    ("draft", "kind", "masked"),
    [
        *((draft, "float32", False) for draft in DRAFTS),
        ("mtp", "int8_w8a8", True),
        ("lookup", "mxfp4", True),
        ("model", "int4_w4a16", True),
    ],
)
def test_trimr_and_speculation(
    resident: Make,
    offloaded: Make,
    other: PanguMoEForCausalLM,
    draft: str,
    kind: str,
    masked: bool,
    rows: list[list[int]],
) -> None:
    """All five together.

    Several tokens come in one step, so the words stand where the hook first saw what they are for,
    which may be later than in plain decoding. Up to them, between them and after them a row says
    what plain decoding says there.
    """
    plain = resident(kind, masked)
    model = offloaded(kind, "tight", masked)
    new, (reports, inserted) = trimmed(model, rows, draft=guesser(draft, other))
    for i, (prompt, got, report) in enumerate(zip(rows, new, reports, strict=True)):
        words = [given for row, given in inserted if row == i][: len(report.cuts)]
        at = 0
        for cut, given in zip([*report.cuts, None], [*words, []], strict=True):
            until = NEW if cut is None else cut.tokens
            want = plain.generate([[*prompt, *got[:at]]], NEW - at, temperature=0.0, pad_token_id=0)
            row = want[0, len(prompt) + at :].tolist()
            row += [0] * (len(got) - at - len(row))
            assert got[at:until] == row[: until - at][: len(got) - at]
            at = until + len(given)
            assert got[until:at] == given[: len(got) - until]
            if at >= len(got):
                break


# the class of transformers


@pytest.mark.parametrize(
    ("kind", "budget"), [("float32", "tight"), ("int8_w8a16", "loose"), ("mxfp4", "some")]
)
@pytest.mark.parametrize("lookup", [None, 3], ids=["plain", "lookup"])
def test_class_of_transformers(
    folders: Callable[[str], Path],
    resident: Make,
    kind: str,
    budget: str,
    lookup: int | None,
) -> None:
    """`generate` of transformers, and its assisted generation, against the reference model."""
    pangu_auto = pytest.importorskip("moge_ops.integrations.pangu_auto")
    folder = folders(kind)
    config = pangu_auto.PanguProMoEConfig.from_pretrained(folder)
    with torch.device("meta"):
        empty = pangu_auto.PanguProMoEForCausalLM(config)
    rest, each = outside(folder)
    head = resident("float32").mtp  # which that class has not
    rest -= sum(p.nbytes for name, p in head.named_parameters() if "moge.w_" not in name)
    slots = min(BUDGETS[budget], LAYERS * E)
    model = offload.load(folder, rest + slots * each, model=empty)
    ids = torch.tensor(BATCHES["one"])
    with offload.of(model) as store:
        assert store.slots == slots
        got = model.generate(
            ids,
            max_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
            prompt_lookup_num_tokens=lookup,
        )
    want = answer(resident(kind), BATCHES["one"])
    assert got[0].tolist() == want[0].tolist()
