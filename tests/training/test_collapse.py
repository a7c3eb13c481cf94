"""Collapse is told from slow learning: by the loss, its progress, and the rise of the learning rate."""

import math
from dataclasses import replace

import pytest
import torch

from cce.config import ADV_EN, CCE_DM, NAT, Phase, TrainingAttack
from cce.training import trainer as training
from cce.training.trainer import TrainingError

ATTACK = TrainingAttack((1, 1), (0.05, 0.05), (1.0, 1.0))
LOSSES = ("loss", "natural", "direct", "promoting", "demoting")


@pytest.fixture
def uniform(monkeypatch):
    """Steps whose predictions are uniform, with the clean losses that are asked for, one after another."""

    def make(losses):
        given = iter(losses)

        def step(*a, **k):
            value = torch.tensor(float(next(given)))
            return {name: value for name in LOSSES} | {"entropy_clean": torch.tensor(math.log(10))}

        monkeypatch.setattr(training, "train_step", step)

    return make


def flat():
    while True:
        yield 2.3


def falling():
    value = 2.3
    while True:
        value *= 0.999
        yield value


def phases(defense, epochs=6, schedule="constant"):
    return (Phase("only", epochs, defense, ATTACK, 1e-3, schedule),)


def test_plain_training_never_collapses(trainer, uniform):
    uniform(flat())
    made = trainer(phases=phases(NAT, 12, "one-cycle"), evaluate_every=100)
    assert made.fit(log_every=4, quiet=True) == "finished"


def test_a_loss_that_falls_slowly_is_learning(trainer, uniform):
    uniform(falling())
    assert trainer(phases=phases(CCE_DM), evaluate_every=100).fit(log_every=4, quiet=True) == "finished"


def test_a_rising_rate_is_waited_for(trainer, uniform):
    uniform(flat())
    made = trainer(phases=phases(CCE_DM, 12, "one-cycle"), evaluate_every=100)
    with pytest.raises(TrainingError, match="collapsed"):
        made.fit(log_every=4, quiet=True)
    assert made.step == 4 * 8  # a quarter of 12 epochs is 3, and then one at the whole rate


@pytest.mark.parametrize(
    ("defense", "advice", "no_advice"),
    [(CCE_DM, "a lower lambda_dm", "epsilon"), (ADV_EN, "a smaller epsilon", "lambda_dm")],
)
def test_the_advice_fits_the_loss(defense, advice, no_advice, trainer, uniform):
    uniform(flat())
    with pytest.raises(TrainingError, match=advice) as stopped:
        trainer(phases=phases(defense), evaluate_every=100).fit(log_every=4, quiet=True)
    assert no_advice not in str(stopped.value) and "keep-going" in str(stopped.value)


def test_a_flag_goes_on(trainer, uniform):
    uniform(flat())
    made = trainer(phases=phases(CCE_DM), evaluate_every=100)
    made.keep_going = True
    assert made.fit(log_every=4, quiet=True) == "finished"


def test_a_resumed_run_knows_the_losses_of_before(trainer, uniform):
    uniform(flat())
    made = trainer(phases=phases(replace(CCE_DM, lambda_dm=1.0)), evaluate_every=100, save_every=8)
    rows = [{"kind": "training", "step": s, "natural": v} for s, v in ((4, 2.0), (8, 1.0), (12, 9.0))]
    assert training.epoch_means(rows, 8, 8) == [1.5] and made.lowest_loss == math.inf
