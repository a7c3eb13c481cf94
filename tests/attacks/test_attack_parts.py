"""What each newer attack is made of: against numbers by hand, plain versions, and peer libraries."""

import copy
import logging
import math

import eagerpy as ep
import foolbox
import pyautoattack
import pytest
import torch
import torch.nn.functional as F
import torchattacks
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_projections import projection_l2, projection_linf
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack

from cce.attacks import auto_attack, spsa
from cce.attacks.adaptive import without
from cce.attacks.apgd import targeted_dlr
from cce.attacks.ascent import Loss, l2_ball, steepest, wrong_margin
from cce.attacks.fab import to_plane
from cce.attacks.gradient import attack, to_grid
from cce.attacks.mora import member_weights
from cce.attacks.task import Task, check_weights, generators_for
from cce.checkpoints import folder as checkpoints
from cce.config import ATTACKS, AttackConfig, ConfigError, default_attack
from cce.data import datasets as data
from cce.evaluation.evaluate import outcome
from cce.fast import SearchCopy

EPSILON = 0.12


@pytest.fixture(scope="module")
def batch(digits):
    return digits.test.pixels()[:40], digits.test.labels[:40]


# Objectives and directions


def test_objectives_by_hand():
    """Two members, two classes: log-odds of the label 0 and 2 at one image.

    C is ln(1 + e^0) = .6931 and ln(1 + e^-2) = .1269; of the mean probability (.5 + .8808) / 2 it is
    .3705, of the mean log-odds 1 it is ln(1 + e^-1) = .3133.
    """

    class Fixed(torch.nn.Module):
        config = members = None

        def member_logits(self, x):
            return torch.tensor([[[0.0, 0.0]], [[2.0, 0.0]]]) + 0 * x.sum()

        def __call__(self, x):
            return self.member_logits(x).softmax(-1).mean(0).log()

    x, label = torch.zeros(1, 1, 2, 2), torch.tensor([0])
    wanted = {"probabilities": 0.3705, "logits": 0.3133, "worst member": 0.6931, "best member": 0.1269}
    for objective, value in wanted.items():
        loss = Loss(Fixed(), label, objective=objective)
        assert loss(x).item() == pytest.approx(value, abs=1e-4)
        assert loss.said.tolist() == [0]
    towards = Loss(Fixed(), label, toward=torch.tensor([1]))(x)  # -C(., 1) = ln((.5 + .1192) / 2)
    assert towards.item() == pytest.approx(math.log(0.3096), abs=1e-4)


def test_steepest_in_l2_has_length_one_and_survives_zero():
    direction = steepest("l2")(torch.stack([torch.full((1, 2, 2), 3.0), torch.zeros(1, 2, 2)]))
    assert direction.flatten(1).norm(dim=1).tolist() == pytest.approx([1, 0])


def test_l2_ball_scales_then_cuts():
    center = torch.full((1, 1, 1, 2), 0.5)
    inside = l2_ball(center, 0.5)(center + torch.tensor([0.3, 0.4]))
    torch.testing.assert_close(inside - center, torch.tensor([[[[0.3, 0.4]]]]))
    outside = l2_ball(center, 0.25)(center + torch.tensor([0.3, 0.4]))
    torch.testing.assert_close(outside - center, torch.tensor([[[[0.15, 0.2]]]]))


def test_restarts_only_help_the_attacker(trained, batch):
    model, (x, labels) = trained(2), batch
    once = AttackConfig("pgd", EPSILON, EPSILON / 2, 2)
    again = AttackConfig("pgd", EPSILON, EPSILON / 2, 2, restarts=4)
    one, four = (attack(model, x, labels, c) for c in (once, again))
    right = [outcome(model, z, labels).right for z in (one, four)]
    assert not (right[1] & ~right[0]).any() and right[1].sum() <= right[0].sum()
    losses = [F.nll_loss(model(z), labels, reduction="none") for z in (one, four)]
    kept = right[0] & right[1]
    assert (losses[1] >= losses[0] - 1e-5)[kept].all() and (losses[1] > losses[0] + 1e-3)[kept].any()


def test_early_rest_is_the_first_iterate_that_fools(trained, batch):
    """The plain loop's iterates, looked at one by one: the same picture wherever one of them fools."""
    model, (x, labels) = trained(2), batch
    for name in ("bim", "mim"):
        path = []
        config = AttackConfig(name, 1.5 * EPSILON, EPSILON / 3, 6)
        attack(model, x, labels, config, watch=lambda i, z, path=path: path.append(z.detach().clone()))
        rested = attack(model, x, labels, config, early=True)
        wrong = torch.stack([~outcome(model, z, labels).right for z in path])
        first = torch.where(wrong.any(0), wrong.int().argmax(0), len(path) - 1)
        expected = torch.stack([path[k][i] for i, k in enumerate(first)])
        assert torch.isclose(rested, expected, atol=1e-5).float().mean() >= 0.97
        assert (outcome(model, rested, labels).right == ~wrong.any(0)).float().mean() >= 0.97
        assert wrong.any(0).float().mean() > 0.2


# Rounding to what a PNG can hold


def test_to_grid_in_l2_stays_in_the_ball_and_changes_little(batch):
    x = (batch[0] * 255).round() / 255
    torch.manual_seed(0)
    for epsilon in (0.05, 0.3, 1.5):
        x_adv = l2_ball(x, epsilon)(x + torch.randn_like(x))
        rounded = to_grid(x_adv, x, epsilon, "l2")
        assert (rounded * 255 - (rounded * 255).round()).abs().max() < 1e-4
        length = (rounded - x).flatten(1).norm(dim=1)
        assert length.max() <= epsilon * (1 + 2e-6)
        if epsilon > 0.1:  # a few steps of the grid a pixel: it does not shrink more than it must
            assert length.mean() > 0.95 * (x_adv - x).flatten(1).norm(dim=1).mean()
        assert (rounded - x_adv).abs().max() <= 1 / 255 + 1e-6
    assert torch.equal(to_grid(x, x, 0.0, "l2"), x)


def test_judging_on_the_grid_keeps_an_image_standing_where_rounding_saves_it(thresholds):
    """The mean .52 is class 1 above .5; within 8/255 any step crosses, but 4.9/255 rounds to 5/255 = .5004, class 1."""
    model, x, label = thresholds(0.5), torch.full((1, 1, 4, 4), 133 / 255), torch.tensor([1])
    config = AttackConfig(
        "bim", 8 / 255, 5.6 / 255, 2
    )  # 127.4 after a step: below .5, but 127 and 128 are not the same
    plain = attack(model, x, label, config, early=True)
    assert (255 * plain).flatten()[0].item() == pytest.approx(127.4, abs=1e-3)
    config = AttackConfig("bim", 8 / 255, 5.4 / 255, 2)  # 127.6: rounds to 128, above .5
    held = attack(model, x, label, config, early=True, on_grid=True)
    assert (255 * held).flatten()[0].item() == pytest.approx(125, abs=1e-3)  # a second step was taken


# Auto-Attack's parts


def test_targeted_dlr_by_hand():
    """z = (5, 3, 2, 1, 0), y = 0, t = 2: -(5 - 2) / (5 - (2 + 1) / 2) = -6 / 7, whatever is added to all."""
    z = torch.tensor([[5.0, 3.0, 2.0, 1.0, 0.0]])
    for shift in (0.0, -7.0):
        assert targeted_dlr(z + shift, torch.tensor([0]), torch.tensor([2])).item() == pytest.approx(-6 / 7)
    assert targeted_dlr(z[:, :3], torch.tensor([0]), torch.tensor([2])).item() == pytest.approx(-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_to_plane_agrees_with_the_package(norm):
    """Newton's method finds the package's projection, which sorts: same plane, same length."""
    torch.manual_seed(0)
    x, w = torch.rand(60, 3, 4, 4), torch.randn(60, 3, 4, 4)
    gap = torch.randn(60) * torch.logspace(-3, 1.8, 60)
    d = to_plane(x, w, gap, norm)
    b = (w * x).sum((1, 2, 3)) - gap
    theirs = (projection_linf if norm == "linf" else projection_l2)(x.flatten(1), w.flatten(1), b).view_as(x)
    assert (x + d).min() >= -1e-6 and (x + d).max() <= 1 + 1e-6
    reach = torch.where(w * -gap.sign()[:, None, None, None] > 0, 1 - x, x)
    possible = gap.abs() < (w.abs() * reach).sum((1, 2, 3)) - 1e-3
    assert 20 < possible.sum() < 60
    assert ((w * d).sum((1, 2, 3)) + gap)[possible].abs().max() < 1e-4
    order = math.inf if norm == "linf" else 2
    ours, peers = (z.flatten(1).norm(order, dim=1)[possible] for z in (d, theirs))
    torch.testing.assert_close(ours, peers, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd_agrees_with_the_package(norm, trained, batch):
    model, (x, labels) = trained(2).requires_grad_(False), batch
    epsilon = EPSILON if norm == "linf" else 0.7
    config = AttackConfig("apgd-ce", epsilon, steps=15, norm=norm)
    ours = attack(model, x, labels, config)
    theirs = APGDAttack(model, n_iter=15, norm={"linf": "Linf", "l2": "L2"}[norm], eps=epsilon, seed=0)
    accuracies = [outcome(model, z, labels).accuracy for z in (ours, theirs.perturb(x, labels))]
    assert 0.05 < accuracies[1] < 0.9
    assert abs(accuracies[0] - accuracies[1]) <= 2 / 40 + 1e-6


def test_auto_attack_gives_the_packages_verdicts(trained, batch, monkeypatch):
    """The standard version with fewer steps on both sides: at most one image in forty apart."""
    monkeypatch.setattr(auto_attack, "STEPS", 15)
    monkeypatch.setattr(auto_attack, "QUERIES", 60)
    monkeypatch.setattr(auto_attack, "TARGETS", 4)
    model, (x, labels) = trained(2).requires_grad_(False), batch
    ours = attack(SearchCopy(model).model, x, labels, AttackConfig("autoattack", EPSILON), judge=model)
    theirs = pyautoattack.AutoAttack(model, eps=EPSILON, seed=0)
    theirs.apgd.n_iter = theirs.apgd_targeted.n_iter = theirs.fab.n_iter = 15
    theirs.square.n_queries = 60
    theirs.apgd_targeted.n_target_classes = theirs.fab.n_target_classes = 4
    x_peer = theirs.run_standard_evaluation(x, labels, batch_size=40)[0]
    right = [outcome(model, z, labels).right for z in (ours, x_peer)]
    assert 2 <= right[0].sum() <= 38
    assert (right[0] != right[1]).sum() <= 1
    for name in ("apgd-ce", "pgd"):
        part = attack(model, x, labels, AttackConfig(name, EPSILON, EPSILON / 4, 15))
        assert (outcome(model, part, labels).right | ~right[0]).all()  # never weaker than a part of it


# No double softmax


def test_no_library_softmaxes_log_f_en_twice(trained, batch):
    """What each wrapped library computes from `forward` is what it would from f_en itself, worked out in float64."""
    model, (x, labels) = trained(2).requires_grad_(False), (batch[0][:8], batch[1][:8])
    f_en = torch.stack([m(x) for m in model.members]).double().softmax(-1).mean(0)
    right = f_en[range(8), labels]
    cross_entropy = -right.log()
    twice = F.cross_entropy(f_en, labels, reduction="none")  # what a second softmax would give
    assert (cross_entropy - twice).abs().min() > 0.05
    others = f_en.scatter(1, labels[:, None], 0).amax(1)
    margin = right.log() - others.log()

    square_margin, square_loss = SquareAttack(model, eps=0.1, loss="ce").margin_and_loss(x, labels)
    torch.testing.assert_close(-square_loss.double(), cross_entropy, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(square_margin.double(), margin, atol=1e-4, rtol=1e-4)

    apgd = APGDAttack_targeted(model, eps=0.1, device=x.device)
    apgd.y_target = f_en.scatter(1, labels[:, None], 0).argmax(1)
    log_f = f_en.log().sort(1, descending=True).values
    dlr = -margin / (log_f[:, 0] - (log_f[:, 2] + log_f[:, 3]) / 2)
    torch.testing.assert_close(apgd.dlr_loss_targeted(model(x), labels).double(), dlr, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(targeted_dlr(model(x), labels, apgd.y_target).double(), dlr, atol=1e-4, rtol=1e-3)

    fab = FABAttack_PT(model, eps=0.1, device=x.device)
    gap, _ = fab.get_diff_logits_grads_batch_targeted(x, labels, apgd.y_target)
    torch.testing.assert_close(gap[:, 0].double(), -margin, atol=1e-4, rtol=1e-4)

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    losses = foolbox.attacks.LinfPGD().get_loss_fn(wrapped, ep.astensor(labels))(ep.astensor(x)).item()
    assert losses == pytest.approx(cross_entropy.sum().item(), rel=1e-4)
    inner = torchattacks.PGD(model)
    said = inner.get_logits(x)
    torch.testing.assert_close(
        torch.nn.CrossEntropyLoss(reduction="none")(said, labels).double(), cross_entropy, atol=1e-4, rtol=1e-4
    )


def test_the_package_does_not_take_log_f_en_for_probabilities(trained, batch, caplog):
    """Its own check for outputs that sum to one speaks up for f_en, and is silent for log f_en."""
    from pyautoattack.checks import check_range_output

    model, x = trained(2), batch[0][:8]
    with caplog.at_level(logging.WARNING):
        check_range_output(model, x, logger=logging.getLogger("t"))
        assert not caplog.records
        check_range_output(lambda z: model(z).exp(), x, logger=logging.getLogger("t"))
        assert "probability distribution" in caplog.text


# Gradient-free


def test_spsa_estimates_the_gradient(thresholds):
    """One member, a margin linear in the mean pixel: its gradient is the same at each pixel, -20 / 16 for label 1."""
    model = thresholds(0.5)
    config = AttackConfig("spsa", 0.1, steps=1)
    x, label = torch.full((1, 1, 4, 4), 0.6), torch.tensor([1])
    task = Task(model, model, x, label, config, generators_for(0, [0]))
    signs = task.draw("signs", 2000, 1, 4, 4)[0]
    signs = torch.cat([signs, -signs])
    loss = spsa.margin(task, x + spsa.NEARBY * signs)
    gradient = (loss[:, None, None, None] * signs).mean(0) / spsa.NEARBY
    torch.testing.assert_close(gradient, torch.full_like(gradient, -20 / 16), atol=0.6, rtol=0)
    assert gradient.mean().item() == pytest.approx(-20 / 16, abs=0.15)


def test_spsa_takes_images_together_as_alone(trained, batch, monkeypatch):
    """Some of them fooled at the start or on the way, which then rest."""
    model, config = trained(2), AttackConfig("spsa", 0.2, steps=4)
    alone = attack(model, *batch, config)
    right = (model(batch[0]).argmax(1) == batch[1], model(alone).argmax(1) == batch[1])
    assert right[0].any() and not right[1].all()
    monkeypatch.setattr(spsa, "at_once", lambda device: 5)
    torch.testing.assert_close(attack(model, *batch, config), alone)


@pytest.mark.parametrize("name", [n for n, info in ATTACKS.items() if info.gradient_free])
def test_gradient_free_attacks_work_without_gradients(name, trained, batch):
    """Outputs cut off from the graph leave them nothing to differentiate."""

    class Outputs(type(trained(1))):
        def member_logits(self, x):
            assert not x.requires_grad
            return super().member_logits(x).detach()

    model = trained(2)
    blind = copy.deepcopy(model)
    blind.__class__ = Outputs
    config = AttackConfig(name, 0.2, steps={"spsa": 3}.get(name, 30))
    x_adv = attack(blind, batch[0][:3], batch[1][:3], config)
    assert torch.equal(x_adv, attack(model, batch[0][:3], batch[1][:3], config))


# Ensembles and detectors


def test_mora_weights_are_the_derivatives_of_the_margin():
    """Autograd on log f_t - log f_y of the softened mean, by the members' logits; zero where one is wrong."""
    torch.manual_seed(0)
    logits = 4 * torch.randn(3, 6, 5, dtype=torch.float64)
    labels = logits.softmax(-1).mean(0).argmax(1)
    right = labels[:, None]
    wrong = logits.log_softmax(-1).logsumexp(0).scatter(1, right, -math.inf).argmax(1, keepdim=True)
    z = (0.2 * logits).requires_grad_(True)
    f = z.softmax(-1).mean(0)
    gap = f.gather(1, wrong).log() - f.gather(1, right).log()
    (gradient,) = torch.autograd.grad(gap.sum(), z)
    expected = 3 * gradient.gather(2, wrong.expand(3, -1, -1))[..., 0]
    weights = member_weights(logits, labels)
    standing = logits.argmax(-1) == labels
    assert standing.any() and not standing.all()
    torch.testing.assert_close(weights[standing], expected[standing])
    assert (weights[~standing & standing.any(0)] == 0).all()


def test_orthogonal_part():
    a = torch.tensor([3.0, 4.0, 0.0, 0.0]).view(1, 1, 2, 2)
    b = torch.tensor([1.0, 0.0, 0.0, 0.0]).view(1, 1, 2, 2)
    assert without(a, b).flatten().tolist() == [0, 4, 0, 0]
    assert torch.equal(without(a, 2 * a), a) and torch.equal(without(a, 0 * a), a)


def test_aware_pgd_passes_a_released_detector_that_flags_pgd():
    """On the detection-mode digits, whose detector flags every PGD example."""
    c = checkpoints.load("checkpoints/digits-cce-dm")
    split = data.load("digits").detection_test.first(8)
    x, labels, threshold = split.pixels(), split.labels, c.detector.threshold

    def unflagged(name, **more):
        x_adv = attack(c.model, x, labels, default_attack("digits", name), **more)
        o = outcome(c.model, x_adv, labels)
        return (~o.right & (o.entropy <= threshold)).float().mean().item()

    assert unflagged("pgd") <= 0.13
    assert unflagged("aware-pgd", threshold=threshold) >= 0.37


def test_wrong_margin_by_hand():
    assert wrong_margin(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([1])).tolist() == [-1.0]
    assert wrong_margin(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([0])).tolist() == [2.0]


# The registry and the settings


def test_registry_and_defaults():
    for name, info in ATTACKS.items():
        config = default_attack("cifar10", name)
        assert config.describe().startswith(info.title)
        assert len(info.title) <= 24 and info.summary.endswith(".") and len(info.summary) < 110
        for norm in info.norms:
            assert default_attack("mnist", name, norm).norm == norm
    assert default_attack("cifar10") == AttackConfig("pgd", 8 / 255, 2 / 255, 20)
    assert default_attack("cifar10", "apgd-ce", "l2").epsilon == 0.5
    with pytest.raises(ConfigError, match="attack is 'none'"):
        default_attack("cifar10", "none")


def test_random_streams_of_neighbours_differ():
    draws = torch.stack([torch.rand(50, generator=g) for s in (0, 1) for g in generators_for(s, range(20))])
    assert len(draws.unique(dim=0)) == 40
    assert (torch.corrcoef(draws) - torch.eye(40)).abs().max() < 0.6
    again = generators_for(0, [3])[0]
    assert torch.equal(torch.rand(50, generator=again), draws[3])


def test_check_weights_takes_a_folded_bfloat16_copy(trained):
    check_weights(SearchCopy(trained(2)).model)
