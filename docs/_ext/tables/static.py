"""What Triton compiles the kernels to, read from machine code; nothing ran on a GPU."""

from tables import Row, Table, read

LOOPS, ORDER, RESOURCES = "gpu_static.csv", "tile_order.csv", "resources.csv"
OURS = "moge_ops"
PEERS = {"liger-kernel": "Liger-Kernel", "moe-ops": "moe-ops", "fms-acceleration-moe": "ScatterMoE"}
PRODUCTS = ("up", "down", "down_bwd", "dX", "dW_up", "dW_down")
# product -> peers whose loop gathers rows as ours does; the others' rows were permuted before.
# In products that are not named here nobody gathers
GATHERING = {
    "up": {"liger-kernel", "fms-acceleration-moe"},
    "down_bwd": {"liger-kernel"},
    "dW_up": {"liger-kernel"},
    "dW_down": {"liger-kernel"},
}
ORDERS = ("rows first", "columns first", "ours")


def _loops(target: str, layer: str) -> dict[tuple[str, str, str], Row]:
    return {
        (row["product"], row["T"], row["library"]): row
        for row in read(LOOPS)
        if (row["target"], row["layer"], row["note"]) == (target, layer, "")
    }


def main_loops() -> Table:
    """Matrix instructions for each memory instruction of the main loops, on Hopper."""
    rows = _loops("sm_90", "pangu")
    lines = []
    for product in PRODUCTS:
        line = [f"`{product}`"]
        for library, T in [(OURS, "8192"), *((peer, "any") for peer in PEERS)]:
            row = rows[product, T, library]
            figures = f"{row['matrix_per_memory']} ({row['kflops_per_memory']})"
            same_work = library in GATHERING.get(product, {library}) | {OURS}
            line.append(figures if same_work else f"*{figures}*")
        lines.append(line)
    triton = next(iter(rows.values()))["triton"]
    where = f"Triton {triton} for sm_90, Pangu Pro MoE's layer, 8192 tokens, bfloat16."
    return Table("static", LOOPS, where, ["product", OURS, *PEERS.values()], lines)


def tile_order() -> Table:
    """Gigabytes that a grid reads from memory, for each order of tiles."""
    found = {(int(row["T"]), row["product"], row["order"]): row for row in read(ORDER)}
    lines = []
    for T, product in dict.fromkeys((T, product) for T, product, _ in found):
        rows = [found[T, product, order] for order in ORDERS]
        read_by = (row["total_gb"] for row in rows)
        lines.append([str(T), f"`{product}`", *read_by, rows[0]["floor_gb"]])
    head = ["T", "product", *(f"{order}, GB" for order in ORDERS), "each byte once, GB"]
    where = "Pangu Pro MoE's layer in bfloat16 on the 132 multiprocessors of an H100."
    return Table("modelled", ORDER, where, head, lines)


def resources() -> Table:
    """How many compiled kernels there are for each chip, and how many spill registers."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in read(RESOURCES):
        found.setdefault((row["target"], row["triton"]), []).append(row)
    lines = []
    for (target, triton), rows in sorted(found.items()):
        spilling = [row for row in rows if row["local_bytes"] != "0"]
        names = sorted({f"`{row['kernel']}` ({row['dtype']})" for row in spilling})
        most = max((int(row["local_bytes"]) for row in spilling), default=0)
        spilled = f"{len(spilling)}, at most {most} bytes: {', '.join(names)}" if spilling else "0"
        lines.append([target, triton, str(len(rows)), spilled])
    head = ["chip", "Triton", "compiled kernels", "of these with local memory"]
    return Table("static", RESOURCES, "Every kernel at the sizes of several layers.", head, lines)
