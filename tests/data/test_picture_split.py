"""The split of a folder hangs on each picture's content, is recorded, and a changed folder is told."""

import json
import shutil

import pytest
from PIL import Image

from cce.__main__ import main
from cce.checkpoints import folder as checkpoints
from cce.config import ConfigError
from cce.data.class_folders import Options, load
from cce.data.picture_split import FILE, Record, read_record

SMALL = ("model.input_shape=[3,8,8]", "phases.0.epochs=1", "batch_size=16", "evaluate_images=10")


def paint(path, red, i):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (red, i, 255 - i)).save(path)


@pytest.fixture
def pets(tmp_path):
    """Two classes of 60 pictures, no two alike."""
    for name, red in (("ant", 20), ("cat", 200)):
        for i in range(60):
            paint(tmp_path / "pets" / name / f"{i:03}.png", red, i)
    return tmp_path / "pets"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CCE_STUDIO_HOME", str(tmp_path / "home"))


def add_early(pets, count=1, first=200):
    """Pictures that come first in the order of names."""
    for name, red in (("ant", 20), ("cat", 200)):
        for i in range(count):
            paint(pets / name / f"+{i}.png", red, first + i)


def rows(split):
    return {(x[:, 0, 0].tolist().__str__(), int(y)) for x, y in zip(split.images, split.labels, strict=True)}


def test_an_early_picture_moves_no_trained_one_into_the_test(pets):
    before = load(pets, (3, 8, 8))
    add_early(pets, 7)
    after = load(pets, (3, 8, 8))
    assert not rows(before.train) & rows(after.test)
    assert not rows(before.calibration) & rows(after.detection_test) - rows(before.test)


def test_a_renamed_picture_keeps_its_part(pets):
    before = load(pets, (3, 8, 8))
    for path in sorted((pets / "cat").iterdir()):
        path.rename(path.with_name(f"z{99 - int(path.stem):02}.png"))
    after = load(pets, (3, 8, 8))
    assert rows(after.test) == rows(before.test) and rows(after.train) == rows(before.train)
    assert (after.train.images == before.train.images).all()  # the same order too: a run resumes to the same losses


def test_copies_of_a_picture_stay_together(pets):
    for path in sorted((pets / "cat").iterdir()):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    found = load(pets, (3, 8, 8))
    assert not rows(found.train) & rows(found.test)


def test_a_record_keeps_every_part_and_tells_what_changed(pets):
    before = load(pets, (3, 8, 8))
    add_early(pets, 5)
    (pets / "ant" / "007.png").unlink()
    after = load(pets, (3, 8, 8), options=Options(record=before.record))
    assert rows(after.train) <= rows(before.train)
    assert rows(before.test) & rows(after.train) == set() and rows(before.train) & rows(after.test) == set()
    assert len(after.notes) == 1 and "10 pictures are new" in after.notes[0] and "1 is gone" in after.notes[0]
    assert load(pets, (3, 8, 8), options=Options(record=after.record)).notes == after.notes


def test_a_picture_of_the_training_folder_is_not_tested_on(pets, tmp_path):
    parted = tmp_path / "parted"
    for part, names in (("train", range(30)), ("test", range(25, 60))):
        for name in ("ant", "cat"):
            (parted / part / name).mkdir(parents=True)
            for i in names:
                shutil.copy(pets / name / f"{i:03}.png", parted / part / name / f"{part}{i}.png")
    found = load(parted, (3, 8, 8))
    assert not rows(found.train) & rows(found.test)
    assert found.notes == ("10 pictures of the test folder are in the training folder too, and left out of the test",)


def trained(pets, folder, *more):
    words = ["train", "digits-nat", "--run", str(folder), "--quiet", "--device", "cpu", "--threads", "1"]
    words += [w for s in SMALL for w in ("--set", s)]
    return main([*words, "--data-dir", str(pets), *more])


def test_train_records_the_split_and_evaluate_and_resume_tell_of_a_changed_folder(pets, tmp_path, capsys):
    assert trained(pets, tmp_path / "run") == 0
    made = checkpoints.load(tmp_path / "run" / "checkpoint")
    assert made.pictures == read_record(tmp_path / "run") and made.pictures.count == 120
    add_early(pets)
    capsys.readouterr()
    words = ["evaluate", str(made.folder), "--adaptive", "0", "--attacks", "fgsm", "--json", "--threads", "1"]
    assert main(words) == 0  # the folder is found again
    told = capsys.readouterr()
    assert "the folder has changed since training: 2 pictures are new" in told.err
    assert "2 pictures are new" in json.loads(told.out)["data_notes"][0]
    assert main(["train", "--run", str(tmp_path / "run"), "--quiet", "--device", "cpu"]) == 0
    assert "the folder has changed since training" in capsys.readouterr().err
    assert read_record(tmp_path / "run") == made.pictures  # new ones take no part


def test_a_checkpoint_of_before_is_split_as_it_was_then_and_says_so(pets):
    found = load(pets, (3, 8, 8), options=Options(by_place=True))
    fifth = {(str([20 if name == "ant" else 200, i, 255 - i]), n) for n, name in enumerate(("ant", "cat"))
             for i in range(4, 60, 5)}  # fmt: skip
    assert rows(found.test) == fifth
    assert "was not recorded" in found.notes[0]


@pytest.mark.parametrize(
    "change", [{"version": 9}, {"train": None}, {"test": [1]}, {"skipped": []}, {"calibration": "x"}]
)
def test_a_strangers_record_that_is_none_is_refused(change, pets, tmp_path):
    values = load(pets, (3, 8, 8)).record.to_json() | change
    (tmp_path / FILE).write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=next(iter(change))):
        read_record(tmp_path)


def test_a_record_survives_json(pets):
    record = load(pets, (3, 8, 8)).record
    assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record
