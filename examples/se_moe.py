"""A model that runs within a third of its memory: its experts stay in the folder (SE-MoE's ring).

Writes a random model of a few hundred megabytes, generates with a budget for all weights of a third
of that, and shows what each layer found in the pool of experts and what was read. The same prompt
then runs with all weights in memory: it must give the same tokens.

Source: Shen et al. 2022, "SE-MoE", section on inference with a ring of layers (arXiv:2205.10034).
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from bench_ops import harness, printing
from rich.table import Table
from torch import Tensor

from moge_ops import offload
from moge_ops.models import PanguMoEForCausalLM
from moge_ops.models.checkpoint import from_pretrained

MEGABYTE = 1e6
OPTIONS = {
    "parameters": (300_000_000, 1, "of the random model"),
    "prompt": (256, 1, "tokens of the prompt"),
    "tokens": (32, 2, "tokens to generate"),
    "seed": (0, 0, "seed of the prompt and the choice"),
}


class Count(NamedTuple):
    """What a store has done up to now, or between two moments."""

    hits: int = 0
    misses: int = 0
    read: int = 0

    @classmethod
    def of(cls, store: Any) -> "Count":
        return cls(store.hits, store.misses, store.bytes_read)

    def since(self, before: "Count") -> "Count":
        return Count(*(now - then for now, then in zip(self, before, strict=True)))

    def plus(self, other: "Count") -> "Count":
        return Count(*(a + b for a, b in zip(self, other, strict=True)))


class Run(NamedTuple):
    """One generation."""

    ids: Tensor
    seconds: list[float]  # of each step; the first is the prompt's
    grown: int  # bytes of the resident set, since before the model was loaded


@contextmanager
def counted(model: PanguMoEForCausalLM) -> Iterator[list[list[Count]]]:
    """For each layer, what the store did while the layer ran, call by call."""
    store = offload.of(model)
    found: list[list[Count]] = [[] for _ in model.layers]
    before = Count()

    def enter(*_: object) -> None:
        nonlocal before
        before = Count.of(store)

    def leave_of(calls: list[Count]) -> Callable[..., None]:
        return lambda *_: calls.append(Count.of(store).since(before))

    hooks = []
    for layer, calls in zip(model.layers, found, strict=True):
        hooks += [layer.moge.register_forward_pre_hook(enter)]
        hooks += [layer.moge.register_forward_hook(leave_of(calls))]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def resident_set() -> int:
    """Bytes of this process that are in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def run(model: PanguMoEForCausalLM, args: argparse.Namespace, before: int) -> Run:
    """Generates by the seed; random models repeat their likeliest token, so tokens are drawn."""
    draw = torch.Generator().manual_seed(args.seed)
    prompt = torch.randint(model.config.vocab_size, (1, args.prompt), generator=draw)
    seconds, last = [], time.perf_counter()

    def step(_: Tensor) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds.append(now - last)
        last = now

    ids = model.generate(
        prompt, args.tokens, temperature=1.0, generator=draw, streamer=step, eos_token_id=()
    )
    return Run(ids, seconds, resident_set() - before)


def layers_table(found: Sequence[Sequence[Count]]) -> Table:
    """Prefill is the first call of a layer; the others are steps of decoding."""
    names = ("hits", "misses", "MB read")
    numbers = (f"{phase}\n{name}" for phase in ("prefill", "decode") for name in names)
    table = printing.table_of("The pool, layer by layer", ["layer"], numbers)
    for name, calls in [*((str(i), calls) for i, calls in enumerate(found)), ("all", None)]:
        cells = []
        for part in (slice(0, 1), slice(1, None)):
            total = Count()
            for own in found if calls is None else [calls]:
                for count in own[part]:
                    total = total.plus(count)
            cells += [f"{total.hits:,}", f"{total.misses:,}", f"{total.read / MEGABYTE:,.1f}"]
        table.add_row(name, *cells, end_section=name == str(len(found) - 1))
    return table


def runs_table(runs: dict[str, Run], prompt: int) -> Table:
    numbers = ("prefill, tokens/s", "decode, tokens/s", "resident set, MB")
    table = printing.table_of("The same tokens, twice", ["weights"], numbers)
    for name, (_, seconds, grown) in runs.items():
        first, *rest = seconds
        rates = prompt / first, len(rest) / sum(rest)
        table.add_row(name, *(f"{x:,.1f}" for x in rates), f"+{grown / MEGABYTE:,.0f}")
    return table


def main() -> int:
    parser = harness.sized("Runs a model within a third of its memory.", OPTIONS)
    parser.add_argument("--share", type=float, default=1 / 3, help="the budget, of all weights")
    parser.add_argument("--folder", type=Path, help="new or made before; else a temporary one")
    parser.add_argument("--smoke", action="store_true", help="a tiny model: does it run?")
    args = harness.parsed(parser, OPTIONS)
    console = printing.console()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary) / "model"
        if not (folder / "config.json").exists():
            make = [sys.executable, "-m", "moge_ops", "make-tiny", str(folder)]
            if not args.smoke:
                make += ["--parameters", str(args.parameters), "--dtype", "bfloat16"]
            subprocess.run(make, check=True)
        weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        share = max(args.share, 0.75) if args.smoke else args.share  # one layer must fit
        budget = int(share * weights)
        console.print(f"{weights / MEGABYTE:,.0f} MB of weights, a budget of {budget:,} bytes")

        runs: dict[str, Run] = {}
        before = resident_set()
        model = offload.load(folder, budget)
        with counted(model) as found:
            runs["within the budget"] = run(model, args, before)
        offload.of(model).close()
        del model
        before = resident_set()
        runs["all in memory"] = run(from_pretrained(folder), args, before)

    console.print(layers_table(found))
    console.print(runs_table(runs, args.prompt))
    ours, alone = (each.ids for each in runs.values())
    if not torch.equal(ours, alone):
        console.print("The tokens differ.")
        return 1
    console.print(f"The same {args.tokens} tokens.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
