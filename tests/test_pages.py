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
    # an output alone fails: no block ran before it
    return any(b.language in ("python", "bash", "output") and not b.reason for b in found)


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
    targets = re.findall(r"\]\((?!https?://)([^)]+)|^\[[^]]+\]: (?!https?://)(\S+)", text, re.M)
    for target in ("".join(each) for each in targets):
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def anchors(page: Path) -> set[str]:
    """Those of a page's headings, as GitHub and the site make them, and those that it names."""
    text = page_worker.FENCE.sub("", page.read_text())
    titles = re.findall(r"^#+ (.+?) *$", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text), re.M)
    made = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return made | set(re.findall(r"^\(([\w-]+)\)=$", text, re.M))


# what is timed, modelled or counted; the site draws these from rows of bench/results
FIGURE = re.compile(
    r"(?:\d[\d.,]*|\b(?:two|three|four|five|six|eight|ten))"
    r"(?:\s?(?:ms|[µu]s|[TGM]i?B/s|[TG]FLOP/s|tokens/s|[x\u00d7](?=\s(?:as|faster|slower)))"
    r"|\s(?:(?:milli|micro)?seconds?|times (?:as (?:fast|many|much|quick|slow)|faster|slower)))"
    r"(?!\w)"
)
# a sentence with a figure of somebody else says whose it is
SOURCE = re.compile(r"arXiv|published|publishes|data ?sheet|specification|documented|paper")


def sentences(page: Path) -> list[str]:
    """What a page says, without code, roles and directives."""
    text = page_worker.FENCE.sub("", page.read_text())
    text = re.sub(r"\{\w+\}`[^`]*`", "", text)
    return re.split(r"\n\s*\n|\n(?= *(?:[-*|]|\d+\.) ?)|(?<=[.;])\s+", text)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=name)
def test_no_figure_is_typed(page: Path) -> None:
    typed = [text for text in sentences(page) if FIGURE.search(text) and not SOURCE.search(text)]
    assert not typed, typed


def test_the_citation_has_the_version() -> None:
    page = (ROOT / "docs" / "citation.md").read_text()
    assert f"version = {{{moge_ops.__version__}}}" in page
