"""The loss surface as the page and the endpoint have it."""

import json
import math

import pytest

from app.figures import surfaces as drawn
from app.services import surfaces
from app.services.models import Registry
from cce.checkpoints.folder import Checkpoint
from cce.config import AttackConfig, ConfigError
from cce.data.datasets import Dataset

CONFIG = AttackConfig("pgd", 0.15, 0.05, 3)


@pytest.fixture
def checkpoint(registry: Registry) -> Checkpoint:
    return registry.get("tiny-three")


@pytest.fixture
def found(checkpoint, digits: Dataset) -> surfaces.Drawn:
    return surfaces.draw(checkpoint, digits.test.pixels()[0], "7", CONFIG, 76.5, 5)


def test_it_is_drawn_around_the_adversarial_picture_by_the_label_that_is_given(found, checkpoint, digits: Dataset):
    assert found.result["label"] == "7" and found.surface.label == 7
    assert float((found.pixels - digits.test.pixels()[0]).abs().max()) > 0.01
    assert found.surface.offsets[-1].item() == pytest.approx(0.3)
    middle = found.surface.loss[-1, 2, 2].item()
    probability = found.result["adversarial"]["ensemble"][7]
    assert middle == pytest.approx(-math.log(probability), abs=1e-3)


def test_without_an_attack_it_is_drawn_around_the_picture_itself(checkpoint, digits: Dataset):
    x = digits.test.pixels()[0]
    found = surfaces.draw(checkpoint, x, "auto", None, 30, 3)
    assert found.result is None and bool((found.pixels == x).all())
    assert checkpoint.classes[found.surface.label] == found.said["label"]


def test_json_names_the_views_the_label_and_the_classes(found, checkpoint):
    said = json.loads(json.dumps(found.to_json(checkpoint.classes), allow_nan=False))
    assert list(said["views"]) == ["f1", "f2", "f3", "en"] and said["label"] == "7" and len(said["classes"]) == 10
    assert said["offsets"] == pytest.approx([-76.5, -38.25, 0, 38.25, 76.5])


@pytest.mark.parametrize(
    ("extent", "resolution", "words"),
    [
        (0, 5, "The extent is 0"),
        (None, 5, "The extent is empty"),
        (16, 1, "The resolution is 1; it is a whole number from 2 to 101"),
        (16, 2.5, "The resolution is 2.5"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_words(checkpoint, digits: Dataset, extent, resolution, words):
    with pytest.raises(ConfigError, match=words):
        surfaces.draw(checkpoint, digits.test.pixels()[0], "7", CONFIG, extent, resolution)


def test_the_figure_has_a_scene_and_a_map_for_each_view_on_one_scale(found, checkpoint):
    value = drawn.figure(found.surface, checkpoint.classes, "key")
    scenes = [t for t in value["data"] if t["type"] == "surface"]
    maps = [t for t in value["data"] if t["type"] == "heatmap"]
    assert len(scenes) == len(maps) == 4
    assert {t["scene"] for t in scenes} == {"scene", "scene2", "scene3", "scene4"}
    assert len({(t["cmin"], t["cmax"]) for t in scenes}) == 1
    assert len({tuple(value["layout"][t["scene"]]["zaxis"]["range"]) for t in scenes}) == 1
    label, loss = int(found.surface.labels[0, 1, 2]), float(found.surface.loss[0, 1, 2])
    assert scenes[0]["text"][1][2] == maps[0]["customdata"][1][2] == f"{checkpoint.classes[label]}, {loss:.3f} nats"
    assert value["narrow"]["height"] == 4 * value["layout"]["height"] / 2  # three in a row, one below the other
    for layout in (value["layout"], value["narrow"]):
        spans = [layout[t["scene"]]["domain"]["y"] for t in scenes]
        assert all(0 <= low < high <= 1 for low, high in spans)
    assert "7 on" in value["description"] and value["description"].count("nats") == 4


def test_the_legend_has_each_class_that_is_seen_and_marks_the_right_one(found, checkpoint):
    seen = set(found.surface.labels.flatten().tolist()) | {7}
    html = drawn.legend(found.surface, checkpoint.classes, "right")
    assert html.count("<i ") == len(seen) and "7 (right)" in html
    assert "says 7" in drawn.numbers(found.surface, checkpoint.classes)
