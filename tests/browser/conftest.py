"""A real Studio (`python app.py`) and a real Chromium, with what the page says on its console and whom it asks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from running_studio import RunningStudio
from studio_page import WAIT

CHROMIUM_SWITCHES = [
    *("--no-sandbox", "--disable-quic", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
]
expect.set_options(timeout=WAIT)

# Chromium's own remarks on how Plotly reads its canvas back; Gradio's client closing the progress of an upload.
KNOWN_NOISE = ("Canvas2D: Multiple readback operations", "GL Driver Message", "Method not implemented.")


def chromium() -> str | None:
    """The browser to drive; None is Playwright's own."""
    installed = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    return os.environ.get("CHROMIUM") or next(filter(None, installed), None)


# `package`: gone with the last test of this folder; with the browser goes the event loop that Playwright runs.
@pytest.fixture(scope="package")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running Studio that has the released checkpoints and no downloaded data set."""
    running = RunningStudio(tmp_path_factory.mktemp("home"))
    yield running.address
    running.end()


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_SWITCHES)
        yield running
        running.close()


# What Gradio's client says of the requests that a page breaks off as it is left for another, or loaded anew.
LEAVING_NOISE = ("AbortError: signal is aborted", "Connection errored out", "network error", "Failed to fetch")


@dataclass
class Watched:
    """A page with what it said on the console, which hosts it asked, and how often it was loaded."""

    page: Page
    console: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    loads: int = 0

    def loaded(self) -> None:
        self.loads += 1

    def check(self, address: str) -> None:
        """No error or warning but the known noise; no request to another host."""
        noises = KNOWN_NOISE + (LEAVING_NOISE if self.loads > 1 else ())
        wrong = [text for text in self.console if not any(noise in text for noise in noises)]
        assert not wrong
        assert self.hosts == {urlsplit(address).netloc}


@pytest.fixture
def open_page(browser: Browser, studio: str) -> Iterator[Callable[..., Page]]:
    """Opens the Studio in a window of some width; at the end every page's console and requests are checked."""
    opened: list[Watched] = []

    def open_one(width: int = 1366, height: int = 768, color_scheme: str = "light", query: str = "") -> Page:
        viewport = {"width": width, "height": height}
        context = browser.new_context(viewport=viewport, color_scheme=color_scheme, accept_downloads=True)
        context.set_default_timeout(WAIT)
        watched = Watched(context.new_page())
        opened.append(watched)
        page = watched.page
        page.on("console", lambda m: watched.console.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: watched.console.append(str(error)))
        page.on("request", lambda r: watched.hosts.add(urlsplit(r.url).netloc) if r.url.startswith("http") else None)
        page.on("domcontentloaded", lambda _: watched.loaded())
        page.goto(studio + query)
        page.wait_for_selector("#probabilities .main-svg")
        return page

    yield open_one
    for watched in opened:
        watched.page.context.close()
        watched.check(studio)
