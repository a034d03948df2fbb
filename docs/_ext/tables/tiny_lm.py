"""A small model from a large one: where it starts and what it reaches, by what it inherits."""

from tables import Row, Table, machine, read

SOURCE = "tiny_lm.csv"


def _ways() -> dict[str, list[Row]]:
    """Way -> its rows, one for each seed."""
    found = dict[str, list[Row]]()
    for row in read(SOURCE):
        found.setdefault(row["way"], []).append(row)
    return found


def _mean(rows: list[Row], column: str) -> float:
    return sum(float(row[column]) for row in rows) / len(rows)


def losses() -> Table:
    """Held-out loss of the large model and of each way, with sizes."""
    lines = [
        [
            way,
            *(f"{int(rows[0][name]) / 1e6:.2f}" for name in ("parameters", "active")),
            *(f"{_mean(rows, name):.3f}" for name in ("start_loss", "loss")),
        ]
        for way, rows in _ways().items()
    ]
    head = ["way", "million parameters", "active", "at the start", "after training"]
    first, students = read(SOURCE)[0], len(_ways()["random parts"])
    about = f"Nats a byte, mean of {students} student{'s' * (students > 1)}."
    return Table("measured", SOURCE, f"{about} {machine(first)}", head, lines)


def steps() -> str:
    """Updates of each student."""
    return read(SOURCE)[0]["steps"]


def verdict() -> str:
    """Which ways reached the least loss, in words."""
    ways = {way: rows for way, rows in _ways().items() if way != "large model"}
    mean = {way: _mean(rows, "loss") for way, rows in ways.items()}
    names = ", ".join(f"{way} ({mean[way]:.3f})" for way in sorted(mean, key=mean.__getitem__))
    return f"From the least loss to the largest: {names}."
