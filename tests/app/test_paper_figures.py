"""The paper's eight figures on the page: drawn from what ships, each with its limit, no attack run."""

import json

import pytest
import torch

from app.figures import paper_figures as drawn
from app.services import paper_figures as service
from app.services.links import read
from app.services.models import Registry
from app.studio import Studio
from app.tabs import paper_figures as tab


@pytest.fixture(scope="module")
def studio():
    return Studio(Registry((), "cpu"))


@pytest.fixture(scope="module")
def shown(studio):
    return {one.id: one for one in service.figures(studio)}


def test_all_eight_are_drawn_and_say_what_they_do_not_say(shown):
    assert list(shown) == [f"figure{i}" for i in range(1, 9)]
    for name, one in shown.items():
        parts = drawn.drawn(one)
        assert len(parts) == (3 if name == "figure5" else 1) and all(part["data"] for part in parts)
        assert one.limit and not one.missing and "What it does not say" in drawn.foot(one)
        assert all(part["description"].startswith(one.title) for part in parts)
        height = drawn.heights(name)
        assert [(p["layout"]["height"], p["narrow"]["height"]) for p in parts] == [height] * len(parts)


def test_every_figure_has_a_tab_and_a_command_line_that_is_known(shown):
    from app.interface import TABS
    from cce.__main__ import build_parser

    known = {tab.TITLE for tab in TABS}
    for one in shown.values():
        assert one.tab in known
        build_parser().parse_args(one.command.replace("FILE", "x").split())


def test_detection_figures_name_the_attacker_who_knows(shown):
    for name in ("figure2", "figure3", "figure4"):
        assert "Under the worst attack that knows the detector 96.0 % of 200" in shown[name].limit
    assert "Ours there is" in shown["figure4"].printed and "(n = 1,000)" in shown["figure4"].printed


def test_a_link_sets_the_same_attack(shown, studio):
    said = read(shown["figure5"].link)
    assert said["model"] == "cifar10-cnn2-cce-rm" and said["image"].startswith("test:")
    assert (said["attack"], said["epsilon"], said["step"], said["steps"]) == ("pgd", "8", "2", "20")


def test_a_surface_is_the_one_that_shipped(shown):
    panel = shown["figure8"].panels[0]
    surface = service.surface_of(panel)
    assert surface.views == ["f1", "f2", "en"] and surface.loss.shape == (3, 41, 41)
    shares = (surface.labels != surface.label).float().mean((1, 2))
    assert f"en {100 * shares[-1]:.1f} %" in shown["figure8"].limit
    assert torch.isfinite(surface.loss).all()


def test_the_shipped_predictions_are_the_ensembles_own(studio):
    """Of each record the clean prediction is asked again."""
    from cce.evaluation.one_picture import classify
    from cce.paper.bench import Bench

    record = json.loads(service.FILE.read_text())["figure1"][0]
    c = studio.registry.get(record["model"])
    x, label, which = Bench([c], None, 0, 0, 1, 0).example(c)
    assert which == record["picture"] and c.classes[label] == record["label"]
    assert classify(c, x)["ensemble"] == pytest.approx(record["benign"]["ensemble"], abs=1e-3)


def test_without_the_numbers_the_page_says_how_to_get_them(studio, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "FILE", tmp_path / "missing.json")
    missing = {one.id: one for one in service.figures(studio)}
    assert "assets.measure_paper_figures" in drawn.foot(missing["figure6"])
    values = tab.fill(studio)
    assert len(values) == sum(2 + 2 * (3 if name == "figure5" else 1) for name in service.TITLES)
