"""Command line: ``python -m moge_ops info | generate | inspect | make-tiny | convert``."""

import argparse
import pkgutil
import platform
import sys
from collections.abc import Iterator
from importlib import metadata

import torch

from moge_ops import _backend, ops


def _version(distribution: str) -> str:
    """Read from the metadata: an import of Triton here would fix how its kernels are decorated."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _versions() -> Iterator[tuple[str, str]]:
    yield "moge_ops", _version("moge-ops")
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "torch", torch.__version__
    for name in ("triton", "numpy"):
        yield name, _version(name)
    yield "ascend c", _backend.ascend_build()


def _devices() -> Iterator[tuple[str, str]]:
    yield "cpu", f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    for i in range(torch.cuda.device_count()):
        yield f"cuda:{i}", torch.cuda.get_device_name(i)


def _probe(backend: _backend.Backend, op: str) -> str:
    """Loads one module as a call of the operator would, and says what it runs on."""
    runs_on = backend.runs_on()
    if runs_on == "interpreter":
        backend.on_cpu()  # asks for the interpreter before the first kernel loads
    _backend.load(backend.name, op)
    return runs_on


def info() -> str:
    """Versions, devices, and for each operator and backend whether it is usable, and why not."""
    lines = [f"{name:<9} {text}" for name, text in (*_versions(), *_devices())]

    names = [module.name for module in pkgutil.iter_modules(ops.__path__)]
    width = max(map(len, names)) + 2
    lines += ["", "operator".ljust(width) + "".join(b.ljust(13) for b in _backend.BACKENDS)]
    reasons: dict[str, list[str]] = {}  # why not -> operators
    for op in names:
        row = op.ljust(width)
        for backend in _backend.BACKENDS.values():
            try:
                usable = _probe(backend, op)
            except Exception as error:  # whatever stops a module from loading is the answer
                usable = "no"
                reasons.setdefault(f"{backend.name}: {type(error).__name__}: {error}", []).append(
                    op
                )
            row += usable.ljust(13)
        lines.append(row)
    if reasons:
        lines.append("")
    for reason, which in reasons.items():
        lines.append(f"{'all' if which == names else ', '.join(which)}: {reason}")
    return "\n".join(line.rstrip() for line in lines)


DTYPES = ("float32", "bfloat16", "float16", "float64")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m moge_ops", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="versions, devices, and which operator runs on which backend")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=f"{text}.")
        made.add_argument("folder", help="with config.json, and weights in safetensors files")
        return made

    def options(to: argparse.ArgumentParser) -> None:
        devices = [*(f"cuda:{i}" for i in range(torch.cuda.device_count())), "cpu"]
        to.add_argument("--device", choices=devices, default=devices[0])
        to.add_argument("--dtype", choices=DTYPES, help="of the weights (default: the files')")

    to = command("generate", "the answer of a checkpoint folder's model, as it comes")
    to.add_argument("text", help="the question; - reads it from standard input")
    to.add_argument("--system", default="", help="what the system says before the question")
    to.add_argument("--raw", action="store_true", help="continue the text: no chat template")
    to.add_argument("--max-new-tokens", type=int, default=256, metavar="N")
    to.add_argument("--temperature", type=float, default=0.6, help="0 for the likeliest token")
    to.add_argument("--top-k", type=int, default=50, metavar="N", help="0 for all")
    to.add_argument("--top-p", type=float, default=0.95, metavar="P")
    to.add_argument("--seed", type=int, help="for the same answer again")
    options(to)

    to = command("inspect", "what a checkpoint folder holds, what fits into memory, its routers")
    what = to.add_mutually_exclusive_group()
    what.add_argument("--text", metavar="FILE", help="router statistics over this file")
    what.add_argument("--prompt", metavar="TEXT", help="router statistics over this text")
    to.add_argument("--max-tokens", type=int, default=2048, metavar="N", help="of the text")
    options(to)

    to = command("make-tiny", "a small random checkpoint folder with a tokenizer, to try all this")
    to.add_argument("--seed", type=int, default=0)
    to.add_argument("--dtype", choices=DTYPES, default="bfloat16")

    to = command("convert", "a checkpoint folder in another dtype or with files of another size")
    to.add_argument("out", help="folder to write, in the released layout")
    to.add_argument("--dtype", choices=DTYPES, help="of the weights (default: the files')")
    to.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="like 5GB or 500MiB")
    to.set_defaults(device="cpu")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Parses the command line and runs one command.

    What is wrong with a folder or an option is said in one line on standard error, exit code 2.
    """
    args = _parser().parse_args(argv)
    if args.command == "info":
        print(info())
        return
    try:
        from moge_ops import cli  # needs the extra "models", which `info` must not

        getattr(cli, args.command.replace("-", "_"))(args)
    except (ImportError, OSError, TypeError, ValueError) as error:
        reason = "; ".join(line.strip() for line in str(error).splitlines())
        print(f"{args.command}: {reason}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
