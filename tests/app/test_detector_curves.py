"""The curves of the Detection tab: of released and measured ensembles, with their refusals in words."""

import pytest

from app.figures import detector_curves as drawn
from app.services import detection
from app.services import detector_curves as service
from app.services.models import Registry
from cce.checkpoints import folder as checkpoints
from cce.config import SCORES, ConfigError

A, B = "digits-cce-dm", "digits-cce-rm"


@pytest.fixture(scope="module")
def registry():
    return Registry([p.parent for p in checkpoints.released()][:1])


def lines(registry, scores=SCORES, others=()):
    reports = detection.Reports()
    return service.lines(registry, reports, A, reports.latest(registry.get(A)), list(scores), list(others))


def test_a_line_a_detector_and_an_ensemble(registry):
    alone, both = lines(registry), lines(registry, others=[B])
    assert [name for name, _ in alone] == ["Entropy", "Highest probability", "Disagreement"]
    assert len(both) == 6 and both[3][0] == f"Entropy, {B}"
    figure, table = drawn.figure(both, 0.1, "key"), drawn.table(both, 0.1)
    assert len([t for t in figure["data"] if t["mode"] == "markers"]) == 6
    assert "10.0 % of clean pictures" in figure["description"] and "flagged: JPEG" in table


def test_the_marker_moves_every_figure(registry):
    made = lines(registry, ["entropy"])
    few, many = drawn.table(made, 0.01), drawn.table(made, 0.5)
    assert few != many and "at most 1.0 %" in few and "at most 50.0 %" in many
    own = service.first_rate(registry, A, detection.released(registry.get(A)))
    assert 0 <= own <= 20


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"scores": []}, "No detector is chosen"),
        ({"scores": ["size"]}, "The detector is 'size'; there is entropy"),
        ({"others": [B, "c", "d", "e"]}, "The number of ensembles is 5"),
    ],
)
def test_what_cannot_be_shown_is_said(registry, given, words):
    with pytest.raises(ConfigError, match=words):
        lines(registry, **given)
