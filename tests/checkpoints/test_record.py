"""Figures that do not fit: left out and named, while the weights and every other figure stay."""

import copy
import json
import shutil
from pathlib import Path

import pytest

from app.services.models import Registry, card, one_line
from cce.checkpoints import folder as checkpoints
from cce.checkpoints.record import fit_metrics
from cce.evaluation.presets import summary
from cce.reporting.cards import model_card

RELEASED = checkpoints.released()[0]
METRICS = json.loads((RELEASED / "metrics.json").read_text())
MEMBERS = json.loads((RELEASED / "config.json").read_text())["members"]


@pytest.mark.parametrize("folder", checkpoints.released(), ids=lambda p: p.name)
def test_what_ships_fits_as_it_is(folder: Path):
    values = json.loads((folder / "metrics.json").read_text())
    members = json.loads((folder / "config.json").read_text())["members"]
    assert fit_metrics(values, members) == (values, [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(attacks=5), "attacks is 5; it must be a list"),
        (lambda m: m.update(adaptive=[1]), "adaptive[0] is 1; it must be an object"),
        (lambda m: m["natural"].update(accuracy=float("inf")), "natural.accuracy is inf"),
        (lambda m: m["natural"].update(accuracy="high"), "natural.accuracy is 'high'"),
        (lambda m: m["attacks"][0].pop("accuracy"), "attacks[0].accuracy is missing"),
        (lambda m: m["attacks"][0].update(epsilon=8), "did you mean 8/255"),
        (lambda m: m["attacks"][0].update(name="magic"), "attack is 'magic'"),
        (lambda m: m["attacks"][0].update(toward="x"), "toward is 'x'"),
        (lambda m: m["attacks"][0].update(member_accuracy=[0.5]), "it must be a list of"),
        (lambda m: m["attacks"][0]["subsets"].popitem(), "a share for every subset"),
        (lambda m: m["slow"][0].pop("attack"), "slow[0].attack is missing"),
        (lambda m: m.update(worst_case=[{"norm": ["linf"]}]), "norm is ['linf']"),
        (lambda m: m.update(images=0), "images is 0"),
        (lambda m: m.update(sanity={"attack": "x", "checks": [{"name": "a", "holds": False, "figures": []}]}), "warn"),
    ],
)
def test_a_figure_that_does_not_fit_is_left_out_and_named(tmp_path: Path, change, words: str):
    values = copy.deepcopy(METRICS)
    change(values)
    folder = tmp_path / RELEASED.name
    shutil.copytree(RELEASED, folder)
    (folder / "metrics.json").write_text(json.dumps(values).replace("Infinity", "9" * 400))
    checkpoint = checkpoints.load(folder)
    assert any(words in left for left in checkpoint.left_out), checkpoint.left_out
    model_card(checkpoint), one_line(checkpoint), summary(checkpoint)
    assert "Left out" in card(checkpoint)
    registry = Registry([folder], "cpu")
    assert [row["id"] for row in registry.summaries()] == [checkpoint.id]
    assert registry.default() == checkpoint.id


@pytest.mark.parametrize("name", ["detection", "transferability", "black-box", "equal-terms"])
@pytest.mark.parametrize("content", ["{}", "[]", '{"report": {}, "data": "x", "family": {"standings": [1e999]}}'])
def test_a_damaged_measurement_leaves_the_card(tmp_path: Path, name: str, content: str):
    folder = tmp_path / RELEASED.name
    shutil.copytree(RELEASED, folder)
    (folder / "measurements" / f"{name}.json").write_text(content)
    assert "# " in model_card(checkpoints.load(folder))
