"""The entry point: one command, and what its faults become."""

import argparse
import io
import os
import sys
import traceback

import torch

from moge_ops import _interrupt
from moge_ops.cli import _models as models
from moge_ops.cli._info import info
from moge_ops.cli._parser import parser
from moge_ops.cli._text import line, shown

PIPE_CLOSED = 141  # what a shell reports for a process that its reader left


def main(argv: list[str] | None = None) -> None:
    """Parses the command line and runs one command.

    A fault of a folder, of an option or of the machine becomes one line on standard error and exit
    code 2; ``--debug`` shows where it was found. Ctrl-C is exit code 130, a closed pipe 141.
    """
    quiet = False
    _print_anything()
    try:
        quiet = _interrupt.raise_again()
        try:
            args = parser().parse_args(argv)
            _run(args)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, so that what it raises is not raised at the very end
    except BrokenPipeError:
        _drop_output()
        sys.exit(PIPE_CLOSED)
    except OSError as error:  # of the flush
        _drop_output()
        print(f"moge-ops: standard output: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(_interrupt.INTERRUPTED)
    finally:
        if quiet:
            _interrupt.leave_quietly()


def _run(args: argparse.Namespace) -> None:
    try:
        if args.command == "info":
            print(info())
            return
        missing = models.missing
        if missing is not None:
            raise missing
        args.run(args)
    except BrokenPipeError:
        raise
    except (ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
        # torch has no class of its own for memory of the CPU; other RuntimeErrors are defects
        memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
            isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
        )
        if isinstance(error, RuntimeError) and not memory:
            raise
        if args.debug:
            print(shown(traceback.format_exc()), end="", file=sys.stderr)
        reason = str(error)
        if memory:
            reason = "not enough memory" + (f": {reason}" if reason else "")
        print(f"{args.command}: {line(reason)}", file=sys.stderr)
        sys.exit(2)


def _print_anything() -> None:
    """Escapes characters that the encoding of standard output or error does not have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Lets Python's last flush of standard output succeed, which would be a traceback."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
