"""Loads of devices under MoGE and plain top-k: counted, and a model of what they cost."""

from collections.abc import Iterator

from tables import Row, Table, read, span

SOURCE = "balance.csv"
MOGE, TOP_K = "MoGE", "plain top-k"
TRAINED = "trained"
RATE = "modelled_tokens_s_card"
ABOUT = "64 experts, 8 per token, 8 devices, by `make balance` with fixed seeds."
VOTES = {**{n: f"`num_voted={n}`" for n in ("2", "3", "5")}, "8": "no vote"}
# column -> digits that a text shows
DIGITS = {"imbalance": 2, "max_over_mean": 2, "experts_used": 1}


def rows(study: str, **where: str) -> list[Row]:
    """Those of a study with some values."""
    return [
        row
        for row in read(SOURCE)
        if row["study"] == study and all(row[name] == value for name, value in where.items())
    ]


def mean(column: str, router: str, tokens: str) -> float:
    """Plain top-k's, of the row of a router or over the layers of the trained model."""
    where = {"tokens": tokens, "way": TOP_K}
    found = rows(TRAINED, **where) if router == TRAINED else rows("router", router=router, **where)
    return sum(float(row[column]) for row in found) / len(found)


def value(column: str, router: str, tokens: str) -> str:
    """Plain top-k's mean of a column; a router of two words is written with an underscore."""
    return f"{mean(column, router.replace('_', ' '), tokens):.{DIGITS[column]}f}"


def even() -> str:
    """Plain top-k's batches in which all devices have equal loads, of all of them."""
    found = rows("histogram", way=TOP_K)
    batches = int(found[0]["samples"])
    share = sum(float(row["share"]) for row in found if float(row["imbalance"]) == 0.0)
    return f"{share * batches:.0f} of {batches:,}"


def scores() -> Table:
    """Imbalance and peak load of plain top-k, by router and batch."""
    routers = ["uniform", "Zipf 0.5", "Zipf 1", "Zipf 1.5", TRAINED]
    tokens = list(dict.fromkeys(row["tokens"] for row in rows("router")))
    lines = []
    for T in tokens:
        cells = (
            f"{mean('imbalance', router, T):.2f}, {mean('max_over_mean', router, T):.2f}"
            for router in routers
        )
        lines.append([f"{int(T):,}", *cells])
    layers = len(rows(TRAINED, tokens=tokens[0], way=TOP_K))
    head = ["tokens", *routers[:-1], f"trained, mean of {layers} layers"]
    return Table("counted", SOURCE, ABOUT, head, lines)


def _ratios(router: str) -> Iterator[float]:
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for row in rows("scale", router=router):
        place = row["chip"], row["tokens_per_card"], row["devices"]
        found.setdefault(place, {})[row["way"]] = float(row[RATE])
    yield from (ways[MOGE] / ways[TOP_K] for ways in found.values())


def scale(router: str) -> str:
    """Least and largest ratio of modelled tokens/s, MoGE over plain top-k."""
    return span(_ratios(router.replace("_", " ")), 2)


def devices() -> str:
    """Numbers of devices of that model."""
    return span((int(row["devices"]) for row in rows("scale")), 0)


def modelled() -> Table:
    """Tokens/s of a card, where both ways choose their quickest layout."""
    found: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows("scale"):
        if row["devices"] in ("8", "64"):
            place = row["chip"], row["router"], row["tokens_per_card"], row["devices"]
            found.setdefault(place, {})[row["way"]] = row
    lines = []
    for where, ways in found.items():
        moge, top_k = (float(ways[way][RATE]) for way in (MOGE, TOP_K))
        layouts = [ways[way]["layout"] for way in (MOGE, TOP_K)]
        lines.append([*where, *layouts, f"{moge:,.0f}", f"{top_k:,.0f}", f"{moge / top_k:.2f}"])
    head = ["chip", "router", "tokens a card", "devices", MOGE, TOP_K]
    head += ["MoGE, tokens/s", "top-k, tokens/s", "ratio"]
    about = "Routed experts and links alone; nothing was timed."
    return Table("modelled", SOURCE, about, head, lines)


def votes() -> Table:
    """What ``num_voted`` leaves in use, and which choices stay."""
    lines = []
    for router in ("uniform", "Zipf 1"):
        for tokens in ("4", "16", "64"):
            line = [router, tokens]
            for n in VOTES:
                (row,) = rows("vote", router=router, tokens=tokens, num_voted=n)
                line.append(f"{float(row['experts_used']):.1f}, {100 * float(row['kept']):.0f} %")
            lines.append(line)
    head = ["router", "tokens", *VOTES.values()]
    return Table("counted", SOURCE, "64 experts in 8 groups, one of each per token.", head, lines)


def vote(column: str, router: str, tokens: str, num_voted: str) -> str:
    """Experts in use, or the share of choices that stay, under a vote."""
    (row,) = rows("vote", router=router.replace("_", " "), tokens=tokens, num_voted=num_voted)
    if column == "kept":
        return f"{100 * float(row['kept']):.0f} %"
    return f"{float(row[column]):.0f}"
