"""``moge-ops make-tiny`` and ``moge-ops convert``: folders that are written."""

import argparse
import copy
import shutil
from pathlib import Path
from typing import Any

import torch

from moge_ops import _files
from moge_ops.cli import _models as models
from moge_ops.cli._loading import amount, load
from moge_ops.cli._smaller import asked, check, make_smaller
from moge_ops.cli._text import dtype_name
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.models.layout import parameter_counts
from moge_ops.models.synthetic import config_of_size, random_tensors
from moge_ops.models.tokenizer import BOS, CLOSE, MOST_TOKENIZER, write_byte_tokenizer
from moge_ops.quant import quantize_experts

SHARD = "1GB"  # most of a model of `--parameters` that is in memory
# files that `convert` copies: data only, while a folder may also hold Python files
COPIED = (
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
)


def make_tiny(args: argparse.Namespace) -> None:
    """Writes a random model with a byte tokenizer: a small one, or one of about a given size."""
    folder, dtype = Path(args.folder), getattr(torch, args.dtype)
    if folder.exists() and (there := sorted(path.name for path in folder.iterdir())):
        raise FileExistsError(f"{folder} must be empty or new, got {', '.join(there[:5])}")
    with _files.staged(folder, last="config.json") as stage:
        tokenizer = write_byte_tokenizer(stage)
        settings: dict[str, Any] = {
            "vocab_size": tokenizer.size,
            "max_position_embeddings": 4096,
            "bos_token_id": tokenizer.id_of(BOS),
            "eos_token_id": tokenizer.id_of(CLOSE),
        }
        if args.parameters is None:
            config = _write_tiny(settings, dtype, args.seed, stage)
        else:
            config = config_of_size(args.parameters, **settings)
            need, free = parameter_counts(config)[0] * dtype.itemsize, shutil.disk_usage(stage).free
            if need > free:
                raise OSError(
                    f"{folder} needs {amount(need)} in {args.dtype}, {amount(free)} are free on "
                    "its disk"
                )
            checkpoint = models.checkpoint
            tensors = random_tensors(config, dtype, args.seed)
            checkpoint.write_tensors(tensors, stage, checkpoint.shard_size(SHARD))
            checkpoint.write_config(config, dtype, None, stage)
    total, active = parameter_counts(config)
    print(f"{folder}: {total:,} random parameters, {active:,} active, {args.dtype}")


def _write_tiny(
    settings: dict[str, Any], dtype: torch.dtype, seed: int, stage: Path
) -> PanguMoEConfig:
    config = PanguMoEConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,  # of 32, the narrowest that vLLM's attention for CPUs takes
        num_key_value_heads=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=64,
        **settings,
    )
    torch.manual_seed(seed)
    model = PanguMoEForCausalLM(config)
    # wide, as in a trained model: tokens that are nearly alike would all get the same experts
    torch.nn.init.normal_(model.embed.weight)
    models.checkpoint.save_pretrained(model.to(dtype), stage)
    return config


def convert(args: argparse.Namespace) -> None:
    """Writes a copy of a folder: in another dtype, in files of another size, smaller, quantised."""
    folder, out = Path(args.folder), Path(args.out)
    if args.group_size is not None and args.quantize is None:
        raise ValueError("--group-size needs --quantize")
    models.checkpoint.refuse_weights(out)
    model = _converted(args)
    with _files.staged(out, last="config.json") as stage:
        if model is not None:
            models.checkpoint.save_pretrained(model, stage, max_shard_size=args.max_shard_size)
        else:
            models.convert_quantized(
                folder,
                stage,
                args.quantize,
                group_size=args.group_size,
                dtype=getattr(torch, args.dtype) if args.dtype else None,
                max_shard_size=args.max_shard_size,
            )
        for name in COPIED:
            if (folder / name).exists():
                data = _files.read(folder / name, MOST_TOKENIZER)
                _files.write(stage / name, data)
    files = sorted(path.name for path in out.glob("*.safetensors"))
    kind = f"{dtype_name(models.checkpoint.stored_dtype(out))}{', experts ' * bool(args.quantize)}"
    print(f"{out}: {len(files)} file{'s' * (len(files) > 1)}, {kind}{args.quantize or ''}")
    if asked(args):
        config = models.checkpoint.read_config(out)
        total, active = parameter_counts(config)
        print(
            f"{config.num_experts} experts of width {config.moe_intermediate_size}: "
            f"{total:,} parameters, {active:,} active"
        )


def _converted(args: argparse.Namespace) -> PanguMoEForCausalLM | None:
    """The model to write; None if a folder is quantised layer by layer, without its model."""
    if not asked(args):
        return None if args.quantize else load(args)
    ids = check(args)
    plain = copy.copy(args)
    plain.dtype = None  # experts are chosen, and quantised, as they are in the files
    model = load(plain)
    make_smaller(args, model, ids)
    if args.quantize is not None:
        quantize_experts(model, args.quantize, group_size=args.group_size)
    return models.checkpoint.cast(model, getattr(torch, args.dtype)) if args.dtype else model
