"""Capacity factors: what they drop and pad, and the losses of models that train with one."""

from tables import Row, Table, machine, read

SOURCE = "deepspeed_moe.csv"


def _rows(kind: str) -> list[Row]:
    return [row for row in read(SOURCE) if row["kind"] == kind]


def _share(row: Row, name: str) -> str:
    slots = int(row["slots"] or 1)
    return f"{100 * int(row[name] or 0) / slots:.1f} %"


def counted() -> Table:
    """Of each router: dropped slots, and rows that are padding, as shares of all slots."""
    lines = [
        [
            *(row[name] for name in ("router", "way", "factor", "capacity")),
            *(_share(row, name) for name in ("dropped", "padding")),
        ]
        for row in _rows("counted")
    ]
    row = _rows("counted")[0]
    about = f"{row['tokens']} tokens a batch, E {row['E']}, K {row['K']}, G {row['G']} (MoGE)."
    head = ["router", "choice", "capacity factor", "rows of an expert", "dropped", "padding"]
    return Table(
        "counted", SOURCE, f"{about} torch {row['torch']}, {row['date'][:10]}.", head, lines
    )


def trained() -> Table:
    """Held-out loss of each way to train, with its drops and without."""
    lines = [
        [
            *(row["way"], row["order"] or "none", row["factor"], _share(row, "dropped")),
            *(f"{float(row[name]):.3f}" for name in ("loss", "loss_without_drops")),
        ]
        for row in _rows("trained")
    ]
    row = _rows("trained")[0]
    about = f"{row['parameters']} parameters, {row['steps']} steps, nats a byte."
    head = ["choice", "dropped by", "capacity factor", "dropped in training", "loss"]
    head.append("loss without drops")
    return Table("measured", SOURCE, f"{about} {machine(row, 'one seed')}", head, lines)


def share(name: str, router: str, factor: str) -> str:
    """``dropped`` or ``padding`` of plain top-k; ``Zipf_1`` is the router "Zipf 1"."""
    (found,) = (
        _share(row, name)
        for row in _rows("counted")
        if (row["router"], row["factor"]) == (router.replace("_", " "), factor)
    )
    return found
