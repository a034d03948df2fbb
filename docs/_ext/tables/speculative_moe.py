"""Rows that tokens send to other devices, when experts and tokens are placed by statistics."""

from tables import Row, Table, machine, read

SOURCE = "speculative_moe.csv"


def _rows(model: str, router: str) -> dict[str, Row]:
    return {
        row["way"]: row for row in read(SOURCE) if (row["model"], row["router"]) == (model, router)
    }


def sent(way: str, router: str = "trained, layer 1", model: str = "plain top-k") -> str:
    """Other devices that a token sends its row to."""
    return f"{float(_rows(model, router)[way.replace('_', ' ')]['rows_sent']):.2f}"


def placed() -> Table:
    """Rows and the fullest device's load, by router."""
    rows = read(SOURCE)
    ways = list(dict.fromkeys(row["way"] for row in rows))
    lines = []
    for model, router in dict.fromkeys((row["model"], row["router"]) for row in rows):
        found = _rows(model, router)
        cells = (
            f"{float(found[w]['rows_sent']):.2f}, {float(found[w]['max_over_mean']):.2f}"
            for w in ways
        )
        lines.append([f"{model}, {router}", *cells])
    first = rows[0]
    about = f"{first['E']} experts, {first['K']} a token, {first['devices']} devices, "
    about += f"{first['tokens']} tokens; {machine(first)}"
    return Table("counted", SOURCE, about, ["router", *ways], lines)
