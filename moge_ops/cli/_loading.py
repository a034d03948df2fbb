"""A folder's model, if it fits into memory; and experts that stay in the folder, if it does not."""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from moge_ops._memory import available, held
from moge_ops.cli import _models as models
from moge_ops.cli._text import dtype_name
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.models.tokenizer import Tokenizer

GB = 10**9
# Bytes that torch's libraries take when they first compute, the stacks of threads that read, and
# what the allocator has not given back.
SPARE = 176 * 2**20


def amount(size: float) -> str:
    """Bytes for a reader."""
    return f"{size / GB:.1f} GB" if size >= GB / 10 else f"{size / 1e6:.1f} MB"


def cached(config: PanguMoEConfig) -> int:
    """Elements of the cache that one token takes."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim


def load(args: argparse.Namespace, tokens: int = 0) -> PanguMoEForCausalLM:
    """Loads the model, if it and a cache of ``tokens`` tokens fit into memory.

    Raises:
        ValueError: They do not fit; nothing has been allocated.
    """
    folder = Path(args.folder)
    config = models.checkpoint.read_config(folder)
    dtype = getattr(torch, args.dtype) if args.dtype else models.checkpoint.stored_dtype(folder)
    cache = tokens * cached(config) * dtype.itemsize
    need = models.checkpoint.bytes_needed(folder, config, dtype) + cache
    free = available(args.device)
    if free is not None and need > free:
        raise ValueError(
            f"{folder} needs {amount(need)} in {dtype_name(dtype)}, "
            f"{amount(free)} are available on {args.device}"
        )
    return models.checkpoint.from_pretrained(folder, dtype=dtype, device=args.device)


def check_ids(tokenizer: Tokenizer, ids: Sequence[int], config: PanguMoEConfig) -> None:
    if max(ids) >= config.vocab_size:
        raise ValueError(
            f"{tokenizer.path} must give ids below vocab_size={config.vocab_size} of config.json, "
            f"got {max(ids)}"
        )


def activations(config: PanguMoEConfig, tokens: int, itemsize: int) -> int:
    """About the most bytes that a forward of ``tokens`` tokens takes for a while.

    A layer of experts takes the most: K rows of each token, with their inputs and outputs of width
    H and what is between of width 3F; beside them a few rows of width H in float32, the shared
    expert, and the logits of one token with the copies that the sampler makes.
    """
    H, K = config.hidden_size, config.num_experts_per_tok
    rows = K * (2 * H + 3 * config.moe_intermediate_size)
    rows += 4 * H + 3 * config.shared_expert_intermediate_size
    return tokens * (rows * itemsize + 4 * H * 4) + 4 * 4 * config.vocab_size


def load_offloaded(
    args: argparse.Namespace,
    prompt: int,
    new: int = 0,
    *,
    beside: int = 0,
    experts: Mapping[str, Tensor] | None = None,
) -> PanguMoEForCausalLM:
    """Loads the model with at most ``--resident`` bytes of it in memory.

    The process has ``--resident`` bytes in all: what it holds now, the cache and the activations
    are taken off first. On a GPU only the memory of the GPU counts. Without ``--resident`` it has
    all memory that is available.

    Args:
        args: With folder, device, dtype and resident.
        prompt: Tokens of the largest forward.
        new: Tokens that are added to the cache after it.
        beside: Bytes that something else will take, such as the cache of a draft.
        experts: As for :func:`moge_ops.offload.load`.

    Raises:
        ValueError: ``--resident`` is no size, or too small.
    """
    folder = Path(args.folder)
    config = models.checkpoint.read_config(folder)
    dtype = getattr(torch, args.dtype) if args.dtype else models.checkpoint.stored_dtype(folder)
    taken = (prompt + new) * cached(config) * dtype.itemsize + beside + SPARE
    taken += activations(config, prompt, dtype.itemsize)
    if args.resident is None:
        free = available(args.device)
        resident = None if free is None else max(1, free - taken)
    else:
        taken += held() if args.device == "cpu" else 0
        resident = size("--resident", args.resident) - taken
        if resident <= 0:
            raise ValueError(
                f"--resident must be above {taken / GB:.3f} GB, which the process takes without a "
                f"model, got {args.resident}"
            )
    try:
        model: PanguMoEForCausalLM = models.offload.load(
            folder, resident, dtype=dtype, device=args.device, experts=experts
        )
    except ValueError as error:
        if not str(error).startswith("resident must be at least"):
            raise
        raise ValueError(f"{error} beside {taken / GB:.3f} GB of everything else") from None
    return model


def size(name: str, text: str) -> int:
    """``"1.5GB"`` as a number of bytes; raises ValueError, which says that ``name`` has it."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*([KMG]i?B)?", text, re.ASCII)
    found = int(float(match[1]) * models.checkpoint.UNITS[match[2] or ""]) if match else 0
    if not found:
        raise ValueError(f"{name} must be a number of bytes or like '8GB', got {text!r:.200}")
    return found
