"""Check the built site: links, images, names, and in a browser every page, the search and the widths.

python docs/check.py build/docs [--screenshots FOLDER] [--only WORD]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WIDTHS = (400, 1600)
SEARCHES = {"AdamW": "AdamW", "clip_norm": "training step"}  # words, and the title of a page that must be found
LOADED = {"img": "src", "script": "src", "link": "href", "source": "src", "iframe": "src"}


# The images that did not load, and the first element of the text that reaches beyond the window.
MEASURE = """
const scrolls = e => e && (['auto', 'scroll'].includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
const wide = [...document.querySelectorAll('.bd-article *')].find(
    e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1 && e.checkVisibility()
         && !scrolls(e.parentElement));
return [[...document.images].filter(i => (i.loading = 'eager') && i.complete && !i.naturalWidth).map(i => i.src),
        wide ? wide.tagName + ': ' + wide.textContent.slice(0, 60) : ''];
"""


class Page(HTMLParser):
    """The anchors of a page, its links, and the files that it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep what an element refers to."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        if values.get("rel") not in ("canonical", "index", "search", "next", "prev") and (
            url := values.get(LOADED.get(tag, ""))
        ):
            self.loaded.add(url)


def pages_of(site: Path) -> list[Path]:
    """Return the pages of a site, without templates of its theme."""
    return sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)


def broken_links(site: Path) -> Iterator[str]:
    """Return a line for each link or file within the site that is missing, and for each file loaded from elsewhere."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in pages_of(site)}
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        yield from (f"{name}: loads {url}" for url in page.loaded if "//" in url)
        for url in sorted(page.links | page.loaded):
            parts = urllib.parse.urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                yield f"{name}: {url} is missing"
            elif (
                parts.fragment and target in pages and urllib.parse.unquote(parts.fragment) not in pages[target].anchors
            ):
                yield f"{name}: {url}: the page has no such place"


def missing_names(site: Path) -> Iterator[str]:
    """Return a line for each public name that the reference does not describe, and each rule without an equation."""
    from sphinx.util.inventory import InventoryFile

    import fastopt
    from fastopt import schedules

    described = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="").data
    names = {name for kind, entries in described.items() if kind.startswith("py:") for name in entries}
    public = [f"fastopt.{name}" for name in fastopt.__all__] + [
        f"fastopt.schedules.{name}" for name in schedules.__all__
    ]
    yield from (
        f"{name} is not in the reference"
        for name in public
        if not any(f"{one}.".startswith(f"{name}.") for one in names)
    )
    for page in sorted(site.glob("api/generated/*.html")):
        if "<math" not in page.read_text(encoding="utf-8"):
            yield f"{page.relative_to(site)} has no equation"


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that prints nothing."""

    def log_message(self, *message: Any) -> None:
        """Print nothing."""


def browser() -> Any:
    """Return Chromium without a window, or None where it is not installed."""
    try:
        from selenium import webdriver
    except ImportError:
        return None
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        return None
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def faults_in_browser(driver: Any, base: str, pages: list[str], screenshots: Path | None) -> Iterator[str]:
    """Return a line for each error of a page, image that does not load, and page that is wider than the window."""
    for page in pages:
        driver.get(base + page)
        for entry in driver.get_log("browser"):
            if entry["level"] != "INFO":
                yield f"{page}: {entry['level']}: {entry['message']}"
        for width in WIDTHS:
            size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            images, wide = driver.execute_script(MEASURE)
            yield from (f"{page}: {image} is no image" for image in images)
            if wide:
                yield f"{page}: beyond a window {width} pixels wide: {wide}"
            if screenshots:
                take(driver, screenshots / page.replace("/", "_").removesuffix(".html"), width)


def take(driver: Any, name: Path, width: int) -> None:
    """Write a picture of the whole page, light and dark."""
    import base64

    for theme in ("light", "dark"):
        driver.execute_script(
            f"document.documentElement.dataset.theme = '{theme}';"
            "document.documentElement.insertAdjacentHTML('beforeend', '<style>* {transition: none !important}</style>')"
        )
        height = min(driver.execute_script("return document.documentElement.scrollHeight"), 5000)
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        picture = driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
        Path(f"{name}-{width}-{theme}.png").write_bytes(base64.b64decode(picture["data"]))


def faults_of_search(driver: Any, base: str) -> Iterator[str]:
    """Return a line for each search that does not find its page."""
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver.support.ui import WebDriverWait

    for words, title in SEARCHES.items():
        driver.get(f"{base}search.html?q={urllib.parse.quote(words)}")
        results = "return [...document.querySelectorAll('ul.search li a')].map(a => a.textContent)"
        wanted = f"{results}.some(text => text.includes({title!r}))"
        try:
            WebDriverWait(driver, 30).until(lambda driver, wanted=wanted: driver.execute_script(wanted))
        except TimeoutException:
            yield f"search for {words}: {title!r} is not among {driver.execute_script(results)[:10]}"


def main() -> int:
    """Print the faults, and return 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path)
    parser.add_argument("--screenshots", type=Path, help="a folder for pictures of every page")
    parser.add_argument("--only", default="", help="open pages with this word in their path alone")
    given = parser.parse_args()
    faults = [*broken_links(given.site), *missing_names(given.site)]
    pages = [str(path.relative_to(given.site)) for path in pages_of(given.site)]
    pages = [page for page in pages if given.only in page]
    driver = browser()
    if driver:
        if given.screenshots:
            given.screenshots.mkdir(parents=True, exist_ok=True)
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(given.site)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}/"
        try:
            faults += [*faults_in_browser(driver, base, pages, given.screenshots), *faults_of_search(driver, base)]
        finally:
            driver.quit()
            server.shutdown()
    print("\n".join(faults))
    opened = f"{len(pages)} pages opened in Chromium" if driver else "no browser: chromium or selenium is not installed"
    print(f"{opened}; {len(faults)} faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
