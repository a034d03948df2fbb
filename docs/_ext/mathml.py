"""Formulas as MathML, which browsers draw themselves: no script, and no font from elsewhere."""

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.logging import getLogger

LOGGER = getLogger(__name__)


def _drawn(node: nodes.Element, display: str) -> str:
    formula = node.astext()
    drawn: str = convert(formula, display=display)
    braces = re.sub(r"\\[{}]", "", formula)
    # the converter shows a command that it does not know, and closes what is open
    if "\\" in drawn or braces.count("{") != braces.count("}"):
        LOGGER.warning("a formula that is not understood: %s", formula, location=node)
    return drawn


def _inline(self: Any, node: nodes.math) -> None:
    self.body.append(_drawn(node, "inline"))
    raise nodes.SkipNode


def _block(self: Any, node: nodes.math_block) -> None:
    # a formula that is wider than a telephone scrolls, by keyboard too
    self.body.append('<div class="math-block" tabindex="0" role="group" aria-label="formula">')
    self.body.append(_drawn(node, "block"))
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
