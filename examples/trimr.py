"""TrimR: a verifier that reads along ends thinking that no longer leads anywhere.

Six attempts at one problem are decoded as one batch, first as they are, then with a hook that asks
a verifier about their thoughts (arXiv:2505.17155; `docs/guides/thinking.md` explains it).

**The reasoner is scripted.** It is a real model in the real `generate`, but its weights are a table
of successors: after each token comes one other, so that each attempt says what is written below,
and after inserted words what is written for them. So the table shows that the system cuts where it
should and what that saves of these texts, and nothing about accuracy. The paper measures that.

Two verifiers are scripted as well: they read the numbers in the thoughts, one at once and one after
a pause in each call, beside which decoding goes on. The third is an untrained model asked for its
logits of Yes and No. What it does is what a bad verifier does.
"""

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.models.tokenizer import Tokenizer, write_byte_tokenizer
from moge_ops.models.trimr import QUESTIONS, WORDS, LogitVerifier, TrimR

END, LEAST = "</think>\n", 30  # characters of a thought
SMALL = {
    "hidden_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_experts": 8,
    "num_experts_per_tok": 4,
    "num_groups": 4,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "max_position_embeddings": 4096,
}


class Script:
    """Words as tokens, and a model that says them in their order."""

    def __init__(self) -> None:
        self.words = ["<end>"]  # id 0 ends a row
        self.shared: dict[str, int] = {}  # words of `encode`, each with one id
        self.after: dict[int, int] = {}
        self.tokenizer = Tokenizer(Path("script"), 4096, self.encode, self.decode, lambda _: None)

    def encode(self, text: str) -> list[int]:
        return [self.shared.setdefault(w, len(self.shared) + 2048) for w in pieces(text)]

    def decode(self, ids: list[int]) -> str:
        named = {i: word for word, i in self.shared.items()} | dict(enumerate(self.words))
        return "".join(named.get(i, "") for i in ids if i)

    def say(self, text: str, *, again: str = "", after: int | None = None) -> int:
        """Adds a text that ends its row, or goes on ``again`` and again; returns its first id.

        ``after`` is the token that it follows, if it does not begin a row.
        """
        first = len(self.words)
        self.words += pieces(text)
        loop = len(self.words)
        self.words += pieces(again)
        last = len(self.words) - 1
        self.after |= {i: i + 1 for i in range(first, last)} | {last: loop if again else 0}
        if after is not None:
            self.after[after] = first
        return first

    def model(self) -> PanguMoEForCausalLM:
        """Its layers are as they were drawn and add little; the head knows each successor."""
        torch.manual_seed(0)
        model = PanguMoEForCausalLM(PanguMoEConfig(vocab_size=4096, eos_token_id=0, **SMALL))
        with torch.no_grad():
            embed = model.embed.weight.normal_().sign_()
            model.lm_head.weight.zero_()
            for i, then in self.after.items():
                model.lm_head.weight[then] += embed[i]
        return model.eval()


def pieces(text: str) -> list[str]:
    return re.findall(r"\S+\s*|\s+", text)


def attempts(length: int) -> dict[str, str]:
    """What each attempt says; ``length`` is the number of its thoughts, more or less."""
    found = "the product of six and seven must be so 42. "
    lost = "perhaps a different approach would help me with this one. "
    many = [f"Wait, if the factors differ then I get so {40 + n}. " for n in range(length)]
    answer = END + "The answer is 42."
    return {
        "concise": f"First, {found}{answer}",
        "checks once": f"First, {found}Wait, let me check: {found}{answer}",
        "overthinks": f"First, {found}" + f"Wait, let me check: {found}" * length + answer,
        "wavers": "First, I try it. " + "".join(many) + answer,
        "is lost": f"First, {lost}" + f"Alternatively, {lost}" * length + answer,
        "loops": f"First, {lost}",
    }


def reads(pause: float) -> Callable[[str, list[str]], bool]:
    """A scripted verifier: "so N" states an answer, and any answer is convergence."""

    def verifier(question: str, thoughts: list[str]) -> bool:
        time.sleep(pause)
        answers = [re.findall(r"so (\d+)", thought) for thought in thoughts]
        if question == QUESTIONS.agree:
            return answers[0][-1:] == answers[1][-1:]
        return any(answers)

    return verifier


def untrained(folder: str) -> LogitVerifier:
    torch.manual_seed(1)
    tokenizer = write_byte_tokenizer(folder)
    model = PanguMoEForCausalLM(PanguMoEConfig(vocab_size=tokenizer.size, **SMALL)).eval()
    return LogitVerifier(model, tokenizer, longest=512)


def main() -> int:
    parser = argparse.ArgumentParser(description="Thinking with and without a verifier, counted.")
    parser.add_argument("--smoke", action="store_true", help="short thoughts: does it run?")
    args = parser.parse_args()
    length = 10 if args.smoke else 24
    script = Script()
    texts = attempts(length)
    again = {"loops": "and then we come back to where we began, "}
    starts = [
        script.say("Problem: " + text, again=again.get(kind, "")) for kind, text in texts.items()
    ]
    script.say(END + "The answer is 42.", after=script.encode(WORDS.mild)[-1])
    script.say("42", after=script.encode(WORDS.answer)[-1])
    script.encode(WORDS.strong + END)
    model, most = script.model(), max(len(pieces(text)) for text in texts.values()) + 64
    prompts = torch.tensor([[start] for start in starts])

    def tokens(ids: torch.Tensor) -> list[int]:
        return (ids[:, 1:] != 0).sum(1).tolist()

    plain = tokens(model.generate(prompts, most, temperature=0.0))
    console = Console(width=None if sys.stdout.isatty() else 120)
    with tempfile.TemporaryDirectory() as folder:
        pause = 0.02
        verifiers = {
            "reads the numbers": reads(0.0),
            f"the same, {1000 * pause:.0f} ms a call": reads(pause),
            "logits of an untrained model": untrained(folder),
        }
    for name, verifier in verifiers.items():
        # a budget in words: the defaults are for tokens of real models
        options = {"budget": most, "least": LEAST, "end": END.strip()}
        options |= {"share": 0.25, "fruitless": length // 3, "repeated": 32}
        with TrimR(script.tokenizer, verifier, **options) as hook:
            began = time.perf_counter()
            ids = model.generate(prompts, most, temperature=0.0, hook=hook)
            seconds = time.perf_counter() - began
        table = Table(title=f"Verifier: {name}")
        for heading in ("attempt", "tokens without", "with", "thoughts", "cut at token"):
            right = heading not in ("attempt", "cut at token")
            table.add_column(heading, justify="right" if right else "left")
        for kind, before, after, report in zip(
            texts, plain, tokens(ids), hook.reports, strict=True
        ):
            cuts = ", ".join(f"{cut.tokens}: {cut.reason.value}" for cut in report.cuts)
            table.add_row(kind, str(before), str(after), str(report.thoughts), cuts)
        table.add_row("all", str(sum(plain)), str(sum(tokens(ids))))
        table.caption = f"{hook.calls} calls, {hook.late} verdicts too late; {seconds:.2f} s"
        console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
