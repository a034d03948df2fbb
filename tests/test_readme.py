"""The README's example runs, and its tables name every operator and the versions that were run."""

import pkgutil
import re
from pathlib import Path

import pytest
import torch

from moge_ops import ops

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.slow_on("triton")
def test_example_runs(device: str) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(block.splitlines()) <= 14
    namespace: dict[str, torch.Tensor] = {}
    with torch.device(device):
        exec(block, namespace)
    T, H = namespace["x"].shape
    assert namespace["y"].shape == (T, H)
    for name in ("x", "w_router", "w_gate_up", "w_down"):
        grad = namespace[name].grad
        assert grad is not None
        assert grad.isfinite().all(), name
        assert grad.any(), name


OPS = [m.name for m in pkgutil.iter_modules(ops.__path__) if not m.name.startswith("_")]


@pytest.mark.parametrize("op", OPS)
def test_table_has_a_row_for_every_operator(op: str) -> None:
    index = (ROOT / "docs" / "operators" / "index.md").read_text()
    assert f"\n| [{op}]({op}.md) |" in index
    page = (ROOT / "docs" / "operators" / f"{op}.md").read_text()
    assert page.startswith("# ")


def test_the_versions_are_those_that_were_run() -> None:
    makefile = (ROOT / "Makefile").read_text()
    pinned = {"torch": {*re.findall(r"torch==([\d.]+)", makefile)}}
    for file in (
        "oldest",
        "triton-newest",
        "dev",
        "ecosystem",
        "engines",
        "vllm",
        "npu",
        "npu-oldest",
    ):
        for line in (ROOT / "requirements" / f"{file}.txt").read_text().splitlines():
            if match := re.match(r"([\w-]+)==([\w.]+)(?!.*python_version <)", line):
                pinned.setdefault(match[1].replace("_", "-"), set()).add(match[2])
    table = (ROOT / "docs" / "versions.md").read_text()
    rows = re.findall(r"^\| ([\w-]+) \| (\d[\w., ]+) \|", table, re.MULTILINE)
    assert len(rows) == 14
    for tool, versions in rows:
        assert {*versions.split(", ")} == pinned[tool.lower()], tool


def test_the_neighbours_are_where_the_table_says() -> None:
    """Files are there, headings too, and each example cites the paper of its row."""
    section = README.partition("## Neighbouring systems")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", section, re.MULTILINE)[1:]
    assert len(rows) >= 14
    named = {
        example for *_, where in rows for example in re.findall(r"`examples/(\w+)\.py`", where)
    }
    helpers = {"balance", "bench_ops", "demo", "kinds", "plan", "quantize_demo", "train_demo"}
    assert named == {path.stem for path in (ROOT / "examples").glob("*.py")} - helpers
    for system, _, where in rows:
        papers = re.findall(r"\d{4}\.\d{5}", system)
        assert papers, system
        for page, heading in re.findall(r"\]\(([\w/]+\.md)(?:#([\w-]+))?\)", where):
            text = (ROOT / page).read_text()
            titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
            assert not heading or heading in slugs, f"{system}: {page}#{heading}"
        for example in re.findall(r"`(examples/\w+\.py)`", where):
            text = (ROOT / example).read_text()
            assert any(paper in text for paper in papers), f"{system}: {example}"
