"""One table over every attack there is: what must hold for each, whatever it does."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from cce.attacks import auto_attack
from cce.attacks.gradient import attack, to_grid
from cce.config import ATTACKS, AttackConfig, ConfigError, ModelConfig
from cce.fast import SearchCopy
from cce.models import Ensemble

# Fewer steps than anyone would use, and a ball in which each attack has something to do.
STEPS = {"square": 12, "agree": 6, "smooth-16": 6, "smooth-8": 6, "smooth-4": 6, "mora": 2, "spsa": 2, "fab": 4} | {
    f"mt-{name}": 1 for name in ("pgd", "bim", "mim")
}
COMPILED = pytest.mark.slow  # B&B is compiled at its first call; the package runs thousands of steps an image
SLOW = {"bb", "autoattack-package"}
EVERY = [
    pytest.param(name, norm, id=f"{name}-{norm}", marks=[COMPILED] if name in SLOW else [])
    for name, info in ATTACKS.items()
    for norm in info.norms
]
LINF = [pytest.param(name, id=name, marks=[COMPILED] if name in SLOW else []) for name in ATTACKS]


def config(name: str, norm: str = "linf", **changes) -> AttackConfig:
    size = {"epsilon": 0.1, "step_size": 0.03} if norm == "linf" else {"epsilon": 0.6, "step_size": 0.2}
    return AttackConfig(**{"name": name, "norm": norm, "steps": STEPS.get(name, 3)} | size | changes)


@pytest.fixture(autouse=True)
def short_auto_attack(monkeypatch):
    monkeypatch.setattr(auto_attack, "STEPS", 3)
    monkeypatch.setattr(auto_attack, "QUERIES", 8)
    monkeypatch.setattr(auto_attack, "TARGETS", 2)


@pytest.fixture
def few(digits):
    """Three test digits, on the 1/255 grid, so that what is shown of an attack can be compared with them."""
    x = (digits.test.pixels()[:3] * 255).round() / 255
    return x, digits.test.labels[:3]


def size(delta: torch.Tensor, norm: str) -> float:
    return (delta.abs().amax() if norm == "linf" else delta.flatten(1).norm(dim=1).amax()).item()


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_stays_in_the_ball_and_the_range_before_and_after_rounding(name, norm, trained, few):
    """With three members; of one member, see `test_batch_of_one_and_of_none`."""
    x, labels = few
    settings = config(name, norm)
    x_adv = attack(trained(3), x, labels, settings)
    assert x_adv.shape == x.shape and x_adv.dtype == torch.float32 and not x_adv.requires_grad
    for shown in (x_adv, to_grid(x_adv, x, settings.epsilon, norm)):
        assert size(shown - x, norm) <= settings.epsilon * (1 + 2e-6)
        assert shown.min() >= 0 and shown.max() <= 1
    keeps_what_it_cannot_fool = {"fab", "aware-pgd", "opgd", "autoattack", "autoattack-package"}
    assert size(x_adv - x, norm) > 0 or name in keeps_what_it_cannot_fool


@pytest.mark.parametrize("name", LINF)
def test_leaves_model_images_and_random_state_alone(name, trained, few):
    model, (x, labels) = trained(2).train(), few
    model.members[1].eval()
    model.members[0].head.bias.requires_grad_(False)
    modes = [m.training for m in model.modules()]
    needs = [p.requires_grad for p in model.parameters()]
    state, images = copy.deepcopy(model.state_dict()), x.clone()
    torch.manual_seed(5)
    np.random.seed(5)
    attack(model, x, labels, config(name))
    drawn = torch.rand(1).item(), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    assert drawn == (torch.rand(1).item(), np.random.rand())
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == needs
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(x, images) and not x.requires_grad


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_is_deterministic_under_a_seed(name, norm, trained, few):
    model = trained(2)
    first = attack(model, *few, config(name, norm), seed=3)
    torch.manual_seed(99)
    assert torch.equal(first, attack(model, *few, config(name, norm), seed=3))
    if ATTACKS[name].random and name not in SLOW and name != "autoattack":  # these two may end where they began
        assert not torch.equal(first, attack(model, *few, config(name, norm), seed=4))
    if not ATTACKS[name].random and norm == "linf":
        assert torch.equal(first, attack(model, *few, config(name, norm), seed=4))


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_epsilon_zero_is_the_identity(name, norm, trained, few):
    assert torch.equal(attack(trained(2), *few, config(name, norm, epsilon=0.0)), few[0])


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_does_not_depend_on_the_batch_size_nor_on_the_other_images(name, norm, trained, few):
    model, (x, labels) = trained(2), few
    whole = attack(model, x, labels, config(name, norm))
    near = {"atol": 2e-3, "rtol": 0}
    for parts in (
        attack(model, x, labels, config(name, norm), batch_size=1),
        torch.cat([attack(model, x[i], labels[i], config(name, norm), numbers=i) for i in ([0, 1], [2])]),
    ):
        same = torch.isclose(whole, parts, **near).float().mean((1, 2, 3))
        assert same.mean() >= 0.97, same  # a gradient near zero may turn its sign: see tests/test_attacks.py


@pytest.mark.parametrize("name", LINF)
def test_batch_of_one_and_of_none(name, trained, few):
    x, labels = few
    assert attack(trained(1), x[:1], labels[:1], config(name)).shape == (1, 1, 8, 8)
    assert attack(trained(1), x[:0], labels[:0], config(name)).shape == (0, 1, 8, 8)


@pytest.mark.parametrize("name", LINF)
def test_shows_its_start_and_its_end_and_reports_progress(name, trained, few):
    seen, ticks = [], []
    x_adv = attack(
        trained(1),
        *few,
        config(name),
        watch=lambda i, x: seen.append((i, x.detach().clone())),
        progress=lambda done, total: ticks.append((done, total)),
    )
    assert len(seen) >= 2 and [i for i, _ in seen] == list(range(len(seen)))
    assert torch.equal(seen[-1][1], x_adv)
    assert ticks[-1] == (3, 3) and [done for done, _ in ticks] == sorted(done for done, _ in ticks)


# Attacks that reach a class, on members that are linear in the mean of one quarter of the picture


class Quarters(nn.Module):
    """Four classes on 4 x 4 grey pictures: the logit of class k is `sharpness` times the mean of quarter k."""

    def __init__(self, sharpness: float) -> None:
        super().__init__()
        self.sharpness = sharpness

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = nn.functional.avg_pool2d(x[:, 0], 2)
        return self.sharpness * q.flatten(1)


@pytest.fixture
def quarters():
    model = Ensemble(ModelConfig("resnet8", 2, 4, (1, 4, 4)))
    model.members = nn.ModuleList([Quarters(20.0), Quarters(12.0)])
    return model.eval()


@pytest.fixture
def dull():
    """A picture of class 0 by 0.06: any class is within reach of 0.1 and none within 0.02."""
    x = torch.full((2, 1, 4, 4), 0.5)
    x[:, :, :2, :2] = 0.56
    return x, torch.zeros(2, dtype=torch.long)


@pytest.mark.parametrize("name", [n for n, i in ATTACKS.items() if i.targeted])
@pytest.mark.parametrize("toward", [1, 2, 3])
def test_targeted_attacks_reach_their_class(name, toward, quarters, dull):
    steps = {"spsa": 30}.get(name, 8)
    x_adv = attack(quarters, *dull, config(name, steps=steps, toward=toward))
    assert quarters(x_adv).argmax(1).tolist() == [toward, toward]
    away = attack(quarters, *dull, config(name, steps=steps, toward=toward, epsilon=0.02, step_size=0.01))
    assert quarters(away).argmax(1).tolist() == [0, 0]


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_every_attack_fools_a_linear_model_in_a_large_ball_and_not_in_a_small_one(
    name, norm, quarters, dull, monkeypatch
):
    if (name, norm) == ("autoattack-package", "l2"):
        with pytest.raises(ConfigError, match="pictures are 4 pixels high; the package's L2 Square needs 5"):
            attack(quarters, *dull, config(name, norm))
        return
    monkeypatch.setattr(auto_attack, "STEPS", 20)
    monkeypatch.setattr(auto_attack, "QUERIES", 200)
    steps = {"square": 200, "spsa": 30, "bb": 30}.get(name, 20)
    large = {"linf": {"epsilon": 0.1, "step_size": 0.02}, "l2": {"epsilon": 0.4, "step_size": 0.1}}[norm]
    small = {"linf": {"epsilon": 0.02, "step_size": 0.01}, "l2": {"epsilon": 0.04, "step_size": 0.02}}[norm]
    x_adv = attack(quarters, *dull, config(name, norm, steps=steps, **large))
    assert quarters(x_adv).argmax(1).min() > 0
    x_adv = attack(quarters, *dull, config(name, norm, steps=steps, **small))
    assert quarters(x_adv).argmax(1).max() == 0


@COMPILED
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_b_and_b_takes_images_together_and_each_as_if_it_were_alone(norm, trained, digits):
    """foolbox steps as far as its batch is large: seven images together would go seven times as far."""
    x, labels = digits.test.pixels()[:7], digits.test.labels[:7]
    settings, model = config("bb", norm, steps=5), trained(2)
    fractions = []
    together = attack(model, x, labels, settings, progress=lambda done, of: fractions.append(done / of))
    single = [attack(model, x[i : i + 1], labels[i : i + 1], settings, numbers=[i]) for i in range(7)]
    torch.testing.assert_close(together, torch.cat(single), atol=1e-4, rtol=0)
    assert len(set(fractions)) > 3 and fractions == sorted(fractions) and fractions[-1] == 1
    wrong = (model(x).argmax(1) + 1) % 10
    assert torch.equal(attack(model, x, wrong, settings), x)  # there is nothing to do


@COMPILED
def test_b_and_b_survives_a_verdict_that_turns_with_the_batch(quarters):
    """foolbox fails on a start that it finds classified right, as a tie may be where more images are asked about."""
    x = torch.full((4, 1, 4, 4), 128 / 255)
    x[:3, :, :2, :2] += 15 / 255
    x[3, :, :2, :2] += 120 / 255  # out of reach of the first two balls: the second is looked at alone
    labels, settings = torch.zeros(4, dtype=torch.long), config("bb", steps=5)

    class Turning(Ensemble):
        def forward(self, given):
            said = quarters(given)
            return torch.eye(4)[[3]] if len(given) == 1 else said

    found = attack(quarters, x, labels, settings, judge=Turning(quarters.config))
    assert quarters(found).argmax(1)[:3].min() > 0 and torch.equal(found[3], x[3])
    moved = attack(quarters, x, labels, settings)
    assert (moved[3] - x[3]).abs().amax() == pytest.approx(0.1, abs=1e-6)  # towards a point outside the ball
    assert torch.equal(attack(quarters, x, labels, settings, on_grid=True), moved)


# The float32 verdict on a bfloat16 search


@pytest.mark.parametrize("name", ["pgd", "mt-bim", "apgd-ce", "apgd-dlr", "square", "autoattack", "mora", "aware-pgd"])
def test_what_rests_as_fooled_fools_the_judge(name, trained, few):
    model = trained(2)
    search = SearchCopy(model, torch.bfloat16).model

    asked = []

    class Asked(Ensemble):
        def forward(self, x):
            asked.append(len(x))
            return model(x)

    judge = Asked(model.config)
    steps = {"square": 150}.get(name, 6)
    strong = config(name, epsilon=0.4, step_size=0.2, steps=steps)
    x_adv = attack(search, *few, strong, judge=judge, early=name == "pgd")
    assert asked  # the verdict is the judge's
    assert (model(x_adv).argmax(1) != few[1]).float().mean() >= 0.6


# Bad input, for every attack


@pytest.mark.parametrize("name", list(ATTACKS))
def test_bad_input_is_refused_by_every_attack(name, fresh, few):
    x, labels = few
    for wrong_x, wrong_y, words in (
        (x, labels + 10, "labels range from .* they must be from 0 to 9"),
        (x * 255, labels, "images range from 0 to 255; pixels must be in \\[0, 1\\] and finite"),
        (x * math.nan, labels, "images range from nan to nan; pixels must be in"),
        (x[0], labels, "images have the shape"),
    ):
        with pytest.raises(ConfigError, match=words):
            attack(fresh(), wrong_x, wrong_y, config(name))
    broken = fresh()
    broken.members[1].head.weight.data[0, 0] = math.nan
    with pytest.raises(ConfigError, match="the weights 'members.1.head.weight' hold NaN or infinite values"):
        attack(broken, x, labels, config(name))
    with pytest.raises(ConfigError, match="epsilon is 8; it is (in pixel units|an L2 length) .*did you mean 8/255?"):
        AttackConfig(name, epsilon=8)


def test_nan_in_a_running_statistic_is_refused(fresh, few):
    broken = fresh()
    broken.members[0].stem.norm.running_var[0] = math.inf
    with pytest.raises(ConfigError, match="'members.0.stem.norm.running_var' hold NaN or infinite"):
        attack(broken, *few, config("pgd"))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("spsa", {"norm": "l2"}, "norm is 'l2'; SPSA has linf"),
        ("pgd", {"norm": "l1"}, "norm is 'l1'; there is linf, l2"),
        ("pgd", {"norm": "l2", "epsilon": 8}, "epsilon is 8; it is an L2 length in pixel units from 0 to 5"),
        ("autoattack", {"target": "member 1"}, "target is 'member 1'; Auto-Attack attacks the ensemble"),
        ("bim", {"restarts": 2}, "restarts is 2; BIM does not take one"),
        ("pgd", {"restarts": 0}, "restarts is 0; it must be from 1 to 100"),
        ("agree", {"objective": "logits"}, "objective is 'logits'; Agreeing members does not take one"),
        ("pgd", {"objective": "votes"}, "objective is 'votes'; there is probabilities, logits, worst member, best"),
        ("mora", {"toward": 1}, "toward is 1; MORA does not take one"),
        ("pgd", {"toward": -1}, "toward is -1; it is the index of a class, from 0"),
        ("zap", {}, "attack is 'zap'; there is fgsm, pgd"),
    ],
)
def test_settings_that_an_attack_has_no_use_for_are_refused(name, changes, words):
    with pytest.raises(ConfigError, match=words):
        AttackConfig(name, **changes)


def test_a_class_out_of_range_is_refused(fresh, few):
    with pytest.raises(ConfigError, match="toward is 10; it is a class from 0 to 9"):
        attack(fresh(), *few, config("pgd", toward=10))


def test_a_missing_package_is_said(monkeypatch, fresh, few):
    monkeypatch.setitem(__import__("sys").modules, "pyautoattack", None)
    with pytest.raises(ConfigError, match="autoattack-package needs pyautoattack: pip install pyautoattack=="):
        attack(fresh(), *few, config("autoattack-package"))
    from foolbox.attacks import brendel_bethge

    monkeypatch.setattr(brendel_bethge, "NUMBA_IMPORT_ERROR", ImportError("no numba"))
    with pytest.raises(ConfigError, match="bb needs numba, .*: pip install numba=="):
        attack(fresh(), *few, config("bb"))
