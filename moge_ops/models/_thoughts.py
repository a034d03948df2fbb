"""A chain of thought, cut into thoughts while its text comes in."""

import re
from collections.abc import Sequence

MARKERS = ("Wait", "Alternatively", "But", "Hmm")
# A sentence ends, with quotes or brackets closed after it, and a space or a new line follows;
# Chinese and Japanese put no space there. At most `BACK` characters stand before the spaces.
START = re.compile(r"(?:\n|[.!?…][\"'”’)\]*]{0,4}\s|[。！？…][」』”’）*]{0,4})\s*")  # noqa: RUF001
BACK = 6


class Thoughts:
    """Cuts text at markers of reflection, however the text is split on its way.

    A thought ends before a marker that begins a sentence or a paragraph. A marker is a whole word:
    ``Butter`` does not begin with ``But``. A marker in a script without spaces, such as ``等等``,
    may touch the next character.

    Args:
        markers: Words that begin a new thought.
        least: Characters of a thought, at least, spaces around it not counted; a shorter one is
            merged with the next.
        end: Text that ends the thinking. What follows is not read.

    Attributes:
        count: Thoughts that have been returned.
        ended: Whether the thinking has ended.

    Raises:
        ValueError: There is no marker, a marker or ``end`` is empty, or ``least`` is below 1.
    """

    def __init__(
        self, markers: Sequence[str] = MARKERS, *, least: int = 100, end: str = "</think>"
    ) -> None:
        if isinstance(markers, str) or not markers or not all(markers):
            raise ValueError(f"markers must be words, got {markers!r:.200}")
        if least < 1:
            raise ValueError(f"least must be at least 1, got {least}")
        if not end:
            raise ValueError("end must not be empty")
        # the longest first, so that one that begins with another is found
        self._markers = sorted(markers, key=len, reverse=True)
        self._least, self._end = least, end
        self._text, self._from = "", 0  # the present thought; what may still begin a marker
        self.count, self.ended = 0, False

    @property
    def open(self) -> str:
        """The thought that has not ended yet."""
        return self._text

    def add(self, text: str) -> list[str]:
        """The thoughts that this text completes."""
        if self.ended:
            return []
        known = max(0, len(self._text) - len(self._end) + 1)
        self._text += text
        stop = self._text.find(self._end, known)
        found = self._cut(len(self._text) if stop < 0 else stop)
        return found if stop < 0 else found + self.finish(self._text.find(self._end))

    def restart(self) -> None:
        """Drops the open thought; the next text begins a paragraph."""
        self._text, self._from = "", 0

    def finish(self, stop: int | None = None) -> list[str]:
        """Ends the thinking; the open thought, up to ``stop``, is the last."""
        last, self.ended = self._text[:stop].strip(), True
        self.restart()
        self.count += bool(last)
        return [last] if last else []

    def _cut(self, stop: int) -> list[str]:
        """Thoughts that end before markers in front of the position ``stop``."""
        found: list[str] = []
        while start := START.search(self._text, self._from):
            at = start.end()
            if at >= stop and stop < len(self._text):  # it belongs to the end
                break
            marker = self._marker(at)
            if marker is None:  # more text will tell
                self._from = start.start()
                return found
            self._from = at + len(marker)
            if marker and len(thought := self._text[:at].strip()) >= self._least:
                found.append(thought)
                self._text, self._from, stop = self._text[at:], len(marker), stop - at
        self._from = max(self._from, len(self._text) - BACK)
        self.count += len(found)
        return found

    def _marker(self, at: int) -> str | None:
        """The marker that stands there, or an empty text; None while that is open."""
        rest = self._text[at : at + len(self._markers[0]) + 1]
        for marker in self._markers:
            if not rest.startswith(marker):
                if marker.startswith(rest):
                    return None
            elif not (marker[-1].isascii() and marker[-1].isalnum()):
                return marker
            elif len(rest) == len(marker):
                return None
            elif not (rest[len(marker)].isalnum() or rest[len(marker)] == "_"):
                return marker
        return ""
