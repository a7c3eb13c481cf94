"""A real Studio (`python app.py`) and a real Chromium, with what the page says on its console and whom it asks."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
WAIT = 120_000  # milliseconds; a loaded machine is slow, not wrong
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running Studio that has the released checkpoints and no downloaded data set."""
    home, port = tmp_path_factory.mktemp("home"), free_port()
    environment = os.environ | {"CCE_STUDIO_HOME": str(home), "CCE_DATA": str(home / "data"), "HF_HUB_OFFLINE": "1"}
    address = f"http://127.0.0.1:{port}/"
    with open(home / "log.txt", "w+") as log:
        command = [sys.executable, "app.py", "--port", str(port)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until_served(address, process, home / "log.txt")
            yield address
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_until_served(address: str, process: subprocess.Popen, log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=30).close()
            return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(log.read_text())


@pytest.fixture(scope="session")
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
