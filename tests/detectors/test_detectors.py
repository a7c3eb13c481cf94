"""Detectors by name: scores by hand, the push, thresholds at a stated rate, verdicts, and what a checkpoint keeps."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch

from cce.checkpoints import folder as checkpoints
from cce.checkpoints.folder import Checkpoint, CheckpointError
from cce.config import CCE_RM, DETECTORS, SCORES, ConfigError, Detector
from cce.detectors import calibrated, consistency, describe, judge, judging, scores, usual_radii
from cce.detectors.consistency import STEADY, smallest_radius
from cce.detectors.judging import evidence
from cce.detectors.looks import look
from cce.evaluation.evaluate import sample
from cce.evaluation.outcomes import outcome
from cce.fast import SearchCopy
from cce.reporting.cards import model_card

RADII = tuple(r / 255 for r in (1, 2, 4, 8))


def grey(*means: float) -> torch.Tensor:
    """4 x 4 pictures of one value each."""
    return torch.tensor(means)[:, None, None, None].expand(-1, 1, 4, 4).contiguous()


# One look


def test_scores_of_one_look_by_hand():
    """Members (0.9, 0.1) and (0.5, 0.5): f_en is (0.7, 0.3)."""
    logits = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]]).log()
    h = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3))
    each = [-(0.9 * math.log(0.9) + 0.1 * math.log(0.1)), math.log(2)]
    assert look("entropy", logits).item() == pytest.approx(h)
    assert look("max probability", logits).item() == pytest.approx(0.3, abs=1e-6)
    assert look("disagreement", logits).item() == pytest.approx(h - sum(each) / 2, abs=1e-6)


def test_scores_of_one_look_are_those_of_the_detection_report(trained, digits):
    model, x, labels = trained(3), digits.test.pixels()[:20], digits.test.labels[:20]
    known = sample("clean", outcome(model, x, labels)).scores
    for name in SCORES:
        np.testing.assert_allclose(scores(name, model, x), known[name], atol=1e-6)


@pytest.mark.parametrize("name", SCORES)
def test_an_attacker_can_climb_down_every_look(name, trained, digits):
    x = digits.test.pixels()[:4].requires_grad_(True)
    look(name, trained(2).member_logits(x)).sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0


# The push


def test_the_smallest_radius_is_the_distance_to_the_boundary(thresholds):
    """A member says 1 above a mean of 0.5: a picture at 0.5 + d turns within d, up to the next radius."""
    model = thresholds(0.5)
    x = grey(*(0.5 + d / 255 for d in (0.5, -1.5, 3.5, -7.5, 9)))
    found = smallest_radius(model, x, RADII, 10)
    assert found.tolist() == pytest.approx([1 / 255, 2 / 255, 4 / 255, 8 / 255, STEADY])


def test_unanimity_asks_every_member_and_flags_those_that_disagree_at_once(thresholds):
    """Boundaries at 0.5 and 0.53; f_en turns in the middle, at 0.515, one member before."""
    model = thresholds(0.5, 0.53)
    x = grey(0.51, 0.53 + 1.5 / 255, 0.53 + 9 / 255)
    assert smallest_radius(model, x, RADII, 10, unanimity=True).tolist() == pytest.approx([0, 2 / 255, STEADY])
    together = smallest_radius(model, x, RADII, 10)
    assert together.tolist() == pytest.approx([2 / 255, 8 / 255, STEADY])


@pytest.mark.parametrize("members", [1, 2, 3])
def test_the_push_stays_inside_its_radius_and_changes_the_answer_there(members, trained, digits, monkeypatch):
    model, x = trained(members), digits.test.pixels()[:30]
    radii, seen = (0.02, 0.05, 0.1, 0.2), []
    real = consistency.pgd_sign

    def watched(objective, x, start, *, epsilon, step_size, steps):
        found = real(objective, x, start, epsilon=epsilon, step_size=step_size, steps=steps)
        seen.append((found - x).abs().max().item() - epsilon)
        assert found.min() >= 0 and found.max() <= 1
        return found

    monkeypatch.setattr(consistency, "pgd_sign", watched)
    found = smallest_radius(model, x, radii, 5)
    assert max(seen) < 1e-6 and len(seen) > 1
    assert {round(r, 6) for r in found.tolist()} <= {*radii, STEADY} and len(set(found.tolist())) > 1
    again = smallest_radius(model, x, radii, 5)
    assert torch.equal(found, again)
    strict = smallest_radius(model, x, radii, 5, unanimity=True)
    if members == 1:
        assert torch.equal(strict, found)  # one member is the ensemble


def test_the_model_comes_back_as_it_was(trained, digits):
    model = trained(2).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    smallest_radius(model, digits.test.pixels()[:5], (0.1,), 2)
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_fast_copy_may_push_and_the_ensemble_judges(trained, digits):
    model, x = trained(2), digits.test.pixels()[:20]
    search = SearchCopy(model, torch.float32).model
    plain, fast = (smallest_radius(model, x, (0.05, 0.1), 4, search=s) for s in (None, search))
    assert (plain == fast).float().mean() > 0.9


@pytest.mark.parametrize(
    ("radii", "steps", "words"),
    [((), 5, "radii is"), ((0.2, 0.1), 5, "radii is"), ((0.0, 0.1), 5, "radii is"), ((8.0,), 5, "in pixel units"),
     ((0.1,), 0, "steps is 0")],
)  # fmt: skip
def test_pushes_that_are_none_are_refused(radii, steps, words, thresholds):
    with pytest.raises(ConfigError, match=words):
        smallest_radius(thresholds(0.5), grey(0.4), radii, steps)


def test_the_usual_radii_go_up_to_the_usual_epsilon():
    assert usual_radii("cifar10") == pytest.approx(consistency.RADII) and usual_radii("cifar10")[-1] == 8 / 255
    assert usual_radii("mnist")[-1] == pytest.approx(0.3) and len(usual_radii("mnist")) == len(consistency.RADII)


# Calibration and verdicts


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5])
@pytest.mark.parametrize(("name", "unanimity"), [*((name, False) for name in DETECTORS), ("consistency", True)])
def test_a_calibrated_detector_flags_at_most_its_rate_and_judges_as_its_scores_say(
    name, unanimity, rate, trained, digits
):
    model, x = trained(2), digits.test.pixels()[:60]
    push = {"unanimity": unanimity, "radii": (0.02, 0.05, 0.1, 0.2), "steps": 4} if name == "consistency" else {}
    detector = calibrated(name, model, x, rate, "sixty digits", **push)
    assert (detector.score, detector.images, detector.false_positive_rate) == (name, 60, rate)
    found = judge(detector, model, x)
    assert found.flagged.mean() <= rate + 1e-9
    assert np.array_equal(found.flagged, detector.flags(scores(name, model, x, **push)))
    words = [found.evidence(i) for i in range(60)]
    assert [w.startswith("flagged: ") for w in words] == found.flagged.tolist()
    assert all(w.startswith("accepted: ") for w, f in zip(words, found.flagged, strict=True) if not f)
    assert describe(detector).startswith(detector.name + ": flagged")
    if rate == 0.5 and not unanimity:
        assert found.flagged.any()


def test_radii_that_decide_nothing_are_not_tried(thresholds, monkeypatch):
    detector = Detector(-4 / 255, 0.1, "x", 1, "consistency", radii=RADII, steps=3)
    asked, real = [], judging.smallest_radius

    def watched(model, x, radii, *more, **named):
        asked.append(radii)
        return real(model, x, radii, *more, **named)

    monkeypatch.setattr(judging, "smallest_radius", watched)
    x = grey(*(0.5 + d / 255 for d in (0.5, 3.5)))
    found = judge(detector, thresholds(0.5), x)
    assert asked == [RADII[:2]]
    assert found.flagged.tolist() == [True, False]
    assert found.evidence(0) == "flagged: the answer changes within 1/255"
    assert found.evidence(1) == "accepted: no push within 2/255 changes the answer"


def test_evidence_of_unanimity():
    detector = Detector(-0.5 / 255, 0.3, "x", 10, "consistency", unanimity=True, radii=RADII, steps=3)
    assert detector.name == "consistency, unanimous"
    assert evidence(detector, 0.0) == "flagged: the members do not agree"
    assert evidence(detector, -1.0) == "accepted: the members agree"


def test_no_such_detector_is_refused(thresholds):
    with pytest.raises(ConfigError, match="detector is 'magic'; there is entropy, max probability"):
        scores("magic", thresholds(0.5), grey(0.4))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"score": "magic"}, "score is 'magic'"),
        ({"score": "consistency"}, "radii is"),
        ({"score": "consistency", "radii": (0.1,)}, "steps is 0"),
        ({"unanimity": True}, "unanimity, radii and steps are consistency's; the score is 'entropy'"),
    ],
)
def test_detectors_that_cannot_be_are_refused(more, words):
    with pytest.raises(ConfigError, match=words):
        Detector(0.1, 0.05, "x", 10, **more)


def test_scores_that_are_not_finite_are_an_error_and_never_accepted(trained, digits):
    model = trained(2)
    with torch.no_grad():
        model.members[0].head.bias.fill_(math.nan)
    with pytest.raises(ConfigError, match="not finite"):
        scores("entropy", model, digits.test.pixels()[:2])


# In a checkpoint


def all_detectors(model, x) -> dict[str, Detector]:
    push = {"radii": (0.02, 0.1), "steps": 2}
    made = [calibrated(name, model, x, 0.1, "digits", **(push if name == "consistency" else {})) for name in DETECTORS]
    made.append(calibrated("consistency", model, x, 0.1, "digits", unanimity=True, **push))
    return {d.name: d for d in made}


def test_a_checkpoint_keeps_its_detectors_and_its_card_tells_them(trained, digits, tmp_path):
    model, x = trained(2), digits.test.pixels()[:30]
    found = all_detectors(model, x)
    default = found.pop("entropy")
    made = Checkpoint("many", model, "digits", tuple("0123456789"), CCE_RM, {}, default, detectors=found)
    checkpoints.save(made, tmp_path / "many")
    loaded = checkpoints.load(tmp_path / "many")
    assert loaded.detectors == found and loaded.detector == default
    assert loaded.detector_named() == default
    assert loaded.detector_named("consistency, unanimous") == found["consistency, unanimous"]
    with pytest.raises(CheckpointError, match="many has no detector 'magic'; it has entropy, max probability"):
        loaded.detector_named("magic")
    card = model_card(loaded)
    assert all(f"- {describe(d)}" in card for d in found.values())


def test_an_older_checkpoint_loads_and_is_written_as_it_was(trained, tmp_path):
    old = {"threshold": 1.0, "false_positive_rate": 0.05, "calibrated_on": "numbers", "images": 180, "score": "entropy"}
    made = Checkpoint("old", trained(2), "digits", tuple("0123456789"), CCE_RM, {}, Detector(1.0, 0.05, "numbers", 180))
    checkpoints.save(made, tmp_path / "old")
    path = tmp_path / "old" / "config.json"
    values = json.loads(path.read_text())
    assert "detectors" not in values
    path.write_text(json.dumps(values | {"detector": old}))
    loaded = checkpoints.load(tmp_path / "old")
    assert loaded.detector == made.detector and loaded.detectors == {}
    assert loaded.detector_named().name == "entropy"


@pytest.mark.parametrize(
    ("detectors", "words"),
    [
        ([], "detectors is \\[\\]; it must be an object"),
        ({"entropy": {"threshold": 1.0}}, "detectors.entropy lacks the field"),
        ({"other": asdict(Detector(1.0, 0.05, "x", 1))}, "detectors.other is the detector 'entropy'"),
    ],
)
def test_damaged_detectors_are_named(detectors, words, trained, tmp_path):
    checkpoints.save(Checkpoint("x", trained(2), "digits", tuple("0123456789"), CCE_RM, {}), tmp_path / "x")
    path = tmp_path / "x" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"detectors": detectors}))
    with pytest.raises(CheckpointError, match=words):
        checkpoints.load(tmp_path / "x")
