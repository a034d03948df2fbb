"""``moge-ops plan``: how to spread a model over devices."""

import argparse
import re
import sys

from moge_ops import _checks, planner
from moge_ops.cli import _models as models
from moge_ops.cli._loading import GB, size
from moge_ops.cli._tables import table
from moge_ops.models import PanguMoEConfig
from moge_ops.planner import MOST_BATCH, MOST_DEVICES, Chip, Found, Precision

PANGU = PanguMoEConfig()
BUILT_IN = {"pangu-pro-moe": PANGU, "pangu-pro-moe-top-k": planner.top_k_twin(PANGU)}
HEAD = ("batch", "GB", "attention", "experts", "head", "links")
OF_TRAINING = ("sums, update", "bubble")


def plan(args: argparse.Namespace) -> None:
    """Prints the quickest plans for every number of devices, and why the others fall out.

    Exit code 1 if no plan fits any of them.
    """
    config = BUILT_IN.get(args.folder)
    if config is None:
        config = models.checkpoint.read_config(args.folder)
    _check(args, config)
    chip, fits = _chip(args), False
    for devices in _devices(args.devices):
        found = planner.plan(
            config,
            devices,
            chip,
            kind=args.kind,
            length=args.length,
            batch=args.batch,
            latency=None if args.latency is None else args.latency / 1e3,
            precision=Precision(matrix=1 if args.w8a8 else 2),
        )
        fits = fits or bool(found.best)
        if found.best:
            _show(devices, chip, args.kind, found.best[: args.show], len(found.best))
            for sentence in found.dropped:
                print(f"- {sentence}")
        else:
            reasons = "; ".join(found.dropped)
            of = f"{devices} device{'s' * (devices != 1)}"
            print(f"plan: no plan for {of} fits: {reasons}", file=sys.stderr)
    if not fits:
        sys.exit(1)


def _check(args: argparse.Namespace, config: PanguMoEConfig) -> None:
    """Checks options as they were typed, where the planner would name its own arguments."""
    _checks.integer("--show", args.show, least=1)
    _checks.integer("--length", args.length, least=1, most=config.max_position_embeddings)
    if args.batch is not None:
        _checks.integer("--batch", args.batch, least=1, most=MOST_BATCH)
    if args.latency is not None and args.latency <= 0:
        raise ValueError(f"--latency must be above 0, got {args.latency:g}")
    if args.w8a8 and args.kind == "train":
        raise ValueError("--w8a8 is for --kind prefill and decode, got train")


def _show(devices: int, chip: Chip, kind: str, best: list[Found], fit: int) -> None:
    training, rows = kind == "train", []
    for found in best:
        t = found.times
        times = [t.attention, t.experts, t.head, t.links]
        times += [t.gradients + t.update, t.bubble] if training else []
        parts = [f"{1e3 * seconds:.1f}" for seconds in times]
        numbers = [found.batch, f"{found.memory.total / GB:.1f}", *parts]
        micro = f", micro-batch {found.layout.micro}" if training else ""
        step = f"{1e3 * t.total:.1f}"
        rows.append((f"{found.layout}{micro}", *numbers, step, f"{found.rate:,.0f}"))
    plans = f"{fit} plan{'s fit' if fit != 1 else ' fits'}"
    title = f"{kind} on {devices} x {chip.name}: {plans}; modelled ms"
    head = HEAD + (OF_TRAINING if training else ())
    table(title, ("layout", *head, "step", "tokens/s a device"), rows)


def _devices(text: str) -> list[int]:
    """``"8"``, or ``"4..512"``: 4, 8, 16 and so on."""
    match = re.fullmatch(r"(\d{1,6})(?:\.\.(\d{1,6}))?", text, re.ASCII)
    first, last = (int(n or match[1]) for n in match.groups()) if match else (0, 0)
    if not 1 <= first <= last <= MOST_DEVICES:
        raise ValueError(
            f"--devices must be a number up to {MOST_DEVICES}, or a range like 4..512, "
            f"got {text!r:.200}"
        )
    return [first * 2**i for i in range((last // first).bit_length())]


def _chip(args: argparse.Namespace) -> Chip:
    """The chip, with the memory and the links that the options name."""
    chip = planner.CHIPS[args.chip]
    if args.memory is not None:
        chip = chip._replace(memory=size("--memory", args.memory))
    if args.link is None:
        return chip
    number = r"(\d{1,6}(?:\.\d{1,6})?)"
    match = re.fullmatch(rf"{number},{number},(\d{{1,6}})", args.link, re.ASCII)
    near, far, node = (float(n) for n in match.groups()) if match else (0.0, 0.0, 0.0)
    if not near * far * node:
        raise ValueError(
            "--link must be GB/s inside a node, GB/s between nodes and devices of a node, all "
            f"above 0, like 196,25,8, got {args.link!r:.200}"
        )
    return chip._replace(node_link=near * GB, net_link=far * GB, node=int(node))
