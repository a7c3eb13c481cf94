"""Equal terms: who is compared with whom, by what margin, and where it is shown."""

import json
from dataclasses import replace

import pytest
import torch

from app.figures import paper_tables
from cce.__main__ import main
from cce.checkpoints import folder as checkpoints
from cce.checkpoints.folder import Checkpoint
from cce.checkpoints.measurements import EQUAL_TERMS, read_measurement, write_measurement
from cce.config import ADP, ADV_EN, CCE_BASE, CCE_RM, NAT, AttackConfig, ConfigError, ModelConfig, TrainConfig
from cce.evaluation import presets
from cce.evaluation.outcomes import Outcome
from cce.models import Ensemble
from cce.paper.bench import Bench
from cce.paper.equal_terms import families, family_of, groups, keep, measured_together, paired_margin
from cce.paper.orders import HOLDS, REVERSED, UNCLEAR
from cce.reporting import report
from cce.reporting.cards import model_card
from cce.reporting.reproduction import reproduce

PGD = AttackConfig("pgd", 0.15, 0.0375, 20)


def made(name: str, config: TrainConfig, robust: float = 0.5, images: int = 1000, **more) -> Checkpoint:
    """An untrained ensemble that says it was trained so, and found so robust."""
    torch.manual_seed(len(name))
    model = Ensemble(ModelConfig("resnet8", 2, 10, (1, 16, 16))).eval()
    training = checkpoints.training_record(config, 100, 60.0, torch.device("cpu")) | more
    subsets = {"S11": robust - 0.1, "S10": 0.1, "S01": 0.1, "S00": 0.8 - robust}
    figures = {"accuracy": robust, "member_accuracy": [robust, robust], "subsets": subsets}
    row = {"name": "pgd", "epsilon": 0.15, "step_size": 0.0375, "steps": 20, **figures}
    about = dict.fromkeys(("data", "device", "search_precision", "command"), "said") | {"seed": 0}
    metrics = {**about, "images": images, "natural": figures | {"accuracy": 0.9}, "attacks": [row]}
    return Checkpoint(name, model, "digits", tuple("0123456789"), config.defense, training, metrics=metrics)


def with_loss(defense, config: TrainConfig | None = None) -> TrainConfig:
    """A preset's config with another loss where its own is."""
    config = config or presets.preset("digits-cce-rm")
    phases = tuple(replace(p, name="other", defense=defense) if p.defense == CCE_RM else p for p in config.phases)
    return replace(config, phases=phases)


RM, EN = made("rm", with_loss(CCE_RM)), made("en", with_loss(ADV_EN), 0.4)


def test_what_differs_in_the_loss_alone_is_compared():
    elsewhere = replace(with_loss(CCE_BASE), compile=True, save_every=7, evaluate_images=9)
    assert [[c.id for c in g] for g in groups([RM, made("base", elsewhere), EN])] == [["rm", "base", "en"]]


@pytest.mark.parametrize(
    "other",
    [
        made("seed", replace(with_loss(ADV_EN), seed=1)),
        made("batch", replace(with_loss(ADV_EN), batch_size=32)),
        made("more images", with_loss(ADV_EN), images_seen=7),
        made("no warm start", replace(with_loss(ADV_EN), phases=with_loss(ADV_EN).phases[1:])),
        made("all natural", presets.preset("digits-nat")),
        made("another attack", presets.preset("digits-cce-dm")),
        made("measured on fewer", with_loss(ADV_EN), images=200),
    ],
    ids=lambda c: c.id,
)
def test_what_differs_in_more_is_not(other):
    assert families([RM, other]) == []


def test_a_checkpoint_without_a_known_record_is_left_out():
    strange = replace(EN, training={"config": {"epochs": 3}})
    assert groups([RM, strange, replace(EN, training={})]) == []


def test_one_by_one_the_margins_are_of_independent_samples():
    (family,) = families([EN, RM])
    assert [s.id for s in family.standings] == ["rm", "en"] and not family.paired
    robust, all_right = family.comparisons
    assert (robust.first, robust.second, robust.values) == ("rm", "en", (0.5, 0.4))
    # 1.96 sqrt(.25 / n + .24 / n) for n = 1000
    assert robust.margin == pytest.approx(0.0434, abs=2e-4) and robust.verdict == HOLDS
    assert all_right.values == (pytest.approx(0.4), pytest.approx(0.3)) and "as printed" in all_right.describe()
    (turned,) = families([made("rm", with_loss(CCE_RM), 0.4), made("en", with_loss(ADV_EN), 0.5)])
    assert turned.comparisons[0].verdict == REVERSED and "against what is printed" in turned.comparisons[0].describe()
    (close,) = families([RM, made("en", with_loss(ADV_EN), 0.48)])
    assert close.comparisons[0].verdict == UNCLEAR and "within its margin of 4.4" in close.comparisons[0].describe()


def test_only_what_is_printed_below_is_set_against_cce_rm():
    losses = {"rm": (CCE_RM, 0.5), "nat": (NAT, 0.1), "adp": (ADP, 0.3)}
    cold = replace(with_loss(CCE_RM), phases=with_loss(CCE_RM).phases[1:])
    (family,) = families([made(name, with_loss(loss, cold), robust) for name, (loss, robust) in losses.items()])
    assert [s.id for s in family.standings] == ["rm", "adp", "nat"]
    assert {c.second for c in family.comparisons} == {"adp"}
    (without,) = families([made("base", with_loss(CCE_BASE), 0.1), EN])
    assert without.comparisons == ()


def test_paired_margin_by_hand():
    one, other = torch.zeros(100, dtype=torch.bool), torch.zeros(100, dtype=torch.bool)
    one[:50], other[10:54] = True, True  # 10 of one alone, 4 of the other
    assert paired_margin(one, other) == pytest.approx(1.96 * (15 - 6**2 / 100) ** 0.5 / 100)
    assert paired_margin(one, one) == pytest.approx(1.96 / 100)  # no difference is no certainty


def test_paired_margin_covers_the_truth():
    draw = torch.Generator().manual_seed(0)
    inside = 0
    for _ in range(500):
        hard = torch.rand(400, generator=draw)
        one = hard + 0.2 * torch.rand(400, generator=draw) < 0.6
        other = hard + 0.2 * torch.rand(400, generator=draw) < 0.55
        inside += abs((one.float() - other.float()).mean().item() - 0.05) <= paired_margin(one, other)
    assert 0.92 <= inside / 500 <= 0.98


def outcome(right: list[list[bool]]) -> Outcome:
    """Of two members and their ensemble, in that order; the true label is always 0."""
    wrong = torch.tensor(right).logical_not().long()
    return Outcome(torch.nn.functional.one_hot(wrong[2], 2).float().log(), wrong[:2], torch.zeros_like(wrong[2]))


def test_measured_together_counts_every_image():
    clean = outcome([[True] * 4] * 3)
    rm = outcome([[True, True, True, False], [True, True, False, False], [True, True, True, False]])
    en = outcome([[True, False, False, False], [True, True, False, False], [True, True, False, False]])
    family = measured_together([EN, RM], {"rm": (clean, rm), "en": (clean, en)}, PGD)
    assert family.paired and family.images == 4 and family.images_seen == 6400
    assert [(s.id, s.natural, s.robust, s.all_right) for s in family.standings] == [
        ("rm", 1.0, 0.75, 0.5),
        ("en", 1.0, 0.5, 0.25),
    ]
    assert family.comparisons[0].margin == pytest.approx(1.96 * (2 - 1 / 4) ** 0.5 / 4)


@pytest.fixture
def saved(tmp_path):
    """The two as folders."""
    for c in (RM, EN):
        checkpoints.save(replace(c, folder=None), tmp_path / c.id)
    return [checkpoints.load(tmp_path / c.id) for c in (RM, EN)]


def test_what_was_measured_together_is_preferred_while_it_is_of_the_same_ensembles(saved):
    clean = outcome([[True]] * 3)
    family = measured_together(saved, {c.id: (clean, clean) for c in saved}, PGD)
    keep(family, saved, {"command": "compare"})
    assert family_of(saved[0]) == family and families(saved) == [family]
    third = made("base", with_loss(CCE_BASE), 0.45)
    (found,) = families([*saved, third])
    assert [s.id for s in found.standings] == ["rm", "base", "en"] and not found.paired


def test_the_card_says_it(saved):
    assert "On equal terms" not in model_card(saved[0])
    (family,) = families(saved)
    keep(family, saved, {})
    for c in saved:
        card = model_card(c)
        assert "| en | ADV-EN | 90.0 % | 40.0 % | 30.0 % | 1.0 |" in card
        assert "- Robust accuracy: CCE-RM 50.0 %, ADV-EN 40.0 %: CCE-RM is better, as printed." in card


def test_a_damaged_file_is_named(saved):
    write_measurement(saved[0], EQUAL_TERMS, {"family": {"standings": [{}]}})
    with pytest.raises(ConfigError, match=r"rm: equal-terms cannot be read.*measure again or delete"):
        families(saved)


def test_command_measures_and_writes(saved, capsys):
    folders = [str(c.folder) for c in saved]
    assert main(["compare", *folders, "--n", "12", "--write", "--json", "--device", "cpu"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["paired"] and found["images"] == 12 and {s["id"] for s in found["standings"]} == {"rm", "en"}
    assert read_measurement(saved[1], EQUAL_TERMS)["command"] == "python -m cce compare rm en --n 12 --seed 0"
    assert "n = 12:" in (saved[0].folder / "README.md").read_text()
    assert main(["compare", *folders]) == 0
    assert "PGD k=20, epsilon 38.25/255, step 9.562/255, on the ensemble, n = 12" in capsys.readouterr().out


def test_command_says_that_there_is_nothing_to_compare(saved, capsys):
    assert main(["compare", str(saved[0].folder)]) == 0
    assert "no two of them were made by one recipe" in capsys.readouterr().out


def test_tab_and_report_show_it(saved):
    (family,) = families(saved)
    shown = paper_tables.family(family)
    assert "6,400 images seen in training" in shown
    assert ">✓ holds</td>" in shown and "wider than need be" in shown
    result = reproduce([], Bench(saved, None, n=0, steps=0, adaptive=1, seed=0))
    assert result["families"] == [family]
    assert "Robust accuracy: CCE-RM 50.0 %, ADV-EN 40.0 %" in report.reproduction(result)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--n", "-1"], "--n is -1"),
        (["--attack", "pgd"], "--attack is for --n"),
        (["digits-cce-rm", "digits-cce-rm"], "'digits-cce-rm' is named twice"),
    ],
)
def test_bad_options_are_named(options, words, capsys):
    assert main(["compare", *options]) == 2
    assert words in capsys.readouterr().err
