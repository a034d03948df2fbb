"""Code blocks of all pages run or say why not; links lead somewhere; figures come from rows."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import page_worker
import pytest

import moge_ops

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def with_code(page: Path) -> bool:
    found = page_worker.blocks(page.read_text())
    return any(block.language in ("python", "bash") and not block.reason for block in found)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if with_code(page)], ids=name)
def test_the_blocks_run(page: Path) -> None:
    command = [sys.executable, str(Path(page_worker.__file__)), str(page)]
    env = os.environ | {"PYTHONPATH": ""}  # not the folders of the tests
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["run"]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_says_what_it_is(page: Path) -> None:
    for block in page_worker.blocks(page.read_text()):
        known = block.reason or block.language in {"python", "bash", *page_worker.SHOWN}
        assert known, f"line {block.line}: {block.language or 'no language'}"
        if block.reason.startswith("Run by"):
            test = (ROOT / block.reason.split("`")[1]).read_text()
            assert page.name in test, (
                f"line {block.line}: {block.reason}, which does not name the page"
            )


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page_worker.FENCE.sub("", page.read_text())
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", text)
    assert all((page.parent / target).exists() for target in targets), targets


# what is timed, modelled or counted; the site draws these from rows of bench/results
FIGURE = re.compile(
    r"\d[\d.,]*\s?(?:ms|[µu]s|[TGM]B/s|[TG]FLOP/s|tokens/s|times as (?:fast|many|much))\b"
)
# a sentence with a figure of somebody else says whose it is
SOURCE = re.compile(r"arXiv|published|publishes|data ?sheet|specification|documented|paper")


def prose(page: Path) -> list[str]:
    """The paragraphs of a page, without code, roles and directives."""
    text = page_worker.FENCE.sub("", page.read_text())
    text = re.sub(r"\{row\}`[^`]*`|`[^`]*`", "", text)
    return re.split(r"\n\s*\n", text)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=name)
def test_no_figure_is_typed(page: Path) -> None:
    typed = [text for text in prose(page) if FIGURE.search(text) and not SOURCE.search(text)]
    assert not typed, typed


def test_the_citation_has_the_version() -> None:
    page = (ROOT / "docs" / "citation.md").read_text()
    assert f"version = {{{moge_ops.__version__}}}" in page
