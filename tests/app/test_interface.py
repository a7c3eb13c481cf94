"""The page as a whole: what it says in its first seconds, and what it keeps the browser from doing."""

import gzip
import re
from html.parser import HTMLParser

import gradio as gr
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app import plotly_script
from app.interface import build
from app.studio import Studio


@pytest.fixture(scope="module")
def page(studio: Studio) -> gr.Blocks:
    return build(studio)


class Words(HTMLParser):
    """The words of a piece of HTML, what its figures wait for among them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.said += [value for name, value in attributes if name == "data-waiting" and value]

    def handle_data(self, data: str) -> None:
        self.said += [data.strip()] if data.strip() else []


@pytest.mark.parametrize(
    "panel",
    [
        *("detection-verdict", "detection-pictures", "detection-standing", "detection-evidence", "detection-limits"),
        *("detection-source", "detection-board", "detection-roc", "detection-auc"),
        *("surface-subject", "surface-pictures", "surface-views"),
        *("transferability-source", "flow", "a-matrix", "black-box-source", "black-box"),
        *("method", "tables", "detection-figures"),
    ],
)
def test_no_panel_is_blank_before_it_is_filled(page: gr.Blocks, panel: str):
    block = next(b for b in page.blocks.values() if b.elem_id == panel)
    value = block.value if isinstance(block.value, str) else ""
    assert Words(value).said or Words(block.html_template).said, panel


def test_a_figure_keeps_its_place_until_it_is_drawn(page: gr.Blocks):
    figures = [b for b in page.blocks.values() if isinstance(b, gr.HTML) and "studio-figure" in str(b.html_template)]
    assert len(figures) >= 8
    for block in figures:
        assert re.search(r'class="studio-figure[^>]*style="height:\d{3}px', block.html_template), block.elem_id


def test_a_listener_that_shows_no_progress_tells_no_component_of_it(page: gr.Blocks):
    quiet = [f for f in page.fns.values() if f.show_progress == "hidden"]
    assert len(quiet) > 30 and all(f.show_progress_on is not None for f in quiet)
    assert any(f.show_progress_on is None for f in page.fns.values() if f.show_progress != "hidden")


def test_plotly_s_script_makes_what_the_first_page_needs_and_the_rest_when_asked():
    """Nothing is lost: both lists together are Plotly's own, and all around them is as it was."""
    original = plotly_script._SCRIPT.read_text(encoding="utf-8")
    changed = plotly_script.unhurried(original)
    (name, kinds) = plotly_script._REGISTERED.search(original).groups()
    own = kinds.rstrip(",").split(",")
    esc = re.escape(name)
    found = re.search(
        rf"{esc}\.register\(\[([^\]]*)\]\),{esc}\.registerRest=\(\)=>{esc}\.register\(\[([^\]]*)\]\)", changed
    )
    first, rest = found[1].split(","), found[2].split(",")
    assert len(own) > 40 and len(first) == 2 and sorted(first + rest) == sorted(own)
    assert changed.replace(found[0], f"{name}.register([{kinds}])") == original


def test_a_script_that_looks_otherwise_is_left_as_it_is():
    assert plotly_script.unhurried("a.register([b(),c()]);") == "a.register([b(),c()]);"


@pytest.mark.parametrize("accepted", ["gzip, deflate, br", "identity"])
def test_plotly_s_script_is_served_whole(accepted: str):
    with TestClient(Starlette(routes=[plotly_script.route()])) as client:
        answer = client.get("/studio/plotly.min.js", headers={"Accept-Encoding": accepted})
    assert answer.status_code == 200 and "immutable" in answer.headers["Cache-Control"]
    assert answer.text.encode() == gzip.decompress(plotly_script._packed())
    assert ("Content-Encoding" in answer.headers) == (accepted != "identity")
