"""`--data-dir` of the commands that measure: checkpoints that were trained on a folder of class folders."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from cce.__main__ import main
from cce.checkpoints import folder as checkpoints
from cce.checkpoints.folder import Checkpoint, training_record
from cce.cli.datasets import load_dataset
from cce.config import CCE_DM, Detector
from cce.data import class_folders
from cce.data.datasets import DataError
from cce.evaluation import own_pictures
from cce.evaluation.presets import preset

READ = class_folders.load


@pytest.fixture
def pets(tmp_path):
    """Two classes of 50 wide pictures, lighter to the right, in shades of their own."""
    for name, level in (("cat", 180), ("ant", 20)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(50):
            ramp = Image.linear_gradient("L").rotate(90).resize((20, 10)).point(lambda v, add=level + i: v // 8 + add)
            ramp.save(tmp_path / "pets" / name / f"{i:02}.png")
    return tmp_path / "pets"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CCE_STUDIO_HOME", str(tmp_path / "home"))


@pytest.fixture
def save(fresh, tmp_path):
    """Saves an ensemble that was trained on `was`, a folder that may be gone."""

    def make(was, name="tiny", classes=("ant", "cat"), seed=0):
        detector = Detector(0.5, 0.05, "numbers", 10)
        model = fresh(2, classes=len(classes), seed=seed)
        config = replace(preset("digits-nat"), dataset="pets", data_dir=str(was), model=model.config)
        training = training_record(config, 1, 1.0, torch.device("cpu"))
        made = Checkpoint(name, model.eval(), "pets", classes, CCE_DM, training, detector)
        if (tmp_path / "pets").is_dir():
            made.pictures = READ(tmp_path / "pets", (1, 8, 8)).record
        if made.pictures and was and Path(was).is_dir():
            own_pictures.remember(made.pictures, was)
        return checkpoints.save(made, tmp_path / name)

    return make


def asked(**given):
    return argparse.Namespace(**({"data": None, "data_dir": None} | given))


def test_pictures_come_resized_by_the_trainers_rule(save, pets):
    made = checkpoints.load(save("/gone"))
    found = load_dataset(made, asked(data_dir=pets))
    trained_on = class_folders.load(pets, (1, 8, 8))
    assert torch.equal(found.test.images, trained_on.test.images) and found.classes == ("ant", "cat")
    assert torch.equal(found.calibration.images, trained_on.calibration.images)
    made = checkpoints.load(save(pets))  # where the folder is still there, it need not be said
    assert torch.equal(load_dataset(made, asked()).test.images, trained_on.test.images)


def test_evaluate_measures_the_test_pictures_that_calibrated_nothing(save, pets, capsys):
    folder = save("/gone")
    words = ["evaluate", str(folder), "--adaptive", "0", "--attacks", "fgsm", "--data-dir", str(pets), "--json"]
    assert main(words) == 0
    record = json.loads(capsys.readouterr().out)
    n = len(class_folders.load(pets, (1, 8, 8)).detection_test)
    assert record["images"] == n and record["data"] == f"the first {n} test images of pets"
    assert f"--data-dir {pets}" in record["command"]
    made, split = checkpoints.load(folder), class_folders.load(pets, (1, 8, 8)).detection_test
    right = (made.model(split.pixels()).argmax(1) == split.labels).float().mean().item()
    assert record["natural"]["accuracy"] == pytest.approx(right)


def test_attack_surface_and_transfer_take_it(save, pets, capsys):
    folder, second = save("/gone"), save("/gone", "other", seed=1)
    more = ["--data-dir", str(pets), "--json"]
    assert main(["attack", str(folder), "test:3", "--steps", "2", *more]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["label"] in ("ant", "cat") and told["linf"] <= 8 / 255 + 1e-6
    assert main(["surface", str(folder), "test:0", "--benign", "--resolution", "3", *more]) == 0
    capsys.readouterr()
    assert main(["transfer", str(folder), str(second), "--n", "4", "--attack", "pgd:2", *more]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == "the first 4 test images of pets"
    n = len(class_folders.load(pets, (1, 8, 8)).test)
    assert main(["attack", str(folder), f"test:{n}", *more]) == 2
    assert f"it is test:0 to test:{n - 1}" in capsys.readouterr().err


def test_detect_takes_it_and_calibrates_on_its_own_pictures(save, pets, capsys, monkeypatch):
    import cce.evaluation.evaluate

    real = cce.evaluation.evaluate.aware_attacks
    monkeypatch.setattr(cce.evaluation.evaluate, "aware_attacks", lambda *a: [c for c in real(*a) if c.name == "opgd"])
    words = ["detect", str(save("/gone")), "--n", "4", "--adaptive", "1", "--attacks", "pgd:2", "--json"]
    assert main([*words, "--data-dir", str(pets)]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 4


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (("ant", "dog"), "the folder has 'cat' more and lacks 'dog'; subfolders take the names of the ensemble's"),
        (("cat", "ant"), "has another order"),
        (("ant", "cat", "dog"), "has 2 classes and tiny 3: the folder lacks 'dog'"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "attack", "detect", "transfer", "surface"])
def test_other_classes_are_told_apart_before_a_picture_is_read(
    command, classes, words, save, pets, capsys, monkeypatch
):
    monkeypatch.setattr(class_folders, "load", lambda *a: pytest.fail("read"))
    picture = ["test:0"] if command in ("attack", "surface") else []
    assert main([command, str(save("/gone", classes=classes)), *picture, "--data-dir", str(pets)]) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


@pytest.mark.parametrize(
    "words", ["evaluate F", "attack F test:0", "detect F", "transfer F", "surface F test:0"], ids=lambda w: w.split()[0]
)
def test_a_folder_that_is_gone_is_asked_for(words, save, capsys):
    folder = str(save("/gone"))
    assert main([folder if word == "F" else word for word in words.split()]) == 1
    assert "was trained on the pictures of 'pets'; name their folder (data-dir on the command line)" in (
        capsys.readouterr().err
    )


def test_a_picture_of_ones_own_needs_no_folder(save, pets, capsys):
    folder, picture = str(save("/gone")), str(pets / "cat" / "00.png")
    assert main(["surface", folder, picture, "--benign", "--resolution", "3", "--json"]) == 0
    assert main(["attack", folder, picture, "--steps", "1", "--json"]) == 0


def test_a_folder_that_holds_no_classes_is_refused(save, tmp_path, capsys):
    assert main(["evaluate", str(save("/gone")), "--data-dir", str(tmp_path / "none")]) == 1
    assert "there is no folder" in capsys.readouterr().err
    with pytest.raises(DataError, match="was trained on the pictures of 'pets'; name their folder"):
        load_dataset(checkpoints.load(save("")), asked())


def test_a_named_data_set_may_be_tested_on_own_pictures_of_its_classes(tiny_checkpoints, tmp_path, capsys):
    for digit in range(10):
        (tmp_path / "mine" / str(digit)).mkdir(parents=True)
        for i in range(10):
            Image.new("L", (8, 8), 20 * digit + i).save(tmp_path / "mine" / str(digit) / f"{i}.png")
    words = ["evaluate", str(tiny_checkpoints / "tiny-two"), "--adaptive", "0", "--attacks", "fgsm"]
    assert main([*words, "--data-dir", str(tmp_path / "mine"), "--json"]) == 0
    n = len(class_folders.load(tmp_path / "mine", (1, 8, 8)).detection_test)
    assert json.loads(capsys.readouterr().out)["data"] == f"the first {n} test images of mine"


def test_models_lists_it_beside_the_others(save, pets, tmp_path, capsys):
    save("/gone")
    assert main(["models", "--checkpoints", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("tiny ")


def test_reproduce_leaves_it_out_and_says_so(save, tiny_checkpoints, tmp_path, capsys):
    own = [str(save("/gone")), str(save("/gone", "other"))]
    out = tmp_path / "report.html"
    words = ["reproduce", "table3", "table6", "table12a", "figure1", "figure2", "--n", "2", "--steps", "1"]
    words += ["--adaptive", "1", "--device", "cpu", "--data", str(tmp_path), "--out", str(out)]
    assert main([*words, "--checkpoints", *own, str(tiny_checkpoints / "tiny-two")]) == 0
    said = capsys.readouterr().err
    for name in ("tiny", "other"):
        assert f"cce reproduce: {name} is left out: its data set 'pets' is none of mnist, digits," in said
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["checkpoints"] == ["tiny-two"] and [i["name"] for i in record["others"]] == ["tiny-two"]
    assert len(record["left_out"]) == 2 and "other is left out: its data set &#39;pets&#39;" in out.read_text()
    assert main([*words, "--checkpoints", *own]) == 0  # with nothing else: every cell says that it has no ensemble
    assert "left out" in capsys.readouterr().err
    assert json.loads(out.with_suffix(".json").read_text())["others"] == []


def texts(folder):
    """Everything that is written in a checkpoint folder but its weights."""
    return "".join(p.read_text() for p in Path(folder).rglob("*") if p.suffix in (".json", ".md"))


def test_no_path_of_this_machine_is_in_a_checkpoint_or_its_card(save, pets, capsys):
    folder = save(pets)
    words = ["evaluate", str(folder), "--adaptive", "1", "--attacks", "fgsm", "--n", "2", "--write", "--threads", "1"]
    assert main([*words, "--data-dir", str(pets)]) == 0
    capsys.readouterr()
    assert str(pets.parent) not in texts(folder) and "--data-dir pets" in texts(folder)
    assert checkpoints.load(folder).training["config"]["data_dir"] == "pets"
