import copy
import math

import foolbox
import pytest
import torch
import torch.nn.functional as F
import torchattacks

from cce.attacks.gradient import (
    agreeing_attack,
    ascend,
    attack,
    linf_ball,
    loss_of,
    momentum,
    smooth_perturbation,
    to_grid,
    uniform_start,
)
from cce.config import AttackConfig, ConfigError
from cce.evaluation.evaluate import outcome
from cce.models import log_mean_probability

FIRST = ("fgsm", "pgd", "bim", "mim")
EPSILON = 0.15  # of the peer comparison: about half of the tiny ensemble's answers survive it
ROUNDING = 2e-7  # a float32 near 1 has steps of 6e-8


@pytest.fixture(scope="module")
def batch(digits):
    """200 test digits, which include pixels at 0 and 1 where the ball is cut off."""
    x = digits.test.pixels()[:200]
    assert x.min() == 0 and x.max() == 1
    return x, digits.test.labels[:200]


@pytest.fixture
def few(batch):
    return batch[0][:12], batch[1][:12]


def small(name: str, **changes) -> AttackConfig:
    return AttackConfig(**{"name": name, "epsilon": 0.1, "step_size": 0.03, "steps": 4} | changes)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("name", FIRST)
def test_stays_in_the_ball_and_the_range_and_raises_the_loss(name, members, trained, few):
    model, (x, labels) = trained(members), few
    x_adv = attack(model, x, labels, small(name))
    assert x_adv.shape == x.shape and x_adv.dtype == torch.float32 and not x_adv.requires_grad
    assert (x_adv - x).abs().max() <= 0.1 + ROUNDING
    assert (x_adv - x).abs().max() > 0.09  # it uses the ball
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    with torch.no_grad():
        rise = F.nll_loss(model(x_adv), labels, reduction="none") - F.nll_loss(model(x), labels, reduction="none")
    assert (rise > 0).float().mean() >= 0.9
    assert rise.mean() > 0.02


@pytest.mark.parametrize("name", FIRST)
def test_leaves_the_model_and_the_images_as_they_were(name, trained, few):
    model, (x, labels) = trained(2).train(), few
    model.members[1].eval()
    for p in model.members[0].stem.parameters():
        p.requires_grad_(False)
    model.members[0].head.bias.grad = torch.ones(10)
    modes = [m.training for m in model.modules()]
    needs = [p.requires_grad for p in model.parameters()]
    state, images = copy.deepcopy(model.state_dict()), x.clone()
    attack(model, x, labels, small(name))
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == needs
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())  # running statistics too
    assert model.members[0].head.bias.grad.tolist() == [1.0] * 10
    assert model.members[1].head.weight.grad is None
    assert torch.equal(x, images) and not x.requires_grad


@pytest.mark.parametrize("name", FIRST)
def test_attacks_the_model_in_evaluation_mode(name, trained, few):
    """With batch statistics the same call in training mode would give something else."""
    evaluated = attack(trained(2).eval(), *few, small(name))
    in_training = attack(trained(2).train(), *few, small(name))
    assert torch.equal(evaluated, in_training)


@pytest.mark.parametrize("name", FIRST)
def test_epsilon_zero_is_the_identity(name, trained, few):
    assert torch.equal(attack(trained(2), *few, small(name, epsilon=0.0)), few[0])


@pytest.mark.parametrize("name", FIRST)
def test_is_deterministic_under_a_seed_and_leaves_the_global_one_alone(name, trained, few):
    model = trained(2)
    torch.manual_seed(5)
    first = attack(model, *few, small(name), seed=3)
    drawn = torch.rand(1)
    second = attack(model, *few, small(name), seed=3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    assert torch.equal(first, second)
    other = attack(model, *few, small(name), seed=4)
    assert torch.equal(first, other) == (name != "pgd")  # only PGD starts at random


@pytest.mark.parametrize("name", FIRST)
def test_does_not_depend_on_the_batch_size(name, trained, few):
    """A convolution sums in another order for another batch size, which turns the sign of gradients
    near zero: all but one pixel in a hundred are the same to rounding."""
    model = trained(2)
    whole = attack(model, *few, small(name))
    for size in (1, 5):
        parts = attack(model, *few, small(name), batch_size=size)
        assert ((whole - parts).abs() < 1e-6).float().mean() >= 0.99


def test_random_starts_do_not_depend_on_the_batch_size_at_all(trained, few):
    """With a step size of zero PGD returns its start."""
    still = small("pgd", step_size=0.0)
    whole = attack(trained(1), *few, still)
    assert torch.equal(whole, attack(trained(1), *few, still, batch_size=5))
    assert torch.equal(whole[:3], attack(trained(1), few[0][:3], few[1][:3], still))
    noise = (whole - few[0])[(few[0] > 0.1) & (few[0] < 0.9)] / 0.1  # where the range cuts nothing off
    assert len(noise) > 100
    assert noise.mean().abs() < 0.2 and noise.std().item() == pytest.approx(1 / math.sqrt(3), abs=0.08)


@pytest.mark.parametrize("name", FIRST)
def test_batch_of_one_and_empty_batch(name, trained, few):
    model, (x, labels) = trained(1), few
    assert attack(model, x[:1], labels[:1], small(name)).shape == (1, 1, 8, 8)
    assert attack(model, x[:0], labels[:0], small(name)).shape == (0, 1, 8, 8)


@pytest.mark.parametrize("member", [0, 1, 2])
def test_member_target_attacks_that_member(member, trained, few):
    """On that member alone the result is the same as the attack on an ensemble of it alone."""
    model, (x, labels) = trained(3), few
    x_adv = attack(model, x, labels, small("bim", target=f"member {member + 1}"))
    alone = trained(3)
    alone.members = alone.members[member : member + 1]
    torch.testing.assert_close(x_adv, attack(alone, x, labels, small("bim")), atol=1e-6, rtol=0)
    rises = [F.cross_entropy(m(x_adv), labels) - F.cross_entropy(m(x), labels) for m in model.members]
    assert rises[member] > 0.1
    assert max(range(3), key=lambda n: rises[n]) == member


def test_watch_sees_the_start_and_every_step_and_progress_every_batch(trained, few):
    seen, ticks = [], []
    config = small("pgd", steps=3)
    x_adv = attack(trained(1), *few, config, watch=lambda i, x: seen.append((i, x.detach().clone())))
    assert [i for i, _ in seen] == [0, 1, 2, 3]
    assert torch.equal(seen[-1][1], x_adv)
    assert torch.equal(seen[0][1], attack(trained(1), *few, small("pgd", step_size=0.0)))
    attack(trained(1), *few, config, batch_size=5, progress=lambda done, total: ticks.append((done, total)))
    assert ticks == [(5, 12), (10, 12), (12, 12)]


def test_fgsm_is_one_step_of_epsilon(trained, few):
    model, (x, labels) = trained(2), few
    inputs = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.nll_loss(model(inputs), labels, reduction="sum"), inputs)
    expected = (x + 0.1 * gradient.sign()).clamp(0, 1)
    torch.testing.assert_close(attack(model, x, labels, small("fgsm", step_size=0.001)), expected, atol=1e-6, rtol=0)


def test_bim_by_hand(thresholds):
    """Member 1 wherever the mean exceeds .5; its loss on class 1 falls with the mean, so all pixels sink."""
    x = torch.full((1, 1, 4, 4), 0.6)
    config = AttackConfig("bim", 0.15, 0.04, 3)
    down = attack(thresholds(0.5), x, torch.tensor([1]), config)
    assert down.flatten().tolist() == pytest.approx([0.6 - 3 * 0.04] * 16)
    up = attack(thresholds(0.5), x, torch.tensor([0]), AttackConfig("bim", 0.15, 0.04, 5))
    assert up.flatten().tolist() == pytest.approx([0.75] * 16)  # five steps of .04, held at epsilon


def test_mim_accumulates_normalized_gradients():
    """Gradients 4, -1, -1 of mean size 1 after normalization: velocities 1, 0, -1 with decay 1."""
    direction = momentum(1.0)
    steps = [torch.full((1, 1, 2, 2), g) for g in (4.0, -1.0, -1.0)]
    assert [direction(g).unique().tolist() for g in steps] == [[1.0], [0.0], [-1.0]]
    forgetful = momentum(0.0)
    assert [forgetful(g).unique().tolist() for g in steps] == [[1.0], [-1.0], [-1.0]]


def test_momentum_survives_a_zero_gradient():
    assert momentum(1.0)(torch.zeros(2, 1, 2, 2)).tolist() == torch.zeros(2, 1, 2, 2).tolist()


def test_ascend_climbs_a_parabola_to_the_wall():
    """Maximum of -(x - .9)^2 inside |x - .5| <= .25 is at .75."""
    start = torch.full((1, 1, 1, 1), 0.5)
    end = ascend(
        lambda x: -((x - 0.9) ** 2).sum((1, 2, 3)),
        start,
        step_size=0.1,
        steps=10,
        direction=torch.sign,
        project=linf_ball(start, 0.25),
    )
    assert end.item() == pytest.approx(0.75)
    assert start.item() == 0.5


def test_uniform_start_is_in_the_ball_and_seeded():
    x = torch.rand(50, 1, 8, 8)
    first, second = (uniform_start(x, 0.2, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert 0.19 < (first - x).abs().max() <= 0.2 + ROUNDING
    assert first.min() >= 0 and first.max() <= 1


def test_loss_of_ensemble_and_member(trained, few):
    model, (x, labels) = trained(2), few
    f_en = torch.stack([m(x).softmax(-1) for m in model.members]).mean(0)
    torch.testing.assert_close(loss_of(model, labels)(x), -f_en[range(12), labels].log(), atol=1e-5, rtol=1e-5)
    f_2 = model.members[1](x).softmax(-1)
    torch.testing.assert_close(loss_of(model, labels, 1)(x), -f_2[range(12), labels].log(), atol=1e-5, rtol=1e-5)


# Peers


def robust_accuracy(model, x_adv, labels) -> float:
    return outcome(model, x_adv, labels).accuracy


def peer_torchattacks(name: str, model, random_start: bool = True):
    settings = {"eps": EPSILON, "alpha": EPSILON / 8, "steps": 10}
    if name == "pgd":
        return torchattacks.PGD(model, random_start=random_start, **settings)
    return torchattacks.BIM(model, **settings) if name == "bim" else torchattacks.MIFGSM(model, **settings)


@pytest.mark.parametrize("name", ["pgd", "bim", "mim"])
def test_robust_accuracy_agrees_with_torchattacks(name, trained, batch):
    model, (x, labels) = trained(2), batch
    ours = attack(model, x, labels, AttackConfig(name, EPSILON, EPSILON / 8, 10))
    torch.manual_seed(0)
    theirs = peer_torchattacks(name, model)(x, labels)
    assert (theirs - x).abs().max() <= EPSILON + ROUNDING  # the same ball
    accuracy = robust_accuracy(model, ours, labels)
    assert 0.2 < accuracy < 0.85 and outcome(model, x, labels).accuracy > 0.85
    assert abs(accuracy - robust_accuracy(model, theirs, labels)) <= 0.01 + 1e-6


@pytest.mark.parametrize("name", ["bim", "mim"])
def test_adversarial_pixels_agree_with_torchattacks(name, trained, batch):
    """Neither starts at random. torchattacks takes the mean of the losses and we their sum, so gradients
    differ by rounding; where one is near zero its sign turns, and that pixel goes the other way, which
    moves the later gradients of that image a little. All but one pixel in a hundred agree to rounding."""
    model, (x, labels) = trained(2), batch
    ours = attack(model, x, labels, AttackConfig(name, EPSILON, EPSILON / 8, 10))
    theirs = peer_torchattacks(name, model)(x, labels)
    assert ((ours - theirs).abs() < 1e-6).float().mean() >= 0.99


def test_bim_is_pgd_without_random_start_to_torchattacks(trained, batch):
    model, (x, labels) = trained(2), batch
    ours = attack(model, x, labels, AttackConfig("bim", EPSILON, EPSILON / 8, 10))
    theirs = peer_torchattacks("pgd", model, random_start=False)(x, labels)
    assert ((ours - theirs).abs() < 1e-6).float().mean() >= 0.99


@pytest.mark.parametrize("name", ["fgsm", "pgd", "bim"])
def test_robust_accuracy_agrees_with_foolbox(name, trained, batch):
    """foolbox's MIM is not compared: it accumulates signs of gradients, not normalized gradients."""
    model, (x, labels) = trained(2), batch
    ours = attack(model, x, labels, AttackConfig(name, EPSILON, EPSILON / 8, 10))
    settings = {"abs_stepsize": EPSILON / 8, "steps": 10}
    peer = {
        "fgsm": foolbox.attacks.LinfFastGradientAttack(),
        "pgd": foolbox.attacks.LinfPGD(random_start=True, **settings),
        "bim": foolbox.attacks.LinfBasicIterativeAttack(random_start=False, **settings),
    }[name]
    torch.manual_seed(0)
    theirs, _, _ = peer(foolbox.PyTorchModel(model, bounds=(0, 1)), x, labels, epsilons=EPSILON)
    assert (theirs - x).abs().max() <= EPSILON + ROUNDING
    assert abs(robust_accuracy(model, ours, labels) - robust_accuracy(model, theirs, labels)) <= 0.01 + 1e-6
    if name != "pgd":
        assert ((ours - theirs).abs() < 1e-6).float().mean() >= 0.99


# What a PNG can hold


def test_to_grid_is_on_the_grid_and_in_the_ball(trained, batch):
    x = (batch[0][:50] * 255).round() / 255
    for epsilon in (0.1, 8 / 255, 0.5 / 255, 0.0):
        x_adv = attack(trained(1), x, batch[1][:50], AttackConfig("pgd", epsilon, epsilon / 3, 3))
        rounded = to_grid(x_adv, x, epsilon)
        assert (rounded * 255 - (rounded * 255).round()).abs().max() < 1e-4
        assert (rounded - x).abs().max() <= epsilon + 1e-6
        assert (rounded - x_adv).abs().max() <= 1 / 255 + 1e-6
        assert rounded.min() >= 0 and rounded.max() <= 1
    assert torch.equal(to_grid(x, x, 0.0), x)


def test_to_grid_rounds_inwards_where_the_nearest_point_lies_outside():
    """x = 100/255, epsilon = 2.6/255: the edge 102.6 would round to 103, outside; 102 is the last one inside."""
    x = torch.full((1, 1, 1, 2), 100 / 255)
    edges = x + torch.tensor([2.6 / 255, -2.6 / 255])
    assert (to_grid(edges, x, 2.6 / 255) * 255).round().flatten().tolist() == [102, 98]
    assert (to_grid(edges, x, 3 / 255) * 255).round().flatten().tolist() == [103, 97]


# The attacker who knows the detector


@pytest.mark.parametrize("grid", [None, 4, 8])
@pytest.mark.parametrize("members", [1, 3])
def test_agreeing_attack_is_in_the_ball_and_leaves_the_model(grid, members, trained, few):
    model, (x, labels) = trained(members).train(), few
    x_adv = agreeing_attack(model, x, labels=labels, epsilon=0.1, steps=4, grid=grid)
    assert 0.01 < (x_adv - x).abs().max() <= 0.1 + 1e-6
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert not x_adv.requires_grad
    assert all(m.training for m in model.modules()) and all(p.requires_grad for p in model.parameters())


def test_agreeing_attack_makes_members_agree_on_a_wrong_class(trained, batch):
    """More of them are wrong together than before, and more sure of it than PGD leaves them."""
    model, x, labels = trained(3), batch[0][:40], batch[1][:40]
    clean = outcome(model, x, labels)
    known = outcome(model, agreeing_attack(model, x, labels=labels, epsilon=0.2, steps=20), labels)
    pgd = outcome(model, attack(model, x, labels, AttackConfig("pgd", 0.2, 0.03, 20)), labels)

    def wrong_together(o):
        same = (o.member_labels == o.member_labels[0]).all(0)
        return (same & ~o.right).float().mean().item()

    assert wrong_together(clean) < 0.1
    assert wrong_together(known) > wrong_together(clean) + 0.3
    assert known.entropy.mean() < pgd.entropy.mean()


def test_agreeing_attack_keeps_the_best_of_its_targets(trained, batch):
    """Wrong before right, then the lower entropy: three targets are never worse than one, and better somewhere."""
    model, x, labels = trained(2), batch[0][:30], batch[1][:30]
    scores = []
    for targets in (1, 3):
        x_adv = agreeing_attack(model, x, labels=labels, epsilon=0.2, steps=6, targets=targets)
        found = outcome(model, x_adv, labels)
        scores.append(found.entropy + 1000 * found.right)
    assert (scores[1] <= scores[0] + 1e-4).all()
    assert (scores[1] < scores[0] - 0.01).any()


def test_agreeing_attack_has_only_one_wrong_class_to_try_among_two(thresholds):
    """Means .6 and .4; both members are driven across .5 by at most .15."""
    x = torch.cat([torch.full((1, 1, 4, 4), 0.6), torch.full((1, 1, 4, 4), 0.4)])
    ticks = []
    x_adv = agreeing_attack(
        thresholds(0.5, 0.52),
        x,
        labels=torch.tensor([1, 0]),
        epsilon=0.15,
        steps=10,
        progress=lambda done, total: ticks.append((done, total)),
    )
    assert x_adv.mean((1, 2, 3)).tolist() == pytest.approx([0.45, 0.55])
    assert ticks == [(1, 1)]


def test_smooth_perturbation_is_bilinear_and_inside_the_ball():
    x = torch.full((2, 1, 8, 8), 0.5)
    picture = smooth_perturbation(x, 0.1)
    torch.testing.assert_close(picture(torch.full((2, 1, 2, 2), 0.1)), x + 0.1)
    corners = torch.tensor([[-0.1, 0.1], [-0.1, 0.1]]).expand(2, 1, 2, 2)
    delta = picture(corners) - x
    assert delta.abs().max() <= 0.1 + ROUNDING
    assert (delta[..., 1:] >= delta[..., :-1] - ROUNDING).all()  # rises from left to right, without a jump
    assert (delta[..., 1:] - delta[..., :-1]).max() < 0.06


# Bad input


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (x, y + 5), "labels range from .* to 1[0-4]; they must be from 0 to 9"),
        (lambda x, y: (x, y - 10), "labels range from -.*; they must be from 0 to 9"),
        (lambda x, y: (x * 255, y), "images range from 0 to 255; pixels must be in \\[0, 1\\] and finite"),
        (lambda x, y: (x - 0.5, y), "images range from -0.5 to 0.5; pixels must be in \\[0, 1\\]"),
        (lambda x, y: (x * math.nan, y), "images range from nan to nan; pixels must be in \\[0, 1\\] and finite"),
        (lambda x, y: (torch.where(x == x[0, 0, 0, 0], math.nan, x), y), "images range from nan to nan"),
        (lambda x, y: (x + math.inf, y), "images range from inf to inf"),
        (lambda x, y: (x[0], y), "images have the shape \\(1, 8, 8\\); it must be \\(B, C, H, W\\)"),
        (lambda x, y: ((x * 255).to(torch.uint8), y), "images are torch.uint8; they must be float32"),
        (lambda x, y: (x, y[:3]), "labels have the shape \\(3,\\); it must be \\(12,\\)"),
        (lambda x, y: (x, y[:, None]), "labels have the shape \\(12, 1\\)"),
    ],
)
@pytest.mark.parametrize("run", ["attack", "agreeing"])
def test_bad_images_and_labels_are_refused(change, words, run, fresh, few):
    x, labels = change(*few)
    with pytest.raises(ConfigError, match=words):
        if run == "attack":
            attack(fresh(), x, labels, small("pgd"))
        else:
            agreeing_attack(fresh(), x, labels=labels, epsilon=0.1)


def test_member_out_of_range_is_refused(fresh, few):
    with pytest.raises(ConfigError, match="target is 'member 3'; this ensemble has 2 members"):
        attack(fresh(), *few, small("pgd", target="member 3"))


def test_epsilon_of_eight_is_refused():
    with pytest.raises(ConfigError, match="epsilon is 8; it is in pixel units from 0 to 1, did you mean 8/255?"):
        AttackConfig(epsilon=8)


def test_peers_see_the_same_loss(trained, few):
    """A peer's cross-entropy on log f_en is -log f_en_y: nothing is softmaxed twice."""
    model, (x, labels) = trained(2), few
    with torch.no_grad():
        f_en_y = log_mean_probability(model.member_logits(x)).exp()[range(12), labels]
        torch.testing.assert_close(
            F.cross_entropy(model(x), labels, reduction="none"), -f_en_y.log(), atol=1e-5, rtol=1e-5
        )
