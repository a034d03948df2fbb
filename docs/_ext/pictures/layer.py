"""The operators of one layer, in order, from x to y."""

from pictures import Svg

WIDTH, HEIGHT = 150, 34


def draw() -> Svg:
    """Boxes for operators, arrows with what passes between them."""
    svg = Svg(690, 508)
    left, right = 64, 470

    def op(x: float, y: float, name: str, ink: str = "faint") -> None:
        svg.box(x, y, WIDTH, HEIGHT, name, ink)

    def down(x: float, y0: float, y1: float, text: str) -> None:
        svg.line((x + WIDTH / 2, y0), (x + WIDTH / 2, y1), arrow=True)
        svg.text(x + WIDTH / 2 + 8, (y0 + y1) / 2, text)

    # the choice, on the left
    middle = left + WIDTH / 2
    svg.text(middle, 12, "x [T, H]", "strong", "middle")
    down(left, 24, 58, "")
    op(left, 60, "router", "plain")
    down(left, 94, 138, "logits [T, E]")
    op(left, 140, "grouped_gate", "g0")
    down(left, 174, 218, "experts [T, K]")
    op(left, 220, "route", "g1")
    svg.line((middle, 116), (14, 116), (14, 366), (left - 2, 366), arrow=True)
    svg.line((middle, 196), (34, 196), (34, 352), (left - 2, 352), arrow=True)
    op(left, 342, "load_balance_loss", "g5")
    down(left, 376, 410, "")
    svg.text(middle, 424, "a scalar, in training", "plain", "middle")
    # the rows, on the right
    svg.box(right - 20, 40, WIDTH + 84, 414)
    svg.line((middle + 36, 12), (right + WIDTH / 2, 12), (right + WIDTH / 2, 64), arrow=True)
    op(right, 66, "permute", "g2")
    down(right, 100, 144, "rows [N, H]")
    op(right, 146, "grouped_gemm", "g3")
    down(right, 180, 224, "gate_up [N, 2F]")
    op(right, 226, "swiglu", "g4")
    down(right, 260, 304, "act [N, F]")
    op(right, 306, "grouped_gemm", "g3")
    down(right, 340, 394, "out [N, H]")
    op(right, 396, "unpermute", "g6")
    down(right, 430, 484, "")
    svg.text(right + WIDTH / 2, 496, "y [T, H]", "strong", "middle")
    svg.text(right + WIDTH / 2 - 10, 470, "framed: grouped_mlp", "strong", "end")
    # from one to the other
    bus = 340
    svg.line((left + WIDTH, 237), (bus, 237))
    for y in (83, 163, 323, 406):
        svg.line((bus, 237), (bus, y), (right - 2, y), arrow=True)
    svg.text(left + WIDTH + 8, 226, "routing")
    svg.line((left + WIDTH, 157), (316, 157), (316, 422), (right - 2, 422), arrow=True)
    svg.text(left + WIDTH + 8, 146, "weights [T, K]")
    return svg
