"""The four how-tos of CONTRIBUTING.md, each done here with something tiny."""

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cce.attacks import attack
from cce.config import ATTACKS, AttackConfig, Defense, ModelConfig, Phase, attack_registry
from cce.config import attacks as attack_configs
from cce.data import datasets, load
from cce.models import Ensemble
from cce.training import losses

GUIDE = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_a_defense_is_a_method_and_its_loss(monkeypatch, trainer):
    real = losses.loss_terms

    def with_smoothing(members, logits, labels, defense, *more):
        if defense.method != "smoothed":
            return real(members, logits, labels, defense, *more)
        return losses._terms(F.cross_entropy(logits[0, 0], labels, label_smoothing=0.1))

    monkeypatch.setattr("cce.config.training.METHODS", ("smoothed", "nat", "adv-en", "adp", "cce"))
    monkeypatch.setattr("cce.training.step.loss_terms", with_smoothing)
    made = trainer(phases=(Phase("smoothed", 1, Defense("smoothed", 0, 0)),))
    before = [p.detach().clone() for p in made.model.parameters()]
    assert made.advance()["loss"].isfinite()
    assert any(not torch.equal(a, b) for a, b in zip(before, made.model.parameters(), strict=True))


def test_an_attack_is_a_module_and_its_entry(monkeypatch, trained, digits):
    module = types.ModuleType("brighter")
    module.run = lambda task: task.project()(task.x + task.config.epsilon)
    monkeypatch.setitem(sys.modules, "brighter", module)
    info = attack_registry.AttackInfo("Brighter", "Adds epsilon to each pixel.", "Gradient", "brighter", steps=None)
    for place in (attack_registry, attack_configs):
        monkeypatch.setattr(place, "ATTACKS", {**ATTACKS, "brighter": info})
    x, labels = digits.test.pixels()[:3], digits.test.labels[:3]
    found = attack(trained(2), x, labels, AttackConfig("brighter", epsilon=0.1))
    torch.testing.assert_close(found, (x + 0.1).clamp(0, 1))


def test_an_architecture_is_its_layers_and_its_name(monkeypatch):
    monkeypatch.setitem(sys.modules["cce.models.members"]._TABLE8, "cnn-tiny", ((4, 1), (8, 1), (16, 1)))
    monkeypatch.setattr("cce.config.ensembles.STANDARD_CNNS", ("cnn-tiny",))
    model = Ensemble(ModelConfig("cnn-tiny", 2, 5, (1, 8, 8))).eval()
    assert model(torch.rand(3, 1, 8, 8)).shape == (3, 5)


def test_a_data_set_is_its_names_its_size_and_its_file(monkeypatch, tmp_path):
    monkeypatch.setitem(datasets.CLASS_NAMES, "shapes", ("circle", "square"))
    monkeypatch.setitem(datasets.SHAPES, "shapes", (4, 4, 1))
    monkeypatch.setattr(datasets, "DATASETS", tuple(datasets.CLASS_NAMES))
    images, labels = np.zeros((20, 4, 4, 1), np.uint8), np.arange(20, dtype=np.uint8) % 2
    np.savez(tmp_path / "shapes.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    made = load("shapes", tmp_path)
    assert made.classes == ("circle", "square") and len(made.train) == 20 and len(made.calibration) == 2


@pytest.mark.parametrize("title", ["a defense", "an attack", "an architecture", "a data set"])
def test_a_how_to_is_short_and_names_files_that_are_there(title):
    (text,) = re.findall(rf"^## Add {title}\n(.*?)(?=^## |\Z)", GUIDE, re.S | re.M)
    assert len(text.splitlines()) < 30
    root = Path(__file__).resolve().parents[1]
    paths = re.findall(r"`((?:cce|app|tests)/[\w/.]*)`", text)
    assert paths and all((root / path).exists() for path in paths if "NAME" not in path)


def test_the_picture_names_every_package():
    here = {p.parent.name for p in (Path(__file__).resolve().parents[1] / "cce").glob("*/__init__.py")}
    assert here == set(re.findall(r"^      (\w+) {2,}", GUIDE, re.M))
