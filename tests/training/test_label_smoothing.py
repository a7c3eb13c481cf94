"""Label smoothing, by hand and against PyTorch's own, in the terms of every loss."""

import math

import pytest
import torch
import torch.nn.functional as F

from cce.config import ADP, ADV_EN, CCE_BASE, CCE_DM, CCE_RM, NAT, Defense, Phase, TrainingAttack
from cce.fast import SearchCopy
from cce.training.losses import adp_terms, cce_terms, joint_members, loss_terms
from cce.training.step import train_step


def leaving(*probabilities: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def test_every_cross_entropy_of_eq_5_by_hand():
    """Two classes, s = 0.2: C = -(0.9 ln p_y + 0.1 ln p_other), and w = p_y stays as it is."""
    clean, own, other = leaving((0.8, 0.2)), leaving((0.6, 0.4)), leaving((0.5, 0.5))
    terms = cce_terms(0, clean, torch.stack([own, other]), torch.tensor([0]), CCE_RM, 0.2)
    assert terms.natural.item() == pytest.approx(-(0.9 * math.log(0.8) + 0.1 * math.log(0.2)))
    assert terms.direct.item() == pytest.approx(-(0.9 * math.log(0.6) + 0.1 * math.log(0.4)))
    assert terms.promoting.item() == pytest.approx(0.5 * math.log(2))
    assert terms.demoting.item() == pytest.approx(0.5 * math.log(2))
    uneven = torch.stack([own, leaving((0.7, 0.3))])
    promoting = cce_terms(0, clean, uneven, torch.tensor([0]), CCE_RM, 0.2).promoting.item()
    assert promoting == pytest.approx(-0.7 * (0.9 * math.log(0.7) + 0.1 * math.log(0.3)))


def test_the_released_reading_smooths_its_own_cross_entropy():
    """Softmax is applied twice there: q = softmax(p)."""
    p = torch.tensor([0.7, 0.3])
    log_q = F.log_softmax(p, dim=0)
    attacked = torch.stack([leaving((0.5, 0.5)), p.log()[None]])
    released = Defense("cce", 1, 1, reading="released")
    found = cce_terms(0, leaving((0.5, 0.5)), attacked, torch.tensor([0]), released, 0.2).promoting.item()
    assert found == pytest.approx(-0.7 * (0.9 * log_q[0] + 0.1 * log_q[1]).item())


def test_adp_smooths_cross_entropies_alone():
    torch.manual_seed(0)
    clean, attacked, labels = torch.randn(2, 4, 10), torch.randn(2, 4, 10), torch.arange(4)
    plain, smooth = (adp_terms(clean, attacked, labels, s) for s in (0.0, 0.3))
    wanted = sum(F.cross_entropy(z, labels, label_smoothing=0.3) for z in clean)
    assert smooth.natural.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert torch.equal(plain.ensemble_entropy, smooth.ensemble_entropy)
    assert torch.equal(plain.log_diversity, smooth.log_diversity)


@pytest.mark.parametrize("members", [1, 2, 3])
@pytest.mark.parametrize("defense", [NAT, ADV_EN, ADP, CCE_BASE, CCE_RM, CCE_DM], ids=lambda d: d.name)
def test_none_is_the_loss_of_before_bit_for_bit_and_some_is_not(defense, members):
    torch.manual_seed(0)
    sets = {"none": 0, "ensemble": 1, "members": members}[defense.targets]
    labels = torch.arange(6)
    for group in joint_members(defense, members):
        logits = torch.randn(len(group), 1 + sets, 6, 10)
        before, none, some = (loss_terms(group, logits, labels, defense, *s) for s in ((), (0.0,), (0.1,)))
        assert all(torch.equal(a, b) for a, b in zip(vars(before).values(), vars(none).values(), strict=True))
        assert not torch.equal(before.natural, some.natural)
        assert sets == 0 or not torch.equal(before.direct, some.direct)


def test_a_step_minimizes_the_smoothed_loss_on_examples_that_climb_the_plain_one(fresh, digits):
    x, labels = digits.train.pixels()[:8], digits.train.labels[:8]
    phase, scalars = Phase("p", 1, CCE_RM, TrainingAttack((2, 2), (0.1, 0.1), (1.0, 1.0))), []
    for smoothing in (0.0, 0.2):
        model = fresh().train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        search, generator = SearchCopy(model, torch.float32), torch.Generator().manual_seed(2)
        given = (list(model.members), search, optimizer, x, labels, phase, generator)
        scalars.append(train_step(*given, label_smoothing=smoothing))
    plain, smooth = scalars
    assert not torch.equal(plain["natural"], smooth["natural"]) and not torch.equal(plain["direct"], smooth["direct"])
    assert torch.equal(plain["demoting"], smooth["demoting"])  # the same examples
