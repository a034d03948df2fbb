"""Tables that are drawn from committed rows while the site is built.

````
```{rows} cpu.forward avx2
What the reader sees above the table.
```
````

calls ``forward("avx2")`` of ``tables/cpu.py``, which returns a `Table`. A number within a sentence
comes the same way: ``{row}`cpu.times vllm avx2 16` `` is what ``times("vllm", "avx2", "16")``
returns.
"""

import csv
import importlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "bench" / "results"
# how a number came about -> what the reader is told
KINDS = {
    "measured": "timed on the machine that is named",
    "counted": "counted by running the code, without timing it",
    "modelled": "computed by a model from documented rates; nothing was timed",
    "emulated": "counted by the emulator of Ascend C; on no NPU",
    "static": "read from compiled code; nothing was run",
    "source": "read from this project's own code",
    "published": "as its source says; not measured here",
}
Row = dict[str, str]


class Table(NamedTuple):
    """What a function of this package returns: cells are Markdown."""

    kind: str
    """One of `KINDS`."""
    source: str
    """File in bench/results."""
    about: str
    """Machine, versions and date, from the rows."""
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def read(source: str) -> list[Row]:
    """The rows of a file in bench/results."""
    with (RESULTS / source).open(newline="") as file:
        return list(csv.DictReader(file))


def by(source: str, column: str) -> dict[str, list[Row]]:
    """Each value of a column -> the rows that have it."""
    found = dict[str, list[Row]]()
    for row in read(source):
        found.setdefault(row[column], []).append(row)
    return found


def mean(rows: Sequence[Row], column: str) -> float:
    """Of the numbers in a column."""
    return sum(float(row[column]) for row in rows) / len(rows)


def span(numbers: Iterable[float], digits: int = 1) -> str:
    """``0.9 to 1.2``, or one number where both ends are the same as printed."""
    ends = sorted(numbers)
    least, most = (f"{end:,.{digits}f}" for end in (ends[0], ends[-1]))
    return least if least == most else f"{least} to {most}"


def machine(row: Row, *more: str) -> str:
    """Where and when a row was measured; ``more`` is what else a reader wants to know of it."""
    threads = row.get("threads") or row["cores"]
    threads += f" thread{'s' * (threads != '1')}"
    parts = (row["machine"], threads, f"torch {row['torch']}", *more, row["date"][:10])
    return f"{', '.join(parts)}."


def badge(kind: str) -> nodes.inline:
    """The word for how numbers came about, in its colour."""
    return nodes.inline("", kind, classes=["badge", kind])


def _called(text: str) -> Any:
    """What ``file.function`` returns for the words after it."""
    name, *words = text.split()
    module, _, function = name.partition(".")
    return getattr(importlib.import_module(f"tables.{module}"), function)(*words)


def drawn(name: str) -> Table:
    """The table of ``file.function`` and its arguments."""
    table: Table = _called(name)
    if table.kind not in KINDS:
        raise ValueError(f"{name}: kind must be one of {', '.join(KINDS)}, got {table.kind}")
    if not table.rows or any(len(row) != len(table.head) for row in table.rows):
        raise ValueError(f"{name}: expected rows of {len(table.head)} cells, got {table.rows}")
    return table


def _alignment(cells: Sequence[str]) -> str:
    """Numbers to the right, so that their digits stand below each other."""
    return "---:" if all(re.match(r"[-+\u2212]?\d|[\u2013-]?$", cell) for cell in cells) else "---"


class Rows(SphinxDirective):
    """Caption, kind, source and rows of a table."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Sphinx calls this."""
        try:
            table = drawn(self.arguments[0])
        except Exception as error:  # whose message names the page and the line, here
            raise self.error(f"{self.arguments[0]}: {type(error).__name__}: {error}") from error
        self.env.note_dependency(str(RESULTS / table.source))
        about = nodes.paragraph("", "", badge(table.kind), nodes.Text(" "), classes=["about"])
        file = os.path.relpath(
            RESULTS / table.source, Path(self.env.doc2path(self.env.docname)).parent
        )
        (text,) = self.parse_text_to_nodes(f"{table.about} [{Path(table.source).name}]({file})")
        about += text.children
        lines = [table.head, map(_alignment, zip(*table.rows, strict=True)), *table.rows]
        body = self.parse_text_to_nodes("\n".join(f"| {' | '.join(line)} |" for line in lines))
        frame = nodes.container("", *self.parse_content_to_nodes(), about, *body, classes=["rows"])
        return [frame]


def value(text: str) -> str:
    """What a role says: ``file.function`` and its arguments, divided by spaces."""
    found = _called(text)
    if not isinstance(found, str) or not any(map(str.isdigit, found)):
        raise ValueError(f"{text}: expected a text with a number, got {found!r}")
    return found


class Value(SphinxRole):
    """A number of a committed row, within a sentence."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Sphinx calls this."""
        return [nodes.inline("", value(self.text), classes=["row"])], []


class Kinds(SphinxDirective):
    """The legend: each kind with what it means."""

    def run(self) -> list[nodes.Node]:
        """Sphinx calls this."""
        items: Iterator[nodes.Node] = (
            nodes.list_item("", nodes.paragraph("", "", badge(kind), nodes.Text(f" {meaning}.")))
            for kind, meaning in KINDS.items()
        )
        return [nodes.bullet_list("", *items, classes=["kinds"])]


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.add_directive("rows", Rows)
    app.add_directive("kinds", Kinds)
    app.add_role("row", Value())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
