"""The table of the main loops keeps what it promises, and is what the compiler still makes."""

import csv
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")
import triton
import triton.language as tl

from moge_ops._backend import load

ROOT = Path(__file__).resolve().parents[1]
Row = dict[str, str]
OURS = "moge_ops"
SPECIALIZED = "moge_ops, specialized"


def read(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


TABLE = read(ROOT / "bench" / "results" / "gpu_static.csv")
MADE = [row for row in TABLE if not row["note"]]
MINE = [row for row in MADE if row["library"] == OURS]
PEERS = [row for row in MADE if row["library"] not in (OURS, SPECIALIZED)]


def label(row: Row) -> str:
    return " ".join(row[key] for key in ("target", "layer", "product", "T", "library"))


def test_every_place_has_a_row_of_each_library() -> None:
    places = defaultdict(set)
    for row in TABLE:
        places[row["target"], row["layer"], row["product"]].add(row["library"])
    libraries = {OURS, "liger-kernel", "moe-ops", "fms-acceleration-moe"}
    assert len(places) == 2 * 3 * 7
    for (target, _, product), found in places.items():
        wanted = {OURS} if product == "dW" else libraries
        if target == "sm_90" and product in ("down", "dX"):
            wanted = wanted | {SPECIALIZED}
        assert found == wanted


def test_all_of_ours_compile() -> None:
    assert MINE
    ours = [row for row in TABLE if row["library"] in (OURS, SPECIALIZED)]
    assert not [label(row) for row in ours if row["note"]]


def test_ours_use_no_local_memory() -> None:
    ours = [row for row in MADE if row not in PEERS]
    assert not [label(row) for row in ours if row["local_bytes"] != "0"]
    assert not [label(row) for row in ours if row["local_in_loop"] != "0"]


def test_on_hopper_every_main_loop_of_ours_is_wgmma() -> None:
    rows = [row for row in MINE if row["target"] == "sm_90"]
    assert not [label(row) for row in rows if not row["matrix"].startswith("wgmma")]


# product -> libraries whose loop gathers rows as ours does; the others' rows were permuted before
GATHERING = {
    "up": {"liger-kernel", "fms-acceleration-moe"},
    "down_bwd": {"liger-kernel"},
    "dW_up": {"liger-kernel"},
    "dW_down": {"liger-kernel"},
}


def best_of_peers(row: Row) -> float:
    """The best peer that does the same work in its loop."""
    return max(
        (
            float(peer["matrix_per_memory"])
            for peer in PEERS
            if all(peer[key] == row[key] for key in ("target", "layer", "product"))
            and peer["library"] in GATHERING.get(row["product"], {peer["library"]})
        ),
        default=0.0,
    )


def test_ours_have_as_many_products_per_memory_instruction() -> None:
    """On Ampere where there are many rows for each expert, and with tiles chosen for that."""
    rows = [row for row in MINE if row["target"] == "sm_90" or int(row["T"]) >= 2048]
    for row in rows:
        if row["product"].startswith("dW_") and int(row["T"]) < 456:
            continue  # bound by the weight that they write
        assert float(row["matrix_per_memory"]) >= best_of_peers(row), label(row)


def test_the_table_says_how_many_programs_a_processor_holds() -> None:
    """What configs.csv launches per multiprocessor is there at once."""
    configs = load("triton", "_configs")
    kernels = {"up": "up", "down": "gemm", "dX": "gemm", "down_bwd": "down_bwd"}
    for row in MINE:
        if row["target"] == "sm_90" and row["product"] in kernels:
            experts = 64 if row["layer"] == "pangu" else 128
            entries = configs.read_table(ROOT / "triton_kernels" / "configs.csv")
            average = int(row["T"]) * 8 / experts
            wanted = next(
                config
                for limit, config in entries[kernels[row["product"]], "hopper"]
                if average <= limit
            )
            assert int(row["blocks_per_sm"]) >= wanted.blocks, label(row)


@pytest.mark.slow
def test_the_compiler_still_makes_these_rows(tmp_path: Path) -> None:
    options = ["--targets", "sm_90", "--layers", "sonic d1536 n256", "--libraries"]
    options += [OURS, SPECIALIZED]
    subprocess.run(
        [sys.executable, ROOT / "bench" / "static" / "gpu_static.py", "--out", tmp_path, *options],
        env=os.environ | {"TRITON_INTERPRET": "0"},
        check=True,
    )
    made = read(tmp_path / "gpu_static.csv")
    assert {row["product"] for row in made} == {row["product"] for row in MINE}
    if made[0]["triton"] == TABLE[0]["triton"]:
        assert all(row in TABLE for row in made)
    orders = ROOT / "bench" / "results" / "tile_order.csv"
    assert read(tmp_path / "tile_order.csv") == read(orders)


def test_our_order_of_tiles_reads_least() -> None:
    totals = defaultdict(dict)
    for row in read(ROOT / "bench" / "results" / "tile_order.csv"):
        totals[row["T"], row["product"]][row["order"]] = float(row["total_gb"])
    for place, found in totals.items():
        if place[0] == "8192":
            assert found["ours"] == min(found.values()), place
        assert found["ours"] <= found["rows first"], place


@triton.jit
def _walk(offsets_ptr, out_ptr, tiles, tiles_c, N, E, BLOCK_M: tl.constexpr, E_P2: tl.constexpr):
    for tile in range(0, tiles):
        found = LOCATE(tile, tiles_c, offsets_ptr, N, E, BLOCK_M, E_P2)
        tl.store(out_ptr + 3 * tile, found.expert)
        tl.store(out_ptr + 3 * tile + 1, found.first_row)
        tl.store(out_ptr + 3 * tile + 2, found.column)


LOCATE = load("triton", "_tiles").locate_tile


def test_the_kernel_walks_in_that_order() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    BLOCK_M, tiles_c, counts = 16, 3, [5, 0, 16 * 37 + 1, 16]
    offsets = torch.tensor([0, *counts]).cumsum(0).int()
    swizzle = load("triton", "_tiles").SWIZZLE.value
    want = []
    for expert, count in enumerate(counts):
        tiles_m = -(-count // BLOCK_M)
        for top in range(0, tiles_m, swizzle):
            rows = range(top, min(top + swizzle, tiles_m))
            want += [
                (expert, int(offsets[expert]) + m * BLOCK_M, c)
                for c in range(tiles_c)
                for m in rows
            ]
    out = torch.zeros(len(want), 3, dtype=torch.int32, device=device)
    sizes = (int(offsets[-1]), len(counts), BLOCK_M, 4)
    _walk[(1,)](offsets.to(device), out, len(want), tiles_c, *sizes)
    assert [tuple(row) for row in out.tolist()] == want


LOAD_SLOTS = load("triton", "_mlp_kernels")._load_slots
TILE = load("triton", "_tiles").Tile


@triton.jit
def _slots_of_a_tile(row_to_slot_ptr, out_ptr, first_row, end_row, BLOCK_M: tl.constexpr):
    tile = TILE(expert=0, first_row=first_row, end_row=end_row, column=0)
    tl.store(out_ptr + tl.arange(0, BLOCK_M), LOAD_SLOTS(row_to_slot_ptr, tile, BLOCK_M))


def test_a_tile_that_overruns_its_expert_reads_no_other_slots() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    row_to_slot = torch.arange(100, 116, dtype=torch.int32, device=device)
    out = torch.zeros(8, dtype=torch.int32, device=device)
    _slots_of_a_tile[(1,)](row_to_slot, out, 5, 8, 8)
    assert out.tolist() == [105, 106, 107, *[107] * 5]


@pytest.mark.parametrize(("O", "I"), [(32, 33), (33, 32), (32, 32), (33, 33)])
def test_dw_masks_the_columns_of_tiles_that_are_not_whole(
    O: int, I: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an operand lacks its mask for would be read from outside of its memory."""
    module, seen = load("triton", "_weight_gradient"), {}

    class Kernel:
        def __getitem__(self, grid: tuple[int]) -> Any:
            return lambda **arguments: seen.update(arguments)

    monkeypatch.setattr(module, "_grouped_gemm_dw_kernel", Kernel())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    d_out, rows = torch.ones(4, O, device=device), torch.ones(4, I, device=device)
    module.weight_gradient(d_out, rows, torch.tensor([0, 4]).int().to(device))
    assert (seen["O"], seen["I"]) == (O, I)
    assert seen["EVEN_O"] == (O % seen["BLOCK_O"] == 0)
    assert seen["EVEN_I"] == (I % seen["BLOCK_I"] == 0)
