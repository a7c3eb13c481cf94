"""The Train tab in a browser, with real trainers: they outlive the page and the app, and are never shown wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from cce import checkpoints
from cce.background import alive
from cce.job import Job
from cce.jobs import Jobs

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
WAIT = 60_000
TINY = ["model.members=1", "batch_size=32", "evaluate_images=20", "save_every=5", "phases.1.attack.steps=[1, 1]"]
SHORT = [*TINY, "phases.0.epochs=0.5", "phases.1.epochs=0.5"]
LONG = [*TINY, "phases.0.epochs=0.5", "phases.1.epochs=300", "evaluate_every=1.0"]
expect.set_options(timeout=WAIT)


class App:
    """A Studio of its own, that can be killed and started again on the same folder."""

    def __init__(self, home: Path, port: int, **environment: str) -> None:
        self.home, self.address = home, f"http://127.0.0.1:{port}/"
        self.environment = os.environ | {"CCE_STUDIO_HOME": str(home), "HF_HUB_OFFLINE": "1"} | environment
        self.command = [sys.executable, "app.py", "--port", str(port), "--device", "cpu"]
        self.jobs = Jobs(home / "runs")
        self.start()

    def start(self) -> None:
        log = (self.home / "log.txt").open("a")
        self.process = subprocess.Popen(
            self.command, cwd=ROOT, env=self.environment, stdout=log, stderr=subprocess.STDOUT
        )
        for _ in range(600):
            assert self.process.poll() is None, (self.home / "log.txt").read_text()
            try:
                urllib.request.urlopen(self.address, timeout=30).close()
                return
            except OSError:
                time.sleep(0.5)
        raise TimeoutError((self.home / "log.txt").read_text())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def wait_for(self, name: str, what: Callable[[Job], object], seconds: float = 300) -> Job:
        end = time.monotonic() + seconds
        while not what(job := self.jobs.get(name)):
            assert time.monotonic() < end, f"{job.state}, {job.error}\n" + "\n".join(job.log_tail(30))
            time.sleep(0.1)
        return job


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def apps(tmp_path: Path) -> Iterator[Callable[..., App]]:
    """Starts Studios; at the end they and their trainers are gone."""
    made: list[App] = []

    def start(**environment: str) -> App:
        made.append(App(tmp_path, free_port(), **environment))
        return made[-1]

    yield start
    for app in made:
        app.kill()
        for job in app.jobs.all():
            if alive(job.record.get("pid"), job.record.get("pid_start")):
                os.kill(job.record["pid"], signal.SIGKILL)


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens the Train tab in a context of its own."""
    contexts = []

    def go(app: App, width: int = 1366) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900})
        context.set_default_timeout(WAIT)
        contexts.append(context)
        page = context.new_page()
        page.goto(app.address)
        page.get_by_role("tab", name="Train", exact=True).click()
        page.wait_for_selector("#train-start")
        return page

    yield go
    for context in contexts:
        context.close()


def fill(page: Page, name: str, lines: list[str]) -> None:
    page.locator("#train-name").get_by_role("textbox").fill(name)
    if not page.get_by_label("Any other field").is_visible():
        page.get_by_role("button", name="More settings").click()
    page.get_by_label("Any other field").fill("\n".join(lines))
    expect(page.locator("#train-command textarea")).to_have_value(re.compile(rf"{re.escape(name)} .*phases\.1\.epochs"))


def press(page: Page, key: str) -> None:
    page.locator(f"#train-{key}").click()


def curve(page: Page, figure: str = "train-losses") -> list[float]:
    """The epochs that the first curve of a figure has points at."""
    script = f"Array.from(document.querySelector('#{figure} .studio-figure')?._fullData?.[0]?.x ?? [])"
    return page.evaluate(script)


def logged_epochs(app: App, name: str) -> list[float]:
    return [row["epoch"] for row in app.jobs.get(name).folder.metrics() if row["kind"] == "training"]


def test_a_run_survives_the_page_and_the_app(apps: Callable[..., App], visit: Callable[..., Page]):
    app = apps()
    page = visit(app)
    fill(page, "survivor", LONG)
    press(page, "start")
    expect(page.locator("#train-said")).to_contain_text("survivor")
    app.wait_for("survivor", lambda j: len(j.folder.metrics()) > 2)
    page.context.close()
    app.kill()
    pid = app.jobs.get("survivor").record["pid"]
    before = len(logged_epochs(app, "survivor"))
    app.wait_for("survivor", lambda j: len(logged_epochs(app, "survivor")) > before)  # on without page and app

    app.start()
    page = visit(app)
    expect(page.locator("#train-status")).to_contain_text("running")
    assert app.jobs.get("survivor").record["pid"] == pid
    page.wait_for_function(
        f"() => (document.querySelector('#train-losses .studio-figure')?._fullData?.[0]?.x?.length ?? 0) > {before}"
    )
    shown, logged = curve(page), logged_epochs(app, "survivor")
    assert shown == pytest.approx(logged[: len(shown)])

    began = time.monotonic()
    press(page, "stop")
    app.wait_for("survivor", lambda j: j.state == "stopped", 10)
    stopped_after = time.monotonic() - began
    expect(page.locator("#train-status")).to_contain_text("stopped")
    print(f"stopped after {stopped_after:.1f} s")

    press(page, "resume")
    app.wait_for("survivor", lambda j: j.state == "running" and j.status.get("pid") == j.record.get("pid"))
    job = app.jobs.get("survivor")
    os.kill(job.record["pid"], signal.SIGKILL)
    began = time.monotonic()
    expect(page.locator("#train-status")).to_contain_text("killed", timeout=WAIT)
    print(f"shown as failed after {time.monotonic() - began:.1f} s")
    expect(page.locator("#train-log")).not_to_contain_text("empty")
    expect(page.locator("#train-stop")).to_be_disabled()

    page.get_by_role("button", name="Export, publish").click()
    press(page, "delete")
    expect(page.locator("#train-question")).to_contain_text("Delete the run survivor for good")
    press(page, "really")
    expect(page.locator("#train-none")).to_contain_text("No run yet")
    assert app.jobs.all() == []


def test_a_run_becomes_an_ensemble_of_every_tab(apps: Callable[..., App], visit: Callable[..., Page]):
    app = apps()
    page = visit(app)
    fill(page, "made-here", SHORT)
    press(page, "start")
    expect(page.locator("#train-said")).to_contain_text("made-here")
    app.wait_for("made-here", lambda j: j.state == "finished")
    expect(page.locator("#train-status")).to_contain_text("finished")
    press(page, "use")
    expect(page.locator("#train-said")).to_contain_text("made-here is in the list of models on every tab")
    page.get_by_role("button", name="Export, publish").click()
    press(page, "zip")
    expect(page.locator("#train-save")).to_contain_text("made-here.zip")
    with page.expect_download() as download:
        press(page, "save")
    import zipfile

    folder = app.home / "unpacked"
    zipfile.ZipFile(download.value.path()).extractall(folder)
    assert checkpoints.load(folder / "made-here").id == "made-here"
    page.get_by_role("tab", name="Attack", exact=True).click()
    page.locator("#model input").click()
    page.get_by_role("option", name=re.compile(r"run made-here")).click()
    expect(page.locator("#model-summary")).to_contain_text("Not measured yet")
    page.locator("#attack-go").click()
    expect(page.locator("#verdict")).to_contain_text("PGD")


def test_two_browsers_start_at_once_one_runs_one_waits(apps: Callable[..., App], visit: Callable[..., Page]):
    app = apps()
    one, two = visit(app), visit(app)
    fill(one, "one", LONG)
    fill(two, "two", LONG)
    press(one, "start")
    press(two, "start")
    for page in (one, two):
        expect(page.locator("#train-said")).to_contain_text(re.compile("has started|waits in line"))
    assert sorted(job.state for job in app.jobs.all()) == ["queued", "running"]
    expect(two.locator("#train-runs")).to_contain_text("next in line")


def test_names_that_cannot_be_are_refused_in_words(apps: Callable[..., App], visit: Callable[..., Page]):
    app = apps()
    page = visit(app)
    (app.home / "runs" / "taken").mkdir(parents=True)
    refused = {
        "../../x": "cannot be a run's name",
        "y" * 300: "300 characters",
        "taken": "already a run called taken",
        "digits-cce-rm": "already an ensemble called digits-cce-rm",
    }
    for name, words in refused.items():
        page.locator("#train-name").get_by_role("textbox").fill(name)
        press(page, "start")
        expect(page.locator(".toast-body").last).to_contain_text(words)
        assert "Traceback" not in page.content()
    assert app.jobs.all() == []


def test_a_public_space_does_not_train(apps: Callable[..., App], visit: Callable[..., Page]):
    app = apps(SPACE_ID="someone/cce-studio", SYSTEM="none")
    page = visit(app)
    page.set_viewport_size({"width": 390, "height": 844})
    expect(page.locator("#training-off")).to_contain_text("CCE_STUDIO_TRAINING to 1")
    expect(page.locator("#train-start")).to_be_disabled()
    page.wait_for_function("document.documentElement.scrollWidth === 390")


def test_runs_are_endpoints_to_look_at_only(apps: Callable[..., App]):
    from gradio_client import Client

    app = apps()
    folder = app.jobs.root / "old"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    client = Client(app.address, verbose=False)
    rows = client.predict(api_name="/runs")
    assert [(row["id"], row["state"]) for row in rows] == [("old", "stopped")]
    assert client.predict("old", api_name="/run")["log"] == []
    names = json.dumps(client.view_api(return_format="dict"))
    for word in ("start", "stop", "delete", "rename", "push", "resume"):
        assert f"/{word}" not in names
