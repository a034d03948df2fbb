"""Plans of decoding that the planner finds, and where the published layout stands among them."""

from tables import Row, Table, read, span

SOURCE = "plan.csv"
RATE = "modelled_tokens_s_device"
ABOUT = "Pangu Pro MoE in int8, contexts of 2048 tokens, at most 100 ms a step, by the planner."
CHIPS = {"910b2": "Ascend 910B2", "310p": "Ascend 310P"}


def _paper(chip: str) -> Row:
    (row,) = (r for r in read(SOURCE) if (r["chip"], r["what"]) == (CHIPS[chip], "paper"))
    return row


def rank(chip: str) -> str:
    """The rank of the published layout among all plans, equal ones sharing the best."""
    return _paper(chip)["rank"]


def plans(chip: str) -> str:
    """How many plans for eight devices fit."""
    return _paper(chip)["plans"]


def share(chip: str) -> str:
    """Tokens a second of the published layout, of the quickest plan's."""
    return f"{100 * float(_paper(chip)['share']):.0f} %"


def _varied() -> list[Row]:
    return [row for row in read(SOURCE) if row["what"] == "varied"]


def ranks() -> str:
    """Ranks of the published layout on the 310P, with other links and limits of a step."""
    return span((int(row["rank"]) for row in _varied()), 0)


def varied() -> Table:
    """The published layout on the 310P: a line for each rate of links, a column for each limit."""
    lines: dict[str, list[str]] = {}
    for row in _varied():
        cell = f"{row['rank']} of {row['plans']}, {100 * float(row['share']):.3g} %"
        lines.setdefault(row["links"], []).append(cell)
    limits = dict.fromkeys(row["latency_ms"] for row in _varied())
    head = ["links", *("any time" if limit == "any" else f"{limit} ms" for limit in limits)]
    about = "Pangu Pro MoE in int8, contexts of 2048 tokens, by the planner."
    rows = [[f"times {links}", *cells] for links, cells in lines.items()]
    return Table("modelled", SOURCE, about, head, rows)


def best() -> Table:
    """The quickest plans on 4 to 16 devices, and the published one."""
    lines = []
    for row in read(SOURCE):
        if row["devices"] in ("4", "8", "16") and row["what"] in ("best", "paper"):
            what = "the paper's layout" if row["what"] == "paper" else "quickest"
            names = [row["chip"], row["way"], row["devices"], what]
            names += [row["attention"], row["experts"]]
            numbers = [row["rank"], row["batch"], row["memory_gb"], row["modelled_step_ms"]]
            lines.append([*names, *numbers, f"{float(row[RATE]):,.0f}"])
    head = ["chip", "way", "devices", "plan", "attention", "experts", "rank"]
    head += ["batch of a device", "GB", "step, ms", "tokens/s a device"]
    return Table("modelled", SOURCE, ABOUT, head, lines)
