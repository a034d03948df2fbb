"""Looks at every page of the built site in Chromium: `make docs-look`.

Each page is opened once and seen four times: 1440 and 390 pixels wide, light and dark. Each time it
is photographed, measured (`look.js`) and given to axe-core. Then a page of each kind is used by
keyboard: its focus, its menus, its theme, the search. All findings fail, but for axe's minor and
moderate ones. The site is served here, and a request to any other host is a finding.
"""

import argparse
import asyncio
import functools
import http.server
import shutil
import sys
import tarfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from playwright.async_api import Browser, BrowserContext, Error, Page, async_playwright

STATES = [(width, theme) for width in (1440, 390) for theme in ("light", "dark")]
# listings of source are all alike
STATES_OF_SOURCE = [(1440, "light"), (390, "dark")]
FAILING = {"serious", "critical"}
# taller pictures repeat themselves: the height of a texture
TALLEST = 16_000
# one page of each kind, walked through by keyboard
KINDS = ["index", "operators/index", "operators/grouped_gate", "api/index", "search", "genindex"]

SCRIPT = Path(__file__).with_suffix(".js").read_text()


class Finding(NamedTuple):
    """What is wrong, where, and the particulars."""

    kind: str
    page: str
    where: str
    detail: str


class Seen:
    """What was counted and found, over all pages."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.passed: set[str] = set()
        self.undecided: Counter[str] = Counter()
        self.failures: list[Finding] = []
        self.remarks: list[Finding] = []

    def fail(self, kind: str, page: str, where: str, detail: str = "") -> None:
        """Count a finding that fails the run."""
        self.failures.append(Finding(kind, page, where, detail))


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address under which a folder is served."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


class Looker:
    """A browser, the address of the site and what was seen."""

    def __init__(self, browser: Browser, home: str, axe: str, out: Path, seen: Seen) -> None:
        self.browser, self.home, self.axe, self.out, self.seen = browser, home, axe, out, seen

    async def context(self, width: int = 1440, theme: str = "light") -> BrowserContext:
        """A browser that nobody has used, without motion."""
        context = await self.browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if theme == "dark" else "light",
            reduced_motion="reduce",
        )
        await context.add_init_script(SCRIPT)
        return context

    async def opened(self, context: BrowserContext, name: str) -> Page:
        """A page, whose errors and requests are watched."""
        page = await context.new_page()
        fail = self.seen.fail
        page.on("pageerror", lambda error: fail("script error", name, "", str(error)))
        page.on(
            "console",
            lambda said: said.type == "error" and fail("console error", name, "", said.text),
        )
        # what is fetched ahead is given up when the page is left
        page.on(
            "requestfailed",
            lambda asked: (
                asked.failure == "net::ERR_ABORTED"
                or fail("request failed", name, asked.url, str(asked.failure))
            ),
        )
        page.on(
            "request",
            lambda asked: (
                asked.url.startswith((self.home, "data:"))
                or fail("request to another host", name, asked.url)
            ),
        )
        page.on(
            "response",
            lambda came: (
                came.status < 400 or fail("request failed", name, came.url, str(came.status))
            ),
        )
        path, _, query = name.partition("?")
        await page.goto(f"{self.home}{path}.html{'?' + query if query else ''}")
        if query:
            await page.wait_for_selector("ul.search li")
        return page

    async def look(self, name: str) -> None:
        """Photograph, measure and judge a page in each state."""
        context = await self.context()
        page = await self.opened(context, name)
        await page.evaluate(self.axe)
        file = name.replace("?q=", "-")
        for width, theme in STATES_OF_SOURCE if name.startswith("_modules/") else STATES:
            state = f"{name} {width} {theme}"
            await page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
            await page.set_viewport_size({"width": width, "height": 900})
            await page.evaluate("look.settled()")
            for kind, where, detail in await page.evaluate("look.measure()"):
                self.seen.fail(kind, state, where, detail)
            self.judge(state, await page.evaluate("look.judge()"))
            height = await page.evaluate("document.documentElement.scrollHeight")
            shot = self.out / f"{file}-{width}-{theme}.png"
            shot.parent.mkdir(parents=True, exist_ok=True)
            clip: Any = {"x": 0, "y": 0, "width": width, "height": min(height, TALLEST)}
            await page.screenshot(path=shot, full_page=True, clip=clip)
            self.seen.counts["pictures"] += 1
            self.seen.counts["pictures cut at the bottom"] += height > TALLEST
        self.seen.counts["pages"] += 1
        await context.close()

    def judge(self, state: str, result: dict[str, Any]) -> None:
        """Count what axe found."""
        self.seen.counts["axe runs"] += 1
        self.seen.passed |= set(result["passes"])
        self.seen.undecided.update(result["incomplete"])
        for rule in result["violations"]:
            into = self.seen.failures if rule["impact"] in FAILING else self.seen.remarks
            self.seen.counts[f"axe, {rule['impact']}"] += len(rule["nodes"])
            into += [Finding(f"axe {rule['id']}", state, *node) for node in rule["nodes"]]

    async def walk(self, page: Page, name: str, most: int) -> list[str]:
        """Press Tab through a page; the parts that had focus, in their order, each once."""
        await page.evaluate("look.remember()")
        parts: list[str] = []
        for _ in range(most):
            await page.keyboard.press("Tab")
            at = await page.evaluate("look.focus()")
            if at is None or not at["first"]:
                break
            self.seen.counts["elements that had focus"] += 1
            if at["part"] not in parts:
                parts.append(at["part"])
            if not at["visible"]:
                self.seen.fail("focus not visible", name, at["name"])
            if not at["inside"]:
                self.seen.fail("focus out of sight", name, at["name"])
        return parts

    async def until(self, page: Page, name: str, part: str) -> bool:
        """Press Tab until a part has focus."""
        await page.evaluate("look.remember()")
        for _ in range(200):
            await page.keyboard.press("Tab")
            if ((await page.evaluate("look.focus()")) or {}).get("part") == part:
                return True
        self.seen.fail("not reached by keyboard", name, part)
        return False

    async def keys(self, name: str) -> None:
        """Use a page without a mouse."""
        for width in (1440, 390):
            state = f"{name} {width}"
            context = await self.context(width)
            page = await self.opened(context, name)
            parts = await self.walk(page, state, 600)
            wide = ["skip link", "search field", "navigation", "theme"]
            # a search without words and an index may hold nothing
            wanted = (wide if width == 1440 else ["menu", "skip link", "theme"]) + (
                ["content"] if name not in ("search", "genindex") else []
            )
            for part in set(wanted) - set(parts):
                self.seen.fail("not reached by keyboard", state, part)
            if width == 1440 and parts[:1] != ["skip link"]:
                self.seen.fail("skip link is not first", state, " ".join(parts))
            await page.reload()
            if await self.until(page, state, "skip link"):
                await page.keyboard.press("Enter")
                await page.keyboard.press("Tab")
                after = await page.evaluate("look.focus()")
                if after and after["part"] not in ("content", "footer", "this page"):
                    self.seen.fail("skip link does not skip", state, after["name"])
            if width == 390:
                await self.menu(page, state)
            await context.close()
        self.seen.counts["pages used by keyboard"] += 1

    async def menu(self, page: Page, state: str) -> None:
        """Open the navigation of a telephone, go into it, and close it."""
        await page.reload()
        if await self.until(page, state, "menu"):
            await page.keyboard.press("Space")
            await page.evaluate("look.settled()")
            if not await self.until(page, state, "navigation"):
                return
            if not (await page.evaluate("look.focus()"))["inside"]:
                self.seen.fail("focus out of sight", state, "menu")

    async def themes(self, name: str) -> None:
        """Change the theme by keyboard; both ways to dark must give one picture."""
        context = await self.context(theme="dark")
        page = await self.opened(context, name)
        by_system = await page.evaluate("look.colours()")
        await page.emulate_media(color_scheme="light")
        ways = set()
        for _ in range(3):
            await page.reload()
            if not await self.until(page, name, "theme"):
                break
            await page.keyboard.press("Enter")
            await page.evaluate("look.settled()")
            theme = await page.evaluate("document.body.dataset.theme")
            ways.add(theme)
            if theme == "dark":
                await page.evaluate("document.activeElement.blur()")
                for a, b in zip(by_system, await page.evaluate("look.colours()"), strict=True):
                    if a != b and "theme" not in a:
                        self.seen.fail("dark differs by system and by button", name, a, b)
        if ways != {"light", "dark", "auto"}:
            self.seen.fail("theme does not change by keyboard", name, " ".join(sorted(ways)))
        await context.close()

    async def search(self, words: str) -> None:
        """Find a page by keyboard."""
        context = await self.context()
        page = await self.opened(context, "index")
        if await self.until(page, "search", "search field"):
            await page.keyboard.type(words)
            await page.keyboard.press("Enter")
            try:
                await page.wait_for_selector("ul.search li a", timeout=10_000)
            except Error:
                self.seen.fail("search finds nothing", "search", words)
            else:
                self.seen.counts["search results"] = await page.locator("ul.search li").count()
                if await self.until(page, "search", "result"):
                    await page.keyboard.press("Enter")
                    await page.wait_for_url("**/*.html*")
                    await page.wait_for_load_state()
                    text = await page.inner_text("article")
                    if "search.html" in page.url or words not in text:
                        self.seen.fail("search opens another page", "search", page.url)
        await context.close()


async def looked(folder: Path, axe: str, out: Path, only: list[str], chromium: str) -> Seen:
    """Look at all pages, four at a time."""
    names = sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.html"))
    names = [name for name in names if not only or any(map(name.startswith, only))]
    seen = Seen()
    for kind in set() if only else set(KINDS) - set(names):
        seen.fail("page is missing", kind, "")
    with served(folder) as home:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path=chromium,
                args=["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
            )
            looker = Looker(browser, home, axe, out, seen)
            tasks = [functools.partial(looker.look, name) for name in names]
            if "search" in names:
                tasks += [functools.partial(looker.look, "search?q=grouped_gate")]
                tasks += [functools.partial(looker.search, "grouped_gate")]
            tasks += [functools.partial(looker.keys, name) for name in KINDS if name in names]
            tasks += [functools.partial(looker.themes, name) for name in KINDS if name in names]

            async def work() -> None:
                while tasks:
                    task = tasks.pop(0)
                    try:
                        await task()
                    except Error as error:
                        seen.fail("not looked at", task.args[0], task.func.__name__, str(error))

            await asyncio.gather(*(work() for _ in range(4)))
            await browser.close()
    return seen


def told(findings: list[Finding], most: int) -> Iterator[str]:
    """A line for each kind, and below it where it was found most often."""
    kinds: dict[str, dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for finding in findings:
        kinds[finding.kind][finding.where, finding.detail].append(finding.page)
    for kind, places in sorted(kinds.items()):
        yield f"  {kind}: {len(places)} places"
        often = sorted(places.items(), key=lambda item: -len(item[1]))
        for (where, detail), pages in often[:most]:
            more = f" and {len(pages) - 1} more" if len(pages) > 1 else ""
            yield f"    {where} {detail} [{pages[0]}{more}]"
        if len(often) > most:
            yield f"    and {len(often) - most} more"


def main() -> int:
    """Look, and tell what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("out/docs"))
    parser.add_argument("--axe", type=Path, required=True, help="axe-core, as npm packs it")
    parser.add_argument("--out", type=Path, default=Path("out/look"), help="folder of the pictures")
    parser.add_argument("--only", action="append", default=[], help="pages whose name begins so")
    parser.add_argument("--most", type=int, default=8, help="places to print of each kind")
    options = parser.parse_args()
    chromium = shutil.which("chromium")
    if not chromium:
        print("no Chromium here: apt-get install chromium", file=sys.stderr)
        return 2
    with tarfile.open(options.axe) as package:
        axe = package.extractfile("package/axe.min.js").read().decode()  # type: ignore[union-attr]
    start = time.monotonic()
    seen = asyncio.run(looked(options.folder, axe, options.out, options.only, chromium))
    for impact in ("critical", "serious", "moderate", "minor"):
        seen.counts.setdefault(f"axe, {impact}", 0)
    seen.counts["rules of axe passed somewhere"] = len(seen.passed)
    seen.counts["seconds"] = round(time.monotonic() - start)
    for name, count in sorted(seen.counts.items()):
        print(f"{count:6} {name}")
    undecided = ", ".join(f"{name} {count}" for name, count in seen.undecided.most_common())
    print(f"axe left to a person: {undecided or 'nothing'}")
    for title, findings in (("remarks", seen.remarks), ("failures", seen.failures)):
        print(f"{title}: {len(findings)}", *told(findings, options.most), sep="\n")
    return bool(seen.failures)


if __name__ == "__main__":
    sys.exit(main())
