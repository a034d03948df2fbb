"""Speculation: the tokens, or their distribution, are those of plain decoding."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.models.generation import Sampler
from moge_ops.models.speculation import (
    Accepted,
    Draft,
    DraftModel,
    PromptLookup,
    Proposal,
    match,
    verify,
)
from moge_ops.quant import quantize_experts

V = 31


def random_model(dtype: torch.dtype = torch.float64, **changes: Any) -> PanguMoEForCausalLM:
    """A model whose weights are so large that its choices are clear."""
    sizes = {
        "vocab_size": V,
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
    model = PanguMoEForCausalLM(PanguMoEConfig(**{**sizes, **changes})).to(dtype)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape) * (1.0 if p.ndim == 1 else 2.0 * p.shape[-1] ** -0.5))
            if "norm" in name or "router_scale" in name:
                p.copy_(1.0 + 0.2 * torch.randn(p.shape))
    return model.eval()


def new_ids(model: PanguMoEForCausalLM, row: Sequence[int], n: int, **options: Any) -> list[int]:
    """What plain greedy decoding adds to one row that is alone, without padding."""
    out = model.generate([row], n, temperature=0, **options)
    return out[0, len(row) :].tolist()


class Scripted(Draft):
    """Knows what comes in every row, and errs where it is told to.

    Args:
        texts: The new ids of each row.
        right: ``(row, place) -> bool``, whether the guess at a place of the new ids is right.
    """

    def __init__(self, texts: list[list[int]], right: Callable[[int, int], bool]) -> None:
        self.texts, self.right = texts, right

    def start(
        self, model: Any, ids: Tensor, mask: Tensor | None, room: int, sampler: Sampler
    ) -> None:
        self.at = [0] * len(ids)
        self.calls: list[Accepted] = []

    def propose(self, new: Accepted, n: int) -> Proposal:
        counts = new.real.sum(1).tolist() if self.calls else [1] * len(self.at)
        self.calls.append(new)
        self.at = [x + y for x, y in zip(self.at, counts, strict=True)]
        guesses: list[list[int]] = []
        for b, text in enumerate(self.texts):
            places = range(self.at[b], self.at[b] + n)
            tokens = [(text[at] if at < len(text) else 0, self.right(b, at)) for at in places]
            guesses.append([x if right else (x + 1) % V for x, right in tokens])
        return Proposal(guesses)


PROMPTS = {
    "one_row": [[1, 2, 3, 1, 2, 3, 1]],
    "one_token": [[4]],
    "equal_lengths": [[1, 2, 3], [4, 5, 4], [7, 7, 7]],
    "any_lengths": [[1, 2, 3, 1, 2, 3, 1], [5], [9, 8, 9, 8], [3, 3]],
}


@pytest.fixture
def draft_of() -> Callable[[str, PanguMoEForCausalLM], Any]:
    def make(name: str, model: PanguMoEForCausalLM) -> Any:
        dtype = model.embed.weight.dtype
        other = random_model(dtype, num_hidden_layers=1, hidden_size=16)
        return {"lookup": "lookup", "itself": model, "another": other}[name]

    return make


class TestGreedy:
    """The oracle is plain decoding."""

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
    @pytest.mark.parametrize("draft_tokens", [1, 2, 3, 8])
    @pytest.mark.parametrize("name", ["lookup", "itself", "another"])
    @pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
    def test_the_tokens_are_the_plain_ones(
        self,
        prompts: list[list[int]],
        name: str,
        draft_tokens: int,
        dtype: torch.dtype,
        draft_of: Any,
    ) -> None:
        model = random_model(dtype)
        want = model.generate(prompts, 18, temperature=0, pad_token_id=30)
        out = model.generate(
            prompts, 18, temperature=0, pad_token_id=30,
            draft=draft_of(name, model), draft_tokens=draft_tokens,
        )  # fmt: skip
        assert torch.equal(out, want)

    @pytest.mark.parametrize("draft_tokens", range(1, 9))
    def test_rows_that_accept_unequal_numbers(self, draft_tokens: int) -> None:
        """Row b errs at every (b + 2)-th place; the oracle is each row alone."""
        model, prompts = random_model(), PROMPTS["any_lengths"]
        texts = [new_ids(model, row, 20) for row in prompts]
        draft = Scripted(texts, lambda b, at: at % (b + 2) != 0)
        out = model.generate(
            prompts, 20, temperature=0, draft=draft, draft_tokens=draft_tokens
        )  # fmt: skip
        assert out[:, 7:].tolist() == texts
        assert 0 < draft.accepted < draft.proposed

    def test_a_perfect_draft_is_always_accepted(self) -> None:
        model, prompts = random_model(), PROMPTS["any_lengths"]
        draft = DraftModel(model)
        model.generate(prompts, 21, temperature=0, draft=draft, draft_tokens=3)
        assert draft.accepted == draft.proposed == 4 * 15
        assert draft.passes == 6  # the prompt's, and four tokens in each of the others

    def test_an_adversary_is_never_accepted(self) -> None:
        model, prompts = random_model(), PROMPTS["any_lengths"]
        texts = [new_ids(model, row, 12) for row in prompts]
        draft = Scripted(texts, lambda b, at: False)
        out = model.generate(prompts, 12, temperature=0, draft=draft, draft_tokens=4)
        assert out[:, 7:].tolist() == texts
        assert draft.accepted == 0
        assert draft.passes == 12
        # one token is left in the last step, and before it one guess fewer than tokens
        assert draft.proposed == 4 * (4 * 7 + 3 + 2 + 1 + 0)

    @pytest.mark.parametrize("where", range(1, 9))
    def test_a_row_ends_inside_a_run_of_accepted_tokens(self, where: int) -> None:
        model, prompts = random_model(), PROMPTS["any_lengths"]
        free = [new_ids(model, row, 16) for row in prompts]
        eos = free[1][where]
        want = model.generate(prompts, 16, temperature=0, eos_token_id=eos, pad_token_id=29)
        draft = Scripted(free, lambda b, at: b != 2)
        for each in (draft, model, "lookup"):
            out = model.generate(
                prompts, 16, temperature=0, eos_token_id=eos, pad_token_id=29,
                draft=each, draft_tokens=5,
            )  # fmt: skip
            assert torch.equal(out, want), each
        assert eos in out[1, 7:].tolist()

    @pytest.mark.parametrize("most", range(7))
    def test_max_new_tokens_inside_a_run(self, most: int) -> None:
        model, prompts = random_model(), PROMPTS["any_lengths"]
        free = [new_ids(model, row, 16) for row in prompts]
        draft = Scripted(free, lambda b, at: True)
        out = model.generate(prompts, most, temperature=0, draft=draft, draft_tokens=4)
        assert out[:, 7:].tolist() == [text[:most] for text in free]

    @pytest.mark.parametrize("own_cache", [False, True])
    def test_cache_and_positions_are_full(self, own_cache: bool) -> None:
        model = random_model(max_position_embeddings=20)
        prompts = PROMPTS["any_lengths"]
        texts = [new_ids(model, row, 13) for row in prompts]
        cache = model.new_cache(4, 20) if own_cache else None
        for draft in (model, "lookup", Scripted(texts, lambda b, at: at % (b + 2) != 0)):
            out = model.generate(
                prompts, 13, temperature=0, cache=cache, draft=draft, draft_tokens=8
            )  # fmt: skip
            assert out[:, 7:].tolist() == texts
        with pytest.raises(ValueError, match=r"must fit into 20, got 7 \+ 14"):
            model.generate(prompts, 14, draft="lookup")

    def test_a_cache_is_whole_after_rows_of_several_lengths(self) -> None:
        model, prompts = random_model(), PROMPTS["any_lengths"]
        texts = [new_ids(model, row, 13) for row in prompts]
        cache = model.new_cache(4, 20)
        draft = Scripted(texts, lambda b, at: at % (b + 2) != 0)
        model.generate(prompts, 11, temperature=0, cache=cache, draft=draft)
        cache.length = 0
        ids = torch.randint(0, V, (4, 9))
        with torch.no_grad():
            assert torch.equal(model(ids, cache=cache), model(ids, cache=model.new_cache(4, 9)))

    def test_what_a_draft_learns(self) -> None:
        """All new tokens come once, each with the state that it was chosen from."""
        model, prompts = random_model(), PROMPTS["any_lengths"]
        texts = [new_ids(model, row, 12) for row in prompts]
        draft = Scripted(texts, lambda b, at: at % (b + 2) != 0)
        model.generate(
            prompts, 12, temperature=0, draft=draft, hook=Forcing({2: {1: [7, 8], 3: [9]}})
        )
        for b, row in enumerate(prompts):
            tokens = [x for c in draft.calls for x in c.tokens[b][c.real[b]].tolist()]
            states = torch.cat([c.hidden[b][c.real[b]] for c in draft.calls])
            whole = torch.tensor([[row[0], *tokens]])
            with torch.no_grad():
                want = model(whole, return_details=True).hidden_states[-1][0, :-1]
            assert tokens[: len(row) - 1] == row[1:]
            assert (states - want).abs().max() < 1e-9
        assert all(c.tokens.shape == c.real.shape == c.hidden.shape[:2] for c in draft.calls)

    def test_the_streamer_sees_every_token_once(self) -> None:
        model, prompts = random_model(), PROMPTS["any_lengths"]
        texts = [new_ids(model, row, 12) for row in prompts]
        seen: list[list[int]] = [[], [], [], []]

        def see(ids: Tensor) -> None:
            assert ids.shape == (4,)
            for b, each in enumerate(ids.tolist()):
                seen[b] += [each] if each != -1 else []

        draft = Scripted(texts, lambda b, at: at % (b + 2) != 0)
        model.generate(prompts, 12, temperature=0, draft=draft, streamer=see)
        assert seen == texts

    def test_a_quantized_model(self) -> None:
        model = random_model(torch.float32, hidden_size=32, moe_intermediate_size=32)
        prompts = PROMPTS["any_lengths"]
        assert quantize_experts(model, "int8_w8a16")
        texts = [new_ids(model, row, 10) for row in prompts]
        draft = Scripted(texts, lambda b, at: at % (b + 2) != 0)
        out = model.generate(prompts, 10, temperature=0, draft=draft)
        assert out[:, 7:].tolist() == texts


class Forcing:
    """A hook with a plan: step -> row -> ids; keeps what it was shown."""

    def __init__(self, plan: dict[int, dict[int, list[int]]]) -> None:
        self.plan = plan
        self.seen: list[list[list[int]]] = []

    def __call__(self, new: list[list[int]]) -> dict[int, list[int]] | None:
        self.seen.append(new)
        return self.plan.get(len(self.seen))

    def text(self, b: int) -> list[int]:
        return [each for step in self.seen for each in step[b]]


class TestHook:
    DRAFTS = (None, "lookup", "itself", "scripted")

    @staticmethod
    def draft(name: str | None, model: PanguMoEForCausalLM, texts: list[list[int]]) -> Any:
        made = {"itself": model, "scripted": Scripted(texts, lambda b, at: at % (b + 2) != 0)}
        return made.get(name or "", name)

    @pytest.mark.parametrize("name", DRAFTS)
    def test_forced_tokens_come_next(self, name: str | None) -> None:
        """Other rows do not notice, and the row goes on as if the model had chosen them."""
        model, prompts = random_model(), PROMPTS["any_lengths"]
        texts = [new_ids(model, row, 14) for row in prompts]
        hook = Forcing({2: {1: [11, 12, 13]}, 3: {1: [14], 3: [15, 16]}, 4: {}})
        out = model.generate(
            prompts, 14, temperature=0, draft=self.draft(name, model, texts), hook=hook
        )
        for b in (0, 2):
            assert out[b, 7:].tolist() == texts[b]
        for b, plan in ((1, [(2, [11, 12, 13]), (3, [14])]), (3, [(3, [15, 16])])):
            want: list[int] = []
            for step, forced in plan:
                have = [x for new in hook.seen[:step] for x in new[b]]
                want += new_ids(model, prompts[b] + want, len(have) - len(want)) + forced
                assert have == want[: len(have)]
            want += new_ids(model, prompts[b] + want, 14 - len(want))
            assert out[b, 7:].tolist() == want
        assert [hook.text(b) for b in range(4)] == out[:, 7:].tolist()

    @pytest.mark.parametrize("name", DRAFTS)
    def test_an_end_among_forced_tokens(self, name: str | None) -> None:
        model, prompts = random_model(), PROMPTS["any_lengths"]
        eos = next(x for x in range(V) if all(x not in new_ids(model, r, 14) for r in prompts))
        texts = [new_ids(model, row, 14) for row in prompts]
        # what comes for an ended row is ignored
        hook = Forcing({1: {2: [5, eos, 6]}, 2: {2: [9]}, 3: {2: [9]}})
        out = model.generate(
            prompts, 14, temperature=0, eos_token_id=eos, pad_token_id=0,
            draft=self.draft(name, model, texts), hook=hook,
        )  # fmt: skip
        assert out[2, 7:].tolist() == [texts[2][0], 5, eos, *[0] * 11]
        for b in (0, 1, 3):
            assert out[b, 7:].tolist() == texts[b]
        assert hook.seen[1][2] == [5, eos]
        assert all(new[2] == [] for new in hook.seen[2:])

    @pytest.mark.parametrize("n", [1, 2, 3, 4, 9])
    def test_forced_tokens_up_to_the_last_one(self, n: int) -> None:
        model = random_model(max_position_embeddings=11)
        prompts = [[1, 2, 3, 4, 5], [6]]
        text = new_ids(model, prompts[1], 6)
        out = model.generate(
            prompts, 6, temperature=0, hook=Forcing({3: {0: list(range(20, 20 + n))}})
        )
        assert out.shape == (2, 11)
        first = new_ids(model, prompts[0], 3) + list(range(20, 20 + min(n, 3)))
        first += new_ids(model, prompts[0] + first, 6 - len(first))
        assert out[:, 5:].tolist() == [first, text]

    def test_a_hook_that_returns_nothing_changes_nothing(self) -> None:
        model, prompts = random_model(), PROMPTS["any_lengths"]
        for temperature in (0.0, 1.0):
            plain, hooked = (
                model.generate(
                    prompts, 12, temperature=temperature,
                    generator=torch.Generator().manual_seed(1), **options,
                )
                for options in ({}, {"hook": lambda new: None})
            )  # fmt: skip
            assert torch.equal(plain, hooked)

    def test_its_lists_are_its_own(self) -> None:
        model, prompts = random_model(), PROMPTS["any_lengths"]

        def spoil(new: list[list[int]]) -> None:
            for row in new:
                row.clear()

        want = model.generate(prompts, 12, temperature=0)
        out = model.generate(prompts, 12, temperature=0, draft=model, hook=spoil)
        assert torch.equal(out, want)


def chi_squared(counts: Tensor, want: Tensor) -> float:
    """Standard deviations by which counts are further from ``want`` than chance takes them."""
    n, likely = counts.sum(), want > 0
    assert not counts[~likely].any()
    counts, want = counts[likely].double(), want[likely].double() * n
    freedom = len(counts) - 1
    return float((((counts - want) ** 2 / want).sum() - freedom) / (2 * freedom) ** 0.5)


class TestSampling:
    N = 100_000

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["certain", "sampled", "equal", "disjoint"])
    def test_verify_leaves_the_distribution(self, kind: str) -> None:
        """The joint distribution of two tokens, of which both, one or none were guessed."""
        generator = torch.Generator().manual_seed(3)
        N, W = self.N, 6
        first = torch.tensor([0.4, 0.3, 0.0, 0.15, 0.1, 0.05])
        second = torch.rand(W, W, generator=generator) ** 2
        second /= second.sum(1, keepdim=True)
        third = torch.full((N, 1, W), 1 / W)
        if kind == "certain":
            guesses, probs = torch.tensor([[1, 4]]).expand(N, 2), None
        else:
            q = torch.tensor([0.1, 0.1, 0.3, 0.3, 0.1, 0.1])
            if kind == "equal":
                q = first
            elif kind == "disjoint":
                q = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
            probs = q.expand(N, 2, W).contiguous()
            guesses = torch.multinomial(q, 2 * N, True, generator=generator).view(N, 2)
        p = torch.cat([first.expand(N, 1, W), second[guesses[:, 0], None], third], 1)
        found = verify(p, Proposal(guesses.tolist(), probs), generator)
        n, token = (torch.tensor(x) for x in found)
        one = torch.where(n > 0, guesses[:, 0], token)
        two = torch.where(n > 1, guesses[:, 1], token)
        drawn = torch.multinomial(second[one], 1, generator=generator)[:, 0]
        two = torch.where(n > 0, two, drawn)
        counts = torch.bincount(one * W + two, minlength=W * W)
        assert chi_squared(counts, (first[:, None] * second).flatten()) < 5
        if kind != "disjoint":  # after guesses that all stay, nothing of q is taken away
            last = torch.bincount(token[n == 2], minlength=W)
            assert chi_squared(last, torch.full((W,), 1 / W)) < 5
        # of guesses drawn from q, the share sum(min(p, q)) stays
        stay = {"certain": 0.3, "sampled": 0.1 + 0.1 + 0.15 + 0.1 + 0.05, "equal": 1.0}
        assert abs((n > 0).float().mean().item() - stay.get(kind, 0.0)) < 0.01

    def test_guesses_that_do_not_count(self) -> None:
        p = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]).expand(4, 2, 2)
        rows = [[1], [], [0], []]
        assert verify(p, Proposal(rows)) == ([1, 0, 0, 0], [0, 1, 1, 1])
        assert verify(p, Proposal(rows), forced=[True] * 4) == ([1, 0, 1, 0], [0, 1, 0, 1])
        assert match([[1, 0]] * 4, rows) == ([1, 0, 0, 0], [0, 1, 1, 1])
        assert match([[1, 0]] * 4, rows, [True] * 4) == ([1, 0, 1, 0], [0, 1, 0, 1])

    def test_nothing_is_left_by_rounding(self) -> None:
        """p is q or a little less everywhere, and a guess is rejected all the same."""
        q = torch.tensor([[[0.0, 0.5, 0.5]]]).expand(1000, 1, 3).contiguous()
        p = torch.cat([q * 0.9, q], 1)
        n, token = verify(p, Proposal([[1]] * 1000, q))
        assert 800 < sum(n) < 970
        assert set(token) == {1, 2}

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["lookup", "another"])
    def test_generate_leaves_the_distribution(self, name: str) -> None:
        """Three tokens of a tiny vocabulary, of which the last two are speculated."""
        torch.manual_seed(5)
        W, N, sampler = 4, 40_000, Sampler(0.9, 3, 0.95)
        sizes = {
            "vocab_size": W, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
            "num_key_value_heads": 1, "num_experts": 2, "num_experts_per_tok": 1, "num_groups": 1,
            "moe_intermediate_size": 4, "shared_expert_intermediate_size": 4,
        }  # fmt: skip
        model, other = (random_model(torch.float32, **sizes) for _ in range(2))
        for each in (model, other):
            each.lm_head.weight.data *= 0.5
        prompt = [1, 2, 1]
        rows = torch.tensor([[*prompt, a, b] for a in range(W) for b in range(W)])
        with torch.no_grad():
            p = sampler.distribution(model(rows, logits_to_keep=3))  # [W * W, 3, W]
        a, b = rows[:, 3], rows[:, 4]
        i = torch.arange(W * W)
        want = (p[i, 0, a] * p[i, 1, b])[:, None] * p[:, 2]
        assert 0 < (want == 0).sum() < want.numel() / 2 + 20
        draft = {"lookup": PromptLookup(), "another": DraftModel(other)}
        out = model.generate(
            [prompt] * N, 3, temperature=0.9, top_k=3, top_p=0.95,
            generator=torch.Generator().manual_seed(2), draft=draft[name], draft_tokens=2,
        )[:, 3:]  # fmt: skip
        counts = torch.bincount((out[:, 0] * W + out[:, 1]) * W + out[:, 2], minlength=W**3)
        assert chi_squared(counts, want.flatten()) < 5
        assert 0 < draft[name].accepted <= draft[name].proposed

    def test_a_perfect_draft_is_always_accepted(self) -> None:
        model = random_model()
        draft = DraftModel(model)
        model.generate([[1, 2], [3]] * 50, 13, draft=draft, top_k=5)
        assert draft.accepted == draft.proposed == 100 * 9

    def test_the_dense_distribution(self) -> None:
        logits = torch.tensor([[0.4, 0.1, 0.2, 0.3], [0.25, 0.25, 0.4, 0.1]]).log()
        dense = Sampler(1.0, 3, 0.8).distribution(logits[:, None].bfloat16().float())
        assert dense.shape == (2, 1, 4)
        assert dense.dtype == torch.float32
        want = torch.tensor([[4 / 9, 0, 2 / 9, 3 / 9], [25 / 90, 25 / 90, 40 / 90, 0]])
        assert (dense[:, 0] - want).abs().max() < 1e-2
        assert (Sampler(1.0, 3, 0.5).distribution(logits).sum(-1) - 1).abs().max() < 1e-6
        assert Sampler(0.0, 0, 1.0).distribution(logits).tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]
        with pytest.raises(ValueError, match="logits are not finite, the largest is nan"):
            Sampler(1.0, 3, 0.8).distribution(logits * float("nan"))


class TestPromptLookup:
    @staticmethod
    def guess(text: list[int], n: int, longest: int = 3) -> list[int]:
        draft, ids = PromptLookup(longest), torch.tensor([text])
        draft.start(None, ids, None, 99, Sampler(0.0, 0, 1.0))
        real = torch.ones(1, len(text) - 1, dtype=torch.bool)
        return draft.propose(Accepted(ids[:, 1:], real, torch.empty(0)), n).rows[0]

    @pytest.mark.parametrize(
        ("text", "guesses"),
        [
            ([1, 2, 3], []),
            ([1], []),
            ([1, 2, 1], [2, 1]),  # goes on with what it has guessed
            ([5, 5], [5, 5]),
            ([1, 2, 3, 9, 8, 2, 3, 7, 6, 1, 2, 3], [9, 8]),  # three tokens before two
            ([2, 3, 9, 8, 2, 3, 7, 6, 2, 3], [7, 6]),  # the most recent place
            ([3, 9, 9, 2, 3, 7, 4, 3], [7, 4]),  # one token
        ],
    )
    def test_guesses(self, text: list[int], guesses: list[int]) -> None:
        assert self.guess(text, 2) == guesses

    def test_fewer_tokens_are_looked_up(self) -> None:
        assert self.guess([1, 2, 3, 9, 4, 3, 8, 1, 2, 3], 1, longest=1) == [8]
        with pytest.raises(ValueError, match="longest must be at least 1, got 0"):
            PromptLookup(0)

    def test_it_needs_fewer_passes_where_a_text_repeats_itself(self) -> None:
        """A model whose next token depends on the last one alone soon goes round in a circle."""
        model, draft = random_model(), PromptLookup()
        for layer in model.layers:
            torch.nn.init.zeros_(layer.attention.o.weight)
            torch.nn.init.zeros_(layer.attention.o.bias)
        text = new_ids(model, [1, 2, 3], 61)
        out = model.generate([[1, 2, 3]], 61, temperature=0, draft=draft)
        assert out[0, 3:].tolist() == text
        # the circle has at most 31 tokens, and afterwards a pass yields four
        assert draft.passes <= 1 + 31 + 8


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "kind", "said"),
        [
            ({"draft": "look"}, ValueError, "draft must be one of lookup, mtp, got 'look'"),
            ({"draft": 3}, TypeError, "draft must be one of .* a model or a Draft, got int"),
            ({"draft": "lookup", "draft_tokens": 0}, ValueError, "must be at least 1, got 0"),
            ({"draft": "lookup", "draft_tokens": 1.5}, TypeError, "draft_tokens must be an int"),
            ({"hook": lambda new: {2: [1]}}, ValueError, r"row .* must be in \[0, 1\], got 2"),
            ({"hook": lambda new: {-1: [1]}}, ValueError, r"row .* must be in \[0, 1\], got -1"),
            ({"hook": lambda new: {"a": [1]}}, TypeError, "row of the hook must be an int"),
            ({"hook": lambda new: {0: [V]}}, ValueError, r"must be in \[0, 30\], got 31"),
            ({"hook": lambda new: {0: [-1]}}, ValueError, r"must be in \[0, 30\], got -1"),
            ({"hook": lambda new: {0: [1.0]}}, TypeError, "id of the hook must be an int"),
            ({"hook": lambda new: [1]}, TypeError, "hook must return a mapping .* got list"),
        ],
    )
    def test_says_what_is_wrong(
        self, options: dict[str, Any], kind: type[Exception], said: str
    ) -> None:
        with pytest.raises(kind, match=said):
            random_model().generate([[1], [2, 3]], 4, **options)

    def test_another_vocabulary(self) -> None:
        with pytest.raises(ValueError, match="must have the model's vocabulary of 31, got 30"):
            random_model().generate([[1]], 4, draft=random_model(vocab_size=30))

    def test_logits_that_are_not_finite(self) -> None:
        model, steps = random_model(), 0

        def damage(ids: Tensor) -> None:
            nonlocal steps
            steps += 1
            if steps == 3:
                model.lm_head.weight.data[3] = float("nan")

        with pytest.raises(ValueError, match="new token 3: the logits are not finite"):
            model.generate([[1], [2, 3]], 9, draft="lookup", draft_tokens=1, streamer=damage)
