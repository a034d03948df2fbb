"""Gates of serving engines beside `grouped_gate`."""

from tables import Row, Table, machine, read, span

SOURCE = "gates.csv"
OURS = "moge_ops"


def _rows(kind: str) -> list[Row]:
    return [row for row in read(SOURCE) if row["kind"] == kind]


def _engines(rows: list[Row]) -> list[str]:
    """Engines with their versions, without ours."""
    versions = {row["version"] for row in rows if not row["engine"].startswith(OURS)}
    return sorted(version.replace("git,", "xtuner") for version in versions)


def counted() -> Table:
    """Launches and bytes of one gate."""
    rows = _rows("counted")
    head = [
        "E",
        "T",
        "vLLM, SGLang, LMDeploy, each",
        "`grouped_gate`",
        "XTuner",
        "this package in XTuner",
    ]

    def cell(engine: str, dtype: str, T: str, E: str) -> str:
        (row,) = (
            row
            for row in rows
            if (row["engine"], row["dtype"], row["T"], row["E"]) == (engine, dtype, T, E)
        )
        return f"{row['launches']}, {int(row['bytes']) / 1024:,.1f} KiB"

    lines = []
    for E, T in sorted({(int(row["E"]), int(row["T"])) for row in rows}):
        size = str(T), str(E)
        (engines,) = {cell(engine, "bfloat16", *size) for engine in ("vllm", "sglang", "lmdeploy")}
        others = [(OURS, "bfloat16"), ("xtuner", "float32"), ("moge_ops in xtuner", "float32")]
        lines.append([str(E), str(T), engines, *(cell(*other, *size) for other in others)])
    about = f"torch {rows[0]['torch']}, {', '.join(_engines(rows))}."
    return Table("counted", SOURCE, about, head, lines)


def _span(rows: list[Row]) -> str:
    """Medians in µs, least to most, with three digits."""
    times = sorted({float(row["median_us"]) for row in rows})
    ends = [f"{time:.1f}" if time < 20 else f"{time:.0f}" for time in times]
    return ends[0] if ends[0] == ends[-1] else f"{ends[0]} to {ends[-1]}"


def _timed() -> dict[tuple[int, int], tuple[list[Row], Row]]:
    """By E and T: rows of the engines, and ours."""
    found: dict[tuple[int, int], list[Row]] = {}
    for row in _rows("measured"):
        found.setdefault((int(row["E"]), int(row["T"])), []).append(row)
    return {
        size: (
            [row for row in rows if row["engine"] != OURS],
            next(row for row in rows if row["engine"] == OURS),
        )
        for size, rows in sorted(found.items())
    }


def measured() -> Table:
    """Medians of one gate on a CPU, in µs."""
    timed = _timed()
    experts = sorted({E for E, _ in timed})
    head = ["T", *(f"E {E}, {what}" for E in experts for what in ("eager chain", "`grouped_gate`"))]
    lines = []
    for T in sorted({T for _, T in timed}):
        line = [str(T)]
        for E in experts:
            engines, ours = timed[E, T]
            line += [_span(engines), _span([ours])]
        lines.append(line)
    rows = _rows("measured")
    return Table("measured", SOURCE, machine(rows[0], *_engines(rows)), head, lines)


def times(E: str, first: str) -> str:
    """How many times as fast as the engines ours is from some number of tokens on."""
    return span(
        float(row["median_us"]) / float(ours["median_us"])
        for (experts, T), (engines, ours) in _timed().items()
        if experts == int(E) and int(first) <= T
        for row in engines
    )


def one_call() -> str:
    """The least median of ours: what a call costs before the kernel's work counts, in µs."""
    return f"{min(float(ours['median_us']) for _, ours in _timed().values()):.0f}"
