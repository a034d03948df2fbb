"""Pictures that are drawn while the site is built, as SVG that follows the theme's colours.

````
```{picture} permute.draw
What a reader who cannot see the picture is told.
```
````

calls ``draw()`` of ``pictures/permute.py``, which returns a `Svg`. The text is the picture's
alternative text and stands below it, too.
"""

import importlib
from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

# width of a narrow letter, in sizes of the font: `make docs-look` measures the real ones
NARROW = 0.4
HEAD = 'marker-end="url(#arrow)"'


class Svg:
    """A drawing in user units: 1 is a pixel at full size. Colours are classes of site.css.

    ``ink`` is ``plain``, ``faint``, ``strong``, or ``g0`` to ``g7``, a colour for each group.
    """

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.parts: list[str] = []
        self.texts: list[tuple[float, float, float, str]] = []  # left and right end, y, text

    def box(
        self, x: float, y: float, width: float, height: float, text: str = "", ink: str = "plain"
    ) -> None:
        """A cell with a short text in its middle."""
        place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        self.parts.append(f'<rect class="{ink}" {place} rx="3"/>')
        if text:
            self.text(x + width / 2, y + height / 2, text, f"on-{ink}", anchor="middle")

    def text(
        self,
        x: float,
        y: float,
        text: str,
        ink: str = "plain",
        anchor: str = "start",
        size: int = 13,
    ) -> None:
        """A line of text around y; ``anchor`` is start, middle or end."""
        least = NARROW * size * len(text)
        left = x - least * {"start": 0, "middle": 0.5, "end": 1}[anchor]
        self.texts.append((left, left + least, y, text))
        self.parts.append(
            f'<text class="{ink}" x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" '
            f'dominant-baseline="central">{escape(text)}</text>'
        )

    def line(self, *points: tuple[float, float], ink: str = "plain", arrow: bool = False) -> None:
        """A line through points, with an arrow at its end if asked for."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        end = f" {HEAD}" if arrow else ""
        self.parts.append(f'<polyline class="{ink}" points="{path}"{end}/>')

    def curve(
        self, start: tuple[float, float], end: tuple[float, float], ink: str = "plain"
    ) -> None:
        """An arrow from left to right that leaves and arrives level."""
        (x0, y0), (x1, y1) = start, end
        middle = (x0 + x1) / 2
        path = f"M{x0:g},{y0:g} C{middle:g},{y0:g} {middle:g},{y1:g} {x1:g},{y1:g}"
        self.parts.append(f'<path class="{ink}" d="{path}" {HEAD}/>')

    def html(self, told: str) -> str:
        """The element, with its alternative text."""
        for left, right, y, text in self.texts:
            if left < 0 or right > self.width or not 0 < y < self.height:
                raise ValueError(f"{text!r} leaves the picture, {self.width:g} x {self.height:g}")
        arrow = (
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto-start-reverse"><path d="M0,0 L8,4 L0,8 z"/></marker>'
            "</defs>"
        )
        # half of a border lies outside of its box
        frame = f"-1 -1 {self.width + 2:g} {self.height + 2:g}"
        view = f'viewBox="{frame}" style="max-width:{self.width + 2:g}px"'
        label = f'role="img" aria-label="{escape(told, quote=True)}"'
        return f'<svg class="picture" {view} {label}>{arrow}{"".join(self.parts)}</svg>'


class Picture(SphinxDirective):
    """A drawing with the text that tells what it shows."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Sphinx calls this."""
        self.assert_has_content()
        module, _, function = self.arguments[0].partition(".")
        svg: Svg = getattr(importlib.import_module(f"pictures.{module}"), function)()
        told = " ".join(self.content)
        # wide drawings scroll on a telephone, by keyboard too
        open_frame = '<div class="picture-frame" tabindex="0" role="group" aria-label="picture">'
        drawing = nodes.raw("", f"{open_frame}{svg.html(told)}</div>", format="html")
        caption = nodes.caption("", "", *self.parse_inline(told, lineno=self.lineno)[0])
        return [nodes.figure("", drawing, caption, classes=["drawing"])]


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.add_directive("picture", Picture)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
