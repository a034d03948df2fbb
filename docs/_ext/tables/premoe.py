"""Experts for a task: what is lost on three kinds of text if only some experts stay."""

from tables import Row, Table, machine, read

SOURCE = "premoe.csv"


def _losses() -> dict[tuple[str, int, str, str], float]:
    """Kind, experts of a group, profile and score -> loss."""
    return {
        (row["kind"], int(row["keep"]), row["profile"], row["score"]): float(row["loss"])
        for row in read(SOURCE)
    }


def _first() -> Row:
    return read(SOURCE)[0]


def losses() -> Table:
    """Held-out loss of each kind of text with the experts of each task, and with random ones."""
    found, lines = _losses(), []
    kinds = list(dict.fromkeys(kind for kind, *_ in found))
    (whole,) = {keep for _, keep, profile, _ in found if profile == "all"}
    for kind in kinds:
        for keep in sorted({keep for _, keep, *_ in found} - {whole}, reverse=True):
            numbers = (
                found[kind, whole, "all", ""],
                *(found[kind, keep, task, "selection"] for task in kinds),
                found[kind, keep, kind, "weights"],
                found[kind, keep, "random", ""],
            )
            lines.append([kind, f"{100 * keep // whole} %", *(f"{x:.3f}" for x in numbers)])
    head = ["text", "experts", "all", *(f"those of {task}" for task in kinds)]
    head += ["its own, by weights", "random"]
    row = _first()
    about = f"{row['parameters']} parameters, {row['steps']} steps, nats a byte."
    return Table("measured", SOURCE, f"{about} {machine(row, 'one seed')}", head, lines)


def retrieved(kind: str) -> str:
    """Share of a kind's queries that find it."""
    (share,) = {row["retrieved"] for row in read(SOURCE) if row["kind"] == kind}
    return f"{100 * float(share):.0f} %"


def queries() -> str:
    """Queries of each kind."""
    return _first()["queries"]


def megabytes(what: str, keep: str) -> str:
    """Of the ``expert`` weights or of all that a process grows by, ``resident``."""
    (found,) = {row[f"{what}_bytes"] for row in read(SOURCE) if row["keep"] == keep}
    return f"{int(found) / 1e6:.1f}"


def kilobytes() -> str:
    """Of the file of all profiles."""
    return f"{int(_first()['file_bytes']) / 1e3:.0f}"
