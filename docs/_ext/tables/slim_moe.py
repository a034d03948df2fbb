"""Smaller experts: what is lost by four ways to an eighth of their weights."""

from tables import Table, by, machine, mean, read

SOURCE = "slim_moe.csv"


def losses() -> Table:
    """Held-out loss of the teacher and of each way, with sizes."""
    lines = [
        [
            *(way, rows[0]["experts"], rows[0]["width"]),
            *(f"{int(rows[0][name]) / 1e6:.2f}" for name in ("parameters", "active")),
            *(f"{mean(rows, name):.3f}" for name in ("cut_loss", "loss")),
        ]
        for way, rows in by(SOURCE, "way").items()
    ]
    head = ["way", "experts", "width", "million parameters", "active", "after surgery", "distilled"]
    first, students = read(SOURCE)[0], len(by(SOURCE, "way")["one-shot"])
    about = f"Nats a byte, mean of {students} student{'s' * (students > 1)}."
    return Table("measured", SOURCE, f"{about} {machine(first)}", head, lines)


def steps() -> str:
    """Updates of each student."""
    return read(SOURCE)[0]["steps"]


def active(way: str) -> str:
    """Parameters that a token passes in a student."""
    return f"{int(by(SOURCE, 'way')[way.replace('_', ' ')][0]['active']):,}"


def verdict() -> str:
    """Which ways lost least, in words."""
    ways = by(SOURCE, "way")
    loss = {way: mean(rows, "loss") for way, rows in ways.items() if way != "teacher"}
    order = sorted(loss, key=loss.__getitem__)
    names = ", ".join(f"{way} ({loss[way]:.3f})" for way in order)
    won = loss["multi-stage"] < loss["one-shot"]
    staged = "better" if won else "no better"
    return f"From the least loss to the largest: {names}. Two stages are {staged} than one here."
