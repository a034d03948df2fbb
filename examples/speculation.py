"""Several tokens in a step: what guesses of four kinds save a small MoGE model, and what they cost.

A model that is trained here, or that `train_demo.py --mtp 1 --save` wrote, goes on with held-out
text: plainly, with guesses looked up in the text, with those of a smaller model, and with those of
its own head. The table says how many guesses stayed, and how many experts a step touched, as the
routers chose them. A step that verifies more tokens touches more experts, and these are what a MoE
model reads: bytes for each new token fall only while enough guesses stay.

Source of the heads: Liu et al. 2024, "DeepSeek-V3", section 2.2 (arXiv:2412.19437).
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from bench_ops import printing
from torch import Tensor
from train_demo import MODEL, SMOKE, Text, byte_tokenizer, fitted, train

from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM, checkpoint
from moge_ops.models.mtp import MTPDraft
from moge_ops.models.speculation import Draft, DraftModel, PromptLookup
from moge_ops.models.tokenizer import Tokenizer, load_tokenizer
from moge_ops.nn import MoGE, MoGEOutput

PANGU = PanguMoEConfig()  # the released model's sizes, with as many experts and groups
SAMPLINGS: dict[str, dict[str, Any]] = {"greedy": {"temperature": 0.0}, "sampled": {}}


@dataclasses.dataclass
class Reads:
    """What the routers of some layers chose, the pass of the prompts left out."""

    passes: int = 0  # of a layer
    tokens: int = 0
    experts: int = 0  # different ones of each pass

    def add(self, ids: Tensor) -> None:
        self.passes += 1
        self.tokens += len(ids)
        self.experts += len(ids[ids >= 0].unique())


@contextmanager
def watched(layers: torch.nn.Module, most: int) -> Iterator[Reads]:
    """Counts the experts of the MoGE layers in a module, in passes of at most ``most`` tokens."""
    reads = Reads()

    def hook(_: MoGE, args: Any, kwargs: dict[str, Any], out: MoGEOutput) -> None:
        rows = kwargs.get("row_mask")
        ids = out.gating.experts
        if len(ids) <= most:
            reads.add(ids if rows is None else ids[rows.flatten()])

    with ExitStack() as hooks:
        for module in layers.modules():
            if isinstance(module, MoGE):
                hooks.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        yield reads


def expert_bytes(config: PanguMoEConfig, itemsize: int) -> int:
    return 3 * config.hidden_size * config.moe_intermediate_size * itemsize


def counted(
    model: PanguMoEForCausalLM, prompts: list[list[int]], new: int, draft: Draft | None, **how: Any
) -> dict[str, Any]:
    """One run, in figures: guesses, tokens of a pass, experts of a layer, bytes of experts."""
    helper = draft.model if isinstance(draft, DraftModel) else None
    steps = 0

    def count(step: Tensor) -> None:
        nonlocal steps
        steps += 1

    most = sum(len(prompt) - 1 for prompt in prompts) - 1  # a step has fewer tokens than prompts
    drafter = model.mtp if helper is None else helper.layers
    with watched(model.layers, most) as reads, watched(drafter, most) as others:
        if draft is None:
            how["streamer"] = count
        options = {} if draft is None else {"draft": draft}
        ids = model.generate(prompts, new, eos_token_id=(), **options, **how)
    L, made = model.config.num_hidden_layers, (ids.shape[1] - max(map(len, prompts))) * len(prompts)
    passes = steps if draft is None else draft.passes
    size = expert_bytes(model.config, model.embed.weight.element_size())
    # the released model has more layers, and so has a draft model for it, but a head is one layer
    scale = PANGU.num_hidden_layers / L
    layers = reads.experts * scale + others.experts * (1.0 if helper is None else scale)
    return {
        "acceptance": draft.accepted / max(1, draft.proposed) if draft else None,
        "tokens_a_pass": made / passes / len(prompts),
        "tokens_in_a_step": reads.tokens / max(1, reads.passes),
        "experts_of_a_layer": reads.experts / max(1, reads.passes),
        "bytes_a_token": (reads.experts + others.experts) * size / made,
        "bytes_a_token_72b": layers * expert_bytes(PANGU, 2) / made,
    }


def drafts(model: PanguMoEForCausalLM, smaller: PanguMoEForCausalLM | None) -> dict[str, Any]:
    """Name -> how to make it."""
    found: dict[str, Any] = {"plain": lambda: None, "lookup": PromptLookup}
    if smaller is not None:
        found["draft model"] = lambda: DraftModel(smaller)
    return found | ({"mtp": MTPDraft} if len(model.mtp) else {})


def trained(
    tokenizer: Tokenizer, steps: int, sizes: PanguMoEConfig, **changes: Any
) -> PanguMoEForCausalLM:
    """A model that was trained as `train_demo.py` trains."""
    text = Text(tokenizer, 8, min(256, 64 + steps), 0)
    return train(fitted(sizes, tokenizer, **changes), text, steps, 3e-3)[0]


def held_out(tokenizer: Tokenizer, pieces: int, length: int) -> list[list[int]]:
    """Prompts from all over the end of the text, which no training has seen."""
    text = Text(tokenizer, max(1, -(-pieces // 4)), length, 0)
    return torch.cat(text.held_out)[:pieces].tolist()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="a trained model (default: train one, briefly)")
    parser.add_argument("--steps", type=int, default=80, help="updates, without --folder")
    parser.add_argument("--new", type=int, default=96, help="tokens to add to each prompt")
    parser.add_argument("--smoke", action="store_true", help="a tiny model: does it run?")
    args = parser.parse_args()
    if min(args.steps, args.new) < 2:
        parser.error("--steps and --new must be at least 2")
    if args.smoke:
        args.steps, args.new = 4, 12
    tokenizer = load_tokenizer(args.folder) if args.folder else byte_tokenizer()
    begun = time.perf_counter()
    sizes = SMOKE if args.smoke else MODEL
    if args.folder:
        model = checkpoint.from_pretrained(args.folder)
    else:
        model = trained(tokenizer, args.steps, sizes, num_nextn_predict_layers=1)
    smaller = trained(tokenizer, args.steps, sizes, num_hidden_layers=1)
    counts = ("tokens a pass", "tokens in a step", "experts of a layer")
    table = printing.table_of(
        f"Held-out text, {args.new} new tokens, trained in {args.steps} steps",
        ("batch", "tokens", "draft", "guesses"),
        ("stayed", *counts, "kB a token", "GB, 72B"),
    )
    for batch in (1, 4):
        prompts = held_out(tokenizer, batch, 48)
        for sampling, how in SAMPLINGS.items():
            for name, make in drafts(model, smaller).items():
                for m in (1, 3) if name == "mtp" else (3,):
                    torch.manual_seed(0)
                    row = counted(model, prompts, args.new, make(), draft_tokens=m, **how)
                    stayed = "" if row["acceptance"] is None else f"{row['acceptance']:.0%}"
                    table.add_row(
                        *(str(batch), sampling, name, "" if name == "plain" else str(m), stayed),
                        *(f"{row[k]:.2f}" for k in ("tokens_a_pass", "tokens_in_a_step")),
                        f"{row['experts_of_a_layer']:.1f}",
                        f"{row['bytes_a_token'] / 1e3:.0f}",
                        f"{row['bytes_a_token_72b'] / 1e9:.1f}",
                    )
    console = printing.console()
    console.print(table)
    console.print(f"{time.perf_counter() - begun:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
