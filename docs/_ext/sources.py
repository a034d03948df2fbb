"""A paper that a page or a docstring names, as arXiv:2505.21411, leads to it."""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

PAPER = re.compile(r"(arXiv:\d{4}\.\d{5})")


class Papers(SphinxPostTransform):
    """Links in running text; not in code, and not within another link."""

    default_priority = 900

    def run(self, **_: Any) -> None:
        """Sphinx calls this."""
        for text in list(self.document.findall(nodes.Text)):
            within = text.parent
            if isinstance(
                within, (nodes.reference, nodes.literal, nodes.literal_block, nodes.title)
            ):
                continue
            parts = PAPER.split(text)
            if len(parts) > 1:
                within.replace(text, [_part(part) for part in parts if part])


def _part(text: str) -> nodes.Node:
    if not PAPER.fullmatch(text):
        return nodes.Text(text)
    address = f"https://arxiv.org/abs/{text.removeprefix('arXiv:')}"
    return nodes.reference("", text, refuri=address, classes=["external"])


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.add_post_transform(Papers)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
