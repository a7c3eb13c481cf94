"""The form of a new run: it stands for the trainer's own config, and its command line for the same."""

import shlex
from dataclasses import fields, replace
from pathlib import Path

import pytest

from app.services import training_form
from app.services.training_form import KEYS, Base, command_line, config, preset_base, run_base, values
from cce.__main__ import build_parser
from cce.cli.training import asked_config
from cce.config import CCE_DM, ConfigError, TrainConfig, to_json
from cce.evaluation.presets import PRESETS, preset
from cce.training.run_folder import RunFolder

DIGITS = preset("digits-cce-rm")


def typed(base: TrainConfig, **changes) -> dict:
    return {**values(base), **changes}


@pytest.mark.parametrize("name", PRESETS)
def test_an_untouched_form_is_its_preset(name):
    assert config(preset(name), values(preset(name))) == preset(name)


def test_every_field_of_the_config_has_a_place():
    placed = {*KEYS, "model", "phases", "data_dir"}  # class folders come from a run that has them
    assert {f.name for f in fields(TrainConfig)} <= placed


def test_what_if_lambda_dm_were_3():
    made = config(DIGITS, typed(DIGITS, lambda_dm=3))
    assert [p.defense.lambda_dm for p in made.phases] == [0, 3]
    assert made.phases[-1].name == "CCE(1, 3)"
    base = preset("digits-cce-dm")
    made = config(base, typed(base, lambda_dm=3))
    assert [p.defense.lambda_dm for p in made.phases] == [0, 3, 3]


def test_epochs_scale_every_phase_and_its_milestones():
    made = config(DIGITS, typed(DIGITS, epochs=3))
    assert [p.epochs for p in made.phases] == pytest.approx([0.5, 2.5])
    paper = preset("cifar10-resnet20-cce-rm")
    assert config(paper, typed(paper, epochs=18)).phases[0].milestones == pytest.approx((8, 12, 16))


def test_the_attack_changes_where_it_was_the_last_phase_s():
    base = preset("digits-cce-dm")
    made = config(base, typed(base, epsilon_high=51, steps_low=4))
    assert made.phases[-1].attack.epsilon == (base.phases[-1].attack.epsilon[0], 51 / 255)
    assert made.phases[-1].attack.steps == (4, 10)
    assert made.phases[1] == base.phases[1]


def test_another_data_set_brings_its_shape_and_classes():
    made = config(DIGITS, typed(DIGITS, dataset="cifar100", **training_form.data_set_values("cifar100")))
    assert (made.dataset, made.model.input_shape, made.model.classes, made.flip) == ("cifar100", (3, 32, 32), 100, True)


def test_a_plain_defense_has_no_weights():
    made = config(DIGITS, typed(DIGITS, method="adv-en"))
    assert made.defense.name == "ADV-EN" and made.defense.lambda_pm == 0


def test_adp_adv_and_the_released_reading_can_be_chosen():
    made = config(DIGITS, typed(DIGITS, method="adp", alpha=1))
    assert (made.defense.method, made.defense.alpha, made.defense.beta) == ("adp", 1, 0.5)
    assert config(DIGITS, typed(DIGITS, method="adv-en", members=1)).defense_name == "ADV"
    made = config(DIGITS, typed(DIGITS, reading="released"))
    assert made.defense.reading == "released" and made.phases[-1].name == "CCE-RM (released)"
    assert config(DIGITS, typed(DIGITS, reading="released", method="nat")).defense.reading == "paper"


def test_a_run_on_own_pictures_keeps_them_until_another_data_set_is_chosen():
    own = replace(DIGITS, dataset="pets", data_dir="/p/pets", model=replace(DIGITS.model, classes=3))
    assert config(own, typed(own, seed=3)) == replace(own, seed=3)
    made = config(own, typed(own, dataset="mnist"))
    assert (made.dataset, made.data_dir, made.model.classes) == ("mnist", "", 10)


def test_what_makes_a_base_stronger_can_be_typed():
    changes = {"ema_decay": 0.99, "awp_gamma": 0.01, "awp_start": 2, "label_smoothing": 0.1, "init": "digits-cce-rm"}
    made = config(DIGITS, typed(DIGITS, architecture="resnet20-w32", **changes))
    assert made == replace(DIGITS, model=replace(DIGITS.model, architecture="resnet20-w32"), **changes)
    assert config(DIGITS, typed(DIGITS, init="/a/folder")).init == "/a/folder"
    offered = next(f for f in training_form.FIELDS if f.key == "init").choices
    assert ("none", "") in offered and "cifar10-resnet20-cce-rm-long" in offered


def test_any_other_field():
    made = config(DIGITS, values(DIGITS), "phases.0.learning_rate=0.5\n\n phases.1.name=mine ")
    assert made.phases[0].learning_rate == 0.5 and made.phases[1].name == "mine"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": None}, "Epochs is empty"),
        ({"epochs": 0}, "Epochs is 0"),
        ({"members": 2.5}, "Members is 2.5; it is a whole number"),
        ({"members": 99}, "from 1 to 8"),
        ({"epsilon_high": 300}, "Epsilon to, in 1/255 is 300"),
        ({"epsilon_low": 80}, "Epsilon from, in 1/255 is 80; it must not exceed where it goes to, 38.25"),
        ({"lambda_dm": float("nan")}, "lambda_dm is"),
        ({"lambda_dm": "three"}, "lambda_dm is 'three'"),
        ({"dataset": "imagenet"}, "Data set is 'imagenet'"),
        ({"architecture": "resnet9"}, "architecture is 'resnet9'"),
        ({"seed": -1}, "Seed is -1"),
        ({"ema_decay": 1}, "Average of weights is 1"),
        ({"awp_gamma": -0.1}, "Weight perturbation is -0.1"),
        ({"init": None}, "Start from the weights of is None"),
    ],
)
def test_bad_values_are_named_as_on_screen(changes, words):
    with pytest.raises(ConfigError, match=words):
        config(DIGITS, typed(DIGITS, **changes))


@pytest.mark.parametrize("lines", ["nonsense", "no.such=1", "batch_size=0"])
def test_bad_lines_are_named(lines):
    with pytest.raises(ConfigError):
        config(DIGITS, values(DIGITS), lines)


def parsed(line: str) -> TrainConfig:
    words = shlex.split(line)
    assert words[:4] == ["python", "-m", "cce", "train"]
    return asked_config(build_parser().parse_args(words[3:]))


CHANGES = (
    {},
    {"lambda_dm": 3, "seed": 4, "epochs": 2},
    {"dataset": "mnist", "architecture": "cnn-mnist", "members": 3, "flip": True, "epsilon_low": 1},
    {"ema_decay": 0.99, "awp_gamma": 0.01, "awp_start": 1, "label_smoothing": 0.1, "init": "digits-cce-rm"},
    {"method": "nat", "schedule": "constant", "compile": True, "precision": "float32"},
)
CHANGED = [  # every preset with one of the changes, and a few with each
    *((name, CHANGES[i % len(CHANGES)]) for i, name in enumerate(PRESETS)),
    *(
        (name, changes)
        for name in ("digits-cce-rm", "cifar10-resnet20-cce-dm", "mnist-cnn2-adp")
        for changes in CHANGES
    ),
]


@pytest.mark.parametrize(("name", "changes"), CHANGED)
def test_the_command_line_trains_the_same(name, changes):
    base = preset_base(name)
    made = config(base.config, typed(base.config, **changes))
    assert parsed(command_line(base, made, "x", Path("runs"), "cpu")) == made


def test_the_command_line_of_a_run_s_copy_trains_the_same(tmp_path):
    folder = RunFolder(tmp_path / "with space")
    folder.create(to_json(replace(DIGITS, seed=9)))
    base: Base = run_base("with space", replace(DIGITS, seed=9), folder.path)
    made = config(base.config, typed(base.config, lambda_pm=2))
    line = command_line(base, made, "x", tmp_path, "auto")
    assert parsed(line) == made and parsed(line).seed == 9


def test_base_of_knows_presets_and_runs():
    runs = {"digits-cce-dm": run_base("digits-cce-dm", DIGITS, Path("r"))}
    assert training_form.base_of("digits-cce-dm", runs).config.defense == CCE_DM
    assert training_form.base_of("run: digits-cce-dm", runs).config == DIGITS
    with pytest.raises(ConfigError, match="no preset or run called 'nothing'"):
        training_form.base_of("nothing", runs)


def test_phases_are_told_for_people():
    rows = training_form.phase_rows(preset("cifar10-cnn2-cce-dm-fast"))
    assert rows[0] == ["natural", "4", "NAT", "none", "0.001, one-cycle"]
    assert rows[1] == ["large noise", "0.5", "CCE(0, 1.5)", "noise alone, epsilon 48 to 96 /255", "0.001, constant"]
    assert rows[-1][2:4] == ["CCE-DM", "PGD, 3 to 14 steps, epsilon 2 to 12 /255"]
