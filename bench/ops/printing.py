"""How scripts show progress and tables."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # not in the engines' environments
    from rich.console import Console
    from rich.table import Table


def mean(rows: Sequence[Mapping[str, Any]], column: str, **where: object) -> float:
    """The mean of a column over the rows that have these values."""
    found = [float(row[column]) for row in rows if where.items() <= row.items()]
    return sum(found) / len(found)


def console(width: int = 120) -> "Console":
    """Prints as wide as the terminal, or ``width`` where there is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else width)


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Shows a bar of progress, and yields the function that advances it."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield partial(progress.advance, task)


def table_of(title: str, left: Iterable[str], right: Iterable[str], **more: str) -> "Table":
    """An empty table: columns of text, then columns of numbers."""
    from rich.table import Table

    found = Table(*left, title=title, **more)
    for heading in right:
        found.add_column(heading, justify="right")
    return found


def table_of_means(
    title: str, rows: Sequence[Mapping[str, Any]], key: str, formats: Mapping[str, str]
) -> "Table":
    """A line for each value of ``key``, a column for each that has a format."""
    found = table_of(title, [key], (name.replace("_", " ") for name in formats))
    for value in dict.fromkeys(row[key] for row in rows):
        means = (format(mean(rows, name, **{key: value}), form) for name, form in formats.items())
        found.add_row(value, *means)
    return found


def pivot(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    across: str,
    value: Callable[[Any], str],
) -> "Table":
    """A line for each combination of ``keys``, a column for each value of ``across``."""
    columns = dict.fromkeys(row[across] for row in rows)
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        lines.setdefault(tuple(str(row[key]) for key in keys), {})[row[across]] = value(row)
    found = table_of(title, keys, columns)
    for line, cells in lines.items():
        found.add_row(*line, *(cells.get(name, "") for name in columns))
    return found
