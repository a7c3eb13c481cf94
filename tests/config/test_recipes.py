"""The presets hold the paper's settings, name by name."""

import dataclasses
import math

import pytest

from cce.checkpoints import folder as checkpoints
from cce.config import ADV_EN, CCE_DM, ConfigError, from_json, to_json
from cce.config.recipes import SEVEN, grouped
from cce.evaluation.presets import PRESETS, preset
from cce.models import Ensemble

PAPER = [
    "cifar10-resnet20",
    "cifar10-resnet20x3",
    *(f"{d}-cnn{n}" for d in ("cifar10", "cifar100", "mnist") for n in (2, 3)),
]


def test_every_cell_has_the_seven_defenses():
    assert list(SEVEN) == ["nat", "adv", "adv-en", "adp", "cce-base", "cce-rm", "cce-dm"]
    for cell in PAPER:
        for defense, loss in SEVEN.items():
            if defense == "adv" and cell.endswith("3"):
                assert f"{cell}-adv" not in PRESETS  # one network is one network
                continue
            config = preset(f"{cell}-{defense}")
            assert config.defense == loss
            assert config.model.members == (1 if defense == "adv" else 3 if cell.endswith("3") else 2)
    assert preset("cifar10-cnn2-adv").defense == ADV_EN and preset("cifar10-cnn2-adv").defense_name == "ADV"


@pytest.mark.parametrize("cell", PAPER)
def test_a_cell_holds_the_papers_settings(cell):
    """Tables 3 to 5 and 8, and "Model architecture and training setting" of the supplement."""
    config = preset(f"{cell}-cce-rm")
    (phase,) = config.phases
    attack = phase.attack
    assert (config.optimizer, phase.learning_rate, config.batch_size, config.weight_decay) == ("adam", 1e-3, 64, 0)
    assert config.shift == 0.1 and config.flip == (not cell.startswith("mnist")) and config.train_images == 0
    assert attack.steps == (10, 10) and attack.smooth == attack.noise == 0
    assert phase.epochs == (100 if cell.startswith("mnist") else 180)
    step = [attack.reach[0] * e / 10 for e in attack.epsilon]
    if "resnet20" in cell:
        assert config.model.architecture == "resnet20"
        assert attack.epsilon == (0.01, 0.05) and step == pytest.approx([e / 10 for e in attack.epsilon])
        assert (phase.schedule, phase.milestones) == ("milestones", (80, 120, 160))
    else:
        size, length = {
            "cifar10": (8 / 255, 2 / 255), "cifar100": (0.01, 0.001), "mnist": (0.3, 0.075)
        }[config.dataset]  # fmt: skip
        assert config.model.architecture == f"cnn-{config.dataset}" and phase.schedule == "constant"
        assert attack.epsilon == (size, size) and step == pytest.approx([length, length])
    assert config.model.classes == (100 if config.dataset == "cifar100" else 10)


def test_table_8_networks_and_their_sizes():
    """Parameters counted from Table 8: convolutions 9 i o + o, dense i o + o."""

    def convolutions(*widths):
        return sum(9 * i * o + o for i, o in zip(widths, widths[1:], strict=False))

    def dense(*widths):
        return sum(i * o + o for i, o in zip(widths, widths[1:], strict=False))

    wanted = {
        "mnist-cnn2-nat": convolutions(1, 32, 32, 64, 64) + dense(64 * 49, 200, 200, 10),
        "cifar10-cnn2-nat": convolutions(3, 64, 64, 128, 128) + dense(128 * 64, 256, 256, 10),
        "cifar100-cnn2-nat": convolutions(3, 64, 64, 64, 128, 128, 128) + dense(128 * 64, 256, 256, 256, 100),
    }
    for name, count in wanted.items():
        assert sum(p.numel() for p in Ensemble(preset(name).model).parameters()) == 2 * count


def test_fast_defenses_have_one_budget():
    others = [d for d in SEVEN if d != "cce-dm"]
    for cell in ("cifar10-resnet20", "cifar10-cnn2", "mnist-cnn2", "cifar10-cnn3", "mnist-cnn3"):
        made = {d: preset(f"{cell}-{d}-fast") for d in others if f"{cell}-{d}-fast" in PRESETS}
        members = {c.model.members for d, c in made.items() if d != "adv"}
        assert members == {3 if "cnn3" in cell else 2} and ("adv" in made) == ("cnn3" not in cell)
        assert len({c.epochs for c in made.values()}) == 1
        assert len({(c.batch_size, c.optimizer, c.phases[-1].learning_rate) for c in made.values()}) == 1
        attacks = {c.phases[-1].attack for d, c in made.items() if d != "nat"}
        assert len(attacks) == 1
    assert preset("mnist-cnn2-cce-rm-fast").phases[-1].attack.epsilon == (0.3, 0.3)
    assert (
        preset("cifar10-resnet20-nat-fast").phases[-1].attack == preset("cifar10-resnet20-cce-rm-fast").phases[0].attack
    )


def test_detection_mode_has_a_warm_start_and_an_easy_attack_where_it_is_ours():
    for name in ("cifar10-resnet20-cce-dm-fast", "mnist-cnn2-cce-dm-fast", "digits-cce-dm"):
        phases = preset(name).phases
        assert [p.name for p in phases[:3]] == ["natural", "easy attack", "varied attacks"]
        assert phases[0].defense.method == "nat" and phases[-1].defense == CCE_DM


def test_cifar10s_cnn_is_given_noise_before_attacks_and_the_whole_weight_last():
    natural, *phases = preset("cifar10-cnn2-cce-dm-fast").phases
    assert natural.defense.method == "nat" and phases[-1].defense == CCE_DM
    alone = [p.attack.steps == (0, 0) for p in phases]
    assert alone == sorted(alone, reverse=True) and 0 < sum(alone) < len(alone)
    largest = [p.attack.epsilon[1] for p in phases]
    assert largest == sorted(largest, reverse=True) and phases[0].defense.lambda_dm < 2


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_its_json(name):
    config = preset(name)
    assert from_json(type(config), to_json(config)) == config
    assert math.isclose(config.epochs, sum(p.epochs for p in config.phases))


def test_the_groups_hold_every_preset_once():
    names = [n for group in grouped().values() for n in group]
    assert sorted(names) == sorted(PRESETS) and len(set(names)) == len(names)


def test_a_wrong_name_is_told_the_nearest():
    with pytest.raises(ConfigError, match="preset is 'cifar10-cnn2-rm'; did you mean .*cifar10-cnn2-cce-rm"):
        preset("cifar10-cnn2-rm")


@pytest.mark.parametrize(("budget", "momentum"), [("fast", 0), ("long", 0.2)])
def test_a_hardened_recipe_goes_on_where_the_plain_one_ends(budget, momentum):
    plain, hardened = preset(f"cifar10-resnet20-cce-dm-{budget}"), preset(f"cifar10-resnet20-cce-dm-hardened-{budget}")
    assert hardened.phases[:-1] == plain.phases and hardened.batch_size == plain.batch_size
    last = hardened.phases[-1]
    assert last.defense == plain.phases[-1].defense and last.attack.epsilon[1] >= plain.phases[-1].attack.epsilon[1]
    assert (last.attack.smooth, last.attack.grids, last.attack.noise) == (0.5, (4, 8, 16), 0.5)
    assert last.attack.momentum == momentum


def test_additions_alone_and_together_see_as_many_images_as_the_fast_recipe():
    plain = preset("cifar10-resnet20-cce-rm-fast")
    fields = {"ema": "ema_decay", "awp": "awp_gamma", "smoothing": "label_smoothing"}
    for name in ("ema", "awp", "smoothing", "ema-awp", "ema-awp-smoothing"):
        config = preset(f"cifar10-resnet20-cce-rm-{name}-fast")
        changed = {f.name for f in dataclasses.fields(config) if getattr(config, f.name) != getattr(plain, f.name)}
        assert changed == {fields[part] for part in name.split("-")}


def test_every_other_recipe_has_none_of_the_additions():
    added = {name for name in PRESETS if any(w in name.split("-") for w in ("ema", "awp", "smoothing", "best"))}
    assert len(added) == 6
    for name in PRESETS.keys() - added:
        config = preset(name)
        assert (config.ema_decay, config.awp_gamma, config.label_smoothing, config.init) == (0, 0, 0, "")


def test_the_best_goes_on_from_a_released_ensemble_of_its_own_shape():
    config = preset("cifar10-resnet20-cce-rm-best")
    source = checkpoints.load(next(p for p in checkpoints.released() if p.name == config.init))
    assert source.model.config == config.model and source.defense == config.defense
    assert config.ema_decay > 0 and config.awp_gamma > 0 and config.phases[-1].learning_rate < 0.05
    assert grouped()["On from a released ensemble (a night on two cores)"] == ["cifar10-resnet20-cce-rm-best"]


@pytest.mark.parametrize("defense", SEVEN)
def test_the_long_recipes_have_one_budget_but_detection_modes(defense):
    config = preset(f"cifar10-resnet20-{defense}-long")
    assert config.defense == SEVEN[defense] and config.batch_size == 256
    assert config.epochs == (24.5 if defense == "cce-dm" else 33)
    names = grouped()["Minutes on a GPU (one budget, so that defenses compare)"]
    assert names == [*(f"cifar10-resnet20-{d}-long" for d in SEVEN), "cifar10-resnet20-cce-dm-hardened-long"]
