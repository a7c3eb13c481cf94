"""`/surface` and `/detection`, asked by gradio_client, and the two tabs without a browser."""

from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from app.api import analysis_endpoints
from app.services import attacks, detection, surfaces
from app.studio import Studio
from app.tabs import detection as detection_tab
from app.tabs import detection_numbers, picture_picker
from app.tabs import surface as surface_tab
from cce.evaluation import one_picture as examples


@pytest.fixture(scope="module")
def client(studio: Studio) -> Iterator[Client]:
    with gr.Blocks() as demo:
        analysis_endpoints.build(studio)
    _, address, _ = demo.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, ssr_mode=False)
    yield Client(address, verbose=False)
    demo.close()


def test_they_are_named_and_take_what_they_should(client: Client):
    described = client.view_api(return_format="dict", print_info=False)
    taken = {k: [p["parameter_name"] for p in v["parameters"]] for k, v in described["named_endpoints"].items()}
    settings = ["attack", "epsilon", "step_size", "steps", "target", "seed"]
    assert taken == {
        "/surface": ["image", "label", "model", *settings, "extent", "resolution"],
        "/detection": ["model", "attacks", "epsilons", "count"],
    }


def test_surface_gives_axes_and_a_grid_for_each_view(client: Client, digit_png: Path):
    said = client.predict(
        image=handle_file(digit_png),
        label="7",
        model="tiny-three",
        steps=2,
        epsilon=20,
        extent=40,
        resolution=3,
        api_name="/surface",
    )
    assert list(said["views"]) == ["f1", "f2", "f3", "en"]
    assert said["offsets"] == [-40, 0, 40] and said["label"] == "7"
    assert len(said["views"]["en"]["loss"]) == 3 and len(said["u"][0]) == 8


def test_detection_gives_all_three_columns(client: Client):
    said = client.predict(model="tiny-two", attacks=["fgsm"], epsilons=[38.25, 10], count=5, api_name="/detection")
    assert said["images"] == 5 and len(said["attacks"]) == 2
    assert said["adaptive"] and said["benign"] and said["threshold"] == 1.0
    assert {len(s["entropies"]) for s in said["attacks"].values()} == {5}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "nobody"}, "There is no model 'nobody'"),
        ({"attacks": []}, "No attack is chosen"),
        ({"epsilons": [999]}, "Epsilon is 999"),
        ({"count": 5000}, "The number of pictures is 5000"),
    ],
)
def test_what_cannot_be_measured_is_said_in_words(client: Client, change: dict, words: str):
    given = {"model": "tiny-two", "attacks": ["fgsm"], "epsilons": None, "count": 3} | change
    with pytest.raises(AppError, match=words):
        client.predict(**given, api_name="/detection")


def test_a_surface_that_cannot_be_drawn_is_said_in_words(client: Client, digit_png: Path):
    with pytest.raises(AppError, match="The resolution is 500"):
        client.predict(image=handle_file(digit_png), model="tiny-two", resolution=500, api_name="/surface")


# The tabs


def test_nothing_is_computed_until_a_tab_is_opened(studio: Studio, monkeypatch: pytest.MonkeyPatch):
    def never(*args, **kwargs):
        raise AssertionError("computed while the page was built")

    monkeypatch.setattr(examples, "classify", never)
    monkeypatch.setattr(surfaces, "draw", never)
    monkeypatch.setattr(detection, "measure", never)
    with gr.Blocks() as demo:
        for tab in (detection_tab, surface_tab):
            with gr.Tab(tab.TITLE):
                tab.build(studio)
    ids = [b.elem_id for b in demo.blocks.values() if b.elem_id]
    assert len(ids) == len(set(ids))
    assert not {f.api_name for f in demo.fns.values() if f.api_visibility == "public"}


def first_picture(studio: Studio) -> attacks.Picture:
    return picture_picker.from_gallery(studio.collection(studio.registry.get("tiny-two")), 0)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nothing", "Choose on the left what happens to it"),
        ("attack", "The ensemble"),
        ("adaptive", "Detector-aware attack"),
        ("benign", "Nobody attacked"),
    ],
)
def test_the_detection_tab_tells_what_happened_to_a_picture(studio: Studio, kind: str, words: str):
    picture = first_picture(studio)
    panels = detection_tab.show(studio, detection.Reports(), "tiny-two", picture, kind, None)
    assert words in panels[0]
    assert "200 clean test pictures" in panels[3]
    assert "no proof of an attack" in panels[5]
    with gr.Blocks():
        assert len(panels) == len(detection_tab._build_panels(studio.registry.get("tiny-two")))


def test_the_numbers_are_hidden_until_there_are_some(studio: Studio):
    reports, checkpoint = detection.Reports(), studio.registry.get("tiny-two")
    with gr.Blocks():
        numbers = detection_numbers.build(studio, reports, checkpoint)
    empty = numbers.shown("tiny-two")
    assert len(empty) == len(numbers.outputs)
    assert "Nothing was measured for this model yet" in empty[1] and empty[2].visible is False
    report, source = detection.measure(
        checkpoint,
        studio.collection(checkpoint),
        detection.attacks_of("digits", ["fgsm"]),
        4,
        1,
        lambda w, f: None,
        ["agree"],
    )
    reports.keep(checkpoint, report, source)
    filled = numbers.shown("tiny-two")
    assert source in filled[1] and filled[2].visible is True
    assert len(filled) == len(numbers.outputs)


def test_the_surface_tab_shows_the_views(studio: Studio):
    picture = first_picture(studio)
    panels = surface_tab.show(studio, "tiny-two", picture, "fgsm", 20, 40, 3, 0)
    assert "FGSM" in panels[0] and "f2" in panels[3]["description"]
    itself = surface_tab.show(studio, "tiny-two", picture, surface_tab.NOTHING, 20, 40, 3, 0)
    assert "The picture itself." in itself[0] and "No attack" in itself[1]
