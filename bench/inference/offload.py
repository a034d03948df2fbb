"""A model larger than the memory that it may have, timed beside the same model in memory.

Each case runs in a process of its own, so that its peak is its own. `page cache`: the files stay in
the memory of the system, which does not count for the process. `disk`: they are dropped from there
before every step. What the medium allows is measured in the same run, on the same files, by reads
of the same size (`media.py`); hit rates of the pool are counted (`expert_cache.py`).

    python bench/inference/offload.py --parameters 3e8 --folder out/small

The two folders, plain and quantised, are made if they are not there, and stay.
"""

import argparse
import csv
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import expert_cache
import media
import torch
from media import DISK, MEDIA, PAGE_CACHE, harness
from torch import Tensor

from moge_ops import _memory, offload
from moge_ops.cli._loading import load_offloaded
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.models.checkpoint import from_pretrained, read_config
from moge_ops.nn import MoGE

ROOT = Path(__file__).resolve().parents[2]
PLAIN, RESIDENT = "bfloat16", "resident"
SMOKE = 1e6  # parameters
PROMPT = 512  # tokens of all rows together
STEPS = {(PAGE_CACHE, 1): 32, (PAGE_CACHE, 8): 8, (DISK, 1): 16, (DISK, 8): 4}
OTHER = 16  # tokens of the prompt that fills the pool before anything is timed
BATCHES = (1, 8)
HITS = ("hits", "guess")  # studies that count; the others take time
COLUMNS = [
    *("date", "machine", "cores", "threads", "huge_pages", "python", "torch", "revision"),
    *("study", "router", "order", "batch", "resident", "slots", "layers", "steps", "reuse"),
    *(*expert_cache.POLICIES, "right", "medium", "threads_read", "gb_s"),
    *("weights", "phase", "parameters", "expert_bytes", "budget", "weight_bytes", "tokens"),
    *("median_ms", "q20_ms", "q80_ms", "tokens_s", "hit_rate", "bytes_step", "bytes_must"),
    *("of_medium", "of_medium_and_resident", "rss_before", "rss_peak", "rss_of_budget"),
]

Row = dict[str, Any]


# -- one case, in its own process ------------------------------------------------------------------


def status(name: str) -> int:
    """Bytes, of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


class Steps:
    """Times of the steps of a generation, and what the store did in each: `streamer` calls it."""

    def __init__(self, store: Any, before: Callable[[], None]) -> None:
        self.store, self.before = store, before
        self.seconds: list[float] = []
        self.done: list[tuple[int, int, int]] = []  # hits, misses, bytes
        self.start()

    def counts(self) -> tuple[int, int, int]:
        s = self.store
        return (0, 0, 0) if s is None else (s.hits, s.misses, s.bytes_read)

    def start(self) -> None:
        self.before()
        self.then, self.began = self.counts(), time.perf_counter()

    def __call__(self, _: Tensor) -> None:
        self.seconds.append(time.perf_counter() - self.began)
        step = zip(self.counts(), self.then, strict=True)
        hits, misses, read = (now - then for now, then in step)
        self.done.append((hits, misses, read))
        self.start()


def ready() -> None:
    """Loads what any model needs: kernels, and torch's threads and their memory."""
    sizes = {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 1}
    more = {"num_attention_heads": 2, "num_key_value_heads": 1, "moe_intermediate_size": 32}
    ids = {"bos_token_id": 1, "eos_token_id": None, "shared_expert_intermediate_size": 64}
    model = PanguMoEForCausalLM(PanguMoEConfig(**sizes, **more, **ids)).bfloat16()
    model.generate([[1] * 64], 2)


SMALL = 10**9  # bytes; a smaller budget is one of the weights alone, as Python takes much of it


def case(folder: Path, budget: int | None, runs: Sequence[tuple[str, int, int]]) -> Iterator[Row]:
    """Rows of prefill and decode of one model; a budget of None has all weights in memory.

    Args:
        runs: Medium, batch and steps of each; the peak of memory is that of all runs so far.
    """
    ready()
    before = status("VmRSS")
    if budget is None:
        model, store = from_pretrained(folder).requires_grad_(False), None
    elif budget < SMALL:
        model = offload.load(folder, budget)
        store = offload.of(model)
    else:
        # as `moge-ops generate --resident` does: the budget is all that the process may hold
        args = argparse.Namespace(folder=folder, dtype=None, device="cpu", resident=str(budget))
        model = load_offloaded(args, PROMPT, max(batch * steps for _, batch, steps in runs))
        store = offload.of(model)
    needed: list[Tensor] = []  # by each visit of a layer
    for module in model.modules():
        if isinstance(module, MoGE):
            module.register_forward_hook(lambda *args: needed.append(args[-1].gating.counts))
    for medium, batch, steps in runs:
        if store is not None and medium == PAGE_CACHE:
            for path in folder.glob("*.safetensors"):
                subprocess.run(["cat", str(path)], stdout=subprocess.DEVNULL, check=True)
        yield from timed(model, store, folder, before, budget, medium, batch, steps, needed)
    if store is not None:
        store.close()


def timed(
    model: PanguMoEForCausalLM, store: Any, folder: Path, before: int, budget: int | None,
    medium: str, batch: int, steps: int, needed: list[Tensor],
) -> Iterator[Row]:  # fmt: skip
    drop = (lambda: media.drop(folder)) if medium == DISK else (lambda: None)
    torch.manual_seed(0)
    length = max(1, PROMPT // batch)
    prompt = torch.randint(model.config.vocab_size, (batch, length))
    # drawn, because a random model's likeliest tokens soon repeat, and their experts with them
    options = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "eos_token_id": ()}
    model.generate(prompt[:, :OTHER], 2, **options)  # fills the pool, and makes buffers
    needed.clear()
    each = Steps(store, drop)
    model.generate(prompt, steps + 1, streamer=each, **options)
    least = fewest_reads(needed, model.config, store)
    shared = {
        **{"medium": medium if store else RESIDENT, "batch": batch, "budget": budget},
        **{"rss_before": before, "rss_peak": status("VmHWM")},
    }
    for phase, here, tokens in (
        ("prefill", slice(0, 1), batch * length),
        ("decode", slice(1, None), batch),
    ):
        seconds, done = each.seconds[here], each.done[here]
        hits, misses, read = (sum(x) for x in zip(*done, strict=True))
        yield {
            **shared,
            **{"phase": phase, "tokens": tokens, "steps": len(seconds), "seconds": seconds},
            **{"hits": hits, "misses": misses, "read": read / len(seconds)},
            "must": statistics.fmean(least[here]),
        }


def fewest_reads(needed: Sequence[Tensor], config: PanguMoEConfig, store: Any) -> list[int]:
    """Bytes that each step has to read where nothing is guessed, by the rule that makes room."""
    layers, E = config.num_hidden_layers, config.num_experts
    steps = len(needed) // layers
    if store is None:
        return [0] * steps
    trace = [
        [i % layers * E + e for e in counts.nonzero().flatten().tolist()]
        for i, counts in enumerate(needed)
    ]
    # the pool is full before, of experts that are nearly all the prompt's; so is it here after it
    ends = [i * layers for i in range(steps + 1)]
    plays = [
        expert_cache.play(trace[:end], layers, E, store.slots, expert_cache.WAIT) for end in ends
    ]
    misses = [play.asked - play.hits for play in plays]
    return [(b - a) * store.slot_bytes for a, b in itertools.pairwise(misses)]


def in_child(folder: Path, budget: int | None, runs: Sequence[tuple[str, int, int]]) -> list[Row]:
    """`case` in another process."""
    words = json.dumps([str(folder), budget, runs])
    command = [sys.executable, str(Path(__file__)), "--case", words]
    # idle threads of OpenMP spin by default, on the cores of those that read
    env = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
    found: list[Row] = json.loads(done.stdout.splitlines()[-1])
    return found


# -- all of them -----------------------------------------------------------------------------------


def moge(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "moge_ops", *map(str, words)], check=True)


def made(folder: Path, parameters: float) -> dict[str, Path]:
    """Weights -> folder, plain and quantised, which are written unless they are there."""
    plain = folder / PLAIN
    if not (plain / "config.json").exists():
        need, free = int(2.7 * parameters), shutil.disk_usage(folder).free
        if need > free:
            raise ValueError(f"--folder must have {need:,} bytes free, got {free:,}")
        moge("make-tiny", plain, "--parameters", f"{parameters:g}", "--dtype", PLAIN)
    # four bits have groups of at least 32 columns
    fits = read_config(plain).moe_intermediate_size % 32 == 0
    scheme = "int4_w4a16" if fits else "int8_w8a16"
    if not (folder / scheme / "config.json").exists():
        moge("convert", plain, folder / scheme, "--quantize", scheme)
    return {PLAIN: plain, scheme: folder / scheme}


def weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def finished(row: Row, rates: dict[str, float], resident: float | None) -> Row:
    """The columns of a case's row; ``resident`` is the time of the same step without reads."""
    seconds = row.pop("seconds")
    hits, misses, read = row.pop("hits"), row.pop("misses"), row.pop("read")
    must = min(row.pop("must"), read)  # the pool had some of it
    several = seconds if len(seconds) > 1 else seconds * 2
    q = statistics.quantiles(several, n=5, method="inclusive")
    median, mean = statistics.median(seconds), statistics.fmean(seconds)
    row |= {
        **{"study": "model", "median_ms": 1e3 * median, "q20_ms": 1e3 * q[0]},
        **{"q80_ms": 1e3 * q[3], "tokens_s": row["tokens"] / mean},
    }
    if row["budget"] is not None:
        # means, because steps read different amounts
        least = must / rates[row["medium"]]
        of = row["rss_peak"] / row["budget"]
        row |= {"hit_rate": hits / max(1, hits + misses), "bytes_step": int(read)}
        row["bytes_must"] = int(must)
        row |= {"of_medium": least / mean, "rss_of_budget": of}
        if resident is not None:
            row["of_medium_and_resident"] = (least + resident) / mean
    return row


def ceilings(folders: dict[str, Path], *, smoke: bool) -> Iterator[Row]:
    most = 2**20 if smoke else 2**31
    for weights, folder in folders.items():
        for row in media.read_rates(folder, most):
            yield row | {"weights": weights}
    yield media.copy_rate(smoke=smoke)


def best(rows: Sequence[Row], weights: str) -> dict[str, float]:
    """Medium -> bytes a second with the threads that suit it best."""
    own = [row for row in rows if row["study"] == "ceiling" and row.get("weights") == weights]
    return {
        medium: max(float(row["gb_s"]) for row in own if row["medium"] == medium) * 1e9
        for medium in MEDIA
    }


def models(
    folders: dict[str, Path], share: float, found: Sequence[Row], steps: int | None
) -> Iterator[Row]:
    """Prefill and decode within the budget, and beside it."""
    total = weight_bytes(folders[PLAIN])
    budget = int(share * total)
    free = _memory.available("cpu")
    alone: dict[tuple[int, str], float] = {}
    every = [(medium, batch) for medium in MEDIA for batch in BATCHES]
    cases: list[tuple[str, int | None, list[tuple[str, int]]]] = [(PLAIN, budget, every)]
    if free is None or 1.2 * total < free:
        cases.insert(0, (PLAIN, None, [(PAGE_CACHE, batch) for batch in BATCHES]))
    else:
        print(f"no model in memory: it needs {1.2 * total:,.0f} bytes, {free:,} are available")
    (scheme,) = set(folders) - {PLAIN}
    cases.append((scheme, budget, [(medium, 1) for medium in MEDIA]))
    for weights, most, which in cases:
        print(f"{weights}, {'all weights' if most is None else f'{most:,} bytes'}", flush=True)
        runs = [(medium, batch, steps or STEPS[medium, batch]) for medium, batch in which]
        for row in in_child(folders[weights], most, runs):
            key = row["batch"], row["phase"]
            if most is None:
                alone[key] = statistics.fmean(row["seconds"])
            resident = alone.get(key) if weights == PLAIN else None
            more = {"weights": weights, "weight_bytes": weight_bytes(folders[weights])}
            yield finished({**row, **more}, best(found, weights), resident)


def shown(row: Row) -> str:
    if row["study"] == "model":
        share = row.get("of_medium", 0.0)
        return (
            f"  {row['phase']:8} {row['tokens_s']:8.2f} tokens/s, {row['median_ms']:8.1f} ms, "
            f"{row.get('bytes_step', 0) / 1e6:8.1f} MB read, hits {row.get('hit_rate', 1.0):.2f}, "
            f"{share:.0%} of the medium, {row.get('of_medium_and_resident', 0.0):.0%} with the "
            f"resident step, at most {row['rss_peak']:,} bytes"
        )
    if row["study"] == "hits":
        rates = ", ".join(f"{p} {row[p]:.3f}" for p in expert_cache.POLICIES)
        where = f"{row['router']}, {row['order']}, batch {row['batch']}, {row['resident']}"
        return f"  {where}: {rates}"
    return "  " + ", ".join(f"{k} {v}" for k, v in row.items() if k != "study")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parameters", type=float, default=6e9, help="of the model (6e9)")
    parser.add_argument("--share", type=float, default=1 / 3, help="the budget, of all weights")
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "offload", help="the models")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "offload.csv", help="the CSV")
    parser.add_argument("--steps", type=int, help=f"of decoding, in place of {STEPS}")
    parser.add_argument(
        "--only",
        choices=("hits", "models"),
        help="one part of it; --out keeps the rows of the other",
    )
    parser.add_argument("--smoke", action="store_true", help="a tiny model: does it run?")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        folder, budget, runs = json.loads(args.case)
        print(json.dumps([*case(Path(folder), budget, runs)]))
        return 0
    started = time.perf_counter()
    here = {k: v for k, v in harness.environment().items() if k in COLUMNS}
    rows: list[Row] = []
    if args.only and args.out.exists():
        with args.out.open(newline="") as file:
            old = csv.DictReader(file)
            rows = [row for row in old if (row["study"] in HITS) != (args.only == "hits")]

    def keep(found: Iterator[Row]) -> None:
        for row in found:
            print(shown(row), flush=True)
            rows.append({**here, **row})

    if args.only != "models":
        keep(expert_cache.rows(smoke=args.smoke))
    if args.only != "hits":
        args.folder.mkdir(parents=True, exist_ok=True)
        folders = made(args.folder, SMOKE if args.smoke else args.parameters)
        config = read_config(folders[PLAIN])
        with torch.device("meta"):
            total, _ = PanguMoEForCausalLM(config).parameter_counts()
        here["parameters"] = total
        keep(ceilings(folders, smoke=args.smoke))
        share = max(0.75, args.share) if args.smoke else args.share  # one of two layers has to fit
        keep(models(folders, share, rows, 2 if args.smoke else args.steps))
    tidy = [{k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    harness.write(args.out, tidy, COLUMNS)
    print(f"{args.out}; {time.perf_counter() - started:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
