"""``moge-ops inspect``: a model's sizes, what fits into memory, and its routers."""

import argparse
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from moge_ops._memory import available
from moge_ops.cli import _models as models
from moge_ops.cli._loading import GB, cached, load
from moge_ops.cli._tables import table
from moge_ops.cli._text import dtype_name, utf8
from moge_ops.cli._windows import tokens_of, windows
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.models.layout import parameter_counts


def inspect(args: argparse.Namespace) -> None:
    """Prints the model's sizes, what fits into memory, and statistics of the routers."""
    folder = Path(args.folder)
    config = models.checkpoint.read_config(folder)
    total, active = parameter_counts(config)
    E, G, K = config.num_experts, config.num_groups, config.num_experts_per_tok
    heads = f"{config.num_attention_heads} / {config.num_key_value_heads}"
    rows: list[tuple[str, object]] = [
        ("layers", config.num_hidden_layers),
        ("hidden size H", config.hidden_size),
        ("attention heads / of keys and values", heads),
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
    if args.text is not None or args.prompt is not None:
        _show_routers(args)


def _show_files(folder: Path) -> None:
    """Counts tensors by dtype; a folder may also hold nothing but a config."""
    if not any(folder.glob("*.safetensors*")):
        print(f"{folder} has no weights")
        return
    tensors, elements = Counter[str](), Counter[str]()
    for _, dtype, n in models.checkpoint.stored_tensors(folder):
        tensors[dtype] += 1
        elements[dtype] += n
    rows = [(dtype, tensors[dtype], f"{n:,}") for dtype, n in elements.items()]
    table("Weights in the files", ("dtype", "tensors", "elements"), rows)


def _show_memory(config: PanguMoEConfig, total: int, device: str) -> None:
    free = available(device)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        weights, token = total * dtype.itemsize, cached(config) * dtype.itemsize
        row: list[object] = [dtype_name(dtype), f"{weights / GB:.3f}", f"{1000 * token / GB:.3f}"]
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
    """Tokens of groups and experts in every layer, beside those of a plain top-k choice."""
    text = utf8("--prompt", args.prompt or "")
    ids = tokens_of(args, text if args.text is None else None)
    model = load(args)
    config = model.config
    counts, plain = _tokens_of_experts(model, ids)
    G, K, T = config.num_groups, config.num_experts_per_tok, len(ids)
    P = config.num_experts // G

    rows = []
    for i, (ours, theirs) in enumerate(zip(counts, plain, strict=True)):
        groups = sorted(set(ours.view(G, P).sum(1).tolist()))
        experts = ours.tolist()
        median = f"{statistics.median(experts):g}"
        row = (min(experts), median, max(experts), experts.count(0))
        scores = (_imbalance(ours, G, T), _imbalance(theirs, G, T))
        rows.append((i, " to ".join(map(str, groups)), *row, *(f"{x:.3f}" for x in scores)))
    spread = ("an expert: least", "median", "most", "unused")
    headings = ("layer", "a group", *spread, "IS", "IS top-k")
    table(f"Routers over {T} tokens: tokens of groups and experts", headings, rows)
    print(
        f"IS: (max - min) / tokens, over {G} devices with one group each; "
        f"IS top-k: the same, if every token took the best {K} of all {G * P} experts."
    )
    if P <= 16:
        grid = [(g, *row) for g, row in enumerate(counts.sum(0).view(G, P).tolist())]
        expert = [f"expert {j}" if j == 0 else str(j) for j in range(P)]
        table("Tokens of every expert, all layers", ("group", *expert), grid)


@torch.inference_mode()
def _tokens_of_experts(model: PanguMoEForCausalLM, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Tokens that each expert gets, ``[layers, E]``: by the router, and by plain top-k."""
    config = model.config
    E, K = config.num_experts, config.num_experts_per_tok
    counts = torch.zeros(config.num_hidden_layers, E, dtype=torch.int64)
    plain = torch.zeros_like(counts)
    for window in windows(model, ids):
        details = model(window, logits_to_keep=1, return_details=True)
        layers = zip(details.router_logits, details.gating, strict=True)
        for i, (logits, gating) in enumerate(layers):
            counts[i] += gating.counts.cpu()
            plain[i] += torch.bincount(logits.topk(K).indices.flatten(), minlength=E).cpu()
    return counts, plain


def _imbalance(counts: Tensor, devices: int, tokens: int) -> float:
    """IS of arXiv 2505.21411: loads of the most and least loaded device, their gap per token."""
    loads = counts.view(devices, -1).sum(1)
    return float(loads.max() - loads.min()) / tokens
