"""The Train tab's listeners without a browser: what they return fits what is on the page."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest

from app.services.models import Registry
from app.services.training import Policy, Training
from app.studio import Studio
from app.tabs import training as tab
from app.tabs import training_form as form_tab
from cce.config import ConfigError, to_json
from cce.evaluation.presets import preset
from cce.runs.job import JobError
from cce.runs.queue import Jobs
from cce.runs.remote import Remote
from cce.training.run_folder import RunFolder


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Studio:
    monkeypatch.setattr(Jobs, "_spawn", lambda self, job: None)
    jobs = Jobs(tmp_path / "runs")
    return Studio(Registry([], "cpu", jobs.checkpoints), None, Training(jobs, Policy(), Remote(jobs)))


@pytest.fixture
def page(studio: Studio) -> tab._Page:
    made = tab._Page(studio)
    with gr.Blocks():
        made.form = form_tab.build(studio)
        made.lay_out(made.form)
        made.wire(made.form)
    return made


def typed(page: tab._Page, name: str, **changes) -> list:
    values = {key: component.value for key, component in page.form.fields.items()} | changes
    return ["here", "t4-small", "", name, page.form.base.value, "cpu", "", *values.values()]


def test_start_stop_resume_and_delete(page: tab._Page, studio: Studio):
    shown = len(page.watch.shown)
    result = page.started(*typed(page, "mine", lambda_dm=3))
    assert len(result) == 2 + shown and "mine waits in line" in result[1]
    assert studio.training.jobs.get("mine").config().defense.lambda_dm == 3
    assert len(page.stopped("mine")) == 1 + shown
    assert studio.training.jobs.get("mine").state == "stopped"
    assert len(page.resumed("mine", "")) == 1 + shown
    assert studio.training.jobs.get("mine").state == "queued"
    page.stopped("mine")
    assert len(page.renamed("mine", " yours ")) == 2 + shown
    assert "Delete the run yours" in page.asked("yours")[1]
    assert len(page.deleted("yours")) == 2 + shown
    assert studio.training.jobs.all() == []


def test_a_look_changes_nothing_where_nothing_changed(page: tab._Page):
    page.started(*typed(page, "mine"))
    stamp, *shown = page.looked(None, None)
    assert len(shown) == len(page.watch.shown)
    again = page.looked(None, stamp)
    assert len(again) == 1 + len(shown) and again == [gr.skip() for _ in again]
    assert page.looked("mine", stamp)[0] != stamp  # another run is chosen


def test_duplicate_fills_the_form_with_the_run(page: tab._Page, studio: Studio):
    page.started(*typed(page, "mine", epochs=7, lambda_pm=2))
    words, choice, name, lines, *values = page.duplicated("mine")
    filled = dict(zip(page.form.fields, values, strict=True))
    assert (filled["epochs"], filled["lambda_pm"], name, lines) == (7, 2, "mine-2", "")
    asked = form_tab.read(studio, name, "run: mine", "cpu", lines, *values)
    assert to_json(asked.config) == to_json(studio.training.jobs.get("mine").config())


def test_what_is_typed_wrong_starts_nothing(page: tab._Page, studio: Studio):
    with pytest.raises(ConfigError, match="Epochs is empty"):
        page.started(*typed(page, "mine", epochs=None))
    with pytest.raises(JobError, match="already an ensemble called digits-cce-rm"):
        page.started(*typed(page, "digits-cce-rm"))
    with pytest.raises(JobError, match="cannot be a run's name"):
        page.started(*typed(page, "../../x"))
    with pytest.raises(JobError, match="access token"):
        page.started("away", *typed(page, "far")[1:])
    assert studio.training.jobs.all() == []


def test_which_buttons_can_be_pressed(page: tab._Page, studio: Studio):
    def able(job) -> list[str]:
        buttons = zip(page.watch.buttons, page.buttons_of(job), strict=True)
        return [b.elem_id.removeprefix("train-") for b, update in buttons if update.interactive]

    assert able(None) == []
    page.started(*typed(page, "mine"))
    assert able(studio.training.jobs.get("mine")) == ["stop", "duplicate", "delete"]
    page.stopped("mine")
    assert able(studio.training.jobs.get("mine")) == ["resume", "duplicate", "delete", "rename"]


def test_the_latest_state_becomes_a_model_of_every_tab(page: tab._Page, studio: Studio):
    from cce.data import datasets as data
    from cce.training.trainer import Trainer

    config = preset("digits-quick")
    page.started(*typed(page, "mine"))
    page.stopped("mine")
    folder = RunFolder(studio.training.jobs.root / "mine")
    trainer = Trainer(config, data.load("digits"), folder, "cpu")
    trainer.save()
    said, *shown = page.used("mine")
    assert "mine is in the list of models on every tab now" in said and len(shown) == len(page.watch.shown)
    entry = next(e for e in studio.registry.entries() if e.run)
    assert entry.id == "mine" and entry.title.endswith("(run mine)")
    assert studio.registry.get("mine").detector is not None
    assert any(row["id"] == "mine" for row in studio.registry.summaries())


def test_the_whole_page_builds_with_training_off(tmp_path: Path):
    from app.interface import build

    off = Studio(
        Registry([], "cpu"), None, Training(Jobs(tmp_path), Policy(False, "Training is off."), Remote(Jobs(tmp_path)))
    )
    blocks = build(off).blocks.values()
    assert any("Training is off." in str(getattr(b, "value", "")) for b in blocks)
    assert [b.interactive for b in blocks if getattr(b, "elem_id", None) == "train-start"] == [False]


def test_without_a_run_duplicate_says_what_to_do(page: tab._Page):
    with pytest.raises(JobError, match="choose one in the list"):
        page.duplicated(None)


def test_a_folder_that_cannot_be_read_is_named_on_the_page(page: tab._Page, studio: Studio):
    page.started(*typed(page, "mine"))
    stamp, *_ = page.looked(None, None)
    RunFolder(studio.training.jobs.root / "bad").create({})
    (studio.training.jobs.root / "bad" / "job.json").write_text('{"remote": "x"}')
    anew = page.looked(None, stamp)
    assert any(isinstance(part, str) and "<b>bad</b>" in part and "remote" in part for part in anew)
