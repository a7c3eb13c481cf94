"""Eq. 5 against numbers worked out here with plain arithmetic: logits are logs of chosen probabilities."""

import math

import pytest
import torch
import torch.nn.functional as F

from cce.config import CCE_BASE, CCE_DM, CCE_RM, ConfigError, Defense
from cce.losses import cce_terms, pair_terms

# Two examples, three classes. Rows are probabilities of one member on each example.
LABELS = [0, 1]
CLEAN = [[0.5, 0.3, 0.2], [0.2, 0.7, 0.1]]
ON_0 = [[0.25, 0.5, 0.25], [0.1, 0.6, 0.3]]
ON_1 = [[0.5, 0.25, 0.25], [0.3, 0.2, 0.5]]  # right on the first example, wrong on the second
ON_2 = [[0.1, 0.8, 0.1], [0.05, 0.9, 0.05]]  # wrong on the first, right on the second

WEIGHTS = [(1.0, 1.0), (0.0, 5.0), (2.0, 0.5), (1.0, 0.0)]


def logits(rows) -> torch.Tensor:
    """Float64 logits whose softmax is `rows`; the shift by 3 must not matter."""
    return (torch.tensor(rows, dtype=torch.float64).log() + 3).requires_grad_()


def h(p: list[float]) -> float:
    """Entropy in nats."""
    return -sum(q * math.log(q) for q in p)


def cross_logit_gradient(p: list[float], y: int, w: float, pm: float, dm: float) -> list[float]:
    """d/dz_k of pm * w * (-ln p_y) - dm * (1 - w) * H(p) for p = softmax(z), w a constant.

    d(-ln p_y)/dz_k = p_k - [k = y], and dH/dz_k = -p_k (ln p_k + H).
    """
    return [pm * w * (p[k] - (k == y)) + dm * (1 - w) * p[k] * (math.log(p[k]) + h(p)) for k in range(len(p))]


def cross_entropy_gradient(p: list[float], y: int) -> list[float]:
    """d(-ln p_y)/dz_k = p_k - [k = y]."""
    return [p[k] - (k == y) for k in range(len(p))]


def terms_of(member: int, attacked: list, defense: Defense):
    clean, on = logits(CLEAN), logits(attacked)
    return cce_terms(member, clean, on, torch.tensor(LABELS), defense), clean, on


def test_two_members_soft_indicator():
    terms, _, _ = terms_of(0, [ON_0, ON_1], CCE_RM)
    # C on x: p_y = .5 and .7; C on its own examples: p_y = .25 and .6.
    assert terms.natural.item() == pytest.approx(-(math.log(0.5) + math.log(0.7)) / 2)
    assert terms.direct.item() == pytest.approx(-(math.log(0.25) + math.log(0.6)) / 2)
    # On the other's examples p_y = .5 and .2, which are also the weights w.
    assert terms.promoting.item() == pytest.approx((0.5 * math.log(2) + 0.2 * math.log(5)) / 2)
    first = 0.5 * math.log(2) + 2 * 0.25 * math.log(4)  # H(.5, .25, .25) = 1.0397
    second = 0.3 * math.log(1 / 0.3) + 0.2 * math.log(5) + 0.5 * math.log(2)  # H(.3, .2, .5) = 1.0297
    assert terms.demoting.item() == pytest.approx((0.5 * first + 0.8 * second) / 2)


def test_two_members_hard_indicator():
    terms, _, _ = terms_of(0, [ON_0, ON_1], Defense("cce", 1, 1, "hard"))
    # w = 1 on the first example (argmax is y), 0 on the second.
    assert terms.promoting.item() == pytest.approx(math.log(2) / 2)
    second = 0.3 * math.log(1 / 0.3) + 0.2 * math.log(5) + 0.5 * math.log(2)
    assert terms.demoting.item() == pytest.approx(second / 2)


def test_the_second_member_takes_its_own_row_as_direct_and_the_first_as_crossing():
    terms, _, _ = terms_of(1, [ON_0, ON_1], CCE_RM)
    assert terms.direct.item() == pytest.approx(-(math.log(0.5) + math.log(0.2)) / 2)
    assert terms.promoting.item() == pytest.approx((0.25 * math.log(4) + 0.6 * math.log(1 / 0.6)) / 2)


def test_three_members_average_over_the_two_others():
    terms, _, _ = terms_of(1, [ON_0, ON_1, ON_2], CCE_RM)
    assert terms.direct.item() == pytest.approx(-(math.log(0.5) + math.log(0.2)) / 2)
    # Others: rows 0 (p_y = .25, .6) and 2 (p_y = .1, .9); 1/(N-1) = 1/2, batch mean 1/2.
    promoting = 0.25 * math.log(4) + 0.6 * math.log(1 / 0.6) + 0.1 * math.log(10) + 0.9 * math.log(1 / 0.9)
    assert terms.promoting.item() == pytest.approx(promoting / 4)
    demoting = 0.75 * h(ON_0[0]) + 0.4 * h(ON_0[1]) + 0.9 * h(ON_2[0]) + 0.1 * h(ON_2[1])
    assert terms.demoting.item() == pytest.approx(demoting / 4)


def test_three_members_hard_indicator():
    terms, _, _ = terms_of(1, [ON_0, ON_1, ON_2], Defense("cce", 1, 1, "hard"))
    # Right: row 0 on the second example (.6), row 2 on the second (.9). Wrong: both on the first.
    assert terms.promoting.item() == pytest.approx((math.log(1 / 0.6) + math.log(1 / 0.9)) / 4)
    assert terms.demoting.item() == pytest.approx((h(ON_0[0]) + h(ON_2[0])) / 4)


@pytest.mark.parametrize(("pm", "dm"), WEIGHTS)
def test_total_weighs_the_crossing_terms(pm, dm):
    defense = Defense("cce", pm, dm)
    terms, _, _ = terms_of(0, [ON_0, ON_1], defense)
    promoting = (0.5 * math.log(2) + 0.2 * math.log(5)) / 2
    demoting = (0.5 * h(ON_1[0]) + 0.8 * h(ON_1[1])) / 2
    plain = -(math.log(0.5) + math.log(0.7) + math.log(0.25) + math.log(0.6)) / 2
    assert terms.total(defense).item() == pytest.approx(plain + pm * promoting - dm * demoting)


@pytest.mark.parametrize("kind", ["soft", "hard"])
@pytest.mark.parametrize(("pm", "dm"), WEIGHTS)
@pytest.mark.parametrize(("member", "rows"), [(0, [ON_0, ON_1]), (1, [ON_0, ON_1]), (1, [ON_0, ON_1, ON_2])])
def test_gradient_is_the_analytic_one_with_a_constant_indicator(member, rows, pm, dm, kind):
    defense = Defense("cce", pm, dm, kind)
    terms, clean, on = terms_of(member, rows, defense)
    terms.total(defense).backward()
    for b, y in enumerate(LABELS):
        expected = [g / 2 for g in cross_entropy_gradient(CLEAN[b], y)]
        assert clean.grad[b].tolist() == pytest.approx(expected)
        for i, row in enumerate(rows):
            p = row[b]
            if i == member:
                expected = [g / 2 for g in cross_entropy_gradient(p, y)]
            else:
                w = p[y] if kind == "soft" else float(p[y] == max(p))
                expected = [g / 2 / (len(rows) - 1) for g in cross_logit_gradient(p, y, w, pm, dm)]
            assert on.grad[i, b].tolist() == pytest.approx(expected, abs=1e-12), (i, b)


@pytest.mark.parametrize(("pm", "dm"), [(1.0, 1.0), (0.0, 5.0)])
def test_gradient_through_the_indicator_would_differ(pm, dm):
    """dL/dw = pm C + dm H and dw/dz_k = p_y ([k = y] - p_k) make up the whole difference."""
    defense = Defense("cce", pm, dm)
    terms, _, on = terms_of(0, [ON_0, ON_1], defense)
    terms.total(defense).backward()
    leaky = logits(ON_1)
    log_p = F.log_softmax(leaky, -1)
    log_p_y = log_p[torch.arange(2), torch.tensor(LABELS)]
    w = log_p_y.exp()  # not detached
    (pm * w * -log_p_y + dm * (1 - w) * (log_p.exp() * log_p).sum(-1)).mean().backward()
    for b, y in enumerate(LABELS):
        p = ON_1[b]
        slope = pm * -math.log(p[y]) + dm * h(p)
        extra = [slope * p[y] * ((k == y) - p[k]) / 2 for k in range(3)]
        difference = (leaky.grad[b] - on.grad[1, b]).tolist()
        assert difference == pytest.approx(extra)
        assert max(abs(d) for d in difference) > 0.1


@pytest.mark.parametrize(
    ("defense", "expected"),
    [(CCE_RM, (0.139, 0.135, 0.038)), (CCE_DM, (0.458, -0.573, -0.046))],
    ids=["CCE-RM", "CCE-DM"],
)
def test_descent_direction_of_the_crossing_terms_at_three_confidences(defense, expected):
    """-dL/dz_y of the crossing terms at p_y .05, .50, .95 among ten classes.

    Of the mass that is not on y, one wrong class has 80% and the other eight share 20%. Worked out for
    p_y = .5: H = ln 2 + .5 (.8 ln 1/.8 + .2 ln 8/.2) = 1.1512, dH/dz_y = -.5 (ln .5 + 1.1512) = -.2290,
    so CCE-RM goes .5 * .5 + .5 * -.2290 = .135 and CCE-DM 5 * .5 * -.2290 = -.573.
    """
    for p_y, wanted in zip((0.05, 0.5, 0.95), expected, strict=True):
        rest = 1 - p_y
        row = [p_y, 0.8 * rest, *[0.2 * rest / 8] * 8]
        other = logits([[row], [row]])
        label = torch.tensor([0])
        terms = cce_terms(0, logits([row]), other, label, defense)
        crossing = defense.lambda_pm * terms.promoting - defense.lambda_dm * terms.demoting
        (gradient,) = torch.autograd.grad(crossing, other)
        assert -gradient[1, 0, 0].item() == pytest.approx(wanted, abs=6e-4)


def test_one_member_has_no_crossing_terms():
    for defense in (CCE_RM, CCE_DM, Defense("cce", 1, 1, "hard")):
        terms, _, _ = terms_of(0, [ON_0], defense)
        assert terms.promoting.item() == terms.demoting.item() == 0
        plain = -(math.log(0.5) + math.log(0.7) + math.log(0.25) + math.log(0.6)) / 2
        assert terms.total(defense).item() == pytest.approx(plain)


def test_base_mode_is_natural_plus_direct():
    terms, _, on = terms_of(0, [ON_0, ON_1], CCE_BASE)
    terms.total(CCE_BASE).backward()
    plain = -(math.log(0.5) + math.log(0.7) + math.log(0.25) + math.log(0.6)) / 2
    assert terms.total(CCE_BASE).item() == pytest.approx(plain)
    assert on.grad[1].abs().max() == 0


def test_certain_predictions_give_finite_loss_and_gradient():
    """Logits of +-500: probabilities underflow to 0, log-probabilities of -1000 stay."""
    sure = torch.full((2, 4, 3), -500.0)
    sure[..., 1] = 500.0
    sure.requires_grad_()
    terms = cce_terms(0, sure[0], sure, torch.tensor([0, 1, 2, 1]), CCE_DM)
    terms.total(CCE_DM).backward()
    assert math.isfinite(terms.total(CCE_DM).item())
    assert sure.grad.isfinite().all()
    assert terms.demoting.item() == pytest.approx(0, abs=1e-6)


def test_member_without_examples_is_refused():
    with pytest.raises(ConfigError, match="member is 2; there are examples of 2 members"):
        terms_of(2, [ON_0, ON_1], CCE_RM)


def test_baselines_have_clean_and_adversarial_cross_entropy_only():
    labels = torch.tensor(LABELS)
    natural = pair_terms(logits(CLEAN), None, labels)
    assert natural.total(Defense("nat", 0, 0)).item() == pytest.approx(-(math.log(0.5) + math.log(0.7)) / 2)
    both = pair_terms(logits(CLEAN), logits(ON_0), labels)
    plain = -(math.log(0.5) + math.log(0.7) + math.log(0.25) + math.log(0.6)) / 2
    assert both.total(Defense("adv-en", 0, 0)).item() == pytest.approx(plain)
    assert both.promoting.item() == both.demoting.item() == 0
