"""Runs the code blocks of one page, in their order, in a new folder: `page_worker.py PAGE`.

- A block of Python runs in the page's one namespace. If its first line is a comment with the name
  of a file, as ``# layer.py``, it is written to that file instead, for a later command.
- A block of shell runs under ``bash -euo pipefail``. Nothing is asked of Hugging Face's hub.
- A block marked ``output`` is what the block before it prints; ``...`` stands for anything.
- A block after the line ``*Not run: reason.*``, or ``*Run by `file of a test`.*``, is not run here.
  Text and drawings are no code; directives are none either, but for what is fenced within them.
"""

import contextlib
import doctest
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

# an unclosed one takes the rest of the page, as it does for a reader
FENCE = re.compile(
    r"^([ >]*)(`{3,}|~{3,})([^\n`]*)\n(.*?)(?:^\1\2 *$|\Z)", re.DOTALL | re.MULTILINE
)
# directives that would show code without running it
UNRUN = re.compile(r"\{(?:code|sourcecode|doctest)")
NOT_RUN = re.compile(r"^ *\*(Not run: \S.*|Run by `[^`]+`)\.\*\n\s*\Z", re.MULTILINE)
# no code: text and drawings, and what the site's builder draws
SHOWN = {"text", "output", "math"}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """A fenced block of a page."""

    line: int
    language: str
    code: str
    reason: str
    """Why it is not run, or ""."""


def blocks(text: str, first: int = 1) -> list[Block]:
    """All fenced blocks of a text that begins at a line of its page, those of directives too."""
    found = []
    for match in FENCE.finditer(text):
        language = match[3].strip()
        line = text.count("\n", 0, match.start()) + first
        if language.startswith("{") and not UNRUN.match(language):
            found += blocks(match[4], line + 1)
            continue
        before = NOT_RUN.search(text[: match.start()])
        found.append(Block(line, language, match[4], before[1] if before else ""))
    return found


def shell(code: str) -> str:
    """What a script prints."""
    # the commands of this environment, and no other's torch
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # torchrun takes a free port, so that pages can run beside each other
    env = os.environ | {"PATH": path, "OMP_NUM_THREADS": "2", "PET_STANDALONE": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def python(code: str, namespace: dict[str, Any]) -> str:
    """What a block prints, or "" where it is a file for a later one."""
    if name := re.match(r"# (\w+\.py)\n", code):
        Path(name[1]).write_text(code)
        return ""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "<page>", "exec"), namespace)
    return printed.getvalue()


def run(page: Path) -> dict[str, int]:
    """Runs a page in the current folder; how many blocks ran, with how many outputs compared."""
    counts = {"run": 0, "outputs": 0, "not run": 0, "shown": 0}
    namespace: dict[str, Any] = {"__name__": "__page__"}
    printed: str | None = None
    for block in blocks(page.read_text()):
        where = f"{page}:{block.line}"
        if block.language == "output":
            if printed is None:
                raise ValueError(f"{where}: expected a block that ran before this output, got none")
            if not doctest.OutputChecker().check_output(block.code, printed, FLAGS):
                raise ValueError(f"{where}: expected\n{block.code}\ngot\n{printed}")
            counts["outputs"] += 1
            continue
        printed = None
        if block.reason:
            counts["not run"] += 1
        elif block.language in SHOWN:
            counts["shown"] += 1
        elif block.language in ("python", "bash"):
            try:
                bash = block.language == "bash"
                printed = shell(block.code) if bash else python(block.code, namespace)
            except Exception as error:
                raise RuntimeError(f"{where}: {type(error).__name__}: {error}") from error
            counts["run"] += 1
        else:
            raise ValueError(
                f"{where}: a block of {block.language or 'no language'} cannot be run: say why in "
                "a line `*Not run: reason.*` above it, or mark it `text`"
            )
    return counts


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["MOGE_OPS"] = str(Path(__file__).resolve().parents[2])  # a reader's clone
        print(json.dumps(run(target)))
