import json
import math

import pytest
import torch
from torch import nn

from cce.attacks.corruptions import corruption_kinds, corruptions
from cce.checkpoints.folder import Checkpoint
from cce.config import ATTACKS, CCE_RM, AttackConfig, ConfigError, Detector, ModelConfig, to_json
from cce.evaluation.evaluate import Outcome, detection_report, evaluate, measure, metrics, outcome, worst_case
from cce.models import Ensemble

ON = ", on the ensemble"


class Reader(nn.Module):
    """Reads the label off the first pixel (in 1/255) and says it, plus an offset where `wrong` says so."""

    def __init__(self, wrong, confidence: float = 4.0) -> None:
        super().__init__()
        self.wrong, self.confidence = wrong, confidence

    def forward(self, x):
        label = (x[:, 0, 0, 0] * 255).round().long()
        said = torch.where(self.wrong(label), label + 1, label) % 10
        return self.confidence * nn.functional.one_hot(said, 10).float()


ALWAYS = lambda label: torch.ones_like(label, dtype=torch.bool)  # noqa: E731
NEVER = lambda label: torch.zeros_like(label, dtype=torch.bool)  # noqa: E731
EVEN = lambda label: label % 2 == 0  # noqa: E731
ODD = lambda label: label % 2 == 1  # noqa: E731
BELOW_3 = lambda label: label < 3  # noqa: E731


def readers(*wrong, confidences=None) -> Ensemble:
    model = Ensemble(ModelConfig("resnet8", len(wrong), 10, (1, 4, 4)))
    confidences = confidences or [4.0] * len(wrong)
    model.members = nn.ModuleList(Reader(w, c) for w, c in zip(wrong, confidences, strict=True))
    return model


def labelled(count: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(count) % 10
    return (labels / 255)[:, None, None, None].expand(count, 1, 4, 4).clone(), labels


@pytest.mark.parametrize(
    ("wrong", "subsets", "members"),
    [
        ((NEVER, NEVER), {"S11": 1, "S10": 0, "S01": 0, "S00": 0}, [1, 1]),
        ((ALWAYS, ALWAYS), {"S11": 0, "S10": 0, "S01": 0, "S00": 1}, [0, 0]),
        ((NEVER, ALWAYS), {"S11": 0, "S10": 1, "S01": 0, "S00": 0}, [1, 0]),
        ((ALWAYS, NEVER), {"S11": 0, "S10": 0, "S01": 1, "S00": 0}, [0, 1]),
        ((EVEN, ODD), {"S11": 0, "S10": 0.5, "S01": 0.5, "S00": 0}, [0.5, 0.5]),  # two that never agree
        ((EVEN, EVEN), {"S11": 0.5, "S10": 0, "S01": 0, "S00": 0.5}, [0.5, 0.5]),  # two that always do
        # Wrong on 0, 1, 2 and on 0, 2, 4, 6, 8: both on 0 and 2, the first alone on 1, the second on 4, 6, 8.
        ((BELOW_3, EVEN), {"S11": 0.4, "S10": 0.3, "S01": 0.1, "S00": 0.2}, [0.7, 0.5]),
    ],
)
def test_subsets_of_two_members(wrong, subsets, members):
    found = outcome(readers(*wrong), *labelled())
    assert found.subset_counts() == pytest.approx(subsets)
    assert list(found.subset_counts()) == ["S11", "S10", "S01", "S00"]
    assert sum(found.subset_counts().values()) == pytest.approx(1)
    assert found.member_accuracy == pytest.approx(members)


def test_subsets_of_one_and_three_members():
    assert outcome(readers(EVEN), *labelled()).subset_counts() == pytest.approx({"S1": 0.5, "S0": 0.5})
    three = outcome(readers(NEVER, ALWAYS, ODD), *labelled()).subset_counts()
    assert list(three) == ["S111", "S110", "S101", "S100", "S011", "S010", "S001", "S000"]
    assert three["S101"] == three["S100"] == 0.5
    assert sum(three.values()) == pytest.approx(1)


def test_the_ensemble_follows_the_surer_member():
    x, labels = labelled()
    assert outcome(readers(NEVER, ALWAYS, confidences=[5, 4]), x, labels).accuracy == 1
    assert outcome(readers(NEVER, ALWAYS, confidences=[4, 5]), x, labels).accuracy == 0
    assert outcome(readers(NEVER, ALWAYS, NEVER), x, labels).accuracy == 1


def test_entropy_of_two_certain_members_that_disagree_is_that_of_a_coin():
    x, labels = labelled()
    apart = outcome(readers(NEVER, ALWAYS, confidences=[200, 200]), x, labels)
    assert apart.entropy.tolist() == pytest.approx([math.log(2)] * 10, abs=1e-5)
    together = outcome(readers(NEVER, NEVER, confidences=[200, 200]), x, labels)
    assert together.entropy.tolist() == pytest.approx([0] * 10, abs=1e-5)


def test_outcome_does_not_depend_on_the_batch_size_or_the_mode(trained, digits):
    model, x, labels = trained(2), digits.test.pixels()[:30], digits.test.labels[:30]
    whole, parts = outcome(model, x, labels), outcome(model.train(), x, labels, batch_size=7)
    torch.testing.assert_close(whole.log_probability, parts.log_probability, atol=1e-5, rtol=0)
    assert torch.equal(whole.member_labels, parts.member_labels)
    assert model.training
    assert not whole.log_probability.requires_grad


def test_outcome_by_hand():
    log_p = torch.tensor([[0.7, 0.3], [0.4, 0.6], [0.9, 0.1]]).log()
    found = Outcome(log_p, torch.tensor([[0, 1, 0], [0, 0, 1]]), torch.tensor([0, 0, 0]))
    assert found.label.tolist() == [0, 1, 0]
    assert found.right.tolist() == [True, False, True]
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.member_accuracy == pytest.approx([2 / 3, 2 / 3])
    assert found.subset_counts() == pytest.approx({"S11": 1 / 3, "S10": 1 / 3, "S01": 1 / 3, "S00": 0})


def gray(*means: float) -> torch.Tensor:
    """4 x 4 pictures of one grey each."""
    return torch.tensor(means)[:, None, None, None].expand(len(means), 1, 4, 4).clone()


def checkpoint(model: Ensemble, detector: Detector | None) -> Checkpoint:
    return Checkpoint("two-thresholds", model, "digits", ("dark", "light"), CCE_RM, {}, detector)


def logistic_entropy(*scores: float) -> float:
    """Entropy of the mean of logistic(score)."""
    p = sum(1 / (1 + math.exp(-s)) for s in scores) / len(scores)
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_evaluate_on_thresholds_worked_out_by_hand(thresholds):
    """Members switch at .40 and .50 (f_en at .45). All four pictures are light (1) or dark (0), and right.

    BIM with three steps of .04 moves a light picture down, a dark one up, by .12 exactly:
        .60 -> .48  the second member is wrong only (S10), f_en still right, since .48 > .45
        .56 -> .44  f_en wrong, the first member right (S10)
        .515 -> .395 both wrong (S00)
        .20 -> .32  both right (S11)
    """
    x, labels = gray(0.60, 0.56, 0.515, 0.20), torch.tensor([1, 1, 1, 0])
    threshold = 0.55  # nats
    clean = [logistic_entropy(20 * (m - 0.4), 20 * (m - 0.5)) for m in (0.60, 0.56, 0.515, 0.20)]
    moved = [logistic_entropy(20 * (m - 0.4), 20 * (m - 0.5)) for m in (0.48, 0.44, 0.395, 0.32)]
    ticks = []
    result = evaluate(
        checkpoint(thresholds(0.4, 0.5), Detector(threshold, 0.25, "nothing", 4)),
        x,
        labels,
        [AttackConfig("bim", 0.2, 0.04, 3)],
        adaptive=4,
        epsilon=0.1,
        seed=7,
        report=lambda what, fraction: ticks.append((what, fraction)),
    )
    natural, attacked = result["natural"], result["attacks"][0]
    assert natural["accuracy"] == 1 and natural["subsets"]["S11"] == 1
    assert natural["mean_entropy"] == pytest.approx(sum(clean) / 4, abs=1e-5)
    assert natural["flagged"] == sum(e > threshold for e in clean) / 4
    assert natural["wrong_and_unflagged"] == 0

    assert attacked["accuracy"] == 0.5
    assert attacked["member_accuracy"] == [0.75, 0.25]
    assert attacked["subsets"] == {"S11": 0.25, "S10": 0.5, "S01": 0, "S00": 0.25}
    assert attacked["mean_entropy"] == pytest.approx(sum(moved) / 4, abs=1e-4)
    assert attacked["flagged"] == sum(e > threshold for e in moved) / 4
    unseen = [e <= threshold for e, wrong in zip(moved, (0, 1, 1, 0), strict=True) if wrong]
    assert attacked["wrong_and_unflagged"] == sum(unseen) / 4
    pairs = [(a > c) + (a == c) / 2 for a in moved for c in clean]
    assert attacked["auc"] == pytest.approx(sum(pairs) / 16)
    successful = [(moved[i] > c) for i in (1, 2) for c in clean]
    assert attacked["auc_successful"] == pytest.approx(sum(successful) / 8)
    assert 0 < attacked["flagged"] < 1  # the numbers above tell something

    assert (attacked["name"], attacked["epsilon"], attacked["steps"]) == ("bim", 0.2, 3)
    assert (result["images"], result["seed"]) == (4, 7)
    json.dumps(result, allow_nan=False)
    fractions = [f for _, f in ticks]
    assert fractions == sorted(fractions) and ticks[-1] == ("done", 1.0)


@pytest.mark.parametrize(("detector", "adaptive"), [(None, 2), (Detector(0.5, 0.05, "nothing", 1), 0)])
def test_no_detection_figures_without_a_detector_or_without_the_aware_attacker(detector, adaptive, thresholds):
    result = evaluate(
        checkpoint(thresholds(0.4, 0.5), detector),
        gray(0.6, 0.2),
        torch.tensor([1, 0]),
        [AttackConfig("fgsm", 0.12)],
        adaptive=adaptive,
    )
    plain = {"accuracy", "member_accuracy", "subsets", "mean_entropy"}
    assert set(result["natural"]) == plain
    always = {"accuracy_any_step", "fooled", "seconds"}
    assert set(result["attacks"][0]) - set(to_json(AttackConfig())) == plain | always
    assert "wrong_and_unflagged" not in result["worst_case"][0]
    assert ("adaptive" in result) == ("benign_corruptions" in result) == bool(adaptive)


def test_evaluate_under_an_attack_that_fools_nobody_has_no_auc_on_successes(thresholds):
    detector = Detector(0.5, 0.05, "nothing", 1)
    result = evaluate(
        checkpoint(thresholds(0.4, 0.5), detector),
        gray(0.9, 0.1),
        torch.tensor([1, 0]),
        [AttackConfig("bim", 0.01)],
        adaptive=2,
        epsilon=0.01,
    )
    assert result["attacks"][0]["auc_successful"] is None
    assert result["attacks"][0]["auc"] is not None
    json.dumps(result, allow_nan=False)


def test_evaluate_shows_the_aware_attacker_and_random_noise_beside_detection(trained, digits):
    x, labels = digits.test.pixels()[:12], digits.test.labels[:12]
    made = Checkpoint("t", trained(2), "digits", digits.classes, CCE_RM, {}, Detector(1.0, 0.05, "nothing", 1))
    fractions = []
    result = evaluate(
        made,
        x,
        labels,
        [AttackConfig("fgsm", 0.1)],
        adaptive=5,
        epsilon=0.1,
        report=lambda what, fraction: fractions.append(fraction),
    )
    names = [row["name"] for row in result["adaptive"]]
    aware = [name for name, info in ATTACKS.items() if info.aware and (info.grid or 0) < 8]
    assert names == [row["attack"]["name"] and AttackConfig(**row["attack"]).describe().removesuffix(ON)
                     for row in result["adaptive"]]  # fmt: skip
    assert [row["attack"]["name"] for row in result["adaptive"]] == aware and "agree" in aware
    assert {row["attack"]["epsilon"] for row in result["adaptive"]} == {0.1}
    assert {row["images"] for row in result["adaptive"]} == {5}
    noise = [row["name"] for row in result["benign_corruptions"]]
    assert noise[:3] == ["random signs of 25.5/255", "Gaussian noise, sigma 12.75/255", "JPEG quality 75"]
    assert len(noise) == 8
    union = result["worst_case"]
    assert [(row["images"], row["attacks"]) for row in union] == [(12, 1), (5, 1 + len(aware))]
    assert union[0]["accuracy"] <= result["attacks"][0]["accuracy"] + 1e-6  # float32 means
    assert union[1]["wrong_and_unflagged"] >= max(row["wrong_and_unflagged"] for row in result["adaptive"])
    for row in [*result["adaptive"], *result["benign_corruptions"]]:
        assert {"flagged", "wrong_and_unflagged", "auc", "auc_successful"} <= set(row)
        assert sum(row["subsets"].values()) == pytest.approx(1)
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    json.dumps(result, allow_nan=False)
    assert made.model.members[0].head.weight.requires_grad  # the model is left as it was


def test_the_worst_case_unites_attacks_by_image(thresholds):
    """One member, switching at .50; what is light (1) falls, and what is dark (0) rises, by steps * step size.

    In the ball of .05 the first picture falls (.52 - .05), in that of .2 also the second (.60 - .2, by BIM) and
    the third, dark (.45 + .06 = .51, by FGSM of .06); the last (.90) withstands all, and .49 is wrong by itself.
    """
    x, labels = gray(0.52, 0.60, 0.45, 0.90, 0.49), torch.tensor([1, 1, 0, 1, 1])
    attacks = [AttackConfig("bim", 0.2, 0.05, 4), AttackConfig("fgsm", 0.06), AttackConfig("bim", 0.05, 0.05, 1)]
    detector = Detector(0.6, 0.05, "nothing", 1)
    made = checkpoint(thresholds(0.5), detector)
    result = evaluate(made, x, labels, attacks)
    assert [row["fooled"] for row in result["attacks"]] == ["11101", "10101", "10001"]
    rows = result["worst_case"]
    assert [(row["norm"], row["epsilon"], row["attacks"]) for row in rows] == [
        ("linf", 0.05, 1), ("linf", 0.06, 2), ("linf", 0.2, 3),
    ]  # fmt: skip
    assert [row["accuracy"] for row in rows] == pytest.approx([0.6, 0.4, 0.2])
    found = measure(made, x, labels, attacks)
    seen = worst_case(found, detector)
    assert seen[2]["wrong_and_unflagged"] == pytest.approx(_unnoticed_by_hand(found, 0.6))


def _unnoticed_by_hand(found, threshold: float) -> float:
    """Share of images that some outcome has wrong with an entropy at or below the threshold."""
    lost = 0
    outcomes = [found.clean, *(f.outcome for f in found.found)]
    for i in range(len(found.clean.labels)):
        lost += any(not bool(o.right[i]) and o.entropy[i].item() <= threshold for o in outcomes)
    return lost / len(found.clean.labels)


def test_metrics_and_detection_come_from_one_walk(trained, digits, monkeypatch):
    import cce.evaluation.columns

    calls, real = [], cce.evaluation.columns.run_attack
    monkeypatch.setattr(cce.evaluation.columns, "run_attack", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    x, labels = digits.test.pixels()[:8], digits.test.labels[:8]
    detector = Detector(1.0, 0.05, "nothing", 1)
    made = Checkpoint("t", trained(2), "digits", digits.classes, CCE_RM, {}, detector)
    found = measure(made, x, labels, [AttackConfig("fgsm", 0.1)], adaptive=2, epsilon=0.1)
    walked = len(calls)
    result, seen = metrics(found, detector), detection_report(found, {"entropy": detector})
    assert len(calls) == walked == 1 + len(result["adaptive"])
    assert AttackConfig(**seen.attacks[0].settings) == AttackConfig("fgsm", 0.1)
    rows = {row["name"]: row for row in seen.rows()}
    told = [("attacks", 0, seen.attacks[0].name), ("adaptive", 1, result["adaptive"][1]["name"]),
            ("benign_corruptions", 2, result["benign_corruptions"][2]["name"])]  # fmt: skip
    for column, i, name in told:
        for key in ("accuracy", "auc", "auc_successful", "flagged", "wrong_and_unflagged"):
            assert rows[name][key] == pytest.approx(result[column][i][key]), (name, key)


def test_an_attack_that_was_cut_short_has_no_detection_figures(trained, digits):
    x, labels = digits.test.pixels()[:8], digits.test.labels[:8]
    detector = Detector(1.0, 0.05, "nothing", 1)
    made = Checkpoint("t", trained(2), "digits", digits.classes, CCE_RM, {}, detector)
    found = measure(made, x, labels, [AttackConfig("fgsm", 0.1)], adaptive=1, epsilon=0.1, success="any")
    result = metrics(found, detector)
    assert "auc" not in result["attacks"][0] and "wrong_and_unflagged" not in result["worst_case"][0]
    assert "auc" in result["adaptive"][0]  # these run to their end
    with pytest.raises(ConfigError, match="detection is measured on attacks that run to their end"):
        detection_report(found, {"entropy": detector})


@pytest.mark.parametrize("channels", [1, 3])
def test_corruptions_are_seeded_in_range_and_of_the_stated_size(channels):
    x = torch.rand(3, channels, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
    found, again = dict(corruptions(x, 0.05, seed=2)), dict(corruptions(x, 0.05, seed=2))
    other = dict(corruptions(x, 0.05, seed=3))
    signs, gauss, jpeg, blurred, resized, brighter, darker, shifted = found.values()
    for name, picture in found.items():
        assert picture.shape == x.shape and 0 <= picture.min() and picture.max() <= 1
        assert torch.equal(picture, again[name])
        assert torch.equal(picture, other[name]) != ("random" in name or "noise" in name)
    torch.testing.assert_close((signs - x).abs(), torch.full_like(x, 0.05))
    assert (gauss - x).std().item() == pytest.approx(0.025, rel=0.15)
    for name, corrupt in corruption_kinds(0.05, 16).items():  # an image's noise is its own
        last = corrupt(x[2:], [torch.Generator().manual_seed(9)])
        both = corrupt(x[1:], [torch.Generator().manual_seed(8), torch.Generator().manual_seed(9)])
        torch.testing.assert_close(last[0], both[1], msg=name)
    flat = dict(corruptions(torch.full((1, channels, 16, 16), 0.5), 0.05))["JPEG quality 75"]
    assert (flat - 0.5).abs().max() < 0.02  # a flat grey survives JPEG
    assert 0 < (jpeg - x).abs().mean() < 0.2
    assert 0 < blurred.std() < x.std() and 0 < resized.std() < x.std()
    torch.testing.assert_close(blurred[..., 1, 1], torch.stack([_binomial(p) for p in x]))
    torch.testing.assert_close(brighter, (1.2 * x).clamp(0, 1))
    torch.testing.assert_close(darker, 0.8 * x)
    assert torch.equal(shifted[..., 1:, 1:], x[..., :-1, :-1])
    assert torch.equal(shifted[..., 0, 1:], x[..., 0, :-1])


def _binomial(x: torch.Tensor) -> torch.Tensor:
    """The pixel (1, 1) of `(C, H, W)` blurred by hand."""
    kernel = torch.tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    return (x[:, :3, :3] * kernel).sum((1, 2))
