"""Smaller experts: what is lost by four ways to an eighth of their weights."""

from tables import Row, Table, machine, read

SOURCE = "slim_moe.csv"


def _ways() -> dict[str, list[Row]]:
    """Way -> its rows, one for each seed."""
    found = dict[str, list[Row]]()
    for row in read(SOURCE):
        found.setdefault(row["way"], []).append(row)
    return found


def _mean(rows: list[Row], column: str) -> float:
    return sum(float(row[column]) for row in rows) / len(rows)


def losses() -> Table:
    """Held-out loss of the teacher and of each way, with sizes."""
    lines = [
        [
            *(way, rows[0]["experts"], rows[0]["width"]),
            *(f"{int(rows[0][name]) / 1e6:.2f}" for name in ("parameters", "active")),
            *(f"{_mean(rows, name):.3f}" for name in ("cut_loss", "loss")),
        ]
        for way, rows in _ways().items()
    ]
    head = ["way", "experts", "width", "million parameters", "active", "after surgery", "distilled"]
    first, students = read(SOURCE)[0], len(_ways()["one-shot"])
    about = f"Nats a byte, mean of {students} student{'s' * (students > 1)}."
    return Table("measured", SOURCE, f"{about} {machine(first)}", head, lines)


def steps() -> str:
    """Updates of each student."""
    return read(SOURCE)[0]["steps"]


def verdict() -> str:
    """Which ways lost least, in words."""
    ways = _ways()
    mean = {way: _mean(rows, "loss") for way, rows in ways.items() if way != "teacher"}
    order = sorted(mean, key=mean.__getitem__)
    names = ", ".join(f"{way} ({mean[way]:.3f})" for way in order)
    won = mean["multi-stage"] < mean["one-shot"]
    staged = "better" if won else "no better"
    return f"From the least loss to the largest: {names}. Two stages are {staged} than one here."
