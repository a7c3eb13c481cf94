"""Model cards and the README's table: built from metrics, and what is committed is what they build."""

import copy
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cce.checkpoints import folder as checkpoints
from cce.config import ConfigError
from cce.reporting.cards import measured_rows, model_card, released_table, with_table

ROOT = Path(__file__).resolve().parents[2]
RELEASED = checkpoints.released()


@pytest.mark.parametrize("folder", RELEASED, ids=lambda p: p.name)
def test_released_card_is_what_the_metrics_say(folder):
    assert (folder / "README.md").read_text(encoding="utf-8") == model_card(checkpoints.load(folder))


@pytest.mark.parametrize("folder", RELEASED, ids=lambda p: p.name)
def test_released_metrics_carry_the_attacker_who_knows_beside_every_auc(folder):
    metrics = checkpoints.load(folder).metrics
    titles = [title for title, row in measured_rows(metrics) if row.get("auc") is not None]
    assert any(t.startswith("detector-aware") for t in titles)
    assert any(t.startswith("not an attack") for t in titles)
    assert metrics["command"].startswith("python -m cce evaluate")


def test_a_detector_that_is_blind_to_a_plain_attack_says_so():
    checkpoint = checkpoints.load(ROOT / "checkpoints" / "digits-cce-dm")
    assert "Some attacks pass it" not in model_card(checkpoint)
    first, *rest = checkpoint.metrics["attacks"]
    seen = replace(
        checkpoint, metrics=checkpoint.metrics | {"attacks": [first, *rest, first | {"auc": 0.42, "steps": 77}]}
    )
    assert re.search(r"Some attacks pass it .* most of all PGD k=77, .*: AUC 0\.4200", model_card(seen))
    slow = {"name": "B&B k=9", "images": 100, "auc": 0.41}
    seen = replace(checkpoint, metrics=checkpoint.metrics | {"slow": [first | slow]})
    assert re.search(r"most of all B&B k=9 \(n = 100\): AUC 0\.4100", model_card(seen))


def test_noise_in_the_place_of_an_attack_is_called_noise():
    checkpoint = checkpoints.load(ROOT / "checkpoints" / "digits-cce-dm")
    config = copy.deepcopy(checkpoint.training["config"])
    config["phases"][1]["attack"] |= {"steps": [0, 0], "epsilon": [8 / 255, 16 / 255]}
    card = model_card(replace(checkpoint, training=checkpoint.training | {"config": config}))
    assert "| noise alone, epsilon 8 to 16 /255 |" in card and "k 0" not in card


def test_members_that_went_different_ways_are_named():
    checkpoint = checkpoints.load(ROOT / "checkpoints" / "digits-cce-rm")
    first, *rest = checkpoint.metrics["attacks"]

    def card(*accuracies):
        row = first | {"member_accuracy": list(accuracies)}
        return model_card(replace(checkpoint, metrics=checkpoint.metrics | {"attacks": [row, *rest]}))

    assert re.search(r"right on 82\.5 %, but not f2 \(30\.9 %\)", card(0.825, 0.309, 0.861))
    for like in ((0.825, 0.7, 0.861), (0.8, 0.3)):  # of two, neither is the rule
        assert "different ways" not in card(*like)


FEW = (
    *("cifar10-resnet20-cce-rm-long", "cifar10-resnet20-cce-dm-long", "cifar10-resnet20-cce-dm-hardened-long"),
    *("cifar10-resnet20-nat", "mnist-cnn2-cce-rm"),
)
"""What the README's own table shows."""


def test_the_tables_of_released_ensembles_are_what_the_checkpoints_say():
    made = {p.name: checkpoints.load(p) for p in RELEASED}
    everything = (ROOT / "checkpoints" / "README.md").read_text(encoding="utf-8")
    assert everything == with_table(everything, released_table(list(made.values())))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == with_table(readme, released_table([made[name] for name in FEW], "checkpoints/"))


def test_the_column_of_random_signs_holds_no_other_corruption():
    made = checkpoints.load(RELEASED[0])
    rows = [{"name": "blur, 3 x 3 binomial", "flagged": 0.11}, {"name": "random signs of 8/255", "flagged": 0.22}]
    shown = released_table([replace(made, metrics=made.metrics | {"benign_corruptions": rows})])
    assert "22.0 %" in shown and "11.0 %" not in shown
    without = released_table([replace(made, metrics=made.metrics | {"benign_corruptions": rows[:1]})])
    assert "11.0 %" not in without


def test_released_files_are_small_enough():
    sizes = [p.stat().st_size for folder in RELEASED for p in folder.iterdir()]
    assert max(sizes) < 25_000_000 and sum(sizes) < 250_000_000


def test_a_text_without_marks_is_refused():
    with pytest.raises(ConfigError, match="released:begin"):
        with_table("nothing here", "| |")
