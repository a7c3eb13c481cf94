"""The Train tab in a browser, with real trainers: they outlive the page and the app, and are never shown wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from cce.checkpoints import folder as checkpoints
from cce.runs.background import alive
from cce.runs.job import Job
from cce.runs.queue import Jobs
from running_studio import RunningStudio
from studio_page import WAIT, put

pytestmark = [pytest.mark.browser, pytest.mark.slow]

TINY = ["model.members=1", "batch_size=32", "evaluate_images=20", "save_every=5", "phases.1.attack.steps=[1, 1]"]
SHORT = [*TINY, "phases.0.epochs=0.5", "phases.1.epochs=0.5"]
LONG = [*TINY, "phases.0.epochs=0.5", "phases.1.epochs=300", "evaluate_every=1.0"]


class App(RunningStudio):
    """A Studio with its runs."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.jobs = Jobs(home / "runs")
        super().__init__(home, "--device", "cpu", **environment)

    def wait_for(self, name: str, what: Callable[[Job], object], seconds: float = 300) -> Job:
        end = time.monotonic() + seconds
        while not what(job := self.jobs.get(name)):
            assert time.monotonic() < end, f"{job.state}, {job.error}\n" + "\n".join(job.log_tail(30))
            time.sleep(0.1)
        return job

    def end_trainers(self) -> None:
        for job in self.jobs.all():
            if alive(job.record.get("pid"), job.record.get("pid_start")):
                os.kill(job.record["pid"], signal.SIGKILL)


@pytest.fixture(scope="module")
def shared_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    made = App(tmp_path_factory.mktemp("trains"))
    yield made
    made.end()


@pytest.fixture
def app(shared_app: App) -> Iterator[App]:
    """A Studio without runs; at the end they and their trainers are gone."""
    yield shared_app
    for job in shared_app.jobs.all():  # the line first: a trainer that ends starts the next
        if job.state == "queued":
            shared_app.jobs.stop(job.name)
    shared_app.end_trainers()
    end = time.monotonic() + 60
    while any(job.live for job in shared_app.jobs.all()):
        assert time.monotonic() < end
        time.sleep(0.05)
    shutil.rmtree(shared_app.jobs.root, ignore_errors=True)


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


def test_a_run_survives_the_page_and_the_app(app: App, visit: Callable[..., Page]):
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


def test_a_run_becomes_an_ensemble_of_every_tab(app: App, visit: Callable[..., Page]):
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


def test_an_own_folder_is_chosen_trained_on_and_attacked_in_one_sitting(app: App, visit: Callable[..., Page]):
    pets = app.home / "my pets"
    for name, red in (("ant", 20), ("cat", 200)):
        (pets / name).mkdir(parents=True)
        for i in range(60):
            Image.new("RGB", (20, 20), (red, 2 * i, 255 - red)).save(pets / name / f"{i}.png")
    page = visit(app)
    data_set = page.locator("#train-dataset input")
    data_set.fill(str(pets))
    data_set.press("Enter")
    fill(page, "pets-run", SHORT)
    expect(page.locator("#train-command textarea")).to_have_value(re.compile("--data-dir"))
    press(page, "start")
    expect(page.locator("#train-said")).to_contain_text("pets-run")
    job = app.wait_for("pets-run", lambda j: j.state in ("finished", "failed"))
    assert job.state == "finished", job.error
    expect(page.locator("#train-status")).to_contain_text("finished")
    press(page, "use")
    expect(page.locator("#train-said")).to_contain_text("pets-run is in the list of models on every tab")
    page.get_by_role("tab", name="Attack", exact=True).click()
    page.locator("#model input").click()
    page.get_by_role("option", name=re.compile(r"run pets-run")).click()
    expect(page.locator("#gallery-note")).to_contain_text("Pictures of 'my pets' that no model here was trained on")
    expect(page.locator("#class-filter input")).to_have_value(re.compile("all classes"))
    page.locator("#attack-go").click()
    expect(page.locator("#verdict")).to_contain_text("PGD")
    expect(page.locator("#verdict")).to_contain_text(re.compile("true class (ant|cat)"))


def test_two_browsers_start_at_once_one_runs_one_waits(app: App, visit: Callable[..., Page]):
    one, two = visit(app), visit(app)
    fill(one, "one", LONG)
    fill(two, "two", LONG)
    press(one, "start")
    press(two, "start")
    for page in (one, two):
        expect(page.locator("#train-said")).to_contain_text(re.compile("has started|waits in line"))
    assert sorted(job.state for job in app.jobs.all()) == ["queued", "running"]
    expect(two.locator("#train-runs")).to_contain_text("next in line")


def test_bad_names_are_refused_in_words_and_the_form_keeps_what_was_typed_until_a_preset_is_chosen(
    app: App, visit: Callable[..., Page]
):
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
    seed = page.locator("#train-seed input")
    put(seed, "11")
    for name in ("base", "dataset"):
        page.locator(f"#train-{name} input").focus()
        page.keyboard.press("Tab")
    page.wait_for_timeout(500)
    expect(seed).to_have_value("11")
    page.locator("#train-base input").click()
    page.get_by_role("option", name=page.locator("#train-base input").input_value(), exact=True).click()
    expect(seed).to_have_value("0")  # the same one again: from its start
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("document.documentElement.scrollWidth === 390")


def test_runs_are_endpoints_to_look_at_only(app: App):
    from gradio_client import Client

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
