"""The built site: each page is reached, each link arrives, each message is found: `make docs`."""

import os
import re
from collections import Counter
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urldefrag

import page_worker
import pytest
from sphinx.search import js_index
from sphinx.search.en import SearchEnglish

import message_texts

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(os.environ.get("MOGE_DOCS_HTML", ROOT / "out" / "docs")).resolve()
ELSEWHERE = ("http://", "https://", "mailto:", "data:")


class Page(HTMLParser):
    """What is in one file."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids = Counter[str]()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.images: list[str | None] = []
        self.headings = Counter[str]()
        self.drawings = 0  # open ones, whose ids are for themselves
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.drawings += tag == "svg"
        if (name := found.get("id")) and not self.drawings:
            self.ids[name] += 1
        self.headings[tag] += tag == "h1"
        if tag in ("a", "form"):
            self.links += [each for each in (found.get("href"), found.get("action")) if each]
        elif tag in ("img", "link", "script", "source"):
            self.loaded += [each for each in (found.get("src"), found.get("href")) if each]
        if tag == "img":
            self.images.append(found.get("alt"))

    def handle_endtag(self, tag: str) -> None:
        self.drawings -= tag == "svg"


class Link(NamedTuple):
    page: Path
    text: str
    target: Path
    anchor: str


@cache
def pages() -> dict[Path, Page]:
    return {path: Page(path.read_text()) for path in sorted(SITE.rglob("*.html"))}


@cache
def links() -> list[Link]:
    """Those to files of the site, and what the pages load."""
    found = []
    for path, page in pages().items():
        for text in (*page.links, *page.loaded):
            if not text.startswith(ELSEWHERE):
                file, anchor = urldefrag(text.partition("?")[0])
                target = (path.parent / unquote(file)).resolve() if file else path
                found.append(Link(path, text, target, unquote(anchor)))
    return found


def name(path: Path) -> str:
    return str(path.relative_to(SITE))


def test_every_page_is_reached_from_the_first() -> None:
    to: dict[Path, set[Path]] = {path: set() for path in pages()}
    for link in links():
        to[link.page].add(link.target)
    waiting, reached = [SITE / "index.html"], set[Path]()
    while waiting:
        path = waiting.pop()
        if path in to and path not in reached:
            reached.add(path)
            waiting += to[path]
    assert sorted(map(name, pages().keys() - reached)) == []


def test_every_link_arrives() -> None:
    lost = [
        f"{name(page)}: {text}"
        for page, text, target, anchor in links()
        if not target.is_file()
        or (anchor and target in pages() and anchor not in pages()[target].ids)
    ]
    assert lost == []


def test_nothing_is_loaded_from_elsewhere() -> None:
    loaded = [
        f"{name(path)}: {text}"
        for path, page in pages().items()
        for text in page.loaded
        if text.startswith(("http://", "https://", "//"))
    ]
    for path in SITE.rglob("*.css"):
        loaded += re.findall(r"(?:url\(|@import) *[\"']?(?:https?:)?//[^)\"']+", path.read_text())
    assert loaded == []


@pytest.mark.parametrize("path", pages(), ids=name)
def test_a_page_has_one_heading_and_told_images(path: Path) -> None:
    page = pages()[path]
    assert page.headings["h1"] == 1
    # an empty text marks an image that tells nothing, as a logo beside its name
    assert None not in page.images
    assert [each for each, times in page.ids.items() if times > 1] == []


def test_every_message_is_found_by_search() -> None:
    index = js_index.loads((SITE / "searchindex.js").read_text())
    errors, language = index["docnames"].index("errors"), SearchEnglish({})

    @cache
    def documents(term: str) -> set[int]:
        """As performTermsSearch of searchtools.js: the word, or else words that hold it."""
        found = set[int]()
        for table in (index["terms"], index["titleterms"]):
            held = [table[each] for each in table if len(term) > 2 and term in each]
            for at in [table[term]] if term in table else held:
                found |= {at} if isinstance(at, int) else set(at)
        return found

    asked, lost = 0, []
    for message in message_texts.read()[0]:
        for text in (message.text, *(v for values in message.values.values() for v in values)):
            # what a user types: the words without what stands for a value of theirs
            words = language.split(message_texts.HOLE.sub(" ", text).lower())
            # as _parseQuery does, which leaves out stop words and numbers
            terms = {
                language.stem(word)
                for word in words
                if word not in language.stopwords and not word.isdigit()
            }
            asked += 1
            if not all(errors in documents(term) for term in terms):
                lost.append(f"{message.file}:{message.line}: {text}")
    assert lost == []
    assert asked > len(message_texts.read()[0])


def test_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    sources = sorted((ROOT / "docs").rglob("*.md"))
    blocks = [block for path in sources for block in page_worker.blocks(path.read_text())]
    kinds = Counter(
        "not run, with a reason"
        if block.reason
        else {"output": "compared outputs"}.get(block.language, "shown")
        if block.language in page_worker.SHOWN
        else "run"
        for block in blocks
    )
    elsewhere = [
        text
        for page in pages().values()
        for text in page.links
        if text.startswith(("http://", "https://"))
    ]
    with capsys.disabled():
        print(f"\n{len(pages())} pages of {len(sources)} sources")
        print(f"{len(blocks)} blocks: {', '.join(f'{n} {kind}' for kind, n in kinds.items())}")
        print(f"{len(links())} links within, {len(elsewhere)} to {len(set(elsewhere))} addresses")
        print(f"{len(message_texts.read()[0])} messages")
    assert pages()
    assert blocks
