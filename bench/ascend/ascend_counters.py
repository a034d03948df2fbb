"""What the Ascend C kernels do at Pangu's shapes, counted by the emulator: nothing ran on an NPU.

Vector cycles are the emulator's, by the documented elements per cycle of Atlas A2: a masked or
partial repeat costs a whole one. They are the sum over the cores.
"""

import argparse
import csv
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import moge_ops
from moge_ops import _C, testing

RESULTS = Path(__file__).resolve().parents[1] / "results"
_, H, E, G, _, F = testing.PANGU  # k = 1, so K = G
CORES = 48
SMALL = 2048  # bytes; a transfer below it does not reach the memory's rate


def cases(T: int) -> Iterator[tuple[str, str, int, Callable[[], Any]]]:
    """Name of the launch, dtype, fewest bytes that it has to move, and a call that launches it."""
    N = T * G

    def logits(dtype: torch.dtype) -> Tensor:
        return torch.randn(T, E).to(dtype).requires_grad_()

    def gate(dtype: torch.dtype) -> moge_ops.Gating:
        return moge_ops.grouped_gate(logits(dtype), G, router_scale=router_scale)

    router_scale = torch.rand(E, requires_grad=True)
    ids, columns = N * 4, E * 4  # bytes of an int32 for each slot, for each expert
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
        name, scores = str(dtype).removeprefix("torch."), T * E * size
        gating = gate(dtype)
        backward = gating.weights.sum().backward
        yield "grouped_gate_fwd", name, scores + 2 * (ids + columns), partial(gate, dtype)
        yield "grouped_gate_bwd", name, 2 * (scores + ids + columns), backward
    experts, scores = gating.experts, T * E * 4

    def balance() -> Tensor:
        return moge_ops.load_balance_loss(logits(torch.float32), experts)

    backward = balance().backward
    yield "load_balance_loss_fwd", "float32", scores + ids + columns, balance
    yield "load_balance_loss_bwd", "float32", 2 * scores + columns, backward

    route = partial(moge_ops.route, experts, E, num_groups=G)
    yield "route_fwd", "int32", 3 * ids + columns + 4, route
    routing, bf16 = route(), "bfloat16"
    moved, wide = (T + N) * H * 2, N * H * 2
    x = torch.zeros(T, H, dtype=torch.bfloat16)
    yield "permute_fwd", bf16, moved + ids, partial(moge_ops.permute, x, routing)
    rows = torch.zeros(N, H, dtype=torch.bfloat16, requires_grad=True)
    unpermute = partial(moge_ops.unpermute, rows, routing, torch.rand(T, G, requires_grad=True))
    yield "unpermute_fwd", bf16, moved + 2 * ids, unpermute
    yield "unpermute_bwd", bf16, moved + wide + 3 * ids, partial(unpermute().backward, x)
    gate_up = torch.zeros(N, 2 * F, dtype=torch.bfloat16, requires_grad=True)
    act = moge_ops.swiglu(gate_up)
    yield "swiglu_fwd", bf16, 3 * act.nbytes, partial(moge_ops.swiglu, gate_up)
    yield "swiglu_bwd", bf16, 5 * act.nbytes, partial(act.backward, act)


def row(T: int, name: str, dtype: str, floor: int, call: Callable[[], Any]) -> dict[str, Any]:
    """Counters of the one launch of that name."""
    _C.start_recording()
    call()
    (launch,) = (launch for launch in _C.stop_recording() if launch["name"] == name)
    total, paths = launch["total"], launch["total"]["paths"]
    moved = {path: paths[path]["bytes"] for path in ("gm->ub", "ub->gm")}
    small = sum(
        count for path in moved for size, count in paths[path]["sizes"].items() if size < SMALL
    )
    busy = [core["pipes"].get("V", {}).get("cycles", 0.0) for core in launch["cores"]]
    vector = sum(busy)
    return {
        "source": "emulated",
        "launch": name,
        "dtype": dtype,
        "T": T,
        "blocks": len(launch["cores"]),
        "gm_to_ub_bytes": moved["gm->ub"],
        "ub_to_gm_bytes": moved["ub->gm"],
        "floor_bytes": floor,
        "bytes_over_floor": f"{sum(moved.values()) / floor:.4f}",
        "pieces": sum(paths[path]["pieces"] for path in moved),
        "pieces_under_2k": small,
        "vector_cycles": round(vector),
        "vector_cycles_per_token": f"{vector / T:.2f}",
        "vector_cycles_busiest_core": round(max(busy)),
        "scalar_accesses": sum(total["scalars"].values()),
        "waits": sum(total["waits"].values()),
        "sync_alls": total["sync_all"],
        "peak_ub_bytes": total["peak_ub"],
    }


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 456, 8192], metavar="T")
    parser.add_argument("--out", type=Path, default=RESULTS / "ascend_counters.csv")
    args = parser.parse_args()
    rows = []
    for T in args.tokens:
        torch.manual_seed(0)
        _C.set_emulation(cores=CORES, checks=False)  # the tests check; here shadows would cost GBs
        with testing.backend("ascend"):
            rows += [row(T, *case) for case in cases(T)]
    write(args.out, rows)
    for each in rows:
        print(
            f"{each['launch']:<21} {each['dtype']:<9} T {each['T']:<5} {each['blocks']:>2} cores  "
            f"{each['vector_cycles_per_token']:>10} vector cycles a token  "
            f"{each['bytes_over_floor']} of the fewest bytes  "
            f"{each['pieces_under_2k']} of {each['pieces']} pieces under 2 KB"
        )


if __name__ == "__main__":
    main()
