"""Quantised experts: speed on a CPU, and what they cost in quality."""

from collections.abc import Sequence

from moge_ops.quant import SCHEMES
from tables import Row, Table, machine, read, span
from tables.cpu import FORWARD, Point, about, cell, points

SPEED, QUALITY = "quant_avx512_bf16.csv", "quality.csv"
TRAINED, OUTLYING = "as trained", "with outlying channels"


def _layers() -> dict[tuple[str, int], list[Point]]:
    """Points of warm caches by scheme and H."""
    found: dict[tuple[str, int], list[Point]] = {}
    for point in points(SPEED):
        if (point.direction, point.caches) == (FORWARD, "hot"):
            found.setdefault((point.dtype, point.H), []).append(point)
    sizes = sorted({H for _, H in found})
    measured = [scheme for scheme in SCHEMES if any((scheme, H) in found for H in sizes)]
    return {(scheme, H): found[scheme, H] for scheme in measured for H in sizes}


def _at_each(numbers: Sequence[float | None]) -> str:
    return " / ".join(map(cell, numbers)) if any(numbers) else ""


def speed() -> Table:
    """Speed of every scheme, at each number of tokens."""
    layers = _layers()
    (tokens,) = {tuple(point.T for point in found) for found in layers.values()}
    head = ["scheme", "H", "times our own bfloat16", "times SGLang", "times zentorch"]
    head.append("of the read rate")
    lines = []
    for (scheme, H), found in layers.items():
        ratios = (
            _at_each([point.times(peer) for point in found])
            for peer in ("own_bfloat16", "sglang", "zentorch")
        )
        shares = _at_each([point.own("of_read") for point in found])
        lines.append([f"`{scheme}`", str(H), *ratios, shares])
    note = f"Each cell is for {' / '.join(map(str, tokens))} tokens."
    return Table("measured", SPEED, f"{note} {about(SPEED)}", head, lines)


def times(peer: str, scheme: str, H: str) -> str:
    """How many times as fast as the peer ours is with warm caches: least and most."""
    ratios = [point.times(peer) for point in _layers()[scheme, int(H)]]
    return span([ratio for ratio in ratios if ratio is not None])


def _quality() -> dict[tuple[str, str, str], Row]:
    return {(row["model"], row["smoothing"], row["variant"]): row for row in read(QUALITY)}


def quality() -> Table:
    """Growth of the loss and changed choices, for each scheme."""
    rows = _quality()
    cases = ((TRAINED, "no"), (OUTLYING, "no"), (OUTLYING, "yes"))
    head = ["scheme", "bits a weight", "as trained", "choices", "with outlying channels", "choices"]
    head += ["these smoothed", "choices"]
    lines = []
    for variant in dict.fromkeys(variant for _, _, variant in rows if variant != "plain"):
        line = [variant, rows[TRAINED, "no", variant]["bits"]]
        for case in cases:
            row = rows[(*case, variant)]
            change, error = float(row["loss_change"]), float(row["loss_change_error"])
            line.append(f"{1000 * change:+.2f} ± {1000 * error:.2f}")
            line.append(f"{float(row['choices_changed']):.2f} %")
        lines.append(line)
    row = rows[TRAINED, "no", "plain"]
    model = f"{row['parameters']} parameters, {row['steps']} steps."
    note = "Thousandths of a nat a byte, with one standard error."
    return Table("measured", QUALITY, f"{note} {model} {machine(row)}", head, lines)


def loss() -> str:
    """Loss of the plain model, in nats a byte."""
    return f"{float(_quality()[TRAINED, 'no', 'plain']['loss']):.3f}"


def growth(*schemes: str) -> str:
    """The most that the loss grows by the named schemes, in thousandths of a nat."""
    changes = [
        1000 * float(row["loss_change"])
        for (model, smoothing, variant), row in _quality().items()
        if (model, smoothing) == (TRAINED, "no") and variant.split(",")[0] in schemes
    ]
    return f"{max(changes):.2f}"


def text() -> str:
    """Bytes of unseen text, and the pieces that the standard error is over."""
    row = _quality()[TRAINED, "no", "plain"]
    return f"{int(row['tokens']):,} bytes in {row['pieces']} pieces"
