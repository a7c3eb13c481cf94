"""The Studio's services: ensembles, galleries, attacks and verdicts, with no screen."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from app.services import attacks, gallery, verdicts
from app.services.attacks import Picture
from app.services.models import Registry, card, one_line
from cce.checkpoints.folder import CheckpointError
from cce.config import CCE_DM, AttackConfig, ConfigError, Detector
from cce.data import datasets as data
from cce.data.datasets import DataError
from cce.data.pictures import PictureError, to_png
from cce.evaluation import one_picture as examples

SHAPE = (1, 8, 8)


@pytest.fixture
def registry(tiny_checkpoints: Path) -> Registry:
    """One of each test's own: several add to it."""
    return Registry([tiny_checkpoints], "cpu")


@pytest.fixture
def copied(tiny_checkpoints: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoints to break."""
    return Path(shutil.copytree(tiny_checkpoints, tmp_path / "checkpoints"))


@pytest.fixture(autouse=True)
def _no_downloaded_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CCE_DATA", str(tmp_path / "data"))


def test_services_and_figures_import_no_gradio():
    code = "import sys, app.services.attacks, app.services.gallery, app.services.models, app.services.verdicts\n"
    code += "import app.figures.probabilities, app.figures.subsets, app.figures.verdict, app.figures.pictures\n"
    code += "sys.exit('gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=600, check=False).returncode == 0


# Models


def test_the_registry_lists_what_is_there_and_loads_each_once(registry: Registry):
    assert [entry.id for entry in registry.entries()] == ["tiny-three", "tiny-two"]
    assert registry.entries()[1].title == "Digits, CCE-DM: 2 × resnet8"
    hardened = replace(registry.entries()[1], id="digits-cce-dm-hardened")
    assert hardened.title == "Digits, CCE-DM hardened: 2 × resnet8"
    assert replace(hardened, run=True).title == "Digits, CCE-DM: 2 × resnet8 (run digits-cce-dm-hardened)"
    assert registry.get("tiny-two") is registry.get("tiny-two")
    assert registry.default() in ("tiny-two", "tiny-three")
    assert not registry.broken()


def test_the_first_to_show_is_the_one_that_fewest_attacks_pass(copied: Path):
    registry = Registry([copied], "cpu")

    def row(epsilon: float, images: int, passing: float) -> dict[str, object]:
        return {"norm": "linf", "epsilon": epsilon, "images": images, "wrong_and_unflagged": passing}

    for best in ("tiny-two", "tiny-three"):
        for name in ("tiny-two", "tiny-three"):
            few, many = (0.9, 0.1) if name == best else (0.1, 0.9)
            worst = [row(0.05, 1000, few), row(0.1, 1000, many), row(0.1, 200, few)]
            (copied / name / "metrics.json").write_text(json.dumps({"epsilon": 0.1, "worst_case": worst}))
        assert registry.default() == best
    (copied / "tiny-three" / "metrics.json").write_text("{")  # damaged: as if it had none
    assert registry.default() == "tiny-two"


def test_a_checkpoint_folder_can_be_named_itself(tiny_checkpoints: Path):
    assert [e.id for e in Registry([tiny_checkpoints / "tiny-two"], "cpu").entries()] == ["tiny-two"]


def test_a_changed_checkpoint_is_read_again(copied: Path):
    registry = Registry([copied], "cpu")
    first = registry.get("tiny-two")
    (copied / "tiny-two" / "metrics.json").write_text('{"images": 7, "natural": {"accuracy": 0.5}}')
    os.utime(copied / "tiny-two" / "metrics.json", ns=(1, 1))
    second = registry.get("tiny-two")
    assert second is not first
    assert one_line(first) == "Not measured yet."
    assert one_line(second) == "Right on 50.0 % of clean test pictures (n = 7)."


def test_broken_checkpoints_are_reported_and_the_others_work(copied: Path):
    (copied / "tiny-three" / "config.json").write_text("{")
    weights = copied / "tiny-two" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    registry = Registry([copied], "cpu")
    assert [entry.id for entry in registry.entries()] == ["tiny-two"]
    assert "tiny-three/config.json cannot be read" in registry.broken()["tiny-three"]
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
        registry.get("tiny-two")
    assert registry.summaries() == []
    assert registry.default() is None
    assert registry.broken()["tiny-two"].startswith("tiny-two/model.safetensors is truncated")


def test_the_first_ensemble_shown_is_one_that_loads(copied: Path):
    weights = copied / "tiny-three" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert Registry([copied], "cpu").default() == "tiny-two"


def test_two_checkpoints_of_one_id_and_an_unknown_one_are_told(copied: Path):
    shutil.copytree(copied / "tiny-two", copied / "twin")
    registry = Registry([copied], "cpu")
    assert "same id" in registry.broken()["twin"]
    with pytest.raises(CheckpointError, match="no model 'nobody'; there is: tiny-three, tiny-two"):
        registry.get("nobody")
    assert Registry([copied / "nothing"], "cpu").default() is None


def test_summaries_are_the_rows_of_the_endpoint(registry: Registry):
    row = registry.summaries()[1]
    assert list(row) == [
        *("id", "dataset", "architecture", "members", "defense"),
        *("natural_accuracy", "robust_accuracy", "detection_auc", "wrong_and_unflagged", "benign_flagged", "threshold"),
    ]
    assert (row["id"], row["members"], row["threshold"], row["robust_accuracy"]) == ("tiny-two", 2, 1.0, None)
    json.dumps(row)


def test_the_card_is_shown_without_its_front_matter(registry: Registry):
    assert card(registry.get("tiny-two")).lstrip().startswith("### tiny-two")


# Gallery


def test_without_the_data_set_the_gallery_has_the_pictures_that_ship():
    pictures = gallery.collection("cifar10", None, (3, 32, 32))
    assert (len(pictures.split), pictures.missing_megabytes) == (20, 170)
    assert pictures.label(0) == "cat"
    assert pictures.picture(0).size == (32, 32)
    assert {pictures.label(i) for i in pictures.indices(pictures.classes.index("ship"))} == {"ship"}


def test_the_digits_are_always_all_there():
    pictures = gallery.collection("digits", None, SHAPE)
    assert (len(pictures.split), pictures.missing_megabytes) == (360, None)
    assert tuple(pictures.pixels(5).shape) == SHAPE


def write_test_set(root: Path, count: int = 30) -> None:
    root.mkdir(exist_ok=True)
    images = np.zeros((count, 32, 32, 3), np.uint8)
    labels = (np.arange(count) % 10).astype(np.uint8)
    np.savez(root / "cifar10.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)


def test_the_gallery_grows_to_the_test_set_but_for_what_calibrates_detectors(tmp_path: Path):
    root = tmp_path / "data"
    assert len(gallery.collection("cifar10", root, (3, 32, 32)).split) == 20
    write_test_set(root)
    pictures = gallery.collection("cifar10", root, (3, 32, 32))
    assert (len(pictures.split), pictures.missing_megabytes) == (27, None)


def test_a_damaged_test_set_leaves_the_pictures_that_ship(tmp_path: Path):
    root = tmp_path / "data"
    root.mkdir()
    (root / "cifar10.npz").write_bytes(b"not an archive")
    assert len(gallery.collection("cifar10", root, (3, 32, 32)).split) == 20


def test_pictures_of_another_size_are_brought_to_the_model_s():
    pictures = gallery.collection("mnist", None, (1, 14, 14))
    assert tuple(pictures.pixels(0).shape) == (1, 14, 14)


@pytest.mark.parametrize(("number", "first", "length"), [(0, 0, 20), (1, 20, 20), (2, 40, 5), (9, 40, 5), (-1, 0, 20)])
def test_pages_stay_within_the_list(number: int, first: int, length: int):
    entries, page, count = gallery.page(list(range(45)), number)
    assert (entries[0], len(entries), count) == (first, length, 3)
    assert page == first // 20


def test_an_empty_list_has_one_empty_page():
    assert gallery.page([], 3) == ([], 0, 1)


def test_a_download_that_fails_says_why_and_names_no_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def offline(name, root, progress):
        raise DataError(f"{root}/secret") from OSError(101, "Network is unreachable")

    monkeypatch.setattr(data, "download", offline)
    with pytest.raises(
        DataError, match=r"CIFAR-10 test set could not be downloaded \(Network is unreachable\)"
    ) as said:
        gallery.download("cifar10", tmp_path, lambda fraction, text: None)
    assert str(tmp_path) not in str(said.value)


def test_every_example_picture_can_be_uploaded():
    found = gallery.examples()
    assert len(found) == 11
    for name, path in found:
        assert attacks.open_upload(path, (3, 32, 32), name).shape == (3, 32, 32)


# Attacks


def test_settings_are_typed_in_255ths():
    config = attacks.settings("PGD", 8, 2.0, 20, "member 2")
    assert config == AttackConfig("pgd", 8 / 255, 2 / 255, 20, "member 2")
    assert attacks.describe(config) == "PGD k=20, epsilon 8/255, step 2/255, on member 2"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attack": "cw"}, "The attack is 'cw'; there is fgsm, pgd"),
        ({"epsilon": 300}, "Epsilon is 300; it is a number from 0 to 255, in 1/255"),
        ({"epsilon": float("nan")}, "Epsilon is nan"),
        ({"epsilon": None}, "Epsilon is empty"),
        ({"step_size": -1}, "The step size is -1"),
        ({"steps": 0}, "number of steps is 0; it is a whole number from 1 to 500"),
        ({"steps": 2.5}, "number of steps is 2.5"),
        ({"steps": 501}, "number of steps is 501"),
        ({"target": "nobody"}, "target is 'nobody'"),
    ],
)
def test_settings_that_cannot_be_used_are_named_in_the_units_of_the_screen(change: dict, words: str):
    typed = {"attack": "pgd", "epsilon": 8, "step_size": 2, "steps": 20, "target": "ensemble"}
    with pytest.raises(ConfigError, match=words):
        attacks.settings(**(typed | change))


@pytest.mark.parametrize(
    ("label", "seed", "target", "words"),
    [
        ("cat", 0, "ensemble", "The label is 'cat'"),
        ("10", 0, "ensemble", "an index from 0 to 9"),
        ("auto", -1, "ensemble", "The seed is -1"),
        ("auto", None, "ensemble", "The seed is empty"),
        ("auto", 0, "member 3", "this ensemble has 2 members"),
    ],
)
def test_what_the_model_lacks_is_named(registry: Registry, label: str, seed, target: str, words: str):
    with pytest.raises(ConfigError, match=words):
        attacks.attack(registry.get("tiny-two"), torch.zeros(SHAPE), label, AttackConfig(target=target), seed)


def test_an_attack_is_the_library_s_own(registry: Registry):
    checkpoint = registry.get("tiny-two")
    x = gallery.collection("digits", None, SHAPE).pixels(3)
    config = AttackConfig("pgd", 0.15, 0.04, 5)
    x_adv, result = attacks.attack(checkpoint, x, "auto", config, seed=4)
    wanted, said = examples.attack_picture(checkpoint, x, None, config, seed=4)
    assert torch.equal(x_adv, wanted)
    assert result == said
    assert result["benign"] == attacks.classify(checkpoint, x)


def test_an_upload_of_the_model_s_size_is_taken_bit_for_bit(registry: Registry):
    checkpoint = registry.get("tiny-two")
    x = gallery.collection("digits", None, SHAPE).pixels(3)
    x_adv, result = attacks.attack(checkpoint, x, "auto", AttackConfig("pgd", 0.15, 0.04, 5))
    again = attacks.open_upload(to_png(x_adv), SHAPE)
    assert torch.equal(again.pixels, x_adv)
    assert attacks.classify(checkpoint, again.pixels) == result["adversarial"]
    assert again.label is None
    assert torch.equal(attacks.refit(again, SHAPE).pixels, x_adv)


def test_a_larger_upload_is_cropped_in_sight_and_refitted_to_another_model(tmp_path: Path):
    path = tmp_path / "wide.png"
    Image.new("RGB", (300, 200), "red").save(path)
    picture = attacks.open_upload(path, (3, 32, 32))
    assert (picture.shape, picture.size, picture.crop.size) == ((3, 32, 32), (300, 200), (200, 200))
    assert attacks.refit(picture, SHAPE).shape == SHAPE
    with pytest.raises(PictureError, match="text file"):
        attacks.open_upload(b"hello", SHAPE)


def test_targets_and_defaults_follow_the_ensemble(registry: Registry):
    checkpoint = registry.get("tiny-three")
    assert attacks.targets(checkpoint) == ["ensemble", "member 1", "member 2", "member 3"]
    assert attacks.in_255ths(attacks.defaults(checkpoint).epsilon) == 38.25


# Verdicts


def said(label: str, entropy: float = 0.5, threshold: float | None = 0.62) -> dict:
    flagged = None if threshold is None else entropy > threshold
    return {"label": label, "entropy": entropy, "threshold": threshold, "flagged": flagged, "classes": ["a"] * 10}


UNUSUAL = "Unusual: the ensemble is unsure ({}). An attack, noise, or none of the ten classes."


@pytest.mark.parametrize(
    ("entropy", "threshold", "nobody", "attacked"),
    [
        (1.712, 0.62, UNUSUAL.format("1.71, limit 0.62"), "Flagged: the ensemble is unsure (1.71, limit 0.62)."),
        (
            0.21,
            0.62,
            "Nothing unusual: the ensemble is sure enough (0.21, limit 0.62).",
            "Not flagged: the ensemble is",
        ),
        (0.6203, 0.6196, UNUSUAL.format("0.620, limit 0.620"), "Flagged: the ensemble is unsure (0.620, limit 0.620)."),
        (0.62, 0.62, "Nothing unusual: the ensemble is sure enough (0.620, limit 0.620).", "Not flagged: the ensemble"),
        (0.21, None, "This model has no detector. Its entropy is 0.21.", "This model has no detector. Its entropy is"),
    ],
)
def test_a_picture_is_called_flagged_only_after_an_attack(entropy, threshold, nobody: str, attacked: str):
    assert verdicts.flag(said("cat", entropy, threshold)) == nobody
    assert verdicts.flag(said("cat", entropy, threshold), attacked=True).startswith(attacked)


@pytest.mark.parametrize(
    ("label", "entropy", "threshold", "kind", "words"),
    [
        ("dog", 0.1, 0.62, "missed", "Fooled, and not noticed"),
        ("dog", 0.1, None, "missed", "Fooled; there is no detector"),
        ("dog", 1.7, 0.62, "caught", "Fooled, but noticed"),
        ("cat", 0.1, 0.62, "held", "Not fooled"),
        ("cat", 1.7, 0.62, "alarm", "Not fooled, yet flagged: a false alarm"),
    ],
)
def test_the_headline_and_its_colour_follow_the_danger(label, entropy, threshold, kind: str, words: str):
    assert verdicts.danger(said(label, entropy, threshold), "cat") == verdicts.Danger(kind, words)
    unknown = verdicts.danger(said(label, entropy, threshold), "cat", known=False)
    assert unknown.kind == kind and "ooled" not in unknown.words


@pytest.mark.parametrize(
    ("before", "after", "judged", "words"),
    [
        (0.98, 0.11, "cat", "was sure (cat 98 %, right); now it has no idea (best guess frog, 11 %, wrong)."),
        (0.5, 1.0, "cat", "leaned to cat (50 %, right); now it is sure (frog 100 %, wrong)."),
        (0.2, 0.4, None, "had no idea (best guess cat, 20 %); now it leans to frog (40 %)."),
    ],
)
def test_how_sure_the_ensemble_was_and_is(before: float, after: float, judged: str | None, words: str):
    was, now = {"label": "cat", "ensemble": [before, 0.0]}, {"label": "frog", "ensemble": [0.0, after]}
    assert verdicts.change(was, now, judged) == f"The ensemble {words}"


def test_noise_of_the_attack_s_size_stands_beside_the_verdict():
    assert "is flagged too (1.71)" in verdicts.noise(said("cat", 1.71))
    assert "is not flagged (0.20)" in verdicts.noise(said("cat", 0.2))
    assert verdicts.noise(said("cat", 0.2, None)) == verdicts.noise(None) == ""


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("cat", "dog", "The ensemble was fooled: it said cat, which is right, and now says dog."),
        ("cat", "cat", "The ensemble was not fooled: it still says cat."),
        ("dog", "dog", "wrong before the attack: it said dog, the label is cat; it still says dog."),
        ("dog", "cat", "it now says cat."),
    ],
)
def test_whether_the_ensemble_was_fooled_in_words(before: str, after: str, words: str):
    assert words in verdicts.fooled({"label": "cat", "benign": said(before), "adversarial": said(after)})


def test_without_a_true_class_nobody_is_called_right():
    result = {"label": "cat", "benign": said("cat"), "adversarial": said("dog")}
    assert verdicts.fooled(result, known=False) == "The ensemble was fooled: it said cat and now says dog."


def test_the_limits_quote_what_was_measured_and_say_what_was_not():
    detector = Detector(0.6, 0.05, "images", 1000)
    metrics = {
        "adaptive": [
            {"name": "agreeing members", "wrong_and_unflagged": 0.1, "images": 200},
            {"name": "smooth 16 x 16", "wrong_and_unflagged": 0.9, "images": 200},
        ],
        "benign_corruptions": [{"name": "random signs of 8/255", "flagged": 0.99}],
    }
    defense = CCE_DM
    lines = " ".join(verdicts.limits(SimpleNamespace(detector=detector, metrics=metrics, defense=defense)))
    assert "random signs of 8/255, which attack nothing, are flagged on 99.0 % of pictures" in lines
    assert "wrong and unflagged on 90.0 % of 200 pictures (smooth 16 x 16)" in lines
    unmeasured = " ".join(verdicts.limits(SimpleNamespace(detector=detector, metrics={}, defense=defense)))
    assert "not measured yet" in unmeasured
    assert "no detector" in verdicts.limits(SimpleNamespace(detector=None, metrics={}, defense=defense))[0]


def test_a_picture_and_its_label_in_words():
    assert verdicts.subject("your picture", None) == "Your picture, its true class is not known."
    assert Picture(torch.zeros(SHAPE), None, "x").shape == SHAPE
