"""Token rounding: rows in whole tiles, times of a layer, and losses of a small model."""

from tables import Row, Table, machine, read, span

SOURCE = "sonic_moe.csv"


def _rows(study: str) -> list[Row]:
    return [row for row in read(SOURCE) if row["study"] == study]


def _lines(rows: list[Row], keys: tuple[str, ...]) -> dict[tuple[str, ...], dict[str, Row]]:
    """A line for each combination of ``keys``: mode -> row."""
    found: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), {})[row["mode"]] = row
    return found


def counts(tile: str) -> Table:
    """Rows computed over rows chosen, and the share of tokens that change their expert."""
    rows = [row for row in _rows("count") if row["tile"] == tile and row["router"] == "skewed"]
    lines = []
    for (shape, T), modes in _lines(rows, ("shape", "T")).items():
        cells = []
        for mode, row in modes.items():
            cells.append(f"{int(row['computed']) / int(row['chosen']):.2f}")
            if mode != "plain":
                changed = int(row["dropped"]) + int(row["added"])
                cells.append(f"{100 * changed / int(row['chosen']):.1f} %")
        lines.append([shape, f"{int(row['T']) * int(row['K']) / int(row['E']):.0f}", T, *cells])
    head = ["layer", "rows of an expert", "T", "plain", "nearest", "changed"]
    head += ["apportioned", "changed"]
    about = f"Tiles of {tile} rows, experts of uneven popularity, torch {rows[0]['torch']}."
    return Table("counted", SOURCE, about, head, lines)


def times() -> Table:
    """Milliseconds of a layer and of its experts alone, forward and backward."""
    rows = _rows("time")
    lines = [
        [path, *(row["median_ms"] for row in modes.values())]
        for (path,), modes in _lines(rows, ("path",)).items()
    ]
    row = rows[0]
    sizes = ", ".join(f"{name} {row[name]}" for name in ("T", "H", "E", "K", "F", "tile"))
    head = ["path", *dict.fromkeys(r["mode"] for r in rows)]
    return Table("measured", SOURCE, f"{sizes}. {machine(row)}", head, lines)


def share(mode: str, part: str) -> str:
    """Time of the layer or of its experts with rounding, over that without, on all paths."""
    lines = _lines(_rows("time"), ("path",)).items()
    modes = [modes for (path,), modes in lines if path.endswith(f": {part}")]
    return span((float(m[mode]["median_ms"]) / float(m["plain"]["median_ms"]) for m in modes), 2)


def losses() -> Table:
    """Held-out loss of plain top-k along the training with each rounding."""
    rows = _rows("train")
    lines = [
        [step, *(f"{float(row['held_out_loss']):.3f}" for row in modes.values())]
        for (step,), modes in _lines(rows, ("step",)).items()
    ]
    row = rows[0]
    about = (
        f"{row['parameters']} parameters, tiles of {row['tile']} rows, T {row['T']}, nats a byte."
    )
    head = ["step", *dict.fromkeys(r["mode"] for r in rows)]
    return Table("measured", SOURCE, f"{about} {machine(row, 'one seed')}", head, lines)
