"""The commands on checkpoint folders: generate, inspect, make-tiny, convert."""

import argparse
import re
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from moge_ops._memory import available
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM, PanguMoEOutput
from moge_ops.models.checkpoint import (
    from_pretrained,
    read_config,
    save_pretrained,
    stored_dtype,
    stored_tensors,
)
from moge_ops.models.tokenizer import (
    BOS,
    CLOSE,
    Stream,
    Tokenizer,
    load_tokenizer,
    write_byte_tokenizer,
)

__all__ = ["convert", "generate", "inspect", "make_tiny"]

GB = 10**9
# what `convert` takes along: all of it data, unlike the Python files that a folder may hold
BESIDES = (
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
)
WINDOW = 512  # tokens of one forward of `inspect`


def table(title: str, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table, by rich where it is installed; all columns but the first are numbers."""
    cells = [[str(cell) for cell in row] for row in rows]
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table
    except ImportError:
        lines = [list(headings), *cells]
        widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
        print(f"\n{title}")
        for first, *numbers in lines:
            padded = [cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)]
            print("  ".join([first.ljust(widths[0]), *padded]))
        return
    made = Table(title=escape(title), title_justify="left")
    for i, heading in enumerate(headings):
        made.add_column(heading, justify="right" if i else "left")
    for row in cells:
        made.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(made)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _counts(config: PanguMoEConfig) -> tuple[int, int]:
    """Parameters in all, and active ones, of a model that is not built."""
    with torch.device("meta"):
        return PanguMoEForCausalLM(config).parameter_counts()


def _cached(config: PanguMoEConfig) -> int:
    """Elements that one token has in the cache."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim


def _load(args: argparse.Namespace, tokens: int = 0) -> PanguMoEForCausalLM:
    """The model, where it and a cache of so many tokens fit into the memory.

    Raises:
        ValueError: They do not fit; no memory has been taken then.
    """
    folder = Path(args.folder)
    config = read_config(folder)
    dtype = getattr(torch, args.dtype) if args.dtype else stored_dtype(folder)
    need = (_counts(config)[0] + tokens * _cached(config)) * dtype.itemsize
    free = available(args.device)
    if free is not None and need > free:
        raise ValueError(
            f"{folder} needs {need / GB:.1f} GB in {_name(dtype)}, "
            f"{free / GB:.1f} GB are available on {args.device}"
        )
    return from_pretrained(folder, dtype=dtype, device=args.device)


def _check_ids(tokenizer: Tokenizer, ids: Sequence[int], config: PanguMoEConfig) -> None:
    if max(ids) >= config.vocab_size:
        raise ValueError(
            f"{tokenizer.path} must give ids below vocab_size={config.vocab_size} of config.json, "
            f"got {max(ids)}"
        )


def generate(args: argparse.Namespace) -> None:
    """Prints the answer as it comes, and how fast it came to standard error."""
    folder = Path(args.folder)
    config, tokenizer = read_config(folder), load_tokenizer(folder)
    text = sys.stdin.read() if args.text == "-" else args.text
    if not text:
        raise ValueError("the prompt must not be empty")
    ids = tokenizer.raw(text) if args.raw else tokenizer.chat(text, args.system)
    _check_ids(tokenizer, ids, config)
    model = _load(args, len(ids) + max(0, args.max_new_tokens))
    random = torch.Generator(args.device)
    if args.seed is None:
        random.seed()
    else:
        random.manual_seed(args.seed)

    stream, times = Stream(tokenizer), [time.perf_counter()]
    eos = config.eos_token_id
    ends = {eos} if isinstance(eos, int) else set(eos or ())

    def show(chosen: Tensor) -> None:
        token = int(chosen)
        times.append(time.perf_counter())
        if token not in ends:
            print(_shown(stream.add(token)), end="", flush=True)

    model.generate(
        [ids],
        args.max_new_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        generator=random,
        streamer=show,
    )
    print(_shown(stream.rest()))
    if len(times) > 1:
        print(_rate("prefill", len(ids), times[1] - times[0]), file=sys.stderr)
    if len(times) > 2:
        print(_rate("decode", len(times) - 2, times[-1] - times[1]), file=sys.stderr)


def _shown(text: str) -> str:
    """Without what would steer a terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text)


def _rate(what: str, tokens: int, seconds: float) -> str:
    return f"{what:<7} {tokens:5} tokens in {seconds:7.2f} s: {tokens / seconds:8.1f} tokens/s"


def inspect(args: argparse.Namespace) -> None:
    """Prints what a folder holds, what of it fits into memory, and what its routers do."""
    folder = Path(args.folder)
    config = read_config(folder)
    total, active = _counts(config)
    E, G, K = config.num_experts, config.num_groups, config.num_experts_per_tok
    rows: list[tuple[str, object]] = [
        ("layers", config.num_hidden_layers),
        ("hidden size H", config.hidden_size),
        ("attention heads / of keys and values", _pair(config)),
        ("width of a head", config.head_dim),
        ("vocabulary", config.vocab_size),
        ("positions", config.max_position_embeddings),
        ("experts E", E),
        ("groups G of neighbouring experts", G),
        ("experts of a token K, each group's share", f"{K}, {K // G}"),
        ("width of an expert F", config.moe_intermediate_size),
        ("width of the shared expert", config.shared_expert_intermediate_size),
        ("parameters", f"{total:,}"),
        ("active for a token", f"{active:,}"),
    ]
    table(f"{folder}: architecture", ("", "value"), rows)
    _show_files(folder)
    _show_memory(config, total, args.device)
    if args.text or args.prompt is not None:
        _show_routers(args)


def _pair(config: PanguMoEConfig) -> str:
    return f"{config.num_attention_heads} / {config.num_key_value_heads}"


def _show_files(folder: Path) -> None:
    """Tensors by dtype; a folder of a config alone can be inspected too."""
    if not any(folder.glob("*.safetensors*")):
        print(f"{folder} has no weights")
        return
    tensors, elements = Counter[str](), Counter[str]()
    for _, dtype, n in stored_tensors(folder):
        tensors[dtype] += 1
        elements[dtype] += n
    rows = [(dtype, tensors[dtype], f"{n:,}") for dtype, n in elements.items()]
    table("Weights in the files", ("dtype", "tensors", "elements"), rows)


def _show_memory(config: PanguMoEConfig, total: int, device: str) -> None:
    free = available(device)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        weights, token = total * dtype.itemsize, _cached(config) * dtype.itemsize
        row: list[object] = [_name(dtype), f"{weights / GB:.3f}", f"{1000 * token / GB:.3f}"]
        if free is not None:
            fits = min(max(0, free - weights) // token, config.max_position_embeddings)
            row += ["yes" if weights <= free else "no", f"{fits:,}"]
        rows.append(row)
    headings = ["dtype", "weights, GB", "cache of 1000 tokens, GB"]
    if free is not None:
        headings += ["weights fit", "tokens that fit too"]
    have = "unknown" if free is None else f"{free / GB:.1f} GB"
    table(f"Memory of {device}: {have} available", headings, rows)


def _show_routers(args: argparse.Namespace) -> None:
    text = args.prompt
    if args.text:
        try:
            text = Path(args.text).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{args.text} is not UTF-8: {error}") from None
    tokenizer = load_tokenizer(args.folder)
    ids = tokenizer.raw(text)[: args.max_tokens]
    model = _load(args)
    config = model.config
    _check_ids(tokenizer, ids, config)
    G, E, K = config.num_groups, config.num_experts, config.num_experts_per_tok
    T, layers = len(ids), config.num_hidden_layers
    counts = torch.zeros(layers, E, dtype=torch.int64)
    plain = torch.zeros(layers, E, dtype=torch.int64)
    for details in _forwards(model, ids):
        for i, (logits, gating) in enumerate(
            zip(details.router_logits, details.gating, strict=True)
        ):
            counts[i] += gating.counts.cpu()
            plain[i] += torch.bincount(logits.topk(K).indices.flatten(), minlength=E).cpu()

    rows = []
    for i, (ours, theirs) in enumerate(zip(counts, plain, strict=True)):
        groups = sorted(set(ours.view(G, -1).sum(1).tolist()))
        experts = ours.tolist()
        median = f"{statistics.median(experts):g}"
        row = (min(experts), median, max(experts), experts.count(0))
        scores = (_imbalance(ours, G, T), _imbalance(theirs, G, T))
        rows.append((i, " to ".join(map(str, groups)), *row, *(f"{x:.3f}" for x in scores)))
    headings = (
        "layer",
        "a group",
        "an expert: least",
        "median",
        "most",
        "unused",
        "IS",
        "IS top-k",
    )
    table(f"Routers over {T} tokens: tokens of groups and experts", headings, rows)
    print(
        f"IS: (max - min) / tokens of {G} devices with a group each; "
        f"IS top-k: with the best {K} of all {E} experts instead."
    )
    if E // G <= 16:
        grid = [(g, *row) for g, row in enumerate(counts.sum(0).view(G, -1).tolist())]
        expert = [f"expert {j}" if j == 0 else str(j) for j in range(E // G)]
        table("Tokens of every expert, all layers", ("group", *expert), grid)


def _forwards(model: PanguMoEForCausalLM, ids: Sequence[int]) -> Iterator[PanguMoEOutput]:
    """Forwards over a text in windows."""
    width = min(WINDOW, model.config.max_position_embeddings)
    with torch.inference_mode():
        for start in range(0, len(ids), width):
            window = torch.tensor([ids[start : start + width]], device=model.embed.weight.device)
            yield model(window, logits_to_keep=1, return_details=True)


def _imbalance(counts: Tensor, devices: int, tokens: int) -> float:
    """IS of arXiv 2505.21411: by how much the most loaded device is above the least, a token."""
    loads = counts.view(devices, -1).sum(1)
    return float(loads.max() - loads.min()) / tokens


def make_tiny(args: argparse.Namespace) -> None:
    """Writes a small random model with a tokenizer of bytes."""
    folder = Path(args.folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} must be empty or new")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_byte_tokenizer(folder)
    torch.manual_seed(args.seed)
    model = PanguMoEForCausalLM(
        PanguMoEConfig(
            vocab_size=tokenizer.size,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=64,
            max_position_embeddings=4096,
            bos_token_id=tokenizer.id_of(BOS),
            eos_token_id=tokenizer.id_of(CLOSE),
        )
    )
    # as wide as a trained model's: with tokens that are alike, all would have the same experts
    torch.nn.init.normal_(model.embed.weight)
    save_pretrained(model.to(getattr(torch, args.dtype)), folder)
    total, active = model.parameter_counts()
    print(f"{folder}: {total:,} random parameters, {active:,} active, {args.dtype}")


def convert(args: argparse.Namespace) -> None:
    """Writes a folder anew, in another dtype or with files of another size."""
    folder, out = Path(args.folder), Path(args.out)
    model = _load(args)
    save_pretrained(model, out, max_shard_size=args.max_shard_size)
    for name in BESIDES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    files = sorted(path.name for path in out.glob("*.safetensors"))
    print(f"{out}: {len(files)} file{'s' * (len(files) > 1)}, {_name(model.embed.weight.dtype)}")
