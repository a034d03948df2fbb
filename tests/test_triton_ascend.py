"""The table of what triton-ascend plans has every Triton kernel, and no plan that does not fit.

Nothing is compiled here: `make triton-ascend ARGS=--check` compares the table with plans made anew.
"""

import ast
import csv
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
Row = dict[str, str]
KERNELS = {
    node.name
    for path in (ROOT / "triton_kernels").glob("*.py")
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel")
}
# of a 910B's vector core and cube core
SIZES = {"ub_bytes": 192 << 10, "l1_bytes": 512 << 10, "l0c_bytes": 128 << 10}
RESULTS = {
    "planned": {"hivmc"},
    "refused by frontend": {"frontend"},
    "refused by back end": {"linalg", "hivm"},
}
with (ROOT / "bench" / "results" / "triton_ascend.csv").open(newline="") as file:
    TABLE: list[Row] = list(csv.DictReader(file))


def forgotten(rows: list[Row]) -> set[str]:
    """Kernels with no row by triton-ascend's own frontend; what it refuses needs one by another."""
    own = [row for row in rows if row["frontend"].startswith("triton-ascend")]
    refused = {row["kernel"] for row in own if row["result"] == "refused by frontend"}
    again = {row["kernel"] for row in rows if row not in own}
    return (KERNELS - {row["kernel"] for row in own}) | (KERNELS & (refused - again))


def test_no_kernel_is_forgotten() -> None:
    assert len(KERNELS) > 15
    assert not forgotten(TABLE)
    assert {row["kernel"] for row in TABLE if row["tiles"]} <= KERNELS


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_a_forgotten_kernel_is_seen(kernel: str) -> None:
    assert kernel in forgotten([row for row in TABLE if row["kernel"] != kernel])


def test_a_kernel_that_only_the_frontend_saw_is_seen() -> None:
    rows = [row for row in TABLE if row["result"] == "refused by frontend"]
    assert rows
    assert {row["kernel"] for row in rows} & KERNELS <= forgotten(rows)


def test_plans_fit() -> None:
    planned = [row for row in TABLE if row["result"] == "planned"]
    assert planned
    for row in planned:
        assert all(0 <= int(row[column]) <= size for column, size in SIZES.items()), row
        # a matrix is multiplied into L0C, from L1
        product = "BLOCK_R=" in row["configuration"]
        assert product == (int(row["l1_bytes"]) > 0) == (int(row["l0c_bytes"]) > 0), row


def test_every_row_says_where_it_ended_and_why() -> None:
    for row in TABLE:
        assert row["stage"] in RESULTS[row["result"]], row
        assert bool(row["reason"]) == (row["result"] != "planned"), row
        assert "/" not in row["reason"], "a place on the machine that wrote the table"


def test_versions_are_those_of_the_environment() -> None:
    pins = (ROOT / "requirements" / "triton-ascend.txt").read_text()
    for row in TABLE:
        for column, name in (("triton_ascend", "triton-ascend"), ("ascendnpu_ir", "ascendnpu-ir")):
            pinned = re.search(rf"^{name}==(\S+)$", pins, re.MULTILINE)
            assert pinned
            assert row[column] == pinned[1]
