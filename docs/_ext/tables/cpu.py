"""Layers that were timed on CPUs, ours beside their peers.

Words of the functions that a role calls: ``isa`` is the end of a file's name, ``avx2`` or
``avx512_bf16``; ``peer`` one of `PEERS`; ``H`` a hidden size, or ``any``; ``tokens`` a number,
``16-`` from it on, ``-64`` up to it, or ``1-16``.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from tables import Row, Table, machine, read, span

OURS = "moge_ops"
OWN = (OURS, "moge_ops bfloat16")
FORWARD, BOTH = "forward", "forward+backward"
# name of a peer in a role -> its variants, of which the fastest counts
PEERS = {
    "vllm": ("vllm",),
    "sglang": ("sglang",),
    "zentorch": ("zentorch",),
    "hf": ("hf eager", "hf batched_mm", "hf grouped_mm"),
    "torch": ("torch grouped_mm",),
    "own_bfloat16": OWN[1:],
}
TITLES = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "zentorch": "zentorch",
    "hf": "Hugging Face's fastest",
    "torch": "torch's `grouped_mm`",
}


class Point(NamedTuple):
    """One layer at one number of tokens: the newest row of each variant."""

    dtype: str
    direction: str
    H: int
    F: int
    caches: str
    T: int
    rows: dict[str, Row]

    def ms(self, variants: Iterable[str]) -> float | None:
        """Least median of some variants, or None where none was timed."""
        times = [self.rows[name]["median_ms"] for name in variants if name in self.rows]
        return min((float(time) for time in times if time), default=None)

    def times(self, peer: str) -> float | None:
        """How many times as fast ours is."""
        theirs, own = self.ms(PEERS[peer]), self.ms([OURS])
        return None if theirs is None or own is None else theirs / own

    def own(self, column: str) -> float:
        """A figure of our row, as of_read."""
        return float(self.rows[OURS][column])


def points(source: str) -> list[Point]:
    """All points of a file, by their sizes."""
    found: dict[tuple[str, str, int, int, str, int], dict[str, Row]] = {}
    for row in sorted(read(source), key=lambda row: row["date"]):
        if row["op"] in ("moe", "ceiling"):
            sizes = int(row["H"]), int(row["F"]), row["caches"], int(row["T"])
            found.setdefault((row["dtype"], row["direction"], *sizes), {})[row["variant"]] = row
    return [Point(*key, rows=rows) for key, rows in sorted(found.items())]


def about(source: str) -> str:
    """Machine, versions and date."""
    rows = [row for row in read(source) if row["op"] == "moe" and row["median_ms"]]
    last = max(rows, key=lambda row: row["date"])
    peers = sorted({row["version"] for row in rows if row["variant"] not in OWN} - {""})
    return machine(last, last["isa"], *peers)


def _within(text: str) -> Callable[[int], bool]:
    first, dash, last = text.partition("-")
    least = int(first or 0)
    most = int(last) if last else float("inf") if dash else least
    return lambda number: least <= number <= most


def chosen(
    isa: str, H: str, tokens: str, dtype: str = "bfloat16", direction: str = FORWARD
) -> list[Point]:
    """The points that the words of a role mean, of cold caches and of hot ones."""
    within = _within(tokens)
    found = [
        point
        for point in points(f"cpu_{isa}.csv")
        if (point.dtype, point.direction) == (dtype, direction)
        and H in ("any", str(point.H))
        and within(point.T)
    ]
    if not found:
        raise ValueError(f"no rows of {isa} for H {H}, tokens {tokens}, {dtype}, {direction}")
    return found


def _ratios(peer: str, isa: str, H: str, tokens: str, *which: str) -> list[float]:
    ratios = [point.times(peer) for point in chosen(isa, H, tokens, *which)]
    return [ratio for ratio in ratios if ratio is not None]


def times(peer: str, isa: str, H: str, tokens: str, *which: str) -> str:
    """How many times as fast as the peer ours is: least and most. ``which``: dtype, direction."""
    return span(_ratios(peer, isa, H, tokens, *which))


def slower(peer: str, isa: str, H: str, tokens: str, *which: str) -> str:
    """How many times as fast as ours the peer is: least and most."""
    return span([1 / ratio for ratio in _ratios(peer, isa, H, tokens, *which)])


def product(isa: str, what: str, dtype: str = "bfloat16") -> str:
    """``dense``: torch's product in TFLOP/s; ``most``: the largest share that ours has of it."""
    found = chosen(isa, "any", "0-", dtype)
    if what == "dense":
        return span([float(point.rows["dense"]["gflop_s"]) / 1000 for point in found])
    return f"{max(point.own('of_dense') for point in found):.1f}"


def error(variant: str, isa: str, dtype: str = "bfloat16") -> str:
    """RMS error of the forward pass against float64, of a layer, relative."""
    rows = [point.rows.get(variant) for point in chosen(isa, "any", "0-", dtype)]
    errors = [float(row["rms_error"]) for row in rows if row and row["rms_error"]]
    return span(errors, digits=4)


def cell(number: float | None) -> str:
    """Two digits after the point, one from 10 on; a dash where nothing was timed."""
    return "-" if number is None else f"{number:.{1 if number >= 10 else 2}f}"


def forward(isa: str) -> Table:
    """The forward pass in bfloat16."""
    source = f"cpu_{isa}.csv"
    # the others need AVX-512
    peers = ("vllm", "hf") if isa == "avx2" else ("vllm", "sglang", "zentorch", "hf")
    head = ["H", "caches", "T", "ms", *(f"times {TITLES[peer]}" for peer in peers)]
    head += ["of the read rate", "of the product"]
    lines = []
    for point in points(source):  # cold caches before hot ones
        if (point.dtype, point.direction) != ("bfloat16", FORWARD):
            continue
        ms = f"{point.own('median_ms'):.3g}"
        ratios = (cell(point.times(peer)) for peer in peers)
        shares = (cell(point.own(column)) for column in ("of_read", "of_dense"))
        lines.append([str(point.H), point.caches, str(point.T), ms, *ratios, *shares])
    return Table("measured", source, about(source), head, lines)


def training(isa: str) -> Table:
    """float32, and the backward pass."""
    source = f"cpu_{isa}.csv"
    passes = [("float32", FORWARD, "hf"), ("float32", BOTH, "torch"), ("bfloat16", BOTH, "torch")]
    head = ["T", *(f"{dtype}, {way}: times {TITLES[peer]}" for dtype, way, peer in passes)]
    found = {(point.dtype, point.direction, point.T): point for point in points(source)}
    tokens = sorted({T for dtype, way, T in found if (dtype, way) == passes[0][:2]})
    lines = [
        [str(T), *(cell(found[dtype, way, T].times(peer)) for dtype, way, peer in passes)]
        for T in tokens
    ]
    return Table("measured", source, about(source), head, lines)
