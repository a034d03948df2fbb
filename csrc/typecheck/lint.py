"""Pointers in the kernels that lack their address space.

The NPU's compiler wants `__gm__` on every pointer to global memory; for a compiler of the host the
word is empty, so neither the emulator nor the type check misses it. Kernels hold no other pointers
to data, which makes the rule short: a pointer says `__gm__`, or it points to a TPipe.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)
# words and template arguments before a `*`: a type, or what an operator's left side looks like
TYPE = re.compile(r"[A-Za-z_][\w:]*(?:<[^;(){}]*>)?(?:\s+[A-Za-z_][\w:]*(?:<[^;(){}]*>)?)*\s*$")
NOT_DATA = {"TPipe", "AscendC::TPipe", "auto"}


def pointers(text: str) -> Iterator[tuple[int, str]]:
    """Offset and words of each pointer type; the house's format has a product as `a * b`."""
    for match in re.finditer(r"\*+(?!=)", text):
        before, after = text[: match.start()], text[match.end() :]
        if before[-1:].isspace() and after[:1].isspace():
            continue
        words = TYPE.search(before)
        if words and words[0].split()[-1] != "return":
            yield match.start(), words[0].strip()


def findings(source: str) -> Iterator[tuple[int, str]]:
    """Line and pointer type of each pointer without its address space."""
    blanked = COMMENT_OR_STRING.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), source)
    for offset, words in pointers(blanked):
        if "__gm__" not in words.split() and not NOT_DATA & set(words.split()):
            yield source.count("\n", 0, offset) + 1, f"{words}*"


def main() -> int:
    """Lint all sources of kernels."""
    found = False
    for path in sorted((ROOT / "ascend_kernels").rglob("*.[ch]*")):
        for line, pointer in findings(path.read_text()):
            found = True
            sys.stdout.write(f"{path.relative_to(ROOT)}:{line}: no __gm__ in `{pointer}`\n")
    return found


if __name__ == "__main__":
    sys.exit(main())
