"""Who is fooled at any step, with dropping and without: the fast way is held to a plain loop."""

import pytest
import torch

from cce.attacks.gradient import attack
from cce.config import AttackConfig
from cce.evaluation.fooling import STEPWISE, WatchedEnsemble, inside_ball, run_attack, stepwise
from cce.evaluation.outcomes import outcome
from cce.fast import SearchCopy


def config(name: str, **changes) -> AttackConfig:
    return AttackConfig(**{"name": name, "epsilon": 0.1, "step_size": 0.02, "steps": 6} | changes)


@pytest.fixture
def batch(digits):
    return digits.test.pixels()[:60], digits.test.labels[:60]


def fooled_at_any_step(model, x, labels, c) -> torch.Tensor:
    """The plain way: every iterate of the whole attack judged in float32."""
    seen = [outcome(model, x, labels).right]
    attack(model, x, labels, c, watch=lambda i, z: seen.append(outcome(model, z.detach(), labels).right))
    return ~torch.stack(seen).all(0)


@pytest.mark.parametrize("name", STEPWISE)
def test_dropping_finds_whom_the_plain_loop_finds(name, trained, batch):
    model, (x, labels) = trained(2), batch
    wrong = ~outcome(model, x, labels).right
    whole = run_attack(model, model, x, labels, config(name), wrong=wrong)
    dropped = run_attack(model, model, x, labels, config(name), wrong=wrong, drop=True)
    plain = fooled_at_any_step(model, x, labels, config(name))
    assert torch.equal(whole.fooled, plain) and torch.equal(dropped.fooled, plain)
    assert wrong.sum() < plain.sum() < len(x)  # there was something to find, and to miss
    # Without dropping the examples are the attack's own; with it, each shows what it is counted for.
    assert torch.equal(whole.examples, attack(model, x, labels, config(name)))
    assert torch.equal(~dropped.outcome.right, dropped.fooled)
    assert (dropped.examples - x).abs().max() <= 0.1 + 1e-6
    assert torch.equal(dropped.examples[wrong], x[wrong])
    left = ~dropped.fooled
    torch.testing.assert_close(dropped.examples[left], whole.examples[left], atol=1e-6, rtol=0)


def test_towards_a_class_any_wrong_label_on_the_way_counts(trained, batch):
    model, (x, labels), c = trained(2), batch, config("bim", toward=3, epsilon=0.2, step_size=0.05)
    plain = fooled_at_any_step(model, x, labels, c)
    for drop in (False, True):
        assert torch.equal(run_attack(model, model, x, labels, c, drop=drop).fooled, plain)
    reached = model(attack(model, x, labels, c)).argmax(1) == 3
    assert (plain & ~reached).any()


def test_l2_steps_are_watched_too(trained, batch):
    model, (x, labels), c = trained(2), batch, config("pgd", epsilon=0.8, step_size=0.2, norm="l2")
    found = run_attack(model, model, x, labels, c, drop=True)
    assert torch.equal(found.fooled, fooled_at_any_step(model, x, labels, c))
    assert ((found.examples - x).flatten(1).norm(dim=1) <= 0.8 + 1e-5).all()


def test_bfloat16_finds_and_float32_decides(trained, batch):
    model, (x, labels) = trained(2), batch
    search = SearchCopy(model, torch.bfloat16).model
    both = [run_attack(model, search, x, labels, config("pgd"), drop=drop) for drop in (False, True)]
    plain = fooled_at_any_step(model, x, labels, config("pgd"))
    for found in both:
        assert (found.fooled != plain).float().mean() <= 0.05
        assert found.examples.dtype == torch.float32
    assert torch.equal(~both[1].outcome.right, both[1].fooled)  # every drop is float32's


def test_who_search_alone_takes_for_fooled_goes_on(thresholds):
    """The search copy sees 1 above .30, the ensemble above .50: pictures of class 0 that move up by .04 a step.

    From .20 the search is fooled at once and goes on to .20 + 4 * .04 = .36, never fooled; from .40 the ensemble
    is at .52, the third step.
    """
    judge, search = thresholds(0.5), thresholds(0.3)
    x = torch.tensor([0.20, 0.40])[:, None, None, None].expand(2, 1, 4, 4).clone()
    labels = torch.zeros(2, dtype=torch.long)
    c = AttackConfig("bim", 0.16, 0.04, 4)
    found = run_attack(judge, search, x, labels, c, drop=True)
    assert found.fooled.tolist() == [False, True]
    assert found.examples.mean((1, 2, 3)).tolist() == pytest.approx([0.36, 0.52], abs=1e-5)
    whole = run_attack(judge, search, x, labels, c)
    assert whole.fooled.tolist() == [False, True]
    assert whole.examples.mean((1, 2, 3)).tolist() == pytest.approx([0.36, 0.56], abs=1e-5)


def test_a_step_back_counts_at_any_step_and_not_at_the_last(thresholds):
    """One grey picture of class 1, right between .4 and .6 only: the last point is right, a middle one was not."""
    model = thresholds(0.5)
    seen = []
    x, labels = torch.full((1, 1, 4, 4), 0.55), torch.ones(1, dtype=torch.long)
    watched = WatchedEnsemble(model, model, x, labels, AttackConfig("pgd", 0.2, 0.1, 3))
    for mean in (0.55, 0.45, 0.60):
        watched(torch.full((1, 1, 4, 4), mean))
        seen.append(bool(watched.fooled))
    assert seen == [False, True, True]
    assert watched.points.mean().item() == pytest.approx(0.45)


def test_a_point_outside_the_ball_fools_nobody(thresholds):
    x, labels = torch.full((2, 1, 4, 4), 0.55), torch.ones(2, dtype=torch.long)
    watched = WatchedEnsemble(thresholds(0.5), thresholds(0.5), x, labels, AttackConfig("pgd", 0.06, 0.1, 3))
    watched(torch.stack([x[0] - 0.07, x[1] - 0.06]))
    assert watched.fooled.tolist() == [False, True]
    assert inside_ball(x - 0.06, x, AttackConfig("pgd", 0.06)).all()
    assert not inside_ball(x + 0.5, x, AttackConfig("pgd", 0.5)).any()  # 1.05 is no pixel
    assert not inside_ball(x + 0.1, x, AttackConfig("pgd", 0.3, 0.1, norm="l2")).any()  # 4 * .1 = .4


def test_dropped_images_are_left_out_of_passes(trained, batch):
    """Pass after pass has as many images as the plain loop has left, and it costs less than all of them each time."""
    model, (x, labels), c = trained(2), batch, config("bim")
    wrong, sizes, seen = ~outcome(model, x, labels).right, [], []
    attack(model, x, labels, c, watch=lambda i, z: seen.append(outcome(model, z.detach(), labels).right))
    left = [int((torch.stack(seen[: i + 1]).all(0)).sum()) for i in range(c.steps)]
    hook = model.members[0].register_forward_hook(lambda m, inputs, out: sizes.append(len(inputs[0])))
    ticks = []
    run_attack(
        SearchCopy(trained(2), torch.float32).model, model, x, labels, c, wrong=wrong, drop=True, tick=ticks.append
    )
    hook.remove()
    assert sizes == [left[0], *left[:-1]] and left[-1] < left[0] < len(x)
    assert len(set(ticks)) > 3 and ticks == sorted(ticks) and ticks[-1] == 1


def test_all_fooled_from_the_start_costs_nothing(trained, batch):
    model, (x, labels) = trained(2), batch
    everyone = torch.ones(len(x), dtype=torch.bool)
    found = run_attack(model, model, x, labels, config("pgd"), wrong=everyone, drop=True)
    assert found.fooled.all() and torch.equal(found.examples, x)


@pytest.mark.parametrize(
    ("changes", "can"),
    [
        ({}, True),
        ({"target": "member 1"}, False),
        ({"restarts": 2}, False),
        ({"toward": 3}, True),
        ({"name": "spsa"}, False),
    ],
)
def test_what_can_be_watched(changes, can):
    assert stepwise(AttackConfig(**{"name": "pgd", **changes})) == can


def test_an_attack_that_cannot_be_watched_is_judged_by_its_result(trained, batch):
    model, (x, labels) = trained(2), batch
    ticks = []
    found = run_attack(model, model, x, labels, config("pgd", target="member 1"), tick=ticks.append, drop=True)
    assert torch.equal(found.examples, attack(model, x, labels, config("pgd", target="member 1")))
    assert torch.equal(found.fooled, ~found.outcome.right)
    assert ticks == sorted(ticks) and ticks[-1] == 1


def test_the_models_are_left_as_they_were(trained, batch):
    model, (x, labels) = trained(2).train(), batch
    before = {k: v.clone() for k, v in model.state_dict().items()}
    search = SearchCopy(model, torch.float32).model
    run_attack(model, search, x, labels, config("mim"), drop=True)
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
