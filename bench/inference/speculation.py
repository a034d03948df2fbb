"""Tokens a second with and without guesses, how many stay, and the experts that the steps read.

The model is one that `train_demo.py --mtp 1 --save` wrote, or is trained here for `--steps` updates
and kept in out/speculation. All variants go on with the same held-out text, in turns; the medians
go into bench/results/speculation.csv. What is counted is the example's: examples/speculation.py.
"""

import argparse
import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "ops"))
sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))

import harness

from moge_ops.models import PanguMoEForCausalLM, checkpoint
from moge_ops.models.mtp import MTPDraft
from moge_ops.models.tokenizer import load_tokenizer, write_byte_tokenizer

ROOT = Path(__file__).resolve().parents[2]
example = runpy.run_path(str(ROOT / "examples" / "speculation.py"))
OPTIONS = {
    "steps": (1000, 1, "updates of a model that is trained here"),
    "new": (192, 8, "tokens to add to each prompt"),
    "length": (64, 8, "bytes of a prompt"),
    "rounds": (5, 1, "rounds, of which the median is taken"),
}


def models(args: argparse.Namespace) -> tuple[PanguMoEForCausalLM, PanguMoEForCausalLM | None, Any]:
    """The model, a smaller one that was trained the same way, and their tokenizer."""
    if args.folder:
        smaller = checkpoint.from_pretrained(args.draft) if args.draft else None
        return checkpoint.from_pretrained(args.folder), smaller, load_tokenizer(args.folder)
    folders = {"model": {"num_nextn_predict_layers": 1}, "draft": {"num_hidden_layers": 2}}
    place = args.models
    for name, changes in folders.items():
        if (place / name / "config.json").exists():
            continue
        with tempfile.TemporaryDirectory() as made:
            tokenizer = write_byte_tokenizer(made)
        print(f"training {place / name}", file=sys.stderr)
        sizes = example["SMOKE" if args.smoke else "MODEL"]
        model = example["trained"](tokenizer, args.steps, sizes, **changes)
        checkpoint.save_pretrained(model, place / name)
        write_byte_tokenizer(place / name)
    found = [checkpoint.from_pretrained(place / name) for name in folders]
    return found[0], found[1], load_tokenizer(place / "model")


def variants(model: PanguMoEForCausalLM, smaller: PanguMoEForCausalLM | None) -> dict[Any, Any]:
    """(name, guesses) -> how to make the draft."""
    made = example["drafts"](model, smaller)
    found = {("plain", 0): made["plain"]} | {(n, 3): made[n] for n in made if n != "plain"}
    return found | {("mtp", m): MTPDraft for m in (1, 2, 3, 4)}


def tokens_a_second(
    model: PanguMoEForCausalLM, batches: Sequence[Any], new: int, make: Any, **how: Any
) -> float:
    """Over several batches of prompts."""
    spent = 0.0
    for prompts in batches:
        draft = make()
        options = {} if draft is None else {"draft": draft}
        torch.manual_seed(0)
        begun = time.perf_counter()
        model.generate(prompts, new, eos_token_id=(), **options, **how)
        spent += time.perf_counter() - begun
    return new * sum(map(len, batches)) / spent


def main() -> int:
    parser = harness.sized((__doc__ or "").partition("\n")[0], OPTIONS)
    parser.add_argument("--folder", type=Path, help="a trained model with a head")
    parser.add_argument("--draft", type=Path, help="with --folder: a smaller model")
    parser.add_argument("--models", type=Path, default=ROOT / "out" / "speculation")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "speculation.csv")
    args = harness.parsed(parser, OPTIONS)
    if args.smoke:
        args.steps, args.new, args.rounds, args.length = 4, 8, 1, 16
    model, smaller, tokenizer = models(args)
    if not len(model.mtp):
        parser.error(f"--folder must have a head, got none in {args.folder}")
    rows, shared = [], harness.environment()
    for batch in (1, 8):
        # batch 1 goes through four pieces of text, one after the other
        pieces = example["held_out"](tokenizer, max(4, batch), args.length)
        batches = [pieces[i : i + batch] for i in range(0, len(pieces), batch)]
        for sampling, how in example["SAMPLINGS"].items():
            makers = variants(model, smaller)
            speeds: dict[Any, list[float]] = {key: [] for key in makers}
            for turn in range(args.rounds + 1):  # the first is to warm up
                for key, make in makers.items():
                    options = {**how, **({"draft_tokens": key[1]} if key[1] else {})}
                    speed = tokens_a_second(model, batches, args.new, make, **options)
                    if turn:
                        speeds[key].append(speed)
            plain = statistics.median(speeds["plain", 0])
            for key, make in makers.items():
                options = {**how, **({"draft_tokens": key[1]} if key[1] else {})}
                each = []
                for prompts in batches:
                    torch.manual_seed(0)
                    each.append(example["counted"](model, prompts, args.new, make(), **options))
                speed = statistics.median(speeds[key])
                row = {
                    **shared,
                    **{"layers": model.config.num_hidden_layers, "batch": batch},
                    **{"sampling": sampling, "draft": key[0]},
                    **{"guesses": key[1], "prompts": len(pieces), "new_tokens": args.new},
                    **{"rounds": args.rounds, "tokens_s": f"{speed:.1f}"},
                    "times_plain": f"{speed / plain:.3f}",
                }
                for name in each[0]:
                    values = [x[name] for x in each]
                    mean = "" if values[0] is None else f"{statistics.fmean(values):.4g}"
                    row[name] = mean
                rows.append(row)
                name = f"batch {batch} {sampling:8} {key[0]:12} {key[1]}"
                print(
                    f"{name}: {row['tokens_s']:>7} tokens/s "
                    f"x{row['times_plain']}, stayed {row['acceptance'] or '-':>6}, a pass "
                    f"{row['tokens_a_pass']}, a step {row['tokens_in_a_step']} tokens, "
                    f"{row['experts_of_a_layer']} experts, {row['bytes_a_token']} B a token, "
                    f"72B: {row['bytes_a_token_72b']} B",
                    flush=True,
                )
    harness.write(args.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
