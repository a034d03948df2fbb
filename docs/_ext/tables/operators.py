"""What committed rows say of single operators: counted, modelled and compiled."""

from tables import Row, Table, read
from tables.ascend import COUNTERS, MODEL, modelled

RESOURCES = "resources.csv"
TOKENS = ("1", "456", "8192")
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
LAYER = "Pangu Pro MoE's layer (H 5120, E 64, G 8, k 1)"
# part and step of bench/results/ascend_model.csv
STEPS = {
    "grouped_gate_fwd": ("operator", "gate"),
    "grouped_gate_bwd": ("operator", "gate, backward"),
    "load_balance_loss_fwd": ("operator", "balance loss"),
    "load_balance_loss_bwd": ("operator", "balance loss, backward"),
    "route_fwd": ("operator", "route"),
    "permute_fwd": ("layer, backward", "permute"),
    "unpermute_fwd": ("layer, backward", "unpermute d_x"),
    "unpermute_bwd": ("operator", "unpermute, backward"),
}


def _counters(dtype: str, *launches: str) -> Table:
    def line(row: Row) -> list[str]:
        moved = (int(row["gm_to_ub_bytes"]) + int(row["ub_to_gm_bytes"])) / 1024
        return [
            f"`{row['launch']}`",
            row["T"],
            row["blocks"],
            f"{moved:,.1f}",
            f"{float(row['bytes_over_floor']):.2f}",
            f"{float(row['vector_cycles_per_token']):,.1f}",
            f"{int(row['scalar_accesses']) / int(row['T']):,.1f}",
            f"{int(row['peak_ub_bytes']) / 1024:,.0f}",
        ]

    rows = [
        line(row)
        for launch in launches
        for row in read(COUNTERS)
        if row["launch"] == launch and row["dtype"] == dtype and row["T"] in TOKENS
    ]
    head = [
        "launch",
        "T",
        "cores",
        "KiB moved",
        "over the least",
        "vector cycles a token",
        "scalar accesses a token",
        "local memory, KiB",
    ]
    return Table("emulated", COUNTERS, f"{LAYER}, {dtype}.", head, rows)


def gate_counters() -> Table:
    """The gate, forward and backward."""
    return _counters("bfloat16", "grouped_gate_fwd", "grouped_gate_bwd")


def route_counters() -> Table:
    """Routing."""
    return _counters("int32", "route_fwd")


def permute_counters() -> Table:
    """Permutation."""
    return _counters("bfloat16", "permute_fwd")


def unpermute_counters() -> Table:
    """The weighted sum, forward and backward."""
    return _counters("bfloat16", "unpermute_fwd", "unpermute_bwd")


def loss_counters() -> Table:
    """The balance loss, forward and backward."""
    return _counters("float32", "load_balance_loss_fwd", "load_balance_loss_bwd")


def us(launch: str, T: str) -> str:
    """Modelled microseconds of one launch on a 910B1."""
    part, step = STEPS[launch]
    (row,) = modelled(T=T, part=part, step=step)
    return f"{float(row['time_us']):.1f} µs"


def starting_us() -> str:
    """What the model adds for the start of each launch."""
    rows = [row for row in read(MODEL) if row["step"] in ("gate", "route")]
    (cost,) = {f"{float(row['time_us']) - float(row['without_launch_us']):.1f}" for row in rows}
    return f"{cost} µs"


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _compiled(*kernels: tuple[str, str, str]) -> Table:
    """Registers and spills of (label, kernel, what its constants contain)."""
    triton = max((row["triton"] for row in read(RESOURCES)), key=_numbers)
    rows = [row for row in read(RESOURCES) if row["triton"] == triton and row["dtype"] == "bf16"]

    def cell(kernel: str, constants: str, target: str) -> str:
        (row,) = (
            row
            for row in rows
            if row["kernel"] == kernel
            and row["target"] == target
            and "pangu/4096" in row["layers"].split()
            and constants in row["config"]
        )
        return f"{row['registers']}, {row['local_bytes']}, {row['shared_bytes']}"

    lines = [[label, *(cell(kernel, x, t) for t in TARGETS)] for label, kernel, x in kernels]
    about = f"{LAYER}, 4096 tokens, bfloat16, Triton {triton}, cross-compiled."
    return Table("static", RESOURCES, about, ["kernel", *TARGETS], lines)


def gate_compiled() -> Table:
    """The gate's two kernels."""
    return _compiled(
        ("forward", "_grouped_gate_fwd_kernel", ""), ("backward", "_grouped_gate_bwd_kernel", "")
    )


def route_compiled() -> Table:
    """The three kernels of a batch that does not fit into one tile, with groups."""
    return _compiled(
        ("count", "_route_count_kernel", "K=8 k=1 "),
        ("scan", "_route_scan_kernel", "BLOCK_ROWS=4 "),
        ("scatter", "_route_fwd_kernel", "K=8 k=1 "),
    )


def permute_compiled() -> Table:
    """Permutation."""
    return _compiled(("forward", "_permute_fwd_kernel", ""))


def unpermute_compiled() -> Table:
    """The weighted sum and its derivative."""
    return _compiled(
        ("forward", "_unpermute_fwd_kernel", "HAS_WEIGHTS=1"),
        ("backward", "_unpermute_bwd_kernel", ""),
    )


def loss_compiled() -> Table:
    """The loss and its derivative."""
    return _compiled(
        ("forward", "_load_balance_loss_fwd_kernel", ""),
        ("backward", "_load_balance_loss_bwd_kernel", ""),
    )
