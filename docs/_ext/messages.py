"""The index of messages on the page of errors.

````
```{messages} operators
```
````

lists those of one of `SUBJECTS` in message_texts, which reads them from the sources.
"""

import itertools
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from message_texts import HOLE, SUBJECTS, merged, sources

MOST_AGAIN = 4  # texts of a hole that are listed more than once


def _marked(text: str) -> list[nodes.Node]:
    """A text with its holes in italics."""
    made: list[nodes.Node] = []
    for i, part in enumerate(HOLE.split(text)):
        if not part and made:
            part = " "  # between two holes
        if part:
            made.append(nodes.emphasis("", part) if i % 2 else nodes.Text(part))
    return made


class Messages(SphinxDirective):
    """The messages of a subject."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Sphinx calls this."""
        told_before = set[tuple[str, ...]]()
        for path in itertools.chain(*sources()):
            self.env.note_dependency(str(path))
        listed = nodes.bullet_list(classes=["messages"])
        for message, places in merged(self.arguments[0]):
            told = nodes.paragraph("", "", nodes.literal("", "", *_marked(message.text)))
            item = nodes.list_item("", told)
            for name, texts in message.values.items():
                line = nodes.paragraph("", "", nodes.emphasis("", name), classes=["values"])
                if len(texts) > MOST_AGAIN and tuple(texts) in told_before:
                    line += nodes.Text(": as in the list above")
                else:
                    told_before.add(tuple(texts))
                    for i, text in enumerate(texts):
                        line += nodes.Text(", or " if i else ": ")
                        line += nodes.literal("", "", *_marked(text))
                item += line
            item += nodes.paragraph("", f"{message.kind} · {', '.join(places)}", classes=["where"])
            listed += item
        if not len(listed):
            raise self.error(f"expected one of {', '.join(SUBJECTS)}, got {self.arguments[0]}")
        return [listed]


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.add_directive("messages", Messages)
    app.add_css_file("messages.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
