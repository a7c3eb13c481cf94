"""Eq. 5 against numbers worked out here with plain arithmetic: logits are logs of chosen probabilities."""

import math

import pytest
import torch
import torch.nn.functional as F

from cce.config import ADP, CCE_BASE, CCE_DM, CCE_RM, NAT, ConfigError, Defense
from cce.training.losses import adp_terms, cce_terms, joint_members, log_ensemble_diversity, loss_terms, pair_terms

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
    [
        (CCE_RM, (0.139, 0.135, 0.038)),
        (CCE_DM, (0.458, -0.573, -0.046)),
        (Defense("cce", 1, 1, reading="released"), (-0.151, -0.901, -0.110)),
    ],
    ids=["CCE-RM", "CCE-DM", "CCE-RM released"],
)
def test_descent_direction_of_the_crossing_terms_at_three_confidences(defense, expected):
    """-dL/dz_y of the crossing terms at p_y .05, .50, .95 among ten classes.

    Of the mass that is not on y, one wrong class has 80% and the other eight share 20%. Worked out for
    p_y = .5: H = ln 2 + .5 (.8 ln 1/.8 + .2 ln 8/.2) = 1.1512, dH/dz_y = -.5 (ln .5 + 1.1512) = -.2290,
    so CCE-RM goes .5 * .5 + .5 * -.2290 = .135 and CCE-DM 5 * .5 * -.2290 = -.573.
    The released reading pushes p_y down everywhere.
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


# The released reading


def test_released_terms_take_softmax_twice():
    """With q = softmax(p), the terms are w (-ln q_y) and (1 - w) (-sum p ln q); natural and direct stay."""
    defense = Defense("cce", 1, 1, reading="released")
    terms, _, _ = terms_of(0, [ON_0, ON_1], defense)

    def log_q(p):
        return [v - math.log(sum(math.exp(u) for u in p)) for v in p]

    promoting = -(0.5 * log_q(ON_1[0])[0] + 0.2 * log_q(ON_1[1])[1]) / 2
    crossed = [-sum(a * b for a, b in zip(p, log_q(p), strict=True)) for p in ON_1]
    assert terms.promoting.item() == pytest.approx(promoting)
    assert terms.demoting.item() == pytest.approx((0.5 * crossed[0] + 0.8 * crossed[1]) / 2)
    paper, _, _ = terms_of(0, [ON_0, ON_1], CCE_RM)
    assert (terms.natural.item(), terms.direct.item()) == (paper.natural.item(), paper.direct.item())


def test_released_entropy_has_the_range_that_was_seen():
    """Of ten classes -sum p ln softmax(p) is 1.46 for a certain prediction, 2.30 for the uniform one."""
    rows = [[1 - 9e-12, *[1e-12] * 9], [0.1] * 10]
    defense = Defense("cce", 0, 1, "hard", reading="released")
    for row, wanted in zip(rows, (1.4612, math.log(10)), strict=True):
        wrong = torch.tensor([1])  # certain of class 0: w = 0
        term = cce_terms(0, logits([row]), logits([[row], [row]]), wrong, defense).demoting.item()
        assert term == pytest.approx(wanted, abs=1e-4)


# ADP, against determinants worked out by hand

# Without the true class, the columns are unit vectors of these directions.
OTHERS = {"same": (1, 0), "perpendicular": (0, 1), "at 45 degrees": (1, 1)}


def leaving(rows, true=0.4) -> torch.Tensor:
    """Logits `(N, 1, 3)` of probabilities `true` for class 0 and the rest split as `rows` say."""
    tiny = 1e-9
    split = [[(v + tiny) / sum(r) * (1 - true) for v in r] for r in rows]
    return torch.tensor([[[true, *r]] for r in split], dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("second", "determinant"),
    [("perpendicular", 1.0), ("at 45 degrees", 1 - 0.5), ("same", 0.0)],
)
def test_diversity_of_two_members_is_one_minus_the_squared_cosine(second, determinant):
    """M^T M = [[1, c], [c, 1]] with the cosine c: its determinant is 1 - c^2; each diagonal gets 1e-6 more."""
    found = log_ensemble_diversity(leaving([OTHERS["same"], OTHERS[second]]), torch.tensor([0])).item()
    cosine = math.sqrt(1 - determinant)
    assert found == pytest.approx(math.log((1 + 1e-6) ** 2 - cosine**2), abs=1e-5)


def test_diversity_of_three_members_is_the_squared_volume():
    """Columns (1,0,0), (3,4,0)/5, (0,3,4)/5 span .8 * .8 = .64; the true class, 1, and its share do not count."""
    rows = [(1, 0, 0), (3, 4, 0), (0, 3, 4)]
    members = []
    for share, row in zip((0.1, 0.5, 0.9), rows, strict=True):
        rest = [(v + 1e-9) / sum(row) * (1 - share) for v in row]
        members.append([[rest[0], share, rest[1], rest[2]]])
    found = log_ensemble_diversity(torch.tensor(members, dtype=torch.float64).log(), torch.tensor([1])).item()
    assert found == pytest.approx(2 * math.log(0.64), abs=1e-4)


def test_adp_is_adv_en_less_entropy_and_diversity_on_both_inputs():
    labels = torch.tensor([0])
    clean, attacked = leaving([(1, 0), (0, 1)], 0.4), leaving([(1, 0), (1, 1)], 0.2)
    terms = adp_terms(clean, attacked, labels)
    assert terms.natural.item() == pytest.approx(-2 * math.log(0.4))
    assert terms.direct.item() == pytest.approx(-2 * math.log(0.2))
    # Means: (.4, .3, .3) and (.2, .6, .2).
    assert terms.ensemble_entropy.item() == pytest.approx(h([0.4, 0.3, 0.3]) + h([0.2, 0.6, 0.2]), abs=1e-6)
    assert terms.log_diversity.item() == pytest.approx(math.log(1) + math.log(0.5), abs=1e-5)
    total = terms.total(ADP).item()
    plain = -2 * math.log(0.4) - 2 * math.log(0.2)
    assert total == pytest.approx(plain - 2 * (h([0.4, 0.3, 0.3]) + h([0.2, 0.6, 0.2])) - 0.5 * math.log(0.5), abs=1e-5)
    assert terms.promoting.item() == terms.demoting.item() == 0


def test_adp_of_equal_and_of_certain_members_is_finite():
    sure = torch.full((2, 4, 5), -200.0)
    sure[..., 1] = 200.0
    for start in (sure, torch.zeros(2, 4, 5)):
        z = start.clone().requires_grad_()
        loss = loss_terms([0, 1], torch.stack([z, z], 1), torch.tensor([0, 1, 2, 1]), ADP).total(ADP)
        loss.backward()
        assert math.isfinite(loss.item()) and z.grad.isfinite().all()


def test_adp_of_one_member_has_no_diversity():
    one = adp_terms(leaving([(1, 1)]), leaving([(1, 0)]), torch.tensor([0]))
    assert one.log_diversity.item() == pytest.approx(0, abs=1e-5)


def test_only_adp_joins_the_members():
    assert joint_members(ADP, 3) == [[0, 1, 2]]
    assert joint_members(CCE_RM, 3) == joint_members(NAT, 3) == [[0], [1], [2]]
