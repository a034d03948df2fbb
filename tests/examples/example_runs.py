"""Runs a script of `examples/` within the process of a test."""

import runpy
import sys
from pathlib import Path
from typing import Any
from unittest import mock

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def called(script: str, *args: object, name: str = "__main__") -> dict[str, Any]:
    """The names of the script after it ran; ``name`` is what it finds as its own."""
    argv, path = [script, *map(str, args)], [str(EXAMPLES), *sys.path]
    with mock.patch.object(sys, "argv", argv), mock.patch.object(sys, "path", path):
        return runpy.run_path(str(EXAMPLES / script), run_name=name)


def exit_code(script: str, *args: object) -> int | str | None:
    try:
        called(script, *args)
    except SystemExit as stop:
        return stop.code
    return 0
