import dataclasses
import json
import math

import pytest

from cce.config import (
    ADV_EN,
    CCE_BASE,
    CCE_DM,
    CCE_RM,
    DEFENSES,
    NAT,
    AttackConfig,
    ConfigError,
    Defense,
    ModelConfig,
    Phase,
    TrainConfig,
    TrainingAttack,
    from_json,
    to_json,
)

MODEL = ModelConfig("resnet20", 2, 10, (3, 32, 32))


def train_config(**changes) -> TrainConfig:
    phases = (
        Phase("natural", 1.5, NAT, learning_rate=0.01, schedule="one-cycle"),
        Phase("easy", 0.6, CCE_DM, TrainingAttack((3, 3)), 1e-3, "milestones", (0.2, 0.4)),
    )
    return TrainConfig(**{"dataset": "cifar10", "model": MODEL, "phases": phases} | changes)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AttackConfig(epsilon=8), "epsilon is 8; it is in pixel units from 0 to 1, did you mean 8/255?"),
        (lambda: AttackConfig(step_size=2), "step_size is 2; it is in pixel units .*did you mean 2/255"),
        (lambda: AttackConfig(epsilon=-0.1), "epsilon is -0.1; it must be a number from 0 to 1"),
        (lambda: AttackConfig(epsilon=math.nan), "epsilon is nan; it must be a number from 0 to 1"),
        (lambda: AttackConfig(epsilon=math.inf), "epsilon is inf; it must be a number"),
        (lambda: AttackConfig("cw"), "attack is 'cw'; there is fgsm, pgd, bim, mim"),
        (lambda: AttackConfig(steps=0), "steps is 0; it must be from 1 to 10000"),
        (lambda: AttackConfig(target="member 0"), "target is 'member 0'; it is 'ensemble' or 'member n', n from 1"),
        (lambda: AttackConfig(target="member -1"), "target is 'member -1'"),
        (lambda: AttackConfig(decay=-1), "decay is -1; it must be 0 or more"),
        (lambda: AttackConfig(decay=math.nan), "decay is nan"),
        (lambda: ModelConfig("resnet21", 2, 10, (3, 32, 32)), "architecture is 'resnet21'; .* D = 6n \\+ 2"),
        (lambda: ModelConfig("resnet2", 2, 10, (3, 32, 32)), "architecture is 'resnet2'"),
        (lambda: ModelConfig("vgg", 2, 10, (3, 32, 32)), "architecture is 'vgg'; there is cnn-mnist"),
        (lambda: ModelConfig("resnet20", 0, 10, (3, 32, 32)), "members is 0; an ensemble has at least one"),
        (lambda: ModelConfig("resnet20", 2, 1, (3, 32, 32)), "classes is 1; it must be at least 2"),
        (lambda: ModelConfig("resnet20", 2, 10, (3, 32)), "input_shape is .* it is \\(channels, height, width\\)"),
        (lambda: ModelConfig("resnet20", 2, 10, (3, 0, 32)), "input_shape is \\(3, 0, 32\\)"),
        (lambda: TrainingAttack((10, 3)), "steps is 10 to 3; the first must not exceed the second"),
        (lambda: TrainingAttack((-1, 3)), "steps is -1; it must be 0 or more"),
        (lambda: TrainingAttack((0, 3), momentum=0.5), "steps is 0 with momentum"),
        (lambda: TrainingAttack(epsilon=(0.01, 8)), "epsilon is 8; .*did you mean 8/255"),
        (lambda: TrainingAttack(reach=(0.0, 1.0)), "reach is 0.0; it must be above 0"),
        (lambda: TrainingAttack(smooth=1.5), "smooth is 1.5; it is a share from 0 to 1"),
        (lambda: TrainingAttack(momentum=2), "momentum is 2; it is a share from 0 to 1"),
        (lambda: TrainingAttack(smooth=0.7, momentum=0.5), "smooth and momentum are 0.7 and 0.5; .* at most 1"),
        (lambda: TrainingAttack(noise=-0.1), "noise is -0.1; it is a share from 0 to 1"),
        (lambda: TrainingAttack(grids=(4, 1)), "grids is .4, 1.; it lists the sides of coarse grids, each at least 2"),
        (
            lambda: train_config(phases=(Phase("p", 1, NAT, TrainingAttack(smooth=0.5, grids=(64,))),)),
            "grids of phase 'p' is .64,.; pictures have",
        ),
        (lambda: Defense("gal"), "defense method is 'gal'; there is nat, adv-en, adp, cce"),
        (lambda: Defense("adp", alpha=-2), "alpha is -2; it must be 0 or more"),
        (lambda: Defense(reading="own"), "reading is 'own'; it is 'paper' or 'released'"),
        (lambda: Defense("adv-en", reading="released"), "reading is 'released' .*; only cce has two readings"),
        (lambda: Defense(lambda_pm=-1), "lambda_pm is -1; it must be 0 or more"),
        (lambda: Defense(lambda_dm=math.nan), "lambda_dm is nan"),
        (lambda: Defense(indicator="firm"), "indicator is 'firm'; it is 'soft' or 'hard'"),
        (lambda: Phase("p", 0, NAT), "epochs of phase 'p' is 0; it must be above 0"),
        (lambda: Phase("p", 1, NAT, learning_rate=0), "learning_rate is 0; it must be above 0"),
        (lambda: Phase("p", 1, NAT, schedule="cosine"), "schedule is 'cosine'; there is constant, one-cycle"),
        (lambda: train_config(phases=()), "phases is empty"),
        (lambda: train_config(batch_size=0), "batch_size is 0"),
        (lambda: train_config(optimizer="lamb"), "optimizer is 'lamb'; it is one of adam, adamw, sgd"),
        (lambda: train_config(precision="float16"), "precision is 'float16'"),
        (lambda: train_config(shift=0.6), "shift is 0.6; it is a fraction of the side from 0 to 0.5"),
        (lambda: train_config(train_images=-1), "train_images is -1; 0 means all"),
        (lambda: train_config(save_every=0), "save_every is 0"),
        (lambda: train_config(evaluate_every=0), "evaluate_every is 0"),
        (lambda: train_config(evaluate_images=0), "evaluate_images is 0; it must be at least 1"),
        (lambda: train_config(weight_decay=-1e-4), "weight_decay is -0.0001; it must be 0 or more"),
        (lambda: train_config(clip_norm=-1.0), "clip_norm is -1.0; it must be 0 or more"),
        (lambda: train_config(label_smoothing=1.0), "label_smoothing is 1.0; it is a fraction from 0 .* to below 1"),
        (lambda: train_config(ema_decay=1.0), "ema_decay is 1.0; it is a fraction from 0"),
        (lambda: train_config(ema_decay=math.nan), "ema_decay is nan"),
        (lambda: train_config(awp_gamma=-0.1), "awp_gamma is -0.1; it is a fraction of a layer's norm, 0 to 1"),
        (lambda: train_config(awp_start=math.inf), "awp_start is inf; it must be 0 or more"),
    ],
)
def test_bad_value_is_refused_by_name(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_config_objects_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AttackConfig().epsilon = 0.5


def test_target_member_counts_from_one_on_the_outside_and_zero_inside():
    assert AttackConfig(target="member 1").target_member == 0
    assert AttackConfig(target="member 12").target_member == 11
    assert AttackConfig().target_member is None


def test_resnet_depth():
    assert [ModelConfig(f"resnet{d}", 1, 10, (3, 32, 32)).resnet_depth for d in (8, 20, 110)] == [8, 20, 110]
    assert ModelConfig("cnn-mnist", 1, 10, (1, 28, 28)).resnet_depth is None


def test_defenses_carry_the_papers_weights_and_names():
    weights = {k: (d.method, d.lambda_pm, d.lambda_dm, d.indicator) for k, d in DEFENSES.items()}
    assert weights == {
        "nat": ("nat", 0, 0, "soft"),
        "adv-en": ("adv-en", 0, 0, "soft"),
        "adp": ("adp", 0, 0, "soft"),
        "cce-base": ("cce", 0, 0, "soft"),
        "cce-rm": ("cce", 1, 1, "soft"),
        "cce-dm": ("cce", 0, 5, "soft"),
    }
    names = [d.name for d in (NAT, ADV_EN, CCE_BASE, CCE_RM, CCE_DM)]
    assert names == ["NAT", "ADV-EN", "CCE-Base", "CCE-RM", "CCE-DM"]
    assert Defense("cce", 0.5, 2).name == "CCE(0.5, 2)"
    assert (DEFENSES["adp"].alpha, DEFENSES["adp"].beta, DEFENSES["adp"].name) == (2, 0.5, "ADP")
    assert Defense("adp", alpha=1.0).name == "ADP(1, 0.5)"
    assert [ADV_EN.name_with(n) for n in (1, 2)] == ["ADV", "ADV-EN"]
    assert Defense("cce", 1, 1, reading="released").name == "CCE-RM (released)"


def test_a_config_from_before_a_field_was_there_still_reads():
    values = json.loads(json.dumps(to_json(train_config())))
    del values["data_dir"]
    for phase in values["phases"]:
        for name in ("alpha", "beta", "reading"):
            del phase["defense"][name]
        for name in ("smooth", "grids", "noise"):
            del phase["attack"][name]
    assert from_json(TrainConfig, values) == train_config()


def test_json_round_trip_through_text():
    config = train_config(train_images=500, clip_norm=1.0)
    assert from_json(TrainConfig, json.loads(json.dumps(to_json(config)))) == config
    for part in (MODEL, AttackConfig("mim", 0.1, 0.02, 7, "member 2", 0.9), CCE_RM, config.phases[1]):
        assert from_json(type(part), json.loads(json.dumps(to_json(part)))) == part


def with_value(path: str, value) -> dict:
    values = json.loads(json.dumps(to_json(train_config())))
    *parents, last = path.split(".")
    place = values
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place[key]
    place[last] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("batch_size", "64", "config.batch_size is '64'; it must be a int"),
        ("batch_size", True, "config.batch_size is True; it must be a int"),
        ("flip", 1, "config.flip is 1; it must be a bool"),
        ("shift", "0.1", "config.shift is '0.1'; it must be a float"),
        ("model.members", 2.0, "config.model.members is 2.0; it must be a int"),
        ("model.input_shape", [3, 32], "config.model.input_shape has 2 entries; it must have 3"),
        ("model.input_shape", 32, "config.model.input_shape is 32; it must be a list"),
        ("model", "resnet20", "config.model is text; it must be an object"),
        ("model.depth", 20, "config.model has an unknown field 'depth'"),
        ("phases.1.defense.method", 3, "config.phases\\[1\\].defense.method is 3; it must be a str"),
        ("phases.0.attack.epsilon", [0.1, 8], "epsilon is 8; .*did you mean 8/255"),
        ("phases", [], "phases is empty"),
    ],
)
def test_from_json_names_the_path_of_a_bad_field(path, value, words):
    with pytest.raises(ConfigError, match=words):
        from_json(TrainConfig, with_value(path, value))


@pytest.mark.parametrize("value", ["3", 1.5, True, [1]])
def test_a_field_of_several_types_is_refused_by_its_path(value):
    values = to_json(AttackConfig()) | {"toward": value}
    with pytest.raises(ConfigError, match="attack.toward is .*; it must be a int or null"):
        from_json(AttackConfig, values, "attack")
    assert from_json(AttackConfig, values | {"toward": 3}).toward == 3
    assert from_json(AttackConfig, values | {"toward": None}).toward is None


def test_from_json_names_a_missing_field():
    values = to_json(train_config())
    del values["dataset"]
    with pytest.raises(ConfigError, match="config lacks the field 'dataset'"):
        from_json(TrainConfig, values)


def test_from_json_takes_a_whole_number_for_a_float_and_defaults_for_the_rest():
    phase = from_json(Phase, {"name": "p", "epochs": 2, "defense": {}})
    assert phase == Phase("p", 2.0, Defense())
    assert isinstance(phase.epochs, float)


def test_one_cycle_goes_up_over_a_quarter_and_down_to_zero():
    phase = Phase("p", 8, NAT, learning_rate=0.4, schedule="one-cycle")
    assert phase.rate(0.0) == pytest.approx(0.4 * 0.04)
    assert phase.rate(0.125) == pytest.approx(0.4 * 0.52)  # half-way up: .04 + .96 / 2
    assert phase.rate(0.25) == pytest.approx(0.4)
    assert phase.rate(0.25 - 1e-9) == pytest.approx(0.4)  # no jump at the top
    assert phase.rate(0.5) == pytest.approx(0.4 * 0.75)  # a third of the way down: (1 + cos 60 degrees) / 2
    assert phase.rate(0.625) == pytest.approx(0.2)  # half-way down
    assert phase.rate(1.0) == pytest.approx(0.0, abs=1e-12)


def test_milestones_divide_by_ten_from_that_epoch_on():
    phase = Phase("p", 180, CCE_RM, learning_rate=1e-3, schedule="milestones", milestones=(80.0, 120.0, 160.0))
    epochs = (0, 79.9, 80.1, 119.9, 120.1, 159.9, 160.1, 180)
    expected = [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6]
    assert [phase.rate(e / 180) for e in epochs] == pytest.approx(expected)


def test_constant_schedule_stays():
    assert {Phase("p", 2, NAT, learning_rate=0.3).rate(p) for p in (0, 0.5, 1)} == {0.3}


def test_train_config_is_released_as_its_last_phase():
    config = train_config()
    assert config.defense == CCE_DM
    assert config.epochs == pytest.approx(2.1)
