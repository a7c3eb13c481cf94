"""The examples that ship: what each is said to show, and that it is the released ensemble's own result."""

import pytest
import torch

from app.services import attacks, examples, links
from app.services.examples import EXAMPLES, Example, Shown
from app.services.models import Registry
from app.services.replay import to_bytes
from app.studio import Studio
from app.tabs import attack_results, attack_stories

FOUND = {
    "falling-apart": ("S01", True, True),
    "one-fooled": ("S01", False, False),
    "all-fooled": ("S00", True, True),
    "attacker-knows": ("S00", True, False),
}
"""Subset, whether the ensemble is fooled, and whether it is flagged."""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(Registry((), "cpu"), tmp_path_factory.mktemp("no-data"))


def shown(released: Studio, example: Example) -> Shown:
    found = examples.shown(released, example)
    assert found is not None, "measure the examples anew: python -m assets.measure_examples"
    return found


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.id)
def test_an_example_shows_what_is_said_of_it_and_the_ensemble_still_says_so(released: Studio, example: Example):
    found = shown(released, example)
    subset, fooled, flagged = FOUND[example.id]
    result = found.made.result
    assert (result["benign_subset"], result["benign"]["flagged"]) == ("S11", False)
    assert (result["subset"], result["succeeded"], result["adversarial"]["flagged"]) == (subset, fooled, flagged)
    now = attacks.classify(found.checkpoint, found.made.x_adv)
    assert now["label"] == result["adversarial"]["label"]
    assert now["entropy"] == pytest.approx(result["adversarial"]["entropy"], abs=0.01)
    assert result["linf"] <= example.config.epsilon + 1e-6
    assert torch.equal(found.stops[0].pixels, to_bytes(found.picture.pixels)) and found.stops[-1].last
    for word in ("f1", "f2"):
        tops = dict(zip(("f1", "f2"), now["members"], strict=True))
        if f"{word} says" in example.see or f"{word} still says" in example.see:
            assert now["classes"][max(range(10), key=tops[word].__getitem__)] in example.see


def test_the_page_opens_on_members_that_fall_apart(released: Studio):
    opening = attack_stories.opening(released, released.registry.default())
    assert opening is not None
    done = attack_stories.done_of(opening)
    panels = attack_results.show(opening.checkpoint, opening.picture, done)
    assert "Fooled, but noticed" in panels[0] and "What to see" in panels[15]
    assert panels[2]["link"] == "" and len(panels[2]["stops"]) == 21
    assert [value for value in done.typed if value is not None][:5] == ["", "bim", "linf", 1.0, 0.25]


def test_an_example_of_another_ensemble_or_of_none_is_not_shown(released: Studio, studio: Studio, monkeypatch):
    opening = examples.find(examples.OPENING)
    assert examples.shown(studio, opening) is None and examples.offered(studio) == []
    assert attack_stories.opening(studio, "tiny-two") is None
    monkeypatch.setattr(examples, "_digest", lambda checkpoint, picture: "other weights")
    assert examples.shown(released, opening) is None
    assert len(examples.offered(released)) == 3  # its attack can still be run


def test_a_story_s_link_sets_its_attack(released: Studio):
    for example in EXAMPLES:
        said = examples.setting(example)
        assert said["model"] == example.model and said["image"] == f"test:{example.place}"
        checkpoint = released.registry.get(example.model)
        found = links.setting_of(said, example.model, checkpoint, [])
        assert not found.problems and found.config.describe() == example.config.describe()
