"""Ensembles whose answers are known: each member looks at one half of the picture, or at none."""

import json

import pytest
import torch
from torch import nn

from cce.config import AttackConfig, ConfigError, ModelConfig
from cce.evaluation.evaluate import Outcome
from cce.evaluation.transferability import (
    Transferability,
    black_box,
    black_box_from_json,
    from_json_values,
    from_outcomes,
    study,
    transferability,
)
from cce.models import Ensemble

BIM = AttackConfig("bim", 0.2, 0.2, 1)


class Half(nn.Module):
    """Says class 1 where the mean of its columns exceeds a half, class 0 where it does not."""

    def __init__(self, columns: slice) -> None:
        super().__init__()
        self.columns = columns

    def forward(self, x):
        score = 20 * (x[..., self.columns].mean((1, 2, 3)) - 0.5)
        return torch.stack([torch.zeros_like(score), score], dim=1)


class Always(nn.Module):
    """Says one class, whatever it sees; the picture has a gradient of zero."""

    def __init__(self, logits) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return torch.tensor(self.logits) + 0 * x.sum((1, 2, 3))[:, None]


LEFT, RIGHT = slice(0, 2), slice(2, 4)
ONE, ZERO = [0.0, 2.0], [2.0, 0.0]


def ensemble(*members: nn.Module, classes: int = 2) -> Ensemble:
    model = Ensemble(ModelConfig("resnet8", len(members), classes, (1, 4, 4)))
    model.members = nn.ModuleList(members)
    return model.eval()


def light(count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((count, 1, 4, 4), 0.6), torch.ones(count, dtype=torch.long)


def test_two_that_share_nothing_transfer_nothing():
    """An attack on one moves its half alone: it is wrong, the other right; T = (1 - 0) + (1 - 0)."""
    found = transferability(ensemble(Half(LEFT), Half(RIGHT)), *light(), BIM)
    assert found.natural == (1, 1, 1)
    assert found.a[0][:2] == (0, 1) and found.a[1][:2] == (1, 0)
    assert found.a[2] == (0, 0, 0)
    assert found.transferability == 2
    assert found.subsets == {"S11": 0, "S10": 0, "S01": 0, "S00": 1}
    assert (found.not_transferable, found.single) == (0, 0)
    assert found.names == ["f1", "f2", "en"]


def test_two_that_are_the_same_transfer_everything():
    found = transferability(ensemble(Half(LEFT), Half(LEFT)), *light(), BIM)
    assert found.a == ((0, 0, 0),) * 3
    assert found.transferability == 0


def test_one_always_right_and_one_always_wrong():
    found = transferability(ensemble(Always(ONE), Always(ZERO)), *light(), BIM)
    assert [row[:2] for row in found.a] == [(1, 0)] * 3
    assert found.transferability == -1 + 1  # (a12 - a11) + (a21 - a22) = (0 - 1) + (1 - 0)
    assert found.subsets["S10"] == 1
    surer = transferability(ensemble(Always([0.0, 5.0]), Always(ZERO)), *light(), BIM)
    assert surer.a[2][2] == 1 and surer.single == 1 and surer.not_transferable == 0
    other = transferability(ensemble(Always(ONE), Always([5.0, 0.0])), *light(), BIM)
    assert other.a[2][2] == 0 and other.single == 0 and other.not_transferable == 1


def test_one_member():
    found = transferability(ensemble(Half(LEFT)), *light(), BIM)
    assert found.a == ((0, 0), (0, 0))
    assert found.transferability == 0 and found.subsets == {"S1": 0, "S0": 1}
    assert (found.not_transferable, found.single) == (0, 0)


def test_three_members():
    """Two look left, one right. T sums a(i,j) - a(i,i) over six pairs: 0 0 | 1, 0 | 1, 1 1 -> 4."""
    found = transferability(ensemble(Half(LEFT), Half(LEFT), Half(RIGHT)), *light(), BIM)
    assert [row[:3] for row in found.a[:3]] == [(0, 0, 1), (0, 0, 1), (1, 1, 0)]
    assert found.transferability == 4
    assert list(found.subsets) == ["S111", "S110", "S101", "S100", "S011", "S010", "S001", "S000"]


def test_s00_is_not_a_part_of_the_insecure_region():
    """Both wrong, on different classes, and right together: f1 = (.4, .6, 0), f2 = (.4, 0, .6), y = 0."""
    members = [Always([[0.4, 0.6, 1e-9]]), Always([[0.4, 1e-9, 0.6]])]
    for m in members:
        m.logits = torch.tensor(m.logits).log().tolist()
    x = torch.full((2, 1, 4, 4), 0.6)
    found = transferability(ensemble(*members, classes=3), x, torch.zeros(2, dtype=torch.long), BIM)
    assert found.a[2][2] == 1 and found.subsets["S00"] == 1
    assert found.not_transferable == -1


def test_lemma_1_makes_single_never_negative():
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        logits = 3 * torch.randn(2, 40, 4, generator=generator)
        labels = torch.randint(0, 4, (40,), generator=generator)
        seen = Outcome(logits.softmax(-1).mean(0).log(), logits.argmax(-1), labels)
        assert from_outcomes(seen, [seen] * 3, BIM).single >= -1e-6


def test_black_box_between_ensembles():
    models = {"left": ensemble(Half(LEFT)), "right": ensemble(Half(RIGHT)), "both": ensemble(Half(LEFT), Half(RIGHT))}
    found = black_box(models, *light(), BIM)
    assert found.names == ("left", "right", "both") and found.natural == (1, 1, 1)
    assert [row[:2] for row in found.a] == [(0, 1), (1, 0), (0, 0)]
    assert found.a[2][2] == 0
    assert black_box_from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


def test_figures_are_those_of_plain_attacks(trained, digits):
    from cce.attacks.gradient import attack
    from cce.evaluation.evaluate import outcome

    model, x, labels = trained(2), digits.test.pixels()[:20], digits.test.labels[:20]
    config = AttackConfig("pgd", 0.15, 0.05, 3)
    found = transferability(model, x, labels, config, seed=3)
    on_two = attack(model, x, labels, AttackConfig("pgd", 0.15, 0.05, 3, "member 2"), seed=3)
    seen = outcome(model, on_two, labels)
    assert found.a[1] == (*seen.member_accuracy, seen.accuracy)
    assert sum(found.subsets.values()) == pytest.approx(1)
    assert from_json_values(json.loads(json.dumps(found.to_json()))) == found


def test_the_flow_counts_every_image_once_from_where_it_was_to_where_its_example_is():
    """Light pictures are right before and wrong after; dark ones (label 1) wrong before and after."""
    x = torch.cat([light()[0], torch.full((2, 1, 4, 4), 0.2)])
    found = study(ensemble(Half(LEFT), Half(RIGHT)), x, torch.ones(5, dtype=torch.long), BIM)
    assert found.found.flow == {"S11": {"S00": 3}, "S00": {"S00": 2}}
    assert found.found == transferability(ensemble(Half(LEFT), Half(RIGHT)), x, torch.ones(5, dtype=torch.long), BIM)
    assert torch.allclose(found.x_adv[:3], torch.full((3, 1, 4, 4), 0.4))
    assert found.clean.right.tolist() == [True] * 3 + [False] * 2 and not found.attacked.right.any()


def test_progress_is_told_after_every_step_and_can_stop_the_work():
    model, seen = ensemble(Half(LEFT), Half(RIGHT)).train(), []
    config = AttackConfig("bim", 0.2, 0.02, 5)
    told = transferability(model, *light(), config, progress=lambda done, total: seen.append(done / total))
    assert seen == sorted(seen) and seen[-1] == 1 and len(seen) > 3 * 5
    assert told == transferability(model, *light(), config)

    class Stop(Exception):
        pass

    def stop(done, total):
        raise Stop

    for measure in (
        lambda: transferability(model, *light(), config, progress=stop),
        lambda: black_box({"a": model, "b": model}, *light(), config, progress=stop),
    ):
        with pytest.raises(Stop):
            measure()
        assert model.training and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, x, y: black_box_from_json({}), "not a black-box record"),
        (lambda m, x, y: transferability(m, x[:0], y[:0], BIM), "no images"),
        (lambda m, x, y: black_box({}, x, y, BIM), "no ensembles"),
        (
            lambda m, x, y: black_box({"a": m, "b": ensemble(Always([0.0] * 3), classes=3)}, x, y, BIM),
            "different inputs",
        ),
        (lambda m, x, y: transferability(m, x, y + 5, BIM), "labels range"),
        (lambda m, x, y: from_json_values({}), "not a transferability record"),
        (lambda m, x, y: from_outcomes(Outcome(torch.zeros(1, 2), torch.zeros(2, 1), y[:1]), [], BIM), "0 sets"),
    ],
)
def test_bad_input_is_said_in_words(call, words):
    with pytest.raises(ConfigError, match=words):
        call(ensemble(Half(LEFT)), *light())


def test_a_record_that_does_not_fit_its_members_is_refused():
    good = Transferability(1, 2, BIM, (1, 1), ((1, 1), (1, 1)), {"S1": 1, "S0": 0}).to_json()
    with pytest.raises(ConfigError, match="does not fit 2 members"):
        from_json_values({**good, "members": 2})
    with pytest.raises(ConfigError, match="flow counts 3 of 2 images"):
        from_json_values({**good, "flow": {"S1": {"S0": 3}}})
    assert from_json_values({k: v for k, v in good.items() if k != "flow"}).flow == {}
