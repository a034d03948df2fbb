"""A small model from a large one: where it starts and what it reaches, by what it inherits."""

from tables import Table, by, machine, mean, read

SOURCE = "tiny_lm.csv"


def losses() -> Table:
    """Held-out loss of the large model and of each way, with sizes."""
    lines = [
        [
            way,
            *(f"{int(rows[0][name]) / 1e6:.2f}" for name in ("parameters", "active")),
            *(f"{mean(rows, name):.3f}" for name in ("start_loss", "loss")),
        ]
        for way, rows in by(SOURCE, "way").items()
    ]
    head = ["way", "million parameters", "active", "at the start", "after training"]
    first, students = read(SOURCE)[0], len(by(SOURCE, "way")["random parts"])
    about = f"Nats a byte, mean of {students} student{'s' * (students > 1)}."
    return Table("measured", SOURCE, f"{about} {machine(first)}", head, lines)


def steps() -> str:
    """Updates of each student."""
    return read(SOURCE)[0]["steps"]


def verdict() -> str:
    """Which ways reached the least loss, in words."""
    ways = {way: rows for way, rows in by(SOURCE, "way").items() if way != "large model"}
    loss = {way: mean(rows, "loss") for way, rows in ways.items()}
    names = ", ".join(f"{way} ({loss[way]:.3f})" for way in sorted(loss, key=loss.__getitem__))
    return f"From the least loss to the largest: {names}."
