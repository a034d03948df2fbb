"""``moge-ops profile``: which experts a kind of text needs."""

import argparse
from contextlib import ExitStack
from pathlib import Path

import torch

from moge_ops.cli import _models as models
from moge_ops.cli._loading import load, load_offloaded
from moge_ops.cli._text import shown, utf8
from moge_ops.cli._windows import WINDOW, tokens_of, windows
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.statistics import RouterStatistics


def profile(args: argparse.Namespace) -> None:
    """Adds what the routers do with a text to a file of profiles, as the profile of a task."""
    file, task = Path(args.file), utf8("--task", args.task)
    if not task:
        raise ValueError("--task must not be empty")
    if not file.parent.is_dir():  # now, and not after the model has run
        raise FileNotFoundError(f"{file} must be in a folder, and {file.parent} is none")
    statistics = RouterStatistics.load(file) if file.exists() else RouterStatistics()
    ids = tokens_of(args, None)
    with ExitStack() as closing:
        if args.resident is None:
            model = load(args)
        else:
            model = load_offloaded(args, min(WINDOW, len(ids)))
            closing.enter_context(models.offload.of(model))
        statistics.check(model)
        with torch.inference_mode(), statistics.collect(model, task):
            for window in windows(model, ids):
                model(window, logits_to_keep=1)
    statistics.save(file)
    tasks = ", ".join(shown(name) for name in statistics.sums)
    print(f"{file}: {len(ids)} tokens for {shown(task)}; it holds {tasks}")


def profiles_of(args: argparse.Namespace, config: PanguMoEConfig) -> RouterStatistics:
    """The file's profiles, which must be of this model: checked before any weight is read."""
    if not Path(args.profiles).exists():
        raise FileNotFoundError(
            f"--profiles must be a file that moge-ops profile wrote, there is no {args.profiles}"
        )
    profiles = RouterStatistics.load(args.profiles)
    with torch.device("meta"):
        model = PanguMoEForCausalLM(config)
    try:
        profiles.check(model)
    except ValueError as error:
        raise ValueError(
            f"{args.profiles} must hold profiles of the model in {args.folder}: {error}"
        ) from None
    return profiles
