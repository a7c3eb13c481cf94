"""Folders of pictures as people have them: subfolders, endings, names of parts, leftovers of systems, odd names."""

import os
import unicodedata

import pytest
from PIL import Image

from cce.__main__ import main
from cce.cli.pictures import class_index
from cce.config import ConfigError
from cce.data.class_folders import Options, load
from cce.data.datasets import DataError
from cce.data.folder_layout import name_of, read_layout
from cce.reporting.cards import model_card


def fill(folder, count=50, suffix=".png", first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        Image.new("RGB", (12, 10), (i, len(folder.name), 99)).save(folder / f"{i:03}{suffix}")
    return folder


@pytest.fixture
def pets(tmp_path):
    for name in ("ant", "cat"):
        fill(tmp_path / "pets" / name)
    return tmp_path / "pets"


def counts(folder):
    return {name: len(paths) for name, paths in read_layout(folder).train.items()}


def test_subfolders_of_a_class_are_read(pets):
    fill(pets / "cat" / "burst 2" / "more", 40, first=60)
    (pets / "cat" / "again").symlink_to(pets / "cat")  # a link to itself ends
    assert counts(pets) == {"ant": 50, "cat": 90}


def test_files_are_told_by_content_and_what_is_passed_over_is_counted_once(pets):
    for path in sorted((pets / "cat").iterdir())[:10]:
        Image.open(path).save(path.with_suffix(".jpg"), "JPEG")
        path.with_suffix(".jpg").rename(path.with_suffix(".jfif"))
        path.unlink()
    os.rename(pets / "cat" / "020.png", pets / "cat" / "no ending")
    fill(pets / "cat", 3, ".ppm", 70)
    for i in range(4):
        (pets / "cat" / f"{i}.txt").write_text("notes")
    layout = read_layout(pets)
    assert len(layout.train["cat"]) == 53
    (note,) = layout.notes
    assert note == "4 files of 'cat' were passed over: 0.txt, 1.txt, 2.txt and 1 others are no pictures"
    assert len(load(pets, (3, 8, 8)).notes) == 1


@pytest.mark.parametrize("test", ["val", "valid", "validation", "Test", "testing"])
def test_the_usual_names_of_parts_are_understood(test, tmp_path):
    train = "Train" if test == "Test" else "train"
    for name in ("ant", "cat"):
        fill(tmp_path / "d" / train / name, 30)
        fill(tmp_path / "d" / test / name, 20, first=40)
    found = load(tmp_path / "d", (3, 8, 8))
    assert (len(found.train), len(found.test), found.classes) == (60, 40, ("ant", "cat"))


def test_beside_test_a_third_part_is_left_out_and_said(tmp_path):
    for part in ("train", "test", "val"):
        for name in ("ant", "cat"):
            fill(tmp_path / "d" / part / name, 20)
    layout = read_layout(tmp_path / "d")
    assert all("/val/" not in str(p) for paths in layout.test.values() for p in paths)
    assert layout.notes == ("left out beside train/ and test/: val",)


def test_parts_with_loose_pictures_are_no_classes(tmp_path):
    for part in ("train", "val"):
        fill(tmp_path / "loose" / part, 60)
    with pytest.raises(DataError, match="train/ and val/ are no classes"):
        read_layout(tmp_path / "loose")


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "car", "train"):
        fill(tmp_path / "d" / name)
    assert counts(tmp_path / "d") == {"bus": 50, "car": 50, "train": 50}


def test_what_systems_leave_behind_and_empty_folders_are_no_classes(pets):
    for name in ("__MACOSX", "@eaDir", ".cache"):
        fill(pets / name, 2)
    (pets / "empty").mkdir()
    layout = read_layout(pets)
    assert layout.classes == ("ant", "cat")
    assert layout.notes == ("passed over, since nothing is in them: 'empty'",)


def test_all_bad_pictures_are_told_at_once_and_can_be_skipped(pets, tmp_path, capsys):
    for name in ("003.png", "017.png", "044.png"):
        path = pets / "cat" / name
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError) as refused:
        load(pets, (3, 8, 8))
    words = str(refused.value)
    assert words.startswith("3 of 100 pictures cannot be read:")
    assert all(name in words for name in ("003.png", "017.png", "044.png")) and "skip-bad" in words
    found = load(pets, (3, 8, 8), options=Options(skip_bad=True))
    assert len(found.train) + len(found.test) == 97
    assert sorted(text.partition(":")[0] for text in found.record.skipped.values()) == [
        "cat/003.png",
        "cat/017.png",
        "cat/044.png",
    ]
    again = load(pets, (3, 8, 8), options=Options(record=found.record))  # known ones are not asked about again
    assert len(again.train) == len(found.train) and not again.notes
    words = ["train", "digits-nat", "--data-dir", str(pets), "--run", str(tmp_path / "run"), "--quiet", "--skip-bad"]
    small = [w for s in ("model.input_shape=[1,8,8]", "phases.0.epochs=1", "batch_size=16") for w in ("--set", s)]
    assert main([*words, *small, "--threads", "1"]) == 0
    assert "3 pictures that cannot be read left out: cat/003.png" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["folder", "class"])
def test_a_name_that_is_not_utf8_is_refused_before_training(where, pets, tmp_path, capsys):
    odd = os.fsencode(tmp_path) + b"/caf\xe9"
    if where == "folder":
        os.rename(os.fsencode(pets), odd)
        folder = os.fsdecode(odd)
    else:
        os.rename(os.fsencode(pets / "cat"), os.fsencode(pets) + b"/caf\xe9")
        folder = str(pets)
    assert main(["train", "digits-nat", "--data-dir", folder, "--run", str(tmp_path / "run"), "--quiet"]) == 1
    assert "is not written in UTF-8; rename it" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_one_name_written_in_two_ways_is_no_two_classes(pets):
    for form in ("NFC", "NFD"):
        fill(pets / unicodedata.normalize(form, "café"))
    with pytest.raises(DataError, match="two folders in .* are called 'café'"):
        read_layout(pets)


def test_a_class_in_decomposed_unicode_has_one_name(pets):
    fill(pets / unicodedata.normalize("NFD", "café"))
    assert unicodedata.normalize("NFC", "café") in read_layout(pets).classes


@pytest.mark.parametrize("name", ["2024", "null", "cats: v2", "- x", "'", '"', "#1"])
def test_a_card_of_odd_names_is_valid_yaml_of_strings(name, checkpoint_of):
    import yaml

    made = checkpoint_of(name)
    front = yaml.safe_load(model_card(made).split("---\n")[1])
    assert front["tags"][-1] == name


@pytest.fixture
def checkpoint_of(fresh):
    from cce.checkpoints.folder import Checkpoint
    from cce.config import CCE_RM

    return lambda name: Checkpoint("x", fresh(2).eval(), name, tuple("0123456789"), CCE_RM, {})


def test_a_number_never_means_two_classes():
    assert class_index("1", ("1", "2"), "label") == 0
    with pytest.raises(ConfigError, match="'0'"):
        class_index("0", ("1", "2"), "label")
    assert class_index("0", ("ant", "cat"), "label") == 0
    assert class_index("7", tuple("0123456789"), "label") == 7
    with pytest.raises(ConfigError, match="label is '²'"):
        class_index("²", ("ant", "cat"), "label")


def test_a_named_data_sets_name_is_not_taken(tmp_path):
    assert name_of(tmp_path / "cifar10") == "cifar10-folder"
