"""A message, and the holes in its text."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# around the name of a hole in a text
OPEN, CLOSE = "\N{LEFT-POINTING ANGLE BRACKET}", "\N{RIGHT-POINTING ANGLE BRACKET}"
HOLE = re.compile(f"{OPEN}([^{CLOSE}]*){CLOSE}")
SOME = "\N{HORIZONTAL ELLIPSIS}"


class Message(NamedTuple):
    """One text."""

    text: str
    """Holes are names between `OPEN` and `CLOSE`."""
    kind: str
    """The class of the error, or where the text is shown."""
    file: str
    line: int
    values: Mapping[str, Sequence[str]] = {}
    """Names of holes -> texts that the sources put there."""


class Unread(NamedTuple):
    """A place that shows a text which is not understood here."""

    file: str
    line: int
    why: str


def words(text: str) -> list[str]:
    """The words of a text, without its holes."""
    return re.findall(r"[^\W\d]\w+", HOLE.sub(" ", text))


def hole(name: str) -> str:
    """A hole in a text."""
    return f"{OPEN}{name}{CLOSE}"
