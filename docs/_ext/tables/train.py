"""A small MoGE model and its plain top-k twin, trained on the text in examples/data."""

from tables import Row, Table, machine, read, span

SOURCE = "train.csv"
MOGE, TOP_K = "MoGE", "plain top-k"
# words of a role have no spaces
NAMES = {"moge": MOGE, "top_k": TOP_K}


def _steps(model: str) -> dict[int, list[Row]]:
    """Step -> the rows of its layers."""
    found: dict[int, list[Row]] = {}
    for row in read(SOURCE):
        if row["model"] == model:
            found.setdefault(int(row["step"]), []).append(row)
    return found


def _last(model: str) -> list[Row]:
    steps = _steps(model)
    return steps[max(steps)]


def loss(model: str) -> str:
    """Loss on held-out text after the last step, nats a byte."""
    return f"{float(_last(NAMES[model])[0]['held_out_loss']):.3f}"


def imbalance(model: str) -> str:
    """Imbalance score after the last step, from the least to the most uneven layer."""
    return span((float(row["imbalance"]) for row in _last(NAMES[model])), 2)


def steps() -> str:
    """Number of training steps."""
    return str(max(_steps(MOGE)))


def parameters() -> str:
    """All parameters of each model, and those active for a token."""
    row = read(SOURCE)[0]
    return f"{row['parameters']} parameters, {row['active']} of them active for a token"


def curves() -> Table:
    """Held-out loss and imbalance along the training."""
    both = {model: _steps(model) for model in (MOGE, TOP_K)}
    lines = []
    for step in (0, 50, 100, 200, 300):
        losses, scores = [], []
        for model in (MOGE, TOP_K):
            rows = both[model][step]
            losses.append(f"{float(rows[0]['held_out_loss']):.3f}")
            scores.append(f"{sum(float(r['imbalance']) for r in rows) / len(rows):.2f}")
        lines.append([str(step), *losses, *scores])
    about = machine(read(SOURCE)[0], "one seed")
    head = ["step", "held-out loss, MoGE", "top-k", "imbalance score, MoGE", "top-k"]
    return Table("measured", SOURCE, about, head, lines)
