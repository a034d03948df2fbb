"""Rows that tokens send to other devices, when experts and tokens are placed by statistics."""

from tables import Row, Table, machine, read

SOURCE = "speculative_moe.csv"


def _rows(model: str, devices: str, router: str) -> dict[str, Row]:
    key = model, devices, router
    return {
        row["way"]: row
        for row in read(SOURCE)
        if (row["model"], row["devices"], row["router"]) == key
    }


def sent(way: str, devices: str) -> str:
    """Other devices that a token sends its row to, in a layer of the trained MoGE model."""
    found = _rows("MoGE", devices, "trained, layer 1")[way.replace("_", " ")]
    return f"{float(found['rows_sent']):.2f}"


def placed() -> Table:
    """Rows and the fullest device's load, by router."""
    rows = read(SOURCE)
    ways = list(dict.fromkeys(row["way"] for row in rows))
    lines = []
    for key in dict.fromkeys((row["model"], row["devices"], row["router"]) for row in rows):
        found = _rows(*key)
        cells = (
            f"{float(found[w]['rows_sent']):.2f}, {float(found[w]['max_over_mean']):.2f}"
            for w in ways
        )
        model, devices, router = key
        lines.append([f"{model}, {devices} devices, {router}", *cells])
    first = rows[0]
    about = (
        f"{first['E']} experts, {first['K']} a token, {first['tokens']} tokens; {machine(first)}"
    )
    return Table("counted", SOURCE, about, ["router", *ways], lines)
