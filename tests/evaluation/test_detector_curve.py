"""The honest curve: of each image the worst attack, against clean images flagged."""

import json

import numpy as np
import pytest

from cce.checkpoints import folder as checkpoints
from cce.config import SCORES, ConfigError, Detector
from cce.evaluation.detection import DetectionReport, Sample, report_from_json
from cce.evaluation.detector_curve import NEVER, curve, curves, worst_scores


def made(name, right, scores):
    values = np.array(scores, dtype=float)
    return Sample(name, np.array(right, dtype=bool), dict.fromkeys(SCORES, values))


def report():
    return DetectionReport(
        made("clean", [1, 1, 1, 0], [0.1, 0.2, 0.3, 0.4]),
        (made("PGD", [0, 1, 0, 0], [1.0, 0.1, 0.9, 0.9]),),
        (made("knows", [0, 1, 1], [0.5, 0.0, 0.0]),),
        (made("noise", [1, 1, 1, 1], [0.1, 0.2, 0.5, 0.5]),),
        {"entropy": Detector(0.3, 0.25, "four", 4)},
    )


def test_of_every_image_the_worst_attack_counts():
    lowest, worst = worst_scores(report(), "entropy")
    assert lowest.tolist() == [0.5, NEVER, 0.9]  # the second is never wrong; the fourth was not attacked by all
    assert worst == {"PGD": 1, "knows": 1}


def test_a_picture_that_is_wrong_unattacked_counts_as_it_is():
    wrong = report()
    clean = made("clean", [0, 1, 1, 0], [0.1, 0.2, 0.3, 0.4])
    lowest, worst = worst_scores(DetectionReport(clean, wrong.attacks, wrong.adaptive, wrong.benign), "entropy")
    assert lowest.tolist() == [0.1, NEVER, 0.9] and worst == {"no attack": 1, "PGD": 1}


def test_figures_at_the_calibrated_threshold_and_at_a_rate():
    one = curve(report())
    point = one.at(one.detector.threshold)
    assert (point.clean_flagged, point.missed, point.accepted, point.accepted_accuracy) == (0.25, 0.0, 0.75, 1.0)
    assert point.benign == {"noise": 0.5}
    assert one.at(0.5).missed == pytest.approx(1 / 3) and one.at(5).missed == pytest.approx(2 / 3)
    assert one.at_rate(0.25).threshold == 0.3 and one.at_rate(0).threshold == 0.4
    assert one.at_rate(1).accepted_accuracy is None  # nothing is accepted


def test_along_the_curve_fewer_clean_flags_let_more_through():
    one = curve(report())
    assert (np.diff(one.clean_flagged) <= 0).all() and (np.diff(one.missed) >= 0).all()
    assert one.clean_flagged[0] == 1 and one.missed[0] == 0 and one.clean_flagged[-1] == 0
    for threshold, flagged, missed in zip(one.thresholds, one.clean_flagged, one.missed, strict=True):
        point = one.at(threshold)
        assert (point.clean_flagged, point.missed) == (pytest.approx(flagged), pytest.approx(missed))
    json.dumps(one.to_json(), allow_nan=False)


def test_a_score_that_is_not_there_and_another_scores_threshold_are_refused():
    with pytest.raises(ConfigError, match="score is 'size'; there is entropy"):
        curve(report(), "size")
    with pytest.raises(ConfigError, match="the detector is of entropy, not disagreement"):
        curve(report(), "disagreement", Detector(0.3, 0.25, "four", 4))


def test_the_released_measurements_give_curves():
    """The released CCE-RM under the worst of its attacks on 200 images, against its record image by image."""
    folder = next(p for p in checkpoints.released() if p.name == "cifar10-resnet20-cce-rm-long")
    values = json.loads((folder / "measurements" / "detection.json").read_text())["report"]
    found = curves(report_from_json(values))
    assert list(found) == list(SCORES) and all(one.images == 200 for one in found.values())
    entropy = found["entropy"]
    everything = entropy.at(np.inf)
    wrong = ["0" in rights for rights in zip(*(s["right"][:200] for s in _all(values)), strict=True)]
    assert everything.missed == pytest.approx(np.mean(wrong))
    assert found["disagreement"].at_rate(0.1).missed <= everything.missed


def _all(values):
    return [values["clean"], *values["attacks"], *values["adaptive"]]
