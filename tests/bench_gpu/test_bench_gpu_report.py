"""The summary, the targets and the pictures of `make gpu`, from made-up rows."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from suite import module, read

for package in ("matplotlib", "rich", "transformers"):
    pytest.importorskip(package, reason="needs the extra 'bench'")


NCU = """==PROF== Connected to process 7
==PROF== Disconnected from process 7
"ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value","Rule Description"
"0","_short_kernel(half *)","GPU Speed Of Light Throughput","Duration","ns","900.5",""
"1","_up_kernel","GPU Speed Of Light Throughput","Duration","us","2,750.25",""
"1","_up_kernel","GPU Speed Of Light Throughput","Compute (SM) Throughput","%","61.5",""
"1","_up_kernel","GPU Speed Of Light Throughput","DRAM Throughput","%","12.5",""
"1","_up_kernel","GPU Speed Of Light Throughput","","","","Something general"
"1","_up_kernel","Warp State Statistics","","","","Each warp waits
 for a barrier"
"""


def test_what_ncu_counted_is_told_with_its_reason(tmp_path: Path) -> None:
    report = module("gpu_report")
    assert report.counters(tmp_path / "none.csv") == []
    (tmp_path / "ncu.csv").write_text(NCU)
    title, heads, *launches, reason = report.counters(tmp_path / "ncu.csv")
    assert (title, heads.split()[:2]) == ("NCU, the longest launches", ["kernel", "us"])
    assert [line.split() for line in launches] == [
        ["_up_kernel", "2750", "61.5", "-", "12.5"],
        ["_short_kernel", "0.9005", "-", "-", "-"],
    ]
    assert reason == "_up_kernel: Each warp waits for a barrier"


def made_up(path: Path, change: Callable[[dict[str, Any]], None] = lambda row: None) -> Path:
    """A CSV as of a whole run, with invented rates: only to try the report and the pictures."""
    parts = module("gpu_session")
    speeds = {"moge_ops": 1.0, "torch grouped_mm": 0.7, "liger": 0.6, "scattermoe": 0.5}
    common = {"date": "2000-01-01T00:00:00Z", "device": "made up", "torch": "0", "triton": "0"}
    common |= {"dtype": "bfloat16", "router": "uniform", "variant": "moge_ops"}
    rows: list[dict[str, Any]] = []

    def add(**fields: Any) -> None:
        row = common | fields
        change(row)
        rows.append(row)

    for s, name in [
        *((parts.PANGU._replace(T=T), "layer") for T in parts.FULL.tokens),
        *((s, "sonic") for s in parts.FULL.sonic),
    ]:
        for direction, factor in (("forward", 1), ("forward+backward", 3), ("backward", 2)):
            place = {"part": name, "direction": direction, **s._asdict()}
            flops = 6 * s.N * s.H * s.F * factor
            moved = 6 * min(s.N, s.E) * s.H * s.F * factor
            seconds = max(flops / 600e12, moved / 2.7e12)
            for variant, speed in {**speeds, "dense": 0.0, "copy": 0.0}.items():
                ms = seconds / speed * 1e3 if speed else 1.0
                rates = {"tflop_s": flops / ms / 1e9, "tb_s": moved / ms / 1e9}
                if not speed:
                    rates = {"tflop_s": 800.0, "tb_s": 3.0}
                add(
                    **place,
                    op="moe" if speed else "ceiling",
                    variant=variant,
                    median_ms=ms,
                    **rates,
                    of_dense=rates["tflop_s"] / 800,
                    of_copy=rates["tb_s"] / 3,
                )
            for kernel, share in (
                ("_up_kernel", 0.5),
                ("_down_kernel", 0.3),
                ("_gate_kernel", 0.2),
            ):
                add(**place, op="split", variant=kernel, median_ms=seconds * share * 1e3)
            for op in ("grouped_gate", "route", "unpermute"):
                rates = {"tflop_s": 0, "tb_s": 2.0, "of_dense": 0, "of_copy": 0.6}
                add(**place, op=op, median_ms=seconds * 0.01 * 1e3, **rates)
    add(part="gate", op="grouped_gate", E=64, T=16384, direction="forward", median_ms=0.010)
    add(part="memory", op="memory", T=32768, saved_bytes=1005, bytes=1000, peak_bytes=9)
    for variant, ms in (("moge_ops bfloat16", 3.0), ("moge_ops int8_w8a8", 2.0)):
        shares = {"of_dense": 0.9, "of_copy": 0.3}
        add(part="quant", op="moe quantised", variant=variant, T=8192, median_ms=ms, **shares)
        shares = {"of_dense": 0.01, "of_copy": 0.8}
        add(part="quant", op="moe quantised", variant=variant, T=1, median_ms=ms / 10, **shares)
    module("harness").append(path, rows, parts.COLUMNS)
    return path


def test_targets_are_read_off_the_rows(tmp_path: Path) -> None:
    report = module("gpu_report")
    goals = report.targets(report.Table(read(made_up(tmp_path / "gpu.csv"))))
    values = {goal.name: goal.value for goal in goals}
    assert len(goals) == 4 * 4 + 2 + 4 + 1 + 2 + 1
    assert not [goal.name for goal in goals if goal.value is None]
    assert all(goal.met for goal in goals)
    point = "Pangu layer, T 8192, forward"
    assert values[f"{point}: share of the dense rate"] == pytest.approx(0.75)
    assert values[f"{point}: time of torch grouped_mm over ours"] == pytest.approx(1 / 0.7)
    assert values[f"{point}: time of scattermoe over ours"] == pytest.approx(2.0)
    assert values["Pangu layer, T 16, forward: share of the copy rate"] == pytest.approx(0.9)
    assert values["SonicMoE's shape, backward: TFLOP/s"] == pytest.approx(600)
    assert values["gate, E 64, T 16384: microseconds"] == pytest.approx(10)
    combine = "gate, route and combine, T 8192: share of the layer's forward"
    assert values[combine] == pytest.approx(0.03)
    assert goals[-1].value == pytest.approx(1.005)


def test_a_missed_target_and_a_missing_figure_are_said(tmp_path: Path) -> None:
    report = module("gpu_report")

    def change(row: dict[str, Any]) -> None:
        if row["part"] == "gate":
            row["median_ms"] = 0.015
        if row["part"] == "layer" and row["variant"] == "liger":
            row["median_ms"] = ""

    goals = report.targets(report.Table(read(made_up(tmp_path / "gpu.csv", change))))
    lines = [str(goal) for goal in goals if not goal.met]
    assert len(lines) == 5
    gate = "MISSED     gate, E 64, T 16384: microseconds: 15, at most 12, off by 25.0%"
    assert gate in lines
    assert sum(line.startswith("no figure  Pangu") and "liger" in line for line in lines) == 4


@pytest.mark.parametrize("failed", ["nothing", "part", "row"])
def test_the_summary_has_failures_first_and_fits(
    failed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = module("gpu_report")

    def change(row: dict[str, Any]) -> None:
        if failed == "row" and row["part"] == "gate":
            row["note"] = "FAILED: AssertionError: experts differ"

    path = made_up(tmp_path / "gpu.csv", change)
    tests = {"name": "tests", "status": "killed after 150 s", "seconds": 150.0}
    facts = tmp_path / "facts.json"
    facts.write_text(
        json.dumps(
            {
                "trouble": "",
                "carried": 7,
                "compiled": 2,
                "smoke": False,
                "seconds": 500.0,
                "outcomes": [tests | {"failed": failed == "part", "last": "31 passed, 0 failed"}],
            }
        )
    )
    with mock.patch.object(sys, "argv", ["gpu_report.py", str(path), str(facts)]):
        assert report.main() == (failed != "nothing")
    said = capsys.readouterr().out
    assert len(said) <= 12_000
    first = {
        "nothing": "no failure\n",
        "part": "1 FAILURES\ntests: killed after 150 s; 31 passed, 0 failed\n",
        "row": "1 FAILURES\ngate: grouped_gate uniform forward 16384: AssertionError: experts",
    }
    assert said.startswith(first[failed])
    assert "TARGETS (one H100 SXM): 26 of 26 met" in said
    for heading in ("LAYER", "QUANTISED", "GATE", "MEMORY", "OPERATORS", "FILES"):
        assert f"\n{heading}" in said
    lines = [line.split() for line in said.splitlines()]
    assert ["variant", "T=1", "T=8192"] in lines
    assert ["moge_ops", "int8_w8a8", "0.2", "80%c", "1.50x", "2", "90%d", "1.50x"] in lines


def test_pictures_are_drawn_from_the_csv(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made_up(tmp_path / "gpu.csv")
    plots = module("plots")
    with mock.patch.object(sys, "argv", ["plots.py", str(path)]):
        plots.main()
    pictures = [tmp_path / f"gpu_{name}.png" for name in ("layer", "split")]
    assert capsys.readouterr().out.split() == [str(picture) for picture in pictures]
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)

    rows = plots.newest_run(path)
    few, many = ((1, 16, 128, 456), 3.0), ((2048, 8192, 32768), 800.0)
    panels = plots.draw_layer(rows).axes
    for panel, (tokens, top) in zip(panels, 2 * [few, many], strict=True):
        ours, *peers, ceiling = panel.get_lines()
        assert len(peers) == 3
        assert all(tuple(line.get_xdata()) == tokens for line in (ours, *peers, ceiling))
        assert set(ceiling.get_ydata()) == {top}
        assert all((ours.get_ydata() > line.get_ydata()).all() for line in peers)
    split = plots.draw_split(rows)
    heights = [patch.get_height() for patch in split.axes[0].patches]
    assert sum(heights) == pytest.approx(len(module("gpu_session").FULL.tokens))
