"""What a picture can go through before the detector sees it."""

import numpy as np
import pytest

from app.services import changes
from app.services.models import Registry
from cce.checkpoints.folder import Checkpoint
from cce.config import ConfigError
from cce.data.datasets import Dataset
from cce.evaluation.detection import Sample


@pytest.fixture
def checkpoint(registry: Registry) -> Checkpoint:
    return registry.get("tiny-two")


@pytest.mark.parametrize("kind", [kind for kind, _ in changes.KINDS])
def test_each_kind_has_choices_and_the_first_is_one_of_them(checkpoint, kind: str):
    names = [name for _, name in changes.choices(checkpoint, kind)]
    assert (changes.first_choice(checkpoint, kind) in names) or (kind == "nothing" and not names)


def test_the_strongest_detector_aware_attack_comes_first(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch):
    measured = {"opgd": 0.1, "agree": 0.95, "aware-pgd": 0.4}
    rows = [{"attack": {"name": name}, "wrong_and_unflagged": share} for name, share in measured.items()]
    monkeypatch.setattr(checkpoint, "metrics", {"adaptive": rows})
    names = [name for _, name in changes.choices(checkpoint, "adaptive")]
    assert names[:3] == ["agree", "aware-pgd", "opgd"] and changes.first_choice(checkpoint, "adaptive") == "agree"


def test_nothing_leaves_the_picture_and_an_attack_stays_in_its_ball(checkpoint, digits: Dataset):
    x, label = digits.test.pixels()[0], str(int(digits.test.labels[0]))
    same = changes.change(checkpoint, x, label, "nothing", None)
    assert same.after is None and same.size == 0 and same.label == label and bool((same.pixels == x).all())
    for kind in ("attack", "adaptive"):
        which = [name for _, name in changes.choices(checkpoint, kind)][0]
        found = changes.change(checkpoint, x, label, kind, which)
        assert 0 < found.size <= 0.15 + 1e-6
        assert found.after["entropy"] != found.before["entropy"]
        assert ("Detector-aware attack" in found.words) == (kind == "adaptive")


def test_noise_is_named_as_what_it_is_and_lies_on_the_pixels_grid(checkpoint, digits: Dataset):
    x = digits.test.pixels()[1]
    for _, which in changes.choices(checkpoint, "benign"):
        found = changes.change(checkpoint, x, "auto", "benign", which)
        assert found.words == f"Nobody attacks: {which}"
        grid = found.pixels * 255
        assert float((grid - grid.round()).abs().max()) < 1e-3
        assert found.label == found.before["label"]


@pytest.mark.parametrize(
    ("kind", "which", "words"),
    [("magic", "x", "The change is 'magic'"), ("attack", "agree", "The change is 'agree'"), ("benign", None, "None")],
)
def test_a_change_that_is_not_there_is_refused_in_words(checkpoint, digits: Dataset, kind, which, words):
    with pytest.raises(ConfigError, match=words):
        changes.change(checkpoint, digits.test.pixels()[0], "auto", kind, which)


def test_evidence_ranks_a_picture_among_clean_ones():
    scores = {"entropy": np.array([0.1, 0.2, 0.3, 0.4]), "max probability": np.zeros(4)}
    clean = Sample("clean", np.ones(4, bool), {**scores, "disagreement": np.array([0.0, 0.0, 0.1, 0.1])})

    def lines(entropy: float, members: int = 2) -> list[str]:
        return changes.evidence({"entropy": entropy}, 0.05, clean, "4 pictures", "After", members)

    assert lines(0.25)[0] == "After, its entropy of 0.25 nats is higher than that of 2 of the 4 pictures."
    assert "lower than that of all 4 pictures" in lines(0.05)[0]
    assert "higher than that of all 4 pictures" in lines(2.0)[0]
    assert "disagree by 0.050 nats (0 is full agreement, 0.69 the most), which is higher than that of 2" in lines(1)[1]
    assert len(lines(1, members=1)) == 1
