"""What triton-ascend plans for the Triton kernels; nothing of it ran on an NPU."""

from tables import Row, Table, read

SOURCE = "triton_ascend.csv"
OWN = "triton-ascend"
NAMES = {
    "named_tuple": "a named tuple is built in a kernel",
    "tuple_variable": "a tuple is kept in a variable",
    "tuple_argument": "a tuple is an argument of a function",
    "tuple_of_constants": "a named tuple is a compile-time constant",
    "recursion": "a function calls itself",
    "warp_specialized_loop": "a loop is marked `warp_specialize`",
    "tensor_descriptor": "a kernel makes a tensor descriptor",
}
MEMORIES = ("ub", "l1", "l0c")


def _about(rows: list[Row]) -> str:
    row = rows[0]
    versions = f"triton-ascend {row['triton_ascend']}, ascendnpu-ir {row['ascendnpu_ir']}"
    return f"{versions}, for {row['device']}."


def _reader(row: Row) -> str:
    return "own" if row["frontend"].startswith(OWN) else "newest"


def _words(row: Row) -> dict[str, str]:
    return dict(word.split("=") for word in row["configuration"].split())


def _tile(row: Row) -> str:
    words = _words(row)
    sizes = {key.partition("_")[2]: words[key] for key in words if key.startswith("BLOCK_")}
    slots = f"{words['BLOCK']} slots" if "BLOCK" in words else ""
    return ", ".join(f"{name} {size}" for name, size in sizes.items()) or slots


def _name(row: Row) -> str:
    """A kernel without its underscore and its last word."""
    return _code(row["kernel"].removeprefix("_").removesuffix("_kernel"))


def newest() -> str:
    """The Triton that reads what triton-ascend's frontend refuses."""
    (found,) = {row["frontend"] for row in read(SOURCE) if _reader(row) == "newest"}
    return found.replace("triton", "Triton")


def _code(text: str) -> str:
    return f"`{text}`"


def constructs() -> Table:
    """Constructs of the language, each in a kernel of its own."""
    rows = [row for row in read(SOURCE) if row["kernel"] in NAMES]
    lines = []
    for name, text in NAMES.items():
        mine = {_reader(row): row for row in rows if row["kernel"] == name}
        reason = mine["own"]["reason"]
        other = mine["newest"]["result"] if "newest" in mine else ""
        lines.append([text, mine["own"]["result"], _code(reason) if reason else "", other])
    head = ["construct", "in triton-ascend's frontend", "which says", "read by the newest Triton"]
    return Table("static", SOURCE, _about(rows), head, lines)


def _kernels(result: str, tiles: str) -> list[Row]:
    """The kernels in bfloat16 that came to a result, with tiles for an NPU or a GPU."""
    wanted = {"result": result, "tiles": tiles, "dtype": "bf16"}
    return [
        row
        for row in read(SOURCE)
        if row["kernel"].startswith("_") and wanted.items() <= row.items()
    ]


def planned() -> Table:
    """Kernels that got as far as the last step, in bfloat16 and with tiles for an NPU."""
    rows = _kernels("planned", "npu")
    fitted = {row["kernel"] for row in rows}
    rows += [row for row in _kernels("planned", "gpu") if row["kernel"] not in fitted]
    # one launch of each tile: the one that takes the most
    best: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = row["kernel"], _tile(row)
        if key not in best or int(row["ub_bytes"]) > int(best[key]["ub_bytes"]):
            best[key] = row
    lines = [
        [
            _name(row),
            _reader(row),
            tile,
            *(
                f"{int(row[f'{memory}_bytes']):,}" if int(row[f"{memory}_bytes"]) else ""
                for memory in MEMORIES
            ),
            f"{int(row['element_wise']):,}" if int(row["element_wise"]) else "",
            row["rewritten"] if int(row["rewritten"]) else "",
        ]
        for (_, tile), row in sorted(best.items())
    ]
    head = ["kernel", "read by", "tile", "UB", "L1", "L0C", "one at a time", "rewritten"]
    return Table("static", SOURCE, f"{_about(rows)} Bytes; bfloat16.", head, lines)


def refused() -> Table:
    """What the back end refuses, with its words."""
    rows = [row for tiles in ("npu", "gpu", "") for row in _kernels("refused by back end", tiles)]
    seen: dict[tuple[str, ...], None] = {}
    for row in rows:
        gathers = "" if "dw" not in row["kernel"] or _words(row)["K"] == "1" else "gathers rows"
        key = (
            _name(row),
            row["tiles"],
            _tile(row),
            gathers,
            row["stage"],
            _code(row["reason"]),
        )
        seen.setdefault(key)
    head = ["kernel", "tiles of", "tile", "call", "stage", "the back end says"]
    return Table("static", SOURCE, f"{_about(rows)} bfloat16.", head, list(seen))


def counts(result: str) -> str:
    """How many configurations have a result: planned, frontend or back-end."""
    text = {
        "planned": "planned",
        "frontend": "refused by frontend",
        "back-end": "refused by back end",
    }
    rows = [row for row in read(SOURCE) if row["kernel"].startswith("_")]
    return str(sum(row["result"] == text[result] for row in rows))


def overflow(kernel: str) -> str:
    """Bytes of UB that a kernel with the tiles of a GPU would take."""
    (reason,) = {
        row["reason"]
        for row in _kernels("refused by back end", "gpu")
        if row["kernel"] == kernel and row["reason"].startswith("ub overflow")
    }
    bits = reason.split()[3]
    return f"{int(bits) // 8:,}"
