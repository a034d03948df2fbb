"""The command line, ``moge-ops`` or ``python -m moge_ops``: what runs here, and checkpoint folders.

Without the extra ``models`` only ``info`` runs; the other commands say what to install. There is a
file for each group of commands; ``_main`` runs one of them, and turns its faults into one line.
"""

from moge_ops.cli._folders import convert, make_tiny
from moge_ops.cli._generate import generate
from moge_ops.cli._info import info
from moge_ops.cli._inspect import inspect
from moge_ops.cli._main import main
from moge_ops.cli._plan import plan
from moge_ops.cli._profile import profile
from moge_ops.cli._tables import table

__all__ = [
    "convert",
    "generate",
    "info",
    "inspect",
    "main",
    "make_tiny",
    "plan",
    "profile",
    "table",
]
