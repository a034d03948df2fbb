"""The options of every command."""

import argparse
import math
import re
import sys
from collections.abc import Callable
from typing import NoReturn

from moge_ops import _extensions
from moge_ops.cli._folders import convert, make_tiny
from moge_ops.cli._generate import generate
from moge_ops.cli._info import accelerators
from moge_ops.cli._inspect import inspect
from moge_ops.cli._plan import BUILT_IN, plan
from moge_ops.cli._profile import profile
from moge_ops.cli._smaller import MOST_TOKENS
from moge_ops.cli._text import line
from moge_ops.planner import CHIPS, KINDS
from moge_ops.quant import SCHEMES

DTYPES = ("float32", "bfloat16", "float16", "float64")
PLAN = "finds the quickest ways to spread a model over devices, by a model of time and memory"
DEBUG = "show where an error was found"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """In one line, as every other fault."""
        print(f"{self.prog}: {line(message)}; options: {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def int64(text: str) -> int:
    """The type of options that are ints; Python's have no bounds, but torch's have."""
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise argparse.ArgumentTypeError(f"must be an int, got {text:.40}")
    value = int(text) if len(text) < 40 else 2**63  # int refuses thousands of digits
    if not -(2**63) <= value < 2**63:
        raise argparse.ArgumentTypeError(f"must be in [-2^63, 2^63), got {text:.40}")
    return value


def number(text: str) -> float:
    """The type of options that are numbers of any size, finite ones."""
    try:
        value = float(text) if re.fullmatch(r"[-+0-9.eE]{1,40}", text) else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number like 6e9, got {text:.40}")
    return value


def _add_plan(to: argparse.ArgumentParser) -> None:
    names = " or ".join(BUILT_IN)
    help_ = (
        f"folder with config.json, or {names} (default: the first); write ./NAME for a folder of "
        "that name"
    )
    to.add_argument("folder", nargs="?", default=next(iter(BUILT_IN)), help=help_)
    to.add_argument(
        "--devices", required=True, metavar="N", help="how many, or a range like 4..512, doubling"
    )
    to.add_argument("--kind", choices=KINDS, default="decode", help="default: decode")
    to.add_argument("--chip", choices=tuple(CHIPS), default="910b2", help="default: 910b2")
    to.add_argument("--memory", metavar="SIZE", help="of a device, like 64GB (default: the chip's)")
    to.add_argument(
        "--link",
        metavar="A,B,N",
        help="GB/s each way inside a node and between nodes, and devices of a node, like 196,25,8",
    )
    to.add_argument(
        "--length",
        type=int64,
        default=2048,
        metavar="N",
        help="tokens of a sequence (default: 2048)",
    )
    to.add_argument(
        "--batch",
        type=int64,
        metavar="N",
        help="sequences of a device (default: 1 to train, else the most that fit)",
    )
    to.add_argument("--latency", type=number, metavar="MS", help="most milliseconds of a step")
    to.add_argument("--w8a8", action="store_true", help="matrices in int8, as the paper serves")
    to.add_argument(
        "--show", type=int64, default=5, metavar="N", help="most plans to print (default: 5)"
    )
    to.add_argument("--debug", action="store_true", help=DEBUG)
    to.set_defaults(run=plan)


def parser() -> argparse.ArgumentParser:
    about = "Tells where the operators of moge_ops run, and works with Pangu Pro MoE checkpoints."
    parser = _Parser(prog="moge-ops", description=about)
    commands = parser.add_subparsers(dest="command", required=True)
    to = commands.add_parser(
        "info", help="versions, devices, and which operator runs on which backend"
    )
    to.add_argument("--debug", action="store_true", help=DEBUG)

    def command(
        name: str,
        run: Callable[[argparse.Namespace], None],
        text: str,
        folder: str = "folder with config.json and safetensors files",
    ) -> _Parser:
        made = commands.add_parser(name, help=text, description=f"{text}.")
        made.add_argument("folder", help=folder)
        made.add_argument("--debug", action="store_true", help=DEBUG)
        made.set_defaults(run=run)
        return made

    def add_dtype(to: argparse.ArgumentParser) -> None:
        to.add_argument(
            "--dtype", choices=DTYPES, help="dtype of the weights (default: that of the files)"
        )

    def add_device(to: argparse.ArgumentParser) -> None:
        devices = [*accelerators(), "cpu"]
        # a whole model needs PyTorch's operators, too, which the host runtime has not
        on_host = _extensions.npu_runtime() == "host"
        to.add_argument("--device", choices=devices, default="cpu" if on_host else devices[0])

    def add_max_tokens(to: argparse.ArgumentParser, default: int | None) -> None:
        to.add_argument(
            "--max-tokens",
            type=int64,
            default=default,
            metavar="N",
            help=f"most tokens of the text (default: {default or MOST_TOKENS})",
        )

    def add_resident(to: argparse.ArgumentParser) -> None:
        to.add_argument(
            "--resident",
            metavar="SIZE",
            help="most memory of all, like 8GB: experts stay in the folder until they are needed",
        )

    to = command("generate", generate, "prints a model's answer to a question, token by token")
    to.add_argument("text", help="the question, or - to read it from standard input")
    to.add_argument("--system", default="", help="system message before the question")
    to.add_argument("--raw", action="store_true", help="continue the text, without chat template")
    to.add_argument("--max-new-tokens", type=int64, default=256, metavar="N")
    to.add_argument("--temperature", type=float, default=0.6, help="0 takes the likeliest token")
    to.add_argument("--top-k", type=int64, default=50, metavar="N", help="0 for all")
    to.add_argument("--top-p", type=float, default=0.95, metavar="P")
    to.add_argument("--seed", type=int64, help="the same seed gives the same answer")
    to.add_argument(
        "--draft",
        metavar="WHAT",
        help="guess tokens and verify several at once: lookup (in the text), mtp (the model's own "
        "heads), or a folder with a smaller model",
    )
    to.add_argument(
        "--draft-tokens", type=int64, metavar="N", help="most guesses at once (default: 3)"
    )
    to.add_argument(
        "--verifier", metavar="FOLDER", help="a small model that ends thinking which leads nowhere"
    )
    to.add_argument(
        "--profiles", metavar="FILE", help="load only a task's experts, as `profile` found them"
    )
    to.add_argument("--task", metavar="NAME", help="which task (default: the nearest to the text)")
    to.add_argument(
        "--keep", type=int64, metavar="N", help="experts of each group (default: half of them)"
    )
    add_resident(to)
    add_device(to)
    add_dtype(to)

    text = "adds which experts a text needs to a file of profiles, for generate --profiles"
    to = command("profile", profile, text)
    to.add_argument("file", help="file of profiles, new or to be added to")
    to.add_argument("--task", required=True, metavar="NAME", help="what the text is an example of")
    to.add_argument("--text", required=True, metavar="FILE", help="the text")
    add_max_tokens(to, 8192)
    add_resident(to)
    add_device(to)
    add_dtype(to)

    to = command("inspect", inspect, "shows a model's sizes, what fits into memory, its routers")
    what = to.add_mutually_exclusive_group()
    what.add_argument("--text", metavar="FILE", help="router statistics over this file")
    what.add_argument("--prompt", metavar="TEXT", help="router statistics over this text")
    add_max_tokens(to, 2048)
    add_device(to)
    add_dtype(to)

    text = "writes a random model, small or of a given size, and a tokenizer, for trials"
    to = command("make-tiny", make_tiny, text, folder="folder to write, new or empty")
    to.add_argument("--seed", type=int64, default=0)
    to.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    to.add_argument(
        "--parameters",
        type=number,
        metavar="N",
        help="size of the model, like 6e9; its shape is Pangu Pro MoE's (default: a tiny one)",
    )

    text = "writes a model in another dtype or file size, with quantised, fewer or narrower experts"
    to = command("convert", convert, text)
    to.add_argument("out", help="folder to write, in the released layout")
    to.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="like 5GB or 500MiB")
    to.add_argument(
        "--quantize",
        choices=SCHEMES,
        help="quantise the routed experts, layer by layer, and write compressed-tensors",
    )
    to.add_argument(
        "--group-size",
        type=int64,
        metavar="N",
        help="columns that share a scale (default: that of the scheme)",
    )
    to.add_argument(
        "--keep-experts",
        type=int64,
        metavar="N",
        help="keep N experts of each group, and no others",
    )
    to.add_argument(
        "--expert-size",
        type=int64,
        metavar="F",
        help="narrow each routed expert to F neurons, a multiple of 16",
    )
    to.add_argument(
        "--profiles", metavar="FILE", help="which experts to keep, as `profile` found them"
    )
    to.add_argument("--task", metavar="NAME", help="which task (default: the only one)")
    to.add_argument(
        "--text", metavar="FILE", help="text by which neurons, or experts too, are chosen"
    )
    add_max_tokens(to, None)
    add_dtype(to)
    to.set_defaults(device="cpu")
    _add_plan(commands.add_parser("plan", help=PLAN, description=f"{PLAN}."))
    commands.metavar = "{" + ",".join(commands.choices) + "}"  # for the error where none is given
    return parser
