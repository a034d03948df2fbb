"""``moge-ops convert --keep-experts --expert-size``: fewer experts in each group, narrower ones."""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from moge_ops._memory import available
from moge_ops._quantized import STORED
from moge_ops.cli import _models as models
from moge_ops.cli._loading import amount
from moge_ops.cli._profile import profiles_of
from moge_ops.cli._text import shown
from moge_ops.cli._windows import tokens_of, windows
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.quant import quantize
from moge_ops.statistics import RouterStatistics
from moge_ops.surgery import expert_sensitivity, prune_experts, slim_experts
from moge_ops.surgery._slim import MULTIPLE

# an option -> those of which it needs one
NEEDS = {
    "keep_experts": ("profiles", "text"),
    "expert_size": ("text",),
    "profiles": ("keep_experts",),
    "task": ("profiles",),
    "text": ("expert_size", "keep_experts"),
    "max_tokens": ("text",),
}
MOST_TOKENS = 8192  # of the text


def asked(args: argparse.Namespace) -> bool:
    """Whether experts are to be fewer or narrower; raises ValueError if an option lacks another."""
    for name, needed in NEEDS.items():
        if getattr(args, name) is not None and all(getattr(args, n) is None for n in needed):
            raise ValueError(f"{_option(name)} needs {' or '.join(map(_option, needed))}")
    if args.profiles is not None and args.text is not None and args.expert_size is None:
        raise ValueError("--text needs --expert-size, where --profiles tell which experts to keep")
    return args.keep_experts is not None or args.expert_size is not None


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def check(args: argparse.Namespace) -> list[int]:
    """Checks all that can be checked before weights are read; the ids of ``--text``, or [].

    Raises:
        OSError: A file cannot be read.
        ValueError: An option does not fit the folder, or the text is not UTF-8.
    """
    config = models.checkpoint.read_config(args.folder)
    P, k = config.num_experts // config.num_groups, config.num_experts_per_tok // config.num_groups
    F = config.moe_intermediate_size
    if args.keep_experts is not None and not k <= args.keep_experts <= P:
        raise ValueError(
            f"--keep-experts must be from the {k} that a token takes of each group to the {P} that "
            f"it has, got {args.keep_experts}"
        )
    size = args.expert_size
    if size is not None and size != F and not (0 < size < F and size % MULTIPLE == 0):
        raise ValueError(
            f"--expert-size must be a multiple of {MULTIPLE}, so that no tile is cut, and at most "
            f"the present {F}, got {size}"
        )
    if config.num_nextn_predict_layers:
        raise ValueError(
            f"{args.folder} must have no heads that predict further tokens, whose experts have the "
            f"model's sizes and no statistics, got {config.num_nextn_predict_layers}"
        )
    for name in ("expert_size", "quantize"):
        if getattr(args, name) is not None and models.is_quantized(Path(args.folder), config.extra):
            raise ValueError(
                f"{args.folder} is quantised already; {_option(name)} takes a plain folder"
            )
    if args.quantize is not None:
        _check_quantization(args, config)
    if args.profiles is not None:
        _task(args, profiles_of(args, config))
    if args.text is None:
        return []
    if args.max_tokens is None:
        args.max_tokens = MOST_TOKENS
    return tokens_of(args, None)


def _check_quantization(args: argparse.Namespace, config: PanguMoEConfig) -> None:
    """Checks that experts of the new sizes can be quantised as asked; raises ValueError."""
    scheme, size = args.quantize, args.group_size
    H, F = config.hidden_size, args.expert_size or config.moe_intermediate_size
    sizes = sorted(n for n in STORED[scheme].group_sizes if n is not None)
    if size is not None and size not in sizes:
        allowed = f"one of {', '.join(map(str, sizes))}" if sizes else "left out"
        raise ValueError(f"--group-size must be {allowed} for {scheme}, got {size}")
    how = scheme if size is None else f"{scheme} --group-size {size}"
    for halves, shape in ((2, (0, 2 * F, H)), (1, (0, H, F))):
        try:
            quantize(torch.empty(shape), scheme, group_size=size, halves=halves)
        except ValueError as error:
            raise ValueError(
                f"--quantize {how} must fit experts of width {F} in a model of width {H}: {error}"
            ) from None


def make_smaller(args: argparse.Namespace, model: PanguMoEForCausalLM, ids: list[int]) -> None:
    """Narrows the experts of a model and removes some, by what the model as it is does with a text.

    ``ids`` are what :func:`check` returned.

    Raises:
        ValueError: There is no room for gradients of the experts.
    """
    masks: Mapping[str, Tensor] | None = None
    if args.keep_experts is not None:
        masks = _masks(args, model, ids)
    if args.expert_size is not None:
        _check_room(args, model)
        slim_experts(model, args.expert_size, expert_sensitivity(model, windows(model, ids)))
    if masks is not None:
        prune_experts(model, masks)


def _masks(
    args: argparse.Namespace, model: PanguMoEForCausalLM, ids: list[int]
) -> dict[str, Tensor]:
    """The experts that stay, by a profile if there are any, or else by the text."""
    if args.profiles is not None:
        profiles = profiles_of(args, model.config)
        return profiles.masks(_task(args, profiles), args.keep_experts, score="selection")
    profiles = RouterStatistics()
    with torch.inference_mode(), profiles.collect(model, "text"):
        for window in windows(model, ids):
            model(window, logits_to_keep=1)
    return profiles.masks("text", args.keep_experts, score="selection")


def _task(args: argparse.Namespace, profiles: RouterStatistics) -> str:
    """The task of ``--task``, or the only one."""
    tasks = list(profiles.sums)
    if args.task is None and len(tasks) == 1:
        return tasks[0]
    if args.task not in tasks:
        known, got = ", ".join(map(shown, tasks)), "none" if args.task is None else args.task
        raise ValueError(f"--task must be one of {known} in {args.profiles}, got {got:.200}")
    return str(args.task)


def _check_room(args: argparse.Namespace, model: PanguMoEForCausalLM) -> None:
    """Gradients of all experts are in memory together; raises ValueError if they do not fit."""
    c = model.config
    expert = 3 * c.moe_intermediate_size * c.hidden_size * model.embed.weight.element_size()
    need = c.num_hidden_layers * c.num_experts * expert
    free = available(args.device)
    if free is not None and need > free:
        raise ValueError(
            f"--expert-size needs {amount(need)} for gradients of the experts, {amount(free)} are "
            f"available on {args.device}"
        )
