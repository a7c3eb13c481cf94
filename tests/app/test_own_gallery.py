"""An ensemble of one's own folder is shown in the Studio as any other: at start, in the tabs, at the endpoints."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from app import interface
from app.services import detection, training_form, transferability
from app.services.models import Registry
from app.services.training import Policy, Training
from app.services.training import detail as run_detail
from app.studio import Studio
from app.tabs import picture_picker
from cce.checkpoints import folder as checkpoints
from cce.checkpoints.folder import Checkpoint, training_record
from cce.config import CCE_DM, AttackConfig, ConfigError, Detector, to_json
from cce.data import class_folders
from cce.data.datasets import DataError
from cce.evaluation.presets import preset
from cce.runs.queue import Jobs
from cce.training.run_folder import RunFolder


@pytest.fixture
def pets(tmp_path):
    """Two classes of 60 pictures, no two alike."""
    for name, red in (("ant", 20), ("cat", 200)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(60):
            Image.new("L", (12, 10), red + i % 30).resize((12 + i, 10)).save(tmp_path / "pets" / name / f"{i:03}.png")
    return tmp_path / "pets"


@pytest.fixture
def run(pets, fresh, tmp_path, monkeypatch):
    """A run folder with the ensemble that it made."""
    monkeypatch.setenv("CCE_STUDIO_HOME", str(tmp_path / "home"))
    model = fresh(2, classes=2).eval()
    config = replace(preset("digits-nat"), dataset="pets", data_dir=str(pets), model=model.config)
    folder = RunFolder(tmp_path / "runs" / "pets")
    folder.create(to_json(config))
    record = training_record(config, 1, 1.0, torch.device("cpu"))
    detector = Detector(0.5, 0.05, "numbers", 10)
    made = Checkpoint("pets", model, "pets", ("ant", "cat"), CCE_DM, record, detector)
    made.pictures = class_folders.load(pets, model.config.input_shape).record
    checkpoints.save(made, folder.checkpoint)
    return folder


@pytest.fixture
def studio(run, tmp_path):
    jobs = Jobs(tmp_path / "elsewhere")
    return Studio(Registry([run.checkpoint], "cpu"), training=Training(jobs, Policy()))


def test_the_gallery_holds_the_held_out_pictures(studio, pets):
    made = studio.registry.get("pets")
    found = studio.collection(made)
    expected = class_folders.load(pets, made.model.config.input_shape).detection_test
    assert torch.equal(found.split.images, expected.images)
    assert "that no model here was trained on" in found.note and not found.wants_folder
    assert studio.collection(made) is found  # read once


def test_a_changed_folder_is_told_and_read_again(studio, pets):
    before = studio.collection(studio.registry.get("pets"))
    for i in range(12):
        Image.new("L", (99 + i, 10), i).save(pets / "ant" / f"+{i}.png")
    after = studio.collection(studio.registry.get("pets"))
    assert "The folder has changed since training: 12 pictures are new" in after.note
    assert len(after.split) >= len(before.split)


def test_the_whole_page_is_built_with_it_alone(studio):
    assert interface.build(studio).fns


def test_every_measurement_takes_it(studio):
    made = studio.registry.get("pets")
    found = transferability.measure(studio, "pets", 4, AttackConfig("fgsm"))
    assert "pets test pictures" in found.source
    report, source = detection.measure(
        made, studio.collection(made), [AttackConfig("fgsm")], 4, 1, lambda *a: None, ["opgd"]
    )
    assert len(report.clean) == 4 and "pets" in source


def test_without_its_folder_uploads_stay_and_the_rest_says_what_is_missing(studio, pets, tmp_path):
    pets.rename(tmp_path / "moved")
    made = studio.registry.get("pets")
    shelf = studio.collection(made)
    assert len(shelf.split) == 0 and shelf.wants_folder
    assert "The pictures of 'pets'" in shelf.note and "are not here. Name their folder below" in shelf.note
    assert picture_picker.first_of(shelf, made).crop is not None
    assert interface.build(studio).fns
    for measured in (
        lambda: transferability.measure(studio, "pets", 4, AttackConfig("fgsm")),
        lambda: detection.measure(made, shelf, [AttackConfig("fgsm")], 4, 1, lambda *a: None),
    ):
        with pytest.raises(ConfigError, match="are not here. Name their folder"):
            measured()
    assert len(detection.clean_reference(made, shelf, None)[0]) > 0
    with pytest.raises(DataError, match="There is no folder"):
        studio.own.name(made, "relative/pets")
    named = studio.own.name(made, str(tmp_path / "moved"))
    assert len(named.split) > 0 and len(studio.collection(made).split) == len(named.split)


def test_a_copy_without_its_run_finds_the_folder_that_was_named(studio, run, pets, tmp_path):
    studio.own.name(studio.registry.get("pets"), str(pets))
    shutil.copytree(run.checkpoint, tmp_path / "copy")
    other = Studio(Registry([tmp_path / "copy"], "cpu"), training=Training(Jobs(tmp_path / "none"), Policy()))
    assert len(other.collection(other.registry.get("pets")).split) > 0


def test_where_the_machine_is_lent_no_folder_can_be_named(run, pets, tmp_path):
    for policy in (Policy(False, "off"), Policy(most_bytes=1)):
        studio = Studio(Registry([run.checkpoint], "cpu"), training=Training(Jobs(tmp_path / "none"), policy))
        with pytest.raises(ConfigError, match="No folder of this machine can be named here"):
            studio.own.name(studio.registry.get("pets"), str(pets))


def test_the_form_takes_a_folder_for_the_data_set(pets):
    base = training_form.preset_base("digits-quick")
    typed = training_form.values(base.config) | {"dataset": str(pets)}
    made = training_form.config(base.config, typed)
    assert (made.dataset, made.data_dir, made.model.classes) == ("pets", str(pets), 2)
    line = training_form.command_line(base, made, "mine", Path("runs"), "auto")
    assert f"--data-dir {pets}" in line and "model.classes" not in line
    with pytest.raises(ConfigError, match="there is no folder"):
        training_form.config(base.config, typed | {"dataset": str(pets / "none")})


def test_a_run_tells_no_path(run, pets, tmp_path):
    (run.path / "log.txt").write_text(f"reading {pets}/ant/001.png\n")
    told = json.dumps(run_detail(Jobs(run.path.parent).get("pets")))
    assert str(tmp_path) not in told and '"data_dir": "pets"' in told
