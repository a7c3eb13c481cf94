"""One step: each defense on its own examples, each member on its own loss."""

import math
import sys

import pytest
import torch
import torch.nn.functional as F

from cce.attacks.gradient import agreement_on, loss_of
from cce.attacks.gradient import attack as run_attack
from cce.config import (
    ADP,
    ADV_EN,
    CCE_BASE,
    CCE_DM,
    CCE_RM,
    NAT,
    AttackConfig,
    Defense,
    ModelConfig,
    Phase,
    TrainingAttack,
)
from cce.fast import SearchCopy
from cce.models import IN_CACHE, Ensemble
from cce.training.losses import loss_terms
from cce.training.parallel import ALONE, Team
from cce.training.step import draw_grid, draw_rank, likely_wrong, make_examples, make_optimizer, noisy, train_step
from tiny_runs import ATTACK, tiny_config


@pytest.fixture
def batch(digits):
    return digits.train.pixels()[:16], digits.train.labels[:16]


@pytest.mark.parametrize(
    ("defense", "sets"),
    [(NAT, 0), (ADV_EN, 1), (ADP, 1), (CCE_BASE, 3), (CCE_RM, 3), (CCE_DM, 3)],
    ids=lambda v: getattr(v, "name", str(v)),
)
def test_each_defense_trains_on_its_own_examples(defense, sets, trained, batch):
    model, (x, labels) = trained(3), batch
    attack = TrainingAttack((4, 4), (0.1, 0.1), (2.0, 2.0))
    model.requires_grad_(False)
    found = make_examples(model, x, labels, defense, attack, torch.Generator().manual_seed(0))
    assert found.shape == (sets, 16, 1, 8, 8)
    if sets:
        assert (found - x).abs().max() <= 0.1 + 2e-7
        assert found.min() >= 0 and found.max() <= 1
        assert not found.requires_grad
    again = make_examples(model, x, labels, defense, attack, torch.Generator().manual_seed(0))
    assert torch.equal(found, again)
    targets = {0: [], 1: [None], 3: [0, 1, 2]}[sets]
    for examples, target in zip(found, targets, strict=True):
        assert (loss_of(model, labels, target)(examples) > loss_of(model, labels, target)(x)).float().mean() > 0.7
    if sets == 3:  # row i is strongest on member i: the mean loss of member i is the highest there
        table = torch.tensor([[loss_of(model, labels, n)(e).mean() for e in found] for n in range(3)])
        assert table.argmax(1).tolist() == [0, 1, 2]


def test_loss_terms_take_the_first_row_as_clean():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(3, 5, 4, generator=generator), torch.tensor([0, 1, 2, 3, 0])
    ce = [F.cross_entropy(row, labels).item() for row in logits]
    assert loss_terms([0], logits[None, :1], labels, NAT).total(NAT).item() == pytest.approx(ce[0])
    assert loss_terms([1], logits[None, :2], labels, ADV_EN).total(ADV_EN).item() == pytest.approx(ce[0] + ce[1])
    # Member 1 of two: its own examples are in the third row.
    base = loss_terms([1], logits[None], labels, CCE_BASE).total(CCE_BASE).item()
    assert base == pytest.approx(ce[0] + ce[2], rel=1e-5)


@pytest.mark.parametrize(
    "defense",
    [NAT, ADV_EN, ADP, CCE_RM, Defense("cce", 0.5, 2, "hard"), Defense("cce", 1, 1, reading="released")],
    ids=lambda d: d.name,
)
def test_steps_on_one_batch_lower_its_loss(defense, fresh, batch):
    model, (x, labels) = fresh(), batch
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    search, phase = SearchCopy(model, torch.float32), Phase("p", 1, defense, ATTACK)
    losses = []
    for step in range(12):
        model.train()
        scalars = train_step(
            list(model.members), search, optimizer, x, labels, phase, torch.Generator().manual_seed(step)
        )
        losses.append(scalars["loss"].item())
        crossing = defense.lambda_pm * scalars["promoting"] - defense.lambda_dm * scalars["demoting"]
        jointly = defense.alpha * scalars["ensemble_entropy"] + defense.beta * scalars["log_diversity"]
        assert scalars["loss"].item() == pytest.approx(
            (scalars["natural"] + scalars["direct"] + crossing - jointly).item(), abs=1e-4
        )
        assert not any(v.requires_grad for v in scalars.values())
        assert 0 <= scalars["entropy_clean"] <= math.log(10) + 1e-5
    assert (scalars["direct"] == 0) == (defense == NAT)
    assert losses[-1] < losses[0] - 0.3


def test_a_step_trains_every_member_on_its_own_loss_only(fresh, batch):
    """One optimizer over the sum is the same as one a member: the loss of one has no gradient in another."""
    model, (x, labels) = fresh(), batch
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    search, phase = SearchCopy(model, torch.float32), Phase("p", 1, CCE_RM, ATTACK)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    train_step(list(model.members), search, optimizer, x, labels, phase, generators[0])
    together = [p.grad.clone() for p in model.members[1].parameters()]

    model = fresh().train()
    search = SearchCopy(model, torch.float32)
    examples = make_examples(search.model, x, labels, CCE_RM, ATTACK, generators[1])
    logits = model.members[1](torch.cat([x, *examples])).view(1, 3, 16, 10)
    loss_terms([1], logits, labels, CCE_RM).total(CCE_RM).backward()
    for found, p in zip(together, model.members[1].parameters(), strict=True):
        torch.testing.assert_close(found, p.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("defense", [NAT, ADV_EN, ADP, CCE_BASE, CCE_RM], ids=lambda d: d.name)
def test_a_batch_in_parts_gives_the_step_of_the_whole(defense, batch):
    """Where no batch norm joins the images; parts end inside the smooth, the momentum and the aware share."""
    x, labels = batch
    attack = TrainingAttack((2, 2), (0.1, 0.1), (1.0, 1.0), smooth=0.4, momentum=0.3, aware=0.5)
    found = []
    for rows in (sys.maxsize, 5):
        torch.manual_seed(0)
        model = Ensemble(ModelConfig("cnn-mnist", 2, 10, (1, 8, 8))).eval()  # no dropout
        search = SearchCopy(model, torch.float32)
        search.search_rows = search.step_rows = rows
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        phase, generator = Phase("p", 1, defense, attack), torch.Generator().manual_seed(3)
        scalars = train_step(list(model.members), search, optimizer, x, labels, phase, generator)
        found.append((scalars, [p.grad.clone() for p in model.parameters()], generator.get_state()))
    (whole, gradients, state), (parts, summed, same) = found
    assert torch.equal(state, same)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-5)
    for one, two in zip(gradients, summed, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


def test_examples_that_the_loss_does_not_need_are_left_out(batch):
    """CCE-Base of CNNs takes each member's own; with batch norm, or a crossing weight, all pass."""
    x, labels = batch
    losses = {}
    for defense, apart, rows in ((CCE_BASE, True, 32), (CCE_BASE, False, 48), (CCE_RM, True, 48)):
        torch.manual_seed(0)
        model, seen = Ensemble(ModelConfig("cnn-mnist", 2, 10, (1, 8, 8))).eval(), []
        search = SearchCopy(model, torch.float32)
        search.apart = apart
        forwards = [lambda z, m=m, seen=seen: seen.append(len(z)) or m(z) for m in model.members]
        optimizer, generator = torch.optim.SGD(model.parameters(), lr=0.0), torch.Generator().manual_seed(3)
        scalars = train_step(forwards, search, optimizer, x, labels, Phase("p", 1, defense, ATTACK), generator)
        losses[defense.name, apart] = scalars["loss"].item()
        assert seen == [rows, rows]
    assert losses["CCE-Base", True] == pytest.approx(losses["CCE-Base", False], rel=1e-5)


def test_batch_norm_takes_its_batch_whole_and_compiled_code_everything(monkeypatch):
    def rows(architecture, **options):
        copy = SearchCopy(Ensemble(ModelConfig(architecture, 1, 10, (1, 8, 8))), **options)
        return copy.search_rows, copy.step_rows

    assert rows("cnn-mnist") == (IN_CACHE, IN_CACHE)
    monkeypatch.setattr("cce.fast.search.available", lambda: False)
    assert rows("resnet8") == (IN_CACHE, sys.maxsize)
    assert rows("cnn-mnist", compile=True) == (sys.maxsize, sys.maxsize)


def test_released_examples_climb_the_predicted_labels(trained, batch):
    """On wrong labels the paper's examples keep the prediction away from them; the released ones ignore them."""
    model, (x, labels) = trained(2), batch
    model.requires_grad_(False)
    attack = TrainingAttack((4, 4), (0.1, 0.1), (2.0, 2.0))
    seen = [m(x).argmax(-1) for m in model.members]
    wrong = (labels + 1) % 10

    def made(reading, given):
        defense = Defense("cce", 1, 1, reading=reading)
        return make_examples(model, x, given, defense, attack, torch.Generator().manual_seed(0))

    assert torch.equal(made("released", wrong), made("released", labels))
    assert not torch.equal(made("paper", wrong), made("paper", labels))
    own = made("released", labels)
    for n, predicted in enumerate(seen):
        climbed = loss_of(model, predicted, n)
        assert (climbed(own[n]) > climbed(x)).float().mean() > 0.9


@pytest.mark.parametrize("defense", [ADV_EN, CCE_RM], ids=lambda d: d.name)
def test_smooth_examples_are_coarse_inside_the_ball_and_climb(defense, trained, batch):
    model, (x, labels) = trained(2), batch
    model.requires_grad_(False)
    attack = TrainingAttack((6, 6), (0.1, 0.1), (2.0, 2.0), smooth=1.0, grids=(2,))
    x = 0.2 + 0.6 * x  # away from 0 and 1, which would clip
    found = make_examples(model, x, labels, defense, attack, torch.Generator().manual_seed(0))
    assert (found - x).abs().max() <= 0.1 + 2e-7
    for i, examples in enumerate(found):
        delta = examples - x
        coarse = F.interpolate(delta, size=(2, 2), mode="area")
        fine = delta - F.interpolate(coarse, size=(8, 8), mode="bilinear", align_corners=False)
        assert fine.abs().mean() < 0.5 * delta.abs().mean()
        target = None if defense == ADV_EN else i
        assert loss_of(model, labels, target)(examples).mean() > loss_of(model, labels, target)(x).mean()


def test_every_batch_has_its_share_of_smooth_examples(trained, batch):
    model, (x, labels) = trained(2), batch
    model.requires_grad_(False)
    attack = TrainingAttack((6, 6), (0.1, 0.1), (2.0, 2.0), smooth=0.25, grids=(2,))
    x = 0.2 + 0.6 * x
    found = make_examples(model, x, labels, CCE_RM, attack, torch.Generator().manual_seed(0))
    assert found.shape == (2, *x.shape)
    delta = found - x
    coarse = F.interpolate(delta.flatten(0, 1), size=(2, 2), mode="area")
    fine = delta.flatten(0, 1) - F.interpolate(coarse, size=x.shape[2:], mode="bilinear", align_corners=False)
    fineness = (fine.flatten(1).norm(dim=1) / delta.flatten(0, 1).flatten(1).norm(dim=1)).view(2, -1)
    share = round(0.25 * len(x))
    assert fineness[:, :share].max() < fineness[:, share:].min()


@pytest.mark.parametrize("smooth", [0, 1 / 6, 0.5, 1.0])  # none; one and none; two and one; three and three
def test_a_team_makes_the_examples_of_one_process_however_the_smooth_ones_fall(smooth, trained, batch):
    model, (x, labels) = trained(2).requires_grad_(False), (batch[0][:6], batch[1][:6])
    attack = TrainingAttack((2, 2), (0.1, 0.1), (2.0, 2.0), smooth=smooth, grids=(2,))

    def made(team, generator):
        return make_examples(model, team.share(x), team.share(labels), CCE_RM, attack, generator, team)

    generators = [torch.Generator().manual_seed(0) for _ in range(3)]
    alone, *parts = (made(t, g) for t, g in zip((ALONE, Team(0, 2), Team(1, 2)), generators, strict=True))
    for index, part in enumerate(parts):
        torch.testing.assert_close(part, alone[:, index::2], atol=1e-5, rtol=0)
    states = [g.get_state() for g in generators]
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])


def test_no_steps_leave_noise_in_the_ball_that_knows_nothing_of_the_members(trained, fresh, batch):
    x, labels = batch
    attack = TrainingAttack((0, 0), (0.2, 0.2))
    found = [
        make_examples(model.requires_grad_(False), x, labels, CCE_DM, attack, torch.Generator().manual_seed(0))
        for model in (trained(2), fresh(2))
    ]
    assert torch.equal(*found) and not torch.equal(found[0][0], found[0][1])
    assert 0.19 < (found[0] - x).abs().max() <= 0.2 + 2e-7
    inside = found[0][:, (x > 0.2) & (x < 0.8)] - x[(x > 0.2) & (x < 0.8)]
    assert inside.mean().abs() < 0.01 and abs(inside.std() - 0.2 / math.sqrt(3)) < 0.01


def test_a_share_of_each_batch_is_mims(trained, batch):
    """With each kind alone the examples are MIM's and PGD's own; together every row is one of the two."""
    model, (x, labels) = trained(2).requires_grad_(False), batch
    settings = dict(steps=(4, 4), epsilon=(0.1, 0.1), reach=(2.0, 2.0))

    def made(momentum: float):
        attack = TrainingAttack(**settings, momentum=momentum)
        return make_examples(model, x, labels, CCE_RM, attack, torch.Generator().manual_seed(0))

    mim, pgd, mixed = made(1.0), made(0.0), made(0.25)
    for n in range(2):
        config = AttackConfig("mim", 0.1, 0.05, 4, target=f"member {n + 1}")
        torch.testing.assert_close(mim[n], run_attack(model, x, labels, config), atol=1e-5, rtol=0)
    share = round(0.25 * len(x))
    torch.testing.assert_close(mixed[:, :share], mim[:, :share], atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed[:, share:], pgd[:, share:], atol=1e-5, rtol=0)
    assert not torch.allclose(mim, pgd, atol=1e-3)


def test_a_share_of_each_kind_knows_the_detector(trained, batch):
    """Their examples bring all members nearer to one wrong class; the others are what they are without them."""
    model, (x, labels) = trained(2).requires_grad_(False), batch
    settings = dict(steps=(6, 6), epsilon=(0.15, 0.15), reach=(2.0, 2.0), smooth=0.5, grids=(2,))

    def made(aware: float):
        attack = TrainingAttack(**settings, aware=aware)
        return make_examples(model, x, labels, CCE_RM, attack, torch.Generator().manual_seed(0))

    some, all_of_them = made(0.5), made(1.0)
    rows = torch.arange(len(x))
    knowing = (rows % 8) >= 4  # the second half of the smooth ones and of the others
    assert torch.allclose(some[:, knowing], all_of_them[:, knowing], atol=1e-5)
    assert (some - all_of_them)[:, ~knowing].abs().amax() > 1e-3
    wanted = likely_wrong(model, x, labels)
    assert not (wanted == labels).any()
    climbed = torch.stack([agreement_on(model, wanted)(e) for e in made(1.0)])
    plain = torch.stack([agreement_on(model, wanted)(e) for e in made(0.0)])
    assert (all_of_them - x).abs().max() <= 0.15 + 2e-7
    assert climbed.mean() > plain.mean()


def test_the_wrong_class_is_drawn_from_the_likeliest(trained, batch):
    model, (x, labels) = trained(2).requires_grad_(False), batch
    ranked = model(x).scatter(1, labels[:, None], -float("inf")).argsort(1, descending=True)
    assert all(torch.equal(likely_wrong(model, x, labels, rank), ranked[:, rank]) for rank in range(3))
    generator = torch.Generator().manual_seed(0)
    assert {draw_rank(generator) for _ in range(60)} == {0, 1, 2}


@pytest.mark.parametrize("momentum", [1 / 6, 0.5])
@pytest.mark.parametrize("aware", [0, 0.5])
def test_a_team_shares_every_part(momentum, aware, trained, batch):
    model, (x, labels) = trained(2).requires_grad_(False), (batch[0][:6], batch[1][:6])
    attack = TrainingAttack((3, 3), (0.1, 0.1), (2.0, 2.0), 1 / 3, (2,), momentum=momentum, aware=aware)

    def made(team):
        generator = torch.Generator().manual_seed(0)
        return make_examples(model, team.share(x), team.share(labels), CCE_RM, attack, generator, team)

    alone = made(ALONE)
    for index in range(2):
        torch.testing.assert_close(made(Team(index, 2)), alone[:, index::2], atol=1e-5, rtol=0)


def test_the_grids_of_smooth_examples_are_drawn():
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_grid(TrainingAttack(smooth=0.5, grids=(4, 8)), generator) for _ in range(1000)]
    assert set(drawn) == {4, 8} and abs(drawn.count(4) - drawn.count(8)) < 100


def test_noise_goes_to_its_share_of_benign_images(digits):
    x = digits.train.pixels()[:400] * 0.5 + 0.25
    found = noisy(x, TrainingAttack(epsilon=(0.1, 0.1), noise=0.25), torch.Generator().manual_seed(0))
    size = (found - x).abs().flatten(1)
    assert 70 < (size.amax(1) > 1e-6).sum() < 130
    assert torch.allclose(size.amax(1), size.amin(1), atol=1e-6)  # random signs of one size
    assert 0.08 < size.max() <= 0.1 + 1e-6
    assert torch.equal(noisy(x, TrainingAttack(), torch.Generator()), x)


def test_clip_norm_bounds_the_step(fresh, batch):
    x, labels = batch
    moves = []
    for clip in (0.0, 1e-3):
        model = fresh().train()
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        search, phase = SearchCopy(model, torch.float32), Phase("p", 1, NAT)
        train_step(list(model.members), search, optimizer, x, labels, phase, torch.Generator(), clip_norm=clip)
        moves.append((torch.cat([p.detach().flatten() for p in model.parameters()]) - before).norm().item())
    assert moves[0] > 0.1
    assert moves[1] == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_weight_decay_spares_biases_and_norms(name, kind, fresh):
    model = fresh()
    optimizer = make_optimizer(model, tiny_config(optimizer=name, weight_decay=5e-4))
    assert type(optimizer) is kind
    decayed, spared = optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (5e-4, 0.0)
    assert all(p.dim() > 1 for p in decayed["params"]) and all(p.dim() <= 1 for p in spared["params"])
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))


def test_bfloat16_trains_in_autocast_on_float32_weights(trainer):
    made = trainer(precision="bfloat16")
    scalars = made.advance()
    assert math.isfinite(scalars["loss"].item())
    assert {p.dtype for p in made.model.parameters()} == {torch.float32}
    assert {p.dtype for p in made.search.model.parameters()} == {torch.bfloat16}


def test_the_same_seed_gives_the_same_run_and_another_another(trainer):
    losses = [[made.advance()["loss"].item() for _ in range(2)] for made in (trainer(), trainer(), trainer(seed=1))]
    assert losses[0] == losses[1] != losses[2]
