"""Ctrl-C in a command, while torch is imported, which takes seconds, and while Python ends.

The package imports this file first. A program that imports moge_ops keeps its own handling.
"""

import os
import signal
import sys
import threading
from types import FrameType

INTERRUPTED = 130  # what a shell reports for a process that Ctrl-C ended


def leave(number: int, frame: FrameType | None) -> None:
    """Ends the process at once; an exception could be swallowed by the import that it meets."""
    os._exit(INTERRUPTED)


def is_command() -> bool:
    """Whether this process is ``moge-ops`` or ``python -m moge_ops``."""
    program = getattr(sys, "argv", [""])[0] if getattr(sys, "argv", None) else ""
    if program == "-m":  # Python looks for the module, and imports its package for that
        return "moge_ops" in sys.orig_argv or "-mmoge_ops" in sys.orig_argv
    return os.path.splitext(os.path.basename(program))[0] == "moge-ops"


def leave_quietly() -> None:
    """Ends a command at once on Ctrl-C, where nothing has to be cleaned up."""
    in_main = threading.current_thread() is threading.main_thread()
    # another handler, or none, is the choice of whoever started the process
    if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)


def raise_again() -> bool:
    """Undoes :func:`leave_quietly`, if it was called; returns whether it was."""
    quiet = signal.getsignal(signal.SIGINT) is leave
    if quiet:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return quiet


if is_command():
    leave_quietly()
