"""The paper's decode step and prefill: our kernels modelled, the rest by rooflines."""

from collections.abc import Sequence

from tables import Row, Table, read
from tables.ascend import PANGU

DECODE = "ascend_decode.csv"
DUO = "310P3"  # the chip of a 300I Duo
# how a step's time came about, as the rows name it
SOURCES = ("our kernels", "roofline", "links")
# tokens/s a card of arXiv:2505.21411v2, for the plans that have a published time
PUBLISHED = {"decode, EP4": "1148", "prefill, EP2": "4828"}
ABOUT = f"{PANGU[:-1]}; experts in int8_w8a8, 48 layers, 2k of context."


def _totals() -> list[Row]:
    return [row for row in read(DECODE) if row["step"] == "total"]


def _steps(plan: str, chip: str) -> list[Row]:
    return [
        row
        for row in read(DECODE)
        if (row["plan"], row["chip"]) == (plan, chip) and row["step"] != "total"
    ]


def chips(plan: str) -> list[str]:
    """The chips that a plan was modelled on."""
    return [row["chip"] for row in _totals() if row["plan"] == plan]


def parts(plan: str, chip: str) -> dict[str, float]:
    """Milliseconds of each source of times."""
    return {
        source: sum(float(row["all_ms"]) for row in _steps(plan, chip) if row["by"] == source)
        for source in SOURCES
    }


def plans() -> Table:
    """All plans: the time of a step, its parts, and what was published."""
    head = ["plan", "chip", "chips", "batch", "ms", *SOURCES, "tokens/s a card"]
    head.append("published: ms; tokens/s a card")
    lines = []
    for row in _totals():
        times = [f"{ms:.1f}" for ms in parts(row["plan"], row["chip"]).values()]
        published = ""
        if row["published_ms"]:
            published = f"{row['published_ms']}; {PUBLISHED[row['plan']]}"
        lines.append(
            [
                *(row[key] for key in ("plan", "chip", "chips", "batch")),
                f"{float(row['all_ms']):.1f}",
                *times,
                f"{int(row['tokens_s_card']):,}",
                published,
            ]
        )
    return Table("modelled", DECODE, ABOUT, head, lines)


def steps(*plan: str) -> Table:
    """The steps of one layer of a plan, on each chip of our kernels, and the model's head."""
    name = " ".join(plan)
    return _side_by_side(name, [chip for chip in chips(name) if chip != DUO])


def duo() -> Table:
    """The steps on the chip that our kernels do not know."""
    return _side_by_side("decode, TP2 EP4", [DUO])


def _side_by_side(name: str, names: Sequence[str]) -> Table:
    head = ["step", "by", "launches"]
    for chip in names:
        head += [f"{chip}, µs a layer", "ms in all", "%"]
    lines = []
    for rows in zip(*(_steps(name, chip) for chip in names), strict=True):
        line = [rows[0][key] for key in ("step", "by", "launches")]
        for row in rows:
            line += [
                f"{float(row['layer_us']):,.1f}",
                f"{float(row['all_ms']):.2f}",
                row["percent"],
            ]
        lines.append(line)
    return Table("modelled", DECODE, ABOUT, head, lines)


def _total(chip: str, *plan: str) -> Row:
    name = " ".join(plan)
    (row,) = (row for row in _totals() if (row["plan"], row["chip"]) == (name, chip))
    return row


def ms(chip: str, *plan: str) -> str:
    """Milliseconds of a plan's step."""
    return f"{float(_total(chip, *plan)['all_ms']):.0f}"


def rate(chip: str, *plan: str) -> str:
    """Tokens a second of one card."""
    return f"{int(_total(chip, *plan)['tokens_s_card']):,}"


def ours(chip: str, *plan: str) -> str:
    """Milliseconds of a plan's step that our kernels take."""
    return f"{parts(' '.join(plan), chip)['our kernels']:.0f}"


def rest(chip: str, *plan: str) -> str:
    """Milliseconds of a plan's step by rooflines and links."""
    times = parts(" ".join(plan), chip)
    return f"{times['roofline'] + times['links']:.0f}"
