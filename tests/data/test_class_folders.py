"""Folders of class folders as data sets: pictures are made here."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from cce.__main__ import main
from cce.cli.training import asked_config
from cce.data.class_folders import find, load, name_of
from cce.data.datasets import DataError
from cce.training.run_folder import RunFolder


def paint(path, level, size=(12, 10), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, level if mode == "L" else (level, 255 - level, 0)).save(path)


@pytest.fixture
def pets(tmp_path):
    """Two classes of 50 pictures in one colour each."""
    for name, level in (("cat", 200), ("ant", 20)):
        for i in range(50):
            paint(tmp_path / "pets" / name / f"{i:03}.png", level + i % 5)
    (tmp_path / "pets" / "notes.txt").write_text("not a class")
    (tmp_path / "pets" / "cat" / "thumbs.db").write_text("not a picture")
    return tmp_path / "pets"


@pytest.fixture
def photos(tmp_path):
    """Two classes of 60 pictures, no two alike."""
    for name, level in (("cat", 200), ("ant", 20)):
        for i in range(60):
            paint(tmp_path / "photos" / name / f"{i:03}.png", level + i % 5, (12 + i, 10))
    return tmp_path / "photos"


def test_about_a_fifth_of_a_class_is_for_testing_by_its_content(photos):
    train, test = find(photos)
    assert list(train) == list(test) == ["ant", "cat"]
    for name in train:
        assert 6 <= len(test[name]) <= 20 and len(train[name]) + len(test[name]) == 60
        assert not set(train[name]) & set(test[name])


def test_pictures_keep_their_class_and_have_the_models_size(pets):
    found = load(pets, (3, 8, 8))
    assert (found.name, found.classes) == ("pets", ("ant", "cat"))
    assert len(found.train) + len(found.test) == 100 and len(found.test) >= 20
    assert found.train.images.shape[1:] == (3, 8, 8) and found.train.images.dtype == torch.uint8
    for split in (found.train, found.test, found.calibration):
        assert ((split.images[:, 0, 4, 4] > 100).long() == split.labels).all()
    assert len(found.calibration) == 10 and len(found.detection_test) == len(found.test) - 10
    assert 0 < found.calibration.labels.sum() < 10  # shuffled: of both classes
    assert torch.equal(load(pets, (3, 8, 8)).test.images, found.test.images)


def test_grey_is_the_luma(pets):
    image = load(pets, (1, 8, 8)).train.images[0]
    assert image.shape == (1, 8, 8)
    assert image.float().mean().item() == pytest.approx(0.299 * 20 + 0.587 * 235, abs=1.5)


def test_a_wide_picture_is_cut_about_its_middle(tmp_path):
    for name in ("a", "b"):
        for i in range(50):
            pixels = np.zeros((8, 24, 3), np.uint8)
            pixels[:, 8:16] = 255
            (tmp_path / "w" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "w" / name / f"{i}.png")
    assert load(tmp_path / "w", (3, 8, 8)).train.images[0].min() == 255


def test_train_and_test_subfolders_are_taken_as_they_are(tmp_path):
    for part, count in (("train", 6), ("test", 12)):
        for name in ("b", "a"):
            for i in range(count):
                paint(tmp_path / part / name / f"{i}.jpg", 9)
    found = load(tmp_path, (3, 8, 8))
    assert (len(found.train), len(found.test), found.classes) == (12, 24, ("a", "b"))


def test_a_name_that_is_taken_is_told_apart(tmp_path):
    assert name_of(tmp_path / "cifar10") == "cifar10-folder" and name_of(tmp_path / "pets") == "pets"


def bad(folder, kind):
    """A folder with one fault."""
    for name in ("a", "b"):
        for i in range(50):
            paint(folder / name / f"{i:02}.png", 9)
    if kind == "missing":
        return folder / "nowhere"
    if kind == "one class":
        (folder / "b").rename(folder / ".b")
    if kind == "no picture in a class":
        (folder / "c").mkdir()
        (folder / "c" / "notes.txt").write_text("nothing here")
    if kind == "few":
        for name in ("a", "b"):
            for path in sorted((folder / name).iterdir())[9:]:
                path.unlink()
    if kind == "damaged":
        (folder / "b" / "07.png").write_bytes((folder / "b" / "07.png").read_bytes()[:50])
    if kind == "no picture":
        (folder / "b" / "07.png").write_text("hello")
    if kind == "tiny":
        paint(folder / "b" / "07.png", 9, (3, 3))
    if kind == "other classes":
        for part in ("train", "test"):
            (folder / part).mkdir()
            (folder / part / "a").mkdir()
        (folder / "train" / "b").mkdir()
        (folder / "test" / "c").mkdir()
    return folder


FAULTS = {
    "missing": "there is no folder .*nowhere; own pictures are a folder with a subfolder for each class",
    "one class": "has 1 subfolder; a data set has one for each class",
    "no picture in a class": "the class 'c' of .* has no picture for training",
    "few": "has 2 pictures for testing; it takes at least 20, 100 in all",
    "damaged": "b/07.png: this picture is damaged or incomplete; replace it",
    "no picture": "b/07.png: .*; replace it or take it away",
    "tiny": "b/07.png: this picture is 3x3 pixels, too small",
    "other classes": "the class 'b' is in .*/train alone",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_bad_folder_is_told_in_words_and_ends_with_one(kind, tmp_path, capsys):
    folder = bad(tmp_path / "bad", kind)
    with pytest.raises(DataError, match=FAULTS[kind]):
        load(folder, (1, 8, 8))
    words = ["train", "digits-quick", "--data-dir", str(folder), "--run", str(tmp_path / "run"), "--quiet"]
    assert main(words) == 1
    assert capsys.readouterr().err.startswith("cce train: ")
    assert not (tmp_path / "run").exists()


def test_too_many_pixels_are_refused_before_one_is_read(pets, monkeypatch):
    monkeypatch.setattr("cce.data.class_folders.MOST_BYTES", 1000)
    with pytest.raises(DataError, match="has 100 pictures, .* take a smaller input_shape or fewer pictures"):
        load(pets, (3, 8, 8))


def test_a_run_on_own_pictures_trains_resumes_and_exports(pets, tmp_path, capsys):
    folder = tmp_path / "run"
    words = ["train", "digits-nat", "--run", str(folder), "--quiet", "--device", "cpu"]
    small = ["--set", "model.input_shape=[3,8,8]", "--set", "phases.0.epochs=1", "--set", "batch_size=16"]
    assert main([*words, "--data-dir", str(pets), *small, "--set", "evaluate_images=10"]) == 0
    written = RunFolder(folder).config()
    assert (written["dataset"], written["data_dir"], written["model"]["classes"]) == ("pets", str(pets), 2)
    made = json.loads((folder / "checkpoint" / "config.json").read_text())
    assert (made["dataset"], made["classes"]) == ("pets", ["ant", "cat"])
    assert main(["train", "--run", str(folder), "--quiet", "--device", "cpu"]) == 0  # finished: exports again
    capsys.readouterr()


def test_estimates_count_the_pictures(pets):
    from cce.__main__ import build_parser
    from cce.training.probe import training_images

    words = ["train", "digits-nat", "--data-dir", str(pets)]
    assert training_images(asked_config(build_parser().parse_args(words))) == 80
