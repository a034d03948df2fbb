"""Plans of decoding that the planner finds, and where the published layout stands among them."""

from tables import Row, Table, read

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


def best() -> Table:
    """The quickest plans on 4 to 16 devices, and the published one."""
    lines = []
    for row in read(SOURCE):
        if row["devices"] in ("4", "8", "16"):
            what = "the paper's layout" if row["what"] == "paper" else "quickest"
            names = [row["chip"], row["way"], row["devices"], what]
            names += [row["attention"], row["experts"]]
            numbers = [row["rank"], row["batch"], row["memory_gb"], row["modelled_step_ms"]]
            lines.append([*names, *numbers, f"{float(row[RATE]):,.0f}"])
    head = ["chip", "way", "devices", "plan", "attention", "experts", "rank"]
    head += ["batch of a device", "GB", "step, ms", "tokens/s a device"]
    return Table("modelled", SOURCE, ABOUT, head, lines)
