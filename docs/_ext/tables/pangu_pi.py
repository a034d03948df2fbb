"""More nonlinearity: what the series and the shortcut of PanGu-pi do for a small model."""

from tables import Row, Table, machine, mean, read

SOURCE = "pangu_pi.csv"
PLAIN = "plain SwiGLU"
WORDS = {"lower": "lower", "higher": "higher", "mixed": "neither lower nor higher with every seed"}


def _rows(form: str) -> list[Row]:
    """Of the last block, one for each seed."""
    rows = read(SOURCE)
    last = str(int(rows[0]["layers"]) - 1)
    return [row for row in rows if row["form"] == form and row["layer"] == last]


def losses() -> Table:
    """Held-out loss of each seed, parameters, and what the features of the last block are."""
    rows, lines = read(SOURCE), []
    for form in dict.fromkeys(row["form"] for row in rows):
        own = _rows(form)
        lines.append(
            [
                *(form, ", ".join(row["loss"] for row in own)),
                *(f"{int(own[0][column]):,}" for column in ("parameters", "active")),
                f"{mean(own, 'effective_dimension'):.1f}",
                f"{mean(own, 'diversity'):.3f}",
            ]
        )
    head = ["form", "loss of each seed", "parameters", "of a token", "effective dimension"]
    about = f"{rows[0]['steps']} steps, {rows[0]['layers']} blocks of width {rows[0]['H']}, "
    about += f"nats a byte. {machine(rows[0])}"
    return Table("counted", SOURCE, about, [*head, "diversity"], lines)


def apart(form: str) -> str:
    """Loss less that of plain SwiGLU with the same seed: which sign, and from where to where."""
    pairs = zip(_rows(form), _rows(PLAIN), strict=True)
    found = sorted(float(own["loss"]) - float(alone["loss"]) for own, alone in pairs)
    word = WORDS["lower" if found[-1] < 0 else "higher" if found[0] > 0 else "mixed"]
    ends = " to ".join(f"{each:+.3f}".replace("-", "\u2212") for each in (found[0], found[-1]))
    return f"{word} ({ends})"


def seeds() -> str:
    """Runs of each form."""
    return str(len(_rows(PLAIN)))


def more_of_a_token() -> str:
    """Parameters that a token passes with a shortcut, over those without."""
    return f"{100 * (mean(_rows('shortcut'), 'active') / mean(_rows(PLAIN), 'active') - 1):.1f} %"
