"""Pangu Pro MoE on a CPU, with our experts and with Hugging Face's eager ones."""

from tables import Row, Table, machine, read, span

SOURCE = "model.csv"
OURS, EAGER = "moge_ops", "hf eager"


def _pairs() -> dict[tuple[str, str], dict[str, Row]]:
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in read(SOURCE):
        shape = row["op"].removeprefix("pangu_moe ")
        found.setdefault((shape, row["direction"]), {})[row["variant"]] = row
    return found


def speed() -> Table:
    """Milliseconds of a step, both ways."""
    lines = []
    for (shape, direction), ways in _pairs().items():
        ours, eager = (float(ways[way]["median_ms"]) for way in (OURS, EAGER))
        row = ways[OURS]
        sizes = f"{shape}: H {row['H']}, E {row['E']}, G {row['G']}, F {row['F']}"
        cells = [f"{ours:.0f}", f"{eager:.0f}", f"{eager / ours:.1f}"]
        lines.append([sizes, direction, *cells])
    row = read(SOURCE)[0]
    about = machine(row, f"transformers {row['transformers']}", row["dtype"])
    head = ["model", "step", "moge_ops, ms", "eager experts, ms", "times as fast"]
    return Table("measured", SOURCE, about, head, lines)


def times() -> str:
    """Least and largest factor over all steps."""
    return span(
        float(ways[EAGER]["median_ms"]) / float(ways[OURS]["median_ms"])
        for ways in _pairs().values()
    )
