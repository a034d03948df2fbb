"""Which experts of transformers the fused layer serves."""

from tables import Row, Table, read

SOURCE = "transformers_experts.csv"


def _about(rows: list[Row]) -> str:
    return f"transformers {rows[0]['transformers']}."


def changed() -> Table:
    """Classes that were in steps while the operator knew SwiGLU alone."""
    rows = [row for row in read(SOURCE) if row["before"] == "in steps"]
    head = ("model", "activation", "biases", "now")
    cells = [[f"`{row['model']}`", *(row[name] for name in head[1:])] for row in rows]
    return Table("source", SOURCE, _about(rows), head, cells)


def count(state: str) -> str:
    """Number of classes whose experts are ``"fused"`` or ``"steps"`` now."""
    return str(sum(row["now"].endswith(state) for row in read(SOURCE)))
