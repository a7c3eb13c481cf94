"""Phases, rates and drawn settings; which images a step sees, and what the run looks at on its way."""

import dataclasses
import math

import pytest
import torch

from cce.config import (
    NAT,
    ConfigError,
    ModelConfig,
    Phase,
    TrainingAttack,
)
from cce.data import datasets as data
from cce.training import trainer as training
from cce.training.monitoring import monitoring_split
from cce.training.step import draw_attack
from cce.training.trainer import step_seed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": ModelConfig("resnet8", 2, 10, (1, 16, 16))}, "input_shape is .*; digits has \\(1, 8, 8\\)"),
        ({"model": ModelConfig("resnet8", 2, 7, (1, 8, 8))}, "classes is 7; digits has 10"),
        ({"batch_size": 65}, "batch_size is 65; there are only 64 training images"),
    ],
)
def test_a_config_that_does_not_fit_the_data_is_refused(changes, words, trainer):
    with pytest.raises(ConfigError, match=words):
        trainer(**changes)


# The schedule


def test_phases_may_be_fractions_of_an_epoch(trainer):
    made = trainer(phases=(Phase("a", 0.6, NAT), Phase("b", 1.5, NAT), Phase("c", 0.01, NAT)))
    # 8 steps an epoch: .6 is 4.8, rounded 5; 1.5 is 12; .01 is .08, and a phase has one step at least.
    assert made.ends == [5, 17, 18]
    assert made.total_steps == 18
    assert made.phase_at(0) == (0, 0.0)
    assert made.phase_at(4) == (0, 0.8)
    assert made.phase_at(5) == (1, 0.0)
    assert made.phase_at(11) == (1, 0.5)
    assert made.phase_at(17) == (2, 0.0)


def test_the_optimizer_gets_the_phases_rate_at_each_step(trainer, monkeypatch):
    """One-cycle over 8 steps, then milestones at epochs .5 and 1 of a phase of 1.5 epochs (12 steps)."""
    monkeypatch.setattr(training, "train_step", lambda *a, **k: {})
    up = Phase("up", 1, NAT, learning_rate=0.8, schedule="one-cycle")
    down = Phase("down", 1.5, NAT, learning_rate=0.1, schedule="milestones", milestones=(0.5, 1.0))
    made = trainer(phases=(up, down))
    rates = []
    while made.step < made.total_steps:
        made.advance()
        assert len({g["lr"] for g in made.optimizer.param_groups}) == 1
        rates.append(made.optimizer.param_groups[0]["lr"])
    # Progress k/8: .04 at 0, .52 at 1/8, the top at 2/8, then (1 + cos(pi (k - 2) / 6)) / 2.
    cosine = [(1 + math.cos(math.pi * (k - 2) / 6)) / 2 for k in range(2, 8)]
    assert rates[:8] == pytest.approx([0.8 * f for f in (0.04, 0.52, *cosine)])
    assert rates[8:] == pytest.approx([0.1] * 4 + [0.01] * 4 + [0.001] * 4)


def test_drawn_settings_stay_in_their_ranges_and_reach_both_ends():
    attack = TrainingAttack((3, 10), (4 / 255, 10 / 255), (1.0, 2.0))
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_attack(attack, generator) for _ in range(2000)]
    steps, epsilons = [d[0] for d in drawn], [d[1] for d in drawn]
    reaches = [size * k / epsilon for k, epsilon, size in drawn]
    assert set(steps) == set(range(3, 11))
    assert max(steps.count(k) for k in range(3, 11)) < 2 * min(steps.count(k) for k in range(3, 11))
    assert 4 / 255 <= min(epsilons) < 4.1 / 255 and 9.9 / 255 < max(epsilons) <= 10 / 255
    assert 1 - 1e-9 <= min(reaches) < 1.02 and 1.98 < max(reaches) <= 2 + 1e-9


def test_a_fixed_setting_is_the_papers():
    """k = 10, epsilon 8/255, step 2/255 is reach 2.5; its ResNet step epsilon / 10 is reach 1."""
    steps, epsilon, size = draw_attack(TrainingAttack(), torch.Generator())
    assert (steps, epsilon, size) == (10, pytest.approx(8 / 255), pytest.approx(2 / 255))
    _, epsilon, size = draw_attack(TrainingAttack((10, 10), (0.01, 0.05), (1.0, 1.0)), torch.Generator())
    assert 0.01 <= epsilon <= 0.05 and size == pytest.approx(epsilon / 10)


def test_step_seeds_differ_by_step_and_seed():
    assert len({step_seed(s, t) for s in range(20) for t in range(500)}) == 10_000
    assert step_seed(10**18, 3) >= 0


# The batch


def test_an_epoch_shows_each_image_once_and_each_epoch_another_order(trainer):
    made = trainer(shift=0.0)
    generator = torch.Generator()
    epochs = []
    for epoch in (0, 1):
        batches = [made.batch(8 * epoch + i, generator) for i in range(8)]
        epochs.append(torch.cat([x for x, _ in batches]))
        labels = torch.cat([y for _, y in batches])
        assert labels.bincount(minlength=10).tolist() == made.labels.bincount(minlength=10).tolist()
    whole = made.images.float().div(255).flatten(1)
    for shown in epochs:
        nearest = torch.cdist(shown.flatten(1), whole, compute_mode="donot_use_mm_for_euclid_dist")
        assert sorted(nearest.argmin(1).tolist()) == list(range(64))
        assert nearest.min(1).values.max() == 0
    assert not torch.equal(*epochs)
    again, _ = made.batch(0, generator)
    assert torch.equal(again, epochs[0][:8])


def test_batches_are_in_the_unit_range_and_shifted_by_the_step_alone(trainer):
    made = trainer(shift=0.2)
    first, again, other = (made.batch(0, torch.Generator().manual_seed(s))[0] for s in (1, 1, 2))
    assert first.dtype == torch.float32 and first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, again) and not torch.equal(first, other)


# Monitoring


def test_monitored_images_are_the_last_that_detectors_may_be_tested_on(digits):
    split = monitoring_split(digits, 10)
    assert len(split) == 10
    assert split.start == digits.test.start + len(digits.test) - 10
    assert torch.equal(split.images, digits.test.images[-10:])
    cut = dataclasses.replace(
        digits, calibration=data.Split(digits.test.images[300:], digits.test.labels[300:], digits.test.start + 300)
    )
    split = monitoring_split(cut, 10)
    assert split.start == digits.test.start + 290
    assert torch.equal(split.images, digits.test.images[290:300])
    assert len(monitoring_split(digits, 10_000)) == len(digits.test) // 2


def test_monitoring_leaves_training_alone(trainer):
    """A run that looks twice as often trains the same."""
    one, two = trainer(), trainer()
    one.advance(), two.advance()
    figures = one.monitor()
    assert set(figures) >= {"natural_accuracy", "robust_accuracy", "robust_subsets", "natural_entropy", "images"}
    assert figures == one.monitor()
    assert torch.equal(one.advance()["loss"], two.advance()["loss"])
