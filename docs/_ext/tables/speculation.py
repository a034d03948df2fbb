"""Guesses of several kinds: how many stay, what they speed up, and the experts that steps read."""

from tables import Row, Table, machine, read

SOURCE = "speculation.csv"
E, ACTIVE = 64, 8  # experts of a layer, and those of a token, here and in Pangu Pro MoE
NAMES = {
    "plain": "none",
    "lookup": "looked up",
    "draft model": "a smaller model's",
    "mtp": "the head's",
}


def _rows(batch: str, **where: str) -> list[Row]:
    where = {"layers": layers(), **where}
    found = [
        row
        for row in read(SOURCE)
        if row["batch"] == batch and all(row[name] == value for name, value in where.items())
    ]
    found.sort(key=lambda row: (row["sampling"], list(NAMES).index(row["draft"]), row["guesses"]))
    if not found:
        raise ValueError(f"expected rows of batch {batch} with {where}, got none")
    return found


def _guesses(row: Row) -> list[str]:
    return [NAMES[row["draft"]], "" if row["draft"] == "plain" else row["guesses"]]


def _share(text: str) -> str:
    return f"{100 * float(text):.0f}\u00a0%" if text else "\u2013"


def _about(row: Row) -> str:
    return machine(
        row, f"{row['prompts']} prompts, {row['new_tokens']} new tokens each, medians of "
        f"{row['rounds']} rounds"
    )  # fmt: skip


def speeds(batch: str) -> Table:
    """Tokens a second beside plain decoding, and how many guesses stay."""
    found = _rows(batch)
    lines = [
        [
            *(row["sampling"], *_guesses(row), _share(row["acceptance"])),
            *(f"{float(row['tokens_a_pass']):.2f}", f"{float(row['tokens_s']):,.0f}"),
            f"{float(row['times_plain']):.2f}",
        ]
        for row in found
    ]
    head = ["tokens are", "guesses", "most", "stayed", "tokens a pass", "tokens/s", "times plain"]
    return Table("measured", SOURCE, _about(found[0]), head, lines)


def reads(batch: str) -> Table:
    """Tokens of a step, the experts that they touch, and bytes for each token that comes of it."""
    found = _rows(batch, sampling="greedy")
    lines = []
    for row in found:
        tokens = float(row["tokens_in_a_step"])
        formula = E * (1 - (1 - ACTIVE / E) ** tokens)
        lines.append(
            [
                *(*_guesses(row), f"{tokens:.1f}", f"{float(row['experts_of_a_layer']):.1f}"),
                *(f"{formula:.1f}", f"{float(row['bytes_a_token']) / 1e3:,.0f}"),
                f"{float(row['bytes_a_token_72b']) / 1e9:.1f}",
            ]
        )
    head = ["guesses", "most", "tokens in a step", "experts of a layer", "by the formula"]
    head += ["kB for a token", "GB in Pangu Pro MoE"]
    row = found[0]
    about = f"{row['prompts']} prompts, {row['new_tokens']} new tokens each, {row['date'][:10]}; "
    about += "the last column is modelled."
    return Table("counted", SOURCE, about, head, lines)


def layers() -> str:
    """Of the model that was measured, its head left out."""
    return read(SOURCE)[0]["layers"]


def times(draft: str, guesses: str, batch: str, sampling: str, depth: str = "") -> str:
    """Times the tokens of plain decoding in a second; a draft's name has ``_`` for spaces.

    ``depth`` is another number of layers than that of the tables.
    """
    where = {"draft": draft.replace("_", " "), "guesses": guesses, "sampling": sampling}
    if depth:
        where["layers"] = depth
    (row,) = _rows(batch, **where)
    return f"{float(row['times_plain']):.2f}"


def stayed(draft: str, guesses: str, batch: str, sampling: str) -> str:
    """Share of the guesses that the model accepted."""
    where = {"draft": draft.replace("_", " "), "guesses": guesses, "sampling": sampling}
    (row,) = _rows(batch, **where)
    return _share(row["acceptance"])
