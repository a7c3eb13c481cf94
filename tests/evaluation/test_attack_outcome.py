"""Four words for what an attack did, the same in the command, the endpoints and the page."""

import json

import pytest
import torch

from app.services import attacks
from app.services.verdicts import fooled
from cce.__main__ import main
from cce.checkpoints.folder import load
from cce.config import AttackConfig, ConfigError
from cce.evaluation.attack_outcome import OUTCOMES, outcome_of, sentence
from cce.evaluation.one_picture import attack_picture, classify


@pytest.fixture
def pair(tiny_checkpoints):
    made = load(tiny_checkpoints / "tiny-two")
    x = torch.rand(made.model.config.input_shape, generator=torch.Generator().manual_seed(3)).mul(255).round() / 255
    return made, x


@pytest.mark.parametrize(
    ("label", "before", "after", "target", "outcome"),
    [
        ("cat", "dog", "dog", None, "was wrong before"),
        ("cat", "dog", "cat", None, "was wrong before"),
        ("cat", "dog", "owl", "owl", "was wrong before"),
        ("cat", "cat", "cat", None, "not fooled"),
        ("cat", "cat", "cat", "dog", "not fooled"),
        ("cat", "cat", "dog", None, "fooled"),
        ("cat", "cat", "owl", "dog", "fooled"),
        ("cat", "cat", "dog", "dog", "fooled into the target"),
    ],
)
def test_every_case_has_its_word_and_its_sentence(label, before, after, target, outcome):
    assert outcome_of(label, before, after, target) == outcome in OUTCOMES
    result = {"label": label, "benign": {"label": before}, "adversarial": {"label": after}, "toward": target}
    assert sentence(result).startswith(f"The ensemble was {outcome.removeprefix('was ')}")
    assert fooled(result) == sentence(result)  # the page's
    if (outcome, target) == ("fooled", "dog"):
        assert "but not into the target, dog" in sentence(result)


def test_a_result_tells_its_outcome_beside_succeeded(pair):
    made, x = pair
    said = made.classes.index(classify(made, x)["label"])
    other = (said + 1) % len(made.classes)
    config = AttackConfig("pgd", 0.0, 0.0, 1)
    _, result = attack_picture(made, x, said, config)
    assert (result["outcome"], result["succeeded"], result["toward"]) == ("not fooled", False, None)
    _, result = attack_picture(made, x, other, config)
    assert (result["outcome"], result["succeeded"]) == ("was wrong before", False)
    _, result = attack_picture(made, x, said, AttackConfig("pgd", 1.0, 0.1, 20, toward=other))
    assert result["toward"] == made.classes[other]
    assert result["outcome"] == outcome_of(made.classes[said], made.classes[said], result["adversarial"]["label"],
                                           made.classes[other])  # fmt: skip
    assert result["succeeded"] == (result["outcome"] in ("fooled", "fooled into the target"))


@pytest.mark.parametrize(("toward", "words"), [(0, "which is the picture's label"), (99, "has the classes 0 to 9")])
def test_a_target_that_cannot_be_is_refused(toward, words, pair):
    made, x = pair
    with pytest.raises(ConfigError, match=words):
        attacks.attack(made, x, "0", AttackConfig("pgd", 0.1, 0.1, 1, toward=toward))


def test_the_command_says_the_same_as_its_json(tiny_checkpoints, capsys):
    for label in range(10):
        words = ["attack", str(tiny_checkpoints / "tiny-two"), "test:0", "--steps", "2", "--label", str(label)]
        assert main([*words, "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert main(words) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == sentence(result)
    words = ["attack", str(tiny_checkpoints / "tiny-two"), "test:0", "--label", "3", "--toward", "3"]
    assert main(words) == 2
    assert "toward is '3', which is the picture's label" in capsys.readouterr().err
