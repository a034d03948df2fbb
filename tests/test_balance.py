"""`make balance` counts right, models what it says, and its committed figures are reproduced."""

import csv
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from moge_ops import planner

for package in ("matplotlib", "rich"):
    pytest.importorskip(package, reason="needs the extra 'bench'")

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES, RESULTS = ROOT / "examples", ROOT / "bench" / "results"
MOGE, TOP_K = "MoGE", "plain top-k"
# tokens -> IS and max/mean of plain top-k under a uniform router, from an independent simulation
UNIFORM = {
    1: (2.45, 2.46),
    8: (0.935, 1.49),
    16: (0.669, 1.35),
    64: (0.332, 1.17),
    256: (0.166, 1.08),
    1024: (0.083, 1.04),
}


@pytest.fixture(scope="module")
def study() -> Any:
    """The names of examples/balance.py."""
    with mock.patch.object(sys, "path", [str(EXAMPLES), *sys.path]):
        return SimpleNamespace(**runpy.run_path(str(EXAMPLES / "balance.py"), run_name="balance"))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def committed() -> list[dict[str, str]]:
    return read(RESULTS / "balance.csv")


def test_committed_figures_are_the_expected_ones(committed: list[dict[str, str]]) -> None:
    found = {
        int(row["tokens"]): (float(row["imbalance"]), float(row["max_over_mean"]))
        for row in committed
        if (row["study"], row["router"], row["way"]) == ("router", "uniform", TOP_K)
    }
    for tokens, want in UNIFORM.items():
        assert found[tokens] == pytest.approx(want, rel=0.02), tokens


def test_a_point_is_reproduced(study: Any, committed: list[dict[str, str]]) -> None:
    for router in ("uniform", "Zipf 1"):
        rows = study.sampled_rows(16, study.ROUTERS[router], 1500, study.PANGU)
        for way in (MOGE, TOP_K):
            (want,) = (
                row
                for row in committed
                if (row["study"], row["router"], row["way"], row["tokens"])
                == ("router", router, way, "16")
            )
            got = study.point("router", router, way, 16, rows[way], study.PANGU)
            columns = ("imbalance", "max_over_mean", "experts_used", "modelled_us H100 SXM")
            for column in columns:
                assert float(got[column]) == pytest.approx(float(want[column]), rel=0.03), column


def test_moge_is_even_on_every_row(committed: list[dict[str, str]]) -> None:
    even = [r for r in committed if r["way"] == MOGE and r["study"] != "scale"]
    assert {row["study"] for row in even} == {"router", "histogram", "trained", "vote"}
    assert {float(row["imbalance"]) for row in even} == {0.0}
    assert {float(row["max_over_mean"]) for row in even if row["max_over_mean"]} == {1.0}


def test_the_histogram_is_that_of_figure_2b(committed: list[dict[str, str]]) -> None:
    shares = {
        float(row["imbalance"]): float(row["share"])
        for row in committed
        if row["study"] == "histogram" and row["way"] == TOP_K
    }
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-3)
    assert shares.get(0.0, 0.0) < 1e-3
    assert sum(share for score, share in shares.items() if 0.2 <= score <= 1.5) > 0.98


def test_the_trained_choices_are_whole() -> None:
    path = RESULTS / "train_experts.npz"
    assert path.stat().st_size < 300_000
    with np.load(path) as file:
        moge, top_k = file[MOGE], file[TOP_K]
    assert moge.dtype == top_k.dtype == np.uint8
    assert moge.shape == top_k.shape == (4, 4096, 8)
    assert (moge // 8 == np.arange(8)).all()
    assert (np.diff(np.sort(top_k)) > 0).all()
    assert top_k.max() < 64


def test_scores_by_hand(study: Any) -> None:
    loads = planner.device_loads(torch.tensor([[1, 2, 0, 0, 4, 1]]), 3)
    assert loads.tolist() == [[3, 0, 5]]
    assert study.imbalance(loads, 4).tolist() == [1.25]
    assert study.peak(loads).item() == pytest.approx(5 / (8 / 3))
    rows = study.expert_rows(torch.tensor([[[0, 2], [0, 1]], [[2, 1], [2, 0]]]), 3)
    assert rows.tolist() == [[2, 1, 1], [1, 1, 2]]
    assert str(study.Balance([3, 0, 5], 4)) == "IS 1.25, max/mean 1.88"


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_the_routers_draw_as_they_say(study: Any, exponent: float) -> None:
    # the first of a draw without replacement has probability p
    first = study.router_logits(1, 40_000, 6, exponent)[0].argmax(-1)
    p = first.bincount(minlength=6).sort(descending=True).values / 40_000
    want = torch.arange(1.0, 7.0) ** -exponent
    torch.testing.assert_close(p, want / want.sum(), rtol=0.05, atol=0.0)


def test_the_roofline_by_hand(study: Any) -> None:
    s = study.PANGU._replace(H=10, F=4, E=4, G=2)
    chip = planner.Chip("chip", flops=1000.0, bytes=60.0, node_link=1.0, net_link=1.0)
    # 240 bytes of weights take 4 s, a row 0.24 s
    seconds = planner.expert_seconds(torch.tensor([0, 1, 10, 100]), chip, s.H, s.F)
    assert seconds.tolist() == pytest.approx([0.0, 4.0, 4.0, 24.0])
    assert study.step_seconds(torch.tensor([1, 10, 0, 100]), 2, chip, s).item() == 24.0


def test_the_links_by_hand() -> None:
    E, token = 8, 100
    chip = planner.Chip("chip", 1.0, 1.0, node_link=100.0, net_link=10.0, node=2)
    seconds = lambda devices: planner.gather_seconds(devices, 3, token, chip)  # noqa: E731
    assert seconds(2) == pytest.approx(2 * 3)  # three tokens of the other card, in and out
    # two other nodes, whose tokens come half over each card: 3 * 4 / 2 of them
    assert seconds(6) == pytest.approx(2 * max(3 * 5 / 1, 3 * 4 / 2 * 10))

    # four ranks of two experts on two nodes of two cards, a token on each card
    experts = torch.tensor([[0, 1], [1, 0], [0, 2], [6, 7]])
    # token 2 crosses the network, in 10 s; card 0 passes it on to card 1, which sends token 1
    assert planner.all_to_all_seconds(experts, 4, E, token, chip) == pytest.approx(2 * 10)
    quick = chip._replace(net_link=1e9)
    assert planner.all_to_all_seconds(experts, 4, E, token, quick) == pytest.approx(2 * 1)
    # all to card 0: card 1 sends its own token and the one that crossed from card 3
    assert planner.all_to_all_seconds(0 * experts, 4, E, token, quick) == pytest.approx(2 * 2)


@pytest.mark.parametrize("case", ["random", "to one node", "from one card"])
@pytest.mark.parametrize("node", [4, 5])  # five and five ranks, and two
def test_the_all_to_all_counts_every_hop(case: str, node: int) -> None:
    """Against a walk over every token."""
    E, ranks = 24, 12
    experts = torch.randint(8 if case == "to one node" else E, (ranks * 5, 5))
    if case == "from one card":  # the others' tokens stay where they are
        experts[5:] = torch.arange(5, ranks * 5).view(-1, 1) // 5 * 2
    moved = {kind: torch.zeros(2, ranks) for kind in ("near", "far")}  # sent, received
    for t, row in enumerate(experts.tolist()):
        card = t // 5
        for m in range(-(-ranks // node)):
            meets = {e // 2 for e in row if e // 2 // node == m}
            entry = m * node + card % node % min(node, ranks - m * node)
            if meets and m != card // node:
                moved["far"][0, card] += 1
                moved["far"][1, entry] += 1
            for rank in meets - {entry}:
                moved["near"][0, entry] += 1
                moved["near"][1, rank] += 1
    for kind in moved:
        slow = {"node_link": 1e9, "net_link": 1e9} | {
            {"near": "node_link", "far": "net_link"}[kind]: 100.0
        }
        chip = planner.Chip("chip", 1.0, 1.0, **slow, node=node)
        want = 2 * moved[kind].max().item()
        assert planner.all_to_all_seconds(experts, ranks, E, 100, chip) == pytest.approx(want), kind


def test_layouts_hold_whole_groups_and_whole_experts(study: Any) -> None:
    for layout in study.LAYOUTS:
        most = study.PANGU.G if layout.way == MOGE else study.PANGU.E
        assert most % layout.ranks == 0
        assert study.PANGU.F % layout.tp == 0
    assert study.Layout(MOGE, 8, 4).on(128) == "EP8·TP4·DP4"


@pytest.mark.slow
def test_a_smoke_run_writes_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv, path = ["balance.py", "--smoke", "--out", str(tmp_path)], [str(EXAMPLES), *sys.path]
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.object(sys, "path", path),
        pytest.raises(SystemExit, match=r"^0$"),
    ):
        runpy.run_path(str(EXAMPLES / "balance.py"), run_name="__main__")
    for name in ("balance_study.png", "balance_models.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG"), name
    rows = read(tmp_path / "balance.csv")
    want = read(RESULTS / "balance.csv")
    place = lambda row: tuple(  # noqa: E731
        row[n] for n in ("study", "router", "way", "chip", "devices", "num_voted")
    )
    counted = [[place(r) for r in found if r["study"] != "histogram"] for found in (rows, want)]
    assert counted[0] == counted[1]
    assert "A model: tokens/s of a card" in capsys.readouterr().out
