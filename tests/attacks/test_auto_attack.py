"""Our Auto-Attack against the authors' package: verdicts of the whole, in both norms; the two steps of FAB."""

import pytest
import torch
from pyautoattack.fab_pt import FABAttack_PT

from cce.attacks import auto_attack
from cce.attacks.gradient import attack
from cce.config import AttackConfig
from cce.evaluation.evaluate import outcome
from cce.fast import SearchCopy
from cce.models import evaluating

SIZE = {"linf": 0.12, "l2": 0.7}


@pytest.fixture(scope="module")
def batch(digits):
    return digits.test.pixels()[:40], digits.test.labels[:40]


def test_the_packages_verdicts_in_l2(trained, batch, monkeypatch):
    """With fewer steps on both sides: at most one image in forty apart. L-infinity is in test_attack_parts."""
    for name, value in {"STEPS": 15, "QUERIES": 60, "TARGETS": 4}.items():
        monkeypatch.setattr(auto_attack, name, value)
    model, (x, labels) = trained(2).requires_grad_(False), batch
    config = AttackConfig("autoattack", SIZE["l2"], norm="l2")
    ours = attack(SearchCopy(model).model, x, labels, config, judge=model)
    theirs = auto_attack.package(model, config, 0)
    assert (theirs.apgd.n_iter, theirs.square.n_queries, theirs.fab.n_target_classes) == (15, 60, 4)
    peers = theirs.run_standard_evaluation(x, labels, batch_size=40)[0]
    right = [outcome(model, z, labels).right for z in (ours, peers)]
    assert 2 <= right[0].sum() <= 38
    assert (right[0] != right[1]).sum() <= 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fab_fools_whom_the_package_fools(norm, trained, batch):
    """Towards each of three classes, 12 steps: an image counts where the example found lies in the ball."""
    model, (x, labels) = trained(2).requires_grad_(False), batch
    kept = outcome(model, x, labels).right
    x, labels = x[kept], labels[kept]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto_attack, "TARGETS", 3)
        ours = attack(model, x, labels, AttackConfig("fab", SIZE[norm], steps=12, norm=norm))
    peer = FABAttack_PT(
        model,
        norm={"linf": "Linf", "l2": "L2"}[norm],
        n_iter=12,
        eps=SIZE[norm],
        targeted=True,
        device=x.device,
        n_target_classes=3,
    )
    with evaluating(model):
        theirs = peer.perturb(x, labels)
    right = [outcome(model, z, labels).right for z in (ours, theirs)]
    assert 2 <= right[0].sum() <= len(x) - 2
    assert (right[0] != right[1]).sum() <= 2


def test_fab_takes_one_gradient_a_step(trained, batch):
    """A look and a gradient for each step, also where every step crosses the boundary."""
    model = trained(1)
    x, labels = batch[0][:4], model(batch[0][:4]).argmax(1)
    passes = []
    hook = model.members[0].register_forward_hook(lambda m, given, out: passes.append(torch.is_grad_enabled()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto_attack, "TARGETS", 1)
        attack(model, x, labels, AttackConfig("fab", 1e-3, steps=10))  # too small a ball: none rests
    hook.remove()
    assert sum(passes) == 10
