"""Experts that are read when they are needed: hits that were counted, and times on a machine."""

from tables import Row, Table, machine, read

SOURCE = "offload.csv"
POLICIES = {
    "wait": "longest expected wait",
    "LFU": "fewest uses",
    "LRU": "least recently used",
    "optimum": "optimum",
}
COUNTED = "64 experts of which a token takes 8, by `make inference`."
NO_VALUE = "\u2013"


def rows(study: str, **where: str) -> list[Row]:
    """Those of a study with some values."""
    found = [
        row
        for row in read(SOURCE)
        if row["study"] == study and all(row[name] == value for name, value in where.items())
    ]
    if not found:
        raise ValueError(f"expected rows of {study} with {where}, got none")
    return found


def _percent(text: str) -> str:
    return f"{100 * float(text):.0f}\u00a0%" if text else NO_VALUE


def _by(found: list[Row], *names: str) -> dict[tuple[str, ...], list[Row]]:
    parts: dict[tuple[str, ...], list[Row]] = {}
    for row in found:
        parts.setdefault(tuple(row[name] for name in names), []).append(row)
    return parts


def hits(batch: str) -> Table:
    """Hit rates of the store's rule, by router and by the share of the experts in memory."""
    found = rows("hits", batch=batch)
    shares = list(dict.fromkeys(row["resident"] for row in found))
    shares.sort(key=lambda share: int(share[0]) / int(share[2]))
    lines = []
    for (router, order), own in _by(found, "router", "order").items():
        of = {row["resident"]: row["wait"] for row in own}
        lines.append([router, order, *(_percent(of.get(share, "")) for share in shares)])
    return Table("counted", SOURCE, COUNTED, ["router", "choices", *shares], lines)


def rules(share: str) -> Table:
    """Hit rates of the rules beside each other, at one share of the experts in memory."""
    found = [
        r for r in rows("hits", resident=share) if r["order"] in ("independent", "as generated")
    ]
    lines = [
        [batch, router, *(_percent(row[policy]) for policy in POLICIES)]
        for (batch, router), (row,) in _by(found, "batch", "router").items()
    ]
    lines.sort(key=lambda line: int(line[0]))
    return Table("counted", SOURCE, COUNTED, ["batch", "router", *POLICIES.values()], lines)


def hit(policy: str, router: str, batch: str, share: str) -> str:
    """One hit rate of independent choices, or of the trained model's as they came."""
    order = "as generated" if router == "trained" else "independent"
    where = {"router": router.replace("_", " "), "batch": batch, "resident": share}
    (row,) = rows("hits", order=order, **where)
    return _percent(row[policy])


def guess() -> Table:
    """Experts of the next layer that its router names too early."""
    found = rows("guess")
    layers = list(dict.fromkeys(row["layers"] for row in found))
    lines = [
        [order, *(_percent(row["right"]) for row in own)]
        for (order,), own in _by(found, "order").items()
    ]
    about = "The model of `make train-demo`, trained for a shorter time; sampled text."
    head = ["the hidden state", *(f"experts of layer {layer}" for layer in layers)]
    return Table("counted", SOURCE, about, head, lines)


def media() -> Table:
    """Bandwidth of reads as large as an expert."""
    found = [row for row in rows("ceiling") if row["weights"]]
    threads = list(dict.fromkeys(row["threads_read"] for row in found))
    lines = [
        [
            weights,
            f"{int(own[0]['expert_bytes']) / 1e6:.1f} MB",
            medium,
            *(f"{float(row['gb_s']):.1f}" for row in own),
        ]
        for (weights, medium), own in _by(found, "weights", "medium").items()
    ]
    head = [
        "weights",
        "an expert",
        "read from",
        *(f"{n} thread{'s' * (n != '1')}, GB/s" for n in threads),
    ]
    return Table("measured", SOURCE, machine(found[0]), head, lines)


def models(phase: str) -> Table:
    """Speed and memory of a model within its budget, and of the same one in memory."""
    found = rows("model", phase=phase)
    lines = []
    for row in found:
        read_ = f"{int(row['bytes_step']) / 1e6:,.0f}" if row["bytes_step"] else NO_VALUE
        medium = row["medium"].replace(" ", "\u00a0")
        lines.append(
            [
                *(row["weights"], medium, row["batch"], f"{int(row['rss_peak']) / 1e9:.2f}"),
                *(f"{float(row['tokens_s']):,.2f}", _percent(row["hit_rate"]), read_),
                *(_percent(row["of_medium"]), _percent(row["of_medium_and_resident"])),
            ]
        )
    head = ["weights", "experts from", "batch", "memory, GB", "tokens/s", "hits", "MB a step"]
    head += ["of the medium", "and computing"]
    row, budget = found[0], next(int(row["budget"]) for row in found if row["budget"])
    about = machine(
        row,
        f"{int(row['parameters']):,} parameters, {int(row['weight_bytes']) / 1e9:.1f} GB, "
        f"budget {budget / 1e9:.2f} GB",
    )
    return Table("measured", SOURCE, about, head, lines)


def of_budget() -> str:
    """The largest resident set, as a share of the budget."""
    found = [row for row in rows("model") if row["budget"]]
    return f"{100 * max(float(row['rss_of_budget']) for row in found):.0f} %"
