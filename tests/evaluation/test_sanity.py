"""Signs of masked gradients: seen where gradients are masked, and not where they are not."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from cce.checkpoints.folder import Checkpoint
from cce.config import ATTACKS, CCE_RM, AttackConfig, ConfigError
from cce.evaluation.engine import Column, Found
from cce.evaluation.evaluate import evaluate, measure, metrics
from cce.evaluation.outcomes import Outcome
from cce.evaluation.sanity import (
    BLACK_BOX,
    GRADIENT_FREE,
    LARGE,
    STEPS,
    Sanity,
    excess,
    gradient_free_attacks,
    sanity_figures,
)
from cce.models import Ensemble
from cce.reporting.cards import model_card, sanity_lines
from tiny_ensembles import trained_briefly

BASE = AttackConfig("pgd", 0.1, 0.025, 8)


class Steps(nn.Module):
    """`member` on pixels rounded to sixteenths: nearly the same answers, and no gradient at all."""

    def __init__(self, member: nn.Module) -> None:
        super().__init__()
        self.member = member

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.member((x * 16).round() / 16 + 0 * x)


def checked(model: Ensemble, digits, n: int = 40, **more) -> dict:
    made = Checkpoint("t", model, "digits", digits.classes, CCE_RM, {})
    sanity = Sanity(BASE, n, gradient_free=0, **more)
    measured = measure(made, digits.test.pixels()[:n], digits.test.labels[:n], [], sanity=sanity)
    return sanity_figures(measured.of("sanity"))


def masked(model: Ensemble) -> Ensemble:
    made = Ensemble(model.config)
    made.members = nn.ModuleList(Steps(m) for m in model.members)
    return made.eval()


@pytest.fixture
def without_queries(monkeypatch):
    """The attacks that see outputs only take long; their check is tested by itself."""
    monkeypatch.setattr("cce.evaluation.sanity.gradient_free_attacks", lambda base: [])


def test_an_ensemble_with_gradients_passes(trained, digits, without_queries):
    found = checked(trained(2), digits)
    names = [one["name"] for one in found["checks"]]
    assert names == [
        "more steps never help the defender",
        "epsilon 0.5 fools everything",
        "black-box no stronger than white-box",
    ]
    assert all(one["holds"] and "warning" not in one for one in found["checks"])
    steps, large, black = (one["figures"] for one in found["checks"])
    assert [f["name"] for f in steps] == ["k = 2", "k = 8", "k = 20"] and large[0]["accuracy"] == 0
    assert len(black) == 2 and all(f["accuracy"] >= f["white_box_accuracy"] for f in black)
    json.dumps(found, allow_nan=False)


def test_an_ensemble_without_gradients_is_found_out(trained, digits, without_queries):
    """Its own gradient is 0, so only random starts fool it; the twin with gradients shows what it is worth."""
    found = checked(masked(trained(2)), digits, sources={"twin": trained(2)})
    broken = {one["name"]: one["warning"] for one in found["checks"] if not one["holds"]}
    assert set(broken) == {"epsilon 0.5 fools everything", "black-box no stronger than white-box"}
    assert all(w.startswith("gradient masking likely: ") for w in broken.values())
    assert "twin: PGD k=8" in broken["black-box no stronger than white-box"]
    assert "images withstand it" in broken["epsilon 0.5 fools everything"]
    lines = sanity_lines({"sanity": found})
    assert len(lines) == 3 and sum("gradient masking likely" in line for line in lines) == 2


def found(checked: str, last: str, fooled: str | None = None, **settings) -> Found:
    """A finding by hand: `last` and `fooled` are a bit an image, 1 where it is wrong."""
    wrong = torch.tensor([c == "1" for c in last])
    ever = torch.tensor([c == "1" for c in fooled or last])
    log_p = torch.stack([(~wrong).float(), wrong.float()], 1).log()
    seen = Outcome(log_p, wrong.long()[None], torch.zeros(len(wrong), dtype=torch.long))
    column = Column("sanity", f"by hand {settings}", {"check": checked, **settings}, len(wrong), 1, lambda batch: None)
    return Found(column, seen, ever, 0.0)


@pytest.mark.parametrize(
    ("longer", "holds"),
    [
        ("1111110000", True),  # the same
        ("1111111111", True),  # more steps fool more
        ("0111110000", True),  # one fewer is noise: 2 * sqrt(1) = 2
        ("0000010000", False),  # five fewer are not: 2 * sqrt(5) = 4.5
    ],
)
def test_more_steps_may_lose_no_more_than_noise(longer, holds):
    given = [found(STEPS, "1111110000", steps=8), found(STEPS, longer, "1111111111", steps=20), found(LARGE, "11")]
    said = sanity_figures(given)["checks"][0]
    assert said["holds"] == holds
    assert [f["accuracy"] for f in said["figures"]] == pytest.approx([0.4, longer.count("0") / 10])
    if not holds:
        assert said["warning"] == "gradient masking likely: 20 steps fool 5 images fewer than 8"


def test_black_box_and_gradient_free_are_held_against_white_box():
    white, large = found(STEPS, "0000000000", "0000000001", steps=8), found(LARGE, "1111111111")
    given = [white, large, found(BLACK_BOX, "1111100000", source="twin"), found(GRADIENT_FREE, "11111")]
    checks = {one["name"]: one for one in sanity_figures(given)["checks"]}
    black = checks["black-box no stronger than white-box"]
    assert black["holds"]  # 5 against 1: 4 images more, and 2 * sqrt(6) = 4.9 is noise
    assert black["figures"][0]["white_box_accuracy"] == pytest.approx(0.9)  # at any step
    free = checks["gradient-free no stronger than gradient-based"]
    assert not free["holds"] and "fools 5 of 5 images more than" in free["warning"]


def test_gradient_free_attacks_come_from_the_registry_and_are_compared(trained, digits):
    names = [c.name for c in gradient_free_attacks(BASE)]
    assert "spsa" in names and all(ATTACKS[n].gradient_free for n in names)
    assert {c.epsilon for c in gradient_free_attacks(BASE)} == {0.1}


class Saturated(nn.Module):
    """`member` with logits 10,000 times as large: the same labels, and float32 gradients of exactly 0 where right."""

    def __init__(self, member: nn.Module) -> None:
        super().__init__()
        self.member = member

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1e4 * self.member(x)


@pytest.fixture(scope="module")
def undefended(digits) -> Ensemble:
    """One network trained on clean digits alone: an attack at 0.2 fools nearly all of them."""
    return trained_briefly(1, digits, steps=50, batch=64)


@pytest.mark.parametrize("saturated", [True, False])
def test_spsa_exposes_masked_gradients_and_suspects_nobody_else(saturated, undefended, digits, monkeypatch):
    """PGD's cross-entropy has no gradient left; SPSA climbs the margin, which saturates nowhere."""

    def only_spsa(base):
        return [replace(c, steps=20) for c in gradient_free_attacks(base) if c.name == "spsa"]

    monkeypatch.setattr("cce.evaluation.sanity.gradient_free_attacks", only_spsa)
    x, labels = digits.test.pixels()[:20], digits.test.labels[:20]
    right = undefended(x).argmax(1) == labels
    x, labels, model = x[right][:12], labels[right][:12], copy.deepcopy(undefended)
    if saturated:
        model.members = nn.ModuleList(Saturated(m) for m in model.members)
        z = x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(nn.functional.nll_loss(model(z), labels), z)
        assert not gradient.any()
    made = Checkpoint("t", model, "digits", digits.classes, CCE_RM, {})
    sanity = Sanity(AttackConfig("pgd", 0.2, 0.05, 8), 12, gradient_free=12)
    measured = measure(made, x, labels, [], sanity=sanity)
    checks = {one["name"]: one for one in sanity_figures(measured.of("sanity"))["checks"]}
    free = checks["gradient-free no stronger than gradient-based"]
    assert free["holds"] != saturated and ("warning" in free) == saturated
    spsa, of_pgd = free["figures"][0]["accuracy"], free["figures"][0]["white_box_accuracy"]
    assert spsa <= 0.5 and of_pgd == (1 if saturated else pytest.approx(0, abs=0.1))
    if saturated:
        assert free["warning"].startswith("gradient masking likely: SPSA k=20")
        assert "of 12 images more than PGD k=8" in free["warning"]


@pytest.mark.parametrize(
    ("weaker", "stronger", "wanted"),
    [("1111100000", "0000000000", (5, 4.472)), ("1100", "0011", (0, 4)), ("1010", "1010", (0, 0))],
)
def test_excess_by_hand(weaker, stronger, wanted):
    bits = [torch.tensor([c == "1" for c in text]) for text in (weaker, stronger)]
    assert excess(*bits) == pytest.approx(wanted, abs=1e-3)


def test_sanity_is_on_the_card_and_only_where_it_was_measured(trained, digits, without_queries):
    made = Checkpoint("t", trained(2), "digits", digits.classes, CCE_RM, {})
    x, labels = digits.test.pixels()[:6], digits.test.labels[:6]
    about = {"data": "six digits", "device": "here", "command": "none"}
    plain = evaluate(made, x, labels, [BASE])
    made.metrics = about | plain
    assert "Sanity" not in model_card(made) and "Worst case of 1 attacks within epsilon 25.5/255" in model_card(made)
    made.metrics = about | metrics(measure(made, x, labels, [BASE], sanity=Sanity(BASE, 6)))
    card = model_card(made)
    assert "## Sanity" in card and "- more steps never help the defender: holds." in card


def test_bad_settings():
    with pytest.raises(ConfigError, match="sanity is on 0 images"):
        Sanity(BASE, 0)
    with pytest.raises(ConfigError, match="attack the ensemble"):
        Sanity(AttackConfig(target="member 1"))
