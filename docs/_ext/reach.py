"""What a keyboard, a screen reader or a small screen would miss.

What scrolls has a name and can have focus, and a picture leads to itself at full size.
"""

import re
from html import unescape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

CODE = re.compile(r"(<div class=\"highlight\"><pre)>(.*?)</pre>", re.DOTALL)
# the arguments of a long signature: a list of definitions without terms, within a term
ARGUMENTS = re.compile(r"<dl>\s*(<dd>.*?</dd>)\s*</dl>", re.DOTALL)
IMAGE = re.compile(r'<img [^>]*src="([^"]*\.png)"[^>]*>')
TABLE = '<div class="table-wrapper'
# what fits into a telephone, in letters, does not scroll
NARROW = 40


def _code(match: re.Match[str]) -> str:
    text = unescape(re.sub("<[^>]*>", "", match[2]))
    if max(map(len, text.splitlines()), default=0) <= NARROW:
        return match[0]
    return f'{match[1]} tabindex="0" role="group" aria-label="code">{match[2]}</pre>'


def _arguments(match: re.Match[str]) -> str:
    lines = match[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
    return f"<span>{lines}</span>"


def reached(body: str) -> str:
    """The page with its tables, blocks of code and pictures in the order of the Tab key."""
    body = IMAGE.sub(r'<a class="larger" href="\1">\g<0></a>', body)
    body = body.replace(TABLE, f'<div tabindex="0" role="group" aria-label="table" {TABLE[5:]}')
    return CODE.sub(_code, ARGUMENTS.sub(_arguments, body))


def _page(
    app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    if "body" in context:
        context["body"] = reached(context["body"])


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("html-page-context", _page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
