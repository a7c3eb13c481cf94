"""The Train tab's promises, through a real browser: `python -m benchmarks.jobs`.

How much slower an attack is while a run trains, how soon a run stops, and how long a run on digits takes from the
click on Start to an ensemble that was attacked on the Attack tab.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradio_client import Client, handle_file

from benchmarks import reporting, serving
from cce.data import datasets as data
from cce.data.pictures import to_png
from cce.runs.background import alive
from cce.runs.queue import Jobs

if TYPE_CHECKING:
    from playwright.sync_api import Page

MOST_SLOWER, MOST_STOP, MOST_DIGITS = 3.0, 5.0, 60.0
_LONG = "phases.1.epochs=300"
_PATIENCE = 300.0  # seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = reporting.arguments(__doc__.splitlines()[0])
    parser.add_argument("--model", default="cifar10-resnet20-cce-dm", help="the ensemble that is attacked")
    parser.add_argument("--attacks", type=int, default=10, help="attacks with a run training, and as many without")
    options = parser.parse_args(arguments)
    with (
        serving.studio(options.threads) as served,
        runs_of(served) as jobs,
        tempfile.TemporaryDirectory() as folder,
        train_tab(served) as page,
    ):
        picture = Path(folder) / "picture.png"
        picture.write_bytes(to_png(data.samples(options.model.split("-")[0]).pixels()[0]))
        client = Client(served.url, verbose=False)

        def attack() -> None:
            client.predict(image=handle_file(picture), model=options.model, seed=options.seed, api_name="/attack")

        def state(name: str) -> str:
            return next((job.state for job in jobs.all() if job.name == name), "not there yet")

        def trains() -> bool:
            return state("long") == "running" and len(jobs.get("long").folder.metrics()) > 2

        attack()  # the first one loads the ensemble
        rows = [slower(attack, page, options.attacks, trains)]

        begun = time.perf_counter()
        page.locator("#train-stop").click()
        wait_until(lambda: state("long") == "stopped")
        rows.append({"what": "click on Stop to stopped", "seconds": time.perf_counter() - begun, "at most": MOST_STOP})

        begun = time.perf_counter()
        start(page, "short")
        wait_until(lambda: state("short") in ("finished", "failed"))
        trained = time.perf_counter() - begun
        use(page, "short")
        remark = f"trained after {trained:.1f} s; preset digits-quick; ends with an attack on it"
        seconds = time.perf_counter() - begun
        rows.append({"what": "click on Start to an ensemble in use", "seconds": seconds, "at most": MOST_DIGITS})
        rows[-1]["remark"] = remark
    reporting.report({}, rows, options.json)
    return 0


@contextmanager
def runs_of(served: serving.Served) -> Iterator[Jobs]:
    """Its runs, none of which outlives this."""
    jobs = Jobs(served.home / "runs")
    try:
        yield jobs
    finally:
        for job in jobs.all():
            if alive(job.record.get("pid"), job.record.get("pid_start")):
                os.kill(job.record["pid"], signal.SIGKILL)


@contextmanager
def train_tab(served: serving.Served) -> Iterator[Page]:
    """The Train tab in a browser."""
    from playwright.sync_api import sync_playwright

    named = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=named, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1366, "height": 900})
        page.set_default_timeout(1000 * _PATIENCE)
        page.goto(served.url)
        page.get_by_role("tab", name="Train", exact=True).click()
        page.wait_for_selector("#train-start")
        yield page
        browser.close()


def slower(attack: Callable[[], None], page: Page, count: int, training: Callable[[], bool]) -> dict[str, Any]:
    """Seconds of an attack without and with a run in training: medians, and their ratio."""
    idle = [seconds_of(attack) for _ in range(count)]
    start(page, "long", _LONG)
    wait_until(training)
    busy = [seconds_of(attack) for _ in range(count)]
    without, beside = statistics.median(idle), statistics.median(busy)
    words = f"median {without:.2f} s idle, {beside:.2f} s beside training, longest {max(busy):.2f} s; {count} of each"
    return {"what": "attack beside training", "ratio": beside / without, "at most": MOST_SLOWER, "remark": words}


def start(page: Page, name: str, setting: str = "") -> None:
    """Type a name, and one field more, and press Start."""
    page.locator("#train-name").get_by_role("textbox").fill(name)
    other = page.get_by_label("Any other field")
    if setting and not other.is_visible():
        page.get_by_role("button", name="More settings").click()
    if setting or other.is_visible():
        other.fill(setting)  # waits until it is unfolded
    shown = page.locator("#train-command textarea")
    wait_until(lambda: name in shown.input_value() and (setting.split("=")[0] in shown.input_value()), page)
    if not setting:
        wait_until(lambda: _LONG not in shown.input_value(), page)
    page.locator("#train-start").click()


def use(page: Page, name: str) -> None:
    """Take a finished run to the Attack tab and attack with it."""
    page.locator("#train-use:not([disabled])").click()
    page.get_by_role("tab", name="Attack", exact=True).click()
    page.locator("#model input").click()
    page.get_by_role("option", name=re.compile(f"run {name}")).click()
    page.get_by_text("Not measured yet").first.wait_for()
    page.locator("#attack-go:not([disabled])").click()
    page.locator("#verdict", has_text="PGD").wait_for()


def seconds_of(work: Callable[[], None]) -> float:
    """How long it takes once."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def wait_until(holds: Callable[[], bool], page: Page | None = None) -> None:
    """Look ten times a second.

    Raises:
        TimeoutError: it does not hold after five minutes.
    """
    end = time.monotonic() + _PATIENCE
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError("waited for five minutes in vain")
        page.wait_for_timeout(100) if page else time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
