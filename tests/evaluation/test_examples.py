import json
import math

import pytest
import torch

from cce.checkpoints.folder import Checkpoint
from cce.config import ATTACKS, CCE_DM, AttackConfig, ConfigError, Detector, default_attack
from cce.evaluation.evaluate import outcome
from cce.evaluation.one_picture import attack_in_steps, attack_picture, classify, classify_all, subset_name, subset_of

DIGITS = tuple("0123456789")


@pytest.fixture
def tiny(trained) -> Checkpoint:
    return Checkpoint("tiny", trained(2), "digits", DIGITS, CCE_DM, {}, Detector(1.0, 0.05, "nothing", 1))


@pytest.fixture
def two(thresholds) -> Checkpoint:
    """Members switch from dark to light at mean pixels 100.5/255 and 120.5/255, f_en half-way between."""
    model = thresholds(100.5 / 255, 120.5 / 255, sharpness=40.0)
    return Checkpoint("two", model, "digits", ("dark", "light"), CCE_DM, {}, Detector(0.6, 0.05, "nothing", 1))


@pytest.fixture
def picture(digits):
    """A digit on the 1/255 grid, and its label."""
    return digits.test.pixels()[3], int(digits.test.labels[3])


def gray(level: int) -> torch.Tensor:
    return torch.full((1, 4, 4), level / 255)


def logistic(mean: float, threshold: float) -> float:
    return 1 / (1 + math.exp(-40 * (mean - threshold)))


def test_subset_names_have_a_bit_for_each_member():
    assert subset_name([True, True]) == "S11"
    assert subset_name([False, True, False]) == "S010"
    assert subset_name([True]) == "S1"


def test_classify_by_hand(two):
    said = classify(two, gray(110))
    light = [logistic(110 / 255, t / 255) for t in (100.5, 120.5)]
    p = sum(light) / 2
    assert said["members"][0] == pytest.approx([1 - light[0], light[0]], abs=1e-5)
    assert said["members"][1] == pytest.approx([1 - light[1], light[1]], abs=1e-5)
    assert said["ensemble"] == pytest.approx([1 - p, p], abs=1e-5)
    assert said["label"] == ("light" if p > 0.5 else "dark")
    assert said["entropy"] == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p), abs=1e-5)
    assert said["threshold"] == 0.6 and said["flagged"] is True
    assert said["classes"] == ["dark", "light"]
    assert classify(two, gray(250))["flagged"] is False


def test_classify_without_a_detector_flags_nothing(two):
    two.detector = None
    said = classify(two, gray(110))
    assert said["threshold"] is None and said["flagged"] is None


def test_classify_refuses_another_size(two):
    with pytest.raises(ConfigError, match="the picture has the shape \\(1, 8, 8\\); two takes \\(1, 4, 4\\)"):
        classify(two, torch.zeros(1, 8, 8))


def attacked(checkpoint, level: int, label: int | None, move: int):
    """BIM that moves the mean by `move`/255 in two steps; it ends on the grid."""
    config = AttackConfig("bim", 60 / 255, move / 2 / 255, 2)
    return attack_picture(checkpoint, gray(level), label, config)


@pytest.mark.parametrize(
    ("level", "label", "move", "benign", "after", "succeeded"),
    [
        (130, 1, 14, "S11", "S10", False),  # 116: the second member is wrong, f_en (110.5) still right
        (130, 1, 24, "S11", "S10", True),  # 106: f_en wrong too, the first member right
        (130, 1, 40, "S11", "S00", True),  # 90: all wrong
        (90, 0, 26, "S11", "S01", True),  # 116: dark no longer to the first member and f_en
        (105, 1, 20, "S10", "S00", False),  # f_en was wrong before: no success of the attack
        (105, 0, 2, "S01", "S01", False),  # 107: nothing changes
    ],
)
def test_subsets_and_success_by_hand(two, level, label, move, benign, after, succeeded):
    x_adv, result = attacked(two, level, label, move)
    assert (result["benign_subset"], result["subset"]) == (benign, after)
    assert result["succeeded"] is succeeded
    assert result["label"] == ("dark", "light")[label]
    end = level - move if label == 1 else level + move
    assert (x_adv * 255).round().unique().tolist() == [end]
    assert result["linf"] == pytest.approx(move / 255, abs=1e-6)
    assert result["benign"] == classify(two, gray(level))
    assert result["adversarial"]["entropy"] == pytest.approx(classify(two, gray(end))["entropy"], abs=1e-5)


def test_trajectory_by_hand(two):
    _, result = attacked(two, 130, 1, 40)
    levels = (130, 110, 90)
    p = [(logistic(v / 255, 100.5 / 255) + logistic(v / 255, 120.5 / 255)) / 2 for v in levels]
    assert [point["step"] for point in result["trajectory"]] == [0, 1, 2]
    assert [point["probability"] for point in result["trajectory"]] == pytest.approx(p, abs=1e-4)
    assert [point["subset"] for point in result["trajectory"]] == ["S11", "S10", "S00"]
    h = [-q * math.log(q) - (1 - q) * math.log(1 - q) for q in p]
    assert [point["entropy"] for point in result["trajectory"]] == pytest.approx(h, abs=1e-4)


def test_no_label_means_the_clean_prediction(two):
    _, result = attacked(two, 130, None, 40)
    assert result["label"] == "light" and result["succeeded"]
    _, result = attacked(two, 90, None, 26)
    assert result["label"] == "dark" and result["succeeded"]


@pytest.mark.parametrize("name", [name for name, info in ATTACKS.items() if info.group == "Gradient"])
@pytest.mark.parametrize("epsilon", [0.1, 2.6 / 255])
def test_result_is_on_the_grid_and_in_the_ball(name, epsilon, tiny, picture):
    x, label = picture
    config = AttackConfig(name, epsilon, epsilon / 3, 4)
    x_adv, result = attack_picture(tiny, x, label, config)
    assert x_adv.shape == x.shape and not x_adv.requires_grad
    assert (x_adv * 255 - (x_adv * 255).round()).abs().max() < 1e-4
    assert 0 < (x_adv - x).abs().max() <= epsilon + 1e-6
    assert result["linf"] == (x_adv - x).abs().max().item()
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert len(result["trajectory"]) == (2 if name == "fgsm" else 5)  # the start and each step
    assert len(result["subset"]) == 3 and set(result["subset"][1:]) <= {"0", "1"}
    json.dumps(result, allow_nan=False)


def test_last_point_of_the_trajectory_is_the_result_up_to_rounding(tiny, picture):
    x, label = picture
    _, result = attack_picture(tiny, x, label, AttackConfig("pgd", 0.1, 0.02, 6), seed=1)
    last, said = result["trajectory"][-1], result["adversarial"]
    assert last["probability"] == pytest.approx(said["ensemble"][label], abs=0.02)
    assert last["entropy"] == pytest.approx(said["entropy"], abs=0.05)
    first = result["trajectory"][0]
    assert first["probability"] > last["probability"] + 0.001


def test_verdict_is_on_the_rounded_picture(tiny, picture):
    """What is said of the adversarial picture holds for the PNG that is saved."""
    x, label = picture
    x_adv, result = attack_picture(tiny, x, label, AttackConfig("pgd", 0.2, 0.05, 6))
    saved = (x_adv * 255).round() / 255
    again = outcome(tiny.model, saved[None], torch.tensor([label]))
    assert result["adversarial"]["label"] == DIGITS[again.label.item()]
    assert result["subset"] == subset_name(again.member_right[:, 0].tolist())
    assert result["succeeded"] == (bool(classify(tiny, x)["label"] == DIGITS[label]) and not bool(again.right[0]))


def test_epsilon_zero_changes_nothing(tiny, picture):
    x, label = picture
    x_adv, result = attack_picture(tiny, x, label, AttackConfig("pgd", 0.0, 0.0, 3))
    assert torch.equal(x_adv, x)
    assert result["linf"] == 0 and not result["succeeded"]
    assert result["benign"] == result["adversarial"]


def test_seed_decides_the_random_start(tiny, picture):
    x, label = picture
    config = AttackConfig("pgd", 0.1, 0.01, 1)
    first, again, other = (attack_picture(tiny, x, label, config, seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": 10}, "labels range from 10 to 10; they must be from 0 to 9"),
        ({"label": -1}, "labels range from -1 to -1; they must be from 0 to 9"),
        ({"x": torch.full((1, 8, 8), 2.0)}, "images range from 2 to 2; pixels must be in \\[0, 1\\]"),
        ({"x": torch.zeros(3, 8, 8)}, "the picture has the shape \\(3, 8, 8\\); tiny takes \\(1, 8, 8\\)"),
        ({"config": AttackConfig(target="member 3")}, "target is 'member 3'; this ensemble has 2 members"),
    ],
)
def test_bad_input_is_refused(change, words, tiny, picture):
    asked = {"x": picture[0], "label": picture[1], "config": AttackConfig(steps=1)} | change
    with pytest.raises(ConfigError, match=words):
        attack_picture(tiny, **asked)


class Enough(Exception):
    pass


@pytest.mark.parametrize("name", [name for name, info in ATTACKS.items() if not info.package])
def test_every_attack_can_be_left_between_two_passes(two, name):
    told = []

    def tell(what: str, fraction: float) -> None:
        told.append((what, fraction))
        raise Enough

    with pytest.raises(Enough):
        attack_in_steps(two, gray(90), None, default_attack("digits", name), 0, tell)
    assert told == [("Attacking", pytest.approx(0, abs=0.9))]
    assert not any(member._forward_pre_hooks for member in two.model.members)
    assert not two.model.training


def test_an_attack_tells_how_far_it_is(tiny, picture):
    told = []
    x, label = picture
    attack_in_steps(tiny, x, label, AttackConfig("pgd", 0.1, 0.02, 8), 0, lambda what, f: told.append((what, f)))
    fractions = [f for _, f in told]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert [what for what, _ in told] == ["Attacking"] * 8 + ["Looking at the steps"]


def test_many_pictures_are_classified_as_one_is(tiny, digits):
    x = digits.test.pixels()[:70]
    said = classify_all(tiny, x)
    assert len(said) == 70
    one = classify(tiny, x[66])
    assert said[66]["entropy"] == pytest.approx(one["entropy"], abs=1e-5) and said[66]["label"] == one["label"]
    assert subset_of(one, int(digits.test.labels[66])) in {"S00", "S01", "S10", "S11"}
