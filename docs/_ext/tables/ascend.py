"""Modelled times, counters and rules of the Ascend C kernels; none of them ran on an NPU."""

import re
from collections.abc import Iterable

from tables import ROOT, Row, Table, read, span

MODEL, CHECK, COUNTERS = "ascend_model.csv", "ascend_model_check.csv", "ascend_counters.csv"
EMULATOR = ROOT / "csrc" / "emulator"
# as seen from bench/results, where tables look for their source
RULES, FIGURES = (f"../../csrc/emulator/{name}.h" for name in ("rules", "figures"))
PARTS = {
    "forward": "layer",
    "training": "layer, training",
    "backward": "layer, backward",
    "operator": "operator",
}
PANGU = "Pangu Pro MoE's layer (H 5120, F 1344, E 64, G 8), bfloat16."
FEW = 456  # up to this many tokens memory bounds the products


def modelled(device: str = "910B1", **wanted: object) -> list[Row]:
    """Rows of a chip with some values."""
    return [
        row
        for row in read(MODEL)
        if row["device"] == device and all(row[key] == str(value) for key, value in wanted.items())
    ]


def _total(T: object, part: str, device: str = "910B1") -> Row:
    (row,) = modelled(device, T=T, part=PARTS[part], step="total")
    return row


def _ms(row: Row) -> str:
    return f"{float(row['time_us']) / 1000:#.3g}"


def _tokens(rows: Iterable[Row]) -> list[int]:
    return sorted({int(row["T"]) for row in rows})


# --- modelled times -------------------------------------------------------------------------------


def layer() -> Table:
    """The expert layer, forward and backward, on two chips."""
    head = [
        "T",
        "910B1, forward, ms",
        "least",
        "backward, ms",
        "910B4, forward, ms",
        "backward, ms",
    ]

    def line(T: int) -> list[str]:
        here, there = (
            [_total(T, part, device) for part in ("forward", "backward")]
            for device in ("910B1", "910B4")
        )
        least = float(here[0]["floor_us"]) / 1000
        return [str(T), _ms(here[0]), f"{least:#.3g}", *map(_ms, (here[1], *there))]

    return Table("modelled", MODEL, PANGU, head, [line(T) for T in _tokens(modelled())])


def steps(tokens: str) -> Table:
    """Launches of the layer, at some number of tokens."""
    T = int(tokens)
    head = ["part", "launch", "µs", "busiest pipe", "of the time", "cube", "times the least"]
    lines = []
    for name in ("forward", "backward"):
        for row in modelled(T=T, part=PARTS[name]):
            busy = f"{float(row['bound_percent']):.0f} %" if row["bound"] else ""
            cube = f"{float(row['cube_percent']):.0f} %" if row["cube_percent"] else ""
            # of what moves next to nothing, a multiple says nothing
            over = row["over_floor"] if float(row["floor_us"]) > 1 else ""
            time = f"{float(row['time_us']):,.1f}"
            lines.append([name, row["step"], time, row["bound"], busy, cube, over])
    return Table("modelled", MODEL, f"{PANGU} 910B1, {T} tokens.", head, lines)


def operators() -> Table:
    """Operators by themselves."""
    rows = modelled(part="operator")
    tokens = _tokens(rows)
    steps = dict.fromkeys(row["step"] for row in rows)
    times = {(row["step"], int(row["T"])): f"{float(row['time_us']):,.1f}" for row in rows}
    lines = [[step, *(times[step, T] for T in tokens)] for step in steps]
    launch = float(parameter("Launch")) * 1e6
    head = [f"µs, of which {launch:.0f} are the launch", *(f"T {T}" for T in tokens)]
    return Table("modelled", MODEL, f"{PANGU} 910B1.", head, lines)


def _products(product: str, kind: str, T: object) -> tuple[Row, Row]:
    """A product of another kind, packed or int8, and the plain one."""
    steps = (f"{product}, {kind}", product)
    other, plain = (modelled(T=T, part="operator", step=step) for step in steps)
    return other[0], plain[0]


def _ratio(rows: tuple[Row, Row]) -> str:
    other, plain = (float(row["time_us"]) for row in rows)
    return f"{other / plain:.2f}"


def _beside_plain(kind: str, cube: bool) -> Table:
    head = ["T"]
    for product in ("gate/up", "down"):
        head += [f"{product}, µs", kind, *(["cube"] if cube else []), "ratio"]
    lines = []
    for T in _tokens(modelled()):
        line = [str(T)]
        for product in ("gate/up", "down"):
            rows = _products(product, kind, T)
            line += [f"{float(row['time_us']):,.1f}" for row in reversed(rows)]
            line += [f"{float(rows[0]['cube_percent']):.0f} %"] if cube else []
            line.append(_ratio(rows))
        lines.append(line)
    return Table("modelled", MODEL, f"{PANGU} 910B1.", head, lines)


def packed() -> Table:
    """Packed weights beside plain ones."""
    return _beside_plain("packed", cube=False)


def int8() -> Table:
    """Products of bytes beside those of bfloat16."""
    return _beside_plain("int8", cube=True)


def ratio(product: str, T: str, kind: str = "packed") -> str:
    """Time of a product with packed weights, or of bytes, in times of the plain one."""
    return _ratio(_products(product, kind, T))


def time(part: str, T: str) -> str:
    """Milliseconds of the layer: forward, training or backward."""
    return _ms(_total(T, part))


def weight_rates(part: str) -> str:
    """The least and most TB/s at which products read weights where memory bounds them."""
    rows = [row for row in modelled(part=PARTS[part]) if int(row["T"]) <= FEW]
    return span((float(row["weight_tb_s"]) for row in rows if row["weight_tb_s"]), 2)


def cube_shares(T: str, kind: str = "layer") -> str:
    """The least and most percent of a launch's time for which the cube is busy.

    Of the layer's launches with products, or of the single ones: plain, packed or int8.
    """
    rows = [row for row in modelled(T=T) if row["cube_percent"]]
    if kind == "layer":
        rows = [row for row in rows if row["part"].startswith("layer")]
    else:
        kinds = dict.fromkeys(("gate/up", "down"), "plain")
        kinds |= {f"{step}, {of}": of for step in tuple(kinds) for of in ("packed", "int8")}
        rows = [row for row in rows if kinds.get(row["step"]) == kind]
    return span((float(row["cube_percent"]) for row in rows), 0)


def cube_share(step: str, T: str, part: str = "forward") -> str:
    """Percent of a launch's time for which the cube is busy; `_` stands for a space in `step`."""
    (row,) = modelled(T=T, part=PARTS[part], step=step.replace("_", " "))
    return f"{float(row['cube_percent']):.0f}"


def device(name: str, what: str) -> str:
    """A figure of a chip in the model: cube, vector, clock (GHz) or memory (TB/s)."""
    pattern = rf'\{{"{name}", (\d+), (\d+), ([\d.e]+), ([\d.e]+)\}}'
    match = re.search(pattern, (EMULATOR / "timing.cpp").read_text())
    assert match is not None
    cube, vector, clock, memory = match.groups()
    found = {
        "cube": cube,
        "vector": vector,
        "clock": float(clock) / 1e9,
        "memory": float(memory) / 1e12,
    }
    return str(found[what])


# --- the model itself -----------------------------------------------------------------------------


def check() -> Table:
    """Published times beside modelled ones."""
    head = ["case", "unit", "published", "modelled", "error, %", "role in the model", "cause"]
    lines = [
        [
            row["case"],
            row["unit"].replace("us", "µs"),
            row["published"],
            row["modelled"],
            f"{float(row['error_percent']):+.1f}",
            row["kind"],
            row["cause"],
        ]
        for row in read(CHECK)
    ]
    return Table(
        "modelled", CHECK, "910B1; the text has the sources of what is published.", head, lines
    )


def cases(percent: str = "") -> str:
    """How many published figures there are, or how many the model comes within percent of."""
    errors = [abs(float(row["error_percent"])) for row in read(CHECK)]
    return str(sum(error <= float(percent or "inf") for error in errors))


def kinds(kind: str) -> str:
    """How many cases calibrate a figure, are predicted, or are of another kernel."""
    return str(sum(row["kind"].startswith(kind) for row in read(CHECK)))


def _parameters() -> list[tuple[str, str, str, str]]:
    pattern = r'X\(k(\w+),\s*([^,]+?),\s*"([^"]*)",\s*"([^"]*)"\)'
    return re.findall(pattern, (EMULATOR / "figures.h").read_text())


def parameters() -> Table:
    """The figures of the model, and where each comes from."""
    lines = [
        [f"`{name}`", value, unit, *map(str.strip, [*origin.split(":", 1), ""][:2])]
        for name, value, unit, origin in _parameters()
    ]
    head = ["figure", "value", "unit", "kind", "from"]
    return Table("modelled", FIGURES, "Inputs of the model.", head, lines)


def parameter(name: str) -> str:
    """A figure of the model, as the source has it."""
    (value,) = (value for key, value, *_ in _parameters() if key == name)
    return value


# --- counters -------------------------------------------------------------------------------------


def counters() -> Table:
    """What the vector kernels move and compute at 8192 tokens."""
    head = [
        *("launch", "dtype", "cores", "MB moved", "of the least", "transfers", "under 2 KB"),
        *("vector cycles a token", "peak of UB, bytes"),
    ]
    lines = []
    for row in read(COUNTERS):
        if row["T"] != "8192":
            continue
        moved = (int(row["gm_to_ub_bytes"]) + int(row["ub_to_gm_bytes"])) / 1e6
        numbers = [f"{moved:,.1f}", f"{float(row['bytes_over_floor']):.2f}"]
        numbers += [f"{int(row[key]):,}" for key in ("pieces", "pieces_under_2k")]
        numbers += [
            f"{float(row['vector_cycles_per_token']):,.1f}",
            f"{int(row['peak_ub_bytes']):,}",
        ]
        lines.append([f"`{row['launch']}`", row["dtype"], row["blocks"], *numbers])
    return Table("emulated", COUNTERS, f"{PANGU[:-1]} or as said, 8192 tokens.", head, lines)


# --- rules ----------------------------------------------------------------------------------------


def families() -> dict[str, list[tuple[str, str, str]]]:
    """Families of rules, each with ids, levels and sentences."""
    text = (EMULATOR / "rules.h").read_text()
    parts = re.split(r"/\* ([\w ]+) \*/", text)[1:]
    pattern = r'X\(k\w+, "([\w.-]+)", k(\w+),[\s\\]*"([^"]*)"\)'
    return {
        family: re.findall(pattern, body)
        for family, body in zip(parts[::2], parts[1::2], strict=True)
    }


def rule_count() -> str:
    """How many rules there are."""
    return str(sum(map(len, families().values())))


def rules(*family: str) -> Table:
    """The rules of one family."""
    lines = [
        [f"`{rule}`", level.lower(), text] for rule, level, text in families()[" ".join(family)]
    ]
    headings = ["rule", "level", "what must hold"]
    return Table("source", RULES, "Each rule is a line of", headings, lines)
