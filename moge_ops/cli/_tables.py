"""Tables on standard output."""

import io
import sys
from collections.abc import Sequence


def table(title: str, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table, with rich if that is installed; all columns but the first are numbers."""
    cells = [[str(cell) for cell in row] for row in rows]
    try:
        from rich import box
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table
    except ImportError:
        lines = [list(headings), *cells]
        widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
        print(f"\n{title}")
        for first, *numbers in lines:
            padded = [cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)]
            print("  ".join([first.ljust(widths[0]), *padded]))
        return
    # Python has no standard output where the shell closed it
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    lines_of = box.HEAVY_HEAD if encoding.lower().startswith("utf") else box.ASCII
    made = Table(title=escape(title), title_justify="left", box=lines_of)
    for i, heading in enumerate(headings):
        made.add_column(heading, justify="right" if i else "left")
    for row in cells:
        made.add_row(*row)
    terminal, shown = sys.stdout is not None and sys.stdout.isatty(), io.StringIO()
    # not to standard output itself: rich would end the process if that is a closed pipe
    width = None if terminal else 120
    Console(file=shown, force_terminal=terminal, width=width, highlight=False).print(made)
    print(shown.getvalue(), end="")
