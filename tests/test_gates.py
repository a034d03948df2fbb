"""The script that counts and times gates: it counts as it says, and refuses a gate that differs."""

import csv
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "bench" / "ops" / "gates.py"
# a view, an allocation and what is kept launch nothing; mul_ writes what it reads
STUB = """
class InternS1ProMoeSparseMoeBlock:
    @staticmethod
    @functools.lru_cache
    def get_group_offsets(n_groups: int, group_size: int, device: str):
        return torch.arange(n_groups, device=device) * group_size

    def _custom_routing_function(self, hidden_states: Unknown, gating_output, topk, renormalize):
        scores = gating_output.softmax(-1, dtype=torch.float32)
        weights, ids = scores.view(-1, self.n_groups, 8).max(-1)
        ids = ids + self.get_group_offsets(self.n_groups, 8, ids.device)
        torch.empty_like(scores)
        weights.mul_(2.0)
        return weights / weights.sum(-1, keepdim=True), ids
"""
# of 3 tokens and 64 experts
MOVED = {
    "_to_copy": 3 * 64 * (2 + 4),
    "_softmax": 3 * 64 * (4 + 4),
    "max": 3 * 64 * 4 + 3 * 8 * (4 + 8),
    "add": 2 * 3 * 8 * 8 + 8 * 8,
    "mul_": 2 * 3 * 8 * 4,
    "sum": 3 * 8 * 4 + 3 * 4,
    "div": 2 * 3 * 8 * 4 + 3 * 4,
}
OURS = 3 * 64 * 2 + 3 * 8 * (4 + 4) + 64 * 4  # logits in; weights, ids and counts out


def run(folder: Path, source: str) -> "subprocess.CompletedProcess[str]":
    """The script in a process of its own, since Triton's interpreter may be on in this one."""
    path = folder / "vllm" / "model_executor" / "models" / "interns1_pro.py"
    path.parent.mkdir(parents=True)
    path.write_text(source)
    absent = [f"--{name}={folder}/absent" for name in ("sglang", "lmdeploy", "xtuner")]
    command = [sys.executable, SCRIPT, "--smoke", f"--out={folder}/gates.csv", f"--vllm={folder}"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *absent], env=env, capture_output=True, text=True, check=False)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_launches_and_bytes_are_those_of_the_operations(tmp_path: Path) -> None:
    done = run(tmp_path, STUB)
    assert done.returncode == 0, done.stderr
    assert [f"note: no {x}" in done.stdout for x in ("vllm", "sglang", "xtuner")] == [0, 1, 1]
    rows = {(row["kind"], row["engine"]): row for row in read(tmp_path / "gates.csv")}
    kinds = ("counted", "measured")
    assert rows.keys() == {(kind, name) for kind in kinds for name in ("vllm", "moge_ops")}
    theirs, ours = rows["counted", "vllm"], rows["counted", "moge_ops"]
    assert theirs["operations"].split() == list(MOVED)
    assert int(theirs["launches"]) == len(MOVED)
    assert int(theirs["bytes"]) == sum(MOVED.values())
    assert (ours["launches"], int(ours["bytes"])) == ("1", OURS)
    for row in rows.values():
        assert row["machine"]
        assert row["torch"]
        assert bool(row["median_us"]) == (row["kind"] == "measured")
        assert bool(row["bytes"]) == (row["kind"] == "counted")


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        (".max(-1)", ".min(-1)", "vllm chooses other experts"),
        ("weights / ", "0.999 * weights / ", "weights of vllm"),
    ],
    ids=["ids", "weights"],
)
@pytest.mark.slow
def test_a_gate_that_differs_is_not_timed(
    tmp_path: Path, before: str, after: str, error: str
) -> None:
    assert before in STUB
    done = run(tmp_path, STUB.replace(before, after))
    assert done.returncode
    assert error in done.stderr
    assert not (tmp_path / "gates.csv").exists()


def test_the_committed_table_is_whole() -> None:
    rows = read(ROOT / "bench" / "results" / "gates.csv")
    at = defaultdict(dict)
    for row in rows:
        at[row["kind"], int(row["E"]), int(row["T"]), row["dtype"]][row["engine"]] = row
    engines = {"vllm", "sglang", "lmdeploy"}
    for E in (64, 512):
        for T in (1, 64, 4096):
            half, full = (at["counted", E, T, dtype] for dtype in ("bfloat16", "float32"))
            assert half.keys() == engines | {"moge_ops"}
            assert full.keys() == {"xtuner", "moge_ops", "moge_ops in xtuner"}
            for place in (half, full):
                assert place["moge_ops"]["launches"] == "1"
                least = int(place["moge_ops"]["bytes"])
                assert all(least < int(x["bytes"]) for x in place.values() if x["launches"] != "1")
        for T in (1, 4, 16, 64, 256, 1024, 4096):
            assert at["measured", E, T, "bfloat16"].keys() == engines | {"moge_ops"}
    assert all(row["machine"] and row["version"] and row["torch"] for row in rows)
    assert len({(row["date"], row["revision"]) for row in rows}) == 1  # of one run
