"""Rows of a token on the links of a plain top-k layer, flat and by node."""

from tables import Row, Table, read

SOURCE = "pangu_ultra.csv"
CHIPS = {"H100 SXM": "modelled_us_H100_SXM", "Ascend 910B2": "modelled_us_Ascend_910B2"}
ABOUT = "H 7680, bfloat16, 8 experts a token, by `examples/pangu_ultra.py` with fixed seeds."


def _row(router: str, nodes: str, way: str) -> Row:
    return next(
        r for r in read(SOURCE) if (r["router"], r["nodes"], r["way"]) == (router, nodes, way)
    )


def far(way: str, nodes: str) -> str:
    """Rows of a token that cross between nodes, with a uniform router."""
    return f"{float(_row('uniform', nodes, way.replace('_', ' '))['rows_far']):.2f}"


def links() -> Table:
    """Rows on each kind of link, and what they cost by the rates of two systems."""
    lines = []
    for router in ("uniform", "trained, layer 2"):
        for nodes in dict.fromkeys(r["nodes"] for r in read(SOURCE)):
            for way in ("flat", "by node", "gathered"):
                r = _row(router, nodes, way)
                counts = (f"{float(r[name]):.2f}" for name in ("rows_near", "rows_far"))
                times = (f"{float(r[name]):.2f}" for name in CHIPS.values())
                place = f"{router}, {nodes} nodes of {r['devices']}"
                lines.append([place, way, *counts, *times])
    head = ["router, devices", "way", "rows inside", "rows between", *(f"{c}, µs" for c in CHIPS)]
    return Table("modelled", SOURCE, ABOUT, head, lines)
