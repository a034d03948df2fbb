"""Null experts: what a small model saves with them, and which bytes take how many experts."""

from tables import Row, Table, machine, mean, read

SOURCE = "adamoe.csv"


def _rows(model: str, kind: str) -> list[Row]:
    return [row for row in read(SOURCE) if (row["model"], row["kind"]) == (model, kind)]


def losses() -> Table:
    """Held-out loss, experts of a token and FLOPs of experts, of each model."""
    rows = read(SOURCE)
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        each = ", ".join(row["loss"] for row in _rows(model, "all"))
        flops = mean(_rows(model, "all"), "expert_flops") / 1e3
        experts = mean(_rows(model, "all"), "experts")
        lines.append([model, each, f"{experts:.2f}", f"{flops:.0f}"])
    head = ["model", "loss of each seed", "experts of a token", "kFLOP of experts"]
    about = f"{rows[0]['steps']} + {rows[0]['tune']} steps, nats a byte."
    return Table("counted", SOURCE, f"{about} {machine(rows[0])}", head, lines)


def wanted() -> str:
    """Experts of a token that the loss for balance pulls towards, K · E / (E + n)."""
    row = _rows("null experts", "all")[0]
    k, E, n = (int(row[name]) for name in ("k", "E", "num_null"))
    return f"{k * E / (E + n):.2f}"


def taken() -> str:
    """Experts of a token that were measured with null ones; mean over seeds."""
    return f"{mean(_rows('null experts', 'all'), 'experts'):.2f}"


def kinds() -> Table:
    """Experts that each kind of byte takes in each layer, with null experts; mean over seeds."""
    rows = read(SOURCE)
    layers = int(rows[0]["layers"])
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        means = [mean(_rows("null experts", kind), f"experts_{i}") for i in range(layers)]
        lines.append([kind, *(f"{x:.2f}" for x in means)])
    head = ["bytes", *(f"layer {i}" for i in range(layers))]
    return Table("counted", SOURCE, machine(rows[0]), head, lines)


def saved() -> str:
    """FLOPs of experts that null ones save over the plain model."""
    plain = _rows(read(SOURCE)[0]["model"], "all")[0]["model"]
    with_null, without = (
        mean(_rows(model, "all"), "expert_flops") for model in ("null experts", plain)
    )
    return f"{100 * (1 - with_null / without):.0f} %"
