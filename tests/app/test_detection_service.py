"""Detection on many pictures: measured here, or read from what was measured at release; stopped when asked."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from app.services import detection, gallery
from app.services.models import Registry
from cce.checkpoints.measurements import MEASUREMENTS
from cce.config import AttackConfig, ConfigError
from cce.evaluation.detection import DetectionReport
from cce.fast import search_precision
from cce.models import fast_dtype

ATTACKS = [AttackConfig("pgd", 0.15, 0.05, 3)]


@pytest.fixture
def pictures(tmp_path: Path) -> gallery.Collection:
    return gallery.collection("digits", tmp_path, (1, 8, 8))


def measured(registry: Registry, pictures, name: str = "tiny-two", tell=lambda what, fraction: None, **more):
    given = {"count": 8, "aware": 2, "knowing": ["agree"], **more}
    return detection.measure(
        registry.get(name), pictures, ATTACKS, given["count"], given["aware"], tell, given["knowing"]
    )


def test_a_measurement_has_all_three_columns_and_says_where_it_comes_from(registry, pictures):
    told = []
    report, source = measured(registry, pictures, tell=lambda what, fraction: told.append((what, fraction)))
    assert source.startswith("Measured here on the first 8 Digits test pictures; detector-aware attacks on 2. ")
    precision = search_precision(registry.get("tiny-two").model, fast_dtype(torch.device("cpu")))
    assert f"Examples searched for in {precision}, judged in float32." in source
    assert len(report.clean) == 8 and [len(s) for s in report.adaptive] == [2]
    assert "PGD" in report.attacks[0].name and len(report.benign) == 8
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    assert told[0][0] == "Getting ready"
    assert "PGD, epsilon 38.25/255" in {what for what, _ in told}


@pytest.mark.parametrize("at", [1, 3, 12])
def test_raising_in_a_report_stops_it_within_a_pass(registry, pictures, at: int):
    passes = []

    class Stopped(Exception):
        pass

    def tell(what: str, fraction: float) -> None:
        passes.append(what)
        if len(passes) >= at:
            raise Stopped

    with pytest.raises(Stopped):
        measured(registry, pictures, tell=tell)
    assert len(passes) == at
    model = registry.get("tiny-two").model
    assert not any(m._forward_pre_hooks for m in model.modules())  # the model of the other pages is left alone


def test_every_pass_is_a_chance_to_stop(registry, pictures):
    """Agreeing members report once a target, 50 steps apart; the passes between them are heard too."""
    told = []
    measured(registry, pictures, tell=lambda what, fraction: told.append(what))
    assert sum("Agreeing" in what for what in told) >= 150


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"count": 0}, "The number of pictures is 0; it is a whole number from 1 to 1,000"),
        ({"count": None}, "The number of pictures is empty"),
        ({"aware": 2.5}, "for detector-aware attacks is 2.5"),
        ({"knowing": []}, "Choose at least one detector-aware attack"),
    ],
)
def test_what_cannot_be_measured_is_said_in_words(registry, pictures, more: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        measured(registry, pictures, **more)


def test_attacks_are_chosen_by_name_and_strength():
    chosen = detection.attacks_of("cifar10", ["pgd", "fgsm"], (1, 16))
    assert [(a.name, round(255 * a.epsilon, 3)) for a in chosen] == [("pgd", 8), ("fgsm", 8), ("pgd", 1), ("pgd", 16)]
    typed = detection.attacks_from("cifar10", ["pgd"], [4, 8, 4])
    assert [round(255 * a.epsilon, 3) for a in typed] == [4, 8]
    assert {round(255 * a.step_size, 3) for a in typed} == {1}
    for names, epsilons, words in (
        (["magic"], [8], "The attack is 'magic'"),
        ([], [8], "No attack is chosen"),
        (["pgd"], [], "No epsilon is given"),
        (["pgd"], [0], "Epsilon is 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            detection.attacks_from("cifar10", names, epsilons)


@pytest.fixture
def report(registry, pictures) -> DetectionReport:
    return measured(registry, pictures)[0]


def test_what_was_measured_here_comes_before_what_was_measured_at_release(
    tiny_checkpoints: Path, tmp_path: Path, report: DetectionReport
):
    folder = tmp_path / "tiny-two"
    shutil.copytree(tiny_checkpoints / "tiny-two", folder)
    registry, reports = Registry([folder], "cpu"), detection.Reports()
    assert reports.latest(registry.get("tiny-two")) is None
    (folder / MEASUREMENTS).mkdir()
    record = {"report": report.to_json(), "data": "the first 8 test images of digits"}
    (folder / MEASUREMENTS / "detection.json").write_text(json.dumps(record))
    found = reports.latest(registry.get("tiny-two"))
    words = "Measured at release on the first 8 test images of Digits; detector-aware attacks on 2 of them."
    assert found.source == words
    assert found.report.rows()[1]["auc"] == pytest.approx(report.rows()[1]["auc"])
    kept = reports.keep(registry.get("tiny-two"), report, "Measured here")
    assert reports.latest(registry.get("tiny-two")) is kept
    assert reports.keep(registry.get("tiny-two"), report, "again").id != kept.id
    (folder / "metrics.json").write_text('{"images": 7}')  # another checkpoint under the same name
    assert reports.latest(registry.get("tiny-two")).source == words


@pytest.mark.parametrize("content", ["{", '{"report": {}, "data": "x"}', '{"data": "x"}'])
def test_a_damaged_record_is_said_without_telling_where_it_lies(tiny_checkpoints: Path, tmp_path: Path, content: str):
    folder = tmp_path / "tiny-two"
    shutil.copytree(tiny_checkpoints / "tiny-two", folder)
    (folder / MEASUREMENTS).mkdir()
    (folder / MEASUREMENTS / "detection.json").write_text(content)
    with pytest.raises(ConfigError) as told:
        detection.released(Registry([folder], "cpu").get("tiny-two"))
    assert str(tmp_path) not in str(told.value)
    assert "detection" in str(told.value)


def test_a_model_without_a_detector_gets_the_threshold_of_the_clean_pictures(registry, pictures):
    report, _ = measured(registry, pictures, "tiny-three", count=40)
    value, own = detection.threshold(registry.get("tiny-three"), report)
    assert not own
    assert (report.clean.scores["entropy"] > value).mean() == pytest.approx(0.05)
    assert "flagged" in detection.with_threshold(registry.get("tiny-three"), report).rows()[0]
    assert detection.threshold(registry.get("tiny-two"), report) == (1.0, True)


def test_json_has_everything_and_is_json(registry, report: DetectionReport):
    said = json.loads(json.dumps(detection.to_json(registry.get("tiny-two"), report, "here"), allow_nan=False))
    assert said["threshold"] == 1.0 and said["threshold_is_calibrated"]
    assert said["adaptive"] and said["benign"] and list(said["tpr"]) == list(said["attacks"])
    one = next(iter(said["attacks"].values()))
    assert len(one["entropies"]) == said["images"] == 8
    assert one["roc"]["fpr"][0] == 0 and one["roc"]["tpr"][-1] == 1
    flagged = sum(x > 1.0 for x in said["clean"]["entropies"]) / 8
    assert said["fpr"] == pytest.approx(flagged)
    assert len(said["histogram"]["edges"]) == 1 + len(said["histogram"]["shares"]["clean"])


def test_clean_pictures_come_from_the_test_set_or_from_the_release(registry, pictures, report: DetectionReport):
    checkpoint = registry.get("tiny-two")
    here, called = detection.clean_reference(checkpoint, pictures, None)
    assert len(here) == 200 and called == "200 clean test pictures"
    few = gallery.Collection("digits", pictures.classes, pictures.split.first(5), "", 170)
    assert detection.clean_reference(checkpoint, few, None)[1] == "5 test pictures that ship"
    released = detection.Found("x", report, "at release")
    assert detection.clean_reference(checkpoint, few, released)[0] is report.clean
