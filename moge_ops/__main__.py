"""Command line: ``python -m moge_ops info``."""

import argparse
import importlib
import pkgutil
import platform
from collections.abc import Iterator
from importlib import metadata

import torch

from moge_ops import _backend, ops, testing


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


def _devices() -> Iterator[tuple[str, str]]:
    yield "cpu", f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    for i in range(torch.cuda.device_count()):
        yield f"cuda:{i}", torch.cuda.get_device_name(i)


def _probe(backend: str, op: str) -> str:
    """Loads one module as a call of the operator would, and says what it runs on."""
    if backend == "reference":
        importlib.import_module(f"moge_ops.reference.{op}")
        return "any device"
    if backend == "triton" and not torch.cuda.is_available():
        with testing.backend("triton"):  # asks for the interpreter before the first kernel loads
            _backend.load(backend, op)
        return "interpreter"
    _backend.load(backend, op)
    return {"torch": "cpu", "triton": "cuda", "ascend": "npu"}[backend]


def info() -> str:
    """Versions, devices, and for each operator and backend whether it is usable, and why not."""
    lines = [f"{name:<9} {text}" for name, text in (*_versions(), *_devices())]

    names = [module.name for module in pkgutil.iter_modules(ops.__path__)]
    width = max(map(len, names)) + 2
    lines += ["", "operator".ljust(width) + "".join(b.ljust(13) for b in _backend.BACKENDS)]
    reasons: dict[str, list[str]] = {}  # why not -> operators
    for op in names:
        row = op.ljust(width)
        for backend in _backend.BACKENDS:
            try:
                usable = _probe(backend, op)
            except Exception as error:  # whatever stops a module from loading is the answer
                usable = "no"
                reasons.setdefault(f"{backend}: {type(error).__name__}: {error}", []).append(op)
            row += usable.ljust(13)
        lines.append(row)
    if reasons:
        lines.append("")
    for reason, which in reasons.items():
        lines.append(f"{'all' if which == names else ', '.join(which)}: {reason}")
    return "\n".join(line.rstrip() for line in lines)


def main(argv: list[str] | None = None) -> None:
    """Parses the command line and runs one command."""
    parser = argparse.ArgumentParser(prog="python -m moge_ops", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="versions, devices, and which operator runs on which backend")
    parser.parse_args(argv)
    print(info())


if __name__ == "__main__":
    main()
