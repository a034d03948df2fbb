"""What crosses between the ranks of expert parallelism."""

from pictures import Svg
from pictures._parts import routed

RANKS, T, E = 2, 3, 8  # T tokens of each rank
G, P = 4, 2


def rows() -> Svg:
    """Tokens of both ranks, gathered everywhere; each rank's rows; the sums, scattered back."""
    _, routing, owners = routed(RANKS * T, E, G, seed=2)
    tokens = (routing.row_to_slot // G).tolist()
    share, step = len(tokens) // RANKS, 19  # rows of a rank
    svg = Svg(700, 44 + RANKS * (share * step + 34))
    for x, title in ((0, "own tokens"), (150, "gathered"), (300, "rows of own groups")):
        svg.text(x, 12, title, "strong")
    svg.text(545, 12, "sums of own tokens", "strong")
    for rank in range(RANKS):
        top = 58 + rank * (share * step + 34)
        svg.text(0, top - 18, f"rank {rank}: groups {2 * rank} and {2 * rank + 1}", size=12)
        middle = top + share * step / 2
        own = middle - T * step / 2
        every = middle - RANKS * T * step / 2
        for t in range(T):
            name = f"token {rank * T + t}"
            svg.box(0, own + t * step, 84, step - 3, name, "faint")
            svg.box(545, own + t * step, 84, step - 3, name, "faint")
        svg.line((88, middle), (146, middle), arrow=True)
        for t in range(RANKS * T):
            svg.box(150, every + t * step, 84, step - 3, f"token {t}", "faint")
        svg.line((238, middle), (296, middle), arrow=True)
        for i in range(share):
            n = rank * share + i
            name = f"token {tokens[n]}, expert {owners[n]}"
            svg.box(300, top + i * step, 160, step - 3, name, f"g{owners[n] // P}")
        svg.line((464, middle), (541, middle), arrow=True)
    return svg
