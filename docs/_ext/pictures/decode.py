"""Where the time of a decode step goes, from the rows of the modelled plans."""

from pictures import Svg
from tables.decode import DUO, SOURCES, chips, parts

LEFT, WIDE, HIGH = 190, 440, 24
PUBLISHED = 99.31  # ms, arXiv:2505.21411v2
PLANS = ("decode, EP4", "decode, TP2 EP4")


def draw() -> Svg:
    """A bar for each plan and chip, and the paper's."""
    bars = [(plan, chip) for plan in PLANS for chip in chips(plan) if chip != DUO]
    times = [parts(*bar) for bar in bars]
    most = max(PUBLISHED, *(sum(of.values()) for of in times))
    scale = WIDE / most
    svg = Svg(LEFT + WIDE + 70, 44 + (len(bars) + 1) * (HIGH + 10) + 8)
    for i, source in enumerate(SOURCES):
        svg.box(LEFT + 150 * i, 8, 18, 18, "", f"g{i}")
        svg.text(LEFT + 150 * i + 26, 17, source, size=12)
    y = 44
    for (plan, chip), of in zip(bars, times, strict=True):
        svg.text(8, y + HIGH / 2, f"{plan}, {chip}", size=12)
        x = float(LEFT)
        for i, source in enumerate(SOURCES):
            svg.box(x, y, of[source] * scale, HIGH, f"{of[source]:.0f}", f"g{i}")
            x += of[source] * scale
        svg.text(x + 8, y + HIGH / 2, f"{sum(of.values()):.0f} ms", size=12)
        y += HIGH + 10
    svg.text(8, y + HIGH / 2, "the paper, measured", size=12)
    svg.box(LEFT, y, PUBLISHED * scale, HIGH, "", "faint")
    svg.text(LEFT + PUBLISHED * scale + 8, y + HIGH / 2, f"{PUBLISHED:.0f} ms", size=12)
    return svg
