"""Attack and verdict in parts give what they give in one."""

import threading

import pytest
import torch

from cce.attacks import in_parts
from cce.attacks.gradient import attack
from cce.attacks.in_parts import attack_in_parts
from cce.config import AttackConfig, ConfigError
from cce.evaluation.evaluate import outcome
from cce.machine import shards


@pytest.fixture(autouse=True)
def two_threads_and_parts_of_three(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(in_parts, "_MOST", 3)
    shards.use(2)
    yield
    shards.use(None)


@pytest.fixture
def batch(digits):
    return digits.test.pixels()[:8], digits.test.labels[:8]


@pytest.mark.parametrize("name", ["pgd", "mim", "square"])
def test_the_examples_and_what_is_said_of_them_do_not_depend_on_the_parts(name, trained, batch):
    model, (x, labels) = trained(2), batch
    config, seen = AttackConfig(name, 0.1, 0.03, 4, restarts=2 if name == "pgd" else 1), []

    def told(done, total):
        assert total == 8 and threading.current_thread() is not threading.main_thread()
        seen.append(done)

    found = attack_in_parts(model, x, labels, config, seed=5, progress=told)
    assert torch.allclose(found, attack(model, x, labels, config, seed=5), atol=1e-6)
    assert seen == sorted(seen) and seen[-1] == 8 and len(seen) > 3
    shards.use(1)
    whole = outcome(model, x, labels)
    shards.use(2)
    parts = outcome(model, x, labels, 3)
    assert torch.allclose(whole.log_probability, parts.log_probability, atol=1e-5)
    assert torch.equal(whole.member_labels, parts.member_labels)
    assert torch.allclose(whole.member_entropy, parts.member_entropy, atol=1e-5)


def test_a_part_that_fails_ends_the_others_and_leaves_the_model_as_it_was(trained, batch):
    model, (x, labels) = trained(2).train(), batch
    with pytest.raises(ConfigError, match="labels range"):
        attack_in_parts(model, x, torch.cat([labels[:7], labels[7:] + 99]), AttackConfig("pgd", 0.1, 0.03, 4))
    assert model.training and all(p.requires_grad for p in model.parameters())


def test_no_images_give_no_examples(trained, batch):
    x, labels = batch
    assert attack_in_parts(trained(1), x[:0], labels[:0], AttackConfig("pgd")).shape == x[:0].shape
